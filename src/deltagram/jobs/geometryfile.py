"""A geometry in the file that `predict` wrote."""

import json
from pathlib import Path

from deltagram.errors import SettingError
from deltagram.geometry.gram import Geometry


def read_geometry(path: Path) -> Geometry:
    """The geometry in `path`. Raises SettingError for a file that cannot be read or is another one."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as fault:
        raise SettingError(str(path), f"cannot be read ({fault})", expected="what predict -o writes") from None
    if not isinstance(found, dict) or not isinstance(found.get("geometry"), dict):
        raise SettingError(str(path), "holds no geometry", expected="what predict -o writes")
    return Geometry.of_data(found["geometry"])
