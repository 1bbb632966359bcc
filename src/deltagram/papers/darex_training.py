"""DAREx: fine-tuning for pruning - AdamR (D7) and LoRA (D8)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deltagram.jobs.once import digest, once
from deltagram.jobs.train import train
from deltagram.papers.bench import Bench, Variant, training_settings, write_lines
from deltagram.papers.cells import Stored
from deltagram.papers.claims import Claim
from deltagram.papers.darex_dropping import keep
from deltagram.papers.measured import Checked, Gain, Numbers, on_variant, over_seeds
from deltagram.papers.tasks import Task
from deltagram.store.staging import staged
from deltagram.training.headed import add_head

Both = tuple[Numbers, list[dict[str, Any]]]


def by_job(bench: Bench, task: Task, *, seed: int, name: str, base: Path | None = None, **told: Any) -> Variant:
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

    return bench.trained(task, work, name=f"{task.name}-{name}-seed{seed}", settings=settings, base=base)


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
    """D8: both factors of an adapter pruned, q from labels or output change, against DARE; the product beside."""
    settings = claim.settings

    def numbers(gain: Gain) -> Numbers:
        factors, product = (
            Stored(keep=keep(settings["drop"]), adapter=adapter) for adapter in ("factors", "product")
        )  # fmt: skip
        plain = gain.score(factors)
        labels, output = (gain.score(factors, rule) for rule in settings["rules"])
        return {
            "gain": labels - plain,
            "share": gain.share_of(labels),
            "gain_output": output - plain,
            "control_mild": gain.share(replace(factors, keep=keep(settings["mild"]))),
            "product_plain": gain.share(product),
            "product_tuned": gain.share(product, settings["rules"][0]),
        }

    def work(seed: int) -> Both:
        tuned = adapted(
            bench, bench.large, seed=seed, rank=settings["rank"], learning_rate=settings["learning_rate"]
        )  # fmt: skip
        return on_variant(bench, tuned, numbers)

    return over_seeds(bench, work)


def adapted(bench: Bench, task: Task, *, seed: int, rank: int, learning_rate: float) -> Variant:
    """The task tuned by LoRA on all linear layers, over the encoder with a head."""
    data, _ = bench.data(task)
    base = bench.folder / f"{task.name}-headed-seed{seed}"

    def head() -> Mapping[str, Any]:
        with staged(base, force=True, inputs=(bench.encoder(),)) as out:
            add_head(bench.encoder(), out, classes=data.classes, seed=seed)
        return {}

    made_from = {"encoder": digest(bench.encoder()), "classes": list(data.classes), "seed": seed}
    once(base, head, made_from=made_from, progress=bench.progress)
    told = {"lora": rank, "learning_rate": learning_rate}
    return by_job(bench, task, seed=seed, name=f"lora{rank}", base=base, **told)
