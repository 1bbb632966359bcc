"""PEFT adapters as fine-tuned models: their product or their factors, held against PEFT itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file, save_file

from adapters import KINDS, adapted, save_base
from deltagram import jobs
from deltagram.delta import patch
from deltagram.delta.stored import LowRank, Pruned
from deltagram.errors import CheckpointError, DeltagramError, PlanError, SettingError
from deltagram.store.deltafile import open_delta
from desk import snapshot

ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("bert", {"r": 4, "lora_alpha": 16, "target_modules": ["query", "value", "dense"], "task_type": "SEQ_CLS"}),
    "patterns": ("bert", {
        "r": 4, "lora_alpha": 3, "target_modules": ["query", "value"], "alpha_pattern": {"value": 5},
        "rank_pattern": {"layer.1.attention.self.query": 2},
    }),
    "rslora": ("bert", {"r": 4, "lora_alpha": 3, "target_modules": ["query"], "use_rslora": True}),
    "biases": ("bert", {"r": 4, "target_modules": ["query"], "bias": "all", "task_type": "SEQ_CLS"}),
    "own biases": ("bert", {"r": 4, "target_modules": ["query"], "bias": "lora_only"}),
    "lora_bias": ("bert", {"r": 4, "lora_alpha": 5, "target_modules": ["query"], "lora_bias": True}),
    "embeddings": ("bert", {"r": 4, "target_modules": ["word_embeddings", "key"]}),
    "norms": ("bert", {"r": 4, "target_modules": ["key"], "modules_to_save": ["LayerNorm", "pooler"]}),
    "llama": ("llama", {"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}),
    "head": ("llama", {"r": 4, "target_modules": ["lm_head", "embed_tokens"]}),
    "gpt2": ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "convolution": ("vit", {"r": 2, "target_modules": ["projection", "query"]}),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path, torch.Tensor]]:
    """Base, adapter and the adapted model's output, by name; made once."""
    folder = tmp_path_factory.mktemp("adapters")
    known: dict[str, torch.Tensor] = {}

    def make(name: str) -> tuple[Path, Path, torch.Tensor]:
        kind, settings = ADAPTERS[name]
        base, adapter = folder / kind, folder / name.replace(" ", "-") / "adapter"
        if not base.exists():
            save_base(KINDS[kind], base)
        if name not in known:
            known[name] = adapted(KINDS[kind], base, adapter, **settings)
        return base, adapter, known[name]

    return make


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("form", ["product", "factors"])
def test_restored_models_put_out_what_peft_does(made: Any, tmp_path: Path, name: str, form: str) -> None:
    base, adapter, want = made(name)
    kind = KINDS[ADAPTERS[name][0]]
    record = jobs.prune(base, adapter, tmp_path / "delta", adapter=form, keep=1, values="f32")
    jobs.verify(tmp_path / "delta", base=base)
    jobs.restore(base, tmp_path / "delta", tmp_path / "out")
    got = kind.output(kind.load(tmp_path / "out"))
    start = kind.output(kind.load(base))
    loose = float(50 * torch.finfo(torch.float32).eps * want.abs().max())
    assert float((got - want).abs().max()) <= loose
    assert float((start - want).abs().max()) > 100 * loose  # the adapter did something
    forms = {row["form"] for row in record.tensors.values()}
    assert {"low_rank" if form == "factors" else "pruned", "same"} <= forms
    assert record.settings["adapter"] == form


def pairs(base: Path, adapter: Path, *, prefix: str, scale: float) -> dict[str, np.ndarray]:
    """Each weight's difference, computed by NumPy in float64."""
    found, tensors = {}, load_file(adapter / "adapter_model.safetensors")
    for name, a in tensors.items():
        if name.endswith(".lora_A.weight"):
            b = tensors[name.replace("lora_A", "lora_B")]
            weight = name.removeprefix("base_model.model.").removesuffix("lora_A.weight") + "weight"
            found[weight] = (b.astype("f8") @ a.astype("f8")) * scale
    return found


