"""Unbiased estimates, from incomplete labels, of the metrics on complete labels.

Observed is ``Y_observed = M * Y`` with independent masks of known propensities (thesis eq. 3.15).
Where these hold, the expectation of each estimate over the masks is the metric on the complete
labels. A single estimate may lie below 0 or above 1, and its variance can be large: every function
returns its standard error on request. Predictions must not depend on the masks of the rows they are
evaluated on: use test rows.
"""

import itertools

import numpy as np

from skxmc.metrics._inputs import check_inv_propensity, check_ks, rank
from skxmc.ops.missing_labels import bounded_label_shares, general_estimate, unbiased_label_shares


def unbiased_precision_at_k(
    y_true, scores, inv_propensity, k=5, *, exclude=None, return_std_error=False
):
    """Estimate the precision@k on complete labels from incomplete ones.

    A hit is worth 1 / p. The value is that of `psp_at_k` with ``normalize=False``; the standard
    error is what this function adds.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The observed labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    inv_propensity : array-like of shape (n_labels,)
        1 / p of each label, at least 1.
    k : int or sequence of int, default=5
        Number of answers per row.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.
    return_std_error : bool, default=False
        Also return the standard error of the mean over rows.

    Returns
    -------
    precision : float, or ndarray of shape (len(k),) if `k` is a sequence
        At least 0. Above 1 by more than a few standard errors, the propensities are wrong.
    std_error : float or ndarray of the same shape
        Only if `return_std_error`. NaN for a single row.

    Raises
    ------
    ValueError
        If the shapes differ, `y_true` holds other values than 0 and 1, a score is NaN, there are no
        rows, k < 1, or an inverse propensity is below 1 or not finite.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + entries of y_true), memory O(entries of y_true + n_samples * k).

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equation (3.6).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import unbiased_precision_at_k
    >>> y_observed = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> unbiased_precision_at_k(y_observed, scores, inv_propensity=[1.0, 2.0, 4.0], k=2)
    0.75
    """
    ks, is_single = check_ks(k)
    ranking = rank(y_true, scores, max(ks), exclude)
    weights = check_inv_propensity(inv_propensity, ranking.y_true.shape[1])
    gains = np.where(ranking.hits, weights[ranking.labels], 0.0)
    values = np.stack([gains[:, :k].sum(axis=1) / k for k in ks], axis=1)
    return _mean_over_rows(values, is_single, return_std_error)


def unbiased_recall_at_k(
    y_true,
    scores,
    inv_propensity,
    k=5,
    *,
    estimator="unbiased",
    exclude=None,
    return_std_error=False,
):
    """Estimate the recall@k on complete labels from incomplete ones.

    Recall divides by the number of complete labels of a row, which is not known; 1 / p on its own,
    as in `ps_recall_at_k`, does not make up for that. The general estimator (3.20) does. For recall
    its sum over all subsets of the observed labels has a closed form, so it is exact however many
    labels a row has.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The observed labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    inv_propensity : array-like of shape (n_labels,)
        1 / p of each label, at least 1.
    k : int or sequence of int, default=5
        Number of answers per row.
    estimator : {"unbiased", "bound"}, default="unbiased"
        "unbiased": of a variance that grows exponentially with the labels of a row, fast so where
        p < 1/2. "bound": on average too large (3.23), with little variance.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.
    return_std_error : bool, default=False
        Also return the standard error of the mean over rows.

    Returns
    -------
    recall : float, or ndarray of shape (len(k),) if `k` is a sequence
        "unbiased": of any sign and size. "bound": at least 0.
    std_error : float or ndarray of the same shape
        Only if `return_std_error`. NaN for a single row.

    Raises
    ------
    ValueError
        As `unbiased_precision_at_k`; if `estimator` is unknown; and if a row has so many labels of
        small propensity that its estimate exceeds the range of floating-point numbers.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + c^2) for a row with c labels, memory
    O(entries of y_true + n_samples * k).

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equations (3.20) to (3.23), figure 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import unbiased_recall_at_k
    >>> y_observed = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> unbiased_recall_at_k(y_observed, scores, inv_propensity=[1.0, 2.0, 4.0], k=2)
    0.5
    """
    shares_of = {"unbiased": unbiased_label_shares, "bound": bounded_label_shares}
    if estimator not in shares_of:
        raise ValueError(f"estimator must be 'unbiased' or 'bound', got {estimator!r}.")
    ks, is_single = check_ks(k)
    ranking = rank(y_true, scores, max(ks), exclude)
    weights = check_inv_propensity(inv_propensity, ranking.y_true.shape[1])
    shares = shares_of[estimator](ranking.y_true, weights)
    gains = np.zeros(ranking.hits.shape)
    gains[ranking.hits] = shares[_entries_of_hits(ranking)]
    values = np.stack([gains[:, :k].sum(axis=1) for k in ks], axis=1)
    return _mean_over_rows(values, is_single, return_std_error)


