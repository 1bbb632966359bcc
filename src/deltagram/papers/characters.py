"""Characters of a text as next tokens: contexts of a few characters, and those among them that share supports."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from blake3 import blake3

from deltagram.data.imbalance import I64
from deltagram.data.labels import LabelMatrix
from deltagram.data.packages import rotten_tomatoes
from deltagram.errors import SettingError
from deltagram.jobs.tokens import tokens
from deltagram.papers.bench import Bench

_REFERENCE: Final = re.compile(r"\A\S+:\d+ ")  # Ge1:1 before a verse
_OTHER: Final = re.compile(r"[^a-z ,.]")


def counted(bench: Bench, settings: Mapping[str, Any]) -> LabelMatrix:
    """What follows contexts of `context` characters in the text of the bench, above `min_count`, `min_probability`.

    The text is the King James Bible where the folder of releases has `kjv.txt`, else the packaged Rotten Tomatoes;
    lower case, and of the rest only space, comma and full stop. Counted once.
    """
    text = "\n".join(cleaned(_lines(bench)))
    told = {name: settings[name] for name in ("context", "min_count", "min_probability")}
    name = blake3(repr((sorted(told.items()), text)).encode()).hexdigest(8)
    source, out = bench.folder / f"characters-{name}.txt", bench.folder / f"characters-{name}.npz"
    if not out.exists():
        source.write_text(text, encoding="utf-8")
        tokens(source, out, tokenizer="byte", **told, force=True, progress=bench.progress)
    return LabelMatrix.load(out)


def text_file(bench: Bench) -> Path:
    """The text as it is, a line each, in the folder of the bench."""
    out = bench.folder / "text.txt"
    out.write_text("\n".join(_lines(bench)), encoding="utf-8")
    return out


def _lines(bench: Bench) -> Sequence[str]:
    if bench.releases is not None and (bench.releases / "kjv.txt").exists():
        return _read(bench.releases / "kjv.txt")
    return rotten_tomatoes().train.text


def _read(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as fault:
        raise SettingError(str(path), f"cannot be read ({fault})", expected="a text in UTF-8") from None


def cleaned(lines: Sequence[str]) -> list[str]:
    """Lines without the reference of a verse, in lower case, of letters, space, comma and full stop alone.

    >>> cleaned(["Ge1:3 And God said, Let there be light: and there was light."])
    ['and god said, let there be light and there was light.']
    """
    return [_OTHER.sub("", _REFERENCE.sub("", line).lower()) for line in lines]


def sharing(labels: LabelMatrix, *, supports: int, contexts: int) -> LabelMatrix:
    """The `supports` that most contexts share, the `contexts` most frequent of each, counts as they are.

    Raises SettingError where fewer than two supports are shared by so many contexts.
    """
    found = labels.supports
    order = np.argsort(-found.multiplicity, kind="stable")
    chosen = [group for group in order.tolist() if found.multiplicity[group] >= contexts][:supports]
    if len(chosen) < 2:
        told = f"{len(chosen)} supports are shared by {contexts} contexts or more"
        raise SettingError("text", told, expected="two or more", fix="give a longer text, or lower min_count")
    columns = np.concatenate([_frequent(labels, found.of, group, contexts) for group in chosen])
    return replace(labels.taken(columns), samples=round(float(labels.weights[columns].sum()) * labels.samples))


def _frequent(labels: LabelMatrix, of: I64, group: int, contexts: int) -> I64:
    columns = np.flatnonzero(of == group)
    return columns[np.argsort(-labels.weights[columns], kind="stable")[:contexts]].astype(np.int64)


def even(labels: LabelMatrix) -> LabelMatrix:
    """Each context as often as any other; of samples none is spoken any more."""
    m = labels.shape[1]
    return replace(labels, weights=np.full(m, 1 / m), samples=0)


def chosen(bench: Bench, settings: Mapping[str, Any]) -> LabelMatrix:
    """The contexts that the claims are tried on, evenly weighted, without characters that follow none of them."""
    found = sharing(counted(bench, settings), supports=settings["supports"], contexts=settings["contexts"])
    return even(found.occurring()[0])
