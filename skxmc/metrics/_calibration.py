"""Calibration metrics @k: do the probabilities of the answers say how often they are right?

Calibration@k (Ullah, Schultheis and Babbar, "Labels in Extremes: How Well Calibrated are Extreme
Multi-label Classifiers?", arXiv 2411.04276) pools the k best answers of all rows into pairs of a
probability s and a hit h in {0, 1}, and measures these as one binary problem. Over all labels
instead of the k best, nearly every pair would be (0, 0), and any model would look calibrated.
"""

import numbers
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils import check_random_state

from skxmc.metrics._inputs import check_ks, rank
from skxmc.ops.topk import TopK


class CalibrationError(NamedTuple):
    """A calibration error and its two signed parts.

    Attributes
    ----------
    total : float or ndarray of shape (n_ks,)
        The error over all bins.
    over : float or ndarray of shape (n_ks,)
        The part of over-confident bins: the mean probability is above the hit rate.
    under : float or ndarray of shape (n_ks,)
        The part of under-confident bins: the mean probability is below the hit rate.
    """

    total: float
    over: float
    under: float


class ReliabilityCurve(NamedTuple):
    """How often answers were right, by their probability.

    Attributes
    ----------
    edges : ndarray of shape (n_bins + 1,), float64
        Bin b holds the probabilities above ``edges[b]`` and up to ``edges[b + 1]``; the first bin
        holds ``edges[0]`` as well.
    mean_score : ndarray of shape (n_bins,), float64
        Mean probability of the answers in a bin, NaN in an empty one.
    hit_rate : ndarray of shape (n_bins,), float64
        Fraction of the answers in a bin that are labels of their row, NaN in an empty one.
    count : ndarray of shape (n_bins,), int64
        Number of answers in a bin.
    low, high : ndarray of shape (n_bins,), float64, or None
        Bootstrap interval of the hit rate, NaN in an empty bin; None without bootstrap.
    """

    edges: np.ndarray
    mean_score: np.ndarray
    hit_rate: np.ndarray
    count: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None


class Answers(NamedTuple):
    """The pooled answers of `n_rows` rows: row, probability (float64), hit (bool) of each."""

    row: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    n_rows: int


# ---------------------------------------------------------------------------- the pooled answers


def answer_scores(ranking, scores):
    """Return the probability of each answer of `ranking`, float64, 0 where there is no answer.

    `scores` are those that were ranked; all of them must be probabilities (or -inf: no candidate).
    """
    if isinstance(scores, TopK):
        matrix = _matrix_of_topk(scores, ranking.y_true.shape)
    elif sp.issparse(scores):
        matrix = sp.csr_matrix(scores)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
    else:
        matrix = np.asarray(scores)
    _check_probabilities(matrix)
    rows, places = np.nonzero(ranking.labels >= 0)
    values = np.zeros(ranking.labels.shape)
    if not len(rows):  # SciPy returns another container then
        return values
    found = matrix[rows, ranking.labels[rows, places]]
    values[rows, places] = np.asarray(found, dtype=np.float64).ravel()
    return values


def _matrix_of_topk(topk, shape):
    """The answers of a TopK, whose structure `rank` has checked, as CSR."""
    labels, scores = np.asarray(topk.labels), np.asarray(topk.scores)
    is_answer = labels >= 0
    indptr = np.concatenate([[0], np.cumsum(is_answer.sum(axis=1))])
    return sp.csr_matrix((scores[is_answer], labels[is_answer], indptr), shape)


def _check_probabilities(matrix):
    values = matrix.data if sp.issparse(matrix) else matrix
    if values.size == 0 or (values.min() >= 0 and values.max() <= 1):
        return
    bad = ~((values >= 0) & (values <= 1) | (values == -np.inf))
    if not bad.any():
        return
    if sp.issparse(matrix):
        place = int(np.flatnonzero(bad)[0])
        row = int(np.searchsorted(matrix.indptr, place, side="right")) - 1
        label, value = matrix.indices[place], values[place]
    else:
        row, label = (int(index) for index in np.argwhere(bad)[0])
        value = values[row, label]
    raise ValueError(
        f"scores: row {row}, label {label} has {value}, but calibration is measured on "
        "probabilities between 0 and 1. Pass the result of predict_proba: decision_function and "
        "predict_topk give margins."
    )


