"""The columns of a file or data set: JSON lines, CSV, TSV, Parquet, plain text, or what `datasets` reads."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deltagram.errors import ExtraError, SettingError

_HUB_ID: Final = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?")
_FIELD_BYTES: Final = (1 << 31) - 1  # the longest that every platform's csv module takes
_INSTALL: Final = "pip install 'deltagram[hf]'"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Cells by column name, None where a row has none, and where each row stands: `unit` ("line", "row") `number`.

    A column that was not wanted may be left unread: its name is there, its cells are not.
    """

    cells: Mapping[str, Sequence[object]]
    number: Sequence[int]
    unit: str = "row"


def read_columns(source: str, wanted: Sequence[str], *, split: str | None) -> Columns:
    """The columns of `source`: a file by its suffix, else a folder or Hub id that `datasets` reads.

    A plain text file has one column, the first of those `wanted`. Raises SettingError for what cannot be read,
    ExtraError for what cannot be read without the extra `hf`.
    """
    path = Path(source)
    hub = _HUB_ID.fullmatch(source)
    if path.is_dir() or (hub and not path.exists() and path.suffix.lower() not in READERS):
        return _data_set(source, wanted, split=split or "train")
    if not path.exists():
        raise SettingError(source, "there is no such file", fix="check the path, or give a Hub id as owner/name")
    if path.suffix.lower() not in READERS:
        raise SettingError(source, f"is of an unknown kind ({path.suffix or 'no suffix'})", expected=_one_of(READERS))
    if split is not None:
        raise SettingError(source, f"is one file, which has no split {split!r}", fix="leave the split out")
    try:
        return READERS[path.suffix.lower()](source, wanted)
    except UnicodeDecodeError as fault:
        found = f"is not UTF-8 text (byte 0x{fault.object[fault.start]:02x})"
        raise SettingError(source, found, fix="convert it to UTF-8") from None
    except OSError as fault:
        raise SettingError(source, f"cannot be read ({fault.strerror or fault})", fix="check the path") from None


def json_object(line: str, where: str) -> dict[str, object]:
    """A line of JSON lines. Raises SettingError, which says `where`, for anything but an object."""
    expected = 'an object a line, such as {"text": "..."}'
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as fault:
        raise SettingError(where, f"is not JSON ({getattr(fault, 'msg', fault)})", expected=expected) from None
    if not isinstance(row, dict):
        raise SettingError(where, f"is a JSON {_kind(row)}", expected=expected)
    return row


def _json_lines(source: str, wanted: Sequence[str]) -> Columns:  # noqa: ARG001 - the interface of a reader
    rows: list[dict[str, object]] = []
    number: list[int] = []
    for at, line in enumerate(_lines(source), start=1):
        if not line.strip():
            continue
        where = f"{source}, line {at}"
        rows.append(json_object(line, where))
        number.append(at)
    names = dict.fromkeys(name for row in rows for name in row)
    return Columns(cells={name: [row.get(name) for row in rows] for name in names}, number=number, unit="line")


