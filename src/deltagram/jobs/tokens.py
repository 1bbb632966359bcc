"""A corpus -> what follows each context: counts, thresholds, a LabelMatrix and what it looks like."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from deltagram.data.contexts import Packing
from deltagram.data.corpus import open_corpus
from deltagram.data.imbalance import I64
from deltagram.data.labels import LabelMatrix
from deltagram.data.ngramcounts import Counter
from deltagram.data.supportsummary import summarise
from deltagram.data.thresholds import Kept, Thresholds, filtered
from deltagram.data.tokenise import count_blocks
from deltagram.data.tokenlabels import NAMED, label_matrix
from deltagram.data.tokenstore import TokenStore
from deltagram.data.words import Tokenizer
from deltagram.errors import SettingError
from deltagram.jobs.tokenreading import TOKENIZER, Reading, work_folder
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.staging import check_output, staged_file

BLOCK: Final = 1 << 21  # tokens that are counted at once
LEAST: Final = 500 * 10**6  # bytes of memory
_PAIR: Final = 128  # bytes that a pair of context and next word takes while the matrix is made
_FEW: Final = 6  # words of a support that the record names


def tokens(
    corpus: Path | str,
    out: Path | str,
    *,
    context: int | None = None,
    lengths: Sequence[int] = (),
    tokenizer: str | None = None,
    documents: str = "line",
    across: bool = False,
    end: bool = False,
    lower: bool = False,
    text: str = "text",
    dtype: str = "uint16",
    separator: int | None = None,
    vocabulary: int | None = None,
    words: int | None = None,
    min_count: int = 1,
    min_next: int = 1,
    min_probability: float = 0.0,
    max_contexts: int | None = None,
    memory: int = 2 * 10**9,
    resume: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
) -> Record:
    """Count what follows each context of `context` tokens (or of several `lengths`) in a corpus, exactly.

    `corpus` is a file or folder of texts or token numbers; docs/tokens.md says how each is read. Writes a LabelMatrix
    (`LabelMatrix.load`) with token numbers to `out`, and beside it the tokenizer.json of a
    byte-pair encoding that was trained (`bpe:SIZE`). Thresholds filter samples, see `data.thresholds`. `memory` in
    bytes bounds counting and what may be kept; the rest goes to the folder `OUT.tokens`.

    Raises SettingError, OutputError, CheckpointError or ExtraError; then nothing is written.
    """
    meter, out, opened = Meter.start(), Path(out), open_corpus(corpus, whole=documents == "file")
    if (context is None) == (not lengths):
        raise SettingError("context", "and lengths: one of them", fix="give --context T or --lengths 1,2,3")
    if memory < LEAST:
        raise SettingError("memory", f"is {memory:,} bytes", expected=f"{LEAST:,} or more")
    reading = Reading(
        corpus=opened, tokenizer=tokenizer, lengths=(context,) if context is not None else tuple(sorted(lengths)),
        documents=documents, across=across, end=end, lower=lower, text=text, dtype=dtype, separator=separator,
        vocabulary=vocabulary, block=BLOCK,
    )  # fmt: skip
    thresholds = Thresholds(
        words=words, count=min_count, following=min_next, probability=min_probability, contexts=max_contexts
    )
    inputs = [Path(corpus)]
    beside = out.with_name(TOKENIZER) if reading.trained is not None else None
    for path in filter(None, (out, beside)):
        check_output(path, force=force, inputs=inputs, lone=True)
    with work_folder(out, reading.made_from(), resume=resume, force=force) as begun:
        used_tokenizer = reading.opened(begun.folder, progress)
        store = reading.filled(begun, used_tokenizer, progress)
        read = meter.numbers()["seconds"]
        labels, kept = _counted(store, reading, used_tokenizer, thresholds, memory=memory, progress=progress)
        with staged_file(out, force=force, inputs=inputs) as path:
            labels.save(path)
        if beside is not None:
            with staged_file(beside, force=force, inputs=inputs) as path:
                path.write_bytes((store.folder / TOKENIZER).read_bytes())
    settings = {
        "corpus": str(corpus), "out": str(out), "lengths": list(reading.lengths),
        "tokenizer": tokenizer or ("numbers" if opened.arrays else "whitespace"),
        "documents": documents, "across": across, "end": end, "lower": lower,
        "text": text, "separator": separator, "vocabulary": vocabulary, "words": words, "min_count": min_count,
        "min_next": min_next, "min_probability": min_probability, "max_contexts": max_contexts, "memory": memory,
        "tokenizer_file": None if beside is None else str(beside),
    }  # fmt: skip
    found = {**_numbers(store, labels, kept), **meter.numbers(), "reading_seconds": read}
    found["tokens_per_second"] = round(store.tokens / max(found["seconds"], 1e-9))
    return Record(job="tokens", settings=settings, numbers=found)


def _counted(
    store: TokenStore, reading: Reading, tokenizer: Tokenizer | None, thresholds: Thresholds, *, memory: int,
    progress: Progress,
) -> tuple[LabelMatrix, list[Kept]]:  # fmt: skip
    """Count each length, filter by all lengths' next words, and make one matrix."""
    if store.tokens < 2:
        found = f"holds {store.tokens} token{'s' * (store.tokens != 1)}"
        raise SettingError(reading.corpus.source, found, expected="two or more: one that follows another")
    order, names = _vocabulary(store, tokenizer)
    rank = np.zeros(int(order.max()) + 1, np.uint32)
    rank[order] = np.arange(len(order))
    packings = [Packing(length=length, symbols=len(order)) for length in reading.lengths]
    counters = [Counter(folder=store.folder, packing=packing, memory=memory // 2) for packing in packings]
    following = np.zeros(len(order), np.int64)
    for counter in counters:
        block = -(-BLOCK // counter.packing.words)  # so that long contexts take no more memory
        count_blocks(store, counter, rank, block=block, across=reading.across, progress=progress)
        following += counter.following(len(order))
    if not following.any():
        found = f"have no context of {reading.lengths[0]} tokens with a token after it"
        raise SettingError(
            f"{reading.corpus.source}: its documents", found, fix="give a shorter --context, or --across"
        )
    allowed, room = thresholds.allowed(following), memory // _PAIR
    kept: list[Kept] = []
    for counter in counters:
        progress.advance("putting counts together", len(kept), len(counters))
        left, many = room - sum(len(k.count) for k in kept), counter.packing.words
        kept.append(filtered(counter.merged(), thresholds, words=many, allowed=allowed, room=left))
    if not any(len(k.sizes) for k in kept):
        found = f"leave nothing of {sum(k.seen for k in kept):,} contexts"
        raise SettingError("thresholds", found, expected="a context or more", fix="lower them")
    own = tokenizer is not None and tokenizer.by_name
    labels = label_matrix(
        list(zip(packings, kept, strict=True)), tokens=np.arange(len(order)) if own else order, names=names,
        joined_by=tokenizer.joined_by if tokenizer is not None else " ", contexts=thresholds.contexts,
    )  # fmt: skip
    return labels, kept


def _vocabulary(store: TokenStore, tokenizer: Tokenizer | None) -> tuple[I64, Sequence[str]]:
    """Token numbers that occur, as keys order them, and names: of token numbers, or of ranks in an own vocabulary.

    An own vocabulary is numbered in the order of first use, which must not matter: its words are ordered by name.
    """
    occurring = np.flatnonzero(store.used(BLOCK))
    if tokenizer is not None and tokenizer.by_name:
        held = store.names()
        order = np.array(sorted(occurring.tolist(), key=held.__getitem__), np.int64)
        return order, [held[number] for number in order]
    return occurring, tokenizer.names if tokenizer is not None else [str(n) for n in range(int(occurring.max()) + 1)]


def _numbers(store: TokenStore, labels: LabelMatrix, kept: Sequence[Kept]) -> dict[str, Any]:
    """What was read, what was kept, and the supports."""
    words, contexts = labels.shape
    found = summarise(labels)
    shared = [
        {
            "words": [labels.words[row] for row in rows[:_FEW]], "size": len(rows), "contexts": many,
            "share": many / contexts,
        }
        for rows, many in found.shared
    ]  # fmt: skip
    return {
        "tokens": store.tokens, "documents": store.documents, "samples": sum(k.samples for k in kept),
        "contexts": sum(k.seen for k in kept), "kept_samples": labels.samples, "kept_contexts": contexts,
        "kept_words": words, "kept_pairs": int(labels.probabilities.nnz), "entropy": labels.entropy,
        "support_sizes": found.bins,
        "one_word_share": found.one_word_share, "distinct_supports": found.distinct, "shared_supports": shared,
        "named_contexts": contexts <= NAMED,
    }  # fmt: skip
