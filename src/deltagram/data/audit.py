"""Whether batches leave the supervised contrastive loss one minimiser, the orthogonal frame, said before training."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike

from deltagram.data.imbalance import checked_labels
from deltagram.data.interaction import Graph, Groups, Places
from deltagram.data.ownbatches import announce
from deltagram.data.repairs import repair
from deltagram.data.reshuffling import expected_epochs
from deltagram.data.rounds import check_classes, check_least
from deltagram.data.verdict import Findings, Verdict, judge
from deltagram.errors import SettingError

FEATURES: Final = ("relu", "free")
_NAMED = 20  # missing pairs that are told


@dataclass(frozen=True, kw_only=True)
class BatchAudit:
    """What `audit_batches` found; `dataclasses.asdict` of it is plain JSON data.

    `unseen` of the `samples` are in no batch; `batch_size` is the median. `classes` are those that have samples;
    `components[c]` is how many components the seen samples with label c make, 0 where there is none. `missing_pairs`
    counts pairs of classes without an active edge, `missing` names the first of them. `epochs_if_shuffled` estimates
    after how many epochs of batches of this size, drawn anew each epoch, both conditions hold (None: never).
    `bind` are samples that repair the batches when added to each; `repaired` is whether that was seen to be so:
    None where there is nothing to repair, or where those batches would have more than 2^24 places.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    samples: int
    unseen: int
    batches: int
    batch_size: int
    classes: int
    components: tuple[int, ...]
    missing_pairs: int
    missing: tuple[tuple[int, int], ...]
    dim: int | None
    views: int
    features: str
    prototypes: bool
    epochs_if_shuffled: float | None
    bind: tuple[int, ...]
    repaired: bool | None


def audit_batches(
    batches: Iterable[Any],
    labels: ArrayLike,
    *,
    classes: int | None = None,
    dim: int | None = None,
    views: int = 1,
    features: Literal["relu", "free"] = "relu",
    prototypes: bool = False,
) -> BatchAudit:
    """Whether the orthogonal frame is the only minimiser of the supervised contrastive loss summed over `batches`.

    `batches` is any iterable of batches of indices of `labels`: lists, a batch sampler, `epochs_of(sampler, 10)`.
    `dim` is that of the embeddings, `views` how many of each sample a batch has, `features` "relu" where they are
    nonnegative before they are normalised, `prototypes` whether the loss has fixed orthogonal ones. `classes` is one
    more than the largest label unless given. See `interaction` for what an edge is, `verdict.judge` for the rule.

    Time is that of sorting the places; memory is that and classes^2 / 8 bytes. Raises SettingError for no batch, an
    empty one, indices out of range, labels that are not whole numbers from 0, one class, and settings out of range.

    >>> fixed = [[0, 1, 4, 5], [2, 3, 6, 7]]
    >>> audit = audit_batches(fixed, [0, 0, 0, 0, 1, 1, 1, 1], dim=8)
    >>> audit.verdict, audit.components, audit.bind, audit.repaired
    ('not unique', (2, 2), (0, 4), True)
    >>> audit_batches([[*batch, 0, 4] for batch in fixed], [0, 0, 0, 0, 1, 1, 1, 1], dim=8).verdict
    'unique'
    """
    label = checked_labels(labels, classes=classes)
    check_classes(label)
    check_least(dim=dim, views=views)
    if features not in FEATURES:
        raise SettingError("features", f"{features!r} is unknown", expected=" or ".join(FEATURES))
    places = Places.of(batches, samples=len(label))
    counts = np.bincount(label, minlength=classes or 0)
    names = np.flatnonzero(counts)
    number = np.cumsum(counts > 0)[label] - 1
    groups = Groups.of(places, number, classes=len(names), views=views)
    graph = Graph.of(groups, number, classes=len(names), views=views)
    found = Findings.of(graph, groups, number, names=names, tight=dim == len(names))
    verdict, reasons = judge(found, dim=dim, views=views, features=features, prototypes=prototypes)
    bind, repaired = ((), None) if found.holds else repair(places, graph, found, number, views=views)
    components = np.zeros(len(counts), np.int64)
    components[names] = found.parts
    size = int(np.median(np.bincount(places.batch)))
    return BatchAudit(
        verdict=verdict, reasons=reasons, samples=len(label), unseen=found.unseen, batches=places.batches,
        batch_size=size, classes=len(names), components=tuple(components.tolist()), missing_pairs=found.pairs,
        missing=tuple(_missing(graph, found)), dim=dim, views=views, features=features, prototypes=prototypes,
        epochs_if_shuffled=expected_epochs(counts, size, views=views), bind=bind, repaired=repaired,
    )  # fmt: skip


def epochs_of(sampler: Any, epochs: int) -> Iterator[Any]:
    """The batches of epochs 0 to `epochs` - 1 of a batch sampler, which is told each one if it has `set_epoch`.

    >>> from deltagram.data import BindingBatchSampler
    >>> len(list(epochs_of(BindingBatchSampler([0, 0, 0, 1, 1, 1], 2), 5)))
    15
    """
    check_least(epochs=epochs)
    before = getattr(sampler, "epoch", 0)
    try:
        for epoch in range(epochs):
            announce(sampler, epoch)
            yield from sampler
    finally:
        announce(sampler, before)


def describe(audit: BatchAudit) -> list[str]:
    """An audit in lines to read: the verdict, why, and what to do.

    >>> for line in describe(audit_batches([[0, 1, 4, 5], [2, 3, 6, 7]], [0, 0, 0, 0, 1, 1, 1, 1], dim=8)):
    ...     print(line)
    2 batches of 4, 8 samples of 2 classes
    the orthogonal frame as the only minimiser: not unique
    because 2 of 2 classes are not held together: class 0 falls into 2 components
    because dim 8 is above the 2 classes: components may take directions of their own
    binding 2 samples to each batch repairs that: 0, 4
    batches of this size drawn anew each epoch do so together after about 2.32 epochs
    """
    lines = [f"{audit.batches} batches of {audit.batch_size}, {audit.samples} samples of {audit.classes} classes"]
    lines.append(f"the orthogonal frame as the only minimiser: {audit.verdict}")
    lines += [f"because {reason}" for reason in audit.reasons]
    if audit.bind:
        shown = ", ".join(map(str, audit.bind[:_NAMED])) + (", ..." if len(audit.bind) > _NAMED else "")
        found = {
            True: "repairs that",
            False: "does not repair that",
            None: "should repair that (not checked: too many)",
        }
        lines.append(f"binding {len(audit.bind)} samples to each batch {found[audit.repaired]}: {shown}")
    elif audit.repaired is False:
        lines.append("no binding repairs that: give each sample two views")
    if audit.bind or audit.repaired is False:
        epochs = audit.epochs_if_shuffled
        often = "never" if epochs is None else f"after about {epochs:.3g} epochs"
        lines.append(f"batches of this size drawn anew each epoch do so together {often}")
    return lines


def _missing(graph: Graph, found: Findings) -> Iterator[tuple[int, int]]:
    """The first pairs of classes without an active edge, by label."""
    left = _NAMED
    for one in np.flatnonzero(found.missing):
        others = graph.not_linked(int(one))
        for other in others[others > one][:left].tolist():
            yield int(found.names[one]), int(found.names[other])
            left -= 1
        if not left:
            return
