"""The geometry callback in a plain loop, in Trainer and in Lightning: the moments of all it saw."""

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from deltagram import losses
from deltagram.errors import ExtraError, SettingError
from deltagram.geometry import compare, predict
from deltagram.geometry.measure import collapse
from deltagram.geometry.moments import ClassMoments
from deltagram.training import GeometryCallback
from tinyheads import Net, batch, moments_of
from tinymodels import tiny_bert


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


@pytest.mark.parametrize("before", [True, False])
def test_a_plain_loop_gives_the_moments_of_what_passed(net: Net, tmp_path: Path, before: bool) -> None:
    logged: list[dict[str, float]] = []
    geometry = GeometryCallback(file=tmp_path / "g.jsonl", log=logged.append)
    one, other, held_out = batch(7, 1), batch(8, 2), batch(9, 3)
    with geometry.watch(net):
        for x, y in (one, other):
            if before:
                geometry.labels(y)
            net(x)
            if not before:
                geometry.labels(y)
        with torch.no_grad():
            net(held_out[0])
            geometry.labels(held_out[1].numpy())
        found = geometry.epoch_end(epoch=1)
    for name, moments in (("geometry", moments_of(net, one, other)), ("eval_geometry", moments_of(net, held_out))):
        expected = collapse(moments, classifier=net.head.weight.detach(), weighting="mixed")
        assert found[f"{name}/nc1"] == pytest.approx(expected.nc1, rel=1e-9)
        assert found[f"{name}/nc2_classifiers"] == pytest.approx(expected.classifiers.equiangularity)
        assert found[f"{name}/gram_distance_etf_means"] == pytest.approx(expected.means.etf_distance)
        angle = np.degrees(np.arccos(expected.means.cosine_max))
        assert found[f"{name}/min_angle_means"] == pytest.approx(angle)
        seli = compare(moments.geometry(net.head.weight.detach(), weighting="mixed"), predict.seli([5, 5, 5]))
        assert found[f"{name}/gram_distance_seli_logits"] == pytest.approx(seli.logits)
    assert logged == [
        {key: value for key, value in found.items() if key.startswith(f"{name}/")}
        for name in ("geometry", "eval_geometry")
    ]
    lines = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["epoch"], line["samples"]) for line in lines] == [("train", 1, 15), ("eval", 1, 9)]
    assert "mixed: within classes every sample" in lines[0]["conventions"]["weighting"]
    assert geometry.last["eval"]["nc1"] == found["eval_geometry/nc1"]
    assert geometry.epoch_end() == {}
    net(one[0])  # nobody looks any more
    assert geometry.epoch_end() == {}
    assert not net._forward_pre_hooks
    assert not net.head._forward_pre_hooks


def test_labels_are_found_among_the_arguments_and_ignored_ones_left_out(net: Net) -> None:
    geometry = GeometryCallback(head="head")
    x, y = batch(6, 1)
    with geometry.watch(net):
        net(x, labels=y)
        net(x.view(2, 3, 4), labels=torch.where(y == 2, -100, y).view(2, 3))
        geometry.epoch_end()
    assert geometry.last["train"]["samples"] == 10


def test_what_is_compared_with_follows_the_loss(net: Net) -> None:
    counts = [60, 30, 10]
    loss = losses.LDT(counts)
    x, y = batch(9, 4)
    moments = moments_of(net, (x, y))
    target = predict.cross_entropy(counts, label_scale=loss.label_scale.double().numpy())
    measured = moments.geometry(
        net.head.weight.detach(), weighting="mixed", centring=loss.label_scale.double().numpy()
    )  # fmt: skip
    geometry = GeometryCallback(class_counts=counts, loss=loss)
    with geometry.watch(net):
        net(x, labels=y)
        found = geometry.epoch_end()
    assert found["geometry/gram_distance_predicted_means"] == pytest.approx(compare(measured, target).means)
    assert not any("seli" in name for name in found)
    for given in ({"loss": losses.CrossEntropy(label_smoothing=0.1)}, {"class_counts": [9, 9, 0]}):
        geometry = GeometryCallback(**{"class_counts": counts, **given})
        with geometry.watch(net):
            net(x, labels=y)
            assert not any("seli" in name for name in geometry.epoch_end())  # no closed form


