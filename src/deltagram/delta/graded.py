"""A number that may differ from tensor to tensor: by a part of its name, and along the layers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LAYER = re.compile(r"^(.*?\.|)(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Applies to names that hold `part` (to all without one); several `anchors` are spread evenly over the layers."""

    anchors: tuple[float, ...]
    part: str | None = None


@dataclass(frozen=True, kw_only=True)
class Graded:
    """The first rule that covers a name decides; `stepped` takes an anchor as it is instead of interpolating."""

    rules: tuple[Rule, ...]
    stepped: bool = False

    @classmethod
    def constant(cls, value: float) -> "Graded":
        """The same number everywhere."""
        return cls(rules=(Rule(anchors=(value,)),))

    @property
    def layered(self) -> bool:
        """Whether the layer matters."""
        return any(len(rule.anchors) > 1 for rule in self.rules)

    def at(self, name: str, depth: float) -> float | None:
        """The number for a tensor at `depth` (0 first layer, 1 last), or None where no rule covers it.

        >>> Graded(rules=(Rule(anchors=(0.0, 1.0, 0.5)),)).at("layers.3.w", 0.75)
        0.75
        """
        rule = next((rule for rule in self.rules if rule.part is None or rule.part in name), None)
        if rule is None:
            return None
        place = depth * (len(rule.anchors) - 1)
        first = int(place)
        if self.stepped:
            return rule.anchors[first]
        last = min(len(rule.anchors) - 1, first + 1)
        return (1 - (place - first)) * rule.anchors[first] + (place - first) * rule.anchors[last]

    def describe(self) -> object:
        """As plain data: a number, or one `{filter, value}` a rule."""
        shown = [list(rule.anchors) if len(rule.anchors) > 1 else rule.anchors[0] for rule in self.rules]
        if len(self.rules) == 1 and self.rules[0].part is None:
            return shown[0]
        return [{"filter": rule.part, "value": value} for rule, value in zip(self.rules, shown, strict=True)]


def stacks(names: Iterable[str]) -> list[str]:
    """What stands before the layer number in these names: one text for each stack of layers."""
    return sorted({found[1] for name in names if (found := _LAYER.match(name))})


def depths(names: Iterable[str]) -> dict[str, float]:
    """How deep each tensor lies in its stack of layers: 0 in the first, 1 in the last; 0 outside of layers.

    A stack of one layer is at 1, as mergekit has it.

    >>> depths(["embed", "h.0.w", "h.1.w", "h.2.experts.5.w"])
    {'embed': 0.0, 'h.0.w': 0.0, 'h.1.w': 0.5, 'h.2.experts.5.w': 1.0}
    """
    found = {name: _LAYER.match(name) for name in names}
    last: dict[str, int] = {}
    for match in found.values():
        if match:
            last[match[1]] = max(last.get(match[1], 0), int(match[2]))
    return {
        name: 0.0 if match is None else int(match[2]) / last[match[1]] if last[match[1]] else 1.0
        for name, match in found.items()
    }
