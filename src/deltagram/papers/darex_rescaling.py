"""DAREx-q: what a q found on texts gains over DARE (D5), and importance against random dropping (D10)."""

from dataclasses import replace
from typing import Any

import numpy as np

from deltagram.papers.bench import Bench
from deltagram.papers.cells import Stored
from deltagram.papers.claims import Claim
from deltagram.papers.darex_dropping import keep
from deltagram.papers.measured import Checked, Gain, Numbers, on_variant, over_seeds

Both = tuple[Numbers, list[dict[str, Any]]]


def on_large_and_small(bench: Bench, claim: Claim, seed: int, work: Any) -> tuple[Numbers, Numbers, list[Any]]:
    """`work` on the variant of large deltas and on the same task tuned at the claim's small rate."""
    small = replace(bench.large, learning_rate=claim.settings["small_rate"])
    (large, rows), (little, more) = (
        on_variant(bench, bench.tuned(task, seed=seed), work) for task in (bench.large, small)
    )
    return large, little, rows + more


def encoder_gain(bench: Bench, claim: Claim) -> Checked:
    """D5: q from labels and from output change against DARE, each the mean of one q and of one a layer."""
    stored = Stored(keep=keep(claim.settings["drop"]))
    rules = claim.settings["rules"]

    def numbers(gain: Gain) -> Numbers:
        plain = gain.score(stored)
        found = {rule: gain.score(stored, rule) for rule in rules}
        labels, output = (
            float(np.mean([score for rule, score in found.items() if rule.startswith(kind)]))
            for kind in ("labels", "output")
        )
        return {
            "gain_labels": labels - plain,
            "gain_output": output - plain,
            "share": gain.share_of(labels),
            "over_floor": labels - gain.floor,
        }

    def work(seed: int) -> Both:
        large, small, rows = on_large_and_small(bench, claim, seed, numbers)
        return {**large, "control_gain_small": max(small["gain_labels"], small["gain_output"])}, rows

    return over_seeds(bench, work)


def importance(bench: Bench, claim: Claim) -> Checked:
    """D10: the mean of magnitude and WANDA, minus DARE, in score."""
    settings = claim.settings

    def numbers(gain: Gain) -> Numbers:
        def lead(drop: float) -> float:
            chosen = [gain.score(Stored(method=method, keep=keep(drop))) for method in settings["methods"]]
            return float(np.mean(chosen)) - gain.score(Stored(keep=keep(drop)))

        return {"moderate": lead(settings["moderate"]), "extreme": lead(settings["extreme"])}

    def work(seed: int) -> Both:
        large, small, rows = on_large_and_small(bench, claim, seed, numbers)
        return {
            "large_moderate": large["moderate"],
            "control_small_moderate": small["moderate"],
            "control_small_extreme": small["extreme"],
        }, rows

    return over_seeds(bench, work)


def structural(bench: Bench, claim: Claim) -> Checked:
    """D9: random entries in random columns, with q found on labels, against DARE at the same rate."""
    settings = claim.settings
    stored = Stored(method="columns", keep=settings["keep"], columns=settings["columns"])

    def numbers(gain: Gain) -> Numbers:
        tuned = gain.score(stored, settings["rule"])
        return {
            "over_dare": tuned - gain.score(Stored(keep=settings["keep"])),
            "over_floor": tuned - gain.floor,
            "control_untuned_loss": tuned - gain.score(stored),
        }

    return over_seeds(bench, lambda seed: on_variant(bench, bench.tuned(bench.large, seed=seed), numbers))
