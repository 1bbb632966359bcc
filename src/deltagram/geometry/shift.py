"""A shift of the logits fitted after training: what undoes a bias towards common classes without touching the model."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import logsumexp

from deltagram.arrays import F64
from deltagram.errors import SettingError

I64 = NDArray[np.int64]
_WIDEST = 5.0  # of tau


def fitted_shift(logits: F64, labels: I64, *, ridge: float = 1e-3) -> F64:
    """The shift of each class, (class), under which classes of all sizes are told best; subtracted from the logits.

    `min_s sum_i weight_i CE(logits_i - s, label_i) + ridge / 2 |s|^2` with each class weighing the same: convex, so it
    is the only one, and it sums to zero. `logits` (sample, class) and `labels` must be held out from training: on what
    a model was trained on there is nothing left to correct. Raises SettingError if a class has no sample.
    """
    counts = counted(logits, labels)
    k = len(counts)
    weight = 1 / (k * counts[labels])
    own = np.eye(k)[labels]

    def value(s: F64) -> tuple[float, F64]:
        moved = logits - s
        log = moved - logsumexp(moved, axis=1, keepdims=True)
        loss = -float(weight @ log[np.arange(len(labels)), labels]) + ridge / 2 * float(s @ s)
        return loss, -((np.exp(log) - own) * weight[:, None]).sum(0) + ridge * s

    found = minimize(value, np.zeros(k), jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "maxiter": 500})
    return np.asarray(found.x - found.x.mean(), np.float64)


def fitted_tau(logits: F64, labels: I64, prior: F64) -> float:
    """The multiple of `log(prior)` (class) that, subtracted from the logits, tells classes of all sizes best.

    One number: for few held-out samples. 1 is the multiple of logit adjustment (Menon et al., ICLR 2021).
    Raises SettingError if a class has no sample, or no prior.
    """
    counts = counted(logits, labels)
    if (prior <= 0).any():
        at = int(np.flatnonzero(prior <= 0)[0])
        raise SettingError("prior", f"class {at} has {prior[at]:g}", expected="a positive share of each class")
    weight = 1 / counts[labels]
    log_prior = np.log(prior / prior.sum())

    def value(tau: float) -> float:
        moved = logits - tau * log_prior
        return float(weight @ (logsumexp(moved, axis=1) - moved[np.arange(len(labels)), labels]))

    found = minimize_scalar(value, bounds=(-_WIDEST, _WIDEST), method="bounded", options={"xatol": 1e-6})
    return float(found.x)


def counted(logits: F64, labels: I64) -> F64:
    """Samples a class. Raises SettingError for logits that are no numbers, labels outside, and classes without one."""
    if logits.ndim != 2 or len(logits) != len(labels) or not len(labels):
        raise SettingError(
            "logits", f"{logits.shape} for {len(labels)} labels", expected="(sample, class), a label each"
        )
    if not np.isfinite(logits).all():
        at = int(np.flatnonzero(~np.isfinite(logits).all(1))[0])
        raise SettingError("logits", f"of sample {at} are not finite", expected="numbers")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise SettingError("labels", f"{labels.min()} to {labels.max()}", expected=f"0 to {logits.shape[1] - 1}")
    found = np.bincount(labels, minlength=logits.shape[1]).astype(np.float64)
    if not found.all():
        at = int(np.flatnonzero(found == 0)[0])
        raise SettingError("labels", f"class {at} has no held-out sample", expected="one or more of each class")
    return found
