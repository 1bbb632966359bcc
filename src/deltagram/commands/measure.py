"""`measure`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltagram import show
from deltagram.commands.measuredtokens import show_tokens
from deltagram.commands.options import Device, Force, Json, MaxLength, emit, numbers
from deltagram.errors import SettingError

if TYPE_CHECKING:
    from rich.console import Console

    from deltagram.records import Record

ROWS = 32  # classes up to which each has its line
EXTREMES = 5
_OF_TOKENS = ("contexts", "words", "layer", "permutations")
_OF_CLASSES = (
    "classes", "weighting", "centring", "class_counts", "power", "text", "label", "split", "max_length",
)  # fmt: skip


def measure(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE [DATA]",
            help="Features (.npz, .safetensors); or a classifier and labelled texts; with --tokens language models.",
        ),
    ],
    classes: Annotated[int | None, typer.Option(help="Number of classes, where labels do not reach it.")] = None,
    weighting: Annotated[str, typer.Option(help="class, sample or mixed: what counts alike.")] = "class",
    centring: Annotated[
        str | None, typer.Option(help="class_mean, sample_mean, none, or weights such as 1,2,2; by the weighting.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Geometry to compare with (repeatable): etf, orthogonal-frame, seli, or a file of predict."),
    ] = None,
    class_counts: Annotated[
        str | None, typer.Option(help="For seli: samples a class in training (500x5,50x5, or a file); as measured.")
    ] = None,
    power: Annotated[int, typer.Option(help="Power of the distance in CDNV: 2 or 4.")] = 2,
    text: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    label: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    split: Annotated[str | None, typer.Option(help="Split of DATA, where it has several; train.")] = None,
    max_length: MaxLength = 128,
    tokens: Annotated[
        Path | None, typer.Option(help="Of language models, such as checkpoints of a run: what tokens wrote.")
    ] = None,
    contexts: Annotated[int, typer.Option(help="With --tokens: contexts at most, the most frequent.")] = 1000,
    words: Annotated[int, typer.Option(help="With --tokens: next words at most whose cosines are compared.")] = 1000,
    layer: Annotated[
        int | None, typer.Option(help="With --tokens: states out of this block; what the output layer sees.")
    ] = None,
    permutations: Annotated[int, typer.Option(help="With --tokens: relabellings for p-values.")] = 199,
    device: Device = "cpu",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the record as JSON here.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """How far classes have collapsed and how they lie: NC1 to NC4, norms, angles, distances to known geometries."""
    from deltagram import hub, jobs  # noqa: PLC0415 - keeps --help fast

    _check_given(context, tokens=tokens is not None)
    if tokens is not None:
        from deltagram.jobs.measuretokens import measure_tokens  # noqa: PLC0415 - keeps --help fast

        with show.progress(quiet=json) as bar:
            record = measure_tokens(
                [hub.locate(model) for model in sources], tokens, contexts=contexts, words=words, layer=layer,
                against=against or (), permutations=permutations, device=device, out=out, force=force, progress=bar,
            )  # fmt: skip
        emit(record, show_tokens, json=json)
        return
    source, data = _source(sources)
    with show.progress(quiet=json) as bar:
        record = jobs.measure(
            source if data is None else hub.locate(source), data, classes=classes, weighting=weighting,
            centring=_centring(centring), against=against or ("etf",),
            class_counts=None if class_counts is None else numbers("--class-counts", class_counts), power=power,
            text=text, label=label,
            split=split, max_length=max_length, device=device, out=out, force=force, progress=bar,
        )  # fmt: skip
    emit(record, show_measure, json=json)


def _check_given(context: typer.Context, *, tokens: bool) -> None:
    """SettingError for an option that would change nothing."""
    for name in _OF_CLASSES if tokens else _OF_TOKENS:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            option, other = f"--{name.replace('_', '-')}", "is of classes" if tokens else "is of language models"
            fix = "leave it out, or --tokens" if tokens else "leave it out, or give --tokens"
            raise SettingError(option, other, fix=fix)


def _source(given: list[str]) -> tuple[str, str | None]:
    """Features, or a classifier and its texts."""
    if len(given) > 2:
        found = f"{len(given)} of them"
        raise SettingError("SOURCE", found, expected="features, or MODEL DATA", fix="language models need --tokens")
    return given[0], given[1] if len(given) > 1 else None


def _centring(given: str | None) -> str | list[float] | None:
    """A name, or numbers between commas."""
    try:
        return [float(part) for part in given.split(",")] if given and given[0] in "0123456789." else given
    except ValueError:
        return given


def show_measure(record: "Record") -> None:
    """Conventions, numbers, and the classes: each, or past `ROWS` the extremes."""
    n, page = record.numbers, show.out()
    for name, told in n["conventions"].items():
        page.print(f"{name:12} {show.plain(told)}", soft_wrap=True)
    page.print()
    rows = show.table(f"of {n['samples']:,} samples", "means", "classifiers", "both")
    for cells in _rows(n):
        rows.add_row(cells[0], *(_number(cell) for cell in cells[1:]))
    page.print(rows)
    page.print()
    _show_classes(n, page)
    if record.settings["out"]:
        page.print(f"{show.plain(record.settings['out'])}: written")


def _rows(n: Mapping[str, Any]) -> list[Sequence[Any]]:
    """A number a line, under what it is of: means, classifiers, or both."""
    means, w = n["means"], n["classifiers"] or {}

    def pair(title: str, key: str) -> Sequence[Any]:
        return (title, means[key], w.get(key), None)

    rows: list[Sequence[Any]] = [
        ("NC1 tr(S_W S_B^+)", n["nc1"], None, None), ("NC1 tr S_W / tr S_B", n["nc1_ratio"], None, None),
        ("CDNV", n["cdnv"], None, None), ("effective rank", n["effective_rank"], None, None),
        pair("NC2 norms, deviation / mean", "norm_cv"), pair("NC2 rms of cosine + 1/(k-1)", "equiangularity"),
        pair("mean cosine", "cosine_mean"), pair("least cosine", "cosine_min"), pair("largest cosine", "cosine_max"),
        ("NC3 vectors apart", None, None, n["self_duality"]), ("NC3 Grams apart", None, None, n["gram_duality"]),
        ("NC4 nearest mean = decision", None, None, n["agreement"]),
        ("balanced accuracy", n.get("nearest_mean_balanced_accuracy"), n.get("classifier_balanced_accuracy"), None),
    ]  # fmt: skip
    rows += [
        (f"Gram distance to {name}; logits'", found["means"], found["classifiers"], found["logits"])
        for name, found in n["against"].items()
    ]
    if n["minority"]:
        few = n["minority"]
        rows.append((f"merged minority ({len(few['classes'])} classes)", few["means"], few["collapse"], None))
    return [row for row in rows if any(cell is not None for cell in row[1:])]


def _show_classes(n: Mapping[str, Any], page: "Console") -> None:
    found = n["classes"]
    names = found.get("names", found["numbers"])
    columns = {
        "samples": "counts", "spread": "variances", "|mean|": "mean_norms", "|classifier|": "classifier_norms",
        "alignment": "alignment", "recall": "classifier_recall", "of nearest mean": "nearest_mean_recall",
    }  # fmt: skip
    there = {title: found[key] for title, key in columns.items() if found.get(key)}
    if len(names) <= ROWS:
        table = show.table("class", *there)
        for row, name in enumerate(names):
            table.add_row(show.plain(name), *(_number(values[row]) for values in there.values()))
    else:
        table = show.table("over classes", "least", "median", "largest", "classes with the least", "with the largest")
        for title, values in there.items():
            order = sorted((i for i, value in enumerate(values) if value is not None), key=lambda i: values[i])
            ends = (order[:EXTREMES], order[::-1][:EXTREMES])
            if order:
                cells = (_number(values[i]) for i in (order[0], order[len(order) // 2], order[-1]))
                table.add_row(title, *cells, *(", ".join(show.plain(names[i]) for i in end) for end in ends))
    page.print(table)


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
