"""Texts, and labels where there are any, from a file, a folder or the Hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deltagram.data.columns import Columns, read_columns
from deltagram.errors import SettingError

_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Table:
    """Texts in order, and their labels as written in `source`; `label` is None where it has none."""

    source: str
    text: tuple[str, ...]
    label: tuple[str, ...] | None


def read_table(
    source: str | Path,
    *,
    labelled: bool | None = None,
    text: str = "text",
    label: str = "label",
    split: str | None = None,
) -> Table:
    """Read the columns `text` and `label` of a file, a folder, or a Hub id `owner/name[:config]`.

    Files by suffix: `.jsonl` (`.ndjson`, `.json`: an object a line), `.csv` and `.tsv` with a header (TSV without
    quoting), `.parquet`, `.txt` (one text a line; blank lines hold none), all UTF-8. Anything else goes to
    `datasets`, which gives the `split` (default train). `labelled`: True requires labels, False leaves them
    unread, None takes them if there are any. Integers become text, class numbers of `datasets` their names.

    Raises SettingError, naming the line or row, for whatever is not there or not text; ExtraError where the
    extra `hf` is missing.
    """
    source = str(source)
    columns = read_columns(source, (text, label), split=split)
    if not columns.number:
        raise SettingError(source, "is empty", expected="one text or more")
    texts = tuple(_text(source, columns, text, row) for row in range(len(_column(source, columns, text))))
    if labelled is False or (labelled is None and label not in columns.cells):
        return Table(source=source, text=texts, label=None)
    labels = tuple(_label(source, columns, label, row) for row in range(len(_column(source, columns, label))))
    return Table(source=source, text=texts, label=labels)


def class_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The classes that occur: names in their order, then numbers in theirs.

    >>> class_names(["10", "b", "9", "a"])
    ('a', 'b', '9', '10')
    """
    return tuple(sorted(set(labels), key=lambda name: (int(name) if name.isdecimal() else -1, name)))


def class_index(labels: Sequence[str], classes: Sequence[str], *, source: str) -> tuple[int, ...]:
    """The number of each label's class, in a model whose classes are `classes` (its `config.id2label`).

    Labels are names of classes, or, if all of them are, their numbers.

    >>> class_index(["good", "bad"], ["bad", "good"], source="reviews.csv")
    (1, 0)
    >>> class_index(["1", "0"], ["bad", "good"], source="reviews.csv")
    (1, 0)

    Raises SettingError, with both lists, for a label that is neither.
    """
    found = dict.fromkeys(labels)
    for numbers in ({name: i for i, name in enumerate(classes)}, {str(i): i for i in range(len(classes))}):
        if all(label in numbers for label in found):
            return tuple(numbers[label] for label in labels)
    unknown = [label for label in found if label not in classes]
    raise SettingError(
        source,
        f"has labels the model does not know: {_few(unknown)}",
        expected=f"its {len(classes)} classes {_few(classes)}, or their numbers 0 to {len(classes) - 1}",
        fix="rename the labels, or use the model that was trained on them",
    )


def _column(source: str, columns: Columns, name: str) -> Sequence[object]:
    """A column; SettingError with those there are."""
    if name in columns.cells:
        return columns.cells[name]
    found = f"has no column {name!r}"
    raise SettingError(source, found, expected=f"one of its columns {_few(list(columns.cells))}", fix="name the column")


def _text(source: str, columns: Columns, name: str, row: int) -> str:
    """The text of a row; a blank one counts as none."""
    cell = columns.cells[name][row]
    where = f"{source}, {columns.unit} {columns.number[row]}"
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise SettingError(where, f"has no {name}", fix="fill it in or remove the row")
    if not isinstance(cell, str):
        raise SettingError(where, f"has a {name} of type {type(cell).__name__}", expected="a string")
    return _encodable(where, name, cell)


def _label(source: str, columns: Columns, name: str, row: int) -> str:
    """The label of a row, an integer as text."""
    cell = columns.cells[name][row]
    where = f"{source}, {columns.unit} {columns.number[row]}"
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise SettingError(where, f"has a blank {name}", fix="fill it in or remove the row")
    if isinstance(cell, bool) or not isinstance(cell, str | int):
        raise SettingError(where, f"has a {name} of type {type(cell).__name__}", expected="a string or an integer")
    return _encodable(where, name, str(cell))


def _encodable(where: str, name: str, cell: str) -> str:
    """`cell`, unless it holds half a character: JSON can write one, no tokenizer reads it."""
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise SettingError(where, f"has a {name} with half a surrogate pair", fix="write it again as UTF-8") from None
    return cell


def _few(names: Sequence[str]) -> str:
    """Names to read: the first few, and how many more."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
