"""The entries of a manifest: how one tensor and its values are stored; strict data."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from deltagram.arrays import DTYPES, Spec
from deltagram.delta.masks import WORDS
from deltagram.delta.values import Codebook, Floats, Uniform, Values
from deltagram.store.masks import BernoulliMask, ColumnsMask, ListedMask, StratifiedMask
from deltagram.store.strict import Digest, Shape, Strict


class StoredValues(Strict):
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


class _Tensor(Strict):
    """What all forms share; absent base fields equal the tuned ones."""

    shape: Shape
    dtype: str
    base_name: str | None = None
    base_shape: Shape | None = None
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
    base_digest: Digest
    mask: Annotated[StratifiedMask | BernoulliMask | ListedMask | ColumnsMask, Field(discriminator="kind")]
    values: StoredValues
    digest: Digest

    @model_validator(mode="after")
    def _consistent(self) -> "PrunedTensor":
        if not (self.spec.floating and self.base_spec.floating):
            raise ValueError(f"{self.dtype} from {self.base_spec.dtype} cannot be pruned")
        if self.form == "pruned" and self.base_shape is not None:
            raise ValueError("a pruned tensor has its base's shape")
        if self.form == "resized" and (
            self.base_shape is None or not self.shape or self.base_spec.shape[1:] != self.spec.shape[1:]
        ):
            raise ValueError("a resized tensor differs from its base in rows only")
        if self.mask.keep > self.common.size:
            raise ValueError(f"{self.mask.keep} of {self.common.size} entries kept")
        if isinstance(self.mask, ColumnsMask):
            self.mask.entries(self.common.shape)
        return self

    @property
    def common(self) -> Spec:
        """The part of the restored tensor that has a base: the leading rows of a resized one, else all."""
        if self.form == "pruned":
            return self.spec
        rows = min(self.spec.shape[0], self.base_spec.shape[0])
        return Spec(dtype=self.dtype, shape=(rows, *self.spec.shape[1:]))

    @property
    def dare_divisor(self) -> float:
        """DARE's divisor 1 - p: the mask's probability (Bernoulli) or its exact share of the entries (others)."""
        if isinstance(self.mask, ColumnsMask) and self.mask.threshold is not None:
            return self.mask.threshold / WORDS * self.mask.columns / self.common.shape[1]
        return (
            self.mask.threshold / WORDS if isinstance(self.mask, BernoulliMask) else self.mask.keep / self.common.size
        )

    @property
    def default_divisor(self) -> float:
        """What kept values are divided by unless told: DARE's divisor for random masks, 1 for chosen entries.

        Columns chosen by a score stand for themselves: theirs is the kept share inside them.
        """
        if isinstance(self.mask, ListedMask):
            return 1.0
        if isinstance(self.mask, ColumnsMask) and self.mask.score != "random":
            drawn = self.mask.threshold
            return self.mask.keep / self.mask.entries(self.common.shape) if drawn is None else drawn / WORDS
        return self.dare_divisor

    @property
    def extra(self) -> Spec:
        """The rows of the restored tensor that the base lacks."""
        rows = self.spec.shape[0] - self.common.shape[0] if self.spec.shape else 0
        return Spec(dtype=self.dtype, shape=(rows, *self.spec.shape[1:]))


class WholeTensor(_Tensor):
    """All entries, as bytes or (`values`) coded. `base_digest` is there if the base has a tensor of that name."""

    form: Literal["whole"] = "whole"
    base_digest: Digest | None = None
    values: StoredValues | None = None
    digest: Digest

    @model_validator(mode="after")
    def _based(self) -> "WholeTensor":
        if self.base_digest is None and (self.base_name, self.base_shape, self.base_dtype) != (None, None, None):
            raise ValueError("a base without a digest")
        if self.values is not None and not (self.spec.floating and self.spec.size):
            raise ValueError(f"{self.spec} has no values to code")
        return self


class SameTensor(_Tensor):
    """The base tensor, rounded to `dtype`."""

    form: Literal["same"] = "same"
    base_digest: Digest

    @model_validator(mode="after")
    def _convertible(self) -> "SameTensor":
        self.check_convertible()
        return self


class ExactTensor(_Tensor):
    """Distances between the patterns of base and tuned, lossless."""

    form: Literal["exact"] = "exact"
    base_digest: Digest
    tuned_digest: Digest
    digest: Digest

    @model_validator(mode="after")
    def _convertible(self) -> "ExactTensor":
        self.check_convertible()
        return self


class StoredFactor(Strict):
    """The kept entries of one factor of a low-rank tensor."""

    mask: Annotated[StratifiedMask | BernoulliMask | ListedMask, Field(discriminator="kind")]
    values: StoredValues


class LowRankTensor(_Tensor):
    """The base plus `scale x B A`, A and B being pruned factors; transposed where the layer stores `in x out`."""

    form: Literal["low_rank"] = "low_rank"
    base_digest: Digest
    rank: Annotated[int, Field(ge=1, lt=1 << 63)]
    scale: Annotated[float, Field(allow_inf_nan=False)]
    transposed: Literal[True] | None = None
    A: StoredFactor
    B: StoredFactor
    digest: Digest

    @model_validator(mode="after")
    def _consistent(self) -> "LowRankTensor":
        self.check_convertible()
        if not self.spec.floating:
            raise ValueError(f"{self.dtype} is not moved by factors")
        if len(self.shape) < 2 or not self.spec.size:
            raise ValueError(f"a tensor of shape {self.shape} is no product of two factors")
        if self.rank > min(self.matrix):
            raise ValueError(f"rank {self.rank} in a matrix of {self.matrix}")
        for shape, factor in ((self.shape_of_a, self.A), (self.shape_of_b, self.B)):
            if factor.mask.keep > shape[0] * shape[1]:
                raise ValueError(f"{factor.mask.keep} entries kept of a factor of {shape}")
        return self

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns: the axes after the first are one."""
        return self.shape[0], self.spec.size // self.shape[0]

    @property
    def shape_of_a(self) -> tuple[int, int]:
        """Rank and inputs."""
        return self.rank, self.matrix[0 if self.transposed else 1]

    @property
    def shape_of_b(self) -> tuple[int, int]:
        """Outputs and rank."""
        return self.matrix[1 if self.transposed else 0], self.rank


StoredTensor = PrunedTensor | WholeTensor | SameTensor | ExactTensor | LowRankTensor
