"""Golomb coding of gaps, as compiled loops; `gaps` states the bit layout and the statuses."""

from typing import Any

import numpy as np

from deltagram.delta.compile_numba import kernel, reads, u64, writes

_0, _1, _6, _63 = np.uint64(0), np.uint64(1), np.uint64(6), np.uint64(63)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_FINE, _TRUNCATED, _TRAILING, _RANGE = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3)
_DE_BRUIJN = 0x03F79D71B4CB0A89  # each six bits of it in a row are another number
_LOWEST = np.zeros(64, np.uint64)
for _shift in range(64):
    _LOWEST[(_DE_BRUIJN << _shift & 0xFFFFFFFFFFFFFFFF) >> 58] = _shift
_FACTOR, _58 = np.uint64(_DE_BRUIJN), np.uint64(58)


@kernel(u64(reads(u64), reads(u64), u64, u64, writes(u64)))
def golomb_pack(quotients: Any, remainders: Any, width: Any, short: Any, words: Any) -> Any:
    """Set the bits of all codes in `words` (zeros, a word more than the bits take); return their number."""
    at = _0
    extra = np.uint64(quotients.size) * width
    for i in range(quotients.size):
        remainder = remainders[i]
        long = np.uint64(remainder >= short)
        code = remainder + long * short
        words[extra >> _6] |= (code & long) << (extra & _63)
        extra += long
        code >>= long
        word, shift = at >> _6, at & _63
        words[word] |= code << shift
        words[word + _1] |= (code >> _1) >> (_63 - shift)
        at += width
    for i in range(quotients.size):
        extra += quotients[i]
        words[extra >> _6] |= _1 << (extra & _63)
        extra += _1
    return extra


@kernel(u64(reads(u64), u64, u64, u64, u64, u64, u64, writes(u64)))
def golomb_unpack(words: Any, bits: Any, divisor: Any, width: Any, short: Any, start: Any, stop: Any, out: Any) -> Any:
    """Fill `out` with the positions that `bits` bits of `words` say, from `start` on; return a status.

    `words` has a whole word more than the bits take, and zeros past them.
    """
    at = _0
    extra = np.uint64(out.size) * width
    mask = (_1 << width) - _1
    for i in range(out.size):
        if extra >= bits:
            return _TRUNCATED
        word, shift = at >> _6, at & _63
        code = (words[word] >> shift | (words[word + _1] << _1) << (_63 - shift)) & mask
        at += width
        long = np.uint64(code >= short)
        out[i] = code + long * (code + (words[extra >> _6] >> (extra & _63) & _1) - short)
        extra += long
    status = _FINE
    most = (stop - start) // divisor
    word = extra >> _6
    rest = words[word] & _ALL << (extra & _63)
    for i in range(out.size):
        while rest == _0:
            word += _1
            if word << _6 >= bits:
                return _TRUNCATED
            rest = words[word]
        one = (word << _6) + _LOWEST[(rest & (~rest + _1)) * _FACTOR >> _58]
        rest &= rest - _1
        start += (one - extra) * divisor + out[i]
        if one - extra > most or start >= stop:
            status = _RANGE
        out[i] = start
        start += _1
        extra = one + _1
    if rest != _0 or (extra + np.uint64(7)) >> np.uint64(3) != bits >> np.uint64(3):
        return _TRAILING
    return status
