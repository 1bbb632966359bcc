"""Compiled kernels and their NumPy twins give the same bits; conversions are those of NumPy and ml_dtypes."""

import inspect

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deltagram.arrays import DTYPES, F32, Bits
from deltagram.delta import backend, kernels

NUMPY = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F32": np.float32, "F64": np.float64}
FLOATS = ("F16", "BF16", "F32")
finite = hnp.arrays(
    np.float32, st.integers(0, 300), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)


def test_the_families_agree_in_names_and_arguments() -> None:
    for name in backend.FAMILIES:
        with backend.using("numpy"):
            plain = dict(inspect.getmembers(backend.family(name), inspect.isfunction))
        with backend.using("numba"):
            compiled = {key: f for key, f in vars(backend.family(name)).items() if hasattr(f, "py_func")}
        public = {key for key in compiled if not key.startswith("_")}
        assert public <= set(plain)
        for key in public:
            assert list(inspect.signature(compiled[key].py_func).parameters) == list(
                inspect.signature(plain[key]).parameters
            )


def test_this_machine_compiles() -> None:
    """The fallback is for others: here a kernel that does not compile is a defect."""
    assert backend.prepare() == "numba"


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_all_half_patterns_widen_as_numpy_does(dtype: str) -> None:
    patterns = np.arange(1 << 16, dtype=np.uint16)
    wide = patterns.view(NUMPY[dtype]).astype(np.float32)
    number = ~np.isnan(wide)
    zeros, everywhere = np.zeros(1 << 16, np.uint32), np.arange(1 << 16, dtype=np.uint64)
    found, *_ = kernels.survey(zeros, "F32", patterns, dtype, everywhere, 0)  # x - 0 is x, bit for bit
    assert np.array_equal(found[number].view(np.uint32), wide[number].view(np.uint32))
    assert np.isnan(found[~number]).all()


@pytest.mark.parametrize("target", FLOATS)
def test_random_floats_narrow_as_numpy_does(target: str) -> None:
    """Two million random float32 patterns, ties and subnormals among them, rounded to nearest-even."""
    rng = np.random.default_rng(5)
    patterns = rng.integers(0, 1 << 32, 2_000_000, dtype=np.uint64).astype(np.uint32)
    patterns[::3] &= np.uint32(0xFFFFE000)
    patterns[1::3] = (patterns[1::3] & np.uint32(0xFFFF0000)) | np.uint32(0x8000)
    patterns = patterns[(patterns & np.uint32(0x7F800000)) != np.uint32(0x7F800000)]
    positions = np.arange(patterns.size, dtype=np.uint64)
    out = np.zeros(patterns.size, DTYPES[target].bits)
    kernels.apply(patterns, "F32", out, target, positions, 0, np.full(patterns.size, -0.0, np.float32), np.ones(1), 1)
    with np.errstate(over="ignore"):
        expected = patterns.view(np.float32).astype(NUMPY[target]).view(out.dtype)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("base_dtype", [*FLOATS, "F64"])
