"""The claims on contrastive geometry, each checked as it is on few classes and tiny images, and made to fail once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltagram.data import audit_batches
from deltagram.data.packages import TextClassification
from deltagram.errors import ExtraError, SettingError
from deltagram.papers import batchings, contrastnets, contrastpoints, frames_batching, nets, protos_limit, protos_texts
from deltagram.papers.bench import FAST, Bench
from deltagram.papers.claims import Claim, claims
from deltagram.papers.contrastpoints import minimum
from deltagram.papers.imagesets import ImageSet
from deltagram.papers.nets import Contrast, Net
from deltagram.papers.reproduce import PAPERS, judged
from tinybench import TASK
from tinybench import bench as tiny_bench
from tinyimages import squares, write_idx

SOURCES = {"orthogonal-frames": "arXiv 2306.07960, ", "prototypes": "arXiv 2310.00893, "}
ALL = [(paper, name) for paper in SOURCES for name in claims(paper)]
NET = {"net": ["squares", "step:4"], "full_nets": []}
COUNTS = {"counts": [6, 6, 2, 2]}
TINY: dict[str, dict[str, Any]] = {
    "O1": {"classes": 4, "least": 2, "imbalances": ["step:1", "step:6"], "temperatures": [0.5], "full_nets": [],
           "nets": [["squares", "step:1"], ["squares", "step:10"], ["squares", "step:100"]]},
    "O2": {"net": ["squares", "step:1", "step:2", "step:4"], "full_nets": []},
    "O3": {"counts": [6, 6, 3, 3], "even": [4, 4, 4, 4], "cases": ["full", "halves", "8-epochs", "halves+binding"]},
    "O4": {**NET, "counts": [16, 16, 4, 4], "batch": 8, "temperatures": [0.5], "epochs": 40},
    "Q1": {**NET, **COUNTS, "temperature": 0.3, "skewed": "minority:100", "full_designs": []},
    "Q2": {**NET, **COUNTS, "temperature": 0.3, "full_copies": []},
    "Q3": {"classes": 4, "batch": 8, "dim": 5, "temperatures": [0.5, 1.0]},
}  # fmt: skip
DERIVED = {  # what holds at any size, by derivation
    "O1": ("to_of", "gap", "spread", "control_free_to_of", "control_free_predicted"),
    "O3": ("gap", "unique", "audit_right", "control_repaired", "control_tight", "control_prototypes"),
    "O4": ("bound_is_reached",),
    "Q1": ("etf", "of", "predicted"),
    "Q2": ("end", "frame", "control_no_copies"),
    "Q3": tuple(claims("prototypes")["Q3"].bounds),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("reproduction")
    for split, each in (("train", 40), ("test", 6)):
        write_idx(folder / "squares", *squares(each), split=split)
    images = ImageSet(name="squares", source=folder / "squares", largest=40)
    scale = replace(FAST, contrast_epochs=3, starts=1)
    return Bench(folder=folder, scale=scale, images={"squares": images})


def tiny(name: str) -> tuple[Claim, Callable[[Bench, Claim], Any]]:
    paper = next(paper for paper, one in ALL if one == name)
    settings: dict[str, Any] = TINY[name]
    if name == "O1":  # the bounds name the imbalances; the images are not as many
        settings = {**settings, "nets": [["squares", kind] for kind in ("step:1", "step:2", "step:4")]}
    claim = claims(paper)[name]
    claim = replace(claim, settings={**claim.settings, **settings})
    if name == "O1":
        kept = {k: v for k, v in claim.bounds.items() if not k.startswith("net_step")}
        claim = replace(claim, bounds=kept | {"net_step_2": claim.bounds["net_step_10"]})
    return claim, PAPERS[paper][name]


@pytest.mark.parametrize("name", TINY)
def test_a_check_measures_all_that_is_judged(bench: Bench, name: str) -> None:
    claim, check = tiny(name)
    record = judged(bench, claim, check)
    got = record.numbers["got"]
    assert got.keys() >= claim.bounds.keys()
    assert all(np.isfinite(value) for value in got.values())
    assert record.numbers["rows"]
    assert record.settings["seeds"] == [0]
    for number in DERIVED.get(name, ()):
        assert claim.bounds[number].holds(got[number]), f"{number} is {got[number]}"


@pytest.mark.parametrize(("paper", "name"), ALL)
def test_a_claim_says_where_it_is_made_and_what_could_refute_it(paper: str, name: str) -> None:
    claim = claims(paper)[name]
    assert claim.source.startswith(SOURCES[paper])
    assert any(number.startswith("control_") for number in claim.bounds)
    for number, bound in claim.bounds.items():
        assert bound.holds(bound.claimed), number


def test_every_claim_of_both_papers_is_there() -> None:
    assert [list(claims(paper)) for paper in SOURCES] == [["O1", "O2", "O3", "O4"], ["Q1", "Q2", "Q3"]]


def broken(bench: Bench, name: str, folder: Path) -> str:
    """What a check says in a fresh folder of notes."""
    claim, check = tiny(name)
    return str(judged(replace(bench, folder=folder), claim, check).numbers["because"])


def row(**given: Any) -> dict[str, Any]:
    """A network that nothing was trained for."""
    steps = [{"epoch": epoch, "gram_distance_predicted_means": 0.3} for epoch in (1, 3)]
    contrast = {"sampler": "shuffled"}
    gram = [[1.0, 0.0], [0.0, 1.0]]
    return {
        "to_of": 0.1, "to_etf": 0.4, "to_target": 0.1, "beta_nc": 0.0, "spread": 0.0, "counts": [24, 6],
        "balanced": 0.9, "gram": gram, "steps": 9, "epochs": 3, "trajectory": steps, "contrast": contrast, **given,
    }  # fmt: skip


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Networks replaced by rows of these numbers."""

    def put(**given: Any) -> None:
        monkeypatch.setattr(contrastnets, "run", lambda *_, **__: row(**given))

    return put


