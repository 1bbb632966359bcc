"""What the geometry callback adds to an epoch of training, beside the same epoch without it.

`python benchmarks/callback.py [--runs N]`

Target: at most 3 % of an epoch. Two models, with weights and data drawn anew, since neither changes the time: the
small convolutional network on images of 28 x 28, and an encoder of the size of MiniLM (6 layers, 384 features) on
texts of 64 tokens. An epoch is all steps and `epoch_end`, which measures and writes. Seconds are of the processor,
which a busy machine does not stretch; sides are interleaved, ratios are of medians, the first round left out.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers

from deltagram.training import GeometryCallback
from deltagram.training.convnet import Config, ConvNet
from measure import Row, median, options, rounds, table, workplace

TARGET = 1.03
IMAGES, IMAGE_BATCH = 4096, 64
TEXTS, TEXT_BATCH, TOKENS = 128, 32, 64
CLASSES = 10

Batches = list[tuple[Any, Any]]


def convnet() -> tuple[Any, Batches]:
    """The small network and its batches."""
    config = Config(
        classes=tuple(map(str, range(CLASSES))), channels=1, rows=28, columns=28, mean=(128.0,), deviation=(64.0,)
    )
    pixels = torch.randint(0, 256, (IMAGES, 1, 28, 28), dtype=torch.uint8)
    label = torch.arange(IMAGES) % CLASSES
    return ConvNet(config), list(zip(pixels.split(IMAGE_BATCH), label.split(IMAGE_BATCH), strict=True))


def encoder() -> tuple[Any, Batches]:
    """A classifier of MiniLM's size and its batches."""
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536, num_labels=CLASSES
    )
    tokens = torch.randint(5, config.vocab_size, (TEXTS, TOKENS))
    label = torch.arange(TEXTS) % CLASSES
    model = transformers.BertForSequenceClassification(config)
    return model, list(zip(tokens.split(TEXT_BATCH), label.split(TEXT_BATCH), strict=True))


def epoch(model: Any, optimizer: Any, batches: Batches, geometry: GeometryCallback | None) -> None:
    """One epoch of cross-entropy."""
    with nullcontext() if geometry is None else geometry.watch(model):
        for x, y in batches:
            if geometry is not None:
                geometry.labels(y)
            said = model(x)
            torch.nn.functional.cross_entropy(getattr(said, "logits", said), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if geometry is not None:
            geometry.epoch_end()


def row(name: str, made: Callable[[], tuple[Any, Batches]], folder: Path, runs: int) -> Row:
    """An epoch with and without the callback, interleaved."""
    model, batches = made()
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    geometry = GeometryCallback(file=folder / f"{model.__class__.__name__}.jsonl")

    def spent(watched: GeometryCallback | None) -> float:
        start = time.process_time()
        epoch(model, optimizer, batches, watched)
        return time.process_time() - start

    found = rounds({"with": lambda: spent(geometry), "without": lambda: spent(None)}, runs=runs + 1)
    ours, theirs = (median(values[1:]) for values in (found["with"], found["without"]))
    return Row(what=f"{name}, with the callback", ours=ours, beside="without", theirs=theirs, at_most=TARGET)


def main() -> None:
    given = options(__doc__, runs=9).parse_args()
    torch.manual_seed(0)
    with workplace(given.folder) as folder:
        rows = [
            row(f"convnet, {IMAGES:,} images in batches of {IMAGE_BATCH}", convnet, folder, given.runs),
            row(f"encoder of 384 features, {TEXTS} texts in batches of {TEXT_BATCH}", encoder, folder, given.runs),
        ]
    table(
        "An epoch of training",
        rows,
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {CLASSES} classes.",
    )


if __name__ == "__main__":
    main()
