"""Which rows of the batch that runs now belong to which variant."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from deltagram.serve.beside import Beside


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """Rows `start` to `stop - 1` are a variant's; `parts` are its tensors by the name of the base's parameter."""

    start: int
    stop: int
    parts: Mapping[str, Beside]


Found = Sequence[tuple[Segment, Mapping[str, Beside]]]  # segments with something to add to a layer, and what


@dataclass(eq=False)
class Switch:
    """What the layers of one module tree look at: nothing (they are the base's), or the segments of a batch."""

    segments: tuple[Segment, ...] = ()
    rows: int = 0
    _found: dict[str, Found] = field(default_factory=dict)

    @contextmanager
    def on(self, segments: Sequence[Segment], rows: int) -> Iterator[None]:
        """These segments of a batch of `rows`, while the block runs."""
        before = (self.segments, self.rows, self._found)
        self.segments, self.rows, self._found = tuple(segments), rows, {}
        try:
            yield
        finally:
            self.segments, self.rows, self._found = before

    def found(self, path: str, owned: Mapping[str, str]) -> Found:
        """What the segments add to the layer at `path`, whose attributes `owned` are parameters of these names."""
        if not self.segments:
            return ()
        if path not in self._found:
            every = [(s, {a: s.parts[name] for a, name in owned.items() if name in s.parts}) for s in self.segments]
            self._found[path] = [(segment, parts) for segment, parts in every if parts]
        return self._found[path]

    def span(self, segment: Segment, length: int) -> slice:
        """Where a segment lies in a tensor with `length` entries along its first axis, some for each row.

        Raises ValueError where rows and entries do not go together.
        """
        each, left = divmod(length, self.rows)
        if left or not each:
            raise ValueError(f"a layer got {length} entries for a batch of {self.rows} rows")
        return slice(segment.start * each, segment.stop * each)

    def pieces(self, found: Found) -> Iterator[tuple[Segment, Mapping[str, Beside]]]:
        """All rows in order: the segments found, and what lies between them with nothing to add."""
        at = 0
        for segment, parts in found:
            if segment.start > at:
                yield Segment(start=at, stop=segment.start, parts={}), {}
            yield segment, parts
            at = segment.stop
        if at < self.rows:
            yield Segment(start=at, stop=self.rows, parts={}), {}

    @contextmanager
    def within(self, segment: Segment) -> Iterator[None]:
        """Only that segment's rows, which are all of the batch while the block runs."""
        inner = [
            Segment(start=max(s.start, segment.start) - segment.start, stop=min(s.stop, segment.stop) - segment.start,
                    parts=s.parts)
            for s in self.segments if s.start < segment.stop and s.stop > segment.start
        ]  # fmt: skip
        with self.on(inner, segment.stop - segment.start):
            yield


def sliced(value: Any, span: slice, length: int) -> Any:
    """A tensor's entries along its first axis, if it has `length` of them; anything else as it is."""
    shape = getattr(value, "shape", None)
    return value[span] if shape is not None and len(shape) and shape[0] == length else value
