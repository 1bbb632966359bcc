"""Next tokens: the two parts of logits as cross-entropy nears the entropy: frequencies (N3), supports alone (N5)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.geometry.contextcompare import LogitNumbers, beyond
from deltagram.geometry.nexttoken import centred_dense, within_supports
from deltagram.geometry.supportsvm import max_margin
from deltagram.papers.bench import Bench
from deltagram.papers.characters import chosen
from deltagram.papers.claims import Claim
from deltagram.papers.forecast import forecast
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.supportsets import elsewhere, made_up, shuffled
from deltagram.papers.tokenruns import Row, at_ridges, decoder, free

Both = tuple[Numbers, list[dict[str, Any]]]


def off_log_odds(logits: F64, labels: LabelMatrix) -> float:
    """`|P_F L - L_in| / |L_in|`."""
    found = LogitNumbers.of(logits, labels)
    return found.from_log_odds / found.log_odds


def cosine(one: F64, other: F64) -> float:
    """Of two matrices as vectors."""
    return float((one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)))


def frequencies(bench: Bench, claim: Claim) -> Checked:
    """N3: logits within supports against the log-odds, at ridges and after training; shuffled probabilities beside."""
    s = claim.settings
    labels, ridges = chosen(bench, s), s["ridges"]
    forecast(bench, labels)  # before anything is trained on them; N4 and N6 score it

    def work(seed: int) -> Both:
        path = at_ridges(bench, labels, ridges)
        models = {"ridge": path[-1], "free": free(bench, labels, seed=seed).last}
        models["decoder"] = decoder(bench, labels, seed=seed).last
        off = [off_log_odds(logits, labels) for logits in path]
        numbers = {name: off_log_odds(logits, labels) for name, logits in models.items()}
        wrong = shuffled(labels, seed)
        rows = [{"model": "ridge", "ridge": ridge, "off": one} for ridge, one in zip(ridges, off, strict=True)]
        rows += [directions(logits, labels, name) for name, logits in models.items()]
        rows += [row for name, each in made_up().items() for row in _made_up(bench, each, name, ridges[-1])]
        return numbers | {
            "law": float(np.log(off[-2] / off[-1]) / np.log(ridges[-2] / ridges[-1])),
            "control_shuffled": min(off_log_odds(logits, wrong) for logits in models.values()),
        }, rows

    return averaged(bench, work)


def directions(logits: F64, labels: LabelMatrix, name: str) -> Row:
    """How near the part beyond supports is to the direction of the margin program, and to the centred supports."""
    limit = max_margin(labels)
    rest = beyond(logits, labels)
    return {
        "direction": name, "to_margin_program": cosine(rest, limit.logits),
        "to_proxy": cosine(rest, centred_dense(labels)),
        "proxy_to_program": cosine(limit.logits, centred_dense(labels)),
        "proxy_exact": limit.proxy.exact, "unique": limit.uniqueness.unique, "gap": limit.gap,
        "proxy_excess": limit.proxy.value / limit.primal - 1, "rank": limit.rank,
    }  # fmt: skip


def _made_up(bench: Bench, labels: LabelMatrix, name: str, ridge: float) -> list[Row]:
    logits = at_ridges(bench, labels, [ridge])[0]
    return [directions(logits, labels, name) | {"ridge": ridge, "off": off_log_odds(logits, labels)}]


def supports_alone(bench: Bench, claim: Claim) -> Checked:
    """N5: the part beyond supports where probabilities differ, and where supports do."""
    s = claim.settings
    labels = chosen(bench, s)
    forecast(bench, labels)

    def work(seed: int) -> Both:
        every = {"own": labels, "shuffled": shuffled(labels, seed), "elsewhere": elsewhere(labels, seed)}
        rows = [
            row
            for name, logits in {
                "ridge": {kind: at_ridges(bench, each, s["ridges"])[-1] for kind, each in every.items()},
                "decoder": {kind: decoder(bench, each, seed=seed).last for kind, each in every.items()},
            }.items()
            for row in _apart(name, logits, every)
        ]
        return _numbers(rows), rows

    return averaged(bench, work)


def _apart(name: str, logits: Mapping[str, F64], labels: Mapping[str, LabelMatrix]) -> list[Row]:
    rest = {kind: beyond(each, labels[kind]) for kind, each in logits.items()}
    inside = {kind: within_supports(labels[kind], each).toarray() for kind, each in logits.items()}
    return [
        {
            "model": name, "against": kind, "beyond": cosine(rest["own"], rest[kind]),
            "within": cosine(inside["own"], inside[kind]),
        }
        for kind in ("shuffled", "elsewhere")
    ]  # fmt: skip


def _numbers(rows: Sequence[Row]) -> Numbers:
    found = {(row["model"], row["against"]): row for row in rows}
    numbers: Numbers = {}
    for name in ("ridge", "decoder"):
        same, other = found[name, "shuffled"], found[name, "elsewhere"]
        numbers |= {f"same_{name}": same["beyond"], f"control_other_{name}": other["beyond"]}
        numbers[f"control_within_{name}"] = same["within"]
    return numbers
