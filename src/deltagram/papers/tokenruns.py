"""Models of next tokens, trained once each: free words and contexts, a small decoder, and the minimum at a ridge."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from blake3 import blake3

from deltagram.arrays import F64
from deltagram.data.labels import LabelMatrix
from deltagram.papers.bench import Bench
from deltagram.training.freefeatures import log_spaced
from deltagram.training.wordmodels import Decoder, Fit, FreeWords, WordSnapshot, train_decoder, train_free

SNAPSHOTS: Final = 24
DECODER: Final = Decoder(layers=2, dim=64, heads=4, hidden=256)
_FREE_RATE: Final = 0.05  # of Adam, falling by 500 to the end
_DECODER_RATE: Final = 2e-3
_BATCH: Final = 60
_START: Final = 0.1  # of free features: near zero, as the order of concepts asks for

Row = dict[str, Any]


class Run:
    """Snapshots of a training: `epochs`, and at each of them `logits` (word, context).

    `states` (context, dim) and `words` (word, dim) are those of the last.
    """

    def __init__(self, found: Row) -> None:
        self.epochs: list[int] = [int(epoch) for epoch in found["epochs"]]
        self.logits: list[F64] = [np.asarray(one, np.float64) for one in found["logits"]]
        self.states: F64 = np.asarray(found["states"], np.float64)
        self.words: F64 = np.asarray(found["vectors"], np.float64)

    @property
    def last(self) -> F64:
        """Logits at the end."""
        return self.logits[-1]


def written(snapshots: Sequence[WordSnapshot]) -> Row:
    """Snapshots as JSON has them."""
    return {
        "epochs": [one.epoch for one in snapshots],
        "logits": [(one.words @ one.states.T).tolist() for one in snapshots],
        "states": snapshots[-1].states.tolist(), "vectors": snapshots[-1].words.tolist(),
    }  # fmt: skip


def labels_digest(labels: LabelMatrix) -> str:
    """blake3 of what is trained on."""
    p = labels.probabilities
    whole = blake3(repr(p.shape).encode())
    for part in (p.data, p.indices, p.indptr, labels.weights):
        whole.update(np.ascontiguousarray(part).tobytes())
    return whole.hexdigest(16)


def epochs_of(epochs: int) -> tuple[int, ...]:
    """The start, and epochs evenly on a logarithmic scale."""
    return (0, *log_spaced(epochs, SNAPSHOTS - 1))


def free(bench: Bench, labels: LabelMatrix, *, seed: int, ridge: float = 0.0, dim: int | None = None) -> Run:
    """Free words and contexts by Adam, all contexts a step, from near zero; `dim` as many as words unless given."""
    epochs = bench.scale.word_epochs
    fit = Fit(epochs=epochs, learning_rate=_FREE_RATE, final_rate=_FREE_RATE / 500, seed=seed)
    dims = dim or labels.shape[0]
    told = {
        "words": "free", "labels": labels_digest(labels), "dim": dims, "ridge": ridge,
        "start": _START, "fit": asdict(fit),
    }  # fmt: skip

    def measure() -> Row:
        bench.progress.say(f"free words and contexts: {epochs:,} epochs")
        model = FreeWords(labels=labels, dim=dims, ridge=ridge, scale=_START, seed=seed)
        return written(train_free(model, fit, at=epochs_of(epochs), progress=bench.progress))

    return Run(bench.notes.once(told, measure))


def decoder(bench: Bench, labels: LabelMatrix, *, seed: int) -> Run:
    """A decoder of two layers from scratch by AdamW, `_BATCH` contexts a step, without decay."""
    epochs = bench.scale.decoder_epochs
    fit = Fit(epochs=epochs, learning_rate=_DECODER_RATE, final_rate=_DECODER_RATE / 200, batch_size=_BATCH, seed=seed)
    told = {"words": "decoder", "labels": labels_digest(labels), "decoder": asdict(DECODER), "fit": asdict(fit)}

    def measure() -> Row:
        bench.progress.say(f"decoder: {epochs:,} epochs on {labels.shape[1]} contexts")
        return written(train_decoder(labels, DECODER, fit, at=epochs_of(epochs), progress=bench.progress)[1])

    return Run(bench.notes.once(told, measure))


def at_ridges(bench: Bench, labels: LabelMatrix, ridges: Sequence[float]) -> list[F64]:
    """Logits of the certified minimum at each ridge."""
    from deltagram.geometry.supportridge import ridge_path  # noqa: PLC0415 - scipy is slow to import

    told = {"words": "minimum", "labels": labels_digest(labels), "ridges": list(ridges)}

    def measure() -> Row:
        bench.progress.say(f"free words and contexts: minima at {len(ridges)} ridges")
        return {"logits": [one.logits.tolist() for one in ridge_path(labels, ridges)]}

    return [np.asarray(one, np.float64) for one in bench.notes.once(told, measure)["logits"]]
