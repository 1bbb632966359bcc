"""`library push` and `pull` through huggingface_hub's own code, against a stand-in for the Hub on this machine."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants

from deltagram import hub
from deltagram.errors import ExtraError
from deltagram.store import open_library
from deltagram.store.libraryentry import folder_digest
from desk import Desk, snapshot
from hubserver import Hub, serving

# huggingface_hub uploads files in a way that its HTTP client would rather see spelled otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "me/moods"


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The stand-in, and a person who is logged in there."""
    with serving() as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", found.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
        monkeypatch.setenv("HF_TOKEN", found.token)
        yield found


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk with the library `lib` of three variants, two of one payload, and the empty library `other`."""
    (tmp_path / "desk").mkdir()
    made = Desk.laid(tmp_path / "desk", capsys, monkeypatch)
    made.does("prune base tuned small --keep 0.02 --method magnitude")
    made.does("library init base lib")
    made.does("library init base other")
    made.does("library add lib delta --name mail --quality accuracy=0.91 --note 'the first'")
    made.does("library add lib small")
    made.does("library add lib small --name twin")
    return made


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_pushed_is_pulled(desk: Desk, remote: Hub) -> None:
    found = json.loads(desk.does(f"library push lib {REPO} --private --json"))["numbers"]
    repo = remote.repos[REPO]
    assert found["variants"] == ["mail", "small", "twin"]
    assert found["url"] == f"{remote.url}/{REPO}/commit/{repo.branches['main']}"
    assert repo.private
    assert set(repo.main) == {
        ".gitattributes", "README.md", "library.json",
        *(f"{name}/{file}" for name in ("mail", "small", "twin")
          for file in ("delta.safetensors", "scales.safetensors", "config.json", "variant.json")
          if file != "config.json" or (open_library("lib").entry(name).files.get("config.json"))),
    }  # fmt: skip
    assert remote.objects  # large files went through LFS
    out = desk.does(f"library pull {REPO} other")
    assert out.startswith("other: added mail, small, twin (")
    assert "1 of them stored already" in out
    ours, theirs = open_library("lib"), open_library("other")
    assert theirs.variants == ours.variants  # note, quality and date too
    for name in ours.variants:
        assert files_of(ours.payload(name)) == files_of(theirs.payload(name))
    desk.does("library verify other --base base")


def test_the_card_is_one_the_hub_takes(desk: Desk, remote: Hub) -> None:
    desk.does(f"library push lib {REPO}")
    card = remote.repos[REPO].main["README.md"].decode()
    assert ("POST", "/api/validate-yaml") in remote.asked
    data: dict[str, Any] = yaml.safe_load(card.split("---")[1])
    assert data == {"library_name": "deltagram", "tags": ["deltagram", "delta"], "base_model": "base",
                    "base_model_relation": "adapter"}  # fmt: skip
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == ["| mail", "| small", "| twin"]
    assert "accuracy 0.91" in rows[1]
    assert f"deltagram library pull {REPO} library" in card
    assert str(desk.folder) not in card + remote.repos[REPO].main["library.json"].decode()


def test_some_variants_and_a_second_push(desk: Desk, remote: Hub) -> None:
    desk.does(f"library push lib {REPO} small")
    assert not any(path.startswith("mail/") for path in remote.repos[REPO].main)
    assert "1 variant," in (out := desk.does(f"library push lib {REPO} mail")), out
    assert "; 1 more were there; " in out
    card = remote.repos[REPO].main["README.md"].decode()
    assert "| small |" in card
    assert "| mail |" in card
    desk.does("library add lib delta --name small --force")  # of other files
    remote.repos[REPO].main["small/extra.json"] = b"{}"
    desk.does(f"library push lib {REPO} small")
    assert "small/extra.json" not in remote.repos[REPO].main
    desk.does(f"library pull {REPO} other mail small")
    assert open_library("other").variants["small"].payload == open_library("lib").variants["mail"].payload
    desk.refuses(f"library pull {REPO} other nobody", "error: me/moods: has no variant 'nobody', expected one of its 2")
    desk.refuses(f"library pull {REPO} other", "has a variant 'mail' already")
    desk.does(f"library pull {REPO} other --force")


def test_a_branch(desk: Desk, remote: Hub) -> None:
    desk.does(f"library push lib {REPO} mail --revision trial")
    desk.does(f"library push lib {REPO} small --revision trial")
    assert "library.json" not in remote.repos[REPO].main
    desk.refuses(f"library pull {REPO} other", "error: me/moods: holds no library, delta or adapter")
    desk.does(f"library pull {REPO} other --revision trial")
    assert list(open_library("other").variants) == ["mail", "small"]
    desk.refuses(f"library pull {REPO} other --revision none", "the Hub did not give it (", "Invalid rev id: none")


def test_a_lone_delta(desk: Desk, remote: Hub) -> None:
    files = files_of(desk.folder / "delta") | {"weights.bin": b"pickle", ".hidden": b"", "deep/er/x.safetensors": b""}
    remote.make("someone/Mail-Delta", files)
    desk.does("library pull someone/Mail-Delta other")
    desk.does("library pull someone/Mail-Delta other --name short")
    found = open_library("other")
    assert list(found.variants) == ["Mail-Delta", "short"]
    assert found.variants["short"].note == "from someone/Mail-Delta"
    assert found.variants["short"].payload == open_library("lib").variants["mail"].payload
    assert not any("weights.bin" in path or "hidden" in path for _, path in remote.asked)
    desk.refuses("library pull someone/Mail-Delta other small", "holds no library to choose from")
    remote.make("someone/x", {"delta.safetensors": b"no"})
    desk.refuses("library pull someone/x other", "delta.safetensors")
    remote.make("someone/base", files)
    desk.refuses("library pull someone/base other", "--name: 'base' is the base's own name; choose another name")


def test_another_base_is_refused_before_anything_is_downloaded(desk: Desk, remote: Hub) -> None:
    desk.does(f"library push lib {REPO}")
    desk.does("library init tuned elsewhere")
    remote.asked.clear()
    says = ("error: me/moods: holds variants of base, digest ", "expected those of tuned, digest ")
    desk.refuses(f"library pull {REPO} elsewhere", *says)
    assert not any(path.endswith(".safetensors") for _, path in remote.asked)
    desk.refuses(f"library push elsewhere {REPO}", "error: me/moods: holds variants of base")
    remote.make("me/lone", files_of(desk.folder / "delta"))
    desk.refuses("library pull me/lone elsewhere", "is a delta of base, digest", "expected one of tuned, digest")


HOSTILE = {
    "a name of dots": ({"../variant.json": b"{}"}, "holds a variant whose name '..' cannot name a variant"),
    "a huge name": ({"a" * 97 + "/variant.json": b"{}"}, "cannot name a variant"),
    "a name with escapes": ({"a\x1b[31m/variant.json": b"{}"}, "cannot name a variant"),
    "the base's name": ({"base/variant.json": b"{}"}, "holds a variant whose name 'base' is the base's own name"),
    "two by case": ({"MAIL/variant.json": b"{}"}, "holds two variants named 'mail', but for their case"),
    "an entry of another": ({"evil/variant.json": None}, "is the entry of 'mail', expected 'evil'"),
    "an entry that is no JSON": ({"mail/variant.json": b"\x80"}, "me/moods/mail/variant.json: is not JSON"),
    "a library file of pickles": ({"library.json": b"\x80\x04."}, "me/moods/library.json: is not JSON"),
    "other bytes": ({"mail/scales.safetensors": b"other bytes"}, "scales.safetensors"),
    "the payload of another": ({"mail/delta.safetensors": b""}, "delta.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_repository_writes_nothing(
    files: dict[str, bytes | None], says: str, desk: Desk, remote: Hub
) -> None:
    desk.does(f"library push lib {REPO} mail")
    main = remote.repos[REPO].main
    entry = main["mail/variant.json"]
    main.update({path: entry if data is None else data for path, data in files.items()})
    before = snapshot(desk.folder)
    desk.refuses(f"library pull {REPO} other", "error: ", says)
    assert snapshot(desk.folder) == before


def test_paths_that_climb_are_left_where_they_are(desk: Desk, remote: Hub) -> None:
    desk.does(f"library push lib {REPO} mail")
    remote.repos[REPO].main.update({"../../evil/variant.json": b"{}", "../evil": b"x", "mail/../../evil": b"x"})
    before = {path for path in desk.folder.parent.rglob("*") if "lib" not in path.parts and "other" not in path.parts}
    desk.does(f"library pull {REPO} other")
    after = {path for path in desk.folder.parent.rglob("*") if "lib" not in path.parts and "other" not in path.parts}
    assert before == after
    assert not any("evil" in path for _, path in remote.asked)
    remote.make("me/lone", files_of(desk.folder / "delta") | {"../config.json": b"{}", "../../LICENSE": b"x"})
    desk.does("library pull me/lone other --name lone")
    assert not any(".." in path for _, path in remote.asked)


@pytest.mark.parametrize(
    "name", ["../x.json", "/etc/x.json", "a.bin", "run.py", "sub/delta.safetensors", "a\\..\\config.json", "a\nb.json"]
)
def test_an_entry_cannot_name_what_is_no_file_of_a_variant(name: str, desk: Desk, remote: Hub) -> None:
    desk.does(f"library push lib {REPO} mail")
    entry, main = open_library("lib").variants["mail"], remote.repos[REPO].main
    file = next(iter(entry.files.values()))
    update = {"files": {name: file}, "bytes": file.bytes, "payload": folder_digest({name: file})}
    main["mail/variant.json"] = entry.model_copy(update=update).text().encode()
    desk.refuses(
        f"library pull {REPO} other", "error: me/moods: names the file '", "' of mail, which no variant carries"
    )


def test_an_entry_that_lies_about_its_payload(desk: Desk, remote: Hub) -> None:
    desk.does(f"library push lib {REPO}")
    main = remote.repos[REPO].main
    for path in [path for path in main if path.startswith("small/") and not path.endswith("variant.json")]:
        main[f"mail/{path.split('/')[1]}"] = main[path]
    desk.refuses(
        f"library pull {REPO} other small mail", "error: me/moods/mail: makes the payload ", "as its entry says"
    )
    assert not open_library("other").variants  # nor was the sound one added


def test_what_the_hub_refuses(desk: Desk, remote: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fix = "check the spelling, the network, and that you are logged in with the right to do this"
    desk.refuses(
        "library pull nobody/nothing other", "error: nobody/nothing: the Hub did not give it (", "Not Found", fix
    )
    desk.refuses("library push lib others/moods", "error: others/moods: the Hub did not make it (", "rights", fix)
    desk.refuses("library push lib 'no spaces/x'", "the Hub did not make it (", fix)
    desk.refuses("library pull a/b/c other", "error: a/b/c: the Hub did not give it (", fix)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    text = desk.refuses(f"library push lib {REPO}", "error: me/moods: the Hub did not make it (", "credentials", fix)
    assert "hf_stranger" not in text
    assert "Request ID" not in text


def test_no_network(desk: Desk, remote: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    desk.refuses(f"library push lib {REPO}", "error: me/moods: the Hub did not make it (", "refused")
    desk.refuses(f"library pull {REPO} other", "error: me/moods: the Hub did not give it (", "refused")


def test_damage_is_not_published(desk: Desk, remote: Hub) -> None:
    file = open_library("lib").payload("mail") / "scales.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    desk.refuses(f"library push lib {REPO}", "scales.safetensors: has digest ")
    assert not remote.repos
    desk.does(f"library push lib {REPO} small twin")


def test_without_the_hub_s_client(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    says = "me/moods: push and pull need huggingface_hub; pip install 'deltagram[hf]'"
    desk.refuses(f"library push lib {REPO}", says)
    with pytest.raises(ExtraError, match="need huggingface_hub"):
        hub.Repository(REPO).files()
