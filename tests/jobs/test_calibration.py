"""WANDA on models of real classes: norms from a person's texts in one forward pass, from the command line too."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from deltagram.jobs import inspect, prune, restore, verify
from deltagram.jobs.calibration import input_norms
from deltagram.jobs.evidence import Evidence
from deltagram.store.checkpoint import open_checkpoint
from deltagram.store.deltafile import open_delta
from deltagram.store.tensors import PrunedTensor
from desk import Desk
from tinymodels import save_with_words, write

WORDS = {f"w{number}": number for number in range(60)} | {"[UNK]": 60}
TEXTS = ["w1 w2 w3", "w4 w5", "w7 w7 w7 w7 w8 w9 w10", "w30 w31"]


def bert() -> Any:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        max_position_embeddings=30, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=64, n_embd=24, n_layer=2, n_head=2, n_positions=30)
    return transformers.GPT2LMHeadModel(config)


def folders(base: Any, place: Path) -> tuple[Path, Path, Path]:
    """Base, fine-tuned model, and texts."""
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    texts = write(place / "texts.jsonl", TEXTS)
    return save_with_words(base, place / "base", WORDS), save_with_words(tuned, place / "tuned", WORDS), texts


def seen(folder: Path, kind: Any) -> dict[str, np.ndarray]:
    """Root mean squares by a loop over texts without any padding, in float64."""
    model = kind.from_pretrained(folder).double().eval()
    inputs: dict[str, list[torch.Tensor]] = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | transformers.pytorch_utils.Conv1D):
            name = names[id(module.weight)]
            module.register_forward_pre_hook(
                lambda _, x, name=name: inputs.setdefault(name, []).append(x[0].reshape(-1, x[0].shape[-1]))
            )
    with torch.no_grad():
        for text in TEXTS:
            model(input_ids=torch.tensor([[WORDS[word] for word in text.split()]]))
    return {name: np.asarray((torch.cat(x) ** 2).mean(0).sqrt()) for name, x in inputs.items()}


@pytest.mark.parametrize(("make", "transposed"), [(bert, False), (gpt2, True)], ids=["bert", "gpt2"])
def test_norms_are_those_of_every_real_token(tmp_path: Path, make: Any, *, transposed: bool) -> None:
    base = make()
    _, tuned, texts = folders(base, tmp_path)
    found, expected = input_norms(open_checkpoint(tuned), Evidence(calibration=texts)), seen(tuned, type(base))
    assert set(found) == set(expected)
    for name, norms in found.items():
        assert norms.transposed == (transposed and "lm_head" not in name and "wte" not in name)
        assert np.allclose(norms.values, expected[name], rtol=1e-4)


def test_wanda_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tuned, texts = folders(bert(), tmp_path)
    capsys.readouterr()  # what saving said
    monkeypatch.chdir(tmp_path)
    desk = Desk(folder=tmp_path, capture=capsys, patch=monkeypatch)
    told = desk.does("prune base tuned delta --method wanda-rows --keep 0.1 --values f32 --calibration texts.jsonl")
    assert "no input norms: by magnitude: bert.embeddings.position_embeddings.weight, bert.embeddings" in told
    verify("delta", base="base")
    restore("base", "delta", "restored")
    assert transformers.BertForSequenceClassification.from_pretrained(tmp_path / "restored") is not None
    norms = input_norms(open_checkpoint(tuned), Evidence(calibration=texts))
    opened, (first, second) = open_delta("delta"), (open_checkpoint(path) for path in (base, tuned))
    rows = {name: entry for name, entry in opened.manifest.tensors.items() if isinstance(entry, PrunedTensor)}
    for name, entry in rows.items():
        mask = opened.mask(name)
        assert getattr(entry.mask, "score", "") == ("magnitude" if "embeddings" in name else "wanda")
        if name in norms:
            shape, size = entry.spec.shape, entry.spec.size
            wide = [np.array(c.bits(name, 0, size)).view(np.float32).reshape(shape) for c in (first, second)]
            scores = np.abs(wide[1] - wide[0]) * norms[name].values
            counts = np.bincount(mask.positions(0, mask.keep).astype(int) // shape[1], minlength=shape[0])
            assert np.ptp(counts) <= 1
            chosen = np.zeros(size, bool)
            chosen[mask.positions(0, mask.keep).astype(int)] = True
            for row, keeps in zip(scores, chosen.reshape(shape), strict=True):
                assert not keeps.any() or row[keeps].min() >= row[~keeps].max()


def test_columns_are_weighed_on_texts_and_gpt2_says_what_it_stores(tmp_path: Path) -> None:
    base, tuned, texts = folders(gpt2(), tmp_path)
    record = prune(base, tuned, tmp_path / "d", method="columns-wanda", keep=0.05, calibration=texts)
    assert record.settings["method"] == "columns-wanda"
    reasons = {row["reason"] for name, row in record.tensors.items() if ".h." in name and "reason" in row}
    assert reasons == {"method; may be stored (input, output): random instead of columns"}
    record = prune(base, tuned, tmp_path / "w", method="wanda", keep=0.05, calibration=texts)
    assert {row["score"] for name, row in record.tensors.items() if ".h." in name and "score" in row} == {"wanda"}
    assert inspect(tmp_path / "w").tensors["transformer.wpe.weight"]["score"] == "magnitude"


def test_files_that_cannot_calibrate_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders(bert(), tmp_path)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "odd.jsonl").write_text('{"words": "w1"}\n')
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    desk = Desk(folder=tmp_path, capture=capsys, patch=monkeypatch)
    line = "prune base tuned d --method wanda --calibration"
    desk.refuses(f"{line} empty.jsonl", "empty.jsonl: is empty")
    desk.refuses(f"{line} odd.jsonl", "odd.jsonl: has no column 'text', expected one of its columns 'words'")
    alone = "prune base/model.safetensors tuned/model.safetensors d --method wanda --calibration texts.jsonl"
    desk.refuses(alone, "is a file without a config.json, and here the model has to run; give the fine-tuned")
    assert not (tmp_path / "d").exists()
