"""`train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from deltagram import show
from deltagram.commands.options import Force, Json, emit, numbers
from deltagram.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from deltagram.records import Record

METRICS = ("accuracy", "balanced-accuracy", "matthews", "f1", "perplexity")


def train(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Directory or Hub id; for images also convnet, timm:NAME.")
    ],
    data: Annotated[str, typer.Argument(metavar="DATA", help="Texts: .jsonl, .csv, ..., Hub id. Images: see --task.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    task: Annotated[str | None, typer.Option(help="classification or lm, by the data; or images.")] = None,
    loss: Annotated[str, typer.Option(help="What is minimised: ce, la, cdt, ldt, vs, scl, scl-prototypes.")] = "ce",
    gamma: Annotated[float | None, typer.Option(help="Exponent of the class counts in cdt, ldt, vs.")] = None,
    tau: Annotated[float | None, typer.Option(help="Factor of the log prior in la, vs.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of scl, scl-prototypes; 0.1.")] = None,
    activation: Annotated[str | None, typer.Option(help="Of their embeddings: relu, softplus or none.")] = None,
    design: Annotated[str | None, typer.Option(help="Prototypes: etf, of, separation, minority:DEGREES.")] = None,
    copies: Annotated[str | None, typer.Option(help="Copies of each prototype, or a number a class: 10,10,40.")] = None,
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Prototypes that the activation does not go with.")
    ] = False,
    class_weight: Annotated[str | None, typer.Option(help="balanced, or a weight a class: 1,1,5.")] = None,
    label_smoothing: Annotated[float, typer.Option(help="Share of each label that goes to all classes.")] = 0.0,
    class_counts: Annotated[str, typer.Option(help="auto (of the training labels), or a number a class.")] = "auto",
    sampler: Annotated[
        str, typer.Option(help="shuffled, class-balanced, m-per-class, binding or enlarged.")
    ] = "shuffled",
    per_class: Annotated[int | None, typer.Option(help="Examples of a class: m-per-class 2, binding 1.")] = None,
    rotate: Annotated[str | None, typer.Option(help="Bind other examples each epoch or batch.")] = None,
    fixed_batches: Annotated[bool, typer.Option("--fixed-batches", help="The same batches each epoch.")] = False,
    imbalance: Annotated[str | None, typer.Option(help="Leave classes with less: step:R, long-tail:R.")] = None,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd, without a pull.")] = "adamw",
    momentum: Annotated[float, typer.Option(help="Of sgd.")] = 0.9,
    pull: Annotated[str, typer.Option(help="none (AdamW), or AdamR towards MODEL: l2 or l1.")] = "none",
    strength: Annotated[float, typer.Option(help="Strength of the pull, lambda of the paper.")] = 0.01,
    epochs: Annotated[int, typer.Option(help="Times through the data.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Steps, instead of --epochs.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = 32,
    accumulate: Annotated[int, typer.Option(help="Parts in which they go through the model.")] = 1,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-4,
    schedule: Annotated[str, typer.Option(help="After the warm-up: linear, cosine, constant, step.")] = "linear",
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of adamw on matrices, of sgd on all; not with a pull.")] = 0.0,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0: any.")] = 1.0,
    dropout: Annotated[bool, typer.Option("--dropout/--no-dropout", help="Train with the model's dropout.")] = True,
    max_length: Annotated[int | None, typer.Option(help="Tokens a text: 128, or 512 of lm, unless given.")] = None,
    freeze: Annotated[list[str] | None, typer.Option(help="Glob of parameters to leave alone (repeatable).")] = None,
    lora: Annotated[int | None, typer.Option(help="Train adapters of this rank and write them.")] = None,
    lora_alpha: Annotated[int | None, typer.Option(help="Their scale is alpha / rank; twice the rank.")] = None,
    lora_targets: Annotated[list[str] | None, typer.Option(help="Module to adapt (repeatable); all linear.")] = None,
    mixed_precision: Annotated[str, typer.Option(help="no, bf16 or fp16.")] = "no",
    last_relu: Annotated[
        bool | None, typer.Option("--last-relu/--no-last-relu", help="End the features of convnet in a ReLU.")
    ] = None,
    fixed_classifier: Annotated[str | None, typer.Option(help="Head of convnet that is fixed: etf, seli.")] = None,
    eval_data: Annotated[str | None, typer.Option("--eval", help="Held-out data to measure at the end.")] = None,
    metric: Annotated[str | None, typer.Option(help=f"By what: {', '.join(METRICS)}.")] = None,
    geometry: Annotated[Path | None, typer.Option(help="File for the geometry of each epoch, JSON lines.")] = None,
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
    """Train MODEL on DATA: a text or image classifier, or a causal language model, pulled to MODEL or not."""
    from deltagram import hub, jobs  # noqa: PLC0415 - keeps --help fast

    with show.progress(quiet=json) as bar:
        record = jobs.train(
            hub.locate(model), data, out, task=task, loss=loss, gamma=gamma, tau=tau,
            temperature=temperature, activation=activation, design=design,
            copies=None if copies is None else numbers("--copies", copies), allow_mismatch=allow_mismatch,
            class_weight=_weights(class_weight), label_smoothing=label_smoothing,
            class_counts=_counts(class_counts), sampler=sampler, per_class=per_class,
            rotate=_rotate(rotate), fixed_batches=fixed_batches, imbalance=imbalance,
            optimizer=optimizer, momentum=momentum, pull=pull, strength=strength, epochs=epochs, steps=steps,
            batch_size=batch_size, accumulate=accumulate, learning_rate=learning_rate, schedule=schedule,
            warmup=warmup, weight_decay=weight_decay, clip=clip, dropout=dropout, max_length=max_length,
            freeze=freeze or (), lora=lora, lora_alpha=lora_alpha, lora_targets=lora_targets or (),
            mixed_precision=mixed_precision, last_relu=last_relu, fixed_classifier=fixed_classifier,
            eval_data=eval_data, metric=metric, geometry=geometry, text=text, label=label, split=split,
            eval_split=eval_split, save_every=save_every, resume=resume, track=track or (), seed=seed, force=force,
            progress=bar,
        )  # fmt: skip
    emit(record, show_train, json=json)


def _rotate(text: str | None) -> "Literal['epoch', 'batch'] | None":
    if text not in (None, "epoch", "batch"):
        raise SettingError("--rotate", f"{text!r} is unknown", expected="epoch or batch")
    return "epoch" if text == "epoch" else "batch" if text == "batch" else None


def _weights(text: str | None) -> "str | list[float] | None":
    return text if text in (None, "balanced") else numbers("--class-weight", text)


def _counts(text: str) -> list[int] | None:
    """Whole numbers; None for auto."""
    if text == "auto":
        return None
    found = numbers("--class-counts", text)
    if any(number != int(number) for number in found):
        raise SettingError("--class-counts", f"are {text}", expected="auto, or whole numbers, as 500,50,50")
    return [int(number) for number in found]


def _show_embeddings(n: "Mapping[str, Any]", page: "Any") -> None:
    """What contrastive training made of the classes."""
    found = n["embeddings"]
    page.print(f"batches: the orthogonal frame as the only minimiser: {n['batches']['verdict']}")
    if "gram_distance" in found:
        page.print(f"class means are {found['gram_distance']:.3f} from {found['target']} (0: equal, 1.4: opposite)")
    if "shortfall" in found:
        page.print(f"loss {found['shortfall']['loss']:.4f}, at least {found['shortfall']['bound']:.4f}: "
                   f"{found['shortfall']['said']}", soft_wrap=True)  # fmt: skip
    if "nearest_class_mean" in n:
        by_mean = n["nearest_class_mean"]
        page.print(
            f"by the nearest class mean: accuracy {by_mean['accuracy']:.4f}, "
            f"balanced {by_mean['balanced-accuracy']:.4f} (before: the linear probe in the head)"
        )


def show_train(record: "Record") -> None:
    """What was trained, and how good it is."""
    n, page = record.numbers, show.out()
    kind = "adapter" if record.settings["lora"] else "model"
    examples = "images" if "images" in n else "texts"
    page.print(
        f"{show.plain(record.settings['out'])}: {kind} of {n['trained_parameters']:,} trained parameters, "
        f"{n['steps']:,} steps on {n[examples]:,} {examples} in {n['training_seconds']:.1f} s, "
        f"last loss {n['loss']:.4f}"
    )
    for metric in METRICS:
        if metric in n:
            page.print(f"{metric} on {show.plain(record.settings['eval_data'])}: {n[metric]:.4f}")
    if "embeddings" in n:
        _show_embeddings(n, page)
    if n["clamped"]:
        page.print(f"the pull was cut to its limit in {n['clamped']:,} steps: lower --strength or --learning-rate")
