"""One-vs-all linear classifier: DiSMEC and DiSMEC++."""

import hashlib
import itertools
import numbers
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length
from sklearn.utils._param_validation import Interval, StrOptions

from skxmc._parallel import Workers, effective_n_jobs
from skxmc._progress import progress
from skxmc.base import XMCClassifierMixin
from skxmc.exceptions import CheckpointError, MemoryLimitError
from skxmc.io._arrays import make_compressed, read_arrays, write_arrays_atomic
from skxmc.label_space._weighting import positive_weights
from skxmc.linear._rows import scaled_rows
from skxmc.ops import linear_scores, linear_solver
from skxmc.ops._device import BACKENDS, choose_place, default_block_bytes, place_for_prediction

# Labels solved by one call of the solver, at most and at least: the unit of threads, of progress
# and of checkpoints. Results do not depend on it; a killed fit loses at most one shard a thread.
# Fewer labels share the passes over X less well; fewer shards share the threads less well.
_SHARD = 256
_SMALL_SHARD = 32

# Bytes that a fit takes whatever its size: stacks, buffers of libraries. Measured.
_BASE_BYTES = 16 << 20

# Labels solved to predict the memory of a fit.
_SAMPLE = 128

# What torch takes when it is imported and begins to work.
_TORCH_BYTES = 256 << 20


