"""A stored tensor back to the fine-tuned one, block by block over the base, which is verified as it passes."""

from collections.abc import Iterator

import numpy as np
from blake3 import blake3

from deltagram.arrays import DTYPES, Bits, convert
from deltagram.delta import kernels
from deltagram.delta.difference import restore_distance
from deltagram.delta.lowrank import moved
from deltagram.delta.masks import walk
from deltagram.errors import BaseError, FormatError
from deltagram.store.checkpoint import BLOCK_BYTES, Checkpoint
from deltagram.store.deltafile import Delta
from deltagram.store.digest import tensor_hasher
from deltagram.store.manifest import base_tensors
from deltagram.store.parts import damage
from deltagram.store.tensors import ExactTensor, LowRankTensor, PrunedTensor, SameTensor, WholeTensor


def base_name(delta: Delta, name: str) -> str:
    """Which base tensor `name` was made from."""
    return delta.manifest.tensors[name].base_name or name


def check_base_headers(delta: Delta, base: Checkpoint) -> None:
    """Raise BaseError unless the base has exactly the tensors the delta was made from, by name, shape and dtype."""
    expected = base_tensors(delta.manifest.tensors, delta.manifest.dropped)
    for name, (_, spec) in sorted(expected.items()):
        found = base.specs.get(name)
        if found != spec:
            raise wrong_base(delta, base, name, f"is {found}" if found else "is missing", str(spec))
    extra = sorted(set(base.specs) - set(expected))
    if extra:
        raise wrong_base(delta, base, extra[0], "is in this base", "no such tensor")


def wrong_base(delta: Delta, base: Checkpoint, name: str, found: str, expected: str) -> BaseError:
    """The refusal of a base, naming the first tensor that differs."""
    wanted = delta.manifest.base
    return BaseError(
        str(base.path), f"is not the base of this delta: {name} {found}", expected=expected,
        fix=f"use the base it was made from: {wanted.name}, digest {wanted.digest}",
    )  # fmt: skip


def check_base_digest(delta: Delta, base: Checkpoint, name: str, found: str, expected: str) -> None:
    """Raise BaseError unless a base tensor has the digest the delta recorded."""
    if found != expected:
        raise wrong_base(delta, base, name, f"has digest {found[:16]}...", f"{expected[:16]}...")


def rebuild(delta: Delta, name: str, base: Checkpoint) -> Iterator[Bits | memoryview]:
    """The bytes of a restored tensor in order, in blocks; `base` is hashed on the way.

    Raises BaseError when the base tensor turns out to be another one (after its last block), FormatError for
    a damaged delta or a result that is not finite.
    """
    delta.check_payload(name)
    tensor = delta.manifest.tensors[name]
    if isinstance(tensor, WholeTensor):
        if tensor.base_digest is not None:
            source = base_name(delta, name)
            check_base_digest(delta, base, source, base.digest(source), tensor.base_digest)
        if tensor.values is None:
            yield delta.parts[f"{name}:whole"].data  # not copied: it may be large
        else:
            yield from delta.whole(name)
        return
    if isinstance(tensor, PrunedTensor):
        yield from _pruned(delta, name, tensor, base)
        if f"{name}:rows" in delta.parts:
            yield delta.parts[f"{name}:rows"].data
    elif isinstance(tensor, ExactTensor):
        yield from _exact(delta, name, tensor, base)
    elif isinstance(tensor, LowRankTensor):
        yield from _low_rank(delta, name, tensor, base)
    else:
        yield from _same(delta, name, tensor, base)


