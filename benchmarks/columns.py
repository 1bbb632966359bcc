"""Time of what a structurally pruned delta adds to a linear layer's output, served as a small dense product.

`OMP_NUM_THREADS=1 python benchmarks/columns.py [--folder DIR] [--runs N]` (scipy's CSR product has one thread)

One layer of 3,072 outputs and 1,024 inputs in float32, keep 1 % in 5 % of the columns, for 1 to 512 tokens. Beside
it: the dense delta product `x @ delta.T`, and the product with the kept entries alone as a CSR matrix
(scipy.sparse), at the same entries. All three are compared with each other, to the rounding of float32 sums.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from deltagram import jobs
from deltagram.arrays import F32
from deltagram.delta.columns import column_block, column_product
from deltagram.delta.stored import Pruned
from deltagram.store.deltafile import open_delta
from measure import Row, median, options, rounds, seconds, table, workplace
from pair import write_pair

ROWS, COLS = 3072, 1024
KEEP, COLUMNS = 0.01, 0.05
TOKENS = (1, 32, 512)
REPEATS = 20  # products in one measurement


def pruned(folder: Path) -> Pruned:
    """The layer's delta as a reader of the file decodes it."""
    write_pair(folder / "layer", {"layer.weight": (ROWS, COLS)})
    delta = folder / "delta"
    jobs.prune(
        folder / "layer" / "base", folder / "layer" / "tuned", delta,
        keep=KEEP, method="columns", columns=COLUMNS, values="f32", force=True,
    )  # fmt: skip
    found = open_delta(delta).load()["layer.weight"]
    assert isinstance(found, Pruned)
    return found


def repeated(product: partial[NDArray[np.float32]]) -> float:
    """Seconds of one product, out of many."""
    return seconds(lambda: [product() for _ in range(REPEATS)]) / REPEATS


def rows(tensor: Pruned, *, runs: int) -> list[Row]:
    """Times at each number of tokens, and bytes."""
    columns, block = column_block(tensor)
    dense: F32 = np.zeros((ROWS, COLS), np.float32)
    dense[:, columns] = block
    sparse = csr_array(dense)
    found = []
    for tokens in TOKENS:
        x = np.random.default_rng(tokens).standard_normal((tokens, COLS), np.float32)
        ours = column_product(x, columns, block)
        for name, other in (("dense", x @ dense.T), ("CSR", (sparse @ x.T).T)):
            if not np.allclose(ours, other, rtol=1e-4, atol=1e-5 * np.abs(other).max()):
                sys.exit(f"{tokens} tokens: the {name} product differs")
        sides = {
            "columns": partial(column_product, x, columns, block),
            "dense": partial(np.matmul, x, dense.T),
            "csr": partial(lambda x: (sparse @ x.T).T, x),
        }
        times = rounds({name: partial(repeated, side) for name, side in sides.items()}, runs=runs)
        at = f"{tokens} token{'s' if tokens > 1 else ''}: product"
        ours_took = median(times["columns"])
        found += [
            Row(what=at, ours=ours_took, beside="dense delta", theirs=median(times["dense"])),
            Row(what=at, ours=ours_took, beside="CSR (scipy)", theirs=median(times["csr"])),
        ]
    held = columns.nbytes + block.nbytes
    csr = sparse.data.nbytes + sparse.indices.nbytes + sparse.indptr.nbytes
    return [
        *found,
        Row(what="memory", ours=held, unit="B", beside="dense delta", theirs=dense.nbytes),
        Row(what="memory", ours=held, unit="B", beside="CSR (scipy)", theirs=csr),
    ]


def main() -> None:
    given = options(__doc__, runs=15).parse_args()
    with workplace(given.folder) as folder:
        tensor = pruned(folder)
        found = rows(tensor, runs=given.runs)
    table(
        f"Kept columns as a small dense product: {ROWS:,} x {COLS:,}, float32, keep {KEEP:.0%} in {COLUMNS:.0%} of the "
        f"columns ({tensor.mask.keep:,} entries)", found,
        "The three products were compared with each other before they were timed.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