def test_embeddings_that_are_negative_make_no_frame(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untrained: Callable[..., None]
) -> None:
    untrained()
    whole = contrastpoints.FreeEmbeddings
    monkeypatch.setattr(contrastpoints, "FreeEmbeddings", lambda **told: whole(**{**told, "features": "free"}))
    claim, check = tiny("O1")
    with pytest.raises(TypeError):  # no bound without the ReLU
        check(replace(bench, folder=tmp_path), claim)


def test_a_minimum_that_is_not_reached_is_seen(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untrained: Callable[..., None]
) -> None:
    """Embeddings as they were drawn, in place of minima: O1, O3, Q1 and Q2 fail."""
    untrained()

    def as_drawn(free: Any, batches: Any = None) -> Any:
        chosen = [np.arange(len(free.labels))] if batches is None else batches
        bound = free.bound(chosen) if free.features == "relu" else None
        return contrastpoints.Embedded.of(free, free.begin(), loss=1e3, bound=bound)

    monkeypatch.setattr(contrastpoints, "minimise", as_drawn)
    assert "to_of is" in broken(bench, "O1", tmp_path)
    assert "gap is" in (said := broken(bench, "O3", tmp_path))
    assert "audit_right is 0.2" in said
    assert "etf is" in broken(bench, "Q1", tmp_path)
    assert "frame is" in broken(bench, "Q2", tmp_path)


