"""Models trained on a label matrix towards its entropy: a small decoder of transformers, and free words and contexts.

The free model is that of arXiv 2408.15417: `min CE(W H) + ridge / 2 (||W||^2 + ||H||^2)`, one free vector a word and a
context.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.contextcompare import LogitNumbers
from deltagram.progress import SILENT, Progress
from deltagram.seeds import key, words
from deltagram.training.batches import I64
from deltagram.training.huggingface import libraries
from deltagram.training.lmstates import of_one_length
from deltagram.training.loop import seeded
from deltagram.training.softlabels import SoftLabels

_AT_ONCE = 4096  # contexts at once where no gradient is kept


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a model is trained: epochs, a rate that falls from `learning_rate` to `final_rate` along a cosine.

    "adam" is AdamW (`weight_decay` decoupled), "gd" gradient descent. `batch_size` contexts a step, drawn anew each
    epoch, weigh as often as they occur; None is all of them. Raises SettingError for settings outside their range.
    """

    epochs: int
    learning_rate: float
    final_rate: float = 0.0
    optimizer: Literal["adam", "gd"] = "adam"
    weight_decay: float = 0.0
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise SettingError("epochs, batch_size", f"{self.epochs}, {self.batch_size}", expected="1 or more")
        if not 0 <= self.final_rate <= self.learning_rate < math.inf or not self.learning_rate:
            found = f"{self.learning_rate}, {self.final_rate}"
            raise SettingError("learning_rate, final_rate", found, expected="a rate, and one no larger to end at")
        if self.optimizer not in ("adam", "gd"):
            raise SettingError("optimizer", f"{self.optimizer!r} is unknown", expected="adam or gd")
        if not 0 <= self.weight_decay < math.inf:
            raise SettingError("weight_decay", f"{self.weight_decay}", expected="0 or more")

    def rate(self, step: int, steps: int) -> float:
        """The rate of a step, from 0."""
        share = (1 + math.cos(math.pi * step / max(1, steps - 1))) / 2
        return self.final_rate + (self.learning_rate - self.final_rate) * share

    def made(self, torch: Any, parameters: Any) -> Any:
        """Torch's optimiser of these."""
        if self.optimizer == "adam":
            return torch.optim.AdamW(
                parameters, lr=self.learning_rate, weight_decay=self.weight_decay, foreach=False, fused=False
            )  # fmt: skip
        return torch.optim.SGD(parameters, lr=self.learning_rate, weight_decay=self.weight_decay, foreach=False)

    def batches(self, contexts: int, epoch: int) -> list[I64]:
        """The contexts of each step of an epoch."""
        if self.batch_size is None or self.batch_size >= contexts:
            return [np.arange(contexts)]
        order = np.argsort(words(key(self.seed, f"contexts/{epoch}"), 0, contexts), kind="stable").astype(np.int64)
        return [order[start : start + self.batch_size] for start in range(0, contexts, self.batch_size)]


