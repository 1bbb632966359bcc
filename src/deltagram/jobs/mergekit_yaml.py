"""A mergekit configuration as a `Recipe`: what is honoured is in docs/merging.md, all else is refused by name."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from deltagram.delta.graded import Graded, Rule
from deltagram.errors import SettingError
from deltagram.jobs.recipe import ONE, Member, Recipe, check_density, check_weight, dtype_named, method_named
from deltagram.jobs.strictyaml import read_yaml

_SHAPE: Final = "merge_method: NAME, models: [{model: PATH, parameters: {weight: 1}}, ...], base_model: PATH"
_REFUSED: Final[Mapping[str, str]] = {
    "slices": "layer ranges make another architecture: merge whole models with models:",
    "modules": "merge whole models with models:",
    "tokenizer": "tokens are not rearranged here: merge models of one tokenizer",
    "chat_template": "write the template into the tokenizer of the merged model instead",
}
_NUMBERS: Final = ("weight", "density")
_SHARED: Final = ("normalize", "rescale", "lambda", "int8_mask", *_NUMBERS)
Locate = Callable[[str], Path]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    parameters: dict[str, Any] | None = None


class _Merge(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    merge_method: str
    models: list[_Model]
    base_model: str | None = None
    parameters: dict[str, Any] | None = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None


def read_recipe(path: Path | str, *, locate: Locate = Path) -> Recipe:
    """The merge that a mergekit YAML file asks for; `locate` turns a model's name into a path.

    Raises SettingError, naming file and key, for a fault and for anything that would not be honoured.
    """
    path = Path(path)
    parsed = read_yaml(path, shape=_SHAPE)
    for key, fix in _REFUSED.items():
        if isinstance(parsed, dict) and parsed.get(key) is not None:
            raise SettingError(str(path), f"{key} is not supported", fix=fix)
    try:
        asked = _Merge.model_validate(parsed)
    except ValidationError as fault:
        error = fault.errors(include_url=False)[0]
        place = ".".join(str(step) for step in error["loc"]) or "the file"
        message = "is not a mapping" if error["type"] == "model_type" else error["msg"]
        raise SettingError(str(path), f"{place}: {message}", expected=_SHAPE) from None
    return _recipe(asked, path, locate)


def _recipe(asked: _Merge, path: Path, locate: Locate) -> Recipe:
    way = method_named(asked.merge_method, where=f"{path} merge_method")
    if way.vectors and asked.base_model is None:
        fix = "add base_model: the model that the others were fine-tuned from"
        raise SettingError(str(path), f"merge_method {asked.merge_method} needs a base_model", fix=fix)
    _check_tokenizer(asked, path)
    shared = _parameters(asked.parameters, _SHARED, f"{path} parameters", method=asked.merge_method)
    if not way.vectors and shared["lambda"] is not None:
        raise SettingError(f"{path} parameters", "lambda: method linear has no task vectors to scale")
    if way.trim == "none" and shared["rescale"] is not None:
        raise SettingError(f"{path} parameters", f"rescale: method {asked.merge_method} drops nothing")
    width = dtype_named(asked.out_dtype or asked.dtype, where=f"{path} {'out_dtype' if asked.out_dtype else 'dtype'}")
    dtype_named(asked.dtype, where=f"{path} dtype")
    wide = str(asked.dtype).removeprefix("torch.") == "float64"
    return Recipe(
        method=asked.merge_method, base=None if asked.base_model is None else _located(asked.base_model, path, locate),
        members=_members(asked, shared, path, locate), normalize=shared["normalize"], rescale=shared["rescale"],
        scale=shared["lambda"] or ONE, dtype=width, wide=wide, source=path,
        form="first" if asked.base_model is None else "base", notes=_notes(asked, shared),
    )  # fmt: skip


def _members(asked: _Merge, shared: Mapping[str, Graded | None], path: Path, locate: Locate) -> tuple[Member, ...]:
    """The models that take part, in mergekit's order: a base that is not listed comes last where it is averaged."""
    vectors = method_named(asked.merge_method, where="").vectors
    found: list[Member] = []
    named = [model.model for model in asked.models]
    listed = list(asked.models)
    if not vectors and asked.base_model is not None and asked.base_model not in named:
        listed.append(_Model(model=asked.base_model))
    for model in listed:
        where = f"{path} {model.model}"
        if named.count(model.model) > 1:
            raise SettingError(where, "is listed twice", fix="list it once, with the sum of the weights")
        if vectors and model.model == asked.base_model:
            if model.parameters:
                raise SettingError(where, "is the base_model, whose parameters mean nothing", fix="leave them out")
            continue
        own = _parameters(model.parameters, _NUMBERS, where, method=asked.merge_method)
        weight = _first(own["weight"], shared["weight"])
        if weight is None:
            raise SettingError(where, "has no weight", fix="add parameters: {weight: 1.0}")
        density = _first(own["density"], shared["density"], ONE) or ONE
        found.append(Member(path=_located(model.model, path, locate), weight=weight, density=density))
    if not found:
        raise SettingError(str(path), "models: lists nothing to merge", expected=_SHAPE)
    return tuple(found)


