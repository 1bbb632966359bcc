"""`diagnose`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltagram import show
from deltagram.commands.options import Device, Force, Json, MaxLength, emit, numbers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deltagram.records import Record

ROWS = 32


def diagnose(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Features (.npz, .safetensors), or a classifier.")],
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Of a classifier: labelled held-out texts.")
    ] = None,
    class_counts: Annotated[
        str, typer.Option(help="Samples a class in training: 500,50, 500x5,50x5, or a .json or .txt file.")
    ] = ...,  # type: ignore[assignment]
    loss: Annotated[str, typer.Option(help="What was minimised: ce, la, cdt, ldt or vs.")] = "ce",
    gamma: Annotated[float | None, typer.Option(help="cdt, ldt, vs: multipliers n^gamma.")] = None,
    tau: Annotated[float | None, typer.Option(help="la, vs: offset tau log(prior).")] = None,
    class_scale: Annotated[str | None, typer.Option(help="cdt, vs: a multiplier a class.")] = None,
    label_scale: Annotated[str | None, typer.Option(help="ldt, vs: a multiplier a label.")] = None,
    class_weight: Annotated[str | None, typer.Option(help="balanced, or a weight a class.")] = None,
    text: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    label: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    split: Annotated[str | None, typer.Option(help="Split of DATA, where it has several; train.")] = None,
    max_length: MaxLength = 128,
    device: Device = "cpu",
    picture: Annotated[Path | None, typer.Option(help="Draw it there: .svg, .png or .pdf.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the record as JSON there.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Say why classes fail: measured geometry beside the predicted one, the cause that fits, and what helps."""
    from deltagram import hub, jobs  # noqa: PLC0415 - keeps --help fast

    if picture is not None:
        from deltagram.report.diagnosis import check_picture  # noqa: PLC0415

        check_picture(picture, force=force)
    weight = class_weight if class_weight in (None, "balanced") else numbers("--class-weight", class_weight)
    with show.progress(quiet=json) as bar:
        record = jobs.diagnose(
            source if data is None else hub.locate(source), data,
            class_counts=numbers("--class-counts", class_counts), loss=loss, gamma=gamma, tau=tau,
            class_scale=None if class_scale is None else numbers("--class-scale", class_scale),
            label_scale=None if label_scale is None else numbers("--label-scale", label_scale),
            class_weight=weight, text=text, label=label, split=split, max_length=max_length, device=device, out=out,
            force=force, progress=bar,
        )  # fmt: skip
    if picture is not None:
        from deltagram.report.diagnosis import draw_diagnosis  # noqa: PLC0415

        draw_diagnosis(record, picture, force=force)
    emit(record, show_diagnose, json=json)


def show_diagnose(record: "Record") -> None:
    """The classes with their causes, the failing ones first; then what to do about each cause."""
    n, page = record.numbers, show.out()
    failing = [found for found in n["findings"] if found["cause"] != "healthy"]
    page.print(
        f"{len(failing)} of {len(n['findings'])} classes fail; recall averaged over classes {n['balanced_recall']:.3f}"
        f" on {n['samples']:,} samples"
    )
    rows = show.table(
        "class", "trained on", "recall", "cause", "|w|", "predicted", "nearest w", "predicted", "cos w, m",
        "predicted", "spread", "goes to",
    )  # fmt: skip
    others = [found for found in n["findings"] if found["cause"] == "healthy"]
    for found in [*failing, *others][:ROWS]:
        rows.add_row(
            _name(n, found["label"]), f"{found['count']:,.0f}", f"{found['recall']:.3f}", found["cause"],
            *(f"{found[key]:.2f}" for key in (
                "norm", "predicted_norm", "nearest", "predicted_nearest", "alignment", "predicted_alignment", "spread",
            )),
            "" if found["goes_to"] is None else _name(n, found["goes_to"]),
        )  # fmt: skip
    page.print(rows)
    if len(n["findings"]) > ROWS:
        page.print(f"(the first {ROWS}; --json has all)")
    for cause in dict.fromkeys(found["cause"] for found in failing):
        _cause(n, [found for found in failing if found["cause"] == cause], cause)
    page.print()
    gains = ", ".join(f"{name} {value:.3f}" for name, value in n["repaired"].items())
    page.print(f"recall averaged over classes under each repair, cross-fitted: {gains}")
    for name, told in n["conventions"].items():
        page.print(f"{name}: {told}")


def _cause(n: "Mapping[str, Any]", found: "list[Mapping[str, Any]]", cause: str) -> None:
    page = show.out()
    page.print()
    page.print(f"{cause}: {', '.join(_name(n, one['label']) for one in found[:8])}")
    page.print(f"  {found[0]['remedy']}", soft_wrap=True)
    if found[0]["expected"]:
        page.print(f"  expected for {_name(n, found[0]['label'])}: {found[0]['expected']}")


def _name(n: "Mapping[str, Any]", label: int) -> str:
    return show.plain(n["names"][label]) if n["names"] else str(label)
