"""select on tiny models of real classes: nothing measured beats it, its command makes its delta, it says why."""

import importlib
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import typer
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from deltagram.cli import app
from deltagram.commands.select import show_select
from deltagram.errors import CheckpointError, OutputError, PlanError, SettingError
from deltagram.jobs import inspect, prune, restore, select
from deltagram.jobs.bench import Score, bench, ranked
from deltagram.jobs.candidates import TABLE, plan_text
from deltagram.jobs.decision import LARGE, Statistics, decide
from deltagram.jobs.evidence import Evidence, Labelled
from deltagram.jobs.groups import VECTORS, grouped
from deltagram.jobs.guarantee import guarantee
from deltagram.jobs.select import select as job
from deltagram.jobs.tournament import Tournament
from deltagram.jobs.workshop import Made, Workshop
from deltagram.records import Record
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.deltafile import open_delta
from deltagram.store.tensors import PrunedTensor
from tinymodels import bert_pair, llama_pair, sentences, write_rows

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
BUDGET = 56_000


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    bert_pair(folder)
    write_rows(folder / "texts.jsonl", [{"text": text} for text in sentences(160, seed=1)])
    return folder


@pytest.fixture(scope="module")
def found(desk: Path) -> Record:
    return select(
        desk / "base", desk / "tuned", calibration=desk / "texts.jsonl", budget=BUDGET, out=desk / "delta",
        plan_out=desk / "plan.yaml",
    )  # fmt: skip


