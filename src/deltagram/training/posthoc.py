"""Logit adjustment after training, as a scikit-learn classifier: the cheapest remedy for a bias to common classes."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.shift import fitted_shift, fitted_tau

_LEAST = 1e-12  # a probability below counts as this


class LogitAdjustedClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose log-probabilities are shifted against the class frequencies (Menon et al., ICLR 2021, 3.1).

    `log p(y | x) - shift_y`, normalised again. `shift` is "tau" (one multiple of log(prior), fitted), "class" (a number
    a class, fitted) or a number (that multiple of log(prior); 1 for classes that are equally common where it is used).
    What is fitted is fitted to out-of-fold predictions of `cv` stratified folds, never to those of training samples,
    and weighs classes alike: it serves balanced accuracy, not accuracy.

    `estimator` needs predict_proba (default: LogisticRegression). After fit: `estimator_`, trained on all samples,
    `classes_`, `prior_` and `shift_` (class). Raises SettingError for another `shift`, and where a class has fewer
    samples than two.
    """

    def __init__(self, estimator: Any = None, *, shift: str | float = "tau", cv: int = 5) -> None:
        self.estimator = estimator
        self.shift = shift
        self.cv = cv

    def _wrapped(self) -> Any:
        return LogisticRegression() if self.estimator is None else self.estimator

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803 - scikit-learn's name
        """Train the classifier on all samples, and the shift on out-of-fold predictions."""
        shape: tuple[int, ...] = getattr(y, "shape", ())
        if len(shape) == 2 and shape[1] > 1:
            raise ValueError("Multilabel and multioutput targets are not supported.")
        X, y = validate_data(self, X, y, accept_sparse="csr", ensure_min_samples=2)  # noqa: N806
        check_classification_targets(y)
        self.classes_, number = np.unique(y, return_inverse=True)
        counts = np.bincount(number)
        if len(counts) < 2:
            raise ValueError("the classifier needs samples of 2 classes or more; the data has 1 class")
        self.prior_: F64 = counts / counts.sum()
        self.shift_: F64 = self._fitted(X, y, number, counts)
        self.estimator_ = clone(self._wrapped()).fit(X, y)
        return self

    def _fitted(self, x: Any, y: Any, number: Any, counts: Any) -> F64:
        if isinstance(self.shift, str):
            if self.shift not in ("tau", "class"):
                raise SettingError("shift", repr(self.shift), expected="'tau', 'class' or a number")
            folds = min(self.cv, int(counts.min()))
            if folds < 2:
                fix = "give a number for shift, such as 1.0"
                raise SettingError("shift", "a class has one sample: nothing can be held out", fix=fix)
            split = StratifiedKFold(folds, shuffle=True, random_state=0)
            held = cross_val_predict(clone(self._wrapped()), x, y, cv=split, method="predict_proba")
            logits = _log(held)
            if self.shift == "class":
                return fitted_shift(logits, number)
            tau = fitted_tau(logits, number, self.prior_)
        else:
            tau = float(self.shift)
        found: F64 = tau * np.log(self.prior_)
        return found

    def decision_function(self, X: Any) -> F64:  # noqa: N803
        """Shifted log-probabilities (sample, class); of two classes the difference, (sample)."""
        shifted = self._shifted(X)
        return shifted[:, 1] - shifted[:, 0] if len(self.classes_) == 2 else shifted

    def predict_proba(self, X: Any) -> F64:  # noqa: N803
        """Probabilities where classes are as common as the shift makes them, (sample, class)."""
        shifted = self._shifted(X)
        raised = np.exp(shifted - shifted.max(1, keepdims=True))
        found: F64 = raised / raised.sum(1, keepdims=True)
        return found

    def predict(self, X: Any) -> Any:  # noqa: N803
        """The class of the largest shifted probability."""
        shifted = self._shifted(X)
        return self.classes_[shifted.argmax(1)]

    def _shifted(self, x: Any) -> F64:
        check_is_fitted(self)
        x = validate_data(self, x, accept_sparse="csr", reset=False)
        found: F64 = _log(self.estimator_.predict_proba(x)) - self.shift_
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self._wrapped().__sklearn_tags__().input_tags.sparse
        return tags


def _log(probabilities: Any) -> F64:
    found: F64 = np.log(np.maximum(np.asarray(probabilities, np.float64), _LEAST))
    return found
