"""Requests in OpenAI's words. A parameter that is not supported, and would matter, has one value: its neutral one."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _encodable(text: str) -> str:
    """The text, if UTF-8 can carry it: JSON may hold half of a surrogate pair, which no tokenizer takes."""
    text.encode("utf-8")
    return text


Unicode = Annotated[str, AfterValidator(_encodable)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Field(min_length=1)]
Zero = Annotated[float, Field(ge=0, le=0)]
Stop = Annotated[Unicode, Field(min_length=1, max_length=200)]
Text = Annotated[Unicode, Field(min_length=1)]
Empty = Annotated[list[None], Field(max_length=0)]

# Parameters that are known, and refused at any value but the neutral one.
UNSUPPORTED: Final = frozenset({
    "n", "best_of", "echo", "suffix", "logprobs", "top_logprobs", "logit_bias", "frequency_penalty",
    "presence_penalty", "tools", "tool_choice", "functions", "function_call", "response_format", "modalities",
    "audio", "reasoning_effort", "verbosity", "web_search_options", "dimensions", "store", "moderation",
})  # fmt: skip
# What is said where a value has several forms.
FORMS: Final = {
    "prompt": "a text, a list of texts, a list of token numbers, or a list of such lists",
    "input": "a text, a list of texts, a list of token numbers, or a list of such lists; none of them empty",
    "stop": "a text, or up to 4 texts, of 1 to 200 characters each",
    "content": "a text, or a list of parts of type text",
    "max_tokens": "a whole number of at least 1",
    "max_completion_tokens": "a whole number of at least 1",
    "temperature": "a number from 0 to 2",
    "top_p": "a number above 0, 1 at most",
    "seed": "a whole number of 64 bits",
}


class Words(BaseModel):
    """Fields of a request: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class StreamOptions(Words):
    """`include_usage` adds a last piece with the counts."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Generation(Words):
    """What both ways of generating text take."""

    model: Unicode
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    n: Literal[1] | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None


class CompletionRequest(Generation):
    """`POST /v1/completions`."""

    prompt: (
        Unicode | Annotated[list[Unicode], Field(min_length=1)] | Tokens | Annotated[list[Tokens], Field(min_length=1)]
    )
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None


class Part(Words):
    """A part of a message: text alone."""

    type: Literal["text"]
    text: Unicode


class ChatMessage(Words):
    """A message; what clients send back of an answer of ours is taken where it is empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Unicode | Annotated[list[Part], Field(min_length=1)]
    name: None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Empty | None = None
    annotations: Empty | None = None


class ResponseFormat(Words):
    """Text, as it comes."""

    type: Literal["text"]


class ChatRequest(Generation):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: ResponseFormat | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: None = None
    tools: Empty | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    functions: Empty | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    audio: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class EmbeddingRequest(Words):
    """`POST /v1/embeddings`."""

    model: Unicode
    input: Text | Annotated[list[Text], Field(min_length=1)] | Tokens | Annotated[list[Tokens], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None
    user: str | None = None


class ClassifyRequest(Words):
    """`POST /classify`."""

    model: Unicode
    input: Text | Annotated[list[Text], Field(min_length=1)]
