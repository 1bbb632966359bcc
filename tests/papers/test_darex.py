"""Every claim of DAREx is checked, by what its bounds name."""

from pathlib import Path

import numpy as np
import pytest

from deltagram.papers.bench import Bench
from deltagram.papers.claims import claims
from deltagram.papers.darex import CHECKS
from deltagram.papers.darex_theory import synthetic
from deltagram.papers.reproduce import PAPERS, check_all, judged
from tinybench import bench as tiny

CLAIMS = claims("darex")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return tiny(tmp_path_factory.mktemp("reproduction"))


@pytest.mark.parametrize("paper", PAPERS)
def test_every_claim_has_a_check_and_every_check_a_claim(paper: str) -> None:
    assert list(PAPERS[paper]) == list(claims(paper))


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
def test_a_claim_says_where_it_is_made_and_what_could_refute_it(claim: object) -> None:
    assert claim.source.startswith("arXiv 2410.09344, ")
    assert claim.control
    assert any(name.startswith("control_") for name in claim.bounds)
    for name, bound in claim.bounds.items():
        assert bound.holds(bound.claimed), name  # what the paper has bears its own claim out
        assert bound.tolerance >= 0


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_measures_all_that_is_judged(bench: Bench, name: str) -> None:
    record = judged(bench, CLAIMS[name], CHECKS[name])
    got = record.numbers["got"]
    assert got.keys() >= CLAIMS[name].bounds.keys()
    assert record.numbers["verdict"] in ("pass", "fail")
    assert bool(record.numbers["because"]) == (record.numbers["verdict"] == "fail")
    assert record.claimed.keys() == record.tolerance.keys() == CLAIMS[name].bounds.keys()
    assert record.source
    assert record.numbers["rows"]


def test_what_was_measured_is_not_measured_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [CLAIMS["D1"], CLAIMS["D3"]]
    first = check_all(bench, chosen, CHECKS)
    lines = (bench.folder / "records.jsonl").read_text().splitlines()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("loaded a model again")

    monkeypatch.setattr("deltagram.papers.stage.loaded", refuse)
    monkeypatch.setattr("deltagram.papers.bench.fine_tune", refuse)
    again = check_all(bench, chosen, CHECKS)
    assert [record.numbers["got"] for record in again] == [record.numbers["got"] for record in first]
    assert (bench.folder / "records.jsonl").read_text().splitlines() == lines
    assert len(lines) == 2


def test_the_size_of_the_terms_alone_drives_the_change() -> None:
    """E|h| = sqrt(2/pi) sqrt(p/(1-p) Q) for many terms: the check's two numbers against that, and against a defect."""
    settings = dict(CLAIMS["D4"].settings)
    found = synthetic(settings, seed=1)
    assert found["slope"] == pytest.approx(1, abs=0.03)
    assert 1 <= found["control_ratio"] < CLAIMS["D4"].bounds["control_ratio"].most
    few = synthetic({**settings, "inputs": 40, "masks": 200}, seed=1)  # most masks keep nothing: the ratio decides
    assert few["control_ratio"] > CLAIMS["D4"].bounds["control_ratio"].most


def test_a_fall_is_seen_as_one(bench: Bench) -> None:
    """A check of D1 on a model whose deltas are dropped almost all is no pass by itself: numbers decide."""
    record = judged(bench, CLAIMS["D1"], CHECKS["D1"])
    got = dict(record.numbers["got"])
    assert not CLAIMS["D1"].broken(
        {**got, "moderate": 0.9, "extreme": 0.0, "fall": 0.9, "control_nothing_dropped": 1.0}
    )
    assert CLAIMS["D1"].broken({**got, "extreme": 0.9})
    assert CLAIMS["D1"].broken({**got, "control_nothing_dropped": float("nan")})
    assert np.isfinite(got["control_nothing_dropped"])
    assert got["control_nothing_dropped"] == pytest.approx(1, abs=0.1)


def test_a_bound_without_a_number_is_no_pass(bench: Bench) -> None:
    with pytest.raises(KeyError):
        CLAIMS["D1"].broken({})


def test_folder_of_the_bench(bench: Bench) -> None:
    assert {path.name for path in Path(bench.folder).iterdir()} >= {"notes", "base-bert"}
