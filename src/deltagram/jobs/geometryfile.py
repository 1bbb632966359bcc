"""A geometry in the file that `predict` wrote."""

import json
from pathlib import Path
from typing import Any

from deltagram.errors import SettingError
from deltagram.geometry.gram import Geometry
from deltagram.geometry.wordcontext import WordContext


def read_geometry(path: Path) -> Geometry:
    """The geometry of classes in `path`. Raises SettingError for a file that cannot be read or is another one."""
    return Geometry.of_data(_held(path))


def read_tokens(path: Path) -> WordContext:
    """The geometry of words and contexts in `path`. Raises as `read_geometry`."""
    return WordContext.of_data(_held(path))


def _held(path: Path) -> dict[str, Any]:
    """What is under "geometry" there."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as fault:
        raise SettingError(str(path), f"cannot be read ({fault})", expected="what predict -o writes") from None
    if not isinstance(found, dict) or not isinstance(found.get("geometry"), dict):
        raise SettingError(str(path), "holds no geometry", expected="what predict -o writes")
    held: dict[str, Any] = found["geometry"]
    return held
