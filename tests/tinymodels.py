"""Tiny random models of real classes with tokenizers of whole words, what fine-tuning makes of them, and their texts.

One-layer models that learn `mood` (`tiny_bert`, `tiny_llama`), pairs moved by a share of their own size (`bert_pair`,
`llama_pair`), and folders with base, fine-tuned model and texts (`laid`).
"""

import copy
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


# Tokenizers, files


def word_tokenizer(words: Mapping[str, int], *, unknown: str = "[UNK]", **special: str) -> Any:
    """A tokenizer of whole words; `special` are its other tokens."""
    made = Tokenizer(models.WordLevel(dict(words), unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token=unknown, **special)


def write_vocabulary(folder: Path, words: Sequence[str]) -> None:
    """BERT's tokenizer over `SPECIAL` and these words."""
    (folder / "vocab.txt").write_text("\n".join((*SPECIAL, *words)) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write(path: Path, texts: Sequence[str], labels: Sequence[str] | None = None) -> Path:
    """Texts, and their labels if there are any, as JSON lines."""
    if labels is None:
        return write_rows(path, [{"text": text} for text in texts])
    return write_rows(path, [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)])


# One-layer models, and texts that they can learn

MOODS = ("bad", "good")
FILLERS = ("the", "a", "film", "plot", "it", "was")
POSITIONS = 32


def tiny_bert(folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a random one-layer BERT without a head."""
    folder.mkdir(parents=True)
    write_vocabulary(folder, (*MOODS, *FILLERS))
    config = transformers.BertConfig(
        vocab_size=len((*SPECIAL, *MOODS, *FILLERS)), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=POSITIONS,
    )  # fmt: skip
    return _saved(transformers.BertModel, config, folder, dtype)


def tiny_llama(
    folder: Path, *, dtype: torch.dtype = torch.float32, more: Sequence[str] = (), positions: int = POSITIONS
) -> Path:
    """A folder with a random one-layer Llama, whose tokenizer has an end of text and nothing to pad with.

    `more` are words that it knows besides.
    """
    words = {word: i for i, word in enumerate(("<unk>", "</s>", *MOODS, *FILLERS, *more))}
    word_tokenizer(words, unknown="<unk>", eos_token="</s>").save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=positions, tie_word_embeddings=True,
    )  # fmt: skip
    return _saved(transformers.LlamaForCausalLM, config, folder, dtype)


def _saved(kind: type, config: object, folder: Path, dtype: torch.dtype) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).to(dtype)
    bars = transformers.utils.logging
    bars.disable_progress_bar()
    model.save_pretrained(folder)
    bars.enable_progress_bar()
    return folder


def mood(count: int, *, seed: int) -> list[dict[str, str]]:
    """Sentences of fillers and one word that tells the class."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        words = [*draw.choices(FILLERS, k=draw.randint(1, 6)), MOODS[i % 2]]
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": MOODS[i % 2]})
    return rows


# Two-layer pairs

REVIEW = ("good", "fine", "bright", "warm", "bad", "dull", "grim", "cold", "the", "a", "film", "plot", "scene", "it")
VOCABULARY = len((*SPECIAL, *REVIEW))


def sentences(count: int, *, seed: int) -> list[str]:
    """Distinct texts of known words."""
    draw, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        found[" ".join(draw.choices(REVIEW, k=draw.randint(3, 12)))] = None
    return list(found)


def bert_pair(folder: Path, *, classes: int = 3, by: float = 0.3) -> tuple[Path, Path]:
    """A random two-layer BERT, and a classifier of `classes` on weights that differ from it by a share of `by`."""
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 128, "max_position_embeddings": 32, "initializer_range": 0.2,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=classes, **settings))
    base, tuned = _places(folder)
    model.bert.save_pretrained(base)
    _moved(model.bert, by=by, seed=1)
    numbers = torch.randint(5, VOCABULARY, (64, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # so that the classes of texts differ
        model.classifier.bias.sub_(model.eval()(input_ids=numbers).logits.mean(0))
    model.save_pretrained(tuned)
    return base, tuned


def llama_pair(folder: Path, *, by: float = 0.3) -> tuple[Path, Path]:
    """A random two-layer Llama and the same model moved by a share of `by`."""
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True, initializer_range=0.2,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    base, tuned = _places(folder)
    model.save_pretrained(base)
    _moved(model, by=by, seed=1).save_pretrained(tuned)
    return base, tuned


def _places(folder: Path) -> tuple[Path, Path]:
    """Folders for base and fine-tuned model, with their tokenizer."""
    base, tuned = folder / "base", folder / "tuned"
    for place in (base, tuned):
        place.mkdir(parents=True)
        write_vocabulary(place, REVIEW)
    return base, tuned


def _moved(model: Any, *, by: float, seed: int) -> Any:
    """Add to every parameter noise of `by` times its own standard deviation (its mean size, if it has none)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.std() if parameter.numel() > 1 and parameter.std() > 0 else torch.tensor(0.02)
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size * by)
    return model


# Base and fine-tuned model with texts, in folders

WORDS = {f"w{number}": number for number in range(30)} | {"[UNK]": 30}
TEXTS = [" ".join(f"w{(3 * i + 7 * j + i * j) % 30}" for j in range(2 + i % 5)) for i in range(40)]
COLOURS = ("red", "green", "blue")
CONFIGS = {
    "bert": transformers.BertConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=40, num_labels=3, id2label=dict(enumerate(COLOURS)),
        label2id={name: i for i, name in enumerate(COLOURS)},
    ),
    "gpt2": transformers.GPT2Config(
        vocab_size=32, n_embd=32, n_layer=1, n_head=2, n_positions=40, bos_token_id=0, eos_token_id=0,
    ),
    "llama": transformers.LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=40, tie_word_embeddings=True,
    ),
}  # fmt: skip
KINDS = {
    "bert": transformers.BertForSequenceClassification,
    "gpt2": transformers.GPT2LMHeadModel,
    "llama": transformers.LlamaForCausalLM,
}


def laid(folder: Path, kind: str, *, moved: float = 0.05, dtype: torch.dtype = torch.float32) -> Path:
    """`base`, `tuned`, `texts.jsonl` and, for a classifier, `labels.jsonl` with what `tuned` says, in a folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = KINDS[kind](CONFIGS[kind])
        tuned = stepped(base, moved)
        with torch.no_grad():
            if kind == "bert":
                tuned.classifier.weight.mul_(20)
                tuned.classifier.bias.sub_(logits(tuned, TEXTS).mean(0))  # so that every class is somebody's
    for name, model in (("base", base), ("tuned", tuned)):
        save_with_words(model.to(dtype), folder / name, WORDS)
    write(folder / "texts.jsonl", TEXTS)
    if kind == "bert":
        write(folder / "labels.jsonl", TEXTS, [COLOURS[i] for i in said(tuned.float(), TEXTS)])
    return folder


def stepped(base: Any, moved: float) -> Any:
    """A copy with noise of the size `moved` on every parameter, from torch's own generator."""
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=moved)
    return tuned


def save_with_words(model: Any, folder: Path, words: Mapping[str, int]) -> Path:
    """The model with a tokenizer of these whole words."""
    model.save_pretrained(folder)
    word_tokenizer(words, pad_token="[UNK]").save_pretrained(folder)
    return folder


def said(model: Any, texts: Sequence[str]) -> list[int]:
    """The class of each text."""
    guess = logits(model, texts).argmax(-1).tolist()
    assert set(guess) == set(range(len(COLOURS)))
    return guess


def logits(model: Any, texts: Sequence[str]) -> torch.Tensor:
    """A classifier's logits, one text at a time: no padding, no mask."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(input_ids=ids(text)).logits for text in texts])


def ids(text: str) -> torch.Tensor:
    return torch.tensor([[WORDS[word] for word in text.split()]])
