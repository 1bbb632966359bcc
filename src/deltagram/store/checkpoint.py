"""A checkpoint as a lazy mapping from names to tensors over one or many memory-mapped safetensors files."""

import json
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from deltagram.arrays import DTYPES, U8, Bits, Spec
from deltagram.errors import CheckpointError
from deltagram.store.digest import tensor_hasher, whole_digest
from deltagram.store.header import read_header

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
BLOCK_BYTES: Final = 1 << 20
_CONVERT: Final = (
    "convert it first: load it with from_pretrained where you trust it, then save_pretrained(..., "
    "safe_serialization=True); pickles can run code and are never opened here"
)


def map_file(path: Path) -> memoryview:
    """The bytes of a file, mapped read-only (an empty file gives an empty view)."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Tensors by name. Nothing is read until it is asked for; nothing is ever written.

    `folder` is the directory with the companion files (config, tokenizer), or None for a lone file.
    """

    path: Path
    files: tuple[Path, ...]
    specs: Mapping[str, Spec]
    views: Mapping[str, memoryview]

    @property
    def folder(self) -> Path | None:
        """The directory that also holds config and tokenizer, if the checkpoint is one."""
        return self.path if self.path.is_dir() else None

    @property
    def title(self) -> str:
        """What to call it: a Hub id where it lies in the Hub's cache, else the last part of its path."""
        path = Path(os.path.abspath(self.path))  # noqa: PTH100 - links keep their names
        if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
            return path.parent.parent.name.removeprefix("models--").replace("--", "/")
        return path.name.encode("utf-8", "replace").decode()

    @property
    def nbytes(self) -> int:
        """Size of the tensor files together."""
        return sum(file.stat().st_size for file in self.files)

    def raw(self, name: str) -> U8:
        """All bytes of a tensor, mapped."""
        return np.frombuffer(self.views[name], np.uint8)

    def bits(self, name: str, start: int, stop: int) -> Bits:
        """Bit patterns of entries `start` to `stop - 1`, aligned (mapped where the file allows, else copied)."""
        word = DTYPES[self.specs[name].dtype].bits
        part = np.frombuffer(self.views[name][start * word.itemsize : stop * word.itemsize], np.uint8)
        if part.ctypes.data % word.itemsize:
            part = part.copy()
        patterns: Bits = part.view(word)
        return patterns

    def spans(self, name: str) -> Iterator[tuple[int, int]]:
        """Entry ranges of about one mebibyte each that cover a tensor in order."""
        spec = self.specs[name]
        step = BLOCK_BYTES // DTYPES[spec.dtype].bits.itemsize
        for start in range(0, spec.size, step):
            yield start, min(start + step, spec.size)

    def digest(self, name: str) -> str:
        """The identity of one tensor."""
        hasher = tensor_hasher(name, self.specs[name])
        hasher.update(self.views[name])
        return hasher.hexdigest()

    def whole_digest(self) -> str:
        """The identity of the checkpoint, independent of how it is sharded."""
        return whole_digest({name: self.digest(name) for name in self.specs})


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a `.safetensors` file or a directory in Hugging Face layout (single file or shards with an index).

    Raises CheckpointError, naming the file, for anything that is not exactly that; pickles are refused.
    """
    path = Path(path)
    files, listed = _find(path)
    specs: dict[str, Spec] = {}
    views: dict[str, memoryview] = {}
    for file in files:
        data = _map(file)
        try:
            header = read_header(data)
        except ValueError as fault:
            raise CheckpointError(str(file), str(fault), fix="download or save it again") from None
        for name, placed in header.tensors.items():
            if name in specs or (listed is not None and listed.get(name) != file.name):
                where = "twice" if name in specs else "but the index does not list it there"
                raise CheckpointError(str(file), f"holds {name} {where}", fix="save the checkpoint again")
            specs[name] = placed.spec
            views[name] = data[placed.start : placed.stop]
    missing = sorted(set(listed or ()) - set(specs))
    if missing:
        raise CheckpointError(
            str(path / INDEX), f"lists {missing[0]}, which its shard does not hold", fix="save the checkpoint again"
        )
    return Checkpoint(path=path, files=tuple(files), specs=specs, views=views)


def _map(file: Path) -> memoryview:
    try:
        return map_file(file)
    except OSError as fault:
        what = f"cannot be read ({fault.strerror})"
        raise CheckpointError(str(file), what, fix="check the path and its permissions") from None


def _find(path: Path) -> tuple[list[Path], dict[str, str] | None]:
    """The tensor files of a checkpoint and, if it is sharded, which file holds which tensor."""
    if path.is_file():
        if path.suffix in PICKLES:
            raise CheckpointError(str(path), "is a pickle", expected="a .safetensors file", fix=_CONVERT)
        return [path], None
    if not path.is_dir():
        what = "is not a file or directory" if path.exists() else "there is no such file or directory"
        raise CheckpointError(str(path), what, fix="give a model directory or a .safetensors file")
    if (path / SINGLE).exists() or (path / SINGLE).is_symlink():  # transformers, too, takes it where both are
        return [path / SINGLE], None
    if (path / INDEX).exists():
        return _index(path)
    if (path / "adapter_config.json").exists():
        fix = "give it to prune as TUNED, or merge it first: PeftModel.merge_and_unload(), then save_pretrained"
        raise CheckpointError(str(path), "is a PEFT adapter, not a checkpoint", fix=fix)
    if (path / "delta.safetensors").exists() and (path / "scales.safetensors").exists():
        raise CheckpointError(str(path), "is a delta, not a checkpoint", fix="restore it first")
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found, None
    if found:
        names = ", ".join(file.name for file in found[:3])
        raise CheckpointError(
            str(path), f"has {len(found)} safetensors files ({names}) and no {INDEX}",
            fix="name one file, or add the index",
        )  # fmt: skip
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise CheckpointError(
            str(path), f"holds only pickles ({pickles[0]})", expected=f"{SINGLE} or {INDEX}", fix=_CONVERT
        )
    raise CheckpointError(str(path), "holds no checkpoint", expected=f"{SINGLE} or {INDEX}")


def _index(path: Path) -> tuple[list[Path], dict[str, str]]:
    where = path / INDEX
    try:
        listed = json.loads(where.read_text("utf-8"))["weight_map"]
        valid = isinstance(listed, dict) and all(isinstance(file, str) for file in listed.values())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        valid = False
    if not valid:
        raise CheckpointError(str(where), "is not an index", expected='{"weight_map": {name: file}}')
    names = sorted(set(listed.values()))
    if not names:
        raise CheckpointError(str(where), "lists no tensor", fix="save the checkpoint again")
    for name in names:
        if Path(name).name != name or name in ("", ".", ".."):
            raise CheckpointError(str(where), f"names the shard {name!r}", expected="a file beside the index")
        if Path(name).suffix in PICKLES:
            raise CheckpointError(str(where), f"names the pickle {name}", expected=".safetensors files", fix=_CONVERT)
        if not os.path.isfile(path / name):  # noqa: PTH113 - says no, too, to a name no file can have
            raise CheckpointError(str(where), f"lists the shard {name}, which is not there", fix="download it again")
    return [path / name for name in names], listed
