"""What a merge reads and what is to be made of it: opened and checked by headers, then tensor by tensor."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from deltagram.arrays import Bits, Spec
from deltagram.delta.graded import depths, stacks
from deltagram.delta.joint import Joint, JointPlan, Side, make_joint_plan
from deltagram.errors import SettingError
from deltagram.jobs.recipe import Recipe
from deltagram.store.blend import Blend, Mix, agreed, copied
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.variants import Variant, check_bases, of_base, open_variant, shared_masks


@dataclass(frozen=True, kw_only=True)
class Table:
    """Everything that is read, and what is to be made of it."""

    recipe: Recipe
    base: Variant | None
    variants: tuple[Variant, ...]
    form: Variant
    plan: JointPlan
    depths: dict[str, float]
    seed: int
    dare: str
    factors: dict[str, list[float]] = field(default_factory=dict)

    @cached_property
    def joints(self) -> dict[str, Joint]:
        """The plan by name."""
        return {joint.name: joint for joint in self.plan.tensors}

    def mix(self, joint: Joint) -> Mix:
        """The numbers for one tensor."""
        return self.recipe.mix(joint.name, self.depths[joint.name], seed=self.seed, dare=self.dare)

    def check_numbers(self) -> None:
        """Raise SettingError for numbers that are missing or cancel, before any work."""
        for joint in self.plan.tensors:
            if joint.form == "merged":
                self.mix(joint)

    def spec(self, joint: Joint) -> Spec:
        """The tensor as it is written."""
        dtype = self.recipe.dtype if joint.spec.floating else None
        return Spec(dtype=dtype or joint.spec.dtype, shape=joint.spec.shape)

    def blocks(self, name: str) -> Iterator[Bits]:
        """The bytes of a merged tensor."""
        joint = self.joints[name]
        if joint.form == "copied":
            return copied(joint, self.form, self.spec(joint).dtype)
        if joint.form == "equal":
            return agreed(joint, self.base, self.variants)
        mix = self.mix(joint)
        blend = Blend(joint, mix, self.base, self.variants)
        if mix.way.trim == "random" and joint.spec.size:
            self.factors[name] = [f * d for f, d in zip(blend.factors, mix.densities, strict=True) if d < 1]
        return blend.blocks(self.spec(joint).dtype)

    def check_bases(self) -> None:
        """Verify the base tensors of every delta that merging has not read."""
        for number, variant in enumerate(self.variants):
            read = {joint.names[number] for joint in self.plan.tensors if joint.names}
            if variant is self.form:
                read |= {joint.own for joint in self.plan.tensors if joint.form == "copied"}
            variant.check_base(read)

    def numbers(self) -> dict[str, Any]:
        """What was done, for the record."""
        forms = Counter(joint.form for joint in self.plan.tensors)
        relative = [factor for found in self.factors.values() for factor in found]
        return {
            "tensors": len(self.plan.tensors), "forms": dict(sorted(forms.items())),
            "merged_bytes": sum(self.spec(joint).nbytes for joint in self.plan.tensors),
            "copied": [joint.name for joint in self.plan.tensors if joint.form == "copied"], "form": self.form.title,
            "dropped": list(self.plan.dropped), "left_out": list(self.plan.left_out),
            "shared_masks": shared_masks(self.variants), "notes": list(self.recipe.notes),
            "factor_to_dare": [min(relative), max(relative)] if relative else [],
        }  # fmt: skip


def open_table(recipe: Recipe, *, heads: str, seed: int, dare: str) -> Table:
    """Open and check everything by its headers."""
    base = None if recipe.base is None else open_checkpoint(recipe.base)
    seen = None if base is None else of_base(base)
    variants = tuple(_member(member.path, recipe.base, base, seen) for member in recipe.members)
    check_bases(variants)
    form = _form(recipe, seen, variants, heads)
    form.check_companions()
    plan = make_joint_plan(
        _side(form), [_side(variant) for variant in variants], None if base is None else base.specs,
        copy=heads != "refuse", based=recipe.way.vectors,
    )  # fmt: skip
    names = [joint.name for joint in plan.tensors]
    if recipe.layered() and len(stacks(names)) != 1:
        raise SettingError(
            "parameters", f"a list of values follows the layers, and this model has {len(stacks(names))} stacks of "
            f"them ({', '.join(repr(stack) for stack in stacks(names)[:3])})", expected="one", fix="use filters",
        )  # fmt: skip
    return Table(
        recipe=recipe, base=seen, variants=variants, form=form, plan=plan, depths=depths(names), seed=seed, dare=dare
    )


def _member(path: Path, base_path: Path | None, base: Checkpoint | None, seen: Variant | None) -> Variant:
    return seen if seen is not None and path == base_path else open_variant(path, base)


def _side(variant: Variant) -> Side:
    return Side(title=variant.title, specs=variant.specs, base_of=variant.base_of)


def _form(recipe: Recipe, base: Variant | None, variants: tuple[Variant, ...], heads: str) -> Variant:
    """The model whose names, configuration and tokenizer the merged one has."""
    if heads == "base" or (heads == "refuse" and recipe.form == "base"):
        if base is None:
            raise SettingError("--heads base", "no base is named", fix="give the number of a model")
        return base
    if heads == "refuse":
        return variants[0]
    if not heads.isdecimal() or not 1 <= int(heads) <= len(variants):
        raise SettingError("--heads", f"{heads!r} is unknown", expected=f"refuse, base, or 1 to {len(variants)}")
    return variants[int(heads) - 1]
