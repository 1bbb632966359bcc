"""Divisors found on texts: the measures against loops over single texts, the rules, what is reported and refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deltagram.delta.moments import best_divisor
from deltagram.errors import SettingError
from deltagram.jobs import inspect, prune, rescale, restore, verify
from deltagram.jobs.evidence import Evidence, labelled
from deltagram.jobs.search import MOST, RULES, search
from deltagram.jobs.variant import variant
from deltagram.store.deltafile import open_delta
from deltagram.training import outputs
from deltagram.training.loaded import batches
from desk import Desk
from tinymodels import COLOURS, KINDS, TEXTS, ids, laid, write


def delta_of(folder: Path, **settings: Any) -> Path:
    prune(folder / "base", folder / "tuned", folder / "delta", **{"keep": 0.1, **settings})
    return folder / "delta"


def evidence(folder: Path, **settings: Any) -> Evidence:
    labels = folder / "labels.jsonl"
    return Evidence(
        calibration=folder / "texts.jsonl", labels=labels if labels.exists() else folder / "texts.jsonl", **settings
    )


def model(folder: Path, kind: str) -> Any:
    return KINDS[kind].from_pretrained(folder).eval()


def change(first: Any, second: Any) -> float:
    """Mean absolute difference of last hidden states, text by text: no padding, no mask."""
    with torch.inference_mode():
        pairs = [[m.base_model(input_ids=ids(text)).last_hidden_state for m in (first, second)] for text in TEXTS]
    return float(torch.cat([(a - b).abs().reshape(-1) for a, b in pairs]).double().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_output_change_is_that_of_single_texts(kind: str, tmp_path: Path) -> None:
    folder = laid(tmp_path, kind)
    delta = delta_of(folder, divide_by=0.2)
    restore(folder / "base", delta, folder / "restored")
    with variant(open_delta(delta), folder / "base", tuned=folder / "tuned") as live:
        assert live.run.kind == ("encoder" if kind == "bert" else "decoder")
        made = batches(live.run, TEXTS, max_length=64, size=7)
        reference = outputs.hidden_states(live.run, made)
        assert outputs.output_change(live.run, made, reference) == 0
        live.trial().set(dict.fromkeys(live.default_divisors(), 0.2))
        found = outputs.output_change(live.run, made, reference)
    expected = change(model(folder / "tuned", kind), model(folder / "restored", kind))
    assert math.isclose(found, expected, rel_tol=1e-4)


def test_predictions_and_likelihoods_are_those_of_single_texts(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "l").mkdir()
    folder = laid(tmp_path / "b", "bert")
    truth = [json.loads(line)["label"] for line in (folder / "labels.jsonl").read_text().splitlines()]
    with variant(open_delta(delta_of(folder)), folder / "base", tuned=folder / "tuned") as live:
        made = batches(live.run, TEXTS, max_length=64, size=9)
        logits = outputs.class_logits(live.run, made)
        assert [COLOURS[i] for i in logits.argmax(1)] == truth
        assert labelled(live.run, evidence(folder)).error() == -1.0
    folder = laid(tmp_path / "l", "llama")
    single = model(folder / "tuned", "llama")
    with torch.inference_mode():
        nll = [single(input_ids=ids(text), labels=ids(text)).loss.item() * (len(text.split()) - 1) for text in TEXTS]
    expected = sum(nll) / sum(len(text.split()) - 1 for text in TEXTS)
    with variant(open_delta(delta_of(folder)), folder / "base", tuned=folder / "tuned") as live:
        made = batches(live.run, TEXTS, max_length=64, size=9)
        assert math.isclose(outputs.next_token_nll(live.run, made), expected, rel_tol=1e-5)
        assert math.isclose(labelled(live.run, evidence(folder)).error(), math.exp(expected), rel_tol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES)
def test_what_a_rule_finds_is_written_restored_and_no_worse_than_dare(kind: str, rule: str, tmp_path: Path) -> None:
    folder = laid(tmp_path, kind)
    delta = delta_of(folder)
    record = rescale(
        delta, divide_by=rule, base=folder / "base", tuned=folder / "tuned", calibration=folder / "texts.jsonl",
        labels=evidence(folder).labels, texts=len(TEXTS),
    )  # fmt: skip
    found = record.numbers["search"]
    verify(delta, base=folder / "base")
    restore(folder / "base", delta, folder / "restored")
    told = inspect(delta).tensors
    by_row = {name for name, row in told.items() if isinstance(row.get("divide_by"), str)}
    assert bool(by_row) == (rule == "distil-rows")
    if rule.startswith("distil"):
        first, last = ([p["value"] for p in found["curve"]][part] for part in (slice(0, 8), slice(-8, None)))
        assert np.mean(last) < np.mean(first)
        return
    values = [point["value"] for point in found["curve"]]
    knobs = [point["knob"] for point in found["curve"]]
    assert (0.0 if rule.endswith("layers") else 1.0) in knobs  # plain DARE was among what was tried
    better = max if found["measure"] == "accuracy" else min
    assert found["value"] == better(values)
    taken = max(knob for knob, value in zip(knobs, values, strict=True) if value == found["value"])
    assert found["knob"] == taken
    if rule == "output":
        single = change(model(folder / "tuned", kind), model(folder / "restored", kind))
        assert math.isclose(single, found["value"], rel_tol=1e-3)


@pytest.mark.parametrize(
    ("rule", "besides"), [("output", 1), ("labels", 0), ("output-layers", 2), ("labels-layers", 1)]
)
def test_forward_passes_are_counted(rule: str, besides: int, tmp_path: Path) -> None:
    folder = laid(tmp_path, "bert")
    with variant(open_delta(delta_of(folder)), folder / "base", tuned=folder / "tuned") as live:
        ran = 0

        def count(*_: Any) -> None:
            nonlocal ran
            ran += 1

        live.run.model.base_model.register_forward_hook(count)
        found = search(live, rule, evidence(folder, texts=len(TEXTS)))  # one pass is two batches
    assert ran == 2 * found.numbers["forward_passes"]
    assert len(found.numbers["curve"]) <= MOST
    assert found.numbers["forward_passes"] == len(found.numbers["curve"]) + besides


def test_a_layer_takes_its_closed_form_and_tau_is_one_for_all(tmp_path: Path) -> None:
    """S^2 and Q by a loop over texts, straight from their definitions."""
    folder = laid(tmp_path, "bert")
    with variant(open_delta(delta_of(folder)), folder / "base", tuned=folder / "tuned") as live:
        found = search(live, "output-layers", evidence(folder, texts=len(TEXTS)))
    tuned, base = (load_file(folder / name / "model.safetensors") for name in ("tuned", "base"))
    name = "bert.encoder.layer.1.output.dense.weight"
    delta, single = (tuned[name] - base[name]).double(), model(folder / "tuned", "bert")
    seen: list[torch.Tensor] = []
    module = single.get_submodule(name.removesuffix(".weight"))
    module.register_forward_pre_hook(lambda _m, x: seen.append(x[0].reshape(-1, x[0].shape[-1])))
    with torch.inference_mode():
        for text in TEXTS:
            single(input_ids=ids(text))
    x = torch.cat(seen).double()
    signal = ((x @ delta.T) ** 2).sum(1).mean()
    spread = (delta**2 @ (x**2).mean(0)).sum()
    share = round(0.1 * delta.numel()) / delta.numel()
    expected = best_divisor(float(signal), float(spread), keep=share, tau=found.numbers["knob"])
    assert math.isclose(float(found.divisors[name]), float(expected), rel_tol=1e-4)


def test_what_is_kept_whole_is_never_scaled(tmp_path: Path) -> None:
    folder = laid(tmp_path, "bert")
    (folder / "plan.yaml").write_text("tensors: [{match: '*.bias', form: pruned, keep: 1.0, values: 8bit}]\n")
    delta = delta_of(folder, plan=folder / "plan.yaml")
    rescale(delta, divide_by="output", base=folder / "base", tuned=folder / "tuned",
            calibration=folder / "texts.jsonl")  # fmt: skip
    told = inspect(delta).tensors
    assert {row["divide_by"] for name, row in told.items() if name.endswith("bias")} == {1.0}
    assert all(row["divide_by"] >= row["kept"] / row["entries"] for row in told.values() if "kept" in row)


def test_refitted_values_cost_no_byte_and_say_more_of_what_the_fine_tuned_model_says(tmp_path: Path) -> None:
    folder = laid(tmp_path, "bert")
    texts, base, tuned = folder / "texts.jsonl", folder / "base", folder / "tuned"
    plain = prune(base, tuned, folder / "plain", keep=0.1, pack=False, divide_by="output", calibration=texts)
    record = prune(base, tuned, folder / "refit", keep=0.1, pack=False, refit=True, calibration=texts)
    assert record.numbers["delta_bytes"] == plain.numbers["delta_bytes"]
    assert record.numbers["refit"]["loss"] < 0.5 * record.numbers["refit"]["first_loss"]
    verify(folder / "refit", base=base)
    found = []
    for name in ("plain", "refit"):
        restore(base, folder / name, folder / f"{name}-restored")
        found.append(change(model(tuned, "bert"), model(folder / f"{name}-restored", "bert")))
    assert found[1] < 0.5 * found[0]
    first, second = open_delta(folder / "plain"), open_delta(folder / "refit")
    for name, kept in first.masked.items():
        assert second.masked[name].mask == kept.mask


def test_pruning_with_a_rule_is_pruning_and_rescaling(tmp_path: Path) -> None:
    folder = laid(tmp_path, "bert")
    texts, base, tuned = folder / "texts.jsonl", folder / "base", folder / "tuned"
    prune(base, tuned, folder / "one", keep=0.1, divide_by="output", calibration=texts)
    prune(base, tuned, folder / "two", keep=0.1)
    rescale(folder / "two", divide_by="output", base=base, tuned=tuned, calibration=texts)
    for name in ("delta.safetensors", "scales.safetensors"):
        assert (folder / "one" / name).read_bytes() == (folder / "two" / name).read_bytes()


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    laid(tmp_path, "bert")
    write(tmp_path / "few.jsonl", TEXTS[:2], COLOURS[:2])
    write(tmp_path / "odd.jsonl", TEXTS[:4], ["red", "green", "blue", "pink"])
    (tmp_path / "empty.jsonl").write_text("")
    prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "delta", keep=0.1)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()  # bars of transformers
    return Desk(folder=tmp_path, capture=capsys, patch=monkeypatch)


TO = "rescale delta --base base --tuned tuned --divide-by"
REFUSED = {
    "rescale delta --divide-by output": ("--divide-by output: needs texts; give them with --calibration FILE",),
    "rescale delta --divide-by labels": ("--divide-by labels: needs labelled texts; give them with --labels FILE",),
    "rescale delta --divide-by output --calibration texts.jsonl": ("needs the fine-tuned model", "--tuned MODEL"),
    "rescale delta --divide-by labels --labels labels.jsonl": ("needs the base model", "--base MODEL"),
    f"{TO} output --calibration nothing.jsonl": ("nothing.jsonl: ", "no such"),
    f"{TO} output --calibration empty.jsonl": ("empty.jsonl: is empty",),
    f"{TO} labels --labels few.jsonl": ("few.jsonl: has no label of 1 of the 3 classes: blue", "every class"),
    f"{TO} labels --labels odd.jsonl": (
        "odd.jsonl: has labels the model does not know: 'pink'",
        "'red', 'green', 'blue'"),
    f"{TO} labels --labels texts.jsonl": ("texts.jsonl", "label"),
    f"{TO} labels --labels labels.jsonl --metric perplexity": ("--metric: is perplexity for a classifier",),
    f"{TO} labels --labels labels.jsonl --metric best": ("--metric: 'best' is unknown, expected accuracy",),
    f"{TO} output --calibration texts.jsonl --texts 0": ("--texts: is 0, expected a positive number",),
    f"{TO} best": ("--divide-by: 'best' is unknown, expected dare or a number",),
    "rescale delta --base tuned --tuned tuned --divide-by output --calibration texts.jsonl": (
        "tuned: is not the base of this delta",
    ),
    "prune base tuned out --divide-by output": ("--divide-by output: needs texts",),
    "prune base tuned out --refit": ("--refit: needs texts; give them with --calibration FILE",),
    "prune base tuned out --divide-by labels --labels few.jsonl": ("few.jsonl: has no label of 1",),
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_what_a_search_cannot_do_is_refused_and_nothing_written(line: str, desk: Desk) -> None:
    desk.refuses(line, *REFUSED[line])


def test_a_model_that_cannot_be_built_is_refused(desk: Desk) -> None:
    config = json.loads((desk.folder / "tuned" / "config.json").read_text())
    (desk.folder / "tuned" / "config.json").write_text(json.dumps(config | {"hidden_size": 48}))
    desk.refuses(f"{TO} output --calibration texts.jsonl", "tuned")
    (desk.folder / "tuned" / "config.json").write_text(json.dumps({"model_type": "no such"}))
    desk.refuses(f"{TO} output --calibration texts.jsonl", "tuned: no model can be built from its config")
    (desk.folder / "tuned" / "config.json").unlink()
    desk.refuses(f"{TO} output --calibration texts.jsonl", "tuned: no config.json")


def test_a_session(desk: Desk) -> None:
    told = desk.does(f"{TO} output --calibration texts.jsonl")
    assert "<- taken" in told
    assert "40 texts, 31 forward passes" in told
    told = desk.does("prune base tuned out --keep 0.1 --divide-by distil --calibration texts.jsonl")
    assert "distillation loss" in told


def test_a_measure_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = laid(tmp_path, "bert")
    monkeypatch.setattr(outputs, "output_change", lambda *_: math.nan)
    opened = open_delta(delta_of(folder))
    with (
        variant(opened, folder / "base", tuned=folder / "tuned") as live,
        pytest.raises(SettingError, match="the measure: is nan"),
    ):
        search(live, "output", evidence(folder))
