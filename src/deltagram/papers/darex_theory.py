"""DAREx: output changes grow with the mean and the variance of c_ij = dW_ij x_j (D4)."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.arrays import F64
from deltagram.delta.stored import Pruned
from deltagram.jobs.evidence import calibration_batches
from deltagram.jobs.prune import prune
from deltagram.jobs.variant import Variant, variant
from deltagram.papers.bench import Bench
from deltagram.papers.bench import Variant as Tuned
from deltagram.papers.claims import Claim
from deltagram.papers.darex_dropping import keep
from deltagram.papers.measured import Checked, Numbers, over_seeds
from deltagram.store.deltafile import open_delta
from deltagram.training.activations import linear_weights, signals, visit_inputs


def mean_and_variance(bench: Bench, claim: Claim) -> Checked:
    """D4: |h| on terms of chosen mean and variance, and layer by layer on a real model."""
    terms = synthetic(claim.settings, seed=0)

    def work(seed: int) -> tuple[Numbers, list[dict[str, Any]]]:
        numbers, rows = layers(bench, bench.tuned(bench.large, seed=seed), claim, mask=seed)
        return {**terms, **numbers}, rows

    return over_seeds(bench, work)


def synthetic(settings: Mapping[str, Any], *, seed: int) -> Numbers:
    """Mean |h| over Bernoulli masks for terms c of every scale sqrt(mean^2 + variance) and every ratio mean/sd.

    `slope` is that of log E|h| against log sqrt(Q), 1 by the theorem; `control_ratio` the largest over the smallest
    E|h| among the ratios at one scale.
    """
    rng = np.random.default_rng(seed)
    count, share = settings["inputs"], keep(settings["drop"])
    changes = np.empty((len(settings["scales"]), len(settings["ratios"])))
    for row, scale in enumerate(settings["scales"]):
        for column, ratio in enumerate(settings["ratios"]):
            c = _terms(rng, count, scale=scale, ratio=ratio)
            kept = rng.random((settings["masks"], count)) < share
            changes[row, column] = np.abs(c.sum() - kept @ c / share).mean()
    roots = np.log(np.asarray(settings["scales"]) * np.sqrt(count))
    slopes = [np.polyfit(roots, np.log(column), 1)[0] for column in changes.T]
    return {"slope": float(np.mean(slopes)), "control_ratio": float((changes.max(1) / changes.min(1)).max())}


def _terms(rng: np.random.Generator, count: int, *, scale: float, ratio: float) -> F64:
    """`count` normal terms of mean^2 + variance = scale^2 exactly, with mean / standard deviation = ratio."""
    noise = rng.standard_normal(count)
    noise = (noise - noise.mean()) / noise.std()
    found: F64 = scale * (ratio + noise) / np.sqrt(1 + ratio**2)
    return found


def layers(bench: Bench, tuned: Tuned, claim: Claim, *, mask: int) -> tuple[Numbers, list[dict[str, Any]]]:
    """Rank correlation over linear layers of measured mean |h| with sqrt(p/(1-p) Q), and with the size of dW."""
    from scipy.stats import spearmanr  # noqa: PLC0415 - scipy is slow to import

    evidence, _ = bench.evidence(tuned)
    base = bench.encoder()
    with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
        folder = Path(scratch) / "delta"
        prune(base, tuned.folder, folder, method="bernoulli", keep=keep(claim.settings["drop"]), seed=mask)
        with variant(open_delta(folder), base, tuned=tuned.folder) as live:
            made = calibration_batches(live.run, evidence, most=claim.settings["texts"])
            predicted = {name: signal.spread for name, signal in signals(live.run, made, live.differences()).items()}
            measured, size = _changes(live, made, keep(claim.settings["drop"]))
    names = sorted(measured)
    drop = claim.settings["drop"]
    rows = [
        {
            "variant": tuned.name, "layer": name, "mean_abs_change": measured[name], "size": size[name],
            "predicted": float(np.sqrt(drop / keep(drop) * predicted[name] / live.run.parameters[name].shape[0])),
        }
        for name in names
    ]  # fmt: skip
    rank = {
        key: float(spearmanr([row[key] for row in rows], [row["mean_abs_change"] for row in rows]).statistic)
        for key in ("predicted", "size")
    }
    return {"layers_rank": rank["predicted"], "control_over_size": rank["predicted"] - rank["size"]}, rows


def _changes(live: Variant, made: Any, share: float) -> tuple[dict[str, float], dict[str, float]]:
    """Mean |dW x - P(dW) x| over tokens and outputs of each pruned linear layer, and the root mean square of dW."""
    turned = {name: flipped for name, (_, flipped) in linear_weights(live.run).items() if name in live.pruned}
    differences = live.differences()
    errors = {name: differences[name] - _pruned(live.pruned[name], differences[name], share) for name in turned}
    sums: dict[str, tuple[float, int]] = {}

    def visit(name: str, inputs: Any) -> None:
        if name in errors:
            change = inputs @ (errors[name] if turned[name] else errors[name].T)
            total, count = sums.get(name, (0.0, 0))
            sums[name] = total + float(change.abs().double().sum()), count + change.numel()

    visit_inputs(live.run, made, visit)
    size = {name: float(differences[name].double().square().mean().sqrt()) for name in sums}
    return {name: total / count for name, (total, count) in sums.items()}, size


def _pruned(stored: Pruned, difference: Any, share: float) -> Any:
    """The pruned difference: kept values over the share kept, zero elsewhere."""
    found = difference.new_zeros(difference.numel())
    positions = stored.mask.positions(0, stored.mask.keep).astype(np.int64)
    found[positions] = difference.new_tensor(stored.values / np.float32(share))
    return found.view(difference.shape)
