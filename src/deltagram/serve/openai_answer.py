"""Answers in OpenAI's words: their shapes for the API's description, and how they are put together."""

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from deltagram.serve.requests import Classified, Completion, Embedded

Finish = Literal["stop", "length"]


class Shape(BaseModel):
    """A shape of what is answered, without more than it says."""

    model_config = ConfigDict(extra="forbid")


class Usage(Shape):
    """Counts of tokens; `completion_tokens` where text was generated."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class TextChoice(Shape):
    """A text that went on."""

    index: int
    text: str
    logprobs: None
    finish_reason: Finish


class TextAnswer(Shape):
    """The answer of `POST /v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Said(Shape):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Shape):
    """An answer to messages."""

    index: int
    message: Said
    logprobs: None
    finish_reason: Finish


class ChatAnswer(Shape):
    """The answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Vector(Shape):
    """The vector of a text: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(Shape):
    """The answer of `POST /v1/embeddings`."""

    object: Literal["list"]
    model: str
    data: list[Vector]
    usage: Usage


class Label(Shape):
    """The class of a text, and the probability of each, likeliest first."""

    object: Literal["classification"]
    index: int
    label: str
    scores: dict[str, float]


class ClassifyAnswer(Shape):
    """The answer of `POST /classify`."""

    object: Literal["list"]
    model: str
    data: list[Label]
    usage: Usage


class Model(Shape):
    """A variant, or the base."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["deltagram"]


class Models(Shape):
    """The answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[Model]


def usage(prompt: int, completion: int = 0) -> dict[str, int]:
    """Counts of tokens."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What all pieces of one answer begin with. `chat` tells the two ways of generating text apart."""

    model: str
    chat: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """The answer, when all of it is there."""
        choices = [self._choice(index, answer) for index, answer in enumerate(answers)]
        return {**self._head("chat.completion"), "choices": choices, "usage": total(answers)}

    def piece(
        self, index: int, text: str | None, *, finish: Finish | None = None, first: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """A piece of a choice; None for the text of one that only ends."""
        choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": finish}
        if self.chat:
            choice["delta"] = ({"role": "assistant"} if first else {}) | ({} if text is None else {"content": text})
        else:
            choice["text"] = text or ""
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def counts(self, answers: Sequence[Completion]) -> dict[str, Any]:
        """The last piece, where it was asked for."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": total(answers)}

    def _head(self, chat_object: str) -> dict[str, Any]:
        kind, prefix = (chat_object, "chatcmpl") if self.chat else ("text_completion", "cmpl")
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, answer: Completion) -> dict[str, Any]:
        said: dict[str, Any] = {"text": answer.text}
        if self.chat:
            said = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
        return {"index": index, **said, "logprobs": None, "finish_reason": answer.finish}


def total(answers: Sequence[Completion]) -> dict[str, int]:
    """Counts of several texts together."""
    return usage(sum(a.prompt_tokens for a in answers), sum(a.completion_tokens for a in answers))


def embeddings(model: str, answers: Sequence[Embedded], *, encoding: Literal["float", "base64"]) -> dict[str, Any]:
    """The answer with vectors."""
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(answer, encoding=encoding)}
        for index, answer in enumerate(answers)
    ]
    return {"object": "list", "model": model, "data": data, "usage": usage(sum(a.tokens for a in answers))}


def classes(model: str, answers: Sequence[Classified]) -> dict[str, Any]:
    """The answer with labels."""
    data = [
        {"object": "classification", "index": index, "label": answer.label, "scores": dict(answer.scores)}
        for index, answer in enumerate(answers)
    ]
    return {"object": "list", "model": model, "data": data, "usage": usage(sum(a.tokens for a in answers))}


def models(names: Sequence[str], *, created: int) -> dict[str, Any]:
    """The list of variants."""
    return {"object": "list", "data": [model(name, created=created) for name in names]}


def model(name: str, *, created: int) -> Mapping[str, Any]:
    """One variant."""
    return {"id": name, "object": "model", "created": created, "owned_by": "deltagram"}


def _vector(answer: Embedded, *, encoding: Literal["float", "base64"]) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(answer.vector.astype(np.dtype("<f4")).tobytes()).decode("ascii")
    numbers: list[float] = answer.vector.tolist()
    return numbers
