"""How a job tells a door what it is doing; only doors print."""

from typing import Protocol


class Progress(Protocol):
    """Receives what a running job has to say."""

    def advance(self, what: str, done: int, total: int) -> None:
        """`done` of `total` units (bytes, steps) of the stage called `what` are finished."""

    def say(self, text: str) -> None:
        """One sentence that a person should read now."""


class Silent:
    """A `Progress` that keeps quiet."""

    def advance(self, what: str, done: int, total: int) -> None:
        """Say nothing."""

    def say(self, text: str) -> None:
        """Say nothing."""


SILENT = Silent()
