"""What kind of layer each weight of a model belongs to: the model's own class, built without its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deltagram.errors import CheckpointError
from deltagram.training.huggingface import libraries

Kind = Literal["linear", "transposed", "embedding", "convolution", "leaf", "inner"]


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The modules of a model class by their full names.

    `transposed` is GPT-2's Conv1D, a linear layer that stores `in x out`. `leaf` is any other module without
    modules in it, `inner` one that has some. `tied` names the output layer that shares a weight with an embedding.
    """

    model: str
    kinds: Mapping[str, Kind]
    tensors: frozenset[str]
    prefix: str
    tied: Mapping[str, str]

    def name(self, tensor: str) -> str:
        """A tensor's name as the model has it: a checkpoint may leave out the prefix of the bare model."""
        longer = f"{self.prefix}.{tensor}"
        return longer if tensor not in self.tensors and longer in self.tensors else tensor

    def kind(self, module: str) -> Kind | None:
        """The kind of a module, with or without the prefix of the bare model; None if the model has no such module."""
        return self.kinds.get(module) or self.kinds.get(module.removeprefix(f"{self.prefix}."))


def layers(folder: Path) -> Layers:
    """The layers of the model that `config.json` in `folder` describes.

    Raises CheckpointError where transformers has no class for it, ExtraError without the extra `hf`.
    """
    with libraries() as (torch, transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            name = (config.architectures or [""])[0]
            found = getattr(transformers, name, None) if name else transformers.AutoModel
            with torch.device("meta"):
                model = found._from_config(config) if name and found else transformers.AutoModel.from_config(config)
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as fault:
            reason = " ".join(str(fault).split())[:200]
            raise CheckpointError(
                str(folder / "config.json"), f"transformers cannot build its model ({reason})",
                expected="a model class of transformers", fix="restore the delta, or export it --to dense",
            ) from None  # fmt: skip
        modules = {path: module for path, module in model.named_modules() if path}
        return Layers(
            model=type(model).__name__,
            kinds={path: _kind(torch, module) for path, module in modules.items()},
            tensors=frozenset(model.state_dict()),
            prefix=model.base_model_prefix,
            tied=_tied(model, modules),
        )


def _kind(torch: Any, module: Any) -> Kind:
    plain = type(module)  # a child class may use its weight in its own way, past what PEFT puts around it
    if plain is torch.nn.Linear:
        return "linear"
    if plain is torch.nn.Embedding:
        return "embedding"
    if plain.__name__ == "Conv1D" and hasattr(module, "nf"):
        return "transposed"
    if plain in (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d) and module.groups == 1:
        return "convolution"
    return "inner" if next(module.children(), None) is not None else "leaf"


def _tied(model: Any, modules: Mapping[str, Any]) -> dict[str, str]:
    """Embedding to the output layer that is tied to it."""
    output, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if output is None or embedding is None or not getattr(model.config, "tie_word_embeddings", False):
        return {}
    names = {id(module): path for path, module in modules.items()}
    return {names[id(embedding)]: names[id(output)]}