@pytest.mark.parametrize("method", ["random", "bernoulli", "magnitude"])
@pytest.mark.parametrize("keep", [0.05, 0.5])
def test_a_product_is_pruned_like_any_difference(made: Any, tmp_path: Path, method: str, keep: float) -> None:
    base, adapter, _ = made("llama")
    jobs.prune(base, adapter, tmp_path / "delta", keep=keep, method=method, values="f32", divide_by=1)
    expected, stored = pairs(base, adapter, prefix="", scale=2.0), open_delta(tmp_path / "delta").load()
    assert set(stored) == set(expected)
    for name, tensor in stored.items():
        assert isinstance(tensor, Pruned)
        flat = expected[name].reshape(-1)
        positions = tensor.mask.positions(0, tensor.mask.keep).astype(int)
        assert np.allclose(tensor.values, flat[positions], rtol=1e-6, atol=0)
        if method == "magnitude":
            left = np.delete(np.abs(flat), positions)
            assert np.abs(tensor.values).min() >= left.max() * (1 - 1e-6)


@pytest.fixture
def narrow(tmp_path: Path) -> tuple[Path, Path]:
    """A bfloat16 base, and an adapter whose product is below half a step of most of its entries."""
    rng = np.random.default_rng(0)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir(), adapter.mkdir()
    weight = torch.from_numpy(rng.normal(size=(48, 40)).astype("f4")).to(torch.bfloat16)
    safetensors.torch.save_file({"m.weight": weight, "other": torch.ones(3)}, base / "model.safetensors")
    factors = {"A": rng.normal(size=(3, 40)), "B": 1e-4 * rng.normal(size=(48, 3))}
    tensors = {f"base_model.model.m.lora_{letter}.weight": array.astype("f4") for letter, array in factors.items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 3, "base_model_name_or_path": "someone/their-base"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return base, adapter


def test_a_product_is_never_rounded_through_a_narrow_base(narrow: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = narrow
    expected = pairs(base, adapter, prefix="", scale=1.0)["m.weight"].reshape(-1)
    jobs.prune(base, adapter, tmp_path / "delta", keep=1, values="f32")
    stored = open_delta(tmp_path / "delta").load()["m.weight"]
    assert isinstance(stored, Pruned)
    assert stored.spec.dtype == "BF16"
    assert np.array_equal(stored.values, expected.astype("f4"))
    jobs.restore(base, tmp_path / "delta", tmp_path / "merged")
    jobs.prune(base, tmp_path / "merged", tmp_path / "again", keep=1, values="f32")
    rounded = open_delta(tmp_path / "again").load()["m.weight"]
    assert isinstance(rounded, Pruned)
    lost = np.linalg.norm(rounded.values - expected) / np.linalg.norm(expected)
    assert lost > 0.5  # what merging first would have done to it


@pytest.mark.parametrize("method", ["random", "bernoulli", "magnitude"])
@pytest.mark.parametrize("values", ["f32", "bf16", "4bit", "sign", "codebook3"])
def test_factors_are_pruned_each_by_itself(narrow: tuple[Path, Path], tmp_path: Path, method: str, values: str) -> None:
    base, adapter = narrow
    jobs.prune(base, adapter, tmp_path / "delta", adapter="factors", keep=0.4, method=method, values=values)
    stored = open_delta(tmp_path / "delta").load()["m.weight"]
    assert isinstance(stored, LowRank)
    tensors = load_file(adapter / "adapter_model.safetensors")
    loose = {"f32": 0.0, "bf16": 2.0**-8}.get(values)
    for letter, kept in (("A", stored.a), ("B", stored.b)):
        flat = tensors[f"base_model.model.m.lora_{letter}.weight"].reshape(-1)
        positions = kept.mask.positions(0, kept.mask.keep).astype(int)
        assert abs(len(positions) - 0.4 * flat.size) < 6 * flat.size**0.5
        if loose is not None:
            assert np.allclose(kept.values, flat[positions], rtol=loose, atol=0)
        assert kept.divide_by == (1.0 if method == "magnitude" else pytest.approx(0.4, abs=1e-3))
    rank_one_mask = set(stored.a.mask.positions(0, 9).tolist()) == set(stored.b.mask.positions(0, 9).tolist())
    assert not rank_one_mask  # the two masks are drawn apart


def test_divisors_of_the_factors_multiply(narrow: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = narrow
    delta = tmp_path / "delta"
    jobs.prune(base, adapter, delta, adapter="factors", keep=0.25, values="f32")

    def product() -> np.ndarray:
        stored = open_delta(delta).load()["m.weight"]
        assert isinstance(stored, LowRank)
        return stored.factors().entries(0, stored.spec.size)

    jobs.rescale(delta, divide_by=1)
    plain = product()
    jobs.rescale(delta, divide_by=0.25)
    assert np.array_equal(product(), plain * 16)  # powers of two: exact; 1/q of both factors is 1/q^2 of the product
    jobs.rescale(delta, divide_by={"m.weight:B": 1.0})
    assert np.array_equal(product(), plain * 4)
    rows = np.exp2(np.arange(48) % 3)
    jobs.rescale(delta, divide_by={"m.weight:A": 1.0, "m.weight:B": rows})
    assert np.array_equal(product().reshape(48, 40), plain.reshape(48, 40) / rows[:, None])
    with pytest.raises(SettingError, match=r"m\.weight is not a pruned tensor or factor"):
        jobs.rescale(delta, divide_by={"m.weight": 1.0})


def test_live_models_take_factors_and_give_them_back(made: Any, tmp_path: Path) -> None:
    base, adapter, want = made("bert")
    kind = KINDS["bert"]
    jobs.prune(base, adapter, tmp_path / "delta", adapter="factors", keep=1, values="f32")
    live = kind.load(base)
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    with patch.applied(live, open_delta(tmp_path / "delta")):
        assert (kind.output(live) - want).abs().max() <= 50 * torch.finfo(torch.float32).eps * want.abs().max()
    assert all(torch.equal(tensor, before[name]) for name, tensor in live.state_dict().items())


def test_factors_take_about_their_own_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir(), adapter.mkdir()
    names = [f"layer.{i}.linear" for i in range(4)]
    save_file(
        {f"{name}.weight": rng.normal(size=(512, 512)).astype("f4") for name in names}, base / "model.safetensors"
    )
    tensors = {}
    for name in names:
        tensors[f"base_model.model.{name}.lora_A.weight"] = rng.normal(size=(16, 512)).astype("f4")
        tensors[f"base_model.model.{name}.lora_B.weight"] = rng.normal(size=(512, 16)).astype("f4")
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16, "lora_alpha": 16}))
    for values, width in (("f32", 4), ("bf16", 2)):
        record = jobs.prune(
            base, adapter, tmp_path / "delta", adapter="factors", keep=1, values=values, pack=False, force=True
        )
        assert record.numbers["delta_bytes"] <= 1.08 * width * 4 * 2 * 16 * 512
    row = jobs.inspect(tmp_path / "delta").tensors[f"{names[0]}.weight"]
    assert (row["form"], row["rank"], row["scale"], row["entries"]) == ("low_rank", 16, 1.0, 2 * 16 * 512)
    assert set(row["factors"]) == {f"{names[0]}.weight:A", f"{names[0]}.weight:B"}
    budget = jobs.prune(base, adapter, tmp_path / "small", adapter="factors", budget=40_000)
    assert budget.numbers["delta_bytes"] <= 40_000


