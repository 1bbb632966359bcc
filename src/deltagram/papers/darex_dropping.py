"""DAREx: where DARE fails, and that its rescaling factor is a cause (D1, D2, D3)."""

from dataclasses import replace
from typing import Any

import numpy as np

from deltagram.papers.bench import Bench
from deltagram.papers.cells import Stored
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked, Gain, Numbers, on_variant, over_seeds


def keep(drop: float) -> float:
    """1 - p, to the digits that p has.

    >>> keep(0.99)
    0.01
    """
    return round(1 - drop, 9)


def dropping(bench: Bench, claim: Claim) -> Checked:
    """D1: the share that DARE keeps, over the drop rate."""
    settings = claim.settings

    def numbers(gain: Gain) -> Numbers:
        found = {drop: gain.share(Stored(keep=keep(drop))) for drop in settings["drop"]}
        for drop in settings["drop"]:
            gain.share(Stored(method="random", keep=keep(drop)))
        return {
            "moderate": found[settings["moderate"]],
            "extreme": found[settings["extreme"]],
            "fall": found[settings["moderate"]] - found[settings["extreme"]],
            "control_nothing_dropped": gain.share(Stored(keep=1.0)),
        }

    return over_seeds(bench, lambda seed: on_variant(bench, bench.tuned(bench.large, seed=seed), numbers))


def growing(bench: Bench, claim: Claim) -> Checked:
    """D2: the share that DARE keeps, over learning rates of one task."""
    settings = claim.settings

    def numbers(gain: Gain) -> Numbers:
        mild = gain.outcomes(Stored(keep=keep(settings["mild"])))
        return {
            "tuned": gain.top,
            "share": gain.share(Stored(keep=keep(settings["drop"]))),
            "mild": gain.share_of(float(np.mean([outcome.score for outcome in mild]))),
            "delta": mild[0].found["delta_std"],
        }

    def work(seed: int) -> tuple[Numbers, list[dict[str, Any]]]:
        tasks = [replace(bench.large, learning_rate=rate) for rate in settings["rates"]]
        found = [on_variant(bench, bench.tuned(task, seed=seed), numbers) for task in tasks]
        each = [numbers for numbers, _ in found]
        shares = [numbers["share"] for numbers in each]
        return {
            "smallest": shares[0],
            "largest": shares[-1],
            "least_step_down": float(np.min(-np.diff(shares))),
            "delta_growth": each[-1]["delta"] / each[0]["delta"],
            "control_tuned_loss": each[0]["tuned"] - each[-1]["tuned"],
            "control_mild": each[-1]["mild"],
        }, [row for _, rows in found for row in rows]

    return over_seeds(bench, work)


def fixed_mask(bench: Bench, claim: Claim) -> Checked:
    """D3: the share over q on one mask, and over the same factors on the unpruned delta."""
    settings = claim.settings
    multiples = [float(multiple) for multiple in settings["multiples"]]

    def numbers(gain: Gain) -> Numbers:
        pruned, whole = (
            [gain.share(Stored(keep=share), multiple, masks=(0,)) for multiple in multiples]
            for share in (keep(settings["drop"]), 1.0)
        )
        at = int(np.argmax(pruned))
        return {
            "rise": pruned[at] - pruned[0],
            "best_multiple": multiples[at],
            "fall_beyond": pruned[at] - pruned[-1],
            "control_unpruned_rise": max(whole) - whole[0],
        }

    return over_seeds(bench, lambda seed: on_variant(bench, bench.tuned(bench.large, seed=seed), numbers))
