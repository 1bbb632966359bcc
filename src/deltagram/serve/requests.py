"""What is asked of a server of variants, and what it answers: plain data, without torch or HTTP."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from deltagram.arrays import F32

BASE: Final = "base"  # the name under which the base itself answers
Task = Literal["classify", "embed", "generate"]
Message = Mapping[str, str]  # {"role": ..., "content": ...}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a text goes on. `temperature` 0 takes the likeliest token; `stop` strings end a text and are not part of it.

    With a `seed` the same request gives the same text whatever else is answered beside it, as far as sums of floats in
    another order allow; without one it is drawn.
    """

    max_tokens: int = 16
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What was generated after the prompt; `finish` is "stop" for an end-of-text token or a stop string."""

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Probability of every class by its name, likeliest first (by index where equal); `label` is the first."""

    label: str
    scores: Mapping[str, float]
    tokens: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedded:
    """The vector of a text, (feature), float32 of length 1."""

    vector: F32
    tokens: int


@dataclass(frozen=True, kw_only=True)
class VariantState:
    """A variant of the library as the engine has it now.

    `nbytes` is what it takes in memory, 0 unless `loaded`. `tasks` are what it can do, empty until it was loaded once.
    """

    name: str
    loaded: bool
    nbytes: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts since the start, and what is now. `seconds` are those the engine worked."""

    requests: Mapping[str, int] = field(default_factory=dict)  # by task
    refused: Mapping[str, int] = field(default_factory=dict)  # by reason
    batches: Mapping[str, int] = field(default_factory=dict)  # by way: "swap", "mixed"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    loads: int = 0
    evictions: int = 0
    swaps: int = 0
    seconds: float = 0.0
    waiting: int = 0
    loaded: int = 0
    base_bytes: int = 0
    variant_bytes: int = 0


class Pending(Protocol):
    """A text on its way."""

    @property
    def result(self) -> "Future[Completion]":
        """The whole answer, or the error that ended it."""

    def cancel(self) -> None:
        """Stop generating it; its future ends with a RequestError ("cancelled")."""


class Service(Protocol):
    """Answers requests for any variant of one library; every method may be called from any thread.

    Faults of a request end its future with RequestError; `variants` and `totals` never wait for the model.
    """

    def variants(self) -> Sequence[VariantState]:
        """The base first, under the name `base`, then the library's variants by name."""

    def classify(self, variant: str, text: str, *, deadline: float | None = None) -> "Future[Classified]":
        """The class of a text. `deadline` is in seconds from now; None waits as long as it takes."""

    def embed(self, variant: str, text: str | Sequence[int], *, deadline: float | None = None) -> "Future[Embedded]":
        """The vector of a text or of token numbers."""

    def complete(
        self, variant: str, prompt: str | Sequence[int] | Sequence[Message], sampling: Sampling, *,
        deadline: float | None = None, on_text: Callable[[str], None] | None = None,
    ) -> Pending:  # fmt: skip
        """Go on from a text, from token numbers, or answer messages through the variant's chat template.

        `on_text` gets the text piece by piece, from the engine's thread: the pieces joined are `Completion.text`.
        """

    def load(self, variant: str) -> VariantState:
        """Bring a variant into memory now."""

    def unload(self, variant: str) -> VariantState:
        """Take a variant out of memory; requests for it bring it back."""

    def totals(self) -> Totals:
        """Counts and sizes for monitoring."""

    def close(self, *, drain: float = 30.0) -> None:
        """Refuse new requests, finish within `drain` seconds those that wait, refuse the rest; the base is back."""
