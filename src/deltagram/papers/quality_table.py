"""Records of the quality tables as Markdown."""

from collections.abc import Iterator, Sequence
from typing import Any

from deltagram.papers.ways import SIZES, WAYS
from deltagram.records import Record


def markdown(records: Sequence[Record]) -> str:
    """A table a variant, a row a way, a column a size; in a cell score, spread, share of the gain and its interval."""
    latest = {
        (record.settings["variant"], record.settings["way"], record.settings["size"]): record for record in records
    }
    variants = dict.fromkeys(variant for variant, _, _ in latest)
    return "\n\n".join("\n".join(_variant(variant, latest)) for variant in variants) + "\n"


def _variant(variant: str, latest: dict[tuple[str, str, str], Record]) -> Iterator[str]:
    ends = latest.get((variant, "ends", ""))
    if ends is not None:
        numbers = ends.numbers
        yield (
            f"**{variant}** ({ends.settings['metric']}, {numbers['tests']:,} test texts): fine-tuned "
            f"{numbers['tuned']:.3f}, base under the tuned head {numbers['base_tuned_head']:.3f}, most common class "
            f"{numbers['most_common_class']:.3f}.\n"
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
        return "below the floor of its form"
    return (
        f"{numbers['score']:.3f} ± {numbers['score_spread']:.3f}, {numbers['share']:.0%} "
        f"[{numbers['share_low']:.0%}, {numbers['share_high']:.0%}], {numbers['ratio']:.0f}x"
    )
