"""A corpus as a stream of documents: text, JSON lines, CSV, TSV or Parquet, one document in memory at a time."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deltagram.data.columns import json_object
from deltagram.errors import ExtraError, SettingError

ARRAYS: Final = (".npy", ".bin")
_BOM: Final = b"\xef\xbb\xbf"
_FIELD_BYTES: Final = (1 << 31) - 1  # the longest that every platform's csv module takes
_ROWS: Final = 1024  # of Parquet read at once

Documents = Iterator[tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Files of one kind in the order of their names, where they are, and how large."""

    source: str
    files: tuple[Path, ...]
    suffix: str

    @property
    def sizes(self) -> list[int]:
        """Bytes of each file."""
        return [path.stat().st_size for path in self.files]

    @property
    def arrays(self) -> bool:
        """Whether it holds token numbers and no text."""
        return self.suffix in ARRAYS

    def documents(self, *, column: str = "text", whole: bool = False) -> Documents:
        """Each document, and bytes of the corpus up to its end: a line, an object, a row or (`whole`) a text file.

        Lines of white space alone, and rows with an empty text, hold no document.
        Raises SettingError for what is not UTF-8 (naming file and byte) or has no such column.
        """
        before = 0
        for path, size in zip(self.files, self.sizes, strict=True):
            read = _whole if whole else READERS[self.suffix]
            for text, at in read(path, column):
                if text.strip():
                    yield text, before + at
            before += size


def open_corpus(source: Path | str, *, whole: bool = False) -> Corpus:
    """The files of a corpus: one, or all in a folder (hidden ones left out), which must be of one kind.

    Raises SettingError for none, for a kind that is not read, and for several kinds.
    """
    root = Path(source)
    if not root.exists():
        raise SettingError(str(root), "there is no such file or folder", fix="check the path")
    found = sorted(path for path in root.rglob("*") if path.is_file() and path.name[0] != ".") if root.is_dir() else []
    files = tuple(found) if root.is_dir() else (root,)
    known = (*READERS, *ARRAYS)
    for path in files:
        if path.suffix.lower() not in known:
            kind = path.suffix or "no suffix"
            raise SettingError(str(path), f"is of an unknown kind ({kind})", expected=", ".join(known))
    kinds = sorted({path.suffix.lower() for path in files})
    if len(kinds) != 1:
        told = f"holds files of {len(kinds)} kinds ({', '.join(kinds)})" if kinds else "holds no file"
        raise SettingError(str(root), told, expected=f"one kind of {', '.join(known)}")
    if whole and kinds[0] != ".txt":
        raise SettingError("documents", f"are rows in {kinds[0]} files", expected="file goes with .txt alone")
    if not any(path.stat().st_size for path in files):
        raise SettingError(str(root), "is empty", expected="one document or more")
    return Corpus(source=str(root), files=files, suffix=kinds[0])


def _decoded(path: Path, raw: bytes, *, start: int) -> str:
    """Bytes at `start` of a file as text."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        found = f"is not UTF-8 text (0x{raw[fault.start]:02x} at byte {start + fault.start:,})"
        raise SettingError(str(path), found, fix="convert it to UTF-8") from None


def _lines(path: Path) -> Documents:
    """Lines with their ends, and the byte at which each ends."""
    at = 0
    with path.open("rb") as file:
        for raw in file:
            body = raw[len(_BOM) :] if not at and raw.startswith(_BOM) else raw
            text = _decoded(path, body, start=at + len(raw) - len(body))
            at += len(raw)
            yield text, at


def _whole(path: Path, column: str) -> Documents:  # noqa: ARG001 - the interface of a reader
    raw = path.read_bytes()
    yield _decoded(path, raw, start=0).removeprefix("\ufeff"), len(raw)


def _plain(path: Path, column: str) -> Documents:  # noqa: ARG001 - the interface of a reader
    for line, at in _lines(path):
        yield line.rstrip("\r\n"), at


def _json_lines(path: Path, column: str) -> Documents:
    for number, (line, at) in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = json_object(line, where)
        _column(where, column, list(row))
        yield _text(where, column, row[column]), at


def _delimited(path: Path, column: str, *, delimiter: str, quoting: Any) -> Documents:
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        for line, end in _lines(path):
            at = end
            yield line

    csv.field_size_limit(_FIELD_BYTES)
    reader = csv.reader(lines(), delimiter=delimiter, quoting=quoting, strict=True)
    header: list[str] = []
    start = 1
    try:
        for row in reader:
            where = f"{path}, line {start}"
            start = reader.line_num + 1
            if not row:
                continue
            if not header:
                header = row
                _column(str(path), column, header)
                continue
            if len(row) != len(header):
                raise SettingError(where, f"has {len(row)} columns", expected=f"{len(header)}, as the header has")
            yield row[header.index(column)], at
    except csv.Error as fault:
        raise SettingError(f"{path}, line {start}", f"is not {path.suffix[1:].upper()} ({fault})") from None


def _csv(path: Path, column: str) -> Documents:
    return _delimited(path, column, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _tsv(path: Path, column: str) -> Documents:
    """Tab-separated values have no quoting (text/tab-separated-values of IANA)."""
    return _delimited(path, column, delimiter="\t", quoting=csv.QUOTE_NONE)


def _parquet(path: Path, column: str) -> Documents:
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ModuleNotFoundError as fault:
        found = f"Parquet needs the package {fault.name}"
        raise ExtraError(str(path), found, fix="pip install 'deltagram[corpus]'") from None
    size, number = path.stat().st_size, 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _column(str(path), column, file.schema_arrow.names)
            many = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=_ROWS, columns=[column]):
                for cell in batch.column(0).to_pylist():
                    number += 1
                    yield _text(f"{path}, row {number}", column, cell), size * number // many
    except pyarrow.ArrowException as fault:
        reason = (str(fault).strip().splitlines() or [""])[0][:200]
        raise SettingError(str(path), f"is not Parquet ({reason})", fix="write it again") from None


def _column(where: str, column: str, names: Sequence[str]) -> None:
    """Refuse names without the column."""
    if column not in names:
        raise SettingError(where, f"has no column {column!r}, only {', '.join(map(repr, names))}", fix="give --text")


def _text(where: str, column: str, cell: object) -> str:
    """A cell that is text, and whole characters: JSON can write half of one, no tokenizer reads it."""
    if not isinstance(cell, str):
        raise SettingError(where, f"has a {column} of type {type(cell).__name__}", expected="a string")
    try:
        cell.encode()
    except UnicodeEncodeError:
        raise SettingError(where, f"has a {column} with half a surrogate pair", fix="write it as UTF-8") from None
    return cell


READERS: Final[Mapping[str, Callable[[Path, str], Documents]]] = {
    ".txt": _plain, ".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet,
}  # fmt: skip
