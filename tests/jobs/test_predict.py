"""The job `predict`: what it is told, what it refuses, what it writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from deltagram import losses
from deltagram.cli import app
from deltagram.errors import DeltagramError, OutputError, SettingError
from deltagram.geometry import Geometry, compare
from deltagram.geometry import predict as closed
from deltagram.jobs import predict
from deltagram.jobs.lossproblem import problem_of

COUNTS = [40, 40, 4, 4]


def test_it_predicts_seli_with_a_certificate() -> None:
    found = predict(COUNTS).numbers
    assert found["name"] == "seli"
    assert found["certificate"]["holds"]
    assert found["distance"]["seli"]["classifiers"] < 1e-12
    assert found["distance"]["etf"]["classifiers"] > 0.1
    assert [row["classes"] for row in found["rows"]] == [2, 2]


@pytest.mark.parametrize(
    ("told", "scales"),
    [
        ({"loss": "cdt"}, {"class_scale": [np.sqrt(10), np.sqrt(10), 1, 1]}),
        ({"loss": "vs"}, {"class_scale": [10**0.3, 10**0.3, 1, 1]}),
        ({"loss": "cdt", "gamma": 0.5}, {"class_scale": [np.sqrt(10), np.sqrt(10), 1, 1]}),
        ({"loss": "ldt", "label_scale": [2, 2, 1, 1]}, {"label_scale": [2, 2, 1, 1]}),
        ({"loss": "vs", "gamma": 0.3, "tau": 2.0}, {"class_scale": [10**0.3, 10**0.3, 1, 1]}),
        ({"loss": "vs", "class_scale": [1, 2, 3, 4]}, {"class_scale": [1, 2, 3, 4]}),
        ({"loss": "la", "class_weight": "balanced"}, {}),
        ({"loss": "ce", "class_weight": [1, 2, 3, 4]}, {}),
    ],
)
def test_each_loss_sets_its_multipliers(tmp_path: Path, told: dict[str, Any], scales: dict[str, Any]) -> None:
    predict(COUNTS, **told, out=tmp_path / "g.json")
    written = Geometry.of_data(json.loads((tmp_path / "g.json").read_text())["geometry"])
    far = compare(written, closed.cross_entropy(COUNTS, **scales))
    assert max(far.means, far.classifiers or 0, far.logits or 0) < 1e-7


def test_at_a_ridge_offsets_and_weights_count() -> None:
    plain, shifted, weighted = (
        predict(COUNTS, ridge=0.5, **told).numbers
        for told in ({}, {"loss": "la", "tau": 1.0}, {"class_weight": "balanced"})
    )
    assert plain["distance"] != shifted["distance"]
    assert plain["distance"] != weighted["distance"]
    for found in (plain, shifted, weighted):
        assert abs(found["optimality"]["gap"]) < 1e-10


@pytest.mark.parametrize("loss", ["ce", "la", "cdt", "ldt", "vs"])
def test_the_problem_is_the_loss_of_that_name(loss: str) -> None:
    """At a ridge every constant counts: the gradient of torch's loss is that of the problem."""
    made = {
        "ce": losses.CrossEntropy,
        "la": losses.LogitAdjusted,
        "cdt": losses.CDT,
        "ldt": losses.LDT,
        "vs": losses.VS,
    }
    counts = [40, 9, 4]
    problem = problem_of(counts, loss=loss)
    logits = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 3
    got = (made[loss](class_counts=counts) if loss == "ce" else made[loss](counts))(logits, labels)
    s = problem.label_scale[labels][:, None] * problem.class_scale * logits.numpy() + problem.offset
    own = s[np.arange(12), labels.numpy()]
    assert float(got) == pytest.approx(float((np.log(np.exp(s).sum(1)) - own).mean()), rel=1e-6)


def test_decays_make_the_ridge() -> None:
    found = predict(COUNTS, weight_decay=1e-3, feature_decay=1e-3).numbers
    assert found["ridge"] == pytest.approx(88e-3)
    assert predict(COUNTS, ridge=2.5).numbers["merged"] == 2


def test_tuning_tells_its_parameters_and_their_price() -> None:
    found = predict(COUNTS, tune="simplex").numbers
    assert found["tuning"]["label_scale"] == pytest.approx(np.sqrt(COUNTS).tolist())
    assert found["distance"]["etf"]["classifiers"] < 1e-9
    assert "norms n^(-1/2)" in found["tuning"]["price"]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"loss": "focal"}, "loss: 'focal', expected ce, la, cdt, ldt, vs"),
        ({"gamma": 0.5}, "gamma: is not a parameter of ce"),
        ({"loss": "la", "label_scale": [1, 1, 1, 1]}, "label_scale: is not a parameter of la"),
        ({"loss": "ldt", "gamma": 1.0, "label_scale": [1, 1, 1, 1]}, "gamma: together with scales"),
        ({"class_weight": "equal"}, "class_weight: 'equal', expected balanced"),
        ({"weight_decay": 1e-4}, "has no ridge of this theory"),
        ({"feature_decay": 1e-4}, "without a weight decay"),
        ({"ridge": 0.1, "weight_decay": 1e-4}, "ridge: together with decays"),
        ({"free_bias": True, "ridge": 0.1}, "free_bias: with a ridge or scales"),
        ({"tune": "beauty"}, "tune: 'beauty', expected simplex"),
        ({"tune": "simplex", "gamma": 1.0}, "tune: together with a loss"),
        ({"dim": 2}, "2 dimensions for 4 classes"),
        ({"dim": 2, "ridge": 0.1}, "2 dimensions for 4 classes"),
    ],
)
def test_what_makes_no_problem_is_refused(tmp_path: Path, told: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words.replace("(", r"\(")):
        predict(COUNTS, **told, out=tmp_path / "g.json")
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_there_stays(tmp_path: Path) -> None:
    predict(COUNTS, out=tmp_path / "g.json")
    before = (tmp_path / "g.json").read_bytes()
    with pytest.raises(OutputError, match="exists"):
        predict([3, 2], out=tmp_path / "g.json")
    assert (tmp_path / "g.json").read_bytes() == before
    predict([3, 2], out=tmp_path / "g.json", force=True)
    assert (tmp_path / "g.json").read_bytes() != before


def test_the_command_prints_a_table_and_its_record(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text("[40, 40, 4, 4]")
    run = CliRunner().invoke(app, ["predict", "--counts", "40x2,4x2"])
    assert run.exit_code == 0, run.output
    assert "seli: 4 classes, 88 samples" in run.output
    assert "all margins are active" in run.output
    from_file = CliRunner().invoke(app, ["predict", "--counts", str(tmp_path / "n.json"), "--json"])
    assert json.loads(from_file.output)["settings"]["counts"] == COUNTS
    for more in (["--ridge", "2.5"], ["--tune", "alignment"], ["--free-bias"], ["--loss", "la"]):
        run = CliRunner().invoke(app, ["predict", "--counts", "40x2,4x2", *more])
        assert run.exit_code == 0, run.output


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--counts", "4,x"], "--counts: 'x' is no number"),
        (["--counts", ","], "--counts: holds no numbers"),
        (["--counts", "no.json"], "no.json cannot be read"),
        (["--counts", "4,5", "--reduction", "max"], "--reduction: 'max', expected mean or sum"),
    ],
)
def test_the_command_refuses_in_words(line: list[str], words: str) -> None:
    run = CliRunner().invoke(app, ["predict", *line])
    assert isinstance(run.exception, DeltagramError)
    assert words in str(run.exception)
