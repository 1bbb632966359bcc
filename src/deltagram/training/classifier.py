"""Fine-tune a text classifier on a base encoder, and measure its accuracy."""

import math
import time
from pathlib import Path

from deltagram.data.packages import TextClassification, Texts
from deltagram.errors import SettingError
from deltagram.progress import SILENT, Progress
from deltagram.training.batches import shuffled
from deltagram.training.huggingface import bare_encoder, classifier, copy_tokenizer, libraries, tokenize
from deltagram.training.loop import accelerated, descend, seeded
from deltagram.training.losses import plain
from deltagram.training.recipe import Recipe
from deltagram.training.tasks import Classification

WARMUP = 0.1
CLIP = 1.0


def fine_tune(
    base: Path,
    data: TextClassification,
    out: Path,
    *,
    epochs: int = 1,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    max_length: int = 64,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, float]:
    """Train the encoder in `base` and a new head on `data.train`; write the checkpoint into the folder `out`.

    AdamW without weight decay (the embedding of a token that no text uses keeps its bits), a learning rate
    that rises over the first `WARMUP` of the steps and then falls linearly to zero, gradients clipped at norm
    `CLIP`, no dropout (one epoch gains nothing from it, and it takes a quarter of the time), all in float32.
    The tokenizer's files are copied as they are. On one machine with one number of threads the same arguments
    give the same weights; the caller's random state is left alone.

    Returns `steps`, `seconds` and `loss`, the mean of the last tenth of the steps. Raises SettingError for a
    setting outside its range or under which the loss is not finite, CheckpointError for a base that is not a
    model folder, ExtraError without the extra `hf`.
    """
    start = time.perf_counter()
    recipe = Recipe(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, warmup=WARMUP, clip=CLIP, dropout=False,
        seed=seed,
    )  # fmt: skip
    _positive(max_length=max_length)
    with libraries() as (torch, transformers), seeded(torch, seed), accelerated() as accelerator:
        model = classifier(transformers, base, classes=data.classes)
        tokens = tokenize(transformers, base, data.train.text, max_length=max_length)
        batches = shuffled(tokens.lengths, size=batch_size, epochs=epochs, seed=seed)
        adamw = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
        model, optimizer = accelerator.prepare(model, adamw)
        task = Classification(inputs=tokens, label=data.train.label)
        losses: list[float] = []
        for step in descend(
            torch, accelerator, model, optimizer, task, batches=batches, recipe=recipe, objective=plain()
        ):
            losses.append(step.loss)
            progress.advance(f"fine-tuning on {data.name}", len(losses), len(batches))
        model.save_pretrained(out)
        copy_tokenizer(transformers, base, out)
    tail = losses[-max(1, len(losses) // 10) :]
    return {"steps": len(losses), "seconds": time.perf_counter() - start, "loss": sum(tail) / len(tail)}


def accuracy(
    model: Path,
    texts: Texts,
    *,
    encoder: Path | None = None,
    max_length: int = 64,
    progress: Progress = SILENT,
) -> float:
    """Share of `texts` that the classifier in the folder `model` puts into their class.

    With the folder of another `encoder`, the head of `model` is used on it; on the base, this is the accuracy
    that is left without any delta.
    """
    with libraries() as (torch, transformers):
        tokens = tokenize(transformers, model, texts.text, max_length=max_length)
        loaded = classifier(transformers, model)
        if encoder is not None:
            loaded.base_model.load_state_dict(bare_encoder(transformers, encoder).state_dict())
        task = Classification(inputs=tokens, label=texts.label)
        return task.measure(torch, loaded, "accuracy", progress=progress)


def _positive(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise SettingError(name, f"{value}", expected="a positive number")
