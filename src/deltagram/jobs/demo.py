"""The main job on real input: two fine-tunes of a real base, pruned, restored and tested."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from deltagram.data.packages import (
    TextClassification,
    Texts,
    check_installed,
    minilm,
    reuters_r8,
    rotten_tomatoes,
)
from deltagram.delta import backend
from deltagram.jobs.once import claim, digest, once
from deltagram.jobs.prune import prune
from deltagram.jobs.restore import restore
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.staging import staged
from deltagram.training.classifier import accuracy, fine_tune


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set to fine-tune on, and how."""

    folder: str
    data: Callable[[], TextClassification]
    learning_rate: float
    max_length: int
    epochs: int = 1
    batch_size: int = 32


@dataclass(frozen=True, kw_only=True)
class Storage:
    """One way to store a delta."""

    folder: str
    label: str
    keep: float
    values: str


TASKS = (
    Task(folder="reuters-r8", data=reuters_r8, learning_rate=1e-4, max_length=48),
    Task(folder="rotten-tomatoes", data=rotten_tomatoes, learning_rate=1e-4, max_length=64),
)
STORAGES = (
    Storage(folder="keep1-bf16", label="keep 1 %, bf16", keep=0.01, values="bf16"),
    Storage(folder="keep2.5-4bit", label="keep 2.5 %, 4 bit", keep=0.025, values="4bit"),
)
COLUMNS = ("variant", "stored", "bytes", "ratio", "accuracy", "prune_seconds", "restore_seconds")
SEED = 0


def demo(folder: Path | str, *, progress: Progress = SILENT) -> Record:
    """Fine-tune all-MiniLM-L6-v2 on two tasks, store each as deltas, restore them, and test all of them.

    Everything stays in `folder`, and a later run goes on from there: what is complete is not done again.
    `numbers["rows"]` is the table: `COLUMNS` of each thing tested, None where one does not apply. `ratio` is
    the bytes of the fine-tuned tensor files over those of the row, `accuracy` is on the test set; the last two
    rows of a variant are its floor: the base encoder under the fine-tuned head, and the most common class.
    `numbers["training"]` has the texts, steps and seconds of each fine-tuning. Raises ExtraError if a package
    is missing, OutputError for a folder that holds something else.
    """
    meter = Meter.start()
    folder = Path(folder)
    check_installed()
    claim(folder, purpose="Models, deltas and measurements of `deltagram demo`.")
    rows: list[dict[str, Any]] = []
    training: dict[str, Mapping[str, Any]] = {}
    for task in TASKS:
        bench = _Bench(task=task, data=task.data(), base=minilm(), folder=folder, progress=progress)
        training[bench.data.name] = bench.fine_tune()
        rows.append(bench.whole_row())
        for storage in STORAGES:
            pruned = bench.prune(storage)
            restored = bench.restore(storage)
            rows.append(bench.delta_row(storage, pruned, restored))
        rows += bench.floor_rows()
    settings = {"folder": str(folder), "tasks": {task.folder: _settings(task) for task in TASKS}}
    return Record(
        job="demo",
        settings=settings,
        seed=SEED,
        numbers={"rows": rows, "training": training, **meter.numbers()},
    )


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """The steps of one task, each done once: where it writes, and what it reads."""

    task: Task
    data: TextClassification
    base: Path
    folder: Path
    progress: Progress

    @property
    def tuned(self) -> Path:
        return self.folder / self.task.folder

    def delta(self, storage: Storage) -> Path:
        return self.folder / f"{self.task.folder}-{storage.folder}"

    def restored(self, storage: Storage) -> Path:
        return self.folder / f"{self.task.folder}-{storage.folder}-restored"

    def fine_tune(self) -> dict[str, Any]:
        settings = _settings(self.task)
        texts = {"train": len(self.data.train), "test": len(self.data.test), "classes": len(self.data.classes)}

        def work() -> dict[str, Any]:
            self.progress.say(
                f"{self.data.name}: fine-tuning on {texts['train']:,} texts, about two minutes on two cores"
            )
            with staged(self.tuned, force=True, inputs=(self.base,)) as out:
                return texts | fine_tune(self.base, self.data, out, **settings, progress=self.progress)

        made_from = {"base": digest(self.base), "texts": _digest(self.data.train), "settings": settings}
        return once(self.tuned, work, made_from=made_from, progress=self.progress)

    def prune(self, storage: Storage) -> dict[str, Any]:
        out = self.delta(storage)
        settings: dict[str, Any] = {"keep": storage.keep, "values": storage.values, "seed": SEED}

        def work() -> dict[str, Any]:
            backend.prepare(progress=self.progress)  # so that the seconds are without compilation
            record = prune(self.base, self.tuned, out, **settings, force=True, progress=self.progress)
            return {name: record.numbers[name] for name in ("delta_bytes", "seconds")}

        made_from = {"base": digest(self.base), "tuned": digest(self.tuned), "settings": settings}
        return once(out, work, made_from=made_from, progress=self.progress)

    def restore(self, storage: Storage) -> dict[str, Any]:
        delta, out = self.delta(storage), self.restored(storage)

        def work() -> dict[str, Any]:
            backend.prepare(progress=self.progress)
            record = restore(self.base, delta, out, force=True, progress=self.progress)
            return {"seconds": record.numbers["seconds"]}

        made_from = {"base": digest(self.base), "delta": digest(delta)}
        return once(out, work, made_from=made_from, progress=self.progress)

    def accuracy(self, model: Path, *, encoder: Path | None = None) -> float:
        length = self.task.max_length

        def work() -> dict[str, Any]:
            share = accuracy(model, self.data.test, encoder=encoder, max_length=length, progress=self.progress)
            return {"accuracy": share}

        made_from = {"model": digest(model), "texts": _digest(self.data.test), "max_length": length}
        if encoder is not None:
            made_from["encoder"] = digest(encoder)
        measured = "accuracy" if encoder is None else "accuracy-of-head"
        return float(once(model, work, made_from=made_from, measured=measured, progress=self.progress)["accuracy"])

    def whole_row(self) -> dict[str, Any]:
        accuracy = self.accuracy(self.tuned)
        return self._row("fine-tuned checkpoint", bytes=self._whole(), ratio=1.0, accuracy=accuracy)

    def delta_row(self, storage: Storage, pruned: Mapping[str, Any], restored: Mapping[str, Any]) -> dict[str, Any]:
        return self._row(
            storage.label,
            bytes=pruned["delta_bytes"],
            ratio=self._whole() / pruned["delta_bytes"],
            accuracy=self.accuracy(self.restored(storage)),
            prune_seconds=pruned["seconds"],
            restore_seconds=restored["seconds"],
        )

    def floor_rows(self) -> list[dict[str, Any]]:
        head = self.accuracy(self.tuned, encoder=self.base)
        return [
            self._row("base encoder, fine-tuned head", accuracy=head),
            self._row("most common class", accuracy=self.data.majority()),
        ]

    def _row(self, stored: str, **columns: float) -> dict[str, Any]:
        return dict.fromkeys(COLUMNS) | {"variant": self.data.name, "stored": stored} | columns

    def _whole(self) -> int:
        return sum(file.stat().st_size for file in self.tuned.glob("*.safetensors"))


def _settings(task: Task) -> dict[str, Any]:
    """What `fine_tune` is told."""
    return {
        "epochs": task.epochs,
        "batch_size": task.batch_size,
        "learning_rate": task.learning_rate,
        "max_length": task.max_length,
        "seed": SEED,
    }


def _digest(texts: Texts) -> str:
    return blake3(repr(texts).encode()).hexdigest()
