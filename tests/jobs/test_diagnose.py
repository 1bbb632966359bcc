"""The job `diagnose` on a file and on a model, its command, and its picture."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from typer.testing import CliRunner

import tinymodels
from deltagram.cli import app
from deltagram.errors import DeltagramError, OutputError, SettingError
from deltagram.jobs import diagnose
from deltagram.report.diagnosis import diagnosis_figure
from planted import Planted, plant


def saved(folder: Path, case: Planted, **more: Any) -> Path:
    arrays = {"features": case.features, "labels": case.labels, "classifier": case.classifier, "bias": case.bias}
    path = folder / "held.npz"
    np.savez(path, **{name: value for name, value in (arrays | more).items() if value is not None})
    return path


def line(path: Path, case: Planted, *more: str) -> list[str]:
    return ["diagnose", str(path), "--class-counts", ",".join(f"{n:g}" for n in case.counts), *more]


def test_a_file_is_diagnosed_and_the_record_written(tmp_path: Path) -> None:
    case = plant("small norm", 2)
    record = diagnose(saved(tmp_path, case), class_counts=case.counts, out=tmp_path / "found.json")
    written = json.loads((tmp_path / "found.json").read_text())
    assert {f["label"] for f in written["numbers"]["findings"] if f["cause"] == "small norm"} == case.spoilt
    assert written["numbers"]["findings"] == json.loads(record.line())["numbers"]["findings"]
    with pytest.raises(OutputError, match="exists"):
        diagnose(saved(tmp_path, case), class_counts=case.counts, out=tmp_path / "found.json")


def test_the_loss_sets_what_is_predicted(tmp_path: Path) -> None:
    case = plant(None, 0)
    plain, ldt = (
        diagnose(saved(tmp_path, case), class_counts=case.counts, **told).numbers["findings"]
        for told in ({}, {"loss": "ldt", "gamma": 0.5})
    )
    assert ldt[0]["predicted_norm"] == pytest.approx(1.0)
    assert plain[0]["predicted_norm"] > 1.1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"classifier": None, "bias": None}, "has no classifier"),
        ({"features": None}, "has no array 'features'"),
    ],
)
def test_a_file_that_lacks_something_is_refused(tmp_path: Path, more: dict[str, Any], words: str) -> None:
    case = plant(None, 0)
    with pytest.raises(SettingError, match=words):
        diagnose(saved(tmp_path, case, **more), class_counts=case.counts)
    with pytest.raises(SettingError, match="is a folder"):
        diagnose(tmp_path, class_counts=case.counts)


def test_a_classifier_is_diagnosed_on_texts(tmp_path: Path) -> None:
    _, tuned = tinymodels.bert_pair(tmp_path, classes=3)
    texts = tinymodels.sentences(60, seed=0)
    names = list(transformers.AutoConfig.from_pretrained(tuned).id2label.values())
    tinymodels.write(tmp_path / "held.jsonl", texts, [names[i % 3] for i in range(60)])
    record = diagnose(tuned, tmp_path / "held.jsonl", class_counts=[50, 20, 5])
    assert record.numbers["names"] == names
    assert record.numbers["samples"] == 60
    head = transformers.AutoModelForSequenceClassification.from_pretrained(tuned).classifier.weight
    sizes = head.detach().double().norm(dim=1).numpy()
    norms = [finding["norm"] for finding in record.numbers["findings"]]
    np.testing.assert_allclose(norms, sizes / np.exp(np.log(sizes).mean()), rtol=1e-6)
    with pytest.raises(SettingError, match="row for each count"):
        diagnose(tuned, tmp_path / "held.jsonl", class_counts=[50, 20])


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_command_draws_a_picture(tmp_path: Path, ending: str) -> None:
    case = plant("spread", 3)
    picture = tmp_path / f"found.{ending}"
    run = CliRunner().invoke(app, line(saved(tmp_path, case), case, "--picture", str(picture)))
    assert run.exit_code == 0, run.output
    assert "spread: " in run.output
    assert "held out from training" in run.output
    assert picture.stat().st_size > 5000
    again = CliRunner().invoke(app, line(saved(tmp_path, case), case, "--picture", str(picture)))
    assert isinstance(again.exception, OutputError)


def test_another_kind_of_picture_is_refused_before_any_work(tmp_path: Path) -> None:
    case = plant(None, 0)
    run = CliRunner().invoke(app, line(tmp_path / "none.npz", case, "--picture", "found.gif"))
    assert isinstance(run.exception, DeltagramError)
    assert "ends in '.gif', expected .svg or .png or .pdf" in str(run.exception)


def test_a_picture_of_many_classes_shows_those_that_fail() -> None:
    figure = diagnosis_figure(sixty())
    assert len(figure.axes[0].get_yticks()) == 48
    assert "classes shown" in figure.get_suptitle()


def sixty() -> dict[str, Any]:
    """Findings of 60 classes, one of which fails."""
    base: dict[str, Any] = {
        "label": 0, "count": 5.0, "recall": 1.0, "cause": "healthy", "norm": 1.0, "predicted_norm": 1.0,
        "nearest": 0.0, "predicted_nearest": 0.0, "alignment": 1.0, "predicted_alignment": 1.0, "spread": 1.0,
    }  # fmt: skip
    findings = [base | {"label": i} for i in range(60)]
    findings[59] |= {"recall": 0.1, "cause": "merged"}
    return {"findings": findings, "names": [f"class {i}" for i in range(60)], "balanced_recall": 0.9}
