"""The numbers of a report: metrics with intervals, frequency bins, labels, examples."""

from typing import NamedTuple

import numpy as np

from skxmc.metrics import _calibration, _ranking
from skxmc.metrics._inputs import check_inv_propensity


class Estimate(NamedTuple):
    """A value with its interval; ``low`` and ``high`` are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None


def row_values(ranking, ks, inv_propensity=None):
    """What each row adds to the numerator and the denominator of each metric that is a mean.

    Returns
    -------
    dict of str to (ndarray of shape (n_samples,), ndarray of shape (n_samples,) or None)
        The metric is the ratio of the means; a denominator of None is 1.
    """
    hits = ranking.hits.astype(np.float64)
    n_true = ranking.n_true
    values = {}
    ideal = np.cumsum(_ranking._discounts(max(1, min(max(ks), int(n_true.max(initial=1))))))

    def ndcg(gains, k):
        return _ranking._dcg_of_rows(gains, k) / ideal[np.clip(n_true, 1, k) - 1]

    for k in ks:
        values[f"P@{k}"] = hits[:, :k].sum(axis=1) / k, None
    for k in ks:
        values[f"nDCG@{k}"] = ndcg(hits, k), None
    for k in ks:
        values[f"R@{k}"] = hits[:, :k].sum(axis=1) / np.maximum(n_true, 1), None
    for k in ks:
        values[f"hit-rate@{k}"] = hits[:, :k].any(axis=1).astype(np.float64), None
    if inv_propensity is not None:
        weights = check_inv_propensity(inv_propensity, ranking.y_true.shape[1])
        gains = hits * weights[ranking.labels]
        best = _ranking._ideal_gains(ranking, max(ks), weights)
        for k in ks:
            values[f"PSP@{k}"] = gains[:, :k].sum(axis=1) / k, best[:, :k].sum(axis=1) / k
        for k in ks:
            values[f"PSnDCG@{k}"] = ndcg(gains, k), ndcg(best, k)
    return values


def bootstrap_weights(n_rows, n_bootstrap, rng):
    """Yield the weights of the rows in each sample of the Bayesian bootstrap (sum 1).

    Rubin, The Bayesian bootstrap, Annals of Statistics 1981: exponential weights, normalised. No
    row gets the weight 0, as 37 % of them do in the ordinary bootstrap; there, a label with one
    row would be missing from these samples, and every macro average be too low.
    """
    for _ in range(n_bootstrap):
        weights = rng.standard_exponential(n_rows)
        yield weights / weights.sum()


def estimate_metrics(
    ranking, ks, inv_propensity=None, *, n_bootstrap=1000, confidence_level=0.95, rng=None
):
    """All ranking metrics with intervals.

    Returns
    -------
    dict of str to Estimate
        The names of `skxmc.metrics.evaluate_topk`. "coverage" has no interval: it counts labels.
    """
    n_rows, n_labels = ranking.y_true.shape
    rows = row_values(ranking, ks, inv_propensity)
    tops = np.stack([top for top, _ in rows.values()], axis=1)
    bottoms = np.stack(
        [np.ones(n_rows) if bottom is None else bottom for _, bottom in rows.values()], axis=1
    )
    counts = _LabelCounts(ranking, ks)
    names = [*rows, *(f"macro-{metric}@{k}" for metric in ("P", "R", "F1") for k in ks)]

    def evaluate(weights):
        top, bottom = weights @ tops, weights @ bottoms
        means = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
        return np.concatenate([means, counts.macro(weights).ravel() / n_labels])

    values = evaluate(np.full(n_rows, 1 / n_rows))
    low = high = [None] * len(values)
    if n_bootstrap:
        samples = np.array([evaluate(w) for w in bootstrap_weights(n_rows, n_bootstrap, rng)])
        tail = (1 - confidence_level) / 2
        low, high = np.quantile(samples, [tail, 1 - tail], axis=0).tolist()
    result = {
        name: Estimate(float(value), *ends)
        for name, value, *ends in zip(names, values, low, high, strict=True)
    }
    for k, covered in zip(ks, counts.n_covered, strict=True):
        result[f"coverage@{k}"] = Estimate(covered / n_labels)
    return result


class _LabelCounts:
    """Weighted true positives, answers and positives of each label that occurs at all."""

    def __init__(self, ranking, ks):
        labels, hits, y_true = ranking.labels, ranking.hits, ranking.y_true
        k_max = min(max(ks), labels.shape[1])
        labels, hits = labels[:, :k_max], hits[:, :k_max]
        rows = np.broadcast_to(np.arange(len(labels))[:, None], labels.shape)
        seen = np.unique(np.concatenate([labels[labels >= 0], y_true.indices]))
        self.n_seen = len(seen)
        self.true_rows = np.repeat(np.arange(len(labels)), np.diff(y_true.indptr))
        self.true_labels = np.searchsorted(seen, y_true.indices)
        self.answers = []
        self.n_covered = []
        for k in ks:
            given = labels[:, :k] >= 0
            self.answers.append(
                (
                    rows[:, :k][given],
                    np.searchsorted(seen, labels[:, :k][given]),
                    hits[:, :k][given],
                )
            )
            self.n_covered.append(len(np.unique(labels[:, :k][hits[:, :k]])))

    def macro(self, weights):
        """Sums over the labels of precision, recall and F1, shape (3, n_ks)."""
        true = np.bincount(self.true_labels, weights[self.true_rows], self.n_seen)
        out = np.empty((3, len(self.answers)))
        for i, (rows, labels, hits) in enumerate(self.answers):
            weight = weights[rows]
            given = np.bincount(labels, weight, self.n_seen)
            right = np.bincount(labels[hits], weight[hits], self.n_seen)
            out[0, i] = _ratio(right, given).sum()
            out[1, i] = _ratio(right, true).sum()
            out[2, i] = _ratio(2 * right, given + true).sum()
        return out


def _ratio(top, bottom):
    # Not zeros_like: bincount of nothing is an array of integers.
    return np.divide(top, bottom, out=np.zeros(top.shape), where=bottom > 0)


def calibration_numbers(ranking, answers, ks):
    """Calibration errors @k by name; None if the scores are no probabilities."""
    given = answers.scores[answers.labels >= 0]
    if not given.size or given.min() < 0 or given.max() > 1:
        return None
    values = _calibration.answer_scores(ranking, answers)
    result = {}
    pools = [_calibration.pool_answers(ranking, values, k) for k in ks]
    for k, pool in zip(ks, pools, strict=True):
        result[f"ECE@{k}"] = Estimate(float(_calibration.calibration_error(pool).total))
    for k, pool in zip(ks, pools, strict=True):
        result[f"Brier@{k}"] = Estimate(float(_calibration.brier_score(pool)))
    return result


class Bin(NamedTuple):
    """Labels of similar training frequency.

    Attributes
    ----------
    n_labels : int
    mean_count, min_count, max_count : float, int, int
        Rows of a label.
    n_true : int
        Pairs of row and label to be found.
    contribution : float
        What the bin adds to P@k: the bins sum up to it.
    possible : float
        What it could add at most, alone: its pairs, k of a row, over k * n_samples.
    recall : float
        Share of the bin's pairs that are found.
    """

    n_labels: int
    mean_count: float
    min_count: int
    max_count: int
    n_true: int
    contribution: float
    possible: float
    recall: float


def frequency_bins(ranking, counts, k, n_bins=5):
    """Split the labels into bins with about equally many training positives, frequent ones first.

    As figure 1.3 of Kharbanda (thesis, UCLA 2024): bin 1 holds few head labels, the last one the
    many labels of the tail.
    """
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order] / 2  # a label falls where its middle lies
    total = max(float(counts.sum()), 1.0)
    number = np.minimum((before * n_bins / total).astype(np.int64), n_bins - 1)
    of_label = np.empty(len(counts), dtype=np.int64)
    of_label[order] = number
    labels, hits = ranking.labels[:, :k], ranking.hits[:, :k]
    found = np.bincount(of_label[labels[hits]], minlength=n_bins)
    n_true = np.bincount(of_label[ranking.y_true.indices], minlength=n_bins)
    rows = np.repeat(np.arange(len(labels)), np.diff(ranking.y_true.indptr))
    pairs = np.bincount(rows * n_bins + of_label[ranking.y_true.indices])
    at_most = np.zeros(n_bins)
    np.add.at(at_most, np.arange(len(pairs)) % n_bins, np.minimum(pairs, k))
    bins = []
    for b in range(n_bins):
        mine = counts[of_label == b]
        if not len(mine):
            continue
        bins.append(
            Bin(
                n_labels=len(mine),
                mean_count=float(mine.mean()),
                min_count=int(mine.min()),
                max_count=int(mine.max()),
                n_true=int(n_true[b]),
                contribution=float(found[b] / (k * len(labels))),
                possible=float(at_most[b] / (k * len(labels))),
                recall=float(found[b] / n_true[b]) if n_true[b] else 0.0,
            )
        )
    return bins


class WorstLabel(NamedTuple):
    """A label that is answered badly."""

    label: int
    count: int | None
    n_true: int
    n_found: int
    precision: float
    recall: float
    f1: float
    instead: list


def worst_labels(ranking, counts, k, *, n_labels=20, min_rows=5, n_instead=3):
    """Labels of at least ``min_rows`` rows with the lowest F1@k; of equal ones the more frequent.

    ``instead`` holds the wrong answers given most often to rows where the label was missed, as
    pairs of label and number.
    """
    y_true, labels, hits = ranking.y_true, ranking.labels[:, :k], ranking.hits[:, :k]
    width = y_true.shape[1]
    n_true = np.bincount(y_true.indices, minlength=width)
    n_given = np.bincount(labels[labels >= 0], minlength=width)
    n_found = np.bincount(labels[hits], minlength=width)
    f1 = _ratio(2.0 * n_found, (n_given + n_true).astype(float))
    eligible = np.flatnonzero(n_true >= min_rows)
    chosen = eligible[np.lexsort((-n_true[eligible], f1[eligible]))][:n_labels]
    by_label = y_true.tocsc()
    result = []
    for j in chosen.tolist():
        rows = by_label.indices[by_label.indptr[j] : by_label.indptr[j + 1]]
        missed = rows[~(labels[rows] == j).any(axis=1)]
        wrong = labels[missed][~hits[missed] & (labels[missed] >= 0)]
        others, times = np.unique(wrong, return_counts=True)
        most = np.lexsort((others, -times))[:n_instead]
        result.append(
            WorstLabel(
                label=j,
                count=None if counts is None else int(counts[j]),
                n_true=int(n_true[j]),
                n_found=int(n_found[j]),
                precision=float(n_found[j] / n_given[j]) if n_given[j] else 0.0,
                recall=float(n_found[j] / n_true[j]),
                f1=float(f1[j]),
                instead=list(zip(others[most].tolist(), times[most].tolist(), strict=True)),
            )
        )
    return result


def choose_examples(ranking, scores, k, n_examples, rng):
    """Rows with all labels found, and rows with none, the most confident first.

    Returns
    -------
    right, wrong : lists of int
        The right ones are drawn at random.
    """
    hits = ranking.hits[:, :k]
    n_true = ranking.n_true
    right = np.flatnonzero((hits.sum(axis=1) == n_true) & (n_true > 0) & hits[:, 0])
    if len(right) > n_examples:
        right = np.sort(rng.choice(right, n_examples, replace=False))
    wrong = np.flatnonzero(~hits.any(axis=1) & (n_true > 0) & (ranking.labels[:, 0] >= 0))
    wrong = wrong[np.argsort(-scores[wrong, 0], kind="stable")][:n_examples]
    return right.tolist(), wrong.tolist()
