"""Next tokens: drawn from the right law for every row, told in pieces that join to the text, ended where asked."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deltagram.serve.requests import Sampling
from deltagram.serve.sampling import Chooser, Going
from deltagram.serve.words import Words

LETTERS = "abcdefghij"


class Letters:
    """A tokenizer of single letters; token 10 ends a text, 11 and 12 are the halves of an é."""

    chat_template = None

    def __len__(self) -> int:
        return 13

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        parts = [{11: b"\xc3", 12: b"\xa9"}.get(i) or LETTERS[i].encode() for i in ids if i != 10]
        return b"".join(parts).decode(errors="replace")


WORDS = Words(tokenizer=Letters(), pad=0, ends=frozenset({10}), most=100, pooling="last")


def run(tokens: Sequence[int], sampling: Sampling) -> tuple[Going, list[str]]:
    pieces: list[str] = []
    going = Going(words=WORDS, sampling=sampling, on_text=pieces.append)
    for token in tokens:
        if going.take(token):
            break
    return going, pieces


@given(st.lists(st.integers(0, 9), max_size=30), st.lists(st.text(LETTERS, min_size=1, max_size=4), max_size=3))
def test_pieces_join_to_the_text_before_the_first_stop(tokens: list[int], stops: list[str]) -> None:
    going, pieces = run(tokens, Sampling(max_tokens=100, stop=tuple(stops)))
    whole = "".join(LETTERS[t] for t in tokens)
    cuts = [upto for upto in range(len(whole) + 1) if any(whole[:upto].endswith(stop) for stop in stops)]
    if cuts:
        seen = whole[: cuts[0]]
        expected = seen[: min(seen.find(stop) for stop in stops if stop in seen)]
        assert (going.text, going.finish) == (expected, "stop")
        assert "".join(pieces) == expected
    else:
        assert (going.text, going.finish) == (whole, None)
        assert whole.startswith("".join(pieces))
        held = whole.removeprefix("".join(pieces))
        assert not held or any(stop.startswith(held) for stop in stops)  # nothing is held back that may be told


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 10))
def test_a_text_ends_at_its_length(tokens: list[int], most: int) -> None:
    going, pieces = run(tokens, Sampling(max_tokens=most))
    assert going.finish == ("length" if len(tokens) >= most else None)
    assert len(going.ids) == min(len(tokens), most)
    assert "".join(pieces) == going.text


def test_an_end_token_ends_and_is_not_told() -> None:
    going, pieces = run([1, 2, 10, 3], Sampling(max_tokens=9))
    assert (going.text, going.finish, going.ids) == ("bc", "stop", [1, 2])
    assert pieces == ["b", "c"]


def test_half_a_letter_is_held_back() -> None:
    going, pieces = run([0, 11, 12, 1], Sampling(max_tokens=9))
    assert pieces == ["a", "é", "b"]
    assert going.text == "aéb"


def test_a_cancelled_text_and_a_late_one_end() -> None:
    going = Going(words=WORDS, sampling=Sampling(max_tokens=9))
    going.cancelled = True
    assert going.take(1)
    assert going.ids == []
    assert Going(words=WORDS, sampling=Sampling(max_tokens=9), until=0.0).take(1)


def drawn(logits: torch.Tensor, sampling: Sampling, *, times: int) -> np.ndarray:
    """How often each word is the largest, over seeds."""
    samplings = [Sampling(temperature=sampling.temperature, top_p=sampling.top_p, seed=seed) for seed in range(times)]
    scores = Chooser(torch, samplings)(None, logits.repeat(times, 1))
    return np.bincount(scores.argmax(-1).numpy(), minlength=len(logits))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_words_are_drawn_from_their_softmax(temperature: float) -> None:
    """Against the multinomial law: Pearson's chi square below its 1 - 1e-6 quantile."""
    from scipy.stats import chi2  # noqa: PLC0415

    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    counts = drawn(logits, Sampling(temperature=temperature), times=4000)
    expected = (logits / temperature).softmax(-1).numpy() * 4000
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, df=4)


def test_a_nucleus_is_the_fewest_words_with_that_share() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert (drawn(logits, Sampling(top_p=0.7), times=500) > 0).tolist() == [True, True, False, False]
    assert (drawn(logits, Sampling(top_p=0.9), times=500) > 0).tolist() == [True, True, True, False]
    assert (drawn(logits, Sampling(top_p=1e-9), times=50) > 0).tolist() == [True, False, False, False]


def test_temperature_zero_leaves_scores_alone_and_a_seed_fixes_the_draw() -> None:
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    greedy, one, other = Sampling(temperature=0), Sampling(seed=5), Sampling(seed=6)
    together = Chooser(torch, [greedy, one, other])(None, logits)
    assert torch.equal(together[0], logits[0])
    alone = Chooser(torch, [one])(None, logits[1:2])
    assert torch.equal(together[1], alone[0])  # whatever is drawn beside it
    assert not torch.equal(Chooser(torch, [other])(None, logits[1:2])[0], alone[0])
    assert not torch.equal(*(Chooser(torch, [Sampling()])(None, logits[:1])[0] for _ in range(2)))
