"""The loss against its lower bound: attained by an orthogonal frame under every option, and never undercut."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deltagram.geometry.designs import orthogonal
from deltagram.geometry.lowerbounds import full_batch_bound
from deltagram.losses import SupervisedContrastive


@given(
    counts=st.lists(st.integers(1, 5), min_size=2, max_size=4).filter(lambda c: max(c) > 1),
    temperature=st.floats(0.1, 2.0), seed=st.integers(0, 99), variant=st.sampled_from(["out", "in"]),
    divisor=st.sampled_from(["valid", "all"]), copies=st.sampled_from([None, 1.0, 3.5]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_frame_is_at_the_bound_of_the_loss(
    counts: list[int], temperature: float, seed: int, variant: str, divisor: str, copies: float | None
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.2, 3.0, len(counts))
    frame, label = orthogonal(len(counts), dim=2 * len(counts)), np.repeat(np.arange(len(counts)), counts)
    given_: dict[str, Any] = {} if copies is None else {"prototypes": torch.from_numpy(frame), "copies": copies}
    loss = SupervisedContrastive(
        temperature, weight=torch.from_numpy(weight), variant=variant, divisor=divisor, **given_
    ).double()
    bound = full_batch_bound(
        counts, temperature=temperature, class_weight=weight, copies=copies,
        reduction="mean" if divisor == "valid" else "mean-all",
    )  # fmt: skip
    assert loss(torch.from_numpy(frame[label]), torch.from_numpy(label)).item() == pytest.approx(bound, rel=1e-6)
    other = torch.from_numpy(np.abs(rng.standard_normal((len(label), frame.shape[1]))))
    assert loss(other, torch.from_numpy(label)).item() >= bound - 1e-9 * abs(bound)
