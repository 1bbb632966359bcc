"""The manifest of a delta: strict data, canonical text. docs/FORMAT.md gives each field's meaning."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from deltagram.arrays import DTYPES, Spec
from deltagram.delta.masks import WORDS
from deltagram.delta.values import Codebook, Floats, Uniform, Values
from deltagram.store.header import METADATA

VERSION: Final = 1
FEATURES: Final = frozenset(
    {"stratified", "bernoulli", "listed", "uniform", "codebook", "zstd", "resized", "exact"},
)
_Size = Annotated[int, Field(ge=0, lt=1 << 63)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Check = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
_Shape = Annotated[list[_Size], Field(max_length=64)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class StratifiedMask(_Part):
    """`keep` strata; positions follow from the tensor's key."""

    kind: Literal["stratified"] = "stratified"
    keep: Annotated[int, Field(ge=1, lt=WORDS)]
    check: _Check


class BernoulliMask(_Part):
    """Word below `threshold`; `keep` is the realised count."""

    kind: Literal["bernoulli"] = "bernoulli"
    threshold: Annotated[int, Field(ge=0, le=WORDS)]
    keep: _Size
    check: _Check


class ListedMask(_Part):
    """Positions as data, coded as `coding` says."""

    kind: Literal["listed"] = "listed"
    keep: Annotated[int, Field(ge=1, lt=1 << 63)]
    score: Literal["magnitude"]
    coding: Mapping[str, int | str]
    check: _Check


class StoredValues(_Part):
    """How the kept values are coded."""

    codec: Literal["f32", "bf16", "f16", "uniform", "codebook"]
    bits: Annotated[int, Field(ge=1, le=8)] | None = None
    group: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    pack: Literal["zstd"] | None = None

    @model_validator(mode="after")
    def _complete(self) -> "StoredValues":
        coded = self.codec in ("uniform", "codebook")
        if coded != (self.bits is not None) or (self.codec == "uniform") != (self.group is not None):
            raise ValueError(f"codec {self.codec} with bits {self.bits} and group {self.group}")
        if self.group is not None and (1 << 16) % self.group:
            raise ValueError(f"group {self.group} does not divide 65,536")
        return self

    def setting(self) -> Values:
        """The setting that decodes these values."""
        if self.codec == "uniform":
            return Uniform(bits=self.bits or 0, group=self.group or 0)
        if self.codec == "codebook":
            return Codebook(bits=self.bits or 0)
        floats: Mapping[str, Literal["F32", "BF16", "F16"]] = {"f32": "F32", "bf16": "BF16", "f16": "F16"}
        return Floats(dtype=floats[self.codec])

    @classmethod
    def of(cls, setting: Values, *, pack: bool) -> "StoredValues":
        """The manifest's words for a setting."""
        packed: Literal["zstd"] | None = "zstd" if pack else None
        if isinstance(setting, Uniform):
            return cls(codec="uniform", bits=setting.bits, group=setting.group, pack=packed)
        if isinstance(setting, Codebook):
            return cls(codec="codebook", bits=setting.bits, pack=packed)
        names: Mapping[str, Literal["f32", "bf16", "f16"]] = {"F32": "f32", "BF16": "bf16", "F16": "f16"}
        return cls(codec=names[setting.dtype], pack=packed)


class _Tensor(_Part):
    """What all forms share; absent base fields equal the tuned ones."""

    shape: _Shape
    dtype: str
    base_name: str | None = None
    base_shape: _Shape | None = None
    base_dtype: str | None = None

    @model_validator(mode="after")
    def _known(self) -> "_Tensor":
        for dtype in (self.dtype, self.base_dtype or self.dtype):
            if dtype not in DTYPES:
                raise ValueError(f"unknown dtype {dtype!r}")
        if self.base_shape == self.shape or self.base_dtype == self.dtype:
            raise ValueError("a base field repeats the tuned one")
        return self

    def check_convertible(self) -> None:
        """Raise ValueError unless the base can be rounded to the tuned tensor, entry by entry."""
        if self.base_shape is not None:
            raise ValueError(f"shape {self.shape} from a base of {self.base_shape}")
        if self.base_dtype is not None and not (self.spec.floating and self.base_spec.floating):
            raise ValueError(f"{self.dtype} from {self.base_dtype} cannot be")

    @property
    def spec(self) -> Spec:
        """The restored tensor."""
        return Spec(dtype=self.dtype, shape=tuple(self.shape))

    @property
    def base_spec(self) -> Spec:
        """The base tensor."""
        shape = self.shape if self.base_shape is None else self.base_shape
        return Spec(dtype=self.base_dtype or self.dtype, shape=tuple(shape))


class PrunedTensor(_Tensor):
    """Kept differences of all entries, or (`resized`) of the leading rows both have."""

    form: Literal["pruned", "resized"]
    base_digest: _Digest
    mask: Annotated[StratifiedMask | BernoulliMask | ListedMask, Field(discriminator="kind")]
    values: StoredValues
    digest: _Digest

    @model_validator(mode="after")
    def _consistent(self) -> "PrunedTensor":
        if not (self.spec.floating and self.base_spec.floating):
            raise ValueError(f"{self.dtype} from {self.base_spec.dtype} cannot be pruned")
        if self.form == "pruned" and self.base_shape is not None:
            raise ValueError("a pruned tensor has its base's shape")
        if self.form == "resized" and (not self.shape or self.base_spec.shape[1:] != self.spec.shape[1:]):
            raise ValueError("a resized tensor differs from its base in rows only")
        if self.mask.keep > self.common.size:
            raise ValueError(f"{self.mask.keep} of {self.common.size} entries kept")
        return self

    @property
    def common(self) -> Spec:
        """The part of the restored tensor that has a base: the leading rows of a resized one, else all."""
        if self.form == "pruned":
            return self.spec
        rows = min(self.spec.shape[0], self.base_spec.shape[0])
        return Spec(dtype=self.dtype, shape=(rows, *self.spec.shape[1:]))

    @property
    def extra(self) -> Spec:
        """The rows of the restored tensor that the base lacks."""
        rows = self.spec.shape[0] - self.common.shape[0] if self.spec.shape else 0
        return Spec(dtype=self.dtype, shape=(rows, *self.spec.shape[1:]))


