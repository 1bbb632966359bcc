"""Whether labels were counted with a model's tokenizer: names of words beside the tokens of the same numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deltagram.errors import CheckpointError, SettingError
from deltagram.training.batches import I64
from deltagram.training.huggingface import libraries

_FILES: Final = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


def check_vocabulary(folder: Path, names: Sequence[str], ids: I64) -> bool:
    """Whether there was anything to check: a tokenizer in the model's folder, and names of the words.

    A word is called as the tokenizer spells or decodes its token. Raises SettingError where one is not, CheckpointError
    for a tokenizer that cannot be read.
    """
    if not names or not any((folder / name).is_file() for name in _FILES):
        return False
    with libraries() as (_, transformers):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as fault:
            reason = " ".join(str(fault).split())[:200] or type(fault).__name__
            raise CheckpointError(str(folder), f"has a tokenizer that transformers does not read ({reason})") from None
        tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
        for name, number, token in zip(names, ids.tolist(), tokens, strict=True):
            if name != token and name != tokenizer.decode([number]):
                raise SettingError(
                    str(folder), f"its token {number} is {token!r}, and the labels' is {name!r}",
                    expected="labels counted with this model's tokenizer", fix="count with --tokenizer MODEL",
                )  # fmt: skip
    return True
