"""Reading a delta directory: everything is checked against the header before anything is used."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deltagram import seeds
from deltagram.arrays import DTYPES, F32, F64, Bits, rounded
from deltagram.delta import kernels
from deltagram.delta.masks import BLOCK, Bernoulli, Mask, Stratified, check
from deltagram.delta.stored import Distances, LowRank, Pruned, SparseFactor, Stored, Whole
from deltagram.delta.submatrix import Submatrix
from deltagram.errors import FormatError
from deltagram.store import scales
from deltagram.store.checkpoint import map_file
from deltagram.store.codecs import ValueReader
from deltagram.store.directory import FORMAT, check_companions, check_parts, delta_files, delta_header, delta_manifest
from deltagram.store.manifest import Manifest
from deltagram.store.masked import Masked, all_masked
from deltagram.store.masks import ColumnsMask, ListedMask, StratifiedMask
from deltagram.store.parts import Part, damage, part_specs, pattern_words, payload_digest
from deltagram.store.planes import PlaneReader, join
from deltagram.store.positions import CodedPositions
from deltagram.store.tensors import ExactTensor, LowRankTensor, PrunedTensor, SameTensor, WholeTensor


@dataclass(frozen=True, kw_only=True)
class Delta:
    """A delta directory, opened: the manifest, the stored parts (mapped), and the divisors."""

    path: Path
    manifest: Manifest
    digest: str
    parts: Mapping[str, Part]
    masked: Mapping[str, Masked]
    divisors: Mapping[str, F64]
    files: tuple[Path, ...]

    @property
    def nbytes(self) -> int:
        """Size of the payload and scales files together."""
        return sum(file.stat().st_size for file in self.files)

    def stored_bytes(self, name: str) -> int:
        """Payload bytes of one tensor."""
        return sum(part.spec.nbytes for part in self.tensor_parts(name).values())

    def tensor_parts(self, name: str) -> dict[str, Part]:
        """The stored arrays of one tensor by suffix, in suffix order."""
        entry = self.manifest.tensors[name]
        return {suffix: self.parts[f"{name}:{suffix}"] for suffix in sorted(part_specs(entry))}

    def check_payload(self, name: str) -> None:
        """Raise FormatError unless the stored bytes of a tensor are those the manifest speaks of."""
        entry = self.manifest.tensors[name]
        if isinstance(entry, SameTensor):
            return
        found = payload_digest({f"{name}:{suffix}": part for suffix, part in self.tensor_parts(name).items()})
        if found != entry.digest:
            raise FormatError(
                name, f"its payload has digest {found[:16]}...", expected=f"{entry.digest[:16]}...",
                fix="the delta is damaged: fetch or make it again",
            )  # fmt: skip

    def mask(self, name: str) -> Mask:
        """Which entries of a pruned tensor (of its common rows), or of a factor, are kept."""
        entry = self._pruned(name)
        size, mask = entry.common.size, entry.mask
        key = seeds.key(self.manifest.seed, name)
        with damage(name):
            if isinstance(mask, StratifiedMask):
                return Stratified(size=size, keep=mask.keep, key=key)
            if isinstance(mask, ListedMask):
                positions = self.parts[f"{name}:positions"].data
                return CodedPositions(positions, size=size, keep=mask.keep, coding=mask.coding)
            drawn = (
                self._columns(name, mask, key)
                if isinstance(mask, ColumnsMask)
                else self._bernoulli(name, mask.threshold, size=size, key=key)
            )
            if drawn.keep != mask.keep:
                raise ValueError(f"its counts add up to {drawn.keep}, the manifest says {mask.keep}")
            return drawn

    def _bernoulli(self, name: str, threshold: int, *, size: int, key: int) -> Bernoulli:
        counts = np.frombuffer(self.parts[f"{name}:counts"].data, "<u4")
        return Bernoulli(size=size, key=key, threshold=threshold, counts=tuple(counts.tolist()))

    def _columns(self, name: str, mask: ColumnsMask, key: int) -> Submatrix:
        rows, cols = self._pruned(name).common.shape
        columns = np.frombuffer(self.parts[f"{name}:columns"].data, "<u4")
        size = rows * mask.columns
        inside: Stratified | Bernoulli
        if mask.threshold is None:
            inside = Stratified(size=size, keep=mask.keep, key=key)
        else:
            inside = self._bernoulli(name, mask.threshold, size=size, key=key)
        return Submatrix(rows=rows, cols=cols, columns=columns, inside=inside)

    def values(self, name: str) -> ValueReader:
        """The kept values of a pruned tensor, or of a factor."""
        entry = self._pruned(name)
        packed = entry.values.pack is not None
        with damage(name):
            part = self.parts[f"{name}:values"].data
            return ValueReader(part, entry.values.setting(), pack=packed, count=entry.mask.keep)

    def load(self) -> dict[str, Stored]:
        """All tensors that differ from the base's, decoded; payload digests and masks are verified."""
        found: dict[str, Stored] = {}
        for name, entry in self.manifest.tensors.items():
            self.check_payload(name)
            source = entry.base_name or name
            if isinstance(entry, PrunedTensor):
                found[name] = self._load_pruned(name, entry, source)
            elif isinstance(entry, LowRankTensor):
                found[name] = self.low_rank(name, entry)
            elif isinstance(entry, WholeTensor):
                found[name] = Whole(spec=entry.spec, base_name=source, bits=np.concatenate([*self.whole(name)]))
            elif isinstance(entry, ExactTensor):
                words = np.concatenate([np.empty(0, DTYPES[entry.dtype].bits), *self.words(name)])
                found[name] = Distances(spec=entry.spec, base_name=source, base=entry.base_spec, words=words)
        return found

    def _load_pruned(self, name: str, entry: PrunedTensor, source: str) -> Pruned:
        rows = self.parts.get(f"{name}:rows")
        mask, values = self._checked(name)
        return Pruned(
            spec=entry.spec, base_name=source, base=entry.base_spec, mask=mask, values=values,
            divide_by=self.divisors[name], rows=None if rows is None else pattern_words(rows),
        )  # fmt: skip

    def _checked(self, name: str) -> tuple[Mask, F32]:
        """Mask and values of a pruned tensor or a factor, the positions verified."""
        mask, said = self.mask(name), self.masked[name].mask
        with damage(name):
            if check(mask) != said.check:
                raise ValueError("the positions of its mask do not match their check")
            return mask, self.values(name).values(0, said.keep)

    def low_rank(self, name: str, entry: LowRankTensor) -> LowRank:
        """A low-rank tensor's kept entries, masks verified; nothing of the factors' full size is made yet."""
        found = {}
        for letter, shape in (("A", entry.shape_of_a), ("B", entry.shape_of_b)):
            mask, values = self._checked(f"{name}:{letter}")
            divide_by = self.divisors[f"{name}:{letter}"]
            found[letter] = SparseFactor(shape=shape, mask=mask, values=values, divide_by=divide_by)
        return LowRank(
            spec=entry.spec, base_name=entry.base_name or name, base=entry.base_spec, a=found["A"], b=found["B"],
            scale=entry.scale, transposed=entry.transposed is not None,
        )  # fmt: skip

    def whole(self, name: str) -> Iterator[Bits]:
        """The bit patterns of a tensor stored whole, block by block; coded values are rounded to its dtype."""
        entry = self.manifest.tensors[name]
        if not isinstance(entry, WholeTensor) or entry.values is None:
            yield pattern_words(self.parts[f"{name}:whole"])
            return
        reader = self.coded(name, entry)
        with damage(name):
            for first in range(0, reader.count, BLOCK):
                found = rounded(reader.values(first, min(first + BLOCK, reader.count)), entry.dtype)
                if not kernels.all_finite(found, entry.dtype):
                    raise ValueError(f"a value is not finite in {entry.dtype}")
                yield found

    def coded(self, name: str, entry: WholeTensor) -> ValueReader:
        """The values of a whole tensor that is coded."""
        if entry.values is None:
            raise FormatError(name, "is stored as it is", expected="coded values")
        with damage(name):
            return ValueReader(
                self.parts[f"{name}:values"].data, entry.values.setting(), pack=entry.values.pack is not None,
                count=entry.spec.size,
            )  # fmt: skip

    def words(self, name: str) -> Iterator[Bits]:
        """The distances of an exact tensor, block by block."""
        entry, planes = self.manifest.tensors[name], self.planes(name)
        word = DTYPES[entry.dtype].bits
        count = entry.spec.nbytes // word.itemsize
        with damage(name):
            for index, start in enumerate(range(0, count, BLOCK)):
                yield join(planes.block(index, [min(BLOCK, count - start)] * word.itemsize), word)

    def planes(self, name: str) -> PlaneReader:
        """The packed distances of an exact tensor."""
        entry = self.manifest.tensors[name]
        with damage(name):
            width = DTYPES[entry.dtype].bits.itemsize
            words = entry.spec.nbytes // width
            return PlaneReader(self.parts[f"{name}:planes"].data, blocks=-(-words // BLOCK), planes=width)

    def _pruned(self, name: str) -> Masked:
        if name not in self.masked:
            entry = self.manifest.tensors[name]
            raise FormatError(name, f"is stored {entry.form}", expected="pruned, resized, or a factor")
        return self.masked[name]


def open_delta(path: Path | str) -> Delta:
    """Open a delta directory; payload digests are left to `Delta.check_payload` and `verify`.

    Raises FormatError, naming the file or tensor, for anything docs/FORMAT.md does not allow.
    """
    path = Path(path)
    files = delta_files(path)
    headers = [delta_header(file) for file in files]
    manifest, digest = delta_manifest(files[0], headers[0])
    parts: dict[str, Part] = {}
    for file, header in zip(files, headers, strict=True):
        data = map_file(file)
        if file != files[0] and header.metadata != {"format": FORMAT}:
            raise FormatError(str(file), "the header is not as deltagram writes it")
        for name, placed in header.tensors.items():
            if name in parts:
                raise FormatError(str(file), f"holds {name} a second time")
            parts[name] = Part(spec=placed.spec, data=data[placed.start : placed.stop])
    with damage(str(path)):
        kept = all_masked(manifest.tensors)
    check_parts(path, manifest, parts)
    rows = {name: entry.common.shape for name, entry in kept.items()}
    divisors = scales.read_scales(path / scales.NAME, manifest=digest, rows=rows)
    check_companions(path, manifest)
    delta = Delta(
        path=path,
        manifest=manifest,
        digest=digest,
        parts=parts,
        masked=kept,
        divisors=divisors,
        files=(*files, path / scales.NAME),
    )
    for name, entry in manifest.tensors.items():
        if isinstance(entry, WholeTensor) and entry.values is not None:
            delta.coded(name, entry)  # that its part can hold as many values as its shape says
    return delta
