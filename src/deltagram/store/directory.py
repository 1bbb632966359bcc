"""What a delta directory must hold, checked before anything of it is used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deltagram.errors import FormatError
from deltagram.store.checkpoint import map_file
from deltagram.store.header import Header, header_text, read_header
from deltagram.store.manifest import (
    Manifest,
    base_reference,
    base_tensors,
    features,
    manifest_digest,
    read_manifest,
    unpack_manifest,
)
from deltagram.store.parts import Part, damage, may_travel, part_specs

NAME: Final = "delta.safetensors"
INDEX: Final = "delta.safetensors.index.json"
FORMAT: Final = "deltagram"
PLAIN: Final = "deltagram"  # under which the manifest stands in the metadata
COMPACT: Final = "deltagram_zstd"  # or, compressed, under this


def shard_name(number: int, count: int) -> str:
    """The name of shard `number` (from 1) of `count`."""
    return f"delta-{number:05d}-of-{count:05d}.safetensors"


def index_bytes(shards: Mapping[str, list[str]], total: int) -> bytes:
    """The index of a sharded delta: which file holds which part."""
    weight_map = {part: file for file, parts in shards.items() for part in parts}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1).encode()


def delta_files(path: Path) -> list[Path]:
    """The safetensors files of a delta directory, the one with the manifest first. Raises FormatError."""
    if not path.is_dir():
        what = "is a file" if path.is_file() else "there is no such directory"
        raise FormatError(str(path), what, expected="a delta directory")
    if (path / NAME).is_file():
        return [path / NAME]
    if not (path / INDEX).is_file():
        raise FormatError(str(path), f"holds no {NAME}", expected="a delta directory written by deltagram prune")
    files = sorted(path.glob("delta-*-of-*.safetensors"))
    with damage(str(path / INDEX)):
        if not files or [file.name for file in files] != [shard_name(i, len(files)) for i in range(1, len(files) + 1)]:
            raise ValueError("its shards are not all there, or have other names")
        total = sum(file.stat().st_size for file in files)
        if (path / INDEX).read_bytes() != index_bytes(
            {file.name: list(delta_header(file).tensors) for file in files}, total
        ):
            raise ValueError("does not list what its shards hold")
    return files


def delta_header(file: Path) -> Header:
    """The header of one of them, compared byte by byte with how it is written."""
    try:
        data = map_file(file)
    except OSError as fault:
        raise FormatError(str(file), f"cannot be read ({fault.strerror})") from None
    with damage(str(file)):
        header = read_header(data)
        order = dict(sorted(header.tensors.items(), key=lambda item: (item[1].start, item[1].stop)))
        text = header_text({name: placed.spec for name, placed in order.items()}, header.metadata)
        if list(order) != list(header.tensors) or text.ljust(len(header.raw)) != header.raw:
            raise ValueError("the header is not as deltagram writes it")
    return header


def delta_manifest(file: Path, header: Header) -> tuple[Manifest, str]:
    """Manifest and its digest from the first file's header, held against themselves."""
    key = PLAIN if PLAIN in header.metadata else COMPACT
    if header.metadata.get("format") != FORMAT or key not in header.metadata:
        raise FormatError(str(file), "is a safetensors file, but not a delta")
    with damage(str(file)):
        text = header.metadata[key] if key == PLAIN else unpack_manifest(header.metadata[key])
        digest = manifest_digest(text)
        if header.metadata.get("digest") != digest or list(header.metadata) != ["format", key, "digest"]:
            raise ValueError("the manifest does not match its digest")
        manifest = read_manifest(text)
        if manifest.text() != text:
            raise ValueError("the manifest is not in canonical form")
        bases = base_tensors(manifest.tensors, manifest.dropped)
        if manifest.base != base_reference(manifest.base.name, bases):
            raise ValueError("the manifest's base is not the one its tensors name")
        if manifest.requires != features(manifest.tensors):
            raise ValueError("the manifest's features are not those its tensors use")
    return manifest, digest


def check_parts(path: Path, manifest: Manifest, parts: Mapping[str, Part]) -> None:
    """Raise FormatError unless the files hold exactly the parts that the manifest implies."""
    expected = {
        f"{name}:{suffix}": spec
        for name, entry in manifest.tensors.items()
        for suffix, spec in part_specs(entry).items()
    }
    odd = sorted(set(expected) ^ set(parts))
    if odd:
        where = "in the file but not in the manifest" if odd[0] in parts else "in the manifest but not in the file"
        raise FormatError(str(path / NAME), f"{odd[0]} is {where}")
    for name, spec in expected.items():
        found = parts[name].spec
        if (spec is None and (found.dtype != "U8" or len(found.shape) != 1)) or (spec is not None and found != spec):
            raise FormatError(name, f"is stored as {found}", expected=str(spec) if spec else "U8 (bytes,)")


def check_companions(path: Path, manifest: Manifest) -> None:
    """Raise FormatError for a companion file that leaves the directory, may not travel, or is not as long as it was."""
    for name, file in manifest.files.items():
        lexical = Path(name)
        if lexical.is_absolute() or ".." in lexical.parts or lexical.as_posix() != name or "\\" in name:
            raise FormatError(str(path), f"names the file {name!r}, which leaves the directory")
        if not may_travel(name):
            raise FormatError(str(path), f"names the file {name!r}, which no delta carries")
        if file.stored != "delta":
            continue
        stored = path / lexical
        if not stored.is_file() or stored.stat().st_size != file.bytes:
            raise FormatError(str(stored), "is missing or of another size", expected=f"{file.bytes:,} bytes")
