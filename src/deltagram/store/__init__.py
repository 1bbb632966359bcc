"""Everything that touches model bytes: checkpoints, the delta format, digests, safe writing."""
