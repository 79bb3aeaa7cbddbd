"""Cross-validation that accepts a sparse Y, and out-of-fold predictions that stay sparse."""

import inspect
import numbers

import numpy as np
import scipy.sparse as sp
from sklearn.base import clone
from sklearn.model_selection import check_cv, cross_validate
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, check_consistent_length, indexable
from sklearn.utils.parallel import Parallel, delayed

from skxmc._parallel import Workers
from skxmc.model_selection._split import IterativeStratifiedKFold
from skxmc.ops.csr import canonical_pattern, take_rows
from skxmc.ops.topk import TopK


def cross_validate_sparse(
    estimator,
    X,
    Y,
    *,
    cv=None,
    scoring=None,
    groups=None,
    params=None,
    n_jobs=None,
    return_train_score=False,
    return_estimator=False,
    return_indices=False,
    error_score=np.nan,
    verbose=0,
):
    """Evaluate an estimator by cross-validation, with a sparse Y too.

    scikit-learn's `cross_validate` does the work; all that is left out is its check that ``y`` is
    array-like, which refuses a sparse one (and which GridSearchCV does not make).

    Parameters
    ----------
    estimator : estimator object implementing ``fit``
        It is cloned for each fold. Pipelines and searches too.
    X : array-like, sparse matrix, data frame or sequence of shape (n_samples, ...)
        Inputs.
    Y : sparse or dense 0/1 indicator of shape (n_samples, n_labels), or 1-D of class labels
        Targets, handed to the estimator and the scorers in their container.
    cv : int, splitter, iterable of (train, test) or None, default=None
        An int is the number of folds of `IterativeStratifiedKFold`, None is 5 of them.
    scoring : str, callable, list, tuple, dict or None, default=None
        As in scikit-learn; a callable has the signature ``scorer(estimator, X, Y)``. None is the
        estimator's ``score``: for multi-label data the share of rows predicted without any error,
        which says little; pass a scorer of `skxmc.metrics`.
    groups : array-like of shape (n_samples,) or None, default=None
        For splitters that use it.
    params : dict or None, default=None
        Parameters of ``fit``, as in `sklearn.model_selection.cross_validate`. Without metadata
        routing it indexes by row each value that has the length n_samples.
    n_jobs : int or None, default=None
        Folds at the same time. Each takes the memory of a fit of its own.
    return_train_score, return_estimator, return_indices : bool, default=False
        What else to return.
    error_score : "raise" or float, default=nan
        Score of a fold whose fit or scoring fails.
    verbose : int, default=0
        Verbosity.

    Returns
    -------
    dict of ndarray of shape (n_splits,)
        ``fit_time`` and ``score_time`` in seconds, ``test_score`` or one ``test_<name>`` for each
        scorer, and on demand ``train_<name>``, ``estimator`` and ``indices``.

    Raises
    ------
    ValueError
        If ``X`` and ``Y`` have different numbers of rows, or all fits fail.

    Notes
    -----
    Time and memory are those of ``n_splits`` fits and scorings, and a copy of the rows of each
    fold.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from sklearn.multiclass import OneVsRestClassifier
    >>> from sklearn.svm import LinearSVC
    >>> from skxmc.model_selection import cross_validate_sparse
    >>> Y = sp.csr_array(np.tile(np.eye(3, dtype=int), (10, 1)))
    >>> X = Y.astype(float)
    >>> result = cross_validate_sparse(
    ...     OneVsRestClassifier(LinearSVC()), X, Y, cv=3, scoring="f1_micro"
    ... )
    >>> sorted(result)
    ['fit_time', 'score_time', 'test_score']
    >>> result["test_score"]
    array([1., 1., 1.])
    """
    check_consistent_length(X, Y)
    # The function beneath the decorator that validates the types; itself where there is none.
    return inspect.unwrap(cross_validate)(
        estimator,
        X,
        Y,
        cv=_default_to_stratified(cv),
        scoring=scoring,
        groups=groups,
        params=params,
        n_jobs=n_jobs,
        return_train_score=return_train_score,
        return_estimator=return_estimator,
        return_indices=return_indices,
        error_score=error_score,
        verbose=verbose,
    )


