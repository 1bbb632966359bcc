"""A variant's tokenizer, where its texts end, how its vectors are made, and how much it reads at once."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deltagram.errors import RequestError
from deltagram.serve.payload import Payload
from deltagram.serve.requests import Message
from deltagram.training.huggingface import libraries, longest, padding, tokenizer_in

Pooling = Literal["mean", "cls", "last"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Words:
    """Texts to token numbers and back. `ends` are the tokens that end a text; `most` is how many it takes at once."""

    tokenizer: Any
    pad: int
    ends: frozenset[int]
    most: int
    pooling: Pooling

    def read(self, text: str | Sequence[int], *, where: str, plain: bool = False) -> list[int]:
        """Token numbers of a text (`plain`: without the tokens put around it); given numbers are only checked.

        Raises RequestError for none at all, for too many, and for numbers the tokenizer does not have.
        """
        if isinstance(text, str):
            ids = [int(i) for i in self.tokenizer(text, add_special_tokens=not plain, verbose=False)["input_ids"]]
        else:
            ids = [int(i) for i in text]
            odd = next((i for i in ids if not 0 <= i < len(self.tokenizer)), None)
            if odd is not None:
                found = f"the tokenizer has no token {odd}"
                raise RequestError(where, found, reason="invalid", expected=f"0 to {len(self.tokenizer) - 1}")
        if not ids:
            raise RequestError(where, "the input has no token", reason="invalid", fix="send some text")
        if len(ids) > self.most:
            raise RequestError(
                where, f"the input has {len(ids)} tokens", reason="too_long", expected=f"{self.most} at most",
                fix="send less",
            )  # fmt: skip
        return ids

    def chat(self, messages: Sequence[Message], *, where: str) -> list[int]:
        """Token numbers of messages through the chat template; RequestError without one, or where it refuses."""
        if not self.tokenizer.chat_template:
            found = "its tokenizer has no chat template"
            raise RequestError(where, found, reason="wrong_task", fix="send a prompt to /v1/completions")
        from jinja2.exceptions import TemplateError  # noqa: PLC0415 - comes with what renders templates

        try:
            text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except TemplateError as fault:
            found = f"the chat template refuses the messages ({fault})"
            raise RequestError(where, found, reason="invalid") from None
        return self.read(text, where=where, plain=True)

    def text(self, ids: Sequence[int]) -> str:
        """The text of token numbers, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


class Tokenizers:
    """By what they are made of: equal ones are loaded once."""

    def __init__(self, transformers: Any) -> None:
        self._transformers = transformers
        self._loaded: dict[str, Any] = {}

    def of(self, payload: Payload, model_config: Any) -> Words:
        """The words of a variant."""
        key = payload.words()
        if key not in self._loaded:
            with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch, libraries():
                payload.link(Path(scratch))
                self._loaded[key] = tokenizer_in(self._transformers, Path(scratch))
        tokenizer = self._loaded[key]
        return Words(
            tokenizer=tokenizer, pad=padding(tokenizer), ends=_ends(payload, tokenizer),
            most=longest(model_config, tokenizer), pooling=_pooling(payload.files, payload.config),
        )  # fmt: skip


def _ends(payload: Payload, tokenizer: Any) -> frozenset[int]:
    """End-of-text tokens, as generation_config.json, config.json and the tokenizer have them."""
    said = [payload.config.get("eos_token_id"), tokenizer.eos_token_id]
    if "generation_config.json" in payload.files:
        said.append(_json(payload.files["generation_config.json"]).get("eos_token_id"))
    flat = [token for found in said for token in (found if isinstance(found, list) else [found])]
    return frozenset(int(token) for token in flat if token is not None)


def _pooling(files: Mapping[str, Path], config: Mapping[str, Any]) -> Pooling:
    """How a sentence-transformers folder pools; without one, the mean for encoders, the last token for decoders."""
    file = next((path for name, path in sorted(files.items()) if name.endswith("_Pooling/config.json")), None)
    if file is not None:
        said = _json(file)
        if said.get("pooling_mode_cls_token"):
            return "cls"
        return "last" if said.get("pooling_mode_lasttoken") else "mean"
    causal = any(str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in config.get("architectures") or [])
    return "last" if causal else "mean"


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
