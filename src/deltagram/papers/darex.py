"""DAREx: Deng, Zhao, Vakilian, Chen, Li, Thrampoulidis, "DARE the Extreme", ICLR 2025, arXiv 2410.09344."""

from collections.abc import Callable, Mapping
from typing import Final

from deltagram.papers.bench import Bench
from deltagram.papers.claims import Claim
from deltagram.papers.darex_decoder import decoder_gain
from deltagram.papers.darex_dropping import dropping, fixed_mask, growing
from deltagram.papers.darex_pipeline import pipeline
from deltagram.papers.darex_rescaling import encoder_gain, importance, structural
from deltagram.papers.darex_theory import mean_and_variance
from deltagram.papers.darex_training import lora, pulled
from deltagram.papers.measured import Checked

CHECKS: Final[Mapping[str, Callable[[Bench, Claim], Checked]]] = {
    "D1": dropping,
    "D2": growing,
    "D3": fixed_mask,
    "D4": mean_and_variance,
    "D5": encoder_gain,
    "D6": decoder_gain,
    "D7": pulled,
    "D8": lora,
    "D9": structural,
    "D10": importance,
    "D11": pipeline,
}
