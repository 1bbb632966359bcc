"""Live arrays: what is put on equals the restored checkpoint bit for bit, what is taken off leaves no trace."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from checkpoints import write_checkpoint
from deltagram.delta import patch
from deltagram.delta.patch import Live
from deltagram.errors import PatchError
from deltagram.jobs import prune, rescale, restore
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.deltafile import Delta, open_delta

SHAPES = {"a.weight": (300, 70), "b.weight": (64, 33), "norm": (50,), "same": (40, 3), "steps": (3,)}
State = dict[str, NDArray[Any]]


def arrays(seed: int, dtype: Any) -> State:
    rng = np.random.default_rng(seed)
    found: State = {name: (rng.standard_normal(shape) * 0.1).astype(dtype) for name, shape in SHAPES.items()}
    return found | {"steps": np.arange(3, dtype=np.int64)}


def tuned_from(base: State, seed: int) -> State:
    rng = np.random.default_rng(seed)
    moved = {n: (a + rng.standard_normal(a.shape).astype(np.float32) * 0.01).astype(a.dtype) for n, a in base.items()}
    return moved | {"same": base["same"], "steps": np.array([7, 8, 9])}


def state_of(checkpoint: Checkpoint, like: State) -> State:
    return {n: np.array(checkpoint.raw(n)).view(a.dtype).reshape(a.shape) for n, a in like.items()}


def equal(left: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]]) -> bool:
    return all(left[name].tobytes() == right[name].tobytes() for name in right)


@pytest.fixture(params=[ml_dtypes.bfloat16, np.float16, np.float32, np.float64])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> State:
    state = arrays(0, request.param)
    write_checkpoint(tmp_path / "base", state)
    return state


def variant(folder: Path, base: State, number: int, **settings: Any) -> tuple[Delta, State]:
    """A delta of a new fine-tune, and the state it restores to."""
    write_checkpoint(folder / f"tuned{number}", tuned_from(base, number))
    out = folder / f"delta{number}"
    prune(folder / "base", folder / f"tuned{number}", out, **{"keep": 0.2, "seed": number, **settings})
    restore(folder / "base", out, folder / f"restored{number}")
    return open_delta(out), state_of(open_checkpoint(folder / f"restored{number}"), tuned_from(base, number))


def live_copy(state: State) -> State:
    return {name: array.copy() for name, array in state.items()}


def test_applied_equals_restored_and_leaves_no_trace(base: State, tmp_path: Path) -> None:
    delta, restored = variant(tmp_path, base, 1)
    state = live_copy(base)
    with patch.applied(state, delta):
        assert equal(state, restored)
        assert not equal(state, base)
    assert equal(state, base)


@pytest.mark.parametrize("other", [{"method": "exact", "keep": None}, {"method": "magnitude"}, {"whole": ["b.*"]}, {}])
def test_any_order_of_swaps_is_exact(base: State, tmp_path: Path, other: dict[str, Any]) -> None:
    """Also when a patch is prepared while another is on, and when both touch the same entries."""
    first, restored_first = variant(tmp_path, base, 1)
    second, restored_second = variant(tmp_path, base, 2, **other)
    third, restored_third = variant(tmp_path, base, 3, seed=1)
    state = live_copy(base)
    live = Live(state)
    one = live.prepare(first)
    live.swap(one)
    two, three = live.prepare(second), live.prepare(third)
    for put, expected in (
        (two, restored_second),
        (three, restored_third),
        (one, restored_first),
        (three, restored_third),
    ):
        live.swap(put)
        assert equal(state, expected)
    live.swap(None)
    assert equal(state, base)


def test_rows_of_divisors(tmp_path: Path) -> None:
    base = arrays(0, np.float32)
    write_checkpoint(tmp_path / "base", base)
    delta, before = variant(tmp_path, base, 1)
    rescale(delta.path, divide_by={"a.weight": np.linspace(0.1, 0.9, 300)})
    restore(tmp_path / "base", delta.path, tmp_path / "again")
    expected = state_of(open_checkpoint(tmp_path / "again"), before)
    assert not equal(before, expected)
    state = live_copy(base)
    with patch.applied(state, open_delta(delta.path)):
        assert equal(state, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_torch_modules_share_their_memory(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 5)).to(dtype)
    word = ml_dtypes.bfloat16 if dtype == torch.bfloat16 else np.float32
    bits = torch.int16 if dtype == torch.bfloat16 else torch.int32
    base = {n: t.detach().view(bits).numpy().view(word).copy() for n, t in model.state_dict().items()}
    write_checkpoint(tmp_path / "base", base)
    rng = np.random.default_rng(1)
    tuned = {n: (a + rng.standard_normal(a.shape).astype(np.float32)).astype(a.dtype) for n, a in base.items()}
    write_checkpoint(tmp_path / "tuned", tuned)
    prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "delta", keep=0.3)
    inputs = torch.ones(2, 40, dtype=dtype)
    before = model(inputs)
    with patch.applied(model, open_delta(tmp_path / "delta")):
        assert not torch.equal(model(inputs), before)
    assert torch.equal(model(inputs), before)


def test_a_change_by_someone_else_is_noticed_and_nothing_moves(base: State, tmp_path: Path) -> None:
    delta, restored = variant(tmp_path, base, 1)
    state = live_copy(base)
    live = Live(state)
    live.swap(live.prepare(delta))
    state["b.weight"][:] += np.ones((), state["b.weight"].dtype)
    with pytest.raises(PatchError, match=r"b\.weight: entry \d+ was changed by someone else"):
        live.swap(None)
    assert state["a.weight"].tobytes() == restored["a.weight"].tobytes()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda s: s.pop("norm"), "norm: is not among the live arrays"),
        (lambda s: s.update(norm=s["norm"][:9].copy()), r"norm: the live array is \w+ \(9,\), expected"),
        (lambda s: s.update(norm=s["norm"].astype(np.float16)), "norm: the live array is F16"),
        (lambda s: s.update({"a.weight": s["a.weight"].T}), "a.weight: is not a contiguous, writable array"),
        (lambda s: s.update(norm=[1.0]), "norm: is a list, expected a NumPy array or a torch tensor"),
    ],
)
def test_arrays_that_cannot_hold_the_variant_are_refused(tmp_path: Path, spoil: Any, text: str) -> None:
    base = arrays(0, np.float32)
    write_checkpoint(tmp_path / "base", base)
    delta, _ = variant(tmp_path, base, 1)
    state = live_copy(base)
    spoil(state)
    before = {name: np.array(array) for name, array in state.items()}
    with pytest.raises(PatchError, match=text), patch.applied(state, delta):
        pass
    assert all(np.array_equal(state[name], before[name]) for name in before)


def test_a_delta_to_another_dtype_is_refused(tmp_path: Path) -> None:
    base = arrays(0, np.float32)
    write_checkpoint(tmp_path / "base", base)
    tuned = {name: a.astype(ml_dtypes.bfloat16) if a.dtype == np.float32 else a for name, a in base.items()}
    tuned = tuned_from(tuned, 1) | {"same": tuned["same"]}
    write_checkpoint(tmp_path / "tuned", tuned)
    prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "delta", keep=0.3)
    state = {name: a.astype(ml_dtypes.bfloat16) if a.dtype == np.float32 else a for name, a in base.items()}
    with (
        pytest.raises(PatchError, match="restores BF16 from a F32 base"),
        patch.applied(state, open_delta(tmp_path / "delta")),
    ):
        pass


def test_tied_arrays_cannot_hold_two_different_tensors(tmp_path: Path) -> None:
    """A base with two equal tensors in one memory; the fine-tune moved them apart."""
    one = np.ones((20, 10), np.float32)
    write_checkpoint(tmp_path / "base", {"embed": one, "head": one})
    write_checkpoint(tmp_path / "tuned", {"embed": one + np.float32(0.1), "head": one - np.float32(0.1)})
    prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "delta", keep=0.3)
    state = {"embed": one, "head": one}
    with (
        pytest.raises(PatchError, match="head: shares its memory with embed"),
        patch.applied(state, open_delta(tmp_path / "delta")),
    ):
        pass
    assert np.all(one == 1)
