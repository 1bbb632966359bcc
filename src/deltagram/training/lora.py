"""Low-rank adapters through peft."""

import warnings
from typing import Any

from deltagram.errors import ExtraError, SettingError
from deltagram.training.recipe import Lora


def adapted(model: Any, lora: Lora, *, task: str) -> Any:
    """`model` with adapters, B = 0, on the modules `lora` names (all linear ones unless it does); the head stays whole.

    Raises ExtraError without peft, SettingError for modules that are not there.
    """
    try:
        import peft  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as fault:
        raise ExtraError("lora", f"package {fault.name} is not installed", fix="pip install 'deltagram[hf]'") from None
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha or 2 * lora.rank, task_type=task,
        target_modules=list(lora.targets) or "all-linear",
    )  # fmt: skip
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
            return peft.get_peft_model(model, config)
    except ValueError as fault:
        reason = " ".join(str(fault).split())[:200]
        raise SettingError("lora_targets", f"{', '.join(lora.targets)}: {reason}", fix="name linear modules") from None
