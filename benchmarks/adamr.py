"""Time of one step of AdamR beside torch's AdamW, on parameters shaped like all-MiniLM-L6-v2 (22.6 million).

`python benchmarks/adamr.py [--runs N]`

Target: at most 1.15 x of `torch.optim.AdamW(foreach=True)`, the reference in memory, in bfloat16, and mapped from a
file. Sides are interleaved; ratios are of medians.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from deltagram.training import AdamR
from measure import Row, median, options, rounds, seconds, table, workplace

HIDDEN, INNER, LAYERS, VOCABULARY = 384, 1536, 6, 30522
TARGET = 1.15


def shapes() -> list[tuple[int, ...]]:
    """Shapes of the parameters of a six-layer BERT."""
    h = HIDDEN
    layer = [*[(h, h), (h,)] * 4, (h,), (h,), (INNER, h), (INNER,), (h, INNER), (h,), (h,), (h,)]
    return [(VOCABULARY, h), (512, h), (2, h), (h,), (h,), *layer * LAYERS]


def parameters() -> list[torch.nn.Parameter]:
    """New ones, with gradients."""
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(shape) * 0.06) for shape in shapes()]
    for param in made:
        param.grad = torch.randn(param.shape) * 1e-3
    return made


def mapped(folder: Path) -> list[torch.Tensor]:
    """The reference as bfloat16 tensors over one mapped file."""
    params = parameters()
    path = folder / "reference.bin"
    size = sum(param.numel() for param in params)
    flat = torch.from_file(str(path), shared=True, size=size, dtype=torch.bfloat16)
    flat.copy_(torch.cat([param.detach().flatten() for param in params]))
    os.sync()
    parts = torch.split(flat, [param.numel() for param in params])
    return [part.view(param.shape) for part, param in zip(parts, params, strict=True)]


def ours(reference: list[torch.Tensor], *, pull: str = "l2") -> Callable[[], object]:
    """A step of AdamR."""
    return AdamR(parameters(), lr=1e-5, strength=0.01, pull=pull, reference=reference).step


def main() -> None:
    given = options(__doc__, runs=15).parse_args()
    with workplace(given.folder) as folder:
        whole = [param.detach().clone() for param in parameters()]
        sides: dict[str, Callable[[], object]] = {
            "AdamW, foreach": torch.optim.AdamW(parameters(), lr=1e-5, foreach=True).step,
            "L2, float32 reference": ours(whole),
            "L2, bfloat16 reference": ours([tensor.bfloat16() for tensor in whole]),
            "L2, mapped bfloat16 reference": ours(mapped(folder)),
            "L1, float32 reference": ours(whole, pull="l1"),
            "strength 0": AdamR(parameters(), lr=1e-5, strength=0.0).step,
            "L2, one tensor at a time": AdamR(
                parameters(), lr=1e-5, strength=0.01, reference=whole, foreach=False
            ).step,
            "AdamW, fused": torch.optim.AdamW(parameters(), lr=1e-5, fused=True).step,
        }  # fmt: skip
        found = rounds({name: lambda side=side: seconds(side) for name, side in sides.items()}, runs=given.runs + 1)
    times = {name: median(values[1:]) for name, values in found.items()}  # the first round makes the states
    peer = times.pop("AdamW, foreach")
    fused = times.pop("AdamW, fused")
    rows = [
        Row(
            what=f"AdamR, {name}", ours=value, beside="AdamW(foreach=True)", theirs=peer,
            at_most=None if "one tensor" in name else TARGET,
        )
        for name, value in times.items()
    ]  # fmt: skip
    rows.append(
        Row(what="AdamR, L2, float32 reference", ours=times["L2, float32 reference"], beside="AdamW(fused=True)",
            theirs=fused)
    )  # fmt: skip
    table(
        f"One optimiser step, {sum(torch.Size(shape).numel() for shape in shapes()) / 1e6:.1f} M float32 parameters",
        rows,
        f"torch {torch.__version__}, {torch.get_num_threads()} threads.",
    )


if __name__ == "__main__":
    main()
