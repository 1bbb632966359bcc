"""Merged models of real classes: `from_pretrained` loads them, and they are the average they should be."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from deltagram.errors import PlanError
from deltagram.jobs import merge, prune, restore
from deltagram.jobs.recipe import recipe

SIZES: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                         "intermediate_size": 48, "max_position_embeddings": 40}  # fmt: skip
IDS = torch.arange(12).reshape(2, 6)


def moved(model: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT encoder, and two classifiers made of it, with two labels and with three, as deltas too."""
    made = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    base = transformers.BertModel(transformers.BertConfig(**SIZES))
    base.save_pretrained(made / "base")
    for labels in (2, 3):
        config = transformers.BertConfig(**SIZES, num_labels=labels)
        tuned = transformers.BertForSequenceClassification(config)
        tuned.bert.load_state_dict(base.state_dict())
        moved(tuned, labels).save_pretrained(made / f"t{labels}")
        prune(made / "base", made / f"t{labels}", made / f"d{labels}", keep=0.2, seed=labels)
    return made


def test_classifiers_with_other_labels_merge_under_one_head(folder: Path, tmp_path: Path) -> None:
    asked = recipe(folder / "base", [folder / "d2", folder / "d3"], method="ties")
    with pytest.raises(PlanError, match=r"classifier\.bias: is in .*d2, but not in the base"):
        merge(asked, tmp_path / "out")
    merge(asked, tmp_path / "out", heads="2")
    model, said = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not said["missing_keys"]
    assert not said["unexpected_keys"]
    assert model(IDS).logits.shape == (2, 3)
    third = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "t3")
    assert torch.equal(model.classifier.weight, third.classifier.weight)


def test_an_average_of_deltas_is_the_average_of_models(folder: Path, tmp_path: Path) -> None:
    for labels in (2, 3):
        restore(folder / "base", folder / f"d{labels}", tmp_path / f"r{labels}")
    merge(recipe(folder / "base", [folder / "d2", folder / "d3"], weights=[1, 3]), tmp_path / "out", heads="base")
    model = transformers.AutoModel.from_pretrained(tmp_path / "out")
    sides = [transformers.AutoModel.from_pretrained(tmp_path / f"r{labels}") for labels in (2, 3)]
    for name, found in model.state_dict().items():
        first, second = (side.state_dict()[name] for side in sides)
        if found.is_floating_point():
            torch.testing.assert_close(found, (first + 3 * second) / 4, rtol=2**-22, atol=2**-24)
