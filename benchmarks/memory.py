"""Peak anonymous memory of prune and of restore (keep 1 %) as models grow: 271 to 1,084 million parameters.

`python benchmarks/memory.py [--folder DIR] [--runs N]` (needs about 12 GB of disk)

Each job is a process of its own, whose RssAnon is sampled every 5 ms from outside: what it allocated, without the
pages of mapped files, which the system takes back when it wants. Target: below 300 MB at 1, 2 and 4 times the size
and with a single tensor of 1 GB, and flat: at most 1.1 times that of the smallest model.
"""

import shutil
from pathlib import Path

from measure import Row, median, options, table, workplace
from pair import shapes, write_pair
from process import Child, deltagram

KEEP = 0.01
LIMIT = 300e6
FLAT = 1.1
CASES: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "271 M": ("pair", shapes(1)),
    "542 M": ("pair-2", shapes(2)),
    "1,084 M": ("pair-4", shapes(4)),
    "one tensor of 1 GB": ("one-big", {"model.embed_tokens.weight": (512 * 1024, 1024)}),
}


def peaks(folder: Path, *, runs: int) -> dict[str, list[Child]]:
    """Prune and restore the pair in `folder`, in turn."""
    found: dict[str, list[Child]] = {"prune": [], "restore": []}
    base, tuned, delta, out = (folder / name for name in ("base", "tuned", "delta", "restored"))
    for _ in range(runs):
        found["prune"].append(deltagram("prune", base, tuned, delta, "--keep", KEEP, "--force"))
        found["restore"].append(deltagram("restore", base, delta, out, "--force"))
    shutil.rmtree(out)
    return found


def main() -> None:
    given = options(__doc__, runs=3).parse_args()
    rows: list[Row] = []
    first: dict[str, float] = {}
    with workplace(given.folder) as folder:
        for what, (name, named) in CASES.items():
            write_pair(folder / name, named)
            for job, runs in peaks(folder / name, runs=given.runs).items():
                peak = max(run.anonymous for run in runs)
                first.setdefault(job, peak)
                took = median([run.seconds for run in runs])
                title = f"{job}, {what} ({took:.1f} s)"
                rows.append(Row(what=title, ours=peak, beside="300 MB", theirs=LIMIT, unit="B", at_most=1))
                if peak is not first[job]:
                    rows.append(Row(what=title, ours=peak, beside="271 M", theirs=first[job], unit="B", at_most=FLAT))
    table("Peak anonymous memory, bfloat16, keep 1 %", rows, f"Largest of {given.runs} runs each.")


if __name__ == "__main__":
    main()
