"""A step that is done once: a note beside its output tells what it was made from and what was measured."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from deltagram.errors import OutputError
from deltagram.progress import Progress
from deltagram.store.staging import staged_file

_CLAIM = "made-by-deltagram.txt"


def claim(folder: Path, *, purpose: str) -> None:
    """Make `folder`, or go on with one claimed before; OutputError for one that holds anything else."""
    mark = folder / _CLAIM
    if mark.is_file():
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            str(folder),
            "exists and was not made by this job, which would replace files in it",
            expected="an empty or a new folder, or one of an earlier run",
            fix="choose another folder",
        )
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(f"{purpose}\nEverything in this folder may be replaced or deleted.\n", encoding="utf-8")


def once(
    out: Path,
    work: Callable[[], Mapping[str, Any]],
    *,
    made_from: Mapping[str, Any],
    measured: str = "",
    progress: Progress,
) -> dict[str, Any]:
    """What `work` returned in an earlier run, if that still holds; else what it returns now.

    `work` writes the folder `out` and returns numbers, or, with the name of what is `measured`, measures `out`.
    Its result holds as long as `made_from` (settings and digests, as JSON has them) and every byte in `out`
    are what they were. The note is a JSON file beside `out`.
    """
    note = out.with_name(f"{out.name}.{measured or 'made'}.json")
    known = _read(note)
    if known and known["made_from"] == made_from and out.is_dir() and known["out"] == digest(out):
        if not measured:
            progress.say(f"{out}: complete, from an earlier run")
        return dict(known["numbers"])
    numbers = dict(work())
    with staged_file(note, force=True) as path:
        known = {"made_from": dict(made_from), "out": digest(out), "numbers": numbers}
        path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return numbers


def digest(folder: Path) -> str:
    """blake3 over names and contents of all files in `folder`, sorted by name."""
    whole = blake3()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix().encode()
        whole.update(blake3(name).digest())
        whole.update(blake3(max_threads=blake3.AUTO).update_mmap(path).digest())
    return whole.hexdigest()


def _read(note: Path) -> dict[str, Any] | None:
    """A note as written by `once`; None if there is none or it is damaged."""
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    whole = isinstance(known, dict) and known.keys() == {"made_from", "out", "numbers"}
    return known if whole else None
