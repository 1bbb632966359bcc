"""Fifty variants of one encoder: bytes, cold and warm starts, and throughput beside every other way to have them.

`python benchmarks/served.py [--folder DIR] [--variants 50] [--rows 60] [--runs N] [--values bf16] [--keep 0.01]`

The base is all-MiniLM-L6-v2 (22.7 million parameters in float32, from a package). A variant is a classifier whose every
tensor was moved by a little noise of its own seed, pruned at `--keep`: times do not depend on what a variant learnt.
Requests are 24 to 40 tokens long. Throughput is rows a second of a batch spread evenly over 1, 10 and 50 variants:

- mixed: one run of the base for all rows, each variant's entries beside it; swap: each variant written over the base
- whole models: one full model a variant in memory, each run on its rows
- PEFT: LoRA adapters of the nearest size in bytes on the attention and feed-forward layers, `adapter_names` a row
- one model: the same rows through a single full model, which is the limit

The full checkpoints are what `deltagram restore` writes. "Cold" is a variant that is not in memory, to its first
answer, files in the page cache or (where the system lets us drop them) not; a peer's start is `from_pretrained` with
tokenizer.
"""

import gc
import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from deltagram import jobs
from deltagram.data.packages import minilm
from deltagram.records import Meter
from deltagram.serve.costs import Way
from deltagram.serve.engine import Engine, Row
from deltagram.serve.variant import Variant
from measure import Row as Line
from measure import median, options, rounds, seconds, table, workplace

SPREAD, LABELS = 0.002, 4


def tuned(base: Path, out: Path, *, seed: int) -> Path:
    """A classifier on the base with every tensor moved."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=LABELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=SPREAD)
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        if (base / name).is_file():
            (out / name).write_bytes((base / name).read_bytes())
    return out


def library(folder: Path, base: Path, *, count: int, keep: float, values: str) -> list[Path]:
    """Deltas of `count` variants; the first one's full checkpoint is kept in `full`."""
    deltas = []
    for seed in range(count):
        delta = folder / f"delta-{keep}-{values}-{seed}"
        if not delta.is_dir():
            model = tuned(base, folder / "tuned", seed=seed)
            jobs.prune(base, model, delta, keep=keep, values=values, seed=seed, force=True)
        deltas.append(delta)
    if not (folder / "full").is_dir():
        jobs.restore(base, deltas[0], folder / "full")
    return deltas


def dropped(paths: Sequence[Path]) -> None:
    """Ask the system to forget files' pages."""
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def starts(engine: Engine, deltas: Sequence[Path], full: Path, *, runs: int) -> list[Line]:
    """From nothing to the first answer, and from variant to variant."""
    ids = torch.randint(1000, 20000, (1, 32)).tolist()[0]
    turn = iter(range(10**6))

    def ours(*, forget: bool) -> float:
        delta = deltas[next(turn) % len(deltas)]
        if forget:
            dropped([delta])
        return seconds(lambda: engine.classify([Row(variant=engine.variant(str(delta), delta), ids=ids)], way="swap"))

    def theirs(*, forget: bool) -> float:
        if forget:
            dropped([full])

        def start() -> None:
            model = transformers.AutoModelForSequenceClassification.from_pretrained(full)
            transformers.AutoTokenizer.from_pretrained(full)
            with torch.inference_mode():
                model(torch.tensor([ids])).logits.softmax(-1)

        return seconds(start)

    two = [engine.variant(str(delta), delta) for delta in deltas[:2]]

    def swap() -> float:
        engine.base.live.swap(two[next(turn) % 2].patch)
        return seconds(lambda: engine.base.live.swap(two[next(turn) % 2].patch))

    ours(forget=False)
    theirs(forget=False)
    found = rounds(
        {
            "ours": partial(ours, forget=False), "theirs": partial(theirs, forget=False),
            "ours, dropped": partial(ours, forget=True), "theirs, dropped": partial(theirs, forget=True),
            "swap": swap,
        },
        runs=runs,
    )  # fmt: skip
    load = "from_pretrained to first answer"
    return [
        Line(what="cold variant to first answer, pages warm", ours=median(found["ours"]), beside=load,
             theirs=median(found["theirs"]), at_least=10),
        Line(what="cold variant to first answer, pages dropped", ours=median(found["ours, dropped"]), beside=load,
             theirs=median(found["theirs, dropped"]), at_least=10),
        Line(what="warm swap", ours=median(found["swap"]), beside=load, theirs=median(found["theirs"]), at_least=50),
        Line(what="warm swap, against pages dropped", ours=median(found["swap"]), beside=load,
             theirs=median(found["theirs, dropped"]), at_least=50),
    ]  # fmt: skip


def requests(count: int) -> list[list[int]]:
    """Token numbers of like lengths."""
    rng = np.random.default_rng(0)
    return [rng.integers(1000, 20000, rng.integers(24, 41)).tolist() for _ in range(count)]


def padded(texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (length - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (length - len(text)) for text in texts])
    return ids, mask


def models(count: int, full: Path) -> list[Any]:
    """One full model a variant: the first is loaded, the rest are copies with memory of their own."""
    first = transformers.AutoModelForSequenceClassification.from_pretrained(full).eval()
    return [first, *(type(first)(first.config).eval() for _ in range(count - 1))]


