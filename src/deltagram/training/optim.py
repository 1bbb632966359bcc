"""AdamR: Adam with a decoupled pull towards reference weights, Algorithm 1 of arXiv 2410.09344."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from deltagram.errors import SettingError
from deltagram.training import adamr

Reference = Mapping[str, Tensor] | Sequence[Tensor | None] | Callable[[str], Tensor]

PULLS: Final = ("l2", "l1")


class AdamR(torch.optim.Optimizer):
    """Adam whose steps also pull every parameter theta to its reference theta_P, Eq. (3):

        theta <- theta - lr m_hat / (sqrt(v_hat) + eps) - pull (theta - theta_P),
        pull = min(1, lr strength / (sqrt(v_bar) + eps))

    `m_hat`, `v_hat` are Adam's bias-corrected moments of the loss gradient alone, `v_bar` the mean of `v_hat` over
    all entries of all parameters that have a gradient, before any of them moves. With pull "l1" the step is
    followed by a soft-threshold of theta - theta_P at lr strength / (sqrt(v_bar) + eps), which, unlike the sign
    of Eq. (3), makes differences exactly zero. A group with strength 0 (a new head) is not pulled and needs no
    reference, but counts for `v_bar`.

    `params` as in every torch optimiser, with or without names. `reference`: tensors by name, or a function from
    name to tensor (both need `named_parameters()`), or a list in the order of the parameters (None where a
    group is not pulled). They are never copied whole or written to, may be memory-mapped, and are cast when they
    are used; they are not in the state dict. `foreach` False takes one tensor at a time: slower, and the oracle.

    `clamped` counts the steps whose L2 pull was cut to 1, `pulled_by` has the last step's pull a group. Raises
    SettingError for settings outside their range, a reference that is missing or of another shape, and for
    gradients that are sparse or complex.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        strength: float = 0.01,
        pull: str = "l2",
        reference: Reference | None = None,
        foreach: bool | None = None,
    ) -> None:
        self.pulled_by: list[float] = []
        self._reference = reference
        self._names: dict[Tensor, str] = {}
        self._places: dict[Tensor, int] = {}
        self._foreach = foreach is not False
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "strength": strength, "pull": pull, "clamped": 0}
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(
            {"_names": {}, "_places": {}, "_reference": None, "_foreach": True} | self.__dict__ | state
        )

    @property
    def clamped(self) -> int:
        """Steps so far in which some group's L2 pull was cut to 1: strength or learning rate are too high there."""
        return max(int(group["clamped"]) for group in self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, named like the others or not; their reference must be known."""
        given = param_group["params"]
        group = {**param_group, "params": [given] if isinstance(given, Tensor) else list(given)}
        if all(isinstance(param, tuple) for param in group["params"]) and group["params"]:
            group["param_names"] = [name for name, _ in group["params"]]
            group["params"] = [param for _, param in group["params"]]
        super().add_param_group(group)
        try:
            self._register(self.param_groups[-1])
        except SettingError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; returns what `closure` does, which is called with gradients on."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_dense()
        batches = list(self._batches())
        if not batches:
            return loss
        pulls = self._pulls(self._mean(batches))
        for batch, place in batches:
            move = adamr.move_foreach if self._foreach else adamr.move_single
            move(batch, pulls[place])
        return loss

    def _register(self, group: dict[str, Any]) -> None:
        """Note names and places of a new group's parameters, and check its settings and reference."""
        _check_settings(group)
        names = group.get("param_names", [""] * len(group["params"]))
        for param, name in zip(group["params"], names, strict=True):
            if param.is_complex():
                raise SettingError("AdamR", f"parameter {name or len(self._places)} is complex", expected="real ones")
            self._names[param] = name
            self._places[param] = len(self._places)
            if group["strength"]:
                found = self._reference_of(param)
                if found.shape != param.shape:
                    where = f"reference of {name or self._places[param]}"
                    raise SettingError(where, f"is {tuple(found.shape)}", expected=f"{tuple(param.shape)}")

    def _reference_of(self, param: Tensor) -> Tensor:
        reference, name = self._reference, self._names.get(param, "")
        place = self._places.get(param, -1)
        where = f"reference of {name or f'parameter {place}'}"
        fix = "give it one, or put the parameter into a group with strength=0"
        if isinstance(reference, Sequence):
            found = reference[place] if 0 <= place < len(reference) else None
        elif reference is None:
            found = None
        elif not name:
            raise SettingError(where, "is asked for by name", fix="give the parameters as model.named_parameters()")
        else:
            found = reference.get(name) if isinstance(reference, Mapping) else reference(name)
        if found is None:
            raise SettingError(where, "is missing", fix=fix)
        return found

    def _check_dense(self) -> None:
        for param in (param for group in self.param_groups for param in group["params"]):
            if param.grad is not None and param.grad.layout is not torch.strided:
                found = f"the gradient of {self._names.get(param) or f'parameter {self._places.get(param)}'} is sparse"
                raise SettingError("AdamR", found, expected="dense gradients", fix="build the layer dense")

    def _batches(self) -> Iterator[tuple[adamr.Batch, int]]:
        """Parameters with gradients, together where group, step, device and dtype are equal; each group's place."""
        for place, group in enumerate(self.param_groups):
            alike: dict[tuple[int, torch.device, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
            for param in group["params"]:
                if (grad := param.grad) is not None:
                    self._begin(param)
                    t = int(self.state[param]["step"])
                    alike.setdefault((t, param.device, param.dtype), []).append((param, grad))
            for (t, *_), found in alike.items():
                params = [param for param, _ in found]
                yield (
                    adamr.Batch(
                        group=group,
                        t=t,
                        params=params,
                        grads=[grad for _, grad in found],
                        exp_avg=[self.state[param]["exp_avg"] for param in params],
                        exp_avg_sq=[self.state[param]["exp_avg_sq"] for param in params],
                        reference=self._reference_of,
                    ),
                    place,
                )

    def _begin(self, param: Tensor) -> None:
        """Count a parameter's step; its state has the names and types of torch's Adam."""
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["step"] += 1

    def _mean(self, batches: Sequence[tuple[adamr.Batch, int]]) -> float:
        """Update all moments; `v_bar`, the mean of `v_hat` (0 where nothing is pulled: nobody asks)."""
        pulled = any(group["strength"] for group in self.param_groups)
        if self._foreach:
            total = sum(adamr.moments_foreach(batch, measured=pulled) for batch, _ in batches)
        else:
            total = sum(adamr.moments_single(batch) for batch, _ in batches)
        entries = sum(param.numel() for batch, _ in batches for param in batch.params)
        return total / entries if entries else 0.0

    def _pulls(self, v_bar: float) -> list[float]:
        """The L2 step or L1 threshold of each group; 0 is no pull."""
        self.pulled_by = []
        for group in self.param_groups:
            scale, strength = math.sqrt(v_bar) + group["eps"], float(group["lr"]) * group["strength"]
            by = 0.0 if strength == 0 else strength / scale if scale else math.inf
            if group["pull"] == "l2" and by > 1:
                group["clamped"] += 1
                by = 1.0
            self.pulled_by.append(by)
        return self.pulled_by


def _check_settings(group: Mapping[str, Any]) -> None:
    """SettingError for a group's setting outside its range."""
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise SettingError("lr", f"is a tensor of {lr.numel()} entries", expected="one number")
    for name in ("lr", "eps", "strength"):
        if not 0 <= float(group[name]) < math.inf:
            raise SettingError(name, f"is {float(group[name])}", expected="0 or a positive, finite number")
    if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
        raise SettingError("betas", f"are {group['betas']}", expected="two numbers in [0, 1)")
    if group["pull"] not in PULLS:
        raise SettingError("pull", f"{group['pull']!r} is unknown", expected=" or ".join(PULLS))