@dataclass(frozen=True, kw_only=True, eq=False)
class WordSnapshot:
    """A model after so many epochs: what its logits are beside the labels, states (context, dim), words (word, dim)."""

    epoch: int
    logits: LogitNumbers
    states: F64
    words: F64

    def data(self) -> dict[str, Any]:
        """Numbers as JSON has them; norms are Frobenius norms."""
        norms = {"words_norm": float(np.linalg.norm(self.words)), "states_norm": float(np.linalg.norm(self.states))}
        return {"epoch": self.epoch, **norms, **self.logits.data()}


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A Llama from scratch: layers, dimensions, heads, width of the feed-forward part, whether words are tied."""

    layers: int = 2
    dim: int = 64
    heads: int = 4
    hidden: int = 256
    tied: bool = False

    def model(self, transformers: Any, *, vocabulary: int, positions: int) -> Any:
        """The model with random weights. Raises SettingError for sizes that make none."""
        if min(self.layers, self.dim, self.heads, self.hidden) < 1 or self.dim % (2 * self.heads):
            found = f"{self.layers} layers, dim {self.dim}, {self.heads} heads, hidden {self.hidden}"
            raise SettingError("decoder", found, expected="1 or more of each, dim a multiple of twice the heads")
        config = transformers.LlamaConfig(
            vocab_size=vocabulary, hidden_size=self.dim, intermediate_size=self.hidden,
            num_hidden_layers=self.layers, num_attention_heads=self.heads, num_key_value_heads=self.heads,
            max_position_embeddings=positions, tie_word_embeddings=self.tied, bos_token_id=None, eos_token_id=None,
            pad_token_id=None,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config)


def train_decoder(
    labels: LabelMatrix, decoder: Decoder, fit: Fit, *, at: Sequence[int], folder: Path | None = None,
    progress: Progress = SILENT,
) -> tuple[Any, tuple[WordSnapshot, ...]]:  # fmt: skip
    """Train a decoder on contexts and the probabilities of next words; the model, and snapshots after epochs `at`.

    The softmax is over the words of the labels. With a `folder`, each snapshot is a checkpoint there, checkpoint-EPOCH,
    that `measure --tokens` reads. Raises SettingError for labels without token numbers, and for epochs that do not rise
    to the last one.
    """
    contexts, word_ids = ids_of(labels)
    with libraries() as (torch, transformers), seeded(torch, fit.seed):
        vocabulary = int(max(contexts.max(), word_ids.max())) + 1
        model = decoder.model(transformers, vocabulary=vocabulary, positions=contexts.shape[1])
        chosen = torch.from_numpy(word_ids)
        body, head = model.base_model, model.get_output_embeddings()

        def states(some: I64) -> tuple[I64, Any]:
            found = [
                (some[rows], body(input_ids=torch.from_numpy(ids), use_cache=False).last_hidden_state[:, -1])
                for rows, ids in of_one_length(contexts[some], size=max(len(some), 1))
            ]
            return np.concatenate([rows for rows, _ in found]), torch.cat([part for _, part in found])

        def logits(some: I64) -> tuple[I64, Any]:
            order, found = states(some)
            return order, found @ head.weight[chosen].T

        def snapshot(epoch: int) -> WordSnapshot:
            if folder is not None:
                model.save_pretrained(folder / f"checkpoint-{epoch}")
            h = np.empty((len(contexts), decoder.dim))
            for start in range(0, len(contexts), _AT_ONCE):
                order, found = states(np.arange(start, min(start + _AT_ONCE, len(contexts))))
                h[order] = found.double().numpy()
            w = head.weight[chosen].double().numpy()
            return WordSnapshot(epoch=epoch, logits=LogitNumbers.of(w @ h.T, labels), states=h, words=w)

        found = _descend(torch, labels, fit, list(model.parameters()), logits, snapshot, at=at, progress=progress)
        return model.eval(), found


@dataclass(frozen=True, kw_only=True, eq=False)
class FreeWords:
    """W (word, dim) and H (context, dim), free, in float64; `ridge / 2 (||W||^2 + ||H||^2)` on top of cross-entropy.

    Entries begin normal, of deviation `scale / sqrt(dim)`, drawn by `seed`.
    """

    labels: LabelMatrix
    dim: int
    ridge: float = 0.0
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.dim < 1 or not self.ridge >= 0 or not self.scale > 0:
            found = f"{self.dim}, {self.ridge}, {self.scale}"
            raise SettingError("dim, ridge, scale", found, expected="1 or more, 0 or more, above 0")

    def begin(self) -> tuple[F64, F64]:
        """W and H as they are drawn."""
        drawn = np.random.Generator(np.random.Philox(key=key(self.seed, "free words")))
        w, h = (
            drawn.standard_normal((size, self.dim)) * self.scale / math.sqrt(self.dim) for size in self.labels.shape
        )
        return w, h


def train_free(
    free: FreeWords, fit: Fit, *, at: Sequence[int], progress: Progress = SILENT
) -> tuple[WordSnapshot, ...]:  # fmt: skip
    """Train free words and contexts; snapshots after the epochs `at`. Raises SettingError as `train_decoder`."""
    with libraries() as (torch, _), seeded(torch, fit.seed):
        w, h = (torch.tensor(part, requires_grad=True) for part in free.begin())

        def logits(some: I64) -> tuple[I64, Any]:
            return some, h[torch.from_numpy(some)] @ w.T

        def decay() -> Any:
            return free.ridge / 2 * (w.square().sum() + h.square().sum())

        def snapshot(epoch: int) -> WordSnapshot:
            words, states = w.detach().numpy().copy(), h.detach().numpy().copy()
            numbers = LogitNumbers.of(words @ states.T, free.labels)
            return WordSnapshot(epoch=epoch, logits=numbers, states=states, words=words)

        return _descend(
            torch, free.labels, fit, [w, h], logits, snapshot, at=at, decay=decay if free.ridge else None,
            progress=progress,
        )  # fmt: skip


def ids_of(labels: LabelMatrix) -> tuple[I64, I64]:
    """Token numbers of contexts and words. Raises SettingError where the labels do not have them."""
    if labels.context_ids is None or labels.word_ids is None:
        missing = "contexts" if labels.context_ids is None else "words"
        raise SettingError(
            "labels", f"have no token numbers of their {missing}", expected="context_ids and word_ids",
            fix="count the corpus with the model's tokenizer: deltagram tokens CORPUS --tokenizer MODEL",
        )  # fmt: skip
    return labels.context_ids, labels.word_ids


def _descend(
    torch: Any, labels: LabelMatrix, fit: Fit, parameters: list[Any],
    logits: Callable[[I64], tuple[I64, Any]], snapshot: Callable[[int], WordSnapshot], *, at: Sequence[int],
    progress: Progress, decay: Callable[[], Any] | None = None,
) -> tuple[WordSnapshot, ...]:  # fmt: skip
    """Minimise the cross-entropy that `logits` of some contexts have, plus `decay`."""
    if not len(at) or list(at) != sorted(set(at)) or at[0] < 0 or at[-1] > fit.epochs:
        raise SettingError("at", f"are {list(at)}", expected=f"epochs that rise, from 0 to {fit.epochs} at most")
    loss, optimizer = SoftLabels(torch, labels, dtype=parameters[0].dtype), fit.made(torch, parameters)
    contexts, found = labels.shape[1], []
    steps = fit.epochs * len(fit.batches(contexts, 0))

    def keep(epoch: int) -> None:
        if epoch in at:
            with torch.no_grad():
                found.append(snapshot(epoch))

    keep(0)
    step = 0
    for epoch in range(1, at[-1] + 1):
        for some in fit.batches(contexts, epoch):
            for group in optimizer.param_groups:
                group["lr"] = fit.rate(step, steps)
            optimizer.zero_grad()
            order, said = logits(some)
            share = len(some) / contexts
            value = loss(said, None if len(some) == contexts and (order == some).all() else order) / share
            if decay is not None:
                value = value + decay()
            value.backward()
            if not math.isfinite(value.item()):
                raise SettingError(
                    "learning_rate", f"{fit.learning_rate:g} makes the loss {value.item()}", fix="lower it"
                )
            optimizer.step()
            step += 1
        progress.advance("epochs", epoch, at[-1])
        keep(epoch)
    return tuple(found)
