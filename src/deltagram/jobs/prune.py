"""base + fine-tuned -> delta directory."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.arrays import F64, Spec
from deltagram.delta import backend
from deltagram.delta.methods import METHODS, Calibrated
from deltagram.delta.plan import Entry, Plan
from deltagram.errors import SettingError
from deltagram.jobs.calibration import Norms, input_norms
from deltagram.jobs.card import model_card
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.planning import KEEP, plan_for
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record, versions
from deltagram.store import scales
from deltagram.store.build import build
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.companions import Companions, choose, copy_into
from deltagram.store.deltawriter import DeltaWriter
from deltagram.store.layout import SHARD_BYTES
from deltagram.store.manifest import DroppedTensor, Manifest, TunedModelRef, base_reference, base_tensors, features
from deltagram.store.outline import UNKNOWN, header_bounds, outline
from deltagram.store.scan import Pair
from deltagram.store.staging import check_output, recover, staged
from deltagram.store.tensors import PrunedTensor, StoredTensor
from deltagram.threads import default_threads, ordered


def prune(
    base: Path | str,
    tuned: Path | str,
    out: Path | str,
    *,
    keep: float | None = None,
    budget: int | None = None,
    method: str = "random",
    columns: float | None = None,
    calibration: Path | str | Norms | None = None,
    texts: int = 64,
    max_length: int = 128,
    divide_by: float | str = "dare",
    values: str | None = None,
    pack: bool = True,
    plan: Path | str | None = None,
    whole: Sequence[str] = (),
    rename: Sequence[tuple[str, str]] = (),
    seed: int = 0,
    with_code: bool = False,
    force: bool = False,
    threads: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = SILENT,
) -> Record:
    """Store what fine-tuning added to `base` as a delta directory `out`.

    `keep` is the share of the entries kept (0 < keep <= 1, default 0.01), or `budget` the bytes the delta may
    take. `method`: a name in `delta.methods.METHODS`; those with `columns` keep entries in that share of the input
    columns (default: five times `keep`), those with `wanda` need `calibration`: a file, folder or Hub id of texts, of
    which the first `texts` are used, each cut at `max_length` tokens, or the norms that `jobs.calibration.input_norms`
    found in them (`columns` with it is `columns-wanda`).
    `divide_by`: "dare" (the method's own divisor) or a number; `rescale` changes it later. `values`: a name in
    `delta.values.VALUES`. `plan` is a YAML file of rules, `whole` globs of tensors to store unpruned.
    DARE: Yu et al., ICML 2024; DAREx: arXiv 2410.09344; WANDA: Sun et al., ICLR 2024.

    Raises SettingError, CheckpointError, PlanError or OutputError; then nothing is written.
    """
    meter = Meter.start()
    base, tuned, out = Path(base), Path(tuned), Path(out)
    recover(out)
    inputs = (base, tuned) if plan is None else (base, tuned, Path(plan))
    check_output(out, force=force, inputs=inputs)
    if not -(1 << 63) <= seed < 1 << 63:
        raise SettingError("--seed", f"{seed} is too large", expected="a signed 64-bit integer")
    pair = open_checkpoint(base), open_checkpoint(tuned)
    method = "columns-wanda" if method == "columns" and calibration is not None else method
    plan_with = partial(
        plan_for, *pair, keep=keep, budget=budget, method=method, columns=columns, divide_by=divide_by, values=values,
        pack=pack, rules=plan, whole=whole, rename=rename,
    )  # fmt: skip
    made = plan_with()
    norms = _norms(made, pair[1], calibration, texts=texts, max_length=max_length, progress=progress)
    if norms is not None:
        made = plan_with(norms=norms)
    files = choose(pair[0].folder, pair[1].folder, with_code=with_code)
    compiled = backend.prepare(progress=progress)
    start_up = meter.numbers()["seconds"]
    with staged(out, force=force, inputs=inputs) as folder:
        job = Pair(base=pair[0], tuned=pair[1], seed=seed, pack=pack, folder=folder, norms=norms or {})
        manifest = _write(job, made, files, shard_bytes=shard_bytes, threads=threads, progress=progress)
        (folder / "README.md").write_text(model_card(manifest, name=out.name), "utf-8", "replace")
        delta_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    numbers: dict[str, Any] = {
        **meter.numbers(), "start_up_seconds": start_up, "kernels": compiled, "delta_bytes": delta_bytes,
        "base_bytes": pair[0].nbytes, "tuned_bytes": pair[1].nbytes, "ratio": round(pair[1].nbytes / delta_bytes, 2),
        "tensors": len(manifest.tensors), "dropped": sorted(manifest.dropped), "left_behind": list(files.left),
        "base_digest": manifest.base.digest, "matching": made.matching,
    }  # fmt: skip
    settings = {
        "base": str(base), "tuned": str(tuned), "out": str(out), "budget": budget,
        "keep": KEEP if keep is None and budget is None and method != "exact" else keep, "method": method,
        "columns": columns, "calibration": "" if isinstance(calibration, Mapping) else str(calibration or ""),
        "divide_by": divide_by, "values": values or ("bf16" if budget is None else "4bit"),
        "pack": pack, "rename": [f"{old}={new}" for old, new in rename], "whole": list(whole), "plan": str(plan or ""),
    }  # fmt: skip
    stored = {entry.name: _told(entry, manifest.tensors[entry.name]) for entry in made.entries}
    return Record(job="prune", settings=settings, seed=seed, numbers=numbers, tensors=stored)


def _norms(
    plan: Plan,
    tuned: Checkpoint,
    calibration: Path | str | Norms | None,
    *,
    texts: int,
    max_length: int,
    progress: Progress,
) -> Norms | None:
    """Input norms, if any tensor is to be weighed by them. Raises SettingError where `calibration` says otherwise."""
    needed = any(isinstance(entry.method, Calibrated) for entry in plan.entries)
    if needed and calibration is None:
        raise SettingError(
            "--calibration", "is missing, and WANDA weighs entries by what goes into each layer",
            expected='a file of texts, such as JSON lines {"text": ...}',
        )  # fmt: skip
    if not needed and calibration is not None:
        methods = " or ".join(name for name, kind in METHODS.items() if issubclass(kind, Calibrated))
        raise SettingError("--calibration", "no tensor is weighed by its inputs", fix=f"give --method {methods} too")
    if calibration is None or isinstance(calibration, Mapping):
        return calibration
    evidence = Evidence(calibration=calibration, texts=texts, max_length=max_length)
    progress.say("running the fine-tuned model on the calibration texts")
    return input_norms(tuned, evidence)


def _told(entry: Entry, tensor: StoredTensor) -> dict[str, str]:
    """What a record says of a tensor: its form, its mask, what that was chosen by, and why."""
    if not isinstance(tensor, PrunedTensor):
        return {"form": tensor.form}
    score = getattr(tensor.mask, "score", "random")
    return {"form": tensor.form, "mask": tensor.mask.kind, "score": score, "reason": entry.reason}


def _write(
    job: Pair, plan: Plan, files: Companions, *, shard_bytes: int, threads: int | None, progress: Progress
) -> Manifest:
    """Everything into the staging folder; returns the manifest."""
    count = threads or default_threads()
    sketch = _manifest(job, files, {entry.name: outline(entry, pack=job.pack) for entry in plan.entries}, plan.dropped)
    writer = DeltaWriter(job.folder, reserve=header_bounds(sketch, plan), shard_bytes=shard_bytes)
    tensors: dict[str, StoredTensor] = {}
    divisors: dict[str, F64] = {}
    total, done = sum(entry.tuned.nbytes for entry in plan.entries), 0
    try:
        for built in ordered(lambda entry: build(entry, job), plan.entries, threads=count):
            digest = writer.add(built.name, built.parts)
            tensors[built.name] = built.tensor.model_copy(update={"digest": digest} if built.parts else {})
            if built.divisor is not None:
                divisors[built.name] = np.array(built.divisor, np.float64)
            done += built.tensor.spec.nbytes
            progress.advance("pruning", done, total)
        dropped = dict(zip(plan.dropped, ordered(job.base.digest, plan.dropped, threads=count), strict=True))
        manifest = _manifest(job, files, tensors, dropped)
        digest = writer.finish(manifest.text())
    finally:
        writer.close()
    (job.folder / scales.NAME).write_bytes(scales.scales_bytes(divisors, digest))
    if job.tuned.folder is not None:
        copy_into(job.tuned.folder, files.copied, job.folder)
    return manifest


def _manifest(
    job: Pair, files: Companions, tensors: Mapping[str, StoredTensor], dropped: Mapping[str, str] | Sequence[str]
) -> Manifest:
    """The manifest; while only names of the dropped are known, their digests are placeholders."""
    gone = dropped if isinstance(dropped, Mapping) else dict.fromkeys(dropped, UNKNOWN)
    listed = {name: _dropped(job.base.specs[name], digest) for name, digest in gone.items()}
    return Manifest(
        requires=features(tensors),
        created_by=f"deltagram {versions()['deltagram']}",
        seed=job.seed,
        base=base_reference(job.base.title, base_tensors(tensors, listed)),
        tuned=TunedModelRef(name=job.tuned.title),
        files=files.files,
        dropped=listed,
        tensors=tensors,
    )


def _dropped(spec: Spec, digest: str) -> DroppedTensor:
    return DroppedTensor(shape=list(spec.shape), dtype=spec.dtype, digest=digest)
