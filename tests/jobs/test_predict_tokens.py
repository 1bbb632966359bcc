"""`predict --tokens`: what it says, what it writes, what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from deltagram.cli import app
from deltagram.data.labels import LabelMatrix
from deltagram.errors import DeltagramError, SettingError
from deltagram.geometry.supportsvm import max_margin
from deltagram.geometry.wordcontext import compare_tokens
from deltagram.jobs import predict
from deltagram.jobs.geometryfile import read_geometry, read_tokens
from tokenworlds import zipf


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    supports = zipf(12, 30)
    counts = supports * np.random.default_rng(0).integers(1, 6, supports.shape)
    path = tmp_path_factory.mktemp("tokens") / "supports.npz"
    LabelMatrix.of_counts(counts, words=[f"word-{i}" for i in range(12)]).save(path)
    return path


def test_it_predicts_the_margin_program_with_a_certificate(tokens: Path, tmp_path: Path) -> None:
    found = predict(tokens=tokens, out=tmp_path / "g.json").numbers
    labels = LabelMatrix.load(tokens)
    limit = max_margin(labels)
    assert found["margin"]["primal"] == limit.primal
    assert 0 <= found["margin"]["gap"] <= 1e-6
    assert found["margin"]["uniqueness"]["unique"] == "yes"
    assert (found["words"], found["contexts"], found["samples"]) == (*labels.shape, labels.samples)
    assert found["distinct_supports"] == len(labels.supports.multiplicity)
    assert found["entropy"] == labels.entropy
    assert found["collapse"]["contexts_in_groups"] == int(
        (np.bincount(labels.supports.of)[labels.supports.of] > 1).sum()
    )
    assert found["directions"][0]["words"][0][0].startswith("word-")
    written = read_tokens(tmp_path / "g.json")
    far = compare_tokens(written, limit.geometry(labels))
    assert max(far.words, far.contexts, far.logits or 0.0) < 1e-7
    with pytest.raises(SettingError, match="geometry: cannot be read"):
        read_geometry(tmp_path / "g.json")


def test_at_a_ridge_stationarity_is_told(tokens: Path) -> None:
    found = predict(tokens=tokens, ridge=3e-3).numbers["ridge"]
    assert abs(found["gap"]) < 1e-6
    assert found["slope_norm"] == pytest.approx(1, abs=1e-4)
    assert found["balance"] == pytest.approx(1, abs=1e-4)
    assert 0 < found["switched_on"] <= 30


def test_in_fewer_dimensions_the_gap_is_to_any_number(tokens: Path) -> None:
    found = predict(tokens=tokens, dim=9).numbers
    assert found["low_dimension"]["dim"] == 9
    assert found["low_dimension"]["excess"] > 1e-4
    assert "low_dimension" not in predict(tokens=tokens, dim=11).numbers


def test_the_proxy_alone(tokens: Path, tmp_path: Path) -> None:
    found = predict(tokens=tokens, proxy=True, top=3, out=tmp_path / "g.json").numbers
    assert len(found["sizes"]) == 3
    assert found["proxy"]["exact"] == "no"
    assert read_tokens(tmp_path / "g.json").word_vectors.shape == (12, 3)
    weighted = predict(tokens=tokens, proxy=True, ridge=1e-3).numbers
    assert weighted["name"] == "proxy: centred supports, ridge 0.001"


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"counts": [3, 4]}, "counts: is not a parameter of next tokens"),
        ({"loss": "la"}, "loss: is not a parameter of next tokens"),
        ({"gamma": 0.5}, "gamma: is not a parameter of next tokens"),
        ({"weight_decay": 0.1}, "weight_decay: is not a parameter of next tokens"),
        ({"temperature": 0.1}, "temperature: is not a parameter of next tokens"),
        ({"free_bias": True}, "free_bias: is not a parameter of next tokens"),
        ({"reduction": "sum"}, "reduction: is not a parameter of next tokens"),
        ({"proxy": True, "dim": 3}, "dim: together with the proxy, expected top"),
        ({"top": 3}, "top: without the proxy; give --proxy"),
        ({"proxy": True, "top": 0}, "top: is 0, expected 1 to 11"),
        ({"proxy": True, "top": 12}, "top: is 12, expected 1 to 11"),
        ({"ridge": 0.0}, "ridge: 0, expected a positive number"),
        ({"ridge": -1.0, "proxy": True}, "ridge: -1, expected a positive number"),
        ({"dim": 0}, "dim: is 0, expected 1 or more"),
    ],
)
def test_what_makes_no_problem_is_refused(tokens: Path, told: dict[str, Any], text: str) -> None:
    with pytest.raises(DeltagramError) as refused:
        predict(**{"tokens": tokens, **told})
    assert text in str(refused.value)


@pytest.mark.parametrize("told", [{}, {"proxy": True}, {"ridge": 0.01}])
def test_one_context_is_refused(tmp_path: Path, told: dict[str, Any]) -> None:
    LabelMatrix.of_counts([[3], [1], [0]]).save(tmp_path / "one.npz")
    with pytest.raises(SettingError, match="contexts: there is one, expected two or more"):
        predict(tokens=tmp_path / "one.npz", **told)


@pytest.mark.parametrize("told", [{}, {"proxy": True}])
def test_supports_that_are_alike_are_refused(tmp_path: Path, told: dict[str, Any]) -> None:
    LabelMatrix.of_counts([[3, 1, 1], [1, 2, 9], [0, 0, 0]]).save(tmp_path / "alike.npz")
    with pytest.raises(SettingError, match="of all 3 contexts are full, or the same 2 words"):
        predict(tokens=tmp_path / "alike.npz", **told)
    (tmp_path / "broken.npz").write_bytes(b"no labels")
    with pytest.raises(SettingError, match="holds no labels"):
        predict(tokens=tmp_path / "broken.npz", **told)


def test_class_counts_refuse_what_is_of_tokens() -> None:
    for told in ({"proxy": True}, {"top": 3}):
        with pytest.raises(SettingError, match="is not a parameter of class counts"):
            predict([3, 4], **told)
    with pytest.raises(SettingError, match="counts: are missing, expected samples a class, or tokens"):
        predict()


def test_the_command(tokens: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    shown = run(app, ["predict", "--tokens", str(tokens)]).stdout
    for part in ("12 words, 30 contexts", "distinct supports", "entropy H", "certified gap", "unique: yes", "collapses",
                 "word-", "growth from zero", "beside the centred supports"):  # fmt: skip
        assert part in shown, part
    done = run(app, ["predict", "--tokens", str(tokens), "--ridge", "0.01", "--json", "-o", str(tmp_path / "g.json")])
    record = json.loads(done.stdout)
    assert (record["job"], record["settings"]["ridge"]) == ("predict", 0.01)
    for option in (["--ridge", "0.01"], ["--dim", "9"], ["--proxy", "--top", "2"]):
        assert run(app, ["predict", "--tokens", str(tokens), *option]).exit_code == 0
    both = run(app, ["predict", "--tokens", str(tokens), "--counts", "3,4"])
    assert "--counts and --tokens: together, expected one of them" in str(both.exception)
    assert "neither is given" in str(run(app, ["predict"]).exception)
