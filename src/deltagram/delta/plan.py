"""How each tensor is stored, decided once from headers, patterns and settings; printed, stored, read back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final, Literal

from deltagram.arrays import Spec, entries
from deltagram.delta.factors import NO_FACTORS, FactorShapes, check_factors, check_names
from deltagram.delta.gaps import positions_bound
from deltagram.delta.methods import Exact, Method, Random, Structural, kept_count, most_drawn
from deltagram.delta.names import Matching, Specs, match
from deltagram.delta.rescale import column_divisor, default_divisor
from deltagram.delta.submatrix import inside, unstructured
from deltagram.delta.values import Values
from deltagram.errors import PlanError, SettingError

Form = Literal["pruned", "resized", "whole", "exact", "low_rank"]
HEADS: Final = frozenset({"classifier", "score", "qa_outputs"})
ROUTERS: Final = ("*router*", "*.gate.weight", "*.shared_expert_gate.weight")
VOCABULARY: Final = (
    "*embed_tokens.weight", "*wte.weight", "*word_embeddings.weight", "*tok_embeddings.weight", "*embed_in.weight",
    "*lm_head.weight", "*embed_out.weight", "*decoder.weight", "*shared.weight", "*position_embeddings.weight",
    "*wpe.weight", "output.weight",
)  # fmt: skip
PER_TENSOR_BYTES: Final = 700  # header, manifest and scale of one tensor, at the most (measured in the tests)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor's decision. `pruned`, `resized` and `exact` find out from the data if it is `same`.

    A `whole` tensor is stored as it is or, if `coded`, as all its entries in the codec `values`.
    """

    name: str
    form: Form
    tuned: Spec
    base: Spec | None = None
    base_name: str | None = None
    method: Method
    values: Values
    divide_by: float | None = None
    factors: FactorShapes | None = None
    coded: bool = False
    reason: str

    @property
    def common(self) -> tuple[int, ...]:
        """The shape that base and tuned share: the leading rows of a resized tensor, else all."""
        if self.form != "resized" or self.base is None:
            return self.tuned.shape
        return (min(self.tuned.shape[0], self.base.shape[0]), *self.tuned.shape[1:])

    @property
    def divisor(self) -> float:
        """What restoring divides the kept values by."""
        if self.divide_by is not None:
            return self.divide_by
        if isinstance(self.method, Structural):
            return column_divisor(self.method, self.common)
        return default_divisor(self.method, entries(self.common))

    def bytes_bound(self) -> int:
        """Payload bytes at most, before packing (where entries are drawn one by one: by six sigma)."""
        if self.form in ("whole", "exact"):
            return self.values.nbytes(self.tuned.size) + 16 if self.coded else self.tuned.nbytes
        if self.form == "low_rank" and self.factors is not None:
            both = (self.factors.a, self.factors.b)
            return sum(self._kept_bytes(entries(shape)) for shape in both) + PER_TENSOR_BYTES
        extra = self.tuned.nbytes - Spec(dtype=self.tuned.dtype, shape=self.common).nbytes
        return self._kept_bytes(entries(self.common)) + extra

    def _kept_bytes(self, size: int) -> int:
        """Bytes at most of the kept values and positions of an array of `size` entries."""
        kept, positions = kept_count(self.method, size), 0
        if isinstance(self.method, Structural):
            within = inside(self.method, self.common)
            kept, positions = within.most(), within.bytes_bound()
        elif self.method.mask == "listed":
            positions = positions_bound(size, kept)
        elif self.method.mask == "bernoulli":
            kept = min(size, most_drawn(kept))
        return self.values.nbytes(kept) + positions + 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Every tensor of the tuned model in name order, and the base tensors it lacks."""

    entries: tuple[Entry, ...]
    dropped: tuple[str, ...]
    matching: str

    def bytes_bound(self) -> int:
        """Bytes of the delta at most, companion files apart."""
        return sum(entry.bytes_bound() + PER_TENSOR_BYTES for entry in self.entries) + 4096


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Later rules override earlier ones, field by field, for every tuned name that `match` (a glob) covers."""

    match: str
    form: Form | None = None
    method: Method | None = None
    values: Values | None = None
    divide_by: float | None = None
    source: str


