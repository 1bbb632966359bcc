"""Exact counts of (context, next token) by DuckDB, out of core: a file a block of tokens, then all of them in order."""

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from deltagram.data.contexts import U64, Packing
from deltagram.data.imbalance import I64
from deltagram.data.words import U32
from deltagram.errors import ExtraError, OutputError, SettingError

_ROWS: Final = 1 << 20  # that are read at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """How often (`count`) each `following` token comes after each context, given by its `words`; sorted, no pair twice.

    Of a part of the pairs, a context may go on in the next part.
    """

    words: tuple[U64, ...]
    following: U32
    count: I64


@dataclass(frozen=True, kw_only=True, eq=False)
class Counter:
    """Counts contexts of one packing with at most `memory` bytes of DuckDB's; files lie in `folder`."""

    connection: Any
    folder: Path
    packing: Packing

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, packing: Packing, *, memory: int, threads: int) -> Iterator[Self]:
        """One that spills into `folder`. ExtraError without DuckDB; its faults of memory and disk become ours."""
        duckdb = _duckdb()
        try:
            with duckdb.connect() as connection:
                connection.execute(f"SET memory_limit='{memory // 10**6}MB'")
                connection.execute(f"SET threads={threads}")
                connection.execute("SET preserve_insertion_order=false")
                connection.execute("SET temp_directory=$1", [str(folder / "spilled")])
                yield cls(connection=connection, folder=folder, packing=packing)
        except RuntimeError as fault:
            if "interrupted" not in str(fault):
                raise
            raise KeyboardInterrupt from None  # which DuckDB turned into its own
        except duckdb.OutOfMemoryException:
            raise SettingError("memory", "does not do for these counts", fix="give more with --memory") from None
        except duckdb.IOException as fault:
            reason = " ".join(str(fault).split())[:200]
            raise OutputError(str(folder), f"cannot be written or read ({reason})", fix="make room") from None

    @property
    def _columns(self) -> list[str]:
        return [f"c{word}" for word in range(self.packing.words)]

    def _path(self, block: int) -> Path:
        return self.folder / f"counts-{self.packing.length}-{block:06}.parquet"

    def has(self, block: int) -> bool:
        """Whether a block was counted before."""
        return self._path(block).is_file()

    def count(self, block: int, words: Sequence[U64], following: U32) -> None:
        """Count a block's samples into a file of its own."""
        import pyarrow  # noqa: PLC0415 - an extra

        names = [*self._columns, "following"]
        samples = pyarrow.table(dict(zip(names, [*words, following], strict=True)))
        path = self._path(block)
        new = path.with_suffix(".new")
        self.connection.register("samples", samples)
        target = str(new).replace("'", "''")
        self.connection.execute(
            f"COPY (SELECT *, count(*) AS n FROM samples GROUP BY ALL) TO '{target}' (FORMAT parquet)"
        )
        self.connection.unregister("samples")
        new.replace(path)

    def following(self, symbols: int) -> I64:
        """How often each token number comes next."""
        self._relation()
        rows = self.connection.execute("SELECT following, sum(n)::BIGINT AS n FROM counted GROUP BY ALL").fetchnumpy()
        found = np.zeros(symbols, np.int64)
        found[np.asarray(rows["following"], np.int64)] = rows["n"]
        return found

    def merged(self) -> Iterator[Counts]:
        """All counts in the order of contexts, then of next tokens, in parts."""
        self._relation()
        names = [*self._columns, "following"]
        query = f"SELECT {', '.join(names)}, sum(n)::BIGINT AS n FROM counted GROUP BY ALL ORDER BY {', '.join(names)}"
        for batch in self.connection.sql(query).to_arrow_reader(_ROWS):
            *columns, n = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
            yield Counts(words=tuple(columns[:-1]), following=columns[-1], count=n)

    def _relation(self) -> None:
        """All files as one view, whatever else lies in the folder."""
        place = glob.escape(str(self.folder)).replace("'", "''")
        pattern = f"{place}/counts-{self.packing.length}-*.parquet"
        self.connection.execute(f"CREATE OR REPLACE VIEW counted AS SELECT * FROM read_parquet('{pattern}')")


def _duckdb() -> Any:
    try:
        import duckdb  # noqa: PLC0415 - an extra
        import pyarrow  # noqa: F401, PLC0415
    except ModuleNotFoundError as fault:
        found = f"package {fault.name} is not installed"
        raise ExtraError("counting contexts", found, fix="pip install 'deltagram[corpus]'") from None
    return duckdb
