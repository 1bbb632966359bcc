"""What the default plan decides, what rules override, what is refused before any work."""

import pytest

from deltagram.arrays import Spec
from deltagram.delta.methods import Bernoulli, Exact, Magnitude, Random, kept_count, threshold
from deltagram.delta.names import match
from deltagram.delta.plan import Plan, Rule, fit_budget, make_plan
from deltagram.delta.values import VALUES
from deltagram.errors import PlanError, SettingError


def spec(*shape: int, dtype: str = "F32") -> Spec:
    return Spec(dtype=dtype, shape=shape)


BASE = {
    "embeddings.word_embeddings.weight": spec(100, 8),
    "layer.0.query.weight": spec(8, 8),
    "layer.0.query.bias": spec(8),
    "layer.0.moe.gate.weight": spec(4, 8),
    "norm.weight": spec(8),
    "pooler.weight": spec(8, 8),
    "position_ids": spec(1, 12, dtype="I64"),
    "scale": spec(),
    "empty": spec(0, 8),
}


def plan(base: dict[str, Spec], tuned: dict[str, Spec], *rules: Rule, **settings: object) -> Plan:
    chosen = {"method": Random(keep=0.01), "values": VALUES["bf16"], **settings}
    return make_plan(base, tuned, rules=rules, **chosen)  # type: ignore[arg-type]


def forms(made: Plan) -> dict[str, str]:
    return {entry.name: entry.form for entry in made.entries}


def test_the_default_plan() -> None:
    tuned = {**BASE, "classifier.weight": spec(3, 8), "embeddings.word_embeddings.weight": spec(103, 8)}
    del tuned["pooler.weight"]
    made = plan(BASE, tuned)
    assert forms(made) == {
        "classifier.weight": "whole",
        "embeddings.word_embeddings.weight": "resized",
        "empty": "whole",
        "layer.0.moe.gate.weight": "whole",
        "layer.0.query.bias": "whole",
        "layer.0.query.weight": "pruned",
        "norm.weight": "whole",
        "position_ids": "whole",
        "scale": "whole",
    }
    assert made.dropped == ("pooler.weight",)
    reasons = {entry.name: entry.reason for entry in made.entries}
    assert reasons["classifier.weight"] == "not in the base"
    assert reasons["layer.0.moe.gate.weight"] == "router"
    assert reasons["embeddings.word_embeddings.weight"] == "100 -> 103 rows"


def test_exact_stores_everything_it_can_exactly() -> None:
    tuned = {**BASE, "embeddings.word_embeddings.weight": spec(103, 8)}
    found = forms(plan(BASE, tuned, method=Exact()))
    assert found.pop("embeddings.word_embeddings.weight") == "whole"
    assert set(found.values()) == {"exact"}


def test_later_rules_override_field_by_field() -> None:
    rules = [
        Rule(match="layer.*", method=Magnitude(keep=0.5), values=VALUES["4bit"], source="rule 1"),
        Rule(match="*.query.weight", method=Bernoulli(keep=0.25), source="rule 2"),
        Rule(match="norm.*", form="exact", source="rule 3"),
    ]
    made = {entry.name: entry for entry in plan(BASE, BASE, *rules).entries}
    query = made["layer.0.query.weight"]
    assert (query.method, query.values, query.form) == (Bernoulli(keep=0.25), VALUES["4bit"], "pruned")
    assert made["norm.weight"].form == "exact"
    assert made["layer.0.query.bias"].form == "whole"


