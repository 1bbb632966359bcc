"""What one request may ask for: bounds that hold whoever asks."""

from dataclasses import dataclass

from deltagram.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a request; `body_seconds` is what its body may take to arrive, `deadline` what its answer may.

    Raises SettingError for a bound that is not positive.
    """

    body_bytes: int = 1 << 20
    body_seconds: float = 30.0
    inputs: int = 64  # texts in a request
    characters: int = 100_000  # of a text, or of all messages of a chat
    tokens: int = 8192  # of a text given as token numbers
    max_tokens: int = 1024  # generated for a text
    deadline: float = 120.0

    def __post_init__(self) -> None:
        for name, bound in vars(self).items():
            if not bound > 0:
                raise SettingError(f"--{name.replace('_', '-')}", f"{bound} is no bound", expected="more than 0")
