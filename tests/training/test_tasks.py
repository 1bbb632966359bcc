"""Tasks: what is compared with what, and models whose answers are no numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from deltagram.errors import SettingError
from deltagram.progress import SILENT
from deltagram.training.huggingface import Tokens, greatest_length, tokenize_stream
from deltagram.training.losses import IGNORED, plain
from deltagram.training.tasks import Classification, LanguageModelling, Task
from tinymodels import tiny_bert, tiny_llama

TOKENS = Tokens(ids=((2, 3, 4), (5, 6), (7, 8, 9, 1)), pad=0)
BOTH = np.array([0, 1])


class Echo(torch.nn.Module):
    """A model whose logits favour the token it sees, times a factor."""

    def __init__(self, factor: float, *, pooled: bool) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))
        self.pooled = pooled

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        logits = torch.nn.functional.one_hot(input_ids, 12) * self.factor * attention_mask[..., None]
        return type("Output", (), {"logits": logits.sum(1) if self.pooled else logits})


def test_a_language_model_is_asked_for_the_next_token_and_not_for_padding() -> None:
    task = LanguageModelling(tokens=TOKENS)
    logits, target = task.pair(torch, Echo(1.0, pooled=False), BOTH)
    assert target.tolist() == [3, 4, 6, IGNORED]
    assert logits.argmax(-1).tolist()[:3] == [2, 3, 5]
    assert task.targets(BOTH).tolist() == [3, 4, 6]


@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_the_parts_of_a_step_weigh_as_much_as_their_examples(parts: int) -> None:
    samples = np.array([0, 1, 2])
    tasks: list[tuple[Task, bool]] = [
        (LanguageModelling(tokens=TOKENS), False),
        (Classification(inputs=TOKENS, label=(1, 0, 5)), True),
    ]
    for task, pooled in tasks:
        model = Echo(0.3, pooled=pooled)
        logits, target = task.pair(torch, model, samples)
        whole = torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORED)
        found = list(plain().losses(torch, None, model, task, samples, parts=parts))
        assert len(found) == min(parts, 3)
        assert sum(loss.item() for loss in found) == pytest.approx(whole.item(), rel=1e-6)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers_are_refused(factor: float) -> None:
    classes = Classification(inputs=TOKENS, label=(0, 1, 1))
    with pytest.raises(SettingError, match=r"^metric: the model's answers are not finite; train at a lower rate$"):
        classes.measure(torch, Echo(factor, pooled=True), "accuracy", progress=SILENT)
    stream = LanguageModelling(tokens=TOKENS)
    with pytest.raises(SettingError, match=r"^metric: perplexity is not finite; train at a lower rate$"):
        stream.measure(torch, Echo(factor, pooled=False), "perplexity", progress=SILENT)
    with pytest.raises(SettingError, match=r"^metric: perplexity is not finite"):
        stream.measure(torch, Echo(1e5, pooled=False), "perplexity", progress=SILENT)


def test_a_stream_has_every_token_once(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "llama")
    texts = ["it was good", "a film", "the plot"]
    tokens = tokenize_stream(transformers, folder, texts, max_length=4)
    assert [token for row in tokens.ids for token in row] == [8, 9, 3, 1, 5, 6, 1, 4, 7, 1]
    assert tokens.lengths == [4, 4, 2]
    assert tokenize_stream(transformers, folder, texts, max_length=9).lengths == [9]  # one token predicts none


def test_the_greatest_length_is_the_models_or_the_tokenizers(tmp_path: Path) -> None:
    assert greatest_length(transformers, tiny_bert(tmp_path / "bert")) == 32
    folder = tmp_path / "roberta"
    folder.mkdir()
    for name in ("vocab.txt", "tokenizer_config.json"):
        (folder / name).write_bytes((tmp_path / "bert" / name).read_bytes())
    transformers.RobertaConfig(max_position_embeddings=514, pad_token_id=1).save_pretrained(folder)
    assert greatest_length(transformers, folder) == 512
