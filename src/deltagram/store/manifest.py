"""The manifest of a delta: strict data, canonical text. docs/FORMAT.md gives each field's meaning."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import zstandard
from blake3 import blake3
from pydantic import Field, ValidationError

from deltagram.arrays import Spec
from deltagram.store.digest import whole_digest
from deltagram.store.header import METADATA
from deltagram.store.masked import masked
from deltagram.store.strict import Digest, Shape, Size, Strict
from deltagram.store.tensors import StoredTensor, WholeTensor

VERSION: Final = 1
_GROWTH: Final = 256  # of a manifest over its compressed form, at the most
FEATURES: Final = frozenset(
    {
        "stratified",
        "bernoulli",
        "listed",
        "columns",
        "wanda",
        "uniform",
        "codebook",
        "zstd",
        "resized",
        "exact",
        "low_rank",
        "coded",
    },
)


class DroppedTensor(Strict):
    """A base tensor that the tuned model lacks."""

    shape: Shape
    dtype: str
    digest: Digest


class BaseModelRef(Strict):
    """Which base; `digest` is the whole digest of its tensors."""

    name: str
    digest: Digest
    tensors: Size


class TunedModelRef(Strict):
    """Which fine-tuned model."""

    name: str


class CompanionFile(Strict):
    """A small file that travels along: stored in the delta, or taken from the base."""

    digest: Digest
    bytes: Size
    stored: Literal["delta", "base"]


class Manifest(Strict):
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

    def text(self) -> str:
        """The canonical JSON text: fields in the order of the format document, no spaces, nulls left out."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), separators=(",", ":"))


def base_tensors(
    tensors: Mapping[str, StoredTensor], dropped: Mapping[str, DroppedTensor]
) -> dict[str, tuple[str, Spec]]:
    """Digest and spec of every base tensor. Raises ValueError where entries disagree about one."""
    found = {name: (gone.digest, Spec(dtype=gone.dtype, shape=tuple(gone.shape))) for name, gone in dropped.items()}
    for name, tensor in tensors.items():
        if METADATA in (name, tensor.base_name) or METADATA in dropped:
            raise ValueError(f"no tensor is named {METADATA}")
        if tensor.base_name == name:
            raise ValueError(f"{name} repeats its name as its base's")
        if tensor.base_digest is None:
            continue
        source, said = tensor.base_name or name, (tensor.base_digest, tensor.base_spec)
        if source in dropped or found.setdefault(source, said) != said:
            raise ValueError(f"entries disagree about the base tensor {source}")
    return found


def base_reference(name: str, tensors: Mapping[str, tuple[str, Spec]]) -> BaseModelRef:
    """What a manifest says of its base as a whole."""
    digest = whole_digest({tensor: digest for tensor, (digest, _) in tensors.items()})
    return BaseModelRef(name=name, digest=digest, tensors=len(tensors))


def manifest_digest(text: str) -> str:
    """What binds `scales.safetensors` to its delta, and guards the manifest itself."""
    return blake3(text.encode()).hexdigest()


def pack_manifest(text: str) -> str:
    """A manifest's text as one zstd frame in base64."""
    return base64.b64encode(zstandard.ZstdCompressor(level=19).compress(text.encode())).decode()


def unpack_manifest(packed: str) -> str:
    """The text of `pack_manifest`. Raises ValueError for anything else, and for one that grows out of proportion."""
    try:
        frame = base64.b64decode(packed, validate=True)
        size = zstandard.get_frame_parameters(frame).content_size
        if not 0 < size <= _GROWTH * len(frame):
            raise ValueError("the compressed manifest declares no size that its bytes bear out")
        reader = zstandard.ZstdDecompressor().decompressobj()
        found = reader.decompress(frame)
        if len(found) != size or not reader.eof or reader.unused_data:
            raise ValueError("the compressed manifest is not one whole frame")
        return found.decode("ascii")
    except (binascii.Error, zstandard.ZstdError, UnicodeDecodeError) as fault:
        raise ValueError("the compressed manifest is damaged") from fault


def read_manifest(text: str) -> Manifest:
    """Parse a manifest. Raises ValueError for one this version cannot read in full."""
    try:
        parsed: Any = json.loads(text)
        json.dumps(parsed, ensure_ascii=False).encode()  # an escaped lone surrogate is no text
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
    for name, entry in tensors.items():
        for kept in masked(name, entry).values():
            needed.add(kept.mask.kind)
            needed |= {getattr(kept.mask, "score", "")} & FEATURES
            needed |= {kept.values.codec} & FEATURES
            needed |= {kept.values.pack} if kept.values.pack else set()
        if isinstance(entry, WholeTensor) and entry.values is not None:
            needed |= {"coded"} | ({entry.values.codec, entry.values.pack or ""} & FEATURES)
        needed |= {entry.form} & FEATURES
    return sorted(needed)
