"""base + delta directory -> an adapter that plain PEFT loads, or a checkpoint."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deltagram.delta import backend
from deltagram.errors import CheckpointError, SettingError
from deltagram.jobs.adapting import Adapting
from deltagram.jobs.placing import place
from deltagram.jobs.restore import restore
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.companions import check_file
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.peft import write_adapter
from deltagram.store.rebuild import check_base_headers
from deltagram.store.staging import check_output, recover, staged
from deltagram.training.layers import layers

KINDS: Final = ("lora", "peft-sparse", "dense")
RANK: Final = 32


def export(
    base: Path | str,
    delta: Path | str,
    out: Path | str,
    *,
    to: str,
    rank: int | None = None,
    error: float | None = None,
    drop: Sequence[str] = (),
    force: bool = False,
    progress: Progress = SILENT,
) -> Record:
    """Write what `delta` adds to `base` in a form that others load.

    `to`: "lora", a PEFT adapter of truncated SVDs (of `rank`, 32 unless given, or of the least rank whose relative
    Frobenius error is at most `error`; factors that came from an adapter go back unchanged); "peft-sparse", PEFT's
    Super-Tuning adapter, which holds the pruned entries of linear layers themselves; "dense", what `restore` gives.
    Heads, norms and what else is stored whole go to `modules_to_save`; what an adapter cannot hold is refused,
    unless a glob of `drop` leaves it out. `Record.tensors` says of every tensor where it went, at which rank and
    error, in how many bytes. Hu et al., ICLR 2022.

    Raises SettingError, CheckpointError, FormatError, BaseError, PlanError or OutputError; nothing is written then.
    """
    meter = Meter.start()
    base, delta, out = Path(base), Path(delta), Path(out)
    _check_settings(to, rank=rank, error=error, drop=drop)
    settings: dict[str, Any] = {"base": str(base), "delta": str(delta), "out": str(out), "to": to, "drop": list(drop)}
    if to == "dense":
        made = restore(base, delta, out, force=force, progress=progress)
        return Record(job="export", settings=settings, seed=made.seed, numbers=made.numbers)
    recover(out)
    check_output(out, force=force, inputs=(base, delta))
    opened, source = open_delta(delta), open_checkpoint(base)
    check_base_headers(opened, source)
    model = layers(_described_in(opened, source))
    places = place(opened.manifest.tensors, model, sparse=to == "peft-sparse", drop=drop)
    backend.prepare(progress=progress)
    used = None if error is not None else rank or RANK
    work = Adapting(opened, source, model, places)
    if to == "lora":
        work.factor(rank=used, error=error, progress=progress)
    else:
        work.scatter(progress=progress)
    with staged(out, force=force, inputs=(base, delta)) as folder:
        written = write_adapter(folder, work.arrays, work.config())
    rows = work.rows
    errors = [row["error"] for row in rows.values() if "error" in row]
    numbers = {
        **meter.numbers(), "adapter_bytes": written, "delta_bytes": opened.nbytes, "model": model.model,
        "ranks": sorted({row["rank"] for row in rows.values() if "rank" in row}),
        "largest_error": max(errors, default=0.0), "went": _counts(rows),
        "dropped": sorted(name for name, row in rows.items() if row["to"] == "dropped"),
    }  # fmt: skip
    settings |= {"rank": used, "error": error} if to == "lora" else {}
    return Record(job="export", settings=settings, seed=opened.manifest.seed, numbers=numbers, tensors=rows)


def _check_settings(to: str, *, rank: int | None, error: float | None, drop: Sequence[str]) -> None:
    if to not in KINDS:
        raise SettingError("--to", f"{to!r} is unknown", expected=" or ".join(KINDS))
    if isinstance(drop, str):
        raise SettingError("drop", f"{drop!r} is one text", expected="a sequence of globs")
    if to != "lora" and (rank is not None or error is not None):
        raise SettingError("--rank and --error", f"say nothing about --to {to}", fix="leave them out")
    if to == "dense" and drop:
        raise SettingError("--drop", "says nothing about --to dense, which holds everything", fix="leave it out")
    if rank is not None and error is not None:
        raise SettingError("--rank and --error", "contradict each other", fix="give one of them")
    if rank is not None and rank < 1:
        raise SettingError("--rank", f"is {rank}", expected="1 or more")
    if error is not None and not 0 < error < 1:
        raise SettingError("--error", f"is {error}", expected="a relative error between 0 and 1, such as 0.1")


def _described_in(delta: Delta, base: Checkpoint) -> Path:
    """The folder with the fine-tuned model's config.json."""
    file = delta.manifest.files.get("config.json")
    if file is None:
        fix = "prune it from model directories, or export it --to dense"
        raise CheckpointError(str(delta.path), "has no config.json, which tells the kinds of layers", fix=fix)
    from_base = file.stored == "base"
    folder = (base.folder or base.path.parent) if from_base else delta.path
    check_file(folder, "config.json", file, from_base=from_base)
    return folder


def _counts(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows.values():
        found[row["to"]] = found.get(row["to"], 0) + 1
    return dict(sorted(found.items()))
