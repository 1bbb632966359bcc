"""Losses in train: made of the recipe, the same in any number of parts, with adapters, pulls and interruptions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from deltagram import losses
from deltagram.errors import SettingError
from deltagram.jobs import train
from deltagram.training.losses import CONTRASTIVE, LOSSES, Loss, Objective, objective, plain
from deltagram.training.tasks import Classification
from tinymodels import mood, tiny_bert, tiny_llama, write_rows

COUNTS = np.array([7, 3, 1])
SETTINGS: dict[str, dict[str, float]] = {
    "ce": {}, "la": {"tau": 0.7}, "cdt": {"gamma": 0.4}, "ldt": {"gamma": -0.3}, "vs": {"gamma": 0.2, "tau": 1.5},
}  # fmt: skip


class Table:
    """Inputs whose logits are rows of a table."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows
        self.lengths = [1] * len(rows)

    def logits(self, _torch: Any, model: Any, samples: Any) -> Any:
        return model(self.rows[samples])


def _whole(name: str, weight: Any, smoothing: float, logits: Any, label: Any) -> Any:
    made = getattr(losses, LOSSES[name][0])
    counts = {} if name == "ce" else {"class_counts": COUNTS}
    return made(**counts, **SETTINGS[name], weight=weight, label_smoothing=smoothing)(logits, label)


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in CONTRASTIVE])
@given(
    label=st.lists(st.integers(0, 2), min_size=1, max_size=12), parts=st.integers(1, 5), seed=st.integers(0, 9),
    weighted=st.booleans(), smoothing=st.sampled_from([0.0, 0.1]),
)  # fmt: skip
def test_the_parts_of_a_step_add_up_to_the_loss_of_the_whole(
    name: str, label: list[int], parts: int, seed: int, weighted: bool, smoothing: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(label), 4, generator=generator)
    weight = (5.0, 0.5, 1.0) if weighted else None
    chosen = objective(Loss(name=name, class_weight=weight, label_smoothing=smoothing, **SETTINGS[name]), COUNTS)
    gradients = []
    for whole in (True, False):
        model = torch.nn.Linear(4, 3)
        with torch.no_grad():
            model.weight.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(seed + 10)))
            model.bias.zero_()
        if whole:
            found = _whole(name, weight, smoothing, model(rows), torch.tensor(label))
            found.backward()
            expected = found.item()
        else:
            task = Classification(inputs=Table(rows), label=tuple(label))
            total = 0.0
            for part in chosen.losses(torch, None, model, task, np.arange(len(label)), parts=parts):
                part.backward()
                total += part.item()
            # sums of a dozen float32 terms in another order
            assert total == pytest.approx(expected, rel=1e-5, abs=1e-6)
        gradients.append(model.weight.grad)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_class_weights_by_name_and_counts_that_are_told() -> None:
    balanced = objective(Loss(class_weight="balanced"), COUNTS)
    assert balanced.weights == pytest.approx(11 / (3 * COUNTS))
    told = objective(Loss(class_weight="balanced", class_counts=(2, 2, 2)), COUNTS)
    assert told.weights == pytest.approx([1.0] * 3)
    made = objective(Loss(name="la", class_counts=(1, 1, 2)), COUNTS)
    assert made.module.offset.numpy() == pytest.approx(np.log([0.25, 0.25, 0.5]))
    assert objective(Loss(label_smoothing=0.1), None).module.label_smoothing == 0.1
    assert plain().weight(np.array([0, 5])) == 2
    seen: list[Any] = []
    heard = replace(Objective.of(losses.CrossEntropy()), seen=seen.append)
    heard.summed(torch.zeros(2, 3), target := torch.tensor([0, 1]))
    assert seen[0] is target


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "focal"}, "loss: 'focal' is unknown, expected ce or la or cdt or ldt or vs"),
    "gamma": ({"name": "la", "gamma": 0.5}, "gamma: is not a setting of la, expected a loss of cdt, ldt, vs"),
    "tau": ({"name": "ce", "tau": 0.5}, "tau: is not a setting of ce, expected a loss of la, vs"),
    "infinite": ({"name": "vs", "tau": float("inf")}, "tau: is inf, expected a finite number"),
    "smoothing": ({"label_smoothing": 1.0}, "label_smoothing: is 1.0, expected 0 to below 1"),
    "weights": ({"class_weight": (1.0, 0.0, 1.0)}, "class_weight: are 1, 0, 1, expected numbers above 0; leave"),
    "word": ({"class_weight": "auto"}, "class_weight: 'auto' is unknown, expected balanced, or a number a class"),
    "counts": ({"name": "ldt", "class_counts": (1, 2)}, "class_counts: are 2 numbers, expected 3, one a class of the"),
    "length": ({"class_weight": (1.0, 2.0)}, "class_weight: are 2 numbers, expected 3, one a class"),
    "empty": ({"name": "cdt", "class_counts": (1, 0, 2)}, "class_counts: class 1 has 0 samples, by which cdt would"),
    "balanced": ({"class_weight": "balanced", "class_counts": (1, 0, 2)}, "by which balanced weights would divide"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_losses_that_cannot_be_are_refused(case: str) -> None:
    settings, text = REFUSED[case]
    with pytest.raises(SettingError) as caught:
        objective(Loss(**settings), COUNTS)
    assert text in str(caught.value)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and texts, one class of which is rare."""
    folder = tmp_path_factory.mktemp("room")
    tiny_bert(folder / "bert")
    tiny_llama(folder / "llama")
    rows = mood(96, seed=1)
    bad, good = ([row for row in rows if row["label"] == name] for name in ("bad", "good"))
    write_rows(folder / "train.jsonl", bad + good[: len(good) // 6])
    write_rows(folder / "test.jsonl", mood(40, seed=2))
    return folder


QUICK: dict[str, Any] = {"steps": 12, "batch_size": 8, "learning_rate": 5e-3, "dropout": False}
RUNS: dict[str, dict[str, Any]] = {
    "ldt, weights": {"loss": "ldt", "class_weight": "balanced"},
    "vs, lora, pull": {"loss": "vs", "gamma": 0.2, "lora": 2, "pull": "l2"},
    "la, balanced batches, pull": {"loss": "la", "sampler": "class-balanced", "pull": "l1", "strength": 1e-4},
    "cdt, smoothing": {"loss": "cdt", "label_smoothing": 0.1, "class_counts": (20, 5)},
}


class Stop:
    def advance(self, what: str, done: int, total: int) -> None:  # noqa: ARG002 - the interface
        if what == "training" and done == 9:
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        raise AssertionError(text)


@pytest.mark.parametrize("run", RUNS)
def test_texts_learn_with_every_loss_and_resume_with_the_same_bits(run: str, room: Path, tmp_path: Path) -> None:
    given_ = QUICK | RUNS[run] | {"accumulate": 3}
    data = room / "train.jsonl"
    whole = train(room / "bert", data, tmp_path / "whole", **given_, geometry=tmp_path / "g.jsonl")
    assert whole.settings["loss"]["name"] == RUNS[run]["loss"]
    assert whole.numbers["classes"] == ["bad", "good"]
    assert "predicted" in str(whole.numbers["geometry"]) or "la" in run or "smoothing" in run
    with pytest.raises(KeyboardInterrupt):
        train(room / "bert", data, tmp_path / "out", **given_, save_every=4, progress=Stop())
    resumed = train(room / "bert", data, tmp_path / "out", **given_, resume=True)
    name = "adapter_model.safetensors" if "lora" in given_ else "model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert resumed.numbers["loss"] == whole.numbers["loss"]


@pytest.mark.parametrize("loss", ["ce", "ldt"])
def test_weighted_steps_in_parts_are_the_step(loss: str, room: Path, tmp_path: Path) -> None:
    for parts in (1, 3):
        train(
            room / "bert", room / "train.jsonl", tmp_path / str(parts), **QUICK | {"steps": 3}, loss=loss,
            class_weight=(1.0, 9.0), accumulate=parts,
        )  # fmt: skip
    whole, parted = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "3"))
    for name, value in whole.items():
        # Adam divides by the gradient's size: entries whose gradient is rounding alone may move otherwise
        assert np.quantile(np.abs(value - parted[name]), 0.95) < 1e-5, name


def test_batches_of_all_classes_alike(room: Path, tmp_path: Path) -> None:
    record = train(
        room / "bert", room / "train.jsonl", tmp_path / "learnt", **QUICK | {"steps": 60}, sampler="class-balanced",
        eval_data=room / "test.jsonl",
    )  # fmt: skip
    assert record.numbers["balanced-accuracy"] > 0.9
    assert record.settings["sampler"] == "class-balanced"


LM: dict[str, tuple[dict[str, Any], str]] = {
    "loss": ({"loss": "la"}, "loss: la is of classes, and a language model has none, expected ce"),
    "weights": ({"class_weight": (1.0, 2.0)}, "loss: ce with class weights or counts is of classes, and a language"),
    "sampler": ({"sampler": "class-balanced"}, "sampler: class-balanced needs classes, and a language model has none"),
    "geometry": ({"geometry": "g.jsonl"}, "geometry: is of classes, and a language model has none; leave it out"),
    "unknown": ({"sampler": "weighted"}, "sampler: 'weighted' is unknown, expected shuffled or class-balanced"),
}


@pytest.mark.parametrize("case", LM)
def test_what_is_of_classes_is_refused_of_a_language_model(
    case: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings, text = LM[case]
    with pytest.raises(SettingError) as caught:
        train(room / "llama", room / "train.jsonl", tmp_path / "out", **QUICK, task="lm", **settings)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_with_a_head_is_watched(room: Path, tmp_path: Path) -> None:
    record = train(
        room / "llama", room / "train.jsonl", tmp_path / "out", **QUICK, eval_data=room / "test.jsonl",
        geometry=tmp_path / "g.jsonl",
    )  # fmt: skip
    assert record.numbers["geometry"]["eval"]["samples"] == 40


def test_smoothed_labels_of_a_language_model(room: Path, tmp_path: Path) -> None:
    found = [
        train(
            room / "llama", room / "train.jsonl", tmp_path / str(share), **QUICK | {"steps": 1}, task="lm",
            max_length=16, label_smoothing=share, accumulate=2,
        ).numbers["loss"]
        for share in (0.0, 0.5)
    ]  # fmt: skip
    assert found[0] != found[1]
