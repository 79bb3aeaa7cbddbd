"""Groups of similar labels: a permutation, exact sizes, likeness, order, bad input."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.label_space import label_features, label_groups


def planted(n_groups, group_size, *, spread=0.2, n_features=24, seed=0):
    """Return dense embeddings around the leaves of a binary hierarchy, and the leaf of each label.

    A centre is the sum of one vector a level, the sooner the longer, orthogonal to all others.
    """
    rng = np.random.default_rng(seed)
    centres, width = np.zeros((n_groups, n_features)), n_groups
    axes = iter(np.linalg.qr(rng.normal(size=(n_features, n_features)))[0])
    while width > 1:
        width //= 2
        for first in range(0, n_groups, 2 * width):
            step = next(axes)
            centres[first : first + width] += np.sqrt(width) * step
            centres[first + width : first + 2 * width] -= np.sqrt(width) * step
    group = rng.permutation(np.repeat(np.arange(n_groups), group_size))
    noise = rng.normal(size=(len(group), n_features)) / np.sqrt(n_features)
    length = rng.uniform(0.1, 10, size=(len(group), 1))  # only directions count
    return (length * (centres[group] + spread * noise)).astype(np.float32), group


def blocks(order, group_size):
    return [order[i : i + group_size] for i in range(0, len(order), group_size)]


@pytest.mark.parametrize("method", ["cluster", "frequency"])
@pytest.mark.parametrize(
    ("n_labels", "group_size"),
    [(1, 1), (1, 16), (2, 1), (5, 2), (16, 16), (17, 16), (31, 16), (33, 16), (100, 7), (64, 100)],
)
def test_order_is_a_permutation_by_falling_frequency_of_groups(method, n_labels, group_size):
    rng = np.random.default_rng(n_labels)
    embeddings = rng.normal(size=(n_labels, 6)).astype(np.float32)
    counts = rng.integers(0, 9, n_labels)
    order = label_groups(embeddings, counts, group_size, method=method)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(n_labels))
    groups = blocks(order, group_size)
    assert all(len(group) == group_size for group in groups[:-1])
    totals = [counts[group].sum() for group in groups]
    assert all(a >= b for a, b in itertools.pairwise(totals))
    for group in groups:
        assert list(group) == sorted(group, key=lambda label: (-counts[label], label))


def test_frequency_is_the_order_of_the_counts():
    counts = [3.5, 0.0, 7.0, 3.5, 0.0]
    np.testing.assert_array_equal(
        label_groups(None, counts, 2, method="frequency"), [2, 0, 3, 1, 4]
    )


@pytest.mark.parametrize(("n_groups", "group_size"), [(2, 8), (8, 16), (16, 5)])
@pytest.mark.parametrize("as_sparse", [False, True])
def test_planted_groups_are_found(n_groups, group_size, as_sparse):
    embeddings, truth = planted(n_groups, group_size)
    counts = np.random.default_rng(1).integers(1, 50, len(truth))
    given = sp.csr_array(embeddings) if as_sparse else embeddings
    order = label_groups(given, counts, group_size)
    for group in blocks(order, group_size):
        assert len(set(truth[group])) == 1


def test_groups_are_more_alike_than_those_by_frequency():
    embeddings, _ = planted(24, 11, spread=1.0)  # no clean clusters, and a group size that is none
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    counts = np.random.default_rng(1).integers(1, 50, len(unit))

    def likeness(method):
        groups = blocks(label_groups(embeddings, counts, 8, method=method), 8)
        return np.mean([np.linalg.norm(unit[group].mean(axis=0)) for group in groups])

    assert likeness("cluster") > likeness("frequency") + 0.15


def test_labels_without_embedding_and_left_over_ones_come_last():
    embeddings, _ = planted(4, 6)
    embeddings[[3, 8, 20]] = 0
    counts = np.arange(100, 124)
    counts[[3, 8, 20]] = 0
    order = label_groups(embeddings, counts, 5)  # 21 described labels: four groups, one left over
    np.testing.assert_array_equal(order[20:], [0, 3, 8, 20])  # label 0 is the rarest described one


def test_labels_without_positives_do_not_sit_among_the_others():
    rng = np.random.default_rng(0)
    X = sp.csr_array(rng.random((40, 12)) * (rng.random((40, 12)) < 0.4))
    Y = (rng.random((40, 30)) < 0.1).astype(int)
    Y[:, [2, 9, 10, 11, 25]] = 0
    counts = Y.sum(axis=0)
    order = label_groups(label_features(X, sp.csr_array(Y)), counts, 4)
    absent = np.flatnonzero(counts == 0)
    np.testing.assert_array_equal(order[len(order) - len(absent) :], absent)


def test_frequent_labels_without_embedding_form_groups_in_their_place():
    embeddings = np.zeros((7, 3))
    embeddings[:3] = [[1, 0, 0], [1, 0.1, 0], [0, 1, 0]]
    counts = [1, 2, 1, 9, 8, 7, 6]
    # (3, 4) and (5, 6) are groups of labels without embedding, before (1, 0); label 2 is left over
    np.testing.assert_array_equal(label_groups(embeddings, counts, 2), [3, 4, 5, 6, 1, 0, 2])


def test_stored_zeros_are_no_embedding():
    stored = sp.csr_array((np.array([0.0, 1.0]), np.array([0, 1]), [0, 1, 2, 2]), shape=(3, 2))
    np.testing.assert_array_equal(label_groups(stored, [1, 5, 3], 1), [1, 2, 0])
    dense = label_groups(stored.toarray(), [1, 5, 3], 1)
    np.testing.assert_array_equal(dense, [1, 2, 0])


def test_all_labels_alike_or_without_embedding():
    for embeddings in (np.ones((9, 2)), np.zeros((9, 2)), sp.csr_array((9, 2))):
        order = label_groups(embeddings, np.ones(9), 4)
        np.testing.assert_array_equal(np.sort(order), np.arange(9))


def test_same_seed_same_order_whatever_the_threads():
    embeddings, _ = planted(20, 16, spread=1.5)
    counts = np.random.default_rng(3).integers(0, 5, len(embeddings))
    one = label_groups(embeddings, counts, 16, seed=4)
    np.testing.assert_array_equal(one, label_groups(embeddings, counts, 16, seed=4, n_jobs=3))
    np.testing.assert_array_equal(
        one, label_groups(sp.csr_array(embeddings), counts, 16, seed=4, n_jobs=2)
    )
    assert (one != label_groups(embeddings, counts, 16, seed=5)).any()


def test_input_is_left_alone_and_may_be_read_only():
    embeddings, _ = planted(4, 5)
    counts = np.arange(20.0)
    kept = embeddings.copy()
    embeddings.flags.writeable = counts.flags.writeable = False
    label_groups(embeddings, counts, 5)
    np.testing.assert_array_equal(embeddings, kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "random"}, "method must be one of"),
        ({"group_size": 0}, "group_size must be an integer of at least 1, got 0"),
        ({"group_size": 2.0}, "group_size"),
        ({"group_size": True}, "group_size"),
        ({"embeddings": None}, "needs embeddings"),
        ({"embeddings": np.ones((3, 2))}, "3 rows, but there are 4 counts"),
        ({"embeddings": np.ones(4)}, "matrix of numbers"),
        ({"embeddings": np.array([["a"]] * 4)}, "matrix of numbers"),
        ({"embeddings": np.array([[1.0], [np.nan], [1.0], [1.0]])}, "embeddings.*row 1"),
        ({"embeddings": sp.csr_array([[1.0], [1.0], [np.inf], [1.0]])}, "embeddings.*row 2"),
        ({"counts": [1, 2, -3, 4]}, "-3.0 for label 2"),
        ({"counts": [1, np.nan, 3, 4]}, "nan for label 1"),
        ({"counts": [[1, 2, 3, 4]]}, "counts must hold a number for each label"),
        ({"counts": []}, "counts"),
        ({"counts": ["a", "b", "c", "d"]}, "counts"),
    ],
)
def test_bad_input_is_told(changes, message):
    arguments = {"embeddings": np.ones((4, 2)), "counts": [4, 3, 2, 1], "group_size": 2}
    with pytest.raises(ValueError, match=message):
        label_groups(**{**arguments, **changes})