def cross_val_predict_topk(
    estimator,
    X,
    Y,
    *,
    cv=None,
    k=5,
    exclude=None,
    candidates=None,
    groups=None,
    fit_params=None,
    n_jobs=None,
    verbose=0,
):
    """The k best labels of each row, predicted by a model that has not seen the row.

    Out-of-fold answers are what a calibrator or a decision rule may learn from: a model's scores on
    its own training rows are too good.

    Parameters
    ----------
    estimator : estimator with ``predict_topk``
        Or a `sklearn.pipeline.Pipeline` that ends in one, or a search over either. It is cloned for
        each fold.
    X : array-like, sparse matrix, data frame or sequence of shape (n_samples, ...)
        Inputs; a list of texts too.
    Y : sparse or dense 0/1 indicator of shape (n_samples, n_labels)
        Targets.
    cv : int, splitter, iterable of (train, test) or None, default=None
        An int is the number of folds of `IterativeStratifiedKFold`, None is 5 of them. The test
        sets must be a partition of the rows.
    k : int, default=5
        Answers for each row.
    exclude : sparse array or matrix of shape (n_samples, n_labels) or None, default=None
        Pairs that must not be answered.
    candidates : sparse array or matrix of shape (n_samples, n_labels) or None, default=None
        The only pairs that may be answered.
    groups : array-like of shape (n_samples,) or None, default=None
        For splitters that use it.
    fit_params : dict or None, default=None
        Parameters of ``fit``, handed over whole in each fold (such as one text for each label),
        never indexed by row.
    n_jobs : int or None, default=None
        Folds at the same time. Each takes the memory of a fit of its own.
    verbose : int, default=0
        Verbosity of joblib.

    Returns
    -------
    TopK
        ``labels`` (n_samples, k) int32 and ``scores`` (n_samples, k) float32 in the order of the
        rows of ``X``, best first, padded with -1 and -inf. Scores of different rows come from
        different models.

    Raises
    ------
    ValueError
        If the test sets are not a partition, ``X`` and ``Y`` have different numbers of rows, ``Y``
        is 1-D (its classes may differ from fold to fold), or ``exclude`` or ``candidates`` has
        another shape than ``Y``.
    TypeError
        If the estimator has no ``predict_topk``, or ``exclude`` or ``candidates`` is not sparse.

    Notes
    -----
    Time and memory are those of ``n_splits`` fits and predictions, a copy of the rows of each fold,
    and 8 k bytes a row for the answer.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from sklearn.base import BaseEstimator
    >>> from skxmc.model_selection import cross_val_predict_topk
    >>> from skxmc.ops.topk import topk_dense
    >>> class MostFrequent(BaseEstimator):
    ...     def fit(self, X, Y):
    ...         self.counts_ = Y.sum(axis=0)
    ...         return self
    ...
    ...     def predict_topk(self, X, k=5):
    ...         return topk_dense(np.tile(self.counts_, (X.shape[0], 1)), k)
    >>> Y = sp.csr_array(np.array([[1, 0], [1, 0], [0, 1], [0, 1]]))
    >>> cross_val_predict_topk(MostFrequent(), np.zeros((4, 1)), Y, cv=2, k=1).scores.ravel()
    array([1., 1., 1., 1.], dtype=float32)
    """
    _check_has_topk(estimator)
    X, Y, splits = _partition(X, Y, cv, groups)
    shape = Y.shape if hasattr(Y, "shape") else np.shape(Y)
    restrictions = {
        name: canonical_pattern(pairs, shape, name=name)
        for name, pairs in {"exclude": exclude, "candidates": candidates}.items()
        if pairs is not None
    }

    def answer(model, X_test, test):
        model, X_test = _final_step(model, X_test)
        parts = {name: take_rows(pairs, test) for name, pairs in restrictions.items()}
        return model.predict_topk(X_test, k=k, **parts)

    answers = _fit_and_apply(estimator, X, Y, splits, answer, fit_params, n_jobs, verbose)
    order = _inverse_order(splits)
    return TopK(
        np.concatenate([part.labels for part in answers])[order],
        np.concatenate([part.scores for part in answers])[order],
    )


