"""Reading checkpoints: every tensor bit for bit as the safetensors library has it, and a reason for every refusal."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deltagram.arrays import DTYPES, Spec
from deltagram.errors import CheckpointError
from deltagram.store.checkpoint import INDEX, SINGLE, open_checkpoint
from deltagram.store.layout import lay_out, write_index

Tensors = Mapping[str, tuple[Spec, bytes]]
SHAPES = ((5, 8), (8,), (0, 4), (), (2, 0))


def entry(dtype: Any, shape: Any, start: Any, stop: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def framed(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ONE = framed({"a": entry("F32", [2], 0, 8)}, bytes(8))


def tensors(dtype: str) -> dict[str, tuple[Spec, bytes]]:
    """One tensor a shape with random bytes; sub-byte types only where they end at a byte."""
    rng = np.random.default_rng(7)
    specs = (Spec(dtype=dtype, shape=shape) for shape in SHAPES)
    kept = (spec for spec in specs if spec.size * DTYPES[dtype].width % 8 == 0)
    return {f"{dtype}.{number}": (spec, rng.bytes(spec.nbytes)) for number, spec in enumerate(kept)}


def write(folder: Path, content: Tensors, *, shard_bytes: int | None = None) -> Path:
    """A checkpoint as `deltagram restore` lays it out."""
    folder.mkdir(parents=True)
    shards = lay_out({name: spec for name, (spec, _) in content.items()}, shard_bytes=shard_bytes)
    for shard in shards:
        data = bytearray(shard.nbytes)
        data[: len(shard.header)] = shard.header
        for name, at in shard.offsets.items():
            data[at : at + content[name][0].nbytes] = content[name][1]
        (folder / shard.name).write_bytes(data)
    write_index(folder, shards)
    return folder


def read(path: Path) -> dict[str, tuple[Spec, bytes]]:
    opened = open_checkpoint(path)
    assert set(opened.specs) == set(opened.views)
    return {name: (spec, bytes(opened.views[name])) for name, spec in opened.specs.items()}


def as_library_reads(file: Path) -> dict[str, tuple[Spec, bytes]]:
    found = safetensors.deserialize(file.read_bytes())
    return {name: (Spec(dtype=t["dtype"], shape=tuple(t["shape"])), bytes(t["data"])) for name, t in found}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_read_as_the_library_reads_it(dtype: str, tmp_path: Path) -> None:
    content = tensors(dtype)
    folder = write(tmp_path / "model", content)
    assert read(folder) == content == as_library_reads(folder / SINGLE)
    opened = open_checkpoint(folder)
    for name, (spec, data) in content.items():
        assert opened.raw(name).tobytes() == data
        joined = b"".join(opened.bits(name, *span).tobytes() for span in opened.spans(name))
        assert joined == data
        if DTYPES[dtype].width >= 8:
            assert opened.bits(name, 1, 3).tobytes() == data[DTYPES[dtype].width // 8 :][: DTYPES[dtype].width // 4]
        assert spec.size == 0 or list(opened.spans(name))[-1][1] == spec.size


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool,
                                   torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])  # fmt: skip
def test_what_the_library_writes_is_read_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    made = {f"t{number}": torch.rand(shape).to(dtype) for number, shape in enumerate(SHAPES)} | {"odd": torch.ones(3)}
    safetensors.torch.save_file(made, tmp_path / "x.safetensors", {"format": "pt"})
    found = read(tmp_path / "x.safetensors")
    assert found == as_library_reads(tmp_path / "x.safetensors") == read(tmp_path)
    for name, tensor in made.items():
        assert found[name][1] == tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def test_tensors_that_an_odd_one_displaced_are_read_right(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype=np.float32)
    header = {"odd": entry("U8", [3], 0, 3), "f": entry("F32", [6], 3, 27), "d": entry("F64", [1], 27, 35)}
    text = json.dumps(header).encode().ljust(257)  # the data start at byte 265, which no word is aligned to
    path = tmp_path / "odd.safetensors"
    path.write_bytes(framed(text, b"abc" + numbers.tobytes() + np.float64(0.1).tobytes()))
    opened = open_checkpoint(path)
    for start, stop in ((0, 6), (2, 5), (5, 6), (3, 3)):
        assert opened.bits("f", start, stop).view(np.float32).tolist() == numbers[start:stop].tolist()
    assert opened.bits("d", 0, 1).view(np.float64)[0] == 0.1
    assert read(path) == as_library_reads(path)


def test_shards_are_one_checkpoint_with_the_digest_of_the_single_file(tmp_path: Path) -> None:
    content = {name: tensor for dtype in DTYPES for name, tensor in tensors(dtype).items()}
    single, sharded = write(tmp_path / "a", content), write(tmp_path / "b", content, shard_bytes=300)
    one, many = open_checkpoint(single), open_checkpoint(sharded)
    assert len(many.files) > 5
    assert read(sharded) == read(single) == content
    assert one.whole_digest() == many.whole_digest()
    assert {k: v for file in many.files for k, v in as_library_reads(file).items()} == content
    assert many.nbytes == sum(file.stat().st_size for file in sharded.glob("*.safetensors"))
    (first, (spec, data)) = next((n, t) for n, t in content.items() if t[1])
    other = open_checkpoint(write(tmp_path / "c", content | {first: (spec, bytes([data[0] ^ 1]) + data[1:])}))
    assert other.whole_digest() != one.whole_digest()
    assert [name for name in content if other.digest(name) != one.digest(name)] == [first]


def test_a_folder_of_links_as_in_the_hub_cache_is_read(tmp_path: Path) -> None:
    write(tmp_path / "blobs", tensors("BF16"), shard_bytes=50)
    (tmp_path / "snapshot").mkdir()
    for file in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(f"../blobs/{file.name}")
    assert read(tmp_path / "snapshot") == tensors("BF16")
    assert open_checkpoint(tmp_path / "snapshot").folder == tmp_path / "snapshot"
    assert open_checkpoint(tmp_path / "blobs" / "model-00001-of-00002.safetensors").folder is None


def test_of_a_single_file_and_an_index_the_one_is_read_that_transformers_reads(tmp_path: Path) -> None:
    write(tmp_path / "m", tensors("F32"))
    part = tmp_path / "m" / "part.safetensors"
    part.write_bytes(ONE)
    (tmp_path / "m" / INDEX).write_text('{"weight_map": {"a": "part.safetensors"}}')
    assert read(tmp_path / "m") == tensors("F32")


SURROGATE = b'{"\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}'
DAMAGED = {
    "empty file": (b"", "has 0 bytes"),
    "seven bytes": (bytes(7), "has 7 bytes"),
    "absurd header length": (framed(b"", length=1 << 60), "claims 1,152,921,504,606,846,976 bytes, the file has 8"),
    "header beyond the end": (framed(b"{}", length=3), "claims 3 bytes, the file has 10"),
    "not JSON": (framed(b"{"), "is not JSON"),
    "nested too deep": (framed(b"[" * 100_000), "is not JSON"),
    "a list": (framed([]), "is not a JSON object"),
    "not text": (framed(b'{"\xff": 1}'), "is not JSON"),
    "metadata of numbers": (framed({"__metadata__": {"a": 1}}), "__metadata__ does not map text to text"),
    "entry without offsets": (framed({"a": {"dtype": "F32", "shape": [1]}}), "a: the entry does not hold"),
    "truncated": (ONE[:-1], "the tensors end at byte"),
    "bytes after the end": (ONE + b"x", "the tensors end at byte"),
    "hole": (framed({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, bytes(3)), "b: the data start"),
    "overlap": (framed({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, bytes(3)), "a hole or an overlap"),
    "starts late": (framed({"a": entry("U8", [1], 1, 2)}, bytes(2)), "a: the data start"),
    "unknown dtype": (framed({"a": entry("Q4", [1], 0, 1)}, bytes(1)), "a: unknown dtype 'Q4'"),
    "dtype is a list": (framed({"a": entry(["F32"], [1], 0, 4)}, bytes(4)), "a: unknown dtype ['F32']"),
    "dtype is an object": (framed({"a": entry({}, [1], 0, 4)}, bytes(4)), "a: unknown dtype {}"),
    "offsets span too little": (framed({"a": entry("F32", [2], 0, 4)}, bytes(4)), "takes 8 bytes, its offsets span 4"),
    "offsets reversed": (framed({"a": entry("U8", [1], 1, 0)}, bytes(1)), "a: U8 (1,) takes 1 bytes"),
    "offsets negative": (framed({"a": entry("U8", [1], -1, 0)}, bytes(1)), "a: the offsets are not two sizes"),
    "offsets are floats": (framed({"a": entry("U8", [1], 0.0, 1.0)}, bytes(1)), "a: the offsets are not two sizes"),
    "shape negative": (framed({"a": entry("U8", [-1], 0, 1)}, bytes(1)), "a: the shape is not a list of sizes"),
    "shape of booleans": (framed({"a": entry("U8", [True], 0, 1)}, bytes(1)), "a: the shape is not a list of sizes"),
    "shape absurd": (framed({"a": entry("F32", [1 << 62, 1 << 62], 0, 4)}, bytes(4)), "its offsets span 4"),
    "sub-byte type in mid-byte": (framed({"a": entry("F4", [3], 0, 2)}, bytes(2)), "a: F4 (3,)"),
    "a name no text can hold": (framed(SURROGATE, bytes(1)), "\\ud800"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "Git LFS"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "says"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_refused_with_the_file_and_the_fault(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / SINGLE
    path.write_bytes(data)
    for place in (path, tmp_path):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(place)
        assert caught.value.where == str(path)
        assert says in caught.value.found
        assert caught.value.fix
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(data)


def test_a_name_given_twice_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / SINGLE).write_bytes(framed(b'{"x":{},"a":1,"a":2}'))
    with pytest.raises(CheckpointError, match="the header has the name 'a' twice"):
        open_checkpoint(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 1 << 70) | st.floats() | st.sampled_from([*DTYPES, "a", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=4,
)
ENTRY = st.builds(entry, st.sampled_from(sorted(DTYPES)) | JSON, st.lists(st.integers(0, 3), max_size=2) | JSON,
                  st.integers(0, 9) | JSON, st.integers(0, 9) | JSON)  # fmt: skip
HEADER = st.dictionaries(st.sampled_from(["a", "b", "__metadata__", "\x00", "é"]), ENTRY | JSON, max_size=3)


@settings(max_examples=300, deadline=None)
@example(header={"a": entry(["F32"], [1], 0, 4)}, data=bytes(4))
@given(header=HEADER, data=st.binary(max_size=9))
def test_no_header_does_harm(header: Any, data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(framed(header, data))
    try:
        found = read(path)
    except CheckpointError:
        return
    assert found == as_library_reads(path)


def test_pickles_are_refused_with_the_way_to_convert(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    for place, found in ((tmp_path / "pytorch_model.bin", "is a pickle"), (tmp_path, "(pytorch_model.bin)")):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(place)
        assert caught.value.where == str(place)
        assert found in caught.value.found
        assert "save_pretrained(..., safe_serialization=True)" in caught.value.fix
        assert "never opened" in caught.value.fix


INDEXES = {
    "not JSON": ("{", "is not an index", '{"weight_map": {name: file}}'),
    "no map": ('{"metadata": {}}', "is not an index", "weight_map"),
    "a map of numbers": ('{"weight_map": {"a": 1}}', "is not an index", "weight_map"),
    "a list": ('{"weight_map": ["a"]}', "is not an index", "weight_map"),
    "nested too deep": ("[" * 100_000, "is not an index", "weight_map"),
    "no tensor": ('{"weight_map": {}}', "lists no tensor", ""),
    "missing shard": ('{"weight_map": {"a": "s2.safetensors"}}', "lists the shard s2.safetensors, which is not", ""),
    "missing tensor": ('{"weight_map": {"a": "s.safetensors", "b": "s.safetensors"}}', "lists b, which its shard", ""),
    "outside": ('{"weight_map": {"a": "../x.safetensors"}}', "names the shard '../x.safetensors'", "beside the index"),
    "absolute": ('{"weight_map": {"a": "/etc/passwd"}}', "names the shard '/etc/passwd'", "beside the index"),
    "itself": ('{"weight_map": {"a": "."}}', "names the shard '.'", "beside the index"),
    "too long": (json.dumps({"weight_map": {"a": "x" * 300 + ".safetensors"}}), "which is not there", ""),
    "a pickle": ('{"weight_map": {"a": "s.bin"}}', "s.bin", "safetensors"),
}


@pytest.mark.parametrize(("text", "found", "expected"), INDEXES.values(), ids=INDEXES)
def test_an_index_that_does_not_hold_is_refused(text: str, found: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "x.safetensors").write_bytes(ONE)
    for name in ("s.safetensors", "s.bin"):
        (tmp_path / "m" / name).write_bytes(ONE)
    (tmp_path / "m" / INDEX).write_text(text)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "m")
    assert caught.value.where == str(tmp_path / "m" / INDEX)
    assert found in caught.value.found
    assert expected in caught.value.expected
    assert caught.value.expected or caught.value.fix


def test_tensors_the_index_does_not_list_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(framed({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 1, 2)}, b"xy"))
    (tmp_path / INDEX).write_text('{"weight_map": {"a": "s.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"s\.safetensors: holds b but the index does not list it there"):
        open_checkpoint(tmp_path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path)
        assert caught.value.expected or caught.value.fix
        return str(caught.value)

    assert "holds no checkpoint, expected model.safetensors" in refused(tmp_path)
    assert "there is no such file or directory" in refused(tmp_path / "nothing")
    assert "is not a file or directory" in refused(Path("/dev/null"))
    for name in ("delta.safetensors", "scales.safetensors"):
        (tmp_path / name).write_bytes(ONE)
    assert "is a delta, not a checkpoint" in refused(tmp_path)
    (tmp_path / "scales.safetensors").rename(tmp_path / "other.safetensors")
    (tmp_path / "delta.safetensors").rename(tmp_path / "one.safetensors")
    assert f"has 2 safetensors files (one.safetensors, other.safetensors) and no {INDEX}" in refused(tmp_path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / SINGLE).symlink_to("gone")
    assert "cannot be read (No such file or directory)" in refused(tmp_path / "links")
