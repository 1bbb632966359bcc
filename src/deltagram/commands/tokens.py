"""`tokens`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltagram import show
from deltagram.commands.options import Force, Json, emit, numbers, parse_bytes
from deltagram.errors import SettingError

if TYPE_CHECKING:
    from deltagram.records import Record

_OWN = ("whitespace", "word", "byte", "char")


def tokens(
    corpus: Annotated[
        Path, typer.Argument(metavar="CORPUS", help="File or folder: .txt, .jsonl, .csv, .tsv, .parquet, .npy, .bin.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the supports go (.npz).")],
    context: Annotated[int | None, typer.Option("--context", help="Tokens of a context.")] = None,
    lengths: Annotated[str | None, typer.Option(help="Instead: suffix contexts of several lengths, as 1,2,3.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="whitespace (default), word, byte, char, bpe:SIZE (trained), tokenizer.json, folder, Hub id."
        ),
    ] = None,
    documents: Annotated[str, typer.Option(help="Of .txt: a document is a line or a file.")] = "line",
    across: Annotated[bool, typer.Option("--across", help="Contexts go on over the ends of documents.")] = False,
    end: Annotated[bool, typer.Option("--end", help="A token ends each document: it can come next.")] = False,
    lower: Annotated[bool, typer.Option("--lower", help="Texts in lower case.")] = False,
    text: Annotated[str, typer.Option(help="Column of the texts.")] = "text",
    dtype: Annotated[str, typer.Option(help="Of .bin: uint16 or uint32.")] = "uint16",
    separator: Annotated[int | None, typer.Option(help="Of token numbers: the one between documents.")] = None,
    vocabulary: Annotated[int | None, typer.Option(help="Of token numbers: how many there are; checked.")] = None,
    words: Annotated[int | None, typer.Option(help="Only samples whose next word is one of so many.")] = None,
    min_count: Annotated[int, typer.Option(help="Only contexts with so many samples.")] = 1,
    min_next: Annotated[int, typer.Option(help="Only next words seen so often after their context.")] = 1,
    min_probability: Annotated[float, typer.Option(help="Only next words as probable as this.")] = 0.0,
    max_contexts: Annotated[int | None, typer.Option(help="Only so many contexts, the most frequent.")] = None,
    memory: Annotated[str, typer.Option(help="What counting may hold; the rest goes to the disk.")] = "2GB",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run ended.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """What follows each context in a corpus: exact counts, their supports, and the entropy bound."""
    from deltagram import hub, jobs  # noqa: PLC0415 - keeps --help fast

    known = tokenizer is None or tokenizer in _OWN or tokenizer.startswith("bpe:")
    try:
        with show.progress(quiet=json) as bar:
            record = jobs.tokens(
                corpus, out, context=context, lengths=_lengths(lengths),
                tokenizer=tokenizer if known else str(hub.locate(str(tokenizer))), documents=documents, across=across,
                end=end, lower=lower, text=text, dtype=dtype, separator=separator, vocabulary=vocabulary, words=words,
                min_count=min_count, min_next=min_next, min_probability=min_probability, max_contexts=max_contexts,
                memory=parse_bytes(memory, option="--memory"), resume=resume, force=force,
                progress=bar,
            )  # fmt: skip
    except KeyboardInterrupt:
        print(f"interrupted; --resume goes on from {show.plain(out)}.tokens", file=sys.stderr)
        sys.exit(130)
    emit(record, show_tokens, json=json)


def _lengths(given: str | None) -> list[int]:
    """Whole numbers between commas."""
    found = [] if given is None else numbers("--lengths", given)
    if any(value != int(value) for value in found):
        raise SettingError("--lengths", f"{given!r} are not all whole", expected="such as 1,2,3")
    return [int(value) for value in found]


def show_tokens(record: "Record") -> None:
    """What was read and kept, sizes of supports, and the supports that most contexts share."""
    n, s, page = record.numbers, record.settings, show.out()
    rows = show.table("", "in the corpus", "kept")
    rows.add_row("tokens, documents", f"{n['tokens']:,}, {n['documents']:,}", "")
    rows.add_row("samples", f"{n['samples']:,}", f"{n['kept_samples']:,} ({n['kept_samples'] / n['samples']:.1%})")
    rows.add_row("contexts", f"{n['contexts']:,}", f"{n['kept_contexts']:,}")
    rows.add_row("next words", "", f"{n['kept_words']:,}")
    rows.add_row("pairs", "", f"{n['kept_pairs']:,}")
    page.print(rows)
    page.print(
        f"\nentropy bound {n['entropy']:.4f} nats a sample; {n['one_word_share']:.1%} of contexts have one next word"
    )
    sizes = show.table("words in the support", "contexts", "share")
    for row in n["support_sizes"]:
        title = f"{row['from']} to {row['to']}" if row["to"] > 1 else "1"
        sizes.add_row(title, f"{row['contexts']:,}", f"{row['contexts'] / n['kept_contexts']:.1%}")
    page.print(sizes)
    page.print(f"\n{n['distinct_supports']:,} distinct supports; shared by most contexts:")
    shared = show.table("support", "words", "contexts")
    for row in n["shared_supports"]:
        more = " ..." if row["size"] > len(row["words"]) else ""
        shared.add_row(show.plain(" ".join(map(repr, row["words"]))) + more, f"{row['size']:,}", f"{row['contexts']:,}")
    page.print(shared)
    page.print(
        f"\n{show.plain(s['out'])}: written in {n['seconds']:.1f} s ({n['tokens_per_second']:,} tokens a second)"
    )
    if s["tokenizer_file"]:
        page.print(f"{show.plain(s['tokenizer_file'])}: written")
    if not n["named_contexts"]:
        page.print("contexts are too many to be named in the file; their token numbers are there")
