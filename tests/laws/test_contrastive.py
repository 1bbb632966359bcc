"""Laws of the supervised contrastive loss: its equation in a slow loop, gradients, copies, limits, extremes."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import cross_entropy, normalize
from torch.utils._python_dispatch import TorchDispatchMode

from deltagram.errors import SettingError
from deltagram.losses import SupervisedContrastive

IGNORED = -100
WAYS: dict[str, dict[str, Any]] = {
    "tiled": {},
    "tile of 1": {"tile": 1},
    "tile of 3": {"tile": 3},
    "plain": {"plain": True},
}


@pytest.fixture(autouse=True)
def _wide() -> Iterator[None]:
    """What a loss holds is of float64, so that equations can be compared to its rounding."""
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(torch.float32)


def dots(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def lse(terms: list[float]) -> float:
    top = max(terms)
    return top + math.log(sum(math.exp(term - top) for term in terms))


def slow(loss: SupervisedContrastive, z: torch.Tensor, label: list[int]) -> Any:
    """The definition, a pair at a time; `z` (item, feature)."""

    def row(values: torch.Tensor) -> list[float]:
        norm = math.sqrt(sum(value * value for value in values.tolist()))
        return [value / norm for value in values.tolist()] if loss.normalise else values.tolist()

    keys = [(row(v), y, 1.0, True) for v, y in zip(z, label, strict=True) if y != loss.ignore_index]
    if loss.prototypes is not None and loss.copies is not None:
        rows = enumerate(zip(loss.prototypes.detach(), loss.copies.tolist(), strict=True))
        keys += [(row(w), c, many, loss.prototype_anchors) for c, (w, many) in rows if many]
    found = []
    for i, (a, y, anchors, is_anchor) in enumerate(keys):
        met = [(dots(a, b) / loss.temperature, c, many - (i == j)) for j, (b, c, many, _) in enumerate(keys)]
        near = [(s, many) for s, c, many in met if c == y and many > 0]
        weight = 1.0 if loss.weight is None else loss.weight.tolist()[y]
        if not is_anchor:
            continue
        if not near:
            found.append((0.0, anchors * weight, False))
            continue
        away = lse([s + math.log(many) for s, _, many in met if many > 0])
        count = sum(many for _, many in near)
        if loss.variant == "in":
            pull = lse([s + math.log(many) for s, many in near]) - math.log(count)
        else:
            pull = sum(s * many for s, many in near) / count
        found.append((away - pull, anchors * weight, True))
    if loss.reduction == "none":
        each = iter(found)
        pairs = [(0.0, 0.0) if y == loss.ignore_index else next(each)[:2] for y in label]
        return torch.tensor([size * many for size, many in pairs]) * loss.scale
    value = sum(size * many for size, many, _ in found)
    if loss.reduction == "mean":
        counted = {"valid": [f[2] for f in found], "all": [True] * len(found), "nonzero": [f[0] > 0 for f in found]}
        value /= sum(f[1] for f, used in zip(found, counted[loss.divisor], strict=True) if used) or 1.0
    return torch.tensor(value) * loss.scale


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_is_its_equation(way: str, data: st.DataObject) -> None:
    classes, rows = data.draw(st.integers(2, 4)), data.draw(st.integers(2, 9))
    label = data.draw(st.lists(st.sampled_from([*range(classes), IGNORED]), min_size=rows, max_size=rows))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"]))
    given_: dict[str, Any] = {
        "temperature": data.draw(st.sampled_from([0.01, 0.1, 1.0])),
        "variant": data.draw(st.sampled_from(["out", "in"])),
        "normalise": data.draw(st.booleans()),
        "divisor": data.draw(st.sampled_from(["valid", "all", "nonzero"])),
        "base_temperature": data.draw(st.sampled_from([None, 0.07])),
        "weight": data.draw(st.sampled_from([None, rng.uniform(0.5, 2, classes)])),
    }
    if data.draw(st.booleans()):
        anchors = data.draw(st.booleans()) and reduction != "none"
        copies = rng.choice([0, 1, 2, 7] if anchors else [0, 0.3, 1, 7], classes).astype(float)
        copies[0] = 2
        prototypes = normalize(torch.tensor(rng.standard_normal((classes, 5))))
        given_ |= {"prototypes": prototypes, "copies": copies, "prototype_anchors": anchors}
    loss = SupervisedContrastive(reduction=reduction, **given_, **WAYS[way])
    z = torch.tensor(rng.standard_normal((rows, 5)))
    counted = [y for y in label if y != IGNORED]
    positives = any(counted.count(y) > 1 for y in counted)
    if loss.prototypes is not None and loss.copies is not None:
        many = loss.copies.tolist()
        positives = bool(counted) and (
            any(counted.count(y) - 1 + many[y] > 0 for y in counted) or loss.prototype_anchors  # 2 copies of class 0
        )
    if not positives:
        with pytest.raises(SettingError, match="SupervisedContrastive"):
            loss(z, torch.tensor(label))
        return
    expected = slow(loss, z, label)
    torch.testing.assert_close(loss(z, torch.tensor(label)), expected, rtol=1e-10, atol=1e-10)


OPTIONS: dict[str, dict[str, Any]] = {
    "out": {},
    "in": {"variant": "in"},
    "sum": {"reduction": "sum", "base_temperature": 0.07},
    "none": {"reduction": "none"},
    "none in": {"reduction": "none", "variant": "in"},
    "free": {"normalise": False},
    "cold": {"temperature": 0.02},
    "weight": {"weight": [0.5, 2.0, 1.0]},
    "all": {"divisor": "all"},
    "nonzero": {"divisor": "nonzero"},
    "prototypes": {"prototypes": torch.eye(3, 4, dtype=torch.float64), "copies": [3, 0.5, 0]},
    "trainable": {"prototypes": torch.eye(3, 4, dtype=torch.float64), "trainable": True, "copies": 20},
    "trainable in": {"prototypes": torch.eye(3, 4).double(), "trainable": True, "variant": "in"},
    "anchors": {
        "prototypes": torch.eye(3, 4, dtype=torch.float64), "copies": [1, 5, 0], "prototype_anchors": True,
        "trainable": True,
    },
}  # fmt: skip
LABELS = torch.tensor([0, 0, 1, 2, 0, 2, IGNORED])


def of(loss: SupervisedContrastive) -> tuple[Any, tuple[torch.Tensor, ...]]:
    """The loss as a function of embeddings and of prototypes that train, and a place to look at it."""
    z = torch.randn(7, 4, requires_grad=True)
    if not list(loss.parameters()):
        return lambda x: loss(x, LABELS), (z,)
    held = loss.prototypes.detach().clone().requires_grad_()  # type: ignore[union-attr]
    call = torch.func.functional_call
    return lambda x, w: call(loss, {"prototypes": w}, (x, LABELS)), (z, held)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("way", ["tiled", "tile of 3", "plain"])
def test_gradients_are_those_of_the_value(name: str, way: str) -> None:
    function, place = of(SupervisedContrastive(**{"temperature": 0.5} | OPTIONS[name] | WAYS[way]))
    assert gradcheck(function, place)
    assert gradgradcheck(function, place)


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from deltagram.losses import contrastive_tiles  # noqa: PLC0415 - to be broken here

    right = contrastive_tiles.tiled_lse

    def wrong(*given: Any) -> Any:
        value, gradient = right(*given)
        return value, None if gradient is None else gradient * 1.001

    monkeypatch.setattr(contrastive_tiles, "tiled_lse", wrong)
    function, place = of(SupervisedContrastive(0.5))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(function, place)


@pytest.mark.parametrize("name", OPTIONS)
def test_tiles_give_the_plain_numbers(name: str) -> None:
    z, label = torch.randn(50, 4), torch.randint(3, (50,))
    found = {}
    for way, given_ in WAYS.items():
        x = z.clone().requires_grad_()
        loss = SupervisedContrastive(**OPTIONS[name], **given_)
        value = loss(x, label)
        value.sum().backward()
        with torch.no_grad():
            torch.testing.assert_close(loss(x, label), value, rtol=1e-12, atol=1e-12)
        found[way] = (value.detach(), x.grad, [p.grad for p in loss.parameters()])
    for way in WAYS:
        torch.testing.assert_close(found[way], found["plain"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("anchors", [False, True])
@settings(max_examples=30, deadline=None)
@given(copies=st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any), seed=st.integers(0, 2**16))
def test_copies_are_as_if_appended_to_the_batch(variant: str, anchors: bool, copies: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    z, label = torch.randn(9, 5), torch.tensor([0, 0, 1, 2, 2, 2, 0, 1, 0])
    prototypes = normalize(torch.randn(3, 5))
    loss = SupervisedContrastive(
        prototypes=prototypes, copies=copies, prototype_anchors=anchors, variant=variant, trainable=True,
        reduction="sum" if anchors else "none",
    )  # fmt: skip
    x = z.clone().requires_grad_()
    found = loss(x, label)
    found.sum().backward()
    w, again = prototypes.clone().requires_grad_(), z.clone().requires_grad_()
    many = torch.tensor(copies)
    everything = torch.cat([again, w.repeat_interleave(many, 0)])
    labels = torch.cat([label, torch.arange(3).repeat_interleave(many)])
    each = SupervisedContrastive(variant=variant, reduction="none", plain=True)(everything, labels)
    expected = each.sum() if anchors else each[:9]
    expected.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(loss.prototypes.grad, w.grad, rtol=1e-10, atol=1e-10)  # type: ignore[union-attr]


def limit(copies: float, *, anchors: bool) -> tuple[float, float]:
    """How far the loss with so many copies is from cross-entropy with the prototypes as classifier, and from the
    limit that its prototypes as anchors have."""
    torch.manual_seed(1)
    tau, z, label = 0.5, normalize(torch.randn(24, 6)), torch.arange(24) % 3
    w = normalize(torch.randn(3, 6))
    loss = SupervisedContrastive(tau, prototypes=w, copies=copies, prototype_anchors=anchors, reduction="sum")
    value, none = loss(z, label), -24 * math.log(copies)
    if anchors:  # what their copies would have without a batch
        among = (w @ w.T / tau).logsumexp(1)
        none -= copies * float((among + math.log(copies) - 1 / tau).sum())
    entropy = cross_entropy(z @ w.T / tau, label, reduction="sum")
    terms = (z @ w.T / tau).exp().sum(0) / (w @ w.T / tau).exp().sum(1)
    itself = (1 / tau - (w @ w.T / tau).logsumexp(1)).exp().sum()
    among_batch = terms.sum() - (z * w[label]).sum() / tau + 24 / tau - itself
    more = among_batch if anchors else torch.tensor(0.0)
    return float(value + none - entropy), float(value + none - entropy - more)


def test_copies_beyond_number_are_cross_entropy_with_prototypes_as_the_classifier() -> None:
    """The error falls as (items of the batch) / (copies)."""
    many = np.array([1e3, 1e4, 1e5, 1e6])
    errors = [abs(limit(copies, anchors=False)[0]) for copies in many]
    slope = np.polyfit(np.log(many), np.log(errors), 1)[0]
    assert slope == pytest.approx(-1, abs=0.02)
    assert errors[-1] < 24 * 24 / 1e6


def test_gradients_go_to_those_of_cross_entropy_at_the_same_rate() -> None:
    tau, label, w = 0.5, torch.arange(24) % 3, normalize(torch.randn(3, 6))
    z = torch.randn(24, 6, requires_grad=True)
    (goal,) = torch.autograd.grad(cross_entropy(normalize(z) @ w.T / tau, label, reduction="sum"), z)
    many, errors = np.array([1e3, 1e4, 1e5]), []
    for copies in many:
        loss = SupervisedContrastive(tau, prototypes=w, copies=copies, reduction="sum")
        (found,) = torch.autograd.grad(loss(z, label), z)
        errors.append(float((found - goal).norm() / goal.norm()))
    assert np.polyfit(np.log(many), np.log(errors), 1)[0] == pytest.approx(-1, abs=0.02)


def test_copies_that_differ_are_logit_adjustment_in_the_limit() -> None:
    """With copies m_c = m e^(b_c) the limit is the cross-entropy of z.w_c / t + b_c."""
    tau, label, w = 0.5, torch.arange(24) % 3, normalize(torch.randn(3, 6))
    z, shift = torch.randn(24, 6), torch.tensor([0.0, 1.5, -1.0])
    entropy = cross_entropy(normalize(z) @ w.T / tau + shift, label, reduction="sum") + shift[label].sum()
    loss = SupervisedContrastive(tau, prototypes=w, copies=1e7 * shift.exp(), reduction="sum")
    assert float(loss(z, label) - 24 * math.log(1e7) - entropy) == pytest.approx(0, abs=24 * 24 * math.e / 1e7)


def test_with_prototypes_as_anchors_the_limit_is_another() -> None:
    many = np.array([1e3, 1e4, 1e5])
    errors = [abs(limit(copies, anchors=True)[1]) for copies in many]
    slope = np.polyfit(np.log(many), np.log(errors), 1)[0]
    assert slope == pytest.approx(-1, abs=0.05)
    assert abs(limit(1e5, anchors=True)[0]) > 1


def test_order_names_and_rotations_do_not_matter() -> None:
    z, label = torch.randn(20, 6), torch.randint(4, (20,))
    order, (turn, _) = torch.randperm(20), torch.linalg.qr(torch.randn(6, 6))
    w = normalize(torch.randn(4, 6))
    plain, with_prototypes = SupervisedContrastive(), SupervisedContrastive(prototypes=w, copies=3)
    for loss, turned in ((plain, plain), (with_prototypes, SupervisedContrastive(prototypes=w @ turn, copies=3))):
        torch.testing.assert_close(loss(z[order], label[order]), loss(z, label))
        torch.testing.assert_close(turned(z @ turn, label), loss(z, label))
        torch.testing.assert_close(loss(z * torch.rand(20, 1), label), loss(z, label))
    torch.testing.assert_close(plain(z, label * -7 + 3), plain(z, label))


def test_views_are_more_items_of_the_class() -> None:
    z, label = torch.randn(6, 3, 5), torch.tensor([0, 1, 2, IGNORED, 4, 5])
    flat = SupervisedContrastive(reduction="none")(z.reshape(18, 5), label.repeat_interleave(3))
    found = SupervisedContrastive(reduction="none")(z, label)
    torch.testing.assert_close(found, flat.view(6, 3))
    torch.testing.assert_close(SupervisedContrastive()(z, label), flat.sum() / 15)
    assert bool((found[3] == 0).all())


def test_an_item_alone_in_its_class_is_a_negative_and_no_anchor() -> None:
    z, label = torch.randn(5, 4, requires_grad=True), torch.tensor([0, 0, 1, 1, 7])
    each = SupervisedContrastive(reduction="none")(z, label)
    assert each[4] == 0
    mean = SupervisedContrastive()(z, label)
    torch.testing.assert_close(mean, each.sum() / 4)
    torch.testing.assert_close(SupervisedContrastive(divisor="all")(z, label), each.sum() / 5)
    mean.backward()
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())
    assert bool((z.grad[4] != 0).any())  # it is pushed away


def test_a_batch_of_one_class_is_what_the_equation_says() -> None:
    """Without negatives the sum has positives alone: least, log(n - 1), where all similarities are equal."""
    label = torch.zeros(6).long()
    assert float(SupervisedContrastive()(torch.ones(6, 3), label)) == pytest.approx(math.log(5), abs=1e-14)
    assert float(SupervisedContrastive()(torch.randn(6, 3), label)) > math.log(5)


@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("counts", [(2, 2), (5, 2, 2), (1, 7, 3, 1)])
def test_orthogonal_classes_have_the_least_value_that_is_known(variant: str, counts: tuple[int, ...]) -> None:
    """sum n_c log(n_c - 1 + (n - n_c) exp(-1/t)), the bound of arXiv 2306.07960 for features of no negative entry."""
    label = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    n, tau = len(label), 0.3
    bound = sum(c * math.log(c - 1 + (n - c) * math.exp(-1 / tau)) for c in counts if c > 1)
    loss = SupervisedContrastive(tau, variant=variant, reduction="sum")
    frame = torch.eye(len(counts), 8)
    assert float(loss(frame[label], label)) == pytest.approx(bound, rel=1e-12)
    for _ in range(20):
        assert float(loss(torch.rand(n, 8), label)) > bound


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    torch.set_default_dtype(torch.float32)
    given_ = {key: part.float() if torch.is_tensor(part) else part for key, part in OPTIONS[name].items()}
    loss = SupervisedContrastive(**given_)
    z = torch.randn(7, 4).to(dtype).requires_grad_()
    expected = loss(z.float(), LABELS)
    assert expected.dtype == torch.float32
    torch.testing.assert_close(loss(z, LABELS), expected, rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(z, LABELS)
        value.sum().backward()
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    assert z.grad is not None
    assert z.grad.dtype == dtype
    assert bool(z.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("given_", [{"temperature": 1e-4}, {"temperature": 0.025}, {"normalise": False}])
@pytest.mark.parametrize("copies", [1e-30, 1, 1e12])
def test_extremes_are_finite(dtype: torch.dtype, given_: dict[str, Any], copies: float) -> None:
    """At small temperatures, where exp(1/t) is out of range, with lengths of 1e4 and with copies beyond number."""
    for variant in ("out", "in"):
        for prototypes in (None, torch.eye(3, 4, dtype=dtype)):
            loss = SupervisedContrastive(prototypes=prototypes, copies=copies, variant=variant, **given_)
            z = (torch.randn(6, 4, dtype=dtype) * 1e4).requires_grad_()
            value = loss(z, LABELS[:6])
            value.backward()
            assert bool(value.isfinite())
            assert z.grad is not None
            assert bool(z.grad.isfinite().all())
            expected = slow(loss, z.detach(), LABELS[:6].tolist())
            rtol = 100 * torch.finfo(dtype).eps * max(1.0, 1e9 * (not loss.normalise), 1 / loss.temperature)
            torch.testing.assert_close(value.double(), expected, rtol=min(rtol, 0.05), atol=1e-3)


HALVED: dict[str, dict[str, Any]] = {
    "items": {},
    "sum": {"reduction": "sum", "weight": [1.0, 3.0, 0.5]},
    "none": {"reduction": "none"},
    "prototypes": {"prototypes": torch.eye(3, 4, dtype=torch.float64), "copies": [3, 0, 40.5], "trainable": True},
}


@pytest.mark.parametrize("name", HALVED)
@pytest.mark.parametrize("tile", [None, 7])
def test_half_of_the_pairs_are_enough(name: str, tile: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large batches take another way, to the same numbers: here just large enough, and one item too small."""
    from deltagram.losses import contrastive_halves, contrastive_tiles  # noqa: PLC0415 - to be watched

    z, label, taken = torch.randn(53, 4), torch.randint(3, (53,)), []

    def watched(*given: Any) -> Any:
        taken.append(len(given[0]))
        return contrastive_halves.halved_lse(*given)

    monkeypatch.setattr(contrastive_tiles, "halved_lse", watched)
    found = []
    for least in (53, 54):
        monkeypatch.setattr(contrastive_halves, "LEAST_ITEMS", least)
        loss, x = SupervisedContrastive(**HALVED[name], tile=tile), z.clone().requires_grad_()
        value = loss(x, label)
        value.square().sum().backward()
        found.append((value.detach(), x.grad, [p.grad for p in loss.parameters()]))
    assert taken
    assert set(taken) == {53 if name != "prototypes" else 55}
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["free", "cold", "anchors", "in"])
def test_what_is_not_symmetric_or_bounded_takes_all_pairs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from deltagram.losses import contrastive_halves  # noqa: PLC0415 - to be watched

    monkeypatch.setattr(contrastive_halves, "LEAST_ITEMS", 2)
    z, label = torch.randn(20, 4), torch.randint(3, (20,))
    plain = SupervisedContrastive(**OPTIONS[name], plain=True)(z, label)
    torch.testing.assert_close(SupervisedContrastive(**OPTIONS[name])(z, label), plain, rtol=1e-12, atol=1e-12)


