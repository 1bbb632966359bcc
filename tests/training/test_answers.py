"""A tiny language model learns to answer prompts; a head for a bare encoder; GGUF files."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from deltagram.errors import CheckpointError, ExtraError, SettingError
from deltagram.papers.scoring import Answers
from deltagram.store.checkpoint import open_checkpoint
from deltagram.training.answers import answer_tokens, fine_tune_answers
from deltagram.training.gguf import dequantise
from deltagram.training.headed import add_head
from deltagram.training.loaded import loaded
from tinybench import llama, texts
from tinymodels import MOODS, tiny_bert

TRAIN = texts(120, seed=1)
QUICK = {"steps": 40, "batch_size": 12, "learning_rate": 5e-3, "max_length": 32}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "llama")


def test_it_learns_to_answer_and_the_score_counts_other_words_as_wrong(base: Path, tmp_path: Path) -> None:
    tokens = answer_tokens(base, [f" {name}" for name in MOODS])
    said = [tokens[label] for label in TRAIN.label]
    numbers = fine_tune_answers(base, TRAIN.text, said, tmp_path / "tuned", **QUICK)
    assert numbers["steps"] == 40
    assert numbers["loss"] < 0.3
    test = texts(40, seed=2)
    scores = {}
    tuned = tmp_path / "tuned"
    for name, folder, known in (("tuned", tuned, tokens), ("base", base, tokens), ("odd", tuned, (0, 1))):
        scorer = Answers(prompts=test.text, label=test.label, tokens=known, digest="", max_length=32)
        with loaded(folder, open_checkpoint(folder).specs) as run:
            scores[name] = scorer.score(scorer.prepare(run)())
    assert scores["tuned"] > 0.9 > scores["base"]
    assert scores["odd"] == 0.0  # what it says is in neither class


def test_the_same_arguments_give_the_same_bytes(base: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        fine_tune_answers(base, TRAIN.text, TRAIN.label, tmp_path / name, **{**QUICK, "steps": 2}, seed=3)
        made.append((tmp_path / name / "model.safetensors").read_bytes())
    assert made[0] == made[1]
    with pytest.raises(SettingError, match=r"learning_rate: 1e\+30, with which the loss of step \d+ is"):
        fine_tune_answers(base, TRAIN.text, TRAIN.label, tmp_path / "c", **{**QUICK, "learning_rate": 1e30})


def test_answers_are_one_token_each(base: Path) -> None:
    with pytest.raises(SettingError, match="'good film' is not one token of its own; choose other words"):
        answer_tokens(base, ["bad", "good film"])
    with pytest.raises(SettingError, match="is not one token of its own"):
        answer_tokens(base, ["unheard", "unknown"])  # both the token for what is unknown


def test_a_head_stands_on_the_encoder_as_it_was(tmp_path: Path) -> None:
    encoder = tiny_bert(tmp_path / "bert")
    (tmp_path / "headed").mkdir()
    add_head(encoder, tmp_path / "headed", classes=MOODS, seed=1)
    before, after = (load_file(folder / "model.safetensors") for folder in (encoder, tmp_path / "headed"))
    shared = {name: array for name, array in after.items() if name.removeprefix("bert.") in before}
    assert {*after} - {*shared} >= {"classifier.weight", "classifier.bias"}
    assert all(np.array_equal(array, before[name.removeprefix("bert.")]) for name, array in shared.items())
    assert (tmp_path / "headed" / "vocab.txt").read_bytes() == (encoder / "vocab.txt").read_bytes()


def test_gguf_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"GGUF")
    monkeypatch.setattr("deltagram.training.gguf.find_spec", lambda _: None)
    with pytest.raises(ExtraError, match="package gguf is not installed; pip install --no-deps gguf"):
        dequantise(source, tmp_path / "out")
    monkeypatch.undo()
    if find_spec("gguf") is not None:
        with pytest.raises(CheckpointError, match=r"model.gguf: cannot be read"):
            dequantise(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
