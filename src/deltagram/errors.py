"""The errors a caller can meet, all children of one.

```
DeltagramError
├── SettingError      a setting outside its range, or two that contradict each other
├── CheckpointError   a checkpoint that cannot be read: not safetensors, truncated, index and shards disagree
├── PlanError         base and fine-tuned model cannot be matched tensor by tensor
├── FormatError       a delta that is damaged, or is not a delta
├── BaseError         the base is not the one the delta was made from
├── OutputError       the output exists, touches an input, or cannot be written
├── PatchError        live arrays that a delta cannot be applied to
├── LibraryError      a library that is damaged, or a name that it has not, or has already
├── RequestError      a request that a server of variants refuses, and for which of its reasons
└── ExtraError        an optional dependency that is not installed
```

Every error says where it happened, what was found, what was expected and what to do.
"""

from typing import Literal


class DeltagramError(Exception):
    """Base of all errors; `str()` gives one paragraph: where, found, expected, what to do."""

    def __init__(self, where: str, found: str, *, expected: str = "", fix: str = "") -> None:
        super().__init__(where, found)
        self.where = where
        self.found = found
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.where}: {self.found}" if self.where else self.found
        if self.expected:
            text += f", expected {self.expected}"
        if self.fix:
            text += f"; {self.fix}"
        return text


class SettingError(DeltagramError):
    """A setting outside its range, or two settings that contradict each other."""


class CheckpointError(DeltagramError):
    """A checkpoint that cannot be read: not safetensors, truncated, or index and shards disagree."""


class PlanError(DeltagramError):
    """Base and fine-tuned model cannot be matched tensor by tensor."""


class FormatError(DeltagramError):
    """A delta that is damaged, or is not a delta."""


class BaseError(DeltagramError):
    """The base is not the one the delta was made from."""


class OutputError(DeltagramError):
    """The output exists, touches an input, or cannot be written."""


class PatchError(DeltagramError):
    """Live arrays that a delta cannot be applied to."""


class LibraryError(DeltagramError):
    """A library of variants that is damaged, or a name that it has not, or has already."""


Reason = Literal["unknown_variant", "unusable_variant", "wrong_task", "invalid", "too_long", "queue_full", "deadline",
                 "cancelled", "closing"]  # fmt: skip


class RequestError(DeltagramError):
    """A request that a server of variants refuses. `reason` says what kind of refusal it is."""

    def __init__(self, where: str, found: str, *, reason: Reason, expected: str = "", fix: str = "") -> None:
        super().__init__(where, found, expected=expected, fix=fix)
        self.reason: Reason = reason


class ExtraError(DeltagramError):
    """An optional dependency that is not installed."""
