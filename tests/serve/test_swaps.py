"""Patches on tensors of any device do what those on the processor's memory do."""

from pathlib import Path

import numpy as np
import pytest
import torch

from deltagram.delta.changes import Change, Patch
from deltagram.delta.patch import Live
from deltagram.errors import BaseError, CheckpointError, PatchError, SettingError
from deltagram.serve.basemodel import TensorSwaps, load_base
from servedmodels import made


def patch(seed: int, base: dict[str, torch.Tensor]) -> Patch:
    rng, changes = np.random.default_rng(seed), {}
    for name, tensor in base.items():
        words = tensor.reshape(-1).view(torch.int32 if tensor.dtype == torch.float32 else torch.int16).numpy()
        bits = words.view(np.uint32 if words.itemsize == 4 else np.uint16)
        positions = np.sort(rng.permutation(bits.size)[:5]).astype(np.uint32) if name != "bias" else None
        before = bits.copy() if positions is None else bits[positions]
        after = rng.integers(0, 2**15, before.size).astype(before.dtype)
        changes[name] = Change(name=name, positions=positions, before=before, after=after)
    return Patch(changes=changes)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(6, 7, generator=generator),
        "bias": torch.randn(6, generator=generator),
        "half": torch.randn(6, 7, generator=generator).bfloat16(),
    }


def test_both_give_the_same_bits_back_and_forth() -> None:
    first, second = tensors(), tensors()
    original = tensors()
    live, swaps = Live(first), TensorSwaps(torch, second)
    one, two = patch(1, original), patch(2, original)
    for step in (one, two, None, two, one, None):
        live.swap(step)
        swaps.swap(step)
        assert live.current is swaps.current is step
        for name in first:
            assert torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8))
    assert all(torch.equal(first[name], original[name]) for name in first)


def test_a_fault_moves_nothing() -> None:
    base = tensors()
    swaps, one = TensorSwaps(torch, base), patch(1, tensors())
    base["half"][5, 6] = base["half"][5, 6]
    touched = int(one.changes["half"].positions[0])  # type: ignore[index]
    base["half"].reshape(-1)[touched] = 100.0
    before = {name: tensor.clone() for name, tensor in base.items()}
    with pytest.raises(PatchError, match="half: was changed by someone else; load the base anew"):
        swaps.swap(one)
    assert swaps.current is None
    assert all(torch.equal(base[name], before[name]) for name in base)


def test_bad_bases_are_refused(tmp_path: Path) -> None:
    found = made(tmp_path, "bert", forms=(), lora=False)
    with pytest.raises(SettingError, match="--dtype: 'int8' is unknown, expected auto, float32, bfloat16, float16"):
        load_base(torch, found.base, dtype="int8")
    with pytest.raises(SettingError, match="--device: 'tpu' is unknown"):
        load_base(torch, found.base, device="tpu")
    with pytest.raises(BaseError, match="give the base of this library"):
        load_base(torch, found.base, digest="0" * 64)
    with pytest.raises(CheckpointError, match=r"is a file without a config\.json"):
        load_base(torch, found.base / "model.safetensors")
    if not torch.cuda.is_available():
        with pytest.raises(SettingError, match="this torch sees no GPU"):
            load_base(torch, found.base, device="cuda")
