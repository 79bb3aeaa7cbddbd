"""The stratified splitters: partition, sizes, label shares, determinism, protocol, bad input."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold, check_cv
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from skxmc.model_selection import (
    IterativeStratifiedKFold,
    IterativeStratifiedShuffleSplit,
    iterative_train_test_split,
)


def long_tailed(n_rows=2000, n_labels=600, seed=0):
    """A label matrix with Zipf frequencies, sorted by the first label; one row in 20 has none."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, n_labels + 1)
    labels = rng.choice(n_labels, size=(n_rows, 4), p=p / p.sum())
    labels = labels[np.argsort(labels[:, 0])]
    rows = np.repeat(np.arange(n_rows), 4)
    keep = rows % 20 != 0
    Y = sp.csr_array(
        (np.ones(keep.sum()), (rows[keep], labels.ravel()[keep])), shape=(n_rows, n_labels)
    )
    Y.data[:] = 1
    return Y


def label_distribution(Y, tests):
    """LD of Sechidis et al. (2011), eq. 3: mean absolute difference of the odds of a label."""
    n_rows = Y.shape[0]
    total = Y.sum(axis=0)
    used = (total > 0) & (total < n_rows)
    odds = total[used] / (n_rows - total[used])
    differences = []
    for test in tests:
        positives = Y[test].sum(axis=0)[used]
        differences.append(np.abs(positives / (len(test) - positives) - odds))
    return np.mean(differences)


def examples_distribution(Y, tests):
    """ED of the same paper, eq. 4: mean absolute difference from the desired size."""
    return np.mean([abs(len(test) - Y.shape[0] / len(tests)) for test in tests])


def test_sets(splitter, Y):
    return [test for _, test in splitter.split(np.zeros((Y.shape[0], 1)), Y)]


test_sets.__test__ = False

# ------------------------------------------------------------------ folds


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 6), st.integers(0, 40), st.integers(1, 12), st.booleans(), st.integers(0, 9999)
)
def test_folds_are_a_partition(n_splits, more_rows, n_labels, shuffle, seed):
    rng = np.random.default_rng(seed)
    n_rows = n_splits + more_rows
    Y = sp.csr_array((rng.random((n_rows, n_labels)) < rng.random(n_labels)).astype(int))
    splitter = IterativeStratifiedKFold(
        n_splits, shuffle=shuffle, random_state=seed if shuffle else None
    )
    splits = list(splitter.split(np.zeros((n_rows, 1)), Y))
    assert len(splits) == splitter.get_n_splits() == n_splits
    assert sorted(np.concatenate([test for _, test in splits]).tolist()) == list(range(n_rows))
    for train, test in splits:
        assert len(test) > 0
        assert sorted([*train, *test]) == list(range(n_rows))
        assert (np.diff(train) > 0).all()
        assert (np.diff(test) > 0).all()


@pytest.mark.parametrize("shuffle", [False, True])
def test_labels_are_spread_better_than_by_kfold(shuffle):
    Y = long_tailed()
    seed = 0 if shuffle else None
    ours = test_sets(IterativeStratifiedKFold(5, shuffle=shuffle, random_state=seed), Y)
    for seed in range(3):
        plain = test_sets(KFold(5, shuffle=True, random_state=seed), Y)
        assert label_distribution(Y, ours) < 0.7 * label_distribution(Y, plain)


def test_sizes_differ_little_where_no_row_is_without_labels():
    Y = long_tailed()
    Y = Y[Y.sum(axis=1) > 0]
    ours = test_sets(IterativeStratifiedKFold(5), Y)
    assert examples_distribution(Y, ours) < 0.01 * Y.shape[0] / 5


def test_every_label_alone_is_spread_evenly():
    # Each row has one label, so that no label decides over another.
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 30, 500) ** 2 // 30
    Y = sp.csr_array((np.ones(500), codes, np.arange(501)), shape=(500, 30))
    positives = np.array(
        [Y[test].sum(axis=0) for test in test_sets(IterativeStratifiedKFold(4), Y)]
    )
    assert (positives.max(axis=0) - positives.min(axis=0) <= 1).all()


