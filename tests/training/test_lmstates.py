"""States and logits of language models: those that transformers gives, one context at a time, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import tinylabels
import tinymodels
from deltagram.errors import CheckpointError, SettingError
from deltagram.store.checkpoint import open_checkpoint
from deltagram.training.lmstates import WordStates, final_norm, output_of, word_states
from deltagram.training.loaded import loaded


def ids(**changed: Any) -> tuple[Any, Any]:
    labels = tinylabels.counted()
    return changed.get("contexts", labels.context_ids), changed.get("words", labels.word_ids)


def run(folder: Path, *, layer: int | None = None, size: int = 5, **changed: Any) -> WordStates:
    with loaded(folder, open_checkpoint(folder).specs) as model:
        return word_states(model, *ids(**changed), layer=layer, size=size)


@pytest.mark.parametrize("kind", tinylabels.CONFIGS)
def test_states_and_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    model = tinylabels.model(tmp_path, kind)
    found = run(tmp_path)
    contexts, words = ids()
    assert (contexts[:, 0] == -1).any()
    for j, row in enumerate(contexts):
        with torch.inference_mode():
            alone = model(input_ids=torch.tensor([row[row >= 0].tolist()]), output_hidden_states=True)
        np.testing.assert_allclose(found.states[j], alone.hidden_states[-1][0, -1], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found.logits[:, j], alone.logits[0, -1, words], rtol=1e-5, atol=1e-4)
        assert found.log_partition[j] == pytest.approx(float(alone.logits[0, -1].double().logsumexp(0)), abs=1e-4)
    np.testing.assert_allclose(found.words, model.get_output_embeddings().weight[words].detach(), rtol=1e-7)
    np.testing.assert_allclose(found.words @ found.states.T, found.logits, atol=1e-4)
    assert found.norm.endswith("norm" if "llama" in kind else "ln_f")


@pytest.mark.parametrize("kind", ["gpt2", "llama-untied"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_is_that_of_transformers(kind: str, layer: int, tmp_path: Path) -> None:
    model = tinylabels.model(tmp_path, kind)
    found, last = run(tmp_path, layer=layer), run(tmp_path)
    contexts, _ = ids()
    for j, row in enumerate(contexts):
        with torch.inference_mode():
            said = model(input_ids=torch.tensor([row[row >= 0].tolist()]), output_hidden_states=True)
        np.testing.assert_allclose(found.states[j], said.hidden_states[layer][0, -1], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.logits, last.logits)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_last_block_comes_before_the_final_norm(kind: str, tmp_path: Path) -> None:
    model = tinylabels.model(tmp_path, kind)
    norm = model.transformer.ln_f if kind == "gpt2" else model.model.norm
    with torch.inference_mode():
        np.testing.assert_allclose(norm(torch.tensor(run(tmp_path, layer=3).states)), run(tmp_path).states, atol=1e-5)


def test_a_batch_changes_nothing_and_no_hook_stays(tmp_path: Path) -> None:
    tinylabels.model(tmp_path, "llama")
    with loaded(tmp_path, open_checkpoint(tmp_path).specs) as model:
        one, all_at_once = (word_states(model, *ids(), size=size) for size in (1, 100))
        np.testing.assert_allclose(one.states, all_at_once.states, atol=1e-5)
        with pytest.raises(SettingError):
            word_states(model, *ids(), layer=9)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())
        assert final_norm(model) == "model.norm"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_logits_are_made_of_the_last_tokens_alone(kind: str, tmp_path: Path) -> None:
    tinylabels.model(tmp_path, kind)
    with loaded(tmp_path, open_checkpoint(tmp_path).specs) as model:
        shapes = []
        handle = output_of(model).module.register_forward_hook(lambda _m, _i, given: shapes.append(given.shape))
        word_states(model, *ids(), size=4)
        handle.remove()
    assert set(shapes) == {torch.Size((4, 1, tinylabels.TOKENS))}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"layer": 4}, "layer: 4, expected 0 (what goes in) to 3, or none: what the output layer sees"),
        ({"layer": -1}, "layer: -1, expected 0"),
        ({"words": np.array([3, 32])}, "has 32 tokens, and the words have number 32, expected labels counted with"),
        ({"contexts": np.full((2, 3), 70)}, "has 32 tokens, and the contexts have number 70"),
        ({"contexts": np.zeros((2, 9), np.int64)}, "takes 8 tokens, and a context has 9; count the corpus"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_model_is_refused(changed: Any, says: str, tmp_path: Path) -> None:
    tinylabels.model(tmp_path, "gpt2")
    with pytest.raises(SettingError) as fault:
        run(tmp_path, **changed)
    assert says in str(fault.value)


def test_other_models_are_refused(tmp_path: Path) -> None:
    _, tuned = tinymodels.bert_pair(tmp_path)
    with pytest.raises(
        SettingError, match="is a BertForSequenceClassification, expected a causal language model; a cl"
    ):
        run(tuned)


def test_a_missing_output_layer_is_refused(tmp_path: Path) -> None:
    made = tinylabels.model(tmp_path, "llama-untied")
    made.model.save_pretrained(tmp_path)
    made.config.architectures = ["LlamaForCausalLM"]
    made.config.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds no weights of its output layer lm_head; give a whole checkpoint"):
        run(tmp_path)


def test_capped_logits_are_refused(tmp_path: Path) -> None:
    config = transformers.Gemma2Config(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=8, final_logit_softcapping=0.01, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        transformers.Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="its logits are not those of lm_head alone, expected logits = W h"):
        run(tmp_path)


def test_a_bias_is_part_of_the_logits(tmp_path: Path) -> None:
    config = transformers.PhiConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=8, pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = transformers.PhiForCausalLM(config).eval()
        torch.nn.init.normal_(made.lm_head.bias)
    made.save_pretrained(tmp_path)
    found = run(tmp_path)
    _, words = ids()
    bias = made.lm_head.bias.detach().numpy()[words]
    np.testing.assert_allclose(found.words @ found.states.T + bias[:, None], found.logits, atol=1e-5)
    assert found.norm == "model.final_layernorm"


def test_the_output_layer_has_a_name(tmp_path: Path) -> None:
    tinylabels.model(tmp_path, "gpt2")
    with loaded(tmp_path, open_checkpoint(tmp_path).specs) as model:
        found = output_of(model)
        assert (found.name, found.vocabulary) == ("lm_head", 32)
