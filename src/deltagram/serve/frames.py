"""Module trees over the base's tensors: one for all variants of a structure, and the heads that stand on it."""

import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deltagram.arrays import Spec
from deltagram.delta.names import match
from deltagram.errors import CheckpointError, PlanError
from deltagram.serve.basemodel import BaseModel
from deltagram.serve.layers import kind, share
from deltagram.serve.rows import Switch
from deltagram.training.huggingface import libraries
from deltagram.training.loaded import BUILD_FAULTS, unbuildable

_OWN: Final = ("num_labels", "id2label", "label2id", "vocab_size", "_name_or_path", "architectures", "problem_type",
               "transformers_version", "torch_dtype", "dtype", "use_cache", "finetuning_task", "bos_token_id",
               "eos_token_id", "_attn_implementation_autoset")  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """A module tree whose parameters are the base's memory, shared by all variants with its structure.

    `body` gives states (or logits, of a language model). `model` is what `sources` speaks of: its parameter -> the base
    tensor under it; `names` maps each parameter of `model` to one name for all that are tied, `lies` says how a layer
    stores it ("matrix": `row col`, "transposed", or "other"). `lacking` are parameters that the base does not hold.
    `heads` are the parameters outside the body, of which each variant has its own.
    """

    model: Any
    body: Any
    prefix: str
    sources: Mapping[str, str]
    names: Mapping[str, str]
    lies: Mapping[str, str]
    lacking: tuple[str, ...]
    heads: tuple[str, ...]
    switch: Switch
    given: list[Any] = field(default_factory=list)

    @property
    def generates(self) -> bool:
        """Whether it goes on from texts."""
        return self.body is self.model and type(self.model).__name__.endswith(("ForCausalLM", "LMHeadModel"))

    @property
    def classifies(self) -> bool:
        """Whether it tells classes of texts."""
        return type(self.model).__name__.endswith("ForSequenceClassification")

    @property
    def encoder(self) -> Any:
        """What makes states of tokens."""
        return self.model.base_model

    def specs(self) -> dict[str, Spec]:
        """Shapes of the whole model's parameters, as names are matched by."""
        return _specs(self.model)

    @contextmanager
    def giving(self, states: Any) -> Iterator[None]:
        """The body returns `states` while the block runs: what is left of a model then is its head."""
        self.given.append(states)
        try:
            yield
        finally:
            self.given.pop()


