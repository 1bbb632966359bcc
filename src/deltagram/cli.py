"""The command line: parses, calls a job, prints."""

import gc
import signal
import sys
from typing import TYPE_CHECKING, Any

import typer
import typer.core

from deltagram.commands import (
    deltas,
    demo,
    diagnose,
    export,
    library,
    measure,
    merge,
    predict,
    prune,
    reproduce,
    select,
    serve,
    tokens,
    train,
)  # fmt: skip
from deltagram.errors import DeltagramError

if TYPE_CHECKING:
    pass


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

for command in (
    prune.prune, deltas.inspect, deltas.verify, deltas.restore, deltas.rescale,
    select.select, merge.merge, export.export, train.train, predict.predict, measure.measure, diagnose.diagnose,
    tokens.tokens, serve.serve, demo.demo, reproduce.reproduce,
):  # fmt: skip
    app.command()(command)
app.add_typer(library.library)


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
