"""Prototypes: Gill, Vakilian, Thrampoulidis, "Engineering the Neural Collapse Geometry of Supervised-Contrastive Loss",
ICASSP 2024, arXiv 2310.00893.
"""

from collections.abc import Callable, Mapping
from typing import Final

from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked
from deltagram.papers.protos_limit import limit
from deltagram.papers.protos_shape import aligns, sweep

CHECKS: Final[Mapping[str, Callable[[Bench, Claim], Checked]]] = {
    "Q1": aligns,
    "Q2": sweep,
    "Q3": limit,
}
