"""Contrastive losses in train: embeddings, the head fitted to them, batches, and what does not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from deltagram.cli import app
from deltagram.errors import SettingError
from deltagram.jobs import train
from deltagram.losses import SupervisedContrastive
from deltagram.training import convnet
from tinyimages import squares, write_npz
from tinymodels import mood, tiny_bert, tiny_llama, write_rows

IMAGES: dict[str, Any] = {
    "epochs": 5, "batch_size": 16, "learning_rate": 0.05, "optimizer": "sgd", "warmup": 0.0, "clip": 0.0,
}  # fmt: skip
TEXTS: dict[str, Any] = {"steps": 6, "batch_size": 12, "learning_rate": 1e-3, "dropout": False, "loss": "scl"}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of four classes, one of them rare, and models and texts of two."""
    folder = tmp_path_factory.mktemp("room")
    pixels, label = squares(24, seed=1)
    kept = np.flatnonzero((label != 3) | (np.arange(len(label)) < 16))
    write_npz(folder / "train.npz", pixels[kept], label[kept])
    write_npz(folder / "test.npz", *squares(10, seed=2))
    tiny_bert(folder / "bert")
    tiny_llama(folder / "llama")
    write_rows(folder / "train.jsonl", mood(48, seed=1))
    write_rows(folder / "test.jsonl", mood(24, seed=2))
    return folder


def seen(out: Path, split: Path) -> tuple[Any, Any]:
    """Features of a trained network on a file of images, and their classes."""
    with np.load(split) as file:
        pixels, label = file["images"], file["labels"]
    with torch.inference_mode():
        return convnet.load(out).features(torch.from_numpy(pixels[:, None])).double().numpy(), label


