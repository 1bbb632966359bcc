"""PEFT adapters in a library: made by PEFT, checked against the base, found by their base's id, published."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from adapters import KINDS, adapted, loaded, save_base
from deltagram.errors import BaseError, CheckpointError, LibraryError, PlanError
from deltagram.jobs import library_add, library_init, library_verify
from deltagram.store import open_library

BERT = KINDS["bert"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with `base` and `lib`."""
    monkeypatch.chdir(tmp_path)
    save_base(BERT, tmp_path / "base")
    library_init("base", "lib")
    return tmp_path


def test_an_adapter_goes_in_and_runs_from_there(folder: Path) -> None:
    said = adapted(BERT, Path("base"), Path("adapter"), r=4, target_modules=["query", "value"], task_type="SEQ_CLS")
    (folder / "adapter" / "optimizer.pt").write_bytes(b"pickle")
    found = library_add("lib", "adapter", quality={"accuracy": 0.8}).numbers
    assert (found["kind"], found["method"], found["values"], found["keep"]) == ("adapter", "lora 4", "f32", None)
    place = open_library("lib").payload("adapter")
    assert sorted(path.name for path in place.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    torch.testing.assert_close(BERT.output(loaded(BERT, Path("base"), place)), said, rtol=0, atol=0)
    assert library_verify("lib").numbers["faults"] == library_verify("lib", base="base").numbers["faults"] == []
    data = bytearray((place / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (place / "adapter_model.safetensors").write_bytes(data)
    assert "adapter_model.safetensors: has digest" in library_verify("lib").numbers["faults"][0]


def test_ranks_of_one_adapter_differ(folder: Path) -> None:
    adapted(BERT, Path("base"), Path("adapter"), r=4, rank_pattern={"value": 2}, use_rslora=True,
            target_modules=["query", "value"])  # fmt: skip
    assert library_add("lib", "adapter").numbers["method"] == "rslora 2 to 4"


def test_the_base_is_found_by_its_name_and_held_against_its_digest(folder: Path) -> None:
    adapted(BERT, Path("base"), Path("adapter"), r=4, target_modules=["query"])
    library_init("base", "hub", hub_id="owner/bert@main")
    asked: list[str] = []

    def locate(name: str) -> Path:
        asked.append(name)
        return Path("base")

    library_add("hub", "adapter", locate=locate)
    assert asked == ["owner/bert@main"]
    data = bytearray(Path("base/model.safetensors").read_bytes())
    data[-1] ^= 1
    Path("base/model.safetensors").write_bytes(data)
    with pytest.raises(BaseError) as caught:
        library_add("lib", "adapter")
    assert str(caught.value).startswith("base: has digest ")
    assert str(caught.value).endswith("the library's base; use the base that the library was made with: base")
    shutil.rmtree("base")
    with pytest.raises(CheckpointError, match=r"base: there is no such file or directory"):
        library_add("lib", "adapter")


def test_an_adapter_of_another_base_is_refused(folder: Path) -> None:
    save_base(KINDS["llama"], folder / "llama")
    adapted(KINDS["llama"], Path("llama"), Path("foreign"), r=4, target_modules=["q_proj"])
    with pytest.raises(PlanError):
        library_add("lib", "foreign")
    assert not open_library("lib").variants
    assert [*Path("lib/payloads").iterdir()] == []


def test_what_is_no_adapter_that_can_be_kept(folder: Path) -> None:
    adapted(BERT, Path("base"), Path("adapter"), r=4, target_modules=["query"])
    shutil.copytree("adapter", "pickled")
    Path("pickled/adapter_model.safetensors").rename("pickled/adapter_model.bin")
    with pytest.raises((CheckpointError, LibraryError), match=r"adapter_model.safetensors"):
        library_add("lib", "pickled")
    config = json.loads(Path("adapter/adapter_config.json").read_text())
    Path("adapter/adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with pytest.raises(CheckpointError, match=r"use_dora is True, which is not supported"):
        library_add("lib", "adapter")
    Path("adapter/adapter_config.json").write_text(json.dumps({**config, "r": 8}))
    with pytest.raises(CheckpointError, match=r"expected factors of rank 8"):
        library_add("lib", "adapter")
    Path("adapter/adapter_config.json").write_text(json.dumps(config))
    shutil.copy("base/model.safetensors", "adapter/model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"adapter: is a checkpoint, expected a delta or a PEFT adapter; prune it"
    ):
        library_add("lib", "adapter")
