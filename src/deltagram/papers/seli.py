"""SELI: Thrampoulidis, Kini, Vakilian, Behnia, "Imbalance Trouble", NeurIPS 2022, arXiv 2208.05512."""

from collections.abc import Callable, Mapping
from typing import Final

from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked
from deltagram.papers.seli_limit import geometry, logits, ridge
from deltagram.papers.seli_rates import rates, worsens

CHECKS: Final[Mapping[str, Callable[[Bench, Claim], Checked]]] = {
    "S1": logits,
    "S2": geometry,
    "S3": worsens,
    "S4": ridge,
    "S5": rates,
}
