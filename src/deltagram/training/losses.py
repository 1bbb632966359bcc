"""What is minimised, by name."""

from collections.abc import Callable, Mapping
from typing import Any, Final

IGNORED: Final = -100


def cross_entropy(torch: Any, logits: Any, target: Any) -> Any:
    """Mean cross-entropy of `example class` logits over the examples whose target is not `IGNORED`."""
    return torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORED)


LOSSES: Final[Mapping[str, Callable[[Any, Any, Any], Any]]] = {"ce": cross_entropy}