def test_labels_with_fewer_positives_than_folds_are_in_different_folds():
    Y = sp.csr_array(np.repeat(np.eye(4, dtype=int), [1, 2, 3, 14], axis=0))
    for test in test_sets(IterativeStratifiedKFold(5, shuffle=True, random_state=0), Y):
        assert (Y[test].sum(axis=0)[:3] <= 1).all()
        assert len(test) == 4


def test_rows_without_labels_even_out_the_sizes():
    rng = np.random.default_rng(0)
    dense = rng.random((100, 8)) < 0.3
    Y = sp.csr_array(np.vstack([dense, np.zeros((103, 8), dtype=bool)]))
    sizes = sorted(len(test) for test in test_sets(IterativeStratifiedKFold(5), Y))
    assert sizes == [40, 40, 41, 41, 41]


def test_no_labels_at_all_is_plain_k_fold():
    Y = sp.csr_array((11, 3), dtype=int)
    assert sorted(len(test) for test in test_sets(IterativeStratifiedKFold(3), Y)) == [3, 4, 4]


def test_three_million_columns_cost_nothing():
    Y = sp.csr_array((np.ones(100), (np.arange(100), np.arange(100) * 29_000)), (100, 3_000_000))
    assert [len(test) for test in test_sets(IterativeStratifiedKFold(5), Y)] == [20] * 5


def test_random_state():
    Y = long_tailed(300, 50)
    X = np.zeros((300, 1))

    def folds(**parameters):
        return [test.tolist() for test in test_sets(IterativeStratifiedKFold(3, **parameters), Y)]

    assert folds() == folds()
    assert folds(shuffle=True, random_state=1) == folds(shuffle=True, random_state=1)
    assert folds(shuffle=True, random_state=1) != folds(shuffle=True, random_state=2)
    splitter = IterativeStratifiedKFold(
        3,
        shuffle=True,
        random_state=np.random.RandomState(0),
    )
    first, second = ([test.tolist() for _, test in splitter.split(X, Y)] for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    "convert",
    [
        sp.csr_matrix,
        sp.csc_array,
        sp.coo_array,
        lambda Y: Y.toarray(),
        lambda Y: Y.toarray().astype(bool),
        lambda Y: Y.toarray().tolist(),
    ],
)
def test_the_container_of_y_does_not_matter(convert):
    Y = long_tailed(60, 10)
    expected = test_sets(IterativeStratifiedKFold(3), Y)
    converted = convert(Y)
    got = [test for _, test in IterativeStratifiedKFold(3).split(np.zeros((60, 1)), converted)]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.filterwarnings("ignore:The least populated class")  # of StratifiedKFold
def test_one_dimensional_y_is_spread_as_stratified_k_fold_does():
    y = np.array(list("aaaaaaabbbbbccd"))
    counts = {}
    for splitter in (IterativeStratifiedKFold(3), StratifiedKFold(3)):
        splits = list(splitter.split(np.zeros((15, 1)), y))
        counts[type(splitter)] = [
            sorted(int((y[test] == c).sum()) for _, test in splits) for c in "abcd"
        ]
    assert counts[IterativeStratifiedKFold] == counts[StratifiedKFold]


def test_input_is_not_changed():
    Y = sp.csr_array(
        (np.array([1, 0, 1]), np.array([2, 1, 0]), np.array([0, 2, 3, 3])), shape=(3, 3)
    )
    before = [Y.data.copy(), Y.indices.copy(), Y.indptr.copy()]
    list(IterativeStratifiedKFold(3, shuffle=True, random_state=0).split(np.zeros((3, 1)), Y))
    for a, b in zip(before, (Y.data, Y.indices, Y.indptr), strict=True):
        np.testing.assert_array_equal(a, b)


