"""What a job did and measured, as data: the ground of reports and reproductions."""

import json
import platform
import resource
import sys
import time
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = 1


@cache
def versions() -> Mapping[str, str]:
    """Versions of everything that can change a number in a Record."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in (
        "deltagram",
        "numpy",
        "numba",
        "ml_dtypes",
        "zstandard",
        "blake3",
        "torch",
        "transformers",
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


class Record(BaseModel):
    """One job's settings and results; JSON in, JSON out.

    `numbers` holds what was measured (bytes, seconds, counts), `tensors` one entry a tensor where the job
    has them. `claimed`, `tolerance` and `source` are for results that are held against a published number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    job: str
    settings: Mapping[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    numbers: Mapping[str, Any] = Field(default_factory=dict)
    tensors: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)
    claimed: Mapping[str, float] = Field(default_factory=dict)
    tolerance: Mapping[str, float] = Field(default_factory=dict)
    source: str = ""
    versions: Mapping[str, str] = Field(default_factory=versions)

    def line(self) -> str:
        """The record as one line of JSON."""
        return json.dumps(self.model_dump(), default=str)


class Meter:
    """Wall seconds since it was made, and this process's peak anonymous memory so far."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @classmethod
    def start(cls) -> Self:
        """A meter that starts now."""
        return cls()

    def numbers(self) -> dict[str, float | int]:
        """`seconds` since the start; `peak_rss_bytes` of the process, file pages included."""
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        return {
            "seconds": round(time.perf_counter() - self._start, 4),
            "peak_rss_bytes": peak,
            "anonymous_bytes": _anonymous(),
        }


def _anonymous() -> int:
    """Anonymous resident memory now, in bytes (0 where the system does not tell)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    for line in status.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
