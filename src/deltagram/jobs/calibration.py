"""What goes into each linear layer on a person's texts, for methods that weigh entries by it."""

from collections.abc import Mapping

import numpy as np

from deltagram.data import read_table
from deltagram.delta.scores import InputNorms
from deltagram.errors import SettingError
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.runnable import runnable
from deltagram.store.adapter import Tuned
from deltagram.training.activations import input_moments, linear_weights
from deltagram.training.loaded import batches, loaded

Norms = Mapping[str, InputNorms]


def input_norms(tuned: Tuned, evidence: Evidence) -> dict[str, InputNorms]:
    """Root mean square of each input of every linear layer of `tuned`, over the tokens of the calibration texts.

    One forward pass. A layer that no text reaches is left out. Raises SettingError for texts that cannot be read,
    CheckpointError for a model that cannot be built.
    """
    if evidence.calibration is None:
        raise SettingError("--calibration", "is missing", fix="give a file of texts")
    table = read_table(evidence.calibration, labelled=False)
    with runnable(tuned) as folder, loaded(folder, tuned.specs) as run:
        tokens = batches(run, table.text[: evidence.searched], max_length=evidence.max_length)
        transposed = {name: flipped for name, (_, flipped) in linear_weights(run).items()}
        moments = input_moments(run, tokens)
    return {
        name: InputNorms(values=np.sqrt(found.square).astype(np.float32), transposed=transposed[name])
        for name, found in moments.items()
    }
