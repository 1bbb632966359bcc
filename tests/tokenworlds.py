"""Next tokens for tests: small supports that have an exact answer, drawn ones, and language-like ones."""

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

FANO = [(0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5)]
NOT_EXACT = np.array([[0, 1, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]])  # the smallest for which the proxy is not exact


def of_sets(sets: Any, words: int) -> np.ndarray:
    """1 where a word is in a set, (word, set)."""
    return np.array([[word in held for held in sets] for word in range(words)], np.int64)


def all_subsets(words: int, size: int) -> np.ndarray:
    return of_sets(list(itertools.combinations(range(words), size)), words)


def zipf(words: int, contexts: int, *, seed: int = 0) -> np.ndarray:
    """Language-like: frequent words in most supports, topics, and sizes with a heavy tail."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(10, size=words)
    found = np.zeros((words, contexts), np.int64)
    for context in range(contexts):
        size = min(1 + int(rng.pareto(1.0) * 1.5), words // 2)
        odds = (1 + 20 * (topic == rng.integers(10))) / (np.arange(words) + 2.0)
        found[rng.choice(words, size=size, replace=False, p=odds / odds.sum()), context] = 1
    return found


def asks(supports: np.ndarray) -> bool:
    """Whether each context is followed by something, and two of them by different words that are not all."""
    columns = {tuple(column) for column in (supports > 0).T.tolist() if not all(column)}
    return bool(supports.any(0).all()) and len(columns) > 1


SUPPORTS = arrays(np.int64, st.tuples(st.integers(3, 7), st.integers(2, 8)), elements=st.integers(0, 1)).filter(asks)
