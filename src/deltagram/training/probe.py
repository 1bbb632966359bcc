"""A linear probe: the best linear classifier on features that stay as they are."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, F64
from deltagram.errors import SettingError

I64 = NDArray[np.int64]
_STEPS: Final = 200


def linear_probe(
    features: F32 | F64,
    labels: I64,
    *,
    classes: int,
    class_weight: F64 | None = None,
    bias: bool = True,
    ridge: float = 1e-4,
) -> tuple[F64, F64]:
    """Weights (class, feature) and bias (class) of multinomial logistic regression on features (sample, feature).

    Minimised is the mean cross-entropy, samples weighted by `class_weight` (class), plus ridge / 2 times the squares
    of weights and bias (0 without `bias`) for features of mean square norm 1; other features are scaled to it, and
    the scale is folded into the weights. Raises SettingError for features that are not finite or all zero.
    """
    import torch  # noqa: PLC0415 - an extra

    size = float(np.sqrt(np.square(features, dtype=np.float64).sum(1).mean()))
    if not 0 < size < np.inf:
        found = "are all zero" if size == 0 else "are not finite"
        raise SettingError("features", f"of the probe {found}", fix="train at a lower rate")
    x, y = torch.from_numpy(features.astype(np.float64) / size), torch.from_numpy(labels)
    chosen = np.ones(classes) if class_weight is None else class_weight
    weight = torch.from_numpy(np.asarray(chosen, np.float64))
    w = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(classes, dtype=torch.float64, requires_grad=bias)
    search: Any = torch.optim.LBFGS([w, b] if bias else [w], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Any:
        search.zero_grad()
        found: Any = torch.nn.functional.cross_entropy(x @ w.T + b, y, weight=weight)
        found = found + ridge / 2 * (w.square().sum() + b.square().sum())
        found.backward()
        return found

    search.step(loss)
    return w.detach().numpy() / size, b.detach().numpy()
