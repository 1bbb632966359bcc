"""One base in memory, and batches answered for any of its variants: swapped in one after another, or all at once."""

import threading
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np

from deltagram.serve.basemodel import load_base
from deltagram.serve.costs import Way
from deltagram.serve.frames import Frame, Frames, place
from deltagram.serve.layers import holding
from deltagram.serve.payload import Payload, of_base, open_payload
from deltagram.serve.requests import Classified, Completion, Embedded
from deltagram.serve.rows import Segment, sliced
from deltagram.serve.sampling import Chooser, Ended, Going
from deltagram.serve.variant import Variant, compiled
from deltagram.serve.words import Tokenizers
from deltagram.threads import default_threads
from deltagram.training.huggingface import libraries

_LARGE: Final = 1 << 25  # bytes of a payload that is decoded on several threads


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One input of a batch: token numbers for a variant."""

    variant: Variant
    ids: Sequence[int]


class Engine:
    """The base, and what is needed to answer for its variants. One thread at a time may ask it for answers.

    Every method that answers takes rows of variants of one frame, in any order, and a way: "swap" writes each variant
    over the base and runs its rows, "mixed" runs all rows at once on the base with each variant's own beside it. Both
    give what the restored checkpoint gives, within the rounding of the dtype.
    """

    def __init__(
        self, base: Path | str, *, digest: str | None = None, dtype: str = "auto", device: str = "cpu",
        threads: int | None = None,
    ) -> None:  # fmt: skip
        with libraries() as (torch, transformers):
            self._torch, self._threads = torch, threads or default_threads()
            self._opened: dict[Path, tuple[object, Payload]] = {}
            self.base = load_base(torch, Path(base), digest=digest, dtype=dtype, device=device, threads=threads)
            self._frames = Frames(torch, transformers, self.base)
            self._tokenizers = Tokenizers(transformers)
        self._making = threading.Lock()
        self.swaps = 0

    def variant(self, name: str, folder: Path | None = None) -> Variant:
        """A variant from the folder of a delta or an adapter, ready to answer; without a folder, the base.

        May be called while another thread is being answered: only the base's checkpoint is read.
        Raises as `payload.open_payload` and `variant.compiled` do.
        """
        payload = of_base(self.base) if folder is None else self.opened(folder)
        with self._making:
            frame = self._frames.of(payload.link, payload.config)
            words = self._tokenizers.of(payload, frame.model.config)
        threads = self._threads if payload.nbytes > _LARGE else 1
        return compiled(self._torch, name, payload, self.base, frame, words, threads=threads)

    def opened(self, folder: Path) -> Payload:
        """A variant's folder, its headers read and held against the base: kept for the next time.

        Raises as `payload.open_payload` does.
        """
        stamp = tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(folder.glob("*.safetensors")))
        found = self._opened.get(folder)
        if found is None or found[0] != stamp:
            found = self._opened[folder] = (stamp, open_payload(folder, self.base))
        return found[1]

    def classify(self, rows: Sequence[Row], *, way: Way) -> list[Classified]:
        """The classes of texts."""
        found: list[Classified | None] = [None] * len(rows)
        for order, chosen in self._batches(rows, way):
            with self._on(chosen, way) as segments:
                ids, mask = self._padded(chosen)
                frame = chosen[0].variant.frame
                with frame.switch.on(segments, len(chosen)):
                    states = frame.body(input_ids=ids, attention_mask=mask, return_dict=True)
                for where, variant in _groups(chosen):
                    logits = self._head(frame, variant, states, ids, mask, where)
                    for row, scores in zip(order[where], logits.softmax(-1).tolist(), strict=True):
                        found[row] = _classified(variant, scores, tokens=len(rows[row].ids))
        return [answer for answer in found if answer is not None]

    def _head(self, frame: Frame, variant: Variant, states: Any, ids: Any, mask: Any, where: slice) -> Any:
        """Logits of a variant's rows, float32: the model without its body, with the variant's own parameters."""
        length = len(ids)
        own = type(states)(**{key: sliced(value, where, length) for key, value in states.items()})
        parameters = ((*place(frame.model, name), tensor) for name, tensor in variant.heads.items())
        with frame.giving(own), holding(parameters):
            return frame.model(input_ids=ids[where], attention_mask=mask[where]).logits.float()

    def embed(self, rows: Sequence[Row], *, way: Way) -> list[Embedded]:
        """The vectors of texts: states of the last layer, pooled as the variant says, of length 1."""
        found: list[Embedded | None] = [None] * len(rows)
        for order, chosen in self._batches(rows, way):
            with self._on(chosen, way) as segments:
                ids, mask = self._padded(chosen)
                frame = chosen[0].variant.frame
                with frame.switch.on(segments, len(chosen)):
                    states = frame.encoder(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state
                for at, row in enumerate(order):
                    pooled = _pooled(states[at].float(), mask[at], chosen[at].variant.words.pooling)
                    vector = self._torch.nn.functional.normalize(pooled, dim=0).cpu().numpy().astype(np.float32)
                    found[row] = Embedded(vector=vector, tokens=len(rows[row].ids))
        return [answer for answer in found if answer is not None]

    def generate(self, rows: Sequence[Row], going: Sequence[Going], *, way: Way) -> list[Completion]:
        """Go on from prompts, each as its `Going` says, until all have ended."""
        from transformers import LogitsProcessorList, StoppingCriteriaList  # noqa: PLC0415 - of the extra

        for order, chosen in self._batches(rows, way):
            mine = [going[row] for row in order]
            with self._on(chosen, way) as segments, libraries():
                ids, mask = self._padded(chosen, left=True)
                frame = chosen[0].variant.frame
                with frame.switch.on(segments, len(chosen)):
                    frame.model.generate(
                        input_ids=ids, attention_mask=mask, generation_config=self._plain(mine),
                        logits_processor=LogitsProcessorList([Chooser(self._torch, [g.sampling for g in mine])]),
                        stopping_criteria=StoppingCriteriaList([Ended(self._torch, mine)]),
                    )  # fmt: skip
        return [
            Completion(
                text=one.text, finish=one.finish or "length", prompt_tokens=len(row.ids),
                completion_tokens=len(one.ids),
            )
            for row, one in zip(rows, going, strict=True)
        ]  # fmt: skip

    def _plain(self, going: Sequence[Going]) -> Any:
        """transformers' settings: nothing but the length; what is drawn and when it ends is said row by row."""
        from transformers import GenerationConfig  # noqa: PLC0415 - of the extra

        most = max(one.sampling.max_tokens for one in going)
        make: Any = GenerationConfig
        return make(max_new_tokens=most, do_sample=False, num_beams=1, use_cache=True, pad_token_id=0)

    def ways_agree(self, rows: Sequence[Row]) -> bool:
        """Whether both ways give these texts the same vectors, as far as rounding allows."""
        rows = [row for row in rows if row.variant.patch is not None]
        if not rows:
            return True
        try:
            both = [self.embed(rows, way=way) for way in ("swap", "mixed")]
        except (RuntimeError, ValueError, IndexError):
            return False
        step = float(self._torch.finfo(getattr(self._torch, self.base.dtype)).eps)
        apart = max(float(np.abs(a.vector - b.vector).max()) for a, b in zip(*both, strict=True))
        return apart <= 100 * step  # of vectors of length 1, through some dozens of layers

    def restore(self) -> None:
        """The base's tensors are the base's again, bit for bit."""
        self.base.live.swap(None)

    def _batches(self, rows: Sequence[Row], way: Way) -> list[tuple[np.ndarray[Any, Any], list[Row]]]:
        """Rows in the batches that run: all, a variant's side by side; or one batch a variant."""
        order = np.asarray(sorted(range(len(rows)), key=lambda i: (id(rows[i].variant), len(rows[i].ids))))
        if way == "mixed":
            return [(order, [rows[i] for i in order])]
        groups = groupby(order, key=lambda i: id(rows[i].variant))
        return [(np.asarray(chosen), [rows[i] for i in chosen]) for chosen in (list(g) for _, g in groups)]

    @contextmanager
    def _on(self, rows: Sequence[Row], way: Way) -> Any:
        """The segments of a batch, with what belongs under them on the base."""
        patch = rows[0].variant.patch if way == "swap" else None
        if self.base.live.current is not patch:
            self.base.live.swap(patch)
            self.swaps += 1
        beside = {v.name: v.left if patch is not None else v.parts for _, v in _groups(rows)}
        segments = [
            Segment(start=where.start, stop=where.stop, parts=beside[variant.name])
            for where, variant in _groups(rows) if beside[variant.name]
        ]  # fmt: skip
        with self._torch.inference_mode():
            yield segments

    def _padded(self, rows: Sequence[Row], *, left: bool = False) -> tuple[Any, Any]:
        """Token numbers and attention mask, `row token`, filled up on the right or (`left`) on the left."""
        length = max(len(row.ids) for row in rows)
        ids = np.full((len(rows), length), 0, np.int64)
        mask = np.zeros_like(ids)
        for at, row in enumerate(rows):
            here = slice(length - len(row.ids), length) if left else slice(len(row.ids))
            ids[at] = row.variant.words.pad
            ids[at, here], mask[at, here] = row.ids, 1
        return tuple(self._torch.from_numpy(part).to(self.base.device) for part in (ids, mask))


def _groups(rows: Sequence[Row]) -> list[tuple[slice, Variant]]:
    """Rows of one variant that stand side by side."""
    found, at = [], 0
    for _, chosen in groupby(rows, key=lambda row: id(row.variant)):
        mine = list(chosen)
        found.append((slice(at, at + len(mine)), mine[0].variant))
        at += len(mine)
    return found


def _pooled(states: Any, mask: Any, pooling: str) -> Any:
    """One vector of a text's states, `token feature`."""
    if pooling == "cls":
        return states[0]
    count = int(mask.sum())
    return states[count - 1] if pooling == "last" else states[:count].mean(0)


def _classified(variant: Variant, scores: Sequence[float], *, tokens: int) -> Classified:
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    named = {variant.labels[i]: scores[i] for i in order}
    return Classified(label=variant.labels[order[0]], scores=named, tokens=tokens)
