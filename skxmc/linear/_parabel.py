"""ParabelTree: partitioned label trees."""

import copy
import itertools
import numbers
import warnings
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skxmc._parallel import Workers, effective_n_jobs
from skxmc._progress import progress
from skxmc.base import XMCClassifierMixin, check_k, pad_topk
from skxmc.exceptions import MemoryLimitError
from skxmc.label_space import LabelText, LabelTree, build_tree, grow_tree, label_features
from skxmc.linear import _tree_memory, _tree_training
from skxmc.linear._rows import scaled_arrays, scaled_rows
from skxmc.linear._tree_weights import (
    edge_log_probability,
    node_weights,
    pack_weights,
    unpack_weights,
)
from skxmc.ops import tree_search
from skxmc.ops._device import BACKENDS, choose_place, place_for_prediction
from skxmc.ops.csr import canonical_csr, canonical_pattern, canonical_targets

__all__ = ["PRESETS", "ParabelTree", "PathStep"]

_PARABEL = {
    "n_trees": 3,
    "label_representation": "pifa",
    "row_norm": False,
    "clustering": "bisect",
    "arity": 2,
    "max_leaf": 100,
    "max_depth": None,
    "root_classifier": False,
    "loss": "squared_hinge",
    "C": 1.0,
    "negative_cost": 1.0,
    "negatives": "teacher",
    "relevance": None,
    "relevance_norm": None,
    "link": "l2-hinge",
    "search": "beam",
}

#: What each preset stands for; every ingredient is a parameter too.
PRESETS = {
    "parabel": _PARABEL,
    "bonsai": {
        **_PARABEL,
        "row_norm": True,
        "clustering": "unbalanced",
        "arity": 100,
        "max_leaf": 200,
        "negative_cost": 1.6,
        "link": "l3-hinge",
    },
    "plt": {
        **_PARABEL,
        "n_trees": 1,
        "root_classifier": True,
        "loss": "logistic",
        "C": 10.0,
        "link": "logistic",
        "search": "exact",
    },
    "xr-linear": {**_PARABEL, "n_trees": 1, "row_norm": True, "arity": 16, "link": "l3-hinge"},
}

#: Up to so many labels the preset "auto" makes balanced trees.
_FEW_LABELS = 1000

#: Margin of a path whose probability is 1 in float32: above all others, and finite.
_MAX_MARGIN = 104.0

LABEL_REPRESENTATIONS = ("pifa", "text", "pifa+text", "cooccurrence", "pifa+cooccurrence")
CLUSTERINGS = ("bisect", "balanced", "unbalanced")
_NEGATIVES = ("teacher", "matcher", "teacher+matcher", "given")
_PRESET = StrOptions({"preset"})


class PathStep(NamedTuple):
    """One edge of a label's path, and what moved its score: see `ParabelTree.explain`.

    Attributes
    ----------
    tree, node : int
        Number of the tree, and of the node that the edge leads to.
    label : int
        The label of the node, if it is a leaf; else -1.
    score : float
        Margin of the node's classifier.
    log_probability : float
        Logarithm of the probability of the edge.
    bias : float
        What the intercept adds to the score.
    features, contributions : ndarray
        Features of the row, the most important first, and what each adds to the score.
    """

    tree: int
    node: int
    label: int
    score: float
    log_probability: float
    bias: float
    features: np.ndarray
    contributions: np.ndarray


