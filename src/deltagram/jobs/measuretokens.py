"""language models and what follows each context -> how words and contexts lie, beside what the labels predict."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from deltagram.arrays import F64
from deltagram.data.imbalance import I64
from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError
from deltagram.geometry.conceptorder import half_learnt, strengths
from deltagram.geometry.concepts import collapse, directions
from deltagram.geometry.contextcompare import LogitNumbers, Spread, beyond, checked
from deltagram.geometry.cosinestructure import PERMUTATIONS, agreements, cosine_matrix, gram_distance
from deltagram.geometry.factors import Factors, centred_factors
from deltagram.geometry.wordpredictors import BASELINES, OWN, context_predictors, word_predictors, word_shares
from deltagram.jobs.wordcontextfile import read_prediction
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.staging import check_output, staged_file
from deltagram.training.lmstates import WordStates, word_states
from deltagram.training.loaded import loaded
from deltagram.training.vocabulary import check_vocabulary
from deltagram.training.wordmodels import ids_of

CONTEXTS: Final = 1000
WORDS: Final = 1000
CONCEPTS: Final = 8
_SHOWN: Final = 6  # words a side of a concept
_ROUNDING: Final = 1e-12
_FEW: Final = 8  # words or contexts, below which pairs say nothing of structure
_STEP: Final = re.compile(r"(\d+)$")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """The labels that are measured, which words' cosines are compared, predictors of cosines by name, concepts."""

    labels: LabelMatrix
    words: I64
    concepts: Factors
    of_contexts: Mapping[str, F64]
    of_words: Mapping[str, F64]

    @classmethod
    def of(
        cls, labels: LabelMatrix, *, contexts: int, words: int, against: Mapping[str, Path], source: str
    ) -> Self:  # fmt: skip
        """The most frequent contexts, and of their next words the most frequent ones."""
        predicted = {name: read_prediction(path, labels, source=source) for name, path in against.items()}
        columns = np.sort(np.argsort(-labels.weights, kind="stable")[:contexts])
        some, rows = labels.taken(columns).occurring() if len(columns) < labels.shape[1] else labels.occurring()
        if min(some.shape) < _FEW:
            found = f"have {some.shape[0]} words that follow {some.shape[1]} contexts"
            raise SettingError(source, found, expected=f"{_FEW} or more of each, whose cosines can be compared")
        chosen = np.sort(np.argsort(-word_shares(some), kind="stable")[:words]).astype(np.int64)
        of_contexts, of_words = context_predictors(some), word_predictors(some, chosen)
        for name, one in predicted.items():
            vectors = one.word_vectors[rows]
            of_contexts[name] = cosine_matrix(one.context_vectors[columns])
            of_words[name] = cosine_matrix((vectors - vectors.mean(0))[chosen])
        concepts = centred_factors(some, min(CONCEPTS, min(some.shape) - 1))
        return cls(labels=some, words=chosen, concepts=concepts, of_contexts=of_contexts, of_words=of_words)


