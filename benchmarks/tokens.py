"""Rate and memory of counting contexts in 100 M tokens, beside `sort | uniq -c`, NLTK, polars and DuckDB.

`python benchmarks/tokens.py [--runs N] [--tokens 100e6] [--slice 5e6] [--text kjv.txt]`

Token numbers follow Zipf's law over 30,000 words, independent: the worst case, as few pairs repeat. `--text` is a text
that is repeated to as many words (`bible -f gen1:1-rev22:21 > kjv.txt`). On a slice, each side is a process of its own
that counts the same trigrams: `sort | uniq -c` of their lines (written beforehand), NLTK's NgramCounter, and polars
(streaming) and DuckDB on packed keys. Sides are interleaved; ratios are of medians; peak memory is resident.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from measure import Row, median, options, rounds, table, workplace
from process import Child, child, deltagram

WORDS, CONTEXT, KEPT = 30_000, 2, 10_000
SORT = "LC_ALL=C sort -S 1G --parallel=2 {ngrams} | uniq -c > {out}"
NLTK = """
import sys
import numpy as np
from nltk.lm import NgramCounter
tokens = [str(n) for n in np.load(sys.argv[1])]
print(NgramCounter([zip(tokens, tokens[1:], tokens[2:])]).N())
"""
KEYS = """
import sys
import numpy as np
tokens = np.load(sys.argv[1], mmap_mode="r")
BLOCK = 1 << 21
def blocks():
    for start in range(0, len(tokens) - 2, BLOCK):
        t = np.asarray(tokens[start : start + BLOCK + 2]).astype(np.uint64)
        yield t[:-2] << np.uint64(30) | t[1:-1] << np.uint64(15) | t[2:]
"""
POLARS = (
    KEYS
    + """
import polars as pl, pyarrow as pa, pyarrow.parquet as pq
with pq.ParquetWriter(sys.argv[2], pa.schema([("k", pa.uint64())]), compression="none", use_dictionary=False) as file:
    for k in blocks():
        file.write_table(pa.table({"k": k}))
counted = pl.scan_parquet(sys.argv[2]).group_by("k").agg(pl.len().alias("n")).sort("k")
counted.sink_parquet(sys.argv[2] + ".counted")
print(pl.scan_parquet(sys.argv[2] + ".counted").select(pl.len()).collect().item())
"""
)
DUCKDB = (
    KEYS
    + """
import duckdb, pyarrow as pa, pyarrow.parquet as pq
with pq.ParquetWriter(sys.argv[2], pa.schema([("k", pa.uint64())]), compression="none", use_dictionary=False) as file:
    for k in blocks():
        file.write_table(pa.table({"k": k}))
db = duckdb.connect()
db.execute("SET memory_limit='1500MB'; SET threads=2; SET preserve_insertion_order=false")
db.execute(f"SET temp_directory='{sys.argv[2]}.spilled'")
counted = f"SELECT k, count(*) AS n FROM '{sys.argv[2]}' GROUP BY k ORDER BY k"
db.execute(f"COPY ({counted}) TO '{sys.argv[2]}.counted' (FORMAT parquet)")
print(db.execute(f"SELECT count(*) FROM read_parquet('{sys.argv[2]}.counted')").fetchone()[0])
"""
)


def zipf(path: Path, many: int) -> Path:
    """Independent token numbers by Zipf's law."""
    if not path.exists():
        share = np.cumsum(1 / np.arange(1, WORDS + 1))
        rng = np.random.default_rng(0)
        parts = [min(10_000_000, many - start) for start in range(0, many, 10_000_000)]
        found = [np.searchsorted(share, rng.random(part) * share[-1]).clip(max=WORDS - 1) for part in parts]
        np.save(path, np.concatenate([part.astype(np.uint16) for part in found]))
    return path


