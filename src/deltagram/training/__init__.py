"""Fine-tuning and its measurement; torch and transformers are imported when a function needs them."""

from typing import TYPE_CHECKING, Any

from deltagram.errors import ExtraError

if TYPE_CHECKING:
    from deltagram.training.optim import AdamR

__all__ = ["AdamR"]


def __getattr__(name: str) -> Any:
    """`AdamR`, a class of torch's, is made when it is asked for. Raises ExtraError without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from deltagram.training.optim import AdamR  # noqa: PLC0415 - imports torch
    except ModuleNotFoundError as fault:
        found = f"package {fault.name} is not installed"
        raise ExtraError(f"deltagram.training.{name}", found, fix="pip install 'deltagram[torch]'") from None
    return AdamR
