"""What has a mask, values and a divisor: a pruned tensor, or either factor of a low-rank one."""

from collections.abc import Mapping
from dataclasses import dataclass

from deltagram.arrays import Spec
from deltagram.delta.masks import WORDS
from deltagram.store.masks import BernoulliMask, ListedMask, StratifiedMask
from deltagram.store.tensors import LowRankTensor, PrunedTensor, StoredTensor, StoredValues


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One factor of a low-rank tensor, with the words a pruned tensor has: `common` is its own shape."""

    common: Spec
    mask: StratifiedMask | BernoulliMask | ListedMask
    values: StoredValues

    @property
    def dare_divisor(self) -> float:
        """DARE's divisor 1 - p: the mask's probability (Bernoulli) or its exact share of the entries (others)."""
        return (
            self.mask.threshold / WORDS if isinstance(self.mask, BernoulliMask) else self.mask.keep / self.common.size
        )

    @property
    def default_divisor(self) -> float:
        """What kept values are divided by unless told: DARE's divisor for random masks, 1 for chosen entries."""
        return 1.0 if isinstance(self.mask, ListedMask) else self.dare_divisor


Masked = PrunedTensor | Factor


def masked(name: str, tensor: StoredTensor) -> dict[str, Masked]:
    """The pruned arrays of a tensor, each under the name of its parts, key and divisor: `T`, or `T:A` and `T:B`."""
    if isinstance(tensor, PrunedTensor):
        return {name: tensor}
    if isinstance(tensor, LowRankTensor):
        pairs = (("A", tensor.shape_of_a, tensor.A), ("B", tensor.shape_of_b, tensor.B))
        return {
            f"{name}:{letter}": Factor(
                common=Spec(dtype="F32", shape=shape),
                mask=stored.mask,
                values=stored.values,
            )
            for letter, shape, stored in pairs
        }
    return {}


def all_masked(tensors: Mapping[str, StoredTensor]) -> dict[str, Masked]:
    """Those of all tensors. Raises ValueError where a tensor is named like another's factor."""
    found: dict[str, Masked] = {}
    for name, tensor in tensors.items():
        for unit, kept in masked(name, tensor).items():
            if unit in found or (unit != name and unit in tensors):
                raise ValueError(f"{unit} is a factor of {name}, and the name of another tensor")
            found[unit] = kept
    return found
