"""A diagnosis as one picture: recall, norm, nearest classifier, alignment and spread of each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deltagram.errors import ExtraError, SettingError
from deltagram.records import Record
from deltagram.store.staging import check_output, staged_file

FORMATS: Final = (".svg", ".png", ".pdf")
_MOST: Final = 48  # classes: beyond, the failing ones and those of lowest recall
# Okabe and Ito's colours, which the colour-blind tell apart; a marker each besides.
_LOOKS: Final[Mapping[str, tuple[str, str]]] = {
    "healthy": ("#999999", "o"), "merged": ("#D55E00", "X"), "small norm": ("#0072B2", "v"),
    "misaligned": ("#009E73", "D"), "spread": ("#CC79A7", "P"), "prior bias": ("#E69F00", "s"),
    "unexplained": ("#000000", "*"),
}  # fmt: skip
_PANELS: Final = (
    ("recall", None, "recall"), ("norm", "predicted_norm", "norm of classifier\n(over their mean)"),
    ("nearest", "predicted_nearest", "cosine with the\nnearest classifier"),
    ("alignment", "predicted_alignment", "cosine of classifier\nand class mean"),
    ("spread", None, "spread over distance\nof nearest mean"),
)  # fmt: skip


def check_picture(path: Path, *, force: bool) -> None:
    """Raises SettingError for another kind of picture, OutputError for one there is, ExtraError without matplotlib."""
    if path.suffix not in FORMATS:
        raise SettingError(str(path), f"ends in {path.suffix!r}", expected=" or ".join(FORMATS))
    check_output(path, force=force, inputs=(), lone=True)
    _matplotlib()


def draw_diagnosis(record: Record, path: Path, *, force: bool = False) -> None:
    """Draw the record of `diagnose` into the file `path`; raises as `check_picture`."""
    check_picture(path, force=force)
    figure = diagnosis_figure(record.numbers)
    with staged_file(path, force=force) as place:
        figure.savefig(place, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)


def diagnosis_figure(numbers: Mapping[str, Any]) -> Any:
    """A matplotlib Figure: a row a class from the most samples to the fewest, a dot measured, a bar predicted."""
    figure_of, lines = _matplotlib()
    found = _shown(numbers["findings"])
    names = [str(numbers["names"][f["label"]] if numbers["names"] else f["label"]) for f in found]
    figure = figure_of(figsize=(11, 1.9 + 0.24 * len(found)), layout="constrained")
    axes = figure.subplots(1, len(_PANELS), sharey=True)
    for axis, (key, predicted, title) in zip(axes, _PANELS, strict=True):
        _panel(axis, found, key=key, predicted=predicted)
        axis.set_title(title, fontsize=9)
    axes[0].set_yticks(range(len(found)), [f"{n}  ({f['count']:,.0f})" for n, f in zip(names, found, strict=True)])
    axes[0].tick_params(axis="y", labelsize=8)
    axes[0].set_ylim(len(found) - 0.5, -0.5)
    axes[0].set_ylabel("class (samples in training)", fontsize=9)
    axes[0].set_xlim(-0.04, 1.04)
    causes = list(dict.fromkeys(f["cause"] for f in found))
    handles = [
        lines.Line2D([], [], color=_LOOKS[c][0], marker=_LOOKS[c][1], linestyle="", label=c) for c in causes
    ]  # fmt: skip
    handles.append(lines.Line2D([], [], color="black", marker="|", markersize=11, linestyle="", label="predicted"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    failing = sum(f["cause"] != "healthy" for f in numbers["findings"])
    figure.suptitle(
        f"{failing} of {len(numbers['findings'])} classes fail; mean recall {numbers['balanced_recall']:.3f}"
        + (f" ({len(found)} classes shown)" if len(found) < len(numbers["findings"]) else ""), fontsize=11,
    )  # fmt: skip
    return figure


def _shown(findings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The classes to draw, by count."""
    chosen = sorted(findings, key=lambda f: (f["cause"] == "healthy", f["recall"]))[:_MOST]
    return sorted(chosen, key=lambda f: (-f["count"], f["label"]))


def _panel(axis: Any, found: Sequence[Mapping[str, Any]], *, key: str, predicted: str | None) -> None:
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for row, f in enumerate(found):
        colour, marker = _LOOKS[f["cause"]]
        axis.plot([f[key]], [row], color=colour, marker=marker, markersize=6, linestyle="")
        if predicted is not None:
            axis.plot([f[predicted]], [row], color="black", marker="|", markersize=11, linestyle="")


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib import lines  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError:
        raise ExtraError("matplotlib", "is not installed", fix="pip install 'deltagram[report]'") from None
    return Figure, lines
