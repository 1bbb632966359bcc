"""The code of docs/batches.md runs, and what the page says that it prints is printed."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "batches.md"


def test_the_page_runs_and_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text()
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, {})
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    shown = re.search(r"It prints\n\n((?:    .*\n)+)", text)
    assert shown
    assert printed == [line.strip() for line in shown[1].splitlines()]
