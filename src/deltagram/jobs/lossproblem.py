"""A loss by its name and parameters, as the problem whose geometry is predicted."""

from typing import Final

from numpy.typing import ArrayLike

from deltagram.errors import SettingError
from deltagram.geometry.problem import Problem
from deltagram.losses.counts import inverse_power, log_prior, power_scale

LOSSES: Final = ("ce", "la", "cdt", "ldt", "vs")
_GAMMA: Final = {"cdt": 0.5, "ldt": 0.5, "vs": 0.3}  # what the losses of these names take unless told


def problem_of(
    counts: ArrayLike,
    *,
    loss: str,
    gamma: float | None = None,
    tau: float | None = None,
    class_scale: ArrayLike | None = None,
    label_scale: ArrayLike | None = None,
    class_weight: ArrayLike | str | None = None,
) -> Problem:
    """Counts and what a named loss sets: multipliers, offset and weights a class.

    `gamma` makes multipliers `n^gamma` (CDT, LDT: scaled to the sum k; VS: to the largest 1), `tau` the offset
    `tau log(prior)`, "balanced" the weights `sum(n) / (k n)`; defaults are those of `deltagram.losses`. Raises
    SettingError for a parameter that the loss does not have.
    """
    n = Problem.of(counts).counts
    has = {"ce": (), "la": ("tau",), "cdt": ("gamma", "class_scale"), "ldt": ("gamma", "label_scale")}
    has |= {"vs": ("gamma", "class_scale", "label_scale", "tau")}
    if loss not in has:
        raise SettingError("loss", repr(loss), expected=", ".join((*LOSSES, "scl", "scl-prototypes")))
    given = {"gamma": gamma, "tau": tau, "class_scale": class_scale, "label_scale": label_scale}
    for name, value in given.items():
        if value is not None and name not in has[loss]:
            raise SettingError(name, f"is not a parameter of {loss}", expected=", ".join(has[loss]) or "none")
    if gamma is not None and (class_scale is not None or label_scale is not None) and loss != "vs":
        raise SettingError("gamma", "together with scales", expected="one of them")
    if gamma is None and class_scale is None and label_scale is None:
        gamma = _GAMMA.get(loss)
    if gamma is not None:
        by_counts = power_scale(n, gamma, normalise="max" if loss == "vs" else "sum")
        label_scale = by_counts if loss == "ldt" else label_scale
        class_scale = by_counts if loss == "cdt" else class_scale
        if loss == "vs" and class_scale is None:
            class_scale = by_counts
    shift = tau if tau is not None else (1.0 if loss in ("la", "vs") else None)
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise SettingError("class_weight", repr(class_weight), expected="balanced, or a number a class")
        class_weight = inverse_power(n, 1.0)
    return Problem.of(
        counts, class_scale=class_scale, label_scale=label_scale, weight=class_weight,
        offset=None if shift is None else log_prior(n, shift),
    )  # fmt: skip
