"""The room as it is found: nothing heavy on import, a missing torch said, and the page's examples run."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deltagram.errors import ExtraError

PAGE = Path(__file__).parents[2] / "docs" / "losses.md"


def test_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    run = [block for block in blocks if "Trainer" not in block]
    names: dict[str, Any] = {}
    for block in run:
        exec(block, names)  # the page's own words
    assert len(run) == 4
    assert names["logits"].shape == (8, 3)
    assert len(names["chosen"]) == int(names["counts"].sum())


def test_importing_the_rooms_does_not_import_torch() -> None:
    code = "import sys, deltagram.losses as t, deltagram.data; assert 'torch' not in sys.modules; t.VS"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_room_has_its_names() -> None:
    import deltagram.losses as room  # noqa: PLC0415 - as a room

    assert room.__all__ == ["CDT", "LDT", "VS", "CrossEntropy", "LogitAdjusted"]
    assert all(issubclass(getattr(room, name), torch.nn.Module) for name in room.__all__)


@pytest.mark.parametrize(
    ("room", "file", "name"), [("losses", "cross_entropy", "CDT"), ("training", "heads", "FixedClassifier")]
)
def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, room: str, file: str, name: str) -> None:
    import deltagram  # noqa: PLC0415 - names are looked up while torch is away

    __import__(f"deltagram.{room}")
    for known in [known for known in sys.modules if known.startswith(f"deltagram.{room}.")]:
        monkeypatch.delitem(sys.modules, known)
    holder = getattr(deltagram, room)
    monkeypatch.delattr(holder, file, raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    said = f"deltagram.{room}.{name}: package torch is not installed; pip install 'deltagram[torch]'"
    with pytest.raises(ExtraError) as fault:
        getattr(holder, name)
    assert str(fault.value) == said
    with pytest.raises(AttributeError, match="has no attribute 'Focal'"):
        _ = holder.Focal
