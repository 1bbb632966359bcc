"""From text to supports: laws against a naive counter, permutations, splits, interruptions, and bad input."""

import importlib
import itertools
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from typer.testing import CliRunner

from deltagram.cli import app
from deltagram.data.contexts import Packing
from deltagram.data.labels import LabelMatrix
from deltagram.data.ngramcounts import Counter as Database
from deltagram.data.ngramcounts import Counts
from deltagram.data.thresholds import Thresholds, filtered
from deltagram.data.words import END
from deltagram.errors import DeltagramError, ExtraError, OutputError, SettingError
from deltagram.jobs import tokens

JOB = importlib.import_module("deltagram.jobs.tokens")
TEXTS = (
    "In the beginning God created the heaven and the earth.",
    "And the earth was without form, and void; and darkness was upon the face of the deep.",
    "And God said, Let there be light: and there was light.",
    "And God saw the light, that it was good: and God divided the light from the darkness.",
    "Þetta er ljós — 光 and the light.",
)
NAIVE: dict[str, Callable[[str], list[Any]]] = {
    "whitespace": str.split,
    "word": re.compile(r"\w+|[^\w\s]").findall,
    "char": list,
    "byte": lambda text: [chr(b) if 32 < b < 127 else f"<0x{b:02X}>" for b in text.encode()],
}
WORDS = st.lists(st.sampled_from(["a", "b", "ab", "ä", "光,", "x.y"]), min_size=1, max_size=9).map(" ".join)
LAW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Naive = dict[tuple[Any, ...], Counter[Any]]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that every corpus has several."""
    monkeypatch.setattr(JOB, "BLOCK", 17)


def written(folder: Path, texts: Sequence[str], name: str = "corpus.txt") -> Path:
    path = folder / name
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def naive(documents: Sequence[Sequence[Any]], lengths: Sequence[int]) -> Naive:
    """Straight from the definition: what follows each run of tokens inside a document."""
    found: Naive = defaultdict(Counter)
    for document in documents:
        for length in lengths:
            for at in range(length, len(document)):
                found[tuple(document[at - length : at])][document[at]] += 1
    return dict(found)


def ids(labels: LabelMatrix) -> tuple[Any, Any]:
    """Token numbers of words and contexts, which every file has."""
    assert labels.word_ids is not None
    assert labels.context_ids is not None
    return labels.word_ids, labels.context_ids


def counts(path: Path) -> Naive:
    """What a file holds, by names of tokens."""
    labels = LabelMatrix.load(path)
    words, contexts = ids(labels)
    name = dict(zip(words.tolist(), labels.words, strict=True))
    many = labels.probabilities.multiply(labels.weights * labels.samples).tocsc()
    found: Naive = {}
    for column, row in enumerate(contexts.tolist()):
        span = slice(many.indptr[column], many.indptr[column + 1])
        key = tuple(name.get(n, n) for n in row if n >= 0)
        found[key] = Counter()
        for word, n in zip(many.indices[span], many.data[span], strict=True):
            assert n == pytest.approx(round(n), abs=1e-6)
            found[key][labels.words[word]] = round(n)
    return found


def known(expected: Naive, path: Path) -> Naive:
    """The expected contexts as `counts` names them: a token that never comes next has a number alone."""
    labels = LabelMatrix.load(path)
    assert len(labels.contexts) == len(ids(labels)[1])
    following = set(labels.words)
    return {key: n for key, n in expected.items() if following.issuperset(key)}


def check(expected: Naive, path: Path) -> None:
    """Counts by names of contexts, where names tell them apart, and numbers where all their words are known."""
    labels, found = LabelMatrix.load(path), counts(path)
    assert labels.samples == sum(n.total() for n in expected.values())
    assert labels.shape[1] == len(expected)
    assert {key: n for key, n in found.items() if all(isinstance(k, str) for k in key)} == known(expected, path)
    by_size = Counter(tuple(sorted(n.items())) for n in expected.values())
    assert Counter(tuple(sorted(n.items())) for n in found.values()) == by_size


@pytest.mark.parametrize("name", NAIVE)
@given(texts=st.lists(WORDS, min_size=1, max_size=8), lengths=st.sets(st.integers(1, 4), min_size=1, max_size=3))
@LAW
def test_counts_are_those_of_a_dictionary(name: str, texts: list[str], lengths: set[int], tmp_path: Path) -> None:
    expected = naive([NAIVE[name](text) for text in texts], sorted(lengths))
    corpus, out = written(tmp_path, texts), tmp_path / "s.npz"
    next_words = {word for n in expected.values() for word in n}
    if len(next_words) < 2:
        with pytest.raises(SettingError):
            tokens(corpus, out, lengths=sorted(lengths), tokenizer=name, force=True)
        return
    record = tokens(corpus, out, lengths=sorted(lengths), tokenizer=name, force=True)
    check(expected, out)
    joined_by = " " if name in ("whitespace", "word") else ""
    assert set(LabelMatrix.load(out).contexts) == {joined_by.join(key) for key in expected}
    n = record.numbers
    assert (n["samples"], n["contexts"]) == (sum(c.total() for c in expected.values()), len(expected))
    supports = Counter(frozenset(c) for c in expected.values())
    assert n["distinct_supports"] == len(supports)
    assert [row["contexts"] for row in n["shared_supports"]] == sorted(supports.values(), reverse=True)[:10]
    assert n["one_word_share"] == pytest.approx(sum(len(c) == 1 for c in expected.values()) / len(expected))


def test_long_contexts_of_many_words_take_several_keys_and_stay_exact(tmp_path: Path) -> None:
    """30,000 words are 15 bits each: contexts of 9 take three 64-bit words."""
    rng = np.random.default_rng(0)
    several = np.concatenate([rng.permutation(30_000), np.tile(rng.integers(0, 30_000, 40), 3)]).astype(np.uint16)
    several[-9] += 1  # a context that differs from another in its first number alone
    np.save(tmp_path / "t.npy", several)
    JOB.BLOCK = 9_001
    tokens(tmp_path / "t.npy", tmp_path / "s.npz", context=9)
    expected = naive([several.tolist()], [9])
    found = LabelMatrix.load(tmp_path / "s.npz")
    words, contexts = ids(found)
    assert {tuple(row) for row in contexts.tolist()} == set(expected)
    for column, row in enumerate(contexts.tolist()):
        p = found.probabilities[:, [column]].tocoo()
        n = expected[tuple(row)]
        assert dict(zip(words[p.coords[0]].tolist(), (p.data * n.total()).round().tolist(), strict=True)) == n


@pytest.mark.parametrize("name", ["bpe:300", "folder", "file"])
def test_byte_pair_encoding_counts_what_its_file_encodes(name: str, tmp_path: Path) -> None:
    corpus = written(tmp_path, TEXTS * 3)
    first = tmp_path / "first"
    first.mkdir()
    tokens(corpus, first / "s.npz", context=2, tokenizer="bpe:300")
    given_as = {"bpe:300": "bpe:300", "folder": str(first), "file": str(first / "tokenizer.json")}[name]
    tokens(corpus, tmp_path / "s.npz", context=2, tokenizer=given_as)
    made = Tokenizer.from_file(str(first / "tokenizer.json"))
    assert made.get_vocab_size() == 300
    check(naive([made.encode(text).tokens for text in TEXTS * 3], [2]), tmp_path / "s.npz")
    assert (tmp_path / "s.npz").read_bytes() == (first / "s.npz").read_bytes()


def test_a_tokenizer_of_transformers_is_the_one_in_its_folder(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: PLC0415 - seconds

    corpus = written(tmp_path, TEXTS * 3)
    tokens(corpus, tmp_path / "first.npz", context=2, tokenizer="bpe:300")
    folder = tmp_path / "model"
    made = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), eos_token=END)
    made.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    tokens(corpus, tmp_path / "s.npz", context=2, tokenizer=str(folder), end=True)
    back = AutoTokenizer.from_pretrained(folder)
    expected = [[*back.tokenize(text), END] for text in TEXTS * 3]
    check(naive(expected, [2]), tmp_path / "s.npz")


@pytest.mark.parametrize("name", [*NAIVE, "bpe:280"])
def test_the_order_of_documents_changes_nothing(name: str, tmp_path: Path) -> None:
    files = []
    for order, texts in enumerate((TEXTS, TEXTS[::-1], (*TEXTS[2:], *TEXTS[:2]))):
        folder = tmp_path / str(order)
        folder.mkdir()
        tokens(written(folder, texts), folder / "s.npz", lengths=[1, 3], tokenizer=name)
        files.append((folder / "s.npz").read_bytes())
    assert files[0] == files[1] == files[2]


def test_counts_of_parts_add_up(tmp_path: Path) -> None:
    parts = [TEXTS[:2], TEXTS[2:]]
    whole: Naive = defaultdict(Counter)
    for number, texts in enumerate(parts):
        tokens(written(tmp_path, texts, f"{number}.txt"), tmp_path / f"{number}.npz", context=1, tokenizer="char")
        for key, n in named(tmp_path / f"{number}.npz").items():
            whole[key] += n
    tokens(written(tmp_path, TEXTS), tmp_path / "all.npz", context=1, tokenizer="char")
    assert named(tmp_path / "all.npz") == dict(whole)


def named(path: Path) -> Naive:
    """Counts by the names of contexts in the file."""
    labels = LabelMatrix.load(path)
    many = (labels.probabilities.toarray() * labels.weights * labels.samples).round().astype(int)
    return {
        (context,): Counter({labels.words[row]: int(many[row, column]) for row in np.flatnonzero(many[:, column])})
        for column, context in enumerate(labels.contexts)
    }


@given(
    texts=st.lists(WORDS, min_size=2, max_size=12), words=st.none() | st.integers(1, 5), least=st.integers(1, 3),
    pair=st.integers(1, 2), share=st.sampled_from([0.0, 0.25, 1 / 3, 0.5]), most=st.none() | st.integers(1, 4),
)  # fmt: skip
@LAW
def test_thresholds_filter_samples_in_their_order(
    texts: list[str], words: int | None, least: int, pair: int, share: float, most: int | None, tmp_path: Path
) -> None:
    counted = naive([text.split() for text in texts], [1, 2])
    frequency: Counter[str] = Counter()
    for n in counted.values():
        frequency += n
    allowed = sorted(frequency, key=lambda word: (-frequency[word], word))[:words]
    kept: Naive = {}
    for key, n in counted.items():
        left = Counter({word: k for word, k in n.items() if word in allowed})
        passing = {w: k for w, k in left.items() if k >= pair and k / left.total() >= share}
        if left.total() >= least and passing:
            kept[key] = Counter(passing)
    order = sorted(kept, key=lambda key: (-kept[key].total(), len(key), key))[:most]
    expected = {" ".join(key): kept[key] for key in order}
    corpus, out = written(tmp_path, texts), tmp_path / "s.npz"
    out.unlink(missing_ok=True)

    def run() -> Any:
        return tokens(
            corpus, out, lengths=[1, 2], words=words, min_count=least, min_next=pair, min_probability=share,
            max_contexts=most,
        ).numbers  # fmt: skip

    if len({word for n in expected.values() for word in n}) < 2:
        with pytest.raises(SettingError):
            run()
        assert not out.exists()
        return
    n = run()
    assert list(LabelMatrix.load(out).contexts) == list(expected)
    assert {key[0]: n for key, n in named(out).items()} == expected
    assert n["kept_samples"] == sum(n.total() for n in expected.values())
    assert n["samples"] == sum(n.total() for n in counted.values())


def test_documents_end_contexts_unless_told(tmp_path: Path) -> None:
    corpus = written(tmp_path, ["a b", "", "c d"])
    tokens(corpus, tmp_path / "s.npz", context=1)
    assert set(LabelMatrix.load(tmp_path / "s.npz").contexts) == {"a", "c"}
    tokens(corpus, tmp_path / "s.npz", context=1, across=True, force=True)
    assert set(LabelMatrix.load(tmp_path / "s.npz").contexts) == {"a", "b", "c"}
    tokens(corpus, tmp_path / "s.npz", context=1, end=True, force=True)
    assert named(tmp_path / "s.npz")["b",] == Counter({END: 1})
    tokens(corpus, tmp_path / "s.npz", context=1, documents="file", tokenizer="char", lower=True, force=True)
    assert named(tmp_path / "s.npz")["\n",] == Counter({"\n": 1, "c": 1})


def test_every_kind_of_file_gives_the_same(tmp_path: Path) -> None:
    texts = [text.replace("\t", " ") for text in TEXTS]
    written(tmp_path, texts, "a.txt")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text, "n": 1}) + "\n\n" for text in texts))
    (tmp_path / "a.csv").write_text("n,text\n" + "".join(f'1,"{text}"\n' for text in texts))
    (tmp_path / "a.tsv").write_text("text\tn\r\n" + "".join(f"{text}\t1\r\n" for text in texts))
    pyarrow.parquet.write_table(pyarrow.table({"n": range(len(texts)), "text": texts}), tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.txt").write_text("\ufeff" + "\n".join(texts[:2]))
    (tmp_path / "folder" / "2.txt").write_text("\r\n".join(texts[2:]))
    names = ["a.txt", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "folder"]
    for number, name in enumerate(names):
        tokens(tmp_path / name, tmp_path / f"{number}.npz", context=2)
    files = {(tmp_path / f"{number}.npz").read_bytes() for number in range(len(names))}
    assert len(files) == 1


@pytest.mark.parametrize("end", [False, True])
def test_token_arrays_are_divided_by_their_separator(end: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    stream = rng.integers(0, 5, 200).astype(np.uint16)
    np.save(tmp_path / "t.npy", stream)
    stream.astype("<u4").tofile(tmp_path / "t.bin")
    documents: list[list[int]] = [[]]
    for token in stream.tolist():
        if token == 0:
            documents[-1] += [0] if end else []
            documents.append([])
        else:
            documents[-1].append(token)
    expected = naive([[str(t) for t in document] for document in documents], [1, 2])
    for name in ("t.npy", "t.bin"):
        record = tokens(
            tmp_path / name, tmp_path / "s.npz", lengths=[2, 1], separator=0, end=end, dtype="uint32", vocabulary=5,
            force=True,
        )  # fmt: skip
        check(expected, tmp_path / "s.npz")
        assert record.numbers["documents"] - len(documents) in (0, -1)  # nothing after the last separator: none


class Stopped(KeyboardInterrupt):
    pass


class Stopping:
    """A `Progress` that interrupts when it was told something so many times."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, *_: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped

    def say(self, text: str) -> None:
        pass


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents go to the tokenizer one by one."""
    monkeypatch.setattr(importlib.import_module("deltagram.data.tokenise"), "_CHARACTERS", 1)


@pytest.mark.parametrize("tokenizer", [None, "char", "bpe:270"])
def test_interrupted_and_resumed_is_the_same_file(
    tokenizer: str | None, eager: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where files come and go, none of which is a tokenizer
    corpus, out = written(tmp_path, TEXTS), tmp_path / "s.npz"
    told: dict[str, Any] = {"lengths": [1, 2], "tokenizer": tokenizer, "end": True}
    tokens(corpus, out, **told)
    whole, interrupted = out.read_bytes(), 0
    for after in (0, 2, 4, 7, 9, 14, 21):
        out.unlink(missing_ok=True)
        (tmp_path / "tokenizer.json").unlink(missing_ok=True)
        try:
            tokens(corpus, out, **told, progress=Stopping(after))
        except Stopped:
            interrupted += 1
            assert not out.exists()
            with pytest.raises(OutputError, match="holds counts of an interrupted run; go on from it with --resume"):
                tokens(corpus, out, **told)
            with pytest.raises(SettingError, match="was made with another context lengths"):
                tokens(corpus, out, context=3, tokenizer=tokenizer, end=True, resume=True)
            tokens(corpus, out, **told, resume=True)
        assert out.read_bytes() == whole
        assert not (tmp_path / "s.npz.tokens").exists()
    assert interrupted > 4


def test_a_torn_write_is_forgotten(eager: None, tmp_path: Path) -> None:
    """What was written after the last state, as a crash leaves it, is read again."""
    corpus, out = written(tmp_path, TEXTS), tmp_path / "s.npz"
    tokens(corpus, out, context=1)
    whole = out.read_bytes()
    with pytest.raises(Stopped):
        tokens(corpus, out, context=1, force=True, progress=Stopping(3))
    work = tmp_path / "s.npz.tokens"
    for name in ("tokens.u32", "ends.i64"):
        with (work / name).open("ab") as file:
            file.write(b"\1\2\3")
    with (work / "names.jsonl").open("a") as text:
        text.write('[1, "torn')
    tokens(corpus, out, context=1, force=True, resume=True)
    assert out.read_bytes() == whole


def test_with_force_an_interrupted_run_is_started_again(eager: None, tmp_path: Path) -> None:
    corpus, out = written(tmp_path, TEXTS), tmp_path / "s.npz"
    with pytest.raises(Stopped):
        tokens(corpus, out, context=1, progress=Stopping(3))
    tokens(corpus, out, context=2, force=True)
    assert not (tmp_path / "s.npz.tokens").exists()
    foreign = tmp_path / "s.npz.tokens"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="exists and holds no counts"):
        tokens(corpus, out, context=2, force=True)
    assert (foreign / "thesis.txt").read_text() == "years"


def bad(folder: Path) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """What must be said, of which corpus, with which settings."""
    good = written(folder, TEXTS, "good.txt")
    yield "is empty, expected one document or more", written(folder, [], "empty.txt"), {}
    yield (
        r"blank.txt: holds 0 tokens, expected two or more",
        written(folder, [" ", "\t"], "blank.txt"),
        {},
    )
    yield "holds 1 token, expected", written(folder, ["word"], "one.txt"), {}
    yield "have no context of 99 tokens with a token after it; give a shorter --context", good, {"context": 99}
    latin = folder / "latin.txt"
    latin.write_bytes(b"plain\nna\xefve\n")
    yield r"latin.txt: is not UTF-8 text \(0xef at byte 8\); convert it", latin, {}
    yield "latin.txt: is not UTF-8 text", latin, {"documents": "file"}
    yield "leave nothing of [0-9]+ contexts, expected a context or more", good, {"min_count": 10**6}
    same = written(folder, ["a a a a"], "same.txt")
    yield "leave one next word .'a'., which is always right", same, {}
    yield "there is no such file or folder", folder / "nowhere.txt", {}
    yield "is of an unknown kind .*, expected .txt", written(folder, TEXTS, "a.docx"), {}
    array = folder / "t.npy"
    np.save(array, np.array([1, 2, 70, 3], np.uint16))
    told = "t.npy, position 2: is token 70, outside the vocabulary, expected 0 to 49; check --vocabulary"
    yield told, array, {"vocabulary": 50}
    negative, square = folder / "negative.npy", folder / "square.npy"
    np.save(negative, np.array([1, -2]))
    yield "position 1: is token -2, outside the vocabulary", negative, {}
    np.save(square, np.ones((2, 2), np.uint16))
    yield r"holds uint16 of shape \(2, 2\), expected token numbers in one dimension", square, {}
    odd = folder / "odd.bin"
    odd.write_bytes(b"abc")
    yield "has 3 bytes, expected a multiple of 2, as uint16 has", odd, {}
    broken = folder / "broken.npy"
    broken.write_bytes(b"nothing")
    yield "is no .npy array", broken, {}
    rows = folder / "rows.jsonl"
    rows.write_text('{"text": "a b"}\n{"words": "c"}\n')
    yield "rows.jsonl, line 2: has no column 'text', only 'words'; give --text", rows, {}
    half = folder / "half.jsonl"
    half.write_text('{"text": "a \\ud800"}\n')
    yield "half.jsonl, line 1: has a text with half a surrogate pair", half, {}
    yield "line 1: has a text of type int, expected a string", _file(folder / "n.jsonl", '{"text": 1}\n'), {}
    yield "line 1: is not JSON", _file(folder / "j.jsonl", "{\n"), {}
    yield "line 2: has 1 columns, expected 2", _file(folder / "c.csv", "text,n\na\n"), {}
    yield "is not Parquet", _file(folder / "p.parquet", "PAR1"), {}
    both = folder / "both"
    both.mkdir()
    (both / "a.txt").write_text("a")
    (both / "a.csv").write_text("text\na")
    yield r"holds files of 2 kinds \(.csv, .txt\)", both, {}
    yield "context lengths: are 1, 1, expected different numbers", good, {"context": None, "lengths": [1, 1]}
    yield "context lengths: are 1025, expected different numbers from 1 to 1024", good, {"context": 1025}
    yield "context: and lengths: one of them", good, {"lengths": [1]}
    yield "tokenizer: 'nonsense' is unknown, and no path", good, {"tokenizer": "nonsense"}
    yield "bpe:99 is too small, expected 257 or more", good, {"tokenizer": "bpe:99"}
    yield "'bpe:x' has no size", good, {"tokenizer": "bpe:x"}
    yield "is no tokenizer", good, {"tokenizer": str(good)}
    yield "separator: does not go with .txt; leave --separator out", good, {"separator": 1}
    yield "lower: does not go with .npy; leave --lower out", array, {"lower": True}
    yield "end: needs the token that ends a document", array, {"end": True}
    yield "min_count: is 0, expected 1 or more", good, {"min_count": 0}
    yield "min_probability: is 2, expected 0 to 1", good, {"min_probability": 2.0}
    yield "memory: is 5 bytes", good, {"memory": 5}
    yield "documents: 'page' is unknown, expected line or file", good, {"documents": "page"}
    yield "would leave more than [0-9]+ pairs", good, {"memory": 500_000_000, "tokenizer": "char"}


def _file(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_bad_input_is_refused_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JOB, "_PAIR", 10**7)  # so that 50 pairs fill the memory
    corpora = tmp_path / "corpora"
    corpora.mkdir()
    (tmp_path / "out").mkdir()
    for said, corpus, told in bad(corpora):
        with pytest.raises(DeltagramError, match=said):
            tokens(corpus, tmp_path / "out" / "s.npz", **{"context": 1, **told})
        assert not list((tmp_path / "out").iterdir()), said


def test_what_exists_is_not_replaced(tmp_path: Path) -> None:
    corpus = written(tmp_path, TEXTS)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(OutputError, match=r"tokenizer\.json: exists already"):
        tokens(corpus, tmp_path / "s.npz", context=1, tokenizer="bpe:300")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.txt", "tokenizer.json"]
    folder = tmp_path / "folder"
    folder.mkdir()
    written(folder, TEXTS)
    with pytest.raises(OutputError, match="lies inside the input"):
        tokens(folder, folder / "s.npz", context=1)


def test_a_refusal_keeps_counts_that_were_to_be_resumed(tmp_path: Path) -> None:
    corpus, out = written(tmp_path, TEXTS), tmp_path / "s.npz"
    with pytest.raises(SettingError, match="leave nothing"):
        tokens(corpus, out, context=1, min_count=999, resume=True)
    assert (tmp_path / "s.npz.tokens").is_dir()
    tokens(corpus, out, context=1, min_count=2, resume=True)
    assert [path.name for path in tmp_path.iterdir() if "tokens" in path.name] == []


@pytest.mark.parametrize(("package", "told"), [("tokenizers", "byte-pair encoding: package"), ("pyarrow", "Parquet")])
def test_without_an_extra_one_sentence_says_so(
    package: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = written(tmp_path, TEXTS)
    if package == "pyarrow":
        corpus = corpus.rename(tmp_path / "corpus.parquet")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraError, match=rf"{told}.*{package}.*; pip install 'deltagram\[corpus\]'"):
        tokens(corpus, tmp_path / "s.npz", context=1, tokenizer="bpe:300")
    assert [path.name for path in tmp_path.iterdir()] == [corpus.name]


def test_token_numbers_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    corpus = written(tmp_path, TEXTS)
    tokens(corpus, tmp_path / "s.npz", lengths=[1, 2], tokenizer="bpe:300")
    made = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    labels = LabelMatrix.load(tmp_path / "s.npz")
    words, contexts = ids(labels)
    assert [made.id_to_token(n) for n in words.tolist()] == list(labels.words)
    assert [" ".join(made.id_to_token(n) for n in row if n >= 0) for row in contexts.tolist()] == list(labels.contexts)


def test_the_command_line_tells_what_supports_there_are(tmp_path: Path) -> None:
    corpus, out = written(tmp_path, TEXTS), tmp_path / "s.npz"
    line = ["tokens", str(corpus), "--lengths", "1,2", "--tokenizer", "word", "--lower", "-o", str(out)]
    run = CliRunner().invoke(app, line)
    assert run.exit_code == 0, run.output
    found = LabelMatrix.load(out)
    said = " ".join(run.stdout.split())
    assert f"entropy bound {found.entropy:.4f} nats a sample" in said
    assert f"{len(found.supports.multiplicity)} distinct supports; shared by most contexts:" in said
    assert "'the' 1 " in said
    assert "words in the support contexts share 1 " in said
    record = json.loads(CliRunner().invoke(app, [*line, "--force", "--json"]).stdout)
    assert record["job"] == "tokens"
    assert sum(row["contexts"] for row in record["numbers"]["support_sizes"]) == found.shape[1]
    assert all(row["from"] <= row["to"] < 2 * row["from"] for row in record["numbers"]["support_sizes"])
    for more, wrong in ((["--lengths", "1.5"], "are not all whole"), (["--memory", "much"], "--memory: 'much' is not")):
        run = CliRunner().invoke(app, [*line, "--force", *more])
        assert isinstance(run.exception, SettingError)
        assert wrong in str(run.exception)


def test_counting_loads_no_torch(tmp_path: Path) -> None:
    corpus, out = written(tmp_path, TEXTS), tmp_path / "s.npz"
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; from deltagram.cli import main; main()"
    )
    line = [sys.executable, "-W", "error", "-c", code, "tokens", str(corpus), "--context", "1", "-o", str(out)]
    done = subprocess.run([*line, "--tokenizer", "bpe:300"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    said = subprocess.run([*line, "--force", "--tokenizer", str(tmp_path)], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_parts_that_the_memory_holds_are_one_order(length: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(length)
    packing = Packing(length=length, symbols=50_000)
    small, large = (Database(folder=tmp_path, packing=packing, memory=memory) for memory in (10**6, 10**9))
    whole = []
    for block in range(3):
        numbers = np.minimum(rng.zipf(1.3, 20_000), 50_000).astype(np.uint32) - 1
        at = np.arange(length, len(numbers))
        small.count(block, packing.packed(numbers, at), numbers[at])
        whole += [(*numbers[i - length : i].tolist(), int(numbers[i])) for i in at]
    expected = Counter(whole)
    for counter, least in ((small, 3), (large, 1)):
        parts = list(counter.merged())
        assert len(parts) >= least
        rows = [
            (*context, int(following))
            for part in parts
            for context, following in zip(packing.unpacked(part.words).tolist(), part.following, strict=True)
        ]
        counted = [int(n) for part in parts for n in part.count]
        assert rows == sorted(expected)
        assert counted == [expected[row] for row in rows]
    frequency = Counter(row[-1] for row in whole)
    assert small.following(50_000).tolist() == [frequency[n] for n in range(50_000)]


def test_a_path_is_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "it's [a] *?"
    folder.mkdir()
    tokens(written(folder, TEXTS), folder / "s.npz", context=1)
    assert LabelMatrix.load(folder / "s.npz").samples > 0


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_parts_may_end_anywhere(data: st.DataObject) -> None:
    """Contexts of two words that go on from part to part are filtered as if there were one."""
    rows = sorted(data.draw(st.sets(st.tuples(*[st.integers(0, 2)] * 3), min_size=1)))
    count = np.array(data.draw(st.lists(st.integers(1, 4), min_size=len(rows), max_size=len(rows))))
    a, b, w = np.array(rows, np.uint64).T
    whole = Counts(words=(a, b), following=w.astype(np.uint32), count=count)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    parts = [
        Counts(words=(a[i:j], b[i:j]), following=whole.following[i:j], count=count[i:j])
        for i, j in itertools.pairwise([0, *cuts, len(rows)])
    ]
    told = Thresholds(
        count=data.draw(st.integers(1, 6)), probability=data.draw(st.sampled_from([0, 0.4])),
        contexts=data.draw(st.none() | st.integers(1, 2)),
    )  # fmt: skip
    one, several = (
        filtered(given_parts, told, words=2, allowed=np.array([True, True, False]), room=99)
        for given_parts in ([whole], parts)
    )
    for name in ("sizes", "following", "count"):
        np.testing.assert_array_equal(getattr(one, name), getattr(several, name))
    assert (one.seen, one.samples) == (several.seen, several.samples) == (len({row[:2] for row in rows}), count.sum())
