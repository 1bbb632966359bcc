"""Laws of the gap codings: what is read is what was written, both kernels agree, no bytes do harm."""

from itertools import accumulate, pairwise
from math import ceil, expm1, log, log1p
from typing import Literal

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deltagram.arrays import U64
from deltagram.delta import gaps as codec
from deltagram.delta.backend import using

KINDS: tuple[Literal["numba", "numpy"], ...] = ("numba", "numpy")
divisors = st.one_of(st.integers(1, 20), st.integers(1, 1 << 47))
gap_lists = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 300), st.integers(0, 1 << 40)), min_size=1)


def array(numbers: list[int]) -> U64:
    return np.array(numbers, np.uint64)


def positions_of(gaps: list[int], start: int = 0) -> list[int]:
    return [start - 1 + total for total in accumulate(gap + 1 for gap in gaps)]


def written_slowly(gaps: list[int], divisor: int) -> bytes:
    """A writer straight from the text of `deltagram.delta.gaps`."""
    width = divisor.bit_length() - 1
    short = 2 ** (width + 1) - divisor
    fixed, extra, unary = [], [], []
    for gap in gaps:
        quotient, remainder = divmod(gap, divisor)
        code = remainder
        if remainder >= short:
            code = (remainder + short) // 2
            extra.append((remainder + short) % 2)
        fixed += [code >> bit & 1 for bit in range(width)]
        unary += [0] * quotient + [1]
    bits = fixed + extra + unary
    return bytes(sum(bit << i for i, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8))


@given(gap_lists, divisors)
@example([0], 1)
@example([0] * 64, 1)
@example([(1 << 40) - 1], 1 << 40)
@settings(deadline=None)
def test_kernels_write_what_the_text_says_and_read_it(gaps: list[int], divisor: int) -> None:
    divisor = max(divisor, sum(gaps) // 5000 + 1)
    expected = written_slowly(gaps, divisor)
    stop = sum(gaps) + len(gaps) + 7
    for kind in KINDS:
        with using(kind):
            assert codec.golomb_encode(array(gaps), divisor) == expected
            found = codec.golomb_decode(expected, divisor=divisor, start=7, stop=stop, count=len(gaps))
        assert found.dtype == np.uint64
        assert found.tolist() == positions_of(gaps, 7)
        with using(kind), pytest.raises(ValueError, match="out of range"):
            codec.golomb_decode(expected, divisor=divisor, start=8, stop=stop, count=len(gaps))
        with using(kind), pytest.raises(ValueError, match="truncated"):
            codec.golomb_decode(expected[:-1], divisor=divisor, start=7, stop=stop, count=len(gaps))
        with using(kind), pytest.raises(ValueError, match="bits follow"):
            codec.golomb_decode(expected + b"\0", divisor=divisor, start=7, stop=stop, count=len(gaps))


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.4])
def test_kernels_agree_on_long_blocks(rate: float) -> None:
    gaps = np.random.default_rng(0).geometric(rate, 1 << 16).astype(np.uint64) - np.uint64(1)
    size = int(gaps.sum()) + gaps.size
    divisor = codec.golomb_divisor(size, gaps.size)
    streams, found = [], []
    for kind in KINDS:
        with using(kind):
            streams.append(codec.golomb_encode(gaps, divisor))
            found.append(codec.golomb_decode(streams[0], divisor=divisor, start=0, stop=size, count=gaps.size))
    assert streams[0] == streams[1]
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(np.diff(found[0]) - np.uint64(1), gaps[1:])


@given(st.binary(max_size=80), divisors, st.integers(1, 100), st.integers(0, 1 << 47), st.integers(0, 1 << 47))
@example(b"\xff" * 80, 1 << 47, 10, 0, 1 << 47)
@example(b"\0" * 79 + b"\x80", 1 << 46, 1, 0, 1 << 47)
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_safe(data: bytes, divisor: int, count: int, one: int, other: int) -> None:
    start, stop = sorted((one, other))
    results = []
    for kind in KINDS:
        with using(kind):
            try:
                found = codec.golomb_decode(data, divisor=divisor, start=start, stop=stop, count=count)
            except ValueError as fault:
                results.append(str(fault))
                continue
        inside = [start - 1, *found.tolist(), stop]
        assert all(before < after for before, after in pairwise(inside))
        with using(kind):  # no two streams say the same
            gaps = np.diff(found, prepend=found[:1])
            gaps[1:] -= np.uint64(1)
            gaps[0] = found[0] - np.uint64(start)
            assert codec.golomb_encode(gaps, divisor) == data
        results.append(repr(found.tolist()))
    assert results[0] == results[1]


