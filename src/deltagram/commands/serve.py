"""`serve`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltagram import show
from deltagram.commands.options import Device, Json, emit, parse_bytes
from deltagram.errors import ExtraError

if TYPE_CHECKING:
    from deltagram.records import Record


def serve(
    library: Annotated[Path, typer.Argument(metavar="LIBRARY", help="Folder of `deltagram library`.")],
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine it needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    base: Annotated[str | None, typer.Option(help="The base model, where it is not where the library says.")] = None,
    device: Device = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: as the base is stored.")] = "auto",
    memory: Annotated[str, typer.Option(help="What variants may take in memory.")] = "1GB",
    max_batch: Annotated[int, typer.Option(min=1, help="Texts in a batch.")] = 32,
    max_queue: Annotated[int, typer.Option(min=1, help="Texts that wait; more are refused (429).")] = 256,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens generated for a text at most.")] = 1024,
    max_inputs: Annotated[int, typer.Option(min=1, help="Texts in a request at most.")] = 64,
    max_characters: Annotated[int, typer.Option(min=1, help="Characters of a text at most.")] = 100_000,
    max_body: Annotated[str, typer.Option(help="Size of a request at most.")] = "1MiB",
    deadline: Annotated[float, typer.Option(help="Seconds an answer may take.")] = 120.0,
    drain: Annotated[float, typer.Option(help="Seconds for what is inside when the server is told to end.")] = 30.0,
    api_key: Annotated[
        str | None, typer.Option(envvar="DELTAGRAM_API_KEY", help="Key that requests must carry.")
    ] = None,
    admin_key: Annotated[
        str | None, typer.Option(envvar="DELTAGRAM_ADMIN_KEY", help="Key to load and unload variants; off without.")
    ] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="Name in the Host header to take (repeatable).")] = None,
    open_to_all: Annotated[bool, typer.Option("--open", help="Listen beyond this machine without a key.")] = False,
    json: Json = False,
) -> None:
    """Answer from every variant of a library over HTTP: OpenAI's endpoints, /classify, and a page at /."""
    try:
        from deltagram.serve import app_serve  # noqa: PLC0415
    except ModuleNotFoundError as fault:
        found = f"package {fault.name} is not installed"
        raise ExtraError("serve", found, fix="pip install 'deltagram[serve]'") from None
    from deltagram.serve.app_about import about  # noqa: PLC0415
    from deltagram.serve.app_keys import Keys  # noqa: PLC0415
    from deltagram.serve.app_limits import Limits  # noqa: PLC0415
    from deltagram.serve.variants import open_service  # noqa: PLC0415
    from deltagram.store.library import open_library  # noqa: PLC0415

    record = app_serve.serve(
        library,
        open_service=lambda: open_service(
            library, base=_base(library, base), device=device, dtype=dtype,
            memory=parse_bytes(memory, option="--memory"), max_batch=max_batch, max_queue=max_queue,
        ),
        about=lambda: about(open_library(library)),
        listening=app_serve.Listening(
            host=host, port=port, allow_hosts=tuple(allow_host or ()), open_to_all=open_to_all
        ),
        keys=Keys(api=api_key, admin=admin_key),
        limits=Limits(
            body_bytes=parse_bytes(max_body, option="--max-body"), inputs=max_inputs, characters=max_characters,
            max_tokens=max_tokens, deadline=deadline,
        ),
        drain=drain,
        ready=lambda address: print(f"{show.plain(library)}: serving at {address}", file=sys.stderr, flush=True),
    )  # fmt: skip
    emit(record, show_serve, json=json)


def _base(library: Path, given: str | None) -> Path | None:
    """Where the base is: as given, or from the Hub if that is where the library has it; None for the library's path."""
    from deltagram import hub  # noqa: PLC0415
    from deltagram.store.library import open_library  # noqa: PLC0415

    if given is not None:
        return hub.locate(given)
    base = open_library(library).base
    return hub.locate(base.name) if base.where == "hub" else None


def show_serve(record: "Record") -> None:
    """What was done until the end."""
    n = record.numbers
    answered = ", ".join(f"{count} {task}" for task, count in sorted(n["requests"].items())) or "no requests"
    refused = sum(n["refused"].values())
    show.out().print(
        f"{show.plain(record.settings['library'])}: answered {answered}, refused {refused}, "
        f"in {n['seconds']:.0f} s; the base is as it was"
    )
