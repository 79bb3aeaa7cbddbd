"""Spherical k-means in plain NumPy: the definition that the compiled version is tested against.

Rows are given as a dense matrix. Centroids are formed anew in each round, in float64.
"""

import numpy as np

_MASK = 2**64 - 1


def random_number(state):
    """A random 64-bit number that depends on `state` alone: one step of splitmix64."""
    z = (state + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def truncate_rows(X, keep):
    """Set all but the largest entries of each row to zero; see `compact_rows`."""
    mantissa, exponent = np.frexp(np.abs(X).astype(np.float32))
    # four cells per power of two; 1 and above is cell 63, and cell 0 takes all below 2^-15.5
    cell = np.clip(63 + 4 * (exponent - 1) + np.floor((2 * mantissa - 1) * 4).astype(int), 0, 63)
    result = np.zeros_like(X)
    for x, cells, out in zip(X, cell, result):
        share = 0.0
        for lowest in range(63, -1, -1):
            share += (x[cells == lowest] ** 2).sum()
            if share >= keep * (x**2).sum():
                break
        out[cells >= lowest] = x[cells >= lowest]
    return result


def _unit(v):
    length = np.linalg.norm(v)
    return v / length if length > 1e-6 else np.zeros_like(v)


def cut(scores, n_left):
    """True for all but the `n_left` smallest scores; of equal ones the first go left."""
    right = np.ones(len(scores), dtype=bool)
    right[np.argsort(scores, kind="stable")[:n_left]] = False
    return right


def bisect(X, n_left, seed, eps=1e-4, max_iter=20):
    """Balanced spherical 2-means: True for the rows on the right, all but `n_left`."""
    full = np.flatnonzero(X.any(axis=1))
    if len(full) < 2:
        return np.arange(len(X)) >= n_left
    a = random_number(seed) % len(full)
    b = random_number((seed + 1) & _MASK) % (len(full) - 1)
    b += b >= a
    right = cut(X @ (X[full[b]] - X[full[a]]), n_left)
    objective = 0.0
    for _ in range(max_iter):
        to_right = X @ _unit(X[right].sum(axis=0))
        to_left = X @ _unit(X[~right].sum(axis=0))
        new_right = cut(to_right - to_left, n_left)
        new_objective = np.where(new_right, to_right, to_left).sum()
        stop = (new_right == right).all() or new_objective - objective < eps * abs(objective)
        right, objective = new_right, new_objective
        if stop:
            break
    return right


def balanced_bisection(X, n_clusters, *, seed=0, eps=1e-4, max_iter=20):
    """Return `(order, bounds)`; see `skxmc.ops.spherical_kmeans.balanced_bisection`."""
    order = np.arange(len(X))
    bounds = len(X) * np.arange(n_clusters + 1) // n_clusters
    level, n_done = [(0, n_clusters)], 0
    while level:
        next_level = []
        for j, (first, last) in enumerate(level):
            middle = (first + last) // 2
            rows = order[bounds[first] : bounds[last]]
            n_left = bounds[middle] - bounds[first]
            node_seed = random_number((seed + random_number(n_done + j)) & _MASK)
            if 0 < n_left < len(rows):
                right = bisect(X[rows], n_left, node_seed, eps, max_iter)
                order[bounds[first] : bounds[last]] = np.concatenate([rows[~right], rows[right]])
            next_level += [(first, middle), (middle, last)]
        n_done += len(level)
        level = [(first, last) for first, last in next_level if last - first > 1]
    return order, bounds


def kmeans_clusters(X, k, seed, eps=1e-4, max_iter=20, min_size=1):
    """Spherical k-means: the cluster of each row, -1 for a row that is similar to no centroid."""
    full = np.flatnonzero(X.any(axis=1))
    k = min(k, len(full))
    if k == 0:
        return np.full(len(X), -1)
    for c in range(k):
        other = c + random_number((seed + c) & _MASK) % (len(full) - c)
        full[[c, other]] = full[[other, c]]
    cluster = np.full(len(X), -1)
    cluster[full[:k]] = np.arange(k)

    def nearest(cluster, allowed):
        centroids = np.array([_unit(X[cluster == c].sum(axis=0)) * allowed[c] for c in range(k)])
        similarity = X @ centroids.T
        best, found = similarity.argmax(axis=1), similarity.max(axis=1)
        return np.where(found > 0, best, -1), np.maximum(found, 0)

    objective = 0.0
    for _ in range(max_iter):
        new_cluster, similarity = nearest(cluster, np.ones(k))
        new_objective = similarity.sum()
        stop = (new_cluster == cluster).all() or new_objective - objective < eps * objective
        cluster, objective = new_cluster, new_objective
        if stop:
            break
    size = np.bincount(cluster[cluster >= 0], minlength=k)
    if (size >= min_size).any():
        moved = (cluster >= 0) & (size[cluster] < min_size)
        cluster[moved] = nearest(cluster, size >= min_size)[0][moved]
    return cluster


def spherical_kmeans(X, n_clusters, *, seed=0, eps=1e-4, max_iter=20, min_size=1):
    """Return `(order, bounds)`; see `skxmc.ops.spherical_kmeans.spherical_kmeans`."""
    cluster = kmeans_clusters(X, n_clusters, seed, eps, max_iter, min_size)
    found = sorted(set(cluster[cluster >= 0].tolist()))
    cluster = np.array([found.index(c) if c >= 0 else -1 for c in cluster], dtype=int)
    left_over = np.flatnonzero(cluster < 0)
    cluster[left_over] = np.arange(len(left_over)) % max(len(found), 1)
    sizes = np.bincount(cluster, minlength=max(len(found), 1))
    return np.argsort(cluster, kind="stable"), np.concatenate([[0], np.cumsum(sizes)])
