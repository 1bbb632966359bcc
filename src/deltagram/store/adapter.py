"""A PEFT LoRA adapter on its base, seen as the fine-tuned model it stands for."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from deltagram.arrays import DTYPES, F32, Bits, Spec, as_floats, convert
from deltagram.delta.factors import FactorShapes
from deltagram.delta.lowrank import Factors, moved
from deltagram.delta.names import INPUT, OUTPUT, Matching
from deltagram.errors import CheckpointError, PlanError, SettingError
from deltagram.store.adapter_config import CONFIG, WEIGHTS, AdapterConfig, read_config
from deltagram.store.adapter_names import Lora, sort_names, tuned_names
from deltagram.store.checkpoint import BLOCK_BYTES, Checkpoint, open_checkpoint

FORMS: Final = ("product", "factors")
_WITH_OUTPUT: Final = ("ForCausalLM", "LMHead", "ForMaskedLM", "ForConditionalGeneration", "ForPreTraining")


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """The tensors of base and adapter together, by their names in the fine-tuned model; nothing is merged on disk.

    `matching`: the base tensor under each tuned name that has one. `products`: what the adapter adds to some of them.
    `own`: tensors that the adapter holds whole (heads, biases).
    """

    path: Path
    base: Checkpoint
    adapter: Checkpoint
    specs: Mapping[str, Spec]
    matching: Matching
    products: Mapping[str, Factors]
    own: Mapping[str, str]

    @property
    def sources(self) -> Mapping[str, str]:
        """The base tensor under each tuned name that has one."""
        return self.matching.base_of

    @property
    def folder(self) -> Path | None:
        """The adapter's directory, which may hold a tokenizer of its own."""
        return self.path

    @property
    def title(self) -> str:
        """What to call it."""
        return self.adapter.title

    @property
    def nbytes(self) -> int:
        """Size of the adapter's tensor file."""
        return self.adapter.nbytes

    @property
    def views(self) -> Mapping[str, memoryview]:
        """All bytes of a tensor; of one that the adapter adds to, merged when asked for."""
        return _Views(self)

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """Bit patterns of entries `start` to `stop - 1`, what is added rounded to the base's dtype."""
        if name in self.own:
            return self.adapter.bits(self.own[name], start, stop)
        block = self.base.bits(self.sources[name], start, stop)
        if name not in self.products:
            return block
        dtype = self.specs[name].dtype
        return moved(block, dtype, self.products[name].entries(start, stop), dtype)

    def shapes(self) -> dict[str, FactorShapes]:
        """The factors of each weight that could be stored as `low_rank`."""
        return {
            name: FactorShapes(a=f.a.shape, b=f.b.shape, scale=f.scale, transposed=f.transposed)
            for name, f in self.products.items()
            if len(self.specs[name].shape) > 1
        }


class _Views(Mapping[str, memoryview]):
    """Bytes by name, merged block by block where there is something to merge."""

    def __init__(self, model: Adapted) -> None:
        self._model = model

    def __getitem__(self, name: str) -> memoryview:
        model = self._model
        if name in model.own:
            return model.adapter.views[model.own[name]]
        if name not in model.products:
            return model.base.views[model.sources[name]]
        spec = model.specs[name]
        merged = np.empty(spec.size, DTYPES[spec.dtype].bits)
        step = BLOCK_BYTES // merged.itemsize
        for start in range(0, spec.size, step):
            stop = min(start + step, spec.size)
            merged[start:stop] = model.bits(name, start, stop)
        return merged.view(np.uint8).data

    def __iter__(self) -> Iterator[str]:
        return iter(self._model.specs)

    def __len__(self) -> int:
        return len(self._model.specs)


Tuned = Checkpoint | Adapted


