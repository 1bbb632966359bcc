"""Choosing next tokens row by row, and telling when a row's text has ended."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from deltagram.serve.requests import Sampling
from deltagram.serve.words import Words

_UNFINISHED: Final = "�"  # what a decoder gives for the first bytes of a letter


@dataclass(eq=False)
class Going:
    """One text on its way: its tokens so far, and what was told of it.

    It ends, too, when it is `cancelled` and after `until` (by `time.monotonic`). `on_text` gets pieces that will not
    change any more; a stop string's beginning is held back until it is one or not.
    """

    words: Words
    sampling: Sampling
    on_text: Callable[[str], None] | None = None
    until: float | None = None
    ids: list[int] = field(default_factory=list)
    text: str = ""
    told: int = 0
    finish: Literal["stop", "length"] | None = None
    cancelled: bool = False

    def take(self, token: int) -> bool:
        """Add a token; whether the text has ended with it."""
        if self.finish is not None or self.cancelled or (self.until is not None and time.monotonic() > self.until):
            return True
        if token in self.words.ends:
            self._end("stop")
            return True
        self.ids.append(token)
        self.text = self.words.text(self.ids)
        cut = min((at for stop in self.sampling.stop if (at := self.text.find(stop)) >= 0), default=None)
        if cut is not None:
            self.text = self.text[:cut]
            self._end("stop")
        elif len(self.ids) >= self.sampling.max_tokens:
            self._end("length")
        else:
            self._tell(self._sure())
        return self.finish is not None

    def _end(self, finish: Literal["stop", "length"]) -> None:
        self.finish = finish
        self._tell(len(self.text))

    def _sure(self) -> int:
        """How much of the text stays as it is, whatever follows."""
        text = self.text.rstrip(_UNFINISHED)
        held = (len(text) - n for stop in self.sampling.stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return min(held, default=len(text))

    def _tell(self, upto: int) -> None:
        if self.on_text is not None and upto > self.told:
            self.on_text(self.text[self.told : upto])
        self.told = max(self.told, upto)


class Chooser:
    """Scores of the next tokens, `row word`, so that the largest is the token drawn for each row.

    Temperature and nucleus (Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020) a row; then
    Gumbel noise from the row's own generator: the largest of logits plus Gumbel noise is a draw from their softmax
    (Gumbel, 1954), and no row's draw depends on the others.
    """

    def __init__(self, torch: Any, samplings: Sequence[Sampling]) -> None:
        self._torch, self._samplings = torch, samplings
        self._generators = [self._generator(sampling) for sampling in samplings]

    def _generator(self, sampling: Sampling) -> Any:
        generator = self._torch.Generator()
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(sampling.seed % (1 << 63))
        return generator

    def __call__(self, ids: Any, scores: Any) -> Any:  # noqa: ARG002 - as transformers calls it
        """As a logits processor of transformers."""
        torch, chosen = self._torch, scores.clone()
        for row, (sampling, generator) in enumerate(zip(self._samplings, self._generators, strict=True)):
            if sampling.temperature == 0:
                continue
            logits = chosen[row].float() / sampling.temperature
            if sampling.top_p < 1:
                logits = self._nucleus(logits, sampling.top_p)
            noise = torch.empty(len(logits)).exponential_(generator=generator).log_().neg_()
            chosen[row] = logits + noise.to(logits.device)
        return chosen

    def _nucleus(self, logits: Any, top_p: float) -> Any:
        ordered, index = logits.sort(descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        return logits.index_fill(0, index[before >= top_p], -self._torch.inf)


class Ended:
    """Which rows have ended, told each row's new token; as a stopping criterion of transformers."""

    def __init__(self, torch: Any, rows: Sequence[Going]) -> None:
        self._torch, self._rows = torch, rows

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002 - as transformers calls it
        """As transformers calls it after each token."""
        ended = [row.take(token) for row, token in zip(self._rows, ids[:, -1].tolist(), strict=True)]
        return self._torch.tensor(ended, dtype=self._torch.bool, device=ids.device)