def pool_answers(ranking, values, k):
    """Pool the k best answers of all rows; rows with fewer add those that they have."""
    labels = ranking.labels[:, :k]
    row, place = np.nonzero(labels >= 0)
    if not len(row):
        raise ValueError("There is nothing to evaluate: no row has an answer.")
    return Answers(row, values[row, place], ranking.hits[row, place], len(labels))


def _pooled(y_true, scores, k, exclude):
    """Return the answers at each value of `k`, and whether `k` was a single number."""
    ks, is_single = check_ks(k)
    ranking = rank(y_true, scores, max(ks), exclude)
    values = answer_scores(ranking, scores)
    return [pool_answers(ranking, values, k) for k in ks], is_single


# ---------------------------------------------------------------------------- values of a pool


def check_bins(n_bins, strategy):
    if isinstance(n_bins, (bool, np.bool_)) or not isinstance(n_bins, numbers.Integral):
        raise TypeError(f"n_bins must be an integer, got {n_bins!r}.")
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}.")
    if strategy not in ("uniform", "quantile"):
        raise ValueError(f"strategy must be 'uniform' or 'quantile', got {strategy!r}.")


def _bins(score, n_bins, strategy):
    """Return the bin of each score and the edges of the bins."""
    if strategy == "uniform":
        edges = np.linspace(0.0, 1.0, n_bins + 1)
    else:
        # Bin b ends with the ceil(b N / n_bins)-th smallest score. Equal scores share a bin, so
        # that the result does not depend on the order of the rows; ends that coincide are one.
        ordered = np.sort(score)
        ends = -(-np.arange(1, n_bins + 1) * len(ordered) // n_bins) - 1
        edges = np.concatenate([ordered[:1], np.unique(ordered[ends])])
    return np.searchsorted(edges[1:-1], score, side="left"), edges


def calibration_error(answers, n_bins=15, strategy="uniform", norm="l1"):
    """Return the `CalibrationError` of pooled answers."""
    bins, edges = _bins(answers.score, n_bins, strategy)
    n_bins = len(edges) - 1  # equal scores may have left fewer
    count = np.bincount(bins, minlength=n_bins)
    gap = np.bincount(bins, answers.score, n_bins) - np.bincount(bins, answers.hit, n_bins)
    gap /= np.maximum(count, 1)
    weight = count / len(bins)

    def length(gap):
        if norm == "l1":
            return float(np.sum(weight * gap))
        if norm == "l2":
            return float(np.sqrt(np.sum(weight * gap**2)))
        return float(np.max(gap))

    over, under = np.maximum(gap, 0), np.maximum(-gap, 0)
    return CalibrationError(length(over + under), length(over), length(under))


def brier_score(answers):
    """Return the mean squared difference of probability and hit."""
    return float(np.mean((answers.score - answers.hit) ** 2))


def log_loss(answers, eps=1e-7):
    """Return the mean negative log-likelihood, in nats."""
    score = np.clip(answers.score, eps, 1 - eps)
    return float(-np.mean(np.where(answers.hit, np.log(score), np.log1p(-score))))


def reliability_curve(answers, n_bins, strategy, n_bootstrap, confidence_level, random_state):
    """Return the `ReliabilityCurve` of pooled answers."""
    bins, edges = _bins(answers.score, n_bins, strategy)
    n_bins = len(edges) - 1
    count = np.bincount(bins, minlength=n_bins)
    hits = np.bincount(bins, answers.hit, n_bins)
    total = np.bincount(bins, answers.score, n_bins)
    low = high = None
    if n_bootstrap:
        low, high = _bootstrap(answers, bins, n_bins, n_bootstrap, confidence_level, random_state)
    return ReliabilityCurve(edges, _ratio(total, count), _ratio(hits, count), count, low, high)


def _ratio(numerator, denominator):
    """Numerator / denominator, NaN where the latter is 0."""
    empty = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=empty, where=denominator > 0)


