"""The quality tables: every way to store a delta, at every size, on every variant."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deltagram.arrays import F64
from deltagram.errors import SettingError
from deltagram.papers.bench import Bench, Variant
from deltagram.papers.ledger import Ledger
from deltagram.papers.measured import Gain
from deltagram.papers.scoring import share, share_interval
from deltagram.papers.stage import Stage, stage
from deltagram.papers.ways import SIZES, WAYS, Size, Way
from deltagram.records import Record
from deltagram.store.checkpoint import open_checkpoint

Tuned = Mapping[str, Callable[[], Variant]]
JOB: Final = "quality"


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Between what cells lie: values and scores as fine-tuned, of the base under the tuned head, and trivial."""

    tuned: F64
    floor: F64
    top: float
    bottom: float
    least: float


def planned(tuned: Sequence[str], *, masks: int, ways: Sequence[Way] = WAYS, sizes: Sequence[Size] = SIZES) -> int:
    """How many measurements a variant takes, its ends included, if it is `tuned` in these ways."""
    chosen = [(way, size) for way in ways if way.tuned in tuned for size in sizes if way.fits(size)]
    drawn = [way.cell(size, dense_bytes=0, seed=0).stored.drawn for way, size in chosen]
    return 2 + sum(masks if each else 1 for each in drawn)


def quality(
    bench: Bench, tuned: Tuned, *, ways: Sequence[Way] = WAYS, sizes: Sequence[Size] = SIZES
) -> Iterator[Record]:
    """A record of each way and size on one variant, added to `quality.jsonl`; `tuned` by how it was fine-tuned.

    All shares are of the gain that plain fine-tuning ("adamw") made, on the whole test set. q is chosen on texts set
    aside from training. What was measured is not measured again.
    """
    ledger = Ledger(bench.folder / "quality.jsonl")
    plain = tuned["adamw"]()
    with stage(bench.sources(plain), bench.notes, progress=bench.progress) as on:
        ends = _ends(on, bench, plain)
    yield ledger.add(_ends_record(bench, plain, ends))
    for how in dict.fromkeys(way.tuned for way in ways if way.tuned in tuned):
        variant = tuned[how]()
        chosen = [way for way in ways if way.tuned == how]
        with stage(bench.sources(variant), bench.notes, progress=bench.progress) as on:
            for size in sizes:
                for way in sorted((way for way in chosen if way.fits(size)), key=_pruned_alike):
                    yield ledger.add(_measured(bench, on, ends, plain, variant, way, size))


def _pruned_alike(way: Way) -> tuple[str, str, bool]:
    """Ways that share a delta stand together: it is pruned once."""
    return way.method, way.values, way.refit


def _ends(on: Stage, bench: Bench, variant: Variant) -> Ends:
    gain = Gain.between(on, bench, variant)
    least = on.sources.scorer.least(variant.data.train)
    return Ends(
        tuned=on.tuned().values, floor=on.floor().values, top=gain.top, bottom=on.floor().score, least=least
    )  # fmt: skip


def _measured(
    bench: Bench, on: Stage, ends: Ends, plain: Variant, variant: Variant, way: Way, size: Size
) -> Record:  # fmt: skip
    start = time.perf_counter()
    dense = 2 * sum(spec.size for spec in open_checkpoint(plain.folder).specs.values())
    drawn = way.cell(size, dense_bytes=dense, seed=0).stored.drawn
    masks = bench.scale.masks if drawn else bench.scale.masks[:1]
    settings = {
        "variant": plain.task.name, "way": way.label, "size": size.label, "metric": plain.task.metric,
        "masks": list(masks), "tuned": variant.name, "texts": bench.scale.texts, "labels": bench.scale.labels,
    }  # fmt: skip
    try:
        found = [on.measure(way.cell(size, dense_bytes=dense, seed=seed)) for seed in masks]
    except SettingError as fault:
        if size.ratio is None:
            raise
        return Record(job=JOB, settings=settings, numbers={"refused": str(fault)})
    floor = max(ends.bottom, ends.least)
    scores = [outcome.score for outcome in found]
    shares = [share(score, floor=floor, top=ends.top) for score in scores]
    low, high = share_interval(
        on.sources.scorer, [outcome.values for outcome in found], tuned=ends.tuned, floor=ends.floor, least=ends.least
    )  # fmt: skip
    nbytes = float(np.mean([outcome.delta_bytes for outcome in found]))
    numbers: dict[str, Any] = {
        "score": float(np.mean(scores)), "score_spread": float(np.std(scores)), "share": float(np.mean(shares)),
        "share_spread": float(np.std(shares)), "share_low": low, "share_high": high, "bytes": nbytes,
        "ratio": dense / nbytes, "found": [outcome.found for outcome in found],
        "seconds": round(time.perf_counter() - start, 2),
    }  # fmt: skip
    return Record(job=JOB, settings=settings, numbers=numbers)


def _ends_record(bench: Bench, variant: Variant, ends: Ends) -> Record:
    settings = {"variant": variant.task.name, "way": "ends", "size": "", "metric": variant.task.metric, "masks": []}
    numbers = {
        "tuned": ends.top, "base_tuned_head": ends.bottom, "tests": len(ends.tuned), "mode": bench.scale.name,
        "most_common_class": ends.least if math.isfinite(ends.least) else None,
    }  # fmt: skip
    return Record(job=JOB, settings=settings, numbers=numbers)