def make_plan(
    base: Specs,
    tuned: Specs,
    *,
    method: Method,
    values: Values,
    divide_by: float | None = None,
    rules: Sequence[Rule] = (),
    rename: Sequence[tuple[str, str]] = (),
    factors: Mapping[str, FactorShapes] = NO_FACTORS,
    matching: Matching | None = None,
) -> Plan:
    """Decide every tensor from the two headers.

    By default floating tensors of two or more dimensions are pruned, embeddings and `lm_head` included;
    heads, mixture-of-experts routers, 1-d and 0-d tensors and non-floating buffers are whole. What would be pruned
    and is in `factors` is stored as those, `low_rank`. Names are paired as `matching` says, if it is given.
    Raises PlanError for shapes that differ without a rule, for a rule that covers nothing, and where no
    name pairs.
    """
    matching = matching or match(base, tuned, rename=rename)
    uncovered = [rule for rule in rules if not any(fnmatchcase(name, rule.match) for name in tuned)]
    if uncovered:
        raise PlanError(
            uncovered[0].source,
            f"{uncovered[0].match!r} covers no tensor",
            fix=f"the fine-tuned model has {', '.join(sorted(tuned)[:3])}, ...",
        )
    made = tuple(
        _decide(
            name,
            base,
            tuned[name],
            matching,
            method=method,
            values=values,
            divide_by=divide_by,
            rules=rules,
            factors=factors.get(name),
        )
        for name in sorted(tuned)
    )
    check_names([entry.name for entry in made if entry.form == "low_rank"], tuned)
    used = {entry.base_name for entry in made}
    return Plan(entries=made, dropped=tuple(sorted(set(base) - used)), matching=matching.how)


def _decide(
    name: str,
    base: Specs,
    spec: Spec,
    matching: Matching,
    *,
    method: Method,
    values: Values,
    divide_by: float | None,
    rules: Sequence[Rule],
    factors: FactorShapes | None,
) -> Entry:
    source = matching.base_of.get(name)
    entry = Entry(
        name=name, form="whole", tuned=spec, base=base[source] if source else None, base_name=source,
        method=method, values=values, divide_by=divide_by, factors=factors, reason="",
    )  # fmt: skip
    form, reason = _default_form(entry, method)
    forced = False
    for rule in rules:
        if not fnmatchcase(name, rule.match):
            continue
        if rule.form is not None:
            form, reason, forced = rule.form, rule.source, True
            entry = replace(entry, coded=form == "whole" and rule.values is not None)
        entry = replace(
            entry,
            method=rule.method or entry.method,
            values=rule.values or entry.values,
            divide_by=entry.divide_by if rule.divide_by is None else rule.divide_by,
        )
    if not forced and entry.method != method:
        form, reason = _default_form(entry, entry.method)
    return _structured(_checked(replace(entry, form=form, reason=reason), forced=forced))


def _default_form(entry: Entry, method: Method) -> tuple[Form, str]:
    spec, base, name = entry.tuned, entry.base, entry.name
    if base is None:
        return "whole", "not in the base"
    if isinstance(method, Exact):
        same_kind = base.dtype == spec.dtype or _floats(entry)
        return ("exact", "method") if base.shape == spec.shape and same_kind else ("whole", f"base is {base}")
    if HEADS & set(name.split(".")):
        return "whole", "head"
    if not spec.floating or not base.floating:
        return "whole", f"{spec.dtype} is not pruned"
    if len(spec.shape) < 2 or spec.size == 0:
        return "whole", f"{len(spec.shape)}-d" if spec.size else "empty"
    if any(fnmatchcase(name, pattern) for pattern in ROUTERS):
        return "whole", "router"
    if base.shape != spec.shape and any(fnmatchcase(name, pattern) for pattern in VOCABULARY):
        return "resized", f"{base.shape[0]} -> {spec.shape[0]} rows"
    if entry.factors is not None:
        return "low_rank", "factors of an adapter"
    return "pruned", "method"


