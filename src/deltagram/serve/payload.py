"""What a variant's folder holds, whatever its form: which tensors differ from the base's, and its small files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deltagram.arrays import Spec
from deltagram.delta.lowrank import Factors
from deltagram.delta.stored import LowRank, Stored, Whole
from deltagram.errors import BaseError
from deltagram.serve.basemodel import BaseModel, read_config
from deltagram.store.adapter import Adapted, open_tuned
from deltagram.store.adapter_config import CONFIG
from deltagram.store.companions import check_file, choose, file_digest
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.rebuild import base_name

_CLASSIFIER: Final = "SEQ_CLS"


@dataclass(frozen=True, kw_only=True, eq=False)
class Payload:
    """A variant as it is stored. Nothing is decoded yet.

    `bases`: every tensor of the variant -> the base tensor it was made from, None for one of its own. `files`: the
    config, tokenizer and so on by name -> where they lie. `config` is what its config.json says.
    """

    form: Delta | Adapted | None
    specs: Mapping[str, Spec]
    bases: Mapping[str, str | None]
    files: Mapping[str, Path]
    config: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Size of what is stored of its tensors."""
        return 0 if self.form is None else self.form.nbytes

    def load(self) -> tuple[Mapping[str, Stored], Mapping[str, Factors]]:
        """Tensors that differ from the base's, decoded and verified: those that are stored, and products of factors."""
        if self.form is None:
            return {}, {}
        if isinstance(self.form, Delta):
            stored = self.form.load()
            low = {name: tensor.factors() for name, tensor in stored.items() if isinstance(tensor, LowRank)}
            return {name: tensor for name, tensor in stored.items() if name not in low}, low
        return _of_adapter(self.form)

    def link(self, folder: Path) -> None:
        """Lay links to the small files, and the config, in an empty folder: what transformers loads from."""
        for name, path in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(path.resolve())
        (folder / "config.json").unlink(missing_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config), "utf-8")

    def words(self) -> str:
        """What its tokenizer is made of: equal for variants whose tokenizers are."""
        kept = sorted(name for name in self.files if name not in ("config.json", "generation_config.json"))
        return "".join(f"{name}:{file_digest(self.files[name])[0]};" for name in kept)


def of_base(base: BaseModel) -> Payload:
    """The base itself as a variant without differences."""
    names: dict[str, str | None] = {name: name for name in base.checkpoint.specs}
    return Payload(form=None, specs=base.checkpoint.specs, bases=names, files=_files(base.folder), config=base.config)


def open_payload(folder: Path, base: BaseModel) -> Payload:
    """A delta directory or an adapter's, held against the base.

    Raises FormatError, CheckpointError or PlanError for a damaged one, BaseError for one of another base.
    """
    if (folder / CONFIG).is_file():
        return _adapter(folder, base)
    delta = open_delta(folder)
    said = delta.manifest.base
    if said.digest != base.digest:
        raise BaseError(
            str(folder), f"was made from the base {said.name}, digest {said.digest}", expected=base.digest,
            fix="serve it from a library of its own base",
        )  # fmt: skip
    files = {}
    for name, file in delta.manifest.files.items():
        place = base.folder if file.stored == "base" else delta.path
        check_file(place, name, file, from_base=file.stored == "base")
        files[name] = place / name
    tensors = delta.manifest.tensors
    return Payload(
        form=delta, specs={name: entry.spec for name, entry in tensors.items()}, files=files,
        bases={n: base_name(delta, n) if entry.base_digest is not None else None for n, entry in tensors.items()},
        config=read_config(files["config.json"].parent) if "config.json" in files else base.config,
    )  # fmt: skip


def _adapter(folder: Path, base: BaseModel) -> Payload:
    adapted = open_tuned(folder, base.checkpoint)
    if not isinstance(adapted, Adapted):
        raise BaseError(str(folder), "is a checkpoint", expected="a delta or an adapter")
    bases = {name: None if name in adapted.own and name not in adapted.sources else adapted.sources[name]
             for name in adapted.specs}  # fmt: skip
    config = dict(base.config)
    if json.loads((folder / CONFIG).read_text("utf-8")).get("task_type") == _CLASSIFIER:
        config |= _classifying(base.config, adapted)
    files = {**_files(base.folder), **{name: path for name, path in _files(folder).items() if name != "config.json"}}
    return Payload(form=adapted, specs=adapted.specs, bases=bases, files=files, config=config)


def _classifying(config: Mapping[str, Any], adapted: Adapted) -> dict[str, Any]:
    """What the config of a base must say to be that of a classifier with the adapter's own head."""
    named = [name for name in config.get("architectures") or [] if name.endswith("ForSequenceClassification")]
    heads = [name for name in adapted.own if name.endswith((".weight", "score.weight"))]
    rows = {adapted.specs[name].shape[0] for name in heads if "classifier" in name or "score" in name}
    count = min(rows, default=int(config.get("num_labels", 2)))
    labels = {str(i): f"LABEL_{i}" for i in range(count)}
    if len(config.get("id2label") or {}) == count:
        labels = dict(config["id2label"])
    classifier = named or [_classifier_of(str(config["model_type"]))]
    return {"architectures": classifier, "id2label": labels, "label2id": {v: int(k) for k, v in labels.items()}}


def _classifier_of(model_type: str) -> str:
    from transformers.models.auto.modeling_auto import (  # noqa: PLC0415 - the extra that serving needs
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSES,
    )

    return str(CLASSES.get(model_type, ""))


def _of_adapter(adapted: Adapted) -> tuple[Mapping[str, Stored], Mapping[str, Factors]]:
    low = {name: factors for name, factors in adapted.products.items() if len(adapted.specs[name].shape) == 2}
    stored: dict[str, Stored] = {}
    for name in (*adapted.own, *(name for name in adapted.products if name not in low)):
        spec = adapted.specs[name]
        source = adapted.sources.get(name, name)
        stored[name] = Whole(spec=spec, base_name=source, bits=adapted.bits(name, 0, spec.size))
    return stored, low


def _files(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in choose(None, folder, with_code=False).copied}
