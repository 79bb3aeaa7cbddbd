"""The meta-estimator that answers k labels a row so that a chosen metric becomes large."""

import numbers

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from skxmc._meta import MetaClassifierMixin, base_proba, fit_wrapped, out_of_fold_proba
from skxmc.decision._rules import (
    JOINT_METHODS,
    ROW_METHODS,
    Rule,
    apply_rule,
    decide_together,
    label_frequencies,
    learn_rule,
)
from skxmc.decision._utilities import METRICS, check_propensity, make_objective
from skxmc.label_space import jpv_propensity
from skxmc.ops.macro_at_k import objective_value

_NEVER = 2**31 - 1  # exclusive bound of the seeds


class MacroAtKPredictor(MetaClassifierMixin, BaseEstimator):
    r"""Choose k labels a row so that a metric that averages over labels becomes large.

    The k most probable labels are the best answer for precision@k, and a poor one for every metric
    in which rare labels count as much as frequent ones. This meta-estimator takes the marginal
    probabilities :math:`\eta_{ij}` of any classifier and chooses, with k labels in each row, the
    decision that maximises

    .. math::

        (1 - \alpha)\,\Psi_{\text{mix with}} + \alpha\,\Psi_{\text{metric}}, \qquad
        \Psi = \frac{1}{m} \sum_{j=1}^{m}
        \psi(\mathrm{tp}_j, \mathrm{fp}_j, \mathrm{fn}_j, \mathrm{tn}_j)

    where the confusion matrix of each label is the expected one ([1]_, chapter 4). The classifier
    is not trained anew: another metric, budget or mixture is another decision from the same
    probabilities. How good the decision is depends on how good they are; see
    `skxmc.calibration.IsotonicXMCCalibrator`.

    Parameters
    ----------
    estimator : estimator
        Any classifier of skxmc, a `Pipeline` or a search that ends in one, or a classifier of
        scikit-learn that learns a 0/1 matrix and has ``predict_proba`` or ``decision_function``. It
        is cloned; a `sklearn.frozen.FrozenEstimator` is used as it was fitted.
    metric : str or callable, default="macro_f1"
        "macro_precision", "macro_recall", "macro_f1", "macro_fbeta", "macro_jaccard",
        "macro_balanced_accuracy", "macro_gmean", "macro_hmean" (geometric and harmonic mean of true
        positive and true negative rate) or "coverage": means over all labels. "precision" and
        "psp" (not normalised): means over rows. Or a function ``psi(tp, fp, fn, tn)`` of four rates
        that sum to 1, which Numba compiles or has compiled, and whose mean over labels is meant; it
        must define its own 0 / 0.
    k : int, default=5
        Labels answered in each row. A row with fewer candidates gets all of them.
    alpha : float, default=1.0
        Share of ``metric`` in the mixture, in [0, 1]; at 1 it is the objective alone.
    mix_with : str or callable, default="precision"
        The other part, as ``metric``.
    method : {"bca", "greedy", "online", "frank-wolfe", "closed-form"}, default="bca"
        ===============  ====================  ===================================================
        method           a row's answer ...    what it does
        ===============  ====================  ===================================================
        ``bca``          depends on the rows   block coordinate ascent: sweeps over the rows, the
                         predicted with it     best k labels of a row given all others, until the
                                               expected utility rises no more
        ``greedy``       depends on them       one such sweep, starting with nothing decided
        ``online``       depends on those      one pass in the order of the rows, by the gradient at
                         before it             the running confusion matrices
        ``frank-wolfe``  is its own            `fit` learns a mixture of weighted top-k rules from
                                               out-of-fold probabilities
        ``closed-form``  is its own            one weighted top-k rule from the label frequencies;
                                               for utilities that are linear in tp and fp:
                                               recall, balanced accuracy, precision, PSP
        ===============  ====================  ===================================================

        The first three maximise the utility expected **on the rows given to** `predict` ([1]_,
        section 4.3): pass all rows that belong together in one call. The other two maximise it over
        the population (section 4.4) and suit rows that arrive one by one. "coverage" has no
        gradient and is for "bca" and "greedy".
    beta : float, default=1.0
        Of "macro_fbeta": recall counts ``beta`` times as much as precision.
    propensity : "jpv", array of shape (n_labels,) or object with ``propensity_``, default="jpv"
        For "psp": the probability that a relevant label was recorded. "jpv" is
        `skxmc.label_space.jpv_propensity` of the labels given to `fit`.
    cv : int, splitter, iterable of (train, test) or None, default=5
        Folds of the out-of-fold probabilities of "frank-wolfe"; not used by the other methods, nor
        with a frozen estimator, of which all rows given to `fit` are used as they are.
    top_k : int, default=100
        Candidates: the most probable labels of a row, at least ``k``. Others are taken to have the
        probability 0.
    init : {"top", "greedy", "random"}, default="top"
        Where "bca" starts.
    max_sweeps : int, default=100
        Largest number of sweeps of "bca", or of classifiers of "frank-wolfe".
    tol : float, default=1e-6
        Both end when the utility rises by less.
    random_state : int, RandomState or None, default=None
        Order of the rows in a sweep, random start, and the draws of "frank-wolfe". They are chosen
        in `fit`, so that `predict` gives the same answer each time.
    n_jobs : int or None, default=None
        Folds fitted at the same time.
    max_dense_bytes : int, default=2**30
        Largest dense output; see `skxmc.base.XMCClassifierMixin`.

    Attributes
    ----------
    estimator_ : estimator
        The classifier fitted on all rows, or the frozen one.
    label_frequency_ : ndarray of shape (n_labels,), float64
        Share of the rows given to `fit` that have each label.
    a_, b_ : ndarray of shape (n_classifiers, n_labels), float64
        With "frank-wolfe" and "closed-form": the gains ``a * eta + b``, of which a row gets the k
        largest.
    weight_ : ndarray of shape (n_classifiers,), float64
        Probability of each of these classifiers.
    history_ : ndarray of shape (n_iterations + 1,), float64
        With "frank-wolfe": the objective of the mixture on the rows given to `fit`, at the start
        and after each step, by the truth that it was learned from (see Notes).
    classes_, n_labels_, n_features_in_, feature_names_in_
        See `skxmc.base.XMCClassifierMixin`; the last two where the wrapped estimator has them.

    Raises
    ------
    ValueError
        For parameters out of range, a metric that the method cannot optimise, propensities that are
        none, or targets that `skxmc.base.XMCClassifierMixin` refuses.

    See Also
    --------
    skxmc.inspection.TradeoffDisplay : What each ``alpha`` gains and costs.
    skxmc.metrics.make_topk_scorer : With ``response="predict"``, a scorer of these decisions.

    Notes
    -----
    `fit` takes the time of one fit, of ``cv`` more with "frank-wolfe". The decision costs
    O(stored probabilities) a sweep, which is at most ``top_k`` a row, and as much memory; nothing
    of size rows x labels is made unless the outputs are dense.

    The first three methods decide when `predict` is called: ``metric``, ``k``, ``alpha`` and the
    other parameters of the decision can be changed with ``set_params`` without another `fit`.

    With 1-D ``y`` each row has one class, and a budget means nothing: all methods pass through.

    "frank-wolfe" learns two mixtures, one that takes the out-of-fold probabilities for the truth
    and one that takes the labels, and keeps the one whose decision is worth more on the labels. A
    decision is drawn for each row, by a random number made of its own probabilities, so that
    exactly k labels come out (Madow's method); on few rows it can be worth less than the mixture,
    whose value ``history_`` holds.

    References
    ----------
    .. [1] E. Schultheis, "Loss functions and architectures for extreme classification", doctoral
       thesis, Aalto University, 2025, chapter 4.
    .. [2] E. Schultheis, M. Wydmuch, W. Kotlowski, R. Babbar, K. Dembczynski, "Generalized test
       utilities for long-tail performance in extreme multi-label classification", NeurIPS 2023.
    .. [3] E. Schultheis, W. Kotlowski, M. Wydmuch, R. Babbar, S. Borman, K. Dembczynski,
       "Consistent algorithms for multi-label classification with macro-at-k metrics", ICLR 2024.

    Examples
    --------
    >>> from skxmc.datasets import make_xmc_classification
    >>> from skxmc.decision import MacroAtKPredictor
    >>> from skxmc.linear import DismecClassifier
    >>> from skxmc.metrics import macro_recall_at_k
    >>> data = make_xmc_classification(300, 60, 20, random_state=0)
    >>> model = MacroAtKPredictor(
    ...     DismecClassifier(), metric="macro_recall", k=2, random_state=0
    ... ).fit(data.X[:200], data.Y[:200])
    >>> decision = model.predict(data.X[200:])
    >>> decision.shape, set(decision.sum(axis=1).tolist())
    ((100, 20), {2})
    >>> most_probable = model.predict_topk(data.X[200:], k=2)
    >>> bool(
    ...     macro_recall_at_k(data.Y[200:], decision, k=2)
    ...     > macro_recall_at_k(data.Y[200:], most_probable, k=2)
    ... )
    True
    """

    _parameter_constraints = {
        **MetaClassifierMixin._parameter_constraints,
        "estimator": [HasMethods("fit")],
        "metric": [StrOptions(set(METRICS)), callable],
        "k": [Interval(numbers.Integral, 1, None, closed="left")],
        "alpha": [Interval(numbers.Real, 0, 1, closed="both")],
        "mix_with": [StrOptions(set(METRICS)), callable],
        "method": [StrOptions({*JOINT_METHODS, *ROW_METHODS})],
        "beta": [Interval(numbers.Real, 0, None, closed="neither")],
        "propensity": [StrOptions({"jpv"}), "array-like", HasMethods("fit")],
        "cv": ["cv_object"],
        "init": [StrOptions({"top", "greedy", "random"})],
        "max_sweeps": [Interval(numbers.Integral, 1, None, closed="left")],
        "tol": [Interval(numbers.Real, 0, None, closed="left")],
        "random_state": ["random_state"],
        "n_jobs": [numbers.Integral, None],
    }

    def __init__(
        self,
        estimator,
        *,
        metric="macro_f1",
        k=5,
        alpha=1.0,
        mix_with="precision",
        method="bca",
        beta=1.0,
        propensity="jpv",
        cv=5,
        top_k=100,
        init="top",
        max_sweeps=100,
        tol=1e-6,
        random_state=None,
        n_jobs=None,
        max_dense_bytes=2**30,
    ):
        self.estimator = estimator
        self.metric = metric
        self.k = k
        self.alpha = alpha
        self.mix_with = mix_with
        self.method = method
        self.beta = beta
        self.propensity = propensity
        self.cv = cv
        self.top_k = top_k
        self.init = init
        self.max_sweeps = max_sweeps
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.max_dense_bytes = max_dense_bytes

    # ------------------------------------------------------------------ fit

    def _fit_wrapped(self, X, Y, indicator, fit_params):
        for name in ("a_", "b_", "weight_", "history_"):  # of an earlier fit by another method
            self.__dict__.pop(name, None)
        self._seed = int(check_random_state(self.random_state).randint(_NEVER))
        # Before the folds, so that what is wrong with X is told with the rows of X.
        self.estimator_ = fit_wrapped(self.estimator, X, Y, fit_params)
        self.label_frequency_ = label_frequencies(indicator)
        self._propensity = self._find_propensity(indicator)
        if self.method in ROW_METHODS and self._is_multilabel:
            objective = self._objective()
            eta = None
            if self.method == "frank-wolfe":
                eta = out_of_fold_proba(
                    *(self.estimator, X, Y, self.cv, self._n_candidates),
                    n_jobs=self.n_jobs,
                    fit_params=fit_params,
                )
            rule, history = learn_rule(
                *(eta, indicator, self.k, objective, self.method),
                max_iter=self.max_sweeps,
                tol=self.tol,
                seed=self._seed,
            )
            self.a_, self.b_, self.weight_ = rule
            if history is not None:
                self.history_ = np.asarray(history)

    def _check_loaded_model(self):
        n_labels, state = self.n_labels_, vars(self)
        rules = [state[name] for name in ("a_", "b_") if name in state]
        shape = (len(state["weight_"]), n_labels) if rules else None
        arrays = [(array, shape) for array in rules]
        arrays += [(state[name], shape[:1]) for name in ("weight_",) if name in state]
        if self._propensity is not None:
            arrays.append((self._propensity, (n_labels,)))
        arrays.append((self.label_frequency_, (n_labels,)))
        for array, shape in arrays:
            # The kernels check no bounds.
            if array.dtype.kind != "f" or array.shape != shape or not np.isfinite(array).all():
                raise ValueError("the rule does not fit the labels, or is not finite")

    @property
    def _is_multilabel(self):
        return self._target_kind in ("sparse", "dense")

    @property
    def _n_candidates(self):
        return max(self.top_k, self.k)

    def _find_propensity(self, indicator):
        """Propensities of the labels, also if the metric does not need them: it may change."""
        if not self._is_multilabel:
            return None
        if isinstance(self.propensity, str):
            return jpv_propensity(indicator)
        return check_propensity(self.propensity, self.n_labels_)

    def _objective(self):
        return make_objective(
            self.metric,
            k=self.k,
            n_labels=self.n_labels_,
            alpha=self.alpha,
            mix_with=self.mix_with,
            beta=self.beta,
            propensity=self._propensity,
        )

    # ------------------------------------------------------------------ outputs

    def _decide(self, X):
        """Probabilities and decision of the rows, CSR."""
        eta = base_proba(self.estimator_, X, self._n_candidates)
        if self.method in ROW_METHODS:
            rule = Rule(self.a_, self.b_, self.weight_)
            return eta, apply_rule(rule, eta, self.k, self._seed)
        decision = decide_together(
            *(eta, self.k, self._objective(), self.method),
            init=self.init,
            max_sweeps=self.max_sweeps,
            tol=self.tol,
            seed=self._seed,
        )
        return eta, decision

    def predict(self, X):
        """The chosen labels: exactly ``k`` in each row with so many candidates.

        With the methods "bca", "greedy" and "online" the answer for a row depends on the other rows
        of ``X``.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of str, of length n_samples
            Rows, as the wrapped estimator takes them.

        Returns
        -------
        csr_array, csr_matrix or ndarray of shape (n_samples, n_labels)
            0/1 decisions of the kind and dtype that ``Y`` had in `fit`; for 1-D ``y`` the class
            that the wrapped estimator predicts, of shape (n_samples,).

        Raises
        ------
        DenseOutputError
            If a dense result would be over ``max_dense_bytes``.
        """
        self._check_predict(X)
        if not self._is_multilabel:
            return self.estimator_.predict(X)
        self._check_dense_output(X, self._target_dtype, "predict")
        _, decision = self._decide(X)
        decision = sp.csr_array(
            (decision.data.astype(self._target_dtype), decision.indices, decision.indptr),
            shape=decision.shape,
        )
        return (
            decision.toarray() if self._target_kind == "dense" else self._sparse_container(decision)
        )

    def expected_utility(self, X):
        """The value of the objective that `predict` is expected to reach on these rows.

        It is computed from the probabilities, so it is right as far as they are.

        Parameters
        ----------
        X : array-like, sparse matrix or sequence of str, of length n_samples
            Rows, as the wrapped estimator takes them.

        Returns
        -------
        float
            The mixture of the two metrics at the expected confusion matrices of the decision;
            coverage is the expected one.

        Raises
        ------
        ValueError
            If the model was fitted with 1-D ``y``, for which there is no decision about k labels.
        """
        self._check_predict(X)
        if not self._is_multilabel:
            raise ValueError(
                "There is no decision about k labels for a 1-D y; fit with a 0/1 matrix Y, such as "
                "that of sklearn.preprocessing.LabelBinarizer."
            )
        eta, decision = self._decide(X)
        return float(objective_value((eta, decision), self._objective()))
