"""base + delta directory -> checkpoint."""

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.arrays import Spec
from deltagram.delta import backend
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.companions import check_file, copy_into
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.layout import SHARD_BYTES, Shard, lay_out, write_index
from deltagram.store.rebuild import check_base_digest, check_base_headers, rebuild
from deltagram.store.staging import check_output, recover, staged, staged_file
from deltagram.threads import default_threads, ordered


def restore(
    base: Path | str,
    delta: Path | str,
    out: Path | str,
    *,
    force: bool = False,
    threads: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = SILENT,
) -> Record:
    """Write the fine-tuned checkpoint that `delta` and its `base` stand for.

    `out` is a directory that `from_pretrained` loads (shards of `shard_bytes` at most, with an index), or one
    file if its name ends in `.safetensors`. Each entry is round(float32(base) + value / divide_by), one
    rounding to the stored dtype. Every base tensor is verified on the way.

    Raises CheckpointError, FormatError, BaseError (naming the first tensor that differs) or OutputError; then
    nothing is written.
    """
    meter = Meter.start()
    base, delta, out = Path(base), Path(delta), Path(out)
    recover(out)
    lone = out.suffix == ".safetensors"
    check_output(out, force=force, inputs=(base, delta), lone=lone)
    opened, source = open_delta(delta), open_checkpoint(base)
    check_base_headers(opened, source)
    _check_companions(opened, source)
    compiled = backend.prepare(progress=progress)
    start_up = meter.numbers()["seconds"]
    specs = {name: tensor.spec for name, tensor in opened.manifest.tensors.items()}
    shards = lay_out(specs, shard_bytes=None if lone else shard_bytes)
    with (staged_file if lone else staged)(out, force=force, inputs=(base, delta)) as place:
        paths = [place] if lone else [place / shard.name for shard in shards]
        _write(opened, source, dict(zip(paths, shards, strict=True)), threads=threads, progress=progress)
        if not lone:
            write_index(place, shards)
            _copy_companions(opened, source, place)
    numbers = {
        **meter.numbers(), "start_up_seconds": start_up, "kernels": compiled, "delta_bytes": opened.nbytes,
        "restored_bytes": sum(shard.nbytes for shard in shards), "tensors": len(specs), "shards": len(shards),
    }  # fmt: skip
    settings: dict[str, Any] = {"base": str(base), "delta": str(delta), "out": str(out)}
    return Record(job="restore", settings=settings, seed=opened.manifest.seed, numbers=numbers)


def _write(
    delta: Delta, base: Checkpoint, shards: Mapping[Path, Shard], *, threads: int | None, progress: Progress
) -> None:
    """Rebuild tensors in parallel, each straight to its place in its file."""
    total, done = sum(shard.nbytes for shard in shards.values()), 0
    with ExitStack() as stack:
        places: dict[str, tuple[int, int]] = {}
        for path, shard in shards.items():
            file = stack.enter_context(path.open("wb"))
            file.write(shard.header)
            file.truncate(shard.nbytes)
            file.flush()
            places |= {name: (file.fileno(), offset) for name, offset in shard.offsets.items()}

        def one(name: str) -> Spec:
            fd, at = places[name]
            for block in rebuild(delta, name, base):
                view = block if isinstance(block, memoryview) else block.view(np.uint8).data
                while view:
                    written = os.pwrite(fd, view, at)
                    view, at = view[written:], at + written
            return delta.manifest.tensors[name].spec

        for spec in ordered(one, places, threads=threads or default_threads()):
            done += spec.nbytes
            progress.advance("restoring", done, total)
        for name in delta.manifest.dropped:
            check_base_digest(delta, base, name, base.digest(name), delta.manifest.dropped[name].digest)


def _check_companions(delta: Delta, base: Checkpoint) -> None:
    for name, file in delta.manifest.files.items():
        from_base = file.stored == "base"
        check_file((base.folder or base.path.parent) if from_base else delta.path, name, file, from_base=from_base)


def _copy_companions(delta: Delta, base: Checkpoint, out: Path) -> None:
    files = delta.manifest.files
    copy_into(delta.path, tuple(name for name, file in files.items() if file.stored == "delta"), out)
    copy_into(
        base.folder or base.path.parent, tuple(name for name, file in files.items() if file.stored == "base"), out
    )
