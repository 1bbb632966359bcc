"""Counts, means and scatter of classes from a stream of samples: one pass, mergeable, exact in float64."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.conventions import convention
from deltagram.geometry.gram import Geometry
from deltagram.geometry.matrix import Matrix
from deltagram.geometry.samples import I64, array, classifier_weights, samples

Scatter = Literal["trace", "full", "classes"]
SCATTERS: Sequence[str] = ("trace", "full", "classes")
MOST_BYTES = 1 << 30  # of a scatter matrix a class


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassMoments:
    """Counts (class), means (class, feature) and scatter within classes of the samples seen; a class may be empty.

    `traces` (class) are summed squared distances of a class's samples from its mean: S_c = sum (x - mu)(x - mu)^T has
    that trace. `scatter` is None ("trace"), the one matrix sum_c `weights`_c S_c (feature, feature) ("full"), or every
    S_c (class, feature, feature) ("classes"). Welford's update and Chan's merge: nothing is squared and then
    subtracted, so a spread of 1e-4 around means of size 100 keeps ten digits.
    """

    counts: I64
    means: F64
    traces: F64
    weights: F64
    scatter: F64 | None

    @classmethod
    def empty(
        cls, classes: int, features: int, *, scatter: Scatter = "full", class_counts: ArrayLike | None = None
    ) -> Self:
        """No sample yet.

        "full" weighs samples alike; with `class_counts`, the counts that the stream will have in the end, it weighs
        classes alike (S_c / n_c). Which of the two is wanted must be known before: both need "classes", that is
        8 classes features^2 bytes. Raises SettingError beyond `MOST_BYTES` of those.
        """
        if classes < 2 or features < 1:
            raise SettingError("classes and features", f"{classes} and {features}", expected="2 and 1 or more")
        if scatter not in SCATTERS:
            raise SettingError("scatter", f"{scatter!r} is unknown", expected=" or ".join(SCATTERS))
        shape = (classes,) * (scatter == "classes") + (features, features)
        size = 8 * int(np.prod(shape))
        if scatter == "classes" and size > MOST_BYTES:
            fix = "use 'full' with class_counts= for a class-weighted scatter, without for a sample-weighted one"
            raise SettingError("scatter", f"a matrix a class takes {size:,} bytes", expected=f"{MOST_BYTES:,}", fix=fix)
        return cls(
            counts=np.zeros(classes, np.int64), means=np.zeros((classes, features)), traces=np.zeros(classes),
            weights=_weights(classes, class_counts), scatter=None if scatter == "trace" else np.zeros(shape),
        )  # fmt: skip

    @classmethod
    def of(
        cls,
        features: Any,
        labels: Any,
        *,
        classes: int | None = None,
        scatter: Scatter = "full",
        class_counts: ArrayLike | None = None,
    ) -> Self:
        """The moments of these samples: features (sample, feature), labels (sample), NumPy or torch on any device.

        `classes` is one more than the largest label unless given. What it raises, `empty` and `update` say.

        >>> found = ClassMoments.of([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]], [0, 0, 1])
        >>> found.counts, found.means, found.traces
        (array([2, 1]), array([[2., 0.],
               [0., 5.]]), array([2., 0.]))
        """
        x, y = array(features), array(labels)
        if x.ndim != 2 or not x.shape[0]:
            raise SettingError("features", f"have the shape {x.shape}", expected="one sample or more (sample, feature)")
        many = classes if classes is not None else int(y.max(initial=0)) + 1
        made = cls.empty(many, x.shape[1], scatter=scatter, class_counts=class_counts)
        made.update_in_place(x, y)
        return made

    @property
    def classes(self) -> int:
        """Number of classes, empty ones included."""
        return len(self.counts)

    @property
    def features(self) -> int:
        """Dimensions of a feature vector."""
        return int(self.means.shape[1])

    @property
    def there(self) -> I64:
        """The classes that have a sample."""
        return np.flatnonzero(self.counts)

    @property
    def variances(self) -> F64:
        """Mean squared distance of a class's samples from its mean, (class); NaN for an empty class."""
        with np.errstate(invalid="ignore"):
            found: F64 = self.traces / self.counts
        return found

    def copy(self) -> Self:
        """The same numbers in arrays of their own."""
        scatter = None if self.scatter is None else self.scatter.copy()
        return replace(
            self, counts=self.counts.copy(), means=self.means.copy(), traces=self.traces.copy(), scatter=scatter
        )

    def update(self, features: Any, labels: Any) -> Self:
        """The moments after these samples too; this object stays as it is, at the cost of a copy of all means."""
        made = self.copy()
        made.update_in_place(features, labels)
        return made

    def update_in_place(self, features: Any, labels: Any) -> None:
        """Take these samples up into this object's arrays: touches the classes that occur, never all of them.

        Raises SettingError, before anything is changed, for NaN, infinity, a label outside the range, or a wrong shape.
        """
        x, y = samples(features, labels, classes=self.classes, width=self.features)
        absorb, absorb_rows = _kernels()
        flat = self.means.reshape(-1)
        if self.scatter is None:
            absorb(x.reshape(-1), y, self.counts, flat, self.traces)
            return
        rows = np.empty(x.shape)
        absorb_rows(x.reshape(-1), y, self.counts, flat, self.traces, rows.reshape(-1))
        self._add(rows, y)

    def merge(self, other: "ClassMoments") -> Self:
        """The moments of both streams together (Chan, Golub and LeVeque 1983).

        Raises SettingError for other numbers of classes or features, or another kind or weighting of scatter.
        """
        check_alike(self, other)
        made, total = self.copy(), self.counts + other.counts
        both = np.flatnonzero((self.counts > 0) & (other.counts > 0))
        share = other.counts / np.maximum(total, 1)
        off = other.means - made.means
        np.add(made.means, share[:, None] * off, out=made.means)
        spread = self.counts * share
        np.add(made.traces, other.traces + spread * np.einsum("cd,cd->c", off, off), out=made.traces)
        if made.scatter is not None and other.scatter is not None:
            np.add(made.scatter, other.scatter, out=made.scatter)
            made._add(np.sqrt(spread[both])[:, None] * off[both], both)
        return replace(made, counts=total)

    def _add(self, rows: F64, labels: I64) -> None:
        """Add the squares of rows, one a sample, to the scatter in place."""
        kept = self.scatter
        if kept is None or not len(rows):
            return
        if kept.ndim == 2:
            rows = rows * np.sqrt(self.weights[labels])[:, None] if (self.weights != 1).any() else rows
            kept += rows.T @ rows
            return
        for label in np.unique(labels):
            part = rows[labels == label]
            kept[label] += part.T @ part

    def pooled(self, shares: F64) -> F64:
        """Covariance within classes, sum_c shares_c S_c / n_c (feature, feature), of shares (class) that sum to 1.

        Raises SettingError where the scatter that was kept is of other weights.
        """
        factors = np.divide(shares, self.counts, out=np.zeros(self.classes), where=self.counts > 0)
        if self.scatter is None:
            fix = "make the moments with scatter='full' or 'classes'"
            raise SettingError("covariance within classes", "was not kept (scatter 'trace')", fix=fix)
        if self.scatter.ndim == 3:
            found: F64 = np.einsum("c,cij->ij", factors, self.scatter)
            return found
        there = self.there
        ratio = np.divide(factors[there], self.weights[there], out=np.full(len(there), np.nan),
                          where=self.weights[there] > 0)  # fmt: skip
        if not np.allclose(ratio, ratio[0], rtol=1e-9, atol=0, equal_nan=False):
            raise SettingError(
                "covariance within classes", "was summed with other weights than those asked for",
                expected="class_counts= equal to the counts seen for class weights, none for sample weights",
                fix="measure again with them, or with scatter='classes', which gives all, or ask for weighting='mixed'",
            )  # fmt: skip
        scaled: F64 = ratio[0] * self.scatter
        return scaled

    def geometry(
        self, classifier: Any = None, *, weighting: str = "class", centring: Any = None, name: str = "measured"
    ) -> Geometry:
        """The Geometry of the classes that occur: centred means and, given a classifier (class, feature), its own.

        Empty classes are left out of everything; `conventions` says which. The weighting says what `centring` is
        unless that is given; `conventions.convention` has both. Raises SettingError without two classes that occur.
        """
        there, how = occurring(self), convention(weighting, centring)
        counts = self.counts.astype(np.float64)
        means = self.means[there] - how.centre(self.means, counts)
        told = how.described() | {"classes": classes_text(self)}
        if classifier is None:
            return Geometry(name=name, means=Matrix.of_vectors(means), counts=counts[there], conventions=told)
        w = classifier_weights(classifier, classes=self.classes, width=self.features)[there].astype(np.float64)
        return Geometry(
            name=name, means=Matrix.of_vectors(means), classifiers=Matrix.of_vectors(w), counts=counts[there],
            logits=Matrix(diagonal=np.zeros(len(w)), left=w, right=means), conventions=told,
        )  # fmt: skip


