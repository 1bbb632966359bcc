"""Train a subject by a recipe, from its examples to a checkpoint or an adapter."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deltagram.data.audit import describe
from deltagram.errors import SettingError
from deltagram.progress import Progress
from deltagram.training import huggingface, state
from deltagram.training.batches import I64
from deltagram.training.callbacks import GeometryCallback
from deltagram.training.contrastive import Contrastive, contrastive
from deltagram.training.headfit import Fitted
from deltagram.training.loop import accelerated, descend, seeded
from deltagram.training.lora import adapted
from deltagram.training.losses import Loss, Objective, objective
from deltagram.training.metrics import METRICS, PERPLEXITY
from deltagram.training.observed import last_linear
from deltagram.training.pull import Base, freeze, optimizer
from deltagram.training.recipe import Recipe
from deltagram.training.samplers import step_batches
from deltagram.training.subject import Make, Subject
from deltagram.training.tasks import Classification

TASKS = ("classification", "lm", "images")


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
    subject: Subject
    recipe: Recipe
    objective: Objective | Contrastive
    saves: Saves
    geometry: GeometryCallback | None
    losses: list[float]

    def run(self, metric: str, *, progress: Progress) -> dict[str, Any]:
        """Take the steps that are left, keep the state and tell the trackers on the way, and measure in the end."""
        geometry, task = self.geometry, self.subject.task
        if geometry is not None and not isinstance(task, Classification):
            raise SettingError("geometry", "is of classes, and a language model has none", fix="leave it out")
        batches = step_batches(task, self.recipe)
        chosen = self.objective if geometry is None else replace(self.objective, seen=geometry.labels)
        found = self._audit(batches, progress=progress)
        with self._watched():
            self._descend(chosen, batches, progress=progress)
        found |= self._numbers()
        fitted = None
        if isinstance(self.objective, Contrastive) and isinstance(task, Classification):
            fitted = Fitted.of(self.torch, self.bare(wrapped=False), task, self.objective)
            found |= fitted.numbers(batches[-self._epoch :], losses=self.losses[-self._epoch :])
        with self._watched():
            found |= self._scores(metric, progress=progress)
        if fitted is not None and isinstance(self.subject.held_out, Classification):
            found |= fitted.by_nearest_mean(self.torch, self.bare(wrapped=False), self.subject.held_out)
        return found if geometry is None else found | {"geometry": geometry.last}

    def _audit(self, batches: list[I64], *, progress: Progress) -> dict[str, Any]:
        """Whether these batches leave a contrastive loss one minimiser; said before training where they do not."""
        task, chosen = self.subject.task, self.objective
        if not isinstance(chosen, Contrastive) or not isinstance(task, Classification):
            return {}
        found = chosen.audit(batches, task.label, classes=len(self.subject.classes), dim=self._dim)
        if found.verdict != "unique":
            for line in describe(found):
                progress.say(line)
        return {"batches": {"verdict": found.verdict, "reasons": list(found.reasons), "bind": list(found.bind)}}

    @property
    def _dim(self) -> int:
        """Dimensions of what the head sees."""
        return int(last_linear(self.bare(), None).weight.shape[1])

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """What goes into the head looked at, as the objective and the geometry want it, while the block runs."""
        with ExitStack() as stack:
            if isinstance(self.objective, Contrastive):
                stack.enter_context(self.objective.tap.on(self.bare()))
            if self.geometry is not None:
                stack.enter_context(self.geometry.watch(self.bare()))
            yield

    def _descend(self, chosen: Objective | Contrastive, batches: list[I64], *, progress: Progress) -> None:
        _check_size(min(map(len, batches)), self.recipe, self.subject)
        epoch = self._epoch
        each = self.saves.every or epoch
        for step in descend(
            self.torch, self.accelerator, self.model, self.optimizer, self.subject.task,
            batches=batches, recipe=self.recipe, objective=chosen, start=len(self.losses),
        ):  # fmt: skip
            self.losses.append(step.loss)
            progress.advance("training", step.number, len(batches))
            told = {"loss": step.loss, "learning_rate": step.learning_rate, **_pulls(self.optimizer)}
            self.accelerator.log(told, step=step.number)
            if self.geometry is not None and (step.number % epoch == 0 or step.number == len(batches)):
                values = self.geometry.epoch_end("train", epoch=step.number / epoch, step=step.number)
                self.accelerator.log(values, step=step.number)
            if step.number % each == 0 and step.number < len(batches):
                self.saves.write(self._save)
        if self.geometry is not None:
            self.geometry.forget("eval")  # of passes without gradients that a loss in parts makes

    def _scores(self, metric: str, *, progress: Progress) -> dict[str, Any]:
        """How good the model is on held-out examples, if there are any."""
        task, model, step = self.subject.held_out, self.bare(wrapped=False), len(self.losses)
        if task is None:
            return {}
        seen = None if self.geometry is None else self.geometry.labels
        scores = task.scores(self.torch, model, metric, progress=progress, seen=seen)
        self.accelerator.log({metric: scores[metric]}, step=step)
        if self.geometry is not None:
            self.accelerator.log(self.geometry.epoch_end(epoch=step / self._epoch, step=step), step=step)
        return scores

    @property
    def _epoch(self) -> int:
        """Steps an epoch."""
        return -(-len(self.subject.task.lengths) // self.recipe.batch_size)

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

    def _numbers(self) -> dict[str, Any]:
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
    make: Make, base: Base | None, out: Path, *, recipe: Recipe, saves: Saves, metric: str,
    geometry: Path | None = None, track: tuple[str, ...] = (), logs: Path | None = None, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Train the subject that `make` makes; write the checkpoint, or the adapter, into the folder `out`.

    `base` has the tensors that AdamR pulls to, if the model came from any. The held-out examples are measured at the
    end by `metric`. `geometry` is a file that gets a line of the geometry of classes an epoch. Trackers of accelerate
    that write files do so in `logs`. Returns numbers. Raises SettingError, CheckpointError or ExtraError, as what is
    called does.
    """
    begun = time.perf_counter()
    with (
        huggingface.libraries() as (torch, transformers),
        accelerated(precision=recipe.mixed_precision, track=track, folder=str(logs or out)) as accelerator,
        seeded(torch, recipe.seed),
    ):
        subject = make(torch, transformers)
        chosen = _objective(recipe.loss, subject)
        chosen.module.to(accelerator.device)
        model, moved = accelerator.prepare(*_adapted(torch, subject, base, recipe))
        session = _Session(
            torch=torch, accelerator=accelerator, model=model, optimizer=moved, subject=subject, recipe=recipe,
            objective=chosen, saves=saves, geometry=_callback(subject, chosen, geometry), losses=[],
        )  # fmt: skip
        if saves.resume:
            session.load()
        first = len(session.losses)
        accelerator.init_trackers("deltagram", config={name: str(value) for name, value in vars(recipe).items()})
        numbers = session.run(metric, progress=progress) | {"resumed_at": first, **_described(subject)}
        subject.save(session.bare(wrapped=False), out)
    if numbers["clamped"]:
        cut = f"{numbers['clamped']} of {numbers['steps']} steps"
        progress.say(f"the pull was cut to its limit in {cut}: lower strength or rate")
    return {**numbers, "training_seconds": time.perf_counter() - begun}


