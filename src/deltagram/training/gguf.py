"""A language model in GGUF, dequantised into a plain checkpoint folder."""

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deltagram.errors import CheckpointError, ExtraError
from deltagram.training.huggingface import libraries


def dequantise(source: Path, out: Path) -> None:
    """Write the model and tokenizer in the GGUF file `source` into the folder `out`, in float32.

    Raises ExtraError without the package gguf, CheckpointError for a file that transformers cannot read.
    """
    with libraries() as (_, transformers):
        if find_spec("gguf") is None:  # transformers reads GGUF with it
            raise ExtraError(str(source), "package gguf is not installed", fix="pip install --no-deps gguf")
        told: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
        try:
            read = transformers.AutoModelForCausalLM.from_pretrained(source.parent, **told)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **told)
        except (OSError, ValueError, KeyError, struct.error) as fault:
            reason = " ".join(str(fault).split())[:200]
            raise CheckpointError(str(source), f"cannot be read ({reason})", expected="a model in GGUF") from None
        config = read.config
        del config.quantization_config  # what it was stored in; transformers would not save the model otherwise
        plain = type(read)(config)
        plain.load_state_dict(read.state_dict())
        plain.float().save_pretrained(out)
        tokenizer.save_pretrained(out)
