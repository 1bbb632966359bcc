"""DAREx-q on a language model that generates labels (D6)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from blake3 import blake3

from deltagram.data.packages import Texts
from deltagram.papers.bench import Bench, Variant
from deltagram.papers.cells import Stored
from deltagram.papers.claims import Claim
from deltagram.papers.darex_dropping import keep
from deltagram.papers.measured import Checked, Gain, Numbers, on_variant, over_seeds, with_ends
from deltagram.papers.scoring import Answers
from deltagram.papers.stage import Sources, stage
from deltagram.papers.tasks import some
from deltagram.store.staging import staged
from deltagram.training.answers import answer_tokens, fine_tune_answers

_WORDS: Final = 40  # of a text, so that a prompt is never cut off
_MAX_LENGTH: Final = 128
Both = tuple[Numbers, list[dict[str, Any]]]


def prompt(text: str) -> str:
    """What the model reads before it says a class.

    >>> prompt("a fine  film")
    'Review: a fine film\\nSentiment:'
    """
    return f"Review: {' '.join(text.split()[:_WORDS])}\nSentiment:"


def decoder_gain(bench: Bench, claim: Claim) -> Checked:
    """D6: q, chosen among multiples on prompts set aside, against DARE; and the same gain of the encoder."""
    base = bench.language_model()
    settings = claim.settings

    def work(seed: int) -> Both:
        variant = _tuned(bench, base, settings, seed=seed)
        stored = Stored(keep=keep(settings["drop"]))
        chosen = _chosen(bench, variant, stored, [float(multiple) for multiple in settings["multiples"]])

        def numbers(gain: Gain) -> Numbers:
            plain, tuned = gain.score(stored), gain.score(stored, chosen)
            return {
                "gain": tuned - plain,
                "share": gain.share_of(tuned),
                "control_mild": gain.share(Stored(keep=keep(settings["mild"])), masks=(0,)),
            }

        found, rows = with_ends(_sources(bench, variant, held=False), bench, variant, numbers)
        encoder, more = on_variant(bench, bench.tuned(bench.large, seed=seed), lambda gain: _encoder(gain, settings))
        return {**found, "over_encoder": found["gain"] - encoder["gain"]}, rows + more

    return over_seeds(bench, work, base=base.name)


def _encoder(gain: Gain, settings: Mapping[str, Any]) -> Numbers:
    stored = Stored(keep=keep(settings["encoder_drop"]))
    return {"gain": gain.score(stored, "labels") - gain.score(stored)}


def _tuned(bench: Bench, base: Path, settings: Mapping[str, Any], *, seed: int) -> Variant:
    told = {
        "steps": settings["steps"], "batch_size": settings["batch_size"], "learning_rate": settings["learning_rate"],
        "max_length": _MAX_LENGTH, "seed": seed,
    }  # fmt: skip
    data, _ = bench.data(bench.large)

    def train(base: Path, folder: Path) -> Mapping[str, Any]:
        answers = _answers(base, data.classes)
        prompts = [prompt(text) for text in data.train.text]
        said = [answers[label] for label in data.train.label]
        with staged(folder, force=True, inputs=(base,)) as out:
            return fine_tune_answers(base, prompts, said, out, **told, progress=bench.progress)

    name = f"{bench.large.name}-answers-seed{seed}"
    return bench.trained(bench.large, train, name=name, settings={**told, "answers": True}, base=base)


def _answers(model: Path, classes: tuple[str, ...]) -> tuple[int, ...]:
    return answer_tokens(model, [f" {name}" for name in classes])


def _sources(bench: Bench, variant: Variant, *, held: bool) -> Sources:
    texts = (
        some(variant.held, most=bench.scale.chosen_on, name=f"{variant.data.name}/held")
        if held
        else some(variant.data.test, most=bench.scale.prompts, name=variant.data.name)
    )
    evidence, told = bench.evidence(variant)
    return Sources(
        base=variant.base, tuned=variant.folder, scorer=_scorer(variant, texts), evidence=evidence, evidence_digest=told
    )


def _scorer(variant: Variant, texts: Texts) -> Answers:
    prompts = tuple(prompt(text) for text in texts.text)
    return Answers(
        prompts=prompts, label=texts.label, tokens=_answers(variant.base, variant.data.classes),
        digest=blake3(repr(prompts).encode()).hexdigest(), max_length=_MAX_LENGTH,
    )  # fmt: skip


def _chosen(bench: Bench, variant: Variant, stored: Stored, multiples: list[float]) -> float:
    """The multiple of 1 - p that is best on prompts set aside, on one mask; of equals the larger."""
    sources = _sources(bench, variant, held=True)
    with stage(sources, bench.notes, progress=bench.progress) as held:
        ends = Gain.between(held, bench, variant)
        scores = [ends.score(stored, multiple, masks=(0,)) for multiple in multiples]
    return multiples[len(scores) - 1 - int(np.argmax(scores[::-1]))]
