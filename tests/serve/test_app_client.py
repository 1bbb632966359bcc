"""OpenAI's own client, unchanged, against a real server."""

import asyncio
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from deltagram.errors import RequestError
from deltagram.serve.app_keys import Keys
from fakeservice import FakeService, embedded, pieces
from liveserver import live

KEY = "a-key-for-asking"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with live(FakeService("alpha", "beta"), keys=Keys(api=KEY)) as found:
        yield found


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["base", "alpha", "beta"]
    assert client.models.retrieve("beta").owned_by == "deltagram"
    with pytest.raises(openai.NotFoundError, match=r"the model 'gamma' does not exist"):
        client.models.retrieve("gamma")


def test_completions_of_one_text_and_of_several(client: openai.OpenAI) -> None:
    one = client.completions.create(model="alpha", prompt="once", max_tokens=4)
    assert one.choices[0].text == "".join(pieces("alpha", "once", 4))
    assert one.choices[0].finish_reason == "length"
    assert (one.usage.prompt_tokens, one.usage.completion_tokens, one.usage.total_tokens) == (3, 4, 7)
    many = client.completions.create(model="beta", prompt=["a", "b", "c"], stop=["its"], max_tokens=100)
    assert [choice.index for choice in many.choices] == [0, 1, 2]
    assert all("its" not in choice.text for choice in many.choices)
    assert {choice.finish_reason for choice in many.choices} == {"stop"}
    tokens = client.completions.create(model="beta", prompt=[5, 6, 7], temperature=0, seed=3, top_p=0.5)
    assert tokens.choices[0].text == "".join(pieces("beta", [5, 6, 7], 16))


def test_streams_join_to_the_whole(client: openai.OpenAI) -> None:
    asked = {"model": "alpha", "prompt": ["x", "y"], "max_tokens": 6}
    whole = client.completions.create(**asked)
    texts = ["", ""]
    ends: dict[int, str] = {}
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
        assert chunk.usage is None
    assert texts == [choice.text for choice in whole.choices]
    assert ends == {0: "length", 1: "length"}


def test_chat_with_parts_and_counts(client: openai.OpenAI) -> None:
    messages = [
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "how "}, {"type": "text", "text": "was it?"}]},
    ]
    seen = [{"role": "system", "content": "be short"}, {"role": "user", "content": "how was it?"}]
    whole = client.chat.completions.create(model="beta", messages=messages, max_completion_tokens=5)
    expected = "".join(pieces("beta", seen, 5))
    assert (whole.choices[0].message.role, whole.choices[0].message.content) == ("assistant", expected)
    stream = client.chat.completions.create(
        model="beta", messages=messages, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == expected
    assert chunks[-2].choices[0].finish_reason == "length"
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 5)
    again = [*messages, whole.choices[0].message.model_dump(), {"role": "user", "content": "and?"}]
    assert client.chat.completions.create(model="beta", messages=again).choices[0].message.content


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_are_the_services_bits(client: openai.OpenAI, encoding: str | None) -> None:
    more = {} if encoding is None else {"encoding_format": encoding}
    found = client.embeddings.create(model="alpha", input=["one", "two"], **more)
    if encoding == "base64":
        vectors = [np.frombuffer(__import__("base64").b64decode(item.embedding), "<f4") for item in found.data]
    else:
        vectors = [np.array(item.embedding, np.float32) for item in found.data]
    for text, vector in zip(("one", "two"), vectors, strict=True):
        np.testing.assert_array_equal(vector, embedded("alpha", text).vector)
    assert client.embeddings.create(model="alpha", input=[1, 2, 3]).usage.prompt_tokens == 3


ERRORS = {
    "queue_full": (openai.RateLimitError, 429), "invalid": (openai.BadRequestError, 400),
    "too_long": (openai.BadRequestError, 400), "wrong_task": (openai.BadRequestError, 400),
    "unknown_variant": (openai.NotFoundError, 404), "unusable_variant": (openai.InternalServerError, 503),
    "deadline": (openai.InternalServerError, 504), "closing": (openai.InternalServerError, 503),
    "cancelled": (openai.APIStatusError, 499),
}  # fmt: skip


@pytest.mark.parametrize("reason", ERRORS)
def test_each_reason_is_its_error_whole_and_streamed(client: openai.OpenAI, reason: str) -> None:
    kind, status = ERRORS[reason]
    for stream in (False, True):
        with pytest.raises(kind, match=rf"alpha: was asked to be refused \({reason}\)") as caught:
            client.completions.create(model="alpha", prompt=f"!{reason}", stream=stream)
        assert caught.value.status_code == status
    with pytest.raises(kind):
        client.embeddings.create(model="alpha", input=["fine", f"!{reason}"])
    header = caught.value.response.headers.get("retry-after")
    assert header == ("1" if reason in ("queue_full", "closing") else None)


def test_a_fault_of_the_engine_shows_nothing_of_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="the server failed at this request") as caught:
        client.embeddings.create(model="alpha", input="!boom")
    assert "secret" not in caught.value.response.text
    assert caught.value.response.headers["x-content-type-options"] == "nosniff"
    with pytest.raises(openai.APIError, match="the server failed at this request"):
        list(client.completions.create(model="alpha", prompt="!midway", stream=True))


def test_keys(address: str) -> None:
    for key in ("not-the-key-at-all", KEY + "x", KEY[:-1]):
        with (
            openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) as client,
            pytest.raises(openai.AuthenticationError, match="the key is not one of this server's"),
        ):
            client.models.list()


def test_a_full_queue_is_asked_again_by_the_client(address: str) -> None:
    service = FakeService("alpha", max_queue=0)
    with live(service) as full, openai.OpenAI(base_url=f"{full}/v1", api_key="none", max_retries=1) as client:
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model="alpha", prompt="x")
        assert service.refused == {"queue_full": 2}


def test_64_clients_at_once_get_their_own_answers(address: str) -> None:
    async def ask(client: openai.AsyncOpenAI, i: int) -> None:
        variant, prompt = ("alpha", "beta")[i % 2], f"text {i}"
        expected = "".join(pieces(variant, prompt, 8))
        whole = client.completions.create(model=variant, prompt=prompt, max_tokens=8)
        stream = await client.completions.create(model=variant, prompt=prompt, max_tokens=8, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == expected
        assert (await whole).choices[0].text == expected

    async def all_of_them() -> None:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
            await asyncio.gather(*(ask(client, i) for i in range(64)))

    asyncio.run(all_of_them())


def test_reasons_are_all_tried() -> None:
    assert set(ERRORS) == set(RequestError.__init__.__annotations__["reason"].__args__)
