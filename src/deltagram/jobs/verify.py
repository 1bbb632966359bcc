"""Every digest and every bound of a delta, and of its base if given."""

from pathlib import Path

from deltagram.delta import backend, masks
from deltagram.delta.masks import BLOCK
from deltagram.errors import FormatError
from deltagram.progress import SILENT, Progress
from deltagram.records import Meter, Record
from deltagram.store.checkpoint import Checkpoint, open_checkpoint
from deltagram.store.companions import check_file
from deltagram.store.deltafile import Delta, open_delta
from deltagram.store.masked import masked
from deltagram.store.parts import damage
from deltagram.store.rebuild import check_base_digest, check_base_headers, rebuild
from deltagram.store.tensors import ExactTensor, WholeTensor
from deltagram.threads import default_threads, ordered


def verify(
    delta: Path | str,
    *,
    base: Path | str | None = None,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Record:
    """Check a whole delta: header, manifest, payload digests, positions, values, scales and companion files.

    With `base`, also that it is the base (every tensor's digest) and that every tensor restores.
    Raises FormatError or BaseError at the first fault, naming it.
    """
    meter = Meter.start()
    opened = open_delta(delta)
    source = None if base is None else open_checkpoint(base)
    compiled = backend.prepare(progress=progress)
    if source is not None:
        check_base_headers(opened, source)
    for name, file in opened.manifest.files.items():
        if file.stored == "delta":
            check_file(opened.path, name, file, from_base=False)
        elif source is not None:
            check_file(source.folder or source.path.parent, name, file, from_base=True)
    names = list(opened.manifest.tensors)
    work = ordered(lambda name: _check(opened, name, source), names, threads=threads or default_threads())
    for done, _ in enumerate(work, 1):
        progress.advance("verifying", done, len(names))
    if source is not None:
        for name, dropped in opened.manifest.dropped.items():
            check_base_digest(opened, source, name, source.digest(name), dropped.digest)
    numbers = {
        **meter.numbers(), "kernels": compiled, "tensors": len(names), "delta_bytes": opened.nbytes,
        "digest": opened.digest, "base_digest": opened.manifest.base.digest, "base_checked": source is not None,
    }  # fmt: skip
    return Record(job="verify", settings={"delta": str(delta), "base": str(base or "")}, numbers=numbers)


def _check(delta: Delta, name: str, base: Checkpoint | None) -> None:
    if base is not None:
        for _ in rebuild(delta, name, base):
            pass
        return
    delta.check_payload(name)
    tensor = delta.manifest.tensors[name]
    with damage(name):
        for unit, kept in masked(name, tensor).items():
            values, mask = delta.values(unit), delta.mask(unit)
            for first in range(0, values.count, BLOCK):
                values.values(first, min(first + BLOCK, values.count))
            found = masks.check(mask)
            if found != kept.mask.check:
                raise FormatError(unit, f"the mask's positions hash to {found}", expected=kept.mask.check)
        if isinstance(tensor, ExactTensor):
            for _ in delta.words(name):
                pass
        elif isinstance(tensor, WholeTensor) and tensor.values is not None:
            for _ in delta.whole(name):
                pass
