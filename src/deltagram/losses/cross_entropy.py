"""Cross-entropy and its parameterisations for imbalanced classes: LA, CDT, LDT, VS.

Sources: CDT, LDT, VS and their geometry, Behnia et al., AISTATS 2023 (arXiv 2303.07608), Eqs. (2), (3); VS, Kini et
al., NeurIPS 2021 (arXiv 2103.01550); LA, Menon et al., ICLR 2021 (arXiv 2007.07314), Eq. (10). `offset` is added to the
logits, as in the latter two; the iota of arXiv 2303.07608, Eq. (2), is its negative.
"""

from typing import Any, Final, Self

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.losses.counts import (
    ClassWeight,
    check_counts,
    either,
    filled,
    finite,
    inverse_power,
    log_prior,
    power_scale,
    vector,
)
from deltagram.losses.parameterised import ParameterisedCrossEntropy

__all__ = ["CDT", "LDT", "VS", "CrossEntropy", "LogitAdjusted"]

SYMMETRIC_GAMMA: Final = 0.5  # n_c^(1/2): where CDT aligns and LDT makes the classifiers symmetric, arXiv 2303.07608
VS_GAMMA: Final = 0.3  # the default of the authors' code for arXiv 2103.01550


class CrossEntropy(ParameterisedCrossEntropy):
    """`omega_y CE(z, y)`: torch's cross-entropy, with weights spelled as torch or as scikit-learn does.

    `class_counts` (or `cls_num_list`) are needed for `class_weight="balanced"` alone. See the parent class.
    """

    def __init__(
        self,
        weight: Any = None,
        *,
        class_counts: Any = None,
        cls_num_list: Any = None,
        class_weight: ClassWeight = None,
        empty: str = "refuse",
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(
            counts=either(class_counts, cls_num_list), weight=weight, class_weight=class_weight, empty=empty,
            ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing,
        )  # fmt: skip

    @classmethod
    def inverse_power(cls, class_counts: Any, *, power: float, empty: str = "refuse", reduction: str = "mean") -> Self:
        """Weights proportional to n_c^-power, of mean 1 over the samples: 1 is "balanced".

        Power 1/2 makes the weight decay at which classes merge the same for all of them.
        """
        weight = inverse_power(filled(check_counts(class_counts), empty=empty), power)
        return cls(weight, reduction=reduction)


class LogitAdjusted(ParameterisedCrossEntropy):
    """`CE(z + offset, y)`, offset_c = tau log(n_c / n) unless given: Eq. (10) of arXiv 2007.07314.

    Tau is 1 unless given (balanced softmax). Decide by z alone: the offset belongs to training.
    """

    def __init__(
        self,
        class_counts: Any = None,
        *,
        cls_num_list: Any = None,
        tau: float | None = None,
        offset: Any = None,
        weight: Any = None,
        class_weight: ClassWeight = None,
        empty: str = "refuse",
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        counts = either(class_counts, cls_num_list)
        _one_source("LogitAdjusted", counts, offset=offset)
        super().__init__(
            offset=_offset(offset, counts, tau=tau, empty=empty),
            counts=counts, weight=weight, class_weight=class_weight, empty=empty,
            ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing,
        )  # fmt: skip


class CDT(ParameterisedCrossEntropy):
    """`CE(class_scale * z, y)`: class-dependent temperatures, Eq. (3a) of arXiv 2303.07608.

    class_scale_c = delta_c is proportional to n_c^gamma unless given; gamma is 1/2 unless given. `normalise`: they sum
    to k ("sum", that paper), the largest is 1 ("max", arXiv 2103.01550), or n_c^gamma itself ("none").
    """

    def __init__(
        self,
        class_counts: Any = None,
        *,
        cls_num_list: Any = None,
        gamma: float | None = None,
        normalise: str = "sum",
        class_scale: Any = None,
        weight: Any = None,
        class_weight: ClassWeight = None,
        empty: str = "refuse",
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        counts = either(class_counts, cls_num_list)
        _one_source("CDT", counts, class_scale=class_scale)
        super().__init__(
            class_scale=_scale("class_scale", class_scale, counts, gamma=gamma, normalise=normalise, empty=empty),
            counts=counts, weight=weight, class_weight=class_weight, empty=empty,
            ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing,
        )  # fmt: skip

    @classmethod
    def aligned(cls, class_counts: Any, *, empty: str = "refuse", reduction: str = "mean") -> Self:
        """delta_c proportional to sqrt(n_c): in the limit every classifier points along its class mean."""
        return cls(class_counts, gamma=SYMMETRIC_GAMMA, empty=empty, reduction=reduction)


class LDT(ParameterisedCrossEntropy):
    """`CE(label_scale_y z, y)`: label-dependent temperatures, Eq. (3b) of arXiv 2303.07608.

    The whole row of a sample's logits is scaled by its label's Delta_y, proportional to n_c^gamma unless given; gamma
    and `normalise` as in `CDT`. Soft and smoothed labels: the expectation over labels, each with its own scale.
    """

    def __init__(
        self,
        class_counts: Any = None,
        *,
        cls_num_list: Any = None,
        gamma: float | None = None,
        normalise: str = "sum",
        label_scale: Any = None,
        weight: Any = None,
        class_weight: ClassWeight = None,
        empty: str = "refuse",
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        counts = either(class_counts, cls_num_list)
        _one_source("LDT", counts, label_scale=label_scale)
        super().__init__(
            label_scale=_scale("label_scale", label_scale, counts, gamma=gamma, normalise=normalise, empty=empty),
            counts=counts, weight=weight, class_weight=class_weight, empty=empty,
            ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing,
        )  # fmt: skip

    @classmethod
    def symmetric(
        cls, class_counts: Any, *, kappa: float | None = None, empty: str = "refuse", reduction: str = "mean"
    ) -> Self:
        """Delta_c = kappa sqrt(n_c) and weights n / (k n_c): a simplex of classifiers at every weight decay.

        On free features with lambda/2 (|W|^2 + |H|^2) beside the sum of losses the minimiser's scaled logits
        Delta_c z are proportional to I - 11^T/k for any counts, and zero from lambda = kappa n / k on: classifiers an
        exact simplex frame, class means its angles with norms proportional to n_c^(-1/2). `kappa` is
        k / sum sqrt(n_c) unless given.
        """
        counts = filled(check_counts(class_counts), empty=empty)
        scale = power_scale(counts, 0.5, normalise="sum" if kappa is None else "none")
        scale = scale if kappa is None else vector("kappa", finite("kappa", kappa) * scale, least=0.0)
        return cls(label_scale=scale, weight=inverse_power(counts, 1.0), reduction=reduction)


class VS(ParameterisedCrossEntropy):
    """`CE(class_scale * z + offset, y)`: vector scaling, arXiv 2103.01550; Eq. (2) of 2303.07608 with iota = -offset.

    From counts: class_scale_c = (n_c / n_max)^gamma ("max"; see `CDT` for `normalise`) and offset_c = tau log(n_c / n),
    with gamma 0.3 and tau 1 unless given. Given arrays take their place; without counts what is not given is neutral.
    `label_scale` multiplies the row of scaled logits, before the offset, by its label's scale: all losses of this
    file are cases of this one.
    """

    def __init__(
        self,
        class_counts: Any = None,
        *,
        cls_num_list: Any = None,
        tau: float | None = None,
        gamma: float | None = None,
        normalise: str = "max",
        class_scale: Any = None,
        label_scale: Any = None,
        offset: Any = None,
        weight: Any = None,
        class_weight: ClassWeight = None,
        empty: str = "refuse",
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        counts = either(class_counts, cls_num_list)
        _one_source("VS", counts, class_scale=class_scale, label_scale=label_scale, offset=offset)
        super().__init__(
            class_scale=_scale(
                "class_scale", class_scale, counts, gamma=gamma, default=VS_GAMMA, normalise=normalise, empty=empty
            ),
            label_scale=None if label_scale is None else vector("label_scale", label_scale, least=0.0),
            offset=_offset(offset, counts, tau=tau, empty=empty),
            counts=counts, weight=weight, class_weight=class_weight, empty=empty,
            ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing,
        )  # fmt: skip


def _one_source(loss: str, counts: F64 | None, **arrays: Any) -> None:
    """SettingError if a loss is given neither counts nor any of its arrays."""
    if counts is None and all(values is None for values in arrays.values()):
        raise SettingError(loss, "has no parameters", fix=f"give class_counts, or {' or '.join(arrays)}")


def _scale(
    name: str, given: Any, counts: F64 | None, *, gamma: float | None, default: float = SYMMETRIC_GAMMA,
    normalise: str, empty: str,
) -> F64 | None:  # fmt: skip
    """The scale that is given, or that of the counts, or None. Raises SettingError for both an array and gamma."""
    _not_both(name, given, counts, gamma=gamma)
    if given is not None:
        return vector(name, given, least=0.0)
    if counts is None:
        return None
    return power_scale(filled(counts, empty=empty), default if gamma is None else gamma, normalise=normalise)


def _offset(given: Any, counts: F64 | None, *, tau: float | None, empty: str) -> F64 | None:
    """The offset that is given, or that of the counts, or None. Raises SettingError for both an array and tau."""
    _not_both("offset", given, counts, tau=tau)
    if given is not None:
        return vector("offset", given)
    return None if counts is None else log_prior(filled(counts, empty=empty), 1.0 if tau is None else tau)


def _not_both(name: str, given: Any, counts: F64 | None, **setting: float | None) -> None:
    """SettingError for a setting that nothing would follow: it makes an array of counts."""
    for word, value in setting.items():
        if value is not None and given is not None:
            raise SettingError(name, f"is given, and {word}, which would make one, too", expected="one of them")
        if value is not None and counts is None:
            raise SettingError(word, "is given without counts", fix="give class_counts")
