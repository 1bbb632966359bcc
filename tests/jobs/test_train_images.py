"""Images in train: the small network, networks of others by name, and what does not fit."""

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from deltagram.data.images import Images
from deltagram.errors import CheckpointError, ExtraError, SettingError
from deltagram.geometry import predict
from deltagram.jobs import train
from deltagram.training import backbones, convnet
from deltagram.training.pictures import moments
from tinyimages import squares, write_npz

QUICK: dict[str, Any] = {
    "steps": 30, "batch_size": 16, "learning_rate": 0.05, "optimizer": "sgd", "warmup": 0.0, "clip": 0.0,
}  # fmt: skip


class Stop:
    """A progress that interrupts at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def advance(self, what: str, done: int, total: int) -> None:  # noqa: ARG002 - the interface
        if what == "training" and done == self.at:
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images to train on and to test on."""
    folder = tmp_path_factory.mktemp("room")
    write_npz(folder / "train.npz", *squares(24, seed=1))
    write_npz(folder / "test.npz", *squares(10, seed=2))
    return folder


def test_the_network_learns_and_comes_back(room: Path, tmp_path: Path) -> None:
    record = train(
        "convnet", room / "train.npz", tmp_path / "out", **QUICK, weight_decay=5e-4, schedule="step",
        eval_data=room / "test.npz", geometry=tmp_path / "geometry.jsonl",
    )  # fmt: skip
    numbers, settings = record.numbers, record.settings
    assert (settings["task"], settings["optimizer"], settings["loss"]["name"]) == ("images", "sgd", "ce")
    assert (numbers["images"], numbers["image_shape"]) == (96, [1, 8, 8])
    assert (numbers["classes"], numbers["class_counts"]) == (["0", "1", "2", "3"], [24] * 4)
    assert numbers["accuracy"] == numbers["balanced-accuracy"] > 0.9
    assert numbers["accuracy"] == pytest.approx(np.mean(numbers["recall"]))
    model = convnet.load(tmp_path / "out")
    pixels, label = squares(10, seed=2)
    guess = model(torch.from_numpy(pixels[:, None])).argmax(-1).numpy()
    assert (guess == label).mean() == numbers["accuracy"]
    assert model.head.bias is None
    assert (model.features(torch.from_numpy(pixels[:, None])) >= 0).all()
    lines = [json.loads(line) for line in (tmp_path / "geometry.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["train"] * 5 + ["eval"]
    assert [line["samples"] for line in lines] == [96] * 5 + [40]
    assert {key: value for key, value in lines[-1].items() if key != "conventions"} == numbers["geometry"]["eval"]
    assert lines[-2]["nc1_ratio"] < lines[0]["nc1_ratio"]
    assert lines[0]["gram_distance_seli_classifiers"] == pytest.approx(lines[0]["gram_distance_etf_classifiers"])


@pytest.mark.parametrize("loss", ["ldt", "ce"])
def test_a_resumed_network_has_the_same_bits(loss: str, room: Path, tmp_path: Path) -> None:
    given = QUICK | {
        "steps": 15, "loss": loss, "class_weight": "balanced", "sampler": "class-balanced", "accumulate": 2,
        "imbalance": "step:4",
    }  # fmt: skip
    whole = train("convnet", room / "train.npz", tmp_path / "whole", **given)
    with pytest.raises(KeyboardInterrupt):
        train("convnet", room / "train.npz", tmp_path / "out", **given, save_every=4, progress=Stop(11))
    resumed = train("convnet", room / "train.npz", tmp_path / "out", **given, resume=True, save_every=4)
    assert (resumed.numbers["resumed_at"], resumed.numbers["loss"]) == (8, whole.numbers["loss"])
    name = "model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_imbalance_leaves_part_of_the_classes_with_less(room: Path, tmp_path: Path) -> None:
    found = {}
    for imbalance in ("step:4", "step:4:12", "long-tail:8"):
        record = train(
            "convnet", room / "train.npz", tmp_path / imbalance.replace(":", "-"), **QUICK | {"steps": 1},
            imbalance=imbalance,
        )  # fmt: skip
        found[imbalance] = sorted(record.numbers["class_counts"])
        assert record.settings["imbalance"] == imbalance
    assert found == {"step:4": [6, 6, 24, 24], "step:4:12": [3, 3, 12, 12], "long-tail:8": [3, 6, 12, 24]}


@pytest.mark.parametrize("kind", ["etf", "seli"])
def test_a_fixed_classifier_stays(kind: str, room: Path, tmp_path: Path) -> None:
    record = train(
        "convnet", room / "train.npz", tmp_path / "out", **QUICK, imbalance="step:4", fixed_classifier=kind,
        last_relu=False, eval_data=room / "test.npz",
    )  # fmt: skip
    model = convnet.load(tmp_path / "out")
    weight = model.head.weight.double().numpy()
    geometry = predict.etf(4) if kind == "etf" else predict.seli(record.numbers["class_counts"])
    expected = geometry.classifiers.dense()
    # float32 entries of unit vectors
    assert np.allclose(weight @ weight.T, expected * 4 / np.trace(expected), atol=1e-6)
    assert (model.features(torch.rand(8, 1, 8, 8) * 255) < 0).any()
    assert record.numbers["accuracy"] > 0.5
    assert record.settings["fixed_classifier"] == kind


def test_sgd_moves_as_the_papers_say(room: Path, tmp_path: Path) -> None:
    """Weight decay on everything, norms too: with a rate that is all decay, every tensor shrinks alike."""
    given = QUICK | {"steps": 1, "learning_rate": 0.1, "momentum": 0.0, "batch_size": 96, "schedule": "constant"}
    train("convnet", room / "train.npz", tmp_path / "none", **given)
    train("convnet", room / "train.npz", tmp_path / "decay", **given, weight_decay=0.5)
    train("convnet", room / "train.npz", tmp_path / "start", **given | {"learning_rate": 1e-30})
    none, decay, start = (load_file(tmp_path / name / "model.safetensors") for name in ("none", "decay", "start"))
    for name, value in convnet.load(tmp_path / "none").named_parameters():
        assert np.allclose(none[name] - decay[name], 0.05 * start[name], atol=1e-6), (name, value.shape)


def _vit(folder: Path) -> Path:
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_channels=3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def _resnet(folder: Path, **preprocessor: Any) -> Path:
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.ResNetModel(config).save_pretrained(folder)
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def test_a_classifier_of_transformers(room: Path, tmp_path: Path) -> None:
    base = _resnet(
        tmp_path / "base", size={"height": 8, "width": 8}, do_normalize=True, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    given = {"steps": 40, "batch_size": 16, "learning_rate": 5e-3, "task": "images", "loss": "la"}
    record = train(
        base, room / "train.npz", tmp_path / "out", **given, pull="l2", eval_data=room / "test.npz",
        geometry=tmp_path / "geometry.jsonl",
    )  # fmt: skip
    assert record.numbers["accuracy"] > 0.9
    assert record.numbers["pulled_parameters"] > 0
    assert record.numbers["geometry"]["eval"]["nc1"] > 0
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    pixels, label = squares(10, seed=2)
    batch = (torch.from_numpy(pixels[:, None]).float().expand(-1, 3, -1, -1) / 255 - 0.5) / 0.25
    with torch.inference_mode():
        guess = model(pixel_values=batch).logits.argmax(-1).numpy()
    assert (guess == label).mean() == record.numbers["accuracy"]
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    again = train(
        tmp_path / "out", room / "train.npz", tmp_path / "more", **given | {"steps": 1, "learning_rate": 1e-9},
        eval_data=room / "test.npz",
    )  # fmt: skip
    assert again.numbers["accuracy"] == record.numbers["accuracy"]  # the head it came with


def test_images_are_brought_to_the_size_that_is_told(room: Path, tmp_path: Path) -> None:
    big = write_npz(tmp_path / "big.npz", *squares(4, size=20))
    record = train(_vit(tmp_path / "vit"), big, tmp_path / "out", steps=1, task="images", batch_size=8)
    assert record.numbers["image_shape"] == [1, 20, 20]


def _fake(monkeypatch: pytest.MonkeyPatch, library: str) -> list[dict[str, Any]]:
    """A module of that name that builds one tiny network; what it was asked for."""
    asked: list[dict[str, Any]] = []

    def made(name: str, **given: Any) -> Any:
        asked.append({"name": name, **given})
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        channels = given.get("in_chans", 3)
        return torch.nn.Sequential(
            torch.nn.Conv2d(channels, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(),
            torch.nn.Linear(72, given["num_classes"]),
        )  # fmt: skip

    module = types.ModuleType(library)
    if library == "timm":
        module.create_model = made  # type: ignore[attr-defined]
    else:
        module.models = types.SimpleNamespace(get_model=made)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, library, module)
    return asked


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_network_by_name(library: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _fake(monkeypatch, library)
    record = train(
        f"{library}:tiny", room / "train.npz", tmp_path / "out", **QUICK, eval_data=room / "test.npz",
    )  # fmt: skip
    own = {"pretrained": False, "in_chans": 1} if library == "timm" else {"weights": None}
    assert asked == [{"name": "tiny", "num_classes": 4, **own}]
    assert record.numbers["accuracy"] > 0.9
    model, spec = backbones.load(tmp_path / "out")
    pixels, label = squares(10, seed=2)
    with torch.inference_mode():
        guess = model(spec.prepare(torch.from_numpy(pixels[:, None]))).argmax(-1).numpy()
    assert (guess == label).mean() == record.numbers["accuracy"]
    with pytest.raises(SettingError, match=r"cannot be built \(Unknown model \(large\)\), expected a name of "):
        train(f"{library}:large", room / "train.npz", tmp_path / "other", **QUICK)
    with pytest.raises(CheckpointError, match="is not that of a convnet"):
        convnet.load(tmp_path / "out")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_that_is_missing_is_named(
    library: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ExtraError, match=rf"^{library}:x: package {library} is not installed; pip install {library}$"):
        train(f"{library}:x", room / "train.npz", tmp_path / "out", **QUICK)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "pull": ("convnet", {"pull": "l2", "optimizer": "adamw"}, "pull: l2 has nothing to pull to: this model begins"),
    "pull of sgd": ("convnet", {"pull": "l2"}, "pull: is a part of AdamR, which takes the place of sgd; leave out sgd"),
    "lora": ("convnet", {"lora": 2}, "lora: is for text models of transformers; leave it out"),
    "task": ("convnet", {"task": "lm"}, "task: lm with convnet, which is for images; give a folder of transformers"),
    "length": ("convnet", {"max_length": 9}, "max_length: is of texts; leave it out"),
    "relu": ("timm:x", {"last_relu": True}, "last_relu: is of convnet, not of timm:x; leave it out"),
    "fixed": ("convnet", {"fixed_classifier": "of"}, "fixed_classifier: 'of' is unknown, expected etf or seli"),
    "one": ("convnet", {"batch_size": 19}, "batch_size: 19 in 1 parts leaves a part of 1, expected 2 or more at once"),
    "parts": ("convnet", {"accumulate": 16}, "batch_size: 16 in 16 parts leaves a part of 1"),
    "momentum": ("convnet", {"momentum": 1.0}, "momentum: 1.0, expected 0 to below 1"),
    "optimizer": ("convnet", {"optimizer": "lion"}, "optimizer: 'lion' is unknown, expected adamw or sgd"),
    "imbalance": ("convnet", {"imbalance": "step"}, "imbalance: 'step', expected step:R or long-tail:R, with R the"),
    "ratio": ("convnet", {"imbalance": "step:0.5"}, "imbalance: 'step:0.5', expected step:R"),
    "too few": ("convnet", {"imbalance": "step:100"}, "ratio: is 100, which leaves 0.24 samples, expected 1 or more"),
    "too many": ("convnet", {"imbalance": "step:2:99"}, "counts: want "),
    "metric": ("convnet", {"metric": "perplexity"}, "metric: 'perplexity' is not one of images"),
    "split": ("convnet", {"split": "val"}, "split: 'val' of one file"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_cannot_be_are_refused(case: str, room: Path, tmp_path: Path) -> None:
    model, changed, text = REFUSED[case]
    with pytest.raises(SettingError) as caught:
        train(model, room / "train.npz", tmp_path / "out", **QUICK | changed)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_fit_are_refused(room: Path, tmp_path: Path) -> None:
    def refused(data: Path, **given: Any) -> str:
        with pytest.raises(SettingError) as caught:
            train("convnet", data, tmp_path / "out", **QUICK | given)
        return str(caught.value)

    small = write_npz(tmp_path / "small.npz", *squares(4, size=6))
    assert refused(small) == "images: are 6 x 6 pixels, expected 8 x 8 or more for convnet"
    assert "has images of shape (1, 6, 6), expected (1, 8, 8), as" in refused(room / "train.npz", eval_data=small)
    pixels, label = squares(4, classes=1)
    assert "has one class only ('0'), expected two classes" in refused(write_npz(tmp_path / "one.npz", pixels, label))
    pixels, label = squares(4)
    more = write_npz(tmp_path / "more.npz", pixels, label + 3)
    assert "has labels the model does not know: '4'" in refused(room / "train.npz", eval_data=more)
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "a", "label": "b"}\n')
    assert "is of no known kind of images" in refused(text)


def test_channels_are_normed_by_all_images() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1500, 3, 2, 2)).astype(np.uint8)
    pixels[:, 2] = 7
    mean, deviation = moments(Images(source="x", pixels=pixels, label=("a",) * 1500))
    # sums of 6,000 float64 terms
    assert mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), rel=1e-12)
    assert deviation == pytest.approx([*pixels[:, :2].std(axis=(0, 2, 3)), 1.0], rel=1e-12)


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    for found, load in (("convnet", convnet.load), ("network of timm or torchvision", backbones.load)):
        with pytest.raises(CheckpointError, match=rf"config.json: is not that of a {found}"):
            load(tmp_path)  # type: ignore[operator]
    (tmp_path / "config.json").write_text(json.dumps({"deltagram": "convnet", "classes": ["a", "b"]}))
    with pytest.raises(CheckpointError, match="is not that of a convnet, expected a folder of train"):
        convnet.load(tmp_path)


def test_at_the_command_line(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    from deltagram.cli import main  # noqa: PLC0415

    line = f"""train convnet {room / "train.npz"} --out out --eval {room / "test.npz"} --steps 6 --batch-size 16
        --optimizer sgd --schedule step --warmup 0 --loss ldt --gamma 0.5 --class-weight balanced --class-counts 24x4
        --sampler class-balanced --imbalance step:2 --geometry geometry.jsonl --no-last-relu --json"""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["deltagram", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    assert (ended.value.code, err) == (0, "")
    settings = json.loads(out)["settings"]
    told = {name: value for name, value in settings["loss"].items() if value not in (None, False, 0.0)}
    assert told == {"name": "ldt", "gamma": 0.5, "class_weight": "balanced", "class_counts": [24] * 4}
    assert (settings["sampler"], settings["last_relu"]) == ("class-balanced", False)
    monkeypatch.setattr(sys, "argv", ["deltagram", *line.replace("24x4", "1.5x4").split()])
    with pytest.raises(SystemExit):
        main()
    assert "--class-counts: are 1.5x4, expected auto, or whole numbers" in capfd.readouterr().err
