"""What a paper claims, and the ranges fixed beforehand in which measured numbers bear it out: `claims.toml`, read."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What the paper has (or implies) for a number, and the least or the most that still bears the claim out."""

    claimed: float
    least: float | None = None
    most: float | None = None

    def holds(self, got: float) -> bool:
        """Whether a number is in the range; NaN never is.

        >>> Bound(claimed=0.98, least=0.5).holds(0.6), Bound(claimed=0.0, most=0.3).holds(float("nan"))
        (True, False)
        """
        return (self.least is None or got >= self.least) and (self.most is None or got <= self.most)

    @property
    def tolerance(self) -> float:
        """How far from `claimed` a number may lie on the side that speaks against the claim."""
        return max(abs(self.claimed - edge) for edge in (self.least, self.most) if edge is not None)

    def __str__(self) -> str:
        return " and ".join(
            f"{word} {edge:g}" for word, edge in (("at least", self.least), ("at most", self.most)) if edge is not None
        )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim: where the paper makes it, what could refute it, its settings, and the bounds of each number."""

    id: str
    paper: str
    statement: str
    source: str
    control: str
    settings: Mapping[str, Any]
    bounds: Mapping[str, Bound]

    def broken(self, got: Mapping[str, float]) -> list[str]:
        """The bounds that `got` does not keep, in words. Raises KeyError for a number that was not measured.

        A bound whose number is named in no `got` would never be judged, hence the error.
        """
        return [
            f"{name} is {got[name]:.3g}, {bound} was asked"
            for name, bound in self.bounds.items()
            if not bound.holds(got[name])
        ]


def claims(paper: str) -> dict[str, Claim]:
    """The claims of a paper by their id, in the order of the file."""
    table = tomllib.loads(files("deltagram.papers").joinpath("claims.toml").read_text("utf-8"))
    return {
        name: Claim(
            id=name,
            paper=paper,
            statement=entry["statement"],
            source=entry["source"],
            control=entry["control"],
            settings=entry["settings"],
            bounds={number: Bound(**bound) for number, bound in entry["bounds"].items()},
        )
        for name, entry in table[paper].items()
    }
