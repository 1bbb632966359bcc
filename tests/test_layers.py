"""Rooms import downward only, as the table in pyproject.toml says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_layers_hold(tmp_path: Path) -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    command = [tool, "--config", ROOT / "pyproject.toml", "--cache-dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "src")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout
    assert ", 0 kept" not in done.stdout