@pytest.mark.parametrize("design", [None, "of", "etf"])
def test_classes_are_told_apart_by_a_probe_and_by_their_means(design: str | None, room: Path, tmp_path: Path) -> None:
    loss = {"loss": "scl"} if design is None else {"loss": "scl-prototypes", "design": design, "copies": 4.0}
    record = train(
        "convnet", room / "train.npz", tmp_path / "out", **IMAGES, **loss, sampler="binding",
        eval_data=room / "test.npz", geometry=tmp_path / "geometry.jsonl",
    )  # fmt: skip
    numbers = record.numbers
    features, label = seen(tmp_path / "out", room / "train.npz")
    held, true = seen(tmp_path / "out", room / "test.npz")
    assert (features.min() >= 0) == (design != "etf")
    # the head is the probe: logistic regression of these features, without an intercept, with the same ridge
    size = np.sqrt((features**2).sum(1).mean())
    probe = LogisticRegression(C=1 / (1e-4 * len(label)), fit_intercept=False, tol=1e-8, max_iter=5000)
    probe.fit(features / size, label)
    logits = held @ convnet.load(tmp_path / "out").head.weight.detach().double().numpy().T
    assert (logits.argmax(1) == probe.predict(held / size)).mean() > 0.97
    assert numbers["accuracy"] == (logits.argmax(1) == true).mean() > 0.8
    # the nearest class mean of embeddings of norm 1
    unit, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (features, held))
    means = np.stack([unit[label == c].mean(0) for c in range(4)])
    nearest = np.square(other[:, None] - means).sum(2).argmin(1)
    assert numbers["nearest_class_mean"]["accuracy"] == (nearest == true).mean()
    # distance to what is aimed at
    gram, aim = means @ means.T, np.eye(4) if design != "etf" else 4 / 3 * np.eye(4) - 1 / 3
    apart = np.linalg.norm(gram / np.linalg.norm(gram) - aim / np.linalg.norm(aim))
    assert numbers["embeddings"]["gram_distance"] == pytest.approx(apart, abs=1e-5)
    assert ("shortfall" in numbers["embeddings"]) == (design != "etf")
    if design != "etf":
        assert numbers["embeddings"]["shortfall"]["gap"] > 0
        assert numbers["batches"]["verdict"] == "unique"
    lines = [json.loads(line) for line in (tmp_path / "geometry.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["train"] * 5 + ["eval"]
    assert lines[4]["gram_distance_predicted_means"] < lines[0]["gram_distance_predicted_means"]


def test_the_loss_is_that_of_the_embeddings(room: Path, tmp_path: Path) -> None:
    """One step of all images at a rate of next to nothing: its loss is that of the network it began with."""
    record = train(
        "convnet", room / "train.npz", tmp_path / "out", **IMAGES | {"epochs": 1, "batch_size": 88}, loss="scl",
        temperature=0.5,
    )  # fmt: skip
    still = train(
        "convnet", room / "train.npz", tmp_path / "still", loss="scl", temperature=0.5,
        **IMAGES | {"epochs": 1, "batch_size": 88, "learning_rate": 1e-12},
    )  # fmt: skip
    with np.load(room / "train.npz") as file:
        pixels, label = file["images"], file["labels"]
    network = convnet.load(tmp_path / "still").train()
    found = SupervisedContrastive(0.5)(network.features(torch.from_numpy(pixels[:, None])), torch.from_numpy(label))
    assert still.numbers["loss"] == pytest.approx(found.item(), rel=1e-5)
    assert record.numbers["loss"] == still.numbers["loss"]  # the loss before the step


def test_a_step_in_parts_is_the_step_of_the_whole_batch(room: Path, tmp_path: Path) -> None:
    for parts in (1, 4):
        train(
            room / "bert", room / "train.jsonl", tmp_path / str(parts), **TEXTS | {"learning_rate": 0.1},
            optimizer="sgd", accumulate=parts,
        )  # fmt: skip
    whole, parted = (load_file(tmp_path / name / "model.safetensors") for name in ("1", "4"))
    moved = load_file(room / "bert" / "model.safetensors")
    assert any((whole[f"bert.{name}"] != value).any() for name, value in moved.items() if f"bert.{name}" in whole)
    for name, value in whole.items():
        torch.testing.assert_close(parted[name], value, rtol=1e-3, atol=1e-4)  # six steps of float32, over t = 0.1


def test_texts_are_pooled_where_the_head_reads_them(room: Path, tmp_path: Path) -> None:
    for name in ("bert", "llama"):
        record = train(
            room / name, room / "train.jsonl", tmp_path / name, **TEXTS, task="classification",
            sampler="m-per-class", per_class=6, eval_data=room / "test.jsonl",
        )  # fmt: skip
        assert 0 <= record.numbers["accuracy"] <= 1
        assert record.numbers["embeddings"]["target"] == "scl, orthogonal frame"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"label_smoothing": 0.1}, "label_smoothing: is no setting of scl"),
        ({"design": "of"}, "design: is not a setting of scl, expected a loss of scl-prototypes"),
        ({"temperature": 0.0}, "temperature: 0, expected a positive number"),
        ({"activation": "tanh"}, "activation: 'tanh' is unknown, expected none or relu or softplus"),
        ({"loss": "ce", "temperature": 0.1}, "is not a setting of ce, expected a loss of scl, scl-prototypes"),
        ({"loss": "scl-prototypes", "design": "etf", "last_relu": True}, "expected embeddings of either sign"),
        ({"loss": "scl-prototypes", "design": "of", "activation": "none"}, "(a simplex, for the frame)"),
        ({"loss": "scl-prototypes", "design": "etf", "activation": "relu"}, "prototypes at negative cosines"),
        ({"loss": "scl-prototypes", "copies": (1.0, 2.0)}, "copies: has 2 numbers, expected one number, or 4"),
        ({"fixed_classifier": "etf"}, "fixed_classifier: cannot be fitted"),
        ({"sampler": "binding", "batch_size": 3}, "batch_size: is 3, expected 4 or more, the examples to bind"),
        ({"sampler": "binding", "per_class": 0}, "per_class: is 0, expected 1 or more"),
        ({"sampler": "shuffled", "per_class": 2}, "per_class: is not a setting of shuffled"),
        ({"sampler": "shuffled", "rotate": "epoch"}, "is not a setting of shuffled, expected a sampler of binding"),
        ({"sampler": "class-balanced", "fixed_batches": True}, "fixed_batches: is not a setting of class-balanced"),
        ({"accumulate": 4}, "is batch norm that is training"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(settings: dict[str, Any], says: str, room: Path, tmp_path: Path) -> None:
    given = IMAGES | {"epochs": 1, "loss": "scl", "batch_size": 16} | settings
    with pytest.raises(SettingError) as fault:
        train("convnet", room / "train.npz", tmp_path / "out", **given)
    assert says in str(fault.value)
    assert not (tmp_path / "out").exists()


def test_a_language_model_has_no_classes_to_contrast(room: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^loss: scl is of classes, and a language model has none, expected ce$"):
        train(room / "llama", room / "train.jsonl", tmp_path / "out", **TEXTS, task="lm")


def test_a_mismatch_can_be_allowed_and_batches_are_judged_before(room: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Heard:
        def advance(self, what: str, done: int, total: int) -> None:
            pass

        def say(self, text: str) -> None:
            said.append(text)

    record = train(
        "convnet", room / "train.npz", tmp_path / "out", **IMAGES, loss="scl", fixed_batches=True, progress=Heard()
    )
    assert record.numbers["batches"]["verdict"] == "not unique"
    assert any("not unique" in line for line in said)
    record = train(
        "convnet", room / "train.npz", tmp_path / "other", **IMAGES, loss="scl-prototypes", design="etf",
        activation="relu", allow_mismatch=True,
    )  # fmt: skip
    assert "shortfall" not in record.numbers["embeddings"]


def test_the_command_tells_of_classes_and_batches(room: Path, tmp_path: Path) -> None:
    words = [
        "train",
        "convnet",
        room / "train.npz",
        "--out",
        tmp_path / "out",
        "--loss",
        "scl-prototypes",
        "--copies",
        "3",
    ]
    more = [
        "--sampler",
        "binding",
        "--rotate",
        "batch",
        "--eval",
        room / "test.npz",
        "--batch-size",
        "16",
        "--clip",
        "0",
    ]
    done = CliRunner().invoke(app, [str(word) for word in words + more])
    assert done.exit_code == 0, done.output
    for text in ("the only minimiser: unique", "class means are", "at least", "by the nearest class mean"):
        assert text in done.output


def test_the_geometry_of_a_step_in_parts_is_that_of_the_whole(room: Path, tmp_path: Path) -> None:
    """Each part goes through the model twice; what is measured is what the loss is differentiated by, once."""
    lines = []
    for parts in (1, 3):
        watched = tmp_path / f"{parts}.jsonl"
        train(
            room / "bert", room / "train.jsonl", tmp_path / str(parts), **TEXTS | {"learning_rate": 1e-6},
            accumulate=parts, geometry=watched, eval_data=room / "test.jsonl",
        )  # fmt: skip
        lines.append([json.loads(line) for line in watched.read_text().splitlines()])
    whole, parted = lines
    assert [(line["phase"], line["samples"]) for line in parted] == [(line["phase"], line["samples"]) for line in whole]
    for one, other in zip(whole, parted, strict=True):
        assert other["gram_distance_predicted_means"] == pytest.approx(one["gram_distance_predicted_means"], abs=1e-4)
