"""Metrics @k that average over labels: every label counts the same, however rare it is.

The k best answers of each row are the decisions. For label j, with tp_j rows where it is answered
and true, of pred_j where it is answered and true_j where it is true:

=========  ============================================
metric     value of label j
=========  ============================================
precision  tp_j / pred_j
recall     tp_j / true_j
F1         2 tp_j / (pred_j + true_j)
coverage   1 if tp_j > 0, otherwise 0
=========  ============================================

0 / 0 is 0. Ties and rows with few answers: see `skxmc.metrics`.
"""

import numpy as np

from skxmc.metrics._inputs import check_ks, rank


def label_precision(tp, predicted, true):
    return tp / np.maximum(predicted, 1)


def label_recall(tp, predicted, true):
    return tp / np.maximum(true, 1)


def label_f1(tp, predicted, true):
    return 2.0 * tp / np.maximum(predicted + true, 1)


def label_coverage(tp, predicted, true):
    return (tp > 0).astype(np.float64)


def _averaged_labels(labels, true):
    """Return what selects the labels to average over: a slice, a mask or ids."""
    if isinstance(labels, str):
        if labels == "all":
            return slice(None)
        if labels == "present":
            return true > 0
    else:
        ids = np.asarray(labels)
        if ids.ndim == 1 and ids.size and ids.dtype.kind in "iu":
            if ids.min() < 0 or ids.max() >= len(true):
                raise ValueError(
                    f"labels holds the id {ids.min() if ids.min() < 0 else ids.max()}, outside "
                    f"0..{len(true) - 1}."
                )
            return np.unique(ids)
    raise ValueError(f"labels must be 'all', 'present' or an array of label ids, got {labels!r}.")


def mean_over_labels(value, ranking, ks, labels="all"):
    """Value of one metric at each of `ks`, as a list."""
    n_labels = ranking.y_true.shape[1]
    true = np.bincount(ranking.y_true.indices, minlength=n_labels)
    chosen = _averaged_labels(labels, true)
    values = []
    for k in ks:
        answers, hits = ranking.labels[:, :k], ranking.hits[:, :k]
        predicted = np.bincount(answers[answers >= 0], minlength=n_labels)
        tp = np.bincount(answers[hits], minlength=n_labels)
        of_label = value(tp, predicted, true)[chosen]
        values.append(float(of_label.mean()) if of_label.size else 0.0)
    return values


def _evaluate(value, y_true, scores, k, labels, exclude):
    ks, is_single = check_ks(k)
    ranking = rank(y_true, scores, max(ks), exclude)
    values = mean_over_labels(value, ranking, ks, labels)
    return values[0] if is_single else np.array(values)


def macro_precision_at_k(y_true, scores, k=5, *, labels="all", exclude=None):
    """Compute macro precision@k: the mean over labels of tp / answered.

    A label that is never answered has the value 0.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    k : int or sequence of int, default=5
        Number of answers per row.
    labels : {"all", "present"} or array-like of int, default="all"
        The labels to average over: all columns, as in the literature and in scikit-learn; those
        with a positive in `y_true`, which makes small test sets comparable with large ones; or
        these ids (the tail, for example). Answers compete with all labels in every case.
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
        rows, k < 1, or `labels` is none of the above. The row at fault is named.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + entries of y_true + n_labels), memory
    O(entries of y_true + n_samples * k + n_labels). Ties and rows with few answers: see
    `skxmc.metrics`.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import macro_precision_at_k
    >>> y_true = np.array([[1, 0, 0], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.4, 0.3, 0.2]])
    >>> macro_precision_at_k(y_true, scores, k=1)
    0.166...
    >>> macro_precision_at_k(y_true, scores, k=[1, 2], labels="present")
    array([0.25, 0.5 ])
    """
    return _evaluate(label_precision, y_true, scores, k, labels, exclude)


