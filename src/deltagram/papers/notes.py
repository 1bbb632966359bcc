"""Measurements that are made once: each has a note, a small file named by all that it depends on."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from deltagram.store.staging import staged_file


@dataclass(frozen=True)
class Notes:
    """A folder of notes. Whoever is interrupted goes on from those that are there."""

    folder: Path

    def once(self, made_from: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """What was measured from just this (JSON data) before, else what `measure` gives now, as JSON has it."""
        key = json.dumps(made_from, sort_keys=True)
        note = self.path(made_from)
        known = _read(note)
        if known is not None and json.dumps(known["made_from"], sort_keys=True) == key:
            return dict(known["numbers"])
        text = json.dumps({"made_from": dict(made_from), "numbers": dict(measure())})
        self.folder.mkdir(parents=True, exist_ok=True)
        with staged_file(note, force=True) as path:
            path.write_text(text + "\n", encoding="utf-8")
        return dict(json.loads(text)["numbers"])

    def path(self, made_from: Mapping[str, Any]) -> Path:
        """Where the note is, or would be."""
        name = blake3(json.dumps(made_from, sort_keys=True).encode()).hexdigest(16)
        return self.folder / f"{name}.json"


def _read(path: Path) -> dict[str, Any] | None:
    """A note; None if there is none or it is damaged."""
    try:
        known = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return known if isinstance(known, dict) and known.keys() == {"made_from", "numbers"} else None
