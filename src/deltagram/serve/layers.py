"""Layers that many variants share: one product with the base for all rows, and a correction for each variant's own."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from deltagram.serve.beside import Beside, Narrow
from deltagram.serve.rows import Found, Switch, sliced

Forward = Callable[..., Any]


def kind(torch: Any, module: Any) -> str:
    """ "linear", "conv1d" (stored `in out`), "lookup", or "other": what its parameters do is known, or it is not."""
    if type(module) is torch.nn.Linear:
        return "linear"
    if type(module) is torch.nn.Embedding:
        return "lookup"
    named = f"{type(module).__module__}.{type(module).__name__}"
    return "conv1d" if named == "transformers.pytorch_utils.Conv1D" else "other"


def share(torch: Any, tree: Any, switch: Switch, names: Mapping[str, str]) -> None:
    """Make every layer of a module tree look at `switch`; `names` maps its parameters to the names parts have."""
    for path, module in tree.named_modules():
        owned = {
            attr: names[f"{path}.{attr}" if path else attr]
            for attr, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            if (f"{path}.{attr}" if path else attr) in names
        }
        if owned:
            module.forward = _shared(torch, module, path, owned, switch)


def _shared(torch: Any, module: Any, path: str, owned: Mapping[str, str], switch: Switch) -> Forward:
    plain, does = module.forward, kind(torch, module)

    def forward(*args: Any, **kwargs: Any) -> Any:
        found = switch.found(path, owned)
        if not found:
            return plain(*args, **kwargs)
        if does == "lookup":
            return _lookup(torch, plain, module, args[0] if args else kwargs["input"], switch, found)
        if does == "other":
            return _other(torch, plain, module, args, kwargs, switch, found)
        x = args[0] if args else next(iter(kwargs.values()))
        return _linear(torch, plain, module, x, switch, found, transposed=does == "conv1d")

    return forward


def _linear(torch: Any, plain: Forward, module: Any, x: Any, switch: Switch, found: Found, *, transposed: bool) -> Any:
    weight = module.weight.T if transposed else module.weight
    count, bias = weight.shape[0], getattr(module, "bias", None)
    lone = found[0] if len(found) == 1 and found[0][0].stop - found[0][0].start == switch.rows else None
    replaced = lone is not None and "weight" in lone[1] and lone[1]["weight"].whole is not None
    y = x.new_zeros((*x.shape[:-1], count)) if replaced else plain(x).contiguous()
    most = max((parts["weight"].outputs for _, parts in found if "weight" in parts and not transposed), default=count)
    if most > count:
        y = torch.cat([y, y.new_full((*y.shape[:-1], most - count), -torch.inf)], -1)
    for segment, parts in found:
        span = switch.span(segment, x.shape[0])
        mine, out = x[span].reshape(-1, x.shape[-1]), y[span].view(-1, most)  # of y's own memory
        _correct(torch, mine, out, count, parts.get("weight"), bias, transposed=transposed)
        if "bias" in parts:
            new = parts["bias"].whole
            out[:, : len(new)] += new.to(out.dtype) if bias is None else _difference(torch, new, bias)
    return y


def _difference(torch: Any, new: Any, old: Any) -> Any:
    """`new - old` of two vectors, where `old` ends early as if zeros followed."""
    return new - torch.nn.functional.pad(old, (0, len(new) - len(old)))


def _correct(torch: Any, x: Any, y: Any, count: int, part: Beside | None, bias: Any, *, transposed: bool) -> None:
    """In place: outputs `y` of one variant's rows, `sample row`, with its own weight; further rows have no bias yet."""
    if part is None:
        return
    if part.whole is not None:
        own = part.whole.T if transposed else part.whole
        y[:, : len(own)] = torch.nn.functional.linear(x, own, None if bias is None else bias[: len(own)])
    elif part.product is not None:
        part.product.add(x.float(), y[:, :count])
    if transposed:
        return
    if part.rows is not None:
        y[:, count : part.outputs] = torch.nn.functional.linear(x, part.rows)
    y[:, part.outputs :] = -torch.inf


def _lookup(torch: Any, plain: Forward, module: Any, ids: Any, switch: Switch, found: Found) -> Any:
    if ids.shape[0] == 1 and switch.rows > 1:  # positions, the same for every row
        ids = ids.expand(switch.rows, *ids.shape[1:])
    count = module.weight.shape[0]
    y = plain(ids.clamp(max=count - 1))
    for segment, parts in found:
        span, part = switch.span(segment, ids.shape[0]), parts["weight"]
        mine = ids[span].reshape(-1)
        out = y[span].reshape(len(mine), -1)
        if part.whole is not None:
            out = part.whole[mine].to(out.dtype)
        elif part.product is not None:
            if isinstance(part.product, Narrow):
                out[:, part.product.columns] += part.product.block[mine.clamp(max=count - 1)].to(out.dtype)
            else:
                part.product.add_rows(torch, mine.clamp(max=count - 1), out)
        if part.rows is not None:
            new = mine >= count
            out[new] = part.rows[mine[new] - count].to(out.dtype)
        y[span] = out.reshape(y[span].shape)
    return y


def _other(
    torch: Any, plain: Forward, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], switch: Switch,
    found: Found,
) -> Any:  # fmt: skip
    """A layer of any other kind, called once for each variant's rows with that variant's parameters in it."""
    length = next(value.shape[0] for value in (*args, *kwargs.values()) if getattr(value, "ndim", 0))
    outputs = []
    for segment, parts in switch.pieces(found):
        span = switch.span(segment, length)
        mine = {key: sliced(value, span, length) for key, value in kwargs.items()}
        own = ((module, attr, part.whole) for attr, part in parts.items())
        with switch.within(segment), holding(own):
            outputs.append(plain(*(sliced(value, span, length) for value in args), **mine))
    if all(isinstance(out, torch.Tensor) for out in outputs):
        return torch.cat(outputs)
    raise ValueError(f"a {type(module).__name__} with parameters of its own returns no tensor")


@contextmanager
def holding(own: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Other tensors (module, attribute, tensor) in modules while the block runs."""
    held = []
    for module, attr, value in own:
        places = module._parameters if attr in module._parameters else module._buffers
        held.append((places, attr, places[attr]))
        places[attr] = value
    try:
        yield
    finally:
        for places, attr, value in reversed(held):
            places[attr] = value
