"""Losses that shape the geometry of classes; torch is imported when one is asked for."""

from typing import TYPE_CHECKING, Any

from deltagram.errors import ExtraError

if TYPE_CHECKING:
    from deltagram.losses.cross_entropy import CDT, LDT, VS, CrossEntropy, LogitAdjusted

__all__ = ["CDT", "LDT", "VS", "CrossEntropy", "LogitAdjusted"]


def __getattr__(name: str) -> Any:
    """The losses are classes of torch's, made when one is asked for. Raises ExtraError without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from deltagram.losses import cross_entropy  # noqa: PLC0415 - imports torch
    except ModuleNotFoundError as fault:
        found = f"package {fault.name} is not installed"
        raise ExtraError(f"deltagram.losses.{name}", found, fix="pip install 'deltagram[torch]'") from None
    return getattr(cross_entropy, name)
