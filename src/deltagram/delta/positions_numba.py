"""Positions of seeded masks, as compiled loops."""

from typing import Any

import numpy as np

from deltagram.delta.compile_numba import inline, kernel, u64, void, writes

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_CHUNK = 256  # Philox counters at a time
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@inline
def _philox(block: Any, key: Any) -> Any:
    """The four words of one counter, as uint64."""
    c0, c1, c2, c3 = block & _LOW, block >> _32, np.uint64(0), np.uint64(0)
    k0, k1 = key & _LOW, key >> _32
    for _ in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@kernel(void(u64, u64, u64, u64, writes(u64)))
def stratified(size: Any, keep: Any, key: Any, first: Any, out: Any) -> None:
    """Fill `out` with the positions of kept entries `first`, `first + 1`, ..."""
    quotient, remainder = size // keep, size % keep
    start = first * quotient + (first * remainder) // keep
    phase = (first * remainder) % keep
    words = np.empty(4 * _CHUNK, np.uint64)
    at = np.uint64(0)
    total = np.uint64(out.size)
    block = first >> np.uint64(2)
    skip = first & np.uint64(3)
    while at < total:
        for j in range(_CHUNK):
            w0, w1, w2, w3 = _philox(block + np.uint64(j), key)
            words[4 * j], words[4 * j + 1], words[4 * j + 2], words[4 * j + 3] = w0, w1, w2, w3
        for j in range(skip, min(np.uint64(4 * _CHUNK), total - at + skip)):
            phase += remainder
            carry = np.uint64(phase >= keep)
            phase -= carry * keep
            length = quotient + carry
            out[at] = start + ((words[j] * length) >> _32)
            start += length
            at += np.uint64(1)
        block += np.uint64(_CHUNK)
        skip = np.uint64(0)


@kernel(u64(u64, u64, u64, u64))
def bernoulli_count(threshold: Any, key: Any, start: Any, stop: Any) -> Any:
    """How many words of `start` to `stop - 1` are below `threshold`."""
    count = np.uint64(0)
    for block in range(start >> np.uint64(2), (stop + np.uint64(3)) >> np.uint64(2)):
        w0, w1, w2, w3 = _philox(np.uint64(block), key)
        i = np.uint64(block) * np.uint64(4)
        count += np.uint64((w0 < threshold) & (i >= start) & (i < stop))
        i += np.uint64(1)
        count += np.uint64((w1 < threshold) & (i >= start) & (i < stop))
        i += np.uint64(1)
        count += np.uint64((w2 < threshold) & (i >= start) & (i < stop))
        i += np.uint64(1)
        count += np.uint64((w3 < threshold) & (i >= start) & (i < stop))
    return count


@kernel(void(u64, u64, u64, u64, writes(u64)))
def bernoulli(threshold: Any, key: Any, start: Any, stop: Any, out: Any) -> None:
    """Fill `out` with the positions of `start` to `stop - 1` whose word is below `threshold`.

    `out` has one place more than there are such positions; what stands there afterwards means nothing.
    """
    words = np.empty(4 * _CHUNK, np.uint64)
    at = 0
    i = start
    block = start >> np.uint64(2)
    while i < stop:
        for j in range(_CHUNK):
            w0, w1, w2, w3 = _philox(block + np.uint64(j), key)
            words[4 * j], words[4 * j + 1], words[4 * j + 2], words[4 * j + 3] = w0, w1, w2, w3
        begin = block * np.uint64(4)
        for j in range(i - begin, min(np.uint64(4 * _CHUNK), stop - begin)):
            out[at] = begin + np.uint64(j)
            at += int(words[j] < threshold)
        block += np.uint64(_CHUNK)
        i = block * np.uint64(4)