def unbiased_metric_at_k(
    y_true,
    scores,
    inv_propensity,
    metric,
    k=5,
    *,
    max_exact=12,
    n_draws=1024,
    random_state=None,
    exclude=None,
    return_std_error=False,
):
    """Estimate any mean-over-rows metric@k on complete labels from incomplete ones.

    The general estimator (3.20): a weighted sum of the metric over all subsets of the observed
    labels of a row. Subsets of the labels that are not answered are summed by their size, however
    many there are; those of the answered ones are listed, up to `max_exact` labels of p < 1 (so the
    estimate is exact for every k up to `max_exact`), and drawn beyond.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The observed labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    inv_propensity : array-like of shape (n_labels,)
        1 / p of each label, at least 1.
    metric : {"precision", "recall", "ndcg", "hit_rate", "f1"} or callable
        The value of a row. A callable gets ``hits``, a bool array of shape (t, k) that says which
        of the k answers are labels, best first, and ``n_true``, an int array of shape (t,) with
        the number of labels; it returns an array of shape (t,). Both describe t label sets of
        one row; n_true may be 0.
    k : int or sequence of int, default=5
        Number of answers per row.
    max_exact : int, default=12
        Up to this number of answered labels with p < 1 the estimate of a row is exact; at most 20.
    n_draws : int, default=1024
        Number of subsets drawn in rows with more of them.
    random_state : int or numpy Generator, default=None
        Only used for drawing.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.
    return_std_error : bool, default=False
        Also return the standard error of the mean over rows; it includes that of drawing.

    Returns
    -------
    value : float, or ndarray of shape (len(k),) if `k` is a sequence
        Of any sign and size.
    std_error : float or ndarray of the same shape
        Only if `return_std_error`. NaN for a single row.

    Raises
    ------
    ValueError
        As `unbiased_precision_at_k`; if `metric` is unknown or returns an array of another length;
        if `max_exact` or `n_draws` is out of range.
    TypeError
        If `k`, `max_exact` or `n_draws` is not an integer or the scores are not real numbers.

    See Also
    --------
    unbiased_recall_at_k : The same for recall, exact and faster.

    Notes
    -----
    Time O(2^h r k) for a row with h <= `max_exact` answered labels of p < 1 and r others,
    O(`n_draws` r k) for larger h; about 200 microseconds a row at least.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, equation (3.20).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import unbiased_metric_at_k
    >>> y_observed = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> unbiased_metric_at_k(y_observed, scores, [1.0, 2.0, 4.0], "hit_rate", k=2)
    1.5
    """
    if isinstance(metric, str):
        if metric not in _METRICS:
            raise ValueError(f"metric must be one of {sorted(_METRICS)} or callable: {metric!r}.")
        metric = _METRICS[metric]
    elif not callable(metric):
        raise ValueError(f"metric must be one of {sorted(_METRICS)} or callable: {metric!r}.")
    ks, is_single = check_ks(k)
    ranking = rank(y_true, scores, max(ks), exclude)
    weights = check_inv_propensity(inv_propensity, ranking.y_true.shape[1])
    weights = np.maximum(weights, 1.0)
    rng = np.random.default_rng(random_state)

    indptr, indices = ranking.y_true.indptr, ranking.y_true.indices
    rank_of_entry = np.full(len(indices), -1)
    rank_of_entry[_entries_of_hits(ranking)] = np.nonzero(ranking.hits)[1]
    values = np.empty((len(ranking.hits), len(ks)))
    for row, (start, stop) in enumerate(itertools.pairwise(indptr)):
        ranks, inverse = rank_of_entry[start:stop], weights[indices[start:stop]]
        is_hit = ranks >= 0
        values[row] = general_estimate(
            _MetricOfHits(metric, ranks[is_hit], _count_weights(inverse[~is_hit]), ks),
            inverse[is_hit],
            max_exact=max_exact,
            n_draws=n_draws,
            random_state=rng,
        )
    return _mean_over_rows(values, is_single, return_std_error)


