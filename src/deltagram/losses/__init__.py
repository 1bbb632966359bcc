"""Losses that shape the geometry of classes; torch is imported when one is asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from deltagram.errors import ExtraError

if TYPE_CHECKING:
    from deltagram.losses.contrastive import SupervisedContrastive
    from deltagram.losses.contrastive_cached import cached_backward
    from deltagram.losses.cross_entropy import CDT, LDT, VS, CrossEntropy, LogitAdjusted

__all__ = ["CDT", "LDT", "VS", "CrossEntropy", "LogitAdjusted", "SupervisedContrastive", "cached_backward"]

_ELSEWHERE: Final = {"SupervisedContrastive": "contrastive", "cached_backward": "contrastive_cached"}


def __getattr__(name: str) -> Any:
    """The losses are classes of torch's, made when one is asked for. Raises ExtraError without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        file = import_module(f"{__name__}.{_ELSEWHERE.get(name, 'cross_entropy')}")
    except ModuleNotFoundError as fault:
        found = f"package {fault.name} is not installed"
        raise ExtraError(f"deltagram.losses.{name}", found, fix="pip install 'deltagram[torch]'") from None
    return getattr(file, name)
