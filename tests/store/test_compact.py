"""Compact deltas: the same delta with a compressed manifest; what is damaged or out of proportion is refused."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from checkpoints import write_checkpoint
from deltagram.errors import FormatError
from deltagram.jobs import inspect, prune, rescale, restore, verify
from deltagram.store.deltafile import open_delta
from deltagram.store.manifest import pack_manifest, unpack_manifest


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    base = {f"layer.{i}.weight": rng.standard_normal((40, 30)).astype(np.float32) for i in range(60)}
    tuned = {name: array + np.float32(0.01) * rng.standard_normal(array.shape) for name, array in base.items()}
    tuned = {name: array.astype(np.float32) for name, array in tuned.items()}
    return write_checkpoint(tmp_path / "base", base), write_checkpoint(tmp_path / "tuned", tuned)


def test_it_is_the_same_delta_in_fewer_bytes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = pair
    plain = prune(base, tuned, tmp_path / "plain", keep=0.05)
    small = prune(base, tuned, tmp_path / "small", keep=0.05, compact=True)
    assert small.numbers["delta_bytes"] < 0.65 * plain.numbers["delta_bytes"]
    first, second = open_delta(tmp_path / "plain"), open_delta(tmp_path / "small")
    assert (first.manifest, first.digest) == (second.manifest, second.digest)
    verify(tmp_path / "small", base=base)
    rescale(tmp_path / "small", divide_by=0.2)
    rescale(tmp_path / "plain", divide_by=0.2)
    for name in ("plain", "small"):
        restore(base, tmp_path / name, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "plain.safetensors").read_bytes() == (tmp_path / "small.safetensors").read_bytes()
    assert inspect(tmp_path / "plain").tensors == inspect(tmp_path / "small").tensors
    again = tmp_path / "again"
    prune(base, tuned, again, keep=0.05, compact=True, threads=1)
    prune(base, tuned, tmp_path / "once more", keep=0.05, compact=True)
    assert (again / "delta.safetensors").read_bytes() == (tmp_path / "once more" / "delta.safetensors").read_bytes()


def test_shards_are_compact_too(pair: tuple[Path, Path], tmp_path: Path) -> None:
    base, tuned = pair
    prune(base, tuned, tmp_path / "d", keep=0.5, compact=True, shard_bytes=20_000)
    assert len(list((tmp_path / "d").glob("delta-*.safetensors"))) > 2
    verify(tmp_path / "d", base=base)


def test_a_manifest_comes_back() -> None:
    text = json.dumps({"a": ["0" * 64] * 50})
    assert unpack_manifest(pack_manifest(text)) == text


FRAME = zstandard.ZstdCompressor(level=19).compress(b"x" * 1000)
BAD = {
    "nothing": "", "no base64": "???", "half": base64.b64encode(FRAME[:-3]).decode(),
    "more": base64.b64encode(FRAME + b"..").decode(), "no frame": base64.b64encode(b"hello hello hello").decode(),
    "grows": pack_manifest("0" * 10_000_000), "no text": base64.b64encode(
        zstandard.ZstdCompressor().compress(bytes(range(128, 256)))
    ).decode(),
    "no size": base64.b64encode(
        zstandard.ZstdCompressor(write_content_size=False).compress(b"abc" * 10)
    ).decode(),
}  # fmt: skip


@pytest.mark.parametrize("packed", BAD.values(), ids=BAD)
def test_what_is_no_packed_manifest_is_refused(packed: str) -> None:
    with pytest.raises(ValueError, match="the compressed manifest"):
        unpack_manifest(packed)


def header(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.mark.parametrize("packed", BAD.values(), ids=BAD)
def test_a_delta_with_it_is_damaged(packed: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    prune(*pair, tmp_path / "d", keep=0.05, compact=True)
    path = tmp_path / "d" / "delta.safetensors"
    told, data = header(path)
    told["__metadata__"]["deltagram_zstd"] = packed
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    with pytest.raises(FormatError, match="the compressed manifest"):
        open_delta(tmp_path / "d")