def _count_weights(inverse):
    """Summed weights (3.20) of the subsets of each size; float64 of shape (labels + 1,).

    A label that is not answered matters to a metric only by being counted. The weights are a
    product over the labels, so their sums over subsets of one size are the coefficients of the
    product of (1 - 1/p) + z/p.
    """
    weights = np.ones(1)
    for value in inverse:
        weights = np.convolve(weights, [1.0 - value, value])
    return weights


class _MetricOfHits:
    """The metric of one row at each k, as a function of subsets of its answered labels.

    Over the number of other labels it is a sum with `count_weights`.
    """

    def __init__(self, metric, ranks, count_weights, ks):
        self.metric, self.ranks, self.count_weights, self.ks = metric, ranks, count_weights, ks

    def __call__(self, subsets):
        n_counts = len(self.count_weights)
        hits = np.zeros((len(subsets), max(self.ks)), dtype=bool)
        hits[:, self.ranks] = subsets
        n_true = np.count_nonzero(subsets, axis=1)[:, np.newaxis] + np.arange(n_counts)
        hits, n_true = np.repeat(hits, n_counts, axis=0), n_true.ravel()
        values = np.empty((len(subsets), len(self.ks)))
        for column, k in enumerate(self.ks):
            value = np.asarray(self.metric(hits[:, :k], n_true))
            if value.shape != n_true.shape:
                raise ValueError(
                    f"metric was given {len(n_true)} label sets and must return an array of shape "
                    f"{n_true.shape}, got {value.shape}."
                )
            values[:, column] = value.reshape(-1, n_counts) @ self.count_weights
        return values


def _recall(hits, n_true):
    return hits.sum(axis=1) / np.maximum(n_true, 1)


def _ndcg(hits, n_true):
    discounts = 1.0 / np.log2(np.arange(2, hits.shape[1] + 2))
    ideal = np.cumsum(discounts)[np.clip(n_true, 1, hits.shape[1]) - 1]
    return hits @ discounts / ideal


_METRICS = {
    "precision": lambda hits, n_true: hits.mean(axis=1),
    "recall": _recall,
    "ndcg": _ndcg,
    "hit_rate": lambda hits, n_true: hits.any(axis=1),
    "f1": lambda hits, n_true: 2 * hits.sum(axis=1) / (hits.shape[1] + n_true),
}


def _entries_of_hits(ranking):
    """Position of each hit, row after row by rank, among the stored entries of `y_true`."""
    y_true = ranking.y_true
    n_labels = np.int64(y_true.shape[1])
    rows = np.repeat(np.arange(y_true.shape[0], dtype=np.int64), np.diff(y_true.indptr))
    hit_rows = np.nonzero(ranking.hits)[0]
    wanted = hit_rows * n_labels + ranking.labels[ranking.hits]
    return np.searchsorted(rows * n_labels + y_true.indices, wanted)


def _mean_over_rows(values, is_single, return_std_error):
    """Mean of `values` (n_samples, n_ks) over rows, and its standard error on request."""
    mean = values.mean(axis=0)
    mean = float(mean[0]) if is_single else mean
    if not return_std_error:
        return mean
    n_rows = len(values)
    if n_rows > 1:
        error = values.std(axis=0, ddof=1) / np.sqrt(n_rows)
    else:
        error = np.full(values.shape[1], np.nan)
    return mean, float(error[0]) if is_single else error
