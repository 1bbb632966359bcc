"""Which prototypes go with which end of a network: an orthogonal frame with a ReLU, balanced prototypes without."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from deltagram.errors import SettingError
from deltagram.geometry.admissible import admissible, wanted

NON_NEGATIVE: Final = ("relu", "softplus", "square")
FREE: Final = ("none", "identity", "linear", "free")
_KINDS: Final = {"of": True, "etf": False, "separation": False, "minority": False}  # whether non-negative
_CLOSE: Final = 1e-6


def head_mismatch(prototypes: str | ArrayLike, activation: str | None) -> str | None:
    """Why features behind this activation do not take the prototypes' geometry, in a sentence; None if they do.

    `prototypes` is a kind - of, etf, separation, minority - or their Gram (class, class); `activation` is what the
    network ends with before features are normalised: relu, softplus or square, or none.

    Raises SettingError for another kind or activation, or what is not a Gram.

    >>> head_mismatch("of", "relu") is None
    True
    >>> head_mismatch("etf", "relu")[:45]
    'prototypes at negative cosines, features that'
    """
    named = (activation or "none").lower()
    if named not in (*NON_NEGATIVE, *FREE):
        raise SettingError("activation", repr(activation), expected=", ".join((*NON_NEGATIVE, *FREE)))
    if isinstance(prototypes, str):
        if prototypes not in _KINDS:
            raise SettingError("prototypes", repr(prototypes), expected=f"{', '.join(_KINDS)}, or a Gram")
        frame, negative = _KINDS[prototypes], not _KINDS[prototypes]
        balanced = not frame
    else:
        gram = wanted(prototypes)
        off = gram[~np.eye(len(gram), dtype=bool)]
        frame, negative = float(np.abs(off).max()) <= _CLOSE, float(off.min()) < -_CLOSE
        balanced = admissible(gram).weights is not None
    if named in NON_NEGATIVE:
        return None if frame else (_NEGATIVE if negative else _ACUTE).format(named)
    return None if balanced else _UNBALANCED


_NEGATIVE: Final = (
    "prototypes at negative cosines, features that are not negative ({}): no feature reaches them; take the activation "
    "away, or use an orthogonal frame (design of)"
)
_ACUTE: Final = (
    "prototypes at positive cosines, features that are not negative ({}): classes are driven to right angles; use an "
    "orthogonal frame (design of)"
)
_UNBALANCED: Final = (
    "prototypes that no positive weights balance, such as an orthogonal frame, and free features: the loss does not "
    "see a shift of all prototypes, and features go to the centred ones (a simplex, for the frame); end the network "
    "with a ReLU or softplus, or use the simplex (design etf)"
)
