"""Models trained on label matrices: their loss, the bound they reach, and what becomes of their logits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import tinylabels
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.contextcompare import Spread, beyond
from deltagram.training.freefeatures import log_spaced
from deltagram.training.softlabels import SoftLabels, sample_loss, samples_of
from deltagram.training.wordmodels import Decoder, Fit, FreeWords, train_decoder, train_free

EIGHT = tinylabels.counted(words=5, contexts=8, seed=1)
SMALL = Decoder(layers=2, dim=32, heads=2, hidden=64)


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_of_samples_is_that_of_soft_labels(seed: int) -> None:
    labels = tinylabels.counted(words=7, contexts=30, seed=seed)
    logits = torch.randn(30, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 5
    context, word = samples_of(labels)
    one_by_one = sum(float(logits[j].logsumexp(0) - logits[j, z]) for j, z in zip(context, word, strict=True))
    soft = SoftLabels(torch, labels, dtype=torch.float64)
    assert float(sample_loss(torch, logits, labels)) == pytest.approx(one_by_one, rel=1e-12)
    assert labels.samples * float(soft(logits)) == pytest.approx(one_by_one, rel=1e-12)
    parts = [np.arange(30)[i::4] for i in range(4)]
    assert sum(float(soft(logits[part], part)) for part in parts) == pytest.approx(float(soft(logits)), rel=1e-12)


def test_the_loss_of_samples_needs_counts() -> None:
    with pytest.raises(SettingError, match="labels: are of 0 samples, expected whole counts of all their samples"):
        samples_of(replace(EIGHT, samples=0))
    with pytest.raises(SettingError, match="whole counts"):
        samples_of(EIGHT.taken(np.arange(4)))


@pytest.mark.parametrize(("tied", "batch_size", "within"), [(False, None, 1e-3), (True, None, 1e-3), (True, 4, 2e-3)])
def test_a_decoder_reaches_the_entropy(tied: bool, batch_size: int | None, within: float) -> None:
    fit = Fit(epochs=200, learning_rate=1e-2, batch_size=batch_size)
    _, found = train_decoder(EIGHT, replace(SMALL, tied=tied), fit, at=(0, 1, 10, 200))
    assert [one.epoch for one in found] == [0, 1, 10, 200]
    assert found[0].logits.gap > 0.1
    assert 0 < found[-1].logits.gap < within
    assert found[-1].logits.from_log_odds < 0.1 * found[-1].logits.log_odds
    assert found[-1].logits.beyond > 3 * found[1].logits.beyond
    assert found[-1].data()["words_norm"] == pytest.approx(np.linalg.norm(found[-1].words))


def test_checkpoints_are_those_of_the_snapshots_and_a_seed_says_all(tmp_path: Path) -> None:
    fit = Fit(epochs=6, learning_rate=1e-2, seed=3)
    model, found = train_decoder(EIGHT, SMALL, fit, at=(2, 6), folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-6"]
    _, again = train_decoder(EIGHT, SMALL, fit, at=(2, 6))
    np.testing.assert_array_equal(again[-1].states, found[-1].states)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-6").eval()
    contexts, words = EIGHT.context_ids, EIGHT.word_ids
    assert contexts is not None
    for j, row in enumerate(contexts):
        ids = torch.tensor([row[row >= 0].tolist()])
        with torch.inference_mode():
            expected = back(input_ids=ids).logits[0, -1, words]
            np.testing.assert_allclose(model(input_ids=ids).logits[0, -1, words], expected, atol=1e-6)
        np.testing.assert_allclose(found[-1].words @ found[-1].states[j], expected, atol=1e-4)


def test_free_words_tend_to_the_log_odds_and_contexts_of_one_support_to_each_other() -> None:
    labels = LabelMatrix.of_counts([[3, 1, 0, 0], [1, 1, 2, 0], [0, 0, 2, 1], [0, 0, 0, 1]])
    free, fit = FreeWords(labels=labels, dim=6, ridge=1e-6), Fit(epochs=3000, learning_rate=0.03)
    found = train_free(free, fit, at=(0, *log_spaced(3000, 4)))
    ratios = [one.logits.ratio for one in found[1:]]
    assert found[-1].logits.gap < 1e-4
    assert found[-1].logits.from_log_odds < 1e-2 * found[-1].logits.log_odds
    assert ratios[-1] < ratios[0]
    states, words = found[-1].states, found[-1].words
    near, projected = (Spread.of(part, labels.supports.of) for part in (states, beyond(words @ states.T, labels).T))
    assert near.same < 0.2 * near.other
    assert projected.same < 0.02 * projected.other


def test_the_ridge_optimum_is_stationary() -> None:
    """softmax(L)_j = p_j - ridge / pi_j G_j with G a subgradient of the nuclear norm, and W^T W = H H^T."""
    labels, ridge = LabelMatrix.of_counts([[3, 1, 0], [1, 1, 2], [0, 2, 2]]), 0.02
    (found,) = train_free(FreeWords(labels=labels, dim=4, ridge=ridge), Fit(epochs=2500, learning_rate=0.05), at=[2500])
    w, h = found.words, found.states
    np.testing.assert_allclose(w.T @ w, h.T @ h, atol=1e-5)
    logits = w @ h.T
    softmax = np.exp(logits) / np.exp(logits).sum(0)
    g = (labels.probabilities.toarray() - softmax) * labels.weights / ridge
    sizes = np.linalg.svd(logits, compute_uv=False)
    assert np.linalg.norm(g, 2) < 1 + 1e-4
    assert (g * logits).sum() == pytest.approx(sizes.sum(), rel=1e-4)


def test_gradient_descent_goes_down_and_the_first_step_is_by_hand() -> None:
    free = FreeWords(labels=EIGHT, dim=3, scale=0.5)
    fit = Fit(epochs=300, learning_rate=2.0, optimizer="gd")
    found = train_free(free, replace(fit, epochs=1), at=(0, 1))
    w, h = free.begin()
    logits = w @ h.T
    slope = (np.exp(logits) / np.exp(logits).sum(0) - EIGHT.probabilities.toarray()) * EIGHT.weights
    np.testing.assert_allclose(found[1].words, w - 2 * slope @ h, atol=1e-12)
    np.testing.assert_allclose(found[1].states, h - 2 * slope.T @ w, atol=1e-12)
    gaps = [one.logits.gap for one in train_free(free, fit, at=(0, 30, 100, 300))]
    assert gaps == sorted(gaps, reverse=True)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: train_decoder(replace(EIGHT, context_ids=None), SMALL, Fit(epochs=1, learning_rate=1), at=[1]),
         "labels: have no token numbers of their contexts, expected context_ids and word_ids; count the corpus"),
        (lambda: train_decoder(replace(EIGHT, word_ids=None), SMALL, Fit(epochs=1, learning_rate=1), at=[1]),
         "have no token numbers of their words"),
        (lambda: train_decoder(EIGHT, Decoder(dim=6, heads=2), Fit(epochs=1, learning_rate=1), at=[1]),
         "decoder: 2 layers, dim 6, 2 heads, hidden 256, expected 1 or more of each, dim a multiple of twice"),
        (lambda: train_free(FreeWords(labels=EIGHT, dim=2), Fit(epochs=5, learning_rate=1), at=[6]),
         "at: are [6], expected epochs that rise, from 0 to 5 at most"),
        (lambda: train_free(FreeWords(labels=EIGHT, dim=2), Fit(epochs=5, learning_rate=1e300, optimizer="gd"), at=[5]),
         "learning_rate: 1e+300 makes the loss nan; lower it"),
        (lambda: FreeWords(labels=EIGHT, dim=0), "dim, ridge, scale: 0, 0.0, 1.0, expected 1 or more"),
        (lambda: Fit(epochs=0, learning_rate=1), "epochs, batch_size: 0, None, expected 1 or more"),
        (lambda: Fit(epochs=1, learning_rate=1, final_rate=2), "learning_rate, final_rate: 1, 2, expected a rate, and"),
        (lambda: Fit(epochs=1, learning_rate=1, weight_decay=-1), "weight_decay: -1, expected 0 or more"),
        (lambda: Fit(epochs=1, learning_rate=1, optimizer="lion"), "optimizer: 'lion' is unknown"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(make: Any, says: str) -> None:
    with pytest.raises(SettingError) as fault:
        make()
    assert says in str(fault.value)
