"""What a model embeds its examples as: the inputs of its head, through an activation."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from deltagram.errors import SettingError
from deltagram.training.observed import last_linear


def activated(torch: Any, activation: str) -> Callable[[Any], Any]:
    """The function of that name, of features in float32."""
    functions = {"none": lambda x: x, "relu": torch.relu, "softplus": torch.nn.functional.softplus}
    return lambda features: functions[activation](features.float())


class Tap:
    """The inputs of a model's head, (sample, feature), as they last passed, with their graph.

    A head that sees every token is read at the last one that the attention mask has. While the tap is `on` a model,
    `taken()` gives what passed since it was last asked. Raises SettingError where the model has no head, or where
    nothing passed it.
    """

    def __init__(self) -> None:
        self._features: Any = None
        self._mask: Any = None

    @contextmanager
    def on(self, model: Any) -> Iterator["Tap"]:
        """Look at what goes through the head of `model` while the block runs."""
        head = last_linear(model, None)
        handles = [
            model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            head.register_forward_pre_hook(self._before_head),
        ]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
            self._features = self._mask = None

    def taken(self) -> Any:
        """What passed last; it is let go of."""
        found, self._features = self._features, None
        if found is None:
            raise SettingError("the model", "gives no embedding: nothing went through its head", fix="take another")
        if found.ndim == 2:
            return found
        if self._mask is None or found.ndim != 3:
            raise SettingError("the model", f"has a head that sees {tuple(found.shape)}", expected="(sample, feature)")
        return last_real(found, self._mask)

    def _before_model(self, _model: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._mask = kwargs.get("attention_mask")

    def _before_head(self, _head: Any, args: tuple[Any, ...]) -> None:
        self._features = args[0]


def last_real(features: Any, mask: Any) -> Any:
    """Of features (sample, token, feature) those of the last token that the mask (sample, token) has."""
    import torch  # noqa: PLC0415 - an extra

    places = torch.arange(features.shape[1], device=features.device)
    last = (mask.to(features.device) * places).argmax(-1)
    return features[torch.arange(len(features), device=features.device), last]
