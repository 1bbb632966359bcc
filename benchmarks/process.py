"""Running a command as a process of its own: how long it took, and how much memory it held."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE = 0.005  # seconds between two looks at the memory


@dataclass(frozen=True, kw_only=True)
class Child:
    """A finished process: wall seconds, peak resident and peak anonymous memory in bytes, what it printed."""

    seconds: float
    resident: int
    anonymous: int
    output: str

    @property
    def numbers(self) -> dict[str, Any]:
        """The numbers of the record that `deltagram --json` printed."""
        found: dict[str, Any] = json.loads(self.output)["numbers"]
        return found


def child(*command: object) -> Child:
    """Run a command to its end. Anonymous memory is sampled from outside, so the child runs undisturbed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start, peak, pid = time.perf_counter(), 0, 0
        process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err)
        while not pid:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(SAMPLE)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        spent = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            sys.exit(f"{command} failed with {process.returncode}:\n{err.read()[-4000:]}")
        return Child(seconds=spent, resident=usage.ru_maxrss * 1024, anonymous=peak, output=out.read())


def deltagram(*words: object) -> Child:
    """The command line in a process of its own, with its record as output."""
    return child(sys.executable, "-m", "deltagram", *words, "--json")


def _anonymous(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)