def _described(subject: Subject) -> dict[str, Any]:
    """What there was to learn."""
    counts = subject.counts
    classes = {} if counts is None else {"classes": list(subject.classes), "class_counts": counts.tolist()}
    return {**classes, **subject.told}


def _objective(loss: Loss, subject: Subject) -> Objective | Contrastive:
    if not loss.contrastive:
        return objective(loss, subject.counts)
    if subject.counts is None:
        raise SettingError("loss", f"{loss.name} is of classes, and a language model has none", expected="ce")
    return contrastive(loss, subject.counts, dim=last_linear(subject.model, None).weight.shape[1])


def _callback(subject: Subject, chosen: Objective | Contrastive, file: Path | None) -> GeometryCallback | None:
    """What watches the geometry, if there is a file for it."""
    if file is None:
        return None
    if isinstance(chosen, Contrastive):
        return GeometryCallback(transform=chosen.compared, target=chosen.target, file=file)
    return GeometryCallback(class_counts=subject.counts, loss=chosen.module, file=file)


def _adapted(torch: Any, subject: Subject, base: Base | None, recipe: Recipe) -> tuple[Any, Any]:
    """The model with its adapters and what is frozen, and the optimiser of the rest."""
    model = subject.model
    if recipe.lora:
        if subject.adapters is None:
            raise SettingError("lora", "is for text models of transformers", fix="leave it out")
        model = adapted(model, recipe.lora, task=subject.adapters)
    freeze(model, recipe.freeze)
    return model, optimizer(torch, model, base, recipe)


def chosen_metric(task: str, metric: str | None) -> str:
    """The metric of a task; SettingError for one that the task does not have."""
    known = (PERPLEXITY,) if task == "lm" else tuple(METRICS)
    if metric is not None and metric not in known:
        raise SettingError("metric", f"{metric!r} is not one of {task}", expected=" or ".join(known))
    return metric or known[0]


def _check_size(smallest: int, recipe: Recipe, subject: Subject) -> None:
    """SettingError for a part of a step that is smaller than the model takes."""
    part = smallest // min(recipe.accumulate, smallest)
    if part < subject.least:
        raise SettingError(
            "batch_size", f"{recipe.batch_size} in {recipe.accumulate} parts leaves a part of {part}",
            expected=f"{subject.least} or more at once, for batch norm", fix="take another batch size",
        )  # fmt: skip


def _pulls(wrapped: Any) -> dict[str, float]:
    """The last pull of AdamR under accelerate's wrapper, to be tracked."""
    found = getattr(wrapped.optimizer, "pulled_by", [])
    return {"pull": max(found)} if found else {}
