"""What each of two processes of `tests/geometry/test_distributed.py` does, in a module that they can import."""

import numpy as np
import torch
import torch.distributed as dist

from deltagram.errors import SettingError
from deltagram.geometry.distributed import summed
from deltagram.geometry.moments import ClassMoments

KINDS = ("trace", "full", "classes")


def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.r_[np.zeros(30), np.ones(20), np.full(9, 3)].astype(int)  # class 2 is empty, 3 is on one process alone
    return 100 + 1e-2 * rng.standard_normal((59, 5)) + y[:, None], y


def work(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    x, y = samples()
    mine = slice(0, 37) if rank == 0 else slice(37, None)
    found = {}
    for kind in KINDS:
        state = summed(ClassMoments.empty(4, 5, scatter=kind).update(x[mine], y[mine]))
        found |= {f"{kind}.{name}": part for name, part in vars(state).items() if part is not None}
    known = ClassMoments.empty(4, 5, class_counts=np.bincount(y)).update(torch.from_numpy(x[mine]), y[mine])
    found["known.scatter"] = summed(known).scatter
    try:
        summed(ClassMoments.empty(4 + rank, 5))
    except SettingError as fault:
        found["refused"] = np.array(str(fault))
    np.savez(f"{folder}/{rank}.npz", **found)
    dist.destroy_process_group()
