"""Everything that touches model bytes: checkpoints, the delta format, libraries of variants, digests, safe writing."""

from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.library import Library, open_library

__all__ = ["Checkpoint", "Delta", "Library", "open_checkpoint", "open_delta", "open_library"]
