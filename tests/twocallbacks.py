"""What each of two processes of `tests/training/test_callback_processes.py` does, in a module that they can import."""

import gc
import json
from pathlib import Path

import torch

from deltagram.training import GeometryCallback
from tinyheads import Net, batch


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
    del parallel  # its reducer waits for the group that is about to go, and is part of a cycle: it must go before that
    gc.collect()
    torch.distributed.destroy_process_group()
