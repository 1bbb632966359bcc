"""The records of a reproduction: JSON lines that only grow."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deltagram.errors import SettingError
from deltagram.records import Record

_OF_THE_RUN = ("seconds",)


@dataclass(frozen=True)
class Ledger:
    """A file of records, one a line."""

    path: Path

    def records(self) -> Iterator[Record]:
        """All of them, the oldest first. Raises SettingError for a line that is none; the last may be cut off."""
        if not self.path.exists():
            return
        lines = self.path.read_text("utf-8").split("\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                yield Record.model_validate_json(line)
            except ValueError:
                fix = "move the file away; what was measured is in the notes and is not lost"
                raise SettingError(f"{self.path}, line {number}", "is no record", fix=fix) from None

    def add(self, record: Record) -> Record:
        """Append a record, unless the same was there before; what an interruption cut off is removed first."""
        fresh = _lasting(Record.model_validate_json(record.line()))
        if any(_lasting(known) == fresh for known in self.records()):
            return record
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        with self.path.open("r+" if self.path.exists() else "w", encoding="utf-8") as file:
            file.seek(len(whole.encode()))
            file.truncate()
            file.write(record.line() + "\n")
        return record


def _lasting(record: Record) -> Record:
    """A record without what differs from run to run."""
    numbers = {name: value for name, value in record.numbers.items() if name not in _OF_THE_RUN}
    return record.model_copy(update={"numbers": numbers})
