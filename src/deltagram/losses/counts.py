"""What the losses take from class counts: scales, offsets and weights, one number a class."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from deltagram.arrays import F64
from deltagram.errors import SettingError

ClassWeight = str | Mapping[int, float] | ArrayLike | None

EMPTY: Final = ("refuse", "smooth")
NORMALISE: Final = ("sum", "max", "none")
PSEUDO_COUNT: Final = 1.0


def vector(name: str, values: Any, *, least: float | None = None, zero: bool = False) -> F64:
    """`values` (a sequence, array or tensor) as one finite number a class, above `least` (at least it if `zero`).

    Raises SettingError naming the first class whose number is not one, or a shape other than (class).
    """
    try:
        found = np.asarray(values.tolist() if hasattr(values, "tolist") else values, np.float64)
    except (TypeError, ValueError):
        raise SettingError(name, f"is {values!r}", expected="one number a class") from None
    if found.ndim != 1:
        raise SettingError(name, f"has shape {found.shape}", expected="one number a class")
    if len(found) < 2:
        raise SettingError(name, f"has {len(found)} class{'es' * (len(found) != 1)}", expected="at least 2")
    wrong = ~np.isfinite(found)
    if least is not None:
        wrong |= (found < least) if zero else (found <= least)
    if wrong.any():
        first = int(np.argmax(wrong))
        range_ = "" if least is None else f", {'at least' if zero else 'above'} {least:g}"
        raise SettingError(name, f"is {found[first]:g} for class {first}", expected=f"a finite number{range_}")
    return found


def check_counts(counts: Any, *, name: str = "class_counts") -> F64:
    """Samples a class, (class): whole numbers from 0 on, of which one is not 0. Raises SettingError otherwise."""
    found = vector(name, counts, least=0.0, zero=True)
    broken = found != np.floor(found)
    if broken.any():
        first = int(np.argmax(broken))
        raise SettingError(name, f"is {found[first]:g} for class {first}", expected="a whole number of samples")
    if not found.any():
        raise SettingError(name, "is 0 for every class", expected="a class that has samples")
    return found


def either(class_counts: Any, cls_num_list: Any) -> F64 | None:
    """The counts, by either of their two names; None if neither is given. Raises SettingError for both."""
    if class_counts is not None and cls_num_list is not None:
        raise SettingError("class_counts", "is given, and cls_num_list, its other name, too", expected="one of them")
    if cls_num_list is not None:
        return check_counts(cls_num_list, name="cls_num_list")
    return None if class_counts is None else check_counts(class_counts)


def filled(counts: F64, *, empty: str) -> F64:
    """Counts that can be divided by: as they are, or, with "smooth", `PSEUDO_COUNT` more in every class.

    Raises SettingError for "refuse" where a class is empty, naming those that are.
    """
    if empty not in EMPTY:
        raise SettingError("empty", f"{empty!r} is unknown", expected=" or ".join(EMPTY))
    if empty == "smooth":
        return counts + PSEUDO_COUNT
    nothing = np.flatnonzero(counts == 0)
    if len(nothing):
        named = ", ".join(map(str, nothing[:10])) + (", ..." if len(nothing) > 10 else "")
        fix = f"leave them out, or say empty='smooth' ({PSEUDO_COUNT:g} is added to every count)"
        raise SettingError("class_counts", f"0 samples in class {named}", expected="at least 1 in each", fix=fix)
    return counts


def power_scale(counts: F64, gamma: float, *, normalise: str) -> F64:
    """Scales n_c^gamma: "sum", they sum to k (arXiv 2303.07608); "max", the largest is 1 (arXiv 2103.01550); "none".

    >>> power_scale(np.array([100.0, 25.0]), 0.5, normalise="max")
    array([1. , 0.5])
    """
    if normalise not in NORMALISE:
        raise SettingError("normalise", f"{normalise!r} is unknown", expected=" or ".join(NORMALISE))
    power = finite("gamma", gamma) * np.log(counts)
    if normalise == "none":
        return vector("class_counts ** gamma", np.exp(power), least=0.0)
    scale: F64 = np.exp(power - power.max())
    scaled = scale if normalise == "max" else scale * (len(scale) / scale.sum())
    return vector("class_counts ** gamma", scaled, least=0.0)


def log_prior(counts: F64, tau: float) -> F64:
    """`tau log(n_c / n)`, the offset of logit adjustment (arXiv 2007.07314, Eq. 10)."""
    found: F64 = finite("tau", tau) * np.log(counts / counts.sum())
    return found


def inverse_power(counts: F64, power: float) -> F64:
    """Weights proportional to n_c^-power, of mean 1 over the samples; power 1 is scikit-learn's "balanced".

    >>> inverse_power(np.array([4.0, 2.0]), 1.0)
    array([0.75, 1.5 ])
    """
    weight = power_scale(counts, -finite("power", power), normalise="max")
    scaled: F64 = weight * (counts.sum() / (counts @ weight))
    return scaled


def class_weights(given: ClassWeight, *, counts: F64 | None, classes: int | None, empty: str = "refuse") -> F64 | None:
    """Weights as scikit-learn spells them: None, "balanced" (n / (k n_c)), by class (1 where not named), or all.

    `classes` is k where it is known from other settings. Raises SettingError for "balanced" without counts, for
    classes that do not exist, and for weights that are negative or all 0.
    """
    if given is None:
        return None
    if isinstance(given, str):
        if given != "balanced":
            raise SettingError("class_weight", f"{given!r} is unknown", expected="'balanced', a dict or an array")
        if counts is None:
            raise SettingError("class_weight", "is 'balanced' without counts", fix="give class_counts")
        return inverse_power(filled(counts, empty=empty), 1.0)
    if not isinstance(given, Mapping):
        return _weights("class_weight", given)
    known = range(len(given) if classes is None else classes)
    strange = [key for key in given if key not in known]
    if strange:
        fix = "give class_counts, which say how many classes there are" if classes is None else ""
        expected = f"classes 0 to {len(known) - 1}"
        raise SettingError("class_weight", f"has a weight for class {strange[0]!r}", expected=expected, fix=fix)
    return _weights("class_weight", [given.get(key, 1.0) for key in known])


def chosen_weights(
    weight: Any, class_weight: ClassWeight, *, counts: F64 | None, classes: int | None, empty: str
) -> Any:
    """Torch's `weight` or scikit-learn's `class_weight`, (class), or None. Raises SettingError for both."""
    if weight is None:
        return class_weights(class_weight, counts=counts, classes=classes, empty=empty)
    if class_weight is not None:
        raise SettingError("weight", "is given, and class_weight too", expected="one of them")
    return _weights("weight", weight)


def finite(name: str, value: float) -> float:
    """`value`, if it is a finite number. Raises SettingError otherwise."""
    if not np.isfinite(value):
        raise SettingError(name, f"is {value}", expected="a finite number")
    return float(value)


def _weights(name: str, values: Any) -> F64:
    found = vector(name, values, least=0.0, zero=True)
    if not found.any():
        raise SettingError(name, "is 0 for every class", expected="a weight above 0")
    return found