def macro_recall_at_k(y_true, scores, k=5, *, labels="all", exclude=None):
    """Compute macro recall@k: the mean over labels of tp / true.

    A label without positives has the value 0.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    k : int or sequence of int, default=5
        Number of answers per row.
    labels : {"all", "present"} or array-like of int, default="all"
        The labels to average over: all columns, as in the literature and in scikit-learn; those
        with a positive in `y_true`, which makes small test sets comparable with large ones; or
        these ids (the tail, for example). Answers compete with all labels in every case.
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
        rows, k < 1, or `labels` is none of the above. The row at fault is named.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + entries of y_true + n_labels), memory
    O(entries of y_true + n_samples * k + n_labels). Ties and rows with few answers: see
    `skxmc.metrics`.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import macro_recall_at_k
    >>> y_true = np.array([[1, 0, 0], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.4, 0.3, 0.2]])
    >>> macro_recall_at_k(y_true, scores, k=1)
    0.333...
    >>> macro_recall_at_k(y_true, scores, k=[1, 2], labels="present")
    array([0.5, 1. ])
    """
    return _evaluate(label_recall, y_true, scores, k, labels, exclude)


def macro_f1_at_k(y_true, scores, k=5, *, labels="all", exclude=None):
    """Compute macro F1@k: the mean over labels of 2 tp / (answered + true).

    It is the mean of the F1 of each label, not the F1 of macro precision and macro recall.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    k : int or sequence of int, default=5
        Number of answers per row.
    labels : {"all", "present"} or array-like of int, default="all"
        The labels to average over: all columns, as in the literature and in scikit-learn; those
        with a positive in `y_true`, which makes small test sets comparable with large ones; or
        these ids (the tail, for example). Answers compete with all labels in every case.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    f1 : float, or ndarray of shape (len(k),) if `k` is a sequence
        A fraction between 0 and 1.

    Raises
    ------
    ValueError
        If the shapes differ, `y_true` holds other values than 0 and 1, a score is NaN, there are no
        rows, k < 1, or `labels` is none of the above. The row at fault is named.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + entries of y_true + n_labels), memory
    O(entries of y_true + n_samples * k + n_labels). Ties and rows with few answers: see
    `skxmc.metrics`.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import macro_f1_at_k
    >>> y_true = np.array([[1, 0, 0], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.4, 0.3, 0.2]])
    >>> macro_f1_at_k(y_true, scores, k=1)
    0.222...
    >>> macro_f1_at_k(y_true, scores, k=[1, 2], labels="present")
    array([0.33333333, 0.66666667])
    """
    return _evaluate(label_f1, y_true, scores, k, labels, exclude)


def coverage_at_k(y_true, scores, k=5, *, labels="all", exclude=None):
    """Compute coverage@k: the fraction of labels that are answered correctly at least once.

    A model that only knows frequent labels has a low coverage however high its precision is.

    Parameters
    ----------
    y_true : sparse or dense 0/1 matrix of shape (n_samples, n_labels)
        The labels of each row.
    scores : sparse or dense matrix of shape (n_samples, n_labels), or TopK
        Scores in any unit, larger is better; or answers already ranked.
    k : int or sequence of int, default=5
        Number of answers per row.
    labels : {"all", "present"} or array-like of int, default="all"
        The labels to average over: all columns, as in the literature and in scikit-learn; those
        with a positive in `y_true`, which makes small test sets comparable with large ones; or
        these ids (the tail, for example). Answers compete with all labels in every case.
    exclude : sparse matrix of shape (n_samples, n_labels), default=None
        Pairs that are no valid answers; they count neither as answers nor as labels.

    Returns
    -------
    coverage : float, or ndarray of shape (len(k),) if `k` is a sequence
        A fraction between 0 and 1.

    Raises
    ------
    ValueError
        If the shapes differ, `y_true` holds other values than 0 and 1, a score is NaN, there are no
        rows, k < 1, or `labels` is none of the above. The row at fault is named.
    TypeError
        If `k` is not an integer or the scores are not real numbers.

    Notes
    -----
    Time O(entries of scores + entries of y_true + n_labels), memory
    O(entries of y_true + n_samples * k + n_labels). Ties and rows with few answers: see
    `skxmc.metrics`.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.metrics import coverage_at_k
    >>> y_true = np.array([[1, 0, 0], [0, 1, 0]])
    >>> scores = np.array([[0.9, 0.8, 0.1], [0.4, 0.3, 0.2]])
    >>> coverage_at_k(y_true, scores, k=1)
    0.333...
    >>> coverage_at_k(y_true, scores, k=[1, 2], labels="present")
    array([0.5, 1. ])
    """
    return _evaluate(label_coverage, y_true, scores, k, labels, exclude)
