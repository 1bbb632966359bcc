"""`predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from deltagram import show
from deltagram.commands.options import Force, Json, emit, numbers
from deltagram.commands.tokenshape import show_tokens
from deltagram.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deltagram.records import Record


_GAP: Final = 1e-6  # relative: more is no certificate
_MEANS: Final = {"mean_norm": "|m|", "mean_cosine": "cos m, m'", "mean_cosine_others": "cos with others"}
_COLUMNS: Final = {
    "classifier_norm": "|w|", "classifier_cosine": "cos w, w'", "classifier_cosine_others": "cos with others",
    **_MEANS, "alignment": "cos w, m",
}  # fmt: skip


def predict(
    counts: Annotated[
        str | None, typer.Option(help="Samples a class: 500,500,50 or 500x5,50x5, or a .json or .txt file of numbers.")
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="Instead of --counts: next tokens and their contexts, an .npz of supports.")
    ] = None,
    loss: Annotated[str, typer.Option(help="ce, la, cdt, ldt, vs, scl or scl-prototypes.")] = "ce",
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
    dim: Annotated[
        int | None, typer.Option(help="Dimensions of the features: refuse if too few; --tokens: the best in so many.")
    ] = None,
    tune: Annotated[
        str | None, typer.Option(help="Parameters for a geometry: simplex, alignment, equal-norms, equal-angles.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="scl, scl-prototypes: temperature (default .1).")] = None,
    features: Annotated[
        str | None, typer.Option(help="scl, scl-prototypes: relu (not negative; scl's default) or free.")
    ] = None,
    design: Annotated[
        str | None, typer.Option(help="scl-prototypes: etf, of, separation (with --dim) or minority:DEGREES.")
    ] = None,
    copies: Annotated[
        str | None, typer.Option(help="scl-prototypes: copies of each prototype (default 1), or a class each.")
    ] = None,
    limit: Annotated[bool, typer.Option("--limit", help="scl-prototypes: copies beyond number.")] = False,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="scl-prototypes: design and features that do not go together.")
    ] = False,
    proxy: Annotated[
        bool, typer.Option("--proxy", help="--tokens: the centred supports instead; of any size.")
    ] = False,
    top: Annotated[int | None, typer.Option(help="--proxy: so many of its largest directions (default 32).")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write the geometry there, as JSON.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Predict geometry from class counts and a loss, or from what follows each context: closed form or certificate."""
    from deltagram import jobs  # noqa: PLC0415 - keeps --help fast

    if reduction not in ("mean", "sum"):
        raise SettingError("--reduction", repr(reduction), expected="mean or sum")
    if (counts is None) == (tokens is None):
        found = "neither is given" if counts is None else "together"
        raise SettingError("--counts and --tokens", found, expected="one of them")
    weight = class_weight if class_weight in (None, "balanced") else numbers("--class-weight", class_weight)
    record = jobs.predict(
        None if counts is None else numbers("--counts", counts), tokens=tokens, loss=loss, gamma=gamma, tau=tau,
        class_scale=None if class_scale is None else numbers("--class-scale", class_scale),
        label_scale=None if label_scale is None else numbers("--label-scale", label_scale),
        class_weight=weight, ridge=ridge, weight_decay=weight_decay, feature_decay=feature_decay,
        reduction="sum" if reduction == "sum" else "mean", free_bias=free_bias, dim=dim, tune=tune,
        temperature=temperature, features=features, design=design,
        copies=None if copies is None else numbers("--copies", copies), limit=limit, allow_mismatch=allow_mismatch,
        proxy=proxy, top=top, out=out, force=force,
    )  # fmt: skip
    emit(record, show_predict if tokens is None else show_tokens, json=json)


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
    _contrastive(n)
    for name, text in n["conventions"].items():
        page.print(f"{name}: {text}")
    if record.settings["tau"] is not None or record.settings["loss"] in ("la", "vs"):
        page.print("offsets do not move the limit of a vanishing ridge; they act early in training and at a ridge")


def rows_table(rows: "list[Mapping[str, Any]]") -> Any:
    """Classes of one count a row: norms, cosines and alignment; means alone where there are no classifiers."""
    columns = _MEANS if all(row["classifier_norm"] is None for row in rows) else _COLUMNS
    page = show.table("samples a class", "classes", *columns.values())
    for row in rows:
        label = f"{row['most']:,.0f}" if row["least"] == row["most"] else f"{row['most']:,.0f} to {row['least']:,.0f}"
        cells = ("" if row[name] is None else f"{row[name]:.4f}" for name in columns)
        page.add_row(label, f"{row['classes']:,}", *cells)
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


def _contrastive(n: "Mapping[str, Any]") -> None:
    """The bound that is attained or the duality gap, and the design's own numbers."""
    page = show.out()
    if "bound" in n:
        page.print(f"attains the lower bound of the loss, {n['bound']:.6g} summed over samples in one batch")
    if "excess" in n:
        found = n["excess"]
        page.print(
            f"loss {found['value']:.6g} summed over samples in one batch, of which geometry decides "
            f"{found['primal']:.4g}; duality gap {found['gap']:.1e} of that"
        )
        if found["gap"] > _GAP:
            page.print("the gap is wide: the best for these dimensions that was found, not shown to be the best")
    if "design" in n:
        found = n["design"]
        page.print(f"distance of the class means from the prototypes: {found['distance']:.4f}")
        if "max_cosine" in found:
            known = ", ".join(f"{name} {value:.4f}" for name, value in found["bounds"].items())
            best = "the least there is" if found["exact"] else "the least found"
            page.print(f"largest cosine of prototypes {found['max_cosine']:.4f}, {best}; bounds: {known}")
        if found.get("copies_from") == "the design":
            told = ", ".join(f"{value:.4g}" for value in found["copies"][:16])
            page.print(f"copies matched to the design: {told}{', ...' if len(found['copies']) > 16 else ''}")


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
