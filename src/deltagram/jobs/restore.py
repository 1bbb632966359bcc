"""base + delta directory -> checkpoint."""

from functools import partial
from pathlib import Path
from typing import Any

from deltagram.delta import backend
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.checkpointwriter import write_shards
from deltagram.store.companions import check_file, copy_into
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.layout import SHARD_BYTES, lay_out, write_index
from deltagram.store.rebuild import check_base_digest, check_base_headers, rebuild
from deltagram.store.staging import check_output, recover, staged, staged_file


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
        write_shards(
            place, shards, specs, blocks=partial(rebuild, opened, base=source), threads=threads,
            advance=partial(progress.advance, "restoring"),
        )  # fmt: skip
        for name, gone in opened.manifest.dropped.items():
            check_base_digest(opened, source, name, source.digest(name), gone.digest)
        if not lone:
            write_index(place, shards)
            _copy_companions(opened, source, place)
    numbers = {
        **meter.numbers(), "start_up_seconds": start_up, "kernels": compiled, "delta_bytes": opened.nbytes,
        "restored_bytes": sum(shard.nbytes for shard in shards), "tensors": len(specs), "shards": len(shards),
    }  # fmt: skip
    settings: dict[str, Any] = {"base": str(base), "delta": str(delta), "out": str(out)}
    return Record(job="restore", settings=settings, seed=opened.manifest.seed, numbers=numbers)


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