def adapted(base: Path, count: int, *, target: int) -> tuple[Any, int]:
    """PEFT with `count` LoRA adapters of about `target` bytes each, and their rank."""
    import peft  # noqa: PLC0415 - a peer

    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=LABELS)
    modules = ["query", "key", "value", "dense"]
    one = peft.get_peft_model(model, peft.LoraConfig(r=1, target_modules=modules, init_lora_weights=False))
    each = sum(p.numel() * p.element_size() for n, p in one.named_parameters() if "lora_" in n)
    rank = max(1, round(target / each))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=LABELS)
    config = peft.LoraConfig(r=rank, target_modules=modules, init_lora_weights=False)
    made = peft.get_peft_model(model, config, adapter_name="a0")
    for number in range(1, count):
        made.add_adapter(f"a{number}", config)
    return made.eval(), rank


def throughput(
    engine: Engine, base: Path, variants: Sequence[Variant], full: Path, *, spread: int, rows: int, runs: int, size: int
) -> list[Line]:  # fmt: skip
    """Seconds of one batch, beside those of the peers."""
    texts, chosen = requests(rows), variants[:spread]
    batch = [Row(variant=chosen[i % spread], ids=text) for i, text in enumerate(texts)]
    groups = [[text for i, text in enumerate(texts) if i % spread == number] for number in range(spread)]
    full_models = models(spread, full)
    peft_model, rank = adapted(base, spread, target=size)
    whole, parts = padded(texts), [padded(group) for group in groups]
    names = [f"a{i % spread}" for i in range(rows)]

    def each() -> None:
        for model, (ids, mask) in zip(full_models, parts, strict=True):
            model(input_ids=ids, attention_mask=mask).logits.softmax(-1)

    def peft_run() -> None:
        peft_model(input_ids=whole[0], attention_mask=whole[1], adapter_names=names).logits.softmax(-1)

    def one() -> None:
        full_models[0](input_ids=whole[0], attention_mask=whole[1]).logits.softmax(-1)

    def ours(way: Way) -> None:
        engine.classify(batch, way=way)

    sides: dict[str, Callable[[], object]] = {
        "mixed": partial(ours, "mixed"), "swap": partial(ours, "swap"), "each": each, "peft": peft_run, "one": one,
    }  # fmt: skip
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for side in sides.values():
            side()
        found = rounds({name: partial(seconds, side) for name, side in sides.items()}, runs=runs)
    time_of = {name: median(values) for name, values in found.items()}
    what = f"{rows} rows over {spread} variant{'s' if spread > 1 else ''}"
    bound = 2 if spread == 10 else None
    full_models.clear()
    gc.collect()
    return [
        Line(what=f"{what}: mixed", ours=time_of["mixed"], beside="one model", theirs=time_of["one"], at_most=bound),
        Line(what=f"{what}: mixed", ours=time_of["mixed"], beside="swap", theirs=time_of["swap"]),
        Line(what=f"{what}: mixed", ours=time_of["mixed"], beside="whole models", theirs=time_of["each"]),
        Line(what=f"{what}: mixed", ours=time_of["mixed"], beside=f"PEFT, rank {rank}", theirs=time_of["peft"]),
        Line(what=f"{what}: swap", ours=time_of["swap"], beside="whole models", theirs=time_of["each"]),
    ]


def main() -> None:
    parser = options(__doc__, runs=7)
    parser.add_argument("--variants", type=int, default=50)
    parser.add_argument("--rows", type=int, default=60, help="rows of a batch (60)")
    parser.add_argument("--keep", type=float, default=0.01)
    parser.add_argument("--values", default="bf16")
    given = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with workplace(given.folder) as folder:
        base = minilm()
        deltas = library(folder, base, count=given.variants, keep=given.keep, values=given.values)
        sizes = [sum(file.stat().st_size for file in delta.iterdir()) for delta in deltas]
        checkpoint = (folder / "full" / "model.safetensors").stat().st_size
        engine = Engine(base)
        warm = [Row(variant=engine.variant("warm", delta), ids=[101, 2000, 102]) for delta in deltas[:2]]
        engine.classify(warm, way="mixed")  # what is loaded and compiled once
        before = Meter.start().numbers()["anonymous_bytes"]
        begun = time.perf_counter()
        variants = [engine.variant(delta.name, delta) for delta in deltas]
        loading = time.perf_counter() - begun
        swapped = Meter.start().numbers()["anonymous_bytes"] - before
        engine.classify([Row(variant=v, ids=[101, 2000, 102]) for v in variants], way="mixed")
        mixed = Meter.start().numbers()["anonymous_bytes"] - before
        many = f"{len(deltas)} full checkpoints"
        lines = [
            Line(what=f"{len(deltas)} deltas on disk, all files", ours=sum(sizes), unit="B", beside=many,
                 theirs=len(deltas) * checkpoint, at_least=90),
            Line(what="base and deltas on disk", ours=sum(sizes) + checkpoint, unit="B", beside=many,
                 theirs=len(deltas) * checkpoint),
            Line(what=f"memory of {len(deltas)} variants, to swap", ours=swapped, unit="B", beside=many,
                 theirs=len(deltas) * checkpoint),
            Line(what=f"memory of {len(deltas)} variants, mixed too", ours=mixed, unit="B", beside=many,
                 theirs=len(deltas) * checkpoint),
            *starts(engine, deltas, folder / "full", runs=given.runs),
        ]  # fmt: skip
        for spread in sorted({1, min(10, given.variants), given.variants}):
            lines += throughput(
                engine, base, variants, folder / "full", spread=spread, rows=given.rows, runs=given.runs,
                size=round(median(sizes)),
            )  # fmt: skip
    table(
        f"{given.variants} variants of all-MiniLM-L6-v2 on one base", lines,
        f"keep {given.keep:.3g}, values {given.values}; {torch.get_num_threads()} threads of torch {torch.__version__}",
        f"Loading all variants took {loading:.2f} s.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
