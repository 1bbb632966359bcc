"""An adapter in the making: each tensor of a delta put where it goes, the base verified on the way."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import DTYPES, Bits, as_floats, convert
from deltagram.delta.lowrank import Factors, truncate
from deltagram.errors import PlanError
from deltagram.jobs.placing import Place
from deltagram.progress import Progress
from deltagram.store.checkpoint import Checkpoint
from deltagram.store.deltafile import Delta
from deltagram.store.peft import Array, lora_arrays, lora_config, sparse_arrays, sparse_count, sparsity_of
from deltagram.store.rebuild import base_name, check_base_digest, rebuild
from deltagram.store.tensors import LowRankTensor, PrunedTensor
from deltagram.training.layers import Layers

_LARGEST: Final = 1 << 31  # entries that an int32 index reaches


class Adapting:
    """An adapter in the making: arrays by their names in the model, and what went where."""

    def __init__(self, delta: Delta, base: Checkpoint, model: Layers, places: Mapping[str, Place]) -> None:
        self._delta, self._base, self._model, self._places = delta, base, model, places
        self._whole_modules = {place.module for place in places.values() if place.to == "modules_to_save"}
        self.arrays: dict[str, Array] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self._ranks: dict[str, int] = {}
        self._alphas: dict[str, float] = {}
        self._saved: set[str] = set()
        self._targets: set[str] = set()
        self._sparsity: float | None = None

    def factor(self, *, rank: int | None, error: float | None, progress: Progress) -> None:
        """Everything for a LoRA adapter."""

        def one(name: str, to: Place) -> dict[str, Any]:
            found, off = self._factors(name, rank=rank, error=error)
            modules = [to.module, *self._tied(to)]
            for module in modules:
                kind = self._model.kind(module) or to.kind
                shape = self._delta.manifest.tensors[name].spec.shape
                self._add(lora_arrays(module, kind, found, shape))
                self._ranks[module], self._alphas[module] = found.rank, found.scale * found.rank
            return {"rank": found.rank, "error": off, "modules": modules}

        self._all(one, progress=progress)

    def _factors(self, name: str, *, rank: int | None, error: float | None) -> tuple[Factors, float]:
        """A weight's factors and their error: those of the adapter it came from, else of its difference."""
        tensor = self._delta.manifest.tensors[name]
        if isinstance(tensor, LowRankTensor):
            self._delta.check_payload(name)
            self._check_base(name)
            found = self._delta.low_rank(name, tensor).factors()
            if found.scale * found.rank / found.rank != found.scale:  # not what PEFT would make of alpha
                found = Factors(a=found.a, b=found.b * np.float32(found.scale), scale=1.0, transposed=found.transposed)
            return found, 0.0
        matrix = self._difference(name).reshape(tensor.spec.shape[0], -1)
        cut = truncate(matrix, rank=None if rank is None else min(rank, *matrix.shape), error=error)
        return Factors(a=cut.a, b=cut.b, scale=1.0), cut.error

    def scatter(self, *, progress: Progress) -> None:
        """Everything for a sparse adapter."""
        kept: dict[str, PrunedTensor] = {}
        for name, to in self._places.items():
            tensor = self._delta.manifest.tensors[name]
            if to.to == "sparse" and isinstance(tensor, PrunedTensor):
                kept[name] = tensor
                if tensor.spec.size > _LARGEST:
                    raise PlanError(name, f"has {tensor.spec.size:,} entries", expected="at most 2^31 in this adapter")
        if not kept:
            fix = "export it --to lora or --to dense"
            raise PlanError(str(self._delta.path), "has no pruned weight of a linear layer to scatter", fix=fix)
        sizes = {name: tensor.spec.size for name, tensor in kept.items()}
        sparsity = sparsity_of(sizes, {name: tensor.mask.keep for name, tensor in kept.items()})
        self._sparsity = sparsity

        def one(name: str, to: Place) -> dict[str, Any]:
            for _ in rebuild(self._delta, name, self._base):
                pass  # the base, the mask and the result are verified
            mask, divisor = self._delta.mask(name), self._delta.divisors[name].astype(np.float32)
            positions = mask.positions(0, mask.keep)
            if divisor.ndim:
                divisor = divisor[positions // np.uint64(sizes[name] // divisor.size)]
            values = self._delta.values(name).values(0, mask.keep) / divisor
            count = sparse_count(sizes[name], sparsity)
            self._add(sparse_arrays(to.module, positions, values, count))
            return {"kept": mask.keep, "stored": count}

        self._all(one, progress=progress)

    def _all(self, one: Callable[[str, Place], dict[str, Any]], *, progress: Progress) -> None:
        for done, (name, to) in enumerate(self._places.items(), 1):
            before = set(self.arrays)
            row: dict[str, Any] = {"to": to.to}
            if to.to in ("lora", "sparse"):
                self._targets.add(to.module)
                row |= one(name, to)
            elif to.to in ("bias", "modules_to_save"):
                self._whole(name, to)
            else:
                self._check_base(name)
                if to.to == "dropped" and to.module in self._whole_modules:
                    self._from_base(name, to)
            row["bytes"] = sum(self.arrays[added].spec.nbytes for added in set(self.arrays) - before)
            self.rows[name] = row
            progress.advance("exporting", done, len(self._places))
        for name, gone in self._delta.manifest.dropped.items():
            check_base_digest(self._delta, self._base, name, self._base.digest(name), gone.digest)
        targets = set(self._ranks) | self._targets
        for name, to in self._places.items():
            if to.to == "bias" and to.module in targets:  # PEFT keeps the layer inside its own
                self.arrays[f"{to.module}.base_layer.{to.leaf}"] = self.arrays.pop(self._places[name].name)

    def _whole(self, name: str, to: Place) -> None:
        data = self._restored(name).tobytes()
        spec = self._delta.manifest.tensors[name].spec
        for module in (to.module, *self._tied(to)):
            self._add({f"{module}.{to.leaf}" if module else to.leaf: Array(spec=spec, data=data)})
            if to.to == "modules_to_save":
                self._saved.add(module)

    def _from_base(self, name: str, to: Place) -> None:
        """The base's own values of what is left out of a layer that is saved whole: PEFT replaces all of it."""
        source = base_name(self._delta, name)
        self._add({to.name: Array(spec=self._base.specs[source], data=self._base.views[source])})

    def _tied(self, to: Place) -> list[str]:
        """The output layer that shares this embedding, unless the delta tells the two apart."""
        output = self._model.tied.get(to.module) if to.leaf == "weight" else None
        known = {place.module for place in self._places.values()}
        return [output] if output is not None and output not in known else []

    def _add(self, arrays: Mapping[str, Array]) -> None:
        self.arrays |= arrays

    def _restored(self, name: str) -> Bits:
        spec = self._delta.manifest.tensors[name].spec
        data = b"".join(
            bytes(block) if isinstance(block, memoryview) else block.tobytes()
            for block in rebuild(self._delta, name, self._base)
        )
        return np.frombuffer(data, DTYPES[spec.dtype].bits)

    def _difference(self, name: str) -> NDArray[Any]:
        """Restored minus base, flat, in float64."""
        tensor = self._delta.manifest.tensors[name]
        wide = "F64" if "F64" in (tensor.dtype, tensor.base_spec.dtype) else "F32"
        source = base_name(self._delta, name)
        start = convert(self._base.bits(source, 0, tensor.spec.size), tensor.base_spec.dtype, wide)
        end = convert(self._restored(name), tensor.dtype, wide)
        found: NDArray[Any] = as_floats(end, wide).astype(np.float64) - as_floats(start, wide)
        if not np.isfinite(found).all():
            raise PlanError(
                name, "holds NaN or infinity, which has no factors", fix=f"leave it out with --drop '{name}'"
            )
        return found

    def _check_base(self, name: str) -> None:
        tensor = self._delta.manifest.tensors[name]
        if tensor.base_digest is not None:
            source = base_name(self._delta, name)
            check_base_digest(self._delta, self._base, source, self._base.digest(source), tensor.base_digest)

    def config(self) -> dict[str, Any]:
        """`adapter_config.json`."""
        shared = {
            "base_model_name_or_path": self._delta.manifest.base.name, "inference_mode": True,
            "modules_to_save": sorted(self._saved) or None, "task_type": None,
        }  # fmt: skip
        if self._sparsity is not None:
            return shared | {
                "peft_type": "SUPERTUNING", "sparsity": self._sparsity, "target_modules": sorted(self._targets),
                "r": None, "save_precomputed_indices": True, "init_weights": True, "select_top": True,
            }  # fmt: skip
        if not self._ranks:
            raise PlanError(str(self._delta.path), "moves no weight that LoRA could factor", fix="export it --to dense")
        biases = [to.module in self._ranks for to in self._places.values() if to.to == "bias"]
        swapped = any(self._model.kind(module) == "transposed" for module in self._ranks)
        return shared | lora_config(self._ranks, self._alphas) | {
            "bias": "none" if not biases else "lora_only" if all(biases) else "all", "lora_bias": False,
            "target_modules": sorted(self._ranks), "fan_in_fan_out": swapped,
        }  # fmt: skip
