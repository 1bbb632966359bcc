"""base model + texts -> fine-tuned model, or adapter."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blake3 import blake3

from deltagram.data.tables import Table, read_table
from deltagram.errors import OutputError, SettingError
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.staging import staged
from deltagram.training import fit
from deltagram.training.pull import Base
from deltagram.training.recipe import Lora, Recipe
from deltagram.training.state import NOTE


def train(
    model: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    task: str | None = None,
    loss: str = "ce",
    pull: str = "none",
    strength: float = 0.01,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 32,
    accumulate: int = 1,
    learning_rate: float = 1e-4,
    schedule: str = "linear",
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    dropout: bool = True,
    max_length: int | None = None,
    freeze: Sequence[str] = (),
    lora: int | None = None,
    lora_alpha: int | None = None,
    lora_targets: Sequence[str] = (),
    mixed_precision: str = "no",
    eval_data: Path | str | None = None,
    metric: str | None = None,
    text: str = "text",
    label: str = "label",
    split: str | None = None,
    eval_split: str | None = None,
    save_every: int | None = None,
    resume: bool = False,
    track: Sequence[str] = (),
    seed: int = 0,
    force: bool = False,
    progress: Progress = SILENT,
) -> Record:
    """Fine-tune the model in the folder `model` on `data` and write the checkpoint directory `out`.

    `data` is what `data.read_table` reads. `task` is classification, or lm for a causal language model; unless
    given, it is classification where the data has labels. `pull` "l2" or "l1" is AdamR towards `model` with
    `strength`; heads, and whatever `model` does not have, are not pulled. `lora` is the rank of adapters, which
    are written instead of a checkpoint, and pulled to their first values. All is trained and written in float32.

    The state is kept in the folder OUT.training every `save_every` steps, or at the end of each epoch, until the
    training is complete; `resume` goes on from it, on a CPU with the same bits as without the interruption.

    Raises SettingError, CheckpointError, OutputError or ExtraError; then no output is written.
    """
    meter = Meter.start()
    model, out = Path(model), Path(out)
    recipe = Recipe(
        loss=loss, pull=pull, strength=strength, epochs=epochs, steps=steps, batch_size=batch_size,
        accumulate=accumulate, learning_rate=learning_rate, schedule=schedule, warmup=warmup,
        weight_decay=weight_decay, clip=clip, dropout=dropout, freeze=tuple(freeze), mixed_precision=mixed_precision,
        lora=_lora(lora, lora_alpha, tuple(lora_targets)), seed=seed,
    )  # fmt: skip
    chosen, table = _data(data, task, text=text, label=label, split=split)
    fit.chosen_metric(chosen, metric)
    held_out = None
    if eval_data is not None:
        held_out = read_table(eval_data, labelled=chosen == "classification", text=text, label=label, split=eval_split)
    elif metric is not None:
        raise SettingError("metric", f"{metric} has nothing to be measured on", fix="give data with --eval")
    base = open_checkpoint(model)
    made_from = {
        "settings": asdict(recipe), "task": chosen, "max_length": max_length, "data": _digest(table),
        "model": base.whole_digest(),
    }  # fmt: skip
    inputs = [model, *(Path(source) for source in (data, eval_data) if source is not None and Path(source).exists())]
    with staged(out, force=force, inputs=inputs) as folder:
        saves = _saves(out, made_from, every=save_every, resume=resume, force=force)
        numbers = fit.train(
            model, _tensors(base), table, folder, task=chosen, recipe=recipe, saves=saves, held_out=held_out,
            metric=metric, max_length=max_length, track=tuple(track), logs=out.with_name(f"{out.name}.logs"),
            progress=progress,
        )  # fmt: skip
    if (saves.folder / NOTE).is_file():
        shutil.rmtree(saves.folder)
    settings = {
        "model": str(model), "data": str(data), "out": str(out), "task": chosen, **asdict(recipe),
        "eval_data": None if eval_data is None else str(eval_data), "metric": metric, "resume": resume,
        "text": text, "label": label, "split": split, "eval_split": eval_split, "save_every": save_every,
        "track": list(track),
    }  # fmt: skip
    return Record(job="train", settings=settings, seed=seed, numbers={**numbers, **meter.numbers()})


def _lora(rank: int | None, alpha: int | None, targets: tuple[str, ...]) -> Lora | None:
    if rank is None and (alpha is not None or targets):
        raise SettingError("lora_alpha and lora_targets", "are of adapters, and no rank is given", fix="give --lora")
    return None if rank is None else Lora(rank=rank, alpha=alpha, targets=targets)


def _data(
    source: Path | str, task: str | None, *, text: str, label: str, split: str | None
) -> tuple[str, Table]:  # fmt: skip
    """The task, told or found, and the texts to train on."""
    if task is not None and task not in fit.TASKS:
        raise SettingError("task", f"{task!r} is unknown", expected=" or ".join(fit.TASKS))
    labelled = None if task is None else task == "classification"
    table = read_table(source, labelled=labelled, text=text, label=label, split=split)
    return task or ("lm" if table.label is None else "classification"), table


def _tensors(checkpoint: Checkpoint) -> Base:
    """A checkpoint's tensors for AdamR to pull to."""
    specs = checkpoint.specs
    return Base(specs=specs, bits=lambda name: checkpoint.bits(name, 0, specs[name].size))


def _saves(out: Path, made_from: Mapping[str, Any], *, every: int | None, resume: bool, force: bool) -> fit.Saves:
    """Where the state goes; OutputError for one that stands there and is neither resumed nor to be replaced."""
    if every is not None and every < 1:
        raise SettingError("save_every", f"{every}", expected="a positive number of steps")
    folder = out.with_name(f"{out.name}.training")
    if folder.exists() and not resume and not force:
        fix = "go on with --resume, or replace it with --force"
        raise OutputError(str(folder), "holds the state of an interrupted training", fix=fix)

    def write(fill: Callable[[Path], None]) -> None:
        with staged(folder, force=True) as into:
            fill(into)

    return fit.Saves(folder=folder, write=write, made_from=made_from, every=every, resume=resume)


def _digest(table: Table) -> str:
    return blake3(repr((table.text, table.label)).encode()).hexdigest()
