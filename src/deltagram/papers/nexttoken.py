"""Zhao, Behnia, Vakilian, Thrampoulidis, "Implicit Geometry of Next-token Prediction", COLM 2024, arXiv 2408.15417."""

from collections.abc import Callable, Mapping
from typing import Final

from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked
from deltagram.papers.nexttoken_parts import frequencies, supports_alone
from deltagram.papers.nexttoken_program import loss, rank
from deltagram.papers.nexttoken_training import low_rank, merging

CHECKS: Final[Mapping[str, Callable[[Bench, Claim], Checked]]] = {
    "N1": loss,
    "N2": rank,
    "N3": frequencies,
    "N4": low_rank,
    "N5": supports_alone,
    "N6": merging,
}
