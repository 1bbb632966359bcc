"""The service: any variant, from any thread, under changes of the library; every answer is that variant's own."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deltagram.errors import BaseError, LibraryError, RequestError
from deltagram.jobs import library_add, library_init
from deltagram.serve.requests import BASE, Sampling
from deltagram.serve.variants import Variants, open_service
from servedmodels import Shelved, shelved

FORMS = ("random", "columns", "coded", "exact")


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Shelved:
    return shelved(tmp_path_factory.mktemp("classifiers"), "bert", forms=FORMS)


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Shelved:
    return shelved(tmp_path_factory.mktemp("writers"), "llama", forms=FORMS)


@pytest.fixture
def service(classifiers: Shelved) -> Iterator[Variants]:
    opened = open_service(classifiers.library, max_batch=8, max_queue=64)
    yield opened
    opened.close(drain=5)


@pytest.fixture
def writing(writers: Shelved) -> Iterator[Variants]:
    opened = open_service(writers.library, max_batch=8, max_queue=64)
    yield opened
    opened.close(drain=5)


def expected(model: Any, words: list[int]) -> np.ndarray:
    with torch.inference_mode():
        scores: np.ndarray = model(torch.tensor([words])).logits[0].softmax(-1).numpy()
    return scores


def text_of(number: int) -> tuple[str, list[int]]:
    words = [3 + (number * 7 + i) % 60 for i in range(1 + number % 5)]
    return " ".join(f"w{w - 3}" for w in words), words


def refused(future: "Future[Any]") -> RequestError:
    with pytest.raises(RequestError) as caught:
        future.result(timeout=20)
    return caught.value


def test_every_answer_is_its_variants_own(service: Variants, classifiers: Shelved) -> None:
    """Many threads, each asking any variant; a wrong variant's answer would be far off."""
    wrong: list[str] = []

    def ask(start: int) -> None:
        for number in range(start, start + 30):
            name = list(classifiers.made.full)[number % len(classifiers.made.full)]
            text, words = text_of(number)
            answer = service.classify(name, text, deadline=60).result()
            scores = np.array([answer.scores[f"LABEL_{i}"] for i in range(len(answer.scores))])
            if np.abs(scores - expected(classifiers.made.full[name], words)).max() > 1e-4:
                wrong.append(f"{name} {text}")

    threads = [threading.Thread(target=ask, args=(100 * i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    totals = service.totals()
    assert totals.requests == {"classify": 180}
    assert totals.waiting == 0
    assert sum(totals.batches.values()) <= 180
    assert totals.prompt_tokens == sum(len(text_of(n)[1]) for i in range(6) for n in range(100 * i, 100 * i + 30))


def test_texts_go_on_as_they_do_alone(writing: Variants, writers: Shelved) -> None:
    """Different variants, lengths, seeds and stops in one batch: each text is what it is when asked alone."""
    asked = [
        (name, text_of(n)[0], Sampling(max_tokens=2 + n, temperature=n % 2, seed=n, stop=("w7",) if n % 3 else ()))
        for n, name in enumerate([*writers.made.full, *writers.made.full])
    ]
    together = [writing.complete(name, text, sampling, deadline=60) for name, text, sampling in asked]
    answers = [pending.result.result(timeout=60) for pending in together]
    for (name, text, sampling), answer in zip(asked, answers, strict=True):
        pieces: list[str] = []
        alone = writing.complete(name, text, sampling, on_text=pieces.append).result.result(timeout=60)
        assert alone == answer
        assert "".join(pieces) == answer.text
        assert answer.completion_tokens <= sampling.max_tokens
        assert "w7" not in answer.text or not sampling.stop
    assert len({answer.text for answer in answers}) > len(FORMS)


def test_what_the_base_and_variants_can_do(service: Variants, classifiers: Shelved) -> None:
    first, *rest = service.variants()
    assert (first.name, first.loaded, first.tasks) == (BASE, True, ("embed",))
    assert [state.name for state in rest] == sorted(classifiers.made.payloads)
    assert not any(state.loaded for state in rest)
    state = service.load("random")
    assert state.loaded
    assert state.nbytes > 0
    assert state.tasks == ("classify", "embed")
    assert service.unload("random").loaded is False
    assert service.embed(BASE, "w1 w2").result(timeout=20).vector.shape == (32,)
    assert service.embed("random", [4, 5]).result(timeout=20).tokens == 2


def test_refusals_say_why(service: Variants, writing: Variants) -> None:
    fault = refused(service.classify("nobody", "w1"))
    assert (fault.reason, str(fault)) == (
        "unknown_variant",
        "nobody: is no variant of this library, expected base, or one of 5: coded, columns, exact, lora, random",
    )
    fault = refused(service.complete("random", "w1", Sampling()).result)
    assert (fault.reason, str(fault)) == (
        "wrong_task", "random: cannot generate, expected what it can: classify and embed",
    )  # fmt: skip
    fault = refused(service.classify(BASE, "w1"))
    assert (fault.reason, fault.found) == ("wrong_task", "cannot classify")
    fault = refused(service.classify("random", "w1 " * 41))
    assert (fault.reason, str(fault)) == (
        "too_long", "random: the input has 41 tokens, expected 40 at most; send less",
    )  # fmt: skip
    fault = refused(service.classify("random", ""))
    assert (fault.reason, fault.found) == ("invalid", "the input has no token")
    fault = refused(service.embed("random", [9999]))
    assert (fault.reason, str(fault)) == ("invalid", "random: the tokenizer has no token 9999, expected 0 to 62")
    fault = refused(writing.complete("random", "w1 w2", Sampling(max_tokens=39)).result)
    assert (fault.reason, fault.found) == ("too_long", "2 tokens of prompt and 39 to follow")
    fault = refused(writing.complete("random", [{"role": "user", "content": "w1"}], Sampling()).result)
    assert (fault.reason, fault.found) == ("wrong_task", "its tokenizer has no chat template")
    fault = refused(service.classify("random", "w1", deadline=0))
    assert fault.reason == "deadline"
    with pytest.raises(RequestError, match="the base stays in memory"):
        service.unload(BASE)
    assert service.totals().refused["unknown_variant"] == 1


def test_a_full_queue_refuses_at_once(classifiers: Shelved, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_service(classifiers.library, max_queue=4)
    gate, plain = threading.Event(), opened._engine.classify

    def held(*args: Any, **kwargs: Any) -> Any:
        gate.wait(20)
        return plain(*args, **kwargs)

    monkeypatch.setattr(opened._engine, "classify", held)
    inside = [opened.classify("random", "w1 w2") for _ in range(4)]
    fault = refused(opened.classify("random", "w1"))
    assert (fault.reason, fault.found) == ("queue_full", "4 requests are inside already")
    gate.set()
    assert all(future.result(timeout=20).label for future in inside)
    assert opened.totals().waiting == 0
    opened.close()


def test_closing_finishes_what_is_inside_and_gives_the_base_back(classifiers: Shelved) -> None:
    opened = open_service(classifiers.library)
    inside = [opened.classify(name, "w1 w2 w3") for name in classifiers.made.payloads for _ in range(5)]
    opened.close(drain=30)
    assert all(future.result(timeout=0).label for future in inside)
    assert refused(opened.classify("random", "w1")).reason == "closing"
    base = opened._engine.base
    for name, tensor in base.tensors.items():
        assert bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) == bytes(base.checkpoint.views[name])


def test_a_cancelled_text_makes_room(writing: Variants) -> None:
    pending = writing.complete("random", "w1", Sampling(max_tokens=30, temperature=0))
    pending.cancel()
    assert refused(pending.result).reason == "cancelled"
    assert writing.complete("random", "w1", Sampling(max_tokens=2)).result.result(timeout=30).completion_tokens <= 2
    assert writing.totals().waiting == 0


def test_a_damaged_variant_hurts_nobody_else(classifiers: Shelved, tmp_path: Path) -> None:
    library_init(classifiers.made.base, tmp_path / "library")
    for name in ("random", "columns"):
        library_add(tmp_path / "library", classifiers.made.payloads[name], name=name)
    opened = open_service(tmp_path / "library")
    file = opened._shelf.payload("random")[1] / "delta.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    for _ in range(2):
        fault = refused(opened.classify("random", "w1"))
        assert fault.reason == "unusable_variant"
        assert "its payload has digest" in fault.found
        assert str(tmp_path) not in str(fault)
    file.unlink()
    fault = refused(opened.classify("random", "w1"))
    assert fault.reason == "unusable_variant"
    assert str(tmp_path) not in str(fault)
    text, words = text_of(3)
    answer = opened.classify("columns", text).result(timeout=20)
    scores = np.array([answer.scores[f"LABEL_{i}"] for i in range(len(answer.scores))])
    assert np.abs(scores - expected(classifiers.made.full["columns"], words)).max() < 1e-4
    opened.close()


def test_a_fault_of_the_model_is_one_rows_own(
    service: Variants, classifiers: Shelved, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = service._engine.classify

    def failing(rows: Any, **kwargs: Any) -> Any:
        if any(row.ids[0] == 20 for row in rows):
            raise MemoryError("no more memory")
        return plain(rows, **kwargs)

    monkeypatch.setattr(service._engine, "classify", failing)
    futures = [service.classify("random", text) for text in ("w1", "w17", "w2", "w3")]
    fault = refused(futures[1])
    assert (fault.reason, fault.found) == ("unusable_variant", "the model failed (no more memory)")
    assert all(futures[i].result(timeout=20).label for i in (0, 2, 3))


def test_variants_come_and_go_while_it_serves(classifiers: Shelved, tmp_path: Path) -> None:
    library_init(classifiers.made.base, tmp_path / "library")
    library_add(tmp_path / "library", classifiers.made.payloads["random"], name="one")
    opened = open_service(tmp_path / "library", memory=1)
    text, words = text_of(4)

    def scores(name: str) -> np.ndarray:
        answer = opened.classify(name, text).result(timeout=20)
        return np.array([answer.scores[f"LABEL_{i}"] for i in range(len(answer.scores))])

    assert np.abs(scores("one") - expected(classifiers.made.full["random"], words)).max() < 1e-4
    library_add(tmp_path / "library", classifiers.made.payloads["columns"], name="two")
    assert np.abs(scores("two") - expected(classifiers.made.full["columns"], words)).max() < 1e-4
    assert [state.loaded for state in opened.variants()] == [True, False, True]  # one byte of memory holds one
    library_add(tmp_path / "library", classifiers.made.payloads["coded"], name="one", force=True)
    assert np.abs(scores("one") - expected(classifiers.made.full["coded"], words)).max() < 1e-4
    assert opened.totals().evictions >= 2
    opened.close()


def test_memory_is_flat_over_many_loads(service: Variants, classifiers: Shelved) -> None:
    """Objects, not bytes: what stays after a hundred loads and unloads is what stayed after ten."""
    import gc  # noqa: PLC0415

    def cycle(times: int) -> int:
        for number in range(times):
            name = FORMS[number % 3]
            service.classify(name, "w1 w2").result(timeout=20)
            service.unload(name)
        time.sleep(0.05)
        gc.collect()
        return sum(type(found) is torch.Tensor for found in gc.get_objects())

    cycle(30)
    assert cycle(60) <= cycle(30) + 20


def test_bad_libraries_are_refused(classifiers: Shelved, writers: Shelved, tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"holds no library\.json"):
        open_service(tmp_path)
    with pytest.raises(BaseError, match="give the base of this library"):
        open_service(classifiers.library, base=writers.made.base)
    with pytest.raises(LibraryError, match="its base nowhere is not here; name a local copy with --base"):
        open_service(_moved(classifiers.library, tmp_path))


def _moved(library: Path, folder: Path) -> Path:
    from deltagram.store.library import open_library  # noqa: PLC0415

    out = folder / "moved"
    (out / "variants").mkdir(parents=True)
    (out / "payloads").mkdir()
    base = open_library(library).base.model_copy(update={"name": "nowhere", "where": "hub"})
    (out / "library.json").write_text(base.text())
    return out
