"""Metrics as scikit-learn scorers, for GridSearchCV and whatever else takes `scoring`."""

import inspect

import numpy as np
import scipy.sparse as sp
from sklearn.metrics import make_scorer

from skxmc.metrics import _calibration, _macro, _ranking
from skxmc.metrics._inputs import check_ks
from skxmc.ops.csr import canonical_indicator

_METRICS = {
    "precision": _ranking.precision_at_k,
    "recall": _ranking.recall_at_k,
    "dcg": _ranking.dcg_at_k,
    "ndcg": _ranking.ndcg_at_k,
    "hit_rate": _ranking.hit_rate_at_k,
    "psp": _ranking.psp_at_k,
    "psndcg": _ranking.psndcg_at_k,
    "ps_recall": _ranking.ps_recall_at_k,
    "macro_precision": _macro.macro_precision_at_k,
    "macro_recall": _macro.macro_recall_at_k,
    "macro_f1": _macro.macro_f1_at_k,
    "coverage": _macro.coverage_at_k,
}
# Errors of probabilities: the smaller the better, so that a scorer returns minus their value.
_ERRORS = {
    "neg_ece": _calibration.ece_at_k,
    "neg_ace": _calibration.ace_at_k,
    "neg_brier": _calibration.brier_at_k,
    "neg_nll": _calibration.nll_at_k,
}

_RESPONSES = ("predict_proba", "decision_function", "predict")

# What make_scorer returns. It is derived from because only scorers of this class share one
# prediction when several of them are given to GridSearchCV.
_Scorer = type(make_scorer(_ranking.precision_at_k))


class _TopKScorer(_Scorer):
    """A scorer that does not take two labels for the two classes of a binary problem.

    Of an estimator whose classes_ are [0, 1] or [0], scikit-learn passes on the probabilities of
    the positive class only. With a 0/1 matrix of one or two columns these are the labels.
    """

    def _score(self, method_caller, estimator, X, y_true, **kwargs):
        shape = y_true.shape if sp.issparse(y_true) else np.shape(y_true)
        if len(shape) != 2 or shape[1] > 2:
            return super()._score(method_caller, estimator, X, y_true, **kwargs)
        scores = getattr(estimator, self._response_method)(X)
        if isinstance(scores, list):  # one (n_samples, 2) array for each label
            scores = np.column_stack([of_label[:, -1] for of_label in scores])
        return self._sign * self._score_func(y_true, scores, **{**self._kwargs, **kwargs})


class _OfDecisions:
    """A metric @k of the 0/1 decisions that `predict` returns, instead of ranked scores."""

    def __init__(self, metric):
        self.metric = metric
        self.__name__ = getattr(metric, "__name__", type(metric).__name__)  # shown by the scorer

    def __call__(self, y_true, y_pred, *, k, **kwargs):
        if not sp.issparse(y_pred) and np.ndim(y_pred) != 2:
            raise ValueError(
                "predict must return a 0/1 matrix of shape (n_samples, n_labels), got an array of "
                f"shape {np.shape(y_pred)}: fit with a 2-D Y, such as that of "
                "sklearn.preprocessing.label_binarize."
            )
        # Only a stored 1 is an answer: dense zeros would fill up the row with other labels.
        decisions = canonical_indicator(y_pred, name="y_pred")
        counts = np.diff(decisions.indptr)
        if counts.size and counts.max() > k:
            row = int(np.argmax(counts > k))
            raise ValueError(
                f"predict chose {counts[row]} labels in row {row}, but the scorer looks at k={k}, "
                "and decisions have no order: give the scorer a k that is at least the number of "
                "labels in any row, or let it rank with response='predict_proba'."
            )
        return self.metric(y_true, decisions, k=k, **kwargs)


