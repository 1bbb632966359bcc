"""Writing that either happens whole or not at all: a sibling, fsync, rename."""

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deltagram.errors import OutputError

_MARK = ".deltagram-"


def fsync_path(path: Path) -> None:
    """Flush a file or directory to the disk (a directory only where the system can)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(fd)


def check_output(out: Path, *, force: bool, inputs: Sequence[Path]) -> None:
    """Refuse an output that equals, contains or lies in an input, or that exists and is not to be replaced.

    Even forced, a directory that holds neither a checkpoint nor a delta is never replaced.
    """
    real = out.resolve()
    for source in inputs:
        other = source.resolve()
        if real == other or real in other.parents or other in real.parents:
            raise OutputError(
                str(out),
                f"the output is, contains, or lies inside the input {source}",
                fix="choose another place for the output",
            )
    if not out.parent.is_dir():
        raise OutputError(str(out), f"the directory {out.parent} does not exist", fix="create it first")
    if not (out.exists() or out.is_symlink()):
        return
    if not force:
        raise OutputError(str(out), "exists already", fix="remove it, choose another name, or replace it with --force")
    if out.is_dir() and any(out.iterdir()) and not (any(out.glob("*.safetensors*"))):
        raise OutputError(
            str(out),
            "is a directory without a checkpoint or delta in it, so --force will not replace it",
            fix="choose another place for the output",
        )


@contextmanager
def staged(out: Path, *, force: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary directory beside `out` that becomes `out` when the block ends well, and vanishes if not.

    What stood at `out` (with `force`) is renamed aside, replaced and deleted; a run that was killed in
    between is recovered by the next one: the old output comes back, stale temporaries go.
    Raises OutputError as `check_output` does.
    """
    recover(out)
    check_output(out, force=force, inputs=inputs)
    folder = out.parent / f".{out.name}{_MARK}{secrets.token_hex(6)}.tmp"
    folder.mkdir()
    lock = _lock(folder)
    try:
        yield folder
        _flush(folder)
        _swap_in(folder, out)
    finally:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def staged_file(out: Path, *, force: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Like `staged`, for one file: yields the path to write, a file in a temporary sibling directory."""
    recover(out)
    check_output(out, force=force, inputs=inputs)
    folder = out.parent / f".{out.name}{_MARK}{secrets.token_hex(6)}.tmp"
    folder.mkdir()
    lock = _lock(folder)
    try:
        yield folder / out.name
        fsync_path(folder / out.name)
        (folder / out.name).replace(out)
        fsync_path(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def recover(out: Path) -> None:
    """Bring back an output that a killed replacement left aside, and clear temporaries nobody holds."""
    aside = _aside(out)
    if aside.exists():
        if out.exists():
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        else:
            aside.rename(out)
    if not out.parent.is_dir():
        return
    for stale in out.parent.glob(f".{_escape(out.name)}{_MARK}*.tmp"):
        lock = _lock(stale)
        if lock is not None:
            shutil.rmtree(stale, ignore_errors=True)
            os.close(lock)


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _aside(out: Path) -> Path:
    return out.parent / f".{out.name}{_MARK}old"


def _lock(folder: Path) -> int | None:
    """Hold `folder` as in use; None if another process does, or it is gone."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _flush(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            fsync_path(Path(parent) / name)
        fsync_path(Path(parent))


def _swap_in(folder: Path, out: Path) -> None:
    aside = _aside(out)
    replaced = out.exists() or out.is_symlink()
    if replaced:
        out.rename(aside)
    try:
        folder.rename(out)
    except BaseException:
        if replaced:
            aside.rename(out)
        raise
    fsync_path(out.parent)
    if replaced:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(aside) if aside.is_dir() and not aside.is_symlink() else aside.unlink()
