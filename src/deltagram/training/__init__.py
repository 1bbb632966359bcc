"""Fine-tuning and its measurement; torch and transformers are imported when a function needs them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from deltagram.errors import ExtraError

if TYPE_CHECKING:
    from deltagram.training.callbacks import GeometryCallback
    from deltagram.training.heads import FixedClassifier
    from deltagram.training.optim import AdamR
    from deltagram.training.posthoc import LogitAdjustedClassifier

__all__ = ["AdamR", "FixedClassifier", "GeometryCallback", "LogitAdjustedClassifier"]

_PLACES = {
    "AdamR": "optim", "FixedClassifier": "heads", "GeometryCallback": "callbacks", "LogitAdjustedClassifier": "posthoc",
}  # fmt: skip
_EXTRAS = {"sklearn": "sklearn"}  # the extra of a package that is missing; others come with torch


def __getattr__(name: str) -> Any:
    """Classes of torch's and scikit-learn's, made when one is asked for. Raises ExtraError without the package."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"deltagram.training.{_PLACES[name]}"), name)
    except ModuleNotFoundError as fault:
        found = f"package {fault.name} is not installed"
        extra = _EXTRAS.get(str(fault.name), "torch")
        raise ExtraError(f"deltagram.training.{name}", found, fix=f"pip install 'deltagram[{extra}]'") from None
