"""Records of the quality tables as Markdown."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from deltagram.papers.ways import SIZES, WAYS
from deltagram.records import Record
from deltagram.training.metrics import PERPLEXITY


def markdown(records: Sequence[Record]) -> str:
    """A table a variant, a row a way, a column a size; in a cell score, spread, share of the gain and its interval.

    The spread is over masks, and left out where one was drawn; a dash stands where the fixed part of such a delta is
    larger than the size.
    """
    latest = {
        (record.settings["variant"], record.settings["way"], record.settings["size"]): record for record in records
    }
    variants = dict.fromkeys(variant for variant, _, _ in latest)
    return "\n\n".join("\n".join(_variant(variant, latest)) for variant in variants) + "\n"


def _variant(variant: str, latest: dict[tuple[str, str, str], Record]) -> Iterator[str]:
    ends = latest.get((variant, "ends", ""))
    if ends is not None:
        numbers = ends.numbers
        least = numbers["most_common_class"]
        top, bottom = (_shown(ends, numbers[name]) for name in ("tuned", "base_tuned_head"))
        yield (
            f"**{variant}** ({ends.settings['metric']}, {numbers['tests']:,} test texts): fine-tuned "
            f"{top:.3f}, base under the tuned head {bottom:.3f}"
            f"{'' if least is None else f', most common class {least:.3f}'}.\n"
        )
    sizes = [size.label for size in SIZES if any((variant, way.label, size.label) in latest for way in WAYS)]
    yield "| way | " + " | ".join(sizes) + " |"
    yield "|---" * (len(sizes) + 1) + "|"
    for way in WAYS:
        cells = [latest.get((variant, way.label, size)) for size in sizes]
        if any(cells):
            yield f"| {way.label} | " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(record: Record | None) -> str:
    if record is None:
        return ""
    numbers: Any = record.numbers
    if "refused" in numbers:
        return "-"
    score = _shown(record, numbers["score"])
    spread = numbers["score_spread"] * (score if record.settings["metric"] == PERPLEXITY else 1)
    spread_shown = f" ± {spread:.3f}" if len(record.settings["masks"]) > 1 else ""
    interval = f"[{numbers['share_low']:.0%}, {numbers['share_high']:.0%}]"
    return f"{score:.3f}{spread_shown}, {numbers['share']:.0%} {interval}, {numbers['ratio']:.0f}x"


def _shown(record: Record, score: float) -> float:
    """A score as it is known: perplexity for minus a log-likelihood, which is what shares are taken of."""
    return math.exp(-score) if record.settings["metric"] == PERPLEXITY else score
