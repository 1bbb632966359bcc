"""From a request in OpenAI's words to the service's: texts within the limits, and how they go on."""

from collections.abc import Sequence
from typing import Final

from deltagram.serve.app_limits import Limits
from deltagram.serve.openai_errors import ParameterError
from deltagram.serve.openai_request import ChatRequest, CompletionRequest, Generation
from deltagram.serve.requests import Message, Sampling, Service

Input = str | list[int]
_TEXT: Final = 16  # tokens of a completion, unless told
_CHAT: Final = 256  # of a chat, which OpenAI lets go on to the end of the context


def known(service: Service, model: str) -> str:
    """The name of a variant that the service has; ParameterError (404) for any other."""
    if not any(state.name == model for state in service.variants()):
        raise ParameterError("model", f"the model {model[:200]!r} does not exist", reason="unknown_variant")
    return model


def inputs(
    given: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]], *, param: str, limits: Limits
) -> list[Input]:
    """Texts, or lists of token numbers, of a field that takes one or many. Raises ParameterError past the limits.

    >>> inputs([5, 6], param="prompt", limits=Limits()), inputs("one", param="prompt", limits=Limits())
    ([[5, 6]], ['one'])
    """
    found: list[Input] = []
    if isinstance(given, str):
        found = [given]
    elif isinstance(given[0], int):
        found = [[token for token in given if isinstance(token, int)]]
    else:
        found = [one if isinstance(one, str) else list(one) for one in given if not isinstance(one, int)]
    if len(found) > limits.inputs:
        raise ParameterError(param, f"holds {len(found)} texts", expected=f"{limits.inputs} at most")
    for one in found:
        bound, unit = (limits.characters, "characters") if isinstance(one, str) else (limits.tokens, "tokens")
        if len(one) > bound:
            raise ParameterError(param, f"a text has {len(one)} {unit}", reason="too_long", expected=f"{bound} at most")
    return found


def messages(asked: ChatRequest, *, limits: Limits) -> list[Message]:
    """Messages with one text each; `developer` speaks as `system`. Raises ParameterError past the limits."""
    found = [
        {
            "role": "system" if message.role == "developer" else message.role,
            "content": message.content
            if isinstance(message.content, str)
            else "".join(part.text for part in message.content),
        }
        for message in asked.messages
    ]
    length = sum(len(message["content"]) for message in found)
    if length > limits.characters:
        expected = f"{limits.characters} at most"
        raise ParameterError("messages", f"hold {length} characters", reason="too_long", expected=expected)
    return list(found)


def sampling(asked: CompletionRequest | ChatRequest, *, limits: Limits) -> Sampling:
    """How the text goes on; what is left out is as OpenAI has it, but that a chat has 256 tokens."""
    stop = () if asked.stop is None else (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop)
    if asked.stream_options is not None and not asked.stream:
        raise ParameterError("stream_options", "is given without stream", expected="stream: true beside it")
    return Sampling(
        max_tokens=_max_tokens(asked, limits=limits),
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=asked.seed,
        stop=stop,
    )


def _max_tokens(asked: Generation, *, limits: Limits) -> int:
    param, found = "max_tokens", asked.max_tokens
    if isinstance(asked, ChatRequest) and asked.max_completion_tokens is not None:
        if found not in (None, asked.max_completion_tokens):
            raise ParameterError("max_tokens", "differs from max_completion_tokens", expected="one of them")
        param, found = "max_completion_tokens", asked.max_completion_tokens
    if found is None:
        return min(_CHAT if isinstance(asked, ChatRequest) else _TEXT, limits.max_tokens)
    if found > limits.max_tokens:
        raise ParameterError(
            param, f"{found} is more than this server generates", expected=f"{limits.max_tokens} at most"
        )
    return found
