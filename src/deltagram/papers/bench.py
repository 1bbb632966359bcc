"""Where a paper is reproduced: a folder of models and notes, data, and how much may be spent."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from deltagram.data.packages import TextClassification, Texts, minilm, smollm2
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.once import digest, once
from deltagram.papers.imagesets import IMAGE_SETS, ImageSet
from deltagram.papers.notes import Notes
from deltagram.papers.scoring import Classes, Likelihood, Scorer
from deltagram.papers.stage import Sources
from deltagram.papers.tasks import BATCH_SIZE, LARGE, LARGE_PACKAGED, Task, every_class, some
from deltagram.progress import SILENT, Progress
from deltagram.store.staging import staged, staged_file
from deltagram.training.classifier import fine_tune
from deltagram.training.gguf import dequantise
from deltagram.training.metrics import PERPLEXITY

Train = Callable[[Path, Path], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is spent: seeds of fine-tuning, masks of each, texts of a test (None: all), with labels, of a search.

    `prompts` (None: all) a language model is tested on, `chosen_on` are those its q is chosen on. Networks on images
    see `image_epochs` epochs, under contrastive losses `contrast_epochs`; free features `free_epochs`, from `starts`
    random starts where a minimum is searched. On next tokens, free words and contexts see `word_epochs`, a decoder
    `decoder_epochs`.
    """

    name: str
    seeds: tuple[int, ...]
    masks: tuple[int, ...]
    test: int | None
    labels: int
    texts: int = 64
    prompts: int | None = None
    chosen_on: int = 128
    image_epochs: int = 350
    contrast_epochs: int = 150
    free_epochs: int = 20_000
    starts: int = 4
    word_epochs: int = 10_000
    decoder_epochs: int = 2_000

    @property
    def full(self) -> bool:
        """Whether sweeps that only tell a trend are run."""
        return self.name == "full"


