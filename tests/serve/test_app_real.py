"""The engine behind the door: a library of real models, asked over HTTP and by the command itself."""

import base64
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
import torch

from deltagram.serve.variants import open_service
from liveserver import live
from servedmodels import Shelved, shelved

FORMS = ("random", "exact")
WORDS = [5, 9, 40]
TEXT = " ".join(f"w{word - 3}" for word in WORDS)


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> Shelved:
    return shelved(tmp_path_factory.mktemp("classifiers"), "bert", forms=FORMS)


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Shelved:
    return shelved(tmp_path_factory.mktemp("writers"), "llama", forms=FORMS)


@pytest.fixture
def writing(writers: Shelved) -> Iterator[openai.OpenAI]:
    with (
        live(open_service(writers.library)) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def test_classes_are_the_restored_checkpoints(classifiers: Shelved) -> None:
    with live(open_service(classifiers.library)) as address, openai.OpenAI(base_url=address, api_key="none") as client:
        for name, model in classifiers.made.full.items():
            body = {"model": name, "input": [TEXT, TEXT]}
            answers: Any = client.post("/classify", body=body, cast_to=object)
            with torch.inference_mode():
                expected = model(torch.tensor([WORDS])).logits[0].softmax(-1).numpy()
            for answer in answers["data"]:
                found = [answer["scores"][f"LABEL_{i}"] for i in range(len(expected))]
                np.testing.assert_allclose(found, expected, atol=1e-4)
                assert answer["label"] == f"LABEL_{expected.argmax()}"
            assert answers["usage"]["prompt_tokens"] == 2 * len(WORDS)


def test_vectors_have_length_one(classifiers: Shelved) -> None:
    with (
        live(open_service(classifiers.library)) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client,
    ):
        packed = client.embeddings.create(model="exact", input=[TEXT], encoding_format="base64").data[0].embedding
        vector = np.frombuffer(base64.b64decode(str(packed)), "<f4")
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        by_numbers = client.embeddings.create(model="exact", input=WORDS).data[0].embedding
        np.testing.assert_allclose(by_numbers, vector, atol=1e-6)
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="exact", prompt=TEXT)
        assert caught.value.code == "wrong_task"


def test_texts_are_the_restored_checkpoints_and_stream(writing: openai.OpenAI, writers: Shelved) -> None:
    for name, model in writers.made.full.items():
        asked: dict[str, Any] = {"model": name, "prompt": TEXT, "max_tokens": 6, "temperature": 0}
        whole = writing.completions.create(**asked)
        with torch.inference_mode():
            ids = model.generate(torch.tensor([WORDS]), max_new_tokens=6, do_sample=False)[0, len(WORDS) :].tolist()
        expected = [f"w{token - 3}" for token in ids if token > 2]
        assert whole.choices[0].text.split() == expected
        pieces = [chunk.choices[0].text for chunk in writing.completions.create(**asked, stream=True)]
        assert "".join(pieces) == whole.choices[0].text
    drawn = {"model": "exact", "prompt": [TEXT, TEXT], "max_tokens": 5, "temperature": 1.5, "seed": 7}
    one, two = (choice.text for choice in writing.completions.create(**drawn).choices)
    assert one == two


def test_the_engines_refusals_have_their_status(writing: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        writing.completions.create(model="exact", prompt=TEXT, max_tokens=200)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError):  # no chat template
        writing.chat.completions.create(model="exact", messages=[{"role": "user", "content": TEXT}], max_tokens=2)
    with pytest.raises(openai.BadRequestError):  # no such token
        writing.completions.create(model="exact", prompt=[10**6])
    with pytest.raises(openai.NotFoundError):
        writing.completions.create(model="nobody", prompt=TEXT)


def test_the_command_serves_the_library(writers: Shelved) -> None:
    command = [sys.executable, "-m", "deltagram", "serve", str(writers.library), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert ": serving at http://127.0.0.1:" in line
            with openai.OpenAI(base_url=f"{line.split()[-1]}/v1", api_key="none", max_retries=0) as client:
                assert [model.id for model in client.models.list()] == ["base", "exact", "lora", "random"]
                assert client.completions.create(model="lora", prompt=TEXT, max_tokens=3).usage.completion_tokens <= 3
                library: Any = client.get(f"{line.split()[-1]}/library", cast_to=object)
            assert [row["name"] for row in library["library"]["variants"]] == ["exact", "lora", "random"]
            assert library["library"]["variants"][0]["method"] == "exact"
            assert [state["loaded"] for state in library["states"]] == [True, False, True, False]
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
            assert (process.returncode, err) == (0, "")
            assert json.loads(out)["numbers"]["requests"] == {"generate": 1}
        finally:
            process.kill()