def test_an_audit_that_is_wrong_is_seen(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def always(*args: Any, **more: Any) -> Any:
        return replace(audit_batches(*args, **more), verdict="unique")

    monkeypatch.setattr(contrastpoints, "audit_batches", always)
    claim, check = tiny("O3")
    claim = replace(claim, settings={**claim.settings, "cases": ["full", "halves", "pure"]})
    with pytest.raises(ValueError, match="empty"):  # not one case is said to leave several minimisers
        check(replace(bench, folder=tmp_path), claim)


def test_networks_that_move_alike_fail(bench: Bench, tmp_path: Path, untrained: Callable[..., None]) -> None:
    untrained()
    said = broken(bench, "O2", tmp_path)
    assert "ce_moves is 0, at least 0.3 was asked" in said
    assert "more_moved_most is 0" in said
    assert "control_free_moves is 0" in said  # the same counts at any R


def test_binding_that_does_nothing_fails(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, untrained: Callable[..., None]
) -> None:
    untrained()
    plain = batchings.sampler
    monkeypatch.setattr(contrastpoints, "sampler", lambda name, *a, **k: plain(name.partition("+")[0], *a, **k))
    said = broken(bench, "O4", tmp_path)
    for number in ("fixed_per_step is 1,", "reshuffled_per_step is 1,", "control_random is 1,", "net_fixed is 0,"):
        assert number in said


def test_prototypes_that_are_not_taken_fail(bench: Bench, tmp_path: Path, untrained: Callable[..., None]) -> None:
    untrained(to_target=0.5, to_etf=0.4)
    said = broken(bench, "Q1", tmp_path)
    assert "net_etf is 0.5, at most 0.32 was asked" in said
    assert "net_skewed is -0.1, at least 0 was asked" in said


def test_a_limit_with_anchors_is_not_cross_entropy(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `control_anchors` is for: the same numbers with the two exchanged."""
    whole = protos_limit._measured

    def exchanged(told: Any) -> dict[str, float]:
        found = whole(told)
        return {**found, "gradient": found["anchors"], "anchors": found["gradient"]}

    monkeypatch.setattr(protos_limit, "_measured", exchanged)
    said = broken(bench, "Q3", tmp_path)
    assert "gradient_shallowest is" in said
    assert "control_anchors is" in said


def test_what_was_measured_is_not_measured_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [tiny(name) for name in ("O1", "O4", "Q1", "Q3")]
    first = [judged(bench, *each).numbers["got"] for each in chosen]
    for place in (
        "contrastpoints._minimum", "contrastpoints._walk", "nets.train", "contrastnets._measured",
        "protos_limit._measured",
    ):  # fmt: skip
        monkeypatch.setattr(f"deltagram.papers.{place}", None)
    assert [judged(bench, *each).numbers["got"] for each in chosen] == first


def test_a_network_is_measured_as_it_is(bench: Bench) -> None:
    """Numbers of a run beside plain arithmetic on its embeddings."""
    found = contrastnets.run(bench, "squares", "step:4", seed=0)
    data = nets._images(bench.images["squares"], "step:4:40", 0)
    features, _, classes = nets.seen_by_head(bench.folder / found["net"], data)
    label = np.array([classes.index(name) for name in data.label])
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([unit[label == c].mean(0) for c in range(4)])
    gram = means @ means.T / np.linalg.norm(means @ means.T)
    assert np.asarray(found["gram"]) == pytest.approx(gram)
    assert found["to_of"] == pytest.approx(np.linalg.norm(gram - np.eye(4) / 2))
    within = np.mean(((unit - means[label]) ** 2).sum(1))
    assert found["spread"] == pytest.approx(within / ((means - means.mean(0)) ** 2).sum(1).mean())
    assert found["audit"] == "unique"
    assert features.min() >= 0
    assert [step["epoch"] for step in found["trajectory"]] == [1, 2, 3]
    free = contrastnets.run(bench, "squares", "step:4", seed=0, contrast=Contrast(design="etf", copies=9.0, free=True))
    assert free["to_target"] == pytest.approx(free["to_etf"], abs=1e-6)
    assert nets.seen_by_head(bench.folder / free["net"], data)[0].min() < 0


def test_folders_tell_networks_apart() -> None:
    plain = Net(images="a", imbalance="step:1", loss="scl", epochs=1, seed=0)
    assert "contrast" not in plain.told
    every = [*frames_batching.BATCHES.values(), Contrast(free=True), Contrast(design="of", copies=1.0),
             Contrast(design="of", copies=2.0), Contrast(design="of", copies=2.0, equal=True)]  # fmt: skip
    assert len({replace(plain, contrast=contrast).name for contrast in every}) == len(every)
    assert Contrast(design="of", copies=2.0, equal=True).settings(3)["copies"] == [2.0] * 3


@pytest.mark.parametrize("name", frames_batching.BATCHES)
def test_batches_are_of_the_size_they_are_compared_at(name: str) -> None:
    """Extra samples are one a class, whichever they are, and each sample comes once an epoch besides."""
    label = np.repeat([0, 1, 2], [20, 10, 4])
    made = batchings.sampler(name, label, size=8, seed=0)
    made.set_epoch(1)
    batches = list(made)
    assert len(batches) == 5
    assert set().union(*batches) == set(range(34))
    extra = {0 if "+" not in name else 3}
    if name.endswith("random"):
        assert {len(batch) - 8 for batch in batches[:-1]} == extra
    else:
        assert max(len(batch) - 8 for batch in batches[:-1]) <= max(extra)
    first = list(made)
    made.set_epoch(2)
    assert (list(made) == first) == (name in ("fixed", "fixed+binding"))


@pytest.mark.parametrize("name", batchings.CASES)
def test_cases_are_what_they_are_called(name: str) -> None:
    label = np.repeat([0, 1, 2, 3], [6, 6, 4, 4])
    batches = batchings.case(name, label, seed=0)
    assert set().union(*map(set, batches)) == set(range(20))
    bound = batchings.case(f"{name}+binding", label, seed=0)
    assert all({0, 6, 12, 16} <= set(batch) and len(set(batch)) == len(batch) for batch in bound)
    assert audit_batches(bound, label, dim=12).verdict == "unique"
    if name == "apart":
        assert not any({0, 3} <= set(label[batch]) for batch in batches)
    if name == "one-split":
        assert [sum(label[batch] == 0) for batch in batches] == [3, 3]


def test_the_audit_of_free_embeddings_is_of_them(bench: Bench) -> None:
    told: dict[str, Any] = {"counts": [4, 4, 2], "temperature": 0.5, "seed": 0, "batching": "halves"}
    assert minimum(bench, **told, dim=8)["audit"] == "not unique"
    assert minimum(bench, **told, dim=8, features="free")["audit"] == "undecided"
    assert minimum(bench, **told, dim=8, design="of")["audit"] == "unique"


def test_texts_stand_beside(tmp_path: Path) -> None:
    """A tiny encoder: a row a loss, or one that says what is missing."""
    made = tiny_bench(tmp_path)
    rows = protos_texts.texts(made, seed=0, task=TASK)
    assert [r["loss"] for r in rows] == list(protos_texts.LOSSES)
    for each in rows:
        assert 0 <= each["nearest_balanced"] <= 1
        assert 0 <= each["to_of"] <= 2

    def missing() -> TextClassification:
        raise ExtraError("R8", "package p is not installed")

    said = protos_texts.texts(made, seed=0, task=replace(TASK, name="other", packaged=missing))
    assert said == [{"texts": "other", "not_run": "R8: package p is not installed"}]


def test_the_full_scale_runs_what_only_it_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    full = replace(bench, scale=replace(bench.scale, name="full"))
    monkeypatch.setattr("deltagram.papers.protos_shape.texts", lambda *_, **__: [{"texts": "here"}])
    extra = {
        "O1": {"full_nets": [["squares", "long-tail:4"]]}, "O2": {"full_nets": [["squares", "step:3"]]},
        "O4": {"full_nets": [["squares", "step:2"]]}, "Q1": {"full_designs": ["minority:95"]},
        "Q2": {"full_copies": [0.0, 2.0]},
    }  # fmt: skip
    for name, settings in extra.items():
        claim, check = tiny(name)
        plain = judged(bench, claim, check).numbers
        found = judged(full, replace(claim, settings={**claim.settings, **settings}), check).numbers
        assert len(found["rows"]) > len(plain["rows"])
        assert found["got"] == plain["got"]


def test_an_unknown_design_is_refused(bench: Bench) -> None:
    with pytest.raises(SettingError, match="design: 'cube', expected etf, of, separation, minority:DEGREES"):
        minimum(bench, counts=[2, 2], temperature=0.5, seed=0, design="cube")
