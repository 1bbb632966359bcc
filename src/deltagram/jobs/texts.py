"""Which texts a selection chooses on, and which it never looks at before its guarantee."""

from dataclasses import dataclass

from deltagram.data.tables import read_table
from deltagram.errors import SettingError
from deltagram.jobs.evidence import Evidence, LabelledTexts, labelled_texts
from deltagram.training.loaded import Loaded

FEWEST = 8  # distinct texts: four to choose on, four to be held out
FITTED = 512  # texts that scales are fitted to, at most
LABELLED = 512  # labelled texts that compare candidates, at most
HELD_OUT = 2048  # texts the guarantee is on, at most


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Texts by what they are for.

    `fitted` are what scales (and values) are fitted to; `scored` compare candidates (by output change), so that none
    wins by fitting what it is judged by; `labelled` compare candidates by a metric; `held_out` are none of these.
    `leading` is how many texts the file begins with before the first scored one.
    """

    scored: tuple[str, ...]
    fitted: tuple[str, ...]
    labelled: LabelledTexts | None
    held_out: tuple[str, ...]
    leading: int


def parts(run: Loaded, evidence: Evidence) -> Parts:
    """The second half of the distinct texts is held out. Labelled texts, where they are all there is, are split alike.

    Raises SettingError where there is no file of texts, for one with fewer than `FEWEST` distinct texts, and for what
    `labelled_texts` refuses.
    """
    if evidence.calibration is None and evidence.labels is None:
        raise SettingError("select", "has no text to measure on", fix="give texts with --calibration FILE")
    known = None if evidence.labels is None else labelled_texts(run, evidence)
    if evidence.calibration is not None:
        source = str(evidence.calibration)
        texts = read_table(source, labelled=False).text
    else:
        source, texts = str(evidence.labels), known.text if known else ()
    distinct = tuple(dict.fromkeys(texts))
    if len(distinct) < FEWEST:
        raise SettingError(
            source, f"has {len(distinct)} distinct texts",
            expected=f"{FEWEST} or more: half of them choose, half are held out for the guarantee",
            fix="add texts of the kind the model will see",
        )  # fmt: skip
    half = (len(distinct) + 1) // 2
    choosing, held_out = distinct[:half], distinct[half:]
    if known is not None:
        if evidence.calibration is None:
            known = _only(known, frozenset(choosing))
        else:  # no labelled text may be in what the guarantee is on
            used = frozenset(known.text)
            held_out = tuple(text for text in held_out if text not in used)
    if not held_out:
        raise SettingError(source, "has no text that is not in the labelled file too", fix="add other texts")
    if known is not None and len(known.text) > LABELLED:
        known = _only(known, frozenset(known.text[:: -(-len(known.text) // LABELLED)]))
    count = min(evidence.searched, len(choosing) // 2)
    fitted, scored = choosing[:-count], choosing[-count:]
    return Parts(
        scored=scored,
        fitted=fitted[:FITTED],
        labelled=known,
        held_out=held_out[:HELD_OUT],
        leading=texts.index(scored[0]),
    )


def _only(known: LabelledTexts, texts: frozenset[str]) -> LabelledTexts:
    at = [index for index, text in enumerate(known.text) if text in texts]
    truth = None if known.truth is None else tuple(known.truth[index] for index in at)
    return LabelledTexts(text=tuple(known.text[index] for index in at), truth=truth, metric=known.metric)
