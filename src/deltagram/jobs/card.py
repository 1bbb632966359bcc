"""The model card of a delta directory."""

from deltagram.store.manifest import Manifest
from deltagram.store.masked import all_masked


def model_card(manifest: Manifest, *, name: str) -> str:
    """A README.md in the Hub's layout: what this is, and how to restore it."""
    forms: dict[str, int] = {}
    masks: dict[str, int] = {}
    kept = entries = 0
    for tensor in manifest.tensors.values():
        forms[tensor.form] = forms.get(tensor.form, 0) + 1
    for part in all_masked(manifest.tensors).values():
        kept += part.mask.keep
        entries += part.common.size
        kind = " by ".join(filter(None, (part.mask.kind, getattr(part.mask, "score", ""))))
        masks[kind] = masks.get(kind, 0) + 1
    share = f"{kept / entries:.3%} of {entries:,} entries" if entries else "no entries"
    listed = ", ".join(f"{count} {form}" for form, count in sorted(forms.items()))
    chosen = f" Masks: {', '.join(f'{count} {kind}' for kind, count in sorted(masks.items()))}." if masks else ""
    return f"""---
library_name: deltagram
tags: [deltagram, delta]
base_model: {manifest.base.name}
---
# {name}

What fine-tuning **{manifest.base.name}** to **{manifest.tuned.name}** changed, pruned: {share} are kept.
Made by {manifest.created_by}; {len(manifest.tensors)} tensors ({listed}).{chosen}

```
deltagram restore {manifest.base.name} {name} restored
```

The base must have the digest `{manifest.base.digest}` (`deltagram verify {name} --base {manifest.base.name}`).
`delta.safetensors` holds the payload and the manifest, `scales.safetensors` what `deltagram rescale` changes.
"""
