"""Supervised contrastive loss, with prototypes as added logits, in memory of batch x tile.

Sources: Khosla et al., NeurIPS 2020 (arXiv 2004.11362), Eqs. (2) and (3); its geometry and batches, Kini et al.
(arXiv 2306.07960); fixed prototypes in every batch, Gill et al. (arXiv 2310.00893).
"""

import math
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.losses.contrastive_batch import HALF, Items, held_copies, held_prototypes, read_items, unit
from deltagram.losses.contrastive_gather import GRADIENTS, Everyone, gathered, total
from deltagram.losses.contrastive_pairs import Pairs, plain_lse
from deltagram.losses.contrastive_tiles import EachLse, WeightedLosses
from deltagram.losses.counts import ClassWeight, chosen_weights, either

__all__ = ["SupervisedContrastive"]

REDUCTIONS: Final = ("none", "mean", "sum")
DIVISORS: Final = ("valid", "all", "nonzero")
VARIANTS: Final = ("out", "in")
BOUND: Final = 40.0  # exponents up to which sums of exponentials, and their inverses, are far inside float32


class SupervisedContrastive(torch.nn.Module):
    """`loss(embeddings, labels)`: each item is asked to be nearer to its class than to the other items of the batch.

    With z the rows of `embeddings`, (batch, feature) or (batch, view, feature), of norm 1 unless `normalise=False`,
    t the temperature and P(i) the other items of i's class, the loss of anchor i is weight_y times

        "out":  log sum_{l != i} exp(z_i.z_l / t) - mean_{j in P(i)} z_i.z_j / t
        "in":   log sum_{l != i} exp(z_i.z_l / t) - log mean_{j in P(i)} exp(z_i.z_j / t)

    An item alone in its class is no anchor, and still a negative for the others; items of `ignore_index` are
    nowhere. `prototypes` (class, feature) join every batch, `copies` of each (one number or one a class, fractions
    too): they add log(copies_c) + z_i.w_c / t to the sum, and copies_y to the positives. They are buffers, or
    parameters if `trainable`; with `prototype_anchors` each copy is an anchor, too. The mean divides by the weights
    of the anchors: `divisor` "valid", those that have a positive; "all", with those that have none (SupContrast);
    "nonzero", those whose loss is above 0 (pytorch-metric-learning). All is multiplied by t / `base_temperature`.

    Half precision is computed, and the loss returned, in float32. Memory is batch x `tile` anchors, also for the
    gradient; `plain` leaves both to torch, in batch x batch. Second derivatives take the plain way by themselves.
    `gather` puts the items of all processes of `group` into one batch, see docs/contrastive.md. Raises SettingError
    for settings and batches that make no loss, among them a batch without any positive.
    """

    prototypes: Tensor | None
    copies: Tensor | None
    weight: Tensor | None

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        prototypes: Any = None,
        copies: Any = 1,
        prototype_anchors: bool = False,
        trainable: bool = False,
        weight: Any = None,
        class_weight: ClassWeight = None,
        class_counts: Any = None,
        cls_num_list: Any = None,
        empty: str = "refuse",
        variant: str = "out",
        normalise: bool = True,
        reduction: str = "mean",
        divisor: str = "valid",
        base_temperature: float | None = None,
        ignore_index: int = -100,
        tile: int | None = None,
        plain: bool = False,
        gather: str | None = None,
        group: Any = None,
    ) -> None:
        super().__init__()
        self.temperature = _positive("temperature", temperature)
        self.scale = 1.0 if base_temperature is None else temperature / _positive("base_temperature", base_temperature)
        self.variant = _one_of("variant", variant, VARIANTS)
        self.reduction = _one_of("reduction", reduction, REDUCTIONS)
        self.divisor = _one_of("divisor", divisor, DIVISORS)
        self.gather = None if gather is None else _one_of("gather", gather, GRADIENTS)
        if tile is not None and tile < 1:
            raise SettingError("tile", f"is {tile}", expected="a number of anchors, at least 1")
        if prototype_anchors and (prototypes is None or reduction == "none"):
            found = "without prototypes" if prototypes is None else "with reduction='none', which has an entry an item"
            raise SettingError("prototype_anchors", f"is given {found}", fix="leave it out")
        if trainable and prototypes is None:
            raise SettingError("trainable", "is given without prototypes", fix="give prototypes to start from")
        self.prototype_anchors, self.normalise, self.ignore_index = prototype_anchors, normalise, ignore_index
        self.tile, self.plain, self.group = tile, plain, group
        self._hold(prototypes, copies, trainable=trainable)
        counts = either(class_counts, cls_num_list)
        known = len(counts) if counts is not None else None if self.prototypes is None else len(self.prototypes)
        weights = chosen_weights(weight, class_weight, counts=counts, classes=known, empty=empty)
        self.classes = _classes(self.prototypes, class_counts=counts, weight=weights)
        held = None if weights is None else torch.tensor(weights, dtype=torch.get_default_dtype())
        self.register_buffer("weight", held)

    def _hold(self, prototypes: Any, copies: Any, *, trainable: bool) -> None:
        """Prototypes and their copies, as parameter or buffers."""
        rows = many = None
        if prototypes is not None:
            rows = held_prototypes(prototypes)
            numbers = held_copies(copies, classes=len(rows), anchors=self.prototype_anchors)
            many = torch.tensor(numbers, dtype=torch.get_default_dtype() if rows.dtype in HALF else rows.dtype)
        self.register_buffer("copies", many)
        if rows is not None and trainable:
            self.prototypes = torch.nn.Parameter(rows)
        else:
            self.register_buffer("prototypes", rows)

    def extra_repr(self) -> str:
        """What `print` shows beside the name."""
        held = [name for name in ("prototypes", "weight") if getattr(self, name) is not None]
        parts = [f"temperature={self.temperature:g}", *held, f"variant={self.variant!r}"]
        return f"{self.classes or 'any number of'} classes, {' '.join(parts)} reduction={self.reduction!r}"

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, reduced as `reduction` says; the shape of the items for "none"."""
        features = None if self.prototypes is None else self.prototypes.shape[1]

        def read() -> Items:
            return read_items(
                embeddings, labels, ignore_index=self.ignore_index, normalise=self.normalise,
                temperature=self.temperature, classes=self.classes, features=features,
            )  # fmt: skip

        everyone = Everyone.alone(read()) if self.gather is None else gathered(read, group=self.group)
        keys, label, copies = self._keys(everyone)
        few = 0 if copies is None else len(copies)
        own = slice(few + everyone.first, few + everyone.first + len(everyone.mine.rows))
        anchors = slice(0, own.stop) if self.prototype_anchors and everyone.leads else own
        others, label = self._others(label, copies)
        valid = (others > 0)[label[anchors]]
        coefficient = self._coefficient(label, copies, keys)[anchors]
        attraction, pairs = self._terms(keys, label, copies, others=others, anchors=anchors)
        return self._reduced(keys, attraction, coefficient, valid=valid, pairs=pairs, everyone=everyone)

    def _keys(self, everyone: Everyone) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys (key, feature) - prototypes, then items -, their classes, and the copies of the prototypes."""
        rows, label = everyone.rows, everyone.label
        if self.prototypes is None or self.copies is None:
            if everyone.items < 2:
                expected = "at least 2 that have labels, or prototypes"
                found = f"the batch has {everyone.items} item{'s' * (everyone.items != 1)}"
                raise SettingError("SupervisedContrastive", found, expected=expected)
            return rows, label, None
        if not everyone.items:
            raise SettingError("SupervisedContrastive", "the batch has 0 items", expected="at least 1 that has a label")
        held = self.prototypes.to(rows.dtype)
        there = self.copies.nonzero().squeeze(1)
        held = (unit(held) if self.normalise else held)[there]
        return torch.cat([held, rows]), torch.cat([there, label]), self.copies[there].double()

    def _others(self, label: Tensor, copies: Tensor | None) -> tuple[Tensor, Tensor]:
        """How many positives an anchor of each class has, and the keys' classes as numbers below their number."""
        size = self.classes
        if size is None:
            distinct, label = torch.unique(label, return_inverse=True)
            size = len(distinct)
        few = 0 if copies is None else len(copies)
        others = torch.bincount(label[few:], minlength=size).double() - 1
        if copies is not None:
            others.index_add_(0, label[:few], copies)
        return others, label

    def _coefficient(self, label: Tensor, copies: Tensor | None, keys: Tensor) -> Tensor:
        """The weight of every key as an anchor: that of its class, as often as it is there."""
        weight = keys.new_ones(len(label)) if self.weight is None else self.weight.to(keys)[label]
        if copies is None:
            return weight
        return torch.cat([weight[: len(copies)] * copies.to(weight), weight[len(copies) :]])

    def _terms(
        self, keys: Tensor, label: Tensor, copies: Tensor | None, *, others: Tensor, anchors: slice
    ) -> tuple[Tensor, Pairs]:
        """What pulls each anchor to its class, (anchor), and what it is compared with."""
        mine, few = label[anchors], 0 if copies is None else len(copies)
        log_self = keys.new_full((len(mine),), -torch.inf)
        largest, log_copies = math.log(len(keys)), None
        if copies is not None:
            log_copies = copies.log().to(keys)
            largest += float(log_copies.abs().max())
            if not anchors.start:
                log_self[:few] = torch.log1p(-1 / copies).to(keys)
        pairs = Pairs(
            first=anchors.start, last=anchors.stop, temperature=self.temperature, log_self=log_self,
            log_copies=log_copies, bounded=self.normalise and 1 / self.temperature + largest <= BOUND, tile=self.tile,
        )  # fmt: skip
        many = others.clamp_min(torch.finfo(keys.dtype).tiny).to(keys)[mine]
        if self.variant == "in":
            near = self._lse(keys, replace(pairs, group=label, bounded=False))
            return near - many.log(), pairs
        others_sum = self._positives(keys, label, copies, size=len(others), anchors=anchors)
        return (keys[anchors] * others_sum).sum(1) / (self.temperature * many), pairs

    def _positives(self, keys: Tensor, label: Tensor, copies: Tensor | None, *, size: int, anchors: slice) -> Tensor:
        """The sum of each anchor's positives, (anchor, feature).

        An anchor is taken from the sum that it is in before the other is added: what is left is exact where nothing is.
        """
        mine, rows, few = label[anchors], keys[anchors], 0 if copies is None else len(copies)
        items = _class_sums(keys[few:], label[few:], size).index_select(0, mine)
        if copies is None:
            return items - rows
        prototypes = _class_sums(keys[:few] * copies.to(keys)[:, None], label[:few], size).index_select(0, mine)
        if anchors.start:
            return (items - rows) + prototypes
        ahead = items[:few] + (prototypes[:few] - rows[:few])
        return torch.cat([ahead, (items[few:] - rows[few:]) + prototypes[few:]])

    def _lse(self, keys: Tensor, pairs: Pairs) -> Tensor:
        each: Any = EachLse.apply
        found: Tensor = plain_lse(keys, pairs) if self.plain else each(keys, pairs)
        return found

    def _reduced(
        self, keys: Tensor, attraction: Tensor, coefficient: Tensor, *, valid: Tensor, pairs: Pairs, everyone: Everyone
    ) -> Tensor:
        """The losses of the anchors, reduced over the anchors of every process."""
        used = coefficient * valid
        if self.reduction == "none":
            self._check(everyone.sum(torch.stack([valid.sum(), (used > 0).sum()])), everyone)
            losses = (self._lse(keys, pairs) - attraction) * used * self.scale
            return losses.new_zeros(everyone.mine.counted.shape).masked_scatter(everyone.mine.counted, losses)
        if self.plain:
            losses = plain_lse(keys, pairs) - attraction
            value = (used * losses).sum()
        else:
            wanted = torch.is_grad_enabled() and keys.requires_grad
            weigh: Any = WeightedLosses.apply
            value, losses = weigh(keys, attraction, used, pairs, wanted)
        by = {"valid": used, "all": coefficient, "nonzero": used * (losses.detach() > 0)}[self.divisor].sum()
        seen = everyone.sum(torch.stack([valid.sum().to(by), (used > 0).sum().to(by), by]))
        self._check(seen, everyone)
        value = total(value, everyone, averaged=self.gather == "average") * self.scale
        if self.reduction == "sum":
            return value
        return value / seen[2].masked_fill(seen[2] == 0, 1.0)

    def _check(self, seen: Tensor, everyone: Everyone) -> None:
        """SettingError for a batch in which no anchor has a positive, or none of those a weight."""
        if not seen[0]:
            found = f"none of {everyone.items} items shares its class with another"
            fix = "sample 2 or more of a class, give 2 views of each item, or prototypes"
            raise SettingError("SupervisedContrastive", found, expected="an anchor that has a positive", fix=fix)
        if not seen[1]:
            raise SettingError("SupervisedContrastive", "the weights of all anchors are 0", expected="one above 0")


def _class_sums(rows: Tensor, label: Tensor, classes: int) -> Tensor:
    return rows.new_zeros(classes, rows.shape[1]).index_add(0, label, rows)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise SettingError(name, f"is {value}", expected="a finite number above 0")
    return float(value)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise SettingError(name, f"{value!r} is unknown", expected=" or ".join(known))
    return value


def _classes(prototypes: Tensor | None, **parts: F64 | None) -> int | None:
    """The number of classes that all which is given agrees on. Raises SettingError."""
    sizes = {name: len(values) for name, values in parts.items() if values is not None}
    sizes |= {} if prototypes is None else {"prototypes": len(prototypes)}
    if len(set(sizes.values())) > 1:
        found = " and ".join(f"{name} has {size}" for name, size in sizes.items())
        raise SettingError("SupervisedContrastive", f"{found} classes", expected="one number of classes")
    return next(iter(sizes.values()), None)
