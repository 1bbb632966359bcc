"""AdamR against the equation in float64, torch's Adam, and its own single-tensor path."""

import copy
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.errors import ExtraError, SettingError
from deltagram.training import AdamR, adamr

EPS32 = float(np.finfo(np.float32).eps)
SHAPES = {"a": (7, 5), "b": (5,), "c": (), "d": (0, 3), "head": (2, 5)}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _named(dtype: torch.dtype = torch.float32) -> dict[str, torch.nn.Parameter]:
    return {name: torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for name, shape in SHAPES.items()}


def _groups(named: dict[str, torch.nn.Parameter], **head: Any) -> list[dict[str, Any]]:
    return [
        {"params": [(name, param) for name, param in named.items() if name != "head"]},
        {"params": [("head", named["head"])], "strength": 0.0, **head},
    ]


def _give_grads(named: dict[str, torch.nn.Parameter], step: int, *, scale: float = 1e-2) -> None:
    draw = torch.Generator().manual_seed(step)
    for param in named.values():
        param.grad = (torch.randn(param.shape, generator=draw, dtype=torch.float64) * scale).to(param.dtype)


def _slow(
    named: dict[str, Any], reference: dict[str, Any], *, steps: int, lr: float, strength: float, pull: str,
    betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, scale: float = 1e-2,
) -> dict[str, Any]:  # fmt: skip
    """Algorithm 1 in float64, one entry of the list after another; the head is not pulled."""
    theta = {name: param.detach().double().numpy().copy() for name, param in named.items()}
    m = {name: np.zeros_like(value) for name, value in theta.items()}
    v = {name: np.zeros_like(value) for name, value in theta.items()}
    for t in range(1, steps + 1):
        _give_grads(named, t, scale=scale)
        v_hat = {}
        for name in theta:
            g = named[name].grad.double().numpy()
            m[name] = betas[0] * m[name] + (1 - betas[0]) * g
            v[name] = betas[1] * v[name] + (1 - betas[1]) * g**2
            v_hat[name] = v[name] / (1 - betas[1] ** t)
        v_bar = np.concatenate([value.ravel() for value in v_hat.values()]).mean()
        step = lr * strength / (math.sqrt(v_bar) + eps)
        for name, before in theta.items():
            moved = before - lr * m[name] / (1 - betas[0] ** t) / (np.sqrt(v_hat[name]) + eps)
            if name != "head" and pull == "l2":
                moved -= min(1, step) * (before - reference[name].double().numpy())
            if name != "head" and pull == "l1":
                delta = moved - reference[name].double().numpy()
                moved = reference[name].double().numpy() + np.sign(delta) * np.maximum(abs(delta) - step, 0)
            theta[name] = moved
    return theta


@pytest.mark.parametrize("foreach", [True, False])
@pytest.mark.parametrize("pull", ["l2", "l1"])
@pytest.mark.parametrize("strength", [0.0, 0.01, 0.5, 1e3])
def test_it_is_the_equation(foreach: bool, pull: str, strength: float) -> None:
    named = _named()
    reference = {name: param.detach() + 0.1 * torch.randn_like(param) for name, param in named.items()}
    start = copy.deepcopy(named)
    optimizer = AdamR(
        _groups(named), lr=1e-2, strength=strength, pull=pull, reference=reference, foreach=foreach
    )  # fmt: skip
    for t in range(1, 21):
        _give_grads(named, t)
        optimizer.step()
    wanted = _slow(start, reference, steps=20, lr=1e-2, strength=strength, pull=pull)
    for name, param in named.items():
        # a step rounds at most eight times at the size of the largest weight
        largest = float(start[name].detach().abs().max()) + 1 if param.numel() else 1
        assert np.allclose(param.detach().numpy(), wanted[name], rtol=0, atol=20 * 8 * EPS32 * largest), name
    assert optimizer.clamped == (20 if strength == 1e3 and pull == "l2" else 0)


@pytest.mark.parametrize("foreach", [True, False])
def test_without_strength_it_is_adam_bit_for_bit(foreach: bool) -> None:
    ours, theirs = _named(), {}
    theirs = copy.deepcopy(ours)
    first = AdamR(ours.values(), lr=3e-3, betas=(0.8, 0.99), eps=1e-6, strength=0.0, foreach=foreach)
    second = torch.optim.Adam(theirs.values(), lr=3e-3, betas=(0.8, 0.99), eps=1e-6, foreach=True)
    for t in range(30):
        for named, optimizer in ((ours, first), (theirs, second)):
            _give_grads(named, t)
            if t % 3 == 0:
                named["b"].grad = None  # its bias correction then has another step
            optimizer.step()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert first.state[ours["b"]]["step"] == 20
    assert first.state_dict()["state"].keys() == second.state_dict()["state"].keys()


