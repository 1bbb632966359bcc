"""Fine-tuning as a job: what is learnt, pulled, kept, resumed, and refused; on tiny random models."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from deltagram.cli import main
from deltagram.errors import CheckpointError, ExtraError, OutputError, SettingError
from deltagram.jobs import train
from deltagram.store.checkpoint import open_checkpoint
from deltagram.training.pull import Base
from tinymodels import MOODS, POSITIONS, mood, tiny_bert, tiny_llama, write_rows

QUICK: dict[str, Any] = {"steps": 40, "batch_size": 8, "learning_rate": 5e-3}


class Watch:
    """A progress that remembers what was said, and can interrupt."""

    def __init__(self, *, stop_at: int = -1) -> None:
        self.said: list[str] = []
        self.stop_at = stop_at

    def advance(self, what: str, done: int, total: int) -> None:  # noqa: ARG002 - the interface
        if what == "training" and done == self.stop_at:
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models and their data."""
    folder = tmp_path_factory.mktemp("room")
    tiny_bert(folder / "bert")
    tiny_llama(folder / "llama")
    write_rows(folder / "train.jsonl", mood(96, seed=1))
    write_rows(folder / "test.jsonl", mood(40, seed=2))
    (folder / "texts.txt").write_text("it was good\nthe film was bad\n" * 30 + "the plot\n")
    return folder


def _weights(folder: Path, name: str = "model.safetensors") -> dict[str, Any]:
    return load_file(folder / name)


def test_a_classifier_learns_and_is_measured(room: Path, tmp_path: Path) -> None:
    record = train(
        room / "bert", room / "train.jsonl", tmp_path / "out", **QUICK, eval_data=room / "test.jsonl", metric="f1"
    )
    assert record.job == "train"
    assert record.settings["task"] == "classification"
    assert (record.numbers["steps"], record.numbers["texts"]) == (40, 96)
    assert record.numbers["f1"] > 0.95
    assert record.numbers["loss"] < 0.2
    assert json.loads(record.line())["settings"]["lora"] is None
    classify = transformers.pipeline("text-classification", model=str(tmp_path / "out"), device="cpu")
    assert [found["label"] for found in classify(["the film was bad", "good it was"])] == ["bad", "good"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    again = train(
        tmp_path / "out", room / "train.jsonl", tmp_path / "more", steps=1, learning_rate=1e-9,
        eval_data=room / "test.jsonl", metric="matthews",
    )  # fmt: skip
    assert again.numbers["matthews"] > 0.9  # the head it came with


def test_a_language_model_learns(room: Path, tmp_path: Path) -> None:
    record = train(
        room / "llama", room / "texts.txt", tmp_path / "out", **QUICK, max_length=16, eval_data=room / "texts.txt"
    )
    assert record.settings["task"] == "lm"
    assert record.numbers["perplexity"] < 2.5  # 10 words, two sentences
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    stream = [i for row in tokenizer((room / "texts.txt").read_text().splitlines())["input_ids"] for i in (*row, 1)]
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(stream), 16):
            ids = torch.tensor([stream[start : start + 16]])
            if ids.shape[1] > 1:
                total += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
                count += ids.shape[1] - 1
    # float32 logits of a batch and of one row differ in their last bits
    assert record.numbers["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-4)


def test_a_decoder_with_a_head_and_no_pad_token_classifies(room: Path, tmp_path: Path) -> None:
    record = train(
        room / "llama", room / "train.jsonl", tmp_path / "out", **QUICK, eval_data=room / "test.jsonl"
    )  # fmt: skip
    assert record.numbers["accuracy"] > 0.9
    assert json.loads((tmp_path / "out" / "config.json").read_text())["pad_token_id"] is not None


RUNS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "decay": {"weight_decay": 0.01, "schedule": "cosine"},
    "l2": {"pull": "l2", "strength": 0.05, "accumulate": 3},
    "l1": {"pull": "l1", "strength": 1e-4, "mixed_precision": "bf16"},
    "lora": {"pull": "l2", "strength": 0.5, "lora": 2},
}


