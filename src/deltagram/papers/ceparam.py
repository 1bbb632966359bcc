"""CE parameterisations: Behnia, Kini, Vakilian, Thrampoulidis, "On the Implicit Geometry of Cross-Entropy
Parameterizations for Label-Imbalanced Data", AISTATS 2023, arXiv 2303.07608.
"""

from collections.abc import Callable, Mapping
from typing import Final

from deltagram.papers.bench import Bench
from deltagram.papers.ceparam_limits import symmetric, unchanged
from deltagram.papers.ceparam_nets import accuracy
from deltagram.papers.ceparam_search import formulas, minimisers
from deltagram.papers.claims import Claim
from deltagram.papers.measured import Checked

CHECKS: Final[Mapping[str, Callable[[Bench, Claim], Checked]]] = {
    "P1": minimisers,
    "P2": formulas,
    "P3": symmetric,
    "P4": unchanged,
    "P5": accuracy,
}
