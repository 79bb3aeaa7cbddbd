"""The estimator contract, once: checks, target encoding, the container rule and `predict_topk`.

An estimator derives from `XMCClassifierMixin` and implements how it fits an indicator matrix and
how it scores rows. All that scikit-learn expects around it is here.
"""

import numbers

import numpy as np
import scipy.sparse as sp
from scipy.special import expit
from sklearn.base import ClassifierMixin
from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from skxmc.exceptions import DenseOutputError
from skxmc.ops.csr import (
    canonical_csr,
    canonical_indicator,
    canonical_pattern,
    canonical_targets,
    check_finite,
    subtract_pattern,
    take_rows,
)
from skxmc.ops.topk import TopK, topk_dense, topk_to_csr

__all__ = ["XMCClassifierMixin", "check_k", "pad_topk"]

# Working memory of the methods that go through the rows in blocks.
_BLOCK_BYTES = 1 << 26

# Bytes of one stored entry of a sparse 0/1 prediction, its value not counted.
_INDEX_BYTES = 4


class XMCClassifierMixin(ClassifierMixin):
    """Base of all classifiers of skxmc.

    It gives an estimator ``fit``, ``predict``, ``predict_proba``, ``decision_function``,
    ``predict_topk``, the scikit-learn tags and the checks of all inputs. **Container in, container
    out**: the outputs are of the kind that ``Y`` had in ``fit``.

    ===========  ============================================  ===========================
    Y in fit     predict_proba, decision_function              predict
    ===========  ============================================  ===========================
    sparse, 2-D  sparse float32: the ``top_k`` best labels of  sparse 0/1 in Y's dtype
                 each row, sorted by column
    dense, 2-D   ndarray of shape (n_samples, n_labels)        ndarray of that shape in
                                                               Y's dtype
    1-D classes  ndarray of shape (n_samples, n_classes);      ndarray of shape
                 with two classes, ``decision_function`` has   (n_samples,)
                 the shape (n_samples,)
    ===========  ============================================  ===========================

    Sparse means `csr_array`, or `csr_matrix` if ``Y`` was a sparse *matrix*.

    Rules that hold in every mode:

    * A *margin* is a real score like a log-odds: 0 is the decision threshold, more is more likely.
      Probabilities are a strictly increasing function of it.
    * In a sparse output an absent entry means "not among the kept labels": a margin of minus
      infinity, a probability of about 0. Stored zeros are scores. `skxmc.ops.csr.to_dense` keeps
      that meaning.
    * ``predict`` is ``probability > 0.5`` and complete: where more than ``top_k`` labels of a row
      pass, all of them are returned.
    * Equal scores rank by the smaller label.

    Parameters of the derived class
    -------------------------------
    Its ``__init__`` must store two parameters for this base:

    top_k : int, default=100
        Labels kept in a row of the sparse ``predict_proba`` and ``decision_function``.
    max_dense_bytes : int, default=2**30
        Largest output, in bytes, with a value for each pair of row and label. A larger one is
        refused with `DenseOutputError` before it is allocated.

    and its ``_parameter_constraints`` should start from those of this class.

    Methods to implement
    --------------------
    _fit_indicator(X, Y)
        Learn. ``X``: canonical CSR float32 (finite; columns sorted and unique; ``indptr`` int64,
        ``indices`` int32) or C-contiguous ndarray, float32 or float64, finite. ``Y``: canonical CSR
        uint8 indicator of shape (n_samples, n_columns) with at least one positive, or float32 with
        targets in (0, 1] if the class says ``_accepts_soft_targets = True`` and gets some. Neither
        may be written to: they can share memory with the user's arrays. ``n_columns`` is
        ``n_labels_``, except for two classes, which are one column (is it ``classes_[1]``?).
        ``n_features_in_``, ``classes_`` and ``n_labels_`` are set already.
    _score_topk(X, k, exclude, candidates)
        `TopK` of margins with exactly k columns, ``1 <= k <= n_columns``. At most one of
        ``exclude`` and ``candidates`` is given, as a canonical CSR pattern (stored = in the set),
        the others are None. The answers of a row may not depend on the other rows.
    _score_dense(X)
        Margins as a new ndarray of shape (n_samples, n_columns), float32 or float64; minus infinity
        for a label that is no candidate. Called only for outputs under ``max_dense_bytes``.
    _scores_to_proba(scores)
        Optional: elementwise, strictly increasing map of margins of any shape to probabilities, 0
        to 0.5. The default is the logistic function.

    A ``fit`` with further arguments calls ``self._fit(X, Y, **arguments)``, which hands them to
    ``_fit_indicator``.

    Attributes
    ----------
    classes_ : ndarray
        For 2-D ``Y`` the label numbers, ``arange(n_labels)``, int32; for 1-D ``y`` the sorted
        classes.
    n_labels_ : int
        Length of ``classes_``: columns of ``Y``, or classes of ``y``.
    n_features_in_ : int
        Number of features seen in ``fit``.
    feature_names_in_ : ndarray of shape (n_features,)
        Their names, if ``X`` had string column names.

    Notes
    -----
    The checks cost O(stored entries) for sparse inputs, whatever the number of labels, and copy
    only what has to be converted. They do not change their inputs.

    Examples
    --------
    A classifier whose margin is the share of the row's features seen with the label, less one half:

    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from sklearn.base import BaseEstimator
    >>> from skxmc.base import XMCClassifierMixin
    >>> from skxmc.ops.topk import topk_dense
    >>> class Overlap(XMCClassifierMixin, BaseEstimator):
    ...     def __init__(self, top_k=100, max_dense_bytes=2**30):
    ...         self.top_k = top_k
    ...         self.max_dense_bytes = max_dense_bytes
    ...
    ...     def _fit_indicator(self, X, Y):
    ...         self.seen_ = (X.T @ Y > 0).toarray()
    ...
    ...     def _score_dense(self, X):
    ...         return X @ self.seen_ / X.sum(axis=1)[:, None] - 0.5
    ...
    ...     def _score_topk(self, X, k, exclude, candidates):
    ...         return topk_dense(self._score_dense(X), k)
    >>> X = sp.csr_array(np.eye(3))
    >>> Y = sp.csr_array([[1, 0, 0], [0, 1, 1], [0, 0, 1]])
    >>> model = Overlap().fit(X, Y)
    >>> model.predict(X).toarray()
    array([[1, 0, 0],
           [0, 1, 1],
           [0, 0, 1]])
    >>> model.predict_topk(X, k=2).labels
    array([[0, 1],
           [1, 2],
           [2, 0]], dtype=int32)
    """

    _parameter_constraints = {
        "top_k": [Interval(numbers.Integral, 1, None, closed="left")],
        "max_dense_bytes": [Interval(numbers.Integral, 0, None, closed="left")],
    }

    # Whether a 2-D floating Y may hold probabilities in [0, 1] (soft targets) beside 0 and 1.
    _accepts_soft_targets = False

    # ------------------------------------------------------------------ for the derived class

    def _fit_indicator(self, X, Y):
        raise TypeError(f"{type(self).__name__} must define _fit_indicator(X, Y).")

    def _score_topk(self, X, k, exclude, candidates):
        raise TypeError(
            f"{type(self).__name__} must define _score_topk(X, k, exclude, candidates)."
        )

    def _score_dense(self, X):
        raise TypeError(f"{type(self).__name__} must define _score_dense(X).")

    def _scores_to_proba(self, scores):
        return expit(scores)

    # ------------------------------------------------------------------ fit

    def fit(self, X, Y):
        """Learn from rows and their labels.

        Parameters
        ----------
        X : {array-like, sparse array or matrix, dataframe} of shape (n_samples, n_features)
            Sparse input is used as CSR float32; dense input stays float32 or float64.
        Y : {sparse array or matrix, array-like} of shape (n_samples, n_labels) or (n_samples,)
            0/1 indicator (boolean, integer or floating), or one class a row (numbers or strings). A
            column vector of shape (n_samples, 1) is read as one class a row, with a warning; a
            sparse ``Y`` of one column is one label. Estimators that say so take soft targets in
            [0, 1] too.

        Returns
        -------
        object
            The fitted estimator itself.

        Raises
        ------
        ValueError
            For NaN or infinity in ``X``, other values than 0 and 1 in a 2-D ``Y``, pairs stored
            twice in a ``Y`` that is not boolean, corrupt index arrays (each with row and column),
            different numbers of rows, no rows, no labels, no positive at all, a single class.
        """
        return self._fit(X, Y)

    def _fit(self, X, Y, **fit_arguments):
        if Y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None."
            )
        self._validate_params()
        self._fit_done = False  # a fit that fails must not leave half a model that predicts
        X = self._check_X(X, reset=True)
        if not sp.issparse(Y):
            Y = as_target_array(Y)
        check_consistent_length(X, Y)
        Y = self._encode_target(Y)
        self._fit_indicator(X, Y, **fit_arguments)
        self._fit_done = True
        return self

    def _encode_target(self, Y):
        """Canonical indicator of ``Y``; sets ``classes_`` and the kind of the outputs."""
        if Y.ndim == 2:
            if Y.shape[1] == 0:
                raise ValueError(f"Y has no labels: its shape is {Y.shape}.")
            canonical = canonical_targets if self._accepts_soft_targets else canonical_indicator
            indicator = canonical(Y)
            if indicator.nnz == 0:
                raise ValueError("Y has no positive at all: nothing can be learned from it.")
            self._target_kind = "sparse" if sp.issparse(Y) else "dense"
            self._target_dtype = _numeric_dtype(Y.dtype)
            self._target_is_spmatrix = sp.isspmatrix(Y)
            self.classes_ = np.arange(Y.shape[1], dtype=np.int32)
        else:
            classes, codes = np.unique(Y, return_inverse=True)
            if len(classes) < 2:
                raise ValueError(
                    "A 1-D y needs at least two classes; it has one class, "
                    f"{classes.tolist()[0]!r}, in "
                    f"all rows (n_samples={len(Y)})."
                )
            self._target_kind = "binary" if len(classes) == 2 else "multiclass"
            self.classes_ = classes
            indicator = one_hot(codes, len(classes))
        self.n_labels_ = len(self.classes_)
        return indicator

    def __sklearn_is_fitted__(self):
        return getattr(self, "_fit_done", False)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.input_tags.sparse = True
        return tags

    # ------------------------------------------------------------------ checks

    def _check_X(self, X, reset):
        """Canonical CSR float32, or finite C-contiguous float32 / float64."""
        if sp.issparse(X):
            # Feature names and counts only: scikit-learn's check of the values would be a second
            # pass, and it leaves index ranges, order and duplicates to us anyway.
            if X.ndim != 2:
                raise ValueError(
                    f"X must be two-dimensional; got a sparse array of shape {X.shape}."
                )
            for size, what in zip(X.shape, ("sample", "feature"), strict=True):
                if size == 0:
                    raise ValueError(
                        f"Found array with 0 {what}(s) (shape={X.shape}) while a minimum of 1 is "
                        "required by "
                        f"{type(self).__name__}."
                    )
            # At predict there is nothing to check if the count is right and no names are expected.
            # To ask costs 0.1 ms, much of the time of a one-row call.
            if reset or X.shape[1] != self.n_features_in_ or hasattr(self, "feature_names_in_"):
                validate_data(self, X, reset=reset, skip_check_array=True)
            return canonical_csr(X, np.float32)
        X = validate_data(
            self,
            X,
            reset=reset,
            accept_sparse="csr",  # a dataframe of sparse columns arrives here
            dtype=(np.float64, np.float32),
            order="C",
            ensure_all_finite=False,  # checked below: with the row number
        )
        if sp.issparse(X):
            return canonical_csr(X, np.float32)
        check_finite(X)
        return X

    def _check_predict(self, X):
        if not self.__sklearn_is_fitted__():  # all that check_is_fitted asks, in less time
            check_is_fitted(self)
        return self._check_X(X, reset=False)

    def _check_dense_size(self, n_samples, itemsize, method):
        n_bytes = n_samples * self.n_labels_ * itemsize
        if n_bytes <= self.max_dense_bytes:
            return
        way_out = (
            "use predict_topk"
            if self._target_kind == "multiclass"
            else "fit with a sparse Y, such as scipy.sparse.csr_array(Y), or use predict_topk"
        )
        raise DenseOutputError(
            f"{method} of {n_samples} rows and {self.n_labels_} labels would need {n_bytes:,} "
            "bytes as a dense array, "
            f"over max_dense_bytes={self.max_dense_bytes:,}: {way_out}, pass fewer rows at a "
            "time, or "
            "raise max_dense_bytes."
        )

    # ------------------------------------------------------------------ outputs

    def predict_topk(self, X, k=5, *, exclude=None, candidates=None):
        """The k best labels of each row, best first, with their margins.

        Parameters
        ----------
        X : {array-like, sparse array or matrix, dataframe} of shape (n_samples, n_features)
            The rows.
        k : int, default=5
            Answers a row, at least 1. More than there are labels is allowed: the rest is padding.
        exclude : sparse array or matrix of shape (n_samples, n_labels) or None, default=None
            Pairs that must not be answered. A pair counts if a value other than 0 is stored for it.
        candidates : sparse array or matrix of shape (n_samples, n_labels) or None, default=None
            The only pairs allowed, read in the same way. Given both, the candidates that are not
            excluded.

        Returns
        -------
        TopK
            ``labels`` of shape (n_samples, k), int32: indices into ``classes_``; ``scores`` of
            shape (n_samples, k), float32: margins. Padded with -1 and -inf where a row has fewer
            than k candidates. The restrictions act before the choice of the k best: k answers come
            back where k remain.

        Raises
        ------
        ValueError
            If ``k`` is not an integer of at least 1, a shape does not fit, or ``X`` holds NaN or
            infinity.
        TypeError
            If ``exclude`` or ``candidates`` is not sparse.
        """
        X = self._check_predict(X)
        k = check_k(k)
        shape = (X.shape[0], self.n_labels_)
        if exclude is not None:
            exclude = canonical_pattern(exclude, shape, name="exclude")
        if candidates is not None:
            candidates = canonical_pattern(candidates, shape, name="candidates")
            if exclude is not None:
                candidates, exclude = subtract_pattern(candidates, exclude), None
        n_wanted = min(k, self.n_labels_)
        if self._target_kind == "binary":
            answers = _binary_topk(self._score_dense(X), n_wanted, exclude, candidates)
        else:
            answers = self._score_topk(X, n_wanted, exclude, candidates)
        return answers if n_wanted == k else pad_topk(answers, k)

    def decision_function(self, X):
        """Margins: real scores like log-odds, 0 being the decision threshold.

        Parameters
        ----------
        X : {array-like, sparse array or matrix, dataframe} of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        csr_array, csr_matrix or ndarray
            See the table of `XMCClassifierMixin`. In a sparse result an absent entry is minus
            infinity, not 0.

        Raises
        ------
        DenseOutputError
            If a dense result would be over ``max_dense_bytes``.
        """
        X = self._check_predict(X)
        if self._target_kind == "sparse":
            return self._sparse_margins(X)
        self._check_dense_size(X.shape[0], X.dtype.itemsize, "decision_function")
        margins = self._score_dense(X)
        return margins[:, 0] if self._target_kind == "binary" else margins

    def predict_proba(self, X):
        """Probabilities of the labels, or of the classes for 1-D ``y`` (then each row sums to 1).

        Parameters
        ----------
        X : {array-like, sparse array or matrix, dataframe} of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        csr_array, csr_matrix or ndarray
            See the table of `XMCClassifierMixin`. All values lie strictly between 0 and 1. For 1-D
            ``y``, the largest of a row is at the predicted class.

        Raises
        ------
        DenseOutputError
            If a dense result would be over ``max_dense_bytes``.
        """
        X = self._check_predict(X)
        if self._target_kind == "sparse":
            margins = self._sparse_margins(X)
            margins.data = self._proba(margins.data)
            return margins
        self._check_dense_size(X.shape[0], X.dtype.itemsize, "predict_proba")
        margins = self._score_dense(X)
        proba = self._proba(margins)
        return proba if self._target_kind == "dense" else _class_proba(proba, margins)

    def predict(self, X):
        """The labels with a probability above 0.5, or the best class for 1-D ``y``.

        A budget of k labels a row is another question: see `predict_topk`.

        Parameters
        ----------
        X : {array-like, sparse array or matrix, dataframe} of shape (n_samples, n_features)
            The rows.

        Returns
        -------
        csr_array, csr_matrix or ndarray
            Of the kind and dtype that ``Y`` had in ``fit``. Complete: not limited to ``top_k``
            labels a row.

        Raises
        ------
        DenseOutputError
            If the result would be over ``max_dense_bytes``. A sparse one can be only if a great
            part of all labels is predicted.
        """
        X = self._check_predict(X)
        if self._target_kind == "sparse":
            return self._predict_sparse(X)
        if self._target_kind == "dense":
            self._check_dense_size(X.shape[0], self._target_dtype.itemsize, "predict")
            shape = (X.shape[0], self.n_labels_)
            dtype = self._target_dtype
        else:
            shape, dtype = (X.shape[0],), np.intp
        out = np.empty(shape, dtype=dtype)
        block = max(1, _BLOCK_BYTES // (8 * self.n_labels_))
        for start in range(0, X.shape[0], block):
            rows = slice(start, start + block)
            margins = self._score_dense(X if block >= X.shape[0] else take_rows(X, rows))
            if self._target_kind == "dense":
                out[rows] = self._proba(margins) > 0.5
            else:
                out[rows] = _best_class(margins)
        return out if self._target_kind == "dense" else self.classes_[out]

    # ------------------------------------------------------------------ how

    def _proba(self, scores):
        """Probabilities strictly inside (0, 1), in the precision of the scores."""
        proba = self._scores_to_proba(scores)
        info = np.finfo(proba.dtype)
        # The smallest normal number: subnormal ones are slow, and zero where the processor flushes
        # them.
        return np.clip(proba, info.tiny, np.nextafter(info.dtype.type(1), info.dtype.type(0)))

    def _sparse_container(self, scores):
        return sp.csr_matrix(scores) if self._target_is_spmatrix else scores

    def _sparse_margins(self, X):
        answers = self._score_topk(X, min(self.top_k, self.n_labels_), None, None)
        return self._sparse_container(topk_to_csr(answers, self.n_labels_))

    def _predict_sparse(self, X):
        """All labels above the threshold: rows whose k-th best still is are asked for more."""
        n_samples, n_labels = X.shape[0], self.n_labels_
        k = min(self.top_k, n_labels)
        limit = self.max_dense_bytes // (_INDEX_BYTES + self._target_dtype.itemsize)
        pending = np.arange(n_samples)
        found_rows, found_labels, n_found = [], [], 0
        while pending.size:
            block = max(1, _BLOCK_BYTES // (8 * k))
            unfinished = []
            for start in range(0, len(pending), block):
                rows = pending[start : start + block]
                answers = self._score_topk(
                    X if len(rows) == n_samples else take_rows(X, rows), k, None, None
                )
                positive = (answers.labels >= 0) & (self._proba(answers.scores) > 0.5)
                more = positive[:, -1] & (k < n_labels)  # a new array: positive is changed next
                positive[more] = False
                found_rows.append(rows[np.nonzero(positive)[0]])
                found_labels.append(answers.labels[positive])
                unfinished.append(rows[more])
                n_found += len(found_labels[-1])
                if n_found > limit:
                    raise DenseOutputError(
                        f"predict found more than {n_found} labels above the threshold in "
                        f"{n_samples} rows, too many for a "
                        f"sparse result under max_dense_bytes={self.max_dense_bytes:,}: use "
                        "predict_topk, pass fewer rows "
                        "at a time, or raise max_dense_bytes."
                    )
            pending = np.concatenate(unfinished)
            k = min(n_labels, max(32, 4 * k))
        rows, labels = np.concatenate(found_rows), np.concatenate(found_labels)
        order = np.lexsort((labels, rows))
        indptr = np.zeros(n_samples + 1, dtype=np.int64)
        np.cumsum(np.bincount(rows, minlength=n_samples), out=indptr[1:])
        ones = np.ones(len(labels), dtype=self._target_dtype)
        return self._sparse_container(
            sp.csr_array((ones, labels[order], indptr), shape=(n_samples, n_labels))
        )


def as_target_array(Y):
    """``Y`` as an ndarray of one or two dimensions, refused with what can be said about it."""
    try:
        Y = np.asarray(Y)
    except ValueError as error:
        raise ValueError(
            "Y is a list of lists of different lengths. For lists of labels, use "
            "sklearn.preprocessing.MultiLabelBinarizer(sparse_output=True) to make the indicator "
            "matrix."
        ) from error
    if Y.ndim == 2 and Y.shape[1] != 1:
        return Y
    Y = column_or_1d(Y, warn=True)
    assert_all_finite(Y, input_name="y")
    check_classification_targets(Y)
    return Y


def _numeric_dtype(dtype):
    """The dtype of predictions for a ``Y`` of this dtype."""
    return np.dtype(np.int64) if dtype.kind == "O" else np.dtype(dtype)


def one_hot(codes, n_classes):
    """One column a class; a single one for two classes."""
    if n_classes == 2:
        return canonical_indicator(codes[:, None] == 1)
    n_samples = len(codes)
    ones = np.ones(n_samples, dtype=np.uint8)
    indptr = np.arange(n_samples + 1)
    return canonical_indicator(sp.csr_array((ones, codes, indptr), shape=(n_samples, n_classes)))


def check_k(k):
    if isinstance(k, (bool, np.bool_)) or not isinstance(k, numbers.Integral) or k < 1:
        raise ValueError(f"k must be an integer of at least 1; got {k!r}.")
    return int(k)


def pad_topk(answers, k):
    missing = ((0, 0), (0, k - answers.labels.shape[1]))
    return TopK(
        np.pad(answers.labels, missing, constant_values=-1),
        np.pad(answers.scores, missing, constant_values=-np.inf),
    )


def _binary_topk(margins, k, exclude, candidates):
    """Ranking of the two classes, whose margins are opposite."""
    margins = np.hstack([-margins, margins])
    if candidates is not None:
        margins[candidates.toarray() == 0] = -np.inf
    if exclude is not None:
        margins[exclude.toarray() != 0] = -np.inf
    return topk_dense(margins, k)


def _best_class(margins):
    if margins.shape[1] == 1:
        return (margins[:, 0] > 0).astype(np.intp)
    return np.argmax(margins, axis=1)


def _class_proba(proba, margins):
    """Class probabilities that sum to 1 and have their maximum at the predicted class."""
    best = _best_class(margins)
    if proba.shape[1] == 1:
        proba = np.hstack([1 - proba, proba])
        half, one = proba.dtype.type(0.5), proba.dtype.type(1)
        # a margin so small that its probability rounds to 0.5
        undecided = np.flatnonzero(np.argmax(proba, axis=1) != best)
        proba[undecided, best[undecided]] = np.nextafter(half, one)
        proba[undecided, 1 - best[undecided]] = np.nextafter(half, one - one)
        return proba
    proba = proba / proba.sum(axis=1, keepdims=True)
    # Margins so large that several probabilities round to the same number: the predicted class
    # comes first.
    tied = np.flatnonzero(np.argmax(proba, axis=1) != best)
    proba[tied, best[tied]] = np.nextafter(proba[tied].max(axis=1), proba.dtype.type(1))
    return proba
