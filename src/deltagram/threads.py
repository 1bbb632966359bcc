"""One thread pool a job: work in parallel, results in order, a bounded number in flight."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def default_threads() -> int:
    """Processors this process may use, eight at most: beyond that memory bandwidth is the limit."""
    if hasattr(os, "sched_getaffinity"):
        return min(8, len(os.sched_getaffinity(0)))
    return min(8, os.cpu_count() or 1)


def ordered(work: Callable[[Item], Result], items: Iterable[Item], *, threads: int) -> Iterator[Result]:
    """`map(work, items)` over a pool: results come in the order of the items, `2 * threads` at most in flight.

    One thread needs no pool: then each item is worked on when its result is asked for.

    The first exception is raised at its place in the order, and what was not started is dropped.

    >>> list(ordered(abs, [-3, -2, 1], threads=2))
    [3, 2, 1]
    """
    if threads == 1:
        yield from map(work, items)
        return
    flying: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max_workers=threads) as pool:
        try:
            for item in items:
                flying.append(pool.submit(work, item))
                if len(flying) >= 2 * threads:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()
