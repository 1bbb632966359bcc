"""Libraries at the command line: what is added, shown, found damaged, and refused."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from checkpoints import write_checkpoint
from deltagram.errors import BaseError, CheckpointError, LibraryError
from deltagram.jobs import library_add, library_list, library_verify, prune
from deltagram.records import Record
from deltagram.store import open_library
from desk import Desk, base_state, tuned_state


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk with a second delta `small` and the empty library `lib`."""
    made = Desk.laid(tmp_path, capsys, monkeypatch)
    made.does("prune base tuned small --keep 0.05 --method magnitude --values 4bit")
    made.does("library init base lib")
    return made


def numbers(text: str) -> dict[str, Any]:
    found: dict[str, Any] = Record.model_validate_json(text).model_dump()["numbers"]
    return found


def test_a_walk(desk: Desk) -> None:
    assert desk.does("library list lib").splitlines()[1] == "no variants yet: deltagram library add LIB DELTA"
    out = desk.does("library add lib delta --name mail --quality accuracy=0.91 --quality f1=.5 --note 'by hand'")
    assert out.startswith("mail: delta, random at 10.0")
    assert "copied" in out
    desk.does("library add lib small")
    assert "stored already, under another name" in desk.does("library add lib small --name twin")
    lines = desk.does("library list lib").splitlines()
    size = (desk.folder / "base" / "model.safetensors").stat().st_size
    assert lines[0].startswith(f"base base, {size / 1000:.3g} kB, digest ")
    assert [line.split()[0] for line in lines[2:5]] == ["mail", "small", "twin"]
    assert "accuracy 0.91, f1 0.5" in lines[2]
    assert lines[3].split()[-1] == "twin"
    assert lines[5] == "mail: by hand"
    assert lines[6].startswith("3 variants in ")
    assert "; 3 full checkpoints: " in lines[6]
    assert desk.does("library verify lib --base base").splitlines() == [
        "mail: sound", "small: sound", "twin: sound",
        "lib: 3 variants, sound, the base is the right one and every delta restores",
    ]  # fmt: skip
    assert desk.does("library remove lib small").endswith("its files stay, for another variant has the same\n")
    assert desk.does("library remove lib twin").endswith(" freed\n")
    assert len([*(desk.folder / "lib" / "payloads").iterdir()]) == 1
    desk.refuses("library remove lib twin", "error: lib: has no variant 'twin', expected one of its 1: mail")


def test_what_the_list_says_is_so(desk: Desk) -> None:
    desk.does("library add lib delta")
    desk.does("library add lib small")
    desk.does("library add lib small --name twin")
    found = numbers(desk.does("library list lib --json"))
    base = (desk.folder / "base" / "model.safetensors").stat().st_size
    kept = {"delta": ("delta.safetensors", "scales.safetensors"), "small": ("delta.safetensors", "scales.safetensors")}
    for name, files in kept.items():
        row = found["variants"][name]
        config = (
            (desk.folder / name / "config.json").stat().st_size if (desk.folder / name / "config.json").exists() else 0
        )
        assert row["bytes"] == sum((desk.folder / name / file).stat().st_size for file in files) + config
        assert row["rate"] == round(base / row["bytes"], 2)
    assert found["variants"]["twin"]["shared"] == ["small"]
    assert found["stored_bytes"] == sum(found["variants"][name]["bytes"] for name in ("delta", "small"))
    assert (found["total_bytes"], found["checkpoint_bytes"]) == (base + found["stored_bytes"], 3 * base)
    rows = {name: (row["method"], row["values"], row["divide_by"]) for name, row in found["variants"].items()}
    assert rows["delta"][:2] == ("random", "bf16")
    assert rows["small"] == ("magnitude", "4bit", "1")