def test_a_count_that_the_bytes_cannot_hold_allocates_nothing() -> None:
    with pytest.raises(ValueError, match="truncated"):
        codec.golomb_decode(b"\xff", divisor=1, start=0, stop=1 << 47, count=1 << 46)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quotient_that_wraps_is_out_of_range(kind: Literal["numba", "numpy"]) -> None:
    bit = 47 + (1 << 17)  # 2^17 times the divisor is 2^64
    data = bytes(bit // 8) + bytes([1 << bit % 8])
    with using(kind), pytest.raises(ValueError, match="out of range"):
        codec.golomb_decode(data, divisor=1 << 47, start=0, stop=1 << 47, count=1)


@pytest.mark.parametrize("rate", np.geomspace(1e-6, 0.99, 60).tolist())
def test_divisor_is_the_best_one(rate: float) -> None:
    size = 1 << 33
    keep = round(size * rate)
    rate = keep / size
    divisor = codec.golomb_divisor(size, keep)
    exact = ceil(log(2 - rate) / -log1p(-rate))
    assert abs(divisor - exact) <= max(1, exact * 1e-6)
    assert mean_bits(rate, divisor) <= mean_bits(rate, exact) * 1.0005


def mean_bits(rate: float, divisor: int) -> float:
    """Mean length of the code of a geometric gap."""
    width = divisor.bit_length() - 1
    short = (2 << width) - divisor
    first, whole = -expm1(short * log1p(-rate)), -expm1(divisor * log1p(-rate))
    return width + (1 + whole - first) / whole


def test_divisor_at_the_ends() -> None:
    assert codec.golomb_divisor(1, 1) == 1
    assert codec.golomb_divisor(10**6, 10**6) == 1
    assert codec.golomb_divisor(codec.MAX_SIZE, 1) <= codec.MAX_SIZE
    assert [codec.golomb_divisor(1000, keep) for keep in (1, 10, 50, 100, 250, 500)] == [693, 69, 14, 7, 2, 1]


@given(gap_lists)
@settings(deadline=None)
def test_planes_hold_any_gaps(gaps: list[int]) -> None:
    span = sum(gaps) + len(gaps)
    content = np.frombuffer(codec.to_planes(array(gaps), span=span), np.uint8)
    assert content.size == len(gaps) * codec.planes(span=span, count=len(gaps))
    found = codec.from_planes(content, start=3, stop=span + 3, count=len(gaps))
    assert found.tolist() == positions_of(gaps, 3)


@given(st.binary(min_size=12, max_size=12), st.integers(0, 1 << 40))
def test_planes_are_in_range_or_refused(data: bytes, start: int) -> None:
    stop = start + 30_000
    try:
        found = codec.from_planes(np.frombuffer(data, np.uint8), start=start, stop=stop, count=6).tolist()
    except ValueError:
        rows = np.frombuffer(data, np.uint8).reshape(2, 6).astype(int)
        assert (rows[0] + 256 * rows[1]).sum() > 30_000 - 6
    else:
        assert all(before < after for before, after in pairwise([start - 1, *found, stop]))


@given(st.lists(st.integers(0, 40), min_size=1), st.integers(0, 20))
def test_bitmaps_hold_any_gaps(gaps: list[int], rest: int) -> None:
    span = sum(gaps) + len(gaps) + rest
    content = np.frombuffer(codec.to_bitmap(array(gaps), span=span), np.uint8)
    assert content.size == ceil(span / 7)
    found = codec.from_bitmap(content, start=3, stop=span + 3, count=len(gaps))
    assert found.tolist() == positions_of(gaps, 3)
    for bad in (content | np.uint8(128), content & np.uint8(0)):
        with pytest.raises(ValueError, match="another number"):
            codec.from_bitmap(bad, start=3, stop=span + 3, count=len(gaps))
    if span % 7:
        bad = content.copy()
        bad[-1] |= 64
        with pytest.raises(ValueError, match="another number"):
            codec.from_bitmap(bad, start=3, stop=span + 3, count=len(gaps))