def open_tuned(path: Path | str, base: Checkpoint, *, rename: Sequence[tuple[str, str]] = ()) -> Tuned:
    """A fine-tuned model: a checkpoint, or the directory of a PEFT adapter of `base`.

    Raises CheckpointError for what is neither or is damaged, PlanError for an adapter of another base.
    """
    path = Path(path)
    if not (path / CONFIG).is_file() or (path / "model.safetensors").exists():
        return open_checkpoint(path)
    config = read_config(path)
    if not (path / WEIGHTS).is_file():
        fix = "save it with safe_serialization=True; pickles can run code and are never opened here"
        raise CheckpointError(str(path), f"holds no {WEIGHTS}", expected="an adapter as PEFT saves it", fix=fix)
    return _adapted(path, config, base, open_checkpoint(path / WEIGHTS), rename)


def check_form(adapter: str, tuned: Tuned) -> None:
    """Raise SettingError unless `adapter` is a way to store this fine-tuned model."""
    if adapter not in FORMS:
        raise SettingError("--adapter", f"{adapter!r} is unknown", expected=" or ".join(FORMS))
    if adapter == "factors" and not isinstance(tuned, Adapted):
        raise SettingError("--adapter factors", f"{tuned.path} is a checkpoint", expected="a PEFT adapter directory")


def _adapted(
    path: Path, config: AdapterConfig, base: Checkpoint, adapter: Checkpoint, rename: Sequence[tuple[str, str]]
) -> Adapted:
    loras, whole, frozen = sort_names(path, adapter.specs)
    touched = [*(lora.weight for lora in loras), *(lora.bias for lora in loras if lora.has_bias), *frozen]
    _check_tied(path, [*(lora.weight for lora in loras), *whole], base)
    matching = tuned_names(touched, whole, base.specs, rename=rename, of=config.made_for, base_at=base.path)
    sources = matching.base_of
    based = {name: base.specs[source] for name, source in sources.items()}
    products: dict[str, Factors] = {}
    _check_square(path, config, adapter, loras, based)
    for lora in loras:
        products |= _products(path, config, adapter, lora, based)
    own = {name: key for name, key in whole.items() if name not in products}
    specs = based | {name: adapter.specs[key] for name, key in own.items()}
    for name, key in frozen.items():
        _check_frozen(path, name, adapter, key, base, sources[name])
    return Adapted(
        path=path, base=base, adapter=adapter, specs=dict(sorted(specs.items())), matching=matching, products=products,
        own=own,
    )  # fmt: skip


