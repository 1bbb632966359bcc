"""Next tokens: what happens in training: the low-rank part takes over (N4), contexts of one support merge (N6)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deltagram.arrays import F64
from deltagram.data.imbalance import I64
from deltagram.data.labels import LabelMatrix
from deltagram.geometry.contextcompare import LogitNumbers, Spread, beyond
from deltagram.papers.bench import Bench
from deltagram.papers.characters import chosen
from deltagram.papers.claims import Claim
from deltagram.papers.forecast import forecast, scored
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.supportsets import drawn, smoothed
from deltagram.papers.tokenbeside import correlations, language_model, word_correlations, word_vectors
from deltagram.papers.tokenruns import Row, Run, at_ridges, decoder, free

Both = tuple[Numbers, list[dict[str, Any]]]


def low_rank(bench: Bench, claim: Claim) -> Checked:
    """N4: the share of what differs within supports over training; labels without a support to hide beside."""
    s = claim.settings
    labels = chosen(bench, s)
    full = smoothed(labels, s["smoothing"])

    def work(seed: int) -> Both:
        told = forecast(bench, labels)
        runs = {"free": free(bench, labels, seed=seed), "decoder": decoder(bench, labels, seed=seed)}
        without = free(bench, full, seed=seed)
        over = {name: _over(run, labels) for name, run in runs.items()}
        numbers: Numbers = {}
        for name, rows in over.items():
            ratios = [row["ratio"] for row in rows]
            numbers |= {f"end_{name}": ratios[-1], f"fall_{name}": ratios[-1] / ratios[0]}
            numbers |= {f"trend_{name}": trend(ratios), f"rank_{name}": rows[-1]["rank"]}
        plain, spread = (LogitNumbers.of(run.last, labels).ratio for run in (runs["free"], without))
        numbers["control_smoothed"] = spread / plain
        rows = [{"model": name, **row} for name, told_over in over.items() for row in told_over]
        rows += [{"model": "free, smoothed", **row} for row in _over(without, labels)]
        return numbers, rows + _scored(told, runs, labels, "order_of")

    return averaged(bench, work)


def _scored(told: Row, runs: Mapping[str, Run], labels: LabelMatrix, what: str) -> list[Row]:
    """The rows of a forecast's score that are about this."""
    return [
        {"model": name, **row} for name, run in runs.items() for row in scored(told, run, labels) if what in row
    ]  # fmt: skip


def _over(run: Run, labels: LabelMatrix) -> list[Row]:
    return [
        {"epoch": epoch, **LogitNumbers.of(logits, labels).data()}
        for epoch, logits in zip(run.epochs, run.logits, strict=True)
    ]


def trend(values: list[float]) -> float:
    """Rank correlation with time from the largest value on; -1 where each is less than the one before."""
    late = values[int(np.argmax(values)) :]
    if len(late) < 3:
        return float("nan")
    rank = np.argsort(np.argsort(late))
    return float(np.corrcoef(rank, np.arange(len(late)))[0, 1])


def merging(bench: Bench, claim: Claim) -> Checked:
    """N6: mean 1 - cos of contexts of one support by that of two, before and after projection."""
    s = claim.settings
    labels = chosen(bench, s)

    def work(seed: int) -> Both:
        told = forecast(bench, labels)
        model = decoder(bench, labels, seed=seed)
        logits = {"ridge": at_ridges(bench, labels, s["ridges"])[-1], "decoder": model.last}
        of = labels.supports.of
        mixed = drawn("groups", seed).permutation(of)
        numbers: Numbers = {}
        rows: list[Row] = []
        for name, each in logits.items():
            before, after = each - each.mean(0), beyond(each, labels)
            numbers |= {f"before_{name}": share(before, of), f"after_{name}": share(after, of)}
            rows += [_spread(name, "logits", before, of), _spread(name, "beyond", after, of)]
        rows.append(_spread("decoder", "states", model.states.T, of))
        numbers["sharper"] = max(numbers[f"after_{name}"] / numbers[f"before_{name}"] for name in logits)
        numbers["control_mixed"] = min(share(beyond(each, labels), mixed) for each in logits.values())
        centred = {name: each - each.mean(0) for name, each in logits.items()}
        near = _last_token(centred["decoder"], labels)
        numbers["control_last_character"] = near / Spread.of(centred["decoder"].T, of).same
        rows += correlations(labels, {**centred, "decoder, states": model.states.T})
        rows += word_correlations(labels, {"ridge": word_vectors(logits["ridge"]), "decoder": model.words})
        runs = {"free": free(bench, labels, seed=seed), "decoder": model}
        return numbers, rows + _scored(told, runs, labels, "merged") + language_model(bench, s)

    return averaged(bench, work)


def share(columns: F64, of: I64) -> float:
    """Mean 1 - cos of pairs of columns of one group by that of pairs of two."""
    found = Spread.of(columns.T, of)
    return found.same / found.other


def _spread(model: str, what: str, columns: F64, of: I64) -> Row:
    found = Spread.of(columns.T, of)
    return {"model": model, "of": what, "same": found.same, "other": found.other, "pairs": found.pairs}


def _last_token(columns: F64, labels: LabelMatrix) -> float:
    """Mean 1 - cos of pairs that end in one token and have different supports."""
    if labels.context_ids is None:
        return float("nan")
    last, of = labels.context_ids[:, -1], labels.supports.of
    unit = columns / np.linalg.norm(columns, axis=0)
    there = (last[:, None] == last) & (of[:, None] != of)
    return float((1 - unit.T @ unit)[there].mean())
