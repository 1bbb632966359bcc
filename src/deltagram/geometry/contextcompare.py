"""Logits and embeddings of words and contexts beside the labels they were trained on: how far the theory holds.

L (word, context) are logits, F the logits that differ within supports alone (arXiv 2408.15417): as cross-entropy nears
its bound, what is of L in F tends to the log-odds of the labels, and the rest grows in a direction that contexts of one
support share.
"""

from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from deltagram.arrays import F64
from deltagram.data.imbalance import I64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.collapse import effective_rank
from deltagram.geometry.cosinestructure import unit_rows
from deltagram.geometry.nexttoken import beyond_supports, in_support, within_supports


@dataclass(frozen=True, kw_only=True)
class LogitNumbers:
    """Logits beside labels, columns centred; norms are Frobenius norms, all contexts alike.

    `gap` is CE - H in nats a sample, the softmax over the words there are. `within` is |P_F L|, `beyond` |P_F_perp L|,
    `from_log_odds` |P_F L - L_in|, `log_odds` |L_in|. `rank` and `rank_beyond` are effective ranks (Roy and Vetterli
    2007) of L and of P_F_perp L.
    """

    gap: float
    within: float
    beyond: float
    from_log_odds: float
    log_odds: float
    rank: float
    rank_beyond: float

    @classmethod
    def of(cls, logits: ArrayLike, labels: LabelMatrix) -> Self:
        """Of logits (word, context). Raises SettingError where they are of other words or contexts, or not finite.

        >>> labels = LabelMatrix.of_counts([[3, 0], [1, 0], [0, 1]])
        >>> found = LogitNumbers.of([[2.0, -3.0], [2.0, -3.0], [-5.0, 9.0]], labels)
        >>> found.within, round(found.from_log_odds - found.log_odds, 12), round(found.gap, 3)
        (0.0, 0.0, 0.105)
        """
        given = checked(logits, labels)
        inside, wanted = within_supports(labels, given).data, in_support(labels).data
        rest = beyond(given, labels)
        return cls(
            gap=gap(given, labels), within=float(np.linalg.norm(inside)), beyond=float(np.linalg.norm(rest)),
            from_log_odds=float(np.linalg.norm(inside - wanted)), log_odds=float(np.linalg.norm(wanted)),
            rank=effective_rank(given - given.mean(0)), rank_beyond=effective_rank(rest),
        )  # fmt: skip

    @property
    def ratio(self) -> float:
        """`|P_F L| / |P_F_perp L|`, which falls as training goes on."""
        return self.within / self.beyond if self.beyond else float("inf")

    def data(self) -> dict[str, float]:
        """As JSON has it."""
        return {**asdict(self), "ratio": self.ratio}


def checked(logits: ArrayLike, labels: LabelMatrix) -> F64:
    """The logits in float64. Raises SettingError where they are of other words or contexts, or not finite."""
    given = np.asarray(logits, np.float64)
    if given.shape != labels.shape:
        raise SettingError("logits", f"have shape {given.shape}", expected=f"{labels.shape}, (word, context)")
    if not np.isfinite(given).all():
        raise SettingError("logits", "are not all finite", expected="numbers", fix="check the model")
    return given


def gap(logits: F64, labels: LabelMatrix) -> float:
    """CE - H, in nats a sample: the divergence of the softmax of `logits` (word, context) from the labels."""
    p = labels.probabilities
    of = np.repeat(np.arange(p.shape[1]), np.diff(p.indptr))
    said = logits[p.indices, of] - logsumexp(logits, axis=0)[of]
    return float(labels.weights[of] * p.data @ (np.log(p.data) - said))


def beyond(logits: F64, labels: LabelMatrix) -> F64:
    """P_F_perp of logits (word, context), columns centred: what is in a support becomes its mean."""
    return beyond_supports(labels, logits - logits.mean(0))


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean 1 - cos over all pairs of vectors of one group, and over all pairs of two; how many pairs of one there are.

    NaN where there are none. Vectors that are zero are left out: of contexts with full support nothing is beyond it.
    """

    same: float
    other: float
    pairs: int

    @classmethod
    def of(cls, vectors: ArrayLike, group: I64) -> Self:
        """Of vectors (row, feature) and the group of each, (row); exact, without forming pairs.

        >>> Spread.of([[1, 0], [2, 0], [0, 1]], np.array([0, 0, 1]))
        Spread(same=0.0, other=1.0, pairs=1)
        """
        given = np.asarray(vectors, np.float64)
        unit, there = unit_rows(given)
        unit = unit[there]
        _, number, many = np.unique(group[there], return_inverse=True, return_counts=True)
        sums = np.zeros((len(many), given.shape[1]))
        np.add.at(sums, number, unit)
        within = float((np.square(sums).sum(1) - many).sum()) / 2
        total = float(np.square(unit.sum(0)).sum() - len(unit)) / 2
        pairs, all_pairs = int((many * (many - 1) // 2).sum()), len(unit) * (len(unit) - 1) // 2
        return cls(
            same=1 - within / pairs if pairs else float("nan"),
            other=1 - (total - within) / (all_pairs - pairs) if all_pairs > pairs else float("nan"), pairs=pairs,
        )  # fmt: skip
