"""The room as it is found: nothing heavy on import, a missing torch said, and the page's examples run."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from deltagram.errors import ExtraError

DOCS = Path(__file__).parents[2] / "docs"


def run(page: str, *, blocks: int) -> dict[str, Any]:
    """The names that a page's own words make."""
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    kept = [block for block in found if "Trainer" not in block]
    names: dict[str, Any] = {}
    for block in kept:
        exec(block, names)  # the page's own words
    assert len(kept) == blocks
    return names


def test_the_page_runs() -> None:
    names = run("losses.md", blocks=4)
    assert names["logits"].shape == (8, 3)
    assert len(names["chosen"]) == int(names["counts"].sum())


def test_the_contrastive_page_runs() -> None:
    names = run("contrastive.md", blocks=4)
    assert names["embeddings"].grad.shape == (64, 128)
    assert names["value"].isfinite()


def test_importing_the_rooms_does_not_import_torch() -> None:
    code = "import sys, deltagram.losses as t, deltagram.data; assert 'torch' not in sys.modules; t.VS"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_room_has_its_names() -> None:
    import deltagram.losses as room  # noqa: PLC0415 - as a room

    assert room.__all__ == [
        "CDT", "LDT", "VS", "CrossEntropy", "LogitAdjusted", "SupervisedContrastive", "cached_backward",
    ]  # fmt: skip
    classes = [name for name in room.__all__ if name != "cached_backward"]
    assert all(issubclass(getattr(room, name), torch.nn.Module) for name in classes)


@pytest.mark.parametrize(
    ("room", "file", "name"),
    [
        ("losses", "cross_entropy", "CDT"),
        ("losses", "contrastive", "SupervisedContrastive"),
        ("training", "heads", "FixedClassifier"),
    ],
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
