"""A delta tried on a live model is the delta restored, bit for bit; gradients are those of finite differences."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deltagram.delta.stored import LowRank, Pruned
from deltagram.jobs import prune, rescale, restore
from deltagram.jobs.variant import variant
from deltagram.store.deltafile import open_delta
from tinymodels import KINDS, laid


def made(folder: Path, **settings: Any) -> Path:
    prune(folder / "base", folder / "tuned", folder / "delta", **settings)
    return folder / "delta"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["random", "bernoulli", "magnitude", "columns"])
def test_what_is_tried_is_what_is_restored(kind: str, dtype: torch.dtype, method: str, tmp_path: Path) -> None:
    folder = laid(tmp_path, kind, dtype=dtype)
    delta = made(folder, keep=0.1, method=method)
    opened = open_delta(delta)
    rows = next(name for name, tensor in opened.manifest.tensors.items() if name in opened.masked)
    divisors: dict[str, Any] = {n: 0.3 + 0.01 * i for i, n in enumerate(opened.masked)}
    divisors[rows] = np.linspace(0.2, 0.7, opened.masked[rows].common.shape[0]).astype(np.float32).astype(np.float64)
    with variant(opened, folder / "base", tuned=folder / "tuned") as live:
        trial = live.trial()
        trial.set(live.default_divisors())
        trial.set(divisors)
        tried = {n: p.detach().clone() for n, p in live.run.parameters.items()}
        weights = trial.weights({n: torch.tensor(np.asarray(d, np.float32)) for n, d in divisors.items()})
        by_parameter = {n: p for n, p in live.run.model.named_parameters() if n in weights}
        assert weights.keys() == by_parameter.keys()
        assert all(torch.equal(weights[n], by_parameter[n]) for n in weights)
    rescale(delta, divide_by=divisors)
    restore(folder / "base", delta, folder / "restored")
    stored = load_file(folder / "restored" / "model.safetensors")
    assert stored.keys() == tried.keys()
    assert all(torch.equal(stored[n].float(), tried[n]) for n in stored)


def test_without_the_fine_tuned_model_the_restored_one_runs(tmp_path: Path) -> None:
    folder = laid(tmp_path, "bert")
    delta = made(folder, keep=0.1)
    with variant(open_delta(delta), folder / "base", tuned=None) as live:
        live.trial().set(live.default_divisors())
        alone = {n: p.detach().clone() for n, p in live.run.parameters.items()}
    with variant(open_delta(delta), folder / "base", tuned=folder / "tuned") as live:
        live.trial().set(live.default_divisors())
        assert all(torch.equal(alone[n], p) for n, p in live.run.parameters.items())


@pytest.mark.parametrize("by_row", [False, True])
def test_gradients_of_divisors_and_values_are_finite_differences(by_row: bool, tmp_path: Path) -> None:
    folder = laid(tmp_path, "bert")
    with variant(open_delta(made(folder, keep=0.1)), folder / "base", tuned=folder / "tuned") as live:
        trial, name = live.trial(), "bert.encoder.layer.0.attention.self.query.weight"
        divisors = {n: torch.tensor(0.4) for n in trial.names}
        divisors[name] = torch.full((trial.rows(name),) if by_row else (), 0.4, requires_grad=True)
        values = {n: trial.values(n).clone().requires_grad_() for n in trial.names}
        kept, place = live.pruned[name], torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
        (trial.weights(divisors, values)[name] * place).sum().backward()
        positions = kept.mask.positions(0, kept.mask.keep).astype(int)
        found, weighed = np.asarray(kept.values, np.float64), place.numpy().reshape(-1)[positions].astype(np.float64)
        assert np.allclose(values[name].grad, weighed / 0.4, rtol=1e-6)
        by_entry = -found * weighed / 0.4**2
        expected = np.bincount(positions // 32, by_entry, minlength=32) if by_row else by_entry.sum()
        scale = np.abs(by_entry).sum()
        assert np.allclose(divisors[name].grad, expected, atol=4 * np.finfo(np.float32).eps * scale, rtol=0)


def test_kept_values_can_be_replaced(tmp_path: Path) -> None:
    folder = laid(tmp_path, "llama")
    with variant(open_delta(made(folder, keep=0.1)), folder / "base", tuned=folder / "tuned") as live:
        trial = live.trial()
        trial.set(dict.fromkeys(trial.names, 1.0))
        before = {n: p.detach().clone() for n, p in live.run.parameters.items()}
        trial.replace_values({n: 2 * trial.values(n) for n in trial.names})
        trial.set(dict.fromkeys(trial.names, 2.0))
        assert all(torch.equal(before[n], p) for n, p in live.run.parameters.items())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # what peft asks of a model
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_factors_are_tried_as_they_are_restored(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder = laid(tmp_path, kind)
    model = KINDS[kind].from_pretrained(folder / "base")
    target = {"bert": ["query", "value"], "gpt2": ["c_attn"]}[kind]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=target, init_lora_weights=False, fan_in_fan_out=kind == "gpt2")
    )
    adapted.save_pretrained(folder / "adapter")
    prune(folder / "base", folder / "adapter", folder / "delta", adapter="factors", keep=0.5, values="f32")
    opened = open_delta(folder / "delta")
    divisors = {name: 0.4 + 0.02 * i for i, name in enumerate(opened.masked)}
    with variant(opened, folder / "base", tuned=folder / "adapter") as live:
        assert all(isinstance(tensor, LowRank) for tensor in live.stored.values())
        assert not any(isinstance(tensor, Pruned) for tensor in live.stored.values())
        trial = live.trial()
        trial.set(divisors)
        tried = {n: p.detach().clone() for n, p in live.run.parameters.items()}
        weights = trial.weights({n: torch.tensor(d) for n, d in divisors.items()})
        assert all(torch.allclose(weights[n], p) for n, p in live.run.model.named_parameters() if n in weights)
    rescale(folder / "delta", divide_by=divisors)
    restore(folder / "base", folder / "delta", folder / "restored")
    stored = load_file(folder / "restored" / "model.safetensors")
    for name, parameter in tried.items():
        largest = float(stored[name].abs().max())
        assert torch.allclose(stored[name], parameter, rtol=0, atol=16 * torch.finfo(torch.float32).eps * largest)
