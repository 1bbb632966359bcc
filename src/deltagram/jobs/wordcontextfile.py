"""A predicted geometry of words and contexts in the file that `predict --tokens` wrote."""

import json
from pathlib import Path

from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.wordcontext import WordContext

_WRITTEN = "what predict --tokens -o writes"


def read_word_context(path: Path, labels: LabelMatrix, *, source: str) -> WordContext:
    """The geometry in `path`, of the words and contexts of these labels, which came from the file `source`.

    Raises SettingError for a file that cannot be read, is another one, or is of other labels.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as fault:
        raise SettingError(str(path), f"cannot be read ({fault})", expected=_WRITTEN) from None
    if not isinstance(found, dict) or not isinstance(found.get("geometry"), dict):
        raise SettingError(str(path), "holds no geometry", expected=_WRITTEN)
    if "word_vectors" not in found["geometry"]:
        raise SettingError(str(path), "holds a geometry of classes", expected=_WRITTEN)
    geometry = WordContext.of_data(found["geometry"])
    if geometry.shape != labels.shape:
        was, now = ("{} words and {} contexts".format(*shape) for shape in (geometry.shape, labels.shape))
        raise SettingError(str(path), f"is of {was}", expected=f"{now}, as {source} has", fix="predict from that file")
    sides = ((geometry.word_names, labels.words), (geometry.context_names, labels.contexts))
    if any(one and other and one != other for one, other in sides):
        raise SettingError(str(path), f"is of other words or contexts than {source}", fix="predict from that file")
    return geometry
