"""Laws of every mask: count, order, slices, independence of everything but (seed, name, index), and the mean."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deltagram import seeds
from deltagram.arrays import U64
from deltagram.delta import backend, masks
from deltagram.delta.masks import Bernoulli, Mask, Stratified
from deltagram.delta.methods import Columns, ColumnsWanda
from deltagram.delta.rescale import column_divisor
from deltagram.delta.submatrix import Submatrix, inside, random_columns
from deltagram.store.positions import CodedPositions, PositionEncoder
from deltagram.threads import ordered


def stratified(size: int, keep: int, key: int) -> Mask:
    return Stratified(size=size, keep=keep, key=key)


def bernoulli(size: int, keep: int, key: int) -> Mask:
    return Bernoulli.draw(size=size, key=key, threshold=round(keep / size * 2**32))


def coded(size: int, positions: U64) -> Mask:
    encoder = PositionEncoder(size=size, keep=positions.size)
    encoder.add(positions)
    coding, blob = encoder.finish()
    return CodedPositions(blob, size=size, keep=positions.size, coding=coding)


def listed(size: int, keep: int, key: int) -> Mask:
    chosen = np.random.default_rng(key).choice(size, keep, replace=False)
    return coded(size, np.sort(chosen).astype(np.uint64))


def columns(size: int, keep: int, key: int) -> Mask:
    """Random columns of a matrix of `size` entries, as near a square as can be, half of them and a mask inside."""
    rows = max(r for r in range(1, int(size**0.5) + 1) if size % r == 0)
    cols = size // rows
    count = max(1, -(-keep // rows), cols // 2)
    inside = stratified if key % 2 else bernoulli
    drawn = inside(rows * count, keep, key)
    assert isinstance(drawn, Stratified | Bernoulli)
    return Submatrix(rows=rows, cols=cols, columns=random_columns(key, cols, count=count), inside=drawn)


MASKS = {"stratified": stratified, "bernoulli": bernoulli, "listed": listed, "columns": columns}
Make = Callable[[int, int, int], Mask]


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, int, int]:
    size = draw(st.one_of(st.integers(1, 70), st.integers(1, 200_000)))
    return size, draw(st.integers(1, size)), draw(st.integers(0, 2**64 - 1))


@pytest.mark.parametrize("make", MASKS.values(), ids=MASKS)
@given(shapes(), st.data())
@settings(max_examples=60, deadline=None)
def test_every_range_decodes_alone(make: Make, shape: tuple[int, int, int], data: st.DataObject) -> None:
    mask = make(*shape)
    everything = mask.positions(0, mask.keep)
    assert everything.size == mask.keep
    assert mask.keep == 0 or int(everything[-1]) < mask.size
    assert np.all(np.diff(everything.astype(np.int64)) > 0)
    first = data.draw(st.integers(0, mask.keep))
    last = data.draw(st.integers(first, mask.keep))
    assert np.array_equal(mask.positions(first, last), everything[first:last])
    entry = data.draw(st.integers(0, mask.size))
    assert mask.count_before(entry) == int(np.searchsorted(everything, entry))
    cut = sorted(data.draw(st.lists(st.integers(0, mask.size), max_size=5)))
    edges = [0, *cut, mask.size]
    walked = [p for *_, p in masks.walk(mask, pairwise(edges))]
    assert np.array_equal(np.concatenate(walked), everything)


@pytest.mark.parametrize("keep", [0.001, 0.01, 0.1, 1.0])
def test_stratified_keeps_exactly_what_was_promised_one_a_stratum(keep: float) -> None:
    size = 99_991
    count = max(1, round(keep * size))
    positions = Stratified(size=size, keep=count, key=11).positions(0, count).astype(np.int64)
    starts = np.array([i * (size // count) + i * (size % count) // count for i in range(count + 1)])
    assert np.all((positions >= starts[:-1]) & (positions < starts[1:]))


@pytest.mark.parametrize("make", [stratified, bernoulli, columns])
def test_seeded_masks_depend_on_nothing_else(make: Make) -> None:
    """Order, threads and kernels change nothing; another seed or name changes nearly everything."""
    names = [f"layer.{i}.weight" for i in range(6)]

    def draw(name: str, seed: int = 3) -> bytes:
        mask = make(5000, 500, seeds.key(seed, name))
        return mask.positions(0, mask.keep).tobytes()

    alone = {name: draw(name) for name in names}
    assert dict(zip(names[::-1], ordered(draw, names[::-1], threads=4), strict=True)) == alone
    with backend.using("numpy"):
        assert {name: draw(name) for name in names} == alone
    assert len(set(alone.values())) == len(names)
    assert draw(names[0], seed=4) != alone[names[0]]


@pytest.mark.parametrize("make", [stratified, bernoulli])
@pytest.mark.parametrize("keep", [0.01, 0.1])
def test_random_masks_keep_the_mean(make: Make, keep: float) -> None:
    """The rescaled masked mean of fixed values stays within 5 sigma of the mean, over 40 keys."""
    size = 40_000
    values = np.random.default_rng(0).standard_normal(size)
    means = []
    for key in range(40):
        mask = make(size, round(keep * size), key)
        means.append(values[mask.positions(0, mask.keep).astype(np.int64)].sum() / keep / size)
    sigma = np.sqrt(np.sum(values**2) * (1 - keep) / keep) / size / np.sqrt(40)
    assert abs(np.mean(means) - values.mean()) < 5 * sigma


@pytest.mark.parametrize("make", [stratified, bernoulli, columns])
def test_every_position_is_equally_likely(make: Make) -> None:
    """Counts of each of 64 residue classes over many keys stay within 5 sigma of their mean."""
    size, keep, keys = 6400, 640, 200
    counts = np.zeros(64)
    for key in range(keys):
        mask = make(size, keep, key * 7919)
        counts += np.bincount(mask.positions(0, mask.keep).astype(np.int64) % 64, minlength=64)
    mean = counts.sum() / 64
    assert np.all(np.abs(counts - mean) < 5 * np.sqrt(mean))


def test_check_is_a_hash_of_all_positions() -> None:
    mask = Stratified(size=10**6, keep=70_000, key=5)
    assert masks.check(mask) == masks.check(coded(10**6, mask.positions(0, 70_000)))
    assert masks.check(mask) != masks.check(Stratified(size=10**6, keep=70_000, key=6))


@pytest.mark.parametrize(("size", "keep"), [(5, 0), (5, 6), (2**33, 1)])
def test_impossible_stratified_masks_are_refused(size: int, keep: int) -> None:
    with pytest.raises(ValueError, match="stratified"):
        Stratified(size=size, keep=keep, key=0)


def test_bernoulli_counts_are_checked_on_decoding() -> None:
    mask = Bernoulli.draw(size=100_000, key=1, threshold=2**31)
    wrong = Bernoulli(size=100_000, key=1, threshold=2**31, counts=(mask.counts[0] - 1, mask.counts[1] + 1))
    with pytest.raises(ValueError, match="its count says"):
        wrong.positions(0, 10)
    with pytest.raises(ValueError, match="one count for each"):
        Bernoulli(size=100_000, key=1, threshold=2**31, counts=mask.counts[:1])


def test_bernoulli_thresholds_at_the_ends() -> None:
    assert Bernoulli.draw(size=1000, key=1, threshold=0).keep == 0
    assert Bernoulli.draw(size=1000, key=1, threshold=2**32).keep == 1000


@given(st.integers(1, 300), st.integers(1, 300), st.floats(1e-6, 1), st.floats(1e-6, 1))
@example(rows=230, cols=230, keep=0.005, share=1.0)
@settings(max_examples=300, deadline=None)
def test_columns_have_room_for_what_is_kept(rows: int, cols: int, keep: float, share: float) -> None:
    """And no more of them than asked for, where that is room enough; in all as many entries as without columns."""
    found = inside(Columns(keep=keep, columns=share), (rows, cols))
    kept = max(1, round(keep * (rows * cols)))  # in this order: 264.5 is not 264.50000000000006
    assert (found.keep, found.entries) == (kept, rows * found.columns)
    assert 1 <= found.columns <= cols
    assert kept <= found.entries
    assert found.columns == max(1, round(share * cols)) or rows * (found.columns - 1) < kept
    assert (found.threshold is None) == (kept * 8 <= found.entries)
    assert found.share == pytest.approx(kept / found.entries, rel=2**-31 * found.entries / kept)


@pytest.mark.parametrize("keep", [0.01, 0.1])
def test_random_columns_keep_the_mean_and_chosen_columns_their_own(keep: float) -> None:
    """DARE's divisor over random columns, and the share inside for columns that were chosen: within 5 sigma."""
    shape, keys = (100, 400), 60
    matrix = np.random.default_rng(0).standard_normal(shape)
    own = np.arange(0, 400, 4, dtype=np.uint32)
    sums: dict[str, list[float]] = {"random": [], "own": []}
    for key in range(keys):
        for name, method in (
            ("random", Columns(keep=keep, columns=0.25)),
            ("own", ColumnsWanda(keep=keep, columns=0.25)),
        ):
            within = inside(method, shape)
            chosen = random_columns(key, 400, count=within.columns) if name == "random" else own
            mask = Submatrix(rows=100, cols=400, columns=chosen, inside=within.draw(key))
            kept = matrix.ravel()[mask.positions(0, mask.keep).astype(np.int64)]
            sums[name].append(kept.sum() / column_divisor(method, shape))
    for name, expected in (("random", matrix.sum()), ("own", matrix[:, own].sum())):
        sigma = np.std(sums[name]) / np.sqrt(keys)
        assert abs(np.mean(sums[name]) - expected) < 5 * sigma


@pytest.mark.parametrize("chosen", [[], [3, 3], [5, 2], [0, 10]])
def test_columns_that_cannot_be_are_refused(chosen: list[int]) -> None:
    drawn = Stratified(size=7 * max(1, len(chosen)), keep=1, key=0)
    with pytest.raises(ValueError, match="columns do not ascend below 10"):
        Submatrix(rows=7, cols=10, columns=np.array(chosen, np.uint32), inside=drawn)
    with pytest.raises(ValueError, match="a mask of 8 entries inside 7 x 1"):
        Submatrix(rows=7, cols=10, columns=np.array([4], np.uint32), inside=Stratified(size=8, keep=1, key=0))
