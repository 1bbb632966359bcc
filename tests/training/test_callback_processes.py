"""The geometry callback over two processes gives what one would."""

import json
from pathlib import Path

import pytest
import torch

from deltagram.geometry.measure import collapse
from tinyheads import Net, batch, moments_of
from twocallbacks import process


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
