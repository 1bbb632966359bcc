"""Budgets that a selection is made at, and which of their winners is recommended."""

import math
from collections.abc import Sequence
from typing import Final

from deltagram.errors import SettingError
from deltagram.jobs.candidates import TABLE, Candidate
from deltagram.jobs.tournament import Row, Tournament

RATIOS: Final = (30, 100, 300)  # smaller than the model in bfloat16, without a budget or a bound
_LADDER: Final = (10, 30, 100, 300, 1000)  # where a bound on the loss is looked for
_AGREE: Final = 0.95  # of the choosing texts: what the recommendation of a sweep must reach
_FINALISTS: Final = 3  # candidates that are measured at further budgets


def rounds(games: Tournament, dense: int, *, budget: int | None, max_loss: float | None) -> list[list[Row]]:
    """Rows by budget, each the best first. With a bound: smaller and smaller budgets until it is not kept, then one
    between the last two.
    """
    if budget is not None:
        return [games.at(budget)]
    found: list[list[Row]] = []
    table: Sequence[Candidate] = TABLE
    sizes = [dense // ratio for ratio in (RATIOS if max_loss is None else _LADDER)]
    sizes = [size for size in sizes if size > games.least] or sizes[:1]
    for size in sizes:
        found.append(games.at(size, table=table))
        table = _narrowed(found[-1])
        if max_loss is not None and found[-1][0].score.loss > max_loss:
            break
    if max_loss is None:
        return found
    if found[0][0].score.loss > max_loss:
        raise SettingError(
            "--max-loss", f"{max_loss} is not reached: at {sizes[0]:,} bytes the loss is {found[0][0].score.loss:.4g}",
            fix="allow a larger loss, or prune with a larger --keep",
        )  # fmt: skip
    if found[-1][0].score.loss > max_loss:
        middle = math.isqrt(sizes[len(found) - 2] * sizes[len(found) - 1])
        found.append(games.at(middle, table=table))
    return found


def _narrowed(rows: Sequence[Row]) -> tuple[Candidate, ...]:
    """Plain DARE, and the masks and codecs that did best: what a further budget measures."""
    kinds = list(dict.fromkeys((row.candidate.method, row.candidate.values) for row in rows))
    best = [Candidate(method=m, values=v) for m, v in kinds if (m, v) != ("random", "bf16")][:_FINALISTS]
    return TABLE[0], *best


def recommended(by_budget: Sequence[Sequence[Row]], max_loss: float | None) -> Row:
    """The least bytes that keep to the bound or, without one, that agree on enough of the choosing texts."""
    best = sorted((rows[0] for rows in by_budget), key=lambda row: row.nbytes)
    if max_loss is not None:
        return next(row for row in best if row.score.loss <= max_loss)
    return next((row for row in best if (row.score.agreement or 0) >= _AGREE), best[-1])
