"""Fine-tune a text classifier on a base encoder, and measure its accuracy."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deltagram.data.packages import TextClassification, Texts
from deltagram.errors import SettingError
from deltagram.progress import SILENT, Progress
from deltagram.training.batches import I64, by_length, shuffled
from deltagram.training.huggingface import Tokens, bare_encoder, classifier, copy_tokenizer, libraries, tokenize

WARMUP = 0.1
CLIP = 1.0
_MEASURED_AT_ONCE = 64


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
    _positive(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, max_length=max_length)
    with libraries() as (torch, transformers), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = classifier(transformers, base, classes=data.classes)
        tokens = tokenize(transformers, base, data.train.text, max_length=max_length)
        batches = shuffled(tokens.lengths, size=batch_size, epochs=epochs, seed=seed)
        losses: list[float] = []
        for loss in _descend(torch, model, tokens, data.train, batches=batches, learning_rate=learning_rate):
            losses.append(loss)
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
        return _share_right(torch, loaded, tokens, texts, progress)


def _descend(
    torch: Any, model: Any, tokens: Tokens, texts: Texts, *, batches: Sequence[I64], learning_rate: float
) -> Iterator[float]:
    """Train `model` in place, one step a batch; yields the loss before each step, after it."""
    labels = torch.tensor(texts.label)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _slope(step, steps=len(batches)))
    model.eval()  # gradients without dropout
    for step, samples in enumerate(batches, start=1):
        loss = torch.nn.functional.cross_entropy(_logits(torch, model, tokens, samples), labels[samples])
        if not math.isfinite(loss.item()):
            found = f"{learning_rate}, with which the loss of step {step} is {loss.item()}"
            raise SettingError("learning_rate", found, expected="a finite loss", fix="take a lower one")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        yield loss.item()


def _slope(step: int, *, steps: int) -> float:
    """Share of the learning rate at a step: up to 1 over the warm-up, then down to 0 at the last step's end."""
    warm = math.ceil(WARMUP * steps)
    return (step + 1) / warm if step < warm else (steps - step) / (steps - warm + 1)


def _share_right(torch: Any, model: Any, tokens: Tokens, texts: Texts, progress: Progress) -> float:
    """Accuracy of a loaded model on tokenized texts."""
    model.eval()
    labels = torch.tensor(texts.label)
    done = right = 0
    with torch.inference_mode():
        for samples in by_length(tokens.lengths, size=_MEASURED_AT_ONCE):
            guess = _logits(torch, model, tokens, samples).argmax(dim=-1)
            right += int((guess == labels[samples]).sum())
            done += len(samples)
            progress.advance("measuring accuracy", done, len(texts))
    return right / done


def _logits(torch: Any, model: Any, tokens: Tokens, samples: I64) -> Any:
    """The model's logits, `sample class`."""
    numbers, mask = tokens.batch(samples)
    return model(input_ids=torch.from_numpy(numbers), attention_mask=torch.from_numpy(mask)).logits


def _positive(**settings: float) -> None:
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise SettingError(name, f"{value}", expected="a positive number")
