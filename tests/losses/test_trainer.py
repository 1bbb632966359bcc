"""Losses inside transformers' Trainer: parts of a step are the step, whatever is in each part."""

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import one_hot

from deltagram.errors import SettingError
from deltagram.losses import LDT, VS, CrossEntropy

COUNTS = [40, 10, 5]
LOSSES = {
    "CE": CrossEntropy(),
    "balanced": CrossEntropy(class_counts=COUNTS, class_weight="balanced"),
    "VS": VS(COUNTS, label_smoothing=0.1),
    "LDT symmetric": LDT.symmetric(COUNTS),
}


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Tagger(torch.nn.Module):
    """One linear layer over positions; what a model of transformers returns."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.layer(x)}


def trained(folder: Path, loss: Any, data: list[dict[str, Any]], *, parts: int, epochs: int = 1) -> torch.Tensor:
    """The layer after one step of SGD an epoch on all of the data, in so many parts."""
    from transformers import Trainer, TrainingArguments  # noqa: PLC0415 - heavy

    torch.manual_seed(1)
    model = Tagger()
    settings = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=len(data) // parts, gradient_accumulation_steps=parts,
        num_train_epochs=epochs, max_grad_norm=0, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
        lr_scheduler_type="constant", logging_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = Trainer(
        model=model, args=settings, train_dataset=data, optimizers=(optimizer, None), compute_loss_func=loss
    )  # type: ignore[arg-type]
    trainer.train()
    return model.layer.weight.detach().clone()


def tagged(samples: int) -> list[dict[str, torch.Tensor]]:
    """Positions with labels, of which a part is left out, a different one in each sample."""
    label = torch.randint(3, (samples, 6))
    label[torch.arange(6) < torch.arange(samples)[:, None] % 6] = -100
    return [{"x": torch.randn(6, 4), "labels": row} for row in label]


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_step_are_one_large_batch(tmp_path: Path, name: str) -> None:
    data, loss = tagged(12), LOSSES[name].for_trainer()
    whole = trained(tmp_path, loss, data, parts=1)
    for parts in (3, 12):
        torch.testing.assert_close(trained(tmp_path, loss, data, parts=parts), whole)

    def mean(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        assert num_items_in_batch == sum(int((row["labels"] != -100).sum()) for row in data)
        found: torch.Tensor = LOSSES[name](outputs["logits"].flatten(0, 1), labels.flatten())
        return found

    plain = trained(tmp_path, mean, data, parts=12)
    assert (plain - whole).norm() > 0.1 * whole.norm()  # a mean a part is not


def test_probabilities_are_counted_by_row(tmp_path: Path) -> None:
    data = [{"x": torch.randn(4), "labels": torch.rand(3)} for _ in range(8)]
    loss = LDT(COUNTS)
    whole = trained(tmp_path, loss.for_trainer(), data, parts=1)
    torch.testing.assert_close(trained(tmp_path, loss.for_trainer(), data, parts=4), whole)
    torch.manual_seed(1)
    model = Tagger()
    x, target = (torch.stack([row[key] for row in data]) for key in ("x", "labels"))
    loss(model(x)["logits"], target).backward()
    torch.testing.assert_close(whole, model.layer.weight - 0.5 * model.layer.weight.grad)


def test_without_a_count_the_labels_here_count() -> None:
    z, label = torch.randn(2, 6, 3), torch.randint(3, (2, 6))
    label[0, :4] = -100
    loss = CrossEntropy(weight=[1.0, 2.0, 4.0])
    expected = torch.nn.functional.cross_entropy(
        z.flatten(0, 1), label.flatten(), loss.weight, reduction="sum"
    ) / 8  # fmt: skip
    for outputs in ({"logits": z}, SimpleNamespace(logits=z), (z,)):
        torch.testing.assert_close(loss.for_trainer()(outputs, label), expected)
    torch.testing.assert_close(loss.for_trainer()((z,), label, 16), expected / 2)
    soft = one_hot(label.clamp(0), 3).float()
    torch.testing.assert_close(loss.for_trainer()((z,), soft), loss(z.flatten(0, 1), soft.flatten(0, 1)))


def test_shifted_labels_are_those_of_the_next_position() -> None:
    z, label = torch.randn(2, 6, 3), torch.randint(3, (2, 6))
    expected = CrossEntropy()(z[:, :-1].flatten(0, 1), label[:, 1:].flatten())
    torch.testing.assert_close(CrossEntropy().for_trainer(shift=True)((z,), label), expected)


def test_buffers_follow_the_logits() -> None:
    loss = copy.deepcopy(LOSSES["VS"])
    loss.for_trainer()((torch.randn(2, 3, device="meta"),), torch.zeros(2, dtype=torch.int64, device="meta"), 2)
    assert all(buffer.is_meta for buffer in loss.buffers())


def test_what_trainer_would_count_otherwise_is_refused() -> None:
    with pytest.raises(SettingError) as fault:
        CrossEntropy(ignore_index=0).for_trainer()
    assert str(fault.value) == "ignore_index: is 0, expected -100, as Trainer has it"
    with pytest.raises(SettingError) as fault:
        CrossEntropy().for_trainer()((torch.zeros(2, 3),), None)
    assert str(fault.value) == "labels: are missing; name the column of the data set 'labels'"
