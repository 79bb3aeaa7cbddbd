"""What the meta-estimators share: margins of a wrapped classifier, also out of fold, and targets.

A wrapped classifier is an estimator of skxmc, a `Pipeline` or a search that ends in one, or any
classifier of scikit-learn that learns a 0/1 matrix and has ``decision_function`` or
``predict_proba``. What it answers reaches the meta-estimators in one form: margins, which are
scores like log-odds, of the best labels of each row.
"""

import copy

import numpy as np
import scipy.sparse as sp
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length, get_tags
from sklearn.utils.validation import _num_samples, check_is_fitted

from skxmc.base import (
    XMCClassifierMixin,
    _binary_topk,
    _class_proba,
    as_target_array,
    check_k,
    pad_topk,
)
from skxmc.exceptions import DenseOutputError
from skxmc.model_selection._validation import (
    _default_to_stratified,
    _final_step,
    _fit_and_apply,
    _inverse_order,
    _partition,
)
from skxmc.ops.csr import _make_csr, canonical_pattern, subtract_pattern, take_rows, to_dense
from skxmc.ops.topk import topk_dense, topk_to_csr

__all__ = [
    "MetaClassifierMixin",
    "base_margins",
    "base_proba",
    "base_topk",
    "dense_margins",
    "fit_wrapped",
    "is_frozen",
    "open_interval",
    "out_of_fold_margins",
    "out_of_fold_proba",
]

#: Largest dense output, in bytes, that a wrapped classifier without ``predict_topk`` is asked for.
MAX_DENSE_BYTES = 1 << 30


# ------------------------------------------------------------------ the wrapped classifier


def is_frozen(estimator):
    """Whether an estimator is a `FrozenEstimator`, which is used as it was fitted."""
    return isinstance(estimator, FrozenEstimator)


def fit_wrapped(estimator, X, Y, fit_params=None):
    """The estimator to predict with: a fitted clone, or the frozen one itself."""
    if is_frozen(estimator):
        return estimator
    return clone(estimator).fit(X, Y, **(fit_params or {}))


def _has_topk(model):
    """Whether `_final_step` finds ``predict_topk`` in a fitted model."""
    if isinstance(model, Pipeline):
        return _has_topk(model[-1])
    if hasattr(model, "predict_topk"):
        return True
    return hasattr(model, "best_estimator_") and _has_topk(model.best_estimator_)


def _thaw(model):
    while is_frozen(model):
        model = model.estimator
    return model


def _n_classes(model):
    """Labels, or classes of a 1-D target, of a fitted classifier."""
    if hasattr(model, "n_labels_"):
        return model.n_labels_
    return len(model.classes_)  # also where it is a list with an array for each label


def open_interval(proba):
    """Clip probabilities into the open interval (0, 1), in their own precision."""
    info = np.finfo(proba.dtype)
    return np.clip(proba, info.tiny, np.nextafter(info.dtype.type(1), info.dtype.type(0)))


def _check_dense(model, X):
    n_bytes = _num_samples(X) * _n_classes(model) * np.dtype(np.float64).itemsize
    if n_bytes > MAX_DENSE_BYTES:
        raise DenseOutputError(
            f"{type(model).__name__} has no predict_topk, and its scores of {_num_samples(X)} rows "
            f"and {_n_classes(model)} labels would take {n_bytes:,} bytes as a dense array, over "
            f"{MAX_DENSE_BYTES:,}: pass fewer rows at a time, or wrap a classifier of skxmc."
        )


def _as_columns(scores):
    """Dense scores, one column a label, of whatever form scikit-learn's classifiers return."""
    if isinstance(scores, list):  # an (n_samples, 2) array for each label
        scores = np.column_stack([of_label[:, -1] for of_label in scores])
    if sp.issparse(scores):
        return to_dense(scores)
    scores = np.asarray(scores)
    return scores[:, np.newaxis] if scores.ndim == 1 else scores


