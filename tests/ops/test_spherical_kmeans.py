"""Spherical k-means kernels against the NumPy definition, scikit-learn and known clusters."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.cluster import KMeans

from skxmc.ops.csr import canonical_csr
from skxmc.ops.row_sums import unit_rows
from skxmc.ops.spherical_kmeans import (
    balanced_bisection,
    compact_rows,
    reference,
    spherical_kmeans,
)


def random_rows(n, d, density, seed, empty=()):
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((n, d)) < density, rng.random((n, d)) + 0.1, 0.0)
    X[list(empty)] = 0.0
    return unit_rows(canonical_csr(sp.csr_array(X)))


def compact(Z, **options):
    return compact_rows(Z.data, Z.indices, Z.indptr, Z.shape[1], **options)


def known_clusters(sizes, seed=0, noise=0.1):
    """Rows that share features only within their cluster, shuffled; returns (Z, cluster)."""
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    X = np.zeros((len(cluster), 8 * len(sizes)))
    for i, c in enumerate(cluster):
        X[i, 8 * c : 8 * c + 8] = 1.0 + noise * rng.random(8)
    return unit_rows(canonical_csr(sp.csr_array(X))), cluster


def as_sets(order, bounds):
    return {frozenset(order[a:b].tolist()) for a, b in itertools.pairwise(bounds)}


def objective(Z, order, bounds):
    """Mean similarity of a row to the centroid of its cluster."""
    dense = Z.toarray().astype(np.float64)
    clusters = [order[a:b] for a, b in itertools.pairwise(bounds)]
    return sum(np.linalg.norm(dense[c].sum(axis=0)) for c in clusters) / len(dense)


def dense_of(rows):
    n_rows = len(rows.indptr) - 1
    X = sp.csr_array((rows.data, rows.indices.astype(np.int64), rows.indptr))
    X.resize((n_rows, max(rows.n_features, 1)))
    return X.toarray().astype(np.float64)


# --- compact rows ---


def test_compact_rows_hold_the_same_entries():
    Z = random_rows(40, 30, 0.3, 0, empty=(0, 7, 39))
    rows = compact(Z)
    assert (np.diff(rows.indptr) % 4 == 0).all()
    assert rows.indices.dtype == np.uint32
    dense, original = dense_of(rows), Z.toarray()
    np.testing.assert_allclose(
        np.sort(dense, axis=1)[:, ::-1], -np.sort(-original, axis=1)[:, : dense.shape[1]]
    )
    np.testing.assert_allclose(dense @ dense.T, original @ original.T, atol=1e-6)
    frequency = (dense > 0).sum(axis=0)
    assert (np.diff(frequency) <= 0).all()


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_truncation_keeps_the_largest_entries_with_enough_mass(keep):
    Z = random_rows(60, 50, 0.5, 1, empty=(3,))
    rows = compact(Z, keep=keep)
    expected = reference.truncate_rows(Z.toarray(), keep)
    gram = expected @ expected.T
    dense = dense_of(rows)
    np.testing.assert_allclose(dense @ dense.T, gram, atol=1e-6)
    mass = (dense**2).sum(axis=1)
    full = np.flatnonzero(Z.toarray().any(axis=1))
    assert (mass[full] >= keep - 1e-6).all()
    assert mass[full].mean() < 1
    for i in full:  # every entry left out is smaller than every entry kept
        left_out = Z.toarray()[i][(expected[i] == 0) & (Z.toarray()[i] > 0)]
        if len(left_out):
            assert left_out.max() < expected[i][expected[i] > 0].min()


def test_negative_and_tiny_values_are_kept_by_size():
    Z = canonical_csr(sp.csr_array([[-0.8, 0.6, 1e-9], [0.6, 0.0, -0.8]]))
    dense = dense_of(compact(Z, keep=0.5))
    np.testing.assert_allclose(np.sort(dense[dense != 0]), [-0.8, -0.8])
    assert dense_of(compact(Z))[0].min() == np.float32(-0.8)
    assert (dense_of(compact(Z))[0] != 0).sum() == 3


@pytest.mark.parametrize("keep", [0.0, -1, 1.5, float("nan")])
def test_keep_out_of_range(keep):
    with pytest.raises(ValueError, match="keep"):
        compact(random_rows(3, 3, 0.5, 0), keep=keep)


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_threads_do_not_change_compact_rows(n_jobs):
    Z = random_rows(101, 40, 0.3, 2)
    for one, many in zip(compact(Z, keep=0.7), compact(Z, keep=0.7, n_jobs=n_jobs)):
        np.testing.assert_array_equal(one, many)


# --- balanced bisection ---


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "n_clusters"), [(2, 2), (7, 2), (50, 8), (61, 5), (3000, 2)])
def test_bisection_equals_the_reference(n, n_clusters, seed):
    Z = random_rows(n, 30, 0.4, seed)
    order, bounds = balanced_bisection(compact(Z), n_clusters, seed=seed)
    expected, expected_bounds = reference.balanced_bisection(
        Z.toarray().astype(np.float64), n_clusters, seed=seed
    )
    np.testing.assert_array_equal(bounds, expected_bounds)
    np.testing.assert_array_equal(order, expected)
    assert order.dtype == np.int32


@pytest.mark.parametrize(("n", "n_clusters"), [(1, 1), (5, 5), (3, 5), (100, 7), (129, 64), (0, 3)])
def test_clusters_are_balanced(n, n_clusters):
    order, bounds = balanced_bisection(compact(random_rows(n, 20, 0.3, 3)), n_clusters)
    assert sorted(order.tolist()) == list(range(n))
    assert set(np.diff(bounds).tolist()) <= {n // n_clusters, -(-n // n_clusters)}
    assert all((np.diff(order[a:b]) > 0).all() for a, b in itertools.pairwise(bounds))


def test_bisection_of_a_subset():
    Z = random_rows(80, 30, 0.3, 4)
    subset = np.arange(3, 80, 3)
    order, bounds = balanced_bisection(compact(Z), 4, subset=subset, seed=9)
    inner, inner_bounds = reference.balanced_bisection(
        Z.toarray()[subset].astype(np.float64), 4, seed=9
    )
    np.testing.assert_array_equal(order, subset[inner])
    np.testing.assert_array_equal(bounds, inner_bounds)


@pytest.mark.parametrize("seed", range(5))
def test_two_separate_clusters_are_found(seed):
    Z, cluster = known_clusters([150, 150], seed)
    order, bounds = balanced_bisection(compact(Z), 2, seed=seed)
    assert as_sets(order, bounds) == {
        frozenset(np.flatnonzero(cluster == c).tolist()) for c in (0, 1)
    }


def test_bisection_of_alike_and_empty_rows_is_by_number():
    same = unit_rows(sp.csr_array(np.ones((5000, 3))))
    empty = sp.csr_array((9, 4), dtype=np.float32)
    one = random_rows(6, 5, 1.0, 0, empty=(0, 1, 2, 4, 5))
    for Z in (same, canonical_csr(empty), one):
        order, bounds = balanced_bisection(compact(Z), 2)
        np.testing.assert_array_equal(order, np.arange(Z.shape[0]))
        assert bounds[1] == Z.shape[0] // 2


def test_opposite_rows_do_not_divide_by_zero():
    Z = canonical_csr(sp.csr_array(np.array([[1.0], [-1.0], [1.0], [-1.0]])))
    order, _ = balanced_bisection(compact(Z), 2)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    found = [as_sets(*balanced_bisection(compact(Z), 2, seed=s)) for s in range(10)]
    # two rows that point the same way as the start tell nothing; opposite ones tell all
    assert {frozenset({0, 2}), frozenset({1, 3})} in found


def test_the_cut_is_the_same_with_many_ties():
    # Above 2048 rows the median is found by a sample; here most rows are equal.
    rng = np.random.default_rng(0)
    kinds = rng.choice(5, size=4096, p=[0.9, 0.04, 0.03, 0.02, 0.01])
    Z = unit_rows(sp.csr_array(np.eye(5)[kinds] + 0.5))
    for seed in range(4):
        order, bounds = balanced_bisection(compact(Z), 2, seed=seed)
        assert len(set(order.tolist())) == 4096
        assert bounds[1] == 2048
        # equal rows: those of the smaller number are on the left
        halves = [order[:2048], order[2048:]]
        for kind in range(5):
            left, right = (h[kinds[h] == kind] for h in halves)
            if len(left) and len(right):
                assert left.max() < right.min()


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_threads_do_not_change_the_bisection(n_jobs):
    rows = compact(random_rows(500, 60, 0.2, 5))
    one = balanced_bisection(rows, 32, seed=3)
    many = balanced_bisection(rows, 32, seed=3, n_jobs=n_jobs)
    np.testing.assert_array_equal(one[0], many[0])
    other = balanced_bisection(rows, 32, seed=4)[0]
    assert (one[0] != other).any()


def test_more_rounds_do_not_lower_the_objective():
    Z = random_rows(400, 80, 0.1, 6)
    found = [
        objective(Z, *balanced_bisection(compact(Z), 2, seed=1, eps=0, max_iter=i))
        for i in (1, 3, 30)
    ]
    assert found[0] < found[2]
    assert found == sorted(found)


# --- spherical k-means ---


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "k", "min_size"), [(1, 3, 1), (30, 4, 1), (90, 17, 2), (200, 40, 3)])
def test_kmeans_equals_the_reference(n, k, min_size, seed):
    Z = random_rows(n, 40, 0.25, seed, empty=(5, 8) if n > 8 else ())
    order, bounds = spherical_kmeans(compact(Z), k, seed=seed, min_size=min_size)
    expected, expected_bounds = reference.spherical_kmeans(
        Z.toarray().astype(np.float64), k, seed=seed, min_size=min_size
    )
    np.testing.assert_array_equal(bounds, expected_bounds)
    np.testing.assert_array_equal(order, expected)


@pytest.mark.parametrize("k", [2, 15, 16, 17, 33])
def test_kmeans_gives_a_partition(k):
    Z = random_rows(150, 30, 0.1, 7, empty=range(0, 150, 10))
    order, bounds = spherical_kmeans(compact(Z), k, seed=2)
    assert sorted(order.tolist()) == list(range(150))
    assert (np.diff(bounds) > 0).all()
    assert 1 <= len(bounds) - 1 <= k


def test_kmeans_reaches_a_fixed_point():
    Z = random_rows(300, 40, 0.2, 8)
    order, bounds = spherical_kmeans(compact(Z), 7, seed=0, eps=0, max_iter=1000)
    dense = Z.toarray().astype(np.float64)
    centroids = np.array([dense[order[a:b]].sum(axis=0) for a, b in itertools.pairwise(bounds)])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    cluster = np.empty(300, dtype=int)
    cluster[order] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    similarity = dense @ centroids.T
    own = similarity[np.arange(300), cluster]
    np.testing.assert_allclose(own, similarity.max(axis=1), atol=1e-6)


def test_separate_clusters_of_any_size_are_found():
    Z, cluster = known_clusters([60, 5, 200, 30], noise=0.5)
    truth = {frozenset(np.flatnonzero(cluster == c).tolist()) for c in range(4)}
    rows = compact(Z)
    found = [as_sets(*spherical_kmeans(rows, 4, seed=s)) for s in range(200)]
    assert truth in found  # of the random starts some have a row of each cluster


def test_objective_is_near_that_of_scikit_learn():
    # Euclidean k-means on rows of length one is another algorithm for nearly the same objective.
    Z = random_rows(600, 60, 0.15, 9)
    ours = max(objective(Z, *spherical_kmeans(compact(Z), 8, seed=s)) for s in range(4))
    cluster = KMeans(8, n_init=4, random_state=0).fit_predict(Z.toarray())
    theirs = objective(
        Z,
        np.argsort(cluster, kind="stable"),
        np.concatenate([[0], np.cumsum(np.bincount(cluster))]),
    )
    assert ours > 0.99 * theirs


def test_small_clusters_are_merged():
    Z = random_rows(60, 30, 0.2, 10)
    sizes = np.diff(spherical_kmeans(compact(Z), 30, seed=0)[1])
    merged = np.diff(spherical_kmeans(compact(Z), 30, seed=0, min_size=3)[1])
    assert sizes.min() < 3 <= merged.min()


def test_kmeans_of_alike_empty_and_no_rows():
    same = compact(unit_rows(sp.csr_array(np.ones((20, 3)))))
    assert spherical_kmeans(same, 4)[1].tolist() == [0, 20]
    empty = compact(canonical_csr(sp.csr_array((6, 2), dtype=np.float32)))
    order, bounds = spherical_kmeans(empty, 4)
    assert order.tolist() == [0, 1, 2, 3, 4, 5]
    assert bounds.tolist() == [0, 6]
    assert spherical_kmeans(same, 4, subset=[])[1].tolist() == [0]


def test_empty_rows_are_dealt_out_evenly():
    Z, _ = known_clusters([20, 20])
    Z = canonical_csr(sp.vstack([Z, sp.csr_array((10, Z.shape[1]), dtype=np.float32)]).tocsr())
    for seed in range(5):
        order, bounds = spherical_kmeans(compact(Z), 2, seed=seed)
        if len(bounds) == 3:
            n_empty = [(order[a:b] >= 40).sum() for a, b in itertools.pairwise(bounds)]
            assert n_empty == [5, 5]
            return
    pytest.fail("no seed gave two clusters")


def test_read_only_input():
    Z = random_rows(50, 20, 0.3, 11)
    for array in (Z.data, Z.indices, Z.indptr):
        array.flags.writeable = False
    rows = compact(Z)
    for array in rows[:3]:
        array.flags.writeable = False
    subset = np.arange(50, dtype=np.int32)
    subset.flags.writeable = False
    assert len(balanced_bisection(rows, 4, subset=subset)[0]) == 50
    assert len(spherical_kmeans(rows, 4, subset=subset)[0]) == 50
