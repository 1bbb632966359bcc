"""Which base tensor a fine-tuned tensor came from: equal names, a prefix a task class added, a tied head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deltagram.arrays import Spec
from deltagram.errors import PlanError

Specs = Mapping[str, Spec]
ENOUGH = 0.9
OUTPUT = ("lm_head.weight", "output.weight", "embed_out.weight", "cls.predictions.decoder.weight")
INPUT = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
)


@dataclass(frozen=True, kw_only=True)
class Matching:
    """`base_of` maps tuned names to base names; `how` says in words what was done."""

    base_of: Mapping[str, str]
    how: str


def match(base: Specs, tuned: Specs, *, rename: Sequence[tuple[str, str]] = ()) -> Matching:
    """Pair the tensors of two checkpoints by name.

    A uniform prefix is recognised where it pairs at least 90 % of the smaller side's names, nearly all with
    equal shapes. `rename` (OLD, NEW) overrides that: a base name that starts with OLD is called NEW there.
    Raises PlanError where nothing pairs.
    """
    if rename:
        pairs, how = (
            _renamed(base, tuned, rename),
            "renamed " + ", ".join(f"{o or '(none)'}={n}" for o, n in rename),
        )
    else:
        pairs, how = _prefixed(base, tuned)
    pairs |= _tied(base, tuned, pairs)
    if not pairs:
        raise PlanError(
            "names",
            f"no tensor of the fine-tuned model ({_few(tuned)}) is in the base ({_few(base)})",
            fix="check that this is its base, or pair the names with --rename OLD=NEW",
        )
    return Matching(base_of=pairs, how=how)


def _few(specs: Specs) -> str:
    names = sorted(specs)
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def _renamed(base: Specs, tuned: Specs, rename: Sequence[tuple[str, str]]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for old, new in rename:
        found = {new + name[len(old) :]: name for name in base if name.startswith(old)}
        found = {name: source for name, source in found.items() if name in tuned}
        if not found:
            raise PlanError(
                f"--rename {old}={new}",
                "pairs no tensor",
                expected=f"base names that start with {old!r} whose tuned names start with {new!r}",
                fix=f"the base has {_few(base)}; the fine-tuned model has {_few(tuned)}",
            )
        pairs = found | pairs
    return {name: name for name in tuned if name in base and name not in pairs} | pairs


def _prefixed(base: Specs, tuned: Specs) -> tuple[dict[str, str], str]:
    """The best pairing among: same names, a prefix added, a prefix removed."""
    best = {name: name for name in tuned if name in base}
    how = "names are equal"
    least = ENOUGH * min(len(base), len(tuned))
    for prefix in sorted(_prefixes(tuned)):
        pairs = {prefix + name: name for name in base if prefix + name in tuned}
        if len(pairs) >= least and len(pairs) > len(best) and _alike(base, tuned, pairs):
            best, how = pairs, f"the fine-tuned model adds the prefix {prefix!r}"
    for prefix in sorted(_prefixes(base)):
        pairs = {name: prefix + name for name in tuned if prefix + name in base}
        if len(pairs) >= least and len(pairs) > len(best) and _alike(base, tuned, pairs):
            best, how = pairs, f"the fine-tuned model drops the prefix {prefix!r}"
    return best, how


def _prefixes(specs: Specs) -> set[str]:
    """Every dotted beginning of the first names (a uniform prefix is on nearly all of them)."""
    found: set[str] = set()
    for name in specs:
        parts = name.split(".")
        found |= {".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), 4))}
    return found


def _alike(base: Specs, tuned: Specs, pairs: Mapping[str, str]) -> bool:
    same = sum(tuned[name].shape == base[source].shape for name, source in pairs.items())
    return same >= ENOUGH * len(pairs)


def _tied(base: Specs, tuned: Specs, pairs: Mapping[str, str]) -> dict[str, str]:
    """An output head the base ties to its input embedding (or the reverse) is paired with that tensor."""
    found: dict[str, str] = {}
    for name, spec in tuned.items():
        if name in pairs or not name.endswith(OUTPUT + INPUT):
            continue
        others = INPUT if name.endswith(OUTPUT) else OUTPUT
        for source in sorted(base):
            if source.endswith(others) and base[source].shape[1:] == spec.shape[1:] and len(spec.shape) == 2:
                found[name] = source
                break
    return found