@settings(max_examples=25, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), min_size=1, max_size=6),
    pull=st.sampled_from(["l2", "l1"]), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    bucket=st.integers(1, 40), transposed=st.booleans(),
)  # fmt: skip
def test_foreach_is_the_single_path(
    shapes: list[tuple[int, ...]], pull: str, dtype: torch.dtype, bucket: int, transposed: bool
) -> None:
    def made() -> dict[str, torch.nn.Parameter]:
        draw = torch.Generator().manual_seed(1)
        tensors = [torch.randn(shape, generator=draw) for shape in shapes]
        tensors = [tensor.mT if transposed and tensor.ndim > 1 else tensor for tensor in tensors]
        return {str(i): torch.nn.Parameter(tensor.to(dtype)) for i, tensor in enumerate(tensors)}

    one, many = made(), made()
    reference = {name: (param.detach() + 0.05).to(torch.bfloat16) for name, param in one.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(adamr._BUCKET, "cpu", bucket)
        for named, foreach in ((one, False), (many, True)):
            optimizer = AdamR(
                named.items(), lr=1e-2, strength=0.05, pull=pull, reference=reference, foreach=foreach
            )  # fmt: skip
            for t in range(4):
                _give_grads(named, t)
                optimizer.step()
    # the sums of v differ in their last bits, the pull with them: by 4 steps of |theta - reference| < 2
    atol = 4 * 2 * float(torch.finfo(dtype).eps) * 2
    for name in one:
        assert torch.allclose(one[name], many[name], rtol=0, atol=atol), name


@pytest.mark.parametrize("foreach", [True, False])
def test_l1_makes_differences_exactly_zero_also_from_a_narrower_base(foreach: bool) -> None:
    named = {"a": torch.nn.Parameter(torch.randn(200, 100) * torch.logspace(-9, 0, 100))}
    reference = {"a": (named["a"].detach() * 0.7).bfloat16()}
    optimizer = AdamR(named.items(), lr=1e-2, strength=0.002, pull="l1", reference=reference, foreach=foreach)
    for t in range(10):
        _give_grads(named, t)
        optimizer.step()
    share = float((named["a"] == reference["a"].float()).double().mean())
    assert 0.05 < share < 0.95


def test_the_strongest_pull_ends_at_the_reference_and_is_counted() -> None:
    named = _named()
    reference = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    optimizer = AdamR(named.items(), lr=0.1, strength=1e9, reference=reference)
    for param in named.values():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert all(not param.any() for param in named.values())
    assert (optimizer.clamped, optimizer.pulled_by) == (1, [1.0])
    unmoved = AdamR([torch.nn.Parameter(torch.ones(1))], strength=1e9, reference=[torch.zeros(1)])
    unmoved.step()
    assert unmoved.clamped == 0  # nothing had a gradient


def test_frozen_parameters_are_neither_moved_nor_counted() -> None:
    named = _named()
    reference = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    named["a"].requires_grad_(requires_grad=False)
    before = named["a"].clone()
    optimizer = AdamR(named.items(), lr=0.1, strength=0.01, reference=reference)
    _give_grads({name: param for name, param in named.items() if name != "a"}, 1)
    optimizer.step()
    assert torch.equal(named["a"], before)
    assert named["a"] not in optimizer.state
    squares = torch.cat([param.grad.flatten() ** 2 for param in named.values() if param.grad is not None])
    assert optimizer.pulled_by == [pytest.approx(0.1 * 0.01 / (float(squares.mean()) ** 0.5 + 1e-8), rel=1e-5)]


REFERENCES: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "mapping": lambda base: base,
    "list": lambda base: list(base.values()),
    "function": lambda base: base.__getitem__,
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_a_state_dict_resumes_bit_for_bit_without_the_reference(kind: str) -> None:
    def steps(named: dict[str, torch.nn.Parameter], optimizer: AdamR, *times: int) -> None:
        for t in times:
            _give_grads(named, t)
            optimizer.step()

    def made(named: dict[str, torch.nn.Parameter]) -> AdamR:
        rows = [{"params": list(named.items())[:3]}, {"params": list(named.items())[3:], "strength": 0.2}]
        return AdamR(rows, lr=1e-2, strength=5.0, reference=REFERENCES[kind](base))

    whole = _named()
    base = {name: param.detach() * 0.5 for name, param in whole.items()}
    parted = copy.deepcopy(whole)
    first = made(whole)
    steps(whole, first, *range(6))
    half = made(parted)
    steps(parted, half, *range(3))
    state = copy.deepcopy(half.state_dict())
    assert sum(t.numel() for row in state["state"].values() for t in row.values()) == sum(
        2 * param.numel() + 1 for param in whole.values()
    )
    assert "reference" not in str(state["param_groups"])
    second = made(parted)
    second.load_state_dict(state)
    steps(parted, second, *range(3, 6))
    assert all(torch.equal(whole[name], parted[name]) for name in whole)
    assert second.clamped == first.clamped > 0


def test_a_copy_without_its_reference_says_so() -> None:
    named = _named()
    optimizer = copy.deepcopy(AdamR(named.items(), reference=dict(named)))
    _give_grads(dict(enumerate(optimizer.param_groups[0]["params"])), 1)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"^reference of parameter -1: is missing; give it one"):
        optimizer.step()