def _first(*settings: Graded | None) -> Graded | None:
    """All rules in order of precedence: a filter that does not cover a tensor leaves it to the next setting."""
    rules = tuple(rule for setting in settings if setting is not None for rule in setting.rules)
    return Graded(rules=rules) if rules else None


def _located(model: str, path: Path, locate: Locate) -> Path:
    if "+" in model and not Path(model).exists():
        raise SettingError(
            f"{path} {model}", "names a LoRA adapter", fix="merge it into its model first, and name that"
        )
    return locate(model)


def _check_tokenizer(asked: _Merge, path: Path) -> None:
    source = asked.tokenizer_source
    if source not in (None, "base", asked.base_model):
        found = f"tokenizer_source: {source!r} is not supported"
        fix = "leave it out: the tokenizer of the base_model is taken"
        raise SettingError(str(path), found, expected="'base' or the base_model", fix=fix)
    if source == "base" and asked.base_model is None:
        raise SettingError(str(path), "tokenizer_source: 'base' needs a base_model")


def _notes(asked: _Merge, shared: Mapping[str, Graded | None]) -> tuple[str, ...]:
    notes = []
    if shared["int8_mask"] is not None:
        notes.append("int8_mask changes nothing here: sign masks live for one block")
    if asked.dtype and asked.dtype.removeprefix("torch.") in ("bfloat16", "float16"):
        notes.append(f"dtype {asked.dtype}: computed in float32, rounded once")
    return tuple(notes)


def _parameters(given: Mapping[str, Any] | None, known: tuple[str, ...], where: str, *, method: str
                ) -> dict[str, Graded | None]:  # fmt: skip
    """The settings of one place, each known name with a setting or None."""
    given = given or {}
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise SettingError(where, f"{unknown[0]} is unknown here", expected=" or ".join(known))
    found: dict[str, Graded | None] = {}
    for name in known:
        if given.get(name) is None:
            found[name] = None
            continue
        at = f"{where} {name}"
        setting = _graded(given[name], at, stepped=name not in (*_NUMBERS, "lambda"))
        for anchor in (anchor for rule in setting.rules for anchor in rule.anchors):
            if name == "density":
                check_density(anchor, method, where=at)
            else:
                check_weight(anchor, where=at)
        found[name] = setting
    return found


def _graded(value: Any, where: str, *, stepped: bool) -> Graded:
    """A scalar, a list of anchors over the layers, or {value, filter} entries."""
    filters = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(entry, dict) for entry in value))
    rules = []
    for entry in value if filters and isinstance(value, list) else [value]:
        part, content = _rule(entry, where) if filters else (None, entry)
        anchors = content if isinstance(content, list) else [content]
        if not anchors:
            raise SettingError(where, "is an empty list", expected="a number, a list of numbers, or filters")
        rules.append(Rule(anchors=tuple(_scalar(anchor, where, stepped=stepped) for anchor in anchors), part=part))
    return Graded(rules=tuple(rules), stepped=stepped)


def _rule(entry: object, where: str) -> tuple[str | None, Any]:
    """The filter of an entry, None for all tensors, and its value."""
    known = isinstance(entry, dict) and "value" in entry and not set(entry) - {"value", "filter"}
    if not isinstance(entry, dict) or not known or not isinstance(entry.get("filter"), str | None):
        raise SettingError(where, f"{entry} is no setting", expected="{value: NUMBER, filter: TEXT}")
    part = entry.get("filter")
    return None if part == "*" else part, entry["value"]


def _scalar(value: Any, where: str, *, stepped: bool) -> float:
    """A number, or true and false as 1 and 0 (`stepped`). YAML reads 1e-1 as text, which is a number here."""
    if stepped:
        if not isinstance(value, bool):
            raise SettingError(where, f"{value!r} is not a switch", expected="true or false")
        return float(value)
    try:
        return float("no" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise SettingError(where, f"{value!r} is not a number") from None
