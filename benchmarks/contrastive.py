"""Time and memory of the supervised contrastive loss and its gradient beside pytorch-metric-learning's SupConLoss.

`python benchmarks/contrastive.py [--runs N]`

Random embeddings of 128 features, 100 classes, temperature .1, float32. Targets at 4096 items: at least 6 x faster,
sides interleaved, ratios of medians; and at least 10 x less growth of the peak of resident memory, each side in a
process of its own that has run a small batch before. Values are compared, too. Without the peer there is nothing to
be beside.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from deltagram.losses import SupervisedContrastive
from measure import Row, median, options, rounds, seconds, table
from process import child

FEATURES, CLASSES, TEMPERATURE = 128, 100, 0.1
SIZES = (256, 1024, 2048, 4096)
LARGE = 32768
PEER, PLAIN = "SupConLoss", "plain=True"
FASTER, LESS = 6.0, 10.0

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def loss_of(side: str) -> Loss:
    if side == PEER:
        from pytorch_metric_learning.losses import SupConLoss  # noqa: PLC0415 - where it is installed

        made: Loss = SupConLoss(temperature=TEMPERATURE)
        return made
    return SupervisedContrastive(TEMPERATURE, divisor="nonzero", plain=side == PLAIN)


def step(loss: Loss, items: int) -> Callable[[], float]:
    """A step on drawn embeddings: the value, and the gradient."""
    torch.manual_seed(0)
    embeddings, label = torch.randn(items, FEATURES, requires_grad=True), torch.randint(CLASSES, (items,))

    def once() -> float:
        embeddings.grad = None
        value = loss(embeddings, label)
        value.backward()
        return value.item()

    return once


def growth(side: str, items: int) -> dict[str, float]:
    """How much the peak of resident memory of this process grows by one step, in bytes, and how long it took."""
    loss = loss_of(side)
    step(loss, 64)()
    once = step(loss, items)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = status("VmRSS")
    took = seconds(once)
    return {"bytes": status("VmHWM") - before, "seconds": took}


def status(field: str) -> int:
    """A number of bytes that the system says of this process."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak(side: str, items: int) -> dict[str, float]:
    found: dict[str, float] = json.loads(child(sys.executable, __file__, "--side", side, "--items", items).output)
    return found


def time_rows(runs: int) -> list[Row]:
    rows = []
    for items in SIZES:
        steps = {side: step(loss_of(side), items) for side in ("ours", PLAIN, PEER)}
        values = {side: once() for side, once in steps.items()}
        if abs(values["ours"] / values[PEER] - 1) > 1e-5:
            sys.exit(f"values differ: {values}")
        timed = {side: lambda once=once: seconds(once) for side, once in steps.items()}
        times = {side: median(found) for side, found in rounds(timed, runs=runs).items()}
        target = FASTER if items == max(SIZES) else 1.0
        rows += [
            Row(
                what=f"{items} items",
                ours=times["ours"],
                beside=side,
                theirs=times[side],
                at_least=target if side == PEER else 1.0,
            )
            for side in (PLAIN, PEER)
        ]
    return rows


def main() -> None:
    parser = options(__doc__, runs=9)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--items", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(growth(given.side, given.items)))
        return
    rows = time_rows(given.runs)
    items = max(SIZES)
    sides = {side: lambda side=side: peak(side, items)["bytes"] for side in ("ours", PEER)}
    ours, theirs = (median(found) for found in rounds(sides, runs=3).values())
    rows.append(
        Row(
            what=f"{items} items, growth of the peak",
            ours=ours,
            beside=PEER,
            theirs=theirs,
            unit="B",
            at_least=LESS,
        )
    )
    large = peak("ours", LARGE)
    rows.append(Row(what=f"{LARGE} items, growth of the peak", ours=large["bytes"], unit="B"))
    rows.append(Row(what=f"{LARGE} items, once", ours=large["seconds"]))
    table(
        f"Supervised contrastive loss and its gradient, {FEATURES} features, {CLASSES} classes",
        rows,
        f"torch {torch.__version__}, {torch.get_num_threads()} threads.",
    )


if __name__ == "__main__":
    main()