def test_works_as_cv_of_grid_search_with_sparse_y():
    Y = long_tailed(200, 8)
    X = Y.toarray() + 0.1 * np.random.default_rng(0).random((200, 8))
    search = GridSearchCV(
        OneVsRestClassifier(LinearSVC()),
        {"estimator__C": [0.01, 1.0]},
        cv=IterativeStratifiedKFold(3, shuffle=True, random_state=0),
        scoring="f1_micro",
        error_score="raise",
    ).fit(X, Y)
    assert search.n_splits_ == 3
    assert search.best_score_ > 0.9
    assert sp.issparse(search.predict(X))


def test_sklearn_protocol():
    splitter = IterativeStratifiedKFold(4, shuffle=True, random_state=3)
    assert check_cv(splitter) is splitter
    assert repr(splitter) == "IterativeStratifiedKFold(n_splits=4, random_state=3, shuffle=True)"
    search = clone(GridSearchCV(DummyClassifier(), {}, cv=splitter))
    assert search.cv.random_state == 3
    with pytest.warns(UserWarning, match="ignores groups"):
        list(splitter.split(np.zeros((8, 1)), np.eye(8, dtype=int), groups=np.arange(8)))


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"n_splits": 1}, ValueError, "at least 2"),
        ({"n_splits": 2.5}, ValueError, "integer"),
        ({"n_splits": True}, ValueError, "integer"),
        ({"shuffle": "yes"}, TypeError, "shuffle"),
        ({"random_state": 0}, ValueError, "no effect without shuffle"),
    ],
)
def test_bad_parameters(parameters, error, message):
    with pytest.raises(error, match=message):
        IterativeStratifiedKFold(**parameters)


@pytest.mark.parametrize(
    ("Y", "message"),
    [
        (None, "needs the labels"),
        (sp.csr_array(np.diag([1, 2, 1, 1, 1])), "row 1, column 1 holds 2"),
        (np.diag([1.0, 1.0, np.nan, 1.0, 1.0]), "row 2, column 2 holds nan"),
        (np.zeros((4, 2), dtype=int), "inconsistent"),
        (np.zeros((5, 2, 2), dtype=int), "two-dimensional"),
    ],
)
@pytest.mark.parametrize(
    "splitter", [IterativeStratifiedKFold(2), IterativeStratifiedShuffleSplit(1, random_state=0)]
)
def test_bad_y(splitter, Y, message):
    with pytest.raises(ValueError, match=message):
        list(splitter.split(np.zeros((5, 1)), Y))


def test_more_folds_than_rows():
    with pytest.raises(ValueError, match="n_splits=4 is more than the number of rows, 3"):
        list(IterativeStratifiedKFold(4).split(np.zeros((3, 1)), np.eye(3, dtype=int)))


# ------------------------------------------------------------------ shuffle split


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(1, 12), st.data(), st.integers(0, 9999))
def test_shuffle_split_sets_are_disjoint_and_complete(n_rows, n_labels, data, seed):
    rng = np.random.default_rng(seed)
    Y = (rng.random((n_rows, n_labels)) < rng.random(n_labels)).astype(int)
    n_test = data.draw(st.integers(1, n_rows - 1))
    splitter = IterativeStratifiedShuffleSplit(2, test_size=n_test, random_state=seed)
    splits = list(splitter.split(np.zeros((n_rows, 1)), Y))
    assert len(splits) == splitter.get_n_splits() == 2
    for train, test in splits:
        assert len(train) > 0
        assert len(test) > 0
        assert sorted([*train, *test]) == list(range(n_rows))


@pytest.mark.parametrize("test_size", [0.1, 0.2, 0.5, 0.7])
def test_shuffle_split_keeps_size_and_tail(test_size):
    Y = long_tailed()
    frequency = Y.sum(axis=0)
    for test in test_sets(
        IterativeStratifiedShuffleSplit(3, test_size=test_size, random_state=0), Y
    ):
        assert len(test) == pytest.approx(test_size * Y.shape[0], rel=0.02)
        # Labels with one or two positives, which no rule can share out, are in both sets in
        # proportion.
        share = Y[test].sum(axis=0) / np.maximum(frequency, 1)
        tail = (frequency > 0) & (frequency <= 2)
        assert np.mean(share[tail]) == pytest.approx(test_size, abs=0.05)


