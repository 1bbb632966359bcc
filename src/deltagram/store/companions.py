"""The small files that travel with a model: configuration, tokenizer, and the generated model card."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from blake3 import blake3

from deltagram.errors import BaseError, FormatError
from deltagram.store.checkpoint import map_file
from deltagram.store.manifest import CompanionFile
from deltagram.store.parts import may_travel

ALLOWED: Final = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "model_index.json",
    "image_processor_config.json", "video_preprocessor_config.json", "feature_extractor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json",
    "chat_template.jinja", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "source.spm", "target.spm", "tekken.json", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "*_Pooling/config.json",
    "*_Normalize/config.json", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
)  # fmt: skip
IGNORED: Final = ("README.md", ".gitattributes", ".git/*", ".cache/*", "*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True, kw_only=True)
class Companions:
    """What to carry: manifest entries by relative path, the paths to copy, and what is left behind."""

    files: Mapping[str, CompanionFile]
    copied: tuple[str, ...]
    left: tuple[str, ...]


def choose(base: Path | None, tuned: Path | None, *, with_code: bool) -> Companions:
    """Sort the files beside a fine-tuned checkpoint; one that is identical in the base is only referenced."""
    files: dict[str, CompanionFile] = {}
    copied, left = [], []
    for name in _relative(tuned) if tuned else ():
        if any(fnmatchcase(name, pattern) for pattern in IGNORED):
            continue
        carried = any(fnmatchcase(name, pattern) for pattern in ALLOWED) or (with_code and name.endswith(".py"))
        if not carried or tuned is None or not may_travel(name):
            left.append(name)
            continue
        digest, size = file_digest(tuned / name)
        in_base = base is not None and (base / name).is_file() and file_digest(base / name)[0] == digest
        files[name] = CompanionFile(digest=digest, bytes=size, stored="base" if in_base else "delta")
        if not in_base:
            copied.append(name)
    return Companions(files=files, copied=tuple(copied), left=tuple(left))


def _relative(folder: Path) -> list[str]:
    """All files below a model folder, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def file_digest(path: Path) -> tuple[str, int]:
    """blake3 of a file's bytes, and their number."""
    data = map_file(path)
    return blake3(data).hexdigest(), len(data)


def copy_into(source: Path, names: tuple[str, ...], out: Path) -> None:
    """Copy files by relative path, as plain files with default permissions (links are followed)."""
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, out / name)


def check_file(path: Path, name: str, file: CompanionFile, *, from_base: bool) -> None:
    """Raise FormatError (or BaseError for one taken from the base) unless the file has its recorded digest."""
    fault = BaseError if from_base else FormatError
    fix = "use the base directory the delta was made from" if from_base else "the delta is damaged: fetch it again"
    if not (path / name).is_file():
        raise fault(str(path / name), "is missing", expected=f"{file.bytes:,} bytes", fix=fix)
    found, size = file_digest(path / name)
    if found != file.digest:
        raise fault(str(path / name), f"has digest {found[:16]}...", expected=f"{file.digest[:16]}...", fix=fix)
    if size != file.bytes:
        raise fault(str(path / name), f"has {size:,} bytes", expected=f"{file.bytes:,}", fix=fix)
