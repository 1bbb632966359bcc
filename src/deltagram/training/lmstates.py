"""What a causal language model makes of contexts: the states its output layer sees, that layer's rows, its logits."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import F32, F64
from deltagram.errors import CheckpointError, SettingError
from deltagram.progress import SILENT, Progress
from deltagram.training.batches import I64
from deltagram.training.huggingface import libraries
from deltagram.training.loaded import AT_ONCE, Loaded

_EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, kw_only=True, eq=False)
class WordStates:
    """States (context, feature), output embeddings (word, feature), and logits (word, context) of the same words.

    A state is what the output layer sees of a context's last token or, with `layer`, what comes out of that block.
    `log_partition` (context) is the log-sum-exp over the whole vocabulary. `norm` is the model's final norm, "" without
    one: it sets the lengths of states that the output layer sees.
    """

    states: F32
    words: F64
    logits: F32
    log_partition: F64
    layer: int | None
    norm: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Output:
    """The layer that makes logits of states: its name, module, and how many tokens it tells apart."""

    name: str
    module: Any

    @property
    def vocabulary(self) -> int:
        """Rows."""
        return int(self.module.weight.shape[0])


def output_of(run: Loaded) -> Output:
    """The output layer of a causal language model.

    Raises SettingError where the model is none, CheckpointError where it has no linear output layer, or its folder does
    not hold the weights.
    """
    folder = str(run.folder)
    if run.kind != "decoder":
        fix = "a classifier is measured on labelled texts: deltagram measure MODEL DATA"
        raise SettingError(folder, f"is a {type(run.model).__name__}", expected="a causal language model", fix=fix)
    with libraries() as (torch, _):
        module = run.model.get_output_embeddings()
        if not isinstance(module, torch.nn.Linear):
            raise CheckpointError(folder, f"has {type(module).__name__} for an output layer", expected="a linear layer")
        name = next(name for name, part in run.model.named_modules() if part is module)
    if any(missing.startswith(f"{name}.") for missing in run.missing):
        raise CheckpointError(folder, f"holds no weights of its output layer {name}", fix="give a whole checkpoint")
    return Output(name=name, module=module)


def blocks_of(run: Loaded) -> Any:
    """The model's blocks, first to last. Raises CheckpointError where they cannot be told."""
    with libraries() as (torch, _):
        depth = getattr(run.model.config, "num_hidden_layers", None)
        lists = [part for part in run.model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == depth]
    if not lists:
        found = f"{type(run.model).__name__} has no list of {depth} blocks"
        raise CheckpointError(str(run.folder), found, expected="blocks one after another", fix="leave the layer out")
    return lists[0]


def greatest_context(run: Loaded) -> int | None:
    """Tokens that the model takes, as its config tells; None where it does not."""
    found = getattr(run.model.config, "max_position_embeddings", None)
    return None if found is None else int(found)


def word_states(
    run: Loaded, context_ids: I64, word_ids: I64, *, layer: int | None = None, size: int = AT_ONCE,
    progress: Progress = SILENT,
) -> WordStates:  # fmt: skip
    """Run the model on contexts (context, length), -1 on the left where they are shorter, for these next words (word).

    Contexts of one length go together, so that nothing is padded. One layer's state of the last token is kept, of one
    batch at a time; logits of the chosen words alone. `layer` 0 is what the first block gets, k what block k puts out,
    before the final norm; none is what the output layer sees.

    Raises SettingError for token numbers that the model does not have, contexts that are too long, and layers that are
    not there; CheckpointError where logits are not the output layer's.
    """
    output = output_of(run)
    _check(run, output, context_ids, word_ids)
    with libraries() as (torch, _), _watched(run, output, layer) as seen, torch.inference_mode():
        device = output.module.weight.device
        chosen = torch.from_numpy(word_ids).to(device)
        few = "logits_to_keep" in inspect.signature(run.model.forward).parameters
        options: dict[str, Any] = {"use_cache": False, **({"logits_to_keep": 1} if few else {})}
        parts: list[F32] = []
        order: list[I64] = []
        logits = np.empty((len(word_ids), len(context_ids)), np.float32)
        partition = np.empty(len(context_ids))
        for rows, tokens in of_one_length(context_ids, size=size):
            ids = torch.from_numpy(tokens).to(device)
            said = run.model(input_ids=ids, attention_mask=torch.ones_like(ids), **options).logits[:, -1].float()
            some = said[:, chosen]
            _check_linear(torch, run, output, seen["output"], some, chosen)
            parts.append(seen["state"].float().cpu().numpy())
            order.append(rows)
            logits[:, rows] = some.cpu().numpy().T
            partition[rows] = said.double().logsumexp(1).cpu().numpy()
            progress.advance("contexts", sum(map(len, order)), len(context_ids))
        words = output.module.weight[chosen].double().cpu().numpy()
    states = np.concatenate(parts)[np.argsort(np.concatenate(order))]
    return WordStates(
        states=states, words=words, logits=logits, log_partition=partition, layer=layer, norm=final_norm(run)
    )  # fmt: skip


