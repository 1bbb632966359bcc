"""Moments over two processes are those of one that saw every sample."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

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


def test_two_processes_give_what_one_does(tmp_path: Path) -> None:
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    x, y = samples()
    expected = {
        f"{kind}.{name}": part
        for kind in KINDS
        for name, part in vars(ClassMoments.of(x, y, classes=4, scatter=kind)).items()
    }
    expected["known.scatter"] = ClassMoments.of(x, y, classes=4, class_counts=np.bincount(y)).scatter
    for rank in (0, 1):
        with np.load(tmp_path / f"{rank}.npz") as found:
            assert "of other shapes or scatter on other processes" in str(found["refused"])
            for name in found.files:
                if name != "refused":  # a mean at 100 is off by a few of its eps, 1.4e-14
                    np.testing.assert_allclose(found[name], expected[name], rtol=1e-11, atol=1e-12, err_msg=name)


def test_without_a_process_group_nothing_changes() -> None:
    state = ClassMoments.of(np.eye(2), [0, 1])
    assert summed(state) is state


@pytest.mark.parametrize("rank", [0, 1])
def test_the_parts_differ(rank: int) -> None:
    """Else the sum over processes would be tested on nothing."""
    x, y = samples()
    part = ClassMoments.of(x[:37] if rank == 0 else x[37:], y[:37] if rank == 0 else y[37:], classes=4)
    assert not np.allclose(part.means, ClassMoments.of(x, y, classes=4).means)
