"""The model card of a published library."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from deltagram.store.libraryentry import Entry, LibraryBase

_ID: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def library_card(base: LibraryBase, entries: Mapping[str, Entry], *, repo: str) -> str:
    """A README.md as the Hub wants it: what the variants are, and how to have them."""
    title = public_base(base).name
    named = title.partition("@")[0]
    known = f"base_model: {named}\nbase_model_relation: adapter\n" if _ID.fullmatch(named) else ""
    head = "| variant | kind | bytes | rate | method | keep | values | quality |\n|---|---|---|---|---|---|---|---|"
    rows = "\n".join(_row(entry, base) for _, entry in sorted(entries.items()))
    return f"""---
library_name: deltagram
tags: [deltagram, delta]
{known}---
# {repo.rpartition("/")[2]}

{len(entries)} fine-tuned variants of **{_cell(title)}** ({base.bytes:,} bytes), stored as what fine-tuning changed.

{head}
{rows}

`rate` is the size of the base over that of the variant. Each folder is a deltagram delta or a PEFT adapter of its own.

```
deltagram library init BASE library
deltagram library pull {repo} library
```

The base must have the digest `{base.digest}`.
"""


def public_base(base: LibraryBase) -> LibraryBase:
    """The base as others may know it: by its Hub id, or by the last part of its path."""
    return base if base.where == "hub" else base.model_copy(update={"name": Path(base.name).name})


def _row(entry: Entry, base: LibraryBase) -> str:
    quality = ", ".join(f"{metric} {number:.4g}" for metric, number in entry.quality.items())
    keep = "" if entry.keep is None else f"{entry.keep:.3%}"
    cells = (entry.name, entry.kind, f"{entry.bytes:,}", f"{base.bytes / max(1, entry.bytes):.1f}", entry.method, keep,
             entry.values, quality)  # fmt: skip
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    """Text that stays in its cell and does nothing there."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(text.split()))
