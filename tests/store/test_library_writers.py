"""Writers that are killed, and several at once: the library opens, is sound, and takes the next change."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_checkpoint
from deltagram.jobs import library_add, library_init, library_verify, prune
from deltagram.store import open_library

# Forks a run of the job for each step at which it touches the library's files, and kills it there (SIGKILL). After
# each, in other processes: the library opens and is sound, the variants are as before or as after, nothing half; then
# the same job succeeds, and what a killed run left is gone.
KILLED = """
import os, shutil, signal, sys, traceback
from pathlib import Path
from deltagram import jobs
from deltagram.store import open_library

job, lib = sys.argv[1], Path("lib")
work = {
    "add": lambda: jobs.library_add(lib, "mail"),
    "replace": lambda: jobs.library_add(lib, "mail", name="first", force=True),
    "remove": lambda: jobs.library_remove(lib, "first"),
}[job]

def forked(run):
    pid = os.fork()
    if not pid:
        try:
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)

def dying(at):
    left = [at]
    def deadly(call):
        def called(*given, **named):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*given, **named)
        return called
    for name in ("rename", "replace", "mkdir", "unlink"):
        setattr(Path, name, deadly(getattr(Path, name)))
    os.fsync, os.rmdir, os.unlink = deadly(os.fsync), deadly(os.rmdir), deadly(os.unlink)
    work()

def state():
    return {name: entry.payload for name, entry in open_library(lib).variants.items()}

def sound(*, leftovers):
    found = jobs.library_verify(lib, base="base").numbers
    assert not found["faults"], found["faults"]
    assert leftovers or not found["leftovers"], found["leftovers"]

jobs.library_verify(lib, base="base")  # loads what children then have
shutil.copytree(lib, "kept")
before = state()
forked(work)
after = state()
assert before != after
killed = 0
while True:
    shutil.rmtree(lib)
    shutil.copytree("kept", lib)
    if not forked(lambda: dying(killed)):
        break
    killed += 1
    assert state() in (before, after), state()
    forked(lambda: sound(leftovers=True))
    if state() == before:
        forked(work)
    else:
        forked(lambda: jobs.library_add(lib, "twin", name="next"))
        forked(lambda: jobs.library_remove(lib, "next"))
    assert state() == after
    forked(lambda: sound(leftovers=False))
print(killed)
"""
# Four writers, each of which adds, replaces and removes its own names; the parent opens the library all the time.
CROWD = """
import os, sys, traceback
from deltagram import jobs
from deltagram.store import open_library

jobs.library_verify("lib")

def write(number):
    for turn in range(6):
        jobs.library_add("lib", ("mail", "twin")[turn % 2], name=f"w{number}", force=turn > 0)
        jobs.library_add("lib", "mail", name=f"x{number}.{turn}")
        if turn % 2:
            jobs.library_remove("lib", f"x{number}.{turn}")

children = []
for number in range(4):
    pid = os.fork()
    if not pid:
        try:
            write(number)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    children.append(pid)
opened = 0
while children:
    pid, status = os.waitpid(-1, os.WNOHANG)
    if pid:
        assert status == 0, status
        children.remove(pid)
    assert "first" in open_library("lib").variants
    assert (open_library("lib").payload("first") / "delta.safetensors").is_file()
    opened += 1
print(opened)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `base`, the deltas `mail` and `twin`, and `lib`, which holds `twin` as `first`."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    base = {f"layer.{i}.weight": rng.standard_normal((32, 32)).astype(np.float32) for i in range(2)}
    write_checkpoint(Path("base"), base)
    write_checkpoint(Path("tuned"), {name: array + np.float32(0.01) for name, array in base.items()})
    for name, seed in (("mail", 1), ("twin", 2)):
        prune("base", "tuned", name, keep=0.1, seed=seed)
    library_init("base", "lib")
    library_add("lib", "twin", name="first")
    return tmp_path


def run(code: str, *words: str) -> int:
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


@pytest.mark.parametrize(("job", "steps"), [("add", 8), ("replace", 10), ("remove", 4)])
def test_a_writer_killed_at_any_step(job: str, steps: int, folder: Path) -> None:
    assert run(KILLED, job) >= steps


def test_writers_at_once(folder: Path) -> None:
    assert run(CROWD) > 10
    found = open_library("lib")
    assert set(found.variants) == {
        "first",
        *(f"w{n}" for n in range(4)),
        *(f"x{n}.{t}" for n in range(4) for t in (0, 2, 4)),
    }
    assert {name: entry.payload for name, entry in found.variants.items() if name[0] == "w"} == {
        f"w{n}": found.variants["first"].payload for n in range(4)
    }
    numbers = library_verify("lib", base="base").numbers
    assert (numbers["faults"], numbers["leftovers"]) == ([], 0)
    assert len([*Path("lib/payloads").iterdir()]) == 2
