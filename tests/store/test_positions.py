"""Coded positions: what is read is what was written, small enough, and no bytes do harm."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from math import lgamma, log
from typing import Literal
from unittest import mock

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deltagram.arrays import U64
from deltagram.delta.backend import using
from deltagram.store import positions as module
from deltagram.store.positions import BITMAP_SPAN, BLOCK, CodedPositions, PositionEncoder

Coding = dict[str, int | str]


def array(numbers: object) -> U64:
    return np.array(numbers, np.uint64)


def encode(positions: U64, size: int, *cuts: int) -> tuple[Coding, bytes]:
    encoder = PositionEncoder(size=size, keep=positions.size)
    for piece in np.split(positions, sorted(cuts)):
        encoder.add(piece)
    return encoder.finish()


def sample(size: int, keep: int, seed: int) -> U64:
    rng = np.random.default_rng(seed)
    return array(np.sort(rng.choice(size, keep, replace=False, shuffle=False)))


def motif(repeats: int) -> U64:
    """Thirty-five entries that a bitmap holds in five bytes, again and again."""
    rows = np.array([0, 1, 2, 4, 7, 8, 9, 11, 15, 16, 19, 20, 21, 23, 24, 25, 28, 30, 31, 33, 34])
    return array((np.arange(repeats)[:, None] * 35 + rows).ravel())


CASES: dict[str, tuple[str, int, U64]] = {
    "one of one": ("golomb", 1, array([0])),
    "last of many": ("golomb", 1 << 33, array([(1 << 33) - 1])),
    "few of 2^33": ("golomb", 1 << 33, sample(1 << 33, 40, 0)),
    "few of 2^47": ("golomb", 1 << 47, sample(1 << 47, 3, 0)),
    "first half of eight": ("golomb", 8, array(range(4))),
    "random": ("golomb", 5000, sample(5000, 50, 1)),
    "all": ("gaps", 9000, array(range(9000))),
    "all of some blocks": ("gaps", 3 * BLOCK, array(range(3 * BLOCK))),
    "a run in 2^33": ("gaps", 1 << 33, array(range(1 << 32, (1 << 32) + 2 * BLOCK + 5))),
    "at the end": ("gaps", 1 << 24, array(range((1 << 24) - 5000, 1 << 24))),
    "columns": ("gaps", 1 << 24, array(range(5, 1 << 24, 97))),
    "motif": ("bitmap", 35 * 300, motif(300)),
    "motif in blocks": ("bitmap", 35 * 8000 + 3, motif(8000)),
    "random blocks": ("bitmap", 1 << 19, sample(1 << 19, 200_000, 2)),
    "random Golomb blocks": ("golomb", 1 << 20, sample(1 << 20, 150_000, 3)),
}


@cache
def case(name: str) -> tuple[int, U64, Coding, bytes]:
    _, size, positions = CASES[name]
    return size, positions, *encode(positions, size)


SMALL = [name for name in CASES if len(case(name)[3]) < 250]  # of each coding


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["numba", "numpy"])
def test_round_trip(name: str, kind: Literal["numba", "numpy"]) -> None:
    expected, size, positions = CASES[name]
    with using(kind):
        coding, blob = encode(positions, size, positions.size // 3, positions.size // 3, positions.size // 2)
        coded = CodedPositions(memoryview(blob), size=size, keep=positions.size, coding=coding)
        assert np.array_equal(coded.positions(0, positions.size), positions)
    assert coding["coding"] == expected
    assert (coding, blob) == case(name)[2:]
    coded.positions(0, positions.size)[:] = 0  # what was read is the caller's own
    for first, last in ((0, 0), (0, 1), (BLOCK - 1, BLOCK + 1), (BLOCK, 2 * BLOCK), (positions.size,) * 2):
        if last <= positions.size:
            assert np.array_equal(coded.positions(first, last), positions[first:last])
    for entry in (0, int(positions[0]), int(positions[-1]), int(positions[-1]) + 1, size - 1, size):
        for near in (entry - 1, entry, entry + 1):
            assert coded.count_before(near) == np.searchsorted(positions, max(near, 0))


@contextmanager
def blocks_of(count: int) -> Iterator[None]:
    with mock.patch.object(module, "BLOCK", count), mock.patch.object(module, "BITMAP_SPAN", 8 * count):
        yield


@given(
    st.lists(st.booleans(), min_size=1, max_size=120).filter(any),
    st.sampled_from([1, 2, 5, 16]),
    st.lists(st.integers(0, 120), max_size=5),
)
@example([True] * 10, 5, [])
@example([False] * 100 + [True] * 6, 5, [])
@settings(deadline=None, max_examples=200)
def test_every_range_decodes_alone(mask: list[bool], block: int, cuts: list[int]) -> None:
    positions = np.flatnonzero(mask).astype(np.uint64)
    size, keep = len(mask), positions.size
    with blocks_of(block):
        coding, blob = encode(positions, size, *(min(cut, keep) for cut in cuts))
        assert (coding, blob) == encode(positions, size)
        for first in range(0, keep + 1, 3):
            for last in range(first, keep + 1, 3):
                coded = CodedPositions(blob, size=size, keep=keep, coding=coding)
                assert coded.positions(first, last).tolist() == positions[first:last].tolist()
        counts = [coded.count_before(entry) for entry in range(size + 1)]
        assert counts == np.cumsum([0, *mask]).tolist()


@given(st.lists(st.integers(0, (1 << 33) - 1), min_size=1, unique=True), st.sampled_from([3, BLOCK]))
@settings(deadline=None)
def test_any_few_of_many(entries: list[int], block: int) -> None:
    positions = array(sorted(entries))
    with blocks_of(block):
        coding, blob = encode(positions, 1 << 33)
        coded = CodedPositions(blob, size=1 << 33, keep=positions.size, coding=coding)
        assert np.array_equal(coded.positions(0, positions.size), positions)


def test_threads_share_one_reader() -> None:
    size, positions, coding, blob = case("random Golomb blocks")
    coded = CodedPositions(blob, size=size, keep=positions.size, coding=coding)

    def read(seed: int) -> bool:
        firsts = random.Random(seed).choices(range(positions.size - 10), k=40)
        return all(
            np.array_equal(coded.positions(first, first + 10), positions[first : first + 10])
            and coded.count_before(int(positions[first])) == first
            for first in firsts
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


def read_all(blob: bytes, size: int, keep: int, coding: Coding) -> U64 | str:
    """The positions, valid whatever the bytes, or the text of the ValueError."""
    try:
        coded = CodedPositions(blob, size=size, keep=keep, coding=coding)
        found = coded.positions(0, keep)
        counts = [coded.count_before(int(entry)) for entry in found[:: max(1, keep // 5)]]
    except ValueError as fault:
        return str(fault)
    assert found.size == keep
    assert int(found[-1]) < size
    assert (found[1:] > found[:-1]).all()
    assert counts == list(range(0, keep, max(1, keep // 5)))
    return found


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_is_refused(name: str) -> None:
    size, positions, coding, blob = case(name)
    for length in range(len(blob)):
        assert isinstance(read_all(blob[:length], size, positions.size, coding), str)
    assert all(isinstance(read_all(blob + more, size, positions.size, coding), str) for more in (b"\0", b"\xff", blob))


@pytest.mark.parametrize("name", SMALL)
def test_every_flipped_bit_is_refused_or_says_other_positions(name: str) -> None:
    size, positions, coding, blob = case(name)
    for bit in range(8 * len(blob)):
        flipped = bytearray(blob)
        flipped[bit // 8] ^= 1 << bit % 8
        found = read_all(bytes(flipped), size, positions.size, coding)
        if coding["coding"] == "golomb":  # the code has no idle bits; zstd frames have
            assert isinstance(found, str) or not np.array_equal(found, positions)


@given(
    st.binary(max_size=120),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([2, BLOCK]),
)
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_safe(blob: bytes, one: int, other: int, divisor: int, block: int) -> None:
    keep, size = sorted((one, other))
    with blocks_of(block):
        read_all(blob, size, keep, {"coding": "golomb", "divisor": min(divisor, size)})
        for coding in ("gaps", "bitmap"):
            read_all(blob, size, keep, {"coding": coding})
            content = blob[: module._Block(start=0, stop=size, count=keep).content(coding)]
            read_all(zstandard.compress(content, 1), size, keep, {"coding": coding})


@pytest.mark.parametrize(
    ("row", "field", "change", "text"),
    [
        (0, "end", lambda end: end + 1, "does not end"), (0, "end", lambda end: end - 1, "out of range"),
        (0, "end", lambda _: BLOCK - 1, "do not ascend"), (1, "end", lambda _: 2 * BLOCK, "do not ascend"),
        (1, "end", lambda _: (1 << 20) - 150_000 + 2 * BLOCK + 1, "do not ascend"),
        (1, "end", lambda _: (1 << 64) - 1, "do not ascend"), (1, "bytes", lambda size: size + 1, "bits follow"),
        (0, "bytes", lambda size: size - 1, "Golomb"), (1, "bytes", lambda _: (1 << 32) - 1, "are truncated"),
    ],
)  # fmt: skip
def test_damaged_tables_are_refused(row: int, field: str, change: Callable[[int], int], text: str) -> None:
    size, positions, coding, whole = case("random Golomb blocks")
    blob = bytearray(whole)
    table = np.frombuffer(blob, [("end", "<u8"), ("bytes", "<u4")], count=2)
    table[field][row] = change(int(table[field][row]))
    assert text in read_all(bytes(blob), size, positions.size, coding)


GAPS, BITMAP = {"coding": "gaps"}, {"coding": "bitmap"}
UNARY, PAIRS = {"coding": "golomb", "divisor": 1}, {"coding": "golomb", "divisor": 2}
WRAPS = b"".join(end.to_bytes(8, "little") + b"\1\0\0\0" for end in ((1 << 63) - 1, (1 << 64) - 2))
packed = zstandard.compress
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(b"\1\0")


@pytest.mark.parametrize(
    "coding",
    [
        {}, {"coding": "rice"}, {"coding": ["golomb"]}, {"coding": "gaps", "divisor": 1},
        {"coding": "golomb"}, {"coding": "golomb", "divisor": 0}, {"coding": "golomb", "divisor": 10},
        {"coding": "golomb", "divisor": True}, {"coding": "golomb", "divisor": "1"},
        {"coding": "golomb", "divisor": 1.0}, {"coding": "golomb", "divisor": 1, "more": 1},
    ],
)  # fmt: skip
def test_unknown_codings_are_refused(coding: Coding) -> None:
    with pytest.raises(ValueError, match="unknown coding"):
        CodedPositions(b"x", size=9, keep=1, coding=coding)


@pytest.mark.parametrize(
    ("size", "keep", "coding", "blob", "text"),
    [
        (0, 0, GAPS, b"x", "cannot keep 0 of 0"), (9, 0, GAPS, b"x", "cannot keep 0 of 9"),
        (9, 10, GAPS, b"x", "cannot keep 10 of 9"), (1 << 48, 1, GAPS, b"x", "cannot keep 1 of"),
        (9, 1, UNARY, b"", "truncated"), (9, 9, UNARY, b"\xff", "truncated"),
        (1 << 47, 1 << 47, UNARY, b"\xff" * 99, "truncated"),
        (1 << 17, 65_000, PAIRS, bytes(16_000), "^coded positions"), (9, 1, GAPS, b"no frame", "not a zstd frame"),
        (1 << 20, 150_000, UNARY, WRAPS + bytes(20_000), "do not ascend"),
        (9, 1, GAPS, packed(b"ab"), "wrong size"), (9, 1, GAPS, b"\x50\x2a\x4d\x18\x01\0\0\0\0", "damaged"),
        (9, 1, GAPS, packed(b"\x09"), "out of range"), (9, 1, BITMAP, packed(bytes(1 << 24)), "wrong size"),
        (9, 1, BITMAP, UNSIZED, "wrong size"), (9, 1, BITMAP, packed(b"\3\0"), "another number"),
        (9, 1, BITMAP, packed(b"\0\4"), "another number"), (9, 1, BITMAP, packed(b"\x80\1"), "another number"),
        (9, 1, BITMAP, packed(b"\1\0") + b"\0", "damaged"), (9, 1, BITMAP, packed(b"\1\0") * 2, "damaged"),
        (BITMAP_SPAN + 1, 1, BITMAP, packed(bytes(10)), "spans too many"),
    ],
)  # fmt: skip
def test_hostile_input_is_refused(size: int, keep: int, coding: Coding, blob: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CodedPositions(blob, size=size, keep=keep, coding=coding).positions(0, keep)


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 2), (0, 51)])
def test_ranges_outside_are_a_mistake_of_the_caller(first: int, last: int) -> None:
    size, _, coding, blob = case("random")
    with pytest.raises(IndexError):
        CodedPositions(blob, size=size, keep=50, coding=coding).positions(first, last)


@pytest.mark.parametrize("entries", [[3, 3, 4], [5, 4, 6], [1, 2, 10], [0, 1, (1 << 64) - 1], [1, 0, 5]])
def test_encoder_refuses_positions_that_do_not_ascend(entries: list[int]) -> None:
    for block in (1, 2, BLOCK):
        with blocks_of(block), pytest.raises(ValueError, match="ascend"):
            encode(array(entries), 10)


def test_encoder_refuses_another_number_of_positions() -> None:
    encoder = PositionEncoder(size=10, keep=3)
    encoder.add(array([1, 2]))
    with pytest.raises(ValueError, match="2 positions, not 3"):
        encoder.finish()
    with pytest.raises(ValueError, match="more than 3"):
        encoder.add(array([3, 4]))
    with pytest.raises(ValueError, match="cannot keep"):
        PositionEncoder(size=3, keep=4)


def bound(size: int, keep: int) -> float:
    """Bytes that tell one set of `keep` of `size` from the others: log2 C(size, keep) / 8."""
    return (lgamma(size + 1) - lgamma(keep + 1) - lgamma(size - keep + 1)) / log(2) / 8


@pytest.mark.parametrize(("bits", "rates"), [(16, 100), (20, 100), (24, 12)])
def test_random_positions_take_at_most_two_percent_over_the_bound(bits: int, rates: int) -> None:
    size = 1 << bits
    ratios = {}
    for rate in np.geomspace(0.001, 0.5, rates).tolist():
        keep = round(size * rate)
        coding, blob = encode(sample(size, keep, keep), size)
        ratios[rate] = len(blob) / bound(size, keep), coding["coding"]
    assert max(ratios.values())[0] <= 1.02, ratios
