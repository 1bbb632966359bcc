"""A paper's claims, one after another: measured, judged, written down."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from deltagram.errors import ExtraError, SettingError
from deltagram.jobs.once import claim as claim_folder
from deltagram.papers.bench import FAST, FULL, Bench
from deltagram.papers.ceparam import CHECKS as CE_PARAMETERIZATIONS
from deltagram.papers.claims import Claim, claims
from deltagram.papers.darex import CHECKS as DAREX
from deltagram.papers.frames import CHECKS as ORTHOGONAL_FRAMES
from deltagram.papers.ledger import Ledger
from deltagram.papers.measured import Checked
from deltagram.papers.nexttoken import CHECKS as NEXT_TOKEN
from deltagram.papers.protos import CHECKS as PROTOTYPES
from deltagram.papers.seli import CHECKS as SELI
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record

PAPERS: Final[Mapping[str, Mapping[str, Callable[[Bench, Claim], Checked]]]] = {
    "darex": DAREX,
    "seli": SELI,
    "ce-parameterizations": CE_PARAMETERIZATIONS,
    "orthogonal-frames": ORTHOGONAL_FRAMES,
    "prototypes": PROTOTYPES,
    "next-token": NEXT_TOKEN,
}
NOT_RUN: Final = "not run here"


def reproduce(
    paper: str,
    *,
    folder: Path | str,
    data: Path | str | None = None,
    full: bool = False,
    only: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Record:
    """Check the claims of a paper (`only` some of them) on this machine; all that is made stays in `folder`.

    `data` is a folder of data sets as released (SST-2 and others, `deltagram.data.public`; Fashion-MNIST; the King
    James Bible as `kjv.txt`); without it packaged ones take their place. `full` is with three seeds and more of
    everything, hours instead of minutes. One record a claim is added to `records.jsonl` in the folder, unless it is
    there already. What is interrupted goes on from where it was.

    `numbers["rows"]` is the table: claim, source, what was got, verdict. Raises SettingError for a paper or claim that
    is unknown, OutputError for a folder that holds something else.
    """
    meter = Meter.start()
    if paper not in PAPERS:
        raise SettingError("PAPER", f"{paper!r} is unknown", expected=" or ".join(PAPERS))
    known = claims(paper)
    unknown = [name for name in only if name not in known]
    if unknown:
        raise SettingError("--only", f"{unknown[0]!r} is no claim of {paper}", expected=", ".join(known))
    claim_folder(Path(folder), purpose=f"Models, measurements and records of `deltagram reproduce {paper}`.")
    bench = Bench(
        folder=Path(folder), scale=FULL if full else FAST, releases=None if data is None else Path(data),
        progress=progress,
    )  # fmt: skip
    chosen = [claim for name, claim in known.items() if name in (only or known)]
    rows = [row(record) for record in check_all(bench, chosen, PAPERS[paper])]
    settings = {"paper": paper, "folder": str(folder), "mode": bench.scale.name, "data": str(data or "")}
    return Record(job="reproduce", settings=settings, numbers={"rows": rows, **meter.numbers()})


def check_all(
    bench: Bench, chosen: Sequence[Claim], checks: Mapping[str, Callable[[Bench, Claim], Checked]]
) -> list[Record]:
    """A record of each claim, in the folder's ledger too."""
    ledger = Ledger(bench.folder / "records.jsonl")
    found = []
    for number, claim in enumerate(chosen):
        bench.progress.say(f"{claim.id}: {claim.statement}")
        found.append(ledger.add(judged(bench, claim, checks[claim.id])))
        bench.progress.advance("checking claims", number + 1, len(chosen))
    return found


def judged(bench: Bench, claim: Claim, check: Callable[[Bench, Claim], Checked]) -> Record:
    """Measure a claim and hold it against its bounds."""
    start = time.perf_counter()
    try:
        found = check(bench, claim)
    except ExtraError as fault:
        found, verdict, because = Checked(got={}), NOT_RUN, str(fault)
    else:
        broken = claim.broken(found.got)
        verdict, because = ("fail", "; ".join(broken)) if broken else ("pass", "")
    settings = {
        "claim": claim.id, "paper": claim.paper, "statement": claim.statement, "control": claim.control,
        "mode": bench.scale.name, **claim.settings, **found.settings,
    }  # fmt: skip
    numbers: dict[str, Any] = {
        "got": dict(found.got), "spread": dict(found.spread), "verdict": verdict, "because": because,
        "bounds": {name: str(bound) for name, bound in claim.bounds.items()}, "rows": list(found.rows),
        "seconds": round(time.perf_counter() - start, 2),
    }  # fmt: skip
    return Record(
        job="reproduce", settings=settings, numbers=numbers, source=claim.source,
        claimed={name: bound.claimed for name, bound in claim.bounds.items()},
        tolerance={name: bound.tolerance for name, bound in claim.bounds.items()},
    )  # fmt: skip


def row(record: Record) -> dict[str, Any]:
    """A record as a line of the summary."""
    return {
        "claim": record.settings["claim"], "statement": record.settings["statement"], "source": record.source,
        "got": record.numbers["got"], "verdict": record.numbers["verdict"], "because": record.numbers["because"],
    }  # fmt: skip
