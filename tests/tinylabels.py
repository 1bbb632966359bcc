"""Small label matrices with token numbers, and causal models that they fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from deltagram.data.labels import LabelMatrix

TOKENS = 32  # of the models here
POSITIONS = 8


def counted(*, words: int = 6, contexts: int = 12, most: int = 3, length: int = 3, seed: int = 0) -> LabelMatrix:
    """Random counts on random supports, every word there; contexts of one to `length` tokens, all different."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((words, contexts), np.int64)
    for column in range(contexts):
        some = rng.permutation(words)[: rng.integers(1, most + 1)]
        counts[some, column] = rng.integers(1, 5, len(some))
        counts[column % words, column] += 1
    ids = rng.permutation(TOKENS**length)[:contexts]
    numbers = np.stack([ids // TOKENS**place % TOKENS for place in range(length)], 1).astype(np.int64)
    if length > 1:
        short = rng.permutation(contexts)[: contexts // 3]
        numbers[short, : length - 1], numbers[short, -1] = -1, rng.permutation(TOKENS)[: len(short)]
    return replace(
        LabelMatrix.of_counts(counts), context_ids=numbers, word_ids=rng.permutation(TOKENS)[:words].astype(np.int64)
    )  # fmt: skip


CONFIGS: dict[str, Any] = {
    "gpt2": transformers.GPT2Config(
        vocab_size=TOKENS, n_embd=16, n_layer=3, n_head=2, n_positions=POSITIONS, bos_token_id=0, eos_token_id=0,
        initializer_range=0.3,
    ),
    "gpt2-untied": transformers.GPT2Config(
        vocab_size=TOKENS, n_embd=16, n_layer=3, n_head=2, n_positions=POSITIONS, bos_token_id=0, eos_token_id=0,
        initializer_range=0.3, tie_word_embeddings=False,
    ),
    "llama": transformers.LlamaConfig(
        vocab_size=TOKENS, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=POSITIONS, initializer_range=0.3, tie_word_embeddings=True,
    ),
    "llama-untied": transformers.LlamaConfig(
        vocab_size=TOKENS, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=POSITIONS, initializer_range=0.3, tie_word_embeddings=False,
    ),
}  # fmt: skip


def model(folder: Path, kind: str, *, seed: int = 0) -> Any:
    """A random model of one of `CONFIGS`, saved in `folder`; it is returned in evaluation mode."""
    build = transformers.GPT2LMHeadModel if kind.startswith("gpt2") else transformers.LlamaForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = build(CONFIGS[kind]).eval()
    bars = transformers.utils.logging
    bars.disable_progress_bar()
    made.save_pretrained(folder)
    bars.enable_progress_bar()
    return made