FAST: Final = Scale(
    name="fast", seeds=(0,), masks=(0, 1), test=400, labels=64, texts=16, prompts=150, chosen_on=48,
    image_epochs=100, contrast_epochs=60, free_epochs=10_000, starts=2, word_epochs=3_000, decoder_epochs=600,
)  # fmt: skip
FULL: Final = Scale(name="full", seeds=(0, 1, 2), masks=(0, 1, 2, 3), test=None, labels=256)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A fine-tuned model, the task it was tuned on, and the texts set aside."""

    name: str
    base: Path
    folder: Path
    task: Task
    data: TextClassification
    held: Texts


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything a claim's check works with.

    `releases` is the folder of data that no package carries, or None. Unless given, `encoder`, `decoder` (a causal
    language model), `task` and `images` (sets of images by name) are those of the reproduction; each is looked for when
    a check asks for it.
    """

    folder: Path
    scale: Scale
    releases: Path | None = None
    encoder: Callable[[], Path] = minilm
    decoder: Callable[[], Path] | None = None
    task: Task | None = None
    images: Mapping[str, ImageSet] | None = None
    progress: Progress = SILENT
    _read: dict[Task, tuple[TextClassification, Texts]] = field(default_factory=dict, repr=False)

    @property
    def large(self) -> Task:
        """The task of large deltas that claims are tried on; without a folder of releases, a packaged one."""
        return self.task or (LARGE_PACKAGED if self.releases is None else LARGE)

    @cached_property
    def notes(self) -> Notes:
        """What was measured already."""
        return Notes(self.folder / "notes")

    def image_set(self, name: str) -> ImageSet:
        """A set of images, by its name. ExtraError where it is not here."""
        return IMAGE_SETS[name](self.releases) if self.images is None else self.images[name]

    def data(self, task: Task) -> tuple[TextClassification, Texts]:
        """A task's texts, and those set aside; read once."""
        plain = replace(task, learning_rate=0.0, epochs=0)
        if plain not in self._read:
            self._read[plain] = task.read(self.releases)
        return self._read[plain]

    def tuned(self, task: Task, *, seed: int = 0, name: str | None = None) -> Variant:
        """The plain fine-tune (AdamW without decay) of the encoder, made once."""
        settings = training_settings(task, seed=seed)
        data, _ = self.data(task)

        def train(base: Path, folder: Path) -> Mapping[str, Any]:
            texts = {"train": len(data.train), "test": len(data.test), "classes": len(data.classes)}
            with staged(folder, force=True, inputs=(base,)) as out:
                return texts | fine_tune(base, data, out, **settings, progress=self.progress)

        default = f"{task.name}-lr{task.learning_rate:g}-seed{seed}"
        return self.trained(task, train, name=name or default, settings=settings)

    def trained(
        self, task: Task, train: Train, *, name: str, settings: Mapping[str, Any], base: Path | None = None
    ) -> Variant:
        """A fine-tune of `base` (the encoder), which `train(base, folder)` writes once from these settings."""
        data, held = self.data(task)
        base, folder = base or self.encoder(), self.folder / name

        def work() -> Mapping[str, Any]:
            self.progress.say(f"{name}: fine-tuning on {len(data.train):,} texts")
            return train(base, folder)

        made_from = {"base": digest(base), "texts": texts_digest(data.train), "settings": dict(settings)}
        once(folder, work, made_from=made_from, progress=self.progress)
        return Variant(name=name, base=base, folder=folder, task=task, data=data, held=held)

    def language_model(self) -> Path:
        """A causal language model's checkpoint folder: SmolLM2, dequantised once. ExtraError without its package."""
        if self.decoder is not None:
            return self.decoder()
        source, folder = smollm2(), self.folder / "smollm2"

        def work() -> Mapping[str, Any]:
            self.progress.say(f"{folder}: dequantising {source.name}")
            with staged(folder, force=True, inputs=(source,)) as out:
                dequantise(source, out)
            return {}

        once(folder, work, made_from={"source": source.name, "bytes": source.stat().st_size}, progress=self.progress)
        return folder

    def evidence(self, variant: Variant) -> tuple[Evidence, str]:
        """Files with the texts set aside, for calibration and, with labels, for choices; and their digest."""
        classes = variant.data.classes
        labelled = every_class(variant.held, most=self.scale.labels, classes=len(classes))
        files = {
            "calibration": [{"text": text} for text in variant.held.text],
            "labels": [
                {"text": text, "label": classes[label]}
                for text, label in zip(labelled.text, labelled.label, strict=True)
            ],
        }
        paths = {part: self.folder / f"{variant.task.name}-{part}.jsonl" for part in files}
        for part, rows in files.items():
            write_lines(paths[part], rows)
        evidence = Evidence(
            calibration=paths["calibration"], labels=paths["labels"], metric=variant.task.metric,
            texts=self.scale.texts, max_length=variant.task.max_length,
        )  # fmt: skip
        return evidence, texts_digest(variant.held) + texts_digest(labelled)

    def test(self, variant: Variant) -> Scorer:
        """The test of a variant: classes of its texts or, for a language model, the texts themselves."""
        texts = some(variant.data.test, most=self.scale.test, name=variant.data.name)
        task, told = variant.task, texts_digest(texts)
        if task.metric == PERPLEXITY:
            return Likelihood(texts=texts.text, digest=told, max_length=task.max_length)
        return Classes(
            texts=texts, digest=told, classes=variant.data.classes, metric=task.metric, max_length=task.max_length
        )  # fmt: skip

    def sources(self, variant: Variant) -> Sources:
        """What a stage of the variant works with."""
        evidence, told = self.evidence(variant)
        return Sources(
            base=variant.base, tuned=variant.folder, scorer=self.test(variant), evidence=evidence,
            evidence_digest=told,
        )  # fmt: skip


def training_settings(task: Task, *, seed: int) -> dict[str, Any]:
    """What `fine_tune` is told."""
    return {
        "epochs": task.epochs,
        "batch_size": BATCH_SIZE,
        "learning_rate": task.learning_rate,
        "max_length": task.max_length,
        "seed": seed,
    }


def texts_digest(texts: Texts) -> str:
    """blake3 of texts and labels."""
    return blake3(repr(texts).encode()).hexdigest()


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """JSON lines, written atomically."""
    with staged_file(path, force=True) as place:
        place.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
