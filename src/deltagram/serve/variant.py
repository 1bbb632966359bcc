"""A variant in memory: what it adds beside the base's tensors, its own heads, its words."""

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from deltagram.arrays import Bits, Spec, as_floats
from deltagram.delta.changes import Arrays, Change, Patch, changes
from deltagram.delta.lowrank import Factors
from deltagram.delta.names import match
from deltagram.delta.stored import Pruned, Stored, Whole
from deltagram.delta.submatrix import Submatrix
from deltagram.errors import PlanError
from deltagram.serve.basemodel import BaseModel, tensor_of
from deltagram.serve.beside import DENSE, Beside, Product, narrow, sparse, thin
from deltagram.serve.frames import Frame
from deltagram.serve.payload import Payload
from deltagram.serve.requests import Task
from deltagram.serve.words import Words

_SMALL: Final = 1 << 16  # entries of a tensor that may be swapped whole


@dataclass(frozen=True, kw_only=True, eq=False)
class Variant:
    """All that is needed to answer for a variant.

    `parts` by the frame's name of a parameter; `patch` writes those that are in place over the base, None where too
    much would have to be written. `heads` by the frame's name. `labels` are its classes.
    """

    name: str
    frame: Frame
    parts: Mapping[str, Beside]
    patch: Patch | None
    heads: Mapping[str, Any]
    labels: tuple[str, ...]
    words: Words
    entries: int

    @property
    def left(self) -> dict[str, Beside]:
        """What has to stand beside the base even where the patch is on it."""
        kept = {name: part for name, part in self.parts.items() if not part.in_place or part.rows is not None}
        return {
            name: Beside(outputs=part.outputs, rows=part.rows) if part.in_place else part for name, part in kept.items()
        }

    @property
    def nbytes(self) -> int:
        """Memory of its own."""
        heads = sum(int(tensor.nbytes) for tensor in self.heads.values())
        parts = sum(part.nbytes for part in self.parts.values())
        return parts + heads + (0 if self.patch is None else self.patch.nbytes)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it can do."""
        found: list[Task] = ["classify"] if self.frame.classifies and self.heads else []
        found += ["generate"] if self.frame.generates else []
        return (*found, "embed")


def compiled(
    torch: Any, name: str, payload: Payload, base: BaseModel, frame: Frame, words: Words, *, threads: int = 1
) -> Variant:  # fmt: skip
    """Decode a variant for its frame.

    Raises FormatError for a damaged delta, PlanError for tensors that the model has no place for or lacks, PatchError
    for entries that are not finite.
    """
    stored, low = payload.load()
    maker = _Maker(torch, payload, base, frame, threads=threads)
    places = maker.places({*stored, *low})
    decoded = maker.decoded({tuned: stored[tuned] for tuned in stored if tuned in places})
    parts: dict[str, Beside] = {}
    heads: dict[str, Any] = {}
    patched: dict[str, Change] = {}
    for tuned, place in places.items():
        if place in frame.heads:
            heads[place] = maker.whole(tuned, decoded.get(tuned), low.get(tuned))
        elif tuned in low:
            parts[frame.names[place]] = maker.low(tuned, place, low[tuned])
        elif tuned in decoded:
            part, change = maker.part(tuned, place, decoded[tuned])
            parts[frame.names[place]] = part
            if part.in_place:
                patched[change.name] = change
        elif payload.bases[tuned] != frame.sources.get(place):
            outputs = payload.specs[tuned].shape[0]
            parts[frame.names[place]] = Beside(outputs=outputs, whole_of=partial(maker.whole, tuned, None, None))
    _check_complete(name, frame, parts, heads)
    inside = {tuned: frame.names[place] for tuned, place in places.items() if place not in frame.heads}
    costly = any(
        tuned in low or (payload.specs[tuned].size > _SMALL and parts[place].whole_of and not parts[place].in_place)
        for tuned, place in inside.items() if place in parts
    )  # fmt: skip
    entries = sum(len(change.after) for change in patched.values())
    return Variant(
        name=name, frame=frame, parts=parts, patch=None if costly else Patch(changes=patched), heads=heads,
        labels=_labels(payload.config, heads) if frame.classifies else (), words=words, entries=entries,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class _Decoded:
    """A tensor's changed entries against the rows it shares with the base (`common`), or all of a tensor of its own."""

    stored: Stored
    change: Change | None
    common: Spec
    rows: Bits | None


