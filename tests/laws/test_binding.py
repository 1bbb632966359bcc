"""Laws of batches that others are added to, and of m samples a class: what they hold, length, ranks."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.data import BindingBatchSampler, ClassBalancedBatchSampler, EnlargedBatchSampler, MPerClassBatchSampler
from deltagram.errors import SettingError

ROTATE: list[Any] = [False, "epoch", "batch"]
LABELS = st.lists(st.integers(0, 4), min_size=12, max_size=40).filter(lambda found: len(set(found)) > 1)


@settings(deadline=None, max_examples=80)
@given(
    labels=LABELS, size=st.integers(10, 12), per_class=st.integers(1, 2), rotate=st.sampled_from(ROTATE),
    kind=st.sampled_from(["shuffled", "fixed"]), duplicates=st.sampled_from(["skip", "keep"]), drop_last=st.booleans(),
    seed=st.integers(0, 9), epoch=st.integers(0, 5),
)  # fmt: skip
def test_a_batch_is_its_part_of_the_data_and_the_bound_ones(
    labels: list[int],
    size: int,
    per_class: int,
    rotate: Any,
    kind: str,
    duplicates: Any,
    drop_last: bool,
    seed: int,
    epoch: int,
) -> None:
    sampler = BindingBatchSampler(
        labels,
        size,
        per_class=per_class,
        rotate=rotate,
        batches=kind,
        duplicates=duplicates,
        drop_last=drop_last,
        seed=seed,
    )
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert found == list(sampler)
    assert len(found) == len(sampler) == (len(labels) // size if drop_last else -(-len(labels) // size))
    counts = Counter(labels)
    wanted = {name: min(per_class, count) for name, count in counts.items()}
    some = sum(wanted.values())
    seen: set[int] = set()
    for batch in found:
        assert all(type(index) is int for index in batch)
        own, bound = batch[:-some], batch[-some:]
        assert Counter(labels[index] for index in bound) == wanted
        assert len(set(bound)) == some
        assert rotate == "batch" or bound == sampler.bound
        if duplicates == "skip":
            assert len(set(batch)) == len(batch)
            seen |= set(batch)
        else:
            assert len(own) == size or batch is found[-1]
            assert not seen & set(own)
            seen |= set(own)
    if not drop_last:
        assert seen == set(range(len(labels)))


def test_what_stays_and_what_changes() -> None:
    labels = np.repeat([0, 1, 2], [30, 6, 2])
    made = {}
    for kind in ("shuffled", "fixed"):
        for rotate in (False, "epoch", "batch"):
            sampler = BindingBatchSampler(labels, 8, batches=kind, rotate=rotate)  # type: ignore[arg-type]
            for epoch in (0, 1):
                sampler.set_epoch(epoch)
                found = list(sampler)
                made[kind, rotate, epoch] = found
    assert made["fixed", False, 0] == made["fixed", False, 1]
    assert made["shuffled", False, 0] != made["shuffled", False, 1]
    bound = {key: [batch[-3:] for batch in found] for key, found in made.items()}
    assert bound["shuffled", False, 0] == bound["shuffled", False, 1] == bound["fixed", False, 0]
    assert bound["fixed", "epoch", 0] != bound["fixed", "epoch", 1]
    assert len({tuple(three) for three in bound["fixed", "batch", 0]}) > 1
    assert BindingBatchSampler(labels, 8, seed=1).bound != BindingBatchSampler(labels, 8).bound


def test_rotation_goes_through_a_class_before_one_returns() -> None:
    labels = np.repeat([0, 1], [7, 4])
    sampler = BindingBatchSampler(labels, 4, per_class=2, rotate="epoch")
    first: Counter[int] = Counter()
    for epoch in range(14):
        sampler.set_epoch(epoch)
        first.update(sampler.bound)
    assert {first[i] for i in range(7)} == {4}
    assert {first[i] for i in range(7, 11)} == {7}


def test_fresh_examples_are_drawn_without_bias() -> None:
    labels = np.repeat([0, 1], [10, 3])
    sampler = BindingBatchSampler(labels, batches=[[0, 1]] * 6000, rotate="batch", duplicates="keep")
    drawn = np.array([batch[-2:] for batch in sampler])
    for place, members in ((0, range(10)), (1, range(10, 13))):
        found = np.bincount(drawn[:, place], minlength=13)[list(members)]
        share = 1 / len(members)
        assert found.sum() == 6000
        assert np.abs(found - 6000 * share).max() < 5 * np.sqrt(6000 * share * (1 - share))


@settings(deadline=None, max_examples=100)
@given(
    labels=LABELS, size=st.integers(5, 9), kind=st.sampled_from(["shuffled", "fixed", "given"]),
    rotate=st.sampled_from(ROTATE), replicas=st.integers(1, 4), drop_last=st.booleans(), epoch=st.integers(0, 3),
)  # fmt: skip
def test_ranks_are_the_parts_of_one_sequence(
    labels: list[int], size: int, kind: str, rotate: Any, replicas: int, drop_last: bool, epoch: int
) -> None:
    def make(**parts: int) -> list[Any]:
        inner: Any = ClassBalancedBatchSampler(labels, size) if kind == "given" else kind
        own = {} if kind == "given" else {"batch_size": size}
        made: list[Any] = [
            BindingBatchSampler(labels, **own, batches=inner, rotate=rotate, drop_last=drop_last, seed=3, **parts),
            EnlargedBatchSampler(labels, **own, batches=inner, extra=2, drop_last=drop_last, seed=3, **parts),
        ]
        for sampler in made:
            sampler.set_epoch(epoch)
        return made

    for at, whole in enumerate(map(list, make())):
        if drop_last and len(whole) < replicas:
            continue
        parts = [make(rank=rank, num_replicas=replicas)[at] for rank in range(replicas)]
        dealt = [list(part) for part in parts]
        each = len(whole) // replicas if drop_last else -(-len(whole) // replicas)
        assert [len(batches) for batches in dealt] == [len(part) for part in parts] == [each] * replicas
        mixed = [batch for turn in zip(*dealt, strict=True) for batch in turn]
        assert mixed[: len(whole)] == whole[: len(mixed)]


def test_a_sampler_inside_is_told_the_epoch_and_keeps_its_batches() -> None:
    labels = np.arange(40) % 4
    inner = MPerClassBatchSampler(labels, 8, per_class=4)
    sampler = BindingBatchSampler(labels, batches=inner, duplicates="keep")
    sampler.set_epoch(3)
    found = list(sampler)
    assert inner.epoch == 3
    assert [batch[:-4] for batch in found] == list(inner)
    assert len(sampler) == len(inner)


@settings(deadline=None, max_examples=100)
@given(labels=LABELS, size=st.integers(1, 8), extra=st.integers(1, 4), epoch=st.integers(0, 3))
def test_extra_samples_are_others_and_come_in_turn(labels: list[int], size: int, extra: int, epoch: int) -> None:
    sampler = EnlargedBatchSampler(labels, size, extra=extra)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler) == -(-len(labels) // size)
    for batch in found:
        assert len(set(batch)) == len(batch)
    assert sorted(index for batch in found for index in batch[:-extra]) == list(range(len(labels)))


@settings(deadline=None, max_examples=200)
@given(
    labels=LABELS, m=st.integers(1, 5), classes=st.integers(1, 5), batches=st.integers(1, 9) | st.none(),
    seed=st.integers(0, 9), epoch=st.integers(0, 3),
)  # fmt: skip
def test_m_of_each_class_and_different_where_there_are_as_many(
    labels: list[int], m: int, classes: int, batches: int | None, seed: int, epoch: int
) -> None:
    counts = Counter(labels)
    classes = min(classes, len(counts))
    sampler = MPerClassBatchSampler(labels, m * classes, per_class=m, num_batches=batches, seed=seed)
    sampler.set_epoch(epoch)
    found = list(sampler)
    assert len(found) == len(sampler) == (batches or -(-len(labels) // (m * classes)))
    turns: Counter[int] = Counter()
    for batch in found:
        there = Counter(labels[index] for index in batch)
        assert sorted(there.values()) == [m] * classes
        turns.update(there.keys())
        for name in there:
            times = Counter(index for index in batch if labels[index] == name)
            assert len(times) == min(m, counts[name])
            assert max(times.values()) - min(times.values()) <= 1
    assert max(turns.values()) - min(turns[name] for name in counts) <= 1


def test_m_per_class_goes_through_a_class_before_one_repeats() -> None:
    labels = np.repeat([0, 1], [12, 6])
    found = list(MPerClassBatchSampler(labels, 6, per_class=3, num_batches=8))
    total = Counter(index for batch in found for index in batch)
    assert {total[i] for i in range(12)} == {2}
    assert {total[i] for i in range(12, 18)} == {4}
    dealt = [
        list(MPerClassBatchSampler(labels, 6, per_class=3, num_batches=4, rank=rank, num_replicas=2)) for rank in (0, 1)
    ]
    assert [batch for pair in zip(*dealt, strict=True) for batch in pair] == found


def test_torch_takes_them_over_any_data_set() -> None:
    torch = pytest.importorskip("torch")
    labels = torch.arange(30) % 3
    inner = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(range(30)), 10, drop_last=False)
    for sampler in (
        BindingBatchSampler(labels, 6), BindingBatchSampler(labels, batches=inner), MPerClassBatchSampler(labels, 6),
        EnlargedBatchSampler(labels, batches=inner, extra=3),
    ):  # fmt: skip
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(30)), batch_sampler=sampler)
        assert [batch.tolist() for (batch,) in loader] == list(sampler)
        assert len(loader) == len(sampler)


def test_accelerate_deals_their_batches_and_tells_them_the_epoch() -> None:
    """Sizes differ, so there is no `batch_size`: accelerate deals all as they are, the first again to come out even."""
    torch = pytest.importorskip("torch")
    loaders = pytest.importorskip("accelerate.data_loader")

    def dealt(samples: int, epoch: int) -> tuple[list[Any], list[Any]]:
        parts = []
        for process in (0, 1):
            sampler = BindingBatchSampler(np.arange(samples) % 3, 6)
            loader = torch.utils.data.DataLoader(list(range(samples)), batch_sampler=sampler)
            shard = loaders.prepare_data_loader(loader, num_processes=2, process_index=process, put_on_device=False)
            shard.set_epoch(epoch)
            parts.append(list(shard.batch_sampler))
        sampler.set_epoch(epoch)
        return [batch for pair in zip(*parts, strict=True) for batch in pair], list(sampler)

    for epoch in (0, 1):
        found, expected = dealt(36, epoch)
        assert found == expected
        found, expected = dealt(30, epoch)
        assert found == [*expected, expected[0]]


def test_many_samples_and_classes() -> None:
    labels = np.random.default_rng(0).integers(0, 10_000, 200_000)
    labels[:10_000] = np.arange(10_000)
    for sampler in (BindingBatchSampler(labels, 10_000), BindingBatchSampler(labels, 10_000, rotate="batch")):
        for batch in sampler:
            assert len(batch) <= 20_000
            assert np.array_equal(labels[batch[-10_000:]], np.arange(10_000))


Y = [0, 0, 1, 1, 2]
OR = "expected shuffled or fixed or a batch sampler that has a length"
BINDING: list[tuple[dict[str, Any], str]] = [
    (
        {"batch_size": 2},
        "batch_size: is 2, expected at least 3, the examples to bind to each batch; "
        "take larger batches, or bind fewer by `examples`",
    ),
    (
        {"batch_size": None, "batches": MPerClassBatchSampler(Y, 2)},
        "batch_size: is 2, expected at least 3, the examples to bind to each batch; "
        "take larger batches, or bind fewer by `examples`",
    ),
    ({"per_class": 0}, "per_class: is 0, expected 1 or more"),
    ({"batch_size": 0}, "batch_size: is 0, expected 1 or more"),
    ({"batch_size": None}, "batch_size: is not given, expected the samples of a batch"),
    ({"rotate": "step"}, "rotate: 'step' is unknown, expected False, epoch or batch"),
    ({"rotate": "epoch", "examples": [0]}, "rotate: is epoch, and the examples are given, expected False"),
    ({"duplicates": "drop"}, "duplicates: 'drop' is unknown, expected skip or keep"),
    ({"examples": [5]}, "examples: holds sample 5, expected 0 to 4"),
    ({"examples": []}, "examples: has no samples, expected indices of samples, one or more"),
    ({"batches": "random"}, f"batches: 'random' is unknown, {OR}"),
    ({"batches": iter([[0]])}, f"batches: are of type list_iterator, {OR}"),
    ({"batches": [[0]]}, "batch_size: is 3, and the batches given have sizes of their own, expected None"),
    ({"batch_size": None, "batches": []}, "batches: are none, expected one or more"),
    ({"rank": 2, "num_replicas": 2}, "rank: is 2, expected 0 to 1"),
    ({"rank": -1}, "rank: is -1, expected 0 to 0"),
    ({"num_replicas": 0}, "num_replicas: is 0, expected 1 or more"),
    (
        {"num_replicas": 2, "drop_last": True},
        "drop_last: leaves none of 1 batches for each of 2 processes, expected 1 or more; "
        "take smaller batches, or keep the last",
    ),
    ({"labels": [1, 1]}, "labels: are all 1, expected 2 classes or more"),
    ({"labels": [0, np.nan]}, "labels: are of shape (2,) and type float64, expected one whole number a sample"),
    ({"labels": [0, -1]}, "labels: sample 1 has label -1, expected 0 or more"),
]
ENLARGED: list[tuple[dict[str, Any], str]] = [
    ({"extra": 0}, "extra: is 0, expected 1 or more"),
    ({"extra": 3}, "extra: is 3, and with a batch of 3 more than the 5 samples there are, expected at most 2"),
    ({"labels": [0.5]}, "labels: are of shape (1,) and type float64, expected one whole number a sample"),
]
M_PER_CLASS: list[tuple[dict[str, Any], str]] = [
    ({"per_class": 2}, "batch_size: is 3, expected a multiple of per_class, 2"),
    (
        {"batch_size": 8, "per_class": 2},
        "batch_size: 8 holds 4 classes of 2, expected at most the 3 there are; raise per_class or take smaller batches",
    ),
    ({"per_class": 0}, "per_class: is 0, expected 1 or more"),
    ({"rank": 1, "per_class": 1}, "rank: is 1, expected 0 to 0"),
    ({"labels": [1, 1]}, "labels: are all 1, expected 2 classes or more"),
]


@pytest.mark.parametrize(("given", "said"), BINDING, ids=[said for _, said in BINDING])
def test_what_cannot_be_bound_is_refused(given: dict[str, Any], said: str) -> None:
    check_refused(BindingBatchSampler, given, said)


@pytest.mark.parametrize(("given", "said"), ENLARGED, ids=[said for _, said in ENLARGED])
def test_what_cannot_be_enlarged_is_refused(given: dict[str, Any], said: str) -> None:
    check_refused(EnlargedBatchSampler, {"extra": 1} | given, said)


@pytest.mark.parametrize(("given", "said"), M_PER_CLASS, ids=[said for _, said in M_PER_CLASS])
def test_what_has_no_m_samples_a_class_is_refused(given: dict[str, Any], said: str) -> None:
    check_refused(MPerClassBatchSampler, given, said)


def check_refused(sampler: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as fault:
        sampler(**{"labels": Y, "batch_size": 3} | given)
    assert str(fault.value) == said


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([[0, 1], [0, 9]], "a batch: holds sample 9, expected 0 to 4"),
        ([[0, 1], []], "a batch: has no samples, expected indices of samples, one or more"),
    ],
)
def test_batches_of_another_data_set_are_refused_when_they_come(batches: Any, said: str) -> None:
    for sampler in (BindingBatchSampler(Y, batches=batches), EnlargedBatchSampler(Y, batches=batches, extra=1)):
        with pytest.raises(SettingError) as fault:
            list(sampler)  # type: ignore[call-overload]
        assert str(fault.value) == said
