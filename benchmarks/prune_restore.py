"""Time and memory of prune and restore, 271 million bfloat16 parameters, two checkpoints of 542 MB, keep 1 %.

`python benchmarks/prune_restore.py [--folder DIR] [--runs N] [--mergekit PYTHON]`

Limits: plain reading of both files for prune (target: at most 2.0 times), and a buffered, fsynced copy of the
base for restore, which is fsynced too (at most 1.5 times); both without start-up, which has its own row.
Peer: mergekit 0.1.5, `dare_linear` with density 0.01, which writes the same kind of checkpoint (at least 5
times slower), as whole processes. It needs its own environment, torch first so that no GPU build comes:
`python -m venv V; V/bin/pip install torch==2.13.0; V/bin/pip install mergekit==0.1.5`, then `--mergekit V/bin/python`.
"""

import os
import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import mergekit_dare
from deltagram.store.checkpoint import SINGLE
from measure import Row, median, options, seconds, table, workplace
from pair import shapes, write_pair
from process import Child, deltagram

KEEP = 0.01
BUFFER = 16 << 20


def read(*paths: Path) -> None:
    """All bytes of files into one buffer, one thread: the limit of anything that must see them all."""
    buffer = bytearray(BUFFER)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def copy(source: Path, target: Path) -> None:
    """A buffered copy that is on the disk when it returns."""
    buffer = memoryview(bytearray(BUFFER))
    with source.open("rb", buffering=0) as old, target.open("wb") as new:
        while count := old.readinto(buffer):
            new.write(buffer[:count])
        new.flush()
        os.fsync(new.fileno())


def cleared(path: Path) -> Path:
    """`path` with nothing there, and no write of anyone waiting for the disk."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.sync()
    return path


def inner(runs: list[Child]) -> float:
    """Median seconds of a job after its start-up."""
    return median([run.numbers["seconds"] - run.numbers["start_up_seconds"] for run in runs])


def started(runs: list[Child]) -> float:
    """Median seconds of a process around its work: interpreter, imports, opening, planning, kernels, exit."""
    return median([run.seconds for run in runs]) - inner(runs)


@dataclass
class Runs:
    """What each side took, one entry a round."""

    reading: list[float] = field(default_factory=list)
    copying: list[float] = field(default_factory=list)
    prune: list[Child] = field(default_factory=list)
    restore: list[Child] = field(default_factory=list)
    mergekit: list[Child] = field(default_factory=list)


def measured(folder: Path, *, runs: int, python: Path | None) -> Runs:
    """All sides in turn, `runs` times, with the page cache warm."""
    base, tuned = folder / "pair" / "base", folder / "pair" / "tuned"
    delta, out, copied = folder / "delta", folder / "restored", folder / "copied.safetensors"
    recipe = mergekit_dare.prepare(folder / "pair", folder / "mergekit", keep=KEEP)
    found = Runs()
    deltagram("prune", base, tuned, cleared(delta), "--keep", KEEP)  # compiles kernels, once a machine
    read(base / SINGLE, tuned / SINGLE)
    for _ in range(runs):
        found.reading.append(seconds(partial(read, base / SINGLE, tuned / SINGLE)))
        found.prune.append(deltagram("prune", base, tuned, cleared(delta), "--keep", KEEP))
        found.copying.append(seconds(partial(copy, base / SINGLE, cleared(copied))))
        found.restore.append(deltagram("restore", base, delta, cleared(out)))
        if python is not None:
            found.mergekit.append(mergekit_dare.merge(python, recipe, cleared(folder / "merged")))
    return found


def rows(found: Runs) -> list[Row]:
    """The table."""
    both = [a.seconds + b.seconds for a, b in zip(found.prune, found.restore, strict=True)]
    peer = "mergekit 0.1.5, `dare_linear`"
    lines = [
        Row(what="prune, after start-up", ours=inner(found.prune), beside="reading both files",
            theirs=median(found.reading), at_most=2.0),
        Row(what="restore (fsynced), after start-up", ours=inner(found.restore), beside="fsynced copy of the base",
            theirs=median(found.copying), at_most=1.5),
        Row(what="start-up and exit of prune: interpreter, imports, plan, kernels", ours=started(found.prune)),
        Row(what="start-up and exit of restore", ours=started(found.restore)),
    ]  # fmt: skip
    merging, ours = found.mergekit, [*found.prune, *found.restore]
    whole = Row(what="prune + restore, whole processes", ours=median(both), beside=peer)
    resident = Row(what="peak memory, file pages included", ours=max(run.resident for run in ours), unit="B")
    anonymous = Row(what="peak anonymous memory", ours=max(run.anonymous for run in ours), unit="B")
    if merging:
        whole = replace(whole, theirs=median([run.seconds for run in merging]), at_least=5)
        resident = replace(resident, beside=peer, theirs=max(run.resident for run in merging))
        anonymous = replace(anonymous, beside=peer, theirs=max(run.anonymous for run in merging))
    return [*lines, whole, resident, anonymous]


def main() -> None:
    parser = options(__doc__, runs=5)
    parser.add_argument("--mergekit", type=Path, metavar="PYTHON", help="python of an environment that has mergekit")
    given = parser.parse_args()
    with workplace(given.folder) as folder:
        write_pair(folder / "pair", shapes(1))
        found = measured(folder, runs=given.runs, python=given.mergekit)
    table(
        "Prune and restore: 271 M parameters, bfloat16, keep 1 %",
        rows(found),
        "" if given.mergekit else mergekit_dare.HOW,
    )


if __name__ == "__main__":
    main()
