"""Damaged and hostile deltas: refused with a DeltagramError, or consistent after all, and never a danger.

What is damaged is always refused. What is hostile carries the right digests; there the library must agree with the
reader made from docs/FORMAT.md: both refuse, or both restore the same bytes.
"""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest

from deltagram import jobs
from deltagram.errors import DeltagramError


def load(name: str) -> ModuleType:
    """A module beside this one."""
    if name not in sys.modules:
        spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


tampering = load("tampering")
reader = tampering.reader

SECONDS = 5  # for one call on a delta of a few kB
LARGEST = 32 << 20  # bytes of any file that is written meanwhile
GROWTH = 64 << 20  # bytes of memory that a hostile delta may cost
Case = tuple[str, Callable[[Path], object]]
FLOATS = {"F16": np.dtype("f2"), "BF16": np.dtype(ml_dtypes.bfloat16), "F32": np.dtype("f4"), "F64": np.dtype("f8")}

# Tiny deltas of every form, mask and codec

Settings = dict[str, Any]
DELTAS: dict[str, Settings] = {
    "stratified": {"keep": 0.1, "plan": "resized"},
    "bernoulli": {"keep": 0.3, "method": "bernoulli", "values": "4bit", "pack": False},
    "listed": {"keep": 0.2, "method": "magnitude", "values": "f32", "pack": False, "plan": "resized"},
    "dense": {"keep": 0.7, "method": "magnitude", "values": "codebook3"},
    "codebook": {"keep": 0.5, "method": "bernoulli", "values": "codebook4", "pack": False},
    "sign": {"keep": 1.0, "values": "sign", "plan": "resized"},
    "five": {"keep": 0.4, "values": "5bit"},
    "half": {"keep": 0.2, "values": "f16", "seed": -7},
    "columns": {"keep": 0.2, "method": "columns", "columns": 0.4, "values": "f32", "pack": False, "plan": "resized"},
    "few columns": {"keep": 0.1, "method": "columns-magnitude", "columns": 0.9, "values": "4bit"},
    "exact": {"method": "exact"},
    "coded": {"keep": 0.3, "plan": "coded"},
    "coded exactly": {"keep": 0.3, "plan": "coded", "pack": False, "values": "sign"},
    "factors": {"adapter": "factors", "keep": 0.3, "values": "f16"},
    "listed factors": {
        "adapter": "factors",
        "keep": 0.4,
        "method": "magnitude",
        "values": "4bit",
        "pack": False,
        "seed": 5,
    },
    "strata": {"adapter": "factors", "keep": 0.1, "values": "codebook2"},
    "sharded": {"keep": 0.3, "method": "magnitude", "values": "bf16", "shard_bytes": 500},
}
PLANS = {
    "resized": "tensors: [{match: longer, form: resized}, {match: shorter, form: resized}, "
    "{match: number, form: pruned}]",
    "coded": "tensors: [{match: longer, form: whole, values: 8bit}, {match: shorter, form: whole, values: 3bit}, "
    "{match: number, form: whole, values: f32}, {match: plain, form: whole, values: bf16}, "
    "{match: halves, form: whole, values: codebook3}, {match: doubles, form: whole, values: sign}, "
    "{match: added, form: whole, values: f16}, {match: cast, form: whole, values: 4bit}]",
}


def given(dtype: str, array: Any) -> Any:
    array = np.asarray(array)
    array = array.astype(FLOATS[dtype]) if dtype in FLOATS else array
    return reader.Tensor(dtype, array.shape, array.tobytes())


def checkpoint(path: Path, tensors: dict[str, Any], *, config: str) -> Path:
    path.mkdir(parents=True)
    tampering.write(path / "model.safetensors", reader.padded(reader.anew({"format": "pt"}, tensors)), tensors)
    (path / "config.json").write_text(config)
    (path / "tokenizer.json").write_text("{}")
    return path