def _products(
    path: Path, config: AdapterConfig, adapter: Checkpoint, lora: Lora, specs: Mapping[str, Spec]
) -> dict[str, Factors]:
    """What one module's factors add to its weight, and (`lora_bias`) to its bias."""
    a, b = _floats(path, adapter, lora.a), _floats(path, adapter, lora.b)
    scale, spec = config.scale(lora.module), specs[lora.weight]
    transposed = lora.embedding or (len(spec.shape) == 2 and _transposed(config, a.shape[1:], spec.shape))
    factors = Factors(a=a.reshape(len(a), -1), b=b.reshape(len(b), -1), scale=scale, transposed=transposed)
    if not (factors.rank == factors.b.shape[1] == config.rank(lora.module)):
        found = f"{lora.a} is {a.shape} and {lora.b} is {b.shape}"
        raise CheckpointError(str(path), found, expected=f"factors of rank {config.rank(lora.module)} ({CONFIG})")
    if a.ndim > 2 and (a.shape[1:] != spec.shape[1:] or set(b.shape[2:]) != {1}):
        raise _other_base(path, config, lora, found=f"{a.shape[1:]} in {lora.a}", spec=spec)
    rows, rest = (spec.shape[0], spec.size // max(1, spec.shape[0])) if len(spec.shape) > 1 else (0, 0)
    if factors.shape != (rows, rest) or not spec.floating:
        raise _other_base(path, config, lora, found=f"{factors.shape} from {lora.a} and {lora.b}", spec=spec)
    found_products = {lora.weight: factors}
    if lora.has_bias:
        key = lora.b.removesuffix("weight") + "bias"
        column = _floats(path, adapter, key).reshape(-1, 1)
        if specs[lora.bias].shape != (len(column),):
            raise _other_base(path, config, lora, found=f"({len(column)},) in {key}", spec=specs[lora.bias])
        found_products[lora.bias] = Factors(a=np.ones((1, 1), np.float32), b=column, scale=scale)
    return found_products


def _check_tied(path: Path, changed: Sequence[str], base: Checkpoint) -> None:
    """Refuse a changed embedding that the base's output layer shares: PEFT changes the input side alone."""
    embedding = next((name for name in changed if name.endswith(INPUT)), None)
    if embedding is None or base.folder is None or any(name.endswith(OUTPUT) for name in base.specs):
        return
    try:
        config = json.loads((base.folder / "config.json").read_text("utf-8"))
        model, tied = str(config.get("architectures")), config.get("tie_word_embeddings", True)
    except (OSError, ValueError, AttributeError):
        return
    if tied and any(word in model for word in _WITH_OUTPUT):
        raise PlanError(
            embedding, f"the adapter {path} changes it, and the base's output layer shares it",
            expected="an adapter that leaves a tied embedding alone",
            fix="save the base with tie_word_embeddings=False, or merge the adapter on such a base",
        )  # fmt: skip


def _check_square(
    path: Path, config: AdapterConfig, adapter: Checkpoint, loras: Sequence[Lora], specs: Mapping[str, Spec]
) -> None:
    """Refuse a square weight where nothing tells which way it lies: the adapter has layers of both kinds."""
    matrices = [lora for lora in loras if not lora.embedding and len(specs[lora.weight].shape) == 2]
    square = [lora for lora in matrices if len(set(specs[lora.weight].shape)) == 1]
    seen = {
        _transposed(config, adapter.specs[lora.a].shape[1:], specs[lora.weight].shape)
        for lora in matrices
        if lora not in square
    }
    if square and len(seen | {config.fan_in_fan_out}) > 1:
        raise PlanError(
            square[0].weight, f"is square, and the adapter {path} has layers that store in x out, and out x in",
            fix="make an adapter of each kind of layers, or merge it with PeftModel.merge_and_unload()",
        )  # fmt: skip


def _transposed(config: AdapterConfig, inputs: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a matrix is stored as `in x out`: its shape says so, or, if it is square, the configuration.

    (PEFT's flag is that of the last layer it made; a model may have both kinds.)
    """
    if shape[0] == shape[1]:
        return config.fan_in_fan_out
    return inputs == shape[:1]


def _other_base(path: Path, config: AdapterConfig, lora: Lora, *, found: str, spec: Spec) -> PlanError:
    return PlanError(
        lora.weight, f"the adapter {path} adds a difference of {found}; the base's tensor is {spec}",
        expected="equal shapes", fix=f"give the adapter's own base: {config.made_for}",
    )  # fmt: skip


def _floats(path: Path, adapter: Checkpoint, key: str) -> F32:
    """A tensor of the adapter in float32, all finite."""
    spec = adapter.specs[key]
    if not spec.floating or not spec.size or not spec.shape:
        raise CheckpointError(str(path), f"{key} is {spec}", expected="floats")
    found = as_floats(convert(adapter.bits(key, 0, spec.size), spec.dtype, "F32"), "F32")
    if not np.isfinite(found).all():
        raise CheckpointError(str(path), f"{key} holds NaN or infinity", fix="train or download the adapter again")
    return found.reshape(spec.shape)


def _check_frozen(path: Path, name: str, adapter: Checkpoint, key: str, base: Checkpoint, source: str) -> None:
    """A weight saved beside its own factors (`save_embedding_layers`) must be the base's."""
    if adapter.specs[key] != base.specs[source] or adapter.views[key] != base.views[source]:
        raise CheckpointError(
            str(path), f"{key} is not the base's {source}, and the adapter adds factors to it",
            fix=f"give the base with that {name}, or merge the adapter with PeftModel.merge_and_unload()",
        )  # fmt: skip
