"""What goes into each linear layer on a person's texts, for methods that weigh entries by it."""

from collections.abc import Mapping

import numpy as np

from deltagram.delta.scores import InputNorms
from deltagram.jobs.evidence import Evidence, calibration_batches
from deltagram.jobs.runnable import runnable
from deltagram.store.adapter import Tuned
from deltagram.training.activations import input_moments, linear_weights
from deltagram.training.loaded import Loaded, loaded

Norms = Mapping[str, InputNorms]


def input_norms(tuned: Tuned, evidence: Evidence, *, device: str = "cpu") -> dict[str, InputNorms]:
    """Root mean square of each input of every linear layer of `tuned`, over the tokens of the calibration texts.

    One forward pass. A layer that no text reaches is left out. Raises SettingError for texts that cannot be read,
    CheckpointError for a model that cannot be built.
    """
    evidence.check_readable()
    with runnable(tuned) as folder, loaded(folder, tuned.specs, device=device) as run:
        return norms_on(run, evidence)


def norms_on(run: Loaded, evidence: Evidence) -> dict[str, InputNorms]:
    """`input_norms` of a fine-tuned model that is loaded already."""
    moments = input_moments(run, calibration_batches(run, evidence))
    transposed = {name: flipped for name, (_, flipped) in linear_weights(run).items()}
    return {
        name: InputNorms(values=np.sqrt(found.square).astype(np.float32), transposed=transposed[name])
        for name, found in moments.items()
    }