class ParabelTree(XMCClassifierMixin, BaseEstimator):
    r"""Label-tree classifier: Parabel, Bonsai, probabilistic label trees and XR-Linear in one.

    The labels are clustered into a tree, similar labels together. Each node has a linear classifier
    that decides whether a row that has reached its parent goes on to it, trained on the rows that
    have a label below the parent. For a node :math:`v` under :math:`u` it minimises

    .. math::

        \tfrac12 \lVert w_v \rVert^2 + C \sum_{i \in M_u} c_{iv} \,
        \ell\bigl(y_{iv} (w_v \cdot x_i + b_v)\bigr),

    where :math:`y_{iv} = 1` if row i has a label below v, :math:`M_u` are the rows that u sees, and
    :math:`\ell` is the squared hinge or the logistic loss. A label's score is the product of the
    edge probabilities on its path. Training and prediction so cost O(log L) instead of O(L): a row
    is compared with the children of the few nodes that a search visits.

    A floating ``Y`` may hold soft targets in (0, 1], such as `GandalfAugmenter` makes. The target
    of a row at a node, :math:`t_v`, is the largest of the labels below. A node sees the row with
    the target :math:`t_u` in a share of :math:`t_u`, so the loss of its child v is
    :math:`t_v \ell(s) + (t_u - t_v) \ell(-s)` times the costs: the mean of the loss over labels
    that are drawn with one random number for the row. Rows that come from a matcher or
    ``negatives`` count with :math:`t_u = 1`, as at the root.

    Parameters
    ----------
    preset : {"auto", "bonsai", "parabel", "plt", "xr-linear"}, default="auto"
        What the parameters below stand for where they are ``"preset"``. "auto" is "bonsai" for more
        than 1,000 labels, and up to so many "parabel" with an arity of 16, which is as good there
        and quicker.

        ====================  ===============  ===============  ==============  ==============
        parameter             bonsai           parabel          plt             xr-linear
        ====================  ===============  ===============  ==============  ==============
        n_trees               3                3                1               1
        clustering            "unbalanced"     "bisect"         "bisect"        "bisect"
        arity                 100              2                2               16
        max_leaf              200              100              100             100
        max_depth             None             None             None            None
        row_norm              True             False            False           True
        root_classifier       False            False            True            False
        loss                  "squared_hinge"  "squared_hinge"  "logistic"      "squared_hinge"
        C                     1                1                10              1
        negative_cost         1.6              1                1               1
        link                  "l3-hinge"       "l2-hinge"       "logistic"      "l3-hinge"
        search                "beam"           "beam"           "exact"         "beam"
        label_representation  "pifa"           "pifa"           "pifa"          "pifa"
        negatives             "teacher"        "teacher"        "teacher"       "teacher"
        relevance             None             None             None            None
        ====================  ===============  ===============  ==============  ==============

    n_trees : int, default="preset"
        Trees, each with other seeds of the clustering; their probabilities are averaged.
    label_representation : str, default="preset"
        What the labels are clustered by, see `skxmc.label_space.label_features`. "pifa": the mean
        of their rows (XR-Transformer eq. 4). "text": the text given to `fit`. "cooccurrence": the
        labels they occur with (Bonsai's output space). "pifa+text", "pifa+cooccurrence": both.
    row_norm : bool, default="preset"
        Whether a row counts less in PIFA the more labels it has.
    clustering : {"bisect", "balanced", "unbalanced"}, default="preset"
        Balanced 2-means, several levels of which make one level of ``arity``; balanced k-means;
        k-means without a bound on the clusters. All spherical. See `skxmc.label_space.build_tree`.
    arity : int, default="preset"
        Children of a node that are not labels, at most; a power of two for "bisect".
    max_leaf : int, default="preset"
        Labels that are not clustered any further.
    max_depth : int or None, default="preset"
        Edges between the root and a label, at most.
    root_classifier : bool, default="preset"
        Whether the root has a classifier too, for rows that have no label at all.
    loss : {"squared_hinge", "logistic"}, default="preset"
    C : float, default="preset"
        Weight of the loss.
    negatives : {"teacher", "matcher", "teacher+matcher", "given"}, default="preset"
        The rows that a node sees. Teacher forcing: those with a label below it. Matcher-aware:
        those that the levels above would send there (XR-Transformer eq. 7), which takes a search of
        all rows for each level. Both (eq. 8). Given: the pairs passed to `fit`. Pairs that are
        passed count in every mode. A row that is not seen but has a label below joins as this
        child's positive.
    n_matcher : int, default=20
        Nodes of each level that the matcher finds for a row.
    negative_cost : float, default="preset"
        Cost of a negative: alpha of XR-Transformer, section 4.
    relevance : {None, "induce", "leaf"}, default="preset"
        Cost-sensitive learning: the cost of a positive is the relevance of the label for the row
        (1, or as passed to `fit`), summed over the labels below a node (eq. 6). "leaf": only for
        labels.
    relevance_norm : {None, "l1", "l2", "max"}, default="preset"
        Norm by which each row's relevances of a level are divided (eq. 6 ff.: l1).
    link : {"logistic", "l1-hinge", "l2-hinge", "l3-hinge"}, default="preset"
        How the score s of a node becomes the probability of its edge:
        :math:`1 / (1 + e^{-s})`, or :math:`\exp(-\max(0, 1 - s)^p)`.
    search : {"beam", "exact"}, default="preset"
        How `predict_topk` finds the best labels: a beam of ``beam_size`` nodes on each level, or
        best first, which is exact since no edge has a probability above 1.
    beam_size : int, default=10
        Nodes of each level that a beam search keeps for a row.
    tol : float, default=0.03
        Stop a classifier where the norm of its gradient, the bias being optimal, is below
        ``tol * min(n_pos, n_neg) / n`` of that at the start.
    max_iter : int, default=100
        Newton steps of a classifier.
    prune_threshold : float, default=0.1
        Weights of smaller magnitude are dropped.
    fit_intercept : bool, default=True
        Whether the classifiers have an intercept :math:`b_v`.
    intercept_scaling : float, default=1.0
        Value of the constant feature that makes the intercept.
    regularize_intercept : bool, default=True
        Whether the intercept is part of the norm, as in LIBLINEAR.
    normalize : {"l2", None}, default="l2"
        Whether rows are scaled to unit length, at fit and at predict.
    top_k : int, default=100
        Labels kept in a row of the sparse ``predict_proba`` and ``decision_function``, and of each
        tree when several are averaged.
    max_dense_bytes : int, default=2**30
        Largest dense output in bytes, else `DenseOutputError`.
    random_state : int, RandomState instance or None, default=None
        Of the clustering. The result does not depend on ``n_jobs``.
    n_jobs : int or None, default=None
        Threads, as in joblib.
    backend : {"auto", "numba", "torch"}, default="auto"
        What searches the trees: "torch" takes a level of a batch of rows at a time and is meant for
        GPUs. Its answers are those of "numba" but for the rounding of scores. Trees are clustered
        and trained by Numba, see Notes. "auto" is "numba", and "torch" for a CUDA device.
    device : {None, "cpu", "cuda:0", ...}, default=None
        Where torch computes; None is the processor. A GPU is used only if it is named here.
    memory_limit : int or None, default=None
        Bytes; a fit predicted to take more, see `estimate_memory`, raises `MemoryLimitError` before
        it starts.
    verbose : int, default=0
        1 shows a progress bar if tqdm is installed.

    Attributes
    ----------
    trees_ : list of LabelTree
    weights_ : list of skxmc.ops.tree_search.TreeWeights
        The classifiers of each tree, by parent.
    preset_ : dict
        What each ingredient is where its parameter is ``"preset"``.
    n_iter_ : int
        Newton steps of the classifier that took the most.
    backend_ : {"numba", "torch"}
        What ``backend`` and ``device`` stood for in `fit`.
    classes_, n_labels_, n_features_in_, feature_names_in_
        See `skxmc.base.XMCClassifierMixin`.

    Raises
    ------
    ValueError
        From `fit`: for what `XMCClassifierMixin.fit` names, and for options that do not fit
        together: an arity that is no power of two with "bisect", text as representation without
        text, ``negatives="given"`` without pairs, ``relevance_norm`` without ``relevance``; a
        device that does not exist, ``backend="numba"`` with a GPU.
    ImportError
        From `fit`: if torch is asked for and not installed.
    MemoryLimitError
        From `fit`: if its predicted memory is over ``memory_limit``.

    Notes
    -----
    **What the probabilities mean.** With ``preset="plt"`` the product is :math:`P(y_l = 1 | x)` by
    the chain rule, as far as the logistic models of the edges are right. With the hinge links it is
    a number in (0, 1) that ranks; it needs a calibrator to be a probability. Margins are the
    log-odds of the product, so they are consistent with `predict_proba`. A path of probability 1 in
    float32 has the margin 104. ``predict`` returns labels with a product above 0.5.

    A label without positives gets a place in the tree and the probability 0: it is never answered.

    **Beam and exact search.** The beam may miss labels; the sparse outputs and `predict_topk` use
    ``search``. If a beam finds fewer answers than are asked for and there are more, the row is
    searched exactly. Dense outputs score every label.

    **Backends.** With torch the beam search, the scores of ``candidates`` and dense outputs run on
    the device. Best-first search (``search="exact"``, `predict_gain`, and rows for which the beam
    finds too few answers) and `predict_above` stay on Numba: each step depends on the one before.
    So does training: thousands of nodes with few rows each, which would leave a GPU waiting. The
    fitted attributes are NumPy arrays, and a model pickles, saves and loads without torch; where
    torch or the device does not exist, predictions take Numba.

    **Cost.** Training: a pass over the rows of a node costs O(stored entries) for 16 children
    together; a node takes 15 to 40 passes. A row is in the training sets of as many nodes of a
    level as it has labels in different clusters. Memory beside X and Y, the larger of two phases:
    clustering takes 24 bytes an entry of the label features; training, for each thread, 670 bytes a
    row of its largest node and 90 to 160 a feature, and 6 bytes a weight.
    Prediction: O(entries of the row) for each of the about ``beam_size * depth`` nodes visited.

    References
    ----------
    .. [1] Prabhu et al., Parabel, WWW 2018.
    .. [2] Khandagale, Xiao, Babbar, Bonsai, Machine Learning 109, 2020.
    .. [3] Jasinska-Kobus et al., Probabilistic label trees, arXiv 2009.11218.
    .. [4] Yu, Zhong, Dhillon, PECOS (XR-Linear), arXiv 2010.05878.
    .. [5] Zhang et al., XR-Transformer, NeurIPS 2021, sections 2 to 4.
    .. [6] Etter et al., Accelerating inference for sparse extreme multi-label ranking trees, 2022.

    Examples
    --------
    >>> from skxmc import ParabelTree
    >>> from skxmc.datasets import make_xmc_classification
    >>> data = make_xmc_classification(n_samples=200, n_labels=40, random_state=0)
    >>> model = ParabelTree("xr-linear", max_leaf=8, random_state=0).fit(data.X, data.Y)
    >>> model.trees_[0]
    LabelTree(n_labels=40, n_nodes=49, max_depth=2)
    >>> model.predict_topk(data.X, k=3).labels.shape
    (200, 3)
    """

    _parameter_constraints = {
        **XMCClassifierMixin._parameter_constraints,
        "preset": [StrOptions({"auto", *PRESETS})],
        "n_trees": [_PRESET, Interval(numbers.Integral, 1, None, closed="left")],
        "label_representation": [StrOptions({"preset", *LABEL_REPRESENTATIONS})],
        "row_norm": [_PRESET, "boolean"],
        "clustering": [StrOptions({"preset", *CLUSTERINGS})],
        "arity": [_PRESET, Interval(numbers.Integral, 2, None, closed="left")],
        "max_leaf": [_PRESET, Interval(numbers.Integral, 1, None, closed="left")],
        "max_depth": [_PRESET, Interval(numbers.Integral, 1, None, closed="left"), None],
        "root_classifier": [_PRESET, "boolean"],
        "loss": [StrOptions({"preset", "squared_hinge", "logistic"})],
        "C": [_PRESET, Interval(numbers.Real, 0, None, closed="neither")],
        "negatives": [StrOptions({"preset", *_NEGATIVES})],
        "n_matcher": [Interval(numbers.Integral, 1, None, closed="left")],
        "negative_cost": [_PRESET, Interval(numbers.Real, 0, None, closed="neither")],
        "relevance": [StrOptions({"preset", "induce", "leaf"}), None],
        "relevance_norm": [StrOptions({"preset", "l1", "l2", "max"}), None],
        "link": [StrOptions({"preset", *tree_search.LINKS})],
        "search": [StrOptions({"preset", "beam", "exact"})],
        "beam_size": [Interval(numbers.Integral, 1, None, closed="left")],
        "tol": [Interval(numbers.Real, 0, None, closed="neither")],
        "max_iter": [Interval(numbers.Integral, 1, None, closed="left")],
        "prune_threshold": [Interval(numbers.Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "intercept_scaling": [Interval(numbers.Real, 0, None, closed="neither")],
        "regularize_intercept": ["boolean"],
        "normalize": [StrOptions({"l2"}), None],
        "random_state": ["random_state"],
        "n_jobs": [numbers.Integral, None],
        "backend": [StrOptions(set(BACKENDS))],
        "device": [str, None],
        "memory_limit": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "verbose": ["verbose"],
    }
    _weight_attributes = ("tree_weights",)
    _accepts_soft_targets = True

    def __init__(
        self,
        preset="auto",
        *,
        n_trees="preset",
        label_representation="preset",
        row_norm="preset",
        clustering="preset",
        arity="preset",
        max_leaf="preset",
        max_depth="preset",
        root_classifier="preset",
        loss="preset",
        C="preset",
        negatives="preset",
        n_matcher=20,
        negative_cost="preset",
        relevance="preset",
        relevance_norm="preset",
        link="preset",
        search="preset",
        beam_size=10,
        tol=0.03,
        max_iter=100,
        prune_threshold=0.1,
        fit_intercept=True,
        intercept_scaling=1.0,
        regularize_intercept=True,
        normalize="l2",
        top_k=100,
        max_dense_bytes=2**30,
        random_state=None,
        n_jobs=None,
        backend="auto",
        device=None,
        memory_limit=None,
        verbose=0,
    ):
        self.preset = preset
        self.n_trees = n_trees
        self.label_representation = label_representation
        self.row_norm = row_norm
        self.clustering = clustering
        self.arity = arity
        self.max_leaf = max_leaf
        self.max_depth = max_depth
        self.root_classifier = root_classifier
        self.loss = loss
        self.C = C
        self.negatives = negatives
        self.n_matcher = n_matcher
        self.negative_cost = negative_cost
        self.relevance = relevance
        self.relevance_norm = relevance_norm
        self.link = link
        self.search = search
        self.beam_size = beam_size
        self.tol = tol
        self.max_iter = max_iter
        self.prune_threshold = prune_threshold
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.regularize_intercept = regularize_intercept
        self.normalize = normalize
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.backend = backend
        self.device = device
        self.memory_limit = memory_limit
        self.verbose = verbose

    def _setting(self, name):
        value = getattr(self, name)
        is_preset = isinstance(value, str) and value == "preset"
        return self.preset_[name] if is_preset else value

    def _choose_preset(self):
        """Settings of the preset for the labels of the data."""
        if self.preset != "auto":
            self.preset_ = dict(PRESETS[self.preset])
        elif self.n_labels_ > _FEW_LABELS:
            self.preset_ = dict(PRESETS["bonsai"])
        else:
            self.preset_ = {**PRESETS["parabel"], "arity": 16}

    # ------------------------------------------------------------------ fit

    def fit(self, X, Y, *, label_text=None, relevance=None, negatives=None):
        """Cluster the labels and train the classifiers of the nodes.

        Parameters
        ----------
        X : {array-like, sparse array or matrix} of shape (n_samples, n_features)
            Rows.
        Y : {sparse array or matrix, array-like} of shape (n_samples, n_labels) or (n_samples,)
            Indicator, soft targets in [0, 1], or one class a row.
        label_text : list of str, LabelText or (sparse) array of shape (n_labels, any), default=None
            Text of the labels, or features made of it, for the representations with text. In a
            `GridSearchCV` wrap it in `skxmc.label_space.LabelText`: a list that happens to have as
            many entries as there are rows would be split with them.
        relevance : sparse array or matrix of shape (n_samples, n_labels), default=None
            Positive relevance of the pairs of ``Y``; what it stores elsewhere is not used.
        negatives : sparse array or matrix of shape (n_samples, n_labels), default=None
            Pairs of row and label: the classifiers on the label's path shall see the row.

        Returns
        -------
        object
            The fitted estimator itself.

        Raises
        ------
        ValueError
            As `skxmc.base.XMCClassifierMixin.fit`, and see the class.
        """
        return self._fit(X, Y, label_text=label_text, relevance=relevance, negatives=negatives)

    def _fit_indicator(self, X, Y, label_text=None, relevance=None, negatives=None):
        self.backend_ = choose_place(self.backend, self.device).backend
        self._choose_preset()
        self._check_options(label_text, relevance, negatives)
        limit = self.memory_limit
        if limit is not None:
            self._check_memory(self._predicted_bytes(self._expected_sizes(X, Y, label_text)))
        X = scaled_rows(X, self.normalize)
        Z = self._label_features(X, Y, label_text)
        workers = Workers(self.n_jobs)
        trees = list(self._build_trees(Z, Y, self._setting("n_trees"), workers))
        if limit is not None:
            self._check_memory(self._predicted_bytes(self._sampled_sizes(X, Y, Z, trees[0])))
        del Z  # before the training takes its memory
        self.trees_, self.weights_, self.n_iter_ = [], [], 0
        self._search = {}
        vars(self).pop("_mapped", None)
        for number, tree in enumerate(trees, start=1):
            weights, n_iter = self._train(
                *(tree, X, Y, relevance, negatives, workers), what=f"tree {number}", stacklevel=5
            )
            self.trees_.append(tree)
            self.weights_.append(weights)
            self.n_iter_ = max(self.n_iter_, n_iter)

    def _build_trees(self, Z, Y, n_trees, workers):
        get = self._setting
        random_state = check_random_state(self.random_state)
        counts = np.bincount(Y.indices, minlength=Y.shape[1])
        options = {
            "arity": get("arity"),
            "max_leaf": get("max_leaf"),
            "max_depth": get("max_depth"),
            "clustering": get("clustering"),
        }
        # each tree begins where the one before has left the generator
        states = (_drawn_state(random_state) for _ in range(n_trees))
        if workers.remote and n_trees > 1:
            trees = workers.map(_build_one, list(states), Z, counts, options, 1)
        else:
            n_jobs = effective_n_jobs(self.n_jobs)
            trees = (_build_one(state, Z, counts, options, n_jobs) for state in states)
        for tree in trees:
            if get("root_classifier"):
                tree = LabelTree(
                    np.concatenate(([1], tree.child_start + 1)), np.concatenate(([-1], tree.label))
                )
            yield tree

    def _check_options(self, label_text, relevance, negatives):
        get = self._setting
        arity = get("arity")
        if get("clustering") == "bisect" and arity & (arity - 1):
            raise ValueError(
                f'clustering="bisect" needs an arity that is a power of two, got {arity}: use '
                'clustering="balanced".'
            )
        if ("text" in get("label_representation")) != (label_text is not None):
            raise ValueError(
                f"label_representation={get('label_representation')!r} does not go with "
                f"label_text={'None' if label_text is None else 'given'}: use one with text, "
                'such as "pifa+text", and pass label_text to fit, or neither.'
            )
        if get("negatives") == "given" and negatives is None:
            raise ValueError('negatives="given" needs the pairs: pass negatives to fit.')
        if get("relevance") is None and get("relevance_norm") is not None:
            raise ValueError(
                f"relevance_norm={get('relevance_norm')!r} without relevance has no effect: set "
                'relevance to "induce" or "leaf".'
            )
        if get("relevance") is None and relevance is not None:
            raise ValueError(
                "relevance was passed to fit, but the parameter relevance is None: set it to "
                '"induce" or "leaf".'
            )

    def _label_features(self, X, Y, label_text):
        return label_features(
            X,
            Y,
            self._setting("label_representation"),
            row_norm=self._setting("row_norm"),
            label_text=_unwrapped(label_text),
            n_jobs=effective_n_jobs(self.n_jobs),
        )

    def _train(
        self, tree, X, Y, relevance, negatives, workers, *, nodes=None, kept=None, what, stacklevel
    ):
        """TreeWeights of a tree, trained whole or below some nodes only, and most Newton steps."""
        positives = self._positives(tree, Y, relevance)
        given = None
        if negatives is not None:
            pairs = canonical_pattern(negatives, Y.shape, name="negatives")
            given = _tree_training.node_rows(tree, pairs.indptr, pairs.indices)
        with progress(tree.n_nodes - 1, f"nodes of {what}", self.verbose) as bar:
            weights, n_iter, converged = _tree_training.train_tree(
                tree,
                X,
                positives,
                self._task(),
                given=given,
                nodes=nodes,
                kept=kept,
                n_jobs=effective_n_jobs(self.n_jobs),
                advance=bar.update,
                workers=workers,
            )
        if not converged.all():
            warnings.warn(
                f"{np.count_nonzero(~converged)} of {tree.n_nodes - 1} classifiers of {what} did "
                f"not reach tol={self.tol} in max_iter={self.max_iter} Newton steps; the first is "
                f"node {np.argmin(converged)}. Raise max_iter or tol.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )
        return weights, int(n_iter.max())

    def _task(self):
        get = self._setting
        mode = get("negatives")
        return _tree_training.TreeTask(
            loss=get("loss"),
            C=get("C"),
            tol=self.tol,
            max_iter=self.max_iter,
            bias_value=self.intercept_scaling if self.fit_intercept else 0.0,
            regularize_bias=self.regularize_intercept,
            threshold=self.prune_threshold,
            negative_cost=get("negative_cost"),
            teacher=mode in ("teacher", "teacher+matcher"),
            n_matcher=self.n_matcher if "matcher" in mode else 0,
            link=get("link"),
        )

    def _positives(self, tree, Y, relevance):
        if relevance is not None:
            relevance = _aligned_relevance(relevance, Y)
        positives = _tree_training.positive_costs(
            tree,
            _tree_training.node_rows(tree, Y.indptr, Y.indices, relevance),
            Y.shape[0],
            self._setting("relevance"),
            self._setting("relevance_norm"),
        )
        if Y.dtype == np.uint8:
            return positives
        soft = _tree_training.node_rows(tree, Y.indptr, Y.indices, Y.data, largest=True)
        return positives._replace(target=soft.value)

    # ------------------------------------------------------------------ memory

    def estimate_memory(self, X, Y, *, label_text=None):
        """Predict the peak memory of ``fit(X, Y)`` beside its inputs.

        Parameters
        ----------
        X, Y, label_text : as in `fit`
            What would be fitted.

        Returns
        -------
        int
            Bytes. Label features and the clustering on the one hand, the training on the other: the
            larger one counts, and the rows as they are scaled. The number of weights is seen from
            32 blocks of up to 16 siblings of one tree, which are solved for it; so this makes the
            label features and a tree first, and takes the memory of these. Rows that a node sees
            because of a matcher or given negatives alone are not counted.
        """
        probe = clone(self)
        probe._validate_params()
        X = probe._check_X(X, reset=True)
        Y = probe._encode_target(Y if sp.issparse(Y) else np.asarray(Y))
        check_consistent_length(X, Y)
        probe._choose_preset()
        X = scaled_rows(X, self.normalize)
        Z = probe._label_features(X, Y, label_text)
        (tree,) = probe._build_trees(Z, Y, 1, Workers(self.n_jobs))
        return probe._predicted_bytes(probe._sampled_sizes(X, Y, Z, tree))

    def _expected_sizes(self, X, Y, label_text):
        """Sizes that can be told from the data: label features, rows, tree, without weights."""
        get = self._setting
        parts = get("label_representation").split("+")
        entries = 0.0
        if "pifa" in parts:
            entries += _tree_memory.count_label_features(_tree_memory.row_pattern(X), Y)
        if "cooccurrence" in parts:
            entries += _tree_memory.count_label_features(Y, Y)
        if "text" in parts:
            entries += _tree_memory.count_text(_unwrapped(label_text))
        return _tree_memory.expected_sizes(
            X,
            Y,
            n_trees=get("n_trees"),
            arity=get("arity"),
            max_leaf=get("max_leaf"),
            label_entries=entries,
            centroid_entries=self._centroid_entries(X.shape[1], Y.shape[1]),
        )

    def _sampled_sizes(self, X, Y, Z, tree):
        get = self._setting
        sizes = _tree_memory.expected_sizes(
            X,
            Y,
            n_trees=get("n_trees"),
            arity=get("arity"),
            max_leaf=get("max_leaf"),
            label_entries=Z.nnz,
            centroid_entries=self._centroid_entries(Z.shape[1], Y.shape[1]),
        )
        positives = self._positives(tree, Y, None)
        return _tree_memory.sampled_sizes(sizes, tree, X, positives, self._task())

    def _centroid_entries(self, n_features, n_labels):
        if self._setting("clustering") != "unbalanced" or n_labels <= self._setting("max_leaf"):
            return 0
        return min(self._setting("arity"), n_labels) * n_features

    def _predicted_bytes(self, sizes):
        return _tree_memory.fit_bytes(
            sizes, effective_n_jobs(self.n_jobs), scaled=self.normalize is not None
        )

    def _check_memory(self, needed):
        if needed > self.memory_limit:
            raise MemoryLimitError(
                f"fit would take about {needed:,} bytes or more beside its inputs, over "
                f"memory_limit={self.memory_limit:,}: lower n_jobs (now "
                f"{effective_n_jobs(self.n_jobs)}) or n_trees, raise prune_threshold, use fewer "
                "features, or raise memory_limit."
            )

    # ------------------------------------------------------------------ growth

    def add_labels(self, X, Y, *, label_text=None, relevance=None, negatives=None):
        """Put new labels into the fitted trees and train only the nodes that they touch.

        A new label goes down each tree to the cluster whose mean is most similar to its features.
        The nodes on its path, and no others, are trained again, with all their children: their
        training sets are the ones that the new labels change. With the same trees, the result is
        that of a full refit, bit for bit, provided that ``Y`` says of the old labels what it said
        in `fit`; what else it says of them, for new rows say, is learned by the nodes that are
        trained. (With matcher-aware negatives or ``relevance_norm`` the new labels have a say in
        the other nodes' training sets or costs too; these nodes stay as they are.)

        Parameters
        ----------
        X : as in `fit`, of shape (n_samples, n_features)
            All rows to learn from, those of the old labels too.
        Y : sparse array, sparse matrix or array of shape (n_samples, n_labels + new)
            The old labels first, in their order.
        label_text, relevance, negatives : as in `fit`
            For the old and the new labels.

        Returns
        -------
        object
            The estimator itself, with ``n_labels_`` and ``classes_`` grown.

        Raises
        ------
        ValueError
            If ``Y`` has no more labels than the model, for 1-D ``y``, and as in `fit`.
        sklearn.exceptions.NotFittedError

        Notes
        -----
        A cluster that grows to more than twice ``max_leaf`` labels is clustered again, below its
        node, as far as ``max_depth`` allows. Cost: the label features of all labels, then training
        of the touched nodes.
        """
        check_is_fitted(self)
        if self._target_kind not in ("sparse", "dense"):
            raise ValueError("add_labels needs a model that was fitted with a 2-D indicator Y.")
        self._check_all_weights()
        X = self._check_X(X, reset=False)
        Y = canonical_targets(Y if sp.issparse(Y) else np.asarray(Y))
        check_consistent_length(X, Y)
        if Y.shape[1] <= self.n_labels_:
            raise ValueError(
                f"Y must have the {self.n_labels_} labels of the model and new ones after them; it "
                f"has {Y.shape[1]} labels."
            )
        self._check_options(label_text, relevance, negatives)
        X = scaled_rows(X, self.normalize)
        Z = self._label_features(X, Y, label_text)
        random_state = check_random_state(self.random_state)
        max_depth = self._setting("max_depth")
        if max_depth is not None:
            max_depth += self._setting("root_classifier")
        workers = Workers(self.n_jobs)
        grown = []
        for number, (tree, weights) in enumerate(zip(self.trees_, self.weights_, strict=True)):
            growth = grow_tree(
                tree,
                Z,
                max_leaf=self._setting("max_leaf"),
                max_depth=max_depth,
                arity=self._setting("arity"),
                clustering=self._setting("clustering"),
                random_state=random_state,
            )
            trained, n_iter = self._train(
                growth.tree,
                X,
                Y,
                relevance,
                negatives,
                workers,
                nodes=growth.touched,
                kept=_tree_training.kept_chunks(growth, weights),
                what=f"tree {number + 1}",
                stacklevel=3,
            )
            grown.append((growth.tree, trained, n_iter))
        # only now: a failure above leaves the model as it was
        self.trees_, self.weights_, n_iter = (list(part) for part in zip(*grown, strict=True))
        self.n_iter_ = max(self.n_iter_, *n_iter)
        self.n_labels_ = Y.shape[1]
        self.classes_ = np.arange(self.n_labels_, dtype=np.int32)
        self._search = {}
        vars(self).pop("_mapped", None)
        return self

    # ------------------------------------------------------------------ predict

    def _searches(self):
        # Made on first use: a model that is only saved, or loaded, does not need it. By link, since
        # set_params may change it.
        link = self._setting("link")
        if link not in self._search and "_mapped" in vars(self):
            self._search[link] = [
                tree_search.mapped_search(
                    tree.child_start, tree.label, arrays, self.n_features_in_, link
                )
                for tree, arrays in zip(self.trees_, self._mapped, strict=True)
            ]
        if link not in self._search:
            self._search[link] = [
                tree_search.prepare_search(
                    tree.child_start, tree.label, weights, self.n_features_in_, link
                )
                for tree, weights in zip(self.trees_, self.weights_, strict=True)
            ]
        return self._search[link]

    def _device_searches(self, device):
        """The trees on a device of torch; ``_searches`` holds what stays on the processor."""
        from skxmc.ops.tree_search import torch_

        key = self._setting("link"), device
        if key not in self._search:
            self._search[key] = [
                torch_.prepare_search(tree, device=device) for tree in self._searches()
            ]
        return torch_, self._search[key]

    def _query(self, X):
        return scaled_arrays(X, self.normalize)

    def _beam(self):
        return self.beam_size if self._setting("search") == "beam" else None

    def _topk(self, X, k, exclude, candidates, gain=None, offset=None, exact=False):
        beam = None if exact else self._beam()
        place = place_for_prediction(self.backend, self.device)
        plain = gain is None and offset is None
        if place.backend == "torch" and plain and (beam is not None or candidates is not None):
            torch_, trees = self._device_searches(place.device)
            return torch_.search_topk(
                trees,
                *self._query(X),
                k,
                beam=self.beam_size,
                exclude=exclude,
                candidates=candidates,
                n_threads=effective_n_jobs(self.n_jobs),
            )
        return tree_search.search_topk(
            self._searches(),
            *self._query(X),
            k,
            beam=beam,
            gain=gain,
            offset=offset,
            exclude=exclude,
            candidates=candidates,
            n_threads=effective_n_jobs(self.n_jobs),
        )

    def _score_topk(self, X, k, exclude, candidates):
        answers = self._topk(X, k, exclude, candidates)
        return answers._replace(scores=_log_odds(answers.scores))

    def _score_dense(self, X):
        place = place_for_prediction(self.backend, self.device)
        if place.backend == "torch":
            torch_, trees = self._device_searches(place.device)
            log_proba = torch_.dense_scores(trees, *self._query(X))
        else:
            log_proba = tree_search.dense_scores(
                self._searches(), *self._query(X), n_threads=effective_n_jobs(self.n_jobs)
            )
        if log_proba.shape[1] != self._n_columns():
            raise ValueError("the trees do not have the labels of the model")
        return _log_odds(log_proba)

    def predict_gain(self, X, k=5, *, gain, offset=None, exclude=None, candidates=None, exact=True):
        """The k labels with the highest gain ``gain[l] * P(l | x) + offset[l]``.

        The decision rule of linear utilities: inverse propensities as gains maximise the expected
        propensity-scored precision, inverse label frequencies macro recall.

        Parameters
        ----------
        X, k : as in `predict_topk`
            Rows, and number of answers.
        gain : array-like of shape (n_labels,)
            Not negative.
        offset : array-like of shape (n_labels,) or None, default=None
            Of any sign.
        exclude, candidates : as in `predict_topk`
            Which pairs may be answered.
        exact : bool, default=True
            Search best first with bounds on the gains below each node: exact. Else with ``search``.

        Returns
        -------
        TopK
            As of `predict_topk`; the scores are the gains.

        Raises
        ------
        ValueError
            For gains that are negative, not finite, or of the wrong number, and for a model of two
            classes (1-D ``y``), which has one score for both.
        """
        self._check_label_columns("predict_gain")
        X, k, exclude, candidates = self._check_query(X, k, exclude, candidates)
        answers = self._topk(X, min(k, self.n_labels_), exclude, candidates, gain, offset, exact)
        return pad_topk(answers, k)

    def predict_above(self, X, threshold=0.5):
        """All labels with a probability of at least ``threshold``, by exact search.

        Parameters
        ----------
        X : {array-like, sparse array or matrix} of shape (n_samples, n_features)
            Rows.
        threshold : float or array-like of shape (n_labels,), default=0.5
            In (0, 1]; one for each label if an array.

        Returns
        -------
        csr_array of shape (n_samples, n_labels), float32
            Probabilities, sorted by label. For 1-D ``y`` those of the classes as labels, which do
            not sum to 1.

        Raises
        ------
        ValueError
            For a threshold out of its range or of the wrong shape, and for a model of two classes
            (1-D ``y``), which has one score for both.
        """
        self._check_label_columns("predict_above")
        X = self._check_predict(X)
        threshold = np.asarray(threshold, dtype=np.float64)
        wrong = ~((threshold > 0) & (threshold <= 1))
        if wrong.any():
            where = f" of label {np.argmax(wrong)}" if threshold.ndim == 1 else ""
            raise ValueError(
                f"threshold{where} must be in (0, 1], got {threshold[wrong].ravel()[0]}."
            )
        indptr, labels, log_proba = tree_search.search_threshold(
            self._searches(),
            *self._query(X),
            threshold,
            n_threads=effective_n_jobs(self.n_jobs),
        )
        shape = (X.shape[0], self.n_labels_)
        proba = self._proba(_log_odds(log_proba))
        return sp.csr_array((proba, labels, indptr), shape=shape)

    def _check_label_columns(self, method):
        check_is_fitted(self)
        if self._target_kind == "binary":
            raise ValueError(
                f"{method} needs a score for each label, and a model of two classes has one for "
                "both: fit with a 2-D indicator Y."
            )

    def _check_query(self, X, k, exclude, candidates):
        X = self._check_predict(X)
        shape = (X.shape[0], self.n_labels_)
        if exclude is not None:
            exclude = canonical_pattern(exclude, shape, name="exclude")
        if candidates is not None:
            candidates = canonical_pattern(candidates, shape, name="candidates")
        return X, check_k(k), exclude, candidates

    def explain(self, x, label, *, n_features=10):
        """What moved the score of a label along its path in each tree.

        Parameters
        ----------
        x : {array-like, sparse array or matrix} of shape (1, n_features)
            One row.
        label : int
            Index into ``classes_``; for two classes 0, whose score is that of the second.
        n_features : int, default=10
            Features listed for each node, those with the largest contributions of either sign.

        Returns
        -------
        list of PathStep
            One for each tree and each node of the path below the root, in this order: ``tree``;
            ``node``; ``label`` (-1 for an inner node); ``score`` of the node's classifier;
            ``log_probability`` of the edge; ``bias``, the intercept's part of the score;
            ``features``, int array; and ``contributions``, feature value times weight, the value
            after normalisation. Over all features the contributions and the bias add up to the
            score; over the nodes of a tree the ``log_probability`` adds up to that of the label.

        Raises
        ------
        ValueError
            If ``x`` is not one row, or there is no such label.

        Examples
        --------
        >>> from skxmc import ParabelTree
        >>> X, Y = [[1.0, 0.0], [0.0, 1.0]], [[1, 0, 1], [0, 1, 0]]
        >>> model = ParabelTree("xr-linear", random_state=0).fit(X, Y)
        >>> step = model.explain([[1.0, 0.0]], label=0)[-1]
        >>> step.label, step.features
        (0, array([0]))
        """
        X = self._check_predict(x)
        if X.shape[0] != 1:
            raise ValueError(f"explain takes one row, got {X.shape[0]}.")
        if not isinstance(label, numbers.Integral) or not 0 <= label < self._n_columns():
            raise ValueError(
                f"label must be an integer in 0 .. {self._n_columns() - 1}, got {label!r}."
            )
        _, indices, data = self._query(X)
        link = self._setting("link")
        steps = []
        for number, (tree, weights) in enumerate(zip(self.trees_, self.weights_, strict=True)):
            if "_mapped" in vars(self):
                tree_search.check_search(self._searches()[number], tree.path(label)[:-1])
            for parent, node in itertools.pairwise(tree.path(label)):
                features, values = node_weights(weights, parent, node - tree.child_start[parent])
                common, at_x, at_w = np.intersect1d(
                    indices, features, assume_unique=True, return_indices=True
                )
                parts = data[at_x] * values[at_w]
                order = np.argsort(-np.abs(parts), kind="stable")[:n_features]
                score = float(parts.sum() + weights.bias[node])
                steps.append(
                    PathStep(
                        tree=number,
                        node=int(node),
                        label=int(tree.label[node]),
                        score=score,
                        log_probability=float(edge_log_probability(score, link)),
                        bias=float(weights.bias[node]),
                        features=common[order].astype(np.int64),
                        contributions=parts[order],
                    )
                )
        return steps

    # ------------------------------------------------------------------ state

    def _n_columns(self):
        """Columns that are scored: two classes are one."""
        return self.trees_[0].n_labels

    def __getstate__(self):
        """Small integers where they suffice, for pickles and model files."""
        self._check_all_weights()
        state = self._state()
        state.pop("_mapped", None)
        if "weights_" in state:
            packed = [
                pack_weights(tree, w)
                for tree, w in zip(self.trees_, state.pop("weights_"), strict=True)
            ]
            state["tree_index"] = [index for index, _ in packed]
            state["tree_weights"] = [weight for _, weight in packed]
        return state

    def _state(self):
        state = dict(super().__getstate__())
        state.pop("_search", None)
        if "trees_" in state:
            state["tree_shapes"] = [
                {"child_start": tree.child_start, "label": tree.label}
                for tree in state.pop("trees_")
            ]
        return state

    def _mapped_state(self):
        """State for files that are mapped: the arrays in which trees are searched."""
        if not hasattr(self, "trees_"):  # not fitted
            return self.__getstate__()
        self._check_all_weights()
        state = self._state()
        for name in ("weights_", "_mapped"):
            state.pop(name, None)
        state["tree_search"] = [tree_search.stored_arrays(tree) for tree in self._searches()]
        return state

    def __setstate__(self, state):
        state = dict(state)
        state.pop("_mapped", None)  # made here only, with what checks it when it is first used
        shapes, searched, index, weight = (
            state.pop(name, None)
            for name in ("tree_shapes", "tree_search", "tree_index", "tree_weights")
        )
        super().__setstate__(state)
        if shapes is None:  # not fitted
            return
        self._search = {}
        if searched is not None:
            self._mapped = searched
            self.weights_ = [
                tree_search.TreeWeights(*(arrays[name] for name in tree_search.TreeWeights._fields))
                for arrays in searched
            ]
            # The search checks nodes and labels; LabelTree would do it again, and take longer.
            link = self._setting("link")
            self._search[link] = [
                tree_search.mapped_search(
                    shape["child_start"], shape["label"], arrays, self.n_features_in_, link
                )
                for shape, arrays in zip(shapes, searched, strict=True)
            ]
            self.trees_ = [_tree_of(search) for search in self._search[link]]
            return
        self.trees_ = [LabelTree(shape["child_start"], shape["label"]) for shape in shapes]
        self.weights_ = [
            unpack_weights(tree, *packed)
            for tree, *packed in zip(self.trees_, index, weight, strict=True)
        ]

    def _check_loaded_model(self):
        if not self.trees_ or len(self.trees_) != len(self.weights_):
            raise ValueError("it has no trees, or not weights for each")
        for name, value in self.get_params(deep=False).items():
            if isinstance(value, str) and value == "preset" and name not in self.preset_:
                raise ValueError(f"its preset has no {name}")
        n_columns = 1 if self._target_kind == "binary" else self.n_labels_
        for tree, weights in zip(self.trees_, self.weights_, strict=True):
            if tree.n_labels != n_columns:
                raise ValueError("a tree does not have the labels of the model")
            if "_mapped" not in vars(self):
                tree_search.check_tree_arrays(
                    tree.child_start, tree.label, weights, self.n_features_in_
                )

    def _check_all_weights(self):
        """Read all that `_check_loaded_model` leaves to the first use."""
        if "_mapped" in vars(self):
            for tree in self._searches():
                tree_search.check_search(tree)


def _tree_of(search):
    """The `LabelTree` of a tree that is searched, which has been checked already."""
    if search.n_nodes == 1:
        raise ValueError("a tree has a root and no label")
    tree = LabelTree.__new__(LabelTree)
    tree.child_start, tree.label = search.arrays[0], search.arrays[10]
    for name in ("parent", "leaf_of"):
        array = getattr(search, name).view()
        array.flags.writeable = False
        setattr(tree, name, array)
    return tree


def _drawn_state(random_state):
    """A copy of the generator, which itself goes on as if `build_tree` had used it."""
    state = copy.deepcopy(random_state)
    random_state.randint(np.iinfo(np.int32).max)
    return state


def _build_one(random_state, Z, counts, options, n_jobs):
    return build_tree(Z, order=counts, random_state=random_state, n_jobs=n_jobs, **options)


def _unwrapped(label_text):
    return label_text.texts if isinstance(label_text, LabelText) else label_text


def _log_odds(log_proba):
    """Margins of probabilities given by their logarithms: log(p / (1 - p)), float32."""
    p = np.minimum(log_proba, 0.0, dtype=np.float64)
    # In place: it is a part of the time of a single row. The bound keeps the logarithm finite and
    # means a margin of 690, above the largest.
    margins = np.expm1(p)
    np.negative(margins, out=margins)
    np.maximum(margins, 1e-300, out=margins)
    np.log(margins, out=margins)
    np.subtract(p, margins, out=margins)
    return np.minimum(margins, _MAX_MARGIN, out=margins).astype(np.float32)


def _aligned_relevance(relevance, Y):
    """Relevance of the stored pairs of ``Y``, in their order."""
    if not sp.issparse(relevance):
        raise TypeError(f"relevance must be sparse, got {type(relevance).__name__}.")
    if relevance.shape != Y.shape:
        raise ValueError(f"relevance has the shape {relevance.shape}, Y has {Y.shape}.")
    given = canonical_csr(relevance, np.float32, name="relevance")
    n_labels = np.int64(Y.shape[1])

    def keys(A):
        return np.repeat(np.arange(A.shape[0]) * n_labels, np.diff(A.indptr)) + A.indices

    wanted, have = keys(Y), keys(given)
    at = np.minimum(np.searchsorted(have, wanted), max(len(have) - 1, 0))
    found = have[at] == wanted if len(have) else np.zeros(len(wanted), bool)
    if not found.all() or not (given.data[at] > 0).all():
        bad = np.argmin(found & (given.data[at] > 0) if len(have) else found)
        raise ValueError(
            f"relevance of row {wanted[bad] // n_labels} and label {wanted[bad] % n_labels}, a "
            "positive pair of Y, must be stored and greater than 0."
        )
    return given.data[at]
