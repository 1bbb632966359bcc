"""Models and tokenizers of transformers, loaded without its bars and warnings."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.errors import CheckpointError, ExtraError
from deltagram.training.batches import I64

_ALL_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Texts as token numbers, cut at a greatest length, and the number that fills a batch up."""

    ids: tuple[tuple[int, ...], ...]
    pad: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self.ids]

    def batch(self, samples: I64) -> tuple[I64, I64]:
        """Token numbers and attention mask of some texts, each `sample token`, padded to the longest one."""
        chosen = [self.ids[i] for i in samples]
        numbers = np.full((len(chosen), max(len(ids) for ids in chosen)), self.pad, np.int64)
        mask = np.zeros_like(numbers)
        for row, ids in enumerate(chosen):
            numbers[row, : len(ids)] = ids
            mask[row, : len(ids)] = 1
        return numbers, mask


@contextmanager
def libraries() -> Iterator[tuple[Any, Any]]:
    """torch and transformers, the latter silent while the block runs; ExtraError if one is missing."""
    try:
        import torch  # noqa: PLC0415 - seconds to import, needed by no other job
        import transformers  # noqa: PLC0415
    except ModuleNotFoundError as error:
        found = f"package {error.name} is not installed"
        raise ExtraError("fine-tuning", found, fix="pip install 'deltagram[hf]'") from None
    log: Any = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield torch, transformers
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def classifier(transformers: Any, folder: Path, *, classes: Sequence[str] = ()) -> Any:
    """The model in `folder` in float32, with its own classification head, or a new one for `classes`."""
    names = dict(enumerate(classes))
    head = {"num_labels": len(names), "id2label": names, "label2id": {name: i for i, name in names.items()}}
    auto = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(_model_folder(folder), local_files_only=True, **(head if classes else {})).float()


def bare_encoder(transformers: Any, folder: Path) -> Any:
    """The model in `folder` in float32, without a head."""
    return transformers.AutoModel.from_pretrained(_model_folder(folder), local_files_only=True).float()


def tokenize(transformers: Any, folder: Path, texts: Sequence[str], *, max_length: int) -> Tokens:
    """Texts through the tokenizer in `folder`, cut at `max_length` tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(_model_folder(folder), local_files_only=True)
    ids = tokenizer(list(texts), truncation=True, max_length=max_length, padding=False)["input_ids"]
    pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
    return Tokens(ids=tuple(tuple(row) for row in ids), pad=pad)


def copy_tokenizer(transformers: Any, source: Path, out: Path) -> None:
    """Copy a tokenizer's files as they are: saved by transformers they have other bytes, which a delta must carry."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(_model_folder(source), local_files_only=True)
    for name in {*_ALL_TOKENIZERS, *tokenizer.vocab_files_names.values()}:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _model_folder(folder: Path) -> Path:
    """`folder`, if it is one that transformers reads; it would look for any other on the network."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(str(folder), "no config.json", expected="a Hugging Face model folder")
    return folder
