"""Fine-tuning of a tiny random BERT, and its measurement."""

import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from deltagram.data.packages import TextClassification, Texts
from deltagram.errors import CheckpointError, ExtraError, SettingError
from deltagram.training.batches import WINDOW, by_length, shuffled
from deltagram.training.classifier import accuracy, fine_tune

GOOD, BAD = ("good", "fine", "bright", "warm"), ("bad", "dull", "grim", "cold")
FILLERS = ("the", "a", "film", "plot", "scene", "it", "was")
UNUSED = "zebra"
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *FILLERS, UNUSED)
QUICK = {"epochs": 4, "batch_size": 8, "learning_rate": 3e-3, "max_length": 16}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random one-layer BERT and a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    return folder


def _texts(count: int, *, seed: int) -> Texts:
    """Sentences of 1 to 8 fillers and one word that tells the class."""
    draw = random.Random(seed)
    labels = tuple(i % 2 for i in range(count))
    words = [[*draw.choices(FILLERS, k=draw.randint(1, 8)), draw.choice((BAD, GOOD)[label])] for label in labels]
    for sentence in words:
        draw.shuffle(sentence)
    return Texts(tuple(" ".join(sentence) for sentence in words), labels)


DATA = TextClassification(
    name="mood", classes=("bad", "good"), train=_texts(160, seed=1), test=_texts(60, seed=2)
)  # fmt: skip


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    numbers = fine_tune(base, DATA, folder, **QUICK)
    assert numbers.keys() == {"steps", "seconds", "loss"}
    assert numbers["steps"] == 80
    assert numbers["loss"] < 0.1
    return folder


class Watch:
    """A progress that remembers, and can interrupt."""

    def __init__(self, *, stop_at: int = -1) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.stop_at = stop_at

    def advance(self, what: str, done: int, total: int) -> None:
        self.seen.append((what, done, total))
        if done == self.stop_at:
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        raise AssertionError(text)


def test_it_learns_and_predicts_unseen_texts(tuned: Path) -> None:
    assert accuracy(tuned, DATA.test) > 0.95