class DismecClassifier(XMCClassifierMixin, BaseEstimator):
    r"""One-vs-all linear classifier for up to millions of labels.

    For each label :math:`j`, independently of all others,

    .. math::

        \min_{w, b} \; \tfrac12 \lVert w \rVert^2 + \tfrac{\rho}{2} b^2
        + C \sum_i c_{ij} \, \ell\bigl(y_{ij} (w \cdot x_i + s\, b)\bigr),
        \qquad y_{ij} \in \{-1, +1\},

    with :math:`\ell(z) = \max(0, 1 - z)^2` (squared hinge) or :math:`\log(1 + e^{-z})`,
    :math:`\rho = 1` if the intercept is regularised, else 0, :math:`s` = ``intercept_scaling``,
    :math:`c_{ij}` = 1 for a negative and the label's weight for a positive. The method is DiSMEC++:
    truncated Newton steps on the rows inside the margin, from a start that separates the means of
    positives and negatives, and weights pruned as soon as a label is solved. On top of it, sixteen
    labels share each pass over the rows, and a label is solved on a working set of rows in the
    coordinates of the features that they hold (`skxmc.ops.linear_solver`).

    A floating ``Y`` may hold soft targets :math:`t \in (0, 1]`, such as `GandalfAugmenter` makes.
    The loss of such a pair, with the score :math:`s`, is :math:`t c_{ij} \ell(s) + (1 - t)
    \ell(-s)`: the mean of the loss over labels that are drawn with the probability t.

    Parameters
    ----------
    C : float, default=1.0
        Weight of the loss against the squared norm, as in scikit-learn; :math:`\lambda = 1/C` in
        DiSMEC's convention.
    loss : {"squared_hinge", "logistic"}, default="squared_hinge"
        The logistic loss has no rows without curvature to skip: it takes several times longer.
    tol : float, default=0.01
        A label is done when its gradient, over all rows, is at most
        ``tol * max(min(n_pos, n_neg), 1) / n_samples`` times the gradient at zero: LIBLINEAR's
        rule, with LIBLINEAR's 0.01 or less where the optimum itself is wanted.
    max_iter : int, default=1000
        Newton steps a label.
    init : {"mean-separating", "multi-positive", "zero"}, default="mean-separating"
        Where a label starts; the solution does not depend on it beyond ``tol``.
    fit_intercept : bool, default=True
        Whether there is a :math:`b`.
    intercept_scaling : float, default=1.0
        The constant :math:`s` beside each row.
    regularize_intercept : bool, default=True
        True is LIBLINEAR's problem (and that of `LinearSVC`), False that of DiSMEC++.
    normalize : {"l2", None}, default="l2"
        "l2" scales each row to unit length, in `fit` and in all predictions: margins, pruning and
        ``C`` mean the same on every data set then, and accuracy on raw counts gains several points.
        The user's arrays stay as they are.
    weighting : None, str or array of shape (n_labels,), default=None
        Weight of a label's positives. None or "vanilla": 1. "propensity": :math:`2/p_j - 1`, the
        convex surrogate of the unbiased loss for missing labels. "class-balanced":
        :math:`(1 - \beta)/(1 - \beta^{n_j})`. "propensity-class-balanced": the product. An array:
        the weights themselves.
    propensity : "jpv", ("jpv", A, B) or array of shape (n_labels,), default="jpv"
        Probability :math:`p_j` that a relevant label was recorded, for ``weighting``. "jpv" is the
        formula of Jain, Prabhu and Varma with A=0.55, B=1.5.
    beta : float, default=0.9
        :math:`\beta` of the class-balanced weights, in [0, 1).
    prune_threshold : float, default=0.1
        Weights of smaller magnitude are dropped (DiSMEC's "ambiguity", which took 0.01). 0 keeps
        all.
    prune_tolerance : float or None, default=None
        Instead of ``prune_threshold``: per label the largest threshold that raises its objective's
        loss part over the training rows by at most this share.
    top_k : int, default=100
        Labels kept in a row of the sparse `predict_proba` and `decision_function`.
    max_dense_bytes : int, default=2**30
        Largest dense output; see `skxmc.base.XMCClassifierMixin`.
    n_jobs : int or None, default=None
        Threads; -1 for all processors. The result is the same, bit for bit, for any number. torch
        has threads of its own (``torch.set_num_threads``).
    backend : {"auto", "numba", "torch"}, default="auto"
        What solves the labels and scores the rows. "torch" solves blocks of labels together and is
        meant for GPUs: on a processor it takes many times longer than "numba". Both solve the same
        problem to the same tolerance; see Notes. "auto" is "numba", and "torch" for a CUDA device.
    device : {None, "cpu", "cuda:0", ...}, default=None
        Where torch computes; None is the processor. A GPU is used only if it is named here.
    memory_limit : int or None, default=None
        Bytes that `fit` may take beside its inputs. It is refused with `MemoryLimitError`, before
        anything is allocated, where `estimate_memory` says more.
    checkpoint_dir : str, path or None, default=None
        Folder in which `fit` leaves each finished shard of 32 to 256 labels. A later `fit` of the
        same parameters and data goes on from there, to a model that is identical bit for bit; the
        shards are removed when the fit is complete. Other data or parameters never mix: they get
        another subfolder.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    coef_ : csr_array of shape (n_labels, n_features), float32
        Pruned weights, by label (one row for two classes).
    intercept_ : ndarray of shape (n_labels,), float32
        :math:`s\, b`. Minus infinity for a label without positives: it has no weights and is
        never answered.
    n_iter_ : ndarray of shape (n_labels,), int32
        Newton steps.
    backend_ : {"numba", "torch"}
        What solved the labels.
    classes_, n_labels_, n_features_in_, feature_names_in_
        See `skxmc.base.XMCClassifierMixin`.

    Raises
    ------
    ValueError
        For input that `skxmc.base.XMCClassifierMixin` refuses, weights or propensities out of
        range or of the wrong length, a device that does not exist, ``backend="numba"`` with a GPU,
        soft targets with ``backend="torch"``.
    ImportError
        If torch is asked for and not installed.
    MemoryLimitError
        If the fit would take more than ``memory_limit``.
    CheckpointError
        If a shard in ``checkpoint_dir`` is damaged.

    Notes
    -----
    The fit is deterministic, so there is no ``random_state``.

    `predict_proba` is the logistic function of the margin: a ranking score in (0, 1) that is 0.5 at
    the decision threshold, *not* a calibrated probability under the squared hinge.

    Whatever the backend, the fitted attributes are NumPy and SciPy arrays: a model pickles, saves
    and loads without torch. `predict` and its kind follow ``backend`` and ``device`` too; where
    torch or the device does not exist they take Numba, whose scores differ by rounding alone.
    ``model.set_params(backend="numba", device=None)`` takes it in any case. Under torch a fit is
    the same, bit for bit, each time on the same device and number of threads.

    Time: about (n_stored(X) / 16 + stored entries of the rows inside the margin) a label and
    pass; linear in labels and rows. A dense ``X`` is used through a sparse copy.
    Memory of a fit beside inputs and result: see `estimate_memory`.

    References
    ----------
    R. Babbar, B. Schölkopf. DiSMEC: Distributed sparse machines for extreme multi-label
    classification. WSDM 2017.

    E. Schultheis. PhD thesis, Aalto University, 2025: section 5.1 (eq. 5.1), section 3.2
    (eqs. 3.9 to 3.14). E. Schultheis, R. Babbar. Speeding-up one-versus-all training for extreme
    classification via mean-separating initialization. Machine Learning, 2022.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skxmc import DismecClassifier
    >>> texts = ["fast web server", "web browser", "chess game", "puzzle game"]
    >>> Y = sp.csr_array([[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]])  # web, game, fast
    >>> model = make_pipeline(TfidfVectorizer(), DismecClassifier()).fit(texts, Y)
    >>> model.predict(["small web page", "board game"]).toarray()
    array([[1, 0, 0],
           [0, 1, 0]])
    >>> X = model[:-1].transform(["web game"])
    >>> model[-1].predict_topk(X, k=2).labels
    array([[1, 0]], dtype=int32)
    """

    _parameter_constraints = {
        **XMCClassifierMixin._parameter_constraints,
        "C": [Interval(numbers.Real, 0, None, closed="neither")],
        "loss": [StrOptions(set(linear_solver.LOSSES))],
        "tol": [Interval(numbers.Real, 0, None, closed="left")],
        "max_iter": [Interval(numbers.Integral, 1, None, closed="left")],
        "init": [StrOptions(set(linear_solver.STARTS))],
        "fit_intercept": ["boolean"],
        "intercept_scaling": [Interval(numbers.Real, 0, None, closed="neither")],
        "regularize_intercept": ["boolean"],
        "normalize": [StrOptions({"l2"}), None],
        "weighting": [str, "array-like", None],
        "propensity": [str, tuple, "array-like"],
        "beta": [Interval(numbers.Real, 0, 1, closed="left")],
        "prune_threshold": [Interval(numbers.Real, 0, None, closed="left")],
        "prune_tolerance": [Interval(numbers.Real, 0, None, closed="left"), None],
        "n_jobs": [numbers.Integral, None],
        "backend": [StrOptions(set(BACKENDS))],
        "device": [str, None],
        "memory_limit": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "checkpoint_dir": [str, Path, None],
        "verbose": ["verbose"],
    }

    _weight_attributes = ("coef_",)
    _accepts_soft_targets = True

    def __init__(
        self,
        C=1.0,
        *,
        loss="squared_hinge",
        tol=0.01,
        max_iter=1000,
        init="mean-separating",
        fit_intercept=True,
        intercept_scaling=1.0,
        regularize_intercept=True,
        normalize="l2",
        weighting=None,
        propensity="jpv",
        beta=0.9,
        prune_threshold=0.1,
        prune_tolerance=None,
        top_k=100,
        max_dense_bytes=2**30,
        n_jobs=None,
        backend="auto",
        device=None,
        memory_limit=None,
        checkpoint_dir=None,
        verbose=0,
    ):
        self.C = C
        self.loss = loss
        self.tol = tol
        self.max_iter = max_iter
        self.init = init
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.regularize_intercept = regularize_intercept
        self.normalize = normalize
        self.weighting = weighting
        self.propensity = propensity
        self.beta = beta
        self.prune_threshold = prune_threshold
        self.prune_tolerance = prune_tolerance
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes
        self.n_jobs = n_jobs
        self.backend = backend
        self.device = device
        self.memory_limit = memory_limit
        self.checkpoint_dir = checkpoint_dir
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def _fit_indicator(self, X, Y):
        place = choose_place(self.backend, self.device)
        self.backend_ = place.backend
        if place.backend == "torch" and Y.dtype != np.uint8:
            raise ValueError(
                'Y holds soft targets, which backend="torch" cannot train on: use '
                'backend="numba", or a Y of 0 and 1.'
            )
        n_jobs = effective_n_jobs(self.n_jobs) if place.backend == "numba" else 1
        n_features = X.shape[1]
        n_columns = Y.shape[1]
        task = self._task(X, Y)
        if self.memory_limit is not None:
            self._check_memory(_work_bytes(X, Y, n_jobs, place), n_jobs)
        rows = self._prepare(X, place)
        if self.memory_limit is not None:
            self._check_memory(self._predicted_bytes(X, Y, task, rows, n_jobs, place), n_jobs)
        n_labels = len(task.labels)
        shards = _shards(n_labels, X.shape, place)
        store = self._checkpoint(X, Y, place)
        is_new = [store is None or not store.has(shard) for shard in shards]
        solved = _workers(self.n_jobs, place).map(
            _solve_labels,
            list(itertools.compress(shards, is_new)),
            *(rows, task, place, self._solver_options()),
            finish=None if store is None else store.write,
        )
        solutions = []
        with progress(n_labels, "labels", self.verbose) as bar:
            for shard, new in zip(shards, is_new, strict=True):
                solutions.append(next(solved) if new else store.read(shard))
                bar.update(shard.stop - shard.start)
        self._collect(task.labels, solutions, n_columns, n_features)
        if store is not None:
            store.remove()

    def _task(self, X, Y):
        counts = np.bincount(Y.indices, minlength=Y.shape[1])
        soft = Y.dtype != np.uint8
        expected = np.bincount(Y.indices, Y.data, minlength=Y.shape[1]) if soft else counts
        weights = positive_weights(
            self.weighting, expected, X.shape[0], propensity=self.propensity, beta=self.beta
        )
        # Frequent labels first: they take longest, so the last shards are short and even.
        labels = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        return _Task(labels, *_rows_by_label(Y, counts, labels), weights[labels])

    def _solver_options(self):
        return {
            "loss": self.loss,
            "start": self.init,
            "C": self.C,
            "regularize_bias": self.regularize_intercept,
            "tol": self.tol,
            "max_iter": self.max_iter,
            "threshold": self.prune_threshold if self.prune_tolerance is None else 0.0,
            "loss_tolerance": self.prune_tolerance,
        }

    def _prepare(self, X, place):
        X = scaled_rows(X, self.normalize)
        bias_value = self.intercept_scaling if self.fit_intercept else 0.0
        where = {} if place.device is None else {"device": place.device}
        return _solver(place).prepare(X.indptr, X.indices, X.data, X.shape[1], bias_value, **where)

    def _collect(self, labels, solutions, n_columns, n_features):
        """Put the shards' labels in order of their number."""
        self.intercept_ = np.full(n_columns, -np.inf, dtype=np.float32)
        self.n_iter_ = np.zeros(n_columns, dtype=np.int32)
        scale = np.float32(self.intercept_scaling if self.fit_intercept else 0.0)
        self.intercept_[labels] = np.concatenate([s.bias for s in solutions]) * scale
        self.n_iter_[labels] = np.concatenate([s.n_iter for s in solutions])
        converged = np.concatenate([s.converged for s in solutions])
        lengths = np.zeros(n_columns, dtype=np.int64)
        lengths[labels] = np.concatenate([np.diff(s.indptr) for s in solutions])
        indptr = np.concatenate(([0], np.cumsum(lengths)))
        indices = np.empty(indptr[-1], dtype=np.int32)
        data = np.empty(indptr[-1], dtype=np.float32)
        first = 0
        while solutions:
            solution = solutions.pop(0)  # freed as it is copied
            shard = labels[first : first + len(solution.bias)]
            for position, label in enumerate(shard):
                source = slice(solution.indptr[position], solution.indptr[position + 1])
                target = slice(indptr[label], indptr[label + 1])
                indices[target] = solution.indices[source]
                data[target] = solution.data[source]
            first += len(shard)
        self.coef_ = make_compressed(data, indices, indptr, (n_columns, n_features))
        self._scorer = None
        vars(self).pop("_by_feature", None)
        self._fitted_scorer()
        if not converged.all():
            warnings.warn(
                f"{np.count_nonzero(~converged)} of {len(converged)} labels did not reach "
                f"tol={self.tol} in max_iter={self.max_iter} Newton steps; the first is label "
                f"{labels[np.argmin(converged)]}. Raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=5,
            )

    def _checkpoint(self, X, Y, place):
        if self.checkpoint_dir is None:
            return None
        params = {
            name: value
            for name, value in self.get_params(deep=False).items()
            # what the solution does not depend on
            if name not in ("n_jobs", "memory_limit", "checkpoint_dir", "verbose", "top_k")
            # backend and device as they were resolved
            and name not in ("max_dense_bytes", "backend", "device")
        }
        shards = (_SHARD, _SMALL_SHARD) if place.device is None else (place, _block(X.shape, place))
        digest = hashlib.sha256(repr((*shards, sorted(params))).encode())
        for _, value in sorted(params.items()):
            digest.update(
                np.ascontiguousarray(value).tobytes()
                if isinstance(value, np.ndarray)
                else repr(value).encode()
            )
        for array in (X, Y):
            parts = (array.indptr, array.indices, array.data) if sp.issparse(array) else (array,)
            digest.update(repr((array.shape, [part.dtype.str for part in parts])).encode())
            for part in parts:
                digest.update(np.ascontiguousarray(part).data)
        return _Checkpoint(Path(self.checkpoint_dir) / digest.hexdigest()[:32])

    # ------------------------------------------------------------------ memory

    def estimate_memory(self, X, Y):
        """Predict the peak memory of ``fit(X, Y)`` beside its inputs.

        Parameters
        ----------
        X, Y : as in `fit`
            What would be fitted.

        Returns
        -------
        int
            Bytes: the rows as the solver keeps them and the copies that make them, the work space
            of each thread, and the weights. How many weights the labels keep is seen from 128 of
            them, spread evenly over the frequencies, and how large the working sets get from the
            most frequent ones; these are solved for it. The threads' part counts twice, for what
            the allocator keeps of freed blocks. With torch: X on the device, a block of labels, the
            weights; what is on a GPU counts too.
        """
        probe = clone(self)
        probe._validate_params()
        X = probe._check_X(X, reset=True)
        Y = probe._encode_target(Y if sp.issparse(Y) else np.asarray(Y))
        check_consistent_length(X, Y)
        place = choose_place(self.backend, self.device)
        n_jobs = effective_n_jobs(self.n_jobs)
        rows = self._prepare(X, place)
        return self._predicted_bytes(X, Y, self._task(X, Y), rows, n_jobs, place)

    def _predicted_bytes(self, X, Y, task, rows, n_jobs, place):
        """Work space, and the weights as a sample of the labels has them."""
        n_labels = len(task.labels)
        # evenly over the ranks by frequency, on which the number of weights depends
        n_sample = min(n_labels, _SAMPLE)
        positions = ((np.arange(n_sample) + 0.5) * n_labels / n_sample).astype(np.int64)
        options = self._solver_options()
        solution = _solve_labels(positions, rows, task, place, options)
        n_weights = len(solution.data) / n_sample * n_labels
        # The lanes of each thread begin with the most frequent labels of its first shard, whose
        # working sets are the largest: 8 bytes an entry, and some more while they grow. Twice:
        # the allocator keeps most of what a thread has freed.
        if place.backend == "torch":
            pools = 0  # a block has a size of its own
        elif self.loss == "logistic":
            pools = 8 * len(rows.data) * n_jobs
        else:
            pools = 0
            for shard in _shards(n_labels, X.shape, place)[:n_jobs]:
                head = np.arange(shard.start, min(shard.stop, shard.start + linear_solver.LANES))
                gathered = _solve_labels(head, rows, task, place, options).counters[3]
                pools += 2 * 10 * gathered / len(head) * linear_solver.LANES
        # coef_, and the same by feature with up to as many bytes of dense rows
        return int(_work_bytes(X, Y, n_jobs, place) + pools + 24 * n_weights)

    def _check_memory(self, needed, n_jobs):
        if needed > self.memory_limit:
            raise MemoryLimitError(
                f"fit would take about {needed:,} bytes or more beside its inputs, over "
                f"memory_limit={self.memory_limit:,}: lower n_jobs (now {n_jobs}), raise "
                "prune_threshold, use fewer features, or raise memory_limit."
            )

    # ------------------------------------------------------------------ predict

    def _score_topk(self, X, k, exclude, candidates):
        ops, scorer, options = self._fitted_scorer()
        restricted = {"exclude": exclude, "candidates": candidates}
        return ops.topk(scorer, self._scaled(X), k, **restricted, **options)

    def _score_dense(self, X):
        ops, scorer, options = self._fitted_scorer()
        return ops.scores(scorer, self._scaled(X), **options)

    def _scaled(self, X):
        # dense rows that are not scaled are scored as they are
        return X if self.normalize is None else scaled_rows(X, self.normalize)

    def _fitted_scorer(self):
        """The ops of the backend, the weights as they take them, and the options of a call."""
        place = place_for_prediction(self.backend, self.device)
        ops, options, where = linear_scores, {}, {}
        if place.backend == "torch":
            from skxmc.ops.linear_scores import torch_ as ops

            where = {"device": place.device}
        else:
            options = {"n_threads": effective_n_jobs(self.n_jobs)}
        # A loaded model opens at once and makes its layout, which is not stored, on first use.
        if self._scorer is None or self._scorer[0] != place:
            if place.backend == "numba" and "_by_feature" in vars(self):
                self._scorer = place, self._stored_scorer()
            else:
                self._scorer = place, ops.prepare_scorer(self.coef_, self.intercept_, **where)
        return ops, self._scorer[1], options

    def __getstate__(self):
        state = {**super().__getstate__(), "_scorer": None}
        if state.pop("_by_feature", None) is not None:
            state["coef_"] = self.coef_
        return state

    def _mapped_state(self):
        """State for files that are mapped: the weights by feature, in which rows are scored."""
        if not hasattr(self, "coef_"):  # not fitted
            return self.__getstate__()
        coef, intercept = self.coef_, self.intercept_
        never_answered = np.diff(coef.indptr)[intercept == -np.inf]
        if never_answered.any() or np.count_nonzero(coef.data) < len(coef.data):
            return self.__getstate__()  # that layout leaves out such weights
        scorer = self._scorer[1] if self._scorer is not None else None
        if not isinstance(scorer, linear_scores.LinearScorer):
            scorer = linear_scores.prepare_scorer(coef, intercept)
        by_feature = {name: getattr(scorer, name) for name in linear_scores.STORED}
        del by_feature["intercept"]
        return {
            **{name: value for name, value in self.__getstate__().items() if name != "coef_"},
            "_by_feature": by_feature,
        }

    def _stored_scorer(self):
        intercept = self.intercept_ + np.float32(0)  # as `prepare_scorer` has it
        return linear_scores.mapped_scorer({**self._by_feature, "intercept": intercept})

    def __getattr__(self, name):
        # A mapped model has the weights by feature, and makes coef_ where it is asked for.
        if name == "coef_" and "_by_feature" in self.__dict__:
            self.coef_ = linear_scores.weights_by_label(self._stored_scorer())
            return self.coef_
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _check_loaded_model(self):
        self._scorer = None
        n_columns = 1 if self._target_kind == "binary" else self.n_labels_
        if "_by_feature" in vars(self):
            if "coef_" in vars(self) or self.intercept_.dtype != np.float32:
                raise ValueError("the weights are there twice, or intercept_ is not float32")
            scorer = self._stored_scorer()
            if (scorer.n_labels, scorer.n_features) != (n_columns, self.n_features_in_):
                raise ValueError("the weights, n_labels_ and n_features_in_ do not fit together")
            self._scorer = choose_place("numba", None), scorer
            return
        if self.coef_.dtype != np.float32 or self.intercept_.dtype != np.float32:
            raise ValueError("coef_ and intercept_ must be float32")
        shape = n_columns, self.n_features_in_
        if self.coef_.shape != shape or self.intercept_.shape != shape[:1]:
            raise ValueError("coef_, intercept_ and n_features_in_ do not fit together")
        if np.isnan(self.intercept_).any():
            raise ValueError("intercept_ has NaN")

    def _check_all_weights(self):
        """Read all that `_check_loaded_model` leaves to the first use."""
        if "_by_feature" in vars(self):
            linear_scores.check_scorer(self._scorer[1])


