"""Groups of tensors that are pruned alike: a layer's attention, its other matrices, embeddings, vectors."""

import re
from collections.abc import Iterable

from deltagram.delta.plan import Entry

VECTORS = "vectors"
_LAYER = re.compile(r"\.(\d+)\.")
_ATTENTION = re.compile(r"(^|[._])(self_?)?att(n|ention)($|[._])", re.IGNORECASE)
_EMBEDDING = re.compile(r"emb|\bwte\b|\bwpe\b", re.IGNORECASE)


def grouped(entries: Iterable[Entry]) -> dict[str, tuple[str, ...]]:
    """Names of pruned tensors by group, in the order of the model's names.

    Within numbered layers attention and the rest are apart, as they differ in what pruning does to them. Tensors of
    fewer than two dimensions are one group, `VECTORS`, whatever their layer.
    """
    found: dict[str, list[str]] = {}
    for entry in entries:
        found.setdefault(group_of(entry.name, dimensions=len(entry.tuned.shape)), []).append(entry.name)
    return {group: tuple(names) for group, names in found.items()}


def group_of(name: str, *, dimensions: int = 2) -> str:
    """The group of one tensor.

    >>> group_of("encoder.layer.3.attention.self.query.weight"), group_of("model.layers.10.mlp.up_proj.weight")
    ('layer 3 attention', 'layer 10')
    >>> group_of("embeddings.word_embeddings.weight"), group_of("pooler.dense.weight")
    ('embeddings', 'pooler.dense')
    """
    if dimensions < 2:
        return VECTORS
    number = _LAYER.search(name)
    if number:
        return f"layer {number[1]}" + (" attention" if _ATTENTION.search(name) else "")
    return "embeddings" if _EMBEDDING.search(name) else name.rpartition(".")[0] or name
