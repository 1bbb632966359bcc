"""Settings, globs and a YAML file of rules to a `Plan`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from deltagram.delta.methods import METHODS, Method
from deltagram.delta.plan import Form, Plan, Rule, fit_budget, make_plan
from deltagram.delta.values import VALUES, Values
from deltagram.errors import SettingError
from deltagram.store.checkpoint import Checkpoint

KEEP = 0.01


class _YamlRule(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    match: str
    form: Form | None = None
    method: str | None = None
    keep: float | None = None
    values: str | None = None
    divide_by: float | None = None


class _YamlPlan(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    tensors: list[_YamlRule]


def plan_for(
    base: Checkpoint,
    tuned: Checkpoint,
    *,
    keep: float | None,
    budget: int | None,
    method: str,
    divide_by: float | str,
    values: str | None,
    rules: Path | str | None,
    whole: Sequence[str],
    rename: Sequence[tuple[str, str]],
) -> Plan:
    """The plan for two opened checkpoints. Raises SettingError or PlanError before any tensor is read."""
    if keep is not None and budget is not None:
        raise SettingError("--keep and --budget", "contradict each other", fix="give one of them")
    codec = _values(values or ("bf16" if budget is None else "4bit"))
    divisor = None if divide_by == "dare" else _number(divide_by)
    if method == "exact" and (keep is not None or budget is not None or values is not None or divisor is not None):
        raise SettingError(
            "--method exact", "keeps every entry bit for bit", fix="leave out --keep, --budget, --values, --divide-by"
        )
    read = [] if rules is None else _read(Path(rules))
    given = [Rule(match=pattern, form="whole", source=f"--whole '{pattern}'") for pattern in whole]

    def make(share: float) -> Plan:
        chosen = _method(method, share, "--keep")
        return make_plan(
            base.specs, tuned.specs, method=chosen, values=codec,
            divide_by=divisor, rename=rename,
            rules=[_rule(where, rule, method=method, keep=share) for where, rule in read] + given,
        )  # fmt: skip

    return make(KEEP if keep is None else keep) if budget is None else fit_budget(make, budget)


def _method(name: str, keep: float, where: str) -> Method:
    if name not in METHODS:
        raise SettingError("--method", f"{name!r} is unknown", expected=" or ".join(METHODS))
    if not 0 < keep <= 1:
        raise SettingError(where, f"{keep} is outside (0, 1]", fix="give the share of entries to keep, such as 0.01")
    return METHODS[name](keep=1.0 if name == "exact" else keep)


def _values(name: str) -> Values:
    if name not in VALUES:
        raise SettingError("--values", f"{name!r} is unknown", expected=" or ".join(VALUES))
    return VALUES[name]


def _number(text: float | str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise SettingError("--divide-by", f"{text!r} is unknown", expected="dare or a number") from None
    if not (0 < number < float("inf")):
        raise SettingError("--divide-by", f"is {number}", expected="a positive, finite number")
    return number


def _read(path: Path) -> list[tuple[str, _YamlRule]]:
    """The rules of a YAML file: {tensors: [{match: GLOB, form: ..., method: ..., keep: ..., values: ...}]}."""
    try:
        parsed: Any = yaml.safe_load(path.read_text("utf-8"))
        rules = _YamlPlan.model_validate(parsed).tensors
    except OSError as fault:
        raise SettingError(str(path), f"cannot be read ({fault.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise SettingError(str(path), f"is not YAML: {str(fault).splitlines()[0]}") from None
    except ValidationError as fault:
        error = fault.errors(include_url=False)[0]
        place = ".".join(str(step) for step in error["loc"]) or "the file"
        raise SettingError(str(path), f"{place}: {error['msg']}", expected="tensors: [{match: GLOB, ...}]") from None
    return [(f"{path} rule {number}", rule) for number, rule in enumerate(rules, 1)]


def _rule(where: str, rule: _YamlRule, *, method: str, keep: float) -> Rule:
    """A rule of the file; what it does not say of method and kept share is the whole plan's."""
    if rule.keep is not None and rule.method == "exact":
        raise SettingError(where, "method exact keeps every entry", fix="leave out keep")
    chosen = None
    if rule.method is not None or rule.keep is not None:
        chosen = _method(rule.method or method, keep if rule.keep is None else rule.keep, f"{where} keep")
    return Rule(
        match=rule.match,
        form=rule.form,
        method=chosen,
        values=None if rule.values is None else _values(rule.values),
        divide_by=None if rule.divide_by is None else _number(rule.divide_by),
        source=where,
    )
