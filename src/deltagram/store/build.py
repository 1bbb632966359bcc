"""One tensor of a fine-tuned model to its stored form: base and tuned are each read once, in blocks."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from blake3 import blake3

from deltagram.arrays import DTYPES, F32, U64, Bits, Spec, as_floats, convert, entries
from deltagram.delta import kernels
from deltagram.delta.difference import distance
from deltagram.delta.masks import BLOCK, walk
from deltagram.delta.methods import Listed, kept_count
from deltagram.delta.plan import Entry
from deltagram.delta.values import Codebook, fit_codebook, histogram
from deltagram.errors import PlanError
from deltagram.store.checkpoint import BLOCK_BYTES
from deltagram.store.chosen import chosen
from deltagram.store.codecs import ValueWriter
from deltagram.store.deltawriter import NewPart, sized
from deltagram.store.digest import tensor_hasher
from deltagram.store.drawn import describe, draw
from deltagram.store.factors import low_rank
from deltagram.store.masks import ListedMask
from deltagram.store.outline import UNKNOWN, coded_values, identity
from deltagram.store.planes import PlaneWriter, Spool, split
from deltagram.store.positions import PositionEncoder
from deltagram.store.scan import FIX, Pair, Scan
from deltagram.store.tensors import ExactTensor, PrunedTensor, SameTensor, StoredTensor, StoredValues, WholeTensor

_Part = tuple[Spec, Iterable[bytes | memoryview]]


@dataclass(kw_only=True)
class Built:
    """A tensor ready to be written: the manifest's entry (its payload digest still unknown) and its parts."""

    name: str
    tensor: StoredTensor
    parts: list[NewPart] = field(default_factory=list)
    divisor: float | None = None
    factor_divisors: Mapping[str, float] = field(default_factory=dict)


def build(entry: Entry, pair: Pair) -> Built:
    """The stored form of one tensor. Raises PlanError, naming the tensor, for values it cannot hold."""
    if entry.form == "whole":
        return _whole(entry, pair)
    if entry.form == "exact":
        return _exact(entry, pair)
    if entry.form == "low_rank":
        tensor, parts, divisors = low_rank(entry, pair)
        return Built(name=entry.name, tensor=tensor, parts=parts, factor_divisors=divisors)
    try:
        if isinstance(entry.method, Listed):
            return _listed(entry, pair, entry.method)
        return _seeded(entry, pair)
    except ValueError as fault:
        raise PlanError(entry.name, str(fault), fix=FIX.format(name=entry.name)) from None


def _same(entry: Entry, scan: Scan, digest: str) -> Built:
    return Built(name=entry.name, tensor=SameTensor.model_validate(identity(entry, scan.base_spec, digest)))


def _whole(entry: Entry, pair: Pair) -> Built:
    spec, values = entry.tuned, coded_values(entry, pack=pair.pack)
    if entry.base is None:
        tensor = WholeTensor(shape=list(spec.shape), dtype=spec.dtype, values=values, digest=UNKNOWN)
        return Built(name=entry.name, tensor=tensor, parts=_all_entries(entry, pair))
    scan = Scan(pair, entry)
    digest = pair.base.digest(scan.base_name)
    if entry.base == spec and pair.base.views[scan.base_name] == pair.tuned.views[entry.name]:
        return _same(entry, scan, digest)
    fields = {**identity(entry, scan.base_spec, digest), "values": values, "digest": UNKNOWN}
    return Built(name=entry.name, tensor=WholeTensor.model_validate(fields), parts=_all_entries(entry, pair))


def _all_entries(entry: Entry, pair: Pair) -> list[NewPart]:
    """The part of a tensor stored whole: its bytes, or its coded values. Raises PlanError for what no code holds."""
    spec = entry.tuned
    if not entry.coded:
        return sized({"whole": (spec, [pair.tuned.views[entry.name]])})
    kept, step = _Kept(entry, pair), BLOCK_BYTES // DTYPES[spec.dtype].bits.itemsize
    try:
        for start in range(0, spec.size, step):
            bits = pair.tuned.bits(entry.name, start, min(start + step, spec.size))
            if not kernels.all_finite(bits, spec.dtype):
                raise ValueError("holds NaN or infinity, which no code keeps")
            kept.add(as_floats(convert(bits, spec.dtype, "F32"), "F32"))
        return sized({"values": kept.finish()})
    except ValueError as fault:
        found = str(fault).replace("a difference", "an entry")
        raise PlanError(entry.name, found, fix="leave out its values, so that it is stored as it is") from None


def _exact(entry: Entry, pair: Pair) -> Built:
    scan = Scan(pair, entry)
    hasher = tensor_hasher(entry.name, entry.tuned)
    writer = PlaneWriter(folder=pair.folder)
    waiting: list[Bits] = []
    for start, stop in scan.spans():
        base, tuned = scan.take(start, stop)
        hasher.update(tuned.view(np.uint8).data)
        words = distance(scan.as_tuned(base), tuned, floating=entry.tuned.floating)
        waiting.append(words)
        joined = np.concatenate(waiting) if len(waiting) > 1 else words
        whole = joined.size if stop == entry.tuned.size else joined.size // BLOCK * BLOCK
        for first in range(0, whole, BLOCK):
            writer.add(split(joined[first : min(first + BLOCK, whole)]))
        waiting = [joined[whole:]]
    digest = scan.digest()
    if scan.same:
        return _same(entry, scan, digest)
    fields = {**identity(entry, scan.base_spec, digest), "tuned_digest": hasher.hexdigest(), "digest": UNKNOWN}
    parts = sized({"planes": (Spec(dtype="U8", shape=(writer.nbytes,)), writer.pieces())})
    return Built(name=entry.name, tensor=ExactTensor.model_validate(fields), parts=parts)


