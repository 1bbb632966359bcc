"""Several fine-tuned models of one base -> one checkpoint, or one delta."""

import json
from functools import partial
from pathlib import Path
from typing import Any

from deltagram.delta import backend
from deltagram.errors import SettingError
from deltagram.jobs.mergetable import Table, open_table
from deltagram.jobs.planning import METHOD_OPTIONS, method_named, values_named
from deltagram.jobs.prune import prune
from deltagram.jobs.recipe import DARE, DTYPES, Recipe
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpointwriter import write_shards
from deltagram.store.layout import SHARD_BYTES, lay_out, write_index
from deltagram.store.staging import check_output, recover, scratch, staged, staged_file


def merge(
    recipe: Recipe,
    out: Path | str,
    *,
    written: str = "checkpoint",
    heads: str = "refuse",
    seed: int = 0,
    dare: str = "ours",
    keep: float | None = None,
    values: str | None = None,
    force: bool = False,
    threads: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = SILENT,
) -> Record:
    """Merge the models of `recipe` into the checkpoint, or with `written` "delta" into the delta, `out`.

    Arithmetic is float32 (float64 with a float64 tensor), rounded once. `heads` says whose tensors are taken as
    they are where models cannot be merged: "refuse", "base", or the number of a model, from 1. Random masks of
    model i follow from (`seed` + i, tensor name), i from 0. `dare`: "ours" multiplies what is kept by 1/(1-p),
    "mergekit" to the L1 norm the tensor had. A delta is lossless, or with `keep` holds that share of the largest
    differences, coded as `values`.

    Raises SettingError, CheckpointError, PlanError, FormatError, BaseError or OutputError; nothing is written then.
    """
    meter = Meter.start()
    out = Path(out)
    lone = out.suffix == ".safetensors" and written == "checkpoint"
    _check_settings(recipe, written=written, seed=seed, dare=dare, keep=keep, values=values)
    recover(out)
    check_output(out, force=force, inputs=recipe.inputs, lone=lone)
    table = open_table(recipe, heads=heads, seed=seed, dare=dare)
    backend.prepare(progress=progress)
    table.check_numbers()
    write = partial(_write, table, threads=threads, shard_bytes=shard_bytes, progress=progress)
    stored: dict[str, Any] = {}
    if written == "delta":
        with scratch(out, force=force, inputs=recipe.inputs) as folder:
            (folder / out.name).mkdir()
            left = write(folder / out.name)
            made = prune(
                recipe.base or "", folder / out.name, out, method="exact" if keep is None else "magnitude", keep=keep,
                values=values, force=force, threads=threads, progress=progress,
            )  # fmt: skip
            stored = {name: made.numbers[name] for name in ("delta_bytes", "ratio")}
    else:
        with (staged_file if lone else staged)(out, force=force, inputs=recipe.inputs) as place:
            left = write(place)
    settings = _settings(recipe) | {
        "out": str(out), "as": written, "heads": heads, "dare": dare, "keep": keep, "values": values,
    }  # fmt: skip
    numbers = {**meter.numbers(), **table.numbers(), "left_behind": left, **stored}
    rows = {joint.name: {"form": joint.form} for joint in table.plan.tensors}
    return Record(job="merge", settings=settings, seed=seed, numbers=numbers, tensors=rows)


def _settings(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data."""
    return {
        "method": recipe.method, "base": str(recipe.base or ""), "models": [m.describe() for m in recipe.members],
        "lambda": recipe.scale.describe(), "dtype": recipe.dtype or "", "config": str(recipe.source or ""),
        "normalize": recipe.way.normalize if recipe.normalize is None else recipe.normalize.describe(),
        "rescale": recipe.way.rescale if recipe.rescale is None else recipe.rescale.describe(),
        "consensus": recipe.consensus if recipe.way.elect else "",
    }  # fmt: skip


def _check_settings(
    recipe: Recipe, *, written: str, seed: int, dare: str, keep: float | None, values: str | None
) -> None:
    if written not in ("checkpoint", "delta"):
        raise SettingError("--as", f"{written!r} is unknown", expected="checkpoint or delta")
    if dare not in DARE:
        raise SettingError("--dare", f"{dare!r} is unknown", expected=" or ".join(DARE))
    if dare != "ours" and recipe.way.trim != "random":
        raise SettingError("--dare", f"method {recipe.method} has no random masks", fix="use dare_linear or dare_ties")
    if not -(1 << 63) <= seed < (1 << 63) - len(recipe.members):
        raise SettingError(
            "--seed", f"{seed} is too large", expected="a signed 64-bit integer, with one to spare a model"
        )
    if written == "checkpoint" and (keep is not None or values is not None):
        raise SettingError("--keep and --values", "say how a delta is pruned", fix="add --as delta, or leave them out")
    if written == "delta" and keep is None and values is not None:
        raise SettingError("--values", "a delta without --keep is lossless", fix="add --keep, or leave it out")
    if keep is not None:
        method_named("magnitude", keep, None, at=METHOD_OPTIONS)
    if values is not None:
        values_named(values, "--values")
    if written == "delta" and recipe.base is None:
        raise SettingError("--as delta", "no base is named", fix="name one (base_model)")


def _write(table: Table, place: Path, *, threads: int | None, shard_bytes: int, progress: Progress) -> list[str]:
    """The merged checkpoint at `place`; gives the names of files that were left behind."""
    specs = {joint.name: table.spec(joint) for joint in table.plan.tensors}
    lone = not place.is_dir()
    shards = lay_out(specs, shard_bytes=None if lone else shard_bytes)
    write_shards(
        place, shards, specs, blocks=table.blocks, threads=threads, advance=partial(progress.advance, "merging")
    )
    table.check_bases()
    if lone:
        return []
    write_index(place, shards)
    left = table.form.copy_companions(place)
    _say_dtype(place / "config.json", table.recipe.dtype)
    return left


def _say_dtype(config: Path, dtype: str | None) -> None:
    """Put the type that was asked for where a configuration names one."""
    if dtype is None or not config.is_file():
        return
    found = json.loads(config.read_text("utf-8"))
    named = [key for key in ("dtype", "torch_dtype") if isinstance(found, dict) and key in found]
    if named:
        word = next(word for word, name in DTYPES.items() if name == dtype)
        config.write_text(json.dumps(found | dict.fromkeys(named, word), indent=2) + "\n", "utf-8")