def _floats(entry: Entry) -> bool:
    return entry.base is not None and entry.base.floating and entry.tuned.floating


def _checked(entry: Entry, *, forced: bool) -> Entry:
    """Refuse what cannot be stored this way, before any work is done."""
    if entry.form == "whole":
        if entry.coded and not (entry.tuned.floating and entry.tuned.size):
            found = f"{entry.tuned} has no values to code"
            raise PlanError(entry.name, found, fix="leave out its values, so that it is stored as it is")
        return entry
    fix = f"store it whole with --whole '{entry.name}'"
    if entry.base is None:
        raise PlanError(entry.name, f"is to be stored as {entry.form}, but the base has no such tensor", fix=fix)
    if entry.form == "exact":
        if entry.base.shape != entry.tuned.shape or not (entry.base.dtype == entry.tuned.dtype or _floats(entry)):
            raise PlanError(entry.name, f"base is {entry.base}, fine-tuned is {entry.tuned}", fix=fix)
        return entry
    if entry.form == "low_rank":
        check_factors(entry.name, entry.factors, entry.method)
        return entry
    if not _floats(entry):
        raise PlanError(entry.name, f"{entry.tuned.dtype} from {entry.base.dtype} cannot be pruned", fix=fix)
    if entry.tuned.size == 0 or entry.base.size == 0:
        raise PlanError(entry.name, "an empty tensor cannot be pruned", fix=fix)
    if isinstance(entry.method, Exact):
        raise PlanError(entry.name, f"method exact contradicts form {entry.form}", fix="give the form exact instead")
    if entry.form == "pruned" and entry.base.shape != entry.tuned.shape:
        raise PlanError(
            entry.name, f"base is {entry.base.shape}, fine-tuned is {entry.tuned.shape}",
            fix=fix + (", or its common rows pruned with form: resized in a plan" if _rows(entry) else ""),
        )  # fmt: skip
    if entry.form == "resized" and not _rows(entry):
        raise PlanError(
            entry.name, f"base is {entry.base.shape}, fine-tuned is {entry.tuned.shape}",
            expected="shapes that differ in the number of rows only", fix=fix,
        )  # fmt: skip
    if forced and entry.form == "resized" and entry.base.shape == entry.tuned.shape:
        return replace(entry, form="pruned")
    return entry


def _structured(entry: Entry) -> Entry:
    """Random entries instead of columns where a tensor has no input columns; the reason says so."""
    why = unstructured(entry.name, entry.common)
    if entry.form not in ("pruned", "resized") or not isinstance(entry.method, Structural) or not why:
        return entry
    reason = f"{entry.reason}; {why}: random instead of columns"
    return replace(entry, method=Random(keep=entry.method.keep), reason=reason)


def _rows(entry: Entry) -> bool:
    base, tuned = entry.base, entry.tuned
    return base is not None and len(tuned.shape) >= 1 and base.shape[1:] == tuned.shape[1:]


def fit_budget(make: Callable[[float], Plan], budget: int) -> Plan:
    """The plan with the largest kept share whose `bytes_bound` is within `budget` bytes.

    `make(keep)` gives the plan for a kept share. Raises SettingError where even the least does not fit.
    """
    least = 1e-6
    floor = make(least).bytes_bound()
    if floor > budget:
        raise SettingError(
            "--budget", f"{budget:,} bytes is below the floor of {floor:,} bytes",
            fix="that much is taken by tensors stored whole and by the manifest; raise the budget",
        )  # fmt: skip
    low, high = least, 1.0
    if make(high).bytes_bound() <= budget:
        return make(high)
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if make(middle).bytes_bound() <= budget else (low, middle)
    return make(low)
