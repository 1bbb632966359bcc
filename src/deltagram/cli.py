"""The command line: parses, calls a job, prints."""

import gc
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from deltagram.errors import DeltagramError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deltagram.records import Record


class Interruptible(typer.core.TyperGroup):
    """The commands; Ctrl-C ends any of them with one sentence and exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("interrupted; nothing was written", file=sys.stderr)
            sys.exit(130)


app = typer.Typer(
    cls=Interruptible,
    help="Prune a fine-tuned model to a small delta, store it, restore it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

BaseModel = Annotated[str, typer.Argument(metavar="BASE", help="Base model: directory, .safetensors file or Hub id.")]
DeltaFolder = Annotated[Path, typer.Argument(metavar="DELTA", help="Delta directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable record, and nothing else, on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
Threads = Annotated[int | None, typer.Option(min=1, max=256, help="Threads (default: processors, eight at most).")]


@app.command()
def prune(
    base: BaseModel,
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="Fine-tuned model.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Delta directory to write.")],
    keep: Annotated[float | None, typer.Option(help="Share of entries to keep, in (0, 1]; 0.01 unless given.")] = None,
    budget: Annotated[str | None, typer.Option(help="Instead of --keep: bytes the delta may take (20MB).")] = None,
    method: Annotated[str, typer.Option(help="random, bernoulli, magnitude or exact (lossless).")] = "random",
    divide_by: Annotated[str, typer.Option(help="What kept values are divided by: dare, or a number.")] = "dare",
    values: Annotated[
        str | None,
        typer.Option(help="f32, bf16, f16, 8bit to 2bit, sign, codebook8, 4, 3, 2; bf16, or 4bit with --budget."),
    ] = None,
    pack: Annotated[bool, typer.Option("--pack/--no-pack", help="Compress the values losslessly.")] = True,
    plan: Annotated[Path | None, typer.Option(help="YAML file of rules, a form, rate or values a tensor.")] = None,
    whole: Annotated[list[str] | None, typer.Option(help="Glob of tensors to store unpruned (repeatable).")] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="OLD=NEW: what base names start with, and tuned ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the masks.")] = 0,
    with_code: Annotated[bool, typer.Option("--with-code", help="Carry .py files of the model along.")] = False,
    force: Force = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Store what fine-tuning added to BASE as a small delta directory."""
    from deltagram import hub, jobs  # noqa: PLC0415 - keeps --help fast
    from deltagram.show import progress, show_prune  # noqa: PLC0415

    pairs = [_rename(text) for text in rename or ()]
    size = None if budget is None else parse_bytes(budget)
    with progress(quiet=json) as bar:
        record = jobs.prune(
            hub.locate(base), hub.locate(tuned), out, keep=keep, budget=size, method=method, divide_by=divide_by,
            values=values, pack=pack, plan=plan, whole=whole or (), rename=pairs, seed=seed, with_code=with_code,
            force=force, threads=threads, progress=bar,
        )  # fmt: skip
    _show(record, show_prune, json=json)


@app.command()
def inspect(
    delta: DeltaFolder,
    tensors: Annotated[bool, typer.Option("--tensors", help="One line a tensor.")] = False,
    json: Json = False,
) -> None:
    """Identity, plan, statistics, and bytes against the entropy bound; needs no base."""
    from deltagram import jobs  # noqa: PLC0415
    from deltagram.show import progress, show_inspect  # noqa: PLC0415

    with progress(quiet=json) as bar:
        record = jobs.inspect(delta, progress=bar)
    _show(record, lambda found: show_inspect(found, tensors=tensors), json=json)


@app.command()
def verify(
    delta: DeltaFolder,
    base: Annotated[str | None, typer.Option(help="Also check that this is its base and that all restores.")] = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Check every digest and every bound; exit 1 at the first fault, naming it."""
    from deltagram import hub, jobs  # noqa: PLC0415
    from deltagram.show import progress, show_verify  # noqa: PLC0415

    with progress(quiet=json) as bar:
        source = None if base is None else hub.locate(base)
        record = jobs.verify(delta, base=source, threads=threads, progress=bar)
    _show(record, show_verify, json=json)


@app.command()
def restore(
    base: BaseModel,
    delta: DeltaFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Directory, or .safetensors file, to write.")],
    force: Force = False,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Write the checkpoint that BASE and DELTA stand for; from_pretrained loads it."""
    from deltagram import hub, jobs  # noqa: PLC0415
    from deltagram.show import progress, show_restore  # noqa: PLC0415

    with progress(quiet=json) as bar:
        record = jobs.restore(hub.locate(base), delta, out, force=force, threads=threads, progress=bar)
    _show(record, show_restore, json=json)


@app.command()
def rescale(
    delta: DeltaFolder,
    divide_by: Annotated[str, typer.Option(help="dare (each tensor's kept share), or a number.")],
    json: Json = False,
) -> None:
    """Change what kept values are divided by: replaces the small file of scales only."""
    from deltagram import jobs  # noqa: PLC0415
    from deltagram.show import show_rescale  # noqa: PLC0415

    record = jobs.rescale(delta, divide_by=divide_by)
    _show(record, show_rescale, json=json)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where models and deltas go; reused.")] = Path("demo"),
    json: Json = False,
) -> None:
    """The main job on a real base and real text: fine-tune two variants, prune, restore, compare (minutes)."""
    from deltagram import jobs  # noqa: PLC0415
    from deltagram.show import progress, show_demo  # noqa: PLC0415

    with progress(quiet=json) as bar:
        record = jobs.demo(folder, progress=bar)
    _show(record, show_demo, json=json)


def _show(record: "Record", show: "Callable[[Record], None]", *, json: bool) -> None:
    if json:
        print(record.line())
    else:
        show(record)


def _rename(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals:
        raise SettingError("--rename", f"{text!r} has no '='", expected="OLD=NEW, such as encoder.=bert.encoder.")
    return old, new


def parse_bytes(text: str) -> int:
    """A size such as 20MB, 1.5GiB, 300kB or 4096, in bytes."""
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    number = text.strip().upper()
    unit = number.lstrip("0123456789.").strip()
    try:
        size = int(float(number[: len(number) - len(unit)] if unit else number) * units[unit])
    except (KeyError, ValueError, OverflowError):
        raise SettingError("--budget", f"{text!r} is not a size", expected="bytes, such as 20MB or 512KiB") from None
    if size <= 0:
        raise SettingError("--budget", f"{text!r} is not positive")
    return size


def main() -> None:
    """Run the command line: 0 done, 1 refused or failed (one paragraph on stderr), 2 usage, 130 interrupted."""
    gc.set_threshold(100_000)  # importing makes many objects and no garbage
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporaries are cleared
    try:
        app(standalone_mode=True)
    except DeltagramError as fault:
        _fail(str(fault))
    except OSError as fault:
        _fail(f"{fault.filename or 'system'}: {fault.strerror or fault}")
    except MemoryError:
        _fail("memory: there is not enough of it for this; nothing was written")
    finally:
        gc.freeze()  # else the interpreter walks all of numba's objects before it ends


def _fail(text: str) -> None:
    from deltagram.show import plain  # noqa: PLC0415

    print(f"error: {plain(text)}", file=sys.stderr)
    sys.exit(1)
