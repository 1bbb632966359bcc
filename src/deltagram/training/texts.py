"""Texts and a model of transformers: a classifier, with a new head if it has none, or a causal language model."""

from pathlib import Path
from typing import Any

from deltagram.data.tables import Table, class_index, class_names
from deltagram.errors import SettingError
from deltagram.training import huggingface
from deltagram.training.subject import Make, Subject
from deltagram.training.tasks import Classification, LanguageModelling, Task

LENGTHS = {"classification": 128, "lm": 512}


def texts(
    folder: Path, data: Table, *, task: str, held_out: Table | None = None, max_length: int | None = None
) -> Make:  # fmt: skip
    """How to make the subject of the model in `folder`, for the task classification (labels required) or lm.

    What is made raises SettingError for data that cannot be learnt or a length the model does not take,
    CheckpointError for a folder that transformers builds no such model from.
    """

    def make(torch: Any, transformers: Any) -> Subject:  # noqa: ARG001 - the interface
        length = _length(transformers, folder, task, max_length)
        model, classes = (_language_model if task == "lm" else _classifier)(transformers, folder, data)

        def made(table: Table) -> Task:
            if task == "lm":
                return _stream(transformers, folder, table, length)
            tokens = huggingface.tokenize(transformers, folder, table.text, max_length=length)
            return Classification(inputs=tokens, label=class_index(table.label or (), classes, source=table.source))

        def save(trained: Any, out: Path) -> None:
            trained.save_pretrained(out)
            huggingface.copy_tokenizer(transformers, folder, out)

        learnt = made(data)
        if getattr(model.config, "pad_token_id", None) is None:
            model.config.pad_token_id = huggingface.pad_token(transformers, folder)  # decoders with a head look for it
        return Subject(
            model=model, task=learnt, held_out=None if held_out is None else made(held_out), classes=classes,
            save=save, adapters="CAUSAL_LM" if task == "lm" else "SEQ_CLS",
            told={"texts": len(data.text), "max_length": length},
        )  # fmt: skip

    return make


def _length(transformers: Any, folder: Path, task: str, given: int | None) -> int:
    """Tokens a text: what was asked for, or the task's own, as far as the model goes."""
    limit = huggingface.greatest_length(transformers, folder)
    if given is None:
        return min(LENGTHS[task], limit)
    if not 2 <= given <= limit:
        raise SettingError("max_length", f"{given}", expected=f"2 to {limit} tokens, which the model takes")
    return given


def _language_model(transformers: Any, folder: Path, _data: Table) -> tuple[Any, tuple[str, ...]]:
    return huggingface.causal_model(transformers, folder), ()


def _classifier(transformers: Any, folder: Path, data: Table) -> tuple[Any, tuple[str, ...]]:
    """The model, with its own head or a new one for the labels there are, and the names of its classes."""
    if data.label is None:
        raise SettingError(data.source, "has no labels", fix="train with --task lm, or add a column of labels")
    model = None
    if huggingface.has_head(transformers, folder):
        model = huggingface.classifier(transformers, folder)
        classes = tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))
    else:
        classes = class_names(data.label)
    if len(set(data.label)) < 2:
        raise SettingError(data.source, f"has one class only ({data.label[0]!r})", expected="two classes or more")
    return model or huggingface.classifier(transformers, folder, classes=classes), classes


def _stream(transformers: Any, folder: Path, table: Table, length: int) -> Task:
    tokens = huggingface.tokenize_stream(transformers, folder, table.text, max_length=length)
    if not tokens.ids:
        raise SettingError(table.source, "has fewer than two tokens", expected="text to predict")
    return LanguageModelling(tokens=tokens)
