"""What the small files of a library say: its base, and one entry a variant. docs/library.md has their fields."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from blake3 import blake3
from pydantic import Field, ValidationError

from deltagram.errors import LibraryError, SettingError
from deltagram.store.strict import Digest, Size, Strict

FORMAT: Final = "deltagram-library"
VERSION: Final = 1
ENTRY: Final = "variant.json"  # what an entry is called beside its payload, where it is published
RESERVED: Final = "base"  # under which the base itself answers
LONGEST: Final = 96
_NAME: Final = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{LONGEST - 1}}}")
_LARGEST: Final = 1 << 24  # bytes of an entry
_HEADER_BYTES: Final = 8  # of a length before a name

Data = TypeVar("Data", bound=Strict)
Number = Annotated[float, Field(allow_inf_nan=False)]


class PayloadFile(Strict):
    """One file of a payload."""

    digest: Digest
    bytes: Size


class Told(Strict):
    """What a variant's own files say of it, for people."""

    method: str
    keep: Number | None
    values: str
    divide_by: str
    tuned: str


class Entry(Told):
    """A variant of a library. `payload` is the digest of its files together, and the name of their directory."""

    version: Literal[1] = 1
    name: str
    kind: Literal["delta", "adapter"]
    payload: Digest
    bytes: Size
    files: Mapping[str, PayloadFile]
    added: str
    note: str
    quality: Mapping[str, Number]

    def text(self) -> str:
        """The file of the entry: canonical JSON that ends with its own digest."""
        return sealed(self.model_dump(mode="json"))


class LibraryBase(Strict):
    """The base that all variants share. `digest` is that of its tensors, as deltas record it.

    `name` is a Hub id, with `@revision` if one was given, or a path; in the file a relative path starts at the library.
    """

    name: str
    where: Literal["hub", "path"]
    digest: Digest
    tensors: Size
    bytes: Size

    def text(self) -> str:
        """The file `library.json`."""
        return sealed({"format": FORMAT, "version": VERSION, "base": self.model_dump(mode="json")})

    def seen_from(self, library: Path) -> "LibraryBase":
        """The same with a name that can be opened from the working directory."""
        if self.where == "hub" or Path(self.name).is_absolute():
            return self
        target = os.path.normpath(os.path.join(os.path.realpath(library), self.name))  # noqa: PTH118 - see below
        # Both are real, so `..` is lexical here; pathlib does not take it away.
        return self.model_copy(update={"name": target if library.is_absolute() else os.path.relpath(target)})


def check_name(name: str, *, where: str = "--name") -> str:
    """The name, if a variant may have it. Raises SettingError otherwise."""
    if name.lower() == RESERVED:
        raise SettingError(where, f"{name!r} is the base's own name", fix="choose another name")
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= LONGEST else name[:LONGEST] + "..."
        raise SettingError(
            where, f"{shown!r} cannot name a variant",
            expected=f"at most {LONGEST} letters, digits, '.', '_' and '-', the first no '.'",
        )  # fmt: skip
    return name


def folder_digest(files: Mapping[str, PayloadFile]) -> str:
    """Identity of a directory: blake3 over the lengths, names and digests of its files, sorted by name."""
    digest = blake3()
    for name in sorted(files, key=str.encode):
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(_HEADER_BYTES, "little") + encoded)
        digest.update(files[name].bytes.to_bytes(_HEADER_BYTES, "little") + bytes.fromhex(files[name].digest))
    return digest.hexdigest()


def sealed(content: Mapping[str, Any]) -> str:
    """JSON text of `content` with, as its last field, the digest of that text without it."""
    return json.dumps({**content, "digest": _digest(content)}, indent=1) + "\n"


def _digest(content: Mapping[str, Any]) -> str:
    return blake3(json.dumps(content, indent=1).encode()).hexdigest()


def read_base(data: bytes, *, where: str) -> LibraryBase:
    """The base that `library.json` names. Raises LibraryError for a file that is not exactly as it was written."""
    content = _unsealed(data, where=where)
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        found = f"is {content.get('format')!r} version {content.get('version')!r}"
        raise LibraryError(where, found, expected=f"{FORMAT!r} version {VERSION}", fix="install a newer deltagram")
    if set(content) != {"format", "version", "base"}:
        raise LibraryError(where, f"holds {', '.join(sorted(content))}", expected="format, version and base")
    return _parsed(LibraryBase, content["base"], where=where)


def read_entry(data: bytes, *, name: str, where: str) -> Entry:
    """The entry of the variant `name`. Raises LibraryError for one that is damaged, or is another's."""
    entry = _parsed(Entry, _unsealed(data, where=where), where=where)
    if not _NAME.fullmatch(name) or name.lower() == RESERVED:
        raise LibraryError(where, "is named as no variant can be", fix="take it away")
    if entry.name != name:
        raise LibraryError(where, f"is the entry of {entry.name!r}", expected=repr(name), fix=_again(name))
    if entry.payload != folder_digest(entry.files):
        raise LibraryError(where, "its payload is not the one its files make", fix=_again(name))
    total = sum(file.bytes for file in entry.files.values())
    if entry.bytes != total:
        raise LibraryError(where, f"says {entry.bytes:,} bytes", expected=f"{total:,}, those of its files")
    return entry


def _again(name: str) -> str:
    return f"remove {name} from the library and add it again"


def _unsealed(data: bytes, *, where: str) -> dict[str, Any]:
    fix = "the file is damaged: bring it back from a copy, or make it again"
    if len(data) > _LARGEST:
        raise LibraryError(where, f"has {len(data):,} bytes", expected=f"at most {_LARGEST:,}", fix=fix)
    try:
        content: Any = json.loads(data)
    except (ValueError, RecursionError):
        raise LibraryError(where, "is not JSON", expected="a file that deltagram library wrote", fix=fix) from None
    if not isinstance(content, dict) or "digest" not in content:
        raise LibraryError(where, "has no digest", expected="a file that deltagram library wrote", fix=fix)
    digest = content.pop("digest")
    if digest != _digest(content) or sealed(content).encode() != data:
        raise LibraryError(where, "does not match its digest", fix=fix)
    return content


def _parsed(kind: type[Data], content: Any, *, where: str) -> Data:
    try:
        return kind.model_validate(content)
    except ValidationError as fault:
        error = fault.errors(include_url=False, include_input=False)[0]
        found = f"{'.'.join(str(step) for step in error['loc'])}: {error['msg']}"
        raise LibraryError(where, found, fix="the file is of another version, or damaged") from None
