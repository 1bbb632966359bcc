"""What the commands of `library` show a person."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deltagram import show

if TYPE_CHECKING:
    from deltagram.records import Record


def show_init(record: "Record") -> None:
    """Where, and of what."""
    n = record.numbers
    show.out().print(
        f"{show.plain(record.settings['out'])}: an empty library of {show.plain(record.settings['base'])}, "
        f"{show.size(n['base_bytes'])}, digest {n['base_digest'][:16]}..."
    )


def show_add(record: "Record") -> None:
    """One line of result."""
    n = record.numbers
    stored = "stored already, under another name" if n["shared"] else "copied"
    show.out().print(
        f"{show.plain(n['name'])}: {_method(n)}, {show.size(n['bytes'])}, {n['rate']:.1f}x smaller than the base; "
        f"{stored}, in {n['seconds']:.2f} s"
    )


def show_remove(record: "Record") -> None:
    """What went."""
    freed = record.numbers["freed_bytes"]
    files = f"{show.size(freed)} freed" if freed else "its files stay, for another variant has the same"
    show.out().print(f"{show.plain(record.settings['name'])}: removed; {files}")


def show_list(record: "Record") -> None:
    """A line a variant, then the totals."""
    n, page = record.numbers, show.out()
    rows = show.table("variant", "kind", "bytes", "rate", "method", "keep", "values", "divide by", "quality", "same as")
    for name, row in n["variants"].items():
        rows.add_row(
            show.plain(name), row["kind"], show.size(row["bytes"]), f"{row['rate']:.1f}x", show.plain(row["method"]),
            "" if row["keep"] is None else f"{row['keep']:.3%}", show.plain(row["values"]),
            show.plain(row["divide_by"]), show.plain(_quality(row["quality"])), show.plain(", ".join(row["shared"])),
        )  # fmt: skip
    base, count = n["base"], len(n["variants"])
    page.print(f"base {show.plain(base['name'])}, {show.size(base['bytes'])}, digest {base['digest'][:16]}...")
    if not count:
        page.print("no variants yet: deltagram library add LIB DELTA")
        return
    page.print(rows)
    for name, row in n["variants"].items():
        if row["note"]:
            page.print(f"{show.plain(name)}: {show.plain(row['note'])}", soft_wrap=True)
    whole = n["checkpoint_bytes"]
    page.print(
        f"{_count(count, 'variant')} in {show.size(n['stored_bytes'])}, with the base {show.size(n['total_bytes'])}; "
        f"{_count(count, 'full checkpoint')}: {show.size(whole)}, {whole / max(1, n['total_bytes']):.1f}x that"
    )


def show_verify(record: "Record") -> None:
    """A line a variant, then what all of them are."""
    n, page = record.numbers, show.out()
    for name, state in n["variants"].items():
        page.print(f"{show.plain(name)}: {show.plain(state)}", soft_wrap=True)
    others = [fault for fault in n["faults"] if fault not in n["variants"].values()]
    for fault in others:
        page.print(show.plain(fault), soft_wrap=True)
    base = "the base is the right one and every delta restores" if n["base_checked"] else "the base was not checked"
    left = (
        f"; {_count(n['leftovers'], 'leftover')} of killed runs, which the next change clears" if n["leftovers"] else ""
    )
    state = _count(len(n["faults"]), "fault") if n["faults"] else f"sound, {base}"
    page.print(f"{show.plain(record.settings['library'])}: {_count(len(n['variants']), 'variant')}, {state}{left}")


def show_push(record: "Record") -> None:
    """What is published now, and where."""
    n = record.numbers
    kept = f"; {len(n['kept'])} more were there" if n["kept"] else ""
    what = f"{_count(len(n['variants']), 'variant')}, {show.size(n['bytes'])}{kept}"
    show.out().print(f"{show.plain(record.settings['repo'])}: {what}; {show.plain(n['url'])}", soft_wrap=True)


def show_pull(record: "Record") -> None:
    """What was added."""
    n = record.numbers
    shared = f", {len(n['shared'])} of them stored already" if n["shared"] else ""
    names = ", ".join(n["variants"])
    show.out().print(
        f"{show.plain(record.settings['library'])}: added {show.plain(names)} ({show.size(n['bytes'])}{shared}), "
        f"in {n['seconds']:.2f} s",
        soft_wrap=True,
    )


def _method(row: Mapping[str, Any]) -> str:
    keep = "" if row["keep"] is None else f" at {row['keep']:.3%}"
    return f"{row['kind']}, {row['method']}{keep}, {row['values']}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _quality(found: Mapping[str, float]) -> str:
    return ", ".join(f"{metric} {number:.4g}" for metric, number in found.items())
