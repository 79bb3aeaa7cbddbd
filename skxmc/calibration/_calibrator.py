"""The calibrator: probabilities for whatever ranks labels."""

import itertools
import numbers

import numpy as np
from scipy.special import logit
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _num_samples

from skxmc._meta import (
    MetaClassifierMixin,
    base_topk,
    dense_margins,
    fit_wrapped,
    is_frozen,
    out_of_fold_dense_margins,
    out_of_fold_margins,
)
from skxmc._parallel import map_chunks
from skxmc.base import XMCClassifierMixin, _best_class, _class_proba, check_k
from skxmc.calibration import _grouped, _maps, _rows
from skxmc.exceptions import DenseOutputError
from skxmc.label_space._propensity import check_propensities
from skxmc.ops.csr import canonical_pattern
from skxmc.ops.topk import TopK, topk_csr, topk_dense, topk_to_csr

# The choice of the grouping looks at so many pairs of rows drawn at random.
_CHOICE_PAIRS = 600_000
# Pairs that are calibrated at a time: their working arrays stay in a processor's cache.
_APPLY_PAIRS = 1 << 16
_LOWEST_PROBA = np.finfo(np.float32).tiny
_HIGHEST_PROBA = np.nextafter(np.float32(1), np.float32(0))


class IsotonicXMCCalibrator(MetaClassifierMixin, BaseEstimator):
    r"""Calibrated probabilities of the best labels of each row, with the ranking unchanged.

    What a classifier ranks by is seldom a probability: of the labels that DiSMEC or a label tree
    gives 0.9, it may be that 60 % are right. The calibrator scores the training rows out of fold,
    looks how often pairs of row and label with a certain score are true, and from that learns an
    increasing map from scores to probabilities.

    **Calibrated at every k.** The metric is calibration@k (arXiv 2411.04276): among the k
    best answers of all rows, those with a probability around p are right in a share p. A map
    learned from all candidates fails at it, since the best answer of a row is right more often than
    the fifth with the same score. So each range of ranks has a map of its own (``rank_ends``):
    where those of single ranks are calibrated, any pool of them is.

    **The ranking stays.** With ``keep_ranking=True`` the labels of a row come in exactly the order
    of the wrapped estimator, in `predict_topk` and `predict_proba`: every ranking metric stays the
    same. Where maps of different labels or ranks would turn two labels round, they get nearly the
    same probability (isotonic regression within the row).

    Parameters
    ----------
    estimator : classifier
        An estimator of skxmc, a pipeline or search that ends in one, or a multi-label classifier of
        scikit-learn with ``decision_function`` or ``predict_proba`` (its output is dense, at most
        1 GiB). It is fitted on all rows in the end. A `sklearn.frozen.FrozenEstimator` is not
        refitted: then the rows given to `fit` must be others than those that it was fitted on.
    method : {"isotonic", "platt", "temperature", "beta"}, default="isotonic"
        The kind of map of the score s: isotonic regression, interpolated linearly;
        :math:`\sigma(as + b)`; :math:`\sigma(as)`, a being the inverse temperature; or
        :math:`\sigma(a \ln p - b \ln(1 - p) + c)` with :math:`p = \sigma(s)`. All slopes are at
        least 0.
    grouping : {"auto", "pooled", "frequency", "label"}, default="auto"
        Maps for all labels together, for groups of labels with similar training frequency, or for
        each label with enough positives. "auto" takes the one with the highest likelihood of
        held-out rows (two-fold, at most 600,000 pairs).
    cv : int, splitter, iterable of (train, test) or None, default=None
        Folds for the out-of-fold scores: an int is the number of folds of
        `IterativeStratifiedKFold`, None is 5 of them. The folds should differ as the rows to come
        will differ from the training rows: where rows have siblings (versions of one document,
        packages of one source) that new rows lack, pass splits that keep siblings together, such
        as ``list(GroupKFold().split(X, groups=groups))``; else the probabilities are too high.
    rank_ends : sequence of int or None, default=(1, 2, 3, 5, 10, 30)
        Last ranks of the ranges with maps of their own; the default stands for 1, 2, 3, 4 to 5, 6
        to 10, 11 to 30, and all behind. Ranges with fewer than ``min_positives`` positives are
        joined. None or an empty sequence: no distinction.
    n_bins : int, default=10
        Largest number of groups of "frequency", with about equal numbers of positives.
    min_positives : int, default=100
        Positives that a label, group or range of ranks must have for a map of its own. A label
        with fewer has the map of all labels.
    max_pairs : int or None, default=2,000,000
        Out-of-fold scores that maps shared by labels learn from: those of rows drawn at random,
        where there are more. Maps of single labels learn from all. None: no limit.
    keep_ranking : bool, default=True
        False ranks the candidates of a row by the calibrated probabilities instead.
    propensity : array-like of shape (n_labels,), object with ``propensity_`` or None, default=None
        Probability :math:`p_l` that a true label was recorded, in (0, 1]. Given it, the
        probabilities are those of true labels, not of recorded ones: isotonic regression of
        :math:`y / p_l`, and for the other methods the unbiased log loss (thesis, eq. 3.9).
    top_k : int, default=100
        Candidates of each row to learn from, and labels kept in the sparse `predict_proba` and
        `decision_function`.
    max_dense_bytes : int, default=2**30
        Largest dense output; see `skxmc.base.XMCClassifierMixin`.
    n_jobs : int or None, default=None
        Folds at the same time, each of which takes the memory of a fit of its own; and threads
        that apply the maps.
    random_state : int, RandomState or None, default=None
        Of the rows on which "auto" compares the groupings, and of those that ``max_pairs`` leaves.

    Attributes
    ----------
    estimator_ : estimator
        Fitted on all rows, or the frozen one.
    grouping_ : str
        The grouping in use.
    scores_ : dict of str to float
        Mean log-likelihood of a held-out pair for each grouping compared; empty without "auto".
    group_of_label_ : ndarray of shape (n_labels,), int32
        Number of the label's map; 0 is the one of all labels.
    rank_ends_ : ndarray of shape (n_ranges - 1,), int64
        Ends of the ranges of ranks in use.
    classes_, n_labels_
        See `skxmc.base.XMCClassifierMixin`.
    n_features_in_, feature_names_in_
        Those of ``estimator_``, where it has them.

    Raises
    ------
    ValueError
        For a ``Y`` that `skxmc.base.XMCClassifierMixin` refuses, splits that are not a partition,
        propensities out of range or of the wrong length.

    See Also
    --------
    skxmc.model_selection.cross_val_predict_topk : The out-of-fold scores.

    Notes
    -----
    Margins returned by `decision_function` and `predict_topk` are the log-odds of the
    probabilities. The probability of a pair does not depend on ``exclude`` or ``candidates``, nor
    on ``k`` up to ``top_k``.

    A map is mixed with one millionth of the logistic function, which makes it strictly increasing
    and keeps it strictly inside (0, 1); numbers that are still equal in float32 are told apart by
    their last bit.

    For 1-D ``y`` the classes are calibrated one against the rest, and the probabilities of a row
    divided by their sum; with two classes the second is calibrated.

    Time: ``n_splits + 1`` fits, O(m log m) for m = n_samples * top_k out-of-fold scores, and
    O(log m) for each answer. Memory: beside the fits about 100 bytes an out-of-fold score.

    References
    ----------
    Labels in Extremes: How Well Calibrated are Extreme Multi-label Classifiers? arXiv 2411.04276.

    J. Platt. Probabilistic outputs for support vector machines. 1999. M. Kull, T. Silva Filho,
    P. Flach. Beta calibration. AISTATS 2017. E. Schultheis. PhD thesis, Aalto University, 2025:
    section 3.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skxmc.calibration import IsotonicXMCCalibrator
    >>> from skxmc.datasets import make_xmc_classification
    >>> from skxmc.linear import DismecClassifier
    >>> data = make_xmc_classification(300, 200, 30, random_state=0)
    >>> X, Y = data.X, data.Y
    >>> model = IsotonicXMCCalibrator(DismecClassifier(), cv=3, random_state=0).fit(X, Y)
    >>> answers = model.predict_topk(X, k=3)
    >>> bool((answers.labels == model.estimator_.predict_topk(X, k=3).labels).all())
    True
    >>> proba = model.predict_proba(X)
    >>> bool(0 < proba.data.min() <= proba.data.max() < 1)
    True
    """

    _parameter_constraints = {
        **XMCClassifierMixin._parameter_constraints,
        "method": [StrOptions(set(_maps.METHODS))],
        "grouping": [StrOptions({"auto", *_grouped.GROUPINGS})],
        "cv": ["cv_object"],
        "rank_ends": ["array-like", None],
        "n_bins": [Interval(numbers.Integral, 1, None, closed="left")],
        "min_positives": [Interval(numbers.Integral, 1, None, closed="left")],
        "max_pairs": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "keep_ranking": ["boolean"],
        "propensity": [
            "array-like",
            Interval(numbers.Real, 0, 1, closed="right"),
            None,
            object,
        ],
        "n_jobs": [numbers.Integral, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        estimator,
        *,
        method="isotonic",
        grouping="auto",
        cv=None,
        rank_ends=(1, 2, 3, 5, 10, 30),
        n_bins=10,
        min_positives=100,
        max_pairs=2_000_000,
        keep_ranking=True,
        propensity=None,
        top_k=100,
        max_dense_bytes=2**30,
        n_jobs=None,
        random_state=None,
    ):
        self.estimator = estimator
        self.method = method
        self.grouping = grouping
        self.cv = cv
        self.rank_ends = rank_ends
        self.n_bins = n_bins
        self.min_positives = min_positives
        self.max_pairs = max_pairs
        self.keep_ranking = keep_ranking
        self.propensity = propensity
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes
        self.n_jobs = n_jobs
        self.random_state = random_state

    # ------------------------------------------------------------------ fit

    def _fit_wrapped(self, X, Y, indicator, fit_params):
        ends = _check_rank_ends(self.rank_ends)
        propensity = _check_propensity(self.propensity, self.n_labels_, self._n_columns)
        options = {"n_jobs": self.n_jobs, "fit_params": fit_params}
        k = min(self.top_k, self._n_columns)
        # Before the folds, so that what is wrong with X is told with the rows of X.
        self.estimator_ = fit_wrapped(self.estimator, X, Y, fit_params)
        if self._target_kind == "sparse" and is_frozen(self.estimator):
            answers = base_topk(self.estimator_, X, k)  # as they are: no fold, no way through CSR
        elif self._target_kind == "sparse":
            margins = out_of_fold_margins(self.estimator, X, Y, self.cv, k, **options)
            answers = topk_csr(margins, k)
        else:
            margins = out_of_fold_dense_margins(self.estimator, X, Y, self.cv, indicator, **options)
            answers = topk_dense(margins, k)
        self._fit_maps(answers, indicator, ends, propensity)

    def _fit_maps(self, answers, indicator, ends, propensity):
        """Learn the maps from out-of-fold answers."""
        hits = _rows.hits(answers.labels, indicator, self.n_jobs)
        targets = hits.astype(np.float32)
        if propensity is not None:
            targets /= propensity[np.maximum(answers.labels, 0)]
        counts = np.bincount(indicator.indices, minlength=self._n_columns)
        groupings = _grouped.GROUPINGS if self.grouping == "auto" else (self.grouping,)
        if self._n_columns == 1:
            groupings = ("pooled",)
        found = self._found(answers, hits)
        groups = {name: self._groups(name, found, counts) for name in groupings}
        rng = check_random_state(self.random_state)
        self.scores_ = {}
        if len(groups) > 1:
            groups = {n: g for n, g in groups.items() if n == "pooled" or g[0].any()}
        if len(groups) > 1:
            self.scores_ = self._compare(answers, hits, targets, counts, list(groups), ends, rng)
            self.grouping_ = max(self.scores_, key=self.scores_.get)
        else:
            self.grouping_ = next(iter(groups))
        chosen = groups[self.grouping_]
        if self.max_pairs is not None and hits.size > self.max_pairs and self.grouping_ != "label":
            n_rows = max(1, self.max_pairs // hits.shape[1])
            rows = np.sort(rng.choice(len(hits), n_rows, replace=False))
            answers = TopK(answers.labels[rows], answers.scores[rows])
            hits, targets = hits[rows], targets[rows]
            chosen = self._groups(self.grouping_, self._found(answers, hits), counts)
        ends = _grouped.rank_ends(ends, hits, self.min_positives)
        of_pair = _grouped.pair_groups(*chosen, counts, answers.labels, hits)
        self._state = _grouped.fit_maps(
            *(self.method, answers, targets, chosen[0], of_pair, ends, self.keep_ranking),
            n_jobs=self.n_jobs,
        )
        self.group_of_label_ = self._state["groups"]
        self.rank_ends_ = self._state["rank_ends"]

    def _check_loaded_model(self):
        _grouped.check_state(self._state, self._n_columns)

    def _found(self, answers, hits):
        """Positives of each label among the answers."""
        return np.bincount(answers.labels[hits], minlength=self._n_columns)

    def _groups(self, name, found, counts):
        return _grouped.label_groups(name, counts, found, self.n_bins, self.min_positives)

    def _compare(self, answers, hits, targets, counts, names, ends, rng):
        """Held-out log-likelihood of each grouping: maps of half of the rows, on the other half."""
        n_rows = min(len(hits), max(2, _CHOICE_PAIRS // hits.shape[1]))
        halves = np.array_split(rng.permutation(len(hits))[:n_rows], 2)

        def likelihood(task):
            (fit_rows, test_rows), name = task
            learned = TopK(answers.labels[fit_rows], answers.scores[fit_rows])
            tested = TopK(answers.labels[test_rows], answers.scores[test_rows])
            here = _grouped.rank_ends(ends, hits[fit_rows], self.min_positives)
            groups = self._groups(name, self._found(learned, hits[fit_rows]), counts)
            of_fit, of_test = (
                _grouped.pair_groups(*groups, counts, answers.labels[rows], hits[rows])
                for rows in (fit_rows, test_rows)
            )
            state = _grouped.fit_maps(
                *(self.method, learned, targets[fit_rows], groups[0], of_fit, here),
                self.keep_ranking,
            )
            return name, _grouped.log_likelihood(state, tested, targets[test_rows], of_test)

        totals = dict.fromkeys(names, 0.0)
        tasks = itertools.product((halves, halves[::-1]), names)
        for name, value in map_chunks(likelihood, list(tasks), self.n_jobs):
            totals[name] += 0.5 * value
        return totals

    # ------------------------------------------------------------------ outputs

    def calibration_map(self, scores, label=None, rank=1):
        """Probabilities that the learned maps give to margins, to inspect or plot them.

        Parameters
        ----------
        scores : array-like of shape (n,)
            Margins of the wrapped estimator.
        label : int or None, default=None
            The column of ``Y`` whose map is meant, where labels have maps of their own. None is the
            map of all labels.
        rank : int, default=1
            Rank of the answers, from 1.

        Returns
        -------
        ndarray of shape (n,), float64
            Strictly increasing in the margin; before the order within a row is restored.
        """
        self._check_predict(None)
        scores = np.asarray(scores, dtype=np.float64)[:, np.newaxis]
        state = self._state
        if label is None:
            state, label = {**state, "groups": np.zeros_like(state["groups"])}, 0
        elif not 0 <= label < self._n_columns:
            raise ValueError(f"label must be in 0..{self._n_columns - 1}, got {label!r}.")
        ranks = np.full(scores.shape, check_k(rank) - 1)
        labels = np.full(scores.shape, label, dtype=np.int32)
        return _grouped.apply_maps(state, labels, scores, ranks)[:, 0]

    def _calibrated(self, labels, scores, ranks=None, proba=None):
        """Answers, their probabilities and their margins, best first; not answered: -1, -inf."""
        step = max(1, _APPLY_PAIRS // max(1, scores.shape[1]))

        def calibrate(start):
            rows = slice(start, start + step)
            more = (None if part is None else part[rows] for part in (ranks, proba))
            return self._calibrated_block(labels[rows], scores[rows], *more)

        if len(scores) <= step:
            return calibrate(0)
        blocks = list(map_chunks(calibrate, range(0, len(scores), step), self.n_jobs))
        return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))

    def _calibrated_block(self, labels, scores, ranks, proba):
        answered = labels >= 0
        n_answers = answered.sum(axis=1)
        new = _grouped.apply_maps(self._state, labels, scores, ranks)
        proba = new if proba is None else np.where(np.isnan(proba), new, proba)
        if self.keep_ranking:
            proba = _rows.falling(proba, scores, n_answers)
            falls = np.zeros(scores.shape, dtype=bool)
            falls[:, 1:] = scores[:, 1:] < scores[:, :-1]
        else:
            order = np.lexsort((labels, np.where(answered, -proba, np.inf)), axis=1)
            labels, proba, answered = (
                np.take_along_axis(part, order, axis=1) for part in (labels, proba, answered)
            )
            falls = np.zeros(scores.shape, dtype=bool)
            falls[:, 1:] = proba[:, 1:] < proba[:, :-1]
        margins = logit(np.clip(proba, 1e-300, np.nextafter(1.0, 0.0)))
        proba = np.clip(proba, _LOWEST_PROBA, _HIGHEST_PROBA)
        proba = _rows.split_ties(proba, n_answers, falls, _LOWEST_PROBA)
        margins = _rows.split_ties(margins, n_answers, falls)
        proba[~answered] = 0.0
        margins[~answered] = -np.inf
        return labels, proba, margins

    def _answers(self, X, k):
        """Labels, probabilities and margins of the best max(k, top_k) labels."""
        depth = min(max(k, self.top_k), self._n_columns)
        return self._calibrated(*base_topk(self.estimator_, X, depth))

    def _dense(self, X, method):
        """Margins and probabilities of all columns; absent ones: -inf and about 0."""
        self._check_dense_output(X, method=method)
        scores = dense_margins(self.estimator_, X, self._n_columns)
        order = np.argsort(-scores, axis=1, kind="stable").astype(np.int32)
        ranked = np.take_along_axis(scores, order, axis=1)
        labels, proba, margins = self._calibrated(np.where(ranked > -np.inf, order, -1), ranked)
        out_margins = np.full(scores.shape, -np.inf, dtype=np.float32)
        out_proba = np.full(scores.shape, _LOWEST_PROBA, dtype=np.float32)
        rows, columns = np.nonzero(labels >= 0)
        out_margins[rows, labels[rows, columns]] = margins[rows, columns]
        out_proba[rows, labels[rows, columns]] = proba[rows, columns]
        return out_margins, out_proba

    def predict_topk(self, X, k=5, *, exclude=None, candidates=None):
        """The k best labels of each row, best first, with the log-odds of their probabilities.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of str, of length n_samples
            Rows, as the wrapped estimator takes them.
        k : int, default=5
            Answers a row, at least 1. More than there are labels is allowed: the rest is padding.
        exclude : sparse array or matrix of shape (n_samples, n_labels) or None, default=None
            Pairs that must not be answered. A pair counts if a value other than 0 is stored for it.
        candidates : sparse array or matrix of shape (n_samples, n_labels) or None, default=None
            The only pairs allowed. Given both, the candidates that are not excluded.

        Returns
        -------
        TopK
            ``labels`` of shape (n_samples, k), int32, those of ``estimator_`` (with
            ``keep_ranking``), and ``scores``, float32: ``scipy.special.expit`` of them are the
            probabilities. Padded with -1 and -inf.

        Notes
        -----
        ``exclude`` and ``candidates`` ask the wrapped estimator twice: a probability is that of the
        label's rank among all labels.
        """
        self._check_predict(X)
        k = check_k(k)
        if self._target_kind == "binary":
            return self._binary_topk(X, k, exclude, candidates)
        if exclude is None and candidates is None:
            labels, _, margins = self._answers(X, k)
        else:
            labels, margins = self._restricted(X, k, exclude=exclude, candidates=candidates)
        return _cut(labels, margins, k)

    def _restricted(self, X, k, **pairs):
        n_columns = self._n_columns
        depth = min(k if self.keep_ranking else max(k, self.top_k), n_columns)
        answers = base_topk(self.estimator_, X, depth, **pairs)
        everything = base_topk(self.estimator_, X, min(max(k, self.top_k), n_columns))
        known_labels, _, known_margins = self._calibrated(*everything)
        ranks, _ = _rows.places(answers, everything)
        column, found = _rows.places(answers, TopK(known_labels, everything.scores))
        column = np.minimum(column, known_labels.shape[1] - 1)
        known = np.take_along_axis(known_margins, column, axis=1).astype(np.float64)
        proba = np.where(found, 1 / (1 + np.exp(-known)), np.nan)
        labels, _, margins = self._calibrated(answers.labels, answers.scores, ranks, proba)
        return labels, margins

    def _binary_topk(self, X, k, exclude, candidates):
        margins, _ = self._dense(X, "predict_topk")
        shape = (len(margins), 2)
        if exclude is not None:
            exclude = canonical_pattern(exclude, shape, name="exclude")
        if candidates is not None:
            candidates = canonical_pattern(candidates, shape, name="candidates")
        allowed = np.hstack([-margins, margins])
        if candidates is not None:
            allowed[candidates.toarray() == 0] = -np.inf
        if exclude is not None:
            allowed[exclude.toarray() != 0] = -np.inf
        answers = topk_dense(allowed, min(k, 2))
        return _cut(answers.labels, answers.scores, k)

    def decision_function(self, X):
        """Log-odds of the calibrated probabilities.

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
            labels, _, margins = self._answers(X, 1)
            return self._to_sparse(labels, margins)
        margins, _ = self._dense(X, "decision_function")
        return margins[:, 0] if self._target_kind == "binary" else margins

    def predict_proba(self, X):
        """Calibrated probabilities.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of str, of length n_samples
            Rows, as the wrapped estimator takes them.

        Returns
        -------
        csr_array, csr_matrix or ndarray
            See the table of `skxmc.base.XMCClassifierMixin`: sparse for a sparse ``Y``, with the
            ``top_k`` best labels of each row. All values lie strictly between 0 and 1, float32.
        """
        self._check_predict(X)
        if self._target_kind == "sparse":
            labels, proba, _ = self._answers(X, 1)
            return self._to_sparse(labels, proba)
        margins, proba = self._dense(X, "predict_proba")
        if self._target_kind == "dense":
            return proba
        return _class_proba(proba.astype(np.float64), margins)

    def predict(self, X):
        """The labels with a calibrated probability above 0.5, or the best class for 1-D ``y``.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of str, of length n_samples
            Rows, as the wrapped estimator takes them.

        Returns
        -------
        csr_array, csr_matrix or ndarray
            Of the kind and dtype that ``Y`` had in `fit`. Complete: not limited to ``top_k``.
        """
        self._check_predict(X)
        if self._target_kind == "sparse":
            return self._predict_sparse(X)
        margins, proba = self._dense(X, "predict")
        if self._target_kind == "dense":
            return (proba > 0.5).astype(self._target_dtype)
        return self.classes_[_best_class(margins)]

    def _predict_sparse(self, X):
        k = min(self.top_k, self.n_labels_)
        while True:
            labels, proba, _ = self._answers(X, k)
            positive = proba > 0.5
            n_bytes = np.count_nonzero(positive) * (4 + self._target_dtype.itemsize)
            if n_bytes > self.max_dense_bytes:
                raise DenseOutputError(
                    f"predict found {np.count_nonzero(positive)} labels above 0.5 in "
                    f"{_num_samples(X)} rows, too many for a sparse result under "
                    f"max_dense_bytes={self.max_dense_bytes:,}: use predict_topk, pass fewer rows "
                    "at a time, or raise max_dense_bytes."
                )
            if k == self.n_labels_ or not positive[:, -1].any():
                break
            k = min(4 * k, self.n_labels_)
        labels = np.where(positive, labels, -1)
        return self._to_sparse(labels, positive, dtype=self._target_dtype)

    def _to_sparse(self, labels, values, dtype=np.float32):
        return self._sparse_container(topk_to_csr(TopK(labels, values), self.n_labels_, dtype))


def _cut(labels, margins, k):
    """`TopK` of k columns."""
    missing = ((0, 0), (0, max(0, k - labels.shape[1])))
    return TopK(
        np.pad(labels[:, :k], missing, constant_values=-1).astype(np.int32, copy=False),
        np.pad(margins[:, :k], missing, constant_values=-np.inf),
    )


def _check_rank_ends(ends):
    values = np.asarray([] if ends is None else ends)
    if values.ndim != 1 or (
        values.size
        and (values.dtype.kind not in "iu" or values[0] < 1 or (np.diff(values) < 1).any())
    ):
        raise ValueError(f"rank_ends must be increasing integers of at least 1, got {ends!r}.")
    return values.astype(np.int64)


def _check_propensity(propensity, n_labels, n_columns):
    """Propensities of the columns as float32, or None."""
    if propensity is None:
        return None
    values = check_propensities(propensity, n_labels)
    return values[-n_columns:].astype(np.float32)