def occurring(moments: ClassMoments) -> I64:
    """The classes that have a sample. Raises SettingError for fewer than two."""
    there = moments.there
    if len(there) < 2:
        raise SettingError(
            "labels", f"{len(there)} of {moments.classes} classes occur", expected="two or more",
            fix="geometry is of classes beside each other: give samples of others too",
        )  # fmt: skip
    return there


def classes_text(moments: ClassMoments) -> str:
    """How many classes occur, and which do not."""
    missing = np.flatnonzero(moments.counts == 0)
    if not len(missing):
        return f"all {moments.classes}"
    names = ", ".join(str(label) for label in missing[:8]) + (
        f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    )
    return f"{moments.classes - len(missing)} of {moments.classes}; empty, left out of everything: {names}"


def check_alike(one: ClassMoments, other: ClassMoments) -> None:
    """Raises SettingError for moments that do not add up to moments."""
    mine, theirs = (
        {"classes": m.classes, "features": m.features, "scatter": "trace" if m.scatter is None else
         "full" if m.scatter.ndim == 2 else "classes"} for m in (one, other)
    )  # fmt: skip
    if mine != theirs:
        raise SettingError("merge", f"moments of {mine} and {theirs}", expected="the same of both")
    if not np.array_equal(one.weights, other.weights):
        raise SettingError("merge", "moments whose scatter has other weights", expected="the same class_counts of both")


def _weights(classes: int, counts: ArrayLike | None) -> F64:
    if counts is None:
        return np.ones(classes)
    given = np.asarray(array(counts), np.float64)
    if given.shape != (classes,) or not np.isfinite(given).all() or (given < 0).any():
        raise SettingError("class_counts", f"have the shape {given.shape}", expected=f"{classes} numbers of 0 or more")
    return np.divide(1.0, given, out=np.zeros(classes), where=given > 0)


@cache
def _kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    """The loops, or their NumPy twins where numba cannot compile or cache."""
    try:
        from deltagram.geometry import welford_numba as found  # noqa: PLC0415 - compiles
    except (ImportError, OSError, RuntimeError):
        from deltagram.geometry import welford_numpy  # noqa: PLC0415

        return welford_numpy.absorb, welford_numpy.absorb_rows
    return found.absorb, found.absorb_rows
