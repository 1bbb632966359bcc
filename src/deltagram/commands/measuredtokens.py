"""What `measure --tokens` prints: a row a checkpoint, and what explains the cosines of the last one."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deltagram import show

if TYPE_CHECKING:
    from deltagram.records import Record

_VIEWS: Final = {
    "states": "states", "centred_states": "less their mean", "logits": "logits", "words": "output embeddings",
}  # fmt: skip


def show_tokens(record: "Record") -> None:
    """Conventions, numbers a model, and correlations with each predictor."""
    n, page = record.numbers, show.out()
    for name, told in n["conventions"].items():
        text = told if isinstance(told, str) else ", ".join(told)
        page.print(f"{name:12} {show.plain(text)}", soft_wrap=True)
    page.print()
    sizes = f"{n['contexts']:,} contexts with {n['supports']:,} supports, {n['words']:,} words"
    page.print(f"{sizes}, H = {n['entropy']:.5g} nats", soft_wrap=True)
    rows = show.table(
        "model", "CE - H", "other tokens", "|in F|", "|rest|", "to log-odds", "rank", "of rest", "1-cos same S",
        "other S", "support: states", "logits", "words",
    )  # fmt: skip
    for one in n["models"]:
        rows.add_row(show.plain(Path(one["model"]).name or one["model"]), *map(_number, _cells(one)))
    page.print(rows)
    page.print()
    last = n["models"][-1]
    _show_structure(last, show.plain(Path(last["model"]).name or last["model"]))
    if len(n["models"]) > 1:
        page.print()
        _show_concepts(n)
    if record.settings["out"]:
        page.print(f"{show.plain(record.settings['out'])}: written")


def _cells(one: Mapping[str, Any]) -> list[Any]:
    found, near = one["logits"], one["collapse"]["logits"]
    agree = [one["structure"][view]["support"]["correlation"] for view in ("states", "logits", "words")]
    return [
        found["gap"], one["other_tokens"], found["within"], found["beyond"], found["from_log_odds"], found["rank"],
        found["rank_beyond"], near["same"], near["other"], *agree,
    ]  # fmt: skip


def _show_structure(one: Mapping[str, Any], name: str) -> None:
    """Correlations over pairs: plain, p-value, and partial given the baselines."""
    page = show.out()
    found = one["structure"]
    table = show.table(f"cosines of {name} with", *(f"{title}: r, p, partial" for title in _VIEWS.values()))
    for predictor in dict.fromkeys(key for view in _VIEWS for key in found[view]):
        cells = (found[view].get(predictor) for view in _VIEWS)
        table.add_row(show.plain(predictor), *("" if cell is None else _agreement(cell) for cell in cells))
    page.print(table)


def _show_concepts(n: Mapping[str, Any]) -> None:
    """Directions of the centred supports, and the first checkpoint with half of what the last has of each."""
    table = show.table("words on one side", "on the other", "singular value", "half learnt by")
    for one in n["concepts"]:
        sides = (show.plain(" ".join(one[side])) for side in ("up", "down"))
        half = "" if one["half_by"] is None else Path(n["models"][one["half_by"]]["model"]).name
        table.add_row(*sides, _number(one["size"]), show.plain(half))
    show.out().print(table)


def _agreement(cell: Mapping[str, Any]) -> str:
    if cell["correlation"] is None:
        return "all alike"
    parts = [f"{cell['correlation']:.3f}", f"{cell['p_value']:.3g}"]
    return ", ".join([*parts, _number(cell["partial"])] if "partial" in cell else parts)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
