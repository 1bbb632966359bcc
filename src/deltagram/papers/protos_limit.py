"""Prototypes: with copies beyond number the contrastive loss is cross-entropy of a fixed classifier (Q3)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from deltagram.geometry.designs import simplex
from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked, Numbers, averaged
from deltagram.papers.points import Row
from deltagram.seeds import key


def limit(bench: Bench, claim: Claim) -> Checked:
    """Q3: value and gradient against cross-entropy as copies grow; prototypes as anchors tend to another limit."""
    s = claim.settings

    def work(seed: int) -> tuple[Numbers, list[Row]]:
        rows = [_row(bench, s, t, copies, seed) for t in s["temperatures"] for copies in s["copies"]]
        by_t = [[row for row in rows if row["temperature"] == t] for t in s["temperatures"]]
        slopes = {part: [_slope(some, part) for some in by_t] for part in ("value", "gradient", "other")}
        last = [some[-1] for some in by_t]
        numbers = {f"{part}_{end}": float(pick(slopes[part])) for part in ("value", "gradient")
                   for end, pick in (("shallowest", max), ("steepest", min))}  # fmt: skip
        return {
            **numbers,
            "gradient": max(row["gradient"] for row in last),
            "other_limit": max(row["other"] for row in last),
            "control_anchors": min(row["anchors"] for row in last),
        }, rows

    return averaged(bench, work)


def _row(bench: Bench, settings: Mapping[str, Any], temperature: float, copies: float, seed: int) -> Row:
    sizes = {name: settings[name] for name in ("classes", "batch", "dim")}
    told = {"free": "limit of copies", **sizes, "temperature": temperature, "copies": copies, "seed": seed}
    return told | bench.notes.once(told, lambda: _measured(told))


def _slope(rows: list[Row], part: str) -> float:
    """Of the logarithm of an error against that of the copies."""
    return float(np.polyfit(np.log([row["copies"] for row in rows]), np.log([row[part] for row in rows]), 1)[0])


def _measured(told: Mapping[str, Any]) -> dict[str, float]:
    """Relative errors: of the value less |B| log n_w, and of gradients, data anchors only (`gradient`) or all.

    `anchors` is the gradient with prototypes as anchors against cross-entropy's, `other` against its own limit:
    cross-entropy and `sum_i [sum_c e^{h_i.w_c / t} / D_c - h_i.w_y / t]`, `D_c = sum_c' e^{w_c.w_c' / t}`.
    """
    import torch  # noqa: PLC0415 - an extra

    from deltagram.losses import CrossEntropy, SupervisedContrastive  # noqa: PLC0415 - imports torch

    drawn = np.random.Generator(np.random.Philox(key=key(told["seed"], "limit of copies")))
    t, copies, k = told["temperature"], told["copies"], told["classes"]
    w = torch.from_numpy(simplex(k, dim=told["dim"]))
    label = torch.from_numpy(drawn.integers(0, k, told["batch"]))
    h = torch.from_numpy(drawn.standard_normal((told["batch"], told["dim"])))
    h = (h / h.norm(dim=1, keepdim=True)).requires_grad_()
    given: dict[str, Any] = {"prototypes": w, "copies": copies, "reduction": "sum", "normalise": False}
    value = SupervisedContrastive(t, **given)(h, label)
    both = SupervisedContrastive(t, **given, prototype_anchors=True)(h, label)
    logits = h @ w.T / t
    entropy = CrossEntropy(reduction="sum")(logits, label)
    norm = torch.exp(w @ w.T / t).sum(1)
    more = (torch.exp(logits) / norm).sum() - logits.gather(1, label[:, None]).sum()
    slope, anchored, wanted, beside = (
        torch.autograd.grad(part, h, retain_graph=True)[0] for part in (value, both, entropy, entropy + more)
    )
    less = float(value.detach()) - told["batch"] * np.log(copies)

    def off(found: Any, target: Any) -> float:
        return float((found - target).norm() / target.norm())

    return {
        "value": abs(less / float(entropy.detach()) - 1), "gradient": off(slope, wanted),
        "anchors": off(anchored, wanted), "other": off(anchored, beside),
    }  # fmt: skip
