"""The sooner way is found from what batches took, and the other is still tried."""

from collections import Counter

import numpy as np
import pytest

from deltagram.serve.costs import Batch, Costs, Way


def taken(batch: Batch, way: Way, *, run: float, token: float, group: float, entry: float) -> float:
    """Seconds of an imagined machine."""
    tokens, groups = sum(batch.tokens), len(batch.tokens)
    if way == "swap":
        return groups * run + tokens * token + entry * sum(batch.entries)
    beside = sum(t * e for t, e in zip(batch.tokens, batch.entries, strict=True)) / 50
    return run + tokens * token + groups * group + entry * beside


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ({"run": 0.01, "token": 1e-4, "group": 1e-3, "entry": 1e-9}, "mixed"),  # a run costs much
        ({"run": 1e-4, "token": 1e-5, "group": 0.02, "entry": 1e-9}, "swap"),  # a group beside the base costs much
    ],
)
def test_the_sooner_way_is_found(machine: dict[str, float], expected: Way) -> None:
    rng = np.random.default_rng(0)
    costs, chosen = Costs(), Counter[Way]()
    for number in range(300):
        groups = int(rng.integers(2, 9))
        batch = Batch(tokens=rng.integers(1, 200, groups).tolist(), entries=[200_000] * groups)
        way = costs.choose(batch)
        costs.learn(batch, way, taken(batch, way, **machine) * float(rng.uniform(0.8, 1.25)))
        if number >= 50:
            chosen[way] += 1
    assert chosen[expected] >= 0.9 * sum(chosen.values())
    assert len(chosen) == 2  # the other way is tried again: what was slower may have become sooner


def test_one_machine_has_both_kinds_of_batches() -> None:
    """Few rows of many variants go mixed, a long batch of one variant is swapped in, on the same machine."""
    machine = {"run": 0.01, "token": 1e-5, "group": 1e-4, "entry": 2e-9}
    many = Batch(tokens=[10] * 8, entries=[200_000] * 8)
    long = Batch(tokens=[4000], entries=[200_000])
    costs = Costs()
    for _ in range(10):
        for batch in (many, long):
            for way in ("swap", "mixed"):
                costs.learn(batch, way, taken(batch, way, **machine))
    assert costs.choose(many) == "mixed"
    assert costs.choose(long) == "swap"
    assert costs.seconds(many, "mixed") == pytest.approx(taken(many, "mixed", **machine), rel=0.05)
