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


@dataclass(frozen=True, kw_only=True)
class _Session:
    """A model on its device with its optimiser, what it learns, and the losses of the steps so far."""

    torch: Any
    accelerator: Any
    model: Any
    optimizer: Any
    task: Task
    recipe: Recipe
    saves: Saves
    losses: list[float]

    def run(self, *, progress: Progress) -> None:
        """Take the steps that are left; keep the state and tell the trackers on the way."""
        batches = _batches(self.task, self.recipe)
        each = self.saves.every or -(-len(self.task.tokens.ids) // self.recipe.batch_size)
        for step in descend(
            self.torch, self.accelerator, self.model, self.optimizer, self.task,
            batches=batches, recipe=self.recipe, start=len(self.losses),
        ):  # fmt: skip
            self.losses.append(step.loss)
            progress.advance("training", step.number, len(batches))
            told = {"loss": step.loss, "learning_rate": step.learning_rate, **_pulls(self.optimizer)}
            self.accelerator.log(told, step=step.number)
            if step.number % each == 0 and step.number < len(batches):
                self.saves.write(self._save)

    def _save(self, folder: Path) -> None:
        state.save(
            self.torch, folder, self.bare(), self.optimizer, self.accelerator,
            losses=self.losses, made_from=self.saves.made_from,
        )  # fmt: skip

    def load(self) -> None:
        """Go to the state that was kept."""
        self.losses[:] = state.load(
            self.torch, self.saves.folder, self.bare(), self.optimizer, self.accelerator,
            made_from=self.saves.made_from,
        )  # fmt: skip

    def bare(self, *, wrapped: bool = True) -> Any:
        """The model itself; `wrapped` leaves it in mixed precision."""
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=wrapped)

    def numbers(self) -> dict[str, Any]:
        """What can be said of the training when it is done."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        groups = [group for group in self.optimizer.param_groups if group.get("strength")]
        return {
            "steps": len(self.losses), "loss": sum(tail) / len(tail),
            "clamped": max(int(group.get("clamped", 0)) for group in self.optimizer.param_groups),
            "trained_parameters": sum(param.numel() for param in self.model.parameters() if param.requires_grad),
            "pulled_parameters": sum(param.numel() for group in groups for param in group["params"]),
        }  # fmt: skip


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
    begun, metric = time.perf_counter(), chosen_metric(task, metric)
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
        model, moved = accelerator.prepare(*_adapted(torch, model, base, recipe, task=task))
        session = _Session(
            torch=torch, accelerator=accelerator, model=model, optimizer=moved, task=learnt, recipe=recipe,
            saves=saves, losses=[],
        )  # fmt: skip
        if saves.resume:
            session.load()
        first = len(session.losses)
        accelerator.init_trackers("deltagram", config={name: str(value) for name, value in vars(recipe).items()})
        session.run(progress=progress)
        numbers = session.numbers() | {"resumed_at": first, "texts": len(data.text), "max_length": length}
        model = session.bare(wrapped=False)
        if measured is not None:
            numbers[metric] = measured.measure(torch, model, metric, progress=progress)
            accelerator.log({metric: numbers[metric]}, step=numbers["steps"])
        model.save_pretrained(out)
        huggingface.copy_tokenizer(transformers, folder, out)
    if numbers["clamped"]:
        cut = f"{numbers['clamped']} of {numbers['steps']} steps"
        progress.say(f"the pull was cut to its limit in {cut}: lower strength or rate")
    return {**numbers, "training_seconds": time.perf_counter() - begun}


def _adapted(torch: Any, model: Any, base: Base, recipe: Recipe, *, task: str) -> tuple[Any, Any]:
    """The model with its adapters and what is frozen, and the optimiser of the rest."""
    if recipe.lora:
        model = adapted(model, recipe.lora, task="SEQ_CLS" if task == "classification" else "CAUSAL_LM")
    freeze(model, recipe.freeze)
    return model, optimizer(torch, model, base, recipe)


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


def _pulls(wrapped: Any) -> dict[str, float]:
    """The last pull of AdamR under accelerate's wrapper, to be tracked."""
    found = getattr(wrapped.optimizer, "pulled_by", [])
    return {"pull": max(found)} if found else {}
