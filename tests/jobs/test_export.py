"""Exports: what plain PEFT makes of them is what the restored model does; and every tensor is accounted for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from adapters import KINDS, Kind, adapted, loaded, quiet, save_base
from deltagram import jobs
from deltagram.errors import BaseError, CheckpointError, DeltagramError, OutputError, PlanError, SettingError
from desk import snapshot

EPS = torch.finfo(torch.float32).eps


def tuned(kind: Kind, base: Path, folder: Path, *, rank: int | None = None, only: str = "") -> Path:
    """A fine-tune: what has `only` in its name moved, matrices by a difference of a rank, if one is given."""
    model = kind.load(base)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only not in name:
                continue
            if rank is not None and parameter.ndim == 2:
                left, right = (torch.randn(side, rank, generator=generator) for side in parameter.shape)
                step = left @ right.T / rank
            else:
                step = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.05 * step.to(parameter.dtype))
    with quiet():
        model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """Base and delta of a kind of model, made once for each way to prune."""
    folder = tmp_path_factory.mktemp("exports")

    def make(name: str, *, rank: int | None = None, **settings: Any) -> tuple[Path, Path]:
        base, full = folder / name, folder / f"{name}-tuned-{rank}"
        delta = folder / f"{name}-{rank}-{'-'.join(f'{k}{v}' for k, v in settings.items())}"
        if not base.exists():
            save_base(KINDS[name], base)
        if not full.exists():
            tuned(KINDS[name], base, full, rank=rank)
        if not delta.exists():
            jobs.prune(base, full, delta, **settings)
        return base, delta

    return make


def outputs(kind: Kind, base: Path, delta: Path, adapter: Path, out: Path) -> tuple[float, float, float]:
    """How far the adapter's output is from the restored model's, how far the base's is, and the output's size."""
    jobs.restore(base, delta, out)
    want, start = kind.output(kind.load(out)), kind.output(kind.load(base))
    got = kind.output(loaded(kind, base, adapter))
    return float((got - want).abs().max()), float((start - want).abs().max()), float(want.abs().max())


@pytest.mark.parametrize("name", ["bert", "llama", "tied", "gpt2"])
@pytest.mark.parametrize("drop", [(), ("*.[!c]*.bias",)], ids=["all", "no biases"])
def test_plain_peft_loads_the_factors(made: Any, tmp_path: Path, name: str, drop: tuple[str, ...]) -> None:
    kind, (base, delta) = KINDS[name], made(name, rank=2, keep=1, values="f32")
    if not any(tensor.endswith("bias") for tensor in jobs.inspect(delta).tensors):
        drop = ()
    record = jobs.export(base, delta, tmp_path / "adapter", to="lora", error=1e-6, drop=drop)
    if not drop:
        away, moved, size = outputs(kind, base, delta, tmp_path / "adapter", tmp_path / "out")
        assert away <= 200 * EPS * size
        assert moved > 100 * away
    else:
        loaded(kind, base, tmp_path / "adapter")
    assert record.numbers["largest_error"] <= 1e-6
    assert max(record.numbers["ranks"]) <= 12  # the differences are of rank 2, but for rounding


def test_convolutions_have_factors_too(tmp_path: Path) -> None:
    kind, base = KINDS["vit"], save_base(KINDS["vit"], tmp_path / "base")
    jobs.prune(base, tuned(kind, base, tmp_path / "tuned", only="projection"), tmp_path / "delta", keep=1, values="f32")
    record = jobs.export(base, tmp_path / "delta", tmp_path / "adapter", to="lora", error=1e-6)
    away, moved, size = outputs(kind, base, tmp_path / "delta", tmp_path / "adapter", tmp_path / "out")
    assert away <= 200 * EPS * size
    assert moved > 100 * away
    assert record.numbers["went"] == {"bias": 1, "lora": 1, "same": len(record.tensors) - 2}


def test_the_error_of_the_output_follows_the_error_of_the_factors(made: Any, tmp_path: Path) -> None:
    kind, (base, delta) = KINDS["llama"], made("llama", keep=0.5, values="f32")
    far = {}
    for error in (0.5, 0.1, 0.01):
        record = jobs.export(base, delta, tmp_path / f"a{error}", to="lora", error=error)
        assert 0.3 * error < record.numbers["largest_error"] <= error
        far[error], moved, _ = outputs(kind, base, delta, tmp_path / f"a{error}", tmp_path / f"o{error}")
        assert far[error] <= 5 * error * moved
    assert far[0.5] > far[0.1] > far[0.01]


@pytest.mark.parametrize("name", ["bert", "llama", "tied", "narrow"])
@pytest.mark.parametrize("method", ["random", "magnitude"])
def test_plain_peft_loads_the_pruned_entries(made: Any, tmp_path: Path, name: str, method: str) -> None:
    kind, (base, delta) = KINDS[name], made(name, keep=0.3, method=method)
    record = jobs.export(base, delta, tmp_path / "adapter", to="peft-sparse")
    away, moved, size = outputs(kind, base, delta, tmp_path / "adapter", tmp_path / "out")
    eps = torch.finfo(torch.bfloat16).eps if name == "narrow" else EPS
    assert away <= 20 * eps * size
    assert moved > 5 * away
    rows = [row for row in record.tensors.values() if row["to"] == "sparse"]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], len(config["target_modules"])) == ("SUPERTUNING", len(rows))
    assert all(row["stored"] - row["kept"] >= 0 for row in rows)
    assert all(row["bytes"] == 8 * row["stored"] for row in rows)
    assert sum(row["stored"] for row in rows) <= 1.2 * sum(row["kept"] for row in rows)


def test_row_divisors_reach_the_sparse_values(made: Any, tmp_path: Path) -> None:
    base, delta = made("llama", keep=0.2, values="f32", seed=4)
    name = "model.layers.0.mlp.up_proj.weight"
    jobs.rescale(delta, divide_by={name: np.linspace(0.5, 2, 48)})
    jobs.export(base, delta, tmp_path / "adapter", to="peft-sparse")
    away, _, size = outputs(KINDS["llama"], base, delta, tmp_path / "adapter", tmp_path / "out")
    assert away <= 20 * EPS * size


@pytest.mark.parametrize(("kind", "settings"), [
    ("bert", {"r": 4, "lora_alpha": 3, "target_modules": ["query", "word_embeddings"], "task_type": "SEQ_CLS",
              "rank_pattern": {"layer.1.attention.self.query": 2}}),
    ("bert", {"r": 4, "lora_alpha": 3, "target_modules": ["query"], "use_rslora": True, "bias": "lora_only"}),
    ("gpt2", {"r": 3, "lora_alpha": 7, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    ("vit", {"r": 2, "target_modules": ["projection", "query"]}),
], ids=["bert", "rslora", "gpt2", "vit"])  # fmt: skip
def test_factors_that_came_from_an_adapter_go_back_unchanged(tmp_path: Path, kind: str, settings: Any) -> None:
    base = save_base(KINDS[kind], tmp_path / "base")
    want = adapted(KINDS[kind], base, tmp_path / "adapter", **settings)
    jobs.prune(base, tmp_path / "adapter", tmp_path / "delta", adapter="factors", keep=1, values="f32")
    record = jobs.export(base, tmp_path / "delta", tmp_path / "back", to="lora")
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    after = load_file(tmp_path / "back" / "adapter_model.safetensors")
    factors = [name for name in before if "lora_A" in name or "lora_embedding" in name]
    assert all(np.array_equal(before[name], after[name]) for name in factors)
    got = KINDS[kind].output(loaded(KINDS[kind], base, tmp_path / "back"))
    assert float((got - want).abs().max()) <= 20 * EPS * float(want.abs().max())
    assert record.numbers["largest_error"] == 0


def test_dense_is_what_restore_gives(made: Any, tmp_path: Path) -> None:
    base, delta = made("llama", keep=0.1)
    record = jobs.export(base, delta, tmp_path / "out", to="dense")
    jobs.restore(base, delta, tmp_path / "same")
    assert (record.job, record.settings["to"]) == ("export", "dense")
    for path in (tmp_path / "same").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


@pytest.mark.parametrize("to", ["lora", "peft-sparse"])
def test_every_tensor_is_accounted_for(made: Any, tmp_path: Path, to: str) -> None:
    base, delta = made("bert", keep=0.3)
    drop = ("*LayerNorm*", "*word_embeddings*")
    record = jobs.export(base, delta, tmp_path / "adapter", to=to, drop=drop)
    tensors = jobs.inspect(delta).tensors
    assert set(record.tensors) == set(tensors)
    assert sum(record.numbers["went"].values()) == len(tensors)
    dropped = [name for name in tensors if "LayerNorm" in name or "word_embeddings" in name]
    assert record.numbers["dropped"] == sorted(dropped)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sum(row["bytes"] for row in record.tensors.values()) == sum(array.nbytes for array in stored.values())
    with quiet():
        loaded(KINDS["bert"], base, tmp_path / "adapter")


@pytest.mark.parametrize("left", ["all", "adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_is_replaced_only_by_force(made: Any, tmp_path: Path, left: str) -> None:
    """Also what a broken download or a person left of it."""
    base, delta = made("llama", keep=0.1)
    jobs.export(base, delta, tmp_path / "adapter", to="lora", rank=1)
    for path in (tmp_path / "adapter").iterdir():
        if left not in ("all", path.name):
            path.unlink()
    with pytest.raises(OutputError, match="exists already"):
        jobs.export(base, delta, tmp_path / "adapter", to="lora", rank=1)
    record = jobs.export(base, delta, tmp_path / "adapter", to="lora", rank=2, force=True)
    assert record.numbers["ranks"] == [2]


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "word": ({"to": "onnx"}, "'onnx' is unknown, expected lora or peft-sparse or dense"),
    "rank 0": ({"to": "lora", "rank": 0}, "--rank: is 0, expected 1 or more"),
    "error 0": ({"to": "lora", "error": 0.0}, "--error: is 0.0"),
    "error 1": ({"to": "lora", "error": 1.0}, "--error: is 1.0"),
    "error nan": ({"to": "lora", "error": float("nan")}, "--error: is nan"),
    "both": ({"to": "lora", "rank": 1, "error": 0.1}, "contradict each other"),
    "sparse rank": ({"to": "peft-sparse", "rank": 1}, "say nothing about --to peft-sparse"),
    "dense drop": ({"to": "dense", "drop": ["*"]}, "says nothing about --to dense"),
    "drop text": ({"to": "lora", "drop": "*"}, "is one text"),
    "drop nothing": ({"to": "lora", "drop": ["*nowhere*"]}, "covers no tensor that the delta changes"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_are_refused(made: Any, tmp_path: Path, case: str) -> None:
    settings, says = SETTINGS[case]
    with pytest.raises(SettingError) as caught:
        jobs.export(*made("llama", keep=0.1), tmp_path / "adapter", **settings)
    assert says in str(caught.value)
    assert not list(tmp_path.iterdir())


def refused(base: Path, delta: Path, out: Path, kind: type[DeltagramError], *says: str, **settings: Any) -> None:
    before = snapshot(out.parent)
    with pytest.raises(kind) as caught:
        jobs.export(base, delta, out, **settings)
    assert all(text in str(caught.value) for text in says), str(caught.value)
    assert snapshot(out.parent) == before


def test_what_an_adapter_cannot_hold_is_refused_by_name(made: Any, tmp_path: Path) -> None:
    base, delta = made("gpt2", keep=0.1)
    says = ("c_attn.weight", "Conv1D", "nn.Linear", "--to lora", "--drop 'transformer.h.0.attn.c_attn.weight'")
    refused(base, delta, tmp_path / "a", PlanError, *says, to="peft-sparse")
    base, delta = made("llama", method="exact")
    refused(base, delta, tmp_path / "c", PlanError, "is stored exact", "--to lora", to="peft-sparse")


def test_parameters_of_no_layer_are_refused_unless_left_out(made: Any, tmp_path: Path) -> None:
    base, delta = made("vit", keep=0.1)
    says = ("embeddings.cls_token", "PEFT holds layers", "--drop 'embeddings.cls_token'")
    refused(base, delta, tmp_path / "out", PlanError, *says, to="lora")
    drop = ["embeddings.*_token", "embeddings.position_embeddings"]
    says = ("encoder.layer.0.attention.attention.key.bias", "ViTModel has no such tensor once it is loaded")
    refused(base, delta, tmp_path / "out", PlanError, *says, to="lora", drop=drop)
    record = jobs.export(base, delta, tmp_path / "out", to="lora", drop=[*drop, "encoder.*"])
    assert record.numbers["went"]["lora"] == 1
    assert set(record.numbers["dropped"]) >= {"embeddings.cls_token", "embeddings.position_embeddings"}
    loaded(KINDS["vit"], base, tmp_path / "out")


def test_half_of_a_new_head_is_not_left_out(made: Any, tmp_path: Path) -> None:
    base, delta = made("bert", keep=0.3)
    says = ("classifier.bias", "the rest of its layer is saved whole", "--drop 'classifier.*'")
    refused(base, delta, tmp_path / "out", PlanError, *says, to="lora", drop=["*bias"])


def test_low_rank_deltas_are_not_sparse(tmp_path: Path) -> None:
    base = save_base(KINDS["llama"], tmp_path / "base")
    adapted(KINDS["llama"], base, tmp_path / "adapter", r=2, target_modules=["q_proj"])
    jobs.prune(base, tmp_path / "adapter", tmp_path / "delta", adapter="factors", keep=1)
    says = ("q_proj.weight", "is stored low_rank", "--to lora")
    refused(base, tmp_path / "delta", tmp_path / "out", PlanError, *says, to="peft-sparse")


def test_a_base_or_delta_without_what_it_takes_is_refused(made: Any, tmp_path: Path) -> None:
    _, delta = made("llama", keep=0.1)
    other = save_base(KINDS["tied"], tmp_path / "other")
    refused(other, delta, tmp_path / "out", BaseError, "lm_head.weight", to="lora")
    save_file({"a.weight": np.ones((40, 40), "f4")}, tmp_path / "one.safetensors")
    save_file({"a.weight": np.ones((40, 40), "f4") + np.eye(40, dtype="f4")}, tmp_path / "two.safetensors")
    jobs.prune(tmp_path / "one.safetensors", tmp_path / "two.safetensors", tmp_path / "lone", keep=1)
    lone = (tmp_path / "one.safetensors", tmp_path / "lone", tmp_path / "out")
    refused(*lone, CheckpointError, "has no config.json", "--to dense", to="lora")
    for folder, name in (("first", "one"), ("second", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / f"{name}.safetensors").rename(tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text('{"model_type": "nobody-knows"}')
    jobs.prune(tmp_path / "first", tmp_path / "second", tmp_path / "odd", keep=1)
    odd = (tmp_path / "first", tmp_path / "odd", tmp_path / "out")
    refused(*odd, CheckpointError, "transformers cannot build its model", "--to dense", to="lora")


def test_resized_tensors_are_refused_by_name(tmp_path: Path) -> None:
    kind = KINDS["llama"]
    base = save_base(kind, tmp_path / "base")
    model = kind.load(base)
    with quiet():
        model.resize_token_embeddings(103)
        model.save_pretrained(tmp_path / "tuned")
    jobs.prune(base, tmp_path / "tuned", tmp_path / "delta", keep=0.1)
    says = ("lm_head.weight", "(99, 32) -> (103, 32)", "--drop 'lm_head.weight'")
    refused(base, tmp_path / "delta", tmp_path / "out", PlanError, *says, to="lora")


def test_the_command_says_what_went_where(made: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from deltagram.cli import main  # noqa: PLC0415

    base, delta = made("bert", keep=0.3)
    monkeypatch.setattr(
        "sys.argv",
        ["deltagram", "export", str(base), str(delta), str(tmp_path / "a"), "--to", "lora", "--rank", "4", "--drop",
         "*LayerNorm*"],
    )  # fmt: skip
    with pytest.raises(SystemExit) as caught, quiet():
        main()
    said = capsys.readouterr().out
    assert caught.value.code == 0
    assert "load it on BertForSequenceClassification with PEFT" in said
    assert "rank" in said
    assert "left out as told: bert.embeddings.LayerNorm.bias" in said
