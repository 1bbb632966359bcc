"""Label matrices: counts in, probabilities and supports out, and back from a file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from deltagram.data.labels import LabelMatrix
from deltagram.errors import SettingError

COUNTS = arrays(np.int64, st.tuples(st.integers(2, 5), st.integers(1, 6)), elements=st.integers(0, 3)).filter(
    lambda n: n.sum(0).all()
)


@given(COUNTS)
def test_it_is_what_the_counts_say(counts: Any) -> None:
    made = LabelMatrix.of_counts(counts)
    total = counts.sum(0)
    p = counts / total
    np.testing.assert_allclose(made.probabilities.toarray(), p, rtol=1e-15)
    np.testing.assert_allclose(made.weights, total / total.sum(), rtol=1e-15)
    assert made.samples == counts.sum()
    assert made.sizes.tolist() == (counts > 0).sum(0).tolist()
    joint = counts / counts.sum()
    expected = -sum(joint[z, j] * np.log(p[z, j]) for z, j in np.argwhere(counts))
    assert made.entropy == pytest.approx(expected, abs=1e-12)


@given(COUNTS)
def test_distinct_supports_are_those_of_the_contexts(counts: Any) -> None:
    made = LabelMatrix.of_counts(counts)
    found = made.supports
    np.testing.assert_array_equal(found.matrix.toarray()[:, found.of], counts > 0)
    columns = [tuple(column) for column in (counts > 0).T.tolist()]
    assert found.multiplicity.tolist() == [columns.count(c) for c in dict.fromkeys(columns)]
    assert found.weight.sum() == pytest.approx(1)
    assert found.sizes.tolist() == found.matrix.toarray().sum(0).tolist()


def test_a_file_keeps_everything(tmp_path: Path) -> None:
    made = LabelMatrix.of_counts([[3, 1], [1, 0], [0, 1]], words=("a", "ö", ""), contexts=("x y", "z"))
    made.save(tmp_path / "s.npz")
    back = LabelMatrix.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(back.probabilities.toarray(), made.probabilities.toarray())
    np.testing.assert_array_equal(back.weights, made.weights)
    assert (back.words, back.contexts, back.samples) == (made.words, made.contexts, 6)
    some = back.taken(np.array([1]))
    assert (some.contexts, some.weights.tolist(), some.shape) == (("z",), [1.0], (3, 1))


def test_one_hot_labels_are_classes() -> None:
    made = LabelMatrix.one_hot([3, 1])
    assert made.shape == (2, 4)
    assert made.entropy == 0
    assert made.supports.multiplicity.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LabelMatrix.of_counts([[1, 0], [1, 0]]), "counts: context 1 is followed by nothing"),
        (lambda: LabelMatrix.of_counts([[1, -1], [1, 2]]), "counts: are not all whole numbers from 0"),
        (lambda: LabelMatrix.of_counts([[1, 1]]), "two words or more"),
        (lambda: LabelMatrix.of_counts([[1], [1]], words=("a",)), "words: are 1 names, expected 2, or none"),
        (lambda: made(p=[[0.5], [0.4]]), "probabilities: of context 0 miss 1 by 0.1"),
        (lambda: made(p=[[1.5], [-0.5]]), "are not all positive where they are stored"),
        (lambda: made(pi=[0.5]), "weights: add up to 0.5, expected 1"),
        (lambda: made(pi=[0.5, 0.5]), "weights: have shape (2,), expected (1,)"),
    ],
)  # fmt: skip
def test_what_is_no_label_matrix_is_refused(make: Any, says: str) -> None:
    with pytest.raises(SettingError) as fault:
        make()
    assert says in str(fault.value)


def made(p: Any = ((0.5,), (0.5,)), pi: Any = (1.0,)) -> LabelMatrix:
    return LabelMatrix(probabilities=sparse.csc_array(np.asarray(p)), weights=np.asarray(pi))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(SettingError, match=r"holds no labels .* expected what `tokens` writes"):
        LabelMatrix.load(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", format=np.int64(9))
    with pytest.raises(SettingError, match="has format 9, expected 1"):
        LabelMatrix.load(tmp_path / "y.npz")