def of_one_length(context_ids: I64, *, size: int) -> Iterator[tuple[I64, I64]]:
    """Batches of contexts of one length: which they are, and their token numbers (context, token) without filling.

    >>> [(rows.tolist(), ids.tolist()) for rows, ids in of_one_length(np.array([[-1, 5], [3, 4], [-1, 6]]), size=9)]
    [([0, 2], [[5], [6]]), ([1], [[3, 4]])]
    """
    lengths = (context_ids >= 0).sum(1)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length).astype(np.int64)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            yield part, np.ascontiguousarray(context_ids[part, context_ids.shape[1] - length :])


def final_norm(run: Loaded) -> str:
    """The name of the last norm outside the blocks, "" if there is none."""
    try:
        inside = {id(part) for block in blocks_of(run) for part in block.modules()}
    except CheckpointError:
        return ""
    names = [n for n, part in run.model.named_modules() if "Norm" in type(part).__name__ and id(part) not in inside]
    return names[-1] if names else ""


@contextmanager
def _watched(run: Loaded, output: Output, layer: int | None) -> Iterator[dict[str, Any]]:
    """What passed last: "output", that the output layer saw, and "state", of the layer that is wanted."""
    seen: dict[str, Any] = {}

    def last(name: str, found: Any) -> None:
        seen[name] = found[:, -1] if found.ndim == 3 else found

    def output_sees(_module: Any, inputs: Any) -> None:
        last("output", inputs[0])
        if layer is None:
            seen["state"] = seen["output"]

    def block_gets(_module: Any, inputs: Any, named: Any) -> None:
        last("state", inputs[0] if inputs else named["hidden_states"])

    def block_gives(_module: Any, _inputs: Any, given: Any) -> None:
        last("state", given[0] if isinstance(given, tuple) else given)

    handles = [output.module.register_forward_pre_hook(output_sees)]
    if layer is not None:
        blocks = blocks_of(run)
        if not 0 <= layer <= len(blocks):
            handles[0].remove()
            expected = f"0 (what goes in) to {len(blocks)}, or none: what the output layer sees"
            raise SettingError("layer", f"{layer}", expected=expected)
        if layer:
            handles.append(blocks[layer - 1].register_forward_hook(block_gives))
        else:
            handles.append(blocks[0].register_forward_pre_hook(block_gets, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _check(run: Loaded, output: Output, context_ids: I64, word_ids: NDArray[np.int64]) -> None:
    """SettingError for tokens that the model does not have, or contexts that it does not take."""
    known = int(run.model.get_input_embeddings().weight.shape[0])
    for what, ids, size in (("contexts", context_ids, known), ("words", word_ids, output.vocabulary)):
        if ids.max() >= size:
            raise SettingError(
                str(run.folder), f"has {size:,} tokens, and the {what} have number {ids.max():,}",
                expected="labels counted with this model's tokenizer", fix="count the corpus with --tokenizer MODEL",
            )  # fmt: skip
    limit, longest = greatest_context(run), int((context_ids >= 0).sum(1).max())
    if limit is not None and longest > limit:
        found = f"takes {limit:,} tokens, and a context has {longest:,}"
        raise SettingError(str(run.folder), found, fix="count the corpus with shorter contexts")


def _check_linear(torch: Any, run: Loaded, output: Output, seen: Any, said: Any, chosen: Any) -> None:
    """CheckpointError unless logits are W h + b to rounding: float32 sums of as many terms as features, both ways."""
    weight, bias = output.module.weight[chosen], output.module.bias
    own = torch.nn.functional.linear(seen, weight, None if bias is None else bias[chosen]).float()
    size = float(seen.abs().amax()) * float(weight.abs().amax()) * seen.shape[1] + 1
    if not float((own - said).abs().amax()) <= 8 * _EPS * size:
        raise CheckpointError(
            str(run.folder), f"its logits are not those of {output.name} alone", expected="logits = W h + b",
            fix="a cap or scale on logits is outside what is compared here",
        )  # fmt: skip
