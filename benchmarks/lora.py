"""A LoRA adapter pruned: its two factors, or their product; output error, accuracy and bytes of each.

`python benchmarks/lora.py [--folder DIR] [--texts N] [--tests N]`

An adapter of rank 8 on the query and value layers of all-MiniLM-L6-v2, trained with PEFT on texts of Reuters R8 (about
two minutes on two cores), is pruned in every way below with four seeds. The output error is the distance of the last
hidden states (real tokens of the test texts) from the adapter's, over the distance of the base's from the adapter's: 1
is as far away as not having the adapter. The floor of the accuracy is the base encoder under the trained head.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from deltagram import jobs
from deltagram.data.packages import Texts, minilm, reuters_r8
from deltagram.delta import patch
from deltagram.store.deltafile import open_delta
from deltagram.training.batches import by_length, shuffled
from deltagram.training.huggingface import Tokens, classifier, tokenize

RANK, ALPHA, LEARNING_RATE, LENGTH, BATCH, EPOCHS = 8, 16, 2e-3, 48, 32, 2
SEEDS = range(4)


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to store the adapter; `divide_by` None is the method's own divisor."""

    label: str
    adapter: str
    keep: float
    values: str = "bf16"
    divide_by: float | None = None


WAYS = (
    Way(label="factors, all, f32", adapter="factors", keep=1, values="f32"),
    Way(label="factors, all, 4 bit", adapter="factors", keep=1, values="4bit"),
    Way(label="factors, p = .9, q = 1 - p", adapter="factors", keep=0.1),
    Way(label="factors, p = .9, q = sqrt(1 - p)", adapter="factors", keep=0.1, divide_by=0.1**0.5),
    Way(label="factors, p = .9, q = 1", adapter="factors", keep=0.1, divide_by=1),
    Way(label="product, p = .9, q = 1 - p", adapter="product", keep=0.1),
    Way(label="product, p = .99, q = 1 - p", adapter="product", keep=0.01),
    Way(label="product, p = .99, q = sqrt(1 - p)", adapter="product", keep=0.01, divide_by=0.1),
)


class Bench:
    """The test texts, and what model and head make of them."""

    def __init__(self, texts: Texts, tokens: Tokens) -> None:
        self._texts, self._tokens = texts, tokens

    def look(self, model: Any) -> tuple[np.ndarray, float]:
        """Last hidden states of all real tokens, and accuracy."""
        states, right = [], 0
        model.eval()
        with torch.inference_mode():
            for samples in by_length(self._tokens.lengths, size=64):
                numbers, mask = (torch.from_numpy(array) for array in self._tokens.batch(samples))
                out = model(input_ids=numbers, attention_mask=mask, output_hidden_states=True)
                states.append(out.hidden_states[-1][mask.bool()].numpy())
                right += int((out.logits.argmax(-1).numpy() == np.array(self._texts.label)[samples]).sum())
        return np.concatenate(states), right / len(self._texts)


def train(texts: Texts, classes: Sequence[str], out: Path) -> None:
    """A LoRA adapter and its head, as PEFT trains and saves them."""
    torch.manual_seed(0)
    model = classifier(transformers, minilm(), classes=classes)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"], task_type="SEQ_CLS")
    tuned = get_peft_model(model, config)
    tokens = tokenize(transformers, minilm(), texts.text, max_length=LENGTH)
    labels = torch.tensor(texts.label)
    learnt = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=LEARNING_RATE, weight_decay=0.0)
    tuned.train()
    for samples in shuffled(tokens.lengths, size=BATCH, epochs=EPOCHS, seed=0):
        numbers, mask = (torch.from_numpy(array) for array in tokens.batch(samples))
        out_logits = tuned(input_ids=numbers, attention_mask=mask).logits
        torch.nn.functional.cross_entropy(out_logits, labels[samples]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    tuned.save_pretrained(out)


def chosen(texts: Texts, count: int) -> Texts:
    """The first `count` of a fixed shuffle."""
    order = np.random.default_rng(0).permutation(len(texts))[:count]
    return Texts(tuple(texts.text[i] for i in order), tuple(texts.label[i] for i in order))


def measure(folder: Path, *, texts: int, tests: int) -> Iterator[Mapping[str, Any]]:
    """A row for every way, each over all seeds."""
    data, adapter = reuters_r8(), folder / "adapter"
    if not adapter.exists():
        train(chosen(data.train, texts), data.classes, adapter)
    test = chosen(data.test, tests)
    bench = Bench(test, tokenize(transformers, minilm(), test.text, max_length=LENGTH))
    tuned = PeftModel.from_pretrained(classifier(transformers, minilm(), classes=data.classes), adapter)
    want, best = bench.look(tuned)
    with tuned.disable_adapter():
        start, _ = bench.look(tuned)
    live = classifier(transformers, minilm(), classes=data.classes)
    with torch.no_grad():
        for name, tensor in tuned.base_model.model.classifier.modules_to_save["default"].named_parameters():
            live.classifier.get_parameter(name).copy_(tensor)
    floor = bench.look(live)[1]
    size = (adapter / "adapter_model.safetensors").stat().st_size
    yield {"way": "the adapter", "bytes": size, "error": [0.0], "accuracy": [best]}
    yield {"way": "base, trained head", "bytes": 0, "error": [1.0], "accuracy": [floor]}
    whole = float(np.linalg.norm(want - start))
    for way in WAYS:
        row: dict[str, Any] = {"way": way.label, "error": [], "accuracy": []}
        for seed in SEEDS if way.keep < 1 else [0]:
            out = folder / "delta"
            jobs.prune(
                minilm(), adapter, out, adapter=way.adapter, keep=way.keep, values=way.values, seed=seed, force=True
            )
            if way.divide_by is not None:
                jobs.rescale(out, divide_by=way.divide_by)
            opened = open_delta(out)
            with patch.applied(live, opened):
                states, share = bench.look(live)
            row["bytes"] = opened.nbytes
            row["error"].append(float(np.linalg.norm(states - want)) / whole)
            row["accuracy"].append(share)
        yield row


def main() -> None:
    """Print the table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keeps the adapter for the next run")
    parser.add_argument("--texts", type=int, default=2400)
    parser.add_argument("--tests", type=int, default=800)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print("| stored | bytes | output error | accuracy |\n|---|---|---|---|")
        for row in measure(folder, texts=given.texts, tests=given.tests):
            spread = f" +- {statistics.stdev(row['accuracy']):.3f}" if len(row["accuracy"]) > 1 else ""
            error, accuracy = statistics.mean(row["error"]), statistics.mean(row["accuracy"])
            print(f"| {row['way']} | {row['bytes']:,} | {error:.3g} | {accuracy:.3f}{spread} |", flush=True)


if __name__ == "__main__":
    main()