def models(place: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(4)
    kinds = {
        "plain": "F32 F32",
        "narrowed": "F32 BF16",
        "halves": "F16 F16",
        "doubles": "F64 F32",
        "brains": "BF16 BF16",
    }
    base, tuned = {}, {}
    for name, (one, _, other) in ((name, pair.partition(" ")) for name, pair in kinds.items()):
        start = rng.normal(size=(9, 14))
        base[name], tuned[name] = given(one, start), given(other, start + 0.1 * rng.normal(size=start.shape))
    start = rng.normal(size=(12, 6))
    base["longer"], tuned["longer"] = given("F32", start[:8]), given("F32", start + 0.1)
    base["shorter"], tuned["shorter"] = given("BF16", start), given("F16", start[:7] + 0.1)
    base["number"], tuned["number"] = given("F32", 1.0), given("F32", 2.0)
    base["codes"], tuned["codes"] = given("I32", np.arange(30, dtype="i4")), given("I32", np.arange(30, dtype="i4") * 3)
    base["same"] = tuned["same"] = given("I64", np.arange(5))
    base["cast"], tuned["cast"] = given("F32", np.arange(8)), given("F16", np.arange(8))
    base["old.\u00fc"] = tuned["new.\u00fc"] = given("F32", np.arange(9))
    for name, dtype, shape in (("linear", "F32", (9, 14)), ("conv", "BF16", (6, 4, 3)), ("table", "F64", (12, 7))):
        start = rng.normal(size=shape)
        base[f"{name}.weight"], tuned[f"{name}.weight"] = given(dtype, start), given(dtype, start + 0.01)
    base["dropped"], tuned["added"] = given("F16", np.ones(3)), given("F16", np.ones((2, 2)))
    tuned["\ue812"] = given("U8", np.arange(3, dtype="u1"))
    return checkpoint(place / "base", base, config="{}"), checkpoint(place / "tuned", tuned, config='{"a": 1}')


def adapter(path: Path) -> Path:
    """LoRA factors for a linear layer, a convolution, and a table whose weight they are transposed for."""
    rng = np.random.default_rng(6)
    shapes = {
        "linear.lora_A.weight": (4, 14), "linear.lora_B.weight": (9, 4), "conv.lora_A.weight": (4, 4, 3),
        "conv.lora_B.weight": (6, 4, 1), "table.lora_embedding_A": (4, 12), "table.lora_embedding_B": (7, 4),
    }  # fmt: skip
    tensors = {f"base_model.model.{name}": given("F32", rng.normal(size=shape)) for name, shape in shapes.items()}
    path.mkdir()
    tampering.write(path / "adapter_model.safetensors", reader.padded(reader.anew({"format": "pt"}, tensors)), tensors)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 3, "alpha_pattern": {"conv": -0.7}}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


