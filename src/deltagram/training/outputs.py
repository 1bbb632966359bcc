"""What a model says of texts: last hidden states, logits, and how far two runs are apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, F64
from deltagram.training.huggingface import libraries
from deltagram.training.loaded import Batch, Loaded


def hidden_states(run: Loaded, batches: Sequence[Batch]) -> list[Any]:
    """The last layer's output for each batch, `token feature`, real tokens only."""
    with libraries() as (torch, _), torch.inference_mode():
        return [_hidden(run, batch) for batch in batches]


def _hidden(run: Loaded, batch: Batch) -> Any:
    body = run.model.base_model
    return body(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state[batch.mask.bool()]


def output_change(run: Loaded, batches: Sequence[Batch], reference: Sequence[Any]) -> float:
    """Mean absolute change of the last hidden states from `reference` (of `hidden_states`), over tokens and features.

    The label-free error of DAREx, arXiv 2410.09344, Algorithm 2, with the attention mask respected.
    """
    with libraries() as (torch, _), torch.inference_mode():
        total, count = 0.0, 0
        for batch, expected in zip(batches, reference, strict=True):
            change = (_hidden(run, batch) - expected).abs()
            total, count = total + float(change.double().sum()), count + change.numel()
    return total / count


def class_logits(run: Loaded, batches: Sequence[Batch]) -> F32:
    """A classifier's logits, `sample class`, in the order of the texts; NaN rows for texts without a token."""
    with libraries() as (torch, _), torch.inference_mode():
        rows = {
            sample: row
            for batch in batches
            for sample, row in zip(batch.samples, _logits(run, batch).float().cpu().numpy(), strict=True)
        }
    found = np.full((max(rows) + 1, len(run.classes)), np.nan, np.float32)
    for sample, row in rows.items():
        found[sample] = row
    return found


def next_token_nll(run: Loaded, batches: Sequence[Batch]) -> float:
    """Mean negative log-likelihood, in nats, of each real token given those before it; exp of it is the perplexity."""
    total, count = text_nll(run, batches).sum(0)
    return float(total / count)


def text_nll(run: Loaded, batches: Sequence[Batch]) -> F64:
    """For each text, in the order of the batches: that likelihood summed over its tokens, and how many they are."""
    with libraries() as (torch, _), torch.inference_mode():
        rows = []
        for batch in batches:
            real = batch.mask[:, 1:].bool() & batch.mask[:, :-1].bool()
            logits = _logits(run, batch)[:, :-1][real].float()
            lost = torch.zeros(real.shape, dtype=torch.float64, device=real.device)
            lost[real] = torch.nn.functional.cross_entropy(logits, batch.ids[:, 1:][real], reduction="none").double()
            rows.append(torch.stack([lost.sum(1), real.sum(1).double()], 1).cpu().numpy())
    return np.concatenate(rows)


def predictions(run: Loaded, batches: Sequence[Batch]) -> NDArray[np.int64]:
    """What the model decides: the class of each text, or (a language model) the next token after each real token."""
    if run.classes:
        classes: NDArray[np.int64] = class_logits(run, batches).argmax(axis=1)
        return classes
    with libraries() as (torch, _), torch.inference_mode():
        found = [_logits(run, batch)[batch.mask.bool()].argmax(-1).cpu().numpy() for batch in batches]
    tokens: NDArray[np.int64] = np.concatenate(found)
    return tokens


def _logits(run: Loaded, batch: Batch) -> Any:
    return run.model(input_ids=batch.ids, attention_mask=batch.mask).logits
