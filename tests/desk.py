"""A person at the command line, with two small models on the desk, for tests of what is said and touched."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from checkpoints import write_checkpoint
from deltagram.cli import main

State = dict[str, NDArray[Any]]


def base_state() -> State:
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (64, 64), "b.weight": (32, 48), "n.bias": (8,), "pooler.weight": (4, 4)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def tuned_state() -> State:
    state = {name: array + np.float32(0.01) for name, array in base_state().items()}
    del state["pooler.weight"]
    return state


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Every path below `folder`: type, times, and content or link target."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[path.relative_to(folder).as_posix()] = (stat.st_mode, stat.st_ino, stat.st_mtime_ns, content)
    return found


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A folder with `base`, `tuned` and `delta`, in which a person types commands."""

    folder: Path
    capture: pytest.CaptureFixture[str]
    patch: pytest.MonkeyPatch

    @classmethod
    def laid(cls, folder: Path, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> Self:
        """A desk with `base`, `tuned` and the `delta` between them; the person is in that folder."""
        write_checkpoint(folder / "base", base_state())
        write_checkpoint(folder / "tuned", tuned_state())
        patch.chdir(folder)
        made = cls(folder=folder, capture=capture, patch=patch)
        made.does("prune base tuned delta --keep 0.1")
        return made

    def run(self, line: str) -> tuple[object, str, str]:
        """Type a command; gives exit code, stdout and stderr."""
        self.patch.setattr(sys, "argv", ["deltagram", *shlex.split(line)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, *self.capture.readouterr()

    def does(self, line: str) -> str:
        """Type a command that works; gives stdout."""
        code, out, err = self.run(line)
        assert (code, err) == (0, ""), (code, out, err)
        return out

    def refuses(self, line: str, *says: str) -> str:
        """Type a command that is refused with a paragraph that holds `says`, and touches nothing; gives it."""
        before = snapshot(self.folder)
        code, out, err = self.run(line)
        assert (code, out) == (1, ""), (code, out, err)
        assert err.startswith("error: "), err
        assert err.endswith("\n"), err
        assert err[:-1].isprintable(), err  # one paragraph, and nothing that steers a terminal
        assert all(text in err for text in says), err
        assert snapshot(self.folder) == before
        return err
