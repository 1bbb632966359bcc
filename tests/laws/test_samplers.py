"""Laws of samplers: promised class counts, exact length, no order but (seed, epoch, rank), no bias among samples."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.data import ClassBalancedBatchSampler
from deltagram.errors import SettingError

LABELS = st.lists(st.integers(0, 6), min_size=2, max_size=60).filter(lambda found: len(set(found)) > 1)


@settings(deadline=None, max_examples=150)
@given(labels=LABELS, size=st.integers(1, 20), batches=st.integers(1, 25) | st.none(), seed=st.integers(0, 2**40))
def test_batches_are_balanced_and_as_many_as_promised(
    labels: list[int], size: int, batches: int | None, seed: int
) -> None:
    sampler = ClassBalancedBatchSampler(labels, size, num_batches=batches, seed=seed)
    found = list(sampler)
    assert len(found) == len(sampler) == (batches or -(-len(labels) // size))
    classes = sorted(set(labels))
    total: Counter[int] = Counter()
    for batch in found:
        assert len(batch) == size
        assert all(type(index) is int and 0 <= index < len(labels) for index in batch)
        there = Counter(labels[index] for index in batch)
        counts = [there[name] for name in classes]
        assert max(counts) - min(counts) <= 1
        total += there
        so_far = [total[name] for name in classes]
        assert max(so_far) - min(so_far) <= 1  # over batches, too


@settings(deadline=None)
@given(labels=LABELS, size=st.integers(1, 20), batches=st.integers(1, 25), seed=st.integers(0, 9))
def test_no_sample_repeats_before_all_of_its_class_were_there(
    labels: list[int], size: int, batches: int, seed: int
) -> None:
    there: Counter[int] = Counter()
    for batch in ClassBalancedBatchSampler(labels, size, num_batches=batches, seed=seed):
        there.update(batch)
    for name in set(labels):
        times = [there[index] for index, label in enumerate(labels) if label == name]
        assert max(times) - min(times) <= 1


@settings(deadline=None)
@given(
    labels=LABELS, size=st.integers(1, 12), batches=st.integers(1, 9), seed=st.integers(0, 9), epoch=st.integers(0, 9),
    replicas=st.integers(1, 4),
)  # fmt: skip
def test_ranks_are_the_parts_of_one_sequence(
    labels: list[int], size: int, batches: int, seed: int, epoch: int, replicas: int
) -> None:
    one = ClassBalancedBatchSampler(labels, size, num_batches=batches * replicas, seed=seed)
    one.set_epoch(epoch)
    dealt: list[Any] = [None] * (batches * replicas)
    for rank in range(replicas):
        mine = ClassBalancedBatchSampler(
            np.asarray(labels), size, num_batches=batches, seed=seed, rank=rank, num_replicas=replicas
        )
        mine.set_epoch(epoch)
        dealt[rank::replicas] = list(mine)
        assert len(mine) == batches
        assert list(mine) == dealt[rank::replicas]  # again the same
    assert dealt == list(one)


def test_epochs_and_seeds_differ_and_say_everything() -> None:
    labels = np.arange(300) % 7
    seen = []
    for seed in (0, 1):
        sampler = ClassBalancedBatchSampler(labels, 10, seed=seed)
        for epoch in (0, 1, 2):
            sampler.set_epoch(epoch)
            seen.append(list(sampler))
            again = ClassBalancedBatchSampler(labels, 10, seed=seed)
            again.set_epoch(epoch)
            assert list(again) == seen[-1]
    assert all(one != other for i, one in enumerate(seen) for other in seen[:i])


def test_samples_classes_and_places_are_drawn_without_bias() -> None:
    """Frequencies over many epochs within 5 sigma of uniform: first of a large class, extra class, first place."""
    labels = np.repeat(np.arange(5), [40, 9, 9, 9, 9])
    sampler = ClassBalancedBatchSampler(labels, 8, num_batches=3)
    epochs, large, extra, first = 3000, np.zeros(40), np.zeros(5), np.zeros(5)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        extra += np.bincount(labels[batches[1]], minlength=5) - 1
        first[labels[batches[2][0]]] += 1
        for batch in batches:
            large += np.bincount([index for index in batch if index < 40], minlength=40)
    draws = large.sum()
    assert np.abs(large - draws / 40).max() < 5 * np.sqrt(draws / 40)
    assert np.abs(extra - epochs * 3 / 5).max() < 5 * np.sqrt(epochs * 0.6 * 0.4)
    assert np.abs(first - epochs / 5).max() < 5 * np.sqrt(epochs * 0.2 * 0.8)


def test_torch_takes_it_in_any_number_of_workers() -> None:
    torch = pytest.importorskip("torch")
    labels = np.arange(30) % 3
    sampler = ClassBalancedBatchSampler(torch.tensor(labels), 6)
    loader = torch.utils.data.DataLoader(list(range(30)), batch_sampler=sampler)
    assert len(loader) == 5
    assert [batch.tolist() for batch in loader] == list(sampler)


def test_accelerate_deals_its_batches_and_tells_it_the_epoch() -> None:
    torch = pytest.importorskip("torch")
    loaders = pytest.importorskip("accelerate.data_loader")
    sampler = ClassBalancedBatchSampler(np.arange(40) % 4, 4)
    whole = torch.utils.data.DataLoader(list(range(40)), batch_sampler=sampler)
    for epoch in (0, 1):
        parts = []
        for process in (0, 1):
            loader = loaders.prepare_data_loader(whole, num_processes=2, process_index=process, put_on_device=False)
            loader.set_epoch(epoch)
            parts.append(list(loader.batch_sampler))
        sampler.set_epoch(epoch)
        assert [batch for pair in zip(*parts, strict=True) for batch in pair] == list(sampler)
    assert sampler.epoch == 1


def test_trainer_trains_on_its_batches(tmp_path: Any) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    labels = np.repeat([0, 1], [18, 6])
    data = [{"x": torch.tensor([float(i)]), "labels": torch.tensor(label)} for i, label in enumerate(labels)]
    seen: list[list[int]] = []

    class Watched(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 2)

        def forward(self, x: Any, labels: Any) -> dict[str, Any]:
            seen.append(x.flatten().long().tolist())
            return {"loss": torch.nn.functional.cross_entropy(self.layer(x / 24), labels)}

    class Balanced(transformers.Trainer):  # type: ignore[misc, name-defined]
        def get_train_dataloader(self) -> Any:
            sampler = ClassBalancedBatchSampler(labels, self.args.train_batch_size, seed=self.args.data_seed)
            loader = torch.utils.data.DataLoader(self.train_dataset, batch_sampler=sampler)
            return self.accelerator.prepare(loader)

    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_train_epochs=2, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, data_seed=3, remove_unused_columns=False,
    )  # fmt: skip
    Balanced(model=Watched(), args=settings, train_dataset=data).train()
    expected = []
    for epoch in (0, 1):
        sampler = ClassBalancedBatchSampler(labels, 4, seed=3)
        sampler.set_epoch(epoch)
        expected += list(sampler)
    assert seen == expected


def test_many_samples_and_classes() -> None:
    """10,000 classes of a power law, 10^5 samples: every batch has 256 different classes."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 10_001)
    labels = np.concatenate([np.arange(10_000), rng.choice(10_000, 90_000, p=share / share.sum())])
    sampler = ClassBalancedBatchSampler(labels, 256)
    total = np.zeros(10_000, int)
    for batch in sampler:
        classes = labels[batch]
        assert len(np.unique(classes)) == 256
        total[classes] += 1
    assert total.max() - total.min() == 1
    assert len(sampler) == 391


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    ([0, 1], {"batch_size": 0}, "batch_size: is 0, expected 1 or more"),
    ([0, 1], {"num_batches": 0}, "num_batches: is 0, expected 1 or more"),
    ([0, 1], {"num_replicas": 0}, "num_replicas: is 0, expected 1 or more"),
    ([0, 1], {"rank": 2, "num_replicas": 2}, "rank: is 2, expected 0 to 1"),
    ([0, -100], {}, "labels: sample 1 has label -100, expected 0 or more"),
    ([3, 3], {}, "labels: are all 3, expected 2 classes or more"),
    ([], {}, "labels: are of shape (0,) and type float64, expected one whole number a sample"),
    ([0.5, 1], {}, "labels: are of shape (2,) and type float64, expected one whole number a sample"),
]


@pytest.mark.parametrize(("labels", "given", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_what_cannot_be_balanced_is_refused(labels: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as fault:
        ClassBalancedBatchSampler(labels, **{"batch_size": 2, **given})
    assert str(fault.value) == said