def test_the_checkpoint_is_the_one_a_user_of_transformers_has(base: Path, tuned: Path) -> None:
    names = load_file(tuned / "model.safetensors").keys()
    assert {"classifier.weight", "bert.pooler.dense.weight"} <= names
    assert all(name.startswith(("bert.", "classifier.")) for name in names)
    config = json.loads((tuned / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good"}
    assert config["architectures"] == ["BertForSequenceClassification"]
    for name in ("vocab.txt", "tokenizer_config.json"):
        assert (tuned / name).read_bytes() == (base / name).read_bytes()
    classify = transformers.pipeline("text-classification", model=str(tuned), device="cpu")
    assert [found["label"] for found in classify(["the plot was dull", "a warm film"])] == ["bad", "good"]


def test_embeddings_of_unused_tokens_keep_their_bits(base: Path, tuned: Path) -> None:
    before = load_file(base / "model.safetensors")["embeddings.word_embeddings.weight"]
    after = load_file(tuned / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    unused, used = VOCABULARY.index(UNUSED), VOCABULARY.index(GOOD[0])
    assert before[unused].tobytes() == after[unused].tobytes()
    assert before[used].tobytes() != after[used].tobytes()


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_callers_randomness_alone(
    base: Path, tuned: Path, tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    for name, seed in (("same", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        fine_tune(base, DATA, tmp_path / name, **QUICK, seed=seed)
    assert torch.equal(torch.rand(3), expected)
    torch.set_rng_state(state)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tuned, tmp_path / "same", tmp_path / "other")]
    assert weights[0] == weights[1] != weights[2]


def test_accuracy_equals_one_text_at_a_time_with_the_head_on_either_encoder(base: Path, tuned: Path) -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tuned).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    for encoder in (None, base):
        if encoder is not None:
            state = load_file(encoder / "model.safetensors")
            model.load_state_dict(
                {f"bert.{name}": torch.from_numpy(value) for name, value in state.items()}, strict=False
            )
        right = 0
        for text, label in zip(DATA.test.text, DATA.test.label, strict=True):
            with torch.inference_mode():
                right += int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) == label
        assert accuracy(tuned, DATA.test, encoder=encoder) == right / len(DATA.test)
    assert accuracy(tuned, DATA.test, encoder=base) < 0.9
    assert accuracy(tuned, DATA.test, encoder=tuned) == accuracy(tuned, DATA.test)


def test_texts_are_cut_at_max_length(tuned: Path) -> None:
    long = Texts(tuple(f"it was {word} {'film ' * 40}" for word in (BAD[0], GOOD[0])), (0, 1))
    assert accuracy(tuned, long, max_length=8) == 1.0


def test_progress_tells_each_step_and_the_library_stays_quiet(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = transformers.utils.logging
    log.set_verbosity_info()
    before = log.get_verbosity(), log.is_progress_bar_enabled()
    watch = Watch()
    fine_tune(base, DATA, tmp_path, **QUICK | {"epochs": 1}, progress=watch)
    accuracy(tmp_path, DATA.test, progress=watch)
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before
    log.set_verbosity_warning()
    assert watch.seen[:20] == [("fine-tuning on mood", step, 20) for step in range(1, 21)]
    assert watch.seen[20:] == [("measuring accuracy", 60, 60)]
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_an_interrupted_training_writes_nothing(base: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fine_tune(base, DATA, tmp_path, **QUICK, progress=Watch(stop_at=3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 0}, "epochs: 0, expected a positive number"),
        ({"batch_size": -1}, "batch_size: -1, expected a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate: nan, expected a positive number"),
        ({"max_length": 0}, "max_length: 0, expected a positive number"),
    ],
)
def test_a_setting_outside_its_range_is_refused(
    settings: dict[str, float], text: str, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingError) as caught:
        fine_tune(base, DATA, tmp_path, **settings)
    assert str(caught.value) == text


def test_a_loss_that_is_not_finite_ends_the_training(base: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^learning_rate: 1e\+38, with which the loss of step \d+ is (nan|inf)"):
        fine_tune(base, DATA, tmp_path, **QUICK | {"learning_rate": 1e38})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        fine_tune(tmp_path / "nothing", DATA, tmp_path)
    assert str(caught.value) == f"{tmp_path / 'nothing'}: no config.json, expected a Hugging Face model folder"


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_library_is_named_with_its_command(
    package: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExtraError) as caught:
        fine_tune(base, DATA, tmp_path)
    assert str(caught.value) == f"running a model: package {package} is not installed; pip install 'deltagram[hf]'"


LENGTHS = st.lists(st.integers(1, 500), max_size=300)


@given(lengths=LENGTHS, size=st.integers(1, 40), seed=st.integers(-(2**63), 2**63 - 1), epochs=st.integers(0, 3))
def test_batches_hold_every_sample_once_an_epoch(lengths: list[int], size: int, seed: int, epochs: int) -> None:
    batches = shuffled(lengths, size=size, epochs=epochs, seed=seed)
    assert sorted(np.concatenate([[], *batches]).tolist()) == sorted(list(range(len(lengths))) * epochs)
    again = shuffled(lengths, size=size, epochs=epochs, seed=seed)
    assert [batch.tolist() for batch in batches] == [batch.tolist() for batch in again]
    count = -(-len(lengths) // size)
    assert len(batches) == count * epochs
    for made in (by_length(lengths, size=size), *(batches[i * count : (i + 1) * count] for i in range(epochs))):
        assert sorted(np.concatenate([[], *made]).tolist()) == list(range(len(lengths)))
        assert sorted(map(len, made), reverse=True)[:-1] == [size] * (len(made) - 1)


def test_batches_are_of_like_length_and_differ_by_seed_and_epoch() -> None:
    lengths = [random.Random(i).randint(1, 100) for i in range(WINDOW * 8)]
    both = [shuffled(lengths, size=8, epochs=2, seed=seed) for seed in (0, 1)]
    drawn = [epoch for batches in both for epoch in (batches[:WINDOW], batches[WINDOW:])]
    assert len({str([batch.tolist() for batch in batches]) for batches in drawn}) == 4
    for batches in drawn:
        spans = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
        assert sum(spans) <= 100
        assert [lengths[i] for batch in batches for i in batch] != sorted(lengths)
