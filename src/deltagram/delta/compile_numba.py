"""How every numba kernel is compiled: explicit signatures, no interpreter lock, cached on disk."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core.errors import NumbaError

Loop = TypeVar("Loop", bound=Callable[..., Any])

boolean, i64, u8, u16, u32, u64 = (
    numba.boolean,
    numba.int64,
    numba.uint8,
    numba.uint16,
    numba.uint32,
    numba.uint64,
)
f32, f64, void = numba.float32, numba.float64, numba.void


def reads(entry: Any) -> Any:
    """A flat contiguous array that the kernel only reads (memory maps are read-only)."""
    return numba.types.Array(entry, 1, "C", readonly=True)


def writes(entry: Any) -> Any:
    """A flat contiguous array that the kernel fills."""
    return numba.types.Array(entry, 1, "C")


def kernel(*signatures: Any, any_order: bool = False) -> Callable[[Loop], Loop]:
    """Compile for exactly these signatures, now, or load what was compiled before.

    `any_order` lets sums be taken in another order and products be fused with them: faster, other last bits.
    Raises RuntimeError where numba cannot compile or has no place to cache.
    """

    def compile_(loop: Loop) -> Loop:
        try:
            compiled: Any = numba.njit(
                list(signatures), nogil=True, cache=True, error_model="numpy",
                fastmath={"reassoc", "contract"} if any_order else False,
            )(loop)  # fmt: skip
        except NumbaError as fault:
            raise RuntimeError(f"numba could not compile {loop.__name__}: {fault}") from fault
        return cast(Loop, compiled)

    return compile_


def inline(loop: Loop) -> Loop:
    """A function that kernels of the same file call; it is compiled into them."""
    return cast(Loop, numba.njit(nogil=True)(loop))