def dense_margins(model, X, n_columns=None):
    """Margins of all labels.

    Parameters
    ----------
    model : fitted classifier
        With ``decision_function`` or ``predict_proba``.
    X : rows as the model takes them
    n_columns : int or None, default=None
        1 where two classes are one column, the margin of the second: then two columns of
        probabilities are reduced to it.

    Returns
    -------
    ndarray of shape (n_samples, n_columns), float32 or float64
        Minus infinity where the model has no score. May be an array of the model's: not to be
        written to.

    Raises
    ------
    DenseOutputError
        If a model that is not of skxmc would return more than 1 GiB.
    TypeError
        If the model has neither method.
    """
    if not _has_topk(_thaw(model)):
        _check_dense(model, X)
    if hasattr(model, "decision_function"):
        scores = _as_columns(model.decision_function(X))
    elif hasattr(model, "predict_proba"):
        scores = _as_columns(model.predict_proba(X))
        if n_columns == 1:
            scores = scores[:, -1:]
        scores = scores if scores.dtype.kind == "f" else scores.astype(np.float64)
        with np.errstate(divide="ignore"):
            scores = logit(np.clip(scores, 0, open_interval(scores).max(initial=0.5)))
    else:
        raise TypeError(
            f"{type(model).__name__} has none of predict_topk, decision_function and predict_proba."
        )
    if n_columns is not None and scores.shape[1] != n_columns:
        raise ValueError(
            f"{type(model).__name__} returned scores of {scores.shape[1]} labels where "
            f"{n_columns} are expected: was it fitted with the same labels?"
        )
    return scores


def base_topk(model, X, k, *, exclude=None, candidates=None):
    """The k best labels of each row with their margins, from any fitted classifier.

    Parameters
    ----------
    model : fitted classifier
    X : rows as the model takes them
    k : int
        Answers a row, at least 1.
    exclude, candidates : sparse array or matrix of shape (n_samples, n_labels) or None
        As in `skxmc.base.XMCClassifierMixin.predict_topk`.

    Returns
    -------
    TopK
        ``labels`` and ``scores`` of shape (n_samples, k).
    """
    k = check_k(k)
    model = _thaw(model)
    if _has_topk(model):
        model, X = _final_step(model, X)
        limits = {"exclude": exclude, "candidates": candidates}
        return model.predict_topk(
            X, k=k, **{name: pairs for name, pairs in limits.items() if pairs is not None}
        )
    n_labels = _n_classes(model)
    n_wanted = min(k, n_labels)
    shape = (_num_samples(X), n_labels)
    if exclude is not None:
        exclude = canonical_pattern(exclude, shape, name="exclude")
    if candidates is not None:
        candidates = canonical_pattern(candidates, shape, name="candidates")
        if exclude is not None:
            candidates, exclude = subtract_pattern(candidates, exclude), None
    margins = dense_margins(model, X)
    if margins.shape[1] == 1 and n_labels == 2:
        answers = _binary_topk(margins, n_wanted, exclude, candidates)
    else:
        answers = _restricted_topk(margins, n_wanted, exclude, candidates)
    return answers if n_wanted == k else pad_topk(answers, k)


def _restricted_topk(margins, k, exclude, candidates):
    if candidates is not None:
        margins = np.where(candidates.toarray() != 0, margins, -np.inf)
    elif exclude is not None:
        margins = np.where(exclude.toarray() != 0, -np.inf, margins)
    return topk_dense(margins, k)


def _canonical(answers, n_labels):
    scores = topk_to_csr(answers, n_labels)
    return _make_csr(
        scores.data,
        scores.indices.astype(np.int32, copy=False),
        scores.indptr.astype(np.int64),
        scores.shape,
    )


def base_margins(model, X, top_k):
    """Margins of the ``top_k`` best labels of each row.

    Returns
    -------
    csr_array of shape (n_samples, n_labels), float32
        Canonical: sorted by column, ``indptr`` int64. An absent entry is minus infinity.
    """
    n_labels = _n_labels(model)
    return _canonical(base_topk(model, X, min(top_k, n_labels)), n_labels)