def repeated(path: Path, text: Path, many: int) -> Path:
    """A text again and again until it has so many words."""
    if not path.exists():
        content = text.read_text("utf-8")
        times = -(-many // len(content.split()))
        with path.open("w", encoding="utf-8") as file:
            for _ in range(times):
                file.write(content)
    return path


def processor_seconds() -> float:
    """Of all processes that have ended: what a busy machine changes least."""
    spent = os.times()
    return spent.children_user + spent.children_system


def weighed(side: Callable[[], Child]) -> tuple[Child, float]:
    """A run, and the processor time that it took."""
    before = processor_seconds()
    return side(), processor_seconds() - before


def counted(corpus: Path, *more: object) -> Child:
    out = corpus.with_suffix(".npz")
    return deltagram("tokens", corpus, "--context", CONTEXT, "--max-contexts", KEPT, "-o", out, "--force", *more)


def whole(chosen: Namespace, folder: Path) -> None:
    """All tokens: how fast, in how much memory."""
    many = int(float(chosen.tokens))
    rows, notes = [], []
    corpora: dict[str, Callable[[], Child]] = {
        "Zipf, token numbers": partial(counted, zipf(folder / f"zipf{many}.npy", many))
    }
    if chosen.text:
        corpora[f"{chosen.text.name} repeated, words"] = partial(
            counted, repeated(folder / f"text{many}.txt", chosen.text, many), "--tokenizer", "whitespace"
        )
    for name, run in corpora.items():
        found, spent = weighed(run)
        n = found.numbers
        what = f"{name}: {n['tokens'] / 1e6:.0f} M tokens, {n['contexts'] / 1e6:.1f} M contexts of {CONTEXT}"
        rows += [
            Row(what=what, ours=found.seconds, beside="10 minutes", theirs=600, at_most=1),
            Row(what="peak resident memory", ours=found.resident, unit="B", beside="4 GB", theirs=4e9, at_most=1),
        ]
        notes.append(
            f"{name}: {n['tokens'] / found.seconds / 1e6:.2f} M tokens a second; {spent:.0f} s of processor time."
        )
    table("Counting contexts, whole processes", rows, *notes)


def beside(chosen: Namespace, folder: Path) -> None:
    """A slice: the same trigrams by others."""
    many = int(float(chosen.slice))
    corpus, ngrams, scratch = zipf(folder / f"zipf{many}.npy", many), folder / "ngrams.txt", folder / "scratch.parquet"
    tokens = np.load(corpus)
    np.savetxt(ngrams, np.column_stack([tokens[:-2], tokens[1:-1], tokens[2:]]), fmt="%d")
    python = partial(child, sys.executable, "-c")
    sides: dict[str, Callable[[], Child]] = {
        "deltagram": partial(counted, corpus),
        "sort, uniq -c": partial(child, "bash", "-c", SORT.format(ngrams=ngrams, out=folder / "uniq.txt")),
        **({"NLTK's NgramCounter": partial(python, NLTK, corpus)} if find_spec("nltk") else {}),
        **({"polars, counts alone": partial(python, POLARS, corpus, scratch)} if find_spec("polars") else {}),
        **({"DuckDB, counts alone": partial(python, DUCKDB, corpus, scratch)} if find_spec("duckdb") else {}),
    }
    found = rounds({name: partial(weighed, side) for name, side in sides.items()}, runs=chosen.runs)
    work = ", ".join(f"{name} {median([w for _, w in runs]):.1f} s" for name, runs in found.items())
    time = {name: median([run.seconds for run, _ in runs]) for name, runs in found.items()}
    space = {name: median([float(run.resident) for run, _ in runs]) for name, runs in found.items()}
    rows = []
    for name in list(sides)[1:]:
        least = 1 if name[:4] in ("sort", "NLTK") else None
        rows += [
            Row(
                what=f"{many / 1e6:g} M tokens", ours=time["deltagram"], beside=name, theirs=time[name], at_least=least
            ),
            Row(what="peak resident memory", ours=space["deltagram"], beside=name, theirs=space[name], unit="B"),
        ]
    table(
        "Counting contexts beside others",
        rows,
        "deltagram's time: with start-up, thresholds, supports and file.",
        f"Processor time: {work}.",
    )


def main() -> None:
    parser: ArgumentParser = options(__doc__, runs=3)
    parser.add_argument("--tokens", default="100e6", help="of the whole run (100e6)")
    parser.add_argument("--slice", default="5e6", help="tokens counted by all (5e6)")
    parser.add_argument("--text", type=Path, help="a text that is repeated")
    chosen = parser.parse_args()
    with workplace(chosen.folder) as folder:
        whole(chosen, folder)
        beside(chosen, folder)


if __name__ == "__main__":
    main()