@pytest.mark.parametrize("run", RUNS)
def test_a_resumed_training_has_the_same_bits(run: str, room: Path, tmp_path: Path) -> None:
    given = QUICK | RUNS[run] | {"steps": 20}
    torch.manual_seed(3)
    whole = train(room / "bert", room / "train.jsonl", tmp_path / "whole", **given)
    assert not (tmp_path / "whole.training").exists()
    torch.manual_seed(4)
    with pytest.raises(KeyboardInterrupt):
        train(
            room / "bert", room / "train.jsonl", tmp_path / "out", **given, save_every=5, progress=Watch(stop_at=14)
        )  # fmt: skip
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out.training", "whole"]
    resumed = train(room / "bert", room / "train.jsonl", tmp_path / "out", **given, resume=True, save_every=7)
    assert (resumed.numbers["resumed_at"], resumed.numbers["steps"]) == (10, 20)
    assert resumed.numbers["loss"] == whole.numbers["loss"]
    assert resumed.numbers["clamped"] == whole.numbers["clamped"]
    name = "adapter_model.safetensors" if "lora" in given else "model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out", "whole"]


@pytest.mark.parametrize("left", ["all", "adapter_model.safetensors"])
def test_a_trained_adapter_is_replaced_only_by_force(room: Path, tmp_path: Path, left: str) -> None:
    given = QUICK | {"steps": 2, "lora": 2}
    data, out = room / "train.jsonl", tmp_path / "out"
    train(room / "bert", data, out, **given)
    before = (out / "adapter_model.safetensors").read_bytes()
    for path in out.iterdir():
        if left not in ("all", path.name):
            path.unlink()
    with pytest.raises(OutputError, match="exists already"):
        train(room / "bert", data, out, **given)
    train(room / "bert", data, out, **given | {"steps": 4}, force=True)
    assert (out / "adapter_config.json").exists()
    assert (out / "adapter_model.safetensors").read_bytes() != before