def measure_tokens(
    models: Sequence[Path | str],
    tokens: Path | str,
    *,
    contexts: int = CONTEXTS,
    words: int = WORDS,
    layer: int | None = None,
    against: Sequence[str] = (),
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    device: str = "cpu",
    out: Path | str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> Record:
    """Measure causal language models, such as the checkpoints of a run, on the contexts of a label matrix `tokens`.

    Looks at the `contexts` most frequent contexts and compares the cosines of the `words` most frequent next words.
    `layer` takes states from a block's output instead of what the output layer sees. `against` are files that
    `predict --tokens` wrote. Models whose names all end in numbers come in that order. Writes the record to `out` if
    that is given, and nothing else.

    Raises SettingError, CheckpointError, OutputError or ExtraError; then nothing is written.
    """
    meter, tokens = Meter.start(), Path(tokens)
    for name, value, least in (("contexts", contexts, _FEW), ("words", words, _FEW), ("permutations", permutations, 1)):
        if value < least:
            raise SettingError(name, f"{value}", expected=f"{least} or more")
    folders = in_order([Path(model) for model in models])
    files = {Path(name).stem: Path(name) for name in against}
    taken = [name for name in files if name in OWN]
    if taken or len(files) < len(against):
        found = f"{taken[0]!r} is a predictor of its own" if taken else "have one name twice"
        raise SettingError("against", found, expected="files of different names", fix="rename the file")
    inputs = [*folders, tokens, *files.values()]
    if out is not None:
        check_output(Path(out), force=force, inputs=inputs, lone=True)
    labels = LabelMatrix.load(tokens)
    _with_ids(labels, tokens)
    task = _Task.of(labels, contexts=contexts, words=words, against=files, source=str(tokens))
    rows = []
    for number, folder in enumerate(folders):
        states, known = _states(folder, task.labels, layer=layer, device=device, progress=progress)
        told = {"model": str(folder), "vocabulary_checked": known, "norm": states.norm}
        rows.append(told | _plain(_measured(task, states, permutations=permutations, seed=seed)))
        progress.advance("models", number + 1, len(folders))
    settings = {
        "models": [str(folder) for folder in folders], "tokens": str(tokens), "contexts": contexts, "words": words,
        "layer": layer, "against": list(against), "permutations": permutations, "device": device,
        "out": None if out is None else str(out),
    }  # fmt: skip
    concepts = _concepts(task, [np.asarray(row["strengths"]) for row in rows])
    numbers = {**_of_labels(task, layer), "models": rows, "concepts": concepts, **meter.numbers()}
    record = Record(job="measure", settings=settings, seed=seed, numbers=numbers)
    if out is not None:
        with staged_file(Path(out), force=force, inputs=inputs) as path:
            path.write_text(record.line() + "\n")
    return record


def in_order(folders: Sequence[Path]) -> list[Path]:
    """Checkpoints by the number at the end of their names, where all have one and no two the same; else as given.

    >>> [str(path) for path in in_order([Path("run/checkpoint-1000"), Path("run/checkpoint-200")])]
    ['run/checkpoint-200', 'run/checkpoint-1000']
    """
    found = [_STEP.search(folder.name) for folder in folders]
    steps = [int(one.group()) for one in found if one]
    if len(set(steps)) < len(folders):
        return list(folders)
    return [folder for _, folder in sorted(zip(steps, folders, strict=True))]


def _with_ids(labels: LabelMatrix, path: Path) -> None:
    try:
        ids_of(labels)
    except SettingError as fault:
        raise SettingError(str(path), fault.found, expected=fault.expected, fix=fault.fix) from None


def _states(
    folder: Path, labels: LabelMatrix, *, layer: int | None, device: str, progress: Progress
) -> tuple[WordStates, bool]:  # fmt: skip
    context_ids, word_ids = ids_of(labels)
    with loaded(folder, open_checkpoint(folder).specs, device=device) as run:
        states = word_states(run, context_ids, word_ids, layer=layer, progress=progress)
    return states, check_vocabulary(folder, labels.words, word_ids)


def _of_labels(task: _Task, layer: int | None) -> dict[str, Any]:
    """What the numbers are of, and what a reader must know of them."""
    labels = task.labels
    state = "what the output layer sees of the last token, its length set by the final norm: compare cosines"
    if layer is not None:
        state = f"of the last token, {'into block 1' if not layer else f'out of block {layer}'}; logits are the model's"
    return {
        "contexts": labels.shape[1], "words": labels.shape[0], "words_compared": len(task.words),
        "supports": len(labels.supports.multiplicity), "entropy": labels.entropy,
        "conventions": {
            "states": state, "words": "output embeddings of next words, less their mean", "logits": "columns centred",
            "softmax": "over the next words alone", "given": [name for name in BASELINES if name in task.of_contexts],
        },
    }  # fmt: skip


def _concepts(task: _Task, over: Sequence[F64]) -> list[dict[str, Any]]:
    """The largest directions of the centred supports: words of each side, and the model that has half its strength."""
    words = task.labels.words or tuple(str(number) for number in ids_of(task.labels)[1])
    found = zip(directions(task.concepts, first=CONCEPTS, shown=_SHOWN), half_learnt(over), strict=True)
    return [
        {"size": one.size, "up": [words[z] for z in one.words_up], "down": [words[z] for z in one.words_down],
         "half_by": half}
        for one, half in found
    ]  # fmt: skip


def _measured(task: _Task, states: WordStates, *, permutations: int, seed: int) -> dict[str, Any]:
    """All numbers of one model."""
    labels = task.labels
    logits = checked(states.logits, labels)
    h, w = states.states.astype(np.float64), states.words - states.words.mean(0)
    centred = {"states": h, "centred_states": h - h.mean(0), "logits": (logits - logits.mean(0)).T}
    support = labels.supports.of
    spreads = {name: asdict(Spread.of(part, support)) for name, part in centred.items()}
    spreads["beyond"] = asdict(Spread.of(beyond(logits, labels).T, support))
    spreads["words"] = asdict(Spread.of(w, collapse(labels).words))
    views = {name: (cosine_matrix(part), task.of_contexts) for name, part in centred.items()}
    views["words"] = (cosine_matrix(w[task.words]), task.of_words)
    structure = {
        name: _structure(cosines, predictors, permutations=permutations, seed=seed)
        for name, (cosines, predictors) in views.items()
    }
    outside = -np.expm1(np.logaddexp.reduce(logits, axis=0) - states.log_partition)
    return {
        "logits": LogitNumbers.of(logits, labels).data(),
        "other_tokens": float(labels.weights @ np.where(outside > _ROUNDING, outside, 0.0)),
        "strengths": strengths(logits, task.concepts).tolist(),
        "norms": {"states": _lengths(h), "words": _lengths(w)}, "collapse": spreads, "structure": structure,
    }  # fmt: skip


def _structure(
    cosines: F64, predictors: Mapping[str, F64], *, permutations: int, seed: int
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Each predictor's correlation, its partial one given the baselines, p-values, and the distance of Grams."""
    given = [predictors[name] for name in BASELINES if name in predictors]
    rest = {name: one for name, one in predictors.items() if name not in BASELINES}
    plain = agreements(cosines, predictors, permutations=permutations, seed=seed)
    partial = agreements(cosines, rest, given=given, permutations=permutations, seed=seed)
    found: dict[str, dict[str, Any]] = {
        name: {"correlation": one.correlation, "p_value": one.p_value, "rows": one.rows} for name, one in plain.items()
    }
    for name, one in partial.items():
        distance = gram_distance(cosines, predictors[name])
        found[name] |= {"partial": one.correlation, "partial_p_value": one.p_value, "gram_distance": distance}
    return found


def _lengths(vectors: F64) -> dict[str, float]:
    size = np.linalg.norm(vectors, axis=1)
    return {"mean": float(size.mean()), "deviation": float(size.std() / size.mean()) if size.any() else float("nan")}


def _plain(value: Any) -> Any:
    """As JSON has it: what is not a number is None."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
