"""The geometry of classes while a model trains: what its head sees, measured at the end of each epoch."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import ExtraError, SettingError
from deltagram.geometry.conventions import convention
from deltagram.geometry.distributed import summed
from deltagram.geometry.gram import Geometry
from deltagram.geometry.moments import ClassMoments, Scatter
from deltagram.training.observed import labels_in, last_linear, paired, values, values_against

PHASES: Final[Mapping[str, str]] = {"train": "geometry", "eval": "eval_geometry"}  # and what their scalars begin with

Log = Callable[[dict[str, float]], Any]


class GeometryCallback:
    """Measures NC1, NC2, Gram distances, angles of the classes from the features that go through a model's head.

    In a loop of your own:

        geometry = GeometryCallback(file="geometry.jsonl")
        with geometry.watch(model):
            for x, y in batches:
                geometry.labels(y)        # before or after the forward pass
                loss(model(x), y).backward()
            geometry.epoch_end()

    `for_trainer()` gives a callback for transformers' Trainer, `for_lightning()` one for Lightning; labels are found
    there. The model is not changed: `head` (a name or module; the last with a row a class unless given) gets a forward
    pre-hook. Passes with gradients are the phase "train", those without "eval"; each has its `ClassMoments`, of the
    features as they were when they passed, begun anew at each `epoch_end`. Parts of an accumulated step add up, and so
    do the processes of torch.distributed: all take part in `epoch_end`, the first writes and logs.

    `class_counts` are those of the training data, seen in the first epoch unless given; with the scales of `loss` (of
    `deltagram.losses`) they give the predicted geometry that is compared with. `weighting` as in `geometry.measure`;
    `scatter` "trace" leaves `nc1` out, for features of many thousands of dimensions. `transform` gives what is measured
    of the head's inputs, as of embeddings that a contrastive loss normalises; with `target`, a geometry of the classes
    that occur, class means are compared with that, not centred, and the head is left out. `file` gets a line of JSON a
    phase, `log` a dict of scalars. `last` has the last values.

    Raises SettingError for features that are not finite, labels outside the range or missing, a model without a head.
    """

    def __init__(
        self,
        *,
        head: Any = None,
        class_counts: ArrayLike | None = None,
        loss: Any = None,
        weighting: str = "mixed",
        scatter: Scatter = "full",
        transform: Callable[[Any], Any] | None = None,
        target: Geometry | None = None,
        file: Path | str | None = None,
        log: Log | None = None,
    ) -> None:
        if weighting == "class" and scatter == "full":
            fix = "take mixed, or scatter='trace'"
            raise SettingError("weighting", "'class' needs the counts of a stream before it begins", fix=fix)
        convention(weighting)
        self.head, self.loss, self.weighting, self.scatter = head, loss, weighting, scatter
        self.file = None if file is None else Path(file)
        self.log = log
        self.transform, self.target = transform, target
        self.last: dict[str, Any] = {}
        self._counts: F64 | None = None if class_counts is None else np.asarray(class_counts, np.float64)
        self._module: Any = None
        self._moments: dict[str, ClassMoments] = {}
        self._handles: list[Any] = []
        self._features: Any = None
        self._labels: Any = None
        self._mask: Any = None
        self._given = False  # labels that no features have been paired with yet

    @contextmanager
    def watch(self, model: Any) -> Iterator[Self]:
        """Look at what goes through `model` while the block runs."""
        self.attach(model)
        try:
            yield self
        finally:
            self.detach()

    def attach(self, model: Any) -> None:
        """Begin to look at what goes through the model's head. Raises SettingError if it has none."""
        self.detach()
        self._module = head = last_linear(model, self.head)
        classes, features = head.weight.shape
        if self._counts is not None and len(self._counts) != classes:
            found = f"are of {len(self._counts)} classes"
            raise SettingError("class_counts", found, expected=f"{classes}, as the head has")
        fresh = ClassMoments.empty(classes, features, scatter=self.scatter)
        self._moments = {phase: self._moments.get(phase, fresh) for phase in PHASES}
        if any(m.means.shape != (classes, features) for m in self._moments.values()):
            self._moments = dict.fromkeys(PHASES, fresh)
        self._moments = {phase: moments.copy() for phase, moments in self._moments.items()}
        self._handles = [
            model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            head.register_forward_pre_hook(self._before_head),
        ]

    def detach(self) -> None:
        """Look no more; what was seen is kept for `epoch_end`."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._features, self._labels, self._mask, self._given = None, None, None, False

    def labels(self, labels: Any) -> None:
        """The labels of the batch that is about to go through the model, or has just gone through it."""
        self._labels, self._given = labels, True
        self._pair()

    def with_labels(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """`loss` as Trainer's `compute_loss_func`, which is what gets the labels where there is one."""

        def heard(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
            self.labels(labels)
            return loss(outputs, labels, num_items_in_batch=num_items_in_batch)

        return heard

    def epoch_end(self, phase: str | None = None, **where: float) -> dict[str, float]:
        """Measure what each phase (or one) has seen, write and log it, and begin anew; `where` goes into the line.

        Returns scalars, empty for a phase that has seen nothing.
        """
        self._nothing_unlabelled()
        found: dict[str, float] = {}
        for name in PHASES if phase is None else (phase,):
            if self._module is not None:
                found |= self._measured(name, where)
        return found

    def forget(self, phase: str) -> None:
        """Begin a phase anew without measuring it."""
        held = self._moments[phase]
        self._moments[phase] = ClassMoments.empty(held.classes, held.features, scatter=self.scatter)

    def for_trainer(self) -> Any:
        """This callback for transformers' Trainer."""
        try:
            from deltagram.training.trainer_callback import TrainerGeometry  # noqa: PLC0415 - imports transformers
        except ModuleNotFoundError as fault:
            found = f"package {fault.name} is not installed"
            raise ExtraError("GeometryCallback", found, fix="pip install 'deltagram[hf]'") from None
        return TrainerGeometry(self)

    def for_lightning(self) -> Any:
        """This callback for Lightning's Trainer."""
        from deltagram.training.lightning_callback import lightning_callback  # noqa: PLC0415 - imports lightning

        return lightning_callback(self)

    def state(self) -> dict[str, Any]:
        """What was seen in the epoch that runs, as NumPy arrays by name."""
        kept = {f"{name}.{part}": value for name, m in self._moments.items() for part, value in vars(m).items()}
        return {**kept, "counts": self._counts}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._counts = state["counts"]
        for name in PHASES:
            parts = {key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{name}.")}
            if parts:
                self._moments[name] = ClassMoments(**parts)

    def _before_model(self, _model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._nothing_unlabelled()
        self._mask = kwargs.get("attention_mask")
        found = labels_in(args, kwargs)
        if found is not None:
            self._labels = found
        elif not self._given:
            self._labels = None

    def _before_head(self, _head: Any, args: tuple[Any, ...]) -> None:
        import torch  # noqa: PLC0415 - the model is one of its modules

        self._nothing_unlabelled()
        features = args[0].detach()
        features = features if self.transform is None else self.transform(features)
        self._features = ("train" if torch.is_grad_enabled() else "eval", features)
        self._pair()

    def _pair(self) -> None:
        """Take features up when their labels are known."""
        if self._features is None or self._labels is None:
            return
        (phase, features), labels = self._features, self._labels
        self._features, self._given = None, False
        try:
            self._moments[phase].update_in_place(*paired(features, labels, self._mask))
        except SettingError as fault:
            fix = "train at a lower rate, or look for such numbers in the data" if _no_number(fault) else fault.fix
            raise SettingError(f"geometry, {fault.where}", fault.found, expected=fault.expected, fix=fix) from None

    def _nothing_unlabelled(self) -> None:
        if self._features is None:
            return
        self._features = None
        fix = "call labels(y) for each batch, or, where Trainer has a compute_loss_func, wrap it with with_labels"
        raise SettingError("geometry", "a batch went through the head and its labels are not known", fix=fix)

    def _measured(self, phase: str, where: Mapping[str, float]) -> dict[str, float]:
        held = self._moments[phase]
        moments = summed(held)
        self.forget(phase)
        if not moments.counts.any():
            return {}
        if phase == "train" and self._counts is None:
            self._counts = moments.counts.astype(np.float64)
        weight = self._module.weight.detach()
        if self.target is None:
            found = values(moments, weight, counts=self._counts, loss=self.loss, weighting=self.weighting)
        else:
            found = values_against(moments, self.target, weighting=self.weighting)
        named = {f"{PHASES[phase]}/{name}": value for name, value in found.items()}
        line = {"phase": phase, **where, "samples": int(moments.counts.sum()), **found}
        self.last = {**self.last, phase: line}
        if _first():
            self._write(line | {"conventions": convention(self.weighting).described()})
            if self.log is not None:
                self.log(named)
        return named

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({k: v if _plain(v) else None for k, v in line.items()}) + "\n")


def _no_number(fault: SettingError) -> bool:
    return fault.where.startswith("features") and fault.expected == "finite numbers"


def _plain(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _first() -> bool:
    """Whether this is the first of the processes, or the only one."""
    import torch.distributed as dist  # noqa: PLC0415

    return not (dist.is_available() and dist.is_initialized()) or bool(dist.get_rank() == 0)
