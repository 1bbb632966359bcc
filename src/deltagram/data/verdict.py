"""What the interaction graph of batches says of the minimisers of the supervised contrastive loss, with reasons."""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from deltagram.data.imbalance import I64
from deltagram.data.interaction import Graph, Groups, parts_linked, pieces

Verdict = Literal["unique", "not unique", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What matters of a graph: per class its label, seen samples, components, `loose` ones and unlinked classes.

    `unseen` samples are in no batch. `held` is whether at dim = classes the components of classes that fall apart are
    held in their places all the same: None where nobody asked, or where it cannot be told.
    """

    names: I64
    seen: I64
    parts: I64
    loose: I64
    missing: I64
    unseen: int
    held: bool | None

    @classmethod
    def of(cls, graph: Graph, groups: Groups, label: I64, *, names: I64, tight: bool = False) -> Self:
        """The findings of one graph; `label` numbers the classes of `names`; `tight` asks for `held`."""
        there = graph.component >= 0
        parts, loose = (_parts(number[there], label[there], len(names)) for number in (graph.component, graph.loose))
        apart = np.flatnonzero(parts > 1)
        return cls(
            names=names, seen=np.bincount(label[there], minlength=len(names)), parts=parts, loose=loose,
            missing=graph.missing(), unseen=int((~there).sum()),
            held=_held(graph, groups, apart) if tight else None,
        )  # fmt: skip

    @property
    def pairs(self) -> int:
        """Pairs of classes without an active edge."""
        return int(self.missing.sum()) // 2

    @property
    def holds(self) -> bool:
        """Whether each class is one component and each pair of classes linked."""
        return not self.pairs and bool((self.parts == 1).all())


def judge(
    found: Findings, *, dim: int | None, views: int, features: str, prototypes: bool
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on the orthogonal frame, and why.

    Corollary 2.1 of arXiv 2306.07960 with active edges. A pair of classes without one may take any angle in any
    dimension. Components of a class may come apart only where there is a direction for them: dim > classes. At
    dim = classes it is that of a class which a component has no active edge to, or pieces of the graph exchange theirs.
    """
    classes, notes = len(found.names), _notes(found, views=views)
    if dim is not None and dim < classes:
        return "undecided", (f"{classes} classes have no orthogonal frame in {dim} dimensions", *notes)
    if features == "free":
        why = "without a final ReLU the minimiser depends on class sizes and batches, not on this graph alone"
        return "undecided", (why, *_violations(found), *notes)
    if prototypes:
        return "unique", ("orthogonal prototypes hold each sample of their class in whatever batch", *notes)
    if found.holds:
        why = f"each class is one component, and each of the {classes * (classes - 1) // 2} pairs has an active edge"
        return "unique", (why, *notes)
    verdict, rule = _broken(found, dim=dim)
    return verdict, (*_violations(found), *rule, *notes)


def _broken(found: Findings, *, dim: int | None) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict where a condition is broken, for ReLU features without prototypes."""
    classes = len(found.names)
    if found.pairs:
        return "not unique", ()
    if dim is None:
        return "undecided", (f"dim is not given: components come apart where it is above the {classes} classes",)
    if dim == classes:
        if found.held is None:
            return "undecided", (f"dim is {dim}, the number of classes: it may leave no room for components to part",)
        if found.held:
            return "unique", (f"dim is {dim}, the number of classes: each component has one direction left, the same",)
        return "not unique", (
            f"dim is {dim}, the number of classes, but components may take directions of other classes",
        )
    apart = found.parts > 1
    room = np.where(found.loose > 1, 1, found.parts - 1)[apart].min()  # directions in which the components can part
    if dim < classes + room:
        why = f"components share batches of one class, whose inner products are equal: dim {dim} may leave them no room"
        return "undecided", (why,)
    return "not unique", (f"dim {dim} is above the {classes} classes: components may take directions of their own",)


def _held(graph: Graph, groups: Groups, apart: I64) -> bool | None:
    """At dim = classes: whether the components of classes that fall apart still have one place each."""
    if len(apart) == 1:
        return parts_linked(groups, graph, int(apart[0]))
    return False if pieces(groups, graph) > 1 else None


def _violations(found: Findings) -> list[str]:
    """A sentence for each condition that is broken."""
    said = []
    apart = np.flatnonzero(found.parts > 1)
    if apart.size:
        worst = apart[np.argmax(found.parts[apart])]
        count = f"{apart.size} of {len(found.names)} classes are not held together"
        said.append(f"{count}: class {found.names[worst]} falls into {found.parts[worst]} components")
    if found.pairs:
        worst = int(np.argmax(found.missing))
        total = len(found.names) * (len(found.names) - 1) // 2
        count = f"{found.pairs} of {total} pairs of classes have no active edge"
        said.append(f"{count}, {found.missing[worst]} of them of class {found.names[worst]}")
    return said


def _notes(found: Findings, *, views: int) -> list[str]:
    """What one should know whatever the verdict."""
    said = []
    absent = np.flatnonzero(found.parts == 0)
    if absent.size:
        said.append(f"{absent.size} classes are in no batch, class {found.names[absent[0]]} the first")
    if found.unseen:
        said.append(f"{found.unseen} samples are in no batch; components are those of the others")
    single = np.flatnonzero(found.seen == 1)
    if views == 1 and single.size:
        what = f"class {found.names[single[0]]} has" if single.size == 1 else f"{single.size} classes have"
        said.append(f"{what} one sample in one view, which is no anchor but where a batch repeats it")
    return said


def _parts(component: I64, label: I64, classes: int) -> I64:
    """Components a class, (class)."""
    owner = np.full(int(component.max()) + 1, -1)
    owner[component] = label
    return np.bincount(owner[owner >= 0], minlength=classes).astype(np.int64)
