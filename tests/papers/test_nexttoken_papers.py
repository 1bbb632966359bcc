"""The claims on next-token prediction, each checked as it is on a small made-up text; and what they are made of."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deltagram.data.labels import LabelMatrix
from deltagram.data.packages import TextClassification, Texts
from deltagram.errors import ExtraError, SettingError
from deltagram.geometry.nexttoken import in_support
from deltagram.geometry.supportsvm import max_margin
from deltagram.papers import characters, supportsets, tokenbeside
from deltagram.papers.bench import FAST, Bench
from deltagram.papers.claims import Claim, claims
from deltagram.papers.forecast import agreement, forecast, nearest_share, scored
from deltagram.papers.nexttoken_parts import cosine, off_log_odds
from deltagram.papers.nexttoken_training import share, trend
from deltagram.papers.reproduce import PAPERS, judged
from deltagram.papers.tokenruns import at_ridges, free

ALL = tuple(claims("next-token"))
TINY = {"context": 2, "min_count": 8, "min_probability": 0.02, "supports": 8, "contexts": 2}
DERIVED = {  # what holds at any size, by derivation
    "N1": ("value", "gradient", "control_even"),
    "N2": ("excess", "nuclear", "control_too_small"),
    "N3": ("ridge", "law", "control_shuffled"),
    "N4": ("end_free", "fall_free"),
    "N5": ("same_ridge", "control_within_ridge"),
    "N6": ("after_ridge",),
}
LEXICON = "and the of that unto lord shall they him his for which not with all thou thy was god said, went. came".split()


def text(words: int = 6000) -> str:
    rng = np.random.default_rng(0)
    picked = [LEXICON[i] for i in rng.integers(0, len(LEXICON), words)]
    return "\n".join(f"Ge1:{n} " + " ".join(picked[n : n + 20]).title() + "!" for n in range(0, words, 20))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("reproduction")
    data = tmp_path_factory.mktemp("data")
    (data / "kjv.txt").write_text(text())
    scale = replace(FAST, word_epochs=400, decoder_epochs=3, starts=1)
    return Bench(folder=folder, scale=scale, releases=data)


def tiny(name: str) -> Claim:
    claim = claims("next-token")[name]
    return replace(claim, settings={**claim.settings, **TINY})


@pytest.mark.parametrize("name", ALL)
def test_a_check_measures_all_that_is_judged(bench: Bench, name: str) -> None:
    claim = tiny(name)
    record = judged(bench, claim, PAPERS["next-token"][name])
    got = record.numbers["got"]
    assert got.keys() >= claim.bounds.keys()
    assert all(np.isfinite(value) for value in got.values())
    assert record.numbers["verdict"] in ("pass", "fail")
    assert record.numbers["rows"]
    assert record.settings["seeds"] == [0]
    for number in DERIVED[name]:
        assert claim.bounds[number].holds(got[number]), f"{number} is {got[number]}"


@pytest.mark.parametrize("name", ALL)
def test_a_claim_says_where_it_is_made_and_what_could_refute_it(name: str) -> None:
    claim = claims("next-token")[name]
    assert claim.source.startswith("arXiv 2408.15417, ")
    assert any(number.startswith("control_") for number in claim.bounds)
    for number, bound in claim.bounds.items():
        assert bound.holds(bound.claimed), number
