"""Class counts and the parameters of a cross-entropy, checked: what every prediction starts from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.losses.counts import power_scale


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A cross-entropy on k classes, each field one number a class.

    The loss of a sample of class y with logits z is
    `weight[y] * (log sum_c exp(s[c]) - s[y])`, `s[c] = label_scale[y] * class_scale[c] * z[c] + offset[c]`:
    Eq. (2) of arXiv 2303.07608 with `class_scale` its delta, `label_scale` the multiplier that LDT puts on the sample's
    label, and `offset` added to the logits (the paper's iota has the opposite sign). CE is all ones and a zero offset.
    """

    counts: F64
    class_scale: F64
    label_scale: F64
    weight: F64
    offset: F64

    @classmethod
    def of(
        cls,
        counts: ArrayLike,
        *,
        class_scale: ArrayLike | None = None,
        label_scale: ArrayLike | None = None,
        weight: ArrayLike | None = None,
        offset: ArrayLike | None = None,
    ) -> Self:
        """The problem of these samples a class; what is not given does nothing.

        Raises SettingError for counts that are not two or more positive whole numbers, for scales and weights that are
        not positive and finite, and for other lengths.
        """
        n = _row("counts", counts)
        if len(n) < 2:
            raise SettingError("counts", f"{len(n)} class", expected="two or more classes")
        wrong = np.flatnonzero(~(np.isfinite(n) & (n > 0) & (n == np.floor(n))))
        if len(wrong):
            at = int(wrong[0])
            fix = "leave out classes without samples" if n[at] == 0 else ""
            raise SettingError("counts", f"class {at} has {n[at]:g}", expected="positive whole numbers", fix=fix)
        given: Mapping[str, ArrayLike | None] = {
            "class_scale": class_scale, "label_scale": label_scale, "weight": weight,
        }  # fmt: skip
        return cls(
            counts=n,
            offset=_sized("offset", offset, n, 0.0),
            **{name: _positive(name, _sized(name, value, n, 1.0)) for name, value in given.items()},
        )

    @property
    def classes(self) -> int:
        """k."""
        return len(self.counts)

    def with_counts(self, counts: F64) -> Self:
        """The same loss on other masses a class, which need not be whole."""
        return replace(self, counts=counts)


def _row(name: str, given: ArrayLike) -> F64:
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        raise SettingError(name, f"{given!r} are not numbers") from None
    if found.ndim != 1:
        raise SettingError(name, f"has shape {found.shape}", expected="one number a class")
    return found


def _sized(name: str, given: ArrayLike | None, counts: F64, neutral: float) -> F64:
    if given is None:
        return np.full(len(counts), neutral)
    found = _row(name, given)
    if len(found) != len(counts):
        raise SettingError(name, f"has {len(found)} numbers", expected=f"{len(counts)}, one a class")
    if not np.isfinite(found).all():
        raise SettingError(
            name, f"class {int(np.flatnonzero(~np.isfinite(found))[0])} has {found[~np.isfinite(found)][0]}"
        )
    return found


def _positive(name: str, found: F64) -> F64:
    wrong = np.flatnonzero(found <= 0)
    if len(wrong):
        raise SettingError(name, f"class {int(wrong[0])} has {found[wrong[0]]:g}", expected="positive numbers")
    return found


def check_positive(name: str, value: float) -> None:
    """Raises SettingError for a number that is not positive and finite."""
    if not (np.isfinite(value) and value > 0):
        raise SettingError(name, f"{value:g}", expected="a positive number")


def scale_by_counts(counts: ArrayLike, gamma: float) -> F64:
    """`n_c^gamma`, scaled to the sum k: how the papers set CDT's and LDT's multipliers.

    With gamma = 1/2 classifiers are aligned with their means (CDT) or a simplex (LDT): Section 4 of arXiv 2303.07608.

    >>> scale_by_counts([100, 1], 0.5)
    array([1.81818182, 0.18181818])
    """
    return power_scale(Problem.of(counts).counts, gamma, normalise="sum")
