"""Settings, globs and a YAML file of rules to a `Plan`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from deltagram.delta.calibrated import calibrated
from deltagram.delta.methods import METHODS, Method, Structural
from deltagram.delta.plan import Form, Plan, Rule, fit_budget, make_plan
from deltagram.delta.scores import InputNorms
from deltagram.delta.values import VALUES, Values
from deltagram.errors import SettingError
from deltagram.jobs.strictyaml import read_yaml
from deltagram.store.adapter import Adapted, Tuned, check_form
from deltagram.store.checkpoint import Checkpoint

KEEP = 0.01
INSIDE = (
    0.2  # of the entries in chosen columns are kept unless told: 1 % of a matrix in 5 % of its columns (DAREx, 5.1)
)
_SHAPE = "tensors: [{match: GLOB, ...}]"


class _YamlRule(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    match: str
    form: Form | None = None
    method: str | None = None
    keep: float | None = None
    columns: float | None = None
    values: str | None = None
    divide_by: float | None = None


class _YamlPlan(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    tensors: list[_YamlRule]


def plan_for(
    base: Checkpoint,
    tuned: Tuned,
    *,
    adapter: str = "product",
    keep: float | None,
    budget: int | None,
    method: str,
    columns: float | None,
    divide_by: float | str,
    values: str | None,
    pack: bool,
    rules: Path | str | None,
    whole: Sequence[str],
    rename: Sequence[tuple[str, str]],
    norms: Mapping[str, InputNorms] | None = None,
) -> Plan:
    """The plan for two opened checkpoints. Raises SettingError or PlanError before any tensor is read.

    Without `norms`, methods that weigh by inputs stand as they were asked for; with them, they are `calibrated`.
    """
    if isinstance(whole, str):
        raise SettingError("whole", f"{whole!r} is one text", expected="a sequence of globs")
    if keep is not None and budget is not None:
        raise SettingError("--keep and --budget", "contradict each other", fix="give one of them")
    codec = values_named(values or ("bf16" if budget is None else "4bit"), "--values")
    divisor = None if divide_by == "dare" else divisor_number(divide_by)
    if method == "exact" and (any(given is not None for given in (keep, budget, values, divisor)) or not pack):
        fix = "leave out --keep, --budget, --values, --divide-by and --no-pack"
        raise SettingError("--method exact", "keeps every entry bit for bit", fix=fix)
    read = [] if rules is None else _read(Path(rules))
    check_form(adapter, tuned)
    if method == "exact" and adapter == "factors":
        fix = "give --keep 1 --values f32 instead of --method exact, or --adapter product"
        raise SettingError("--adapter factors", "factors are exact when all their entries are kept", fix=fix)
    adapted = tuned if isinstance(tuned, Adapted) else None
    factors = adapted.shapes() if adapted is not None and adapter == "factors" else {}
    given = [Rule(match=pattern, form="whole", source=f"--whole '{pattern}'") for pattern in whole]

    def make(share: float) -> Plan:
        chosen = method_named(method, share, columns, at=METHOD_OPTIONS)
        plan = make_plan(
            base.specs, tuned.specs, method=chosen, values=codec,
            divide_by=divisor, rename=rename, factors=factors, matching=None if adapted is None else adapted.matching,
            rules=[_rule(where, rule, method=method, keep=share, columns=columns) for where, rule in read] + given,
        )  # fmt: skip
        return plan if norms is None else calibrated(plan, norms)

    if budget is None:
        return make(KEEP if keep is None else keep)
    return fit_budget(lambda share: make(share if columns is None else min(share, columns)), budget)


METHOD_OPTIONS = ("--method", "--keep", "--columns")


def method_named(name: str, keep: float, columns: float | None, *, at: tuple[str, str, str]) -> Method:
    """A method by its name; `at` says where name, kept share and share of columns were given."""
    if name not in METHODS:
        raise SettingError(at[0], f"{name!r} is unknown", expected=" or ".join(METHODS))
    if not 0 < keep <= 1:
        raise SettingError(at[1], f"{keep} is outside (0, 1]", fix="give the share of entries to keep, such as 0.01")
    kind = METHODS[name]
    if not issubclass(kind, Structural):
        if columns is not None:
            raise SettingError(at[2], f"method {name} chooses no columns", fix="give it with the methods columns...")
        return kind(keep=1.0 if name == "exact" else keep)
    share = min(1.0, keep / INSIDE) if columns is None else columns
    if not keep <= share <= 1:
        fix = "give a share of columns from that of the entries to keep up to 1"
        raise SettingError(at[2], f"{share} is outside [{keep}, 1]", fix=fix)
    return kind(keep=keep, columns=share)


def values_named(name: str, where: str) -> Values:
    """How values of that name are stored. Raises SettingError for an unknown one."""
    if name not in VALUES:
        raise SettingError(where, f"{name!r} is unknown", expected=" or ".join(VALUES))
    return VALUES[name]


def divisor_number(text: float | str, *, where: str = "--divide-by") -> float:
    """A divisor for all tensors. Raises SettingError unless it is positive and finite, in float32 too."""
    try:
        number = float(text)
    except ValueError:
        raise SettingError(where, f"{text!r} is unknown", expected="dare or a number") from None
    with np.errstate(over="ignore", under="ignore"):
        narrow = np.float32(number)
    if not (0 < number < float("inf") and 0 < narrow < np.inf):
        raise SettingError(where, f"is {number}", expected="a positive, finite number (in float32 too)")
    return number


def _read(path: Path) -> list[tuple[str, _YamlRule]]:
    """The rules of a YAML file: {tensors: [{match: GLOB, form: ..., method: ..., keep: ..., values: ...}]}."""
    try:
        rules = _YamlPlan.model_validate(read_yaml(path, shape=_SHAPE)).tensors
    except ValidationError as fault:
        raise _invalid(path, fault) from None
    return [(f"{path} rule {number}", rule) for number, rule in enumerate(rules, 1)]


def _invalid(path: Path, fault: ValidationError) -> SettingError:
    """What is wrong with a plan, in the words of its rules."""
    error = fault.errors(include_url=False)[0]
    steps = [str(step) for step in error["loc"]]
    place = str(path)
    if len(steps) > 1:
        place, steps = f"{path} rule {int(steps[1]) + 1}", steps[2:]
    message = "is not a mapping" if error["type"] == "model_type" else error["msg"]
    return SettingError(place, f"{'.'.join(steps) or 'the file'}: {message}", expected=_SHAPE)


def _rule(where: str, rule: _YamlRule, *, method: str, keep: float, columns: float | None) -> Rule:
    """A rule of the file; what it does not say of method and shares is the whole plan's."""
    whole = (
        f"form {rule.form}" if rule.form in ("whole", "exact")
        else "method exact" if (rule.method or (method if rule.form is None else None)) == "exact"
        else None
    )  # fmt: skip
    set_here = ("keep", "columns", "divide_by") if rule.form == "whole" else ("keep", "columns", "values", "divide_by")
    given = [name for name in set_here if getattr(rule, name) is not None]
    if rule.form in ("whole", "exact") and rule.method not in (None, "exact"):
        given.append("method")
    if whole and given:
        raise SettingError(where, f"{whole} keeps every entry", fix=f"leave out {' and '.join(given)}")
    chosen = None
    if any(given is not None for given in (rule.method, rule.keep, rule.columns)):
        share = keep if rule.keep is None else rule.keep
        wide = columns if rule.columns is None and rule.method in (None, method) else rule.columns
        at = (f"{where} method", f"{where} keep", f"{where} columns")
        chosen = method_named(rule.method or method, share, wide, at=at)
    return Rule(
        match=rule.match,
        form=rule.form,
        method=chosen,
        values=None if rule.values is None else values_named(rule.values, f"{where} values"),
        divide_by=None if rule.divide_by is None else divisor_number(rule.divide_by, where=f"{where} divide_by"),
        source=where,
    )
