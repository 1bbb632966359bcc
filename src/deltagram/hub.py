"""Models named by a Hub id, and repositories of libraries, where the network allows: a door, it opens a socket."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deltagram.errors import CheckpointError, ExtraError, LibraryError

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
        raise CheckpointError(
            model,
            f"is not a path here, and the Hub did not give it ({_reason(fault)})",
            fix="check the spelling and the network, log in for a private model, or give a local directory",
        ) from None


class Repository:
    """A model repository of the Hub through huggingface_hub, which also finds the token; for `library push` and `pull`.

    Every method raises ExtraError without huggingface_hub, LibraryError where the Hub does not do it.
    """

    def __init__(self, name: str, *, revision: str | None = None) -> None:
        self.name, self._revision = name, revision
        self._commit = revision  # the one that is read, once it is known

    def create(self, *, private: bool) -> None:
        """Make it, and the branch, if they are not there."""
        with self._asked("did not make it") as client:
            client.HfApi().create_repo(self.name, private=private or None, exist_ok=True)
            if self._revision is not None:
                client.HfApi().create_branch(self.name, branch=self._revision, exist_ok=True)

    def files(self) -> Sequence[str]:
        """The paths of all its files; from now on `fetch` takes them of the commit that is seen here."""
        with self._asked("did not give it") as client:
            found = client.HfApi().model_info(self.name, revision=self._revision)
            self._commit = str(found.sha)
            return [str(file.rfilename) for file in found.siblings or ()]

    def fetch(self, folder: Path, paths: Sequence[str]) -> None:
        """Download these files into a directory, as plain files."""
        with self._asked("did not give it") as client:
            client.HfApi().snapshot_download(
                self.name, revision=self._commit, local_dir=folder,
                allow_patterns=[_escaped(path) for path in paths],
            )  # fmt: skip

    def upload(self, folder: Path, *, replaced: Sequence[str], message: str) -> str:
        """Upload a directory; what else matches the globs `replaced` goes. Returns where to see it."""
        with self._asked("did not take it") as client:
            done = client.HfApi().upload_folder(
                repo_id=self.name, folder_path=folder, revision=self._revision, delete_patterns=list(replaced),
                commit_message=message,
            )  # fmt: skip
            return str(done.commit_url)

    @contextmanager
    def _asked(self, what: str) -> Iterator[Any]:
        """The Hub's client; its faults become one sentence."""
        try:
            import huggingface_hub  # noqa: PLC0415 - an extra
            from huggingface_hub import errors, utils  # noqa: PLC0415
        except ImportError:
            raise ExtraError(
                self.name, "push and pull need huggingface_hub", fix="pip install 'deltagram[hf]'"
            ) from None
        faults = (*(getattr(errors, fault, OSError) for fault in _FAULTS), RuntimeError, ValueError)
        bars: Any = utils  # whose names are re-exported in a way that type checkers do not see
        silence = not sys.stderr.isatty() and not bars.are_progress_bars_disabled()
        if silence:
            bars.disable_progress_bars()
        try:
            yield huggingface_hub
        except faults as fault:
            reason = _reason(fault)
            raise LibraryError(
                self.name, f"the Hub {what} ({reason})",
                fix="check the spelling, the network, and that you are logged in with the right to do this",
            ) from None  # fmt: skip
        finally:
            if silence:
                bars.enable_progress_bars()


def _escaped(path: str) -> str:
    """A glob that matches this path alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)


def _reason(fault: BaseException) -> str:
    """What the Hub's client says, on one line; of a fault around another, the inner one."""
    inner = fault.__cause__ if isinstance(fault, RuntimeError) and fault.__cause__ is not None else fault
    return " ".join(_NOISE.sub("", str(inner)).split())[:300] or type(inner).__name__