class _Checkpoint:
    """Finished shards in a folder."""

    def __init__(self, folder):
        self.folder = folder

    def _path(self, shard):
        return self.folder / f"labels-{shard.start:09d}.npz"

    def has(self, shard):
        return self._path(shard).exists()

    def read(self, shard):
        path = self._path(shard)
        try:
            arrays, _ = read_arrays(path)
            solution = linear_solver.LinearSolution(**arrays)
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"The shard {path} cannot be used ({error}): delete it to have its labels trained "
                "again."
            ) from error
        return solution

    def write(self, shard, solution):
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays_atomic(self._path(shard), solution._asdict())

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class _Task(NamedTuple):
    """The labels to be solved, most frequent first."""

    labels: np.ndarray
    indptr: np.ndarray  # positive rows of labels[l]: rows[indptr[l]:indptr[l + 1]], ascending
    rows: np.ndarray
    targets: np.ndarray | None  # of each positive; None: all 1
    weights: np.ndarray


def _solve_labels(positions, rows, task, place, options):
    """Solve the labels at these positions of the task, a slice or an array."""
    if isinstance(positions, slice):
        positions = np.arange(positions.start, positions.stop)
    if place.backend == "numba":
        rows = _read_only(rows)
    lengths = task.indptr[positions + 1] - task.indptr[positions]
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    source = np.repeat(task.indptr[positions] - indptr[:-1], lengths) + np.arange(indptr[-1])
    return _solver(place).solve(
        rows,
        indptr,
        task.rows[source],
        **({} if task.targets is None else {"pos_targets": task.targets[source]}),
        positive_cost=task.weights[positions],
        **options,
    )


