"""Tiny bases of real classes and variants of them in every form: what an engine of variants is tested on."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from adapters import quiet
from deltagram.jobs import library_add, library_init, prune, restore
from tinymodels import word_tokenizer

WORDS = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "</s>", *(f"w{n}" for n in range(60))))}
SIZES: dict[str, Any] = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "intermediate_size": 48, "max_position_embeddings": 40, "pad_token_id": 0,
                         "initializer_range": 0.2}  # fmt: skip
GPT2 = transformers.GPT2Config(vocab_size=len(WORDS), n_embd=32, n_layer=2, n_head=4, n_positions=40, pad_token_id=0,
                               bos_token_id=None, eos_token_id=2, initializer_range=0.2)  # fmt: skip
TARGETS = ("query", "value", "q_lin", "v_lin", "q_proj", "v_proj", "c_attn", "fc1", "lin1", "down_proj")
FORMS: dict[str, Mapping[str, Any]] = {
    "random": {"keep": 0.1},
    "bernoulli": {"keep": 0.1, "method": "bernoulli"},
    "columns": {"keep": 0.3, "method": "columns"},
    "magnitude": {"keep": 0.6, "method": "magnitude"},
    "exact": {"method": "exact"},
    "coded": {"keep": 0.1, "values": "4bit"},
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A base, and what its variants are: `tuned(i)` makes the model of variant i."""

    base: Callable[[], Any]
    tuned: Callable[[int, Any], Any]
    auto: Any


def _same(base: Any) -> Any:
    return copy.deepcopy(base)


def _classifier(kind: Any, config: Any, attribute: str) -> Callable[[int, Any], Any]:
    def make(number: int, base: Any) -> Any:
        changed = copy.deepcopy(config)
        changed.num_labels = 2 + number % 3
        model = kind(changed)
        body = getattr(base, attribute, base)
        getattr(model, attribute).load_state_dict(body.state_dict(), strict=False)
        return model

    return make


def _llama(**more: Any) -> Any:
    return transformers.LlamaConfig(
        **(SIZES | {"num_key_value_heads": 2, "eos_token_id": 2, "bos_token_id": None} | more)
    )


def _grown(number: int, base: Any) -> Any:
    model = copy.deepcopy(base)
    if number % 2 == 0:
        model.resize_token_embeddings(len(WORDS) + 1 + number, mean_resizing=False)
    return model


_BERT = transformers.BertConfig(**SIZES)
_ROBERTA = transformers.RobertaConfig(**SIZES)
_DISTIL = transformers.DistilBertConfig(vocab_size=len(WORDS), dim=32, n_layers=2, n_heads=4, hidden_dim=48,
                                        max_position_embeddings=40, pad_token_id=0, initializer_range=0.2)  # fmt: skip
_CLASSES = transformers.AutoModelForSequenceClassification
_LANGUAGE = transformers.AutoModelForCausalLM
FAMILIES: dict[str, Family] = {
    "bert": Family(
        base=lambda: transformers.BertModel(_BERT), auto=_CLASSES,
        tuned=_classifier(transformers.BertForSequenceClassification, _BERT, "bert"),
    ),
    "bert without a pooler": Family(
        base=lambda: transformers.BertForMaskedLM(_BERT), auto=_CLASSES,
        tuned=_classifier(transformers.BertForSequenceClassification, _BERT, "bert"),
    ),
    "roberta": Family(
        base=lambda: transformers.RobertaModel(_ROBERTA), auto=_CLASSES,
        tuned=_classifier(transformers.RobertaForSequenceClassification, _ROBERTA, "roberta"),
    ),
    "distilbert": Family(
        base=lambda: transformers.DistilBertModel(_DISTIL), auto=_CLASSES,
        tuned=_classifier(transformers.DistilBertForSequenceClassification, _DISTIL, "distilbert"),
    ),
    "gpt2 classifier": Family(
        base=lambda: transformers.GPT2Model(GPT2), auto=_CLASSES,
        tuned=_classifier(transformers.GPT2ForSequenceClassification, GPT2, "transformer"),
    ),
    "gpt2": Family(base=lambda: transformers.GPT2LMHeadModel(GPT2), tuned=lambda _, b: _same(b), auto=_LANGUAGE),
    "llama": Family(
        base=lambda: transformers.LlamaForCausalLM(_llama(tie_word_embeddings=True)), tuned=lambda _, b: _same(b),
        auto=_LANGUAGE,
    ),
    "llama untied": Family(
        base=lambda: transformers.LlamaForCausalLM(_llama(tie_word_embeddings=False)), tuned=lambda _, b: _same(b),
        auto=_LANGUAGE,
    ),
    "llama in bfloat16": Family(
        base=lambda: transformers.LlamaForCausalLM(_llama(tie_word_embeddings=True)).bfloat16(),
        tuned=lambda _, b: _same(b), auto=_LANGUAGE,
    ),
    "llama with new words": Family(
        base=lambda: transformers.LlamaForCausalLM(_llama(tie_word_embeddings=True)), tuned=_grown, auto=_LANGUAGE,
    ),
    "llama untied with new words": Family(
        base=lambda: transformers.LlamaForCausalLM(_llama(tie_word_embeddings=False)), tuned=_grown, auto=_LANGUAGE,
    ),
}  # fmt: skip


