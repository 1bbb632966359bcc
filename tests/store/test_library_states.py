"""Any order of adding, replacing and removing leaves what a dictionary would hold, each payload once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from checkpoints import write_checkpoint
from deltagram.errors import LibraryError
from deltagram.jobs import library_add, library_init, library_list, library_remove, library_verify, prune
from deltagram.store import open_library

DELTAS = ("one", "two", "three")
names = st.sampled_from(["a", "A", "b", "B.2", "b.2", "_x"])


class Libraries(RuleBasedStateMachine):
    """A library beside a dictionary from name to delta."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.library = folder, folder / "lib"
        library_init(folder / "base", self.library)
        self.held: dict[str, str] = {}

    @rule(name=names, delta=st.sampled_from(DELTAS), force=st.booleans())
    def add(self, name: str, delta: str, force: bool) -> None:
        clash = any(other != name and other.lower() == name.lower() for other in self.held)
        if clash or (name in self.held and not force):
            with pytest.raises(LibraryError, match="by case alone" if clash else "has a variant"):
                library_add(self.library, self.folder / delta, name=name, force=force)
            return
        shared = library_add(self.library, self.folder / delta, name=name, force=force).numbers["shared"]
        assert shared == (delta in self.held.values())
        self.held[name] = delta

    @rule(name=names)
    def remove(self, name: str) -> None:
        if name in self.held:
            library_remove(self.library, name)
            del self.held[name]
            return
        with pytest.raises(LibraryError, match="has no variant"):
            library_remove(self.library, name)

    @invariant()
    def holds_what_the_dictionary_does(self) -> None:
        opened = open_library(self.library)
        assert set(opened.variants) == set(self.held)
        for name, delta in self.held.items():
            place, source = opened.payload(name), self.folder / delta
            assert (place / "delta.safetensors").read_bytes() == (source / "delta.safetensors").read_bytes()
        assert len([*(self.library / "payloads").iterdir()]) == len(set(self.held.values()))
        rows = library_list(self.library).numbers["variants"]
        same = {
            name: sorted(n for n, d in self.held.items() if d == delta and n != name)
            for name, delta in self.held.items()
        }
        assert {name: row["shared"] for name, row in rows.items()} == same

    def teardown(self) -> None:
        assert library_verify(self.library, base=self.folder / "base").numbers["faults"] == []
        shutil.rmtree(self.library)


def test_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = {"w.weight": rng.standard_normal((16, 16)).astype(np.float32)}
    write_checkpoint(tmp_path / "base", base)
    write_checkpoint(tmp_path / "tuned", {"w.weight": base["w.weight"] + np.float32(0.01)})
    for seed, name in enumerate(DELTAS):
        prune(tmp_path / "base", tmp_path / "tuned", tmp_path / name, keep=0.1, seed=seed)
    few = settings(max_examples=12, stateful_step_count=12, deadline=None)
    run_state_machine_as_test(lambda: Libraries(tmp_path), settings=few)
