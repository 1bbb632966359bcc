"""Identity of tensors and checkpoints: BLAKE3, independent of sharding, order and file layout."""

import struct
from collections.abc import Mapping

from blake3 import blake3

from deltagram.arrays import Spec


def tensor_hasher(name: str, spec: Spec) -> blake3:
    """A hasher that has taken in name, dtype and shape and waits for the tensor's bytes.

    Lengths, the number of axes and each axis are uint64, little-endian.
    """
    encoded, dtype = name.encode(), spec.dtype.encode()
    text = struct.pack("<Q", len(encoded)) + encoded + struct.pack("<Q", len(dtype)) + dtype
    text += struct.pack(f"<{len(spec.shape) + 1}Q", len(spec.shape), *spec.shape)
    return blake3(text)


def whole_digest(tensors: Mapping[str, str]) -> str:
    """Digest of a checkpoint: blake3 over its tensors' digests (32 bytes each), sorted by UTF-8 name."""
    digest = blake3()
    for name in sorted(tensors, key=str.encode):
        digest.update(bytes.fromhex(tensors[name]))
    return digest.hexdigest()