def _seeded(entry: Entry, pair: Pair) -> Built:
    """One fused pass: hash, search, gather."""
    mask = draw(entry, pair)
    scan, kept, check = Scan(pair, entry), _Kept(entry, pair), blake3()
    for start, stop, _, positions in walk(mask, scan.spans()):
        check.update(positions.view(np.uint8).data)
        kept.add(scan.gather(start, stop, positions))
    digest = scan.digest()
    if scan.same:
        return _same(entry, scan, digest)
    scan.check_finite()
    described, extra = describe(mask, entry, check=check.hexdigest(8))
    return _pruned(entry, pair, identity(entry, scan.base_spec, digest) | {"mask": described}, kept, extra)


def _listed(entry: Entry, pair: Pair, method: Listed) -> Built:
    """As many passes as the choice takes; the first also hashes and searches, the last gathers."""
    scan = Scan(pair, entry)
    size = entries(entry.common)
    keep = kept_count(method, size)
    encoder, kept, check = PositionEncoder(size=size, keep=keep), _Kept(entry, pair), blake3()
    norms = pair.norms[entry.name] if method.score == "wanda" else None
    for positions, values in chosen(entry, scan, method, norms):
        encoder.add(positions)
        check.update(positions.view(np.uint8).data)
        kept.add(values)
    digest = scan.digest()
    if scan.same:
        return _same(entry, scan, digest)
    scan.check_finite()
    coding, blob = encoder.finish()
    mask = ListedMask(keep=keep, score=method.score, coding=coding, check=check.hexdigest(8))
    extra = {"positions": (Spec(dtype="U8", shape=(len(blob),)), [blob])}
    return _pruned(entry, pair, identity(entry, scan.base_spec, digest) | {"mask": mask}, kept, extra)


class _Kept:
    """Kept differences (or what was fitted in their place) on their way into a codec; a codebook waits for all."""

    def __init__(self, entry: Entry, pair: Pair) -> None:
        self._setting, self._pair = entry.values, pair
        self._restores = entry.tuned.dtype if entry.coded else None
        self._book_bits = entry.values.bits if isinstance(entry.values, Codebook) else 0
        self._counts: U64 = np.zeros(1 << 16, np.uint64)
        self._waiting = Spool(pair.folder)
        self._fitted, self._taken = pair.fitted.get(entry.name), 0
        self._writer = None if self._book_bits else self._open(None)
        self.overflowed = False

    def _open(self, book: F32 | None) -> ValueWriter:
        return ValueWriter(
            self._setting, pack=self._pair.pack, folder=self._pair.folder, book=book, restores=self._restores
        )

    def add(self, values: F32) -> None:
        """Append differences; those that are not finite are counted as a fault, not stored."""
        if self._fitted is not None:
            values = self._fitted[self._taken : self._taken + values.size]
            self._taken += values.size
        finite = np.isfinite(values)
        if not finite.all():
            self.overflowed = True
            values = np.where(finite, values, np.float32(0))
        if self._writer is not None:
            self._writer.add(values)
        else:
            self._counts = histogram(values, self._counts)
            self._waiting.write(values.data)

    def finish(self) -> tuple[Spec, Iterator[bytes]]:
        """The `values` part. Raises ValueError if a difference was not finite."""
        if self.overflowed:
            raise ValueError("a difference overflows float32")
        if self._counts[0x7F80] or self._counts[0xFF80]:
            raise ValueError("a difference is too large for a codebook")
        writer = self._writer
        if writer is None:
            writer = self._open(fit_codebook(self._counts, Codebook(bits=self._book_bits)))
            for piece in self._waiting.pieces():
                writer.add(np.frombuffer(piece, np.float32))
        return writer.finish()


def _pruned(entry: Entry, pair: Pair, fields: dict[str, object], kept: _Kept, extra: Mapping[str, _Part]) -> Built:
    parts: dict[str, _Part] = {"values": kept.finish(), **extra}
    resized = entry.base is not None and entry.base.shape != entry.tuned.shape
    rows = entries(entry.common) * DTYPES[entry.tuned.dtype].width // 8
    remaining = pair.tuned.views[entry.name][rows:] if resized else memoryview(b"")
    if len(remaining):
        shape = (entry.tuned.shape[0] - entry.common[0], *entry.tuned.shape[1:])
        parts["rows"] = (Spec(dtype=entry.tuned.dtype, shape=shape), [remaining])
    stored = PrunedTensor.model_validate(
        fields
        | {
            "form": "resized" if resized else "pruned",
            "values": StoredValues.of(entry.values, pack=pair.pack),
            "digest": UNKNOWN,
        }
    )
    return Built(name=entry.name, tensor=stored, parts=sized(parts), divisor=entry.divisor)