def base_proba(model, X, top_k):
    """Marginal probabilities of the ``top_k`` best labels of each row, as the model has them.

    Returns
    -------
    csr_array of shape (n_samples, n_labels), float32
        Canonical; values strictly inside (0, 1). An absent entry is about 0.
    """
    n_labels = _n_labels(model)
    last = _thaw(model)
    if not _has_topk(last) and hasattr(last, "predict_proba"):
        _check_dense(last, X)
        proba = _as_columns(last.predict_proba(X))
        scores = _canonical(topk_dense(proba, min(top_k, n_labels)), n_labels)
        scores.data = open_interval(scores.data)
        return scores
    scores = base_margins(last, X, top_k)
    while not hasattr(last, "predict_topk") and _has_topk(last):  # pipelines and searches
        last = last[-1] if isinstance(last, Pipeline) else last.best_estimator_
    # Margins of others are log-odds.
    to_proba = last._proba if isinstance(last, XMCClassifierMixin) else expit
    scores.data = open_interval(to_proba(scores.data).astype(np.float32, copy=False))
    return scores


def _n_labels(model):
    """Labels of a fitted model, asked of the step that knows them."""
    model = _thaw(model)
    if isinstance(model, Pipeline):
        return _n_labels(model[-1])
    if hasattr(model, "best_estimator_"):
        return _n_labels(model.best_estimator_)
    return _n_classes(model)


# ------------------------------------------------------------------ out of fold


def out_of_fold_margins(estimator, X, Y, cv, top_k, *, n_jobs=None, fit_params=None):
    """Margins of the ``top_k`` best labels of each row, by a model that has not seen the row.

    Parameters
    ----------
    estimator : classifier
        It is cloned for each fold. A `FrozenEstimator` is not refitted: its margins of all rows
        are returned, and are out of fold only if it was fitted on others.
    X : rows as the estimator takes them
    Y : 0/1 indicator of shape (n_samples, n_labels)
        Handed to the estimator in its container.
    cv : int, splitter, iterable of (train, test) or None
        An int is the number of folds of `IterativeStratifiedKFold`, None is 5 of them.
    top_k : int
    n_jobs : int or None, default=None
        Folds at the same time.
    fit_params : dict or None, default=None
        Arguments of ``fit``, handed over whole in each fold.

    Returns
    -------
    csr_array of shape (n_samples, n_labels), float32
        Canonical, in the order of the rows of ``X``; an absent entry is minus infinity.
    """
    return _out_of_fold(base_margins, estimator, X, Y, cv, top_k, n_jobs, fit_params)


def out_of_fold_proba(estimator, X, Y, cv, top_k, *, n_jobs=None, fit_params=None):
    """Marginal probabilities by a model that has not seen the row.

    As `out_of_fold_margins`, with the probabilities of `base_proba`.
    """
    return _out_of_fold(base_proba, estimator, X, Y, cv, top_k, n_jobs, fit_params)


def _out_of_fold(ask, estimator, X, Y, cv, top_k, n_jobs, fit_params):
    if is_frozen(estimator):
        return ask(estimator, X, top_k)
    X, Y, splits = _partition(X, Y, cv, None)
    parts = _fit_and_apply(
        *(estimator, X, Y, splits),
        lambda model, X_test, test: ask(model, X_test, top_k),
        *(fit_params, n_jobs, 0),
    )
    indptr = np.concatenate([[0], *(np.diff(part.indptr) for part in parts)]).cumsum()
    stacked = _make_csr(
        np.concatenate([part.data for part in parts]),
        np.concatenate([part.indices for part in parts]),
        indptr.astype(np.int64),
        (len(indptr) - 1, parts[0].shape[1]),
    )
    return take_rows(stacked, _inverse_order(splits))


