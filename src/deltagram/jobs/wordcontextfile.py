"""A predicted geometry of words and contexts, held against the labels it should be of."""

from pathlib import Path

from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.wordcontext import WordContext
from deltagram.jobs.geometryfile import read_tokens


def read_prediction(path: Path, labels: LabelMatrix, *, source: str) -> WordContext:
    """What `predict --tokens` wrote to `path`, of the words and contexts of these labels, which are in `source`.

    Raises SettingError for a file that cannot be read, is another one, or is of other labels.
    """
    try:
        geometry = read_tokens(path)
    except SettingError as fault:
        if fault.where == str(path):
            raise
        found = f"holds no words and contexts ({fault.found})"
        raise SettingError(str(path), found, expected=fault.expected) from None
    if geometry.shape != labels.shape:
        was, now = ("{} words and {} contexts".format(*shape) for shape in (geometry.shape, labels.shape))
        raise SettingError(str(path), f"is of {was}", expected=f"{now}, as {source} has", fix="predict from that file")
    sides = ((geometry.word_names, labels.words), (geometry.context_names, labels.contexts))
    if any(one and other and one != other for one, other in sides):
        raise SettingError(str(path), f"is of other words or contexts than {source}", fix="predict from that file")
    return geometry
