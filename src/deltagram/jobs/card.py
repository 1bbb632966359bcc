"""The model card of a delta directory."""

from deltagram.store.manifest import Manifest
from deltagram.store.masked import all_masked


def model_card(manifest: Manifest, *, name: str) -> str:
    """A README.md in the Hub's layout: what this is, and how to restore it."""
    forms: dict[str, int] = {}
    kept = entries = 0
    for tensor in manifest.tensors.values():
        forms[tensor.form] = forms.get(tensor.form, 0) + 1
    for part in all_masked(manifest.tensors).values():
        kept += part.mask.keep
        entries += part.common.size
    share = f"{kept / entries:.3%} of {entries:,} entries" if entries else "no entries"
    listed = ", ".join(f"{count} {form}" for form, count in sorted(forms.items()))
    return f"""---
library_name: deltagram
tags: [deltagram, delta]
base_model: {manifest.base.name}
---
# {name}

What fine-tuning **{manifest.base.name}** to **{manifest.tuned.name}** changed, pruned: {share} are kept.
Made by {manifest.created_by}; {len(manifest.tensors)} tensors ({listed}).

```
deltagram restore {manifest.base.name} {name} restored
```

The base must have the digest `{manifest.base.digest}` (`deltagram verify {name} --base {manifest.base.name}`).
`delta.safetensors` holds the payload and the manifest, `scales.safetensors` what `deltagram rescale` changes.
"""
