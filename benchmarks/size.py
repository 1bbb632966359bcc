"""Bytes of deltas of a 271-million-parameter bfloat16 pair, beside what they must take and what others would.

`python benchmarks/size.py [--folder DIR]` (bytes do not vary, so --runs changes nothing)

Limits: before packing, 1.02 times (kept values x their bits, group scales included) + 0.7 KB a tensor + whole
tensors; packed bfloat16, 1.45 bytes a kept value; the whole directory against the checkpoint, at least 130 times
smaller (bf16, keep 1 %) and 36, 90, 175 times (4 bits, keep 10, 4, 2 %). Listed masks: the entropy bound that
`inspect` gives. Peers, computed from their layouts: bytes a kept value of deltatensors and PEFT SHiRA (12), PEFT
Super-Tuning (8), vLLM sparse patches (6), TRL gap coding (4); values and positions together, no overhead counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltagram import jobs
from deltagram.delta.values import VALUES
from deltagram.records import Record
from measure import Row, options, table, workplace
from pair import shapes, write_pair

PLAIN = ("bf16", "8bit", "4bit", "3bit", "2bit", "sign")
SMALLER = (("bf16", 0.01, 130), ("4bit", 0.10, 36), ("4bit", 0.04, 90), ("4bit", 0.02, 175))
LISTED = (0.01, 0.10)
OTHERS = (("deltatensors, PEFT SHiRA", 12), ("PEFT Super-Tuning", 8), ("vLLM sparse patch", 6), ("TRL gaps", 4))
A_TENSOR = 700  # bytes of manifest, header and scales


@dataclass(frozen=True, kw_only=True)
class Made:
    """A delta: bytes of its directory, and what `inspect` says of it."""

    total: int
    record: Record

    def sum(self, key: str, *forms: str) -> int:
        """A number of every tensor stored in one of `forms`, added up."""
        rows: list[Any] = [row for row in self.record.tensors.values() if row["form"] in forms]
        return sum(int(row[key]) for row in rows)

    @property
    def kept(self) -> int:
        """Kept values."""
        return self.sum("kept", "pruned")


def make(folder: Path, **settings: Any) -> Made:
    """Prune the pair and look at the result."""
    record = jobs.prune(folder / "pair" / "base", folder / "pair" / "tuned", folder / "delta", force=True, **settings)
    return Made(total=record.numbers["delta_bytes"], record=jobs.inspect(folder / "delta"))


def plain(folder: Path) -> list[Row]:
    """Before packing: bytes of the directory against kept x bits."""
    found = []
    for values in PLAIN:
        made = make(folder, keep=0.01, values=values, pack=False)
        codes, tensors, whole = VALUES[values].nbytes(made.kept), len(made.record.tensors), made.sum("bytes", "whole")
        limit = 1.02 * codes + A_TENSOR * tensors + whole
        beside = f"1.02 x {8 * codes / made.kept:.4g} bits a kept value + 0.7 KB a tensor + whole"
        found.append(
            Row(
                what=f"{values}, keep 1 %, --no-pack", ours=made.total, beside=beside, theirs=limit, unit="B", at_most=1
            )
        )
    return found


def packed(folder: Path) -> list[Row]:
    """Packed: against the dense checkpoint, a kept value, a tensor, and beside the layouts of others."""
    found = []
    for values, keep, least in SMALLER:
        made = make(folder, keep=keep, values=values)
        dense, what = made.record.numbers["dense_bytes"], f"{values}, keep {keep:.0%}, packed"
        found.append(
            Row(what=what, ours=made.total, beside="bfloat16 checkpoint", theirs=dense, unit="B", at_least=least)
        )
        payload, tensors = made.sum("bytes", "pruned"), len(made.record.tensors)
        overhead = (made.total - payload - made.sum("bytes", "whole")) / tensors
        found.append(
            Row(what=f"{what}: overhead a tensor", ours=overhead, beside="0.7 KB", theirs=A_TENSOR, unit="B", at_most=1)
        )
        found.append(
            Row(what=f"{what}: a kept value", ours=payload / made.kept, beside="order-0 entropy of its bytes",
                theirs=made.sum("bound_bytes", "pruned") / made.kept, unit="B")
        )  # fmt: skip
        if values == "bf16":
            a_value = payload / made.kept
            found.append(
                Row(what=f"{what}: a kept value", ours=a_value, beside="1.45 B", theirs=1.45, unit="B", at_most=1)
            )
            found += [
                Row(what=f"{what}: directory, a kept value", ours=made.total / made.kept, beside=f"{name} (computed)",
                    theirs=each, unit="B")
                for name, each in OTHERS
            ]  # fmt: skip
    return found


def listed(folder: Path) -> list[Row]:
    """Largest magnitudes: positions are stored, against log2 of the number of masks and the values' entropy."""
    found = []
    for keep in LISTED:
        made = make(folder, keep=keep, method="magnitude")
        what, bound = f"magnitude, keep {keep:.0%}, packed bf16", made.sum("bound_bytes", "pruned")
        ours = made.sum("bytes", "pruned")
        found.append(Row(what=what, ours=ours, beside="its entropy bound", theirs=bound, unit="B"))
        found.append(
            Row(what=f"{what}: a kept value", ours=ours / made.kept, beside="its entropy bound",
                theirs=bound / made.kept, unit="B")
        )  # fmt: skip
    return found


def main() -> None:
    given = options(__doc__, runs=1).parse_args()
    with workplace(given.folder) as folder:
        write_pair(folder / "pair", shapes(1))
        found = plain(folder) + packed(folder) + listed(folder)
    table(
        "Size: 271 M parameters, bfloat16, 147 tensors of which 33 norms are stored whole", found,
        "Bytes of a delta are those of its whole directory; payload alone where a row says a kept value or a bound. "
        "Rows marked computed were not run.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
