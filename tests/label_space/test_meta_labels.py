"""Clusters of labels as coarse labels: sizes, likeness, labels without embedding, bad input."""

import numpy as np
import pytest
import scipy.sparse as sp

from skxmc.label_space import meta_labels


def random_embeddings(n_labels, n_features=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n_labels, n_features)).astype(np.float32)


@pytest.mark.parametrize("n_labels", [1, 2, 7, 64, 101])
@pytest.mark.parametrize("n_clusters", [1, 2, 3, 8, 100])
def test_clusters_of_equal_size(n_labels, n_clusters):
    cluster = meta_labels(random_embeddings(n_labels), n_clusters)
    assert cluster.shape == (n_labels,)
    assert cluster.dtype == np.int32
    sizes = np.bincount(cluster)
    assert len(sizes) == min(n_clusters, n_labels)
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= 1


def test_planted_clusters_are_found():
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat(np.arange(8), 12))
    embeddings = np.eye(8)[truth] + 0.1 * rng.normal(size=(96, 8))
    for given in (embeddings, sp.csr_array(embeddings)):
        cluster = meta_labels(given, 8)
        # one cluster of one centre: as many pairs as clusters
        assert len(set(zip(truth.tolist(), cluster.tolist()))) == 8


def test_labels_without_embedding_are_dealt_out():
    embeddings = random_embeddings(40)
    embeddings[::4] = 0
    cluster = meta_labels(embeddings, 5)
    described = np.arange(40) % 4 > 0
    assert np.bincount(cluster[described]).tolist() == [6] * 5
    assert np.bincount(cluster[~described]).tolist() == [2] * 5
    embeddings[1:] = 0  # one described label, four empty clusters to fill
    assert sorted(set(meta_labels(embeddings, 5).tolist())) == [0, 1, 2, 3, 4]
    assert np.bincount(meta_labels(np.zeros((7, 3)), 3)).tolist() == [3, 2, 2]


def test_same_seed_same_clusters_whatever_the_threads():
    embeddings = random_embeddings(200)
    one = meta_labels(embeddings, 16, 3)
    np.testing.assert_array_equal(one, meta_labels(embeddings, 16, seed=3, n_jobs=3))
    assert (one != meta_labels(embeddings, 16, seed=4)).any()


@pytest.mark.parametrize(
    ("embeddings", "n_clusters", "message"),
    [
        (np.ones((3, 2)), 0, "n_clusters must be an integer of at least 1"),
        (np.ones((3, 2)), 1.5, "n_clusters"),
        (np.ones((0, 2)), 2, "no rows"),
        (np.array([[1.0], [np.inf]]), 2, "embeddings.*row 1"),
        (np.ones(3), 2, "matrix of numbers"),
    ],
)
def test_bad_input_is_told(embeddings, n_clusters, message):
    with pytest.raises(ValueError, match=message):
        meta_labels(embeddings, n_clusters)
