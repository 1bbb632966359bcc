"""What a library's files say: entries that round-trip, every changed byte found, every oddity refused in words."""

import json
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from deltagram.errors import LibraryError, SettingError
from deltagram.store import open_library
from deltagram.store.libraryentry import (
    Entry,
    LibraryBase,
    PayloadFile,
    check_name,
    folder_digest,
    read_base,
    read_entry,
    sealed,
)
from deltagram.store.librarywriter import create, writing

BASE = LibraryBase(name="owner/base@main", where="hub", digest="0" * 64, tensors=3, bytes=12)
FILES = {
    "delta.safetensors": PayloadFile(digest="a" * 64, bytes=5),
    "config.json": PayloadFile(digest="b" * 64, bytes=7),
}
ENTRY = Entry(
    name="mail", kind="delta", payload=folder_digest(FILES), bytes=12, files=FILES, method="random", keep=0.1,
    values="bf16", divide_by="0.1", tuned="tuned", added="2026-01-01T00:00:00+00:00", note="a note",
    quality={"accuracy": 0.5},
)  # fmt: skip
names = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,95}", fullmatch=True).filter(lambda name: name.lower() != "base")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    create(tmp_path / "lib", BASE)
    return tmp_path / "lib"


@given(name=names, note=st.text(), quality=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False)))
def test_an_entry_is_what_was_written(name: str, note: str, quality: dict[str, float]) -> None:
    entry = ENTRY.model_copy(update={"name": check_name(name), "note": note, "quality": quality})
    assert read_entry(entry.text().encode(), name=name, where="here") == entry


@given(at=st.integers(0, len(ENTRY.text()) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_in_an_entry_is_found(at: int, bit: int) -> None:
    data = bytearray(ENTRY.text().encode())
    data[at] ^= 1 << bit
    with pytest.raises(LibraryError):
        read_entry(bytes(data), name="mail", where="here")


@given(cut=st.integers(0, len(BASE.text()) - 1))
def test_a_cut_library_file_is_refused(cut: int) -> None:
    with pytest.raises(LibraryError):
        read_base(BASE.text().encode()[:cut], where="here")


def test_a_folder_s_digest_is_what_the_page_says() -> None:
    said = b"".join(
        len(name.encode()).to_bytes(8, "little") + name.encode() + file.bytes.to_bytes(8, "little")
        + bytes.fromhex(file.digest)
        for name, file in sorted(FILES.items())
    )  # fmt: skip
    assert folder_digest(FILES) == blake3(said).hexdigest()
    assert folder_digest(dict(reversed(FILES.items()))) == folder_digest(FILES)


RULE = "cannot name a variant, expected at most 96 letters, digits, '.', '_' and '-', the first no '.'"
BAD_NAMES = {
    "base": "--name: 'base' is the base's own name; choose another name",
    "BASE": "--name: 'BASE' is the base's own name; choose another name",
    **{name: f"--name: {name!r} {RULE}" for name in ("", ".", "..", ".hidden", "a/b", "a b", "a\nb", "naïve", "a\x00")},
    "x" * 97: f"--name: '{'x' * 96}...' {RULE}",
}


@pytest.mark.parametrize(("name", "says"), BAD_NAMES.items())
def test_names_that_no_variant_can_have(name: str, says: str) -> None:
    with pytest.raises(SettingError) as caught:
        check_name(name)
    assert str(caught.value) == says


def resealed(**changes: object) -> bytes:
    """The entry with other fields and a digest that is right for them."""
    return sealed({**ENTRY.model_dump(mode="json"), **changes}).encode()


BAD_ENTRIES = {
    "size": (resealed(bytes=13), "mail.json: says 13 bytes, expected 12, those of its files"),
    "payload": (resealed(payload="c" * 64), "mail.json: its payload is not the one its files make; remove mail from"),
    "name": (
        resealed(name="other"),
        "mail.json: is the entry of 'other', expected 'mail'; remove mail from the library",
    ),
    "version": (
        resealed(version=2),
        "mail.json: version: Input should be 1; the file is of another version, or damaged",
    ),
    "kind": (resealed(kind="pickle"), "mail.json: kind: Input should be 'delta' or 'adapter'; the file is of another"),
    "field": (resealed(more=1), "mail.json: more: Extra inputs are not permitted; the file is of another version"),
    "quality": (sealed(ENTRY.model_dump(mode="json") | {"quality": {"a": float("inf")}}).encode(), "quality.a: Input"),
    "digest": (ENTRY.text().replace("a note", "my note").encode(), "mail.json: does not match its digest; the file is"),
    "spaces": (
        ENTRY.text().replace("\n ", "\n  ").encode(),
        "mail.json: does not match its digest; the file is damaged",
    ),
    "list": (b"[]", "mail.json: has no digest, expected a file that deltagram library wrote; the file is damaged"),
    "nothing": (
        b"",
        "mail.json: is not JSON, expected a file that deltagram library wrote; the file is damaged: bring",
    ),
    "depth": (b"[" * 10**5, "mail.json: is not JSON"),
    "large": (b" " * ((1 << 24) + 1), "mail.json: has 16,777,217 bytes, expected at most 16,777,216"),
}


@pytest.mark.parametrize(("data", "says"), BAD_ENTRIES.values(), ids=BAD_ENTRIES)
def test_an_entry_that_is_not_as_it_was_written(data: bytes, says: str, library: Path) -> None:
    (library / "variants" / "mail.json").write_bytes(data)
    with pytest.raises(LibraryError) as caught:
        open_library(library)
    assert says in str(caught.value)
    with writing(library) as writer:  # a damaged entry can be taken away
        writer.drop("mail")
    assert open_library(library).variants == {}


def test_what_is_no_library(tmp_path: Path, library: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    fix = ", expected a library; make one: deltagram library init BASE DIR"
    for name, says in {
        "none": "there is no such directory",
        "file": "is a file",
        "folder": "holds no library.json",
    }.items():
        with pytest.raises(LibraryError) as caught:
            open_library(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {says}{fix}"
    text = sealed({**json.loads(BASE.text()), "version": 2, "digest": None})
    content = json.loads(text)
    del content["digest"]
    (library / "library.json").write_text(sealed({**content, "version": 2}))
    with pytest.raises(
        LibraryError, match=r"library.json: is 'deltagram-library' version 2, expected 'deltagram-library' v"
    ):
        open_library(library)
    (library / "library.json").write_text(BASE.text())
    (library / "payloads").rmdir()
    with pytest.raises(LibraryError, match=r"payloads: is no directory, expected one, as every library has"):
        open_library(library)


def test_a_link_is_no_entry_and_no_library(tmp_path: Path, library: Path) -> None:
    (tmp_path / "mail.json").write_text(ENTRY.text())
    (library / "variants" / "mail.json").symlink_to(tmp_path / "mail.json")
    with pytest.raises(LibraryError, match=r"mail.json: is a link, expected a file; remove it"):
        open_library(library)
    (library / "library.json").rename(tmp_path / "library.json")
    (library / "library.json").symlink_to(tmp_path / "library.json")
    with pytest.raises(LibraryError, match=r"lib: holds no library.json"):
        open_library(library)


def test_a_variant_it_has_not(library: Path) -> None:
    (library / "variants" / "mail.json").write_text(ENTRY.text())
    opened = open_library(library)
    assert opened.payload("mail") == library / "payloads" / ENTRY.payload
    with pytest.raises(LibraryError) as caught:
        opened.payload("../mail")
    assert str(caught.value) == (
        f"{library}: has no variant '../mail', expected one of its 1: mail; deltagram library list shows them"
    )
