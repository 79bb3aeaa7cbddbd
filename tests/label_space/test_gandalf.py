"""Label texts as rows: targets by their formulas, who is sampled, containers and bad input."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils._param_validation import InvalidParameterError

from skxmc import DismecClassifier
from skxmc.label_space import (
    GandalfAugmenter,
    LabelText,
    label_targets,
    symmetrized_cooccurrence,
)
from skxmc.label_space import _cooccurrence as cooccurrence
from skxmc.label_space._gandalf import frequency_bins

WORDS = ["red", "green", "blue", "wine", "beer", "tea", "cold", "warm", "old", "new"]


def random_labels(n_samples=40, n_labels=12, seed=0):
    """One label without positives, one with a single one, and a row without labels."""
    rng = np.random.default_rng(seed)
    Y = rng.random((n_samples, n_labels)) < np.geomspace(0.5, 0.05, n_labels)
    Y[:, 3] = False
    Y[:, 4] = np.arange(n_samples) == 7
    Y[5] = False
    return Y.astype(np.uint8)


def random_texts(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 3)) for _ in range(n)]


@pytest.fixture
def task():
    Y = random_labels()
    return random_texts(40), sp.csr_array(Y), random_texts(12, seed=1)


def vectorizer_of(texts, label_text):
    return TfidfVectorizer(dtype=np.float32).fit([*texts, *label_text])


# ------------------------------------------------------------------ targets


@pytest.mark.parametrize("delta", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("block", [8, 1 << 24])
def test_cooccurrence_is_equation_1_6(monkeypatch, delta, smoothing, block):
    monkeypatch.setattr(cooccurrence, "_BLOCK_ENTRIES", block)
    Y = random_labels()
    expected = np.eye(12)
    for j in range(12):
        rows = Y[Y[:, j] == 1].astype(float)
        for i in range(12):
            if i != j and len(rows):
                share = rows[:, i].sum() / (len(rows) + smoothing)
                expected[j, i] = share if share >= delta else 0
    found = label_targets(sp.csr_array(Y), delta=delta, smoothing=smoothing)
    assert found.dtype == np.float32
    assert found.has_canonical_format
    assert_allclose(found.toarray(), expected, rtol=1e-6)
    assert (found.data > 0).all()
    assert_array_equal(label_targets(Y, delta=delta, smoothing=smoothing).data, found.data)


def test_glas_is_equation_1_9():
    Y = random_labels().astype(float)
    counts, together = Y.sum(axis=0), Y.T @ Y
    with np.errstate(invalid="ignore", divide="ignore"):
        S = 0.5 * np.nan_to_num(together / counts + together / counts[:, None])
    np.fill_diagonal(S, 1)
    assert_allclose(symmetrized_cooccurrence(Y).toarray(), S, rtol=1e-6)
    for delta in (0.1, 0.4):
        kept = (delta <= S) | np.eye(12, dtype=bool)
        expected = np.where(kept, expit(S), 0)
        assert_allclose(label_targets(Y, "glas", delta=delta).toarray(), expected, rtol=1e-6)


def test_random_walks_visit_as_their_chain_says():
    """The expected visits of a walk with restart, by powers of the transition matrix."""
    Y, restart, n_walks = random_labels(seed=3).astype(float), 0.7, 60_000
    seen = np.flatnonzero(Y.sum(axis=0) > 0)
    Y = Y[:, seen]
    chain = (Y.T / Y.sum(axis=0)[:, None]) @ (Y / np.maximum(Y.sum(axis=1, keepdims=True), 1))
    assert_allclose(chain.sum(axis=1), 1)
    depth = sum(
        restart * (1 - restart) ** k * np.linalg.matrix_power(chain, k + 1) for k in range(60)
    )
    visits = cooccurrence._visits(sp.csr_array(Y.astype(np.uint8)), n_walks, restart, 0)
    assert_array_equal(visits.sum(axis=1), n_walks)
    assert_allclose(visits.toarray() / n_walks, depth, atol=0.01)


def test_random_walk_targets():
    Y = random_labels()
    found = label_targets(Y, "random-walk", delta=0.0, random_state=0).toarray()
    visits = cooccurrence._visits(sp.csr_array(Y), 400, 0.8, 0).toarray()
    expected = visits / np.sqrt(visits.sum(axis=1))[:, None]
    expected /= np.sqrt(np.maximum(visits.sum(axis=0), 1))
    np.fill_diagonal(expected, 1)
    assert_allclose(found, np.minimum(expected, 1), rtol=1e-5)
    assert_array_equal(found[3], np.eye(12)[3])  # without positives
    same = label_targets(Y, "random-walk", delta=0.0, random_state=0)
    assert_array_equal(same.toarray(), found)
    other = label_targets(Y, "random-walk", delta=0.0, random_state=1).toarray()
    assert (other != found).any()
    kept = label_targets(Y, "random-walk", delta=0.2, random_state=0).toarray()
    assert_array_equal(kept, np.where(found >= np.float32(0.2), found, 0))


def test_walks_do_not_depend_on_the_block(monkeypatch):
    Y = random_labels()
    expected = label_targets(Y, "random-walk", n_walks=50, random_state=2).toarray()
    monkeypatch.setattr(cooccurrence, "_BLOCK_ENTRIES", 100)
    found = label_targets(Y, "random-walk", n_walks=50, random_state=2).toarray()
    assert_array_equal(found, expected)


def test_one_hot_is_the_identity():
    assert_array_equal(label_targets(random_labels(), "one-hot").toarray(), np.eye(12))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "graph"}, "targets must be one of"),
        ({"delta": 1.5}, "delta must be a number from 0 to 1, got 1.5"),
        ({"delta": np.nan}, "delta must be"),
        ({"smoothing": -1}, "smoothing must be"),
        ({"restart": 1.0}, "restart must be below 1"),
        ({"n_walks": 0}, "n_walks must be an integer"),
    ],
)
def test_targets_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        label_targets(random_labels(), **options)


# ------------------------------------------------------------------ rows


@pytest.mark.parametrize("targets", ["cooccurrence", "glas", "random-walk", "one-hot"])
def test_rows_of_labels_follow_those_of_the_data(task, targets):
    texts, Y, label_text = task
    vectorizer = vectorizer_of(texts, label_text)
    augmenter = GandalfAugmenter(targets, vectorizer=vectorizer, random_state=0)
    X, T = augmenter.fit_resample(texts, Y, label_text)
    assert_array_equal(X.toarray(), vectorizer.transform(texts + label_text).toarray())
    assert_array_equal(T[:40].toarray(), Y.toarray())
    options = {} if targets == "one-hot" else {"delta": augmenter.delta}
    expected = label_targets(
        *(Y, targets), smoothing=augmenter.smoothing, random_state=0, **options
    )
    assert_array_equal(T[40:].toarray(), expected.toarray())
    assert_array_equal(augmenter.label_indices_, np.arange(12))
    assert T.dtype == (np.uint8 if targets == "one-hot" else np.float32)
    DismecClassifier().fit(X, T)


def test_all_ways_to_hand_over_the_same(task):
    texts, Y, label_text = task
    vectorizer = vectorizer_of(texts, label_text)
    X, Z = vectorizer.transform(texts), vectorizer.transform(label_text)
    expected, targets = GandalfAugmenter(random_state=0).fit_resample(X, Y, Z)
    both = GandalfAugmenter(vectorizer=vectorizer, random_state=0)
    for rows, labels in (
        (texts, label_text),
        (tuple(texts), np.array(label_text, dtype=object)),
        (X, label_text),
        (texts, Z),
        (sp.csc_array(X), LabelText(label_text)),
        (X, LabelText(Z)),
        (X, Z.toarray()),
    ):
        found, T = both.fit_resample(rows, Y, labels)
        assert sp.issparse(found)
        assert_array_equal(found.toarray(), expected.toarray())
        assert_array_equal(T.toarray(), targets.toarray())
    dense, _ = GandalfAugmenter().fit_resample(X.toarray(), Y, Z)
    assert isinstance(dense, np.ndarray)
    assert_array_equal(dense, expected.toarray())
    plain, T = GandalfAugmenter(random_state=0).fit_resample(texts, Y, label_text)
    assert plain == texts + label_text
    assert_array_equal(T.toarray(), targets.toarray())


def test_kinds_of_Y(task):
    texts, Y, label_text = task
    expected = GandalfAugmenter("cooccurrence").fit_resample(texts, Y, label_text)[1].toarray()
    for labels in (Y.toarray(), Y.tocsc(), Y.astype(bool), Y.toarray().tolist()):
        T = GandalfAugmenter("cooccurrence").fit_resample(texts, labels, label_text)[1]
        assert isinstance(T, sp.csr_array)
        assert_array_equal(T.toarray(), expected)
    T = GandalfAugmenter("one-hot").fit_resample(texts, sp.csr_matrix(Y, dtype=int), label_text)[1]
    assert isinstance(T, sp.csr_matrix)
    assert T.dtype == int


def test_labels_without_words_add_no_row(task):
    texts, Y, label_text = task
    label_text[2], label_text[6], label_text[9] = "", "unknown", "  "
    label_text[1] = label_text[0]  # the same text twice: two rows
    vectorizer = vectorizer_of(texts, ["tea"])
    augmenter = GandalfAugmenter("one-hot", vectorizer=vectorizer)
    X, T = augmenter.fit_resample(texts, Y, label_text)
    assert_array_equal(augmenter.label_indices_, np.delete(np.arange(12), [2, 6, 9]))
    assert_array_equal(T[40:].toarray(), np.delete(np.eye(12), [2, 6, 9], axis=0))
    assert (np.diff(X.indptr)[40:] > 0).all()
    plain = GandalfAugmenter("one-hot")
    plain.fit_resample(texts, Y, label_text)  # a text is a text
    assert_array_equal(plain.label_indices_, np.delete(np.arange(12), [2, 9]))


def test_a_label_without_rows_becomes_an_answer():
    texts = ["red wine", "old beer", "warm tea", "red tea"]
    Y = sp.csr_array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 1, 0]])
    label_text = ["wine", "beer", "tea", "green lemonade"]
    vectorizer = vectorizer_of(texts, label_text)
    X, T = GandalfAugmenter(vectorizer=vectorizer).fit_resample(texts, Y, label_text)
    model = DismecClassifier().fit(X, T)
    assert model.predict_topk(vectorizer.transform(["lemonade"]), 1).labels[0, 0] == 3


# ------------------------------------------------------------------ sampling


@pytest.mark.parametrize("n_bins", [1, 2, 5, 40])
def test_bins_have_equal_sums_of_positives(n_bins):
    counts = np.random.default_rng(0).zipf(1.7, 300) % 50
    bins = frequency_bins(counts, n_bins)
    assert len(bins) == n_bins
    assert_array_equal(np.sort(np.concatenate(bins)), np.arange(300))
    order = counts[np.concatenate(bins)]
    assert (np.diff(order) >= 0).all()
    sums = [counts[members].sum() for members in bins]
    assert max(abs(s - counts.sum() / n_bins) for s in sums) <= counts.max()
    assert_array_equal(np.concatenate(frequency_bins(np.zeros(4, int), n_bins)), np.arange(4))


@pytest.mark.parametrize("sampling", ["random", "tail"])
@pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 1.0])
def test_a_share_of_the_labels(sampling, fraction):
    rng = np.random.default_rng(0)
    Y = (rng.random((200, 60)) < np.geomspace(0.4, 0.01, 60)).astype(np.uint8)
    Y[0] = 1
    texts, label_text = random_texts(200), random_texts(60, seed=1)
    augmenter = GandalfAugmenter("one-hot", fraction=fraction, sampling=sampling, random_state=0)
    rows, T = augmenter.fit_resample(texts, Y, label_text)
    chosen = augmenter.label_indices_
    assert len(chosen) == max(1, round(60 * fraction))
    assert (np.diff(chosen) > 0).all()
    assert rows[200:] == [label_text[label] for label in chosen]
    assert_array_equal(T[200:].toarray(), np.eye(60)[chosen])
    again = clone(augmenter)
    again.fit_resample(texts, Y, label_text)
    assert_array_equal(again.label_indices_, chosen)
    if sampling == "tail" and fraction < 1:
        # all labels of the rarer bins, and none of the more frequent ones
        bins = frequency_bins(Y.sum(axis=0), 5)
        taken = [np.isin(members, chosen).mean() for members in bins if len(members)]
        assert taken == sorted(taken, reverse=True)
        assert sum(0 < share < 1 for share in taken) <= 1
        frequent = np.flatnonzero(~np.isin(np.arange(60), chosen))
        assert Y.sum(axis=0)[chosen].mean() < Y.sum(axis=0)[frequent].mean()


def test_random_sampling_is_even():
    Y, texts = random_labels(), random_texts(40)
    counts = np.zeros(12)
    for seed in range(300):
        augmenter = GandalfAugmenter("one-hot", fraction=0.5, random_state=seed)
        augmenter.fit_resample(texts, Y, random_texts(12))
        counts[augmenter.label_indices_] += 1
    assert (abs(counts - 150) < 5 * np.sqrt(75)).all()


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("params", "change", "error", "message"),
    [
        ({}, {"label_text": ["a"] * 11}, ValueError, "11 texts, but Y has 12 labels"),
        ({}, {"label_text": ["a"] * 11 + [3]}, TypeError, "text of label 11 is 3, not a str"),
        ({}, {"label_text": ["a"] * 11 + [None]}, TypeError, "text of label 11 is None"),
        ({}, {"label_text": "abc"}, TypeError, "a single str"),
        ({}, {"label_text": None}, ValueError, "label_text is None"),
        ({}, {"label_text": [""] * 12}, ValueError, "No label has a text"),
        ({}, {"label_text": np.ones((12, 4))}, ValueError, "pass the fitted vectorizer"),
        ({}, {"X": ["a"] * 39}, ValueError, "39 texts, but Y has 40 rows"),
        ({}, {"X": ["a"] * 39 + [1.5]}, TypeError, "text of row 39 is 1.5"),
        ({}, {"X": np.ones((40, 3))}, ValueError, "pass the fitted vectorizer"),
        ({"vectorizer": "tfidf"}, {}, TypeError, "fitted transformer, got str"),
        ({"vectorizer": TfidfVectorizer()}, {}, NotFittedError, "not fitted"),
        ({}, {"Y": random_labels() * 2}, ValueError, "must contain only 0 and 1"),
        ({}, {"Y": random_labels() * 0.5}, ValueError, "must contain only 0 and 1"),
        ({"delta": 2}, {}, InvalidParameterError, "delta"),
        ({"fraction": 0}, {}, InvalidParameterError, "fraction"),
        ({"targets": "soft"}, {}, InvalidParameterError, "targets"),
        ({"sampling": "head"}, {}, InvalidParameterError, "sampling"),
        ({"restart": 1}, {}, InvalidParameterError, "restart"),
    ],
)
def test_what_does_not_fit_is_refused(task, params, change, error, message):
    arguments = {**dict(zip(("X", "Y", "label_text"), task, strict=True)), **change}
    with pytest.raises(error, match=message):
        GandalfAugmenter(**params).fit_resample(**arguments)


@pytest.mark.parametrize(
    ("X", "Z", "message"),
    [
        (np.ones((40, 3)), np.ones((12, 4)), "have 3 features, those of the labels 4"),
        (np.ones((40, 3)), np.ones((11, 3)), "11 rows, but Y has 12 labels"),
        (np.ones((39, 3)), np.ones((12, 3)), "inconsistent numbers of samples"),
        (np.full((40, 3), np.nan), np.ones((12, 3)), "NaN"),
        (np.ones((40, 3)), np.full((12, 3), np.inf), "infinity|inf"),
        (sp.csr_array(np.full((40, 3), np.nan)), np.ones((12, 3)), "NaN"),
        (np.ones((40, 3)), np.zeros((12, 3)), "No label has a text"),
    ],
)
def test_rows_that_do_not_fit_are_refused(X, Z, message):
    with pytest.raises(ValueError, match=message):
        GandalfAugmenter().fit_resample(X, random_labels(), Z)
