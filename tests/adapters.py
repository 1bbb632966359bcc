"""Tiny models of real classes with LoRA adapters that PEFT makes, saves and loads, for tests."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

IDS = torch.arange(14).reshape(2, 7)
SIZES: dict[str, Any] = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "intermediate_size": 48, "max_position_embeddings": 32}  # fmt: skip


@contextmanager
def quiet() -> Iterator[None]:
    """PEFT and transformers warn of what these tests mean to do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A class of models: what a base is saved as, and what is fine-tuned and run."""

    base: Callable[[], Any]
    tuned: Any
    options: dict[str, Any]
    inputs: dict[str, Any]

    def load(self, path: Path) -> Any:
        """The model to fine-tune, or the restored one."""
        torch.manual_seed(1)  # a head that the base lacks is the same every time
        with quiet():
            return self.tuned.from_pretrained(path, **self.options).eval()

    def output(self, model: Any) -> torch.Tensor:
        """What the model makes of the inputs."""
        with torch.inference_mode():
            found = model(**self.inputs)
        return found.logits if "logits" in found else found.last_hidden_state


def seeded(make: Callable[[], Any]) -> Callable[[], Any]:
    def made() -> Any:
        torch.manual_seed(0)
        return make()

    return made


def kinds() -> dict[str, Kind]:
    """The models by name."""
    t, ids = transformers, {"input_ids": IDS}
    llama = {**SIZES, "num_key_value_heads": 2}
    gpt2 = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
    vit = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
           "image_size": 8, "patch_size": 4}  # fmt: skip
    narrow = {"dtype": torch.bfloat16}
    return {
        "bert": Kind(
            base=seeded(lambda: t.BertModel(t.BertConfig(**SIZES))), tuned=t.BertForSequenceClassification,
            options={"num_labels": 3}, inputs=ids,
        ),
        "llama": Kind(
            base=seeded(lambda: t.LlamaForCausalLM(t.LlamaConfig(**llama))), tuned=t.LlamaForCausalLM, options={},
            inputs=ids,
        ),
        "narrow": Kind(
            base=seeded(lambda: t.LlamaForCausalLM(t.LlamaConfig(**llama)).to(torch.bfloat16)),
            tuned=t.LlamaForCausalLM, options=narrow, inputs=ids,
        ),
        "tied": Kind(
            base=seeded(lambda: t.LlamaForCausalLM(t.LlamaConfig(**llama, tie_word_embeddings=True))),
            tuned=t.LlamaForCausalLM, options={}, inputs=ids,
        ),
        "gpt2": Kind(
            base=seeded(lambda: t.GPT2LMHeadModel(t.GPT2Config(**gpt2))), tuned=t.GPT2LMHeadModel, options={},
            inputs=ids,
        ),
        "vit": Kind(
            base=seeded(lambda: t.ViTModel(t.ViTConfig(**vit), add_pooling_layer=False)), tuned=t.ViTModel,
            options={"add_pooling_layer": False},
            inputs={"pixel_values": torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)},
        ),
    }  # fmt: skip


KINDS = kinds()


def save_base(kind: Kind, folder: Path) -> Path:
    """A base as transformers saves it."""
    with quiet():
        kind.base().save_pretrained(folder)
    return folder


def adapted(kind: Kind, base: Path, folder: Path, **settings: Any) -> torch.Tensor:
    """An adapter in `folder` whose trained parts are random numbers; returns what its model puts out."""
    with quiet():
        model = peft.get_peft_model(kind.load(base), peft.LoraConfig(**settings))
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_(0.5 * noise.to(parameter.dtype))
        model.eval().save_pretrained(folder)
        return kind.output(model)


def loaded(kind: Kind, base: Path, adapter: Path) -> Any:
    """A base with an adapter as plain PEFT loads it."""
    with quiet():
        return peft.PeftModel.from_pretrained(kind.load(base), adapter).eval()
