"""Every row of every batch gets what its variant's restored checkpoint gives, whichever way the batch is answered."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deltagram.errors import PlanError
from deltagram.serve.costs import Way
from deltagram.serve.engine import Engine, Row
from deltagram.serve.requests import Sampling
from deltagram.serve.sampling import Going
from deltagram.serve.variant import Variant
from servedmodels import FAMILIES, Made, made

TEXTS = ("w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w3 w2 w1 w50 w51")
WAYS: tuple[Way, ...] = ("swap", "mixed")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    lora = request.param != "bert without a pooler"  # see test_a_model_with_a_random_part_is_refused
    return made(tmp_path_factory.mktemp("served"), request.param, lora=lora)


@pytest.fixture(scope="module")
def engine(family: Made) -> Engine:
    return Engine(family.base, threads=2)


@pytest.fixture(scope="module")
def variants(family: Made, engine: Engine) -> Mapping[str, Variant]:
    return {form: engine.variant(form, folder) for form, folder in family.payloads.items()}


def rows_of(variants: Mapping[str, Variant], *, way: Way) -> list[Row]:
    """Each text for each variant, so that neighbours differ."""
    chosen = [v for v in variants.values() if way == "mixed" or v.patch is not None]
    return [Row(variant=v, ids=v.words.read(text, where="")) for text in TEXTS for v in chosen]


def tolerance(engine: Engine) -> float:
    """Of numbers of size 1, through two layers."""
    return 50 * float(torch.finfo(getattr(torch, engine.base.dtype)).eps)


def states(model: Any, ids: Any) -> torch.Tensor:
    body = model.base_model.model if hasattr(model, "peft_config") else model
    with torch.inference_mode():
        found: torch.Tensor = body.base_model(torch.tensor([ids])).last_hidden_state[0].float()
    return found


@pytest.mark.parametrize("way", WAYS)
def test_vectors_are_the_restored_models(
    family: Made, engine: Engine, variants: Mapping[str, Variant], way: Way
) -> None:  # fmt: skip
    rows = rows_of(variants, way=way)
    for row, found in zip(rows, engine.embed(rows, way=way), strict=True):
        expected = states(family.full[row.variant.name], row.ids)
        pooled = expected[-1] if row.variant.words.pooling == "last" else expected.mean(0)
        pooled = pooled / pooled.norm()
        assert np.abs(found.vector - pooled.numpy()).max() <= tolerance(engine), row.variant.name
        assert found.tokens == len(row.ids)


@pytest.mark.parametrize("way", WAYS)
def test_answers_are_the_restored_models(
    family: Made, engine: Engine, variants: Mapping[str, Variant], way: Way
) -> None:  # fmt: skip
    rows = rows_of(variants, way=way)
    if rows[0].variant.frame.generates:
        going = [Going(words=row.variant.words, sampling=Sampling(max_tokens=6, temperature=0)) for row in rows]
        answers = engine.generate(rows, going, way=way)
        for row, one, answer in zip(rows, going, answers, strict=True):
            model = family.full[row.variant.name]
            whole = model.generate(
                torch.tensor([row.ids]), max_new_tokens=6, do_sample=False, eos_token_id=2, pad_token_id=0
            )
            expected = whole[0, len(row.ids) :].tolist()
            if expected[-1] == 2:
                expected.pop()
                assert answer.finish == "stop"
            if engine.base.dtype == "float32":
                assert one.ids == expected, row.variant.name
            else:  # the likeliest token may be another one by a rounding
                with torch.inference_mode():
                    logits = model(torch.tensor([row.ids])).logits[0, -1].float()
                best = float(logits.max())
                assert float(logits[(one.ids or [2])[0]]) >= best - tolerance(engine) * abs(best), row.variant.name
            assert answer.text == row.variant.words.text(one.ids)
        return
    for row, answer in zip(rows, engine.classify(rows, way=way), strict=True):
        with torch.inference_mode():
            expected = family.full[row.variant.name](torch.tensor([row.ids])).logits[0].softmax(-1)
        found = [answer.scores[label] for label in row.variant.labels]
        assert np.abs(np.array(found) - expected.numpy()).max() <= tolerance(engine), row.variant.name
        assert answer.label == row.variant.labels[int(expected.argmax())]


def test_both_ways_agree_and_variants_differ(engine: Engine, variants: Mapping[str, Variant]) -> None:
    rows = rows_of(variants, way="swap")
    assert engine.ways_agree(rows)
    first = [row for row in rows if row.ids == rows[0].ids]
    vectors = [found.vector for found in engine.embed(first, way="mixed")]
    apart = [np.abs(a - b).max() for i, a in enumerate(vectors) for b in vectors[:i]]
    assert len(vectors) > 3
    assert min(apart) > 0.01


def test_the_base_is_the_base_again(engine: Engine, variants: Mapping[str, Variant]) -> None:
    engine.embed(rows_of(variants, way="swap"), way="swap")
    checkpoint = engine.base.checkpoint
    before = sum(not _is_base(engine, name) for name in checkpoint.specs)
    assert before > 0  # the last variant is still on it
    engine.restore()
    assert all(_is_base(engine, name) for name in checkpoint.specs)


def _is_base(engine: Engine, name: str) -> bool:
    stored = bytes(engine.base.checkpoint.views[name])
    return bytes(engine.base.tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy()) == stored


def test_a_model_with_a_random_part_is_refused(tmp_path: Path) -> None:
    """PEFT adapts a classifier whose pooler the base lacks, and saves none: nobody knows what it was."""
    found = made(tmp_path, "bert without a pooler", forms=())
    with pytest.raises(PlanError, match=r"pooler\.dense\.\w+: is needed by BertForSequenceClassification, and neither"):
        Engine(found.base).variant("lora", found.payloads["lora"])
