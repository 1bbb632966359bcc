"""Tiny random models of real classes with a tokenizer of whole words, fine-tuned by a random step, in folders."""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = {f"w{number}": number for number in range(30)} | {"[UNK]": 30}
TEXTS = [" ".join(f"w{(3 * i + 7 * j + i * j) % 30}" for j in range(2 + i % 5)) for i in range(40)]
CLASSES = ("red", "green", "blue")
CONFIGS = {
    "bert": transformers.BertConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=40, num_labels=3, id2label=dict(enumerate(CLASSES)),
        label2id={name: i for i, name in enumerate(CLASSES)},
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
        tuned = copy.deepcopy(base)
        with torch.no_grad():
            for parameter in tuned.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=moved)
            if kind == "bert":
                tuned.classifier.weight.mul_(20)
                tuned.classifier.bias.sub_(logits(tuned, TEXTS).mean(0))  # so that every class is somebody's
    for name, model in (("base", base), ("tuned", tuned)):
        model.to(dtype).save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    write(folder / "texts.jsonl", TEXTS)
    if kind == "bert":
        write(folder / "labels.jsonl", TEXTS, [CLASSES[i] for i in said(tuned.float(), TEXTS)])
    return folder


def tokenizer() -> Any:
    words = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]")


def said(model: Any, texts: Sequence[str]) -> list[int]:
    """The class of each text."""
    guess = logits(model, texts).argmax(-1).tolist()
    assert set(guess) == set(range(len(CLASSES)))
    return guess


def logits(model: Any, texts: Sequence[str]) -> torch.Tensor:
    """A classifier's logits, one text at a time: no padding, no mask."""
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(input_ids=ids(text)).logits for text in texts])


def ids(text: str) -> torch.Tensor:
    return torch.tensor([[WORDS[word] for word in text.split()]])


def write(path: Path, texts: Sequence[str], labels: Sequence[str] | None = None) -> Path:
    rows = [{"text": text} for text in texts] if labels is None else [
        {"text": text, "label": label} for text, label in zip(texts, labels, strict=True)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