class WholeTensor(_Tensor):
    """All bytes. `base_digest` is there if the base has a tensor of that name."""

    form: Literal["whole"] = "whole"
    base_digest: _Digest | None = None
    digest: _Digest

    @model_validator(mode="after")
    def _based(self) -> "WholeTensor":
        if self.base_digest is None and (self.base_name, self.base_shape, self.base_dtype) != (None, None, None):
            raise ValueError("a base without a digest")
        return self


class SameTensor(_Tensor):
    """The base tensor, rounded to `dtype`."""

    form: Literal["same"] = "same"
    base_digest: _Digest

    @model_validator(mode="after")
    def _convertible(self) -> "SameTensor":
        self.check_convertible()
        return self


class ExactTensor(_Tensor):
    """Distances between the patterns of base and tuned, lossless."""

    form: Literal["exact"] = "exact"
    base_digest: _Digest
    tuned_digest: _Digest
    digest: _Digest

    @model_validator(mode="after")
    def _convertible(self) -> "ExactTensor":
        self.check_convertible()
        return self


StoredTensor = PrunedTensor | WholeTensor | SameTensor | ExactTensor


class DroppedTensor(_Part):
    """A base tensor that the tuned model lacks."""

    shape: _Shape
    dtype: str
    digest: _Digest


class BaseModelRef(_Part):
    """Which base; `digest` is the whole digest of its tensors."""

    name: str
    digest: _Digest
    tensors: _Size


class TunedModelRef(_Part):
    """Which fine-tuned model."""

    name: str


class CompanionFile(_Part):
    """A small file that travels along: stored in the delta, or taken from the base."""

    digest: _Digest
    bytes: _Size
    stored: Literal["delta", "base"]


class Manifest(_Part):
    """Everything a delta says of itself."""

    version: Literal[1] = 1
    requires: list[str]
    created_by: str
    seed: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
    base: BaseModelRef
    tuned: TunedModelRef
    files: Mapping[str, CompanionFile]
    dropped: Mapping[str, DroppedTensor]
    tensors: Mapping[str, Annotated[StoredTensor, Field(discriminator="form")]]

    def base_digests(self) -> dict[str, str]:
        """Digest of every base tensor. Raises ValueError where entries disagree about one."""
        found: dict[str, tuple[str, Spec]] = {
            name: (gone.digest, Spec(dtype=gone.dtype, shape=tuple(gone.shape))) for name, gone in self.dropped.items()
        }
        for name, tensor in self.tensors.items():
            if METADATA in (name, tensor.base_name) or METADATA in self.dropped:
                raise ValueError(f"no tensor is named {METADATA}")
            if tensor.base_name == name:
                raise ValueError(f"{name} repeats its name as its base's")
            if tensor.base_digest is None:
                continue
            source, said = tensor.base_name or name, (tensor.base_digest, tensor.base_spec)
            if source in self.dropped or found.setdefault(source, said) != said:
                raise ValueError(f"entries disagree about the base tensor {source}")
        return {name: digest for name, (digest, _) in found.items()}

    def text(self) -> str:
        """The canonical JSON text: fields in the order of the format document, no spaces, nulls left out."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), separators=(",", ":"))


def manifest_digest(text: str) -> str:
    """What binds `scales.safetensors` to its delta, and guards the manifest itself."""
    return blake3(text.encode()).hexdigest()


def read_manifest(text: str) -> Manifest:
    """Parse a manifest. Raises ValueError for one this version cannot read in full."""
    try:
        parsed: Any = json.loads(text)
    except (RecursionError, ValueError):
        raise ValueError("the manifest is not JSON") from None
    if not isinstance(parsed, dict) or parsed.get("version") != VERSION:
        found = parsed.get("version") if isinstance(parsed, dict) else None
        raise ValueError(f"format version {found!r}; this deltagram reads version {VERSION}")
    requires = parsed.get("requires")
    unknown = [name for name in requires if str(name) not in FEATURES] if isinstance(requires, list) else []
    if unknown:
        raise ValueError(
            f"it needs the feature {unknown[0]!r}, which this deltagram does not know; install a newer one"
        )
    try:
        return Manifest.model_validate(parsed)
    except (ValidationError, RecursionError) as fault:
        raise ValueError(f"the manifest is invalid: {_first(fault)}") from None


def _first(fault: Exception) -> str:
    if isinstance(fault, ValidationError):
        error = fault.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(step) for step in error['loc'])}: {error['msg']}"
    return type(fault).__name__


def features(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """The features a reader of these tensors needs, sorted."""
    needed: set[str] = set()
    for entry in tensors.values():
        if isinstance(entry, PrunedTensor):
            needed.add(entry.mask.kind)
            needed |= {entry.values.codec} & FEATURES
            needed |= {entry.values.pack} if entry.values.pack else set()
        needed |= {entry.form} & FEATURES
    return sorted(needed)
