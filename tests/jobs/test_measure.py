"""`measure` at the command line and as a job: files of features, classifiers on texts, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import tinymodels
from deltagram.errors import CheckpointError, SettingError
from deltagram.geometry import measure as geometry
from deltagram.jobs import measure
from desk import Desk

COUNTS = (40, 25, 6, 4)


def arrays(*, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(4), COUNTS)
    x = (3 * np.eye(4, 8)[y] + rng.standard_normal((len(y), 8))).astype(np.float32)
    return {"features": x, "labels": y, "classifier": np.eye(4, 8), "bias": np.array([1.0, 0.5, -0.5, -1.0])}


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    np.savez("f.npz", **arrays())
    return Desk(folder=tmp_path, capture=capsys, patch=monkeypatch)


def same(numbers: dict[str, Any], expected: geometry.Collapse) -> None:
    for name in ("nc1", "nc1_ratio", "cdnv", "self_duality", "agreement", "effective_rank"):
        assert numbers[name] == pytest.approx(getattr(expected, name), rel=1e-6), name


def test_a_file_is_measured_as_its_arrays_are(desk: Desk) -> None:
    expected = geometry.collapse_of(**arrays())
    record = json.loads(desk.does("measure f.npz --json"))
    assert (record["job"], record["settings"]["weighting"]) == ("measure", "class")
    same(record["numbers"], expected)
    assert record["numbers"]["against"]["etf"]["means"] == pytest.approx(expected.means.etf_distance, rel=1e-9)
    assert record["numbers"]["classes"]["counts"] == list(COUNTS)
    said = (arrays()["features"] @ np.eye(8, 4) + arrays()["bias"]).argmax(1)
    recall = [float((said[arrays()["labels"] == c] == c).mean()) for c in range(4)]
    assert record["numbers"]["classes"]["classifier_recall"] == pytest.approx(recall)
    assert record["numbers"]["classifier_balanced_accuracy"] == pytest.approx(np.mean(recall))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_safetensors_are_the_same_features(desk: Desk, dtype: Any) -> None:
    held = arrays()
    held["features"] = held["features"].astype(dtype)
    save_file({name: np.ascontiguousarray(part) for name, part in held.items()}, "f.safetensors")
    held["features"] = held["features"].astype(np.float64)
    same(json.loads(desk.does("measure f.safetensors --json"))["numbers"], geometry.collapse_of(**held))


def test_every_option_reaches_the_numbers(desk: Desk) -> None:
    line = "--weighting mixed --centring 1,1,2,2 --against orthogonal-frame --against etf --power 4 --classes 5 --json"
    held = arrays()
    del held["classifier"], held["bias"]
    np.savez("bare.npz", **held)
    record = json.loads(desk.does("measure bare.npz " + line.replace("2,2 ", "2,2,3 ")))
    expected = geometry.collapse_of(**held, classes=5, weighting="mixed", centring=[1, 1, 2, 2, 3], power=4)
    n = record["numbers"]
    assert (n["nc1"], n["cdnv"]) == (pytest.approx(expected.nc1), pytest.approx(expected.cdnv))
    assert list(n["against"]) == ["orthogonal-frame", "etf"]
    assert (n["classifiers"], n["agreement"], n["self_duality"]) == (None, None, None)
    assert n["conventions"]["classes"] == "4 of 5; empty, left out of everything: 4"


def test_the_page_names_conventions_and_shows_each_class(desk: Desk) -> None:
    page = desk.does("measure f.npz --weighting sample")
    for part in (
        "weighting    sample: every sample counts alike", "centring     sample_mean: mean of all samples",
        "NC1 tr(S_W S_B^+)", "NC4 nearest mean = decision", "distance to the power 2", "alignment",
    ):  # fmt: skip
        assert part in page
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("class  "))
    assert [line.split()[:2] for line in lines[start + 1 :]] == [[str(c), str(n)] for c, n in enumerate(COUNTS)]


def test_past_32_classes_the_page_shows_extremes(desk: Desk) -> None:
    rng = np.random.default_rng(0)
    y = np.r_[np.repeat(np.arange(40), 5), np.full(30, 7)]
    np.savez("many.npz", features=rng.standard_normal((len(y), 6)), labels=y)
    lines = desk.does("measure many.npz").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("over classes"))
    assert [line.split()[0] for line in lines[start + 1 :]] == ["samples", "spread", "|mean|"]
    assert lines[start + 1].split()[:4] == ["samples", "5", "5", "35"]
    assert lines[start + 1].split()[-5] == "7,"


def test_out_writes_the_record_and_nothing_else_is_ever_written(desk: Desk) -> None:
    before = {path.name for path in desk.folder.iterdir()}
    desk.does("measure f.npz")
    assert {path.name for path in desk.folder.iterdir()} == before
    record = json.loads(desk.does("measure f.npz -o geometry.json --json"))
    assert json.loads((desk.folder / "geometry.json").read_text()) == record
    assert {path.name for path in desk.folder.iterdir()} == {*before, "geometry.json"}
    desk.refuses("measure f.npz -o geometry.json", "exists already", "--force")
    desk.refuses("measure f.npz -o f.npz --force", "the input f.npz")
    desk.does("measure f.npz -o geometry.json --force")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": None}, "f.npz: has no array 'labels', but 'features', 'classifier', 'bias', expected features"),
        ({"features": None}, "has no array 'features'"),
        ({"labels": np.zeros(75, int)}, "labels: 1 of 4 classes occur, expected two or more"),
        ({"labels": np.arange(75)}, "labels, sample 4: label 4, expected 0 to 3; raise the number of classes"),
        ({"labels": -np.arange(75)}, "labels, sample 1: label -1, expected 0 to 3; leave such samples out"),
        ({"labels": np.ones(74, int)}, "features and labels: are of 75 and 74 samples, expected as many of both"),
        ({"labels": np.ones(75)}, "labels: are of type float64, expected integers"),
        ({"features": np.full((75, 8), np.nan)}, "features, sample 0, feature 0: nan, expected finite numbers"),
        ({"features": np.zeros((75, 9))}, "classifier: has the shape (4, 8), expected (4, 9)"),
        ({"features": np.zeros(75)}, "features: have the shape (75,), expected"),
        ({"features": np.zeros((0, 8)), "labels": np.zeros(0, int)}, "f.npz: has no sample, expected one or more"),
        ({"bias": np.zeros(3)}, "bias: has the shape (3,), expected (4,), finite numbers"),
        ({"classifier": None}, "f.npz: has a bias and no classifier; save the classifier's weights too"),
        ({"features": np.full((75, 8), {})}, "f.npz: is no .npz of plain arrays ("),
    ],
)
def test_bad_files_are_refused(desk: Desk, change: dict[str, Any], says: str) -> None:
    np.savez("f.npz", **{name: part for name, part in (arrays() | change).items() if part is not None})
    desk.refuses("measure f.npz", says)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("measure none.npz", "none.npz: does not exist, expected a file of arrays (.npz or .safetensors)"),
        ("measure empty.npz", "empty.npz: is empty, expected the arrays features, labels"),
        ("measure text.npz", "text.npz: is no .npz of plain arrays"),
        ("measure text.txt", "text.txt: has the suffix '.txt', expected .npz or .safetensors"),
        ("measure .", ".: is a folder, expected a file (.npz or .safetensors); give labelled texts too"),
        ("measure f.npz --classes 3", "classifier: has the shape (4, 8), expected (3, 8)"),
        ("measure f.npz --against seven", "against: 'seven' is unknown, expected etf or orthogonal-frame"),
        ("measure f.npz --weighting half", "weighting: 'half' is unknown, expected class or sample or mixed"),
        ("measure f.npz --centring middle", "centring: 'middle' is unknown, expected class_mean, sample_mean, none"),
        ("measure f.npz --centring 1,2", "centring: 2 weights, expected 4, one a class"),
        ("measure f.npz --power 3", "cdnv: the power 3 of the distance, expected 2 or 4"),
    ],
)
def test_bad_lines_are_refused(desk: Desk, line: str, says: str) -> None:
    (desk.folder / "empty.npz").write_bytes(b"")
    for name in ("text.npz", "text.txt"):
        (desk.folder / name).write_text("not arrays")
    held = arrays()
    held["labels"] = np.minimum(held["labels"], 2)  # so that it is the classifier that does not fit
    if "--classes" in line:
        np.savez("f.npz", **held)
    desk.refuses(line, says)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinymodels.laid(tmp_path_factory.mktemp("room"), "bert")


def test_a_classifier_is_measured_on_what_its_head_sees(room: Path) -> None:
    """Beside transformers itself, a text at a time: the pooler's output is the head's input."""
    model = transformers.BertForSequenceClassification.from_pretrained(room / "tuned").eval()
    rows = [json.loads(line) for line in (room / "labels.jsonl").read_text().splitlines()]
    with torch.inference_mode():
        features = torch.cat([model.bert(input_ids=tinymodels.ids(row["text"])).pooler_output for row in rows])
    labels = [tinymodels.COLOURS.index(row["label"]) for row in rows]
    expected = geometry.collapse_of(
        features, labels, classifier=model.classifier.weight, bias=model.classifier.bias, classes=3
    )
    record = measure(room / "tuned", room / "labels.jsonl")
    n = record.numbers
    for name in ("nc1", "nc1_ratio", "cdnv", "self_duality", "effective_rank"):  # float32 sums in another order
        assert n[name] == pytest.approx(getattr(expected, name), rel=1e-4), name
    assert n["agreement"] == expected.agreement
    assert n["classes"]["names"] == list(tinymodels.COLOURS)
    assert n["classifier_balanced_accuracy"] == 1.0  # the labels are what the model says


def test_features_too_many_to_keep_are_measured_all_the_same(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = measure(room / "tuned", room / "labels.jsonl", weighting="sample").numbers
    monkeypatch.setitem(measure.__globals__, "KEPT_BYTES", 0)
    passing = measure(room / "tuned", room / "labels.jsonl", weighting="sample").numbers
    assert (passing["nc1"], passing["self_duality"]) == (kept["nc1"], kept["self_duality"])
    assert passing["agreement"] is None
    assert "classifier_balanced_accuracy" not in passing


@pytest.mark.parametrize("kind", ["roberta", "llama"])
def test_heads_of_other_makes_are_found(tmp_path: Path, kind: str) -> None:
    """RoBERTa's head is a block of two layers; Llama's runs on every token, without a bias."""
    size = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_labels": 3, "max_position_embeddings": 40}  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "roberta":
            config = transformers.RobertaConfig(**size, pad_token_id=30, bos_token_id=0, eos_token_id=1)
            config.max_position_embeddings = 80
            model = transformers.RobertaForSequenceClassification(config)
        else:
            config = transformers.LlamaConfig(**size, num_key_value_heads=1, pad_token_id=30)
            model = transformers.LlamaForSequenceClassification(config)
    tinymodels.save_with_words(model, tmp_path / "model", tinymodels.WORDS)
    labels = [str(i % 3) for i in range(len(tinymodels.TEXTS))]
    tinymodels.write(tmp_path / "labels.jsonl", tinymodels.TEXTS, labels)
    found = measure(tmp_path / "model", tmp_path / "labels.jsonl")
    assert found.numbers["samples"] == len(tinymodels.TEXTS)
    said = tinymodels.logits(model.eval(), tinymodels.TEXTS).argmax(-1).numpy()
    recall = [float((said[np.arange(len(said)) % 3 == c] == c).mean()) for c in range(3)]
    assert found.numbers["classes"]["classifier_recall"] == pytest.approx(recall)


def test_models_and_texts_that_do_not_serve_are_refused(room: Path, desk: Desk) -> None:
    (desk.folder / "tuned").symlink_to(room / "tuned")
    tinymodels.write(desk.folder / "other.jsonl", ["w1 w2"], ["purple"])
    tinymodels.write(desk.folder / "one.jsonl", ["w1 w2", "w3"], ["red", "red"])
    tinymodels.write(desk.folder / "bare.jsonl", ["w1 w2"])
    desk.refuses("measure tuned other.jsonl", "has labels the model does not know: 'purple'")
    desk.refuses("measure tuned one.jsonl", "labels: 1 of 3 classes occur, expected two or more")
    desk.refuses("measure tuned bare.jsonl", "has no column 'label'")
    desk.refuses("measure tuned other.jsonl --classes 4", "classes: are those of the model; leave --classes out")


def test_a_language_model_is_no_classifier(tmp_path: Path) -> None:
    tinymodels.laid(tmp_path, "llama")
    tinymodels.write(tmp_path / "labels.jsonl", ["w1 w2", "w3"], ["0", "1"])
    with pytest.raises(SettingError, match="is a LlamaForCausalLM, expected a sequence classifier"):
        measure(tmp_path / "tuned", tmp_path / "labels.jsonl")


def test_a_head_that_was_never_trained_is_refused(room: Path, tmp_path: Path) -> None:
    shutil.copytree(room / "tuned", tmp_path / "model")
    held = load_file(tmp_path / "model" / "model.safetensors")
    headless = {name: part for name, part in held.items() if not name.startswith("classifier.")}
    save_file(headless, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="holds no weights of its head classifier; give a fine-tuned classifier"):
        measure(tmp_path / "model", room / "labels.jsonl")


def test_a_head_that_does_more_than_its_layer_is_refused(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = transformers.BertForSequenceClassification.forward

    def doubled(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = before(self, *args, **kwargs)
        found.logits = 2 * found.logits
        return found

    monkeypatch.setattr(transformers.BertForSequenceClassification, "forward", doubled)
    with pytest.raises(CheckpointError, match="the head classifier does not give the model's logits from its inputs"):
        measure(room / "tuned", room / "labels.jsonl")


def test_a_model_without_padding_is_refused(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, num_labels=3, max_position_embeddings=40, pad_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForSequenceClassification(config)
    tinymodels.save_with_words(model, tmp_path / "model", tinymodels.WORDS)
    tinymodels.write(tmp_path / "labels.jsonl", ["w1 w2", "w3"], ["0", "1"])
    with pytest.raises(CheckpointError, match=r"has no pad_token_id, .*set it in config.json"):
        measure(tmp_path / "model", tmp_path / "labels.jsonl")


def test_a_file_is_measured_without_torch(desk: Desk) -> None:
    code = "import sys; sys.modules['torch'] = None; from deltagram.cli import main; main()"
    command = [sys.executable, "-W", "error", "-c", code, "measure", "f.npz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=desk.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "NC1 tr(S_W S_B^+)" in done.stdout
