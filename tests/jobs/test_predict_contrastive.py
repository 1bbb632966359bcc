"""The job `predict` for the supervised contrastive losses, and what `measure` does with the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from deltagram.cli import app
from deltagram.errors import DeltagramError, SettingError
from deltagram.geometry import Geometry, compare
from deltagram.geometry import predict as closed
from deltagram.geometry.designs import minority_angle
from deltagram.jobs import measure, predict

COUNTS = [20, 20, 20, 2, 2, 2]
LINE = ["predict", "--counts", "20x3,2x3", "--loss"]


def test_non_negative_features_attain_the_bound() -> None:
    found = predict(COUNTS, loss="scl")
    assert found.numbers["name"] == "scl, orthogonal frame"
    assert found.numbers["bound"] == pytest.approx(
        60 * np.log(19 + 46 * np.exp(-10)) + 6 * np.log(1 + 64 * np.exp(-10))
    )
    assert found.numbers["distance"]["orthogonal-frame"]["means"] == 0
    assert found.settings["features"] == "relu"
    assert found.settings["temperature"] == 0.1


def test_free_features_have_a_certificate() -> None:
    found = predict(COUNTS, loss="scl", features="free", temperature=0.5).numbers
    assert abs(found["excess"]["gap"]) < 1e-9
    assert found["excess"]["value"] == pytest.approx(found["excess"]["primal"] + found["excess"]["offset"])
    assert [row["classes"] for row in found["rows"]] == [3, 3]
    assert "bound" not in found


@pytest.mark.parametrize(
    ("told", "features", "distance"),
    [
        ({}, "free", None),
        ({"design": "of"}, "relu", 0.0),
        ({"features": "relu"}, "relu", 0.0),
        ({"design": "etf", "limit": True}, "free", 0.0),
        ({"design": "etf", "copies": [1, 2, 3, 4, 5, 6]}, "free", None),
        ({"design": "minority:80", "copies": 50}, "free", None),
        ({"design": "minority:80", "limit": True}, "free", 0.0),
        ({"design": "separation", "dim": 3, "limit": True}, "free", 0.0),
    ],
)
def test_prototypes_and_their_defaults(told: dict[str, Any], features: str, distance: float | None) -> None:
    found = predict(COUNTS, loss="scl-prototypes", **told)
    assert found.settings["features"] == features
    if distance is None:
        assert 0 < found.numbers["design"]["distance"] < 0.3
    else:
        assert found.numbers["design"]["distance"] == pytest.approx(distance, abs=1e-6)
    if str(told.get("design")).startswith("minority"):
        mean = told.get("copies", 1.0)
        assert found.numbers["design"]["copies"] == pytest.approx(minority_angle(COUNTS, 80).copies(0.1, mean=mean))


def test_what_predict_writes_is_what_measure_compares_with(tmp_path: Path) -> None:
    predict(COUNTS, loss="scl", features="free", out=tmp_path / "g.json")
    written = Geometry.of_data(json.loads((tmp_path / "g.json").read_text())["geometry"])
    wanted = closed.supervised_contrastive(COUNTS, features="free")
    assert compare(written, wanted).means < 1e-12
    h = np.repeat(wanted.mean_vectors(8), 4, axis=0).astype(np.float32)
    np.savez(tmp_path / "f.npz", features=h, labels=np.repeat(np.arange(6), 4))
    found = measure(tmp_path / "f.npz", against=[str(tmp_path / "g.json"), "etf"], centring="none").numbers
    assert found["against"]["scl, free features"]["means"] < 1e-6
    assert found["against"]["etf"]["means"] > 0.05
    (tmp_path / "other.json").write_text("{}")
    for name, words in (
        ("no.json", "no.json: cannot be read"),
        ("other.json", "holds no geometry, expected what pred"),
    ):
        with pytest.raises(SettingError, match=words):
            measure(tmp_path / "f.npz", against=[str(tmp_path / name)])
    with pytest.raises(SettingError, match=r"'ring' is unknown, expected etf or orthogonal-frame or seli, or a .json"):
        measure(tmp_path / "f.npz", against=["ring"])


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"loss": "scl", "gamma": 1.0}, "gamma: is not a parameter of scl"),
        ({"loss": "scl", "ridge": 1.0}, "ridge: is not a parameter of scl"),
        ({"loss": "scl", "tune": "simplex"}, "tune: is not a parameter of scl"),
        ({"loss": "scl", "design": "etf"}, "design: is not a parameter of scl, expected temperature, features, dim"),
        ({"loss": "ce", "temperature": 0.1}, "temperature: is not a parameter of ce"),
        ({"loss": "ce", "limit": True}, "limit: is not a parameter of ce"),
        ({"loss": "scl", "temperature": 0}, "temperature: 0, expected a positive number"),
        ({"loss": "scl", "features": "tanh"}, "features: 'tanh', expected relu or free"),
        ({"loss": "scl", "dim": 5}, "dim: 5 dimensions for 6 classes, expected 6 or more"),
        ({"loss": "scl", "features": "free", "dim": 4}, "dim: 4 dimensions for 6 classes, expected 5 or more"),
        ({"design": "ring"}, "design: 'ring', expected etf, of, separation, minority:DEGREES"),
        ({"design": "minority"}, "design: 'minority', expected minority:DEGREES, such as minority:80"),
        ({"design": "minority:5"}, "minority_angle: 5 degrees, expected above"),
        ({"design": "separation"}, "dim: is missing for the design separation"),
        ({"design": "etf", "dim": 4}, "simplex: 6 classes in 4 dimensions, expected 5 dimensions or more"),
        ({"copies": [1, 2]}, "copies: has 2 numbers, expected one number, or 6, one a class"),
        ({"copies": -3}, "copies: holds -3, expected positive numbers"),
        ({"design": "minority:80", "copies": -3}, "mean: -3, expected a positive number"),
        ({"design": "of", "features": "free"}, "no positive weights balance.*allow_mismatch predicts what happens"),
        ({"design": "etf", "features": "relu"}, "prototypes at negative cosines"),
    ],
)
def test_what_makes_no_prediction_is_refused(tmp_path: Path, told: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        predict(COUNTS, **{"loss": "scl-prototypes", **told}, out=tmp_path / "g.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["scl"], "attains the lower bound of the loss"),
        (["scl", "--features", "free", "--temperature", "0.5"], "duality gap"),
        (["scl-prototypes", "--copies", "10"], "distance of the class means from the prototypes"),
        (["scl-prototypes", "--design", "minority:85", "--copies", "100"], "copies matched to the design"),
        (["scl-prototypes", "--design", "separation", "--dim", "2"], "the least there is; bounds: simplex"),
        (["scl-prototypes", "--design", "separation", "--dim", "2"], "not shown to be the best"),
        (["scl-prototypes", "--design", "of", "--features", "free", "--limit", "--allow-mismatch"], "mismatch: proto"),
    ],
)
def test_the_command_says_what_shows_it(line: list[str], words: str) -> None:
    run = CliRunner().invoke(app, [*LINE, *line])
    assert run.exit_code == 0, run.output
    assert words in run.output
    assert "cos w, w'" not in run.output  # there are no classifiers
    as_json = json.loads(CliRunner().invoke(app, [*LINE, *line, "--json"]).output)
    assert as_json["job"] == "predict"
    assert as_json["settings"]["loss"] == line[0]


def test_the_command_refuses_in_words() -> None:
    run = CliRunner().invoke(app, [*LINE, "scl-prototypes", "--copies", "many"])
    assert isinstance(run.exception, DeltagramError)
    assert "--copies: 'many' is no number" in str(run.exception)