class _Maker:
    """Turns stored tensors into what layers take."""

    def __init__(self, torch: Any, payload: Payload, base: BaseModel, frame: Frame, *, threads: int) -> None:
        self._torch, self._payload, self._base, self._frame = torch, payload, base, frame
        self._threads = threads
        self._users = Counter(source for source in payload.bases.values() if source is not None)
        self._tied = Counter(frame.sources[n] for n in set(frame.names.values()) if n in frame.sources)

    def places(self, changed: Set[str]) -> dict[str, str]:
        """Every tensor of the variant -> its parameter in the frame.

        Left out are tied twins of another tensor, tensors of the base that this model has no use for, and whole numbers
        that the model computes (positions in old files). Raises PlanError for a changed tensor without a parameter.
        """
        specs, names = self._frame.specs(), self._frame.names
        pairs = match(specs, self._payload.specs).base_of
        for tuned, spec in self._payload.specs.items():
            if tuned not in pairs and not (spec.floating and tuned in changed):
                continue
            if tuned not in pairs or specs[pairs[tuned]].shape[1:] != spec.shape[1:]:
                has = f"a parameter of shape {specs[pairs[tuned]].shape}" if tuned in pairs else "no such parameter"
                fix = "check that config.json belongs to this variant"
                raise PlanError(tuned, f"{type(self._frame.model).__name__} has {has}", expected=str(spec), fix=fix)
        first = {pairs[tuned] for tuned in pairs if names[pairs[tuned]] == pairs[tuned]}
        return {t: place for t, place in pairs.items() if names[place] == place or names[place] not in first}

    def decoded(self, stored: Mapping[str, Stored]) -> dict[str, _Decoded]:
        """Changed entries of all tensors that have a base, found in parallel."""
        arrays: dict[str, tuple[Spec, Bits]] = {}
        trimmed: dict[str, Stored] = {}
        rows: dict[str, Bits | None] = {}
        for tuned, tensor in stored.items():
            source = self._payload.bases[tuned]
            if source is None:
                continue
            base = self._base.checkpoint.specs[source]
            shared = min(base.shape[0], tensor.spec.shape[0]) if base.shape else 0
            common = Spec(dtype=base.dtype, shape=(shared, *base.shape[1:]) if base.shape else ())
            if isinstance(tensor, Whole) and (tensor.spec.shape != base.shape or tensor.spec.dtype != base.dtype):
                continue
            rows[tuned] = tensor.rows if isinstance(tensor, Pruned) else None
            cut: dict[str, Any] = {"spec": common, "base_name": source}
            if isinstance(tensor, Pruned):
                cut |= {"base": common, "rows": None}
            trimmed[tuned] = replace(tensor, **cut)
            arrays[tuned] = (common, self._base.checkpoint.bits(source, 0, common.size))
        found = self._changes(arrays, trimmed)
        return {
            tuned: _Decoded(
                stored=tensor, change=found.get(tuned), rows=rows.get(tuned),
                common=arrays[tuned][0] if tuned in arrays else tensor.spec,
            )
            for tuned, tensor in stored.items()
        }  # fmt: skip

    def _changes(self, arrays: Arrays, stored: Mapping[str, Stored]) -> dict[str, Change]:
        """`changes`, where several tensors may have one base."""
        lone = {tuned: tensor for tuned, tensor in stored.items() if self._users[tensor.base_name] == 1}
        found = dict(changes(arrays, lone, threads=self._threads).changes)
        for tuned, tensor in stored.items():
            if tuned not in lone:
                found |= changes(arrays, {tuned: tensor}, threads=1).changes
        return found

    def part(self, tuned: str, place: str, decoded: _Decoded) -> tuple[Beside, Change]:
        """What stands beside the base's tensor at `place`, and the change that a patch writes there."""
        change, source = decoded.change, self._payload.bases[tuned]
        spec, rows = decoded.stored.spec, self._rows(decoded)
        outputs = spec.shape[0] if spec.shape else 1
        if change is None or source is None or source != self._frame.sources.get(place):
            return Beside(outputs=outputs, whole_of=partial(self.whole, tuned, decoded, None)), _NO_CHANGE
        alone = self._users[source] == 1 and self._tied[source] == 1
        small = isinstance(decoded.stored, Pruned) or spec.size <= _SMALL
        whole_base = decoded.common.shape == self._base.checkpoint.specs[source].shape
        in_place = alone and small and whole_base
        moved = self._base.moved(replace(change, name=source), decoded.common.dtype)
        how = self._frame.lies[self._frame.names[place]]
        if how == "other" or len(spec.shape) != 2 or not self._is_thin(decoded):
            whole = partial(self.whole, tuned, decoded, None)
            return Beside(outputs=outputs, whole_of=whole, in_place=in_place), moved
        product = partial(self._product, decoded, change, transposed=how == "transposed")
        return Beside(outputs=outputs, product_of=product, rows=rows, in_place=in_place), moved

    def _is_thin(self, decoded: _Decoded) -> bool:
        tensor = decoded.stored
        return isinstance(tensor, Pruned) and (
            isinstance(tensor.mask, Submatrix) or tensor.values.size <= DENSE * decoded.common.size
        )

    def _product(self, decoded: _Decoded, change: Change, *, transposed: bool) -> Product:
        tensor, dtype, device = decoded.stored, decoded.common.dtype, self._base.device
        mask = tensor.mask if isinstance(tensor, Pruned) else None
        if isinstance(mask, Submatrix) and not transposed and mask.keep > DENSE * mask.inside.size:
            return narrow(self._torch, change, mask, dtype=dtype, device=device)
        rows, columns = decoded.common.shape
        return sparse(self._torch, change, (rows, columns), dtype=dtype, transposed=transposed, device=device)

    def low(self, tuned: str, place: str, factors: Factors) -> Beside:
        """Two thin products, or the merged tensor where the layer is not a product."""
        how, outputs = self._frame.lies[self._frame.names[place]], self._payload.specs[tuned].shape[0]
        if how == "other" or self._payload.bases[tuned] != self._frame.sources.get(place):
            return Beside(outputs=outputs, whole_of=partial(self.whole, tuned, None, factors))
        product = partial(thin, self._torch, factors, transposed=how == "transposed", device=self._base.device)
        return Beside(outputs=outputs, product_of=product)

    def _rows(self, decoded: _Decoded) -> Any:
        if decoded.rows is None:
            return None
        spec, common = decoded.stored.spec, decoded.common
        shape = (spec.shape[0] - common.shape[0], *spec.shape[1:])
        return self._tensor(decoded.rows, Spec(dtype=spec.dtype, shape=shape))

    def whole(self, tuned: str, decoded: _Decoded | None, factors: Factors | None) -> Any:
        """All entries of a tensor as the variant has them."""
        source, spec = self._payload.bases[tuned], self._payload.specs[tuned]
        if decoded is not None and decoded.change is None and isinstance(decoded.stored, Whole):
            return self._tensor(decoded.stored.bits, decoded.stored.spec)
        if source is None:
            raise PlanError(tuned, "has no base, and is not stored whole", fix="prune the variant again")
        base = self._base.checkpoint.specs[source]
        common = decoded.common if decoded is not None else base
        bits = self._base.checkpoint.bits(source, 0, common.size).copy()
        if factors is not None:
            added = as_floats(bits, base.dtype).astype(np.float32) + factors.entries(0, spec.size).astype(np.float32)
            return self._tensor(added.view(np.uint32), Spec(dtype="F32", shape=spec.shape))
        if decoded is not None and decoded.change is not None:
            change = decoded.change
            bits[slice(None) if change.positions is None else change.positions] = change.after
        found = self._tensor(bits, common)
        rows = None if decoded is None else self._rows(decoded)
        return found if rows is None else self._torch.cat([found, rows])

    def _tensor(self, bits: Bits, spec: Spec) -> Any:
        return tensor_of(self._torch, bits, spec, dtype=self._base.dtype).to(self._base.device)


_NO_CHANGE: Final = Change(name="", positions=None, before=np.empty(0, np.uint8), after=np.empty(0, np.uint8))


def _check_complete(name: str, frame: Frame, parts: Mapping[str, Beside], heads: Mapping[str, Any]) -> None:
    """Raise PlanError where the model would run with tensors that nobody gives.

    What only heads look at, a pooler, may be missing where there is no head.
    """
    classifies = frame.classifies and bool(heads)
    missing = [n for n in frame.lacking if n not in parts and (classifies or "pooler." not in n)]
    if classifies:
        missing += [n for n in frame.heads if n not in heads and frame.names[n] not in heads]
    if missing:
        kind = type(frame.model).__name__
        raise PlanError(missing[0], f"is needed by {kind}, and neither the base nor the variant {name} has it")


def _labels(config: Mapping[str, Any], heads: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes by number, as the config has them, where it has as many as the head."""
    said = {int(number): str(label) for number, label in (config.get("id2label") or {}).items()}
    count = next((len(t) for n, t in heads.items() if n.endswith(("classifier.weight", "score.weight"))), len(said))
    count = next((len(t) for n, t in heads.items() if n.endswith("out_proj.weight")), count)
    return tuple(said.get(i, f"LABEL_{i}") for i in range(count))
