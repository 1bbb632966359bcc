"""Hub ids: no network is touched here; what the Hub's client does is played."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from deltagram import hub
from deltagram.errors import CheckpointError, ExtraError
from desk import Desk


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    def offline(*_: object, **__: object) -> str:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    return Desk.laid(tmp_path, capsys, monkeypatch)


def cached(desk: Desk) -> Path:
    """`base` as the Hub's cache holds it: a snapshot of links into a store."""
    snapshot = desk.folder / "cache" / "models--google--tiny" / "snapshots" / ("0f" * 20)
    snapshot.mkdir(parents=True)
    for file in (desk.folder / "base").iterdir():
        (snapshot / file.name).symlink_to(file)
    return snapshot


def test_a_hub_id_is_its_snapshot(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    snapshot = cached(desk)

    def give(name: str, **settings: Any) -> str:
        asked.append((name, settings))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    assert hub.locate("google/tiny") == hub.locate("google/tiny@refs/pr/1") == snapshot
    assert [(name, settings["revision"]) for name, settings in asked] == [
        ("google/tiny", None),
        ("google/tiny", "refs/pr/1"),
    ]
    wanted = asked[0][1]["allow_patterns"]
    assert {"*.safetensors", "*.json"} <= set(wanted)
    assert not any(name.endswith((".bin", ".py", ".pt", "*")) for name in wanted if name != "LICENSE*")
    desk.does("prune google/tiny tuned out")
    assert not any(path.is_symlink() for path in (desk.folder / "out").rglob("*"))
    desk.does("restore google/tiny out back")
    assert not any(path.is_symlink() for path in (desk.folder / "back").rglob("*"))
    desk.does("verify out --base google/tiny")
    assert json.loads(desk.does("inspect out --json"))["numbers"]["base"] == "google/tiny"
    assert "deltagram restore google/tiny out restored" in (desk.folder / "out" / "README.md").read_text()


def test_a_path_is_never_asked_of_the_hub(desk: Desk) -> None:
    (desk.folder / "google" / "tiny").mkdir(parents=True)
    for path in ("google/tiny", "base", "./no/model", "../no", "/no/model", "~/model", "no", "a/b/c", "", ".", "a b/c",
                 "runs/tuned.safetensors"):  # fmt: skip
        assert hub.locate(path) == Path(path)


RESPONSE = SimpleNamespace(headers={}, request=None)
FAULTS = {
    "missing or private": (
        errors.RepositoryNotFoundError(
            "404 Client Error. (Request ID: Root=1-6;f)\n\nRepository Not Found for url: https://hf.co/api/models/a/b.",
            response=RESPONSE,  # type: ignore[arg-type]
        ),
        "Repository Not Found for url",
    ),
    "no network": (errors.LocalEntryNotFoundError("Got: ConnectError: no name\nAn error happened"), "ConnectError"),
    "offline": (errors.OfflineModeIsEnabled("Cannot reach https://hf.co: offline mode is enabled."), "offline mode"),
    "no such id": (errors.HFValidationError("Repo id must be ... 'google/tiny--x'"), "Repo id must be"),
    "proxy": (errors.HTTPError("407 Proxy Authentication Required"), "407 Proxy Authentication Required"),
    "broken download": (errors.XetDownloadError("the connection was reset"), "connection was reset"),
    "disk full": (OSError(28, "No space left on device"), "No space left on device"),
    "without words": (errors.LocalEntryNotFoundError(""), "LocalEntryNotFoundError"),
}


@pytest.mark.parametrize(("fault", "says"), FAULTS.values(), ids=FAULTS)
def test_what_the_hub_does_not_give_is_refused(
    fault: Exception, says: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise fault

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    beginning = "error: google/tiny: is not a path here, and the Hub did not give it ("
    for line in ("prune google/tiny tuned out", "restore google/tiny delta out", "verify delta --base google/tiny"):
        text = desk.refuses(line, beginning, says, "); ")
        assert "Request ID" not in text
    with pytest.raises(CheckpointError):
        hub.locate("google/tiny")


def test_without_the_hub_s_client_the_extra_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ExtraError) as caught:
        hub.locate("google/tiny")
    assert str(caught.value) == (
        "google/tiny: there is no such path, and Hub ids need huggingface_hub; pip install 'deltagram[hf]'"
    )
    desk.refuses("prune google/tiny tuned out", "error: google/tiny: there is no such path", "deltagram[hf]")
    desk.does("prune base tuned out")