def _csv(source: str, wanted: Sequence[str]) -> Columns:  # noqa: ARG001 - the interface of a reader
    return _delimited(source, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _tsv(source: str, wanted: Sequence[str]) -> Columns:  # noqa: ARG001 - the interface of a reader
    """Tab-separated values have no quoting (text/tab-separated-values of IANA): a quotation mark is one."""
    return _delimited(source, delimiter="\t", quoting=csv.QUOTE_NONE)


def _delimited(source: str, *, delimiter: str, quoting: Any) -> Columns:
    rows: list[list[str]] = []
    number: list[int] = []
    with Path(source).open(encoding="utf-8-sig", newline="") as file, _long_fields():
        reader = csv.reader(file, delimiter=delimiter, quoting=quoting, strict=True)
        start = 1
        try:
            for row in reader:
                if row:
                    rows.append(row)
                    number.append(start)
                start = reader.line_num + 1
        except csv.Error as fault:
            raise SettingError(
                f"{source}, line {start}", f"is not {Path(source).suffix[1:].upper()} ({fault})"
            ) from None
    if not rows:
        return Columns(cells={}, number=())
    header = rows[0]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise SettingError(source, f"has two columns {twice[0]!r}", fix="rename one of them")
    for row, at in zip(rows, number, strict=True):
        if len(row) != len(header):
            found = f"has {len(row)} columns"
            raise SettingError(f"{source}, line {at}", found, expected=f"{len(header)}, as the header has")
    cells = {name: [row[i] for row in rows[1:]] for i, name in enumerate(header)}
    return Columns(cells=cells, number=number[1:], unit="line")


@contextmanager
def _long_fields() -> Iterator[None]:
    """Fields of any length while the block runs: the csv module's own limit is 128 KiB."""
    before = csv.field_size_limit(_FIELD_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _plain(source: str, wanted: Sequence[str]) -> Columns:
    """One text a line; blank lines hold none."""
    kept = [(at, line.rstrip("\r\n")) for at, line in enumerate(_lines(source), start=1) if line.strip()]
    return Columns(cells={wanted[0]: [line for _, line in kept]}, number=[at for at, _ in kept], unit="line")


def _lines(source: str) -> Iterator[str]:
    with Path(source).open(encoding="utf-8-sig", newline="\n") as file:
        yield from file


def _parquet(source: str, wanted: Sequence[str]) -> Columns:
    try:
        import pyarrow  # noqa: PLC0415 - an extra
        import pyarrow.parquet  # noqa: PLC0415
    except ModuleNotFoundError as fault:
        raise ExtraError(source, f"Parquet needs the package {fault.name}", fix=_INSTALL) from None
    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            schema = file.schema_arrow
            table = file.read(columns=[name for name in schema.names if name in wanted])
    except pyarrow.ArrowException as fault:
        raise SettingError(source, f"is not Parquet ({_first_line(fault)})", fix="write it again") from None
    classes = _class_names(schema.metadata or {})
    return _arrow(source, table, names=schema.names, classes=classes)


def _arrow(source: str, table: Any, *, names: Sequence[str], classes: Mapping[str, Sequence[str]]) -> Columns:
    """The columns of an Arrow table, class numbers as class names; of the others in `names`, the names."""
    cells: dict[str, Sequence[object]] = dict.fromkeys(names, ())
    for name in table.column_names:
        found = table.column(name).to_pylist()
        cells[name] = _named(source, name, found, classes[name]) if name in classes else found
    return Columns(cells=cells, number=range(1, table.num_rows + 1))


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, Sequence[str]]:
    """Names of the classes of each column, as `datasets` notes them in a Parquet file."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {name: column["names"] for name, column in features.items() if column.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _data_set(source: str, wanted: Sequence[str], *, split: str) -> Columns:
    try:
        import datasets  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as fault:
        raise ExtraError(source, f"a data set needs the package {fault.name}", fix=_INSTALL) from None
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        found = _load(datasets, source, split=split)
    except (OSError, ValueError, KeyError, RuntimeError, datasets.exceptions.DatasetsError) as fault:
        reason = _first_line(fault) or type(fault).__name__
        raise SettingError(source, f"datasets cannot read it ({reason})", fix="check the name and the split") from None
    finally:
        if not bars:
            datasets.enable_progress_bars()
    classes = {name: feature.names for name, feature in found.features.items() if hasattr(feature, "int2str")}
    chosen = found.select_columns([name for name in found.column_names if name in wanted])
    return _arrow(source, chosen.with_format("arrow")[:], names=found.column_names, classes=classes)


def _load(datasets: Any, source: str, *, split: str) -> Any:
    """One split of a data set: a folder that `save_to_disk` wrote, a folder of files, or a Hub id."""
    folder = Path(source)
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        saved = datasets.load_from_disk(source)
        return saved[split] if isinstance(saved, dict) else saved
    if folder.is_dir():
        return datasets.load_dataset(source, split=split)
    name, _, config = source.partition(":")
    return datasets.load_dataset(name, config or None, split=split)


def _named(source: str, column: str, cells: Iterable[Any], names: Sequence[str]) -> list[object]:
    """Class numbers as class names."""
    found: list[object] = []
    for at, cell in enumerate(cells, start=1):
        if cell is not None and not 0 <= cell < len(names):
            where = f"{source}, row {at}"
            raise SettingError(where, f"has {column} {cell}", expected=f"0 to {len(names) - 1} (the {column} classes)")
        found.append(None if cell is None else names[cell])
    return found


def _kind(value: object) -> str:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")


def _first_line(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [""])[0][:300]


def _one_of(names: Iterable[str]) -> str:
    return "a folder, a Hub id or a file: " + ", ".join(names)


READERS: Final[Mapping[str, Callable[[str, Sequence[str]], Columns]]] = {
    ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json_lines,
    ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet, ".txt": _plain,
}  # fmt: skip
