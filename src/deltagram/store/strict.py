"""What every entry of a manifest is made of: strict data, and the words they share."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[int, Field(ge=0, lt=1 << 63)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Check = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Shape = Annotated[list[Size], Field(max_length=64)]


class Strict(BaseModel):
    """Frozen data in which every key is known and no type is bent."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