def test_what_cannot_be_measured_is_refused_in_words(net: Net) -> None:
    x, y = batch(6, 1)

    def refused(**given: Any) -> str:
        geometry = GeometryCallback(**{key: value for key, value in given.items() if key not in ("x", "y")})

        def run() -> None:
            with geometry.watch(net):
                net(given.get("x", x), labels=given.get("y", y))
                net(x, labels=y)

        with pytest.raises(SettingError) as caught:
            run()
        assert not net._forward_pre_hooks
        return str(caught.value)

    nan = x.clone()
    nan[2, 1] = torch.nan
    assert "features, sample 2, feature 0: nan, expected finite numbers" in refused(x=nan)
    assert "label" in refused(y=y + 1)
    assert "a batch went through the head and its labels are not known; call labels(y) for each" in refused(y=None)
    assert "the head sees (6, 5), labels are (5,), expected a row of features a label" in refused(y=y[:5])
    assert "head: 'classifier' is no module of the model, expected one such as 'head'" in refused(head="classifier")
    assert "class_counts: are of 2 classes, expected 3, as the head has" in refused(class_counts=[1, 2])
    with pytest.raises(SettingError, match=r"^weighting: 'class' needs the counts of a stream before it begins; take"):
        GeometryCallback(weighting="class")
    geometry = GeometryCallback()
    with pytest.raises(SettingError, match="the model has no linear layer with a row a class"):
        geometry.attach(torch.nn.Conv2d(1, 1, 3))
    with pytest.raises(SettingError, match=r"^head: is a Tanh, expected a layer with weights \(class, feature\)"):
        GeometryCallback(head=torch.nn.Tanh()).attach(net)


# Trainer of transformers


def rows(count: int, *, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {"input_ids": [2, 5 + i % 2, *rng.integers(7, 12, 3).tolist(), 3], "labels": i % 2} for i in range(count)
    ]  # fmt: skip


def trainer(folder: Path, geometry: GeometryCallback, **given: Any) -> Any:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_bert(folder / "bert"), num_labels=2)
    options = given.pop("options", {})
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            str(folder / "run"), num_train_epochs=2, report_to="none", disable_tqdm=True, eval_strategy="epoch",
            dataloader_pin_memory=False,
            per_device_train_batch_size=4, save_strategy="no", logging_strategy="no", learning_rate=1e-3, **options,
        ),
        train_dataset=rows(20, seed=1), eval_dataset=rows(8, seed=2), callbacks=[geometry.for_trainer()], **given,
    )  # fmt: skip


@pytest.mark.parametrize("accumulate", [1, 3])
def test_trainer_is_watched(tmp_path: Path, accumulate: int) -> None:
    geometry = GeometryCallback(file=tmp_path / "g.jsonl")
    made = trainer(tmp_path, geometry, options={"gradient_accumulation_steps": accumulate})
    made.train()
    lines = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()]
    assert sorted((line["phase"], line["epoch"], line["samples"]) for line in lines) == [
        ("eval", 1.0, 8), ("eval", 2.0, 8), ("train", 1.0, 20), ("train", 2.0, 20),
    ]  # fmt: skip
    told = [row for row in made.state.log_history if any(key.endswith("geometry/nc1_ratio") for key in row)]
    assert len(told) == 4
    assert not made.model._forward_pre_hooks
    features: list[Any] = []
    hook = made.model.classifier.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    made.predict(rows(8, seed=2))
    hook.remove()
    moments = ClassMoments.of(torch.cat(features), np.arange(8) % 2)
    last = next(line for line in reversed(lines) if line["phase"] == "eval")
    expected = collapse(moments, classifier=made.model.classifier.weight.detach(), weighting="mixed").nc1_ratio
    # float32 features of the same weights in batches of the same size
    assert last["nc1_ratio"] == pytest.approx(expected, rel=1e-4)


def test_trainer_with_a_loss_of_its_own(tmp_path: Path) -> None:
    loss = losses.LogitAdjusted([15, 5]).for_trainer()
    geometry = GeometryCallback(class_counts=[15, 5])
    made = trainer(tmp_path, geometry, compute_loss_func=geometry.with_labels(loss))
    told: list[dict[str, float]] = []
    geometry.log = told.append
    made.train()
    assert geometry.last["train"]["samples"] == 20
    assert geometry.last["eval"]["samples"] == 8
    assert len(told) == 4
    assert not any("geometry" in key for row in made.state.log_history for key in row)
    silent = GeometryCallback()
    with pytest.raises(SettingError, match="where Trainer has a compute_loss_func, wrap it with with_labels"):
        trainer(tmp_path / "again", silent, compute_loss_func=loss).train()