def test_states_are_kept_at_the_end_of_epochs_and_only_for_the_same_training(room: Path, tmp_path: Path) -> None:
    given = QUICK | {"steps": None, "epochs": 2}
    data, out = room / "train.jsonl", tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        train(room / "bert", data, out, **given, progress=Watch(stop_at=13))
    kept = tmp_path / "out.training"
    assert len(json.loads((kept / "training.json").read_text())["losses"]) == 12
    with pytest.raises(OutputError) as caught:
        train(room / "bert", data, out, **given)
    assert str(caught.value) == (
        f"{kept}: holds the state of an interrupted training; go on with --resume, or replace it with --force"
    )
    for changed, text in (
        ({"seed": 1}, "was saved with settings.seed 0, expected 1; resume with the same settings and data, or start"),
        ({"max_length": 9}, "was saved with max_length None, expected 9;"),
    ):
        with pytest.raises(SettingError) as refused:
            train(room / "bert", data, out, **given | changed, resume=True)
        assert str(refused.value).startswith(f"{kept}: {text}")
    with pytest.raises(SettingError, match=r"was saved with data '\w+', expected '\w+';"):
        train(room / "bert", room / "test.jsonl", out, **given, resume=True)
    (kept / "training.json").write_text("{")
    with pytest.raises(SettingError, match=r"is damaged; start again with --force$"):
        train(room / "bert", data, out, **given, resume=True)
    train(room / "bert", data, out, **given, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(SettingError, match=r"other\.training: holds no saved training; leave out --resume to start"):
        train(room / "bert", data, tmp_path / "other", **given, resume=True)


def _distance(tuned: dict[str, Any], base: dict[str, Any]) -> float:
    return float(sum(np.abs(tuned[f"bert.{name}"] - value).sum() for name, value in base.items()))


def test_the_pull_keeps_the_encoder_near_its_base_and_the_head_free(room: Path, tmp_path: Path) -> None:
    base, found = _weights(room / "bert"), []
    for i, strength in enumerate((0.0, 0.1, 1.0)):
        given = QUICK | {"pull": "l2", "strength": strength, "dropout": False}
        train(room / "bert", room / "train.jsonl", tmp_path / f"{i}", **given)
        found.append(_distance(_weights(tmp_path / f"{i}"), base))
    assert found[0] > 1.1 * found[1] > 1.1 * 1.1 * found[2] > 0


@pytest.mark.parametrize("pull", ["l2", "l1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_strongest_pull_gives_the_base_back_and_is_told(
    pull: str, dtype: torch.dtype, room: Path, tmp_path: Path
) -> None:
    base = tiny_bert(tmp_path / "base", dtype=dtype)
    watch = Watch()
    record = train(
        base, room / "train.jsonl", tmp_path / "out", **QUICK, pull=pull, strength=1e9, progress=watch
    )  # fmt: skip
    tuned = _weights(tmp_path / "out")
    state = torch.nn.Module.state_dict(transformers.AutoModel.from_pretrained(base, dtype=torch.float32))
    last_step = 0.0
    for name, value in state.items():
        last_step = max(last_step, float(np.abs(tuned[f"bert.{name}"] - value.numpy()).max()))
    # L2 pulls what was before the last step, whose rate is 5e-3 / 37, and Adam's step is a few rates at most
    assert last_step == 0 if pull == "l1" else 0 < last_step < 10 * 5e-3 / 37
    assert np.abs(tuned["classifier.weight"]).sum() > 0
    assert record.numbers["clamped"] == (40 if pull == "l2" else 0)
    cut = "the pull was cut to its limit in 40 of 40 steps: lower strength or rate"
    assert watch.said == ([cut] if pull == "l2" else [])


def test_the_reference_is_the_checkpoint_itself(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        folder = tiny_bert(tmp_path / str(dtype), dtype=dtype)
        opened = open_checkpoint(folder)
        base = Base(specs=opened.specs, bits=lambda name, o=opened: o.bits(name, 0, o.specs[name].size))  # type: ignore[misc]
        state = transformers.BertModel.from_pretrained(folder, dtype=dtype).state_dict()
        for name, value in state.items():
            found = base.tensor(torch, name)
            assert found.dtype == dtype
            assert torch.equal(found, value)
        bits = opened.bits("embeddings.word_embeddings.weight", 0, 1)
        assert base.tensor(torch, "embeddings.word_embeddings.weight").data_ptr() == bits.ctypes.data


def test_a_step_in_parts_is_the_step(room: Path, tmp_path: Path) -> None:
    for task, model, data in (("a", "bert", "train.jsonl"), ("b", "llama", "texts.txt")):
        for parts in (1, 3, 50):
            given = QUICK | {"steps": 3, "dropout": False, "accumulate": parts, "max_length": 16}
            train(room / model, room / data, tmp_path / f"{task}{parts}", **given)
        whole = _weights(tmp_path / f"{task}1")
        for parts in (3, 50):
            for name, value in _weights(tmp_path / f"{task}{parts}").items():
                # Adam divides by the gradient's size: entries whose gradient is rounding alone may move otherwise
                apart = np.abs(value - whole[name])
                assert np.quantile(apart, 0.95) < 1e-5, name
                assert apart.max() <= 2 * 3 * QUICK["learning_rate"], name


def test_frozen_parameters_keep_their_bits(room: Path, tmp_path: Path) -> None:
    given = QUICK | {"freeze": ("*embeddings*", "*pooler*"), "pull": "l2"}
    train(room / "bert", room / "train.jsonl", tmp_path / "out", **given)
    base, tuned = _weights(room / "bert"), _weights(tmp_path / "out")
    for name, value in base.items():
        same = value.tobytes() == tuned[f"bert.{name}"].tobytes()
        assert same == ("embeddings" in name or "pooler" in name), name


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_load_with_peft_and_are_pulled_to_nothing(room: Path, tmp_path: Path) -> None:
    given = QUICK | {"steps": 80, "learning_rate": 2e-2, "lora": 4, "lora_alpha": 16}
    record = train(
        room / "bert", room / "train.jsonl", tmp_path / "out", **given, eval_data=room / "test.jsonl"
    )  # fmt: skip
    held = transformers.AutoModelForSequenceClassification.from_pretrained(
        room / "bert", num_labels=2, id2label=dict(enumerate(MOODS))
    )  # fmt: skip
    model = peft.PeftModel.from_pretrained(held, tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    right = 0
    for row in mood(40, seed=2):
        with torch.inference_mode():
            guess = int(model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax())
        right += MOODS[guess] == row["label"]
    assert record.numbers["accuracy"] == right / 40 > 0.6
    weights = _weights(tmp_path / "out", "adapter_model.safetensors")
    assert any("lora_B" in name and value.any() for name, value in weights.items())
    train(
        room / "bert", room / "train.jsonl", tmp_path / "none", **given, pull="l1", strength=1e9, lora_targets=["value"]
    )
    pulled = _weights(tmp_path / "none", "adapter_model.safetensors")
    assert not any(value.any() for name, value in pulled.items() if "lora_B" in name)
    assert any(value.any() for name, value in pulled.items() if "lora_A" in name)


class Tracker:
    """What a tracker of accelerate is told."""

    told: list[tuple[dict[str, Any], int | None]] = []  # noqa: RUF012 - the class is what accelerate makes
    requires_logging_directory = False
    name = "memory"

    def __init__(self, run: str, **_: Any) -> None:
        assert run == "deltagram"

    def start(self) -> None:
        self.told.clear()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        assert values["learning_rate"] == "0.005"

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.told.append((values, step))

    def finish(self) -> None:
        self.told.append(({}, None))


def test_trackers_are_told_each_step_and_the_metric(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("accelerate.tracking")
    accelerator = pytest.importorskip("accelerate.accelerator")
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "memory", Tracker)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["memory"])
    monkeypatch.setattr(accelerator, "filter_trackers", lambda names, _: names or [])
    given = QUICK | {"steps": 3, "pull": "l2"}
    train(
        room / "bert", room / "train.jsonl", tmp_path / "out", **given, track=["memory"], eval_data=room / "test.jsonl"
    )
    *steps, metric, end = Tracker.told
    assert [step for _, step in steps] == [1, 2, 3]
    assert all(values.keys() == {"loss", "learning_rate", "pull"} for values, _ in steps)
    assert metric[0].keys() == {"accuracy"}
    assert end == ({}, None)


def test_an_interrupted_training_leaves_accelerate_as_it_was(room: Path, tmp_path: Path) -> None:
    state = pytest.importorskip("accelerate.state")
    with pytest.raises(KeyboardInterrupt):
        train(room / "bert", room / "train.jsonl", tmp_path / "out", **QUICK, progress=Watch(stop_at=2))
    assert not state.AcceleratorState._shared_state
    train(room / "bert", room / "train.jsonl", tmp_path / "out", **QUICK | {"steps": 1}, mixed_precision="bf16")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "task": ({"task": "ner"}, "task: 'ner' is unknown, expected classification or lm"),
    "loss": ({"loss": "focal"}, "loss: 'focal' is unknown, expected ce or la or cdt or ldt or vs"),
    "pull": ({"pull": "l0"}, "pull: 'l0' is unknown, expected none or l2 or l1"),
    "schedule": ({"schedule": "poly"}, "schedule: 'poly' is unknown, expected linear or cosine or constant or step"),
    "precision": ({"mixed_precision": "fp8"}, "mixed_precision: 'fp8' is unknown, expected no or bf16 or fp16"),
    "fp16": ({"mixed_precision": "fp16"}, "mixed_precision: fp16 cannot be had on a processor; take bf16, or no"),
    "both": ({"pull": "l2", "weight_decay": 0.1}, "weight_decay and pull: contradict each other; leave out weight"),
    "strength": ({"strength": -1.0}, "strength: -1.0, expected 0 or a positive number"),
    "epochs": ({"epochs": 0}, "epochs: 0, expected a positive number"),
    "steps": ({"steps": 0}, "steps: 0, expected a positive number"),
    "warmup": ({"warmup": 1.5}, "warmup: 1.5, expected a share of the steps, 0 to 1"),
    "seed": ({"seed": 1 << 63}, "seed: 9223372036854775808 is too large, expected a signed 64-bit integer"),
    "rate": ({"learning_rate": 1e38}, "learning_rate: 1e+38, with which the loss of step"),
    "long": ({"max_length": 33}, "max_length: 33, expected 2 to 32 tokens, which the model takes"),
    "short": ({"max_length": 1}, "max_length: 1, expected 2 to 32 tokens"),
    "metric": ({"metric": "perplexity"}, "metric: 'perplexity' is not one of classification, expected accuracy or"),
    "unmeasured": ({"metric": "f1"}, "metric: f1 has nothing to be measured on; give data with --eval"),
    "freeze": ({"freeze": ("x.*",)}, "freeze 'x.*': matches no parameter; the model has bert.embeddings.LayerNorm"),
    "frozen": ({"freeze": ("*",)}, "freeze: leaves no parameter to train; freeze fewer"),
    "head only": ({"freeze": ("bert.*",), "pull": "l2"}, "pull: finds no trained parameter in the base; train"),
    "alpha": ({"lora_alpha": 4}, "lora_alpha and lora_targets: are of adapters, and no rank is given; give --lora"),
    "rank": ({"lora": 0}, "lora: rank 0, alpha None, expected positive numbers"),
    "targets": ({"lora": 2, "lora_targets": ("zz",)}, "lora_targets: zz: "),
    "every": ({"save_every": 0}, "save_every: 0, expected a positive number of steps"),
    "track": ({"track": ["paper"]}, "track: 'paper' is unknown, expected "),
    "column": ({"text": "words"}, "train.jsonl: has no column 'words', expected one of its columns 'text', 'label'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_cannot_be_are_refused(case: str, room: Path, tmp_path: Path) -> None:
    changed, text = REFUSED[case]
    with pytest.raises(SettingError) as caught:
        train(room / "bert", room / "train.jsonl", tmp_path / "out", **QUICK | changed)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def _data(tmp_path: Path, *rows: tuple[str, str]) -> Path:
    return write_rows(tmp_path / "data.jsonl", [{"text": text, "label": label} for text, label in rows])


TABLES: dict[str, tuple[list[tuple[str, str]], dict[str, Any], str]] = {
    "one class": ([("a", "x"), ("b", "x")], {}, "data.jsonl: has one class only ('x'), expected two classes or more"),
    "new label": ([("a", "good"), ("b", "fine")], {"eval": True}, "has labels the model does not know: 'bad'"),
    "one measured": (
        [("a", "good"), ("b", "bad")], {"metric": "matthews", "eval": "one"},
        "metric: matthews is not a number: all labels are one class; take accuracy",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_data_that_cannot_be_learnt_is_refused(case: str, room: Path, tmp_path: Path) -> None:
    rows, options, text = TABLES[case]
    held_out = options.pop("eval", None)
    if held_out == "one":
        options["eval_data"] = write_rows(tmp_path / "one.jsonl", [{"text": "it", "label": "good"}])
    elif held_out:
        options["eval_data"] = room / "test.jsonl"
    with pytest.raises(SettingError) as caught:
        train(room / "bert", _data(tmp_path, *rows), tmp_path / "out", **QUICK | {"steps": 1} | options)
    assert text in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_trained_are_refused(room: Path, tmp_path: Path) -> None:
    def refused(model: Path, **options: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            train(model, room / "train.jsonl", tmp_path / "out", **QUICK | options)
        return str(caught.value)

    def without(*names: str) -> Path:
        folder = tmp_path / f"without-{names[0]}"
        folder.mkdir()
        for path in (room / "bert").iterdir():
            if path.name not in names:
                (folder / path.name).write_bytes(path.read_bytes())
        return folder

    bare = without("config.json")
    assert refused(bare) == f"{bare}: no config.json, expected a Hugging Face model folder"
    assert "there is no such file or directory" in refused(tmp_path / "nothing")
    assert "holds no checkpoint, expected model.safetensors" in refused(without("model.safetensors"))
    odd = without("README.md")
    (odd / "config.json").write_text('{"model_type": "unheard"}')
    assert f"{odd / 'config.json'}: is of no model that transformers builds (" in refused(odd)
    assert "gives no CausalLM that transformers builds" in refused(_t5(tmp_path / "t5"), task="lm")
    mute = without("vocab.txt", "tokenizer_config.json")
    assert refused(mute) == f"{mute}: has no tokenizer, expected tokenizer.json or vocab.txt; copy it from the base"
    with pytest.raises(OutputError, match="the output is, contains, or lies inside the input"):
        train(room / "bert", room / "train.jsonl", room / "bert" / "out", **QUICK)
    assert not (tmp_path / "out").exists()


def _t5(folder: Path) -> Path:
    config = transformers.T5Config(
        vocab_size=13, d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=1, decoder_start_token_id=0
    )  # fmt: skip
    transformers.T5EncoderModel(config).save_pretrained(folder)
    words = tiny_bert(folder.with_name("words"))
    for name in ("vocab.txt", "tokenizer_config.json"):
        (folder / name).write_bytes((words / name).read_bytes())
    return folder


@pytest.mark.parametrize("package", ["accelerate", "peft", "torch"])
def test_a_missing_package_is_named(package: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraError, match=rf"package {package} is not installed; pip install 'deltagram\[hf\]'"):
        train(room / "bert", room / "train.jsonl", tmp_path / "out", **QUICK, lora=2)


def test_a_trackers_missing_package_is_named(room: Path, tmp_path: Path) -> None:
    with pytest.raises(ExtraError, match=r"^track: package comet_ml is not installed; pip install comet_ml$"):
        train(room / "bert", room / "train.jsonl", tmp_path / "out", **QUICK, track=["comet_ml"])


def _type(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["deltagram", "train", *map(str, words)])


def test_at_the_command_line(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = (room / "bert", room / "train.jsonl", "--batch-size", 8, "--learning-rate", 0.005, "--steps", 30)
    _type(monkeypatch, *common, "--out", "out", "--pull", "l2", "--eval", room / "test.jsonl", "--freeze", "*position*")
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    assert (ended.value.code, err) == (0, "")
    first, second, third = out.splitlines()
    assert first.startswith("out: model of ")
    assert "30 steps on 96 texts in " in first
    assert second.startswith(f"accuracy on {room / 'test.jsonl'}: ")
    assert third.startswith(f"balanced-accuracy on {room / 'test.jsonl'}: ")
    _type(monkeypatch, *common, "--out", "adapter", "--lora", 2, "--json")
    with pytest.raises(SystemExit):
        main()
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out)["settings"]["lora"] == {"rank": 2, "alpha": None, "targets": []}
    _type(monkeypatch, *common, "--out", "other", "--max-length", POSITIONS + 1)
    with pytest.raises(SystemExit) as refused:
        main()
    out, err = capfd.readouterr()
    assert (refused.value.code, out) == (1, "")
    assert err == "error: max_length: 33, expected 2 to 32 tokens, which the model takes\n"
