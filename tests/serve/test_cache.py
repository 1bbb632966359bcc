"""Variants in memory: within their bytes, the least recently used out first, loaded once for all who ask."""

import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest

from deltagram.serve.cache import Cache


@dataclass(frozen=True)
class Heavy:
    """Stands for a variant."""

    nbytes: int


def make(nbytes: int) -> Any:
    return lambda: Heavy(nbytes)


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(memory=30)
    for name in "abc":
        cache.get(name, "1", make(10))
    cache.get("a", "1", make(99))
    cache.get("d", "1", make(10))
    assert cache.held() == {"c": 10, "a": 10, "d": 10}
    assert (cache.loads, cache.evictions) == (4, 1)


def test_a_large_one_stays_alone() -> None:
    cache = Cache(memory=30)
    cache.get("a", "1", make(10))
    cache.get("b", "1", make(100))
    assert cache.held() == {"b": 100}
    cache.get("c", "1", make(10))
    assert cache.held() == {"c": 10}


def test_what_grows_makes_others_go() -> None:
    """A variant takes more memory once a batch has mixed it."""
    cache, grown = Cache(memory=30), make(10)()
    for name in "ab":
        cache.get(name, "1", make(10))
    cache.get("c", "1", lambda: grown)
    object.__setattr__(grown, "nbytes", 25)
    cache.get("c", "1", make(99))
    assert cache.held() == {"c": 25}


def test_another_payload_is_another_variant() -> None:
    cache = Cache(memory=30)
    cache.get("a", "1", make(10))
    assert cache.get("a", "2", make(7)).nbytes == 7
    assert cache.held() == {"a": 7}
    cache.drop("a")
    cache.drop("a")
    assert cache.held() == {}


def test_who_ask_at_once_load_it_once() -> None:
    cache, made = Cache(memory=100), []

    def slowly() -> Any:
        made.append(threading.get_ident())
        time.sleep(0.05)
        return Heavy(1)

    threads = [threading.Thread(target=cache.get, args=("a", "1", slowly)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_fault_is_raised_and_the_next_one_tries_again() -> None:
    cache = Cache(memory=100)

    def broken() -> Any:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        cache.get("a", "1", broken)
    assert cache.get("a", "1", make(3)).nbytes == 3
