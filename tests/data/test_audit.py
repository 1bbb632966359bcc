"""The audit of batches: its graph against one written out, its verdicts against what minimisation does."""

import json
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.data import BindingBatchSampler, ClassBalancedBatchSampler, audit_batches, describe, epochs_of
from deltagram.errors import SettingError
from freeframes import bound, distance, loss_and_gradient, minimised, projected

LABEL = np.repeat([0, 1, 2, 3], [16, 16, 4, 4])
MEMBERS = [np.flatnonzero(c == LABEL).tolist() for c in range(4)]
EVEN, ODD = list(range(0, 40, 2)), list(range(1, 40, 2))
RANDOM = np.random.default_rng(0).permutation(40).reshape(4, 10).tolist()
HALVES_OF_0 = [[*MEMBERS[0][:8], *range(16, 40)], [*MEMBERS[0][8:], *range(16, 40)]]


def bind(batches: list[list[int]]) -> list[list[int]]:
    return list(BindingBatchSampler(LABEL, batches=batches, examples=[0, 16, 32, 36]))


# What, batches, dimension, verdict; "undecided" where the graph does not tell.
CASES: list[tuple[str, list[list[int]], int, str]] = [
    ("full batch", [list(range(40))], 12, "unique"),
    ("two fixed halves", [EVEN, ODD], 12, "not unique"),
    ("classes 0 and 3 never together", [[*range(36)], [*range(16, 40)]], 12, "not unique"),
    ("four random batches", RANDOM, 12, "not unique"),
    ("pure batches", MEMBERS, 12, "not unique"),
    ("two fixed halves, bound", bind([EVEN, ODD]), 12, "unique"),
    ("0 and 3 never together, bound", bind([[*range(36)], [*range(16, 40)]]), 12, "unique"),
    ("four random batches, bound", bind(RANDOM), 12, "unique"),
    ("pure batches, bound", bind(MEMBERS), 12, "unique"),
    ("0 and 3 meet one by one", [[*range(36)], [*range(16, 40)], [0, 36]], 12, "not unique"),
    ("0 and 3 meet two to one", [[*range(36)], [*range(16, 40)], [0, 1, 36]], 12, "unique"),
    ("one class in halves", HALVES_OF_0, 12, "not unique"),
    ("one class in halves, no room", HALVES_OF_0, 4, "unique"),
    ("all classes in halves, no room", [EVEN, ODD], 4, "not unique"),
    ("0 and 3 never together, no room", [[*range(36)], [*range(16, 40)]], 4, "not unique"),
    ("pure pair joins nothing", [[*range(15), *range(16, 40)], [0, 15]], 12, "not unique"),
]


