"""Class moments of all processes of torch.distributed, as if one process had seen every sample."""

from dataclasses import replace
from typing import Any

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.geometry.moments import ClassMoments


def summed(moments: ClassMoments, *, group: Any = None) -> ClassMoments:
    """The merged moments of all processes of `group`, the same on each; `moments` itself without a process group.

    Two reductions by sum: first counts and means times counts; then, around the common means, what lies between the
    processes, sum_r n_rc |mu_rc - mu_c|^2 (Chan, Golub and LeVeque 1983), so nothing is squared and then subtracted.
    Raises SettingError, on every process, where they hold moments that do not add up.
    """
    import torch.distributed as dist  # noqa: PLC0415 - seconds to import, needed by no other measurement

    if not (dist.is_available() and dist.is_initialized()):
        return moments
    _check(moments, dist, group)
    counts = _sum(moments.counts.astype(np.float64), dist, group)
    whole = np.maximum(counts, 1.0)[:, None]
    means = _sum(moments.means * moments.counts[:, None] / whole, dist, group)
    off = (moments.means - means) * np.sqrt(moments.counts)[:, None]
    traces = _sum(moments.traces + np.einsum("cd,cd->c", off, off), dist, group)
    scatter = moments.scatter
    if scatter is not None:
        if scatter.ndim == 2:
            rows = off * np.sqrt(moments.weights)[:, None]
            scatter = _sum(scatter + rows.T @ rows, dist, group)
        else:
            scatter = _sum(scatter + off[:, :, None] * off[:, None, :], dist, group)
    return replace(moments, counts=counts.astype(np.int64), means=means, traces=traces, scatter=scatter)


def _check(moments: ClassMoments, dist: Any, group: Any) -> None:
    kind = 0 if moments.scatter is None else moments.scatter.ndim
    mine = (moments.means.shape, kind, float(moments.weights.sum()))
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, mine, group=group)
    if any(theirs != mine for theirs in everyone):
        shapes = ", ".join(f"process {rank}: {shape}" for rank, (shape, *_) in enumerate(everyone))
        raise SettingError(
            "class moments", f"of other shapes or scatter on other processes ({shapes})",
            expected="the same classes, features, scatter and class_counts on each",
        )  # fmt: skip


def _sum(part: F64, dist: Any, group: Any) -> F64:
    """The sum of an array over all processes, on the device that the group's backend works on."""
    import torch  # noqa: PLC0415

    device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
    held = torch.from_numpy(np.ascontiguousarray(part)).to(device, copy=True)
    dist.all_reduce(held, group=group)
    found: F64 = held.cpu().numpy()
    return found
