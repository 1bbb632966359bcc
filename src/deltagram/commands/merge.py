"""`merge`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltagram import show
from deltagram.commands.options import Force, Json, Threads, emit
from deltagram.errors import SettingError

if TYPE_CHECKING:
    from deltagram.jobs.recipe import Recipe
    from deltagram.records import Record


def merge(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="BASE DELTA... OUT", help="A base, its deltas or fine-tuned models, and the output."),
    ],
    config: Annotated[
        Path | None, typer.Option(help="mergekit YAML that says what to merge; then only OUT is given.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="linear (default), task_arithmetic, ties, dare_linear or dare_ties.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="One number a model, such as 1,0.5; 1 each unless given.")] = None,
    density: Annotated[
        str | None, typer.Option(help="Share of a task vector kept: one number, or one a model.")
    ] = None,
    scale: Annotated[float | None, typer.Option("--lambda", help="Factor of the merged task vector.")] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize/--no-normalize", help="Divide by the weights (as the method does).")
    ] = None,
    consensus: Annotated[str | None, typer.Option(help="How TIES elects a sign: sum (of mass) or count.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16 or float64; else as the model's.")
    ] = None,
    heads: Annotated[
        str, typer.Option(help="Whose tensors to take where models cannot be merged: refuse, base, or 1, 2, ...")
    ] = "refuse",
    seed: Annotated[int, typer.Option(help="Seed of random masks.")] = 0,
    dare: Annotated[str, typer.Option(help="ours: times 1/(1-p); mergekit: to the L1 norm of each tensor.")] = "ours",
    written: Annotated[str, typer.Option("--as", help="checkpoint or delta.")] = "checkpoint",
    keep: Annotated[float | None, typer.Option(help="With --as delta: share of largest differences kept.")] = None,
    values: Annotated[str | None, typer.Option(help="With --keep: how values are stored, as prune has it.")] = None,
    force: Force = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Merge deltas of BASE, or its fine-tuned models, into one model."""
    from deltagram import jobs  # noqa: PLC0415 - keeps --help fast

    given = {
        "--method": method, "--weights": weights, "--density": density, "--lambda": scale, "--normalize": normalize,
        "--consensus": consensus, "--dtype": dtype,
    }  # fmt: skip
    with show.progress(quiet=json) as bar:
        asked = _read(config, paths, given) if config is not None else _asked(paths, given)
        record = jobs.merge(
            asked, Path(paths[-1]), written=written, heads=heads, seed=seed, dare=dare, keep=keep, values=values,
            force=force, threads=threads, progress=bar,
        )  # fmt: skip
    emit(record, show_merge, json=json)


def _read(config: Path, paths: list[str], given: Mapping[str, object]) -> "Recipe":
    from deltagram import hub  # noqa: PLC0415
    from deltagram.jobs.mergekit_yaml import read_recipe  # noqa: PLC0415

    both = [name for name, value in given.items() if value is not None]
    if len(paths) != 1:
        raise SettingError("--config", "the file names the models", expected="one path: OUT")
    if both:
        raise SettingError("--config", f"the file decides {both[0]}", fix=f"say it there, and leave out {both[0]}")
    return read_recipe(config, locate=hub.locate)


def _asked(paths: list[str], given: Mapping[str, object]) -> "Recipe":
    from deltagram import hub  # noqa: PLC0415
    from deltagram.jobs.recipe import recipe  # noqa: PLC0415

    if len(paths) < 3:
        raise SettingError("BASE DELTA... OUT", f"there are {len(paths)} paths", expected="three or more, or --config")
    texts = {name: str(given[name]) for name in ("--weights", "--density") if given[name] is not None}
    numbers = {name: _numbers(text, name) for name, text in texts.items()}
    scale, normalize = given["--lambda"], given["--normalize"]
    return recipe(
        hub.locate(paths[0]), [hub.locate(path) for path in paths[1:-1]], method=str(given["--method"] or "linear"),
        weights=numbers.get("--weights"), densities=numbers.get("--density"),
        normalize=normalize if isinstance(normalize, bool) else None,
        scale=scale if isinstance(scale, float) else 1.0, consensus=str(given["--consensus"] or "sum"),
        dtype=None if given["--dtype"] is None else str(given["--dtype"]),
    )  # fmt: skip


def _numbers(text: str, name: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise SettingError(name, f"{text!r} is not a list of numbers", expected="such as 1,0.5") from None


def show_merge(record: "Record") -> None:
    """One line of result, then whatever a person should know of it."""
    n, asked = record.numbers, record.settings
    page = show.out()
    size = f"{show.size(n['delta_bytes'])} of delta" if "delta_bytes" in n else show.size(n["merged_bytes"])
    page.print(
        f"{show.plain(asked['out'])}: {asked['method']} of {len(asked['models'])} models, {n['tensors']} tensors, "
        f"{size}, in {n['seconds']:.2f} s"
    )
    page.print(f"names and configuration: {show.plain(n['form'])}")
    for what, names in (
        ("taken as they are", n["copied"]), ("base tensors left out", n["dropped"]),
        ("tensors left out", n["left_out"]), ("files left behind", n["left_behind"]), ("note", n["notes"]),
    ):  # fmt: skip
        if names:
            more = f" and {len(names) - 6} more" if len(names) > 6 else ""
            page.print(f"{what}: {show.plain(', '.join(names[:6]))}{more}")
    for pair in n["shared_masks"]:
        first, second = (show.plain(model) for model in pair["models"])
        page.print(
            f"masks are shared by {first} and {second} (the same positions in {pair['tensors']} of {pair['of']} pruned "
            "tensors): their pruning errors add up instead of averaging out; prune with different seeds"
        )
    if asked["method"].startswith("dare"):
        page.print(_rescaling(record))


def _rescaling(record: "Record") -> str:
    """How kept differences were rescaled, and how far the two ways lie apart."""
    found = record.numbers["factor_to_dare"]
    if record.settings["dare"] == "ours":
        return "kept differences times 1/(1-p); mergekit rescales each tensor to its L1 norm (--dare mergekit)"
    if not found:
        return "kept differences to the L1 norm of each tensor, as mergekit does; nothing was dropped"
    spread = f"{found[0]:.4g} to {found[1]:.4g} times 1/(1-p)"
    return f"kept differences to the L1 norm of each tensor, as mergekit does: {spread}"
