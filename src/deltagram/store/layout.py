"""Where each tensor of a checkpoint to be written lies: one file, or shards with an index."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deltagram.arrays import DTYPES, Spec
from deltagram.store.checkpoint import INDEX, SINGLE
from deltagram.store.header import framed, header_text

SHARD_BYTES = 5_000_000_000  # of data a file, as the Hub likes it
METADATA = {"format": "pt"}  # what transformers asks of a file it loads


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file: its finished header, where each tensor starts in it, and its size."""

    name: str
    header: bytes
    offsets: Mapping[str, int]
    nbytes: int


def lay_out(specs: Mapping[str, Spec], *, shard_bytes: int | None) -> list[Shard]:
    """Distribute tensors over files of at most `shard_bytes` of data, one tensor at least in each."""
    groups: list[dict[str, Spec]] = [{}]
    used = 0
    for name, spec in specs.items():
        if shard_bytes is not None and groups[-1] and used + spec.nbytes > shard_bytes:
            groups.append({})
            used = 0
        groups[-1][name] = spec
        used += spec.nbytes
    count = len(groups)
    names = [SINGLE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    return [_shard(name, group) for name, group in zip(names, groups, strict=True)]


def _shard(name: str, specs: Mapping[str, Spec]) -> Shard:
    """Widest dtypes first, so that every tensor is aligned."""
    ordered = dict(sorted(specs.items(), key=lambda item: (-DTYPES[item[1].dtype].width, item[0])))
    header = framed(header_text(ordered, METADATA))
    offsets, at = {}, len(header)
    for tensor, spec in ordered.items():
        offsets[tensor] = at
        at += spec.nbytes
    return Shard(name=name, header=header, offsets=offsets, nbytes=at)


def write_index(folder: Path, shards: list[Shard]) -> None:
    """The index of a sharded checkpoint (nothing for a single file)."""
    if len(shards) == 1:
        return
    total = sum(shard.nbytes - len(shard.header) for shard in shards)
    weight_map = {name: shard.name for shard in shards for name in shard.offsets}
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}, indent=2)
    (folder / INDEX).write_text(text + "\n", "utf-8")
