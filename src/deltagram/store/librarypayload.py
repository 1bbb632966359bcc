"""The files of a variant that a library keeps: which they are, their identity, and copying them."""

import os
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from blake3 import blake3

from deltagram.errors import LibraryError
from deltagram.store import scales
from deltagram.store.adapter_config import CONFIG, WEIGHTS
from deltagram.store.companions import ALLOWED, file_digest
from deltagram.store.deltafile import Delta
from deltagram.store.directory import INDEX, NAME
from deltagram.store.libraryentry import ENTRY, PayloadFile
from deltagram.store.parts import may_travel

_BLOCK: Final = 1 << 20
_FIX: Final = "bring it back from a copy, or add the variant again with --force"


def kind_of(folder: Path) -> str:
    """ "delta" or "adapter". Raises LibraryError for a directory that is neither."""
    if (folder / NAME).is_file() or (folder / INDEX).is_file():
        return "delta"
    if (folder / CONFIG).is_file():
        return "adapter"
    what = "is a file" if folder.is_file() else "there is no such directory"
    found = f"holds neither {NAME} nor {CONFIG}" if folder.is_dir() else what
    fix = "make a delta of a fine-tuned checkpoint: deltagram prune BASE TUNED DELTA"
    raise LibraryError(str(folder), found, expected="a delta or a PEFT adapter", fix=fix)


def delta_names(delta: Delta) -> tuple[str, ...]:
    """The files of a delta: tensors, scales, its index where it is sharded, and the companions it carries."""
    index = (INDEX,) if len(delta.files) > 2 or (delta.path / NAME) not in delta.files else ()
    carried = [name for name, file in delta.manifest.files.items() if file.stored == "delta"]
    return tuple(sorted({*(file.name for file in delta.files), scales.NAME, *index, *carried}))


def adapter_names(folder: Path) -> tuple[str, ...]:
    """The files of an adapter: its tensors, its configuration, and a tokenizer beside them."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    known = [name for name in found if any(fnmatchcase(name, pattern) for pattern in ALLOWED) and may_travel(name)]
    return tuple(sorted({WEIGHTS, CONFIG, *known}))


def identify(folder: Path, names: Sequence[str]) -> dict[str, PayloadFile]:
    """Digest and size of these files. Raises LibraryError for one that a link takes elsewhere, or that is none."""
    real = folder.resolve()
    found: dict[str, PayloadFile] = {}
    for name in names:
        if not _known(name):
            raise LibraryError(
                str(folder / name), "is of no kind that a library keeps",
                expected="tensors, configuration, tokenizer, license or code", fix="make the variant without it",
            )  # fmt: skip
        target = (folder / name).resolve()
        if not target.is_relative_to(real):
            raise LibraryError(
                str(folder / name), f"is a link to {target}, which lies outside of the variant",
                expected="a file of its own", fix="copy the directory with its links followed: cp -rL",
            )  # fmt: skip
        if not target.is_file():
            raise LibraryError(str(folder / name), "is no plain file", expected="a file")
        digest, size = file_digest(target)
        found[name] = PayloadFile(digest=digest, bytes=size)
    return found


def _known(name: str) -> bool:
    """Whether a file is one of those that make up a variant."""
    own = name in (NAME, INDEX, scales.NAME, WEIGHTS, CONFIG) or fnmatchcase(name, "delta-*-of-*.safetensors")
    carried = any(fnmatchcase(name, pattern) for pattern in ALLOWED) or name.endswith(".py")
    return name != ENTRY and (own or (carried and may_travel(name)))


def copy_files(folder: Path, files: Mapping[str, PayloadFile], out: Path, *, copied: Callable[[int], None]) -> None:
    """Copy files into `out`, hashing them on the way; `copied` gets the bytes of each block.

    Raises LibraryError where one is no longer what it was when it was identified.
    """
    for name, file in files.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        digest = blake3()
        with (folder / name).open("rb") as source, (out / name).open("xb") as target:
            while block := source.read(_BLOCK):
                digest.update(block)
                target.write(block)
                copied(len(block))
            target.flush()
            os.fsync(target.fileno())
        if digest.hexdigest() != file.digest:
            raise LibraryError(str(folder / name), "changed while it was copied", fix="add it again")


def check_files(place: Path, files: Mapping[str, PayloadFile], *, name: str) -> None:
    """Raise LibraryError unless a directory holds exactly these files of the variant `name`, to the last byte."""
    if place.is_symlink() or not place.is_dir():
        raise LibraryError(str(place), f"is missing, and the entry of {name} names it", fix=_FIX)
    folders = {parent.as_posix() for file in files for parent in Path(file).parents}
    for path in sorted(place.rglob("*")):
        inside = path.relative_to(place).as_posix()
        if path.is_symlink() or not (inside in files if path.is_file() else inside in folders):
            raise LibraryError(str(path), f"is no file of the variant {name}", fix="take it away")
    for file, said in files.items():
        _check_file(place / file, said)


def _check_file(path: Path, said: PayloadFile) -> None:
    if not path.is_file():
        raise LibraryError(str(path), "is missing", expected=f"{said.bytes:,} bytes", fix=_FIX)
    digest, size = file_digest(path)
    if size != said.bytes:
        raise LibraryError(str(path), f"has {size:,} bytes", expected=f"{said.bytes:,}", fix=_FIX)
    if digest != said.digest:
        raise LibraryError(str(path), f"has digest {digest[:16]}...", expected=f"{said.digest[:16]}...", fix=_FIX)
