"""Outputs that exist, touch an input, or are not what they seem: refused by the command line, and all stays there."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from checkpoints import write_checkpoint
from deltagram.errors import FormatError
from deltagram.jobs import inspect, prune, restore, verify
from deltagram.store.companions import Companions
from deltagram.store.manifest import CompanionFile
from desk import Desk, base_state, snapshot

COMMAND = Path(sys.executable).with_name("deltagram")


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Also holds links, a file and a folder that nothing may replace, and a checkpoint and a delta that may be."""
    (tmp_path / "thesis.txt").write_text("a life's work")
    (tmp_path / "home" / "photos").mkdir(parents=True)
    (tmp_path / "home" / "photos" / "a.jpg").write_text("x")
    (tmp_path / "home" / "notes on x.safetensors.txt").write_text("x")
    (tmp_path / "up").symlink_to(".")
    (tmp_path / "to-base").symlink_to("base")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder.safetensors").mkdir()
    return Desk.laid(tmp_path, capsys, monkeypatch)


def touches(source: str) -> str:
    return f"is, contains, or lies inside the input {source}; choose another place"


EXISTS = "exists already; remove it, choose another name, or replace it with --force"
OUTPUTS = {
    "prune base tuned delta": ("error: delta: ", EXISTS), "prune base tuned thesis.txt": (EXISTS,),
    "prune base tuned base --force": ("error: base: ", touches("base")),
    "prune base tuned ./tuned/ --force": ("error: tuned: ", touches("tuned")),
    "prune base tuned base/new": ("error: base/new: ", touches("base")),
    "prune base tuned . --force": ("error: .: ", touches("base")), "prune base tuned / --force": (touches("base"),),
    "prune base tuned '' --force": (touches("base"),), "prune base tuned home/.. --force": (touches("base"),),
    "prune base tuned to-base --force": ("error: to-base: ", touches("base")),
    "prune to-base tuned base --force": ("error: base: ", touches("to-base")),
    "prune base tuned up/tuned/new": (touches("tuned"),), "prune base tuned home/../base --force": (touches("base"),),
    "prune base/model.safetensors tuned base --force": (touches("base/model.safetensors"),),
    "prune base tuned no/new": ("error: no/new: the directory no does not exist; create it first",),
    "prune base tuned thesis.txt/new": ("error: thesis.txt/new: the directory thesis.txt is not a directory",),
    "prune base tuned home --force": ("error: home: is a directory without a checkpoint or delta in it, so --force",),
    "prune base tuned thesis.txt --force": ("error: thesis.txt: is a file", "--force"),
    "prune base tuned loop": ("error: loop: ", EXISTS),
    "restore base delta base --force": (touches("base"),), "restore base delta delta --force": (touches("delta"),),
    "restore base delta delta/x.safetensors": (touches("delta"),), "restore base delta up --force": (touches("base"),),
    "restore base delta base/model.safetensors --force": (touches("base"),),
    "restore base delta folder.safetensors": ("error: folder.safetensors: ", EXISTS),
    "restore base delta folder.safetensors --force": ("error: folder.safetensors: is a directory", "--force"),
    "restore base delta home --force": ("error: home: is a directory without", "choose another place"),
    "restore base delta thesis.txt --force": ("error: thesis.txt: is a file", "--force"),
}  # fmt: skip


@pytest.mark.parametrize("line", OUTPUTS)
def test_outputs_that_would_harm_are_refused(line: str, desk: Desk) -> None:
    desk.refuses(line, *OUTPUTS[line])


def test_force_replaces_a_delta_a_checkpoint_and_a_lone_file(desk: Desk) -> None:
    digest = json.loads(desk.does("inspect delta --json"))["numbers"]["digest"]
    desk.does("prune base tuned delta --force --seed 1")
    assert json.loads(desk.does("inspect delta --json"))["numbers"]["digest"] != digest
    for out in ("back", "back.safetensors"):
        desk.does(f"restore base delta {out}")
        desk.refuses(f"restore base delta {out}", f"error: {out}: {EXISTS}")
        desk.does(f"restore base delta {out} --force")
    assert {path.name for path in desk.folder.iterdir() if path.name.startswith(".")} == set()