def _pruned(delta: Delta, name: str, tensor: PrunedTensor, base: Checkpoint) -> Iterator[Bits]:
    source, base_spec, common = base_name(delta, name), tensor.base_spec, tensor.common
    mask, values, divisor = delta.mask(name), delta.values(name), delta.divisors[name]
    row = max(1, common.size // common.shape[0]) if common.shape and common.size else 1
    base_hash, mask_hash = tensor_hasher(source, base_spec), blake3()
    step = BLOCK_BYTES // max(DTYPES[spec.dtype].bits.itemsize for spec in (base_spec, common))
    spans = ((start, min(start + step, common.size)) for start in range(0, common.size, step))
    with damage(name):
        for start, stop, first, positions in walk(mask, spans):
            block = base.bits(source, start, stop)
            base_hash.update(block.view(np.uint8).data)
            mask_hash.update(positions.view(np.uint8).data)
            out = convert(block, base_spec.dtype, common.dtype)
            out = block.copy() if out is block else out
            kept = values.values(first, first + positions.size)
            sound = kernels.apply(block, base_spec.dtype, out, common.dtype, positions, start, kept, divisor, row)
            if base_spec.dtype != common.dtype:  # an entry that is not kept can overflow when it is narrowed
                sound = sound and kernels.all_finite(out, common.dtype)
            if not sound:
                raise _not_finite(name, common.dtype)
            yield out
    base_hash.update(base.views[source][common.size * DTYPES[base_spec.dtype].width // 8 :])
    check_base_digest(delta, base, source, base_hash.hexdigest(), tensor.base_digest)
    if mask_hash.hexdigest(8) != tensor.mask.check:
        raise FormatError(
            name, f"the mask's positions hash to {mask_hash.hexdigest(8)}", expected=tensor.mask.check,
            fix="the delta is damaged, or this machine draws other random words: run the tests",
        )  # fmt: skip


def _low_rank(delta: Delta, name: str, tensor: LowRankTensor, base: Checkpoint) -> Iterator[Bits]:
    """Base plus product, rounded once; both factors are held, the product is made block by block."""
    source, base_spec = base_name(delta, name), tensor.base_spec
    factors = delta.low_rank(name, tensor).factors()
    hasher = tensor_hasher(source, base_spec)
    for start, stop in base.spans(source):
        block = base.bits(source, start, stop)
        hasher.update(block.view(np.uint8).data)
        out = moved(block, base_spec.dtype, factors.entries(start, stop), tensor.dtype)
        if not kernels.all_finite(out, tensor.dtype):
            raise _not_finite(name, tensor.dtype)
        yield out
    check_base_digest(delta, base, source, hasher.hexdigest(), tensor.base_digest)


def _not_finite(name: str, dtype: str) -> FormatError:
    fix = "rescale the delta with a larger --divide-by, or check that the base is sound"
    return FormatError(name, f"a restored entry is not finite in {dtype}", fix=fix)


def _exact(delta: Delta, name: str, tensor: ExactTensor, base: Checkpoint) -> Iterator[Bits]:
    source, start = base_name(delta, name), 0
    base_hash, tuned_hash = tensor_hasher(source, tensor.base_spec), tensor_hasher(name, tensor.spec)
    for zigzag in delta.words(name):
        block = base.bits(source, start, start + zigzag.size)
        start += zigzag.size
        base_hash.update(block.view(np.uint8).data)
        seen = convert(block, tensor.base_spec.dtype, tensor.dtype) if tensor.spec.floating else block
        out = restore_distance(seen, zigzag, floating=tensor.spec.floating)
        tuned_hash.update(out.view(np.uint8).data)
        yield out
    check_base_digest(delta, base, source, base_hash.hexdigest(), tensor.base_digest)
    if tuned_hash.hexdigest() != tensor.tuned_digest:
        raise FormatError(
            name,
            f"restores to digest {tuned_hash.hexdigest()[:16]}...",
            expected=f"{tensor.tuned_digest[:16]}...",
        )


def _same(delta: Delta, name: str, tensor: SameTensor, base: Checkpoint) -> Iterator[Bits]:
    source = base_name(delta, name)
    hasher = tensor_hasher(source, tensor.base_spec)
    for start, stop in base.spans(source):
        block = base.bits(source, start, stop)
        hasher.update(block.view(np.uint8).data)
        yield convert(block, tensor.base_spec.dtype, tensor.dtype)
    check_base_digest(delta, base, source, hasher.hexdigest(), tensor.base_digest)
