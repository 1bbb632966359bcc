"""Everything that touches model bytes: checkpoints, the delta format, digests, safe writing."""

from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.deltafile import Delta, open_delta

__all__ = ["Checkpoint", "Delta", "open_checkpoint", "open_delta"]