def saved(model: Any, folder: Path) -> Path:
    """The model with its tokenizer."""
    with quiet():
        model.save_pretrained(folder)
    word_tokenizer(WORDS, pad_token="[PAD]", eos_token="</s>").save_pretrained(folder)
    return folder


def moved(model: Any, *, seed: int) -> Any:
    """Every parameter moved by a share of its own size, norms and biases too: fine-tuned, in a manner."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.3 * parameter.float().std(unbiased=False).clamp(min=0.05)
            noise = torch.randn(parameter.shape, generator=generator) * size
            parameter.add_(noise.to(parameter.dtype))
    return model


@dataclass(frozen=True, kw_only=True)
class Made:
    """A base's folder, and of each variant by its form: the delta's or adapter's folder, and the restored model."""

    base: Path
    payloads: Mapping[str, Path]
    full: Mapping[str, Any]


def made(folder: Path, family: str, *, forms: Sequence[str] = tuple(FORMS), lora: bool = True) -> Made:
    """A base of this family and a variant of every form, the adapter that PEFT makes among them."""
    kind = FAMILIES[family]
    torch.manual_seed(0)
    base = kind.base().eval()
    saved(base, folder / "base")
    payloads, full = {}, {}
    for number, form in enumerate(forms):
        tuned = saved(moved(kind.tuned(number, base), seed=number), folder / f"tuned-{form}")
        payloads[form] = folder / f"delta-{form}"
        prune(folder / "base", tuned, payloads[form], seed=number, **FORMS[form])
        restore(folder / "base", payloads[form], folder / f"full-{form}")
        with quiet():
            full[form] = kind.auto.from_pretrained(folder / f"full-{form}", dtype="auto").eval()
    if lora:
        payloads["lora"] = folder / "lora"
        full["lora"] = _adapter(kind, folder / "base", payloads["lora"])
    return Made(base=folder / "base", payloads=payloads, full=full)


def _adapter(kind: Family, base: Path, out: Path) -> Any:
    classifies = kind.auto is _CLASSES
    options = {"num_labels": 3} if classifies else {}
    task = "SEQ_CLS" if classifies else "CAUSAL_LM"
    with quiet():
        torch.manual_seed(1)
        model = kind.auto.from_pretrained(base, dtype="auto", **options)
        names = [name.rpartition(".")[2] for name, _ in model.named_modules()]
        targets = sorted({name for name in names if name in TARGETS})
        config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type=task)
        model = peft.get_peft_model(model, config)
        model.save_pretrained(out)
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Shelved:
    """A library, and what it was made of."""

    library: Path
    made: Made


def shelved(folder: Path, family: str, *, forms: Sequence[str]) -> Shelved:
    """A library of variants named for their forms."""
    found = made(folder, family, forms=forms)
    library_init(found.base, folder / "library")
    for name, payload in found.payloads.items():
        library_add(folder / "library", payload, name=name)
    return Shelved(library=folder / "library", made=found)