# Lightning


def lightning_module(pl: Any) -> Any:
    """In the spirit of Lightning's BoringModel: one layer, random data, but with labels."""

    class Boring(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                self.net = Net()

        def training_step(self, given: Any) -> Any:
            x, y = given
            return torch.nn.functional.cross_entropy(self.net(x), y)

        def validation_step(self, given: Any) -> None:
            self.log("val_loss", torch.nn.functional.cross_entropy(self.net(given["x"]), given["labels"]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Boring()


class Pairs(torch.utils.data.Dataset[Any]):
    def __init__(self, size: int, seed: int, *, mapping: bool = False) -> None:
        self.x, self.y = batch(size, seed)
        self.mapping = mapping

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Any:
        return {"x": self.x[index], "labels": self.y[index]} if self.mapping else (self.x[index], self.y[index])


def fit(pl: Any, folder: Path, geometry: GeometryCallback, **given: Any) -> tuple[Any, Any]:
    module, path = lightning_module(pl), given.pop("ckpt_path", None)
    options = {"max_epochs": 2, "num_sanity_val_steps": 2, "accumulate_grad_batches": 2, **given}
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = pl.Trainer(
            default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[geometry.for_lightning()], **options,
        )  # fmt: skip
        made.fit(
            module, torch.utils.data.DataLoader(Pairs(18, 1), batch_size=6),
            torch.utils.data.DataLoader(Pairs(9, 2, mapping=True), batch_size=3), ckpt_path=path, weights_only=True,
        )  # fmt: skip
    return made, module


@pytest.fixture(scope="module")
def pl() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("lightning.pytorch")


def test_lightning_is_watched_without_its_sanity_check(pl: Any, tmp_path: Path) -> None:
    geometry = GeometryCallback(file=tmp_path / "g.jsonl")
    made, module = fit(pl, tmp_path, geometry, enable_checkpointing=False)
    lines = [json.loads(line) for line in (tmp_path / "g.jsonl").read_text().splitlines()]
    assert sorted((line["phase"], line["epoch"], line["samples"]) for line in lines) == [
        ("eval", 0, 9), ("eval", 1, 9), ("train", 0, 18), ("train", 1, 18),
    ]  # fmt: skip
    found = geometry.last["eval"]
    assert made.callback_metrics["eval_geometry/nc1"].item() == pytest.approx(found["nc1"], rel=1e-6)
    expected = collapse(
        moments_of(module.net, batch(9, 2)), classifier=module.net.head.weight.detach(), weighting="mixed"
    )  # fmt: skip
    assert found["nc1"] == pytest.approx(expected.nc1, rel=1e-4)  # float32 features
    assert "geometry/nc1" in made.callback_metrics


def test_lightning_checkpoints_hold_what_was_seen(pl: Any, tmp_path: Path) -> None:
    geometry = GeometryCallback()
    made, _ = fit(pl, tmp_path, geometry, enable_checkpointing=True, max_epochs=1)
    geometry.attach(made.lightning_module)
    made.lightning_module.net(batch(6, 5)[0])
    geometry.labels(batch(6, 5)[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save_checkpoint(tmp_path / "kept.ckpt")
    geometry.detach()
    again = GeometryCallback(file=tmp_path / "again.jsonl")
    fit(pl, tmp_path, again, enable_checkpointing=False, ckpt_path=tmp_path / "kept.ckpt")
    lines = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines if line["phase"] == "train"] == [24]


def test_lightning_batches_without_labels_are_refused(pl: Any) -> None:
    callback = GeometryCallback().for_lightning()
    with pytest.raises(SettingError, match="a batch of type Tensor shows no labels, expected a mapping with 'labels'"):
        callback.on_train_batch_start(None, None, torch.zeros(3), 0)
    with pytest.raises(SettingError, match="a batch of type dict shows no labels"):
        callback.on_validation_batch_start(None, None, {"x": 1}, 0)


def test_lightning_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExtraError, match="package lightning is not installed; pip install lightning"):
        GeometryCallback().for_lightning()