def payload(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def scored(desk: Path, delta: Path, scratch: Path) -> float:
    """The output change of a delta, measured afresh, on the texts `select` compares on."""
    made = Made(candidate=TABLE[0], delta=open_delta(delta), nbytes=0)
    pair = open_checkpoint(desk / "base"), open_checkpoint(desk / "tuned")
    scratch.mkdir()
    shop = Workshop(base=desk / "base", tuned=desk / "tuned", folder=scratch, seed=0)
    with bench(*pair, shop.plan, shop.make(TABLE[0]).stored, Evidence(calibration=desk / "texts.jsonl")) as on:
        on.put(made.stored, made.coded).set(made.delta.divisors)
        return on.score().loss


def test_it_fits_the_budget_and_nothing_measured_is_better(found: Record, desk: Path) -> None:
    chosen, table = found.numbers["recommended"], found.numbers["table"]
    files = sum(path.stat().st_size for path in (desk / "delta").iterdir())
    assert chosen["delta_bytes"] == files <= BUDGET
    assert all(row["bytes"] <= BUDGET for row in table)
    assert chosen["loss"] == min(row["loss"] for row in table)
    plain = [row for row in table if (row["mask"], row["values"], row["rule"]) == ("random", "bf16", "dare")]
    assert plain, table
    assert chosen["loss"] <= min(row["loss"] for row in plain)
    assert {row["mask"] for row in table} >= {"random", "magnitude"}
    assert {row["rule"] for row in table} >= {"dare", "output", "distil"}


def test_what_is_tried_after_the_choice_does_not_take_its_place(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Floors are told in the end; where one was not known yet, a delta of next to nothing is made then."""

    def least(games: Tournament) -> int:
        games._floors.clear()
        return min(games.floor(replace(TABLE[0], vectors=vectors)) for vectors in ("4bit", "8bit"))

    monkeypatch.setattr(Tournament, "least", property(least))
    record = select(
        desk / "base", desk / "tuned", calibration=desk / "texts.jsonl", budget=BUDGET, out=tmp_path / "delta"
    )
    chosen = record.numbers["recommended"]
    done = CliRunner().invoke(
        app, [*shlex.split(chosen["command"])[1:4], str(tmp_path / "again"), *_plan(record, tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert payload(tmp_path / "again") == payload(tmp_path / "delta")


def _plan(record: Record, folder: Path) -> list[str]:
    """The options of the recommended command, its plan in a file."""
    chosen = record.numbers["recommended"]
    (folder / "plan.yaml").write_text(chosen["plan"])
    options = shlex.split(chosen["command"])[5:]
    return [str(folder / "plan.yaml") if word == "plan.yaml" else word for word in options]


def test_plain_dare_in_the_table_is_what_prune_makes(found: Record, desk: Path, tmp_path: Path) -> None:
    """The row is the score of a delta that `prune` makes with no plan at all: same keep, same change."""
    plain = next(
        row for row in found.numbers["table"]
        if (row["mask"], row["values"], row["rule"], row["vectors"]) == ("random", "bf16", "dare", "whole")
    )  # fmt: skip
    prune(desk / "base", desk / "tuned", tmp_path / "plain", keep=plain["keep"])
    assert scored(desk, tmp_path / "plain", tmp_path / "scratch") == pytest.approx(plain["loss"], rel=1e-5)


def test_its_command_makes_the_same_delta_of_the_same_score(found: Record, desk: Path, tmp_path: Path) -> None:
    chosen = found.numbers["recommended"]
    words = shlex.split(chosen["command"])
    assert words[:2] == ["deltagram", "prune"]
    assert words[4] == str(desk / "delta")
    words[4] = str(tmp_path / "again")
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output
    assert payload(tmp_path / "again") == payload(desk / "delta")
    assert (desk / "plan.yaml").read_text() == chosen["plan"]
    # The same numbers on the same weights: only the order of threads' sums can differ.
    assert chosen["score_again"] == pytest.approx(chosen["loss"], rel=1e-5)
    assert scored(desk, tmp_path / "again", tmp_path / "scratch") == pytest.approx(chosen["loss"], rel=1e-5)


def test_the_guarantee_is_on_texts_that_chose_nothing(found: Record, desk: Path) -> None:
    held = found.numbers["recommended"]["guarantee"]
    texts = sentences(160, seed=1)[80:]
    assert held["texts"] == len(texts) == found.numbers["held_out"]
    restore(desk / "base", desk / "delta", desk / "restored", force=True)
    said = [classes(folder, texts) for folder in (desk / "tuned", desk / "restored")]
    agreeing = int((said[0] == said[1]).sum())
    assert len(np.unique(said[0])) > 1
    assert held["agreeing"] == agreeing
    assert held["at_least"] < agreeing / len(texts)
    assert held["counted"] == "the class of the text"


def classes(folder: Path, texts: list[str]) -> Any:
    """What a folder's model says, with transformers alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.argmax(-1).numpy()


def test_the_report_can_be_read(found: Record, capsys: pytest.CaptureFixture[str]) -> None:
    show_select(found)
    page = capsys.readouterr().out
    for text in (
        "are the deltas large?",
        "thresholds are ours",
        "<- recommended",
        "95% confidence",
        "deltagram prune ",
    ):
        assert text in page
    assert page.count("<- recommended") == 1


def test_a_language_model_by_loss_at_the_least_bytes(tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path)
    write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in sentences(60, seed=2)])
    record = select(base, tuned, labels=tmp_path / "texts.jsonl", max_loss=1e6, texts=16)
    chosen = record.numbers["recommended"]
    assert record.numbers["score"] == "perplexity lost"
    assert chosen["loss"] <= 1e6
    assert chosen["guarantee"]["counted"] == "the most likely token after the whole text"
    assert chosen["guarantee"]["texts"] == 30
    assert record.numbers["decision"]["steps"][-1]["answer"] in ("decoder", "yes")


def test_agreement_holds_as_often_as_it_says() -> None:
    """Over 200 splits of a pool whose true agreement is known, the bound is above it in at most 5 % of them."""
    rng = np.random.default_rng(0)
    pool = np.arange(4000)
    other = np.where(rng.random(4000) < 0.07, -1, pool)
    truth, failures = float((pool == other).mean()), 0
    for _ in range(200):
        at = rng.choice(4000, 120, replace=False)
        failures += guarantee(other[at], pool[at], counted="").at_least > truth
    # Binomial(200, .05) exceeds 20 with probability 8e-4; drawing without replacement makes it rarer still.
    assert failures <= 20


SCORES = st.lists(
    st.builds(
        Score, loss=st.integers(-5, 5).map(float), change=st.integers(0, 9).map(float),
        noise=st.sampled_from([0.0, 2.0]),
    ),
    min_size=1, max_size=8,
)  # fmt: skip


@given(SCORES, st.sampled_from([-3.0, 0.0, 2.0, math.inf]))
def test_labels_decide_what_they_can_tell_and_the_change_decides_the_rest(scores: list[Score], at_most: float) -> None:
    order = ranked(scores, at_most=at_most)
    assert sorted(order) == list(range(len(scores)))
    least = min(scores, key=lambda score: (score.loss, score.change))
    alike = [s for s in scores if s.loss == least.loss or s.loss <= min(least.loss + least.noise, at_most)]
    first = scores[order[0]]
    assert first in alike
    assert first.change == min(score.change for score in alike)
    assert first.loss <= at_most or least.loss > at_most
    if not least.noise:
        assert [scores[place].loss for place in order] == sorted(score.loss for score in scores)


