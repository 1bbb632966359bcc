"""What a search for divisors found, for people."""

from typing import TYPE_CHECKING, Any, Final

from deltagram import show

if TYPE_CHECKING:
    from collections.abc import Mapping

DIVIDE_BY: Final = (
    "dare (the kept share), a number, or a search: output (needs --calibration), labels (--labels), each one factor "
    "or, with -layers, one a layer; distil or distil-rows (--calibration), fitted by gradient."
)


def show_search(found: "Mapping[str, Any]") -> None:
    """Divisor against error (or step against loss), what was taken, and what it took."""
    page = show.out()
    fitted = "start" in found
    rows = show.table("step" if fitted else "divide by", found["measure"], "")
    points = found["curve"][:: max(1, len(found["curve"]) // 12)] if fitted else found["curve"]
    for point in points:
        first = str(point["step"]) if fitted else f"{point['divide_by']:.5g}"
        taken = not fitted and point["knob"] == found["knob"]
        rows.add_row(first, f"{point['value']:.5g}", "<- taken" if taken else "")
    page.print(rows)
    page.print(f"{found['texts']} texts, {found['forward_passes']} forward passes over them")
