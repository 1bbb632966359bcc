"""Live arrays, NumPy's or CPU tensors of torch, as writable bit patterns that share their memory."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from deltagram.arrays import DTYPES, Bits, Spec
from deltagram.errors import PatchError

_NAMES: Mapping[np.dtype[Any], str] = {
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.float16): "F16",
    np.dtype(np.float32): "F32",
    np.dtype(np.float64): "F64",
    np.dtype(np.bool_): "BOOL",
    **{np.dtype(f"{kind}{width}"): f"{kind.upper()}{8 * width}" for kind in "iu" for width in (1, 2, 4, 8)},
}


def views(model_or_state: object) -> dict[str, tuple[Spec, Bits]]:
    """Name to (spec, flat writable bit patterns) of a torch module, or of a mapping of arrays or tensors.

    Raises PatchError for what is not contiguous, not writable, not in the CPU's memory, or of an unknown dtype.
    """
    state = model_or_state if isinstance(model_or_state, Mapping) else _state_of(model_or_state)
    return {name: _view(name, value) for name, value in state.items()}


def _state_of(model: object) -> Mapping[str, Any]:
    if not hasattr(model, "state_dict"):
        raise PatchError(type(model).__name__, "is neither a torch module nor a mapping from names to arrays")
    state: Mapping[str, Any] = model.state_dict(keep_vars=True)
    return state


def _view(name: str, value: Any) -> tuple[Spec, Bits]:
    array = value if isinstance(value, np.ndarray) else _from_torch(name, value)
    dtype = _NAMES.get(array.dtype)
    if dtype is None:
        raise PatchError(name, f"has dtype {array.dtype}", expected=f"one of {', '.join(sorted(_NAMES.values()))}")
    if not (array.flags.c_contiguous and array.flags.writeable and array.flags.aligned):
        raise PatchError(name, "is not a contiguous, writable array", fix="copy it into one first")
    return Spec(dtype=dtype, shape=array.shape), array.reshape(-1).view(DTYPES[dtype].bits)


def _from_torch(name: str, value: Any) -> NDArray[Any]:
    if not type(value).__module__.startswith("torch"):
        raise PatchError(name, f"is a {type(value).__name__}", expected="a NumPy array or a torch tensor")
    import torch  # noqa: PLC0415 - only for who has tensors of it

    if value.device.type != "cpu" or not value.is_contiguous():
        raise PatchError(name, f"lies on {value.device} or is not contiguous", fix="patch contiguous CPU tensors")
    plain = value.detach()
    if plain.dtype == torch.bfloat16:
        return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)  # type: ignore[no-any-return]
    try:
        return plain.numpy()  # type: ignore[no-any-return]
    except TypeError:
        raise PatchError(name, f"has dtype {plain.dtype}, which NumPy lacks") from None
