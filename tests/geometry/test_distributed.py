"""Moments over two processes are those of one that saw every sample."""

from pathlib import Path

import numpy as np
import pytest
from torch import multiprocessing

from deltagram.geometry.distributed import summed
from deltagram.geometry.moments import ClassMoments
from twoprocesses import KINDS, samples, work


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
