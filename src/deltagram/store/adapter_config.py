"""`adapter_config.json` of a PEFT LoRA adapter: what is used is strict, what cannot be honoured is refused by name."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deltagram.errors import CheckpointError

CONFIG: Final = "adapter_config.json"
WEIGHTS: Final = "adapter_model.safetensors"
_INITIAL: Final = (True, False, None, "gaussian", "eva", "orthogonal")
_OF_NO_MEANING: Final = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules", "inference_mode",
        "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config",
        "megatron_core", "modules_to_save", "parent_library", "peft_version", "qalora_group_size", "revision",
        "runtime_config", "target_modules", "task_type", "bias", "lora_bias",
    }
)  # fmt: skip


class AdapterConfig(BaseModel):
    """The fields that decide what an adapter adds. Hu et al., ICLR 2022; Kalajdzievski, arXiv 2312.03732 (rsLoRA)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    peft_type: str
    base_model_name_or_path: str | None = None
    r: int = Field(default=8, ge=1, strict=True)
    lora_alpha: float = Field(default=8, allow_inf_nan=False)
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}

    def rank(self, module: str) -> int:
        """The rank of a module's factors."""
        return int(_of(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """What multiplies B A: alpha / rank, or alpha / sqrt(rank) with `use_rslora`."""
        rank = self.rank(module)
        alpha = float(_of(self.alpha_pattern, module, self.lora_alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    @property
    def made_for(self) -> str:
        """The base it names, in words."""
        return f"it was made for {self.base_model_name_or_path or 'a base it does not name'}"


def _of(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches a module's name or its end, as PEFT does it."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def read_config(folder: Path) -> AdapterConfig:
    """The configuration of an adapter. Raises CheckpointError, naming the field, for all but plain LoRA."""
    path = folder / CONFIG
    try:
        parsed: Any = json.loads(path.read_text("utf-8"))
        config = AdapterConfig.model_validate(parsed)
        for pattern in (*config.rank_pattern, *config.alpha_pattern):
            re.compile(pattern)
    except OSError as fault:
        raise CheckpointError(str(path), f"cannot be read ({fault.strerror})") from None
    except ValidationError as fault:
        error = fault.errors(include_url=False)[0]
        found = f"{'.'.join(str(step) for step in error['loc']) or 'the file'}: {error['msg']}"
        raise CheckpointError(str(path), found, expected="the configuration of a LoRA adapter") from None
    except (ValueError, RecursionError, re.error):
        raise CheckpointError(str(path), "is not a configuration", expected="the JSON that PEFT writes") from None
    _check(path, config)
    return config


def _check(path: Path, config: AdapterConfig) -> None:
    merge = "merge it with PeftModel.merge_and_unload(), save that, and give it instead"
    if config.peft_type != "LORA":
        raise CheckpointError(str(path), f"is an adapter of type {config.peft_type}", expected="LORA", fix=merge)
    more = config.model_extra or {}
    initial = more.get("init_lora_weights", True)
    if initial not in _INITIAL:
        found = f"init_lora_weights is {initial!r}, which changes the base's own weights"
        raise CheckpointError(str(path), found, fix=f"convert it to plain LoRA when it is saved, or {merge}")
    for name, value in sorted(more.items()):
        if name not in _OF_NO_MEANING and value not in (None, False, {}, []):
            raise CheckpointError(str(path), f"{name} is {value!r:.60}, which is not supported", fix=merge)