def test_a_plan_stores_a_product_beside_factors(narrow: tuple[Path, Path], made: Any, tmp_path: Path) -> None:
    base, adapter, _ = made("llama")
    (tmp_path / "plan.yaml").write_text(
        "tensors: [{match: '*q_proj*', form: pruned}, {match: '*up_proj*', form: exact}]"
    )
    record = jobs.prune(base, adapter, tmp_path / "delta", adapter="factors", keep=0.3, plan=tmp_path / "plan.yaml",
                        whole=["*down_proj*"])  # fmt: skip
    forms = {name.split(".")[-2]: row["form"] for name, row in record.tensors.items() if "proj" in name}
    product = {"q_proj": "pruned", "up_proj": "exact", "down_proj": "whole"}
    assert forms == product | dict.fromkeys(("k_proj", "o_proj", "v_proj", "gate_proj"), "low_rank")
    jobs.verify(tmp_path / "delta", base=base)


def test_an_untrained_adapter_changes_nothing(narrow: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = narrow
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.m.lora_B.weight"][:] = 0
    save_file(tensors, adapter / "adapter_model.safetensors")
    for form in ("product", "factors"):
        record = jobs.prune(base, adapter, tmp_path / form, adapter=form)
        assert {row["form"] for row in record.tensors.values()} == {"same"}


def test_a_tokenizer_beside_the_adapter_goes_along(made: Any, tmp_path: Path) -> None:
    base, adapter, _ = made("llama")
    own = shutil.copytree(adapter, tmp_path / "adapter")
    (own / "tokenizer.json").write_text("{}")
    record = jobs.prune(base, own, tmp_path / "delta")
    assert record.numbers["left_behind"] == []
    jobs.restore(base, tmp_path / "delta", tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    assert (tmp_path / "out" / "config.json").read_bytes() == (base / "config.json").read_bytes()


# What is refused

Change = Callable[[Path], None]


def config_with(**fields: Any) -> Change:
    def change(adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def tensors_with(alter: Callable[[dict[str, np.ndarray]], object]) -> Change:
    def change(adapter: Path) -> None:
        tensors = load_file(adapter / "adapter_model.safetensors")
        alter(tensors)
        save_file(tensors, adapter / "adapter_model.safetensors")

    return change


def write(name: str, text: str) -> Change:
    return lambda adapter: (adapter / name).write_text(text) and None


def gone(name: str) -> Change:
    return lambda adapter: (adapter / name).unlink()


M, A, B = "base_model.model.m", "base_model.model.m.lora_A.weight", "base_model.model.m.lora_B.weight"
REFUSED: dict[str, tuple[Change, type[DeltagramError], tuple[str, ...]]] = {
    "dora": (config_with(use_dora=True), CheckpointError, ("use_dora is True", "merge_and_unload")),
    "loha": (config_with(peft_type="LOHA"), CheckpointError, ("type LOHA", "expected LORA")),
    "tokens": (config_with(trainable_token_indices=[1]), CheckpointError, ("trainable_token_indices is [1]",)),
    "replication": (config_with(layer_replication=[[0, 2]]), CheckpointError, ("layer_replication",)),
    "megatron": (config_with(megatron_config={"a": 1}), CheckpointError, ("megatron_config",)),
    "parameters": (config_with(target_parameters=["x"]), CheckpointError, ("target_parameters",)),
    "unknown": (config_with(use_novelty=True), CheckpointError, ("use_novelty is True",)),
    "pissa": (config_with(init_lora_weights="pissa"), CheckpointError, ("'pissa'", "changes the base's own weights")),
    "no type": (write("adapter_config.json", "{}"), CheckpointError, ("peft_type",)),
    "no JSON": (write("adapter_config.json", "{"), CheckpointError, ("adapter_config.json", "is not a configuration")),
    "rank 0": (config_with(r=0), CheckpointError, ("r: ",)),
    "alpha": (config_with(lora_alpha="much"), CheckpointError, ("lora_alpha",)),
    "pattern": (config_with(rank_pattern={"(": 2}), CheckpointError, ("is not a configuration",)),
    "other rank": (config_with(r=8), CheckpointError, (A, "(3, 40)", "rank 8")),
    "no tensors": (gone("adapter_model.safetensors"), CheckpointError, ("holds no adapter_model.safetensors",)),
    "damaged": (write("adapter_model.safetensors", "damaged"), CheckpointError, ("adapter_model.safetensors", "bytes")),
    "one factor": (tensors_with(lambda t: t.pop(B)), CheckpointError, (A, "not its other factor")),
    "no factor": (tensors_with(lambda t: (t.pop(A), t.pop(B), t.update(x=np.ones(1)))), CheckpointError, ("holds x",)),
    "magnitude": (
        tensors_with(lambda t: t.update({f"{M}.lora_magnitude_vector": np.ones(3)})), CheckpointError,
        ("lora_magnitude_vector", "not part of plain LoRA"),
    ),
    "nan": (tensors_with(lambda t: t[A].fill(np.nan)), CheckpointError, (A, "NaN or infinity")),
    "other layers": (
        tensors_with(lambda t: t.update({"base_model.model.n.lora_A.weight": t.pop(A),
                                         "base_model.model.n.lora_B.weight": t.pop(B)})),
        PlanError, ("n.weight", "no such tensor", "someone/their-base", "--rename"),
    ),
    "other width": (
        tensors_with(lambda t: t.update({A: np.ones((3, 41), "f4")})), PlanError,
        ("m.weight", "(48, 41)", "BF16 (48, 40)", "someone/their-base"),
    ),
    "other embedding": (
        tensors_with(lambda t: t.update({f"{M}.base_layer.weight": np.ones((48, 40), "f4")})), CheckpointError,
        ("m.base_layer.weight", "is not the base's m.weight"),
    ),
    "bias without a base's": (
        tensors_with(lambda t: t.update({f"{M}.lora_B.bias": np.ones(48, "f4")})), PlanError,
        ("m.bias", "no such tensor"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_adapters_that_cannot_be_honoured_are_refused(narrow: tuple[Path, Path], tmp_path: Path, case: str) -> None:
    base, adapter = narrow
    change, kind, says = REFUSED[case]
    change(adapter)
    before = snapshot(tmp_path)
    with pytest.raises(kind) as caught:
        jobs.prune(base, adapter, tmp_path / "delta")
    assert all(text in str(caught.value) for text in says), str(caught.value)
    assert snapshot(tmp_path) == before


def test_pickled_adapters_are_never_opened(narrow: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = narrow
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickles can run code"):
        jobs.prune(base, adapter, tmp_path / "delta")


def test_a_shared_embedding_is_refused(tmp_path: Path) -> None:
    base = save_base(KINDS["tied"], tmp_path / "base")
    adapted(KINDS["tied"], base, tmp_path / "adapter", r=2, target_modules=["embed_tokens"])
    with pytest.raises(PlanError, match=r"embed_tokens\.weight: .* output layer shares it"):
        jobs.prune(base, tmp_path / "adapter", tmp_path / "delta")


def test_a_square_weight_that_may_lie_either_way_is_refused(tmp_path: Path) -> None:
    base = save_base(KINDS["gpt2"], tmp_path / "base")
    adapted(KINDS["gpt2"], base, tmp_path / "adapter", r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    config_with(fan_in_fan_out=False)(tmp_path / "adapter")
    with pytest.raises(PlanError, match=r"h\.0\.attn\.c_proj\.weight: is square"):
        jobs.prune(base, tmp_path / "adapter", tmp_path / "delta")


SETTINGS: dict[str, tuple[dict[str, Any], type[DeltagramError], str]] = {
    "word": ({"adapter": "sum"}, SettingError, "'sum' is unknown, expected product or factors"),
    "exact": ({"adapter": "factors", "method": "exact"}, SettingError, "--keep 1 --values f32"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_factors_do_not_have_are_refused(narrow: tuple[Path, Path], tmp_path: Path, case: str) -> None:
    settings, kind, says = SETTINGS[case]
    with pytest.raises(kind) as caught:
        jobs.prune(*narrow, tmp_path / "delta", **settings)
    assert says in str(caught.value)


PLANS = {
    "{match: m.weight, form: low_rank}": ("product", "m.weight: .* there are no factors of it; .*--adapter factors"),
    "{match: other, form: low_rank}": ("factors", "other: .* there are no factors of it"),
    "{match: m.weight, form: low_rank, method: exact}": (
        "factors",
        "m.weight: factors are kept exactly by keeping all",
    ),
}


@pytest.mark.parametrize("rule", PLANS)
def test_plans_that_factors_do_not_have_are_refused(narrow: tuple[Path, Path], tmp_path: Path, rule: str) -> None:
    form, says = PLANS[rule]
    (tmp_path / "plan.yaml").write_text(f"tensors: [{rule}]")
    with pytest.raises(PlanError, match=says):
        jobs.prune(*narrow, tmp_path / "delta", adapter=form, plan=tmp_path / "plan.yaml")


def test_factors_of_a_checkpoint_are_refused(narrow: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is a checkpoint, expected a PEFT adapter directory"):
        jobs.prune(narrow[0], narrow[0], tmp_path / "delta", adapter="factors")


def test_factors_wider_than_the_matrix_are_refused_and_their_product_is_not(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir(), adapter.mkdir()
    save_file({"m.weight": np.ones((2, 40), "f4")}, base / "model.safetensors")
    rng = np.random.default_rng(0)
    factors = {A: rng.normal(size=(3, 40)).astype("f4"), B: rng.normal(size=(2, 3)).astype("f4")}
    save_file(factors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3}))
    with pytest.raises(PlanError, match=r"m\.weight: factors of rank 3 for a matrix of 2 x 40; .*--adapter product"):
        jobs.prune(base, adapter, tmp_path / "delta", adapter="factors")
    jobs.prune(base, adapter, tmp_path / "delta", keep=1)


def test_a_tensor_named_like_a_factor_is_refused(narrow: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = narrow
    path = base / "model.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(path) | {"m.weight:A": torch.ones(3, 3)}, path)
    with pytest.raises(PlanError, match=r"m\.weight:A: is the name of a tensor, and of a factor of m\.weight"):
        jobs.prune(base, adapter, tmp_path / "delta", adapter="factors")
