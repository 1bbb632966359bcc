"""What `inspect --calibration` shows: how pruning moves each layer's output, and why."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deltagram import show

if TYPE_CHECKING:
    from rich.console import Console

    from deltagram.records import Record

_TERMS = ("mean|dW|", "mean c", "sd c", "sqrt Q", "S")
_UNDER = ("divided by", "predicted", "measured", "mean|h|", "bound")


def show_outputs(record: "Record", page: "Console") -> None:
    """A line a layer under DARE's divisor, another where the delta has its own, and the two reasons; or nothing."""
    rows = {name: row["output"] for name, row in record.tensors.items() if "output" in row}
    if not rows:
        return
    table = show.table("layer", *_TERMS, *_UNDER)
    for name, row in rows.items():
        terms = [row[key] for key in ("mean_delta", "mean_c", "sd_c", "rms_squares", "rms_signal")]
        lines = {_under(row[key]): None for key in ("dare", "scales") if key in row}
        for number, line in enumerate(lines):
            shown = [f"{value:.2e}" for value in terms] if number == 0 else [""] * len(terms)
            table.add_row(show.plain(name) if number == 0 else "", *shown, *line)
    page.print()
    page.print(table)
    page.print()
    page.print(_reasons(record.numbers["calibration"]), soft_wrap=True)


def _under(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one divisor: rms predicted and measured, mean |h|, and the mean bound."""
    divisor = "a row each" if row["divide_by"] is None else f"{row['divide_by']:.5g}"
    found = (row.get("predicted_rms"), row["rms"], row["mean_absolute"], row.get("bound"))
    return (divisor, *("" if value is None else f"{value:.2e}" for value in found))


def _reasons(found: Mapping[str, Any]) -> str:
    """One sentence: the two reasons for which dropping fails, and the layers each hits."""
    if not found["layers"]:
        return "The entries were chosen, not drawn: moments and bounds of random dropping do not apply."
    count = found["layers"]
    return (
        f"Random dropping moves outputs for two reasons: the factor of DARE's rescaling is too large, more harmful "
        f"than leaving the delta out, {_hit(found['rescaling'], count, 'times the effect of the delta')}; and mean and "
        f"variance of c = dW x are so large that even at the best divisor more than a tenth of the layer's output is "
        f"changed, {_hit(found['terms'], count, 'of the output')}."
    )


def _hit(ratios: Mapping[str, float], count: int, unit: str) -> str:
    if not ratios:
        return f"in none of {count} layers"
    worst = ", ".join(f"{show.plain(name)} ({ratio:.3g} {unit})" for name, ratio in list(ratios.items())[:2])
    return f"in {len(ratios)} of {count} layers, most in {worst}"
