"""Tiny random models of real classes, and fine-tunes of them, that build in milliseconds."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

WORDS = ("good", "fine", "bright", "warm", "bad", "dull", "grim", "cold", "the", "a", "film", "plot", "scene", "it")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)


def sentences(count: int, *, seed: int) -> list[str]:
    """Distinct texts of known words."""
    draw, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        found[" ".join(draw.choices(WORDS, k=draw.randint(3, 12)))] = None
    return list(found)


def write_lines(path: Path, rows: list[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _tokenizer(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def _moved(model: Any, *, by: float, seed: int) -> Any:
    """Add to every parameter noise of `by` times its own standard deviation (its mean size, if it has none)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.std() if parameter.numel() > 1 and parameter.std() > 0 else torch.tensor(0.02)
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size * by)
    return model


def bert_pair(folder: Path, *, classes: int = 3, by: float = 0.3) -> tuple[Path, Path]:
    """A random two-layer BERT, and a classifier of `classes` on weights that differ from it by a share of `by`."""
    base, tuned = folder / "base", folder / "tuned"
    settings = {
        "vocab_size": len(VOCABULARY), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 128, "max_position_embeddings": 32, "initializer_range": 0.2,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=classes, **settings))
    for place in (base, tuned):
        place.mkdir(parents=True)
        _tokenizer(place)
    model.bert.save_pretrained(base)
    _moved(model.bert, by=by, seed=1)
    numbers = torch.randint(5, len(VOCABULARY), (64, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # so that the classes of texts differ
        model.classifier.bias.sub_(model.eval()(input_ids=numbers).logits.mean(0))
    model.save_pretrained(tuned)
    return base, tuned


def llama_pair(folder: Path, *, by: float = 0.3) -> tuple[Path, Path]:
    """A random two-layer Llama and the same model moved by a share of `by`."""
    base, tuned = folder / "base", folder / "tuned"
    config = transformers.LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True, initializer_range=0.2,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    for place in (base, tuned):
        place.mkdir(parents=True)
        _tokenizer(place)
    model.save_pretrained(base)
    _moved(model, by=by, seed=1).save_pretrained(tuned)
    return base, tuned
