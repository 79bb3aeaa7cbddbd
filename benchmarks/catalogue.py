"""A synthetic catalogue of up to millions of labels, for the growth of label trees.

The labels of ``skxmc.datasets.make_xmc_classification`` have nothing in common, which suits tests
whose truth must be known; a tree has nothing to find there. Here labels form topics within topics,
a row's labels are mostly of one topic, and a row's words come from its labels and their topics.
"""

import numpy as np
import scipy.sparse as sp

#: Labels of a topic, words that belong to it, and the share of a label's words drawn from it.
TOPICS = ((1, 4, 0.4), (32, 16, 0.25), (1024, 32, 0.2), (32768, 64, 0.15))
_BLOCK = 100_000  # rows made at a time


def make_catalogue(n_rows, n_labels, n_features, *, labels_per_row=5.0, words=50, seed=0):
    """Return X (n_rows, n_features) and Y (n_rows, n_labels), CSR matrices of float32.

    Label r has a frequency of about ``r ** -0.5`` times a constant. A row has
    ``1 + Poisson(labels_per_row - 1)`` draws of labels, four fifths of all but the first from the
    first one's topic of 32, and about ``words`` draws of words, a fifth of them without a
    meaning. A quarter of the labels leaves no trace in the words (but one word of the first).
    Values are ``(1 + ln tf) idf``, rows of length 1. Time and memory are linear in the entries
    (peak about 30 bytes an entry of X and 400 MB); the same arguments give the same data.
    """
    rng = np.random.default_rng(seed)
    place = rng.permutation(n_labels)  # of a label in the order in which topics are intervals
    label_at = np.empty_like(place)
    label_at[place] = np.arange(n_labels)
    X, Y = [], []
    for first in range(0, n_rows, _BLOCK):
        n = min(_BLOCK, n_rows - first)
        row, label = _draw_labels(n, n_labels, labels_per_row, place, label_at, rng)
        Y.append(_pattern(row, label, (n, n_labels)))
        Y[-1].data[:] = 1
        X.append(_draw_words(row, place[label], n, n_features, words, rng))
    X, Y = sp.vstack(X, format="csr"), sp.vstack(Y, format="csr")
    idf = np.log(n_rows / np.maximum(np.bincount(X.indices, minlength=n_features), 1) + 1)
    X.data = (1 + np.log(X.data)) * idf[X.indices].astype(np.float32)
    norms = np.sqrt(np.add.reduceat(np.square(X.data, dtype=np.float64), X.indptr[:-1]))
    X.data /= np.repeat(norms, np.diff(X.indptr)).astype(np.float32)  # no row is without words
    return X, Y


def _draw_labels(n, n_labels, labels_per_row, place, label_at, rng):
    """Return (row, label) pairs, the first n of them one for each row."""
    first = (n_labels * rng.random(n) ** 2).astype(np.int64)  # density ~ rank ** -0.5
    more = np.repeat(np.arange(n), rng.poisson(labels_per_row - 1, n))
    width = TOPICS[1][0]
    near = place[first[more]] // width * width + rng.integers(0, width, len(more))
    near = label_at[np.minimum(near, n_labels - 1)]
    far = (n_labels * rng.random(len(more)) ** 2).astype(np.int64)
    others = np.where(rng.random(len(more)) < 0.8, near, far)
    return np.concatenate([np.arange(n), more]), np.concatenate([first, others])


def _draw_words(row, position, n, n_features, words, rng):
    """Return the counts of the words of n rows as CSR."""
    n_noise = words // 5
    shown = np.flatnonzero(rng.random(len(row)) < 0.75)
    n_drawn = max(n * (words - n_noise - 1), 0) if len(shown) else 0
    of = shown[rng.integers(0, max(len(shown), 1), n_drawn)]
    of = np.concatenate([np.arange(n), of])  # a word of the first label, so no row is empty
    level = rng.choice(len(TOPICS), len(of), p=[share for _, _, share in TOPICS])
    size = np.array([size for size, _, _ in TOPICS])[level]
    slots = np.array([slots for _, slots, _ in TOPICS])[level]
    key = position[of] // size * 256 + (rng.random(len(of)) * slots).astype(np.int64)
    word = _hash(key * len(TOPICS) + level) % np.uint64(n_features)
    noise = _hash((n_features * rng.random(n * n_noise) ** 3).astype(np.int64))
    rows = np.concatenate([row[of], np.repeat(np.arange(n), n_noise)])
    columns = np.concatenate([word, noise % np.uint64(n_features)])
    return _pattern(rows, columns, (n, n_features))


def _pattern(rows, columns, shape):
    """Return a CSR matrix of float32 that counts the pairs."""
    ones = np.ones(len(rows), dtype=np.float32)
    pairs = (rows.astype(np.int32), columns.astype(np.int32))
    counts = sp.coo_matrix((ones, pairs), shape=shape).tocsr()
    counts.sum_duplicates()
    return counts


def _hash(key):
    """Scatter integers (the finaliser of SplitMix64)."""
    x = key.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