def test_the_noise_of_a_metric_is_its_standard_error() -> None:
    """Of a share p of n texts it is sqrt(p (1 - p) / n); and what two models get wrong alike is no difference."""
    rng = np.random.default_rng(3)
    wrong = (rng.random(400) < 0.2).astype(np.float64)

    def error_of(found: Any, chosen: Any = slice(None)) -> float:
        return float(found[chosen].mean())

    known = Labelled(batches=[], metric="accuracy", texts=400, outcomes=lambda: wrong, error_of=error_of)
    assert known.noise(wrong, np.zeros(400)) == pytest.approx(
        math.sqrt(wrong.mean() * (1 - wrong.mean()) / 400), rel=0.15
    )
    assert known.noise(wrong, wrong) == 0.0


def test_labels_that_cannot_tell_leave_it_to_the_change(desk: Path, tmp_path: Path) -> None:
    """Eight labels: nearly all candidates are alike by them, and what changes answers least is taken."""
    texts = sentences(8, seed=5)
    write_rows(tmp_path / "labels.jsonl", [{"text": text, "label": at % 3} for at, text in enumerate(texts)])
    record = select(
        desk / "base", desk / "tuned", calibration=desk / "texts.jsonl", labels=tmp_path / "labels.jsonl", budget=BUDGET
    )
    chosen, table = record.numbers["recommended"], record.numbers["table"]
    least = min(table, key=lambda row: (row["loss"], row["change"]))
    alike = [row for row in table if row["loss"] <= least["loss"] + least["noise"]]
    plain = min(row["loss"] for row in table if (row["mask"], row["values"], row["rule"]) == ("random", "bf16", "dare"))
    assert chosen["loss"] <= plain
    assert chosen["change"] == min(row["change"] for row in alike if row["loss"] <= max(least["loss"], plain))


@pytest.mark.parametrize(
    ("settings", "leaf", "command"),
    [
        ({"may_retrain": True}, "DAREx-L2", "deltagram train"),
        ({"relative": 2 * LARGE, "drop": 0.9}, "WANDA", "--method wanda --calibration t.jsonl"),
        ({"relative": 2 * LARGE}, "output-layers", "--divide-by output-layers"),
        ({"labels": True}, "labels-layers", "--divide-by labels-layers"),
        ({"labels": True, "kind": "decoder"}, "by labels", "--divide-by labels "),
        ({}, "output-layers", "--divide-by output-layers"),
        ({"kind": "decoder"}, "by output", "--divide-by output "),
    ],
)
def test_every_way_through_the_papers_figure(settings: dict[str, Any], leaf: str, command: str) -> None:
    given = {"may_retrain": False, "labels": False, "kind": "encoder", "relative": 0.01, "drop": 0.99} | settings
    measured = Statistics(
        drop=given["drop"], error_of_output=0.3, error_of_delta=1.0, relative=given["relative"], layers=6
    )
    made = decide(
        measured, may_retrain=given["may_retrain"], labels=given["labels"], kind=given["kind"], base="B", tuned="T",
        files={"calibration": "t.jsonl", "labels": "l.jsonl"},
    )  # fmt: skip
    assert leaf in made.leaf
    assert any(command in line + " " for line in made.commands)
    assert all(step.because for step in made.steps)
    for line in made.commands:
        words = shlex.split(line)
        known = {option for parameter in COMMANDS[words[1]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_groups_follow_the_modules(desk: Path) -> None:
    shop = Workshop(base=desk / "base", tuned=desk / "tuned", folder=desk, seed=0)
    found = grouped(shop.plan.entries)
    assert set(found) == {
        VECTORS, "embeddings", "bert.pooler.dense", "classifier", "layer 0", "layer 0 attention", "layer 1",
        "layer 1 attention",
    }  # fmt: skip
    assert len(found["layer 0 attention"]) == 4


def test_a_plan_says_every_share_and_divisor(desk: Path, tmp_path: Path) -> None:
    shop = Workshop(base=desk / "base", tuned=desk / "tuned", folder=tmp_path, seed=0)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    candidate = replace(TABLE[2], keep=0.1, share={"layer 0 attention": 2.5})
    made = shop.make(candidate, {name: 1 / 3})
    tensor = made.delta.manifest.tensors[name]
    assert isinstance(tensor, PrunedTensor)
    assert tensor.mask.keep == pytest.approx(0.25 * tensor.common.size, rel=0.1)  # a Bernoulli mask's count varies
    assert float(made.delta.divisors[name]) == 1 / 3
    rows = inspect(made.delta.path).tensors
    assert rows["bert.pooler.dense.bias"]["values"]["bits"] == 8
    assert "form: pruned" in plan_text(shop.plan, candidate, {})


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"budget": 40_000, "max_loss": 0.1}, SettingError, "contradict each other"),
        ({"max_loss": float("nan")}, SettingError, "positive number"),
        ({"budget": 5000}, SettingError, "below the floor of"),
        ({"calibration": None}, SettingError, "has no text to measure on"),
        ({"metric": "taste"}, SettingError, "'taste' is unknown"),
        ({"texts": 0}, SettingError, "--texts"),
    ],
)
def test_settings_that_cannot_be(desk: Path, settings: dict[str, Any], error: type[Exception], says: str) -> None:
    given = {"calibration": desk / "texts.jsonl", "budget": 40_000} | settings
    if "max_loss" in settings and "budget" not in settings:
        given["budget"] = None
    with pytest.raises(error, match=says):
        job(desk / "base", desk / "tuned", **given)


