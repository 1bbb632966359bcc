"""A fine-tuned model as a folder that transformers loads, whatever form it has."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deltagram.errors import CheckpointError
from deltagram.store.adapter import Adapted, Tuned
from deltagram.store.checkpoint import Checkpoint
from deltagram.store.checkpointwriter import write_shards
from deltagram.store.companions import choose, copy_into
from deltagram.store.layout import SHARD_BYTES, lay_out, write_index


@contextmanager
def runnable(tuned: Tuned) -> Iterator[Path]:
    """Its own folder; for a LoRA adapter a temporary one, with base and adapter merged.

    Raises CheckpointError for a lone file, which has no config.
    """
    if isinstance(tuned, Checkpoint):
        if tuned.folder is None:
            found = "is a file without a config.json, and here the model has to run"
            raise CheckpointError(str(tuned.path), found, fix="give the fine-tuned model's folder")
        yield tuned.folder
        return
    with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
        _merge(tuned, Path(scratch))
        yield Path(scratch)


def _merge(adapted: Adapted, out: Path) -> None:
    shards = lay_out(adapted.specs, shard_bytes=SHARD_BYTES)
    write_shards(
        out, shards, adapted.specs, blocks=lambda name: [adapted.views[name]], threads=None, advance=lambda *_: None
    )
    write_index(out, shards)
    for folder in (adapted.base.folder, adapted.folder):
        if folder is not None:
            copy_into(folder, choose(None, folder, with_code=False).copied, out)
