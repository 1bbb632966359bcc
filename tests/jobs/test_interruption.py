"""Runs that are killed, interrupted, or run out of space: no half output, inputs untouched, the next run recovers."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from checkpoints import write_checkpoint
from deltagram.errors import OutputError
from deltagram.jobs import inspect, prune, rescale, restore, verify
from desk import snapshot

# A command line that stops half-way, says so, and goes on when its standard input is closed.
HALFWAY = """
import contextlib, select, sys
from deltagram import cli, show

class Stop:
    def advance(self, what, done, total):
        if what in ("pruning", "restoring") and 2 * done > total:
            print("half-way", flush=True)
            while not select.select([sys.stdin], [], [], 0.05)[0]:
                pass

    def say(self, text):
        pass

@contextlib.contextmanager
def progress(*, quiet):
    yield Stop()

show.progress = progress
cli.main()
"""
# A command line that is killed as it renames something to, or replaces, the name given first.
KILLED = """
import os, signal, sys
from pathlib import Path
from deltagram import cli

place = sys.argv.pop(1)

def dying(move):
    def moved(path, target):
        if Path(target).name == place:
            os.kill(os.getpid(), signal.SIGKILL)
        return move(path, target)
    return moved

Path.rename, Path.replace = dying(Path.rename), dying(Path.replace)
cli.main()
"""
# A command line whose files cannot grow beyond the bytes given first.
CRAMPED = """
import resource, sys
from deltagram import cli

limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
cli.main()
"""
PRUNE, RESTORE, LONE = "prune base tuned out", "restore base delta out", "restore base delta out.safetensors"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `base`, `tuned` and `delta`."""
    rng = np.random.default_rng(0)
    base = {f"layer.{i}.weight": rng.standard_normal((64, 64)).astype(np.float32) for i in range(12)}
    tuned = {name: array + np.float32(0.01) for name, array in base.items()}
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "tuned", tuned)
    prune(tmp_path / "base", tmp_path / "tuned", tmp_path / "delta")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(job: str, *, force: bool = False) -> None:
    verb, first, second, out = job.split()
    (prune if verb == "prune" else restore)(first, second, out, force=force)


def out_of(job: str) -> Path:
    return Path(job.rsplit(maxsplit=1)[-1])


def contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own; Ctrl-C reaches it even where the tests were started in the background, which ignores it."""
    pipe = subprocess.PIPE
    script = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{script}"
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@contextmanager
def halfway(job: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """The job in another process, which waits half-way through; and its standard error."""
    with start(HALFWAY, *job.split(), *options) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == "half-way\n", process.stderr.read()
            yield process, process.stderr
        finally:
            process.kill()


def temporaries() -> list[Path]:
    return sorted(Path().glob("**/.*.deltagram-*"))


@pytest.mark.parametrize("job", [PRUNE, RESTORE, LONE])
def test_a_killed_run_is_cleared_by_the_next(job: str, folder: Path) -> None:
    out, before = out_of(job), snapshot(folder)
    with halfway(job) as (process, _):
        (temporary,) = temporaries()
        assert temporary.parent == out.parent
        assert not out.exists()
        process.kill()
    assert not out.exists()
    assert {name: kept for name, kept in snapshot(folder).items() if temporary.name not in name} == before
    run(job)
    assert temporaries() == []
    result = contents(out)
    run(job, force=True)
    assert contents(out) == result
    assert {name: kept for name, kept in snapshot(folder).items() if not name.startswith(str(out))} == before


@pytest.mark.parametrize("job", [PRUNE, LONE])
def test_a_killed_replacement_leaves_the_old_output(job: str) -> None:
    out = out_of(job)
    run(job)
    before = snapshot(Path(out.parent))
    with halfway(job, "--force") as (process, _):
        process.kill()
    assert len(temporaries()) == 1
    with pytest.raises(OutputError, match="exists already"):
        run(job)
    assert temporaries() == []
    assert snapshot(Path(out.parent)) == before


@pytest.mark.parametrize(("job", "options"), [(PRUNE, []), (RESTORE, ["--force"]), (LONE, [])])
def test_an_interrupted_run_leaves_nothing_and_says_so(job: str, options: list[str], folder: Path) -> None:
    if options:
        run(job)
    before = snapshot(folder)
    with halfway(job, *options) as (process, errors):
        process.send_signal(signal.SIGINT)
        said = errors.read()
        process.wait()
    assert process.returncode == 130
    assert said == "interrupted; nothing was written\n"
    assert snapshot(folder) == before


@pytest.mark.parametrize("job", [PRUNE, RESTORE])
def test_a_run_killed_between_the_two_renames_is_recovered(job: str) -> None:
    run(job)
    old = contents(Path("out"))
    with start(KILLED, "out", *job.split(), "--force") as process:
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not Path("out").exists()
    assert len(temporaries()) == 2  # the old output and the finished new one
    with pytest.raises(OutputError, match="exists already"):
        run(job)
    assert temporaries() == []
    assert contents(Path("out")) == old
    run(job, force=True)
    assert contents(Path("out")) == old


def test_a_rescale_killed_before_its_rename_leaves_the_old_scales() -> None:
    before = contents(Path("delta"))
    with start(KILLED, "scales.safetensors", "rescale", "delta", "--divide-by", "2") as process:
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert {name: data for name, data in contents(Path("delta")).items() if "deltagram-" not in name} == before
    verify("delta", base="base")
    rescale("delta", divide_by=2)
    assert temporaries() == []
    assert contents(Path("delta")).keys() == before.keys()
    assert inspect("delta").tensors["layer.0.weight"]["divide_by"] == 2


@pytest.mark.parametrize(
    ("job", "limit", "options"), [(PRUNE, 0, []), (PRUNE, 700, ["--force"]), (RESTORE, 5000, []), (LONE, 700, [])]
)
def test_a_full_disk_is_an_error_that_leaves_nothing(job: str, limit: int, options: list[str], folder: Path) -> None:
    if options:
        run(job)
    before = snapshot(folder)
    with start(CRAMPED, str(limit), *job.split(), *options) as process:
        said = process.communicate()
    assert process.returncode == 1
    where = f"error: {out_of(job)}: cannot be written (File too large); "
    assert said == ("", f"{where}make room or choose another place; nothing was written\n")
    assert snapshot(folder) == before


def test_a_full_disk_leaves_the_old_scales(folder: Path) -> None:
    before = snapshot(folder / "base"), contents(Path("delta"))
    with start(CRAMPED, "100", "rescale", "delta", "--divide-by", "2") as process:
        said = process.communicate()
    assert said[1].startswith("error: delta/scales.safetensors: cannot be written (File too large); ")
    assert (process.returncode, said[0]) == (1, "")
    assert (snapshot(folder / "base"), contents(Path("delta"))) == before


@pytest.mark.parametrize("job", [PRUNE, LONE])
def test_of_two_runs_at_once_the_first_to_end_wins(job: str) -> None:
    """The other one's temporary is left alone, and that run then refuses to replace what it was not told to."""
    out = out_of(job)
    with halfway(job) as (process, errors):
        (theirs,) = temporaries()
        run(job)
        assert temporaries() == [theirs]
        before = snapshot(Path(out.parent))
        assert process.stdin is not None
        process.stdin.close()
        said = errors.read()
        process.wait()
    assert process.returncode == 1
    assert said.startswith(f"error: {out}: exists ")
    assert temporaries() == []
    assert snapshot(Path(out.parent)) == {name: kept for name, kept in before.items() if theirs.name not in name}
