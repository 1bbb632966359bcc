"""Laws of every way of storing values, and of the reversible distances: round trips, ranges, bounds, damage."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deltagram.arrays import DTYPES, F32, Bits
from deltagram.delta.difference import distance, restore_distance
from deltagram.delta.values import VALUES, Codebook, Floats, Uniform, fit_codebook, histogram
from deltagram.store.codecs import ValueReader, ValueWriter
from deltagram.store.planes import PlaneReader, PlaneWriter, join, split

NUMPY = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
small = hnp.arrays(np.float32, st.integers(0, 400), elements=st.floats(-100, 100, width=32))


def encode(values: F32, name: str, *, pack: bool, step: int = 100_000) -> bytes:
    setting = VALUES[name]
    book = fit_codebook(histogram(values), setting) if isinstance(setting, Codebook) else None
    writer = ValueWriter(setting, pack=pack, book=book)
    for first in range(0, values.size, step):
        writer.add(values[first : first + step])
    spec, pieces = writer.finish()
    data = b"".join(pieces)
    assert len(data) == spec.nbytes
    return data


def reader(data: bytes, name: str, count: int, *, pack: bool) -> ValueReader:
    return ValueReader(memoryview(data), VALUES[name], pack=pack, count=count)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("name", VALUES)
@given(small, st.integers(1, 90))
@settings(max_examples=25, deadline=None)
def test_same_values_same_bytes_however_they_come(name: str, pack: bool, values: F32, step: int) -> None:
    assert encode(values, name, pack=pack) == encode(values, name, pack=pack, step=step)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("name", VALUES)
def test_any_range_over_many_blocks(name: str, pack: bool) -> None:
    values = (np.random.default_rng(1).standard_normal(150_001) * 1e-3).astype(np.float32)
    found = reader(encode(values, name, pack=pack), name, values.size, pack=pack)
    everything = found.values(0, values.size)
    for first, last in ((0, 1), (65_535, 65_537), (3, 140_000), (131_072, 150_001), (7, 7)):
        assert np.array_equal(found.values(first, last), everything[first:last])
    packed = reader(encode(values, name, pack=not pack), name, values.size, pack=not pack)
    assert np.array_equal(packed.values(0, values.size), everything)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("name", ["f32", "bf16", "f16"])
@given(small)
@settings(max_examples=60, deadline=None)
def test_floats_are_rounded_once(name: str, pack: bool, values: F32) -> None:
    setting = VALUES[name]
    assert isinstance(setting, Floats)
    expected = values.astype(NUMPY[setting.dtype]).astype(np.float32)
    found = reader(encode(values, name, pack=pack), name, values.size, pack=pack).values(0, values.size)
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("bits", range(2, 9))
@given(small)
@settings(max_examples=60, deadline=None)
def test_uniform_codes_are_no_worse_than_rounding_to_the_largest(bits: int, values: F32) -> None:
    """Squared error of each group is at most that of scale = largest / top, itself at most half a step an entry."""
    name = "sign" if bits == 1 else f"{bits}bit"
    setting = VALUES[name]
    assert isinstance(setting, Uniform)
    found = reader(encode(values, name, pack=False), name, values.size, pack=False).values(0, values.size)
    top = 2 ** (bits - 1) - 1
    for first in range(0, values.size, setting.group):
        group, decoded = values[first : first + setting.group], found[first : first + setting.group]
        step = float(np.abs(group).max()) / top
        rounding = 2**-8 * top  # the scale itself is a bfloat16: half a step grows by as much at the top code
        bound = group.size * (step * (0.5 + rounding)) ** 2
        assert float(((group - decoded).astype(np.float64) ** 2).sum()) <= bound * (1 + 1e-5) + 1e-70


@given(small)
@settings(max_examples=60, deadline=None)
def test_signs_keep_the_sign_and_the_mean_magnitude(values: F32) -> None:
    found = reader(encode(values, "sign", pack=False), "sign", values.size, pack=False).values(0, values.size)
    for first in range(0, values.size, 64):
        group, decoded = values[first : first + 64], found[first : first + 64]
        mean = float(np.abs(group).astype(np.float64).mean())
        assert np.allclose(np.abs(decoded), mean, rtol=2**-8, atol=2**-125)
        assert np.array_equal(np.signbit(decoded), group < 0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_fitted_codebook_comes_near_the_best_quantiser(bits: int) -> None:
    """Mean squared error on a Gaussian within 3 % of Max's optimum (IRE Trans. Inf. Theory 6, 1960, table 1)."""
    best = {2: 0.1175, 3: 0.03454, 4: 0.009497, 8: np.pi * np.sqrt(3) / 2 / 4**8}[bits]
    values = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    name = f"codebook{bits}"
    found = reader(encode(values, name, pack=True), name, values.size, pack=True).values(0, values.size)
    assert float(((found - values) ** 2).mean()) < best * (1.03 if bits < 8 else 1.15)