def out_of_fold_dense_margins(estimator, X, Y, cv, indicator, *, n_jobs=None, fit_params=None):
    """Margins of all labels, or classes of a 1-D ``Y``, by models that have not seen the row.

    Parameters
    ----------
    estimator, X, cv, n_jobs, fit_params
        As for `out_of_fold_margins`.
    Y : ndarray of shape (n_samples, n_labels) or (n_samples,)
        Handed to the estimator.
    indicator : csr_array of shape (n_samples, n_columns)
        The same target as 0/1 matrix (one column for two classes); the folds are made of it.

    Returns
    -------
    ndarray of shape (n_samples, n_columns)
        Minus infinity for a class that was not in the training part.
    """
    n_columns = indicator.shape[1]
    if is_frozen(estimator):
        return dense_margins(estimator, X, n_columns)
    if Y.ndim == 2:
        X, Y, splits = _partition(X, Y, cv, None)
    else:
        X, _, splits = _partition(X, indicator, _default_to_stratified(cv), None)
    classes = np.unique(Y) if Y.ndim == 1 else None

    def answer(model, X_test, test):
        if classes is None:
            return dense_margins(model, X_test, n_columns)
        known = model.classes_
        margins = dense_margins(model, X_test, 1 if len(known) == 2 else len(known))
        if n_columns == 1:
            return margins
        if len(known) == 2:
            margins = np.hstack([-margins, margins])
        out = np.full((len(margins), n_columns), -np.inf, dtype=margins.dtype)
        out[:, np.searchsorted(classes, known)] = margins
        return out

    parts = _fit_and_apply(estimator, X, Y, splits, answer, fit_params, n_jobs, 0)
    return np.concatenate(parts)[_inverse_order(splits)]


# ------------------------------------------------------------------ the meta-estimators


