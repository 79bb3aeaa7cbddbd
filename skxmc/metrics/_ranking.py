"""Ranking metrics @k that average over rows.

Every metric here is a mean over the rows of

    (sum over ranks r = 1..k of gain(r) * discount(r)) / denominator,

where gain(r) is 0 if the r-th answer is not a label of the row, and otherwise 1, or 1 / p of that
label in the propensity-scored metrics.

=============  ==================  =========================================
metric         discount(r)         denominator of a row with n_i labels
=============  ==================  =========================================
precision      1                   k
recall         1                   n_i
DCG            1 / log2(r + 1)     1
nDCG           1 / log2(r + 1)     sum of discounts up to rank min(k, n_i)
hit rate       1, and min(sum, 1)  1
=============  ==================  =========================================

The rules for ties, short rows, rows without labels and normalisation: see `skxmc.metrics`.
"""

import numpy as np
import scipy.sparse as sp

from skxmc.metrics._inputs import check_inv_propensity, check_ks, rank
from skxmc.ops.topk import topk_csr


def _discounts(k):
    return 1.0 / np.log2(np.arange(2, k + 2))


def mean_precision(gains, n_true, k):
    # One division at the end: without weights the sum is an exact integer.
    return gains[:, :k].sum() / (len(gains) * k)


def mean_recall(gains, n_true, k):
    return (gains[:, :k].sum(axis=1) / np.maximum(n_true, 1)).mean()


def _dcg_of_rows(gains, k):
    gains = gains[:, :k]
    return (gains * _discounts(gains.shape[1])).sum(axis=1)


def mean_dcg(gains, n_true, k):
    return _dcg_of_rows(gains, k).mean()


def mean_ndcg(gains, n_true, k):
    ideal = np.cumsum(_discounts(min(k, n_true.max(initial=1))))
    # Rows without labels have no gain: any denominator will do.
    return (_dcg_of_rows(gains, k) / ideal[np.clip(n_true, 1, k) - 1]).mean()


def mean_hit_rate(gains, n_true, k):
    return np.count_nonzero(gains[:, :k].any(axis=1)) / len(gains)


def _ideal_gains(ranking, k_max, weights):
    """Gains (n_samples, <= k_max) of the best possible ranking: by weight, labels only."""
    k_max = min(k_max, ranking.y_true.shape[1])
    if weights is None:
        return (np.arange(k_max) < ranking.n_true[:, np.newaxis]).astype(np.float64)
    y_true = ranking.y_true
    weighted = sp.csr_array((weights[y_true.indices], y_true.indices, y_true.indptr), y_true.shape)
    labels = topk_csr(weighted, k_max).labels
    return np.where(labels >= 0, weights[labels], 0.0)


def mean_over_rows(mean, ranking, ks, weights=None, normalize=False):
    """Value of one metric at each of `ks`, as a list; `weights` are 1 / p of each label or None."""
    gains = ranking.hits.astype(np.float64)
    if weights is not None:
        gains *= weights[ranking.labels]
    values = [mean(gains, ranking.n_true, k) for k in ks]
    if normalize:
        ideal_gains = _ideal_gains(ranking, max(ks), weights)
        ideal = [mean(ideal_gains, ranking.n_true, k) for k in ks]
        values = [v / i if i > 0 else 0.0 for v, i in zip(values, ideal, strict=True)]
    return [float(value) for value in values]


def _evaluate(mean, y_true, scores, k, normalize, exclude, inv_propensity=None):
    ks, is_single = check_ks(k)
    ranking = rank(y_true, scores, max(ks), exclude)
    weights = None
    if inv_propensity is not None:
        weights = check_inv_propensity(inv_propensity, ranking.y_true.shape[1])
    values = mean_over_rows(mean, ranking, ks, weights, normalize)
    return values[0] if is_single else np.array(values)


def _evaluate_weighted(mean, y_true, scores, inv_propensity, k, normalize, exclude):
    if inv_propensity is None:
        raise ValueError(
            "inv_propensity is required: skxmc.label_space.inverse_propensity computes it from the "
            "training labels."
        )
    return _evaluate(mean, y_true, scores, k, normalize, exclude, inv_propensity)