def _bootstrap(answers, bins, n_bins, n_bootstrap, confidence_level, random_state):
    """Percentile interval of each bin's hit rate; whole rows are drawn, not single answers.

    The answers of a row are right or wrong together more often than by chance, so that drawing
    single answers would give too narrow an interval.
    """
    random_state = check_random_state(random_state)
    rates = np.empty((n_bootstrap, n_bins))
    wrong_or_right = bins + n_bins * answers.hit  # one count instead of two
    for replicate in rates:
        drawn = random_state.randint(answers.n_rows, size=answers.n_rows)
        weight = np.bincount(drawn, minlength=answers.n_rows)[answers.row]
        wrong, right = np.bincount(wrong_or_right, weight, 2 * n_bins).reshape(2, n_bins)
        replicate[:] = _ratio(right, wrong + right)
    tail = (1 - confidence_level) / 2
    low, high = np.full((2, n_bins), np.nan)
    for b in range(n_bins):
        seen = rates[~np.isnan(rates[:, b]), b]
        if len(seen):
            low[b], high[b] = np.quantile(seen, [tail, 1 - tail])
    return low, high


# ---------------------------------------------------------------------------- public functions


def ece_at_k(
    y_true,
    scores,
    k=5,
    *,
    n_bins=15,
    strategy="uniform",
    norm="l1",
    return_parts=False,
    exclude=None,
):
    """Compute the expected calibration error of the k best answers of each row.

    The answers of all rows are pooled and binned by their probability. With N answers, n_b of them
    in bin b, the error is the sum over b of ``n_b / N * |mean probability - hit rate of bin b|``.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Probabilities between 0 and 1: the result of `predict_proba`; or ranked answers whose scores
        are probabilities.
    k : int or sequence of int, default=5
        Number of answers per row. A row with fewer answers adds those that it has.
    n_bins : int, default=15
        Number of bins.
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width between 0 and 1, or with equally many answers. Equal probabilities are
        always in one bin, so quantile bins may hold different numbers and be fewer.
    norm : {"l1", "l2", "max"}, default="l1"
        How the gaps of the bins are put together: mean, root of the mean square (both weighted by
        n_b / N), or largest.
    return_parts : bool, default=False
        True returns the signed parts as well.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    ece : float, or ndarray of shape (len(k),) if `k` is a sequence; or CalibrationError of such
        Between 0 (calibrated in every bin) and 1. With `return_parts`: `total`, and `over` and
        `under`, the same over the bins whose mean probability is above and below their hit rate.
        total is over + under for "l1", sqrt(over^2 + under^2) for "l2", the larger for "max".

    Raises
    ------
    ValueError
        If a score lies outside [0, 1] (margins do), the shapes differ, `y_true` holds other values
        than 0 and 1, a score is NaN, no row has an answer, or a parameter is out of range.
    TypeError
        If `k` or `n_bins` is not an integer or the scores are not real numbers.

    See Also
    --------
    ace_at_k : The same with quantile bins.
    reliability_curve_at_k : The bins themselves.
    skxmc.inspection.ReliabilityDisplay : A drawing of them.

    Notes
    -----
    Time O(entries of scores + entries of y_true) and a sort of the answers for quantile bins,
    memory O(entries of y_true + n_samples * k). The estimate is biased upwards: a calibrated model
    gets about 0.8 sqrt(p (1 - p) / n_b) from a bin of hit rate p, from chance alone.

    References
    ----------
    Ullah, Schultheis, Babbar, "Labels in Extremes: How Well Calibrated are Extreme Multi-label
    Classifiers?", arXiv 2411.04276 (calibration@k). Naeini, Cooper, Hauskrecht, "Obtaining well
    calibrated probabilities using Bayesian binning", AAAI 2015 (ECE). Guo et al., "On calibration
    of modern neural networks", ICML 2017 (equal-width bins closed on the right, as here).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import ece_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> probabilities = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> ece_at_k(y_true, probabilities, k=1)  # 0.9 was right, 0.4 was wrong
    0.25
    >>> round(ece_at_k(y_true, probabilities, k=1, return_parts=True).over, 2)
    0.2
    """
    check_bins(n_bins, strategy)
    if norm not in ("l1", "l2", "max"):
        raise ValueError(f"norm must be 'l1', 'l2' or 'max', got {norm!r}.")
    pools, is_single = _pooled(y_true, scores, k, exclude)
    errors = [calibration_error(answers, n_bins, strategy, norm) for answers in pools]
    if not return_parts:
        return errors[0].total if is_single else np.array([error.total for error in errors])
    return errors[0] if is_single else CalibrationError(*np.array(errors).T)