def _read_only(rows):
    """Views of the rows: kernels are compiled once, wherever the arrays come from."""
    views = []
    for part in rows:
        if isinstance(part, np.ndarray):
            part = part.view(np.ndarray)
            part.flags.writeable = False
        views.append(part)
    return type(rows)(*views)


def _workers(n_jobs, place):
    """Where shards are solved; those of torch one after the other, on its device."""
    return Workers(n_jobs) if place.backend == "numba" else Workers(1, local=True)


def _solver(place):
    """The functions `prepare` and `solve` of a backend."""
    if place.backend == "numba":
        return linear_solver
    from skxmc.ops.linear_solver import torch_

    return torch_


def _block(shape, place):
    """Labels that torch solves together, for X of a shape."""
    return _solver(place).block_size(*shape, default_block_bytes(place.device))


def _shards(n_labels, shape, place):
    if place.backend == "torch":
        size = _block(shape, place)
    else:
        size = min(_SHARD, max(_SMALL_SHARD, n_labels // 8))
    return [slice(first, min(first + size, n_labels)) for first in range(0, n_labels, size)]


def _rows_by_label(Y, counts, labels):
    by_label = Y.tocsc()
    lengths = counts[labels]
    indptr = np.concatenate(([0], np.cumsum(lengths)))
    source = np.repeat(by_label.indptr[labels] - indptr[:-1], lengths) + np.arange(indptr[-1])
    targets = None if Y.dtype == np.uint8 else by_label.data[source]
    return indptr.astype(np.int64), by_label.indices[source].astype(np.int32), targets


def _work_bytes(X, Y, n_jobs, place):
    """Bytes of a fit without the weights and the working sets."""
    n_samples, n_features = X.shape
    nnz = X.nnz if sp.issparse(X) else X.size
    # the solver's rows (8 bytes an entry) and what making them takes for a moment
    rows = (16 if sp.issparse(X) else 24) * nnz + 32 * n_samples + 32 * n_features
    if place.backend == "torch":
        # rows on the host, on the device by row and by feature, and the sorting of them
        of_block = _solver(place).label_bytes(n_samples, n_features)
        of_block *= min(_block(X.shape, place), Y.shape[1])
        rows += _TORCH_BYTES + 40 * nnz
        return _BASE_BYTES + rows + 24 * Y.nnz + 40 * Y.shape[1] + of_block
    thread = linear_solver.work_bytes(n_samples, n_features)
    return _BASE_BYTES + rows + 24 * Y.nnz + 40 * Y.shape[1] + 2 * n_jobs * thread