def precision_at_k(y_true, scores, k=5, *, normalize=False, exclude=None):
    """Compute precision@k: the fraction of the k answers that are labels of the row.

    Divided by k in every row, also where a row has fewer than k answers or fewer than k labels.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    k : int or sequence of int, default=5
        Number of answers per row.
    normalize : bool, default=False
        True divides by the value of the best possible ranking of the same rows.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    precision : float, or ndarray of shape (len(k),) if `k` is a sequence
        A fraction between 0 and 1.

    Raises
    ------
    ValueError
        If the shapes differ, `y_true` holds other values than 0 and 1, a score is NaN, there are no
        rows, or k < 1. The row at fault is named.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + entries of y_true), memory O(entries of y_true + n_samples * k).
    Ties, rows without labels and rows with few answers: see `skxmc.metrics`.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import precision_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> precision_at_k(y_true, scores, k=[1, 2])
    array([0.5, 0.5])
    """
    return _evaluate(mean_precision, y_true, scores, k, normalize, exclude)


def recall_at_k(y_true, scores, k=5, *, normalize=False, exclude=None):
    """Compute recall@k: the fraction of the labels of a row that are among its k answers.

    Divided by the number of labels of the row, also where that is larger than k.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    k : int or sequence of int, default=5
        Number of answers per row.
    normalize : bool, default=False
        True divides by the value of the best possible ranking of the same rows.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    recall : float, or ndarray of shape (len(k),) if `k` is a sequence
        A fraction between 0 and 1.

    Raises
    ------
    ValueError
        If the shapes differ, `y_true` holds other values than 0 and 1, a score is NaN, there are no
        rows, or k < 1. The row at fault is named.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + entries of y_true), memory O(entries of y_true + n_samples * k).
    Ties, rows without labels and rows with few answers: see `skxmc.metrics`.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import recall_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> recall_at_k(y_true, scores, k=[1, 2])
    array([0.25, 0.75])
    """
    return _evaluate(mean_recall, y_true, scores, k, normalize, exclude)


def dcg_at_k(y_true, scores, k=5, *, normalize=False, exclude=None):
    """Compute DCG@k: hits, discounted by 1 / log2(rank + 1), summed over the k answers.

    The sum is not divided by k.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    k : int or sequence of int, default=5
        Number of answers per row.
    normalize : bool, default=False
        True divides by the value of the best possible ranking of the same rows.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    dcg : float, or ndarray of shape (len(k),) if `k` is a sequence
        Between 0 and the sum of the k discounts; between 0 and 1 if normalised.

    Raises
    ------
    ValueError
        If the shapes differ, `y_true` holds other values than 0 and 1, a score is NaN, there are no
        rows, or k < 1. The row at fault is named.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + entries of y_true), memory O(entries of y_true + n_samples * k).
    Ties, rows without labels and rows with few answers: see `skxmc.metrics`.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import dcg_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> dcg_at_k(y_true, scores, k=2)
    0.815...
    """
    return _evaluate(mean_dcg, y_true, scores, k, normalize, exclude)


def ndcg_at_k(y_true, scores, k=5, *, normalize=False, exclude=None):
    """Compute nDCG@k: DCG@k divided by the DCG of the best ranking of the row.

    The best ranking has a hit at each of the first min(k, n_i) ranks, n_i the number of labels of
    the row.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    k : int or sequence of int, default=5
        Number of answers per row.
    normalize : bool, default=False
        True divides by the value of the best possible ranking of the same rows, which is the
        fraction of rows that have labels.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    ndcg : float, or ndarray of shape (len(k),) if `k` is a sequence
        A fraction between 0 and 1.

    Raises
    ------
    ValueError
        If the shapes differ, `y_true` holds other values than 0 and 1, a score is NaN, there are no
        rows, or k < 1. The row at fault is named.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + entries of y_true), memory O(entries of y_true + n_samples * k).
    Ties, rows without labels and rows with few answers: see `skxmc.metrics`.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import ndcg_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> ndcg_at_k(y_true, scores, k=2)
    0.622...
    """
    return _evaluate(mean_ndcg, y_true, scores, k, normalize, exclude)


def hit_rate_at_k(y_true, scores, k=5, *, normalize=False, exclude=None):
    """Compute hit rate@k: the fraction of rows with at least one label among the k answers.

    Also called success@k.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    k : int or sequence of int, default=5
        Number of answers per row.
    normalize : bool, default=False
        True divides by the value of the best possible ranking of the same rows, which is the
        fraction of rows that have labels.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    hit_rate : float, or ndarray of shape (len(k),) if `k` is a sequence
        A fraction between 0 and 1.

    Raises
    ------
    ValueError
        If the shapes differ, `y_true` holds other values than 0 and 1, a score is NaN, there are no
        rows, or k < 1. The row at fault is named.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + entries of y_true), memory O(entries of y_true + n_samples * k).
    Ties, rows without labels and rows with few answers: see `skxmc.metrics`.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import hit_rate_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> hit_rate_at_k(y_true, scores, k=[1, 2])
    array([0.5, 1. ])
    """
    return _evaluate(mean_hit_rate, y_true, scores, k, normalize, exclude)


