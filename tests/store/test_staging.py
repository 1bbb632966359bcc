"""An output appears whole or not at all, whatever stops the run; nothing else is ever touched."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deltagram.errors import OutputError
from deltagram.store import staging
from deltagram.store.staging import check_output, recover, staged, staged_file

HOLD = """
import sys
from pathlib import Path
from deltagram.store.staging import staged
with staged(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def tree(folder: Path) -> dict[str, str]:
    """Every path below `folder` with what it holds or links to."""
    found = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder).as_posix()
        found[place] = f"-> {path.readlink()}" if path.is_symlink() else "" if path.is_dir() else path.read_text()
    return found


def write(out: Path, text: str, *, force: bool = False, then: Callable[[], object] = lambda: None) -> None:
    with staged(out, force=force) as folder:
        (folder / "model.safetensors").write_text(text)
        then()


def write_file(out: Path, text: str, *, force: bool = False, then: Callable[[], object] = lambda: None) -> None:
    with staged_file(out, force=force) as place:
        place.write_text(text)
        then()


def checkpoint(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_text(text)
    return folder


@contextmanager
def held(out: Path) -> Iterator[Path]:
    """A second process in the middle of writing `out`; gives its temporary folder."""
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with run:
        assert run.stdout is not None
        yield Path(run.stdout.readline().decode().strip())
        run.kill()


def test_an_output_appears_at_the_end_and_with_all_its_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged(out) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "a").write_text("1")
        assert not out.exists()
        assert folder.parent == tmp_path
    assert tree(tmp_path) == {"out": "", "out/deep": "", "out/deep/a": "1"}
    with staged_file(tmp_path / "file") as place:
        place.write_text("2")
        assert not (tmp_path / "file").exists()
    assert tree(tmp_path) == {"out": "", "out/deep": "", "out/deep/a": "1", "file": "2"}


def test_everything_reaches_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    flush, move = os.fsync, Path.rename

    def rename(path: Path, target: Path) -> Path:
        done.append(f"rename to {target.name}")
        return move(path, target)

    def fsync(fd: int) -> None:
        done.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        flush(fd)

    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(os, "fsync", fsync)
    with staged(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        (folder / "deep").mkdir()
        (folder / "deep" / "b").write_text("2")
    at = done.index("rename to out")
    assert set(done[:at]) == {"a", "deep", "b", folder.name}
    assert done[at + 1 :] == [tmp_path.name]


@pytest.mark.parametrize("fault", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), SystemExit(3)])
@pytest.mark.parametrize("force", [False, True])
def test_a_fault_leaves_nothing_and_the_old_output_as_it_was(fault: BaseException, force: bool, tmp_path: Path) -> None:
    if force:
        checkpoint(tmp_path / "out", "old")
        (tmp_path / "file").write_text("old")
    before = tree(tmp_path)

    def strike() -> None:
        raise fault

    for writer, name in ((write, "out"), (write_file, "file")):
        with pytest.raises((type(fault), OutputError) if isinstance(fault, OSError) else type(fault)):
            writer(tmp_path / name, "half", force=force, then=strike)
        assert tree(tmp_path) == before


def test_a_forced_output_replaces_the_old_one_in_whole(tmp_path: Path) -> None:
    out = checkpoint(tmp_path / "out", "old")
    (out / "README.md").write_text("old")
    seen: list[str] = []
    write(out, "new", force=True, then=lambda: seen.append((out / "model.safetensors").read_text()))
    assert seen == ["old"]
    assert tree(tmp_path) == {"out": "", "out/model.safetensors": "new"}


def test_a_replacement_that_fails_at_its_second_rename_puts_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = checkpoint(tmp_path / "out", "old"), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise OSError(errno.EIO, "broken")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((OSError, OutputError), match="broken"):
        write(out, "new", force=True)
    assert tree(tmp_path) == {"out": "", "out/model.safetensors": "old"}


@pytest.mark.parametrize("force", [False, True])
def test_what_appeared_in_the_meantime_is_not_overwritten_unasked(force: bool, tmp_path: Path) -> None:
    """Another run, or a person, made the output while this one was working."""
    out, file = tmp_path / "out", tmp_path / "file"

    def appear() -> None:
        out.mkdir()
        (out / "thesis.txt").write_text("theirs")

    with pytest.raises(OutputError, match="while this ran"):
        write(out, "mine", force=force, then=appear)
    with pytest.raises(OutputError, match="while this ran"):
        write_file(file, "mine", then=lambda: file.write_text("theirs"))
    assert tree(tmp_path) == {"out": "", "out/thesis.txt": "theirs", "file": "theirs"}


def killed(name: str) -> dict[str, Callable[[Path], object]]:
    """States of the disk that a replacement of `name` can leave when it is killed."""
    old = f".{name}.deltagram-old"
    return {
        "old aside, new not yet there": lambda at: checkpoint(at / old, "old"),
        "a file aside": lambda at: (at / old).write_text("old"),
        "a link aside": lambda at: (at / old).symlink_to("kept"),
        "a dangling link aside": lambda at: (at / old).symlink_to("gone"),
    }


