"""`measure --tokens`: language models beside label matrices, by hand and at the command line, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tinylabels
import tinymodels
from deltagram.data.labels import LabelMatrix
from deltagram.geometry.contextcompare import LogitNumbers, Spread
from deltagram.geometry.cosinestructure import cosine_matrix
from deltagram.geometry.wordcontext import WordContext
from deltagram.jobs.measuretokens import measure_tokens
from deltagram.training.wordmodels import Decoder, Fit, train_decoder
from desk import Desk

LABELS = tinylabels.counted(words=9, contexts=24, seed=2)
VIEWS = ("states", "centred_states", "logits", "words")


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    LABELS.save("s.npz")
    tinylabels.model(tmp_path / "m", "llama")
    return Desk(folder=tmp_path, capture=capsys, patch=monkeypatch)


def by_hand(folder: Path, kind: str) -> tuple[Any, Any, Any]:
    """States, output embeddings and logits, one context at a time."""
    model = tinylabels.model(folder, kind)
    states, logits = [], []
    assert LABELS.context_ids is not None
    for row in LABELS.context_ids:
        with torch.inference_mode():
            said = model(input_ids=torch.tensor([row[row >= 0].tolist()]), output_hidden_states=True)
        states.append(said.hidden_states[-1][0, -1].double().numpy())
        logits.append(said.logits[0, -1].double().numpy())
    return np.array(states), model.get_output_embeddings().weight.detach().double().numpy(), np.array(logits).T


def off(matrix: Any) -> Any:
    return matrix[np.triu_indices(len(matrix), 1)]


@pytest.mark.parametrize("kind", ["gpt2", "llama-untied"])
def test_it_is_what_the_arrays_are(kind: str, tmp_path: Path) -> None:
    LABELS.save(tmp_path / "s.npz")
    h, every, logits = by_hand(tmp_path / "m", kind)
    numbers = measure_tokens([tmp_path / "m"], tmp_path / "s.npz", permutations=9).numbers
    assert (numbers["contexts"], numbers["words"], numbers["words_compared"]) == (24, 9, 9)
    assert numbers["entropy"] == pytest.approx(LABELS.entropy)
    found, some = numbers["models"][0], logits[LABELS.word_ids]
    assert found["logits"] == pytest.approx(LogitNumbers.of(some, LABELS).data(), rel=1e-4)
    share = 1 - np.exp(some).sum(0) / np.exp(logits).sum(0)
    assert found["other_tokens"] == pytest.approx(LABELS.weights @ share, rel=1e-4)
    assert found["norms"]["states"]["mean"] == pytest.approx(np.linalg.norm(h, axis=1).mean(), rel=1e-5)
    assert found["collapse"]["states"]["same"] == pytest.approx(Spread.of(h, LABELS.supports.of).same, abs=1e-5)
    s = LABELS.support.toarray() - LABELS.support.toarray().mean(0)
    w = every[LABELS.word_ids]
    views = {"states": h, "centred_states": h - h.mean(0), "logits": (some - some.mean(0)).T, "words": w - w.mean(0)}
    for name, vectors in views.items():
        target = cosine_matrix(s if name == "words" else s.T)
        expected = np.corrcoef(off(cosine_matrix(vectors)), off(target))[0, 1]
        assert found["structure"][name]["support"]["correlation"] == pytest.approx(expected, abs=1e-4), name
        assert 0.1 <= found["structure"][name]["support"]["p_value"] <= 1
    assert numbers["conventions"]["given"] == ["pmi", "frequency", "last_token"]


def test_contexts_are_the_most_frequent_and_their_words(desk: Desk) -> None:
    most = np.sort(np.argsort(-LABELS.weights, kind="stable")[:10])
    LABELS.taken(most).occurring()[0].save("few.npz")
    line = "--words 8 --permutations 9 --json"
    cut, few = (
        json.loads(desk.does(f"measure m --tokens {file} {more} {line}"))["numbers"]
        for file, more in (("s.npz", "--contexts 10"), ("few.npz", ""))
    )
    assert (cut["contexts"], cut["words_compared"]) == (10, 8)
    assert cut["models"][0] == few["models"][0]


def test_checkpoints_are_rows_in_order_and_training_shows(desk: Desk) -> None:
    decoder, fit = Decoder(layers=1, dim=32, heads=2, hidden=64), Fit(epochs=120, learning_rate=1e-2)
    train_decoder(LABELS, decoder, fit, at=(0, 9, 10, 120), folder=desk.folder / "run")
    names = " ".join(f"run/checkpoint-{step}" for step in (0, 10, 120, 9))
    numbers = json.loads(desk.does(f"measure {names} --tokens s.npz --json --permutations 99"))["numbers"]
    assert [Path(one["model"]).name for one in numbers["models"]] == [f"checkpoint-{step}" for step in (0, 9, 10, 120)]
    gaps = [one["logits"]["gap"] for one in numbers["models"]]
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.02
    last = numbers["models"][-1]
    assert last["structure"]["logits"]["support"]["correlation"] > 0.7
    assert last["structure"]["logits"]["support"]["p_value"] == pytest.approx(0.01)
    assert not last["vocabulary_checked"]
    text = desk.does(f"measure {names} --tokens s.npz --permutations 9")
    assert text.index("checkpoint-9 ") < text.index("checkpoint-10 ") < text.index("checkpoint-120 ")
    for words in (
        "24 contexts",
        "H = ",
        "compare cosines",
        "cosines of checkpoint-120 with",
        "last_token",
        "half learnt",
    ):
        assert words in text
    concepts = numbers["concepts"]
    s = LABELS.support.toarray() - LABELS.support.toarray().mean(0)
    np.testing.assert_allclose([one["size"] for one in concepts], np.linalg.svd(s, compute_uv=False)[:8], rtol=1e-9)
    for k, one in enumerate(concepts):
        over = [model["strengths"][k] for model in numbers["models"]]
        assert over[one["half_by"]] >= over[-1] / 2 > max(over[: one["half_by"]], default=-np.inf)
    assert concepts[0]["half_by"] > 0


def test_a_prediction_is_compared_and_written_out(desk: Desk) -> None:
    s = LABELS.support.toarray() - LABELS.support.toarray().mean(0)
    u, sizes, v = np.linalg.svd(s, full_matrices=False)
    made = WordContext.of_factors((u, sizes, v.T), name="proxy", conventions={})
    Path("p.json").write_text(json.dumps({"geometry": made.data()}))
    record = json.loads(desk.does("measure m --tokens s.npz --against p.json --json --permutations 9 -o r.json"))
    assert json.loads(Path("r.json").read_text())["numbers"]["models"] == record["numbers"]["models"]
    found = record["numbers"]["models"][0]["structure"]
    model = tinylabels.model(desk.folder / "again", "llama")
    w = model.get_output_embeddings().weight.detach().double().numpy()[LABELS.word_ids]
    one, other = cosine_matrix(w - w.mean(0)), cosine_matrix(u * np.sqrt(sizes))
    assert found["words"]["p"]["correlation"] == pytest.approx(np.corrcoef(off(one), off(other))[0, 1], abs=1e-5)
    distance = np.linalg.norm(one / np.linalg.norm(one) - other / np.linalg.norm(other))
    assert found["words"]["p"]["gram_distance"] == pytest.approx(distance, abs=1e-5)
    assert set(found["states"]) == {"support", "probabilities", "pmi", "frequency", "last_token", "p"}


def test_what_predict_writes_is_read(desk: Desk) -> None:
    desk.does("predict --tokens s.npz -o limit.json")
    record = json.loads(
        desk.does("measure m --tokens s.npz --against limit.json --json --permutations 1 --contexts 20")
    )
    for view in VIEWS:
        assert -1 <= record["numbers"]["models"][0]["structure"][view]["limit"]["partial"] <= 1


def test_a_layer_is_measured_as_such(desk: Desk) -> None:
    numbers = json.loads(desk.does("measure m --tokens s.npz --layer 1 --permutations 1 --json"))["numbers"]
    last = json.loads(desk.does("measure m --tokens s.npz --permutations 1 --json"))["numbers"]
    assert numbers["conventions"]["states"] == "of the last token, out of block 1; logits are the model's"
    assert numbers["models"][0]["norms"]["states"] != last["models"][0]["norms"]["states"]
    assert numbers["models"][0]["logits"] == last["models"][0]["logits"]
    assert last["models"][0]["norm"] == "model.norm"


def named(**changed: Any) -> LabelMatrix:
    return replace(LABELS, **changed)


def test_what_does_not_fit_is_refused(desk: Desk) -> None:
    _, tuned = tinymodels.bert_pair(desk.folder / "bert")
    tuned.rename(desk.folder / "classifier")
    for name, labels in {
        "none": named(context_ids=None), "wordless": named(word_ids=None),
        "long": named(context_ids=np.zeros((24, 9), np.int64)), "other": named(word_ids=np.arange(30, 39)),
        "small": LABELS.taken(np.arange(4)),
    }.items():  # fmt: skip
        labels.save(f"{name}.npz")
    desk.capture.readouterr()  # bars of transformers
    Path("classes.json").write_text(json.dumps({"geometry": {"means": {}}}))
    made = WordContext(name="x", word_vectors=np.eye(3), context_vectors=np.eye(3))
    Path("three.json").write_text(json.dumps({"geometry": made.data()}))
    for line, says in {
        "classifier --tokens s.npz": "is a BertForSequenceClassification, expected a causal language model; a classif",
        "m --tokens none.npz": "none.npz: have no token numbers of their contexts, expected context_ids and word_ids",
        "m --tokens wordless.npz": "wordless.npz: have no token numbers of their words",
        "m --tokens long.npz": "m: takes 8 tokens, and a context has 9; count the corpus with shorter contexts",
        "m --tokens other.npz": "m: has 32 tokens, and the words have number 38, expected labels counted with this",
        "m --tokens small.npz": "small.npz: have 7 words that follow 4 contexts, expected 8 or more of each",
        "m --tokens s.npz --layer 7": "layer: 7, expected 0 (what goes in) to 3, or none",
        "m --tokens missing.npz": "missing.npz: holds no labels",
        "m --tokens s.npz --contexts 3": "contexts: 3, expected 8 or more",
        "m --tokens s.npz --permutations 0": "permutations: 0, expected 1 or more",
        "m --tokens s.npz --classes 3": "--classes: is of classes; leave it out, or --tokens",
        "m --contexts 30": "--contexts: is of language models; leave it out, or give --tokens",
        "m m m": "SOURCE: 3 of them, expected features, or MODEL DATA; language models need --tokens",
        "m --tokens s.npz --against classes.json": "classes.json: holds no words and contexts (cannot be read (KeyErr",
        "m --tokens s.npz --against three.json": "three.json: is of 3 words and 3 contexts, expected 9 words and 24",
        "m --tokens s.npz --against s.npz": "s.npz: cannot be read",
        "m --tokens s.npz --against d/pmi.json": "against: 'pmi' is a predictor of its own, expected files of",
        "m --tokens s.npz --against p.json --against d/p.json": "against: have one name twice",
        "m --tokens s.npz -o s.npz": "s.npz",
    }.items():  # fmt: skip
        desk.refuses(f"measure {line}", says)


def test_another_tokenizer_is_refused_and_the_same_is_not(desk: Desk) -> None:
    words = {f"w{number}": number for number in range(31)} | {"[UNK]": 31}
    tinymodels.word_tokenizer(words, pad_token="[UNK]").save_pretrained("m")
    assert LABELS.word_ids is not None
    names = tuple(f"w{number}" if number < 31 else "[UNK]" for number in LABELS.word_ids)
    named(words=names).save("named.npz")
    named(words=(*names[:-1], "w99")).save("misnamed.npz")
    found = json.loads(desk.does("measure m --tokens named.npz --permutations 1 --json"))
    assert found["numbers"]["models"][0]["vocabulary_checked"]
    number = int(LABELS.word_ids[-1])
    desk.refuses(
        "measure m --tokens misnamed.npz --permutations 1",
        f"m: its token {number} is 'w{number}', and the labels' is 'w99', expected labels counted with this model's",
    )
    shutil.rmtree("m")
    desk.refuses("measure m --tokens named.npz", "m")
