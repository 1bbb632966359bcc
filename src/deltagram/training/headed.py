"""A base encoder given a classification head, so that adapters of it have one to stand on."""

from collections.abc import Sequence
from pathlib import Path

from deltagram.training.huggingface import classifier, copy_tokenizer, libraries
from deltagram.training.loop import seeded


def add_head(base: Path, out: Path, *, classes: Sequence[str], seed: int = 0) -> None:
    """Write the encoder in `base` under a random head for `classes` into the folder `out`, with its tokenizer."""
    with libraries() as (torch, transformers), seeded(torch, seed):
        classifier(transformers, base, classes=classes).save_pretrained(out)
        copy_tokenizer(transformers, base, out)
