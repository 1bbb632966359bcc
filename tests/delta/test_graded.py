"""Numbers that follow names and layers, held to mergekit's own resolution of the same settings."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.delta.graded import Graded, Rule, depths, stacks

NAMES = ["model.embed.weight", "model.layers.0.mlp.up.weight", "model.layers.3.self_attn.q.weight"]
anchors = st.lists(st.integers(-8, 8).map(lambda value: value / 4), min_size=1, max_size=5)
parts = st.sampled_from([None, "mlp", "self_attn", "weight", "norm", "0"])


@pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning")  # what mergekit imports
@given(
    rules=st.lists(st.tuples(parts, anchors), min_size=1, max_size=4),
    name=st.sampled_from(NAMES),
    place=st.integers(0, 8),
    stepped=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_the_number_is_the_one_mergekit_resolves(
    rules: list[tuple[str | None, list[float]]], name: str, place: int, stepped: bool
) -> None:
    from mergekit.config import ConditionalParameter, evaluate_setting  # noqa: PLC0415 - heavy

    def kind(value: Any) -> Any:
        return value > 0 if stepped else float(value)

    asked = [ConditionalParameter(filter=part, value=[kind(value) for value in values]) for part, values in rules]
    theirs = evaluate_setting(name, asked, place / 8, validate=kind)
    ours = Graded(
        rules=tuple(Rule(part=part, anchors=tuple(float(kind(v)) for v in values)) for part, values in rules),
        stepped=stepped,
    ).at(name, place / 8)
    assert ours == theirs


def test_depths_count_layers_within_their_stack() -> None:
    names = ["encoder.block.0.w", "encoder.block.1.w", "decoder.block.0.w", "shared"]
    assert depths(names) == {
        "encoder.block.0.w": 0.0,
        "encoder.block.1.w": 1.0,
        "decoder.block.0.w": 1.0,
        "shared": 0.0,
    }
    assert stacks(names) == ["decoder.block.", "encoder.block."]
    assert stacks(["0.weight", "1.weight"]) == [""]


def test_a_number_describes_itself() -> None:
    assert Graded.constant(0.5).describe() == 0.5
    assert Graded(rules=(Rule(anchors=(0.0, 1.0)),)).describe() == [0.0, 1.0]
    assert Graded(rules=(Rule(anchors=(1.0,), part="mlp"),)).describe() == [{"filter": "mlp", "value": 1.0}]
