"""Tiny random models with tokenizers of whole words, and texts that they can learn, for tests of training."""

import json
import random
from pathlib import Path

import tokenizers
import torch
import transformers

CLASSES = ("bad", "good")
FILLERS = ("the", "a", "film", "plot", "it", "was")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CLASSES, *FILLERS)
POSITIONS = 32


def tiny_bert(folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a random one-layer BERT without a head."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=POSITIONS,
    )  # fmt: skip
    _save(transformers.BertModel, config, folder, dtype)
    return folder


def tiny_llama(folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with a random one-layer Llama, whose tokenizer has an end of text and nothing to pad with."""
    words = {word: i for i, word in enumerate(("<unk>", "</s>", *CLASSES, *FILLERS))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(folder)  # fmt: skip
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=POSITIONS, tie_word_embeddings=True,
    )  # fmt: skip
    _save(transformers.LlamaForCausalLM, config, folder, dtype)
    return folder


def _save(kind: type, config: object, folder: Path, dtype: torch.dtype) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).to(dtype)
    bars = transformers.utils.logging
    bars.disable_progress_bar()
    model.save_pretrained(folder)
    bars.enable_progress_bar()


def mood(count: int, *, seed: int) -> list[dict[str, str]]:
    """Sentences of fillers and one word that tells the class."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        words = [*draw.choices(FILLERS, k=draw.randint(1, 6)), CLASSES[i % 2]]
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": CLASSES[i % 2]})
    return rows


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
