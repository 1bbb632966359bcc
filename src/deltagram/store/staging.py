"""Writing that either happens whole or not at all: a sibling, fsync, rename."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deltagram.errors import OutputError

_MARK = ".deltagram-"
_OURS = ("delta.safetensors", "delta.safetensors.index.json", "model.safetensors", "model.safetensors.index.json",
         "adapter_model.safetensors", "adapter_config.json")  # fmt: skip


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


def check_output(out: Path, *, force: bool, inputs: Sequence[Path], lone: bool = False) -> None:
    """Refuse an output that equals, contains or lies in an input, or that exists and is not to be replaced.

    What an input's links point to counts as input. Even forced, a directory that holds no checkpoint, adapter
    or delta is never replaced, nor a file by a directory or (`lone`: the output is one file) a directory by a file.
    """
    real = _real(out)
    for source in (path for given in inputs for path in (given, *_links(given))):
        for other in (_real(source), _real(source.parent) / source.name):  # what it is, and the link to it
            if real == other or real in other.parents or other in real.parents:
                raise OutputError(
                    str(out),
                    f"the output is, contains, or lies inside the input {source}",
                    fix="choose another place for the output",
                )
    if not out.parent.is_dir():
        odd = f"the directory {out.parent} is not a directory"
        missing = f"the directory {out.parent} does not exist"
        there = os.path.lexists(out.parent)
        raise OutputError(
            str(out), odd if there else missing, fix="choose another place" if there else "create it first"
        )
    if os.path.lexists(out):
        if not force:
            fix = "remove it, choose another name, or replace it with --force"
            raise OutputError(str(out), "exists already", fix=fix)
        _check_replaceable(out, lone=lone)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _links(folder: Path) -> list[Path]:
    """The symbolic links directly in a directory: parts of an input that lie elsewhere."""
    return sorted(path for path in folder.iterdir() if path.is_symlink()) if folder.is_dir() else []


def _check_replaceable(out: Path, *, lone: bool) -> None:
    """Raise OutputError unless --force may replace what stands at `out` (a link is replaced itself)."""
    if out.is_symlink():
        return
    fix = "choose another place for the output"
    if lone and out.is_dir():
        raise OutputError(str(out), "is a directory, so --force will not replace it by a file", fix=fix)
    if not lone and not out.is_dir():
        raise OutputError(str(out), "is a file, so --force will not replace it by a directory", fix=fix)
    if out.is_dir() and any(out.iterdir()) and not any((out / name).exists() for name in _OURS):
        found = "is a directory without a checkpoint or delta in it, so --force will not replace it"
        raise OutputError(str(out), found, fix=fix)


@contextmanager
def staged(out: Path, *, force: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary directory beside `out` that becomes `out` when the block ends well, and vanishes if not.

    What stood at `out` (with `force`) is renamed aside, replaced and deleted; a run that was killed in
    between is recovered by the next one: the old output comes back, stale temporaries go.
    Raises OutputError as `check_output` does.
    """
    with _temporary(out, force=force, inputs=inputs, lone=False) as folder:
        replaced = os.path.lexists(out)
        yield folder
        _flush(folder)
        _check_undisturbed(out, replaced=replaced, lone=False)
        _swap_in(folder, out)


@contextmanager
def staged_file(out: Path, *, force: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """Like `staged`, for one file: yields the path to write, a file in a temporary sibling directory."""
    with _temporary(out, force=force, inputs=inputs, lone=True) as folder:
        replaced = os.path.lexists(out)
        yield folder / out.name
        fsync_path(folder / out.name)
        _check_undisturbed(out, replaced=replaced, lone=True)
        (folder / out.name).replace(out)
        fsync_path(out.parent)


@contextmanager
def scratch(out: Path, *, force: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary directory beside `out`, for what a job needs on the way to it; gone afterwards."""
    with _temporary(out, force=force, inputs=inputs, lone=False) as folder:
        yield folder


@contextmanager
def _temporary(out: Path, *, force: bool, inputs: Sequence[Path], lone: bool) -> Iterator[Path]:
    """A locked directory beside `out` that is gone afterwards."""
    recover(out)
    check_output(out, force=force, inputs=inputs, lone=lone)
    folder = out.parent / f".{out.name}{_MARK}{secrets.token_hex(6)}.tmp"
    try:
        folder.mkdir()
    except OSError as fault:
        raise _unwritable(out, fault) from None
    lock = _lock(folder)
    try:
        yield folder
    except OSError as fault:
        if fault.filename is None or folder in Path(os.fsdecode(fault.filename)).parents:
            raise _unwritable(out, fault) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _unwritable(out: Path, fault: OSError) -> OutputError:
    fix = "make room or choose another place; nothing was written"
    return OutputError(str(out), f"cannot be written ({fault.strerror or fault})", fix=fix)


def _check_undisturbed(out: Path, *, replaced: bool, lone: bool) -> None:
    """Raise OutputError if someone else made the output in the meantime."""
    if os.path.lexists(out):
        try:
            if not replaced:
                raise OutputError(str(out), "it was not there")
            _check_replaceable(out, lone=lone)
        except OutputError:
            fix = "this run's result was dropped: look at what is there, then run again"
            raise OutputError(str(out), "exists now: someone else made it while this ran", fix=fix) from None


def recover(out: Path) -> None:
    """Bring back an output that a killed replacement left aside, and clear temporaries nobody holds."""
    aside = _aside(out)
    if os.path.lexists(aside):
        if os.path.lexists(out):
            _remove(aside)
        else:
            aside.rename(out)
    if not out.parent.is_dir():
        return
    for stale in out.parent.glob(f".{_escape(out.name)}{_MARK}*.tmp"):
        lock = _lock(stale)
        if lock is not None:
            shutil.rmtree(stale, ignore_errors=True)
            os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
    replaced = os.path.lexists(out)
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
        _remove(aside)
