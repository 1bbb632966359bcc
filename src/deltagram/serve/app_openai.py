"""OpenAI's endpoints: models, completions, chat, embeddings; and `/classify` beside them."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deltagram.serve import openai_answer as said
from deltagram.serve.app_errors import RESPONSES
from deltagram.serve.app_limits import Limits
from deltagram.serve.app_waiting import answers, completions, stop, while_connected
from deltagram.serve.openai_request import ChatRequest, ClassifyRequest, CompletionRequest, EmbeddingRequest
from deltagram.serve.openai_stream import Start, Stream, sent
from deltagram.serve.openai_words import inputs, known, messages, sampling
from deltagram.serve.requests import Message, Pending, Service

Prompt = str | Sequence[int] | Sequence[Message]
_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
_STREAMS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": _EVENT}}, "description": "Whole, or in pieces"}
}
_NO_BUFFER = {"X-Accel-Buffering": "no"}  # of a proxy in front


def openai_router(service: Service, limits: Limits) -> APIRouter:
    """The routes, answered by a service."""
    router = APIRouter(responses=RESPONSES)
    started = int(time.time())

    @router.get("/v1/models", response_model=said.Models)
    async def list_models() -> Response:
        """The base and the library's variants."""
        return JSONResponse(said.models([state.name for state in service.variants()], created=started))

    @router.get("/v1/models/{model}", response_model=said.Model)
    async def one_model(model: str) -> Response:
        """One of them."""
        return JSONResponse(said.model(known(service, model), created=started))

    @router.post("/v1/completions", response_model=said.TextAnswer, responses=_STREAMS)
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        """Texts that go on."""
        prompts = inputs(asked.prompt, param="prompt", limits=limits)
        return await _generate(service, asked, prompts, request=request, limits=limits)

    @router.post("/v1/chat/completions", response_model=said.ChatAnswer, responses=_STREAMS)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """An answer to messages."""
        return await _generate(service, asked, [messages(asked, limits=limits)], request=request, limits=limits)

    @router.post("/v1/embeddings", response_model=said.EmbeddingAnswer)
    async def embed(asked: EmbeddingRequest, request: Request) -> Response:
        """Vectors of texts."""
        model, texts = known(service, asked.model), inputs(asked.input, param="input", limits=limits)
        futures = [service.embed(model, text, deadline=limits.deadline) for text in texts]
        found = await while_connected(request, answers(futures))
        return JSONResponse(said.embeddings(model, found, encoding=asked.encoding_format))

    @router.post("/classify", response_model=said.ClassifyAnswer)
    async def classify(asked: ClassifyRequest, request: Request) -> Response:
        """Classes of texts."""
        model, texts = known(service, asked.model), inputs(asked.input, param="input", limits=limits)
        futures = [service.classify(model, str(text), deadline=limits.deadline) for text in texts]
        return JSONResponse(said.classes(model, await while_connected(request, answers(futures))))

    return router


class _Pieces(StreamingResponse):
    """Server-sent events; however it ends, a client that left included, its texts are not generated further."""

    def __init__(self, stream: Stream, pieces: AsyncIterator[bytes]) -> None:
        super().__init__(pieces, media_type="text/event-stream", headers=_NO_BUFFER)
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.cancel()


async def _generate(
    service: Service, asked: CompletionRequest | ChatRequest, prompts: Sequence[Prompt], *, request: Request,
    limits: Limits,
) -> Response:  # fmt: skip
    model, how = known(service, asked.model), sampling(asked, limits=limits)
    heading = said.Heading(model=model, chat=isinstance(asked, ChatRequest))

    def begin(prompt: Prompt, on_text: Callable[[str], None] | None) -> Pending:
        return service.complete(model, prompt, how, deadline=limits.deadline, on_text=on_text)

    if not asked.stream:
        texts: list[Pending] = []
        try:
            texts.extend(begin(prompt, None) for prompt in prompts)
            return JSONResponse(heading.whole(await while_connected(request, completions(texts))))
        finally:
            stop(texts)
    starts: list[Start] = [partial(begin, prompt) for prompt in prompts]
    stream = Stream(starts)
    await while_connected(request, stream.first())
    counts = asked.stream_options is not None and bool(asked.stream_options.include_usage)
    pieces = sent(stream, heading, include_usage=counts)
    return _Pieces(stream, pieces)
