"""Kernels of the hidden layer: rows times weights, and one Adam step of the weights touched.

Every output is the sum over the features in rising order, multiplied and added separately, whatever
is computed beside it: a row has the same bits alone, in a batch, and stored sparse or dense.
"""

import numpy as np

from skxmc.ops._jit import jit

# Rows that share a pass over the weights, and outputs of a block: 8 KiB of sums stay in the first
# cache.
_ROWS = 8
_COLUMNS = 256


@jit
def sparse_rows(indptr, indices, data, weights, bias, first, last, out):
    """``out[i] = bias + sum_p data[p] weights[indices[p]]`` for the rows ``first`` to ``last``."""
    n_outputs = weights.shape[1]
    for i in range(first, last):
        for c in range(n_outputs):
            out[i, c] = bias[c]
        for p in range(indptr[i], indptr[i + 1]):
            value = data[p]
            row = weights[indices[p]]
            for c in range(n_outputs):
                out[i, c] += value * row[c]


@jit
def dense_rows(X, weights, bias, first, last, out):
    """The same for dense rows, in tiles."""
    n_inputs, n_outputs = weights.shape
    for begin in range(0, n_outputs, _COLUMNS):
        end = min(begin + _COLUMNS, n_outputs)
        for top in range(first, last, _ROWS):
            bottom = min(top + _ROWS, last)
            for i in range(top, bottom):
                for c in range(begin, end):
                    out[i, c] = bias[c]
            for j in range(n_inputs):
                row = weights[j]
                for i in range(top, bottom):
                    value = X[i, j]
                    if value != 0:
                        for c in range(begin, end):
                            out[i, c] += value * row[c]


@jit
def adam_step(weight, gradient, moment, second, rate, beta1, beta2, epsilon, correction2):
    """Adam on one row; ``rate`` is the learning rate over the first bias correction."""
    for c in range(len(weight)):
        g = gradient[c]
        m = beta1 * moment[c] + (np.float32(1) - beta1) * g
        v = beta2 * second[c] + (np.float32(1) - beta2) * g * g
        moment[c] = m
        second[c] = v
        weight[c] -= rate * m / (np.sqrt(v * correction2) + epsilon)


@jit(allocates=True)
def adam_columns(
    indptr, rows, values, features, gradient, weights, moment, second, n_updates, rate, first, last
):
    """Adam for the features ``first`` to ``last`` of a batch, each with its own count of updates.

    ``indptr``, ``rows`` and ``values`` hold the batch by feature. A feature that is not in the
    batch has no gradient and is left alone, moments and count too.
    """
    beta1, beta2, epsilon = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
    n_outputs = weights.shape[1]
    total = np.empty(n_outputs, dtype=np.float32)
    for f in range(first, last):
        total[:] = np.float32(0)
        for p in range(indptr[f], indptr[f + 1]):
            value = values[p]
            row = gradient[rows[p]]
            for c in range(n_outputs):
                total[c] += value * row[c]
        feature = features[f]
        n_updates[feature] += 1
        t = n_updates[feature]
        adam_step(
            weights[feature],
            total,
            moment[feature],
            second[feature],
            np.float32(rate / (1 - 0.9**t)),
            beta1,
            beta2,
            epsilon,
            np.float32(1 / (1 - 0.999**t)),
        )