@pytest.mark.parametrize("state", killed("out"))
@pytest.mark.parametrize("arrived", [False, True], ids=["between the renames", "before the deletion"])
def test_a_killed_replacement_is_recovered(state: str, arrived: bool, tmp_path: Path) -> None:
    checkpoint(tmp_path / "kept", "kept")
    killed("expected")[state](tmp_path)
    expected = tree(tmp_path)
    (tmp_path / ".expected.deltagram-old").rename(tmp_path / ".out.deltagram-old")
    if arrived:
        checkpoint(tmp_path / "out", "new")
    (tmp_path / ".out.deltagram-0123456789ab.tmp").mkdir()
    recover(tmp_path / "out")
    kept = {"kept": "", "kept/model.safetensors": "kept"}
    if arrived:
        assert tree(tmp_path) == kept | {"out": "", "out/model.safetensors": "new"}
    else:
        assert tree(tmp_path) == {k.replace(".expected.deltagram-old", "out"): v for k, v in expected.items()}
    recover(tmp_path / "out")


def test_only_temporaries_of_this_very_output_are_cleared(tmp_path: Path) -> None:
    names = ("out", "out2", "o*", "[o]ut", "o?t", "my.out")
    for name in names:
        (tmp_path / f".{name}.deltagram-0123456789ab.tmp").mkdir()
        (tmp_path / f".{name}.deltagram-0123456789ab.tmp" / "part").write_text("x")
    for number, name in enumerate(names, 1):
        recover(tmp_path / name)
        left = sorted(path.name for path in tmp_path.iterdir())
        assert left == sorted(f".{other}.deltagram-0123456789ab.tmp" for other in names[number:])


def test_a_temporary_in_use_by_another_process_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with held(out) as theirs:
        assert theirs.is_dir()
        recover(out)
        write(out, "mine")
        recover(out)
        assert theirs.is_dir()
    assert theirs.is_dir()  # killed, and now nobody's
    recover(out)
    assert tree(tmp_path) == {"out": "", "out/model.safetensors": "mine"}


def test_an_output_that_touches_an_input_is_refused_even_forced(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "b")
    (base / "deep").mkdir()
    (tmp_path / "link").symlink_to("base")
    (tmp_path / "up").symlink_to(".")
    touching = (base, base / "new", base / "deep" / "new", tmp_path, tmp_path / "link", tmp_path / "link" / "new",
                tmp_path / "up" / "base", base / "deep" / ".." / "new", tmp_path / "x" / ".." / "base")  # fmt: skip
    for out in touching:
        for source in (base, tmp_path / "link", base / "deep" / "..", tmp_path / "up" / "base"):
            with pytest.raises(OutputError) as caught:
                check_output(out, force=True, inputs=(tmp_path.parent / "other", source))
            assert caught.value.where == str(out)
            assert f"is, contains, or lies inside the input {source}" in caught.value.found
            assert caught.value.fix
    file = base / "model.safetensors"
    for out in (file, base, tmp_path, tmp_path / "link" / "model.safetensors"):
        with pytest.raises(OutputError, match="the input"):
            check_output(out, force=True, inputs=(file,))
    check_output(base / "beside", force=False, inputs=(file,))
    check_output(tmp_path / "base2", force=False, inputs=(base,))


@pytest.mark.parametrize(("name", "content"), [
    ("folder without a checkpoint", {"thesis.txt": "x"}),
    ("folder with a look-alike", {"notes on model.safetensors.txt": "x", "thesis.txt": "x"}),
    ("folder of downloads", {"someone-elses.safetensors": "x", "thesis.txt": "x", "more/photo.jpg": "x"}),
    ("folder of models", {"one/model.safetensors": "x", "two/model.safetensors": "x"}),
])  # fmt: skip
def test_force_replaces_nothing_but_a_checkpoint_or_delta(name: str, content: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for place, text in content.items():
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_text(text)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="--force will not replace it"):
        write(out, "new", force=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", [
    "model.safetensors", "model.safetensors.index.json", "delta.safetensors", "delta.safetensors.index.json",
    "adapter_model.safetensors", "adapter_config.json",
])  # fmt: skip
def test_force_replaces_a_checkpoint_an_adapter_and_a_delta(name: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        write(tmp_path / "out", "new")
    write(tmp_path / "out", "new", force=True)
    assert tree(tmp_path) == {"out": "", "out/model.safetensors": "new"}


def test_force_replaces_neither_a_file_by_a_folder_nor_a_folder_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    checkpoint(tmp_path / "m.safetensors", "x")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="is a file"):
        write(tmp_path / "thesis.txt", "new", force=True)
    with pytest.raises(OutputError, match="is a directory"):
        write_file(tmp_path / "m.safetensors", "new", force=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["delta.safetensors", "delta.safetensors.index.json", "model.safetensors",
                                  "model.safetensors.index.json", None])  # fmt: skip
def test_force_replaces_a_checkpoint_a_delta_and_an_empty_folder(name: str | None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if name is not None:
        (out / name).write_text("old")
    with pytest.raises(OutputError, match="exists already; remove it, choose another name, or replace it with --force"):
        check_output(out, force=False, inputs=())
    write(out, "new", force=True)
    assert tree(tmp_path) == {"out": "", "out/model.safetensors": "new"}


def test_an_output_without_a_folder_around_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="does not exist; create it first"):
        check_output(tmp_path / "no" / "out", force=False, inputs=())
    with pytest.raises(OutputError, match="is not a directory"):
        check_output(tmp_path / "file" / "out", force=False, inputs=())
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(OutputError, match="exists already"):
        check_output(tmp_path / "link", force=False, inputs=())


def test_the_module_flushes_folders_where_the_system_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int) -> None:
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(os, "fsync", refuse)
    staging.fsync_path(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="not here"):
        staging.fsync_path(tmp_path / "file")