@pytest.mark.parametrize(("batches", "dim", "verdict"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_verdicts_are_what_minimisation_does(batches: list[list[int]], dim: int, verdict: str) -> None:
    audit = audit_batches(batches, LABEL, dim=dim)
    assert audit.verdict == verdict
    found = minimised(LABEL, batches, dim=dim, within=1e-4 if batches is MEMBERS else 1e-12)
    if verdict == "unique":
        assert distance(found, LABEL) < 1e-6
    else:
        assert distance(found, LABEL) > 0.002  # a pair or a half that drifts; most are far off
        assert audit.repaired
        repaired = list(BindingBatchSampler(LABEL, batches=batches, examples=audit.bind))
        assert audit_batches(repaired, LABEL, dim=dim).verdict == "unique"


def test_a_pure_batch_ties_its_samples_where_two_of_them_are_tied() -> None:
    """Slowly, by the fourth power of their distance: a gap 1,000 times smaller is a distance 1,000^(1/4) smaller."""
    rest = [*range(16, 40)]
    for batches, verdict in (
        ([[0, 1, *rest], MEMBERS[0]], "unique"),
        ([[*range(13), *rest], [0, 13, 14, 15]], "not unique"),
    ):
        assert audit_batches(batches, LABEL, dim=12).verdict == verdict
        far, near = (distance(minimised(LABEL, batches, dim=12, within=gap), LABEL) for gap in (1e-3, 1e-6))
        assert (near < 1.1 * far / 1000**0.25) == (verdict == "unique")
        assert (near > 0.9 * far) == (verdict == "not unique")


def test_most_violations_are_far_from_the_frame() -> None:
    for what, batches, dim, verdict in CASES[1:4]:
        assert verdict == "not unique"
        assert distance(minimised(LABEL, batches, dim=dim), LABEL) > 0.05, what


def test_prototypes_make_any_batches_valid() -> None:
    for batches in ([EVEN, ODD], MEMBERS, RANDOM):
        assert audit_batches(batches, LABEL, dim=12, prototypes=True).verdict == "unique"
        found = minimised(LABEL, batches, dim=12, within=1e-10, prototypes=True)
        assert np.abs(found - np.eye(12)[LABEL]).max() < 1e-4  # not even a rotation is free


def test_binding_one_class_that_lacks_a_pair_is_enough() -> None:
    audit = audit_batches([[*range(36)], [*range(16, 40)]], LABEL, dim=12)
    assert (audit.missing_pairs, audit.missing, audit.bind, audit.repaired) == (1, ((0, 3),), (0,), True)
    assert distance(minimised(LABEL, [[*range(36)], [0, *range(16, 40)]], dim=12, within=1e-12), LABEL) < 1e-6


def test_the_reference_is_a_gradient_and_the_frame_attains_the_bound() -> None:
    rng = np.random.default_rng(0)
    batches = [list(range(0, 40, 3)), [0, 1, 16, 33, 0]]
    here, way = projected(rng.uniform(size=(40, 12))), rng.standard_normal((40, 12))
    rise = [loss_and_gradient(here + e * way, LABEL, batches)[0] for e in (1e-6, -1e-6)]
    assert (rise[0] - rise[1]) / 2e-6 == pytest.approx(
        (loss_and_gradient(here, LABEL, batches)[1] * way).sum(), rel=1e-6
    )
    assert loss_and_gradient(np.eye(12)[LABEL], LABEL, batches)[0] == pytest.approx(bound(LABEL, batches), rel=1e-14)


def slow(batches: list[list[int]], label: list[int], views: int) -> tuple[list[int], set[tuple[int, int]]]:
    """Components a class and pairs without an active edge, embedding by embedding."""
    parts = {i: {i} for batch in batches for i in batch}

    def join(i: int, j: int) -> bool:
        if parts[i] is parts[j]:
            return False
        parts[i] |= parts[j]
        for k in parts[j]:
            parts[k] = parts[i]
        return True

    missing = set(combinations(sorted(set(label)), 2))
    for _ in range(len(label)):
        for batch in batches:
            held = [i for i in batch for _ in range(views)]
            for a, i in enumerate(held):
                positives = [j for b, j in enumerate(held) if b != a and label[j] == label[i]]
                others = [j for j in held if label[j] != label[i]]
                if positives and others:
                    for j in positives:
                        join(i, j)
                    for j in others:
                        missing.discard((min(label[i], label[j]), max(label[i], label[j])))
                elif len(held) > 2 and not others and any(parts[b] is parts[c] for b, c in combinations(held, 2)):
                    for j in positives:
                        join(i, j)
    count = [len({id(parts[i]) for i in parts if label[i] == c}) for c in range(max(label) + 1)]
    return count, missing


@settings(deadline=None, max_examples=300)
@given(
    label=st.lists(st.integers(0, 3), min_size=2, max_size=9).filter(lambda found: len(set(found)) > 1),
    data=st.data(), views=st.integers(1, 3),
)  # fmt: skip
def test_the_graph_is_that_of_the_definition(label: list[int], data: Any, views: int) -> None:
    one = st.lists(st.integers(0, len(label) - 1), min_size=1, max_size=6)
    batches = data.draw(st.lists(one, min_size=1, max_size=6))
    audit = audit_batches(batches, label, views=views)
    count, missing = slow(batches, label, views)
    assert list(audit.components) == count
    assert set(audit.missing) == missing
    assert audit.missing_pairs == len(missing)
    assert audit.unseen == len(label) - len({i for batch in batches for i in batch})
    if audit.repaired:
        again = audit_batches(
            list(BindingBatchSampler(label, batches=batches, examples=audit.bind)), label, views=views
        )
        assert again.verdict == "unique"
    elif audit.repaired is False:
        assert views == 1
        assert sorted(np.bincount(label)[np.bincount(label) > 0])[1] == 1 or audit.unseen  # no two that could be tied


def test_many_classes_a_batch_are_linked_as_few_are() -> None:
    """More classes a batch than are written out pair by pair: the same graph by bits."""
    rng = np.random.default_rng(0)
    label = rng.permutation(np.arange(300) % 70)
    for views in (1, 2):
        batches = rng.permutation(300).reshape(10, 30)[:3].tolist()
        missing = slow(batches, label.tolist(), views)[1]
        audit = audit_batches(batches, label, views=views)
        assert audit.missing_pairs == len(missing)
        assert set(audit.missing) <= missing
        assert len(audit.missing) == 20


def test_what_decides_without_the_graph() -> None:
    halves = [EVEN, ODD]
    assert audit_batches(halves, LABEL, dim=12, prototypes=True).verdict == "unique"
    free = audit_batches(halves, LABEL, dim=12, features="free")
    assert (free.verdict, free.repaired) == ("undecided", True)
    assert "without a final ReLU" in free.reasons[0]
    assert audit_batches([list(range(40))], LABEL, dim=12, features="free", prototypes=True).verdict == "undecided"
    narrow = audit_batches([list(range(40))], LABEL, dim=3)
    assert (narrow.verdict, narrow.reasons) == ("undecided", ("4 classes have no orthogonal frame in 3 dimensions",))
    unknown = audit_batches(halves, LABEL)
    assert (unknown.verdict, unknown.reasons[1][:16]) == ("undecided", "dim is not given")
    assert audit_batches([[*range(36)], [*range(16, 40)]], LABEL).verdict == "not unique"  # in any dimension


def test_pure_batches_may_need_more_than_one_direction() -> None:
    """Three samples whose inner products are equal need two directions to part, where all of a class is so tied."""
    batches = [[0, *range(3, 9)], [1, *range(3, 9)], [2, *range(3, 9)], [0, 1, 2]]
    label = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert [audit_batches(batches, label, dim=dim).verdict for dim in (4, 5)] == ["undecided", "not unique"]
    other = np.eye(5)[[0, 3, 4, 1, 1, 1, 2, 2, 2]]
    assert loss_and_gradient(other, label, batches)[0] == pytest.approx(bound(label, batches), rel=1e-14)
    assert distance(minimised(label, batches, dim=4, within=1e-9), label) < 1e-3  # one direction is too few


def test_two_classes_of_one_sample_need_two_views() -> None:
    label, batches = [0, 0, 0, 1, 2], [[0, 1, 2, 3, 4]]
    audit = audit_batches(batches, label, dim=8)
    assert (audit.verdict, audit.bind, audit.repaired, audit.epochs_if_shuffled) == ("not unique", (), False, None)
    assert describe(audit)[-2:] == [
        "no binding repairs that: give each sample two views",
        "batches of this size drawn anew each epoch do so together never",
    ]
    assert audit_batches(batches, label, dim=8, views=2).verdict == "unique"
    assert audit_batches([[0, 1, 2, 3, 3, 4]], label, dim=8).verdict == "unique"  # a repeated sample is an anchor


def test_samples_and_classes_in_no_batch_are_told() -> None:
    audit = audit_batches([[0, 1, 3, 4]], [0, 0, 0, 1, 1, 5], classes=7, dim=9)
    assert audit.components == (1, 1, 0, 0, 0, 0, 0)
    assert (audit.verdict, audit.unseen, audit.classes, audit.missing_pairs) == ("not unique", 2, 3, 2)
    assert audit.reasons[1:] == (
        "1 classes are in no batch, class 5 the first",
        "2 samples are in no batch; components are those of the others",
    )
    assert (audit.bind, audit.repaired) == ((5,), True)


def test_epochs_of_a_sampler_grow_together_and_leave_it_as_it_was() -> None:
    label = np.repeat([0, 1, 2], [60, 40, 20])
    sampler = BindingBatchSampler(label, 12)
    sampler.set_epoch(7)
    assert audit_batches(epochs_of(sampler, 1), label, dim=8).verdict == "unique"
    assert sampler.epoch == 7
    balanced = ClassBalancedBatchSampler(label, 12)
    verdicts = [audit_batches(epochs_of(balanced, epochs), label, dim=8).verdict for epochs in (1, 6)]
    assert verdicts == ["not unique", "unique"]
    torch = pytest.importorskip("torch")
    theirs = torch.utils.data.BatchSampler(torch.utils.data.RandomSampler(range(120)), 12, drop_last=False)
    assert audit_batches(epochs_of(theirs, 6), torch.tensor(label), dim=8).batches == 60


def test_an_audit_is_json_and_reads_well() -> None:
    audit = audit_batches([EVEN, ODD], LABEL, dim=12)
    assert json.loads(json.dumps(asdict(audit)))["bind"] == [0, 16, 32, 36]
    assert describe(audit) == [
        "2 batches of 20, 40 samples of 4 classes",
        "the orthogonal frame as the only minimiser: not unique",
        "because 4 of 4 classes are not held together: class 0 falls into 2 components",
        "because dim 12 is above the 4 classes: components may take directions of their own",
        "binding 4 samples to each batch repairs that: 0, 16, 32, 36",
        "batches of this size drawn anew each epoch do so together after about 2.17 epochs",
    ]


REFUSED: list[tuple[Any, Any, dict[str, Any], str]] = [
    ([], [0, 1], {}, "batches: are none, expected one or more"),
    ([[0, 1], []], [0, 1], {}, "batch 1: has no samples, expected indices of samples, one or more"),
    ([[0, 2]], [0, 1], {}, "batch 0: holds sample 2, expected 0 to 1"),
    ([[0, -1]], [0, 1], {}, "batch 0: holds sample -1, expected 0 to 1"),
    ([[0, 0.5]], [0, 1], {}, "batch 0: has shape (2,) and type float64, expected indices of samples, one or more"),
    ([[0, 1]], [0, np.nan], {}, "labels: are of shape (2,) and type float64, expected one whole number a sample"),
    ([[0, 1]], [0, -1], {}, "labels: sample 1 has label -1, expected 0 or more"),
    ([[0, 1]], [0, 3], {"classes": 3}, "labels: sample 1 has label 3, expected 0 to 2"),
    ([[0, 1]], [2, 2], {}, "labels: are all 2, expected 2 classes or more"),
    ([[0, 1]], [0, 1], {"views": 0}, "views: is 0, expected 1 or more"),
    ([[0, 1]], [0, 1], {"dim": 0}, "dim: is 0, expected 1 or more"),
    ([[0, 1]], [0, 1], {"features": "softplus"}, "features: 'softplus' is unknown, expected relu or free"),
]


@pytest.mark.parametrize(("batches", "labels", "given", "said"), REFUSED, ids=[said for *_, said in REFUSED])
def test_what_cannot_be_audited_is_refused(batches: Any, labels: Any, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as fault:
        audit_batches(batches, labels, **given)
    assert str(fault.value) == said
