"""Orthogonal frames: Kini, Vakilian, Behnia, Gill, Thrampoulidis, "Symmetric Neural-Collapse Representations with
Supervised Contrastive Loss: The Impact of ReLU and Batching", ICLR 2024, arXiv 2306.07960.
"""

from collections.abc import Callable, Mapping
from typing import Final

from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.frames_batching import decides, speeds
from deltagram.papers.frames_shape import frame, stays
from deltagram.papers.measured import Checked

CHECKS: Final[Mapping[str, Callable[[Bench, Claim], Checked]]] = {
    "O1": frame,
    "O2": stays,
    "O3": decides,
    "O4": speeds,
}
