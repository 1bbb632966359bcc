"""Few samples that make batches valid when they are bound, that is added to each of them."""

import numpy as np

from deltagram.data.imbalance import I64
from deltagram.data.interaction import Graph, Groups, Places
from deltagram.data.verdict import Findings

_PLACES = 1 << 24  # of bound batches, up to which they are checked


def repair(
    places: Places, graph: Graph, found: Findings, label: I64, *, views: int
) -> tuple[tuple[int, ...], bool | None]:
    """Samples to bind, and whether with them each class is one component and each pair linked.

    One sample of each class that falls apart or is in no batch, and of classes that cover the pairs without an active
    edge, those of most such pairs first: the fewest possible where no pair is missing or only such classes' are.
    If these do not suffice, one of every class; if nor these (two classes of one sample in one view), none and
    False. None for the second where the batches would be too large to be looked at again.
    """
    for classes in (_cover(graph, found), np.arange(len(found.names))):
        bind = _first_of(classes, graph, label)
        if places.batches * len(bind) > _PLACES:
            return tuple(bind.tolist()), None
        again = places.bound(bind, samples=len(label))
        groups = Groups.of(again, label, classes=len(found.names), views=views)
        then = Graph.of(groups, label, classes=len(found.names), views=views)
        if Findings.of(then, groups, label, names=found.names).holds:
            return tuple(bind.tolist()), True
    return (), False


def _cover(graph: Graph, found: Findings) -> I64:
    """Classes of which one sample must be bound, and others that cover the pairs without an active edge."""
    chosen = found.parts != 1
    left = found.missing.copy()
    for class_ in np.flatnonzero(chosen).tolist():
        left[graph.not_linked(class_)] -= 1
    while (left[~chosen] > 0).any():
        class_ = int(np.argmax(np.where(chosen, 0, left)))
        chosen[class_] = True
        left[graph.not_linked(class_)] -= 1
    return np.flatnonzero(chosen)


def _first_of(classes: I64, graph: Graph, label: I64) -> I64:
    """The first sample of each class, of those that are in batches if any is."""
    there = graph.component >= 0
    order = np.lexsort((np.arange(len(label)), ~there, label))
    first: I64 = order[np.searchsorted(label[order], classes)]
    return first
