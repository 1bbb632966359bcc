"""Cross-entropy with the labels of contexts: a term a sample, or a term a word that can follow."""

from typing import Any

import numpy as np

from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.training.batches import I64


def samples_of(labels: LabelMatrix) -> tuple[I64, I64]:
    """The samples that the labels were counted from: context and next word of each, (sample).

    Raises SettingError for labels that were not counted, or whose counts are no whole numbers any more.

    >>> [part.tolist() for part in samples_of(LabelMatrix.of_counts([[2, 0], [1, 1]]))]
    [[0, 0, 0, 1], [0, 0, 1, 1]]
    """
    p = labels.probabilities
    of = np.repeat(np.arange(p.shape[1]), np.diff(p.indptr))
    exact = p.data * labels.weights[of] * labels.samples
    counts = np.rint(exact).astype(np.int64)
    if counts.sum() != labels.samples or not labels.samples or np.abs(exact - counts).max() > 1e-6 * counts.max():
        raise SettingError("labels", f"are of {labels.samples} samples", expected="whole counts of all their samples")
    return np.repeat(of, counts).astype(np.int64), np.repeat(p.indices, counts).astype(np.int64)


def sample_loss(torch: Any, logits: Any, labels: LabelMatrix) -> Any:
    """The cross-entropy summed over samples, of logits (context, word): a term for each."""
    context, word = (torch.from_numpy(part) for part in samples_of(labels))
    return torch.nn.functional.cross_entropy(logits[context], word, reduction="sum")


class SoftLabels:
    """The same loss, a sample, from probabilities: `- sum_j pi_j sum_z P_zj log softmax(l_j)_z` over stored entries.

    Times the number of samples it is `sample_loss`.
    """

    def __init__(self, torch: Any, labels: LabelMatrix, *, dtype: Any) -> None:
        p = labels.probabilities
        of = np.repeat(np.arange(p.shape[1]), np.diff(p.indptr))
        self._torch = torch
        self._of, self._word = torch.from_numpy(of.astype(np.int64)), torch.from_numpy(p.indices.astype(np.int64))
        self._weight = torch.from_numpy(p.data * labels.weights[of]).to(dtype)
        self._start = p.indptr

    def __call__(self, logits: Any, contexts: I64 | None = None) -> Any:
        """Of logits (context, word) of all contexts, or of these: then their share of the loss."""
        if contexts is None:
            return -(self._weight @ logits.log_softmax(-1)[self._of, self._word])
        at = np.concatenate([np.arange(self._start[j], self._start[j + 1]) for j in contexts])
        row = np.repeat(np.arange(len(contexts)), self._start[contexts + 1] - self._start[contexts])
        entries = self._torch.from_numpy(at)
        said = logits.log_softmax(-1)[self._torch.from_numpy(row), self._word[entries]]
        return -(self._weight[entries] @ said)
