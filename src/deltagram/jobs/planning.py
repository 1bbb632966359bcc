"""Settings, globs and a YAML file of rules to a `Plan`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from deltagram.delta.methods import METHODS, Method
from deltagram.delta.plan import Form, Plan, Rule, fit_budget, make_plan
from deltagram.delta.values import VALUES, Values
from deltagram.errors import SettingError
from deltagram.store.adapter import Adapted, Tuned, check_form
from deltagram.store.checkpoint import Checkpoint

KEEP = 0.01
_SHAPE = "tensors: [{match: GLOB, ...}]"


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
    tuned: Tuned,
    *,
    adapter: str = "product",
    keep: float | None,
    budget: int | None,
    method: str,
    divide_by: float | str,
    values: str | None,
    pack: bool,
    rules: Path | str | None,
    whole: Sequence[str],
    rename: Sequence[tuple[str, str]],
) -> Plan:
    """The plan for two opened checkpoints. Raises SettingError or PlanError before any tensor is read."""
    if isinstance(whole, str):
        raise SettingError("whole", f"{whole!r} is one text", expected="a sequence of globs")
    if keep is not None and budget is not None:
        raise SettingError("--keep and --budget", "contradict each other", fix="give one of them")
    codec = _values(values or ("bf16" if budget is None else "4bit"), "--values")
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
        chosen = _method(method, share, method_at="--method", keep_at="--keep")
        return make_plan(
            base.specs, tuned.specs, method=chosen, values=codec,
            divide_by=divisor, rename=rename, factors=factors, matching=None if adapted is None else adapted.matching,
            rules=[_rule(where, rule, method=method, keep=share) for where, rule in read] + given,
        )  # fmt: skip

    return make(KEEP if keep is None else keep) if budget is None else fit_budget(make, budget)


def _method(name: str, keep: float, *, method_at: str, keep_at: str) -> Method:
    if name not in METHODS:
        raise SettingError(method_at, f"{name!r} is unknown", expected=" or ".join(METHODS))
    if not 0 < keep <= 1:
        raise SettingError(keep_at, f"{keep} is outside (0, 1]", fix="give the share of entries to keep, such as 0.01")
    return METHODS[name](keep=1.0 if name == "exact" else keep)


def _values(name: str, where: str) -> Values:
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


class _OnceLoader(yaml.SafeLoader):
    """Safe YAML in which a key may stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, or ConstructorError for a key that stands twice."""
        seen: list[object] = []
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"has {name!r} twice", key.start_mark)
            seen.append(name)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> list[tuple[str, _YamlRule]]:
    """The rules of a YAML file: {tensors: [{match: GLOB, form: ..., method: ..., keep: ..., values: ...}]}."""
    try:
        parsed: Any = yaml.load(path.read_text("utf-8"), _OnceLoader)
        rules = _YamlPlan.model_validate(parsed).tensors
    except OSError as fault:
        raise SettingError(str(path), f"cannot be read ({fault.strerror})") from None
    except yaml.MarkedYAMLError as fault:
        line = f" (line {fault.problem_mark.line + 1})" if fault.problem_mark else ""
        raise SettingError(str(path), f"is not YAML: {fault.problem}{line}", expected=_SHAPE) from None
    except RecursionError:
        raise SettingError(str(path), "is not YAML: it is nested too deep", expected=_SHAPE) from None
    except ValidationError as fault:
        raise _invalid(path, fault) from None
    except (yaml.YAMLError, ValueError, AttributeError) as fault:  # a tag whose text is not of its kind
        raise SettingError(str(path), f"is not YAML: {' '.join(str(fault).split())}", expected=_SHAPE) from None
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


def _rule(where: str, rule: _YamlRule, *, method: str, keep: float) -> Rule:
    """A rule of the file; what it does not say of method and kept share is the whole plan's."""
    whole = (
        f"form {rule.form}" if rule.form in ("whole", "exact")
        else "method exact" if (rule.method or (method if rule.form is None else None)) == "exact"
        else None
    )  # fmt: skip
    given = [name for name in ("keep", "values", "divide_by") if getattr(rule, name) is not None]
    if rule.form in ("whole", "exact") and rule.method not in (None, "exact"):
        given.append("method")
    if whole and given:
        raise SettingError(where, f"{whole} keeps every entry", fix=f"leave out {' and '.join(given)}")
    chosen = None
    if rule.method is not None or rule.keep is not None:
        share = keep if rule.keep is None else rule.keep
        chosen = _method(rule.method or method, share, method_at=f"{where} method", keep_at=f"{where} keep")
    return Rule(
        match=rule.match,
        form=rule.form,
        method=chosen,
        values=None if rule.values is None else _values(rule.values, f"{where} values"),
        divide_by=None if rule.divide_by is None else divisor_number(rule.divide_by, where=f"{where} divide_by"),
        source=where,
    )
