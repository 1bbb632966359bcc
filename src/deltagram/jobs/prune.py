"""base + fine-tuned -> delta directory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deltagram.arrays import F64, Spec
from deltagram.delta import backend
from deltagram.delta.plan import Plan
from deltagram.errors import SettingError
from deltagram.jobs.card import model_card
from deltagram.jobs.planning import KEEP, plan_for
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record, versions
from deltagram.store import scales
from deltagram.store.adapter import Adapted, Tuned, open_tuned
from deltagram.store.build import build
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.companions import Companions, choose, copy_into
from deltagram.store.deltawriter import DeltaWriter
from deltagram.store.layout import SHARD_BYTES
from deltagram.store.manifest import DroppedTensor, Manifest, TunedModelRef, base_reference, base_tensors, features
from deltagram.store.outline import UNKNOWN, header_bounds, outline
from deltagram.store.scan import Pair
from deltagram.store.staging import check_output, recover, staged
from deltagram.store.tensors import StoredTensor
from deltagram.threads import default_threads, ordered


def prune(
    base: Path | str,
    tuned: Path | str,
    out: Path | str,
    *,
    keep: float | None = None,
    budget: int | None = None,
    method: str = "random",
    adapter: str = "product",
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
    take. `method`: random, bernoulli, magnitude or exact. `divide_by`: "dare" (the method's own divisor) or a
    number; `rescale` changes it later. `values`: a name in `delta.values.VALUES`. `plan` is a YAML file of
    rules, `whole` globs of tensors to store unpruned. `tuned` may be the directory of a PEFT LoRA adapter of
    `base`; `adapter` then says what of it is pruned: "product" (what it adds to each weight) or "factors" (A and
    B, each by itself). DARE: Yu et al., ICML 2024; DAREx: arXiv 2410.09344.

    Raises SettingError, CheckpointError, PlanError or OutputError; then nothing is written.
    """
    meter = Meter.start()
    base, tuned, out = Path(base), Path(tuned), Path(out)
    recover(out)
    inputs = (base, tuned) if plan is None else (base, tuned, Path(plan))
    check_output(out, force=force, inputs=inputs)
    if not -(1 << 63) <= seed < 1 << 63:
        raise SettingError("--seed", f"{seed} is too large", expected="a signed 64-bit integer")
    source = open_checkpoint(base)
    pair = source, open_tuned(tuned, source, rename=rename)
    made = plan_for(
        *pair, keep=keep, budget=budget, method=method, divide_by=divide_by, values=values, pack=pack,
        rules=plan, whole=whole, rename=rename, adapter=adapter,
    )  # fmt: skip
    files = _companions(pair, with_code=with_code)
    compiled = backend.prepare(progress=progress)
    start_up = meter.numbers()["seconds"]
    with staged(out, force=force, inputs=inputs) as folder:
        job = Pair(base=pair[0], tuned=pair[1], seed=seed, pack=pack, folder=folder)
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
        "divide_by": divide_by, "values": values or ("bf16" if budget is None else "4bit"),
        "pack": pack, "rename": [f"{old}={new}" for old, new in rename], "whole": list(whole), "plan": str(plan or ""),
        "adapter": adapter if isinstance(pair[1], Adapted) else "",
    }  # fmt: skip
    stored = {name: {"form": tensor.form} for name, tensor in manifest.tensors.items()}
    return Record(job="prune", settings=settings, seed=seed, numbers=numbers, tensors=stored)


def _companions(pair: tuple[Checkpoint, Tuned], *, with_code: bool) -> Companions:
    """The small files that go along: the fine-tuned model's; an adapter's over its base's."""
    base, tuned = pair
    found = choose(base.folder, tuned.folder, with_code=with_code)
    if not isinstance(tuned, Adapted):
        return found
    under = choose(base.folder, base.folder, with_code=with_code)
    left = tuple(name for name in found.left if name not in ("adapter_config.json", "training_args.bin"))
    return Companions(files=dict(sorted({**under.files, **found.files}.items())), copied=found.copied, left=left)


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
            divisors |= {unit: np.array(number, np.float64) for unit, number in built.factor_divisors.items()}
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
