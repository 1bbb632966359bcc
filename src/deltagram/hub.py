"""Models named by a Hub id, where the network allows: a door, since it opens a socket."""

import re
from pathlib import Path

from deltagram.errors import CheckpointError, ExtraError

_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "*.spm", "LICENSE*")


def locate(model: str) -> Path:
    """The local path of a model: a path that exists, or `owner/name[@revision]`, downloaded or from the Hub's cache.

    Raises ExtraError without huggingface_hub, CheckpointError where the Hub does not give it.
    """
    path = Path(model)
    if path.exists() or not _ID.fullmatch(model) or model.startswith((".", "~")):
        return path
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - an extra
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415
    except ImportError:
        raise ExtraError(
            model, "there is no such path, and Hub ids need huggingface_hub", fix="pip install 'deltagram[hf]'"
        ) from None
    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as fault:
        reason = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
        raise CheckpointError(
            model, f"is not a path here, and the Hub did not give it ({reason})", fix="give a directory or a file"
        ) from None