class Largest(TorchDispatchMode):
    """The most entries that any tensor has that an operation makes."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for part in made if isinstance(made, tuple | list) else (made,):
            if isinstance(part, torch.Tensor):
                self.entries = max(self.entries, part.numel())
        return made


@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_is_as_large_as_all_pairs(name: str) -> None:
    """Forward and back, nothing larger than tile x keys is made, where the plain way makes keys x keys."""
    z, label = torch.randn(1100, 4, requires_grad=True), torch.randint(3, (1100,))
    for given_, bound in (({"tile": 8}, 8 * 1103), ({"plain": True}, None)):
        with Largest() as seen:
            SupervisedContrastive(**OPTIONS[name], **given_)(z, label).sum().backward()
        assert seen.entries <= bound if bound else seen.entries >= 1100**2


def test_rows_of_zeros_stay_and_get_no_gradient() -> None:
    z = torch.randn(5, 4)
    z[1] = 0
    z.requires_grad_()
    for given_ in ({}, {"plain": True}):
        z.grad = None
        SupervisedContrastive(**given_)(z, torch.tensor([0, 0, 1, 1, 0])).backward()
        assert z.grad is not None
        assert bool((z.grad[1] == 0).all())
        assert bool((z.grad[0] != 0).any())


def test_state_and_dtype_follow() -> None:
    w = normalize(torch.randn(3, 4))
    loss = SupervisedContrastive(prototypes=w, copies=[1, 2, 3], weight=[1, 2, 1.0])
    other = SupervisedContrastive(prototypes=torch.eye(3, 4), weight=[1, 1, 1.0])
    other.load_state_dict(loss.state_dict())
    z = torch.randn(7, 4)
    torch.testing.assert_close(other(z, LABELS), loss(z, LABELS), rtol=0, atol=0)
    assert set(loss.state_dict()) == {"prototypes", "copies", "weight"}
    assert not list(loss.parameters())
    trained = SupervisedContrastive(prototypes=w, trainable=True)
    assert [name for name, _ in trained.named_parameters()] == ["prototypes"]
    assert SupervisedContrastive(prototypes=w.float()).prototypes.dtype == torch.float32  # type: ignore[union-attr]


def test_class_weights_are_spelled_as_elsewhere() -> None:
    z, counts = torch.randn(7, 4), [30, 10, 20]
    found = SupervisedContrastive(class_counts=counts, class_weight="balanced")(z, LABELS)
    expected = SupervisedContrastive(weight=[60 / 90, 60 / 30, 60 / 60])(z, LABELS)
    torch.testing.assert_close(found, expected)
    named = SupervisedContrastive(cls_num_list=counts, class_weight={1: 2.0})
    torch.testing.assert_close(named(z, LABELS), SupervisedContrastive(weight=[1, 2.0, 1])(z, LABELS))
