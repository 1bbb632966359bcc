"""Public text classification tasks that no package carries, from a folder in the layouts of their releases."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deltagram.data.packages import TextClassification, Texts
from deltagram.errors import SettingError
from deltagram.seeds import key, words

Row = tuple[str, str]  # class, text


def banking77(folder: Path) -> TextClassification:
    """BANKING77 (Casanueva et al. 2020): 10,003 and 3,080 questions to a bank, 77 intents; `banking77/*.csv`."""
    train, test = (
        [(label, text) for text, label in _rows(folder / f"banking77/{part}.csv", header=["text", "category"])]
        for part in ("train", "test")
    )
    return _task("BANKING77", train, test)


def sst2(folder: Path) -> TextClassification:
    """SST-2 as in GLUE: phrases and sentences of film reviews; `sst2/{train,dev,test}.tsv` with a header.

    The first two are GLUE's training set; the test set is its development set, 872 sentences.
    """
    parts = {
        part: [(label, text) for text, label in _rows(folder / f"sst2/{part}.tsv", header=["sentence", "label"])]
        for part in ("train", "dev", "test")
    }
    return _task("SST-2", parts["train"] + parts["dev"], parts["test"], names={"0": "negative", "1": "positive"})


def cola(folder: Path) -> TextClassification:
    """CoLA (Warstadt et al. 2019): is a sentence acceptable; `cola/*.tsv`, no header; 8,551 and 1,043 sentences.

    The test set is GLUE's development set: `in_domain_dev` and `out_of_domain_dev`.
    """
    parts = {
        part: [(row[1], row[3]) for row in _rows(folder / f"cola/{part}.tsv", header=None)]
        for part in ("in_domain_train", "in_domain_dev", "out_of_domain_dev")
    }
    test = parts["in_domain_dev"] + parts["out_of_domain_dev"]
    return _task("CoLA", parts["in_domain_train"], test, names={"0": "unacceptable", "1": "acceptable"})


def held_out(task: TextClassification, *, count: int, most: int | None = None) -> tuple[TextClassification, Texts]:
    """The task with `count` training texts set aside (drawn once for all), and those; `most` training texts stay."""
    order = np.argsort(words(key(0, f"held out/{task.name}"), 0, len(task.train)), kind="stable")
    kept = order[count:] if most is None else order[count : count + most]
    rest = TextClassification(
        name=task.name, classes=task.classes, train=_chosen(task.train, kept.tolist()), test=task.test
    )
    return rest, _chosen(task.train, order[:count].tolist())


def _chosen(texts: Texts, indices: Sequence[int]) -> Texts:
    return Texts(tuple(texts.text[i] for i in indices), tuple(texts.label[i] for i in indices))


def _task(name: str, train: list[Row], test: list[Row], *, names: dict[str, str] | None = None) -> TextClassification:
    labels = sorted({label for label, _ in train})
    index = {label: number for number, label in enumerate(labels)}
    unseen = frozenset(text for _, text in test)

    def texts(rows: list[Row]) -> Texts:
        return Texts(tuple(text for _, text in rows), tuple(index[label] for label, _ in rows))

    return TextClassification(
        name=name,
        classes=tuple((names or {}).get(label, label) for label in labels),
        train=texts([row for row in train if row[1] not in unseen]),
        test=texts(test),
    )


def _rows(path: Path, *, header: list[str] | None) -> list[list[str]]:
    """The rows of a CSV or TSV file (TSV without quoting), below its header if it has one."""
    tabs = path.suffix == ".tsv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(file, strict=True)
            rows = [row for row in reader if row]
    except (OSError, ValueError, csv.Error) as fault:
        reason = getattr(fault, "strerror", None) or fault
        raise SettingError(str(path), f"cannot be read ({reason})", fix="download the release again") from None
    wide = len(header) if header else 4
    if not rows or (header is not None and rows[0] != header) or any(len(row) != wide for row in rows):
        found = f"begins with {rows[0]}" if rows else "is empty"
        raise SettingError(str(path), found, expected=f"{wide} columns{f': {header}' if header else ''}")
    return rows[1:] if header else rows
