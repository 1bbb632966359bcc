"""Time of a loss and its gradient beside `torch.nn.functional.cross_entropy`, on random logits (sample, class).

`python benchmarks/losses.py [--runs N] [--compile]`

Target: at most 1.15 x, the peer given the same weights. `--compile` puts both through `torch.compile`, and shows the
peer as it is, too. Sides are interleaved; ratios are of medians. Freed memory stays with the process: if glibc
gave it back, whichever side is next would pay for fetching it again, more than for the loss.
"""

import ctypes
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from deltagram.losses import CDT, LDT, VS, CrossEntropy, LogitAdjusted
from measure import Row, median, options, rounds, seconds, table

SHAPES = ((128, 10), (128, 100), (256, 100), (256, 1000), (1024, 1000), (4096, 10), (64, 32000))
TARGET = 1.15
PEER, WEIGHTED = "cross_entropy", "cross_entropy(weight=)"


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def sides(samples: int, classes: int, *, compiled: bool) -> dict[str, Callable[[], object]]:
    """One step of each loss on the same logits: the value, and the gradient of the logits."""
    torch.manual_seed(0)
    logits, label = torch.randn(samples, classes, requires_grad=True), torch.randint(classes, (samples,))
    counts, weight = torch.randint(1, 1000, (classes,)), torch.rand(classes) + 0.5
    losses: dict[str, Loss] = {
        PEER: cross_entropy,
        WEIGHTED: lambda z, y: cross_entropy(z, y, weight),
        "CrossEntropy": CrossEntropy(),
        "CrossEntropy, weights": CrossEntropy(weight),
        "LogitAdjusted": LogitAdjusted(counts),
        "CDT": CDT(counts),
        "LDT": LDT(counts),
        "LDT, weights": LDT.symmetric(counts),
        "VS": VS(counts),
    }

    if compiled:
        torch.compiler.reset()
        eager = {f"{name}, eager": loss for name, loss in losses.items() if name in (PEER, WEIGHTED)}
        losses = {name: torch.compile(loss) for name, loss in losses.items()} | eager

    def step(loss: Loss) -> None:
        logits.grad = None
        loss(logits, label).backward()

    return {name: lambda loss=loss: step(loss) for name, loss in losses.items()}


def keep_freed_memory() -> None:
    """Tell glibc to take large arrays from its heap, and to give nothing of that back."""
    trim_threshold, mmap_threshold = -1, -3
    tell = getattr(ctypes.CDLL(None), "mallopt", None)
    if tell is not None:
        tell(mmap_threshold, 1 << 30)
        tell(trim_threshold, (1 << 31) - 1)


def main() -> None:
    keep_freed_memory()
    parser = options(__doc__, runs=60)
    parser.add_argument("--compile", action="store_true", help="put both sides through torch.compile")
    given = parser.parse_args()
    rows = []
    for samples, classes in SHAPES:
        made = sides(samples, classes, compiled=given.compile)
        timed = {name: lambda side=side: seconds(side) for name, side in made.items()}
        times = {name: median(values[3:]) for name, values in rounds(timed, runs=given.runs + 3).items()}
        peers = {name: times.pop(name) for name in tuple(times) if name.startswith(PEER)}
        for name, value in times.items():
            for beside, theirs in peers.items():
                if beside.startswith(WEIGHTED) == ("weights" in name):
                    what = f"{name}, {samples} x {classes}"
                    rows.append(Row(what=what, ours=value, beside=beside, theirs=theirs, at_most=TARGET))
    table(
        f"A loss and its gradient{', compiled' if given.compile else ''}",
        rows,
        f"torch {torch.__version__}, {torch.get_num_threads()} threads.",
    )


if __name__ == "__main__":
    main()