class MetaClassifierMixin(XMCClassifierMixin):
    """Base of the estimators that wrap a classifier.

    It checks the target, remembers its kind and container, and delegates what concerns ``X`` to
    the wrapped estimator: ``X`` may be whatever that takes, such as a list of texts for a pipeline.

    Parameters of the derived class
    -------------------------------
    Its ``__init__`` must store ``estimator``, ``top_k`` and ``max_dense_bytes``.

    Methods to implement
    --------------------
    _fit_wrapped(X, Y, indicator, fit_params)
        Set ``estimator_`` and learn. ``X`` and ``Y`` are as given (``Y`` that is not sparse: an
        ndarray), ``indicator`` is ``Y`` as a canonical CSR uint8 matrix, with one column for two
        classes.

    and the outputs ``predict_topk``, ``decision_function``, ``predict_proba``, ``predict``, as far
    as they differ from those of ``estimator_``, to which they are passed on here.

    Attributes
    ----------
    estimator_ : estimator
        The fitted wrapped estimator.
    classes_, n_labels_
        See `skxmc.base.XMCClassifierMixin`.
    n_features_in_, feature_names_in_
        Those of ``estimator_``, where it has them.
    """

    def _fit_wrapped(self, X, Y, indicator, fit_params):
        raise TypeError(
            f"{type(self).__name__} must define _fit_wrapped(X, Y, indicator, fit_params)."
        )

    def fit(self, X, Y, **fit_params):
        """Fit the wrapped estimator and what is built on it.

        Parameters
        ----------
        X : array-like, sparse matrix, data frame or sequence of shape (n_samples, ...)
            Rows as the wrapped estimator takes them.
        Y : {sparse array or matrix, array-like} of shape (n_samples, n_labels) or (n_samples,)
            0/1 indicator, or one class a row. The outputs are of its kind.
        **fit_params
            Further arguments of the wrapped estimator's ``fit``, handed over whole in each fold,
            never indexed by row.

        Returns
        -------
        object
            The fitted estimator itself.
        """
        return self._fit(X, Y, **fit_params)

    def _fit(self, X, Y, **fit_params):
        if Y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None."
            )
        self._validate_params()
        self._fit_done = False
        if not sp.issparse(Y):
            Y = as_target_array(Y)
        check_consistent_length(X, Y)
        if _num_samples(X) == 0:
            raise ValueError(
                f"Found array with 0 sample(s) while a minimum of 1 is required by "
                f"{type(self).__name__}."
            )
        indicator = self._encode_target(Y)
        if is_frozen(self.estimator):
            check_is_fitted(self.estimator)
        if is_frozen(self.estimator) and _n_labels(self.estimator) != self.n_labels_:
            raise ValueError(
                f"Y has {self.n_labels_} labels or classes, but the frozen estimator was fitted "
                f"with {_n_labels(self.estimator)}."
            )
        self._fit_wrapped(X, Y, indicator, fit_params)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
            elif hasattr(self, name):
                delattr(self, name)
        self._fit_done = True
        return self

    @property
    def _n_columns(self):
        """Columns of margins: one for two classes."""
        return 1 if self._target_kind == "binary" else self.n_labels_

    def _check_X(self, X, reset):
        return X  # by the wrapped estimator

    def _check_dense_output(self, X, dtype=np.float64, method="predict_proba"):
        """Refuse a dense output that would be over ``max_dense_bytes``."""
        if self._target_kind != "sparse":
            self._check_dense_size(_num_samples(X), np.dtype(dtype).itemsize, method)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = copy.deepcopy(get_tags(self.estimator).input_tags)
        tags.non_deterministic = get_tags(self.estimator).non_deterministic
        return tags

    def predict_topk(self, X, k=5, *, exclude=None, candidates=None):
        """The k best labels of each row, best first, with their margins.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of str, of length n_samples
            Rows, as the wrapped estimator takes them.
        k : int, default=5
            Answers a row, at least 1.
        exclude, candidates : sparse array or matrix of shape (n_samples, n_labels) or None
            As in `skxmc.base.XMCClassifierMixin.predict_topk`.

        Returns
        -------
        TopK
            ``labels`` and ``scores`` of shape (n_samples, k).
        """
        self._check_predict(X)
        return base_topk(self.estimator_, X, k, exclude=exclude, candidates=candidates)

    def _margins(self, X, method):
        """Margins of the wrapped estimator in the form of the target: CSR, or dense columns."""
        if self._target_kind == "sparse":
            return base_margins(self.estimator_, X, self.top_k)
        self._check_dense_output(X, method=method)
        return dense_margins(self.estimator_, X, self._n_columns)

    def decision_function(self, X):
        """Return the margins of the wrapped estimator.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of str, of length n_samples
            Rows, as the wrapped estimator takes them.

        Returns
        -------
        csr_array, csr_matrix or ndarray
            See the table of `skxmc.base.XMCClassifierMixin`.
        """
        self._check_predict(X)
        margins = self._margins(X, "decision_function")
        if self._target_kind == "sparse":
            return self._sparse_container(margins)
        return margins[:, 0] if self._target_kind == "binary" else margins

    def predict_proba(self, X):
        """Return the probabilities of the wrapped estimator.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of str, of length n_samples
            Rows, as the wrapped estimator takes them.

        Returns
        -------
        csr_array, csr_matrix or ndarray
            See the table of `skxmc.base.XMCClassifierMixin`.
        """
        self._check_predict(X)
        if self._target_kind == "sparse":
            return self._sparse_container(base_proba(self.estimator_, X, self.top_k))
        self._check_dense_output(X)
        if not hasattr(self.estimator_, "predict_proba"):
            return _class_or_label_proba(self, self._margins(X, "predict_proba"))
        proba = self.estimator_.predict_proba(X)
        if self._target_kind == "dense":
            return open_interval(np.nan_to_num(_as_columns(proba), neginf=0.0))
        return proba

    def predict(self, X):
        """Labels with a probability above 0.5, or the best class; of the kind of ``Y``."""
        self._check_predict(X)
        return self.estimator_.predict(X)


def _class_or_label_proba(meta, margins):
    proba = open_interval(expit(margins))
    return proba if meta._target_kind == "dense" else _class_proba(proba, margins)