def test_packed_bf16_of_gaussian_values_is_small() -> None:
    values = (np.random.default_rng(0).standard_normal(300_000) * 1e-3).astype(np.float32)
    assert len(encode(values, "bf16", pack=True)) / values.size < 1.45


@pytest.mark.parametrize(("name", "value"), [("f16", 7e4), ("bf16", 3.4e38), ("2bit", 3.4028e38), ("sign", 3.4e38)])
def test_values_that_do_not_fit_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="too large"):
        encode(np.full(3, value, np.float32), name, pack=False)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("name", ["bf16", "4bit", "codebook4", "3bit"])
def test_truncated_or_longer_parts_are_refused(name: str, pack: bool) -> None:
    values = np.linspace(-1, 1, 1000).astype(np.float32)
    data = encode(values, name, pack=pack)
    for damaged in (data[:-1], data[: len(data) // 2], data + b"\0", b""):
        with pytest.raises(ValueError, match=r"\w"):
            reader(damaged, name, values.size, pack=pack).values(0, values.size)


words = st.sampled_from(["BF16", "F16", "F32", "F64", "I64", "U8", "BOOL"])


@given(words, st.integers(0, 2**32), st.integers(0, 300))
@settings(max_examples=150, deadline=None)
def test_distances_are_lossless_for_any_patterns(dtype: str, seed: int, size: int) -> None:
    """NaN payloads, -0 and infinities included: patterns are drawn uniformly."""
    rng = np.random.default_rng(seed)
    word = DTYPES[dtype].bits
    base, tuned = (np.frombuffer(rng.bytes(size * word.itemsize), word) for _ in range(2))
    floating = DTYPES[dtype].floating is not None
    found = restore_distance(base, distance(base, tuned, floating=floating), floating=floating)
    assert np.array_equal(found, tuned)


def test_distance_counts_representable_numbers() -> None:
    """One step up is 2, one step down is 1 (zigzag), across zero too; no change is 0."""
    ones = np.array([1.0, -1.0, 0.0, -0.0], np.float32)
    base = ones.view(np.uint32)
    up = np.nextafter(ones, np.float32(np.inf)).view(np.uint32)
    down = np.nextafter(ones, np.float32(-np.inf)).view(np.uint32)
    assert distance(base, base, floating=True).tolist() == [0, 0, 0, 0]
    assert distance(base, up, floating=True).tolist() == [2, 2, 2, 4]
    assert distance(base, down, floating=True).tolist() == [1, 1, 3, 1]


@given(st.lists(hnp.arrays(np.uint16, st.integers(1, 500)), max_size=4))
@settings(max_examples=60, deadline=None)
def test_plane_streams_round_trip(blocks: list[Bits]) -> None:
    writer = PlaneWriter()
    for block in blocks:
        writer.add(split(block))
    data = b"".join(writer.pieces())
    stream = PlaneReader(memoryview(data), blocks=len(blocks), planes=2)
    for index, block in enumerate(blocks):
        assert np.array_equal(join(stream.block(index, [block.size] * 2), np.dtype(np.uint16)), block)
