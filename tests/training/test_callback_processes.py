"""The geometry callback over two processes gives what one would."""

import json
from pathlib import Path

import pytest
import torch

from deltagram.geometry.measure import collapse
from deltagram.training import GeometryCallback
from tinyheads import Net, batch, moments_of


def process(rank: int, folder: str, two: int) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", two)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=two)
    torch.manual_seed(0)
    net = Net()
    parallel = torch.nn.parallel.DistributedDataParallel(net)
    geometry = GeometryCallback(file=Path(folder) / "g.jsonl")
    with geometry.watch(net):
        for number in range(3):
            x, y = batch(6 + rank, 10 * rank + number)
            geometry.labels(y)
            parallel(x).sum().backward()
        found = geometry.epoch_end()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    del parallel  # its reducer waits for the group that is about to go
    torch.distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(process, args=(str(tmp_path), 2), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    assert len((tmp_path / "g.jsonl").read_text().splitlines()) == 1
    torch.manual_seed(0)
    net = Net()
    moments = moments_of(net, *(batch(6 + rank, 10 * rank + number) for rank in range(2) for number in range(3)))
    expected = collapse(moments, classifier=net.head.weight.detach(), weighting="mixed").nc1
    assert found[0]["geometry/nc1"] == pytest.approx(expected, rel=1e-6)
