"""Golomb coding of gaps, in NumPy: the twin of `gaps_numba`."""

import numpy as np

from deltagram.arrays import U8, U64

_FINE, _TRUNCATED, _TRAILING, _RANGE = range(4)


def golomb_pack(quotients: U64, remainders: U64, width: np.uint64, short: np.uint64, words: U64) -> int:
    """Set the bits of all codes in `words` (zeros, a word more than the bits take); return their number."""
    long = remainders >= short
    codes = remainders + long * short
    fixed = (codes >> long)[:, None] >> np.arange(int(width), dtype=np.uint64) & np.uint64(1)
    ones = np.cumsum(quotients + np.uint64(1)) - np.uint64(1)
    unary = np.zeros(int(ones[-1]) + 1 if ones.size else 0, np.uint8)
    unary[ones] = 1
    extra = codes[long] & np.uint64(1)
    bits: U8 = np.concatenate([fixed.ravel().astype(np.uint8), extra.astype(np.uint8), unary])
    packed = np.packbits(bits, bitorder="little")
    words.view(np.uint8)[: packed.size] = packed
    return bits.size


def golomb_unpack(
    words: U64,
    bits: np.uint64,
    divisor: np.uint64,
    width: np.uint64,
    short: np.uint64,
    start: np.uint64,
    stop: np.uint64,
    out: U64,
) -> int:
    """Fill `out` with the positions that `bits` bits of `words` say, from `start` on; return a status.

    `words` has a whole word more than the bits take, and zeros past them.
    """
    flags = np.unpackbits(words.view(np.uint8), bitorder="little")[: int(bits)]
    fixed = out.size * int(width)
    if fixed > flags.size:
        return _TRUNCATED
    shifts = np.arange(int(width), dtype=np.uint64)
    codes = (flags[:fixed].reshape(out.size, int(width)) << shifts).sum(axis=1, dtype=np.uint64)
    long = np.flatnonzero(codes >= short)
    unary = fixed + long.size
    ones = np.flatnonzero(flags[unary:])
    if ones.size < out.size:
        return _TRUNCATED
    used = unary + int(ones[out.size - 1]) + 1 if out.size else unary
    if ones.size > out.size or -(-used // 8) != flags.size // 8:
        return _TRAILING
    codes[long] += codes[long] + flags[fixed:unary] - short
    quotients = np.diff(ones, prepend=-1).astype(np.uint64) - np.uint64(1)
    # Sums may wrap, but not up to the first position that is out of range, and one is enough.
    np.cumsum(quotients * divisor + codes + np.uint64(1), out=out)
    out += start
    out -= np.uint64(1)
    if (quotients > (stop - start) // divisor).any() or (out >= stop).any():
        return _RANGE
    return _FINE