@dataclass(frozen=True)
class Place:
    """A base, pristine deltas of it, and a directory where they are tampered with."""

    base: Path
    deltas: Path
    work: Path

    def fresh(self, name: str) -> Path:
        """A copy of a pristine delta."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        delta = self.work / name
        shutil.copytree(self.deltas / name, delta)
        return delta


def made(place: Path) -> Place:
    base, tuned = models(place)
    lora = adapter(place / "lora")
    for name, rules in PLANS.items():
        (place / f"{name}.yaml").write_text(rules)
    for name, pristine in DELTAS.items():
        settings = dict(pristine)
        forms = settings.pop("plan", None)
        whole = ["longer", "shorter"] if forms is None else []
        plan = None if forms is None else place / f"{forms}.yaml"
        rename = [("old.", "new.")]
        model = lora if "adapter" in settings else tuned
        jobs.prune(base, model, place / "deltas" / name, whole=whole, plan=plan, rename=rename, **settings)
    rows = {name: np.linspace(0.5, 2, 9) for name in ("plain", "doubles", "narrowed")}
    jobs.rescale(place / "deltas" / "five", divide_by=rows)
    jobs.rescale(place / "deltas" / "factors", divide_by={"linear.weight:B": np.linspace(0.5, 2, 9)})
    return Place(base, place / "deltas", place / "work")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "deltas").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, hard))
    found = made(folder)
    before = {path: path.read_bytes() for path in (found.base, found.deltas) for path in files(path)}
    with mock.patch("os.fsync"):  # nothing here is about power cuts, and thousands of runs wait for the disk
        yield found
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in (found.base, found.deltas) for path in files(path)} == before


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# What a call did


class TooLateError(Exception):
    """Not an OSError, as TimeoutError is, which a reader of files might catch."""


@contextmanager
def bounded() -> Iterator[None]:
    """A call that takes too long ends with TooLateError."""

    def late(*_: object) -> None:
        raise TooLateError(f"more than {SECONDS} s")

    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def refusal(call: Callable[[], object]) -> str:
    """'' if the call succeeds, 'refused' for a DeltagramError, else what went wrong."""
    try:
        with bounded():
            call()
    except DeltagramError as fault:
        return "refused" if str(fault) else "an empty message"
    except (Exception, MemoryError) as fault:  # noqa: BLE001 - whatever it is, it is reported
        return f"{type(fault).__name__}: {fault}"[:200]
    return ""


def attempts(place: Place, delta: Path) -> list[str]:
    """What verify, verify with the base, and restore say; none changes the delta or leaves a failed output behind."""
    out = place.work / "out"
    before = {path: path.read_bytes() for path in files(delta)}
    said = [
        refusal(lambda: jobs.verify(delta)),
        refusal(lambda: jobs.verify(delta, base=place.base)),
        refusal(lambda: jobs.restore(place.base, delta, out)),
    ]
    left = {path.name for path in place.work.iterdir()} - {delta.name} - ({"out"} if not said[2] else set())
    said += [f"left behind: {sorted(left)}"] if left else []
    return said if {path: path.read_bytes() for path in files(delta)} == before else [*said, "the delta is changed"]


# Damage


def flips(rng: random.Random, data: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Single bits: some of the header's length, one in each byte of its start, then half in it and half behind it."""
    header = min(8 + int.from_bytes(data[:8], "little"), len(data))
    spots = [rng.randrange(64) for _ in range(8)] + [8 * byte + rng.randrange(8) for byte in range(8, 56)]
    for bit in spots + [rng.randrange(64, 8 * header) for _ in range(count // 2)]:
        yield f"bit {bit}", flipped(data, bit)
    for bit in (rng.randrange(8 * header, 8 * len(data)) for _ in range(count // 2)) if header < len(data) else ():
        yield f"bit {bit}", flipped(data, bit)


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :]


def other_lengths(rng: random.Random, data: bytes) -> Iterator[tuple[str, bytes]]:
    size = len(data)
    for length in sorted({0, 1, 7, 8, 9, size - 1, size - 8, *(rng.randrange(size) for _ in range(6))}):
        if 0 <= length < size:
            yield f"cut to {length}", data[:length]
    for more in (b"\0", b" ", b"\0" * 8, data):
        yield f"{len(more)} bytes more", data + more


def damaged(name: str, delta: Path) -> Iterator[tuple[str, Path, bytes]]:
    """(label, file, its damaged bytes) for every file that is part of a delta."""
    rng = random.Random(name)
    for path in files(delta):
        if path.name == "README.md":
            continue
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            cases = flips(rng, data, 50 if path.name == "delta.safetensors" else 12)
        else:
            cases = (
                (f"bit {bit}", flipped(data, bit)) for bit in rng.sample(range(8 * len(data)), min(12, 8 * len(data)))
            )
        for label, other in [*cases, *other_lengths(rng, data)]:
            if other != data:
                yield f"{path.name}: {label}", path, other


@pytest.mark.parametrize("name", DELTAS)
def test_damage_is_always_refused(place: Place, name: str) -> None:
    delta = place.fresh(name)
    assert attempts(place, delta) == ["", "", ""]
    shutil.rmtree(place.work / "out")
    wrong, cases = [], list(damaged(name, delta))
    for label, path, other in cases:
        data = path.read_bytes()
        path.write_bytes(other)
        said = attempts(place, delta)
        if said != ["refused"] * 3:
            wrong.append(f"{label}: {said}")
            shutil.rmtree(place.work / "out", ignore_errors=True)
        path.write_bytes(data)
    assert len(cases) > 120
    assert not wrong, "\n".join(wrong[:30])


# Hostility


def disagreement(place: Place, delta: Path) -> str:
    """'' where the library and the reader of the document agree about a delta, and both behave."""
    said = attempts(place, delta)
    try:
        mine = reader.restored(place.base, delta)
    except reader.Refused as fault:
        mine, why = None, str(fault)
    if set(said) - {"", "refused"}:
        return f"{said}"
    try:
        if said[1] != said[2]:
            return f"verify and restore differ: {said}"
        if mine is None:
            return f"accepted against the document: {why}" if not said[2] else ""
        if said[2]:
            return "refused, but the document allows it"
        written = reader.read_checkpoint(place.work / "out")
        return "" if written == mine else f"other bytes: {[name for name in mine if written.get(name) != mine[name]]}"
    finally:
        shutil.rmtree(place.work / "out", ignore_errors=True)


def agree(place: Place, name: str, cases: Sequence[Case]) -> None:
    """Each case tampers with a fresh copy of a delta."""
    wrong = []
    for label, tamper in cases:
        delta = place.fresh(name)
        tamper(delta)
        fault = disagreement(place, delta)
        if fault:
            wrong.append(f"{label}: {fault}")
    assert not wrong, "\n".join(wrong[:30])


WHOLE = [name for name in DELTAS if name != "sharded"]  # deltas of one file


def manifest_cases(place: Place, name: str) -> Iterator[Case]:
    kit = tampering.take_apart(place.deltas / name)
    for label, path, new in tampering.changes(kit.manifest):
        yield label, lambda delta, path=path, new=new: tampering.put_together(tampering.changed(kit, path, new), delta)


def part_cases(place: Place, name: str) -> Iterator[Case]:
    yield from tampering.parts_replaced(tampering.take_apart(place.deltas / name))


def other_cases(place: Place, name: str) -> Iterator[Case]:
    delta = place.deltas / name
    kit = tampering.take_apart(delta)
    yield from tampering.parts_moved(kit)
    yield from tampering.names_changed(kit)
    yield from tampering.scales_replaced(kit)
    yield from tampering.frames_replaced(kit)
    yield from tampering.companions_elsewhere(kit)
    for file in ("delta.safetensors", "scales.safetensors"):
        yield from tampering.headers_replaced(delta, file)
    yield from tampering.links(delta)
    yield from tampering.gone(delta)


ALWAYS = re.compile(  # what a sample might miss: few cases, each unlike all others
    r"^\['(base|tuned|created_by)'.*ud800|'form'\] = 'resized'|'coding'\] = \{.*divisor.*coding"
    r"|^(\['files'\] with )?x{60}"
)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(("family", "count"), [(manifest_cases, 90), (part_cases, 25), (other_cases, 65)])
def test_hostile_deltas(place: Place, name: str, family: Callable[[Place, str], Iterator[Case]], count: int) -> None:
    cases = list(family(place, name))
    agree(place, name, [case for case in cases if ALWAYS.search(case[0])] + random.Random(name).sample(cases, count))


def test_hostile_shards(place: Place) -> None:
    delta = place.deltas / "sharded"
    families = (tampering.indexes, tampering.shards, tampering.links, tampering.gone)
    agree(place, "sharded", [case for family in families for case in family(delta)])


# Memory


def heavy_cases(place: Place) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
    """(delta, label, tampering): what claims to be huge, and what makes two claims about one base tensor."""
    rng = random.Random(8)
    for name in ("stratified", "bernoulli", "listed", "dense", "columns", "few columns", "exact", "coded", "factors"):
        kit = tampering.take_apart(place.deltas / name)
        large = [(label, path, new) for label, path, new in tampering.changes(kit.manifest) if is_large(new)]
        for label, path, new in rng.sample(large, 12):
            yield (
                name,
                label,
                lambda delta, kit=kit, path=path, new=new: tampering.put_together(
                    tampering.changed(kit, path, new), delta
                ),
            )
    delta = place.deltas / "stratified"
    kit = tampering.take_apart(delta)
    cases = [*tampering.heavy(kit), *tampering.bases_shared(kit), *tampering.frames_replaced(kit)]
    cases += tampering.headers_replaced(delta, "delta.safetensors")
    for label, tamper in cases[:90] + rng.sample(cases[90:], 30):
        yield "stratified", label, tamper


def is_large(new: Any) -> bool:
    if isinstance(new, dict):
        return any(map(is_large, new.values()))
    if isinstance(new, list):
        return any(map(is_large, new))
    return type(new) is int and 1 << 28 <= new < 1 << 64


def test_hostile_deltas_in_little_memory(place: Place) -> None:
    """In a process of its own, which may grow by 64 MiB of address space and no more."""
    queue = place.work.parent / "heavy"
    labels = []
    for number, (name, label, tamper) in enumerate(heavy_cases(place)):
        tamper(shutil.copytree(place.deltas / name, queue / str(number) / "delta"))
        labels.append(f"{name}: {label}")
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, __file__, str(place.base), str(place.deltas), str(queue), str(len(labels))]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    said = ran.stdout.splitlines()
    assert (ran.returncode, len(said)) == (0, len(labels)), f"died at {labels[len(said)]}: {ran.stderr[-500:]}"
    zipped = zip(labels, said, strict=True)
    odd = [f"{label}: {line}" for label, line in zipped if set(line.split(", ")) - {"refused", "ok"}]
    assert not odd, "\n".join(odd[:30])


def in_little_memory(base: Path, deltas: Path, queue: Path, count: int) -> None:
    """Warm up, forbid growth, then print a line a hostile delta."""
    for name in DELTAS:
        jobs.verify(deltas / name, base=base)
        jobs.restore(base, deltas / name, queue / name)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = pages * resource.getpagesize() + GROWTH
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in range(count):
        place = Place(base, deltas, queue / str(number))
        sys.stdout.write(", ".join(said or "ok" for said in attempts(place, place.work / "delta")) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    in_little_memory(*map(Path, sys.argv[1:4]), int(sys.argv[4]))
