"""Models and tokenizers of transformers, loaded without its bars and warnings."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.data.words import Numbered, named
from deltagram.errors import CheckpointError, ExtraError
from deltagram.training.batches import I64

_ENDLESS = 1 << 30
_OFFSET = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "xlm-roberta-xl",
    "data2vec-text",
    "mpnet",
    "longformer",
    "roberta-prelayernorm",
)
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

    def logits(self, torch: Any, model: Any, samples: I64) -> Any:
        """A model's logits of some texts."""
        numbers, mask = self.batch(samples)
        device = next(model.parameters()).device
        return model(
            input_ids=torch.from_numpy(numbers).to(device), attention_mask=torch.from_numpy(mask).to(device)
        ).logits  # fmt: skip


@contextmanager
def libraries() -> Iterator[tuple[Any, Any]]:
    """torch and transformers, the latter silent while the block runs; ExtraError if one is missing."""
    try:
        import torch  # noqa: PLC0415 - seconds to import, needed by no other job
        import transformers  # noqa: PLC0415
    except ModuleNotFoundError as error:
        found = f"package {error.name} is not installed"
        raise ExtraError("running a model", found, fix="pip install 'deltagram[hf]'") from None
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
    return built(transformers.AutoModelForSequenceClassification, folder, **new_head(classes))


def new_head(classes: Sequence[str]) -> dict[str, Any]:
    """The settings of a new head; none without classes."""
    names = dict(enumerate(classes))
    head = {"num_labels": len(names), "id2label": names, "label2id": {name: i for i, name in names.items()}}
    return head if classes else {}


def bare_encoder(transformers: Any, folder: Path) -> Any:
    """The model in `folder` in float32, without a head."""
    return built(transformers.AutoModel, folder)


def causal_model(transformers: Any, folder: Path) -> Any:
    """The language model in `folder` in float32."""
    return built(transformers.AutoModelForCausalLM, folder)


def built(auto: Any, folder: Path, **config: Any) -> Any:
    """A model in float32; CheckpointError for a folder that transformers cannot build this kind of model from."""
    try:
        return auto.from_pretrained(_model_folder(folder), local_files_only=True, **config).float()
    except (OSError, ValueError, KeyError, RuntimeError) as fault:
        kind = auto.__name__.removeprefix("AutoModel").removeprefix("For") or "model"
        reason = " ".join(str(fault).split())[:200]
        raise CheckpointError(str(folder), f"gives no {kind} that transformers builds ({reason})") from None


def has_head(transformers: Any, folder: Path, *, kind: str = "ForSequenceClassification") -> bool:
    """Whether the model in `folder` was saved with a classification head."""
    config = configuration(transformers, folder)
    return any(name.endswith(kind) for name in config.architectures or ())


def configuration(transformers: Any, folder: Path) -> Any:
    """The configuration of the model in `folder`; CheckpointError for one that transformers does not know."""
    try:
        return transformers.AutoConfig.from_pretrained(_model_folder(folder), local_files_only=True)
    except (ValueError, KeyError) as fault:
        reason = " ".join(str(fault).split())[:200]
        raise CheckpointError(
            str(folder / "config.json"), f"is of no model that transformers builds ({reason})"
        ) from None


def tokenize(transformers: Any, folder: Path, texts: Sequence[str], *, max_length: int) -> Tokens:
    """Texts through the tokenizer in `folder`, cut at `max_length` tokens."""
    tokenizer = tokenizer_in(transformers, folder)
    ids = tokenizer(list(texts), truncation=True, max_length=max_length, padding=False)["input_ids"]
    return Tokens(ids=tuple(tuple(row) for row in ids), pad=padding(tokenizer))


def tokenize_stream(transformers: Any, folder: Path, texts: Sequence[str], *, max_length: int) -> Tokens:
    """Texts one after another, each ended by the end-of-text token if there is one, cut into `max_length` tokens."""
    tokenizer = tokenizer_in(transformers, folder)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    stream = [token for row in rows for token in (*row, *end)]
    cut = [tuple(stream[start : start + max_length]) for start in range(0, len(stream), max_length)]
    return Tokens(ids=tuple(row for row in cut if len(row) > 1), pad=padding(tokenizer))  # one token predicts none


def greatest_length(transformers: Any, folder: Path) -> int:
    """Tokens that the model in `folder` takes at once, as far as its configuration and tokenizer tell."""
    return longest(configuration(transformers, folder), tokenizer_in(transformers, folder))


def longest(config: Any, tokenizer: Any) -> int:
    """Tokens that a model takes at once, as far as its configuration and tokenizer tell."""
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or _ENDLESS
    if getattr(config, "model_type", "") in _OFFSET:
        positions -= config.pad_token_id + 1
    return int(min(positions, tokenizer.model_max_length, _ENDLESS))


def pad_token(transformers: Any, folder: Path) -> int:
    """The number of the token that the tokenizer in `folder` fills a batch up with."""
    return padding(tokenizer_in(transformers, folder))


def tokenizer_in(transformers: Any, folder: Path) -> Any:
    """The tokenizer in `folder`; CheckpointError without one (transformers makes one that knows no word)."""
    try:
        found = transformers.AutoTokenizer.from_pretrained(_model_folder(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as fault:
        reason = " ".join(str(fault).split())[:200] or type(fault).__name__
        raise CheckpointError(str(folder), f"has no tokenizer that transformers reads ({reason})") from None
    names = sorted({"tokenizer.json", *found.vocab_files_names.values()})
    if not any((folder / name).is_file() for name in names):
        raise CheckpointError(str(folder), "has no tokenizer", expected=" or ".join(names), fix="copy it from the base")
    return found


def padding(tokenizer: Any) -> int:
    """What fills a batch up; masked, so that a tokenizer without such a token may lend its end of text."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0)
    return next(int(token) for token in found if token is not None)


def copy_tokenizer(transformers: Any, source: Path, out: Path) -> None:
    """Copy a tokenizer's files as they are: saved by transformers they have other bytes, which a delta must carry."""
    tokenizer = tokenizer_in(transformers, source)
    for name in {*_ALL_TOKENIZERS, *tokenizer.vocab_files_names.values()}:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _model_folder(folder: Path) -> Path:
    """`folder`, if it is one that transformers reads; it would look for any other on the network."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(str(folder), "no config.json", expected="a Hugging Face model folder")
    return folder


def text_tokenizer(transformers: Any, folder: Path) -> Numbered:
    """The tokenizer in `folder` without the tokens it puts around a text; names are as it spells its tokens."""
    found = tokenizer_in(transformers, folder)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = found(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return rows

    return Numbered(ids, named(found.get_vocab()), found.eos_token_id, str(folder))
