"""Models named by a Hub id, where the network allows: a door, since it opens a socket."""

import os
import re
from pathlib import Path

from deltagram.errors import CheckpointError, ExtraError

_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_NOISE = re.compile(r"\s*\(Request ID:[^)]*\)")
_FAULTS = ("HTTPError", "HfHubHTTPError", "HFValidationError", "LocalEntryNotFoundError", "OfflineModeIsEnabled",
           "XetError", "XetDownloadError", "FileMetadataError", "OSError")  # fmt: skip
FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "*.spm", "LICENSE*")


def locate(model: str) -> Path:
    """The local path of a model: a path that exists, or `owner/name[@revision]`, downloaded or from the Hub's cache.

    Raises ExtraError without huggingface_hub, CheckpointError where the Hub does not give it.
    """
    path = Path(model)
    if not _ID.fullmatch(model) or model.startswith((".", "~")) or model.endswith((".safetensors", ".bin", ".pt")):
        return path
    if os.path.lexists(path):
        return path
    try:
        import huggingface_hub  # noqa: PLC0415 - an extra
        from huggingface_hub import errors  # noqa: PLC0415
    except ImportError:
        raise ExtraError(
            model, "there is no such path, and Hub ids need huggingface_hub", fix="pip install 'deltagram[hf]'"
        ) from None
    name, _, revision = model.partition("@")
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except tuple(getattr(errors, fault, OSError) for fault in _FAULTS) as fault:
        reason = " ".join(_NOISE.sub("", str(fault)).split())[:300] or type(fault).__name__
        raise CheckpointError(
            model,
            f"is not a path here, and the Hub did not give it ({reason})",
            fix="check the spelling and the network, log in for a private model, or give a local directory",
        ) from None