def ace_at_k(y_true, scores, k=5, *, n_bins=15, norm="l1", return_parts=False, exclude=None):
    """Compute the adaptive calibration error of the k best answers of each row.

    The expected calibration error with bins that hold equally many answers, so that no bin is
    estimated from few of them.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Probabilities between 0 and 1: the result of `predict_proba`; or ranked answers whose scores
        are probabilities.
    k : int or sequence of int, default=5
        Number of answers per row. A row with fewer answers adds those that it has.
    n_bins : int, default=15
        Number of bins.
    norm : {"l1", "l2", "max"}, default="l1"
        How the gaps of the bins are put together; see `ece_at_k`.
    return_parts : bool, default=False
        True returns the signed parts as well.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    ace : float, or ndarray of shape (len(k),) if `k` is a sequence; or CalibrationError of such
        Between 0 and 1.

    Raises
    ------
    ValueError, TypeError
        As `ece_at_k`.

    See Also
    --------
    ece_at_k : What the parts mean, and bins of equal width.

    Notes
    -----
    Time O(entries of scores + entries of y_true + n_samples * k * log(n_samples * k)), memory
    O(entries of y_true + n_samples * k). Answers of equal probability share a bin: where many are
    equal, bins hold different numbers of answers and are weighted by them.

    References
    ----------
    Nixon et al., "Measuring calibration in deep learning", CVPR workshops 2019. Theirs averages
    over classes; this one pools the answers, as all metrics @k here.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import ace_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> probabilities = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> round(ace_at_k(y_true, probabilities, k=2, n_bins=2), 2)  # bins 0.3, 0.4 and 0.8, 0.9
    0.25
    """
    return ece_at_k(
        *(y_true, scores, k),
        n_bins=n_bins,
        strategy="quantile",
        norm=norm,
        return_parts=return_parts,
        exclude=exclude,
    )


def brier_at_k(y_true, scores, k=5, *, exclude=None):
    """Compute the Brier score of the k best answers: the mean of (probability - hit)^2.

    It falls with better calibration and with better separation of right from wrong answers.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Probabilities between 0 and 1: the result of `predict_proba`; or ranked answers whose scores
        are probabilities.
    k : int or sequence of int, default=5
        Number of answers per row. A row with fewer answers adds those that it has.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    brier : float, or ndarray of shape (len(k),) if `k` is a sequence
        Between 0 (best) and 1.

    Raises
    ------
    ValueError, TypeError
        As `ece_at_k`.

    Notes
    -----
    Time O(entries of scores + entries of y_true), memory O(entries of y_true + n_samples * k).
    Compare models by it only where they answer alike: a model with worse answers pools easier
    pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import brier_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> probabilities = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> round(brier_at_k(y_true, probabilities, k=1), 3)  # (0.1^2 + 0.4^2) / 2
    0.085
    """
    pools, is_single = _pooled(y_true, scores, k, exclude)
    values = [brier_score(answers) for answers in pools]
    return values[0] if is_single else np.array(values)


