"""Fine-tune a classifier or a language model by a recipe, from a table of texts to a checkpoint or an adapter."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltagram.data.tables import Table, class_index
from deltagram.errors import SettingError
from deltagram.progress import Progress
from deltagram.training import huggingface, state
from deltagram.training.batches import I64, shuffled
from deltagram.training.loop import accelerated, descend, seeded
from deltagram.training.lora import adapted
from deltagram.training.metrics import METRICS, PERPLEXITY
from deltagram.training.pull import Base, freeze, optimizer
from deltagram.training.recipe import Recipe
from deltagram.training.tasks import Classification, LanguageModelling, Task

TASKS = ("classification", "lm")
LENGTHS = {"classification": 128, "lm": 512}


@dataclass(frozen=True, kw_only=True)
class Saves:
    """Where the training is kept on the way: `write` gets a function that fills a folder, and puts it in place.

    `every` steps, or, if None, at the end of each epoch but the last; `resume` goes on from `folder`.
    `made_from` is what a resumed training must agree in.
    """

    folder: Path
    write: Callable[[Callable[[Path], None]], None]
    made_from: Mapping[str, Any]
    every: int | None = None
    resume: bool = False


def train(
    folder: Path, base: Base, data: Table, out: Path, *,
    task: str, recipe: Recipe, saves: Saves, held_out: Table | None = None, metric: str | None = None,
    max_length: int | None = None, track: tuple[str, ...] = (), logs: Path | None = None, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Train the model in `folder` on `data`; write the checkpoint, or the adapter, into the folder `out`.

    `base` has the tensors of `folder`, to which AdamR pulls. `task`: classification (labels required) or lm; the
    held-out table is measured at the end by `metric`. Trackers of accelerate that write files do so in `logs`.
    Returns numbers. Raises SettingError, CheckpointError or ExtraError, as what is called does.
    """
    begun = time.perf_counter()
    metric = chosen_metric(task, metric)
    with (
        huggingface.libraries() as (torch, transformers),
        accelerated(precision=recipe.mixed_precision, track=track, folder=str(logs or out)) as accelerator,
        seeded(torch, recipe.seed),
    ):
        length = _length(transformers, folder, task, max_length)
        model, made = _model(transformers, folder, data, task=task)
        learnt = made(transformers, folder, data, length)
        measured = None if held_out is None else made(transformers, folder, held_out, length)
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = learnt.tokens.pad  # decoders with a head look for it
        if recipe.lora:
            model = adapted(model, recipe.lora, task="SEQ_CLS" if task == "classification" else "CAUSAL_LM")
        freeze(model, recipe.freeze)
        moved = optimizer(torch, model, base, recipe)
        prepared, wrapped = accelerator.prepare(model, moved)
        batches = _batches(learnt, recipe)
        first, losses = 0, []
        if saves.resume:
            losses = state.load(torch, saves.folder, model, wrapped, accelerator, made_from=saves.made_from)
            first = len(losses)
        accelerator.init_trackers("deltagram", config={name: str(value) for name, value in vars(recipe).items()})
        each = saves.every or -(-len(learnt.tokens.ids) // recipe.batch_size)
        for step in descend(
            torch, accelerator, prepared, wrapped, learnt, batches=batches, recipe=recipe, start=first
        ):  # fmt: skip
            losses.append(step.loss)
            progress.advance("training", step.number, len(batches))
            accelerator.log({"loss": step.loss, "learning_rate": step.learning_rate, **_pulls(moved)}, step=step.number)
            if step.number % each == 0 and step.number < len(batches):
                saves.write(
                    lambda into: state.save(
                        torch, into, model, wrapped, accelerator, losses=losses, made_from=saves.made_from
                    )
                )  # fmt: skip
        model = accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        score = None if measured is None else measured.measure(torch, model, metric, progress=progress)
        if score is not None:
            accelerator.log({metric: score}, step=len(losses))
        model.save_pretrained(out)
        huggingface.copy_tokenizer(transformers, folder, out)
    tail = losses[-max(1, len(losses) // 10) :]
    clamped = int(getattr(moved, "clamped", 0))
    if clamped:
        progress.say(f"the pull was cut to its limit in {clamped} of {len(losses)} steps: lower strength or rate")
    return {
        "steps": len(losses), "resumed_at": first, "training_seconds": time.perf_counter() - begun,
        "loss": sum(tail) / len(tail), "clamped": clamped, "texts": len(data.text), "max_length": length,
        "trained_parameters": sum(param.numel() for param in model.parameters() if param.requires_grad),
        "pulled_parameters": _pulled(moved),
        **({} if score is None else {metric: score}),
    }  # fmt: skip


def chosen_metric(task: str, metric: str | None) -> str:
    """The metric of a task; SettingError for one that the task does not have."""
    known = tuple(METRICS) if task == "classification" else (PERPLEXITY,)
    if metric is not None and metric not in known:
        raise SettingError("metric", f"{metric!r} is not one of {task}", expected=" or ".join(known))
    return metric or known[0]


def _length(transformers: Any, folder: Path, task: str, given: int | None) -> int:
    """Tokens a text: what was asked for, or the task's own, as far as the model goes."""
    limit = huggingface.greatest_length(transformers, folder)
    if given is None:
        return min(LENGTHS[task], limit)
    if not 2 <= given <= limit:
        raise SettingError("max_length", f"{given}", expected=f"2 to {limit} tokens, which the model takes")
    return given


Make = Callable[[Any, Path, Table, int], Task]


def _model(transformers: Any, folder: Path, data: Table, *, task: str) -> tuple[Any, Make]:
    """The model, with a new head if it needs one, and how a table becomes its task."""
    if task == "lm":
        return huggingface.causal_model(transformers, folder), _stream
    if data.label is None:
        raise SettingError(data.source, "has no labels", fix="train with --task lm, or add a column of labels")
    if huggingface.has_head(transformers, folder):
        model = huggingface.classifier(transformers, folder)
        classes = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    else:
        classes = sorted(set(data.label), key=lambda name: (int(name) if name.isdecimal() else -1, name))
        model = None
    if len(set(data.label)) < 2:
        raise SettingError(data.source, f"has one class only ({data.label[0]!r})", expected="two classes or more")
    model = model or huggingface.classifier(transformers, folder, classes=classes)

    def labelled(transformers: Any, folder: Path, table: Table, length: int) -> Task:
        tokens = huggingface.tokenize(transformers, folder, table.text, max_length=length)
        return Classification(tokens=tokens, label=class_index(table.label or (), classes, source=table.source))

    return model, labelled


def _stream(transformers: Any, folder: Path, table: Table, length: int) -> Task:
    tokens = huggingface.tokenize_stream(transformers, folder, table.text, max_length=length)
    if not tokens.ids:
        raise SettingError(table.source, "has fewer than two tokens", expected="text to predict")
    return LanguageModelling(tokens=tokens)


def _batches(task: Task, recipe: Recipe) -> list[I64]:
    """The texts of each step."""
    count = -(-len(task.tokens.ids) // recipe.batch_size)
    epochs = recipe.epochs if recipe.steps is None else -(-recipe.steps // count)
    found = shuffled(task.tokens.lengths, size=recipe.batch_size, epochs=epochs, seed=recipe.seed)
    return found[: recipe.steps]


def _pulled(optimizer: Any) -> int:
    """Entries that are pulled to a reference."""
    groups = [group for group in optimizer.param_groups if group.get("strength")]
    return sum(param.numel() for group in groups for param in group["params"])


def _pulls(optimizer: Any) -> dict[str, float]:
    """The last pull of AdamR, to be tracked."""
    found = getattr(optimizer, "pulled_by", [])
    return {"pull": max(found)} if found else {}
