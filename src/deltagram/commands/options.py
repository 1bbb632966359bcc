"""Arguments and options that several commands share, and how a command ends."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltagram.errors import SettingError

if TYPE_CHECKING:
    from deltagram.records import Record

BaseModel = Annotated[str, typer.Argument(metavar="BASE", help="Base model: directory, .safetensors file or Hub id.")]
TunedModel = Annotated[str, typer.Argument(metavar="TUNED", help="Fine-tuned model.")]
DeltaFolder = Annotated[Path, typer.Argument(metavar="DELTA", help="Delta directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable record, and nothing else, on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
Threads = Annotated[int | None, typer.Option(min=1, max=256, help="Threads (default: processors, eight at most).")]

Calibration = Annotated[
    str | None,
    typer.Option(help="Texts without labels: .jsonl, .csv, .tsv, .parquet, .txt, a folder or Hub id of datasets."),
]
Labels = Annotated[str | None, typer.Option(help="Labelled texts of the same kinds (columns text and label).")]
Metric = Annotated[
    str | None,
    typer.Option(help="With --labels: accuracy, balanced-accuracy, f1 or matthews; perplexity for a language model."),
]
Texts = Annotated[
    int | None, typer.Option(help="Calibration texts to look at: 64, or 512 where something is fitted to them.")
]
MaxLength = Annotated[int, typer.Option(help="Tokens of a text at most.")]
Device = Annotated[str, typer.Option(help="Where models run: cpu, cuda, cuda:1, mps.")]


def emit(record: "Record", show: "Callable[[Record], None]", *, json: bool) -> None:
    """Print a record: as one line of JSON, or as `show` puts it."""
    if json:
        print(record.line())
    else:
        show(record)


def renames(texts: list[str] | None) -> list[tuple[str, str]]:
    """`OLD=NEW` texts as pairs. Raises SettingError for one without '='."""
    return [_rename(text) for text in texts or ()]


def _rename(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals:
        raise SettingError("--rename", f"{text!r} has no '='", expected="OLD=NEW, such as encoder.=bert.encoder.")
    return old, new


def parse_bytes(text: str, *, option: str = "--budget") -> int:
    """A size such as 20MB, 1.5GiB, 300kB or 4096, in bytes."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    number = text.strip().upper()
    unit = number.lstrip("0123456789.").strip()
    try:
        size = int(float(number[: len(number) - len(unit)] if unit else number) * units[unit])
    except (KeyError, ValueError, OverflowError):
        raise SettingError(option, f"{text!r} is not a size", expected="bytes, such as 20MB or 512KiB") from None
    if size <= 0:
        raise SettingError(option, f"{text!r} is not positive")
    return size


def numbers(option: str, text: str) -> list[float]:
    """Numbers such as `500,500,50` or `500x5,50x5`, or those in a .json or .txt file.

    Raises SettingError for text that is neither, and for a file that cannot be read.
    """
    path = Path(text)
    if path.suffix in (".json", ".txt"):
        try:
            content = path.read_text("utf-8")
        except (OSError, ValueError) as fault:
            raise SettingError(option, f"{text} cannot be read ({fault})") from None
        text = content.strip().strip("[]").replace("\n", ",")
    found: list[float] = []
    for part in filter(None, (piece.strip() for piece in text.replace(" ", ",").split(","))):
        value, _, times = part.partition("x")
        try:
            found += [float(value)] * (int(times) if times else 1)
        except ValueError:
            raise SettingError(
                option, f"{part!r} is no number", expected="numbers such as 500,500,50 or 500x5"
            ) from None
    if not found:
        raise SettingError(option, "holds no numbers", expected="numbers such as 500,500,50 or 500x5")
    return found