def cross_val_predict_sparse(
    estimator,
    X,
    Y,
    *,
    cv=None,
    method="predict_proba",
    groups=None,
    fit_params=None,
    n_jobs=None,
    verbose=0,
):
    """Outputs of models that have not seen the row, in the container that the estimator returns.

    As scikit-learn's `cross_val_predict`, which fails on a sparse ``Y`` for ``predict_proba`` and
    ``decision_function``.

    Parameters
    ----------
    estimator : estimator that has ``method``
        It is cloned for each fold. Pipelines and searches too.
    X : array-like, sparse matrix, data frame or sequence of shape (n_samples, ...)
        Inputs; a list of texts too.
    Y : sparse or dense 0/1 indicator of shape (n_samples, n_labels)
        Targets.
    cv : int, splitter, iterable of (train, test) or None, default=None
        An int is the number of folds of `IterativeStratifiedKFold`, None is 5 of them. The test
        sets must be a partition of the rows.
    method : {"predict_proba", "decision_function", "predict"}, default="predict_proba"
        What to predict.
    groups : array-like of shape (n_samples,) or None, default=None
        For splitters that use it.
    fit_params : dict or None, default=None
        Parameters of ``fit``, handed over whole in each fold, never indexed by row.
    n_jobs : int or None, default=None
        Folds at the same time. Each takes the memory of a fit of its own.
    verbose : int, default=0
        Verbosity of joblib.

    Returns
    -------
    csr_array, csr_matrix or ndarray of shape (n_samples, n_labels)
        In the order of the rows of ``X``; CSR where the estimator returns sparse outputs. Stored
        zeros stay stored, and an absent entry means what it means to the estimator.

    Raises
    ------
    ValueError
        If the test sets are not a partition, ``X`` and ``Y`` have different numbers of rows, ``Y``
        is 1-D, or ``method`` is unknown.
    AttributeError
        If the estimator does not have ``method``.
    TypeError
        If the estimator returns a list of arrays, one for each label.

    Notes
    -----
    Time and memory are those of ``n_splits`` fits and predictions, a copy of the rows of each fold,
    and twice the outputs.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from sklearn.multiclass import OneVsRestClassifier
    >>> from sklearn.svm import LinearSVC
    >>> from skxmc.model_selection import cross_val_predict_sparse
    >>> Y = sp.csr_array(np.tile(np.eye(3, dtype=int), (4, 1)))
    >>> predicted = cross_val_predict_sparse(
    ...     OneVsRestClassifier(LinearSVC()), Y.astype(float), Y, cv=2, method="predict"
    ... )
    >>> predicted.shape, int(abs(predicted - Y).sum())
    ((12, 3), 0)
    """
    methods = ("predict_proba", "decision_function", "predict")
    if method not in methods:
        raise ValueError(f"method must be one of {methods}, got {method!r}.")
    X, Y, splits = _partition(X, Y, cv, groups)
    parts = _fit_and_apply(
        estimator,
        X,
        Y,
        splits,
        lambda model, X_test, test: getattr(model, method)(X_test),
        fit_params,
        n_jobs,
        verbose,
    )
    if isinstance(parts[0], list):
        raise TypeError(
            f"{type(estimator).__name__}.{method} returns a list with an array for each label, "
            "where one array or sparse matrix of shape (n_samples, n_labels) is needed."
        )
    stacked = sp.vstack(parts, format="csr") if sp.issparse(parts[0]) else np.concatenate(parts)
    return stacked[_inverse_order(splits)]


def _default_to_stratified(cv):
    if cv is None:
        return IterativeStratifiedKFold()
    if isinstance(cv, numbers.Integral):
        return IterativeStratifiedKFold(cv)
    return cv


def _partition(X, Y, cv, groups):
    """Check the data and return it with the splits, whose test sets are a partition of the rows."""
    check_consistent_length(X, Y, groups)
    X, Y = indexable(X, Y)
    if len(getattr(Y, "shape", None) or np.shape(Y)) != 2:
        raise ValueError(
            "Y must be an indicator of shape (n_samples, n_labels): the columns of the answer must "
            "mean the same in each fold. For 1-D classes use "
            "sklearn.preprocessing.LabelBinarizer(sparse_output=True) first."
        )
    n_rows = Y.shape[0] if hasattr(Y, "shape") else len(Y)
    splits = list(check_cv(_default_to_stratified(cv)).split(X, Y, groups))
    tests = np.concatenate([np.empty(0, dtype=np.intp), *(test for _, test in splits)])
    counts = np.bincount(tests, minlength=n_rows)
    if len(counts) > n_rows or (counts != 1).any():
        row = int(np.argmax(counts != 1))
        raise ValueError(
            f"The test sets of cv must be a partition of the {n_rows} rows, but row {row} is in "
            f"{counts[row]} of them. Use a splitter like IterativeStratifiedKFold or KFold."
        )
    return X, Y, splits


def _inverse_order(splits):
    return np.argsort(np.concatenate([test for _, test in splits]))


def _fit_and_apply(estimator, X, Y, splits, function, fit_params, n_jobs, verbose):
    workers = Workers(n_jobs, prefer="processes", verbose=verbose)
    shared = estimator, X, Y, function, fit_params or {}
    if workers.remote:
        return list(workers.map(_one_fold, splits, *shared))
    return Parallel(n_jobs=n_jobs, verbose=verbose)(
        delayed(_one_fold)(split, *shared) for split in splits
    )


def _one_fold(split, estimator, X, Y, function, fit_params):
    train, test = split
    model = clone(estimator)
    model.fit(_safe_indexing(X, train), _safe_indexing(Y, train), **fit_params)
    return function(model, _safe_indexing(X, test), test)


def _check_has_topk(estimator):
    """Refuse before the first fit; of a search only the fitted model can tell."""
    while isinstance(estimator, Pipeline):
        estimator = estimator[-1]
    if not hasattr(estimator, "predict_topk") and not hasattr(estimator, "estimator"):
        raise TypeError(f"{type(estimator).__name__} has no method predict_topk.")


def _final_step(model, X):
    """The fitted estimator that has ``predict_topk``, and X as it expects it.

    Pipelines and searches of scikit-learn pass on only the methods that they know.
    """
    if hasattr(model, "predict_topk"):
        return model, X
    if isinstance(model, Pipeline):
        steps, last = model[:-1], model[-1]
        return _final_step(last, steps.transform(X) if len(steps) else X)
    if hasattr(model, "best_estimator_"):
        return _final_step(model.best_estimator_, X)
    raise TypeError(f"{type(model).__name__} has no method predict_topk.")
