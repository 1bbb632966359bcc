"""base + fine-tuned -> delta directory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from deltagram.delta import backend
from deltagram.delta.methods import METHODS, Calibrated
from deltagram.delta.plan import Entry, Plan
from deltagram.delta.values import name_of
from deltagram.errors import SettingError
from deltagram.jobs.calibration import Norms, input_norms
from deltagram.jobs.card import model_card
from deltagram.jobs.evidence import Evidence
from deltagram.jobs.fitting import Fit, fitted
from deltagram.jobs.planning import KEEP, plan_for
from deltagram.jobs.writing import write_delta
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.adapter import Adapted, Tuned, open_tuned
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.companions import Companions, choose
from deltagram.store.layout import SHARD_BYTES
from deltagram.store.scan import Pair
from deltagram.store.staging import check_output, recover, staged
from deltagram.store.tensors import PrunedTensor, StoredTensor, WholeTensor


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
    labels: Path | str | None = None,
    metric: str | None = None,
    texts: int | None = None,
    max_length: int = 128,
    device: str = "cpu",
    adapter: str = "product",
    divide_by: float | str = "dare",
    refit: bool = False,
    values: str | None = None,
    pack: bool = True,
    compact: bool = False,
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
    found in them. `divide_by`: "dare" (the method's own divisor), a number, or a rule of `jobs.search.RULES` that looks
    for divisors on `calibration` or, by `metric`, on `labels`; `rescale` changes it later. With `refit` the kept values
    are fitted to the fine-tuned model's outputs on `calibration`. `values`: a name in `delta.values.VALUES`. `plan` is
    a YAML file of rules, `whole` globs of tensors to store unpruned.
    `tuned` may be the directory of a PEFT LoRA adapter of `base`; `adapter` then says what of it is pruned: "product"
    (what it adds to each weight) or "factors" (A and B, each by itself). DARE: Yu et al., ICML 2024; DAREx: arXiv
    2410.09344; WANDA: Sun et al., ICLR 2024.

    `compact` compresses the manifest, which can be most of a delta of a few hundred kilobytes.

    Raises SettingError, CheckpointError, PlanError or OutputError; then nothing is written.
    """
    meter = Meter.start()
    base, tuned, out = Path(base), Path(tuned), Path(out)
    recover(out)
    inputs = (base, tuned) if plan is None else (base, tuned, Path(plan))
    check_output(out, force=force, inputs=inputs)
    if not -(1 << 63) <= seed < 1 << 63:
        raise SettingError("--seed", f"{seed} is too large", expected="a signed 64-bit integer")
    fit = Fit(
        rule=divide_by, refit=refit, device=device,
        evidence=Evidence(
            calibration=None if isinstance(calibration, Mapping) else calibration, labels=labels, metric=metric,
            texts=texts, max_length=max_length,
        ),
    )  # fmt: skip
    fit.check()
    source = open_checkpoint(base)
    opened = open_tuned(tuned, source, rename=rename)
    plan_with = partial(
        plan_for, source, opened, keep=keep, budget=budget, method=method, columns=columns,
        divide_by="dare" if fit.searches else divide_by, values=values, pack=pack, rules=plan, whole=whole,
        rename=rename, adapter=adapter,
    )  # fmt: skip
    made = plan_with()
    norms = _norms(made, opened, calibration, fit, progress)
    made = made if norms is None else plan_with(norms=norms)
    files = _companions(source, opened, with_code=with_code)
    compiled = backend.prepare(progress=progress)
    start_up = meter.numbers()["seconds"]
    with staged(out, force=force, inputs=inputs) as folder:
        job = Pair(base=source, tuned=opened, seed=seed, pack=pack, folder=folder, compact=compact, norms=norms or {})
        write = partial(
            write_delta, plan=made, files=files, shard_bytes=shard_bytes, threads=threads, progress=progress
        )
        manifest = write(job)
        measured = fitted(
            folder, base, tuned, fit, write=lambda values: write(replace(job, fitted=values)), progress=progress
        )
        (folder / "README.md").write_text(model_card(manifest, name=out.name), "utf-8", "replace")
        delta_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    numbers: dict[str, Any] = {
        **meter.numbers(), "start_up_seconds": start_up, "kernels": compiled, "delta_bytes": delta_bytes,
        "base_bytes": source.nbytes, "tuned_bytes": opened.nbytes, "ratio": round(opened.nbytes / delta_bytes, 2),
        "tensors": len(manifest.tensors), "dropped": sorted(manifest.dropped), "left_behind": list(files.left),
        "base_digest": manifest.base.digest, "matching": made.matching, **measured,
    }  # fmt: skip
    settings = {
        "base": str(base), "tuned": str(tuned), "out": str(out), "budget": budget,
        "keep": KEEP if keep is None and budget is None and method != "exact" else keep, "method": method,
        "columns": columns, "calibration": str(fit.evidence.calibration or ""), "labels": str(labels or ""),
        "divide_by": divide_by, "refit": refit, "values": values or ("bf16" if budget is None else "4bit"),
        "pack": pack, "compact": compact,
        "rename": [f"{old}={new}" for old, new in rename], "whole": list(whole), "plan": str(plan or ""),
        "adapter": adapter if isinstance(opened, Adapted) else "",
    }  # fmt: skip
    stored = {entry.name: _told(entry, manifest.tensors[entry.name]) for entry in made.entries}
    return Record(job="prune", settings=settings, seed=seed, numbers=numbers, tensors=stored)


def _norms(
    plan: Plan, tuned: Tuned, calibration: Path | str | Norms | None, fit: Fit, progress: Progress
) -> Norms | None:
    """Input norms, if any tensor is to be weighed by them. Raises SettingError where `calibration` says otherwise."""
    needed = any(isinstance(entry.method, Calibrated) for entry in plan.entries)
    if needed and calibration is None:
        raise SettingError(
            "--calibration", "is missing, and WANDA weighs entries by what goes into each layer",
            expected='a file of texts, such as JSON lines {"text": ...}',
        )  # fmt: skip
    if not needed and not fit.reads_texts and calibration is not None:
        methods = " or ".join(name for name, kind in METHODS.items() if issubclass(kind, Calibrated))
        fix = f"give --method {methods}, --refit, or a --divide-by that searches"
        raise SettingError("--calibration", "nothing here looks at texts", fix=fix)
    if not needed or calibration is None:
        return None
    if isinstance(calibration, Mapping):
        return calibration
    progress.say("running the fine-tuned model on the calibration texts")
    return input_norms(tuned, fit.evidence, device=fit.device)


def _companions(base: Checkpoint, tuned: Tuned, *, with_code: bool) -> Companions:
    """The small files that go along: the fine-tuned model's; an adapter's over its base's."""
    found = choose(base.folder, tuned.folder, with_code=with_code)
    if not isinstance(tuned, Adapted):
        return found
    under = choose(base.folder, base.folder, with_code=with_code)
    left = tuple(name for name in found.left if name not in ("adapter_config.json", "training_args.bin"))
    return Companions(files=dict(sorted({**under.files, **found.files}.items())), copied=found.copied, left=left)


def _told(entry: Entry, tensor: StoredTensor) -> dict[str, str]:
    """What a record says of a tensor: its form, its mask, what that was chosen by, and why; or its code."""
    if isinstance(tensor, WholeTensor) and tensor.values is not None:
        return {"form": tensor.form, "values": name_of(entry.values)}
    if not isinstance(tensor, PrunedTensor):
        return {"form": tensor.form}
    score = getattr(tensor.mask, "score", "random")
    return {"form": tensor.form, "mask": tensor.mask.kind, "score": score, "reason": entry.reason}
