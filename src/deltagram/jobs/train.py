"""model + texts or images -> trained model, or adapter."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from deltagram.data.images import Images
from deltagram.errors import OutputError, SettingError
from deltagram.jobs.trainingdata import TrainingData, training_data
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.staging import check_output, staged
from deltagram.training import fit
from deltagram.training.losses import Loss
from deltagram.training.pictures import CONVNET, named, pictures
from deltagram.training.pull import Base
from deltagram.training.recipe import Lora, Recipe
from deltagram.training.state import NOTE
from deltagram.training.subject import Make
from deltagram.training.texts import texts


def train(
    model: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    task: str | None = None,
    loss: str = "ce",
    gamma: float | None = None,
    tau: float | None = None,
    temperature: float | None = None,
    activation: str | None = None,
    design: str | None = None,
    copies: float | Sequence[float] | None = None,
    allow_mismatch: bool = False,
    class_weight: str | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    class_counts: Sequence[int] | None = None,
    sampler: str = "shuffled",
    per_class: int | None = None,
    rotate: Literal["epoch", "batch"] | None = None,
    fixed_batches: bool = False,
    imbalance: str | None = None,
    optimizer: str = "adamw",
    momentum: float = 0.9,
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
    last_relu: bool | None = None,
    fixed_classifier: str | None = None,
    eval_data: Path | str | None = None,
    metric: str | None = None,
    geometry: Path | str | None = None,
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
    """Train `model` on `data` and write the checkpoint directory `out`.

    `model` is a folder of transformers, or, for images, "convnet", "timm:NAME" or "torchvision:NAME". `data` is what
    `data.read_table` reads, or of the task images what `data.images.read_images` does. `task` is classification, lm
    for a causal language model, or images; unless given, it is classification where texts have labels.

    `loss` with `gamma`, `tau`, `class_weight`, `label_smoothing` and `class_counts` (of the training labels, unless
    given) is one of `deltagram.losses`. "scl" and "scl-prototypes" with `temperature`, `activation`, `design`, `copies`
    and `allow_mismatch` compare what goes into the head; the head is then a linear probe of that, and held-out
    examples are told apart by the nearest class mean, too. `sampler` with `per_class`, `rotate` and `fixed_batches` is
    of `training.recipe`. `imbalance` is of `trainingdata.training_data`. `pull` "l2" or "l1" is AdamR
    towards `model` with `strength`; heads, and whatever `model` does not have, are not pulled. `lora` is the rank of
    adapters, which are written instead of a checkpoint, and pulled to their first values. All is trained and written in
    float32.
    `geometry` is a file that gets a line a phase and epoch of `training.GeometryCallback`.

    The state is kept in the folder OUT.training every `save_every` steps, or at the end of each epoch, until the
    training is complete; `resume` goes on from it, on a CPU with the same bits as without the interruption.

    Raises SettingError, CheckpointError, OutputError or ExtraError; then no output is written.
    """
    meter = Meter.start()
    out, watched = Path(out), None if geometry is None else Path(geometry)
    weight = class_weight if isinstance(class_weight, str | None) else tuple(class_weight)
    recipe = Recipe(
        loss=Loss(
            name=loss, gamma=gamma, tau=tau, temperature=temperature, activation=activation, design=design,
            copies=_numbers(copies), allow_mismatch=allow_mismatch, class_weight=weight,
            label_smoothing=label_smoothing, class_counts=None if class_counts is None else tuple(class_counts),
        ),
        sampler=sampler, per_class=per_class, rotate=rotate, fixed_batches=fixed_batches, optimizer=optimizer,
        momentum=momentum, pull=pull, strength=strength, epochs=epochs, steps=steps, batch_size=batch_size,
        accumulate=accumulate, learning_rate=learning_rate, schedule=schedule, warmup=warmup,
        weight_decay=weight_decay, clip=clip, dropout=dropout, freeze=tuple(freeze), mixed_precision=mixed_precision,
        lora=_lora(lora, lora_alpha, tuple(lora_targets)), seed=seed,
    )  # fmt: skip
    given = training_data(
        str(model), data, eval_data, task=task, text=text, label=label, split=split, eval_split=eval_split,
        imbalance=imbalance, seed=seed,
    )  # fmt: skip
    chosen = fit.chosen_metric(given.task, metric)
    if metric is not None and eval_data is None:
        raise SettingError("metric", f"{metric} has nothing to be measured on", fix="give data with --eval")
    last_relu = _ends_in_relu(str(model), recipe.loss, last_relu)
    make = _make(str(model), given, max_length=max_length, last_relu=last_relu, fixed=fixed_classifier, seed=seed)
    base = None if named(str(model)) else open_checkpoint(Path(model))
    ends = {"last_relu": last_relu, "fixed_classifier": fixed_classifier}
    made_from = {
        "settings": asdict(recipe), "task": given.task, "max_length": max_length, "data": given.digest(), **ends,
        "model": str(model) if base is None else base.whole_digest(),
    }  # fmt: skip
    inputs = [Path(source) for source in (model, data, eval_data) if source is not None and Path(source).exists()]
    if watched is not None:
        check_output(watched, force=force or resume, inputs=inputs, lone=True)
    with staged(out, force=force, inputs=inputs) as folder:
        saves = _saves(out, made_from, every=save_every, resume=resume, force=force)
        if watched is not None and not resume:
            watched.unlink(missing_ok=True)
        numbers = fit.train(
            make, None if base is None else _tensors(base), folder, recipe=recipe, saves=saves, metric=chosen,
            geometry=watched, track=tuple(track), logs=out.with_name(f"{out.name}.logs"), progress=progress,
        )  # fmt: skip
    if (saves.folder / NOTE).is_file():
        shutil.rmtree(saves.folder)
    settings = {
        "model": str(model), "data": str(data), "out": str(out), "task": given.task, **asdict(recipe), **ends,
        "max_length": max_length, "imbalance": imbalance, "eval_data": None if eval_data is None else str(eval_data),
        "metric": metric, "geometry": None if geometry is None else str(geometry), "resume": resume, "text": text,
        "label": label, "split": split, "eval_split": eval_split, "save_every": save_every, "track": list(track),
    }  # fmt: skip
    return Record(job="train", settings=settings, seed=seed, numbers={**numbers, **meter.numbers()})


def _make(
    model: str, given: TrainingData, *, max_length: int | None, last_relu: bool | None, fixed: str | None, seed: int
) -> Make:  # fmt: skip
    """How to make what is trained."""
    if isinstance(given.train, Images):
        if max_length is not None:
            raise SettingError("max_length", "is of texts", fix="leave it out")
        held_out = given.held_out if isinstance(given.held_out, Images) else None
        return pictures(
            model, given.train, held_out=held_out, last_relu=last_relu, fixed_classifier=fixed, seed=seed
        )  # fmt: skip
    if last_relu is not None or fixed is not None:
        name = "last_relu" if fixed is None else "fixed_classifier"
        raise SettingError(name, "is of the convnet for images", fix="leave it out")
    texts_out = None if isinstance(given.held_out, Images) else given.held_out
    return texts(Path(model), given.train, task=given.task, held_out=texts_out, max_length=max_length)


def _numbers(given: float | Sequence[float] | None) -> tuple[float, ...] | None:
    """One number or several as several."""
    if given is None or isinstance(given, Sequence):
        return None if given is None else tuple(given)
    return (given,)


def _ends_in_relu(model: str, loss: Loss, last_relu: bool | None) -> bool | None:
    """Whether a convnet ends in a ReLU: as told, or as the embeddings of a contrastive loss want it."""
    if model != CONVNET or not loss.contrastive:
        return last_relu
    free = loss.of_features == "none"
    if last_relu and free and loss.design is not None and not loss.allow_mismatch:
        raise SettingError(
            "last_relu", f"with prototypes of the design {loss.design}", expected="embeddings of either sign",
            fix="--no-last-relu, or --allow-mismatch to see what happens",
        )  # fmt: skip
    return not free if last_relu is None else last_relu


def _lora(rank: int | None, alpha: int | None, targets: tuple[str, ...]) -> Lora | None:
    if rank is None and (alpha is not None or targets):
        raise SettingError("lora_alpha and lora_targets", "are of adapters, and no rank is given", fix="give --lora")
    return None if rank is None else Lora(rank=rank, alpha=alpha, targets=targets)


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