def nll_at_k(y_true, scores, k=5, *, eps=1e-7, exclude=None):
    """Compute the negative log-likelihood (log loss) of the k best answers.

    The mean of -log(probability) of the right and -log(1 - probability) of the wrong answers.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Probabilities between 0 and 1: the result of `predict_proba`; or ranked answers whose scores
        are probabilities.
    k : int or sequence of int, default=5
        Number of answers per row. A row with fewer answers adds those that it has.
    eps : float, default=1e-7
        Probabilities are clipped to [eps, 1 - eps], so that 0 and 1 are defined: a wrong answer
        given with certainty costs -log(eps), about 16 nats. The default is the resolution of
        float32 just below 1.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    nll : float, or ndarray of shape (len(k),) if `k` is a sequence
        In nats (natural logarithm); 0 is best.

    Raises
    ------
    ValueError, TypeError
        As `ece_at_k`; also if `eps` is not between 0 and 0.5.

    Notes
    -----
    Time O(entries of scores + entries of y_true), memory O(entries of y_true + n_samples * k).

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import nll_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> probabilities = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> round(nll_at_k(y_true, probabilities, k=1), 3)  # -(log 0.9 + log 0.6) / 2
    0.308
    """
    if not isinstance(eps, numbers.Real) or not 0 < eps < 0.5:
        raise ValueError(f"eps must be a number between 0 and 0.5, got {eps!r}.")
    pools, is_single = _pooled(y_true, scores, k, exclude)
    values = [log_loss(answers, eps) for answers in pools]
    return values[0] if is_single else np.array(values)


def reliability_curve_at_k(
    y_true,
    scores,
    k=5,
    *,
    n_bins=15,
    strategy="uniform",
    n_bootstrap=200,
    confidence_level=0.95,
    random_state=None,
    exclude=None,
):
    """Compute how often the k best answers are right, by their probability.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Probabilities between 0 and 1: the result of `predict_proba`; or ranked answers whose scores
        are probabilities.
    k : int or sequence of int, default=5
        Number of answers per row. A row with fewer answers adds those that it has.
    n_bins : int, default=15
        Number of bins.
    strategy : {"uniform", "quantile"}, default="uniform"
        Bins of equal width between 0 and 1, or with equally many answers (equal probabilities in
        one bin, so there may be fewer bins).
    n_bootstrap : int, default=200
        Number of bootstrap samples of the rows from which the interval of each hit rate is taken; 0
        leaves it out.
    confidence_level : float, default=0.95
        Fraction of the bootstrap hit rates inside the interval.
    random_state : int, RandomState instance or None, default=None
        Draws the bootstrap samples.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    curve : ReliabilityCurve, or list of them if `k` is a sequence
        Edges of the bins; mean probability, hit rate and number of answers of each bin; interval of
        the hit rate.

    Raises
    ------
    ValueError, TypeError
        As `ece_at_k`; also if `n_bootstrap` is negative or no integer, or `confidence_level` is not
        between 0 and 1.

    See Also
    --------
    skxmc.inspection.ReliabilityDisplay : A drawing of it.

    Notes
    -----
    Time O(entries of scores + entries of y_true + n_bootstrap * n_samples * k), memory
    O(entries of y_true + n_samples * k + n_bootstrap * n_bins). Rows are drawn, not single answers,
    since the answers of a row depend on each other. The interval is that of the percentiles: it has
    no width where all answers of a bin are right, or all wrong, however few they are.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import reliability_curve_at_k
    >>> y_true = np.array([[1, 0, 1], [0, 1, 0]])
    >>> probabilities = np.array([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4]])
    >>> curve = reliability_curve_at_k(y_true, probabilities, k=2, n_bins=2, n_bootstrap=0)
    >>> curve.hit_rate, curve.count
    (array([0.5, 0.5]), array([2, 2]))
    """
    check_bins(n_bins, strategy)
    check_bootstrap(n_bootstrap, confidence_level)
    pools, is_single = _pooled(y_true, scores, k, exclude)
    curves = [
        reliability_curve(answers, n_bins, strategy, n_bootstrap, confidence_level, random_state)
        for answers in pools
    ]
    return curves[0] if is_single else curves


def check_bootstrap(n_bootstrap, confidence_level):
    if isinstance(n_bootstrap, (bool, np.bool_)) or not isinstance(n_bootstrap, numbers.Integral):
        raise TypeError(f"n_bootstrap must be an integer, got {n_bootstrap!r}.")
    if n_bootstrap < 0:
        raise ValueError(f"n_bootstrap must be at least 0, got {n_bootstrap}.")
    if not isinstance(confidence_level, numbers.Real) or not 0 < confidence_level < 1:
        raise ValueError(
            f"confidence_level must be a number between 0 and 1, got {confidence_level!r}."
        )