def test_shuffle_split_is_stratified_better_than_at_random():
    Y = long_tailed()
    ours = test_sets(IterativeStratifiedShuffleSplit(5, test_size=0.2, random_state=0), Y)
    rng = np.random.default_rng(0)
    at_random = [rng.permutation(Y.shape[0])[: len(test)] for test in ours]
    assert label_distribution(Y, ours) < 0.7 * label_distribution(Y, at_random)


def test_shuffle_split_with_a_rest():
    Y = long_tailed()
    splitter = IterativeStratifiedShuffleSplit(1, train_size=0.3, test_size=0.2, random_state=0)
    train, test = next(splitter.split(np.zeros((Y.shape[0], 1)), Y))
    assert not set(train) & set(test)
    assert len(train) == pytest.approx(600, rel=0.05)
    assert len(test) == pytest.approx(400, rel=0.05)


def test_shuffle_split_random_state():
    Y = long_tailed(300, 50)

    def draw(seed):
        splitter = IterativeStratifiedShuffleSplit(2, test_size=0.3, random_state=seed)
        return [test.tolist() for test in test_sets(splitter, Y)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(1)[0] != draw(1)[1]


def test_shuffle_split_refuses_an_empty_set(monkeypatch):
    # Rounding of labels could in principle starve a small set; such a split must not come out.
    monkeypatch.setattr(
        "skxmc.model_selection._split.assign_folds",
        lambda Y, weights, draws: np.zeros(Y.shape[0], dtype=np.int32),
    )
    with pytest.raises(ValueError, match="leaves the test set empty on these 9 rows"):
        next(IterativeStratifiedShuffleSplit(1).split(np.zeros((9, 1)), np.eye(9, dtype=int)))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_splits": 0}, "n_splits"),
        ({"test_size": 1.5}, "test_size"),
        ({"test_size": 0}, "test_size"),
        ({"test_size": 10}, "test_size"),
        ({"test_size": 0.6, "train_size": 0.6}, "sum"),
    ],
)
def test_shuffle_split_bad_sizes(parameters, message):
    X, Y = np.zeros((10, 1)), np.eye(10, dtype=int)
    with pytest.raises(ValueError, match=message):
        list(IterativeStratifiedShuffleSplit(**parameters).split(X, Y))


# ------------------------------------------------------------------ train_test_split


def test_train_test_split_splits_everything_alike():
    Y = long_tailed(200, 20)
    numbers = np.arange(200)
    texts = [str(i) for i in numbers]
    X = sp.csr_array(np.eye(200))
    parts = iterative_train_test_split(X, Y, texts, numbers, test_size=0.25, random_state=0)
    X_train, X_test, Y_train, Y_test, texts_train, texts_test, train, test = parts
    assert sorted([*train, *test]) == numbers.tolist()
    assert len(test) == pytest.approx(50, abs=3)
    for rows, X_part, Y_part, texts_part in [
        (train, X_train, Y_train, texts_train),
        (test, X_test, Y_test, texts_test),
    ]:
        assert isinstance(X_part, sp.csr_array)
        np.testing.assert_array_equal(X_part.argmax(axis=1), rows)
        np.testing.assert_array_equal(Y_part.toarray(), Y.toarray()[rows])
        assert texts_part == [str(i) for i in rows]


def test_train_test_split_defaults_to_a_quarter_and_repeats_with_a_seed():
    Y = long_tailed(400, 20)
    first = iterative_train_test_split(np.arange(400), Y, random_state=5)
    second = iterative_train_test_split(np.arange(400), Y, random_state=5)
    assert len(first[1]) == pytest.approx(100, abs=4)
    np.testing.assert_array_equal(first[1], second[1])
    trained = iterative_train_test_split(np.arange(400), Y, train_size=0.5, random_state=5)[0]
    assert len(trained) == pytest.approx(200, abs=4)


def test_train_test_split_refuses_other_lengths():
    with pytest.raises(ValueError, match="inconsistent"):
        iterative_train_test_split(np.zeros((4, 1)), np.eye(4, dtype=int), [1, 2, 3])