@pytest.mark.parametrize("out_dtype", [*FLOATS, "F64"])
@given(finite, st.integers(1, 40), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_apply_is_the_written_arithmetic(
    base_dtype: str, out_dtype: str, drawn: F32, row: int, by_row: bool, seed: int
) -> None:
    """Both kernels equal the slow loop of docs/FORMAT.md, section 8."""
    with np.errstate(over="ignore"):
        base: Bits = drawn.astype(NUMPY[base_dtype]).view(DTYPES[base_dtype].bits)
    rng = np.random.default_rng(seed)
    positions = np.flatnonzero(rng.random(base.size) < 0.4).astype(np.uint64)
    values = (rng.standard_normal(positions.size) * 10.0 ** rng.integers(-8, 3)).astype(np.float32)
    divide_by = rng.uniform(0.001, 1, base.size // row + 1) if by_row else np.array([0.01])
    wide = np.float64 if "F64" in (base_dtype, out_dtype) else np.float32
    expected = np.zeros(base.size, DTYPES[out_dtype].bits)
    with np.errstate(over="ignore", invalid="ignore"):
        for k, p in enumerate(positions.astype(int)):
            q = wide(divide_by[p // row if by_row else 0])
            total = base[p : p + 1].view(NUMPY[base_dtype]).astype(wide) + wide(values[k]) / q
            expected[p] = total.astype(NUMPY[out_dtype]).view(expected.dtype)[0]
    origin = 1000 * row
    for kind in ("numba", "numpy"):
        out = np.zeros_like(expected)
        shifted = np.concatenate([np.zeros(1000), divide_by]) if by_row else divide_by
        with backend.using(kind):
            valid = kernels.apply(
                base, base_dtype, out, out_dtype, positions + np.uint64(origin), origin, values, shifted, row
            )
        assert np.array_equal(out, expected)
        assert valid == bool(np.isfinite(out[positions.astype(int)].view(NUMPY[out_dtype]).astype(wide)).all())


@pytest.mark.parametrize("dtype", [*FLOATS, "F64"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["numba", "numpy"])
def test_one_bad_entry_is_seen_anywhere(dtype: str, bad: float, kind: str) -> None:
    for size in (1, 33, 1000):
        values = np.linspace(-1, 1, size).astype(NUMPY[dtype])
        bits = values.view(DTYPES[dtype].bits)
        with backend.using(kind):  # type: ignore[arg-type]
            assert kernels.all_finite(bits, dtype)
            values[size // 2] = bad
            assert not kernels.all_finite(bits, dtype)
            assert kernels.all_finite(bits[:0], dtype)


@given(finite, st.integers(1, 8), st.sampled_from([16, 64]))
@settings(max_examples=150, deadline=None)
def test_quantising_kernels_agree(values: F32, bits: int, group: int) -> None:
    values = values * np.float32(1e-3)
    shrink = (1 - 0.05 * np.arange(16)).astype(np.float32)
    results = []
    for kind in ("numba", "numpy"):
        with backend.using(kind):
            fields, scales = kernels.quantise(values, bits=bits, group=group, shrink=shrink)
            packed = kernels.pack_bits(fields, bits=bits)
            assert np.array_equal(kernels.unpack_bits(packed, bits=bits, count=fields.size), fields)
            decoded = kernels.dequantise(fields, scales, bits=bits, group=group)
        results.append((fields.tobytes(), scales.tobytes(), packed.tobytes(), decoded.tobytes()))
    assert results[0] == results[1]


@given(hnp.arrays(np.uint8, st.integers(0, 200)), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_bit_fields_lie_as_written(fields: np.ndarray, bits: int) -> None:
    """Field i is bits i*b .. i*b+b-1 of the little-endian integer that the bytes are."""
    fields = fields & np.uint8((1 << bits) - 1)
    number = int.from_bytes(kernels.pack_bits(fields, bits=bits).tobytes(), "little")
    assert [number >> (i * bits) & ((1 << bits) - 1) for i in range(fields.size)] == fields.tolist()


@pytest.mark.parametrize("kind", ["numba", "numpy"])
def test_bad_codes_and_padding_are_refused(kind: str) -> None:
    with backend.using(kind):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="out of range"):
            kernels.dequantise(np.array([15], np.uint8), np.zeros(1, np.uint16), bits=4, group=64)
        with pytest.raises(ValueError, match="padding"):
            kernels.unpack_bits(np.array([0x10], np.uint8), bits=4, count=1)


@pytest.mark.parametrize("base_dtype", [*FLOATS, "F64"])
@pytest.mark.parametrize("tuned_dtype", [*FLOATS, "F64"])
@pytest.mark.parametrize("bad", [None, "base", "tuned"])
def test_surveys_find_faults_and_gather_differences(base_dtype: str, tuned_dtype: str, bad: str | None) -> None:
    """Against the slow definition, over several stretches of the compiled loop; the fault in the last entry."""
    rng = np.random.default_rng(3)
    size, origin = 40_000, 7_000
    base = rng.standard_normal(size).astype(NUMPY[base_dtype])
    tuned = rng.standard_normal(size).astype(NUMPY[tuned_dtype])
    if bad is not None:
        (base if bad == "base" else tuned)[-1] = np.inf
    positions = np.flatnonzero(rng.random(size - 1) < 0.05).astype(np.uint64)
    wide = np.float64 if "F64" in (base_dtype, tuned_dtype) else np.float32
    at = positions.astype(int)
    expected = (tuned[at].astype(wide) - base[at].astype(wide)).astype(np.float32)
    for kind in ("numba", "numpy"):
        with backend.using(kind):
            found, base_finite, tuned_finite = kernels.survey(
                base.view(DTYPES[base_dtype].bits),
                base_dtype,
                tuned.view(DTYPES[tuned_dtype].bits),
                tuned_dtype,
                positions + np.uint64(origin),
                origin,
            )
        assert np.array_equal(found, expected)
        assert bool(base_finite) == (bad != "base")
        assert bool(tuned_finite) == (bad != "tuned")


@pytest.mark.parametrize("kind", ["numba", "numpy"])
def test_an_exchange_with_a_surprise_changes_nothing(kind: str) -> None:
    bits = np.arange(1000, dtype=np.uint16)
    off, on = np.arange(0, 1000, 7, dtype=np.uint32), np.arange(3, 1000, 5, dtype=np.uint32)
    zeros = np.zeros(1000, np.uint16)
    with backend.using(kind):  # type: ignore[arg-type]
        for surprise, place in ((on[-1], on[-1]), (off[-1], off[-1])):
            expected_off, expected_on = bits[off], bits[on]
            expected_on[np.isin(on, off)] = 0  # taken off first
            (expected_on if surprise == on[-1] else expected_off)[-1] += 1
            found = kernels.exchange(bits, off, expected_off, zeros[off], on, expected_on, zeros[on])
            assert found == place
            assert np.array_equal(bits, np.arange(1000))


tied = hnp.arrays(np.float32, st.integers(1, 300), elements=st.sampled_from([0.0, -0.0, 1e-40, -1.0, 1.0, 2.5, -2.5]))
matrices = st.one_of(finite.filter(lambda drawn: drawn.size > 0), tied)


@given(matrices, st.integers(1, 12), st.integers(0, 40), st.integers(1, 7), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_scores_are_magnitude_times_norm(values: F32, cols: int, first: int, inner: int, seed: int) -> None:
    norms = np.random.default_rng(seed).random(cols, np.float32) * np.float32(3)
    with np.errstate(over="ignore", under="ignore"):
        expected = [abs(value) * norms[(first + i) // inner % cols] for i, value in enumerate(values)]
    for kind in ("numba", "numpy"):
        with backend.using(kind):
            found = kernels.weighted(values, norms, first=first, inner=inner)
        assert found.tobytes() == np.array(expected, np.float32).tobytes()


@given(matrices, st.integers(1, 20), st.data())
@settings(max_examples=150, deadline=None)
def test_each_row_keeps_its_largest_and_of_equals_the_first(drawn: F32, cols: int, data: st.DataObject) -> None:
    rows = max(1, drawn.size // cols)
    scores = np.resize(drawn, rows * cols)
    quota = np.array(data.draw(st.lists(st.integers(0, cols), min_size=rows, max_size=rows)), np.int64)
    expected = [
        700 + row * cols + j
        for row, keep in enumerate(quota)
        for j in sorted(sorted(range(cols), key=lambda j, r=row: (-abs(scores[r * cols + j]), j))[:keep])
    ]
    for kind in ("numba", "numpy"):
        with backend.using(kind):
            assert kernels.select_rows(scores, quota=quota, origin=700).tolist() == expected


@given(matrices, st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_squares_of_columns_add_up_row_by_row(drawn: F32, cols: int) -> None:
    matrix = np.resize(drawn, (max(1, drawn.size // cols), cols))
    expected = np.full(cols, 0.25)
    for row in matrix.astype(np.float64):
        expected = expected + row * row
    for kind in ("numba", "numpy"):
        total = np.full(cols, 0.25)
        with backend.using(kind):
            kernels.column_squares(matrix.ravel(), total)
        assert total.tobytes() == expected.tobytes()