def make_topk_scorer(metric, k=5, *, response="predict_proba", **kwargs):
    """Make a scikit-learn scorer of a metric @k.

    It ranks what `predict_proba` returns, sparse or dense, and works in `GridSearchCV` with sparse
    and dense Y. It can be pickled, and several scorers in one search share one prediction.

    Parameters
    ----------
    metric : str or callable
        One of "precision", "recall", "dcg", "ndcg", "hit_rate", "psp", "psndcg", "ps_recall",
        "macro_precision", "macro_recall", "macro_f1", "coverage", or, of the probabilities of the
        answers, minus an error: "neg_ece", "neg_ace", "neg_brier", "neg_nll"; or a function
        ``metric(y_true, scores, k=k, **kwargs)`` that returns a float, larger is better.
    k : int, default=5
        Number of answers per row.
    response : {"predict_proba", "decision_function", "predict"}, default="predict_proba"
        Method of the estimator that is evaluated. "predict" takes the 0/1 decisions as the answers
        (an estimator such as `skxmc.decision.MacroAtKPredictor` makes at most k in a row): a row
        with more than k of them is an error, and metrics that look at the order of the answers take
        them by label number. Errors of probabilities need "predict_proba".
    **kwargs
        Further arguments of the metric, such as `inv_propensity` or `normalize`. `exclude` is
        refused: its rows would not be those of the cross-validation's test part.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y_true)`` returns a float.

    Raises
    ------
    ValueError
        If the metric or the response is unknown or they do not go together, or k < 1.
    TypeError
        If `k` is not an integer, `return_parts` is set, or an argument is unknown to the metric or
        missing.

    See Also
    --------
    get_topk_scorer : The same from a name such as "precision@5".

    Notes
    -----
    With propensities, compute `inv_propensity` from all of the training labels given to the search.

    Examples
    --------
    >>> from sklearn.datasets import make_multilabel_classification
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> from skxmc.metrics import make_topk_scorer
    >>> X, Y = make_multilabel_classification(60, 10, n_classes=6, random_state=0)
    >>> search = GridSearchCV(
    ...     DecisionTreeClassifier(random_state=0),
    ...     {"max_depth": [1, 3]},
    ...     scoring=make_topk_scorer("ndcg", k=3),
    ... )
    >>> bool(0 < search.fit(X, Y).best_score_ <= 1)
    True
    """
    sign = 1
    if isinstance(metric, str):
        known = {**_METRICS, **_ERRORS}
        if metric not in known:
            raise ValueError(f"Unknown metric {metric!r}; there are: {', '.join(known)}.")
        if metric in _ERRORS:
            sign = -1
            if response != "predict_proba":
                raise ValueError(f"{metric!r} is of probabilities: response='predict_proba' only.")
        metric = known[metric]
    if np.ndim(k) != 0:
        raise TypeError(f"A scorer returns one number: k must be one integer, got {k!r}.")
    k = check_ks(k)[0][0]
    if kwargs.get("exclude") is not None:
        raise TypeError(
            "exclude cannot be used in a scorer: its rows are those of the whole data, not those "
            "of the test part of a split."
        )
    if kwargs.get("return_parts"):
        raise TypeError("A scorer returns one number: return_parts cannot be set.")
    if response not in _RESPONSES:
        raise ValueError(f"response must be one of {_RESPONSES}, got {response!r}.")
    inspect.signature(metric).bind("y_true", "scores", k=k, **kwargs)
    if response == "predict":
        metric = _OfDecisions(metric)
    return _TopKScorer(metric, sign, {"k": k, **kwargs}, response)


def get_topk_scorer(name, **kwargs):
    """Make a scikit-learn scorer from a name such as "precision@5".

    Parameters
    ----------
    name : str
        ``"<metric>@<k>"`` with a metric name of `make_topk_scorer`.
    **kwargs
        Further arguments of `make_topk_scorer` and of the metric, such as `inv_propensity`.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y_true)`` returns a float.

    Raises
    ------
    ValueError
        If the name is not of this form, the metric is unknown or k < 1.

    Examples
    --------
    >>> from skxmc.metrics import get_topk_scorer
    >>> scoring = {name: get_topk_scorer(name) for name in ("precision@1", "ndcg@5")}
    """
    metric, _, k = str(name).partition("@")
    if not k.isdecimal():
        raise ValueError(f"A scorer is named '<metric>@<k>', such as 'precision@5'; got {name!r}.")
    return make_topk_scorer(metric, int(k), **kwargs)
