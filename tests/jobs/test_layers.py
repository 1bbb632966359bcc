"""`inspect --calibration`: layers' output changes against a restored model, what is shown, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from deltagram.errors import BaseError, CheckpointError, DeltagramError, SettingError
from deltagram.jobs import inspect, layers, prune, rescale, restore
from deltagram.jobs.layers import finding
from desk import Desk
from tinymodels import WORDS, save_with_words, stepped, write

TEXTS = [" ".join(f"w{(3 * i + 7 * j) % 30}" for j in range(2 + i % 5)) for i in range(40)]
BERT = transformers.BertConfig(
    vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
    max_position_embeddings=40,
)  # fmt: skip
GPT2 = transformers.GPT2Config(vocab_size=32, n_embd=32, n_layer=1, n_head=2, n_positions=40)
MODELS = {"bert": (transformers.BertModel, BERT), "gpt2": (transformers.GPT2LMHeadModel, GPT2)}
CHECKED = {"bert": "encoder.layer.0.intermediate.dense.weight", "gpt2": "transformer.h.0.mlp.c_fc.weight"}


def laid(folder: Path, kind: str, *, moved: float = 0.02) -> Path:
    """`base`, `tuned` and `texts.jsonl` in a folder."""
    build, config = MODELS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = build(config)
        tuned = stepped(base, moved)
    for name, model in (("base", base), ("tuned", tuned)):
        save_with_words(model, folder / name, WORDS)
    write(folder / "texts.jsonl", TEXTS)
    return folder


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    found = inspect(
        folder / "delta", calibration=folder / "texts.jsonl", base=folder / "base", tuned=folder / "tuned"
    )  # fmt: skip
    return {name: dict(row["output"]) for name, row in found.tensors.items() if "output" in row}


def inputs_of(folder: Path, name: str) -> torch.Tensor:
    """What goes into one layer of the fine-tuned model, one text at a time: no padding, no mask."""
    kind, _ = MODELS["bert" if "encoder" in name else "gpt2"]
    model = kind.from_pretrained(folder / "tuned").eval()
    seen: list[torch.Tensor] = []
    module = model.get_submodule(name.removesuffix(".weight"))
    module.register_forward_pre_hook(lambda _m, found: seen.append(found[0].detach().reshape(-1, found[0].shape[-1])))
    with torch.inference_mode():
        for text in TEXTS:
            model(input_ids=torch.tensor([[WORDS[word] for word in text.split()]]))
    return torch.cat(seen).double()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", ["random", "bernoulli", "magnitude"])
@pytest.mark.parametrize("by_row", [False, True])
def test_measured_changes_are_those_of_the_restored_model(kind: str, method: str, by_row: bool, tmp_path: Path) -> None:
    folder, name = laid(tmp_path, kind), CHECKED[kind]
    prune(folder / "base", folder / "tuned", folder / "delta", keep=0.1, method=method)
    stored = load_file(folder / "tuned" / "model.safetensors")
    own: Any = np.linspace(0.2, 0.6, stored[name].shape[0]) if by_row else 0.25
    rescale(folder / "delta", divide_by={name: own})
    restore(folder / "base", folder / "delta", folder / "restored")
    row = rows(folder)[name]
    change = stored[name].double() - load_file(folder / "restored" / "model.safetensors")[name].double()
    x = inputs_of(folder, name)
    h = x @ (change.T if kind == "bert" else change)
    assert row["scales"]["rms"] == pytest.approx(float(h.square().mean().sqrt()), rel=1e-4)
    assert row["scales"]["mean_absolute"] == pytest.approx(float(h.abs().mean()), rel=1e-4)
    assert row["scales"]["divide_by"] == (None if by_row else pytest.approx(0.25))
    assert ("dare" in row) == ("predicted_rms" in row["scales"]) == (method != "magnitude")
    if method != "magnitude":
        assert row["scales"]["rms"] == pytest.approx(row["scales"]["predicted_rms"], rel=0.2)
        assert row["dare"]["rms"] == pytest.approx(row["dare"]["predicted_rms"], rel=0.3)
        assert row["dare"]["beyond_bound"] <= 0.05
        assert row["best_rms"] <= row["dare"]["predicted_rms"]


def test_every_pruned_linear_weight_has_a_row_and_terms_do_not_depend_on_the_mask(tmp_path: Path) -> None:
    folder = laid(tmp_path, "bert")
    for keep, force in ((0.1, False), (0.5, True)):
        prune(folder / "base", folder / "tuned", folder / "delta", keep=keep, force=force)
        found = rows(folder)
        if not force:
            first = found
    linear = {name for name in load_file(folder / "tuned" / "model.safetensors") if name.endswith("weight")}
    assert set(found) == {name for name in linear if "dense" in name or "self" in name}
    for name, row in found.items():
        assert row["sd_c"] == first[name]["sd_c"]
        assert row["dare"]["predicted_rms"] < first[name]["dare"]["predicted_rms"]


def test_many_outputs_are_taken_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = laid(tmp_path, "gpt2")
    prune(folder / "base", folder / "tuned", folder / "delta", keep=0.1)
    whole = rows(folder)
    monkeypatch.setattr(layers, "AT_ONCE", 100)
    for name, row in rows(folder).items():
        assert row["dare"] == pytest.approx(whole[name]["dare"], rel=1e-5)
        assert row["sd_c"] == pytest.approx(whole[name]["sd_c"], rel=1e-5)


def test_the_two_reasons_hit_the_layers_they_should(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    found = {}
    for folder, moved, keep in ((small, 1e-4, 0.6), (large, 0.05, 0.02)):
        laid(folder, "bert", moved=moved)
        prune(folder / "base", folder / "tuned", folder / "delta", keep=keep)
        found[folder] = finding(rows(folder))
    assert found[small] == {"layers": 7, "rescaling": {}, "terms": {}}
    assert len(found[large]["rescaling"]) == len(found[large]["terms"]) == found[large]["layers"] == 7
    ratios = list(found[large]["rescaling"].values())
    assert ratios == sorted(ratios, reverse=True)
    assert math.sqrt(0.98 / 0.02) * 0.7 < ratios[0] < math.sqrt(0.98 / 0.02) * 1.4  # Q is about S^2 there


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    laid(tmp_path, "bert")
    transformers.BertModel(BERT, add_pooling_layer=False).save_pretrained(tmp_path / "bare")
    capsys.readouterr()  # bars of save_pretrained
    monkeypatch.chdir(tmp_path)
    made = Desk(folder=tmp_path, capture=capsys, patch=monkeypatch)
    made.does("prune base tuned delta --keep 0.05 --divide-by 0.3")
    return made


def test_the_command_shows_a_table_and_one_sentence(desk: Desk) -> None:
    out = desk.does("inspect delta --calibration texts.jsonl --base base --tuned tuned")
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("encoder.layer.0.attention.output.dense.weight"))
    assert lines[at + 1].split()[0] == "0.3"
    sentence = lines[-1]
    assert "two reasons" in sentence
    assert "DARE's rescaling is too large" in sentence
    assert "in 7 of 7 layers, most in " in sentence
    record = json.loads(desk.does("inspect delta --calibration texts.jsonl --base base --tuned tuned --json"))
    assert record["settings"]["calibration"] == "texts.jsonl"
    assert record["numbers"]["calibration"]["layers"] == 7
    assert "layer  " not in desk.does("inspect delta")


def test_chosen_entries_and_gentle_deltas_are_told_apart(desk: Desk) -> None:
    desk.does("prune base tuned chosen --method magnitude")
    assert "entries were chosen" in desk.does("inspect chosen --calibration texts.jsonl --base base --tuned tuned")
    desk.does("prune base tuned gentle --keep 0.9")
    assert "in none of 7 layers" in desk.does("inspect gentle --calibration texts.jsonl --base base --tuned tuned")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--calibration texts.jsonl", "needs --base and --tuned beside --calibration"),
        ("--calibration texts.jsonl --base base", "needs --tuned beside --calibration and --base"),
        ("--base base --tuned tuned", "needs --calibration beside --base and --tuned"),
        ("--calibration none.jsonl --base base --tuned tuned", "none.jsonl: there is no such file"),
        ("--calibration empty.jsonl --base base --tuned tuned", "empty.jsonl: is empty"),
        ("--calibration other.csv --base base --tuned tuned", "has no column 'text'"),
        ("--calibration texts.jsonl --base tuned --tuned tuned", "is not the base of this delta"),
        ("--calibration texts.jsonl --base base --tuned tuned/model.safetensors", "without a config.json"),
        (
            "--calibration texts.jsonl --base base --tuned bare",
            "pooler.dense.bias is missing, expected F32 (32,)",
        ),
        ("--calibration texts.jsonl --base base --tuned odd", "no model can be built from its config"),
    ],
)
def test_what_cannot_be_measured_is_refused(desk: Desk, options: str, says: str) -> None:
    (desk.folder / "empty.jsonl").write_text("")
    (desk.folder / "other.csv").write_text("sentence\nw1 w2\n")
    odd = desk.folder / "odd"
    odd.mkdir()
    (odd / "model.safetensors").write_bytes((desk.folder / "tuned" / "model.safetensors").read_bytes())
    (odd / "config.json").write_text('{"model_type": "no such model", "architectures": ["NoSuchModel"]}')
    desk.refuses(f"inspect delta {options}", says)


def test_a_delta_without_pruned_layers_is_refused(desk: Desk) -> None:
    desk.does("prune base tuned exact --method exact")
    desk.refuses(
        "inspect exact --calibration texts.jsonl --base base --tuned tuned",
        "exact holds no pruned weight of a linear layer; leave --calibration out",
    )


def test_refusals_have_their_class(desk: Desk) -> None:
    cases: list[tuple[dict[str, str], type[DeltagramError]]] = [
        ({"base": "tuned"}, BaseError), ({"tuned": "tuned/model.safetensors"}, CheckpointError),
        ({"calibration": "none.txt"}, SettingError), ({"tuned": "bare"}, SettingError),
    ]  # fmt: skip
    for given, error in cases:
        with pytest.raises(error):
            inspect("delta", **{"calibration": "texts.jsonl", "base": "base", "tuned": "tuned"} | given)  # type: ignore[arg-type]