@pytest.mark.parametrize(
    ("options", "method", "values"),
    [
        ("--method bernoulli --values 8bit", "bernoulli", "8bit"), ("--method exact", "exact", ""),
        ("--method columns", "columns", "bf16"), ("--method columns-magnitude", "columns-magnitude", "bf16"),
        ("--keep 0.5", "bernoulli", "bf16"), ("--whole '*'", "whole", ""),
    ],
)  # fmt: skip
def test_methods_are_called_as_prune_calls_them(options: str, method: str, values: str, desk: Desk) -> None:
    desk.does(f"prune base tuned made {options}")
    desk.does("library add lib made")
    entry = open_library("lib").variants["made"]
    assert (entry.method, entry.values) == (method, values)


def test_a_library_moves_with_its_base(desk: Desk) -> None:
    desk.does("library add lib delta")
    (desk.folder / "moved").mkdir()
    for name in ("base", "lib"):
        (desk.folder / name).rename(desk.folder / "moved" / name)
    assert open_library("moved/lib").base.name == "moved/base"
    assert open_library(desk.folder / "moved" / "lib").base.name == str(desk.folder / "moved" / "base")
    desk.does("library verify moved/lib --base moved/base")
    desk.does(f"library init {desk.folder / 'moved' / 'base'} fixed")
    assert open_library("fixed").base.name == str(desk.folder / "moved" / "base")


