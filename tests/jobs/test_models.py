"""Models of real classes: every pair a person may have is pruned, restored, and loaded by `from_pretrained`."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from checkpoints import write_checkpoint
from deltagram.jobs import inspect, prune, restore, verify
from deltagram.store.deltafile import open_delta
from deltagram.store.tensors import PrunedTensor

WORDS = {f"w{number}": number for number in range(90)} | {"[UNK]": 90}
SIZES: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                         "intermediate_size": 48, "max_position_embeddings": 40}  # fmt: skip
IDS = torch.arange(12).reshape(2, 6)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two folders, how to load the tuned one, and what the plan should say."""

    base: Path
    tuned: Path
    load: Callable[[Path], tuple[torch.nn.Module, object]] | None
    matching: str = "names are equal"
    forms: frozenset[str] = frozenset({"pruned", "whole"})
    dropped: tuple[str, ...] = ()


def perturbed(model: Any) -> Any:
    """The model after a pretended fine-tuning: everything moved a little, and one tensor not at all."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in list(model.parameters())[:-1]:
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype), alpha=0.004)
    return model


def saved(model: Any, folder: Path, *, shard: str = "1GB") -> Path:
    """The model with a tokenizer, as a person saves it."""
    model.save_pretrained(folder, max_shard_size=shard)
    words = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return folder


def case(folder: Path, base: Any, tuned: Any, *, shard: str = "1GB", load: dict[str, Any] | None = None, **expected: Any
         ) -> Case:  # fmt: skip
    def loaded(path: Path) -> tuple[torch.nn.Module, object]:
        options = {"dtype": "auto", "output_loading_info": True} | (load or {})
        model, told = type(tuned).from_pretrained(path, **options)
        return model.eval(), told

    return Case(base=saved(base, folder / "base", shard=shard), tuned=saved(tuned, folder / "tuned", shard=shard),
                load=loaded, **expected)  # fmt: skip


def gpt2(folder: Path) -> Case:
    config = transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=2, n_positions=40)
    base = transformers.GPT2LMHeadModel(config)
    made = case(folder, base, perturbed(copy.deepcopy(base)), shard="20KB")
    assert (made.base / "model.safetensors.index.json").exists()
    return made


def llama(*, tied: bool, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied)
    return transformers.LlamaForCausalLM(config).to(dtype)


def llama_bfloat16(folder: Path) -> Case:
    base = llama(tied=True, dtype=torch.bfloat16)
    return case(folder, base, perturbed(copy.deepcopy(base)))


def classifier_from_encoder(folder: Path) -> Case:
    base = transformers.BertModel(transformers.BertConfig(**SIZES))
    tuned = transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, num_labels=3))
    tuned.bert.load_state_dict(base.state_dict())
    return case(folder, base, perturbed(tuned), matching="the fine-tuned model adds the prefix 'bert.'")


def encoder_from_language_model(folder: Path) -> Case:
    base = transformers.BertForMaskedLM(transformers.BertConfig(**SIZES))
    tuned = transformers.BertModel(transformers.BertConfig(**SIZES))
    tuned.load_state_dict(base.bert.state_dict(), strict=False)
    dropped = tuple(sorted(name for name in base.state_dict() if name.startswith("cls.") and ".decoder." not in name))
    matching = "the fine-tuned model drops the prefix 'bert.'"
    return case(folder, base, perturbed(tuned), matching=matching, dropped=dropped)


def vocabulary(rows: int, *, tied: bool, dtype: torch.dtype = torch.float32) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        base = llama(tied=tied, dtype=dtype)
        tuned = copy.deepcopy(base)
        tuned.resize_token_embeddings(rows, mean_resizing=False)
        return case(folder, base, perturbed(tuned), forms=frozenset({"pruned", "whole", "resized"}))

    return make


def other_dtype(dtype: torch.dtype) -> Callable[[Path], Case]:
    def make(folder: Path) -> Case:
        base = llama(tied=True)
        return case(folder, base, perturbed(copy.deepcopy(base)).to(dtype))

    return make


def untied_from_tied(folder: Path) -> Case:
    base, tuned = llama(tied=True), llama(tied=False)
    tuned.load_state_dict(base.state_dict())
    return case(folder, base, perturbed(tuned))


def tied_from_untied(folder: Path) -> Case:
    base, tuned = llama(tied=False), llama(tied=True)
    tuned.model.load_state_dict(base.model.state_dict())
    return case(folder, base, perturbed(tuned), dropped=("lm_head.weight",))


def fewer_tensors(folder: Path) -> Case:
    base = transformers.BertModel(transformers.BertConfig(**SIZES))
    tuned = transformers.BertModel(transformers.BertConfig(**SIZES), add_pooling_layer=False)
    tuned.load_state_dict(base.state_dict(), strict=False)
    load = {"add_pooling_layer": False}
    return case(folder, base, perturbed(tuned), load=load, dropped=("pooler.dense.bias", "pooler.dense.weight"))


def odd_tensors(folder: Path) -> Case:
    base = {"empty": np.zeros((0, 4), np.float32), "flat": np.zeros(0, np.float16), "scalar": np.array(1.5),
            "count": np.array(7), "ids": np.arange(5), "flags": np.array([True, False])}  # fmt: skip
    tuned = base | {"scalar": np.array(2.5), "ids": np.arange(1, 6), "new": np.zeros((3, 0), np.float32)}
    return Case(base=write_checkpoint(folder / "base", base), tuned=write_checkpoint(folder / "tuned", tuned),
                load=None, forms=frozenset({"same", "whole"}))  # fmt: skip


CASES: dict[str, Callable[[Path], Case]] = {
    "gpt-2 in shards": gpt2, "tied llama in bfloat16": llama_bfloat16,
    "classifier from encoder": classifier_from_encoder, "encoder from language model": encoder_from_language_model,
    "grown vocabulary, tied": vocabulary(103, tied=True), "shrunk vocabulary, tied": vocabulary(88, tied=True),
    "grown vocabulary, untied, bfloat16": vocabulary(97, tied=False, dtype=torch.bfloat16),
    "shrunk vocabulary, untied": vocabulary(95, tied=False),
    "bfloat16 from float32": other_dtype(torch.bfloat16), "float16 from float32": other_dtype(torch.float16),
    "float64 from float32": other_dtype(torch.float64), "untied from tied": untied_from_tied,
    "tied from untied": tied_from_untied, "fewer tensors": fewer_tensors, "odd tensors": odd_tensors,
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(0)
    return CASES[request.param](tmp_path_factory.mktemp("pair"))


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def raw(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def there_and_back(pair: Case, folder: Path, **settings: Any) -> dict[str, Tensor]:
    """Prune, inspect, verify, restore; gives the restored tensors, which have the tuned names, shapes and dtypes."""
    prune(pair.base, pair.tuned, folder / "delta", **settings)
    told = inspect(folder / "delta")
    assert set(told.tensors) == set(tensors(pair.tuned))
    assert told.numbers["dropped"] == sorted(pair.dropped)
    assert verify(folder / "delta", base=pair.base).numbers["base_checked"] is True
    restore(pair.base, folder / "delta", folder / "back")
    found, wanted = tensors(folder / "back"), tensors(pair.tuned)
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (t.shape, t.dtype) for n, t in wanted.items()}
    return found


def output(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return next(iter(model(input_ids=IDS).values()))


def test_a_pruned_model_restores_and_loads(pair: Case, tmp_path: Path) -> None:
    made = prune(pair.base, pair.tuned, tmp_path / "unused", keep=0.05)
    assert made.numbers["matching"] == pair.matching
    assert {row["form"] for row in made.tensors.values()} - {"same"} == pair.forms - {"same"}
    found, base, tuned = there_and_back(pair, tmp_path, keep=0.05), tensors(pair.base), tensors(pair.tuned)
    delta = open_delta(tmp_path / "delta")
    for name, stored in delta.manifest.tensors.items():
        if not isinstance(stored, PrunedTensor):
            assert raw(found[name]) == raw(tuned[name])
            continue
        rows = stored.common.shape[0]
        assert raw(found[name][rows:]) == raw(tuned[name][rows:])
        kept = np.asarray(delta.mask(name).positions(0, stored.mask.keep), np.int64)
        assert kept.size == max(1, round(0.05 * stored.common.size))
        untouched = np.ones(stored.common.size, bool)
        untouched[kept] = False
        source = base[stored.base_name or name][:rows].to(tuned[name].dtype)
        assert raw(found[name][:rows].flatten()[untouched]) == raw(source.flatten()[untouched])
        assert torch.equal(found[name][:rows], source) == torch.equal(tuned[name][:rows], source)
    for file in pair.tuned.iterdir():
        if ".safetensors" not in file.name:
            assert (tmp_path / "back" / file.name).read_bytes() == file.read_bytes()
    if pair.load:
        (model, told), (_, expected) = pair.load(tmp_path / "back"), pair.load(pair.tuned)
        assert str(told) == str(expected)
        assert torch.isfinite(output(model)).all()
        assert transformers.AutoTokenizer.from_pretrained(tmp_path / "back")("w3 w1 x").input_ids == [3, 1, 90]


def test_exact_restores_every_bit(pair: Case, tmp_path: Path) -> None:
    found, tuned = there_and_back(pair, tmp_path, method="exact"), tensors(pair.tuned)
    assert {name: raw(tensor) for name, tensor in found.items()} == {name: raw(t) for name, t in tuned.items()}
    if pair.load:
        assert torch.equal(output(pair.load(tmp_path / "back")[0]), output(pair.load(pair.tuned)[0]))


@pytest.mark.parametrize("method", ["random", "magnitude"])
def test_keeping_everything_restores_to_the_last_place(method: str, pair: Case, tmp_path: Path) -> None:
    """The difference is rounded to float32, the sum once to float32 and once to the tuned dtype."""
    found = there_and_back(pair, tmp_path, keep=1.0, values="f32", divide_by=1, method=method)
    base, tuned = tensors(pair.base), tensors(pair.tuned)
    for name, stored in open_delta(tmp_path / "delta").manifest.tensors.items():
        if not isinstance(stored, PrunedTensor):
            assert raw(found[name]) == raw(tuned[name])
            continue
        rows = stored.common.shape[0]
        assert raw(found[name][rows:]) == raw(tuned[name][rows:])
        wanted, source = tuned[name][:rows], base[stored.base_name or name][:rows]
        step = (wanted.double() - source.double()).abs()
        size = wanted.abs()
        place = torch.nextafter(size, torch.full_like(size, torch.inf)).double() - size.double()
        single = 2.0**-24 * (step + 2 * wanted.double().abs())  # float32 on the way, also to a float64
        assert ((found[name][:rows].double() - wanted.double()).abs() <= place + single).all()
