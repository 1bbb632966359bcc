"""A fine-tuned model as blocks of bit patterns, whether it lies there as a checkpoint or as a delta of a base."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from deltagram.arrays import DTYPES, Bits, Spec
from deltagram.delta.names import match
from deltagram.errors import BaseError, SettingError
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.companions import check_file, choose, copy_into
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.rebuild import base_name, check_base_digest, check_base_headers, rebuild
from deltagram.store.tensors import PrunedTensor

WORDS: Final = 1 << 16  # bit patterns a block: what a few models have of it stays in the cache


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Tensors by name; `base_of` maps those that have one to their base tensor. A delta is verified as it is read."""

    title: str
    specs: Mapping[str, Spec]
    base_of: Mapping[str, str]
    checkpoint: Checkpoint
    delta: Delta | None = None

    def blocks(self, name: str) -> Iterator[Bits]:
        """The bit patterns of a tensor in order, `WORDS` of them a block.

        Raises BaseError or FormatError as `rebuild` does, for a delta.
        """
        word = DTYPES[self.specs[name].dtype].bits
        if self.delta is not None:
            yield from _regular(rebuild(self.delta, name, self.checkpoint), word)
            return
        count = self.specs[name].nbytes // word.itemsize
        for start in range(0, count, WORDS):
            yield self.checkpoint.bits(name, start, min(start + WORDS, count))

    def check_base(self, read: Iterable[str]) -> None:
        """Verify the base tensors of a delta that reading its tensors `read` did not verify."""
        if self.delta is None:
            return
        manifest = self.delta.manifest
        left = {name: gone.digest for name, gone in manifest.dropped.items()}
        for name in sorted(set(manifest.tensors) - set(read)):
            digest = manifest.tensors[name].base_digest
            if digest is not None:
                left[base_name(self.delta, name)] = digest
        for name, digest in left.items():
            check_base_digest(self.delta, self.checkpoint, name, self.checkpoint.digest(name), digest)

    def copy_companions(self, out: Path) -> list[str]:
        """Copy configuration, tokenizer and the like; gives the names of files left behind."""
        if self.delta is None:
            files = choose(None, self.checkpoint.folder, with_code=False)
            if self.checkpoint.folder is not None:
                copy_into(self.checkpoint.folder, files.copied, out)
            return list(files.left)
        for place, kind in self._places().items():
            names = tuple(n for n, file in self.delta.manifest.files.items() if file.stored == kind)
            copy_into(place, names, out)
        return []

    def check_companions(self) -> None:
        """Raise FormatError or BaseError unless the files that travel with a delta are sound."""
        if self.delta is not None:
            places = {kind: place for place, kind in self._places().items()}
            for name, file in self.delta.manifest.files.items():
                check_file(places[file.stored], name, file, from_base=file.stored == "base")

    def _places(self) -> dict[Path, str]:
        own = {} if self.delta is None else {self.delta.path: "delta"}
        return own | {self.checkpoint.folder or self.checkpoint.path.parent: "base"}


def is_delta(path: Path) -> bool:
    """Whether a directory holds a delta."""
    return any((path / name).is_file() for name in ("delta.safetensors", "delta.safetensors.index.json"))


def open_variant(path: Path, base: Checkpoint | None) -> Variant:
    """A delta directory of `base`, or a fine-tuned checkpoint.

    Raises SettingError for a delta without a base, PlanError where no name of a checkpoint pairs with the base.
    """
    if is_delta(path):
        if base is None:
            raise SettingError(str(path), "is a delta, and no base is named", fix="name its base (base_model)")
        delta = open_delta(path)
        tensors = delta.manifest.tensors
        based = {name: base_name(delta, name) for name, entry in tensors.items() if entry.base_digest is not None}
        specs = {name: entry.spec for name, entry in tensors.items()}
        return Variant(title=str(path), specs=specs, base_of=based, checkpoint=base, delta=delta)
    opened = open_checkpoint(path)
    pairs = {} if base is None else match(base.specs, opened.specs).base_of
    return Variant(title=str(path), specs=opened.specs, base_of=pairs, checkpoint=opened)


def of_base(base: Checkpoint) -> Variant:
    """The base itself, seen as a variant."""
    names = {name: name for name in base.specs}
    return Variant(title=str(base.path), specs=base.specs, base_of=names, checkpoint=base)


def check_bases(variants: Sequence[Variant]) -> None:
    """Raise BaseError unless all deltas were made from one base (naming both digests), and it is the one given."""
    deltas = [variant.delta for variant in variants if variant.delta is not None]
    for delta in deltas[1:]:
        first, other = deltas[0].manifest.base, delta.manifest.base
        if first.digest != other.digest:
            raise BaseError(
                str(delta.path), f"has the base {other.name}, digest {other.digest}",
                expected=f"that of {deltas[0].path}: {first.name}, digest {first.digest}",
                fix="merge deltas of one base only",
            )  # fmt: skip
    for variant in variants:
        if variant.delta is not None:
            check_base_headers(variant.delta, variant.checkpoint)


def shared_masks(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """Pairs of deltas that keep the same positions: their titles, and in how many of the tensors both prune."""
    found: list[dict[str, Any]] = []
    deltas = [(variant.title, _checks(variant.delta)) for variant in variants if variant.delta is not None]
    for number, (second, mine) in enumerate(deltas):
        for first, theirs in deltas[:number]:
            common = sorted(set(mine) & set(theirs))
            same = sum(mine[name] == theirs[name] for name in common)
            if same:
                found.append({"models": [first, second], "tensors": same, "of": len(common)})
    return found


def _checks(delta: Delta) -> dict[str, tuple[int, str]]:
    """Size and position hash of every mask that drops something."""
    pruned = {name: tensor for name, tensor in delta.manifest.tensors.items() if isinstance(tensor, PrunedTensor)}
    return {
        base_name(delta, name): (tensor.common.size, tensor.mask.check)
        for name, tensor in pruned.items()
        if tensor.mask.keep < tensor.common.size
    }


def _regular(pieces: Iterable[Bits | memoryview], word: np.dtype[Any]) -> Iterator[Bits]:
    """The same patterns in blocks of `WORDS`."""
    block, filled = np.empty(WORDS, word), 0
    for piece in pieces:
        patterns = piece if isinstance(piece, np.ndarray) else np.frombuffer(piece, np.uint8).view(word)
        at = 0
        while at < patterns.size:
            taken = min(WORDS - filled, patterns.size - at)
            block[filled : filled + taken] = patterns[at : at + taken]
            filled, at = filled + taken, at + taken
            if filled == WORDS:
                yield block
                block, filled = np.empty(WORDS, word), 0
    if filled:
        yield block[:filled]