REFUSED = {
    "init tuned2 new": ("error: tuned2: there is no such file or directory",),
    "init delta new": ("error: delta: is a delta, not a checkpoint",),
    "init base lib": ("error: lib: exists already; choose another place for the library",),
    "init base no/where": ("error: no/where: the directory no does not exist; create it first",),
    "add lib none": ("error: none: there is no such directory, expected a delta or a PEFT adapter",),
    "add lib base --name x": (
        "error: base: holds neither delta.safetensors nor adapter_config.json, expected a delta or a PEFT",
    ),
    "add lib delta --name .x": ("error: --name: '.x' cannot name a variant, expected at most 96 letters",),
    "add lib delta --name base": ("error: --name: 'base' is the base's own name; choose another name",),
    "add lib delta --name here": (
        "error: lib: has a variant 'here' already; choose another --name, or replace it with",
    ),
    "add lib delta --name HERE": ("error: lib: has a variant 'here', which differs from 'HERE' by case alone; choose",),
    "add lib delta --quality good": ("error: --quality: 'good' is no measured number, expected such as accuracy=0.91",),
    "add lib delta --quality a=nan": ("error: --quality: a is nan, expected a finite number",),
    "add lib delta --quality =1": ("error: --quality: '' is no name of a metric, expected such as accuracy",),
    "add lib delta --record none": ("error: --record: none cannot be read (No such file or directory)",),
    "add lib delta --record base/config.json": ("error: --record: base/config.json does not end with a record",),
    "add base delta": (
        "error: base: holds no library.json, expected a library; make one: deltagram library init BASE",
    ),
    "remove lib ../here": ("error: lib: has no variant '../here', expected one of its 1: here",),
    "list none": ("error: none: there is no such directory, expected a library",),
    "push none me/x": ("error: none: there is no such directory, expected a library",),
    "push lib me/x nobody": ("error: lib: has no variant 'nobody', expected one of its 1: here",),
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_refused(line: str, desk: Desk) -> None:
    desk.does("library add lib delta --name here")
    desk.refuses(f"library {line}", *REFUSED[line])


def test_another_base_is_refused(desk: Desk) -> None:
    desk.does("library init tuned elsewhere")
    says = (
        "error: delta: is a delta of base, digest ",
        "expected one of tuned, digest ",
        "add it to a library of its own",
    )
    desk.refuses("library add elsewhere delta", *says)
    desk.does("library add lib delta")
    code, out, err = desk.run("library verify lib --base tuned")
    assert code == 1
    assert err.startswith("error: tuned: has digest ")
    assert "the library's base; use the base that the library was made with: base" in err
    assert out.splitlines()[0] == "delta: sound"  # the base's fault, not the variant's


def test_a_record_says_how_good_it_is(desk: Desk) -> None:
    records = {
        "train": ({"accuracy": 0.9, "f1": 0.8, "recall": [1.0]}, {"accuracy": 0.9, "f1": 0.8}),
        "lm": ({"perplexity": 12, "seconds": 3.0}, {"perplexity": 12.0}),
        "select": (
            {"score": "f1 lost", "recommended": {"metric": 0.7, "agreement": 0.99}}, {"f1": 0.7, "agreement": 0.99},
        ),
        "unlabelled": (
            {"score": "mean change", "recommended": {"metric": None, "agreement": 0.9}}, {"agreement": 0.9},
        ),
        "rescale": ({"search": {"measure": "matthews", "value": 0.4}}, {"matthews": 0.4}),
    }  # fmt: skip
    for job, (found, said) in records.items():
        line = Record(job=job, numbers=found).line()
        (desk.folder / "record.jsonl").write_text(
            Record(job="old", numbers={"accuracy": 0}).line() + "\n" + line + "\n"
        )
        desk.does(f"library add lib delta --name {job} --record record.jsonl")
        assert open_library("lib").variants[job].quality == said
    desk.does("library add lib delta --name more --record record.jsonl --quality matthews=0.5 --quality x=1")
    assert open_library("lib").variants["more"].quality == {"matthews": 0.5, "x": 1.0}
    (desk.folder / "record.jsonl").write_text(Record(job="prune", numbers={"seconds": 1}).line())
    desk.refuses(
        "library add lib delta --name none --record record.jsonl",
        "error: --record: record.jsonl holds no metric (it is a record of prune), expected one of accuracy, ",
    )


def test_replacing(desk: Desk) -> None:
    desk.does("library add lib delta --name v --quality accuracy=0.9 --note old")
    first = open_library("lib").payload("v")
    desk.does("library add lib delta --name v --force --quality f1=1")  # the same bytes: what was known stays
    assert open_library("lib").variants["v"].quality == {"accuracy": 0.9, "f1": 1.0}
    assert open_library("lib").variants["v"].note == "old"
    desk.does("library add lib small --name v --force")
    assert open_library("lib").variants["v"].quality == {}
    assert not first.exists()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_in_any_file_is_found(desk: Desk) -> None:
    desk.does("library add lib delta")
    desk.does("library add lib small")
    files = [path for path in sorted((desk.folder / "lib").rglob("*")) if path.is_file() and path.name != ".lock"]
    assert len(files) >= 7
    for path in files:
        kept = path.read_bytes()
        flip(path)
        code, out, err = desk.run("library verify lib")
        assert code == 1
        assert err.startswith(f"error: lib/{path.relative_to(desk.folder / 'lib')}: "), err
        if path.name != "library.json":
            assert out.count(": sound\n") == 1  # the other was checked too
        path.write_bytes(kept)
    desk.does("library verify lib")


def test_what_is_missing_or_more_is_found(desk: Desk) -> None:
    desk.does("library add lib delta")
    payload = open_library(desk.folder / "lib").payload("delta")

    def fault() -> str:
        code, _, err = desk.run("library verify lib")
        assert code == 1
        return err

    for place in ("notes.txt", "variants/x.txt", f"payloads/{'x' * 64}", "payloads/y"):
        (desk.folder / "lib" / place).touch()
        assert fault() == f"error: lib/{place}: belongs to no variant; take it away\n"
        (desk.folder / "lib" / place).unlink()
    (payload / "model.pt").touch()
    assert "model.pt: is no file of the variant delta; take it away" in fault()
    (payload / "model.pt").unlink()
    (payload / "empty").mkdir()
    assert "empty: is no file of the variant delta; take it away" in fault()
    (payload / "empty").rmdir()
    (payload / "scales.safetensors").rename(desk.folder / "away")
    assert "scales.safetensors: is missing, expected " in fault()
    (payload / "scales.safetensors").symlink_to(desk.folder / "away")
    assert "scales.safetensors: is no file of the variant delta" in fault()
    (payload / "scales.safetensors").unlink()
    (desk.folder / "away").rename(payload / "scales.safetensors")
    desk.does("library verify lib")
    shutil.rmtree(payload)
    assert "is missing, and the entry of delta names it; bring it back" in fault()
    desk.does("library add lib delta --force")  # repairs it
    desk.does("library verify lib")


def test_damaged_files_are_repaired_by_adding_them_again(desk: Desk) -> None:
    desk.does("library add lib delta")
    desk.does("library add lib delta --name twin")
    flip(open_library(desk.folder / "lib").payload("delta") / "delta.safetensors")
    assert len(library_verify("lib").numbers["faults"]) == 2
    desk.does("library add lib delta --force")
    assert library_verify("lib", base="base").numbers["faults"] == []


def test_a_damaged_delta_is_not_added(desk: Desk) -> None:
    shutil.copytree("delta", "broken")
    for file in ("delta.safetensors", "scales.safetensors"):
        shutil.copy(f"delta/{file}", f"broken/{file}")
        flip(Path(f"broken/{file}"))
        desk.refuses("library add lib broken", "error: ")
        shutil.copy(f"delta/{file}", f"broken/{file}")
    desk.does("library add lib broken")


def test_only_the_files_of_a_variant_are_copied(desk: Desk) -> None:
    shutil.copytree("delta", "full")
    for name in ("model.bin", "weights.pt", "run.py", ".env", "training_args.bin", "notes.txt"):
        (desk.folder / "full" / name).write_text("x")
    (desk.folder / "full" / "link.txt").symlink_to("/etc/hostname")
    desk.does("library add lib full")
    desk.does("library add lib delta --name plain")
    opened = open_library("lib")
    assert opened.variants["full"].payload == opened.variants["plain"].payload
    assert set(opened.variants["full"].files) <= {"delta.safetensors", "scales.safetensors", "config.json"}


def test_a_link_that_leaves_the_variant_is_refused(desk: Desk) -> None:
    shutil.copytree("delta", "linked")
    (desk.folder / "linked" / "scales.safetensors").unlink()
    (desk.folder / "linked" / "scales.safetensors").symlink_to(desk.folder / "delta" / "scales.safetensors")
    desk.refuses(
        "library add lib linked", "error: linked/scales.safetensors: is a link to ", "which lies outside of the",
        "copy the directory with its links followed: cp -rL",
    )  # fmt: skip
    (desk.folder / "inside").symlink_to(desk.folder / "delta")
    desk.does("library add lib inside --name whole")  # a link to the whole variant is no link out of it


def test_a_full_disk_leaves_it_as_it_was(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    held = set((desk.folder / "lib").rglob("*"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        code, out, err = desk.run("library add lib delta")
    assert (code, out) == (1, "")
    assert err.startswith("error: lib: cannot be written (No space left on device); make room, or allow writing there")
    assert set((desk.folder / "lib").rglob("*")) == held
    desk.does("library add lib delta")


def test_jobs_raise_what_the_commands_say(desk: Desk) -> None:
    write_checkpoint(desk.folder / "base2", {name: array + 1 for name, array in base_state().items()})
    write_checkpoint(desk.folder / "tuned2", {name: array + 2 for name, array in tuned_state().items()})
    prune("base2", "tuned2", "delta2")
    with pytest.raises(BaseError, match=r"delta2: is a delta of base2, digest"):
        library_add("lib", "delta2")
    for job in (library_list, library_verify):
        with pytest.raises(LibraryError, match=r"none: there is no such directory"):
            job("none")
    with pytest.raises(CheckpointError, match=r"delta: is a delta, not a checkpoint"):
        library_verify("lib", base="delta")
