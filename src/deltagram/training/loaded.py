"""A model of any class that transformers can build, in float32, ready to be run on texts and measured."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from deltagram.arrays import Spec
from deltagram.delta.names import match
from deltagram.errors import CheckpointError, PlanError, SettingError
from deltagram.training.batches import by_length
from deltagram.training.huggingface import Tokens, greatest_length, libraries, tokenize

AT_ONCE = 32
_GENERATES = ("ForCausalLM", "LMHeadModel")
BUILD_FAULTS = (OSError, ValueError, KeyError, AttributeError, RuntimeError, TypeError, ImportError)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model in float32 and evaluation mode, where it came from, and what it is.

    `kind` is "decoder" for a causal language model, else "encoder"; `missing` are parameters the folder does not
    hold (they are random); `parameters` maps names of checkpoint tensors to the model's parameters.
    """

    folder: Path
    model: Any
    kind: Literal["encoder", "decoder"]
    missing: tuple[str, ...]
    parameters: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of a classifier's classes, by index; none for other models."""
        config = self.model.config
        if not type(self.model).__name__.endswith("ForSequenceClassification"):
            return ()
        return tuple(str(config.id2label[i]) for i in range(config.num_labels))


@contextmanager
def loaded(folder: Path, tensors: Mapping[str, Spec], *, device: str = "cpu") -> Iterator[Loaded]:
    """The model in `folder`, in the class its config names; `tensors` are those of its checkpoint.

    Raises CheckpointError for a folder whose model cannot be built, PlanError for a tensor the model has no
    parameter for, ExtraError without the extra `hf`.
    """
    with libraries() as (_, transformers):
        model, missing = _build(transformers, folder)
        model = model.float().to(device).eval()
        for parameter in model.parameters():
            parameter.requires_grad_(requires_grad=False)
        name = type(model).__name__
        kind: Literal["encoder", "decoder"] = "decoder" if name.endswith(_GENERATES) else "encoder"
        if getattr(model.config, "is_encoder_decoder", False):
            found = f"{name} is an encoder-decoder model"
            raise CheckpointError(str(folder), found, expected="an encoder or a causal language model")
        parameters = _parameters(model, tensors, folder)
        yield Loaded(folder=folder, model=model, kind=kind, missing=missing, parameters=parameters)


def _build(transformers: Any, folder: Path) -> tuple[Any, tuple[str, ...]]:
    if not (folder / "config.json").is_file():
        raise CheckpointError(str(folder), "no config.json", expected="a Hugging Face model folder")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        wanted = (config.architectures or [""])[0]
        builder = getattr(transformers, wanted, None) or transformers.AutoModel
        model, told = builder.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except BUILD_FAULTS as fault:
        raise unbuildable(folder, fault) from None
    return model, tuple(sorted(told["missing_keys"]))


def unbuildable(folder: Path, fault: Exception) -> CheckpointError:
    """The refusal of a folder whose config transformers cannot follow."""
    reason = " ".join(str(fault).split())[:300] or type(fault).__name__
    return CheckpointError(
        str(folder), f"no model can be built from its config ({reason})",
        expected="a model class that this transformers has", fix="check config.json, or update transformers",
    )  # fmt: skip


def _parameters(model: Any, tensors: Mapping[str, Spec], folder: Path) -> dict[str, Any]:
    """The model's parameter or buffer of every tensor of its checkpoint."""
    state = model.state_dict(keep_vars=True)
    specs = {name: Spec(dtype="F32", shape=tuple(value.shape)) for name, value in state.items()}
    pairs = match(specs, tensors).base_of
    odd = [n for n, spec in tensors.items() if n not in pairs or specs[pairs[n]].shape != spec.shape]
    if odd:
        has = f"a parameter of shape {specs[pairs[odd[0]]].shape}" if odd[0] in pairs else "no such parameter"
        raise PlanError(
            odd[0], f"{type(model).__name__}, built from {folder / 'config.json'}, has {has}",
            expected=f"shape {tensors[odd[0]].shape}", fix="check that config.json belongs to this checkpoint",
        )  # fmt: skip
    return {name: state[pairs[name]] for name in tensors}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Token numbers and attention mask, `sample token`, on the model's device; and which texts they are."""

    ids: Any
    mask: Any
    samples: tuple[int, ...]


def batches(run: Loaded, texts: Sequence[str], *, max_length: int, size: int = AT_ONCE) -> list[Batch]:
    """Texts in batches of like length, cut at `max_length` tokens (and at what the model can take).

    Raises SettingError where no text has a token.
    """
    with libraries() as (torch, transformers):
        limit = greatest_length(transformers, run.folder)
        tokens: Tokens = tokenize(transformers, run.folder, texts, max_length=min(max_length, limit))
        kept = np.flatnonzero(np.asarray(tokens.lengths))
        if not kept.size:
            raise SettingError("texts", "give no token at all", expected="texts the tokenizer knows")
        device = next(run.model.parameters()).device
        found = []
        for order in by_length([tokens.lengths[i] for i in kept], size=size):
            ids, mask = (torch.from_numpy(part).to(device) for part in tokens.batch(kept[order]))
            found.append(Batch(ids=ids, mask=mask, samples=tuple(kept[order].tolist())))
        return found