def test_the_plan_is_an_input_too(desk: Desk) -> None:
    (desk.folder / "delta" / "plan.yaml").write_text("tensors: [{match: a.*, form: whole}]")
    desk.refuses("prune base tuned delta --plan delta/plan.yaml --force", touches("delta/plan.yaml"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_an_output_that_an_input_links_into_is_refused(side: str, name: str, desk: Desk) -> None:
    """As if someone replaced the store that a Hub snapshot links to."""
    store = write_checkpoint(desk.folder / "store", base_state())
    (desk.folder / side / name).rename(store / name)
    (desk.folder / side / name).symlink_to(f"../store/{name}")
    desk.refuses("prune base tuned store --force", touches(f"{side}/{name}"))
    if side == "base" and name == "model.safetensors":
        desk.refuses("restore base delta store --force", touches("base/model.safetensors"))


@pytest.mark.parametrize("source", ["shelf/link", "shelf/model.safetensors"])
def test_an_input_that_is_a_link_inside_the_output_is_refused(source: str, desk: Desk) -> None:
    """Replacing the folder would take the link, and what else lies there, although the data are elsewhere."""
    shelf = write_checkpoint(desk.folder / "shelf", base_state())
    (shelf / "link").symlink_to("../base")
    (shelf / "model.safetensors").rename(desk.folder / "moved.safetensors")
    (shelf / "model.safetensors").symlink_to("../moved.safetensors")
    desk.refuses(f"prune {source} tuned shelf --force", touches(source))
    desk.refuses(f"restore {source} delta shelf --force", touches(source))


def test_a_result_that_cannot_be_told_is_not_called_unwritten(desk: Desk) -> None:
    words = [COMMAND, "prune", "base", "tuned", "out"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr[:7], done.stderr.count(b"\n")) == (1, b"error: ", 1)
    assert b"nothing was written" not in done.stderr
    assert Path("out/delta.safetensors").exists()


def test_links_are_followed_when_read_and_replaced_when_written(desk: Desk) -> None:
    kept = write_checkpoint(desk.folder / "kept", base_state())
    before = snapshot(kept)
    (desk.folder / "to-kept").symlink_to("kept")
    (desk.folder / "dangling").symlink_to("gone")
    for out in ("to-kept", "dangling"):
        desk.refuses(f"prune base tuned {out}", EXISTS)
        desk.does(f"prune to-base tuned {out} --force")
        assert (desk.folder / out).is_dir()
        assert not (desk.folder / out).is_symlink()
    assert snapshot(kept) == before
    assert not (desk.folder / "gone").exists()


def test_the_base_of_a_delta_has_a_name_also_from_inside_its_folder(desk: Desk) -> None:
    desk.patch.chdir(desk.folder / "base")
    desk.does("prune . ../tuned ../out")
    assert json.loads(desk.does("inspect ../out --json"))["numbers"]["base"] == "base"
    assert "deltagram restore base out restored" in (desk.folder / "out" / "README.md").read_text()


def test_companion_files_reach_the_restored_model_also_from_a_lone_base_file(desk: Desk) -> None:
    for base in ("base", "base/model.safetensors"):
        desk.does(f"restore {base} delta back --force")
        assert Path("back/config.json").read_bytes() == Path("tuned/config.json").read_bytes()


def test_every_file_that_stays_behind_is_listed(desk: Desk) -> None:
    for place in ("optimizer.pt", "runs/log.txt", "runs/deep/events.bin"):
        (desk.folder / "tuned" / place).parent.mkdir(exist_ok=True, parents=True)
        (desk.folder / "tuned" / place).write_text("x")
    left = json.loads(desk.does("prune base tuned out --json"))["numbers"]["left_behind"]
    assert left == ["optimizer.pt", "runs/deep/events.bin", "runs/log.txt"]


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "model-2.safetensors",
                                  "pytorch_model.bin", ".git/hooks/post-checkout"])  # fmt: skip
def test_a_hostile_delta_cannot_bring_files_that_no_delta_has(
    name: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as other tensors in place of the verified ones, a pickle beside them, or a program that git will run."""
    evil = b"evil"
    file = CompanionFile(digest=blake3(evil).hexdigest(), bytes=len(evil), stored="delta")
    job = importlib.import_module("deltagram.jobs.prune")
    monkeypatch.setattr(job, "choose", lambda *_, **__: Companions(files={name: file}, copied=(), left=()))
    out = desk.folder / "out"
    prune("base", "tuned", out)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_bytes(evil)
    for work in (lambda: inspect(out), lambda: verify(out, base="base"), lambda: restore("base", out, "back")):
        with pytest.raises(FormatError, match=re.escape(name)):
            work()
    assert not (desk.folder / "back").exists()
