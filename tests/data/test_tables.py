"""Texts and labels from files of each kind and from data sets, and what is refused."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltagram.data.tables import Table, class_index, read_table
from deltagram.errors import ExtraError, SettingError

TEXTS = ('say "so", then', "zwei\u2028Zeilen", "a\tb", " spaced ", "'quoted'", "long " * 40_000)
LABELS = ("good", "bad", "0", "1", "2", "good")


def _write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_tsv(path: Path, rows: list[dict[str, object]]) -> None:
    lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").Table.from_pylist(rows)
    pyarrow.write_table(table, path)


def _save_data_set(path: Path, rows: list[dict[str, object]]) -> None:
    pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(path)


WRITERS: dict[str, Callable[[Path, list[dict[str, object]]], None]] = {
    "t.jsonl": _write_jsonl, "t.ndjson": _write_jsonl, "t.json": _write_jsonl, "t.csv": _write_csv,
    "t.tsv": _write_tsv, "t.parquet": _write_parquet, "folder": _save_data_set,
}  # fmt: skip


def _rows(name: str) -> list[dict[str, object]]:
    texts = [text.replace("\t", " ").replace("\n", " ") if name == "t.tsv" else text for text in TEXTS]
    return [{"id": i, "text": text, "label": label} for i, (text, label) in enumerate(zip(texts, LABELS, strict=True))]


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_gives_the_same_table(name: str, tmp_path: Path) -> None:
    source, rows = tmp_path / name, _rows(name)
    WRITERS[name](source, rows)
    texts = tuple(str(row["text"]) for row in rows)
    assert read_table(source) == Table(source=str(source), text=texts, label=LABELS)
    assert read_table(source, labelled=True) == read_table(str(source))
    assert read_table(source, labelled=False) == Table(source=str(source), text=texts, label=None)
    assert read_table(source, label="nothing").label is None
    assert read_table(source, text="label", label="id").label == tuple("012345")


@pytest.mark.parametrize("name", WRITERS)
def test_a_column_that_is_not_there_is_refused_with_those_that_are(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, _rows(name))
    where = str(tmp_path / name)
    columns = "expected one of its columns 'id', 'text', 'label'; name the column"
    assert _refused(where, text="sentence") == f"{where}: has no column 'sentence', {columns}"
    assert _refused(where, labelled=True, label="class") == f"{where}: has no column 'class', {columns}"


def test_class_numbers_become_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["no", "yes"]))
    made = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
    made.save_to_disk(tmp_path / "saved")
    made.to_parquet(tmp_path / "t.parquet")
    datasets.DatasetDict(train=made, test=made.select([1])).save_to_disk(tmp_path / "splits")
    for name in ("saved", "t.parquet", "splits"):
        assert read_table(tmp_path / name).label == ("yes", "no", "yes")
    assert read_table(tmp_path / "splits", split="test").text == ("b",)
    unknown = _refused(tmp_path / "splits", split="dev")
    assert unknown.startswith(f"{tmp_path / 'splits'}: datasets cannot read it (")
    hidden = datasets.Dataset.from_dict({"text": ["a"], "label": [-1]}, features=features)
    hidden.save_to_disk(tmp_path / "hidden")
    assert "hidden, row 1: has label -1, expected 0 to 1 (the label classes)" in _refused(tmp_path / "hidden")


def test_a_folder_of_files_and_the_order_of_a_shuffled_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"text": list("abcd"), "label": list("1234")})
    made.select([2, 0]).save_to_disk(tmp_path / "chosen")
    assert read_table(tmp_path / "chosen") == Table(source=str(tmp_path / "chosen"), text=("c", "a"), label=("3", "1"))
    (tmp_path / "files").mkdir()
    _write_jsonl(tmp_path / "files" / "train.jsonl", [{"text": "x", "label": "y"}])
    assert read_table(tmp_path / "files").text == ("x",)


def test_plain_text_has_one_text_a_line_and_no_labels(tmp_path: Path) -> None:
    source = tmp_path / "t.TXT"
    source.write_bytes(b"\xef\xbb\xbffirst line\r\n\n  second, and last  \n")
    assert read_table(source, text="any").text == ("first line", "  second, and last  ")
    assert read_table(source).label is None
    assert "t.TXT: has no column 'label', expected one of its columns 'text'" in _refused(source, labelled=True)


def _refused(source: str | Path, **options: object) -> str:
    with pytest.raises(SettingError) as caught:
        read_table(source, **options)  # type: ignore[arg-type]
    return str(caught.value)


BAD = {
    "empty.jsonl": (b"", "is empty, expected one text or more"),
    "blank.txt": (b"\n \n", "is empty, expected one text or more"),
    "header.csv": (b"text,label\n", "is empty, expected one text or more"),
    "list.json": (b'[{"text": "a"}]\n', 'line 1: is a JSON array, expected an object a line, such as {"text": "..."}'),
    "number.jsonl": (b"\n3\n", "line 2: is a JSON number, expected an object"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": \n', "line 2: is not JSON (Expecting value), expected an object a line"),
    "deep.jsonl": (b'{"text": ' + b"[" * 100_000, "line 1: is not JSON ("),
    "huge.jsonl": (b'{"text": ' + b"9" * 5000 + b"}", "line 1: is not JSON (Exceeds the limit"),
    "half.jsonl": (b'{"text": "\\ud800"}', "line 1: has a text with half a surrogate pair; write it again as UTF-8"),
    "null.jsonl": (b'{"text": "a"}\n{"text": null}\n', "line 2: has no text; fill it in or remove the row"),
    "gap.jsonl": (b'{"text": "a"}\n{"txt": "b"}\n', "line 2: has no text"),
    "blank.jsonl": (b'{"text": " "}\n', "line 1: has no text"),
    "typed.jsonl": (b'{"text": 3}\n', "line 1: has a text of type int, expected a string"),
    "nested.jsonl": (b'{"text": "a", "label": [1]}', "line 1: has a label of type list, expected a string or an"),
    "bool.jsonl": (b'{"text": "a", "label": true}', "line 1: has a label of type bool, expected a string or an"),
    "float.jsonl": (b'{"text": "a", "label": 1.0}', "line 1: has a label of type float"),
    "some.jsonl": (b'{"text": "a"}\n{"text": "b", "label": "c"}', "line 1: has a blank label; fill it in"),
    "some.csv": (b"text,label\na,b\nc,\n", "line 3: has a blank label; fill it in or remove the row"),
    "short.csv": (b'text,label\n"a\nb",c\nd\n', "line 4: has 1 columns, expected 2, as the header has"),
    "open.csv": (b'text,label\na,b\n"c,d\n', "line 3: is not CSV (unexpected end of data)"),
    "quote.csv": (b'text,label\na,"b"c\n', "line 2: is not CSV ("),
    "twice.csv": (b"text,text\na,b\n", "has two columns 'text'; rename one of them"),
    "wide.tsv": (b"text\tlabel\na\tb\tc\n", "line 2: has 3 columns, expected 2, as the header has"),
    "latin.csv": ("text\ncafé\n".encode("latin-1"), "is not UTF-8 text (byte 0xe9); convert it to UTF-8"),
    "latin.jsonl": (b'{"text": "caf\xe9"}', "is not UTF-8 text (byte 0xe9)"),
    "utf16.txt": ("text".encode("utf-16"), "is not UTF-8 text (byte 0xff)"),
    "no.parquet": (b"PAR1 is not enough", "is not Parquet ("),
    "model.bin": (b"x", "is of an unknown kind (.bin), expected a folder, a Hub id or a file: .jsonl, .ndjson, .json"),
    "nothing": (b"x", "is of an unknown kind (no suffix)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_in_its_place(name: str, tmp_path: Path) -> None:
    content, text = BAD[name]
    (tmp_path / name).write_bytes(content)
    assert text in _refused(tmp_path / name)
    assert _refused(tmp_path / name).startswith(str(tmp_path / name))
    assert csv.field_size_limit() == 131072


def test_what_is_not_there_or_has_no_split_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "a.jsonl"
    assert _refused(missing) == f"{missing}: there is no such file; check the path, or give a Hub id as owner/name"
    assert "there is no such file" in _refused("data/texts.csv")
    missing.write_text('{"text": "a"}')
    assert _refused(missing, split="test").endswith("is one file, which has no split 'test'; leave the split out")
    missing.chmod(0)
    if not _readable(missing):
        assert "cannot be read (Permission denied)" in _refused(missing)


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize(("name", "package"), [("t.parquet", "pyarrow"), ("folder", "datasets"), ("a/b:c", "datasets")])
def test_a_missing_extra_is_named(name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraError, match=r"needs the package \w+; pip install 'deltagram\[hf\]'"):
        read_table(name if ":" in name else tmp_path / name)


@given(order=st.permutations(["no", "yes", "1", "0"]), draws=st.lists(st.integers(0, 3), min_size=1))
def test_labels_are_names_before_they_are_numbers(order: list[str], draws: list[int]) -> None:
    assert class_index([order[i] for i in draws], order, source="s") == tuple(draws)
    assert class_index([str(i) for i in draws], ["a", "b", "c", "d"], source="s") == tuple(draws)


def test_unknown_labels_are_refused_with_both_lists() -> None:
    with pytest.raises(SettingError) as caught:
        class_index(["good", "1", "fine", "good"], ["bad", "good"], source="s.csv")
    assert str(caught.value) == (
        "s.csv: has labels the model does not know: '1', 'fine', expected its 2 classes 'bad', 'good', or their "
        "numbers 0 to 1; rename the labels, or use the model that was trained on them"
    )
    with pytest.raises(
        SettingError, match=r"know: 'y0', .* 'y7' and 2 more, expected .* 77 classes 'x0', .* and 69 more"
    ):
        class_index([f"y{i}" for i in range(10)], [f"x{i}" for i in range(77)], source="s.csv")
