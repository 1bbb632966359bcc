"""A corpus into a store of tokens, then into files of counts: block by block, going on where an earlier run ended."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import numpy as np

from deltagram.data.contexts import samples
from deltagram.data.corpus import Corpus
from deltagram.data.imbalance import I64
from deltagram.data.ngramcounts import Counter
from deltagram.data.tokenarrays import TokenArrays
from deltagram.data.tokenstore import TokenStore
from deltagram.data.words import U32, Tokenizer
from deltagram.progress import Progress

_CHARACTERS = 1 << 20  # that go to the tokenizer at once


def store_texts(
    store: TokenStore, corpus: Corpus, tokenizer: Tokenizer, documents: Iterable[tuple[str, int]], *, end: bool,
    block: int, progress: Progress,
) -> TokenStore:  # fmt: skip
    """The store with all documents read, of which it has those before its place; written every `block` tokens."""
    ending = tokenizer.end() if end else None
    size, at = sum(corpus.sizes), store.place
    held: list[tuple[U32, I64]] = []
    for texts, read in _batches(documents, skip=store.place):
        numbers, lengths = tokenizer.encode(texts)
        ends = np.cumsum(lengths)
        if ending is not None:
            numbers = np.insert(numbers, ends, np.uint32(ending))
            ends = ends + np.arange(1, len(ends) + 1)
        held.append((numbers, ends))
        at += len(texts)
        if sum(len(numbers) for numbers, _ in held) >= block:
            store, held = _written(store, held, tokenizer, place=at), []
        progress.advance("tokenising", read, size)
    return _written(store, held, tokenizer, place=at).finished()


def store_arrays(store: TokenStore, arrays: TokenArrays, *, block: int, progress: Progress) -> TokenStore:
    """The store with all numbers of token arrays read."""
    total = arrays.total()
    for tokens, ends, place in arrays.blocks(block, place=store.place):
        store = store.append(tokens, ends, place=place)
        progress.advance("reading", place, total)
    return store.finished()


def count_blocks(
    store: TokenStore, counter: Counter, rank: U32, *, block: int, across: bool, progress: Progress
) -> None:
    """Count the contexts of the counter's length, but for blocks that an earlier run counted.

    `rank` is what each token number is called in keys. With `across` contexts do not stop at the ends of documents.
    """
    length = counter.packing.length
    for number, start in enumerate(range(0, store.tokens, block)):
        stop = min(start + block, store.tokens)
        if not counter.has(number):
            low = max(0, start - length)
            tokens, ends = store.block(low, stop)
            at = samples(tokens, ends[:0] if across else ends, first=start - low, length=length)
            ranks = rank[tokens]
            counter.count(number, counter.packing.packed(ranks, at), ranks[at])
        progress.advance(f"counting contexts of {length}", stop, store.tokens)


def _batches(documents: Iterable[tuple[str, int]], *, skip: int) -> Iterator[tuple[Sequence[str], int]]:
    """Documents after the first `skip`, enough at a time, and bytes up to their end."""
    texts: list[str] = []
    characters = read = 0
    with closing(iter(documents)) as reading:  # type: ignore[type-var]  # a generator, which closes its file
        for number, (text, at) in enumerate(reading):
            if number < skip:
                continue
            texts.append(text)
            characters, read = characters + len(text), at
            if characters >= _CHARACTERS:
                yield texts, read
                texts, characters = [], 0
    if texts:
        yield texts, read


def _written(store: TokenStore, held: list[tuple[U32, I64]], tokenizer: Tokenizer, *, place: int) -> TokenStore:
    """The store with what was held."""
    if not held:
        return store
    lengths = np.array([len(numbers) for numbers, _ in held], np.int64)
    ends = [ends + before for (_, ends), before in zip(held, np.cumsum(lengths) - lengths, strict=True)]
    numbers = np.concatenate([numbers for numbers, _ in held])
    names = tokenizer.names if tokenizer.by_name else ()
    return store.append(numbers, np.concatenate(ends), place=place, names=names)
