"""Writing a checkpoint whose tensors come in blocks: in parallel, each straight to its place in its file."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from deltagram.arrays import Bits, Spec
from deltagram.store.layout import Shard
from deltagram.threads import default_threads, ordered

Blocks = Callable[[str], Iterable[Bits | memoryview]]


def write_shards(
    place: Path, shards: Sequence[Shard], specs: Mapping[str, Spec], *, blocks: Blocks, threads: int | None,
    advance: Callable[[int, int], None],
) -> None:  # fmt: skip
    """Write the tensors of `shards` into the directory `place`, or into that one file where it is not a directory.

    `blocks(name)` gives the bytes of a tensor in order; `advance(done, total)` hears of bytes.
    """
    paths = [place / shard.name for shard in shards] if place.is_dir() else [place]
    total, done = sum(shard.nbytes for shard in shards), 0
    with ExitStack() as stack:
        places: dict[str, tuple[int, int]] = {}
        for path, shard in zip(paths, shards, strict=True):
            file = stack.enter_context(path.open("wb"))
            file.write(shard.header)
            file.truncate(shard.nbytes)
            file.flush()
            places |= {name: (file.fileno(), offset) for name, offset in shard.offsets.items()}

        def one(name: str) -> int:
            fd, at = places[name]
            for block in blocks(name):
                view = block if isinstance(block, memoryview) else block.view(np.uint8).data
                while view:
                    written = os.pwrite(fd, view, at)
                    view, at = view[written:], at + written
            return specs[name].nbytes

        for nbytes in ordered(one, places, threads=threads or default_threads()):
            done += nbytes
            advance(done, total)