def psp_at_k(y_true, scores, inv_propensity, k=5, *, normalize=True, exclude=None):
    """Compute propensity-scored precision@k: precision@k with a hit worth 1 / p.

    Labels that are rarely recorded (small propensity p) weigh more.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    inv_propensity : array-like of shape (n_labels,)
        1 / p of each label, at least 1, from the *training* labels
        (`skxmc.label_space.inverse_propensity`).
    k : int or sequence of int, default=5
        Number of answers per row.
    normalize : bool, default=True
        True divides by the value of the best possible ranking of the same rows, the labels of each
        row by decreasing 1 / p; this is what published tables hold. False gives the mean over rows
        of the summed 1 / p of the hits, divided by k.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    psp : float, or ndarray of shape (len(k),) if `k` is a sequence
        A fraction between 0 and 1 if normalised, otherwise it may exceed 1.

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
    Ties, rows without labels and rows with few answers: see `skxmc.metrics`.

    References
    ----------
    H. Jain, Y. Prabhu, M. Varma. Extreme multi-label loss functions for recommendation, tagging,
    ranking & other missing label applications. KDD 2016. https://doi.org/10.1145/2939672.2939756
    E. Schultheis. PhD thesis, Aalto University, 2025, equations (2.11) and (2.12).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import psp_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> psp_at_k(y_true, scores, inv_propensity=[1.0, 2.0, 4.0], k=2)
    0.428...
    """
    return _evaluate_weighted(mean_precision, y_true, scores, inv_propensity, k, normalize, exclude)


def psndcg_at_k(y_true, scores, inv_propensity, k=5, *, normalize=True, exclude=None):
    """Compute propensity-scored nDCG@k: nDCG@k with a hit worth 1 / p.

    The DCG of a row is divided by the sum of the discounts up to rank min(k, n_i), n_i the number
    of labels of the row.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    inv_propensity : array-like of shape (n_labels,)
        1 / p of each label, at least 1, from the *training* labels
        (`skxmc.label_space.inverse_propensity`).
    k : int or sequence of int, default=5
        Number of answers per row.
    normalize : bool, default=True
        True divides by the value of the best possible ranking of the same rows, the labels of each
        row by decreasing 1 / p; this is what published tables hold. False gives the
        mean over rows without that division.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    psndcg : float, or ndarray of shape (len(k),) if `k` is a sequence
        A fraction between 0 and 1 if normalised, otherwise it may exceed 1.

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
    Ties, rows without labels and rows with few answers: see `skxmc.metrics`.

    References
    ----------
    H. Jain, Y. Prabhu, M. Varma. Extreme multi-label loss functions for recommendation, tagging,
    ranking & other missing label applications. KDD 2016. https://doi.org/10.1145/2939672.2939756

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import psndcg_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> psndcg_at_k(y_true, scores, inv_propensity=[1.0, 2.0, 4.0], k=2)
    0.387...
    """
    return _evaluate_weighted(mean_ndcg, y_true, scores, inv_propensity, k, normalize, exclude)


def ps_recall_at_k(y_true, scores, inv_propensity, k=5, *, normalize=True, exclude=None):
    """Compute propensity-scored recall@k: recall@k with a hit worth 1 / p.

    The summed 1 / p of the hits is divided by the number of labels of the row.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    inv_propensity : array-like of shape (n_labels,)
        1 / p of each label, at least 1, from the *training* labels
        (`skxmc.label_space.inverse_propensity`).
    k : int or sequence of int, default=5
        Number of answers per row.
    normalize : bool, default=True
        True divides by the value of the best possible ranking of the same rows, the labels of each
        row by decreasing 1 / p; this is what published tables hold. False gives the
        mean over rows without that division.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    ps_recall : float, or ndarray of shape (len(k),) if `k` is a sequence
        A fraction between 0 and 1 if normalised, otherwise it may exceed 1.

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
    Ties, rows without labels and rows with few answers: see `skxmc.metrics`.

    References
    ----------
    H. Jain, Y. Prabhu, M. Varma. Extreme multi-label loss functions for recommendation, tagging,
    ranking & other missing label applications. KDD 2016. https://doi.org/10.1145/2939672.2939756

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import ps_recall_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> ps_recall_at_k(y_true, scores, inv_propensity=[1.0, 2.0, 4.0], k=2)
    0.555...
    """
    return _evaluate_weighted(mean_recall, y_true, scores, inv_propensity, k, normalize, exclude)
