"""Fine-tune a language model to answer prompts with one word."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.errors import SettingError
from deltagram.progress import SILENT, Progress
from deltagram.training.batches import shuffled
from deltagram.training.huggingface import causal_model, copy_tokenizer, libraries, tokenize
from deltagram.training.loop import seeded
from deltagram.training.recipe import Recipe


def answer_tokens(model: Path, answers: Sequence[str]) -> tuple[int, ...]:
    """The token of each answer, in the tokenizer of `model`. SettingError for one that is not one token of its own."""
    with libraries() as (_, transformers):
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
        found = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    odd = [answer for answer, ids in zip(answers, found, strict=True) if len(ids) != 1]
    if odd or len({ids[0] for ids in found}) < len(found):
        shown = ", ".join(repr(answer) for answer in odd or answers)
        raise SettingError("answers", f"{shown} is not one token of its own", fix="choose other words")
    return tuple(ids[0] for ids in found)


def fine_tune_answers(
    base: Path,
    prompts: Sequence[str],
    answers: Sequence[int],
    out: Path,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    max_length: int,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, float]:
    """Train the causal language model in `base` to say token `answers[i]` after `prompts[i]`; write it into `out`.

    The loss is on the answers alone. AdamW without weight decay, a rate that rises over the first tenth of the steps
    and falls linearly to zero, gradients clipped at norm 1, no dropout, in float32. Returns `steps`, `seconds`, `loss`.
    Raises SettingError where the loss is not finite.
    """
    start = time.perf_counter()
    recipe = Recipe(steps=steps, batch_size=batch_size, learning_rate=learning_rate, dropout=False, seed=seed)
    with libraries() as (torch, transformers), seeded(torch, seed):
        model = causal_model(transformers, base).eval()
        tokens = tokenize(transformers, base, prompts, max_length=max_length)
        epochs = math.ceil(steps * batch_size / len(prompts))
        batches = shuffled(tokens.lengths, size=batch_size, epochs=epochs, seed=seed)[:steps]
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
        target = np.asarray(answers, np.int64)
        losses: list[float] = []
        for step, samples in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(step, steps=len(batches))
            logits = _last_logits(torch, model, *tokens.batch(samples))
            loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target[samples]))
            if not math.isfinite(loss.item()):
                found = f"{learning_rate}, with which the loss of step {step + 1} is {loss.item()}"
                raise SettingError("learning_rate", found, expected="a finite loss", fix="take a lower one")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            progress.advance("fine-tuning on answers", len(losses), len(batches))
        model.save_pretrained(out)
        copy_tokenizer(transformers, base, out)
    tail = losses[-max(1, len(losses) // 10) :]
    return {"steps": len(losses), "seconds": time.perf_counter() - start, "loss": sum(tail) / len(tail)}


def _last_logits(torch: Any, model: Any, numbers: Any, mask: Any) -> Any:
    """What the model says after each prompt, `sample token`; hidden states of other places meet no vocabulary."""
    hidden = model.base_model(
        input_ids=torch.from_numpy(numbers), attention_mask=torch.from_numpy(mask)
    ).last_hidden_state  # fmt: skip
    ends = torch.from_numpy(mask.sum(1) - 1)
    return model.get_output_embeddings()(hidden[torch.arange(len(ends)), ends])
