"""What `select` can recommend: a mask, how values are stored, and a kept share by group; each as a plan file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from deltagram.delta.methods import METHODS, Calibrated
from deltagram.delta.plan import Entry, Plan
from deltagram.jobs.groups import group_of

LEAST: Final = 1e-6
HEADS: Final = "8bit"  # how heads are coded: they weigh much in a small delta, and their own errors little
_SMALLEST: Final = 32  # entries below which a vector is stored whole: its scales would take as much


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """How a delta is made, but for its divisors.

    `keep` is the kept share, `share` (by group) factors on it; `vectors` is how tensors of one dimension are stored:
    "whole", or all their entries as one of `delta.values.VALUES`.
    """

    method: str
    values: str
    keep: float = 0.01
    vectors: str = "8bit"
    share: Mapping[str, float] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether this is what DARE stores: a random mask of one rate, values as they are."""
        return self.method == "random" and self.values == "bf16" and not self.share

    @property
    def weighed(self) -> bool:
        """Whether entries are chosen by what goes into each layer: calibration texts are needed."""
        return issubclass(METHODS[self.method], Calibrated)


TABLE: Final = (
    Candidate(method="random", values="bf16"),
    *(
        Candidate(method="random", values=values)
        for values in ("8bit", "4bit", "3bit", "2bit", "sign", "codebook4", "codebook3", "codebook2")
    ),
    Candidate(method="magnitude", values="4bit"),
    Candidate(method="wanda", values="4bit"),
    Candidate(method="columns", values="2bit"),
)
"""In the order of measurement; plain DARE comes first."""


def plan_text(made: Plan, candidate: Candidate, divisors: Mapping[str, float]) -> str:
    """The YAML file of rules by which `deltagram prune` makes this delta; `divisors` by tensor, DARE's if absent.

    `made` is the plan of the same checkpoints without a rule.
    """
    rules = [rule for entry in made.entries if (rule := _rule(entry, candidate, divisors.get(entry.name)))]
    return yaml.safe_dump({"tensors": rules}, sort_keys=False, default_flow_style=None, width=1000)


def _rule(entry: Entry, candidate: Candidate, divisor: float | None) -> dict[str, Any] | None:
    rule: dict[str, Any] = {"match": _escaped(entry.name)}
    if is_vector(entry):
        if candidate.vectors == "whole":
            return None
        rule |= {"form": "pruned", "method": "random", "keep": 1.0, "values": candidate.vectors}
    elif is_head(entry):
        if candidate.vectors == "whole":
            return None
        rule |= {"form": "whole", "values": HEADS}
        divisor = None
    elif entry.form not in ("pruned", "resized"):
        return None
    elif (group := group_of(entry.name, dimensions=len(entry.tuned.shape))) in candidate.share:
        rule["keep"] = min(1.0, max(LEAST, candidate.keep * candidate.share[group]))
    if divisor is not None:
        rule["divide_by"] = float(divisor)
    return rule if len(rule) > 1 else None


def is_vector(entry: Entry) -> bool:
    """Whether a tensor is stored whole only because it has one dimension."""
    base, tuned = entry.base, entry.tuned
    return (
        entry.form == "whole" and base is not None and len(tuned.shape) == 1 and base.shape == tuned.shape
        and tuned.floating and base.floating and tuned.size >= _SMALLEST and entry.reason == "1-d"
    )  # fmt: skip


def is_head(entry: Entry) -> bool:
    """Whether a tensor is stored whole because it has no base, or is a head, and is worth coding."""
    return (
        entry.form == "whole" and entry.reason in ("not in the base", "head") and entry.tuned.floating
        and entry.tuned.size >= _SMALLEST
    )  # fmt: skip


def _escaped(name: str) -> str:
    """A glob that covers this name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
