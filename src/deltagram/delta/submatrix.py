"""A random mask inside some columns of a matrix: structural pruning, and how many entries it keeps."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import numpy as np

from deltagram import seeds
from deltagram.arrays import U32, U64
from deltagram.delta.masks import BLOCK, STRATIFIED_MOST, WORDS, Bernoulli, Stratified
from deltagram.delta.methods import Structural, kept_count, most_drawn

COLUMN_STREAM: Final = 1  # of the tensor's random words; stream 0 is the mask inside
TRANSPOSED: Final = ("*c_attn.weight", "*c_fc.weight", "*c_proj.weight", "*q_attn.weight")
LOOKUPS: Final = ("*embed*", "*wte.weight", "*wpe.weight", "*shared.weight")


@dataclass(frozen=True, kw_only=True)
class Submatrix:
    """Entries of a `rows` x `cols` matrix that lie in `columns` (ascending) and that `inside` keeps.

    `inside` is a mask over the chosen columns as a matrix of their own, in row-major order.
    """

    rows: int
    cols: int
    columns: U32
    inside: Stratified | Bernoulli

    def __post_init__(self) -> None:
        wide = self.columns.astype(np.int64)
        if not wide.size or (np.diff(wide) <= 0).any() or int(wide[-1]) >= self.cols:
            raise ValueError(f"the chosen columns do not ascend below {self.cols}")
        if self.inside.size != self.rows * wide.size:
            raise ValueError(f"a mask of {self.inside.size} entries inside {self.rows} x {wide.size}")

    @property
    def size(self) -> int:
        """Entries of the matrix."""
        return self.rows * self.cols

    @property
    def keep(self) -> int:
        """Entries kept."""
        return self.inside.keep

    def positions(self, first: int, last: int) -> U64:
        """Positions of kept entries `first` to `last - 1`."""
        row, column = np.divmod(self.inside.positions(first, last), np.uint64(self.columns.size))
        return row * np.uint64(self.cols) + self.columns[column.astype(np.int64)]

    def count_before(self, entry: int) -> int:
        """Number of kept entries at positions below `entry`."""
        row, column = divmod(min(entry, self.size), self.cols)
        return self.inside.count_before(row * self.columns.size + int(np.searchsorted(self.columns, column)))


@dataclass(frozen=True, kw_only=True)
class Inside:
    """How a method fills a matrix: `columns` chosen, `keep` of their `entries` kept.

    `threshold` is that of a Bernoulli mask, which keeps about `keep`; None stands for a stratified one.
    """

    columns: int
    entries: int
    keep: int
    threshold: int | None

    @property
    def share(self) -> float:
        """Probability of an entry of the chosen columns to be kept."""
        return self.keep / self.entries if self.threshold is None else self.threshold / WORDS

    def draw(self, key: int) -> Stratified | Bernoulli:
        """The mask inside the chosen columns of the tensor with this key."""
        if self.threshold is None:
            return Stratified(size=self.entries, keep=self.keep, key=key)
        return Bernoulli.draw(size=self.entries, key=key, threshold=self.threshold)

    def bytes_bound(self) -> int:
        """Bytes of the stored columns and counts."""
        return 4 * self.columns + (0 if self.threshold is None else 4 * -(-self.entries // BLOCK))

    def most(self) -> int:
        """Entries kept at most (by six sigma, where they are drawn one by one)."""
        return self.keep if self.threshold is None else min(self.entries, most_drawn(self.keep))


def inside(method: Structural, shape: tuple[int, ...]) -> Inside:
    """What `method` keeps of a matrix of this shape; as many columns as the kept entries need, at least.

    >>> from deltagram.delta.methods import Columns
    >>> inside(Columns(keep=0.01, columns=0.1), (30, 200))
    Inside(columns=20, entries=600, keep=60, threshold=None)
    """
    rows, cols = shape
    keep = kept_count(method, rows * cols)
    columns = max(1, round(method.columns * cols), -(-keep // rows))
    entries = rows * columns
    exact = keep / entries <= STRATIFIED_MOST
    threshold = None if exact else max(1, round(WORDS * keep / entries))
    return Inside(columns=columns, entries=entries, keep=keep, threshold=threshold)


def random_columns(key: int, cols: int, *, count: int) -> U32:
    """`count` of `cols` columns, ascending: those with the smallest random words of the tensor's stream 1."""
    words = seeds.words(key, 0, cols, stream=COLUMN_STREAM)
    return np.sort(np.argsort(words, kind="stable")[:count]).astype(np.uint32)


def unstructured(name: str, shape: tuple[int, ...]) -> str:
    """Why a tensor has no input columns to choose, or nothing.

    A matrix is (output, input), but for the tables that tokens are looked up in and for layers named as those that
    GPT-2 stores (input, output).
    """
    if len(shape) != 2:
        return f"{len(shape)}-d"
    if any(fnmatchcase(name, pattern) for pattern in LOOKUPS):
        return "a lookup table"
    if any(fnmatchcase(name, pattern) for pattern in TRANSPOSED):
        return "may be stored (input, output)"
    return ""
