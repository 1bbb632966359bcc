"""Which tensors a merged model has and where each comes from, decided once from headers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from deltagram.arrays import Spec
from deltagram.delta.names import Specs
from deltagram.errors import PlanError

_FIX: Final = "take such tensors as one model has them with --heads N (the number of an input), or --heads base"


@dataclass(frozen=True, kw_only=True)
class Side:
    """A model to be merged, by its header: `base_of` maps its names to those of their base tensors."""

    title: str
    specs: Specs
    base_of: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Joint:
    """One tensor of the merged model.

    `merged`: from the tensors `names` (one a model, in order) and, where there is one, the base tensor.
    `equal`: not floating; the models must agree on it. `copied`: as the model that gives the merged one its form
    has it, under the name `own` there.
    """

    name: str
    spec: Spec
    form: Literal["merged", "equal", "copied"]
    own: str
    base_name: str | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class JointPlan:
    """All tensors of the merged model in name order; `left_out`: tensors of inputs ("title: name") it lacks."""

    tensors: tuple[Joint, ...]
    dropped: tuple[str, ...]
    left_out: tuple[str, ...]


def make_joint_plan(form: Side, sides: Sequence[Side], base: Specs | None, *, copy: bool, based: bool) -> JointPlan:
    """Decide every tensor of a merged model that has the names and shapes of `form` (one of `sides`, or the base).

    A floating tensor is merged if all sides have it, in the shape of the base's; where a method works without a
    base tensor (not `based`), in one shape. What cannot be merged is copied from `form` if `copy`.
    Raises PlanError, naming tensor and model, for what cannot be merged otherwise; nothing is skipped.
    """
    made, used = [], [set[str]() for _ in sides]
    for name in sorted(form.specs):
        source = form.base_of.get(name)
        names = [_find(side, name, source, form) for side in sides]
        fault = _fault(form, sides, base, name=name, names=names, based=based)
        for taken, found in zip(used, names, strict=True):
            if found is not None:
                taken.add(found)
        spec = form.specs[name]
        if fault and not copy:
            raise fault
        if fault or (copy and not spec.floating):
            made.append(Joint(name=name, spec=spec, form="copied", own=name, base_name=source))
        else:
            kept = tuple(found for found in names if found is not None)
            kind: Literal["merged", "equal"] = "merged" if spec.floating else "equal"
            made.append(Joint(name=name, spec=spec, form=kind, own=name, base_name=source, names=kept))
    left = [(side, name) for side, taken in zip(sides, used, strict=True) for name in sorted(set(side.specs) - taken)]
    if left and not copy:
        side, name = left[0]
        raise PlanError(name, f"is in {side.title}, but not in {form.title}", fix=_FIX)
    present = {form.base_of.get(name) for name in form.specs}
    return JointPlan(
        tensors=tuple(made),
        dropped=tuple(sorted(set(base or ()) - present)),
        left_out=tuple(f"{side.title}: {name}" for side, name in left),
    )


def _find(side: Side, name: str, source: str | None, form: Side) -> str | None:
    """The tensor of a side that stands for `name` of the form: of that name, or made from the same base tensor."""
    if name in side.specs and side.base_of.get(name) == source:
        return name
    if source is None:
        return None
    others = [mine for mine, theirs in side.base_of.items() if theirs == source and mine not in form.specs]
    return others[0] if len(others) == 1 else None


def _fault(
    form: Side, sides: Sequence[Side], base: Specs | None, *, name: str, names: Sequence[str | None], based: bool
) -> PlanError | None:
    """Why a tensor cannot be merged, or None."""
    source = form.base_of.get(name)
    first = base[source] if base is not None and source is not None else None
    if base is not None and first is None and based:
        return PlanError(name, f"is in {form.title}, but not in the base, so it has no task vector", fix=_FIX)
    shown, expected = ("the base", first) if first is not None else (form.title, form.specs[name])
    for side, found in zip(sides, names, strict=True):
        if found is None:
            return PlanError(name, f"is in {form.title}, but not in {side.title}", fix=_FIX)
        spec = side.specs[found]
        alike = spec.floating if expected.floating else spec.dtype == expected.dtype
        if spec.shape != expected.shape or not alike:
            return PlanError(name, f"is {spec} in {side.title}, {expected} in {shown}", fix=_FIX)
    if first is not None and form.specs[name].shape != first.shape:
        return PlanError(name, f"is {form.specs[name]} in {form.title}, {first} in the base", fix=_FIX)
    return None