class Frames:
    """The frames of one base, made when a variant first needs them."""

    def __init__(self, torch: Any, transformers: Any, base: BaseModel) -> None:
        self._torch, self._transformers, self._base = torch, transformers, base
        self._made: dict[str, Frame] = {}

    def of(self, link: Callable[[Path], None], config: Mapping[str, Any]) -> Frame:
        """The frame of a model with this config; `link` lays its files in a folder.

        Raises CheckpointError where transformers cannot build it, PlanError where base and model do not go together.
        """
        own = {key: value for key, value in config.items() if key not in _OWN}
        key = json.dumps([own, config.get("architectures")], sort_keys=True)
        if key not in self._made:
            with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch, libraries():
                link(Path(scratch))
                self._made[key] = self._build(Path(scratch))
        return self._made[key]

    def _build(self, folder: Path) -> Frame:
        torch, model = self._torch, self._empty(folder)
        sources = self._sources(model, folder)
        body, prefix = self._body_of(model)
        heads = tuple(n for n in _state(model) if not n.startswith(prefix)) if prefix else ()
        lacking = []
        for name, value in _state(model).items():
            if name in heads:
                continue
            if name in sources:
                tensor = self._base.tensors[sources[name]]
            elif value.device.type != "meta":
                continue  # a buffer that the model computes
            else:
                lacking.append(name)
                tensor = torch.zeros(value.shape, dtype=getattr(torch, self._base.dtype), device=self._base.device)
            _put(torch, model, name, tensor)
        _retie(model, lacking)
        names = _one_name(model)
        switch = Switch()
        below = {name: canonical for name, canonical in names.items() if name not in heads}
        share(torch, body, switch, {name.removeprefix(prefix): canonical for name, canonical in below.items()})
        frame = Frame(
            model=model.eval(), body=body, prefix=prefix, sources=sources, names=names, heads=heads, switch=switch,
            lies=_lies(torch, model, names),
            lacking=tuple(name for name in lacking if names[name] == name),
        )  # fmt: skip
        if prefix:
            _stand_in(body, frame.given)
        return frame

    def _body_of(self, model: Any) -> tuple[Any, str]:
        """What all variants share of a model, and the prefix of its names: a language model, or an encoder."""
        name = type(model).__name__
        if model.base_model is model or name.endswith(("ForCausalLM", "LMHeadModel")):
            return model, ""
        return model.base_model, f"{model.base_model_prefix}."

    def _empty(self, folder: Path) -> Any:
        """The model that a config names, without memory for its parameters."""
        from accelerate import init_empty_weights  # noqa: PLC0415 - of the same extra as torch

        try:
            config = self._transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            wanted = (config.architectures or [""])[0]
            builder = getattr(self._transformers, wanted, None)
            with init_empty_weights(include_buffers=False):
                model = builder(config) if builder else self._transformers.AutoModel.from_config(config)
        except BUILD_FAULTS as fault:
            raise unbuildable(folder, fault) from None
        if getattr(config, "is_encoder_decoder", False):
            found = f"{type(model).__name__} is an encoder-decoder model"
            raise CheckpointError(str(folder), found, expected="an encoder or a causal language model")
        if hasattr(model, "generation_config"):
            model.generation_config = copy.deepcopy(model.generation_config)
        return model.to(self._base.device) if self._base.device != "cpu" else model

    def _sources(self, model: Any, folder: Path) -> dict[str, str]:
        """The base tensor under each parameter of a model that has one."""
        specs = _specs(model)
        base = self._base.checkpoint.specs
        pairs = match(base, specs).base_of
        for name, source in pairs.items():
            if specs[name].shape[1:] != base[source].shape[1:]:
                raise PlanError(
                    name, f"{type(model).__name__}, built from {folder / 'config.json'}, has shape {specs[name].shape}",
                    expected=f"that of the base's {source}, {base[source].shape}",
                    fix="check that config.json belongs to a variant of this base",
                )  # fmt: skip
        return dict(pairs)


def _state(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = model.state_dict(keep_vars=True)
    return found


def _specs(model: Any) -> dict[str, Spec]:
    return {name: Spec(dtype="F32", shape=tuple(value.shape)) for name, value in _state(model).items()}


def place(model: Any, name: str) -> tuple[Any, str]:
    """The module that has a parameter, and what it is called there."""
    path, _, attr = name.rpartition(".")
    return model.get_submodule(path), attr


def _put(torch: Any, model: Any, name: str, tensor: Any) -> None:
    """A tensor as a model's parameter or buffer; nothing is copied."""
    module, attr = place(model, name)
    if attr in module._parameters:
        module._parameters[attr] = torch.nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[attr] = tensor


def _retie(model: Any, lacking: list[str]) -> None:
    """Tie what the model ties; parameters that the base lacks and that are tied to others are not lacking."""
    model.tie_weights()
    seen = {id(value): name for name, value in _state(model).items() if name not in lacking}
    lacking[:] = [name for name, value in _state(model).items() if name in lacking and id(value) not in seen]


def _one_name(model: Any) -> dict[str, str]:
    """Every parameter's name -> the first name of all that are the same object."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(value), name) for name, value in _state(model).items()}


def _lies(torch: Any, model: Any, names: Mapping[str, str]) -> dict[str, str]:
    """How every parameter is used by all layers that have it."""
    found: dict[str, set[str]] = {}
    for path, module in model.named_modules():
        for attr, _ in module.named_parameters(recurse=False):
            name = f"{path}.{attr}" if path else attr
            how = {"linear": "matrix", "lookup": "matrix", "conv1d": "transposed"}.get(kind(torch, module), "other")
            found.setdefault(names[name], set()).add(how if attr == "weight" else "other")
    return {name: hows.pop() if len(hows) == 1 else "other" for name, hows in found.items()}


def _stand_in(body: Any, given: list[Any]) -> None:
    """Let a body return what is given, if anything is."""
    plain = body.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return given[-1] if given else plain(*args, **kwargs)

    body.forward = forward
