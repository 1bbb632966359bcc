"""AdamR in other people's loops: the Trainer of transformers, accelerate, and the code on the page."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState
from safetensors import safe_open

from deltagram.training import AdamR
from tinymodels import tiny_bert

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of one's own, and accelerate as if it had not been used."""
    monkeypatch.chdir(tmp_path)
    tiny_bert(tmp_path / "base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _made(**options: Any) -> tuple[Any, AdamR]:
    model = transformers.AutoModelForSequenceClassification.from_pretrained("base", num_labels=2)
    base = safe_open("base/model.safetensors", framework="pt")
    known = set(base.keys())
    named = [(name, param) for name, param in model.named_parameters() if name.removeprefix("bert.") in known]
    head = [(name, param) for name, param in model.named_parameters() if name.removeprefix("bert.") not in known]
    groups = [{"params": named}, {"params": head, "strength": 0.0}]
    return model, AdamR(groups, reference=lambda name: base.get_tensor(name.removeprefix("bert.")), **options)


def _apart(model: Any) -> float:
    base = transformers.AutoModel.from_pretrained("base").state_dict()
    return max(float((model.bert.state_dict()[name] - value).abs().max()) for name, value in base.items())


ROWS = [{"input_ids": [2, 5 + i % 2, 3], "labels": i % 2} for i in range(16)]


def _trainer(model: Any, optimizer: AdamR, folder: str, **options: Any) -> transformers.Trainer:
    args = transformers.TrainingArguments(
        folder, max_steps=8, report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
        per_device_train_batch_size=4, save_steps=4, **options,
    )  # fmt: skip
    return transformers.Trainer(model=model, args=args, train_dataset=ROWS, optimizers=(optimizer, None))


def test_the_trainer_pulls_and_resumes() -> None:
    free, optimizer = _made(lr=1e-2, strength=0.0)
    _trainer(free, optimizer, "free").train()
    assert _apart(free) > 0.01
    model, optimizer = _made(lr=1e-2, strength=1e9, pull="l1")
    head = model.classifier.weight.detach().clone()
    _trainer(model, optimizer, "run").train()
    assert _apart(model) == 0
    assert not torch.equal(model.classifier.weight, head)
    model, optimizer = _made(lr=1e-2, strength=0.5)
    _trainer(model, optimizer, "whole", learning_rate=1e-2, seed=5).train()
    again, second = _made(lr=1e-2, strength=0.5)
    _trainer(again, second, "whole", learning_rate=1e-2, seed=5).train(resume_from_checkpoint="whole/checkpoint-4")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_prepares_it(precision: str) -> None:
    accelerator = accelerate.Accelerator(mixed_precision=precision, cpu=True)
    model, optimizer = _made(lr=1e-2, strength=1e9)
    prepared, wrapped = accelerator.prepare(model, optimizer)
    ids = torch.tensor([row["input_ids"] for row in ROWS])
    for _ in range(3):
        accelerator.backward(prepared(input_ids=ids, labels=torch.arange(16) % 2).loss)
        accelerator.clip_grad_norm_(prepared.parameters(), 1.0)
        wrapped.step()
        wrapped.zero_grad()
    assert optimizer.clamped == 3
    assert 0 < _apart(model) < 0.05  # one step of Adam away from the base


@pytest.mark.filterwarnings("ignore:.pin_memory. argument:UserWarning")
def test_the_code_on_the_page_runs(capfd: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    assert names["optimizer"].state
    assert "train_loss" in capfd.readouterr().out