def test_texts_that_cannot_be(desk: Path, tmp_path: Path) -> None:
    few = write_rows(tmp_path / "few.jsonl", [{"text": text} for text in ("a film", "it", "a film")])
    empty = write_rows(tmp_path / "empty.jsonl", [])
    two = write_rows(tmp_path / "two.jsonl", [{"text": t, "label": "LABEL_0"} for t in sentences(20, seed=4)])
    odd = write_rows(tmp_path / "odd.jsonl", [{"text": t, "label": "nice"} for t in sentences(20, seed=4)])
    for settings, says in (
        ({"calibration": few}, "has 2 distinct texts, expected 8 or more"),
        ({"calibration": empty}, "is empty"),
        ({"labels": two}, "has no label of 2 of the 3 classes"),
        ({"labels": odd}, "labels the model does not know: 'nice'"),
    ):
        with pytest.raises(SettingError, match=says):
            select(desk / "base", desk / "tuned", budget=BUDGET, out=tmp_path / "d", **settings)  # type: ignore[arg-type]
        assert not (tmp_path / "d").exists()


def test_outputs_and_models_that_cannot_be(desk: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(OutputError, match="exists"):
        select(desk / "base", desk / "tuned", calibration=desk / "texts.jsonl", budget=BUDGET, out=tmp_path / "d")
    base, tuned = bert_pair(tmp_path / "pair")
    (tuned / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(CheckpointError, match="no model can be built"):
        select(base, tuned, calibration=desk / "texts.jsonl", budget=BUDGET)


def test_a_model_whose_numbers_are_not_finite(desk: Path, tmp_path: Path) -> None:
    base, tuned = bert_pair(tmp_path)
    state = load_file(tuned / "model.safetensors")
    state["bert.encoder.layer.1.output.LayerNorm.weight"][:] = float("nan")
    save_file(state, tuned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises((SettingError, PlanError), match=r"NaN|not finite"):
        select(base, tuned, calibration=desk / "texts.jsonl", budget=BUDGET)


def test_fitted_values_are_written_as_prune_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refitted delta is the one in OUT, its command makes its bytes, and reads no text that judged it."""
    monkeypatch.setattr(importlib.import_module("deltagram.jobs.recommendation"), "_better", lambda *_: True)
    base, tuned = bert_pair(tmp_path)
    write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in sentences(90, seed=5)])
    record = select(
        base, tuned, calibration=tmp_path / "texts.jsonl", texts=16, budget=BUDGET, refit=True, out=tmp_path / "d",
        plan_out=tmp_path / "plan.yaml",
    )  # fmt: skip
    chosen = record.numbers["recommended"]
    assert (record.numbers["texts"], record.numbers["held_out"]) == (16, 45)
    words = shlex.split(chosen["command"])
    assert "--refit" in words
    assert words[words.index("--texts") + 1] == str(90 - 45 - 16)
    words[4] = str(tmp_path / "again")
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output
    assert payload(tmp_path / "again") == payload(tmp_path / "d")
