"""Writing a delta's payload as one stream although its manifest is known last; shards past 5 GB."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from blake3 import blake3

from deltagram.arrays import Spec
from deltagram.store.digest import tensor_hasher
from deltagram.store.directory import COMPACT, FORMAT, INDEX, NAME, PLAIN, index_bytes, shard_name
from deltagram.store.header import framed, header_text
from deltagram.store.layout import SHARD_BYTES
from deltagram.store.manifest import manifest_digest, pack_manifest


@dataclass(frozen=True, kw_only=True)
class NewPart:
    """An array to be stored: its bytes come in pieces."""

    suffix: str
    spec: Spec
    pieces: Iterable[bytes | memoryview]


class DeltaWriter:
    """Appends parts to `folder`; headers are filled in by `finish`.

    `reserve` is how many bytes the header of the first file and of any further one may take.
    """

    def __init__(self, folder: Path, *, reserve: tuple[int, int], shard_bytes: int = SHARD_BYTES) -> None:
        self._folder, self._reserve, self._shard_bytes = folder, reserve, shard_bytes
        self._shards: list[dict[str, Spec]] = []
        self._reserved: list[int] = []
        self._file: IO[bytes] | None = None
        self._written = 0

    def add(self, name: str, parts: Iterable[NewPart]) -> str:
        """Append the parts of tensor `name`, in suffix order; returns the payload digest."""
        digest = blake3()
        for part in parts:
            file, full = self._open(part.spec.nbytes), f"{name}:{part.suffix}"
            hasher = tensor_hasher(full, part.spec)
            for piece in part.pieces:
                hasher.update(piece)
                file.write(piece)
            digest.update(hasher.digest())
            self._shards[-1][full] = part.spec
            self._written += part.spec.nbytes
        return digest.hexdigest()

    def _open(self, nbytes: int) -> IO[bytes]:
        if self._file is not None and self._written and self._written + nbytes > self._shard_bytes:
            self._file.close()
            self._file = None
        if self._file is None:
            reserve = self._reserve[1 if self._shards else 0]
            self._reserved.append(-(-reserve // 8) * 8)
            self._shards.append({})
            self._written = 0
            self._file = (self._folder / f"shard-{len(self._shards)}").open("wb")
            self._file.seek(8 + self._reserved[-1])
        return self._file

    def close(self) -> None:
        """Let go of the file (after a failure; `finish` does it otherwise)."""
        if self._file is not None:
            self._file.close()

    def finish(self, manifest: str, *, compact: bool = False) -> str:
        """Fill in the headers and give the files their names; returns the manifest's digest.

        `compact`: the manifest is compressed, and the first file's data are moved up to its shorter header.
        """
        self._open(0)
        self.close()
        digest = manifest_digest(manifest)
        count = len(self._shards)
        stored: dict[str, list[str]] = {}
        total = 0
        for number, specs in enumerate(self._shards, 1):
            name = NAME if count == 1 else shard_name(number, count)
            told = {COMPACT: pack_manifest(manifest)} if compact else {PLAIN: manifest}
            first = {**told, "digest": digest} if number == 1 else {}
            text = header_text(specs, {"format": FORMAT, **first})
            path = self._folder / f"shard-{number}"
            if compact and number == 1:
                _move_up(path, framed(text), reserved=self._reserved[0])
            else:
                with path.open("r+b") as file:
                    file.write(framed(text, length=self._reserved[number - 1]))
            path.rename(self._folder / name)
            total += (self._folder / name).stat().st_size
            stored[name] = list(specs)
        if count > 1:
            (self._folder / INDEX).write_bytes(index_bytes(stored, total))
        return digest


def _move_up(path: Path, header: bytes, *, reserved: int) -> None:
    """Put `header` and the data behind the reserved room together, in a new file of that name."""
    fresh = path.with_name(f"{path.name}-compact")
    with path.open("rb") as source, fresh.open("wb") as out:
        out.write(header)
        source.seek(8 + reserved)
        shutil.copyfileobj(source, out, 1 << 20)
    fresh.replace(path)


def sized(pieces: Mapping[str, tuple[Spec, Iterable[bytes | memoryview]]]) -> list[NewPart]:
    """Parts in suffix order."""
    return [NewPart(suffix=suffix, spec=spec, pieces=data) for suffix, (spec, data) in sorted(pieces.items())]