@pytest.mark.parametrize(
    ("name", "base", "tuned", "text"),
    [
        (
            "h.3.mlp.weight", spec(4, 8), spec(5, 8),
            r"h\.3\.mlp\.weight: base is \(4, 8\), fine-tuned is \(5, 8\); store it whole with --whole 'h.3",
        ),
        ("h.weight", spec(4, 8), spec(4, 9), r"base is \(4, 8\), fine-tuned is \(4, 9\); store it whole"),
        ("wte.weight", spec(4, 8), spec(4, 9), "expected shapes that differ in the number of rows only"),
    ],
)  # fmt: skip
def test_shapes_that_differ_are_refused(name: str, base: Spec, tuned: Spec, text: str) -> None:
    with pytest.raises(PlanError, match=text):
        plan({name: base, "other": spec(2)}, {name: tuned, "other": spec(2)})


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule(match="nothing.*", form="whole", source="--whole 'nothing.*'"), "'nothing.*' covers no tensor"),
        (Rule(match="position_ids", form="pruned", source="rule 1"), "position_ids: I64 from I64 cannot be pruned"),
        (Rule(match="empty", form="pruned", source="rule 1"), "empty: an empty tensor cannot be pruned"),
        (Rule(match="layer.0.query.weight", form="pruned", method=Exact(), source="r"), "method exact contradicts"),
    ],
)
def test_rules_that_cannot_be_are_refused(rule: Rule, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan(BASE, BASE, rule)
    assert text in str(caught.value)


def test_a_form_needs_a_base() -> None:
    with pytest.raises(PlanError, match="new: is to be stored as pruned, but the base has no such tensor"):
        plan(BASE, {**BASE, "new": spec(2, 2)}, Rule(match="new", form="pruned", source="r"))


@pytest.mark.parametrize(
    ("base", "tuned", "how"),
    [
        (["encoder.a", "encoder.b"], ["bert.encoder.a", "bert.encoder.b", "classifier.w"], "adds the prefix 'bert.'"),
        (["model.a", "model.b", "head.w"], ["a", "b"], "drops the prefix 'model.'"),
        (["a", "b"], ["a", "b"], "names are equal"),
    ],
)
def test_prefixes_are_recognised(base: list[str], tuned: list[str], how: str) -> None:
    found = match({name: spec(2) for name in base}, {name: spec(2) for name in tuned})
    assert how in found.how
    assert len(found.base_of) == 2


def test_a_prefix_with_other_shapes_is_not_believed() -> None:
    base = {f"l.{i}": spec(2) for i in range(10)}
    with pytest.raises(PlanError, match="no tensor of the fine-tuned model"):
        match(base, {f"x.l.{i}": spec(3) for i in range(10)})


def test_renaming_overrides_and_must_pair_something() -> None:
    base, tuned = {"a.w": spec(2), "b.w": spec(2)}, {"c.w": spec(2), "b.w": spec(2)}
    assert match(base, tuned, rename=[("a.", "c.")]).base_of == {"b.w": "b.w", "c.w": "a.w"}
    assert match({"w": spec(2)}, {"p.w": spec(2)}, rename=[("", "p.")]).base_of == {"p.w": "w"}
    with pytest.raises(PlanError, match=r"--rename x\.=y\.: pairs no tensor"):
        match(base, tuned, rename=[("x.", "y.")])


def test_an_untied_head_comes_from_the_embedding() -> None:
    base = {"model.embed_tokens.weight": spec(10, 4), "model.norm.weight": spec(4)}
    assert match(base, {**base, "lm_head.weight": spec(10, 4)}).base_of["lm_head.weight"] == "model.embed_tokens.weight"
    assert "lm_head.weight" not in match(base, {**base, "lm_head.weight": spec(10, 5)}).base_of


@pytest.mark.parametrize("method", [Random(keep=0.5), Bernoulli(keep=0.01), Magnitude(keep=0.3), Random(keep=0.125)])
def test_counts_round_half_to_even_and_keep_one(method: Random) -> None:
    assert kept_count(method, 1) == 1
    assert kept_count(Random(keep=0.5), 5) == 2
    assert kept_count(Random(keep=0.5), 7) == 4
    assert threshold(Bernoulli(keep=1.0)) == 2**32
    assert Random(keep=0.125).mask == "stratified"
    assert Random(keep=0.126).mask == "bernoulli"


def test_a_budget_buys_the_largest_share_that_fits() -> None:
    base = {"w": spec(1000, 1000)}

    def make(keep: float) -> Plan:
        return plan(base, base, method=Random(keep=keep), values=VALUES["4bit"])

    made = fit_budget(make, 100_000)
    assert 0.97 * 100_000 < made.bytes_bound() <= 100_000
    assert fit_budget(make, 10**9).entries[0].method.keep == 1.0
    with pytest.raises(SettingError, match=r"--budget: 100 bytes is below the floor of [\d,]+ bytes"):
        fit_budget(make, 100)