def test_closures_schedules_and_rates_that_are_tensors() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamR([weight], lr=torch.tensor(0.1), strength=0.1, reference=[torch.zeros(3)])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step == 0 else 0.0)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()
        return loss.detach()

    assert float(optimizer.step(closure)) == 3.0  # type: ignore[arg-type]
    schedule.step()
    moved = weight.clone()
    assert bool((moved < 0.9).all())
    optimizer.step(closure)
    assert torch.equal(weight, moved)  # no rate, no step, no pull


def test_parameters_may_come_later() -> None:
    named = _named()
    optimizer = AdamR([("b", named["b"])], reference=dict(named))
    optimizer.add_param_group({"params": [("a", named["a"])]})
    optimizer.add_param_group({"params": [("new", named["c"])], "strength": 0})
    with pytest.raises(SettingError, match=r"^reference of other: is missing; give it one, or put the"):
        optimizer.add_param_group({"params": [("other", named["head"])]})
    assert len(optimizer.param_groups) == 3


P = torch.nn.Parameter
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no reference": (lambda: AdamR([P(torch.ones(2))]), "reference of parameter 0: is missing; give it one, or put"),
    "no names": (
        lambda: AdamR([P(torch.ones(2))], reference={"a": torch.ones(2)}),
        "reference of parameter 0: is asked for by name; give the parameters as model.named_parameters()",
    ),
    "short list": (lambda: AdamR([P(torch.ones(2))], reference=[]), "reference of parameter 0: is missing"),
    "shape": (
        lambda: AdamR([("w", P(torch.ones(2)))], reference={"w": torch.ones(3)}),
        "reference of w: is (3,), expected (2,)",
    ),
    "complex": (lambda: AdamR([P(torch.ones(2, dtype=torch.cfloat))], strength=0), "AdamR: parameter 0 is complex"),
    "lr": (lambda: AdamR([P(torch.ones(2))], lr=-1.0), "lr: is -1.0, expected 0 or a positive, finite number"),
    "lr tensor": (lambda: AdamR([P(torch.ones(2))], lr=torch.ones(2)), "lr: is a tensor of 2 entries, expected one"),
    "eps": (lambda: AdamR([P(torch.ones(2))], eps=math.nan), "eps: is nan, expected 0 or a positive"),
    "strength": (lambda: AdamR([P(torch.ones(2))], strength=math.inf), "strength: is inf, expected 0 or"),
    "betas": (lambda: AdamR([P(torch.ones(2))], betas=(0.9, 1.0)), "betas: are (0.9, 1.0), expected two numbers in"),
    "pull": (lambda: AdamR([P(torch.ones(2))], pull="l3"), "pull: 'l3' is unknown, expected l2 or l1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused(case: str) -> None:
    make, text = BAD[case]
    with pytest.raises(SettingError) as caught:
        make()
    assert str(caught.value).startswith(text)


def test_sparse_gradients_are_refused() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = AdamR(table.named_parameters(), strength=0)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(
        SettingError, match=r"^AdamR: the gradient of weight is sparse, expected dense gradients; build"
    ):
        optimizer.step()


def test_importing_the_room_does_not_import_torch() -> None:
    code = (
        "import sys, deltagram.training as t; assert 'torch' not in sys.modules; t.AdamR; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "deltagram.training.optim")
    monkeypatch.setitem(sys.modules, "torch", None)
    import deltagram.training  # noqa: PLC0415 - the name is looked up while torch is away

    with pytest.raises(ExtraError, match=r"^deltagram.training.AdamR: package torch is not installed; pip install"):
        _ = deltagram.training.AdamR
    with pytest.raises(AttributeError, match="has no attribute 'AdamW'"):
        _ = deltagram.training.AdamW
