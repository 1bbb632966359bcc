"""A reproduction in seconds: tiny random models, a task they learn, and all of its claims' checks as they are."""

import json
import random
from pathlib import Path

import tokenizers
import torch
import transformers

from deltagram.data.packages import TextClassification, Texts
from deltagram.papers.bench import Bench, Scale
from deltagram.papers.tasks import Task

CLASSES = ("bad", "good")
FILLERS = ("the", "a", "film", "plot", "it", "was")
PROMPT = ("Review", ":", "Sentiment")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CLASSES, *FILLERS)


def texts(count: int, *, seed: int) -> Texts:
    """Sentences of fillers and the name of their class."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        words = [*draw.choices(FILLERS, k=draw.randint(1, 6)), CLASSES[i % 2]]
        draw.shuffle(words)
        made.append(" ".join(words))
    return Texts(tuple(made), tuple(i % 2 for i in range(count)))


def mood() -> TextClassification:
    return TextClassification(name="mood", classes=CLASSES, train=texts(180, seed=1), test=texts(40, seed=2))


TASK = Task(name="mood", packaged=mood, learning_rate=3e-3, epochs=15, max_length=16, held=24)
SCALE = Scale(name="fast", seeds=(0,), masks=(0, 1), test=30, labels=8, texts=4, prompts=20, chosen_on=10)


def bert(folder: Path) -> Path:
    """A random one-layer BERT without a head."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    return _saved(transformers.BertModel, config, folder)


def llama(folder: Path) -> Path:
    """A random one-layer Llama with tied embeddings."""
    words = {word: i for i, word in enumerate(("<unk>", "</s>", *CLASSES, *FILLERS, *PROMPT))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    kind = transformers.PreTrainedTokenizerFast
    kind(tokenizer_object=made, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    return _saved(transformers.LlamaForCausalLM, config, folder)


def _saved(kind: type, config: object, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
    bars = transformers.utils.logging
    bars.disable_progress_bar()
    model.save_pretrained(folder)
    bars.enable_progress_bar()
    return folder


def bench(folder: Path) -> Bench:
    """A bench over tiny models in `folder`."""
    for name, make in (("base-bert", bert), ("base-llama", llama)):
        if not (folder / name).exists():
            make(folder / name)
    return Bench(
        folder=folder, scale=SCALE, encoder=lambda: folder / "base-bert", decoder=lambda: folder / "base-llama",
        task=TASK,
    )  # fmt: skip
