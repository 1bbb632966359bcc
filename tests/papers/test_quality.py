"""The quality tables on a tiny variant; their shares and intervals against plain arithmetic."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deltagram.data.packages import Texts
from deltagram.errors import SettingError
from deltagram.papers import kjv
from deltagram.papers.ledger import Ledger
from deltagram.papers.quality import planned, quality
from deltagram.papers.quality_table import markdown
from deltagram.papers.scoring import Answers, Classes, Likelihood, share, share_interval
from deltagram.papers.ways import BY_LABEL, SIZES, WAYS
from tinybench import TASK
from tinybench import bench as tiny

LABEL = tuple(i % 2 for i in range(200))
TEST = Classes(
    texts=Texts(("",) * 200, LABEL), digest="", classes=("a", "b"), metric="accuracy", max_length=8
)  # fmt: skip


def test_a_table_of_real_cells(tmp_path: Path) -> None:
    bench = tiny(tmp_path)
    ways = [BY_LABEL[label] for label in ("DARE", "DAREx-q, one, output", "magnitude")]
    sizes = [SIZES[0], replace(SIZES[4], ratio=10**6)]
    records = list(quality(bench, {"adamw": lambda: bench.tuned(TASK)}, ways=ways, sizes=sizes))
    assert len(records) == 1 + 3 * 2
    assert planned(["adamw"], masks=2, ways=ways, sizes=sizes) == 2 + 2 * (2 + 2 + 1)
    ends, cells = records[0].numbers, [record for record in records[1:] if "share" in record.numbers]
    assert len(cells) == 3
    for record in cells:
        floor = max(ends["base_tuned_head"], ends["most_common_class"])
        assert record.numbers["share"] == pytest.approx(
            share(record.numbers["score"], floor=floor, top=ends["tuned"])
        )  # fmt: skip
        assert record.numbers["share_low"] <= record.numbers["share"] <= record.numbers["share_high"]
        assert record.numbers["bytes"] > 0
    refused = [record for record in records if "refused" in record.numbers]
    assert all("is below the floor" in record.numbers["refused"] for record in refused)
    page = markdown(list(Ledger(tmp_path / "quality.jsonl").records()))
    lines = page.splitlines()
    assert lines[0].startswith("**mood** (accuracy, 30 test texts): fine-tuned ")
    assert lines[2].startswith("| way | keep 10 % | 1/300 of the bytes |")
    assert [line.split(" | ")[0] for line in lines[4:]] == [f"| {way.label}" for way in ways]
    assert "| - |" in page


def test_a_language_model_is_scored_by_its_perplexity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny Llama on a bible of a few words: shares of nats, shown as perplexity."""
    monkeypatch.setattr(kjv, "_TEST", 20)
    monkeypatch.setattr(kjv, "_WORDS", 12)
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "kjv.txt").write_text("the film was good and it was the plot\n" * 200)
    bench = replace(tiny(tmp_path / "bench"), releases=tmp_path / "releases")
    task = replace(kjv.KJV, max_length=16, held=20)
    ways = [BY_LABEL["DARE"], BY_LABEL["DAREx-q, one, labels"]]
    made = kjv.tuned(bench, task, learning_rate=3e-3)
    records = list(quality(bench, {"adamw": lambda: made}, ways=ways, sizes=SIZES[:1]))
    ends = records[0].numbers
    assert ends["most_common_class"] is None
    assert ends["base_tuned_head"] < ends["tuned"] < 0
    page = markdown(list(Ledger(bench.folder / "quality.jsonl").records()))
    assert f"fine-tuned {np.exp(-ends['tuned']):.3f}, base under the tuned head" in page
    assert records[2].numbers["score"] >= records[1].numbers["score"] - 0.5


def test_a_bible_that_is_missing_or_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"kjv.txt: cannot be read .*write it with: bible -f"):
        kjv.kjv(tmp_path)
    (tmp_path / "kjv.txt").write_text("in the beginning")
    with pytest.raises(SettingError, match="has 0 pieces of 96 words, expected 200 or more"):
        kjv.kjv(tmp_path)


def test_intervals_are_paired() -> None:
    """A pruned model that says what the fine-tuned one says has share 1 whatever texts are drawn; noise has not."""
    rng = np.random.default_rng(0)
    label = np.asarray(LABEL)
    tuned = np.where(rng.random(200) < 0.9, label, 1 - label).astype(float)
    floor = np.where(rng.random(200) < 0.5, label, 1 - label).astype(float)
    least = 0.5
    assert share_interval(TEST, [tuned], tuned=tuned, floor=floor, least=least) == (1.0, 1.0)
    worse = np.where(rng.random(200) < 0.8, tuned, 1 - tuned)
    low, high = share_interval(TEST, [worse], tuned=tuned, floor=floor, least=least)
    point = share(TEST.score(worse), floor=max(least, TEST.score(floor)), top=TEST.score(tuned))
    assert low < point < high < 1.0
    assert high - low > 0.05


def test_scores_are_the_higher_the_better() -> None:
    assert TEST.score(np.asarray(LABEL, float)) == 1.0
    assert TEST.least(Texts(("",) * 3, (1, 1, 0))) == 0.5
    matthews = replace(TEST, metric="matthews")
    assert matthews.least(Texts(("",) * 3, (1, 1, 0))) == 0.0
    answers = Answers(prompts=("",) * 3, label=(0, 1, 1), tokens=(5, 6), digest="", max_length=8)
    assert answers.score(np.array([0.0, 1.0, -1.0])) == pytest.approx(2 / 3)
    assert answers.score(np.array([0.0, 1.0, -1.0]), np.array([2, 2])) == 0.0
    loss = Likelihood(texts=("",) * 2, digest="", max_length=8)
    assert loss.score(np.array([1.0, 3.0])) == -2.0
    assert np.isnan(share(0.5, floor=0.6, top=0.6))


def test_every_way_has_a_size_and_a_label_of_its_own() -> None:
    assert len(BY_LABEL) == len(WAYS)
    for way in WAYS:
        assert any(way.fits(size) for size in SIZES)
        for size in filter(way.fits, SIZES):
            stored = way.cell(size, dense_bytes=3000, seed=1).stored
            assert (stored.keep is None) != (stored.budget is None)
