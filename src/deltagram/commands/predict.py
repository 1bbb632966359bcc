"""`predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltagram import show
from deltagram.commands.options import Force, Json, emit, numbers
from deltagram.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deltagram.records import Record


def predict(
    counts: Annotated[
        str, typer.Option(help="Samples a class: 500,500,50 or 500x5,50x5, or a .json or .txt file of numbers.")
    ],
    loss: Annotated[str, typer.Option(help="ce, la, cdt, ldt or vs.")] = "ce",
    gamma: Annotated[float | None, typer.Option(help="Multipliers n^gamma: cdt, ldt (default .5), vs (.3).")] = None,
    tau: Annotated[float | None, typer.Option(help="la, vs: offset tau log(prior) on the logits (default 1).")] = None,
    class_scale: Annotated[str | None, typer.Option(help="cdt, vs: a multiplier a class, as --counts.")] = None,
    label_scale: Annotated[str | None, typer.Option(help="ldt, vs: a multiplier a label, as --counts.")] = None,
    class_weight: Annotated[str | None, typer.Option(help="balanced, or a weight a class, as --counts.")] = None,
    ridge: Annotated[
        float | None, typer.Option(help="lambda of sum(CE) + lambda/2 (|W|^2 + |H|^2); none: the limit of zero.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Instead of --ridge: decay of the classifier.")] = None,
    feature_decay: Annotated[float | None, typer.Option(help="With --weight-decay: decay of free features.")] = None,
    reduction: Annotated[str, typer.Option(help="With decays: how the loss sums up samples, mean or sum.")] = "mean",
    free_bias: Annotated[bool, typer.Option("--free-bias", help="The classifier has a bias without decay.")] = False,
    dim: Annotated[int | None, typer.Option(help="Dimensions of the features: refuse if too few.")] = None,
    tune: Annotated[
        str | None, typer.Option(help="Parameters for a geometry: simplex, alignment, equal-norms, equal-angles.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the geometry there, as JSON.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Predict classifiers and class means from class counts and a loss, in closed form or at a ridge."""
    from deltagram import jobs  # noqa: PLC0415 - keeps --help fast

    if reduction not in ("mean", "sum"):
        raise SettingError("--reduction", repr(reduction), expected="mean or sum")
    weight = class_weight if class_weight in (None, "balanced") else numbers("--class-weight", class_weight)
    record = jobs.predict(
        numbers("--counts", counts), loss=loss, gamma=gamma, tau=tau,
        class_scale=None if class_scale is None else numbers("--class-scale", class_scale),
        label_scale=None if label_scale is None else numbers("--label-scale", label_scale),
        class_weight=weight, ridge=ridge, weight_decay=weight_decay, feature_decay=feature_decay,
        reduction="sum" if reduction == "sum" else "mean", free_bias=free_bias, dim=dim, tune=tune, out=out,
        force=force,
    )  # fmt: skip
    emit(record, show_predict, json=json)


def show_predict(record: "Record") -> None:
    """A table of rows by count, then distances and what shows that the prediction is right."""
    n, page = record.numbers, show.out()
    page.print(f"{n['name']}: {n['classes']:,} classes, {n['samples']:,.0f} samples")
    if "tuning" in n:
        _tuning(n["tuning"])
    page.print(rows_table(n["rows"]))
    page.print()
    for name, far in n["distance"].items():
        parts = ", ".join(f"{part} {value:.3f}" for part, value in far.items() if value is not None)
        page.print(f"distance to {name}: {parts}")
    page.print("(Frobenius distance of Gram matrices of norm 1: 0 equal, 1.414 orthogonal)")
    _proof(n)
    for name, text in n["conventions"].items():
        page.print(f"{name}: {text}")
    if record.settings["tau"] is not None or record.settings["loss"] in ("la", "vs"):
        page.print("offsets do not move the limit of a vanishing ridge; they act early in training and at a ridge")


def rows_table(rows: "list[Mapping[str, Any]]") -> Any:
    """Classes of one count a row: norms, cosines and alignment."""
    page = show.table(
        "samples a class", "classes", "|w|", "cos w, w'", "cos with others", "|m|", "cos m, m'", "cos with others",
        "cos w, m",
    )  # fmt: skip
    for row in rows:
        label = f"{row['most']:,.0f}" if row["least"] == row["most"] else f"{row['most']:,.0f} to {row['least']:,.0f}"
        names = (
            "classifier_norm", "classifier_cosine", "classifier_cosine_others", "mean_norm", "mean_cosine",
            "mean_cosine_others", "alignment",
        )  # fmt: skip
        page.add_row(label, f"{row['classes']:,}", *("" if row[name] is None else f"{row[name]:.4f}" for name in names))
    return page


def _proof(n: "Mapping[str, Any]") -> None:
    page = show.out()
    if "certificate" in n:
        found = n["certificate"]
        told = "all margins are active: the only minimum" if found["holds"] else "not every multiplier is positive"
        page.print(f"certificate: relative duality gap {abs(found['gap']):.1e}; {told}")
    if "optimality" in n:
        found = n["optimality"]
        page.print(
            f"ridge {n['ridge']:g}: relative duality gap {abs(found['gap']):.1e}; everything is zero from "
            f"{found['zero_from']:.4g} on"
        )
    if n["merges_from"] is not None:
        merged = f"; {n['merged']} of the classes have" if n["merged"] else ""
        page.print(f"classes of one kind merge from a ridge of {n['merges_from']:.4g} on{merged}")


def _tuning(found: "Mapping[str, Any]") -> None:
    page = show.out()
    page.print(f"for {found['wanted']}: {found['loss']}")
    for name in ("class_scale", "label_scale", "weight"):
        values = found[name]
        if max(values) - min(values) > 0:
            told = ", ".join(f"{value:.5g}" for value in values[:16]) + (", ..." if len(values) > 16 else "")
            page.print(f"  {name}: {told}")
    page.print(f"  reached: {found['reached']}")
    page.print(f"  price: {found['price']}")
