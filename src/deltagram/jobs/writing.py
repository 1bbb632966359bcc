"""A plan carried out: every tensor built and written into a folder, with default scales and companion files."""

from collections.abc import Mapping, Sequence

import numpy as np

from deltagram.arrays import F64, Spec
from deltagram.delta.plan import Plan
from deltagram.progress import Progress
from deltagram.records import versions
from deltagram.store import scales
from deltagram.store.build import build
from deltagram.store.companions import Companions, copy_into
from deltagram.store.deltawriter import DeltaWriter
from deltagram.store.manifest import DroppedTensor, Manifest, TunedModelRef, base_reference, base_tensors, features
from deltagram.store.outline import UNKNOWN, header_bounds, outline
from deltagram.store.scan import Pair
from deltagram.store.tensors import StoredTensor
from deltagram.threads import default_threads, ordered


def write_delta(
    job: Pair, *, plan: Plan, files: Companions, shard_bytes: int, threads: int | None, progress: Progress
) -> Manifest:
    """Payload, default scales and companions into `job.folder`, in place of a delta that is there; the manifest."""
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
        digest = writer.finish(manifest.text(), compact=job.compact)
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
