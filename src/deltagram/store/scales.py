"""`scales.safetensors`: what every pruned tensor is divided by, replaceable without touching the payload."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
from blake3 import blake3

from deltagram.arrays import DTYPES, F64, Spec, as_floats
from deltagram.errors import FormatError, SettingError
from deltagram.store.checkpoint import map_file
from deltagram.store.digest import tensor_hasher
from deltagram.store.header import framed, header_text, read_header

NAME: Final = "scales.safetensors"
FORMAT: Final = "deltagram-scales"


RowDtype = Literal["F32", "F16"]
_ROW_FLOATS: Final[Mapping[RowDtype, type[np.float32 | np.float16]]] = {"F32": np.float32, "F16": np.float16}


def check_divisor(name: str, divisor: F64, *, dtype: RowDtype = "F32") -> None:
    """Raise SettingError unless every entry is finite and positive, rounded to float32 (or to `dtype`) too."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = divisor.astype(_ROW_FLOATS[dtype]).astype(np.float64)
    sound = np.isfinite(divisor) & np.isfinite(rounded) & (rounded > 0)
    if not sound.all():
        worst = divisor.reshape(-1)[int(np.argmin(sound.reshape(-1)))]
        narrow = " (in float16 too)" if dtype == "F16" else ""
        raise SettingError(f"divide-by of {name}", f"is {worst}", expected=f"a positive, finite number{narrow}")


def scales_bytes(divisors: Mapping[str, F64], manifest: str, *, row_dtype: RowDtype = "F32") -> bytes:
    """The file's bytes: F64 scalars for whole tensors, vectors of `row_dtype` for one entry a row.

    `manifest` is the manifest's digest. Raises SettingError for a divisor that is not positive and finite as stored.
    """
    specs: dict[str, Spec] = {}
    data: list[bytes] = []
    for name, divisor in divisors.items():
        by_row = divisor.ndim == 1
        check_divisor(name, divisor, dtype=row_dtype if by_row else "F32")
        specs[name] = Spec(dtype=row_dtype if by_row else "F64", shape=divisor.shape)
        stored = np.dtype(_ROW_FLOATS[row_dtype] if by_row else np.float64).newbyteorder("<")
        data.append(divisor.astype(stored).tobytes())
    digest = _content_digest({name: (spec, part) for (name, spec), part in zip(specs.items(), data, strict=True)})
    metadata = {"format": FORMAT, "manifest": manifest, "digest": digest}
    return framed(header_text(specs, metadata)) + b"".join(data)


def _content_digest(parts: Mapping[str, tuple[Spec, bytes | memoryview]]) -> str:
    digest = blake3()
    for name, (spec, data) in parts.items():
        hasher = tensor_hasher(name, spec)
        hasher.update(data)
        digest.update(hasher.digest())
    return digest.hexdigest()


def read_scales(path: Path, *, manifest: str, rows: Mapping[str, tuple[int, ...]]) -> dict[str, F64]:
    """Divisors of every tensor in `rows` (name to the shape of its pruned part), checked to the last byte.

    Raises FormatError for damage, for a file of another delta, and for a divisor no tensor can have.
    """
    try:
        data = map_file(path)
        header = read_header(data)
    except (OSError, ValueError) as fault:
        raise FormatError(str(path), str(fault)) from None
    order = {name: placed.spec for name, placed in header.tensors.items()}
    canonical = header_text(order, header.metadata)
    ordered = list(header.metadata) == ["format", "manifest", "digest"]
    if framed(canonical)[8:] != header.raw or header.metadata.get("format") != FORMAT or not ordered:
        raise FormatError(str(path), "the header is not as deltagram writes it: damaged")
    if header.metadata.get("manifest") != manifest:
        raise FormatError(
            str(path), f"belongs to the delta {header.metadata.get('manifest', '?')[:16]}...",
            expected=f"{manifest[:16]}...", fix="put back the scales file of this delta, or rescale it",
        )  # fmt: skip
    parts = {name: (placed.spec, data[placed.start : placed.stop]) for name, placed in header.tensors.items()}
    if header.metadata.get("digest") != _content_digest(parts):
        raise FormatError(str(path), "its digest does not match its content: damaged")
    if set(order) != set(rows):
        odd = sorted(set(order) ^ set(rows))[0]
        raise FormatError(str(path), f"{odd} is in the manifest or in the scales, not in both")
    return {name: _divisor(path, name, spec, part, rows[name]) for name, (spec, part) in parts.items()}


def _divisor(path: Path, name: str, spec: Spec, part: memoryview, shape: tuple[int, ...]) -> F64:
    scalar = spec.dtype == "F64" and spec.shape == ()
    by_row = spec.dtype in ("F32", "F16") and len(shape) > 1 and spec.shape == shape[:1]
    if not (scalar or by_row):
        raise FormatError(str(path), f"{name} has divisors {spec}", expected=f"F64 (), or F32 {shape[:1]}")
    word = DTYPES[spec.dtype].bits.newbyteorder("<")
    with np.errstate(invalid="ignore"):  # a signalling NaN is refused below
        floats = as_floats(np.frombuffer(part, word).astype(word.newbyteorder("=")), spec.dtype).astype(np.float64)
    divisor = floats.reshape(spec.shape)
    try:
        check_divisor(name, divisor)
    except SettingError as fault:
        raise FormatError(str(path), f"{name} is divided by {fault.found.removeprefix('is ')}") from None
    return divisor
