"""DAREx: fine-tuning for pruning - AdamR (D7) and LoRA (D8)."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.jobs.once import digest, once
from deltagram.jobs.prune import prune
from deltagram.jobs.rescale import rescale
from deltagram.jobs.restore import restore
from deltagram.jobs.train import train
from deltagram.papers.bench import Bench, Variant, training_settings, write_lines
from deltagram.papers.cells import Stored
from deltagram.papers.claims import Claim
from deltagram.papers.darex_dropping import keep
from deltagram.papers.measured import Checked, Gain, Numbers, on_variant, over_seeds
from deltagram.papers.stage import Sources, stage
from deltagram.papers.tasks import Task, every_class

Both = tuple[Numbers, list[dict[str, Any]]]


def by_job(bench: Bench, task: Task, *, seed: int, name: str, **told: Any) -> Variant:
    """The encoder fine-tuned by `jobs.train` as `Bench.tuned` does it, but for what it is `told`."""
    settings = {**training_settings(task, seed=seed), "dropout": False, **told}
    data, _ = bench.data(task)

    def work(base: Path, folder: Path) -> Mapping[str, Any]:
        table = bench.folder / f"{folder.name}-train.jsonl"
        pairs = zip(data.train.text, data.train.label, strict=True)
        write_lines(table, [{"text": text, "label": data.classes[label]} for text, label in pairs])
        try:
            record = train(
                base, table, folder, task="classification", **settings, force=True, progress=bench.progress
            )  # fmt: skip
        finally:
            table.unlink()
        return {name: record.numbers[name] for name in ("steps", "loss")}

    return bench.trained(task, work, name=f"{task.name}-{name}-seed{seed}", settings=settings)


def adamr(bench: Bench, task: Task, *, seed: int, strength: float) -> Variant:
    """The task tuned by AdamR-L2."""
    return by_job(bench, task, seed=seed, name=f"adamr{strength:g}", pull="l2", strength=strength)


def pulled(bench: Bench, claim: Claim) -> Checked:
    """D7: DARE after AdamR-L2, beside plain AdamW at the same rate and at a lower one."""
    settings = claim.settings
    stored = Stored(keep=keep(settings["drop"]))
    strengths = settings["strengths"] if bench.scale.full else [settings["chosen"]]

    def numbers(gain: Gain) -> Numbers:
        return {"top": gain.top, "share": gain.share(stored), "floor": gain.floor, "score": gain.score(stored)}

    def work(seed: int) -> Both:
        low = replace(bench.large, learning_rate=settings["low_rate"])
        plain, rows = on_variant(bench, bench.tuned(bench.large, seed=seed), numbers)
        lower, more = on_variant(bench, bench.tuned(low, seed=seed), numbers)
        found = {}
        for strength in strengths:
            tuned = adamr(bench, bench.large, seed=seed, strength=strength)
            found[strength], others = on_variant(bench, tuned, numbers)
            more = more + others
        chosen = found[settings["chosen"]]
        return {
            "share": chosen["share"],
            "over_plain": chosen["share"] - plain["share"],
            "tuned_loss": plain["top"] - chosen["top"],
            "strength_rank": _rank([0.0, *strengths], [plain["share"], *(found[s]["share"] for s in strengths)]),
            "control_over_low_rate": chosen["score"] - lower["score"],
        }, rows + more

    return over_seeds(bench, work, strengths=list(strengths))


def _rank(x: list[float], y: list[float]) -> float:
    from scipy.stats import spearmanr  # noqa: PLC0415 - scipy is slow to import

    return float(spearmanr(x, y).statistic)


def lora(bench: Bench, claim: Claim) -> Checked:
    """D8: both factors of an adapter pruned, q among multiples of 1 - p chosen on labelled texts set aside."""
    settings = claim.settings
    multiples = [float(multiple) for multiple in settings["multiples"]]

    def work(seed: int) -> Both:
        adapter, merged = lora_variant(bench, bench.large, claim, seed=seed)
        held = _held(bench, merged)
        drop, mild = keep(settings["drop"]), keep(settings["mild"])

        def score(share: float, multiple: float, mask: int, sources: Sources) -> float:
            return _factors(bench, adapter, sources, keep=share, multiple=multiple, seed=mask)

        tried = [score(drop, multiple, 0, held) for multiple in multiples]
        best = multiples[len(tried) - 1 - int(np.argmax(tried[::-1]))]

        def numbers(gain: Gain) -> Numbers:
            on = gain.stage.sources
            cells = {
                name: [score(share, multiple, mask, on) for mask in gain.masks]
                for name, share, multiple in (("plain", drop, 1.0), ("tuned", drop, best), ("mild", mild, 1.0))
            }
            mean = {name: float(np.mean(scores)) for name, scores in cells.items()}
            gain.rows.extend(
                {"variant": gain.name, "method": f"factors, {name}", "score": mean[name],
                 "spread": float(np.std(scores)), "share": gain.share_of(mean[name])}
                for name, scores in cells.items()
            )  # fmt: skip
            product = {rule: gain.share(Stored(keep=drop), rule) for rule in ("dare", "labels")}
            return {
                "gain": mean["tuned"] - mean["plain"], "share": gain.share_of(mean["tuned"]),
                "control_mild": gain.share_of(mean["mild"]), "best_multiple": best,
                "product_plain": product["dare"], "product_tuned": product["labels"],
            }  # fmt: skip

        return on_variant(bench, merged, numbers)

    return over_seeds(bench, work)


def lora_variant(bench: Bench, task: Task, claim: Claim, *, seed: int) -> tuple[Variant, Variant]:
    """An adapter, and the checkpoint it makes of the base (all its factors' entries kept, bit for bit)."""
    told = {"lora": claim.settings["rank"], "learning_rate": claim.settings["learning_rate"]}
    adapter = by_job(bench, task, seed=seed, name=f"lora{told['lora']}", **told)
    folder = adapter.folder.with_name(f"{adapter.name}-merged")

    def merge() -> Mapping[str, Any]:
        with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
            delta = Path(scratch) / "delta"
            prune(adapter.base, adapter.folder, delta, adapter="factors", keep=1.0, method="random", values="f32")
            restore(adapter.base, delta, folder, force=True)
        return {}

    once(folder, merge, made_from={"adapter": digest(adapter.folder)}, progress=bench.progress)
    return adapter, replace(adapter, name=folder.name, folder=folder)


def _held(bench: Bench, merged: Variant) -> Sources:
    """Labelled texts set aside in the place of the test."""
    sources = bench.sources(merged)
    texts = every_class(merged.held, most=bench.scale.labels, classes=len(merged.data.classes))
    return replace(sources, scorer=bench.test(replace(merged, data=replace(merged.data, test=texts))))


def _factors(
    bench: Bench, adapter: Variant, sources: Sources, *, keep: float, multiple: float, seed: int
) -> float:  # fmt: skip
    """The score of an adapter whose factors are each pruned and divided by `multiple` x keep."""

    def measure() -> Mapping[str, Any]:
        with tempfile.TemporaryDirectory(prefix="deltagram-") as scratch:
            delta, folder = Path(scratch) / "delta", Path(scratch) / "restored"
            prune(adapter.base, adapter.folder, delta, adapter="factors", keep=keep, method="bernoulli", seed=seed)
            rescale(delta, divide_by=multiple * keep)
            restore(adapter.base, delta, folder)
            with stage(replace(sources, tuned=folder), bench.notes, progress=bench.progress) as made:
                return {"score": made.tuned().score}

    made_from = {
        "factors": digest(adapter.folder), "base": digest(adapter.base), "keep": keep, "multiple": multiple,
        "seed": seed, "test": sources.scorer.identity,
    }  # fmt: skip
    return float(bench.notes.once(made_from, measure)["score"])
