"""`train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltagram import show
from deltagram.commands.options import Force, Json, emit

if TYPE_CHECKING:
    from deltagram.records import Record

METRICS = ("accuracy", "balanced-accuracy", "matthews", "f1", "perplexity")


def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Base model: directory or Hub id.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Texts: JSON lines, CSV, TSV, Parquet, .txt, Hub id.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    task: Annotated[str | None, typer.Option(help="classification or lm; by the data unless given.")] = None,
    loss: Annotated[str, typer.Option(help="What is minimised: ce.")] = "ce",
    pull: Annotated[str, typer.Option(help="none (AdamW), or AdamR towards MODEL: l2 or l1.")] = "none",
    strength: Annotated[float, typer.Option(help="Strength of the pull, lambda of the paper.")] = 0.01,
    epochs: Annotated[int, typer.Option(help="Times through the data.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of --epochs.")] = None,
    batch_size: Annotated[int, typer.Option(help="Texts a step.")] = 32,
    accumulate: Annotated[int, typer.Option(help="Parts in which they go through the model.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-4,
    schedule: Annotated[str, typer.Option(help="After the warm-up: linear, cosine or constant.")] = "linear",
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW; not with a pull.")] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient.")] = 1.0,
    dropout: Annotated[bool, typer.Option("--dropout/--no-dropout", help="Train with the model's dropout.")] = True,
    max_length: Annotated[int | None, typer.Option(help="Tokens a text: 128, or 512 of lm, unless given.")] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="Glob of parameters to leave alone (repeatable).")] = None,
    lora: Annotated[int | None, typer.Option(help="Train adapters of this rank and write them.")] = None,
    lora_alpha: Annotated[int | None, typer.Option(help="Their scale is alpha / rank; twice the rank.")] = None,
    lora_targets: Annotated[list[str] | None, typer.Option(help="Module to adapt (repeatable); all linear.")] = None,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16 or fp16.")] = "no",
    eval_data: Annotated[str | None, typer.Option("--eval", help="Held-out data to measure at the end.")] = None,
    metric: Annotated[str | None, typer.Option(help=f"By what: {', '.join(METRICS)}.")] = None,
    text: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    label: Annotated[str, typer.Option(help="Column of the labels.")] = "label",
    split: Annotated[str | None, typer.Option(help="Split of DATA, where it has several; train.")] = None,
    eval_split: Annotated[str | None, typer.Option(help="Split of --eval.")] = None,
    save_every: Annotated[int | None, typer.Option(help="Keep the state every so many steps; each epoch.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state kept in OUT.training.")] = False,
    track: Annotated[list[str] | None, typer.Option(help="Tracker of accelerate, such as wandb (repeatable).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of head, order and dropout.")] = 0,
    force: Force = False,
    json: Json = False,
) -> None:
    """Fine-tune MODEL on DATA: a text classifier or a causal language model, pulled to MODEL or not."""
    from deltagram import hub, jobs  # noqa: PLC0415 - keeps --help fast

    with show.progress(quiet=json) as bar:
        record = jobs.train(
            hub.locate(model), data, out, task=task, loss=loss, pull=pull, strength=strength, epochs=epochs,
            steps=steps, batch_size=batch_size, accumulate=accumulate, learning_rate=learning_rate,
            schedule=schedule, warmup=warmup, weight_decay=weight_decay, clip=clip, dropout=dropout,
            max_length=max_length, freeze=freeze or (), lora=lora, lora_alpha=lora_alpha,
            lora_targets=lora_targets or (), mixed_precision=mixed_precision, eval_data=eval_data, metric=metric,
            text=text, label=label, split=split, eval_split=eval_split, save_every=save_every, resume=resume,
            track=track or (), seed=seed, force=force, progress=bar,
        )  # fmt: skip
    emit(record, show_train, json=json)


def show_train(record: "Record") -> None:
    """What was trained, and how good it is."""
    n, page = record.numbers, show.out()
    kind = "adapter" if record.settings["lora"] else "model"
    page.print(
        f"{show.plain(record.settings['out'])}: {kind} of {n['trained_parameters']:,} trained parameters, "
        f"{n['steps']:,} steps on {n['texts']:,} texts in {n['training_seconds']:.1f} s, last loss {n['loss']:.4f}"
    )
    for metric in METRICS:
        if metric in n:
            page.print(f"{metric} on {show.plain(record.settings['eval_data'])}: {n[metric]:.4f}")
    if n["clamped"]:
        page.print(f"the pull was cut to its limit in {n['clamped']:,} steps: lower --strength or --learning-rate")
