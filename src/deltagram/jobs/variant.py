"""A pruned delta on a model that runs: what searches, distillation and selection measure."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deltagram.arrays import Bits
from deltagram.delta.difference import difference
from deltagram.delta.stored import LowRank, Pruned
from deltagram.errors import SettingError
from deltagram.jobs.restore import restore
from deltagram.jobs.runnable import runnable
from deltagram.store.adapter import Tuned, open_tuned
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.deltafile import Delta
from deltagram.store.rebuild import base_name, check_base_digest, check_base_headers
from deltagram.store.tensors import LowRankTensor, PrunedTensor
from deltagram.training.loaded import Loaded, loaded
from deltagram.training.trial import Kept, Trial

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The model (`run`), which is the fine-tuned one until `trial` is made, and what the delta was made from."""

    delta: Delta
    base: Checkpoint
    tuned: Tuned | None
    run: Loaded
    stored: Mapping[str, Kept]

    @property
    def pruned(self) -> dict[str, Pruned]:
        """The pruned tensors; `stored` holds those that are low-rank, too."""
        return {name: tensor for name, tensor in self.stored.items() if isinstance(tensor, Pruned)}

    def trial(self) -> Trial:
        """Put the pruned delta on the model (divisors are still to be set)."""
        return Trial(self.run, self.stored, self._base_bits)

    def default_divisors(self) -> dict[str, float]:
        """What each pruned tensor is divided by unless told: DARE's 1 - p for a random mask, 1 for chosen entries."""
        return {name: kept.default_divisor for name, kept in self.delta.masked.items()}

    def differences(self) -> "dict[str, torch.Tensor]":
        """Fine-tuned minus base of each pruned or low-rank tensor, float32, in the shape of the common rows."""
        import torch  # noqa: PLC0415 - whoever asks has a model loaded

        if self.tuned is None:
            raise SettingError("--tuned", "is missing", fix="give the fine-tuned model the delta was made from")
        found: dict[str, Any] = {}
        for name, tensor in self.stored.items():
            size = tensor.mask.size if isinstance(tensor, Pruned) else tensor.spec.size
            bits, base = self.tuned.bits(name, 0, size), self._base_bits(tensor.base_name)[:size]
            flat = difference(base, tensor.base.dtype, bits, tensor.spec.dtype)
            found[name] = torch.from_numpy(flat).reshape(-1, *tensor.spec.shape[1:])
        return found

    def _base_bits(self, name: str) -> Bits:
        return self.base.bits(name, 0, self.base.specs[name].size)


@contextmanager
def variant(delta: Delta, base: Path, *, tuned: Path | None, device: str = "cpu") -> Iterator[Variant]:
    """Open and build everything once. Without `tuned` the model is the restored one, in a temporary directory.

    Raises BaseError for a base of another delta, CheckpointError for a model that cannot be built.
    """
    source = open_checkpoint(base)
    check_base_headers(delta, source)
    for name, entry in delta.manifest.tensors.items():
        if isinstance(entry, PrunedTensor | LowRankTensor):
            below = base_name(delta, name)
            check_base_digest(delta, source, below, source.digest(below), entry.base_digest)
    stored = {name: tensor for name, tensor in delta.load().items() if isinstance(tensor, Pruned | LowRank)}
    if not stored:
        raise SettingError(str(delta.path), "has no pruned tensor to rescale")
    specs = {name: tensor.spec for name, tensor in delta.manifest.tensors.items()}
    known = None if tuned is None else open_tuned(tuned, source)
    with _folder(known, base, delta) as folder:
        if known is not None and known.specs != specs:
            odd = sorted(name for name in specs.keys() | known.specs.keys() if specs.get(name) != known.specs.get(name))
            found = f"{odd[0]} is {known.specs.get(odd[0], 'missing')}"
            raise SettingError(str(tuned), found, expected=str(specs.get(odd[0], "no such tensor")),
                               fix="give the fine-tuned model the delta was made from")  # fmt: skip
        with loaded(folder, specs, device=device) as run:
            yield Variant(delta=delta, base=source, tuned=known, run=run, stored=stored)


@contextmanager
def _folder(tuned: Tuned | None, base: Path, delta: Delta) -> Iterator[Path]:
    """The fine-tuned model's folder, or a temporary one with the restored model."""
    if tuned is not None:
        with runnable(tuned) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
        restore(base, delta.path, Path(scratch) / "restored")
        yield Path(scratch) / "restored"
