"""SparseDSTClassifier: dynamic sparse output layers over rows, a hidden layer, a text encoder."""

import contextlib
import numbers
import os
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from skxmc._parallel import effective_n_jobs
from skxmc.base import XMCClassifierMixin, as_target_array, one_hot, pad_topk
from skxmc.exceptions import MemoryLimitError, ModelFormatError
from skxmc.io._arrays import make_compressed
from skxmc.label_space import label_features, label_groups, meta_labels
from skxmc.label_space._weighting import positive_weights
from skxmc.neural import _front, _loaded
from skxmc.neural._accumulation import AccumulatingFront, innermost
from skxmc.neural._checkpoint import Checkpoint, fingerprint
from skxmc.neural._connections import connect_to_data, connection_bytes, is_sparse_identity
from skxmc.neural._head_learner import AuxiliaryHead, HeadLearner
from skxmc.neural._memory import MemoryFootprint, hidden_layer_bytes, layer_bytes, step_bytes
from skxmc.neural._output_layer import (
    OutputLayer,
    Rewiring,
    compensated_labels,
    initial_parts,
    load_backend,
    new_optimizer,
    stream_seed,
    to_numpy,
)
from skxmc.neural._schedule import SCHEDULES
from skxmc.neural._text import check_texts, is_front, object_array
from skxmc.neural._training import Plan, Trainer
from skxmc.ops.csr import canonical_indicator
from skxmc.ops.row_sums import unit_data
from skxmc.ops.sparse_head._checks import check_parts
from skxmc.ops.sparse_head._types import LOSSES, PRECISIONS, Loss, Part
from skxmc.ops.topk import TopK

# Numbers of the random streams of a fit.
_STREAM_LAYER, _STREAM_AUXILIARY, _STREAM_FRONT, _STREAM_GROUPS, _STREAM_SPLIT = range(5)

# What a fit does not depend on.
_NOT_IN_FINGERPRINT = (
    *("n_jobs", "memory_limit", "checkpoint_dir", "verbose", "top_k", "max_dense_bytes"),
    *("distributed", "random_state", "encoder"),
)

# Kinds of a 1-D y.
_CLASS_KINDS = ("binary", "multiclass")

# Features of prediction that exist at a time.
_BLOCK_BYTES = 1 << 26

# "auto": labels times features up to which the first inputs come from dense features.
_CONNECTED = 1 << 28

# "auto": dropout of what an encoder gives. Over a hidden layer sparse labels lose by it: 2.3 points
# of P@1 on held-out rows of Stack Exchange (64 of 1,024 units, 5 epochs).
_DROPOUT = 0.3

# "auto": width of the hidden layer, size of a batch, epochs, and steps of a training at least.
_HIDDEN = 1024
_LARGEST_BATCH, _SMALLEST_BATCH = 64, 8
_EPOCHS, _MIN_STEPS = 5, 600

# "auto": learning rates of the output layer by its optimiser, and of the front.
_LEARNING_RATES = {"adam": 0.01, "sgd": 0.003}
_FRONT_LEARNING_RATE, _ENCODER_LEARNING_RATE = 0.005, 2e-5


class SparseDSTClassifier(XMCClassifierMixin, BaseEstimator):
    r"""Output layer with few weights for each label, trained with the inputs that they look at.

    A row :math:`x` becomes features :math:`h \in R^D`: the row itself, a hidden layer
    :math:`\max(0, V^T x + c)`, or what a text encoder makes of it. A label :math:`l` has F weights
    and a bias, and the margin

    .. math::

        z_l(x) = \sum_{f=1}^{F} W_{lf} \, h_{I_{lf}}(x) + b_l .

    The inputs :math:`I_{lf}` belong to one label (fixed fan-in) or to a group of G similar ones
    (group-shared fan-in), and change in training: every few steps the smallest weights give way to
    other inputs with weight 0. Minimised is the sum over all labels and rows of
    :math:`c_{il}\, \max(0, 1 - y_{il} z_l)^2` or :math:`c_{il} \log(1 + e^{-y_{il} z_l})`, with
    :math:`y_{il} \in \{-1, +1\}` and :math:`c_{il}` = 1 for a negative and the label's weight for a
    positive. Weights and inputs take 6 bytes a connection, in bfloat16 4 and in float8 3, and 3, 2
    or 1 bytes less where groups share the inputs; no array over rows and labels is ever made
    (`skxmc.ops.sparse_head`).

    Parameters
    ----------
    layout : {"fixed", "group", "dense"}, default="fixed"
        Inputs for each label, for each group of labels, or all of them.
    fan_in : int, default=64
        Inputs F of a label; all of them, if there are fewer.
    group_size : int, default=16
        Labels G of a group.
    dense_head : float, default=0.0
        Share of the labels, the most frequent ones, that have all inputs (HASTE).
    grouping : {"cluster", "frequency"}, default="cluster"
        Groups of labels with similar rows, or of similarly frequent ones
        (`skxmc.label_space.label_groups`).
    hidden : int, "auto" or None, default="auto"
        Units of the hidden layer; None is none. A narrow input, such as an embedding, needs one:
        few of its columns say little. "auto" is 1,024 units for a dense ``X`` and none for a sparse
        one, whose columns, such as words, tell labels by themselves.
    hidden_init : {"random", "labels"}, default="random"
        How the hidden layer starts: at random, or each unit looks for the rows of similar labels.
    encoder : path, (tokenizer, torch.nn.Module) or None, default=None
        A text encoder, trained with the layer: ``X`` is then a sequence of str. See
        `skxmc.neural.torch_text.TextFront`. Needs torch, for prediction too.
    normalize : {"l2", None}, default="l2"
        "l2" scales each row to unit length, in `fit` and in all predictions.
    connections : {"auto", "data", "random"}, default="auto"
        First inputs of a label: those with the largest covariance with it, or random ones. "auto"
        looks at the data where labels times features are up to 2^28, and always where ``X`` is
        sparse and has no hidden layer: of many words, random ones say nothing about a label.
    dynamics : {"static", "set", "rigl"}, default="set"
        Whether inputs change: not; new ones at random (SET); or where the gradient of a batch is
        largest (RigL).
    prune : {"global", "row", "threshold"}, default="global"
        Which inputs are given up: a share of all, the smallest weights of the layer; the share in
        each row; those below a threshold that falls to 1e-4.
    rewire_fraction : float, default=0.1
        The share, or the threshold, of the first round; it falls to 0 like half a cosine.
    rewire_interval : int, default=200
        Steps from round to round.
    rewire_end : float, default=0.66
        Part of the training after which inputs stay.
    precision : {"float32", "bfloat16", "float8"}, default="float32"
        Numbers of the weights, without a copy in float32: updates are rounded stochastically
        (ELMO). float8 is e4m3.
    kahan : float, default=0.2
        Share of the labels, the most frequent, whose rounding is compensated in low precision.
    loss : {"squared_hinge", "bce"}, default="squared_hinge"
        The squared hinge has no gradient for pairs beyond the margin, which are most: it is faster
        and needs fewer epochs.
    weighting : None, str or array of shape (n_labels,), default=None
        Weight of a label's positives: None, "vanilla", "propensity", "class-balanced",
        "propensity-class-balanced" or the weights; see `skxmc.linear.DismecClassifier`.
    propensity : "jpv", ("jpv", A, B) or array of shape (n_labels,), default="jpv"
        For ``weighting``.
    beta : float, default=0.9
        For ``weighting``, in [0, 1).
    optimizer : {"adam", "sgd"}, default="adam"
        Of the output layer. Adam takes 8 bytes a weight and gives the better model; SGD 4, or none
        without momentum.
    learning_rate : float or "auto", default="auto"
        Of the output layer, at its highest; "auto" is 0.01 for Adam, 0.003 for SGD. Gradients are
        sums over a batch.
    momentum : float, default=0.9
        Of SGD.
    weight_decay : float, default=0.3
        Decoupled: a step multiplies weights by 1 - learning rate times this. Biases do not decay.
    front_learning_rate : float or "auto", default="auto"
        Of the hidden layer (Adam; "auto": 0.005) or the text encoder ("auto": 2e-5).
    epochs : int or "auto", default="auto"
        "auto" is 5, and more where these are fewer than 600 steps.
    batch_size : int or "auto", default="auto"
        "auto" is a hundredth of the rows, from 8 to 64.
    accumulation : int, default=1
        Parts of a batch that hidden layer or encoder compute one after another: the memory of a
        small batch and, but for rounding and the places of dropout, the result of the large one.
    max_grad_norm : float, None or "auto", default="auto"
        Longer gradients of the hidden layer or the encoder are scaled to this length. "auto" is
        None, no limit, for a hidden layer, and 1 for an encoder.
    dropout : float or "auto", default="auto"
        Share of the features set to 0 in a step; "auto" is 0.3 for an encoder and 0 for a hidden
        layer or the rows themselves.
    warmup : float, default=0.05
        Part of the steps in which learning rates rise linearly.
    schedule : {"cosine", "constant"}, default="cosine"
        Learning rates and ``rewire_fraction`` after that: half a cosine to 0, or constant.
    auxiliary : float, default=0.0
        Share s, at the first step, of an auxiliary loss in the gradient of the hidden layer or
        encoder, (1 - s) main + s auxiliary: the cross-entropy of clusters of labels, by a dense
        head that is then removed. A text encoder needs it at a high sparsity; 0.4 is usual.
    auxiliary_epochs : int, default=5
        Epochs in which it falls to 0.
    n_meta_labels : int or "auto", default="auto"
        Clusters; "auto" is :math:`4 \sqrt{L}`.
    validation_fraction : float, default=0.0
        Share of the rows kept out to stop early, by P@1 after each epoch; 0 is none.
    patience : int, default=5
        Epochs without a better P@1 after which the training ends; the best model is kept.
    backend : {"auto", "numba", "torch", "triton"}, default="auto"
        "auto" is "triton" on a GPU and "numba" else.
    device : str or None, default=None
        Of torch, such as "cuda:0". None is the CPU, for triton "cuda".
    distributed : bool, default=False
        Whether `fit` shares the labels out to the processes of `torch.distributed`, started by
        `torchrun`: see the user guide. All processes call it with the same data and parameters, and
        each then has the whole model. Needs torch.
    random_state : int, RandomState instance or None, default=None
        Of all random choices.
    n_jobs : int or None, default=None
        Threads; -1 for all processors. The result is the same, bit for bit, for any number.
    memory_limit : int or None, default=None
        Bytes that `fit` may take beside its inputs. It is refused with `MemoryLimitError`, before
        anything is allocated, where `memory_footprint` says more.
    checkpoint_dir : str, path or None, default=None
        Folder in which `fit` leaves its state after each epoch, every five minutes, and at an
        interrupt (Ctrl-C). A later `fit` of the same parameters and data goes on from there, to the
        model of an uninterrupted one, bit for bit. Needs a ``random_state``.
    top_k : int, default=100
        Labels kept in a row of the sparse `predict_proba` and `decision_function`.
    max_dense_bytes : int, default=2**30
        Largest dense output; see `skxmc.base.XMCClassifierMixin`.
    verbose : int, default=0
        1 shows a progress bar with loss, P@1 and memory.

    Attributes
    ----------
    history_ : list of dict
        For each epoch the mean loss of a row, and P@1 and P@3 on the validation rows.
    n_iter_ : int
        Epochs.
    best_epoch_ : int or None
        The epoch, from 1, whose model was kept, where there are validation rows.
    backend_ : str
        What computed.
    classes_, n_labels_, n_features_in_, feature_names_in_
        See `skxmc.base.XMCClassifierMixin`.

    Raises
    ------
    ValueError
        For input that `skxmc.base.XMCClassifierMixin` refuses, parameters out of range.
    MemoryLimitError
        If the fit would take more than ``memory_limit``.
    CheckpointError
        If the checkpoint is damaged.
    FloatingPointError
        If the training diverges.

    Notes
    -----
    Biases start at -1 for the squared hinge, where negatives begin to have no loss, and at the
    log-odds of the label for the cross-entropy; weights start at 0.

    Labels without positives have no part in the layer: they are never answered.

    `predict_proba` is the logistic function of the margin: 0.5 at the decision threshold, *not* a
    calibrated probability under the squared hinge.

    Time of a step: O(batch (L F + features)); with RigL O(batch L D) in each round. Memory:
    `memory_footprint`. Rows without a hidden layer become dense a batch at a time. After `fit` the
    model is NumPy arrays: prediction needs no torch, but for a text encoder.

    References
    ----------
    E. Schultheis. PhD thesis, Aalto University, 2025: sections 5.2 to 5.4.

    E. Schultheis, R. Babbar. Towards memory-efficient training for extremely large output spaces.
    ECML 2023.

    N. Ullah, E. Schultheis, M. Lasby, Y. Ioannou, R. Babbar. Navigating extremes: Dynamic sparsity
    in large output spaces. NeurIPS 2024 (end to end, auxiliary loss).

    HASTE: https://arxiv.org/abs/2606.01117 (groups, dense head). ELMO: https://arxiv.org/abs/2510.11168
    (low precision). Mocanu et al., 2018 (SET). Evci et al., ICML 2020 (RigL).

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from skxmc import SparseDSTClassifier
    >>> texts = ["fast web server", "web browser", "chess game", "puzzle game"]
    >>> Y = sp.csr_array([[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]])  # web, game, fast
    >>> classifier = SparseDSTClassifier(fan_in=3, random_state=0)
    >>> model = make_pipeline(TfidfVectorizer(), classifier).fit(texts, Y)
    >>> model.predict(["small web page", "board game"]).toarray()
    array([[1, 0, 0],
           [0, 1, 0]])
    """

    _parameter_constraints = {
        **XMCClassifierMixin._parameter_constraints,
        "layout": [StrOptions({"fixed", "group", "dense"})],
        "fan_in": [Interval(numbers.Integral, 1, None, closed="left")],
        "group_size": [Interval(numbers.Integral, 1, None, closed="left")],
        "dense_head": [Interval(numbers.Real, 0, 1, closed="both")],
        "grouping": [StrOptions({"cluster", "frequency"})],
        "hidden": [
            Interval(numbers.Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
            None,
        ],
        "hidden_init": [StrOptions({"labels", "random"})],
        "encoder": [str, Path, tuple, HasMethods(["forward", "backward", "step"]), None],
        "normalize": [StrOptions({"l2"}), None],
        "connections": [StrOptions({"auto", "data", "random"})],
        "dynamics": [StrOptions({"static", "set", "rigl"})],
        "prune": [StrOptions({"global", "row", "threshold"})],
        "rewire_fraction": [Interval(numbers.Real, 0, 1, closed="both")],
        "rewire_interval": [Interval(numbers.Integral, 1, None, closed="left")],
        "rewire_end": [Interval(numbers.Real, 0, 1, closed="both")],
        "precision": [StrOptions(set(PRECISIONS))],
        "kahan": [Interval(numbers.Real, 0, 1, closed="both")],
        "loss": [StrOptions(set(LOSSES))],
        "weighting": [str, "array-like", None],
        "propensity": [str, tuple, "array-like"],
        "beta": [Interval(numbers.Real, 0, 1, closed="left")],
        "optimizer": [StrOptions({"adam", "sgd"})],
        "learning_rate": [Interval(numbers.Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "momentum": [Interval(numbers.Real, 0, 1, closed="left")],
        "weight_decay": [Interval(numbers.Real, 0, None, closed="left")],
        "front_learning_rate": [
            Interval(numbers.Real, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "epochs": [Interval(numbers.Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "accumulation": [Interval(numbers.Integral, 1, None, closed="left")],
        "max_grad_norm": [
            Interval(numbers.Real, 0, None, closed="neither"),
            StrOptions({"auto"}),
            None,
        ],
        "dropout": [Interval(numbers.Real, 0, 1, closed="left"), StrOptions({"auto"})],
        "warmup": [Interval(numbers.Real, 0, 1, closed="left")],
        "schedule": [StrOptions(set(SCHEDULES))],
        "auxiliary": [Interval(numbers.Real, 0, 1, closed="both")],
        "auxiliary_epochs": [Interval(numbers.Integral, 1, None, closed="left")],
        "n_meta_labels": [
            Interval(numbers.Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "validation_fraction": [Interval(numbers.Real, 0, 1, closed="left")],
        "patience": [Interval(numbers.Integral, 1, None, closed="left")],
        "backend": [StrOptions({"auto", "numba", "torch", "triton"})],
        "device": [str, None],
        "distributed": ["boolean"],
        "random_state": ["random_state"],
        "n_jobs": [numbers.Integral, None],
        "memory_limit": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "checkpoint_dir": [str, Path, None],
        "verbose": ["verbose"],
    }

    _weight_attributes = ("_front_arrays", "_parts")

    def __init__(
        self,
        *,
        layout="fixed",
        fan_in=64,
        group_size=16,
        dense_head=0.0,
        grouping="cluster",
        hidden="auto",
        hidden_init="random",
        encoder=None,
        normalize="l2",
        connections="auto",
        dynamics="set",
        prune="global",
        rewire_fraction=0.1,
        rewire_interval=200,
        rewire_end=0.66,
        precision="float32",
        kahan=0.2,
        loss="squared_hinge",
        weighting=None,
        propensity="jpv",
        beta=0.9,
        optimizer="adam",
        learning_rate="auto",
        momentum=0.9,
        weight_decay=0.3,
        front_learning_rate="auto",
        epochs="auto",
        batch_size="auto",
        accumulation=1,
        max_grad_norm="auto",
        dropout="auto",
        warmup=0.05,
        schedule="cosine",
        auxiliary=0.0,
        auxiliary_epochs=5,
        n_meta_labels="auto",
        validation_fraction=0.0,
        patience=5,
        backend="auto",
        device=None,
        distributed=False,
        random_state=None,
        n_jobs=None,
        memory_limit=None,
        checkpoint_dir=None,
        top_k=100,
        max_dense_bytes=2**30,
        verbose=0,
    ):
        self.layout = layout
        self.fan_in = fan_in
        self.group_size = group_size
        self.dense_head = dense_head
        self.grouping = grouping
        self.hidden = hidden
        self.hidden_init = hidden_init
        self.encoder = encoder
        self.normalize = normalize
        self.connections = connections
        self.dynamics = dynamics
        self.prune = prune
        self.rewire_fraction = rewire_fraction
        self.rewire_interval = rewire_interval
        self.rewire_end = rewire_end
        self.precision = precision
        self.kahan = kahan
        self.loss = loss
        self.weighting = weighting
        self.propensity = propensity
        self.beta = beta
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.front_learning_rate = front_learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.accumulation = accumulation
        self.max_grad_norm = max_grad_norm
        self.dropout = dropout
        self.warmup = warmup
        self.schedule = schedule
        self.auxiliary = auxiliary
        self.auxiliary_epochs = auxiliary_epochs
        self.n_meta_labels = n_meta_labels
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.backend = backend
        self.device = device
        self.distributed = distributed
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.checkpoint_dir = checkpoint_dir
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def _fit_indicator(self, X, Y):
        self._partial = None
        seed = self._new_seed()
        counts = np.bincount(Y.indices, minlength=Y.shape[1])
        # Labels without positives have no part in the layer: nothing is known of them.
        labels = np.flatnonzero(counts)
        if self.memory_limit is not None:
            self._check_memory(len(labels), X)
        train, held_out = self._split(Y.shape[0], seed)
        X = self._rows(X)
        self._check_processes(X, Y, seed)
        checkpoint = self._checkpoint(X, Y, seed)
        validation, X_train, Y_train = None, X, Y
        if len(held_out):
            X_train, Y_train = _front.rows_of(X, train), _front.rows_of(Y, train)
        front, order, embeddings = self._new_front(X_train, Y_train, counts, labels, seed)
        labels = labels[order].astype(np.int32)
        targets = _columns(Y_train, labels)
        plan = self._plan(len(train), seed)
        auxiliary = self._auxiliary(targets, embeddings, order, front, plan, seed)
        weights = self._positive_weights(counts, Y.shape[0])[labels]
        parts = self._new_parts(X_train, targets, front, Y.shape[0], weights, seed)
        output = self._output_layer(parts, front, weights, seed)
        if len(held_out):
            validation = (
                _front.rows_of(X, held_out),
                _columns(_front.rows_of(Y, held_out), labels),
            )
        learner = HeadLearner(
            self._accumulating(front),
            output,
            X_train,
            targets,
            front_learning_rate=self._front_rate(),
            seed=seed,
            rewiring=self._rewiring(plan, len(train)),
            auxiliary=auxiliary,
            validation=validation,
        )
        trainer = Trainer(learner, plan)
        if checkpoint is not None:
            checkpoint.restore(trainer)
        trainer.fit(len(train), checkpoint=checkpoint, verbose=self.verbose)
        self._collect(trainer, labels)
        if checkpoint is not None:
            checkpoint.remove()

    def partial_fit(self, X, Y, classes=None):
        """One more epoch over these rows, on the model as it is.

        The first call, or one after `fit`, begins anew and fixes the labels, their groups, the
        hidden layer's first weights and the seed from its rows; give it as many as there are. With
        the same rows each time, k calls are ``fit`` with ``epochs=k, schedule="constant",
        rewire_end=1.0, warmup=0, auxiliary=0, validation_fraction=0``, bit for bit, if each label
        has a positive.

        Learning rates and the share of rewired slots stay constant, since the end is not known.
        ``auxiliary``, ``validation_fraction``, ``epochs``, ``checkpoint_dir`` and ``patience`` are
        not used.

        Parameters
        ----------
        X : {array-like, sparse array or matrix, dataframe} of shape (n_samples, n_features)
            Rows, as for `fit`.
        Y : as for `fit`
            An indicator has the same columns in each call. It may be without positives after the
            first.
        classes : array-like of shape (n_classes,), default=None
            All classes of a 1-D ``y``; required in the first call with one, unless a `fit` came
            before, whose classes are taken then.

        Returns
        -------
        SparseDSTClassifier
            The estimator itself.
        """
        self._validate_params()
        first = getattr(self, "_partial", None) is None or not self.__sklearn_is_fitted__()
        self._fit_done = False
        X = self._check_X(X, reset=first)
        Y = self._encode_part(Y, classes, first)
        check_consistent_length(X, Y)
        counts = np.bincount(Y.indices, minlength=Y.shape[1])
        if first:
            seed = self._new_seed()
            labels = np.arange(Y.shape[1])
            if self.memory_limit is not None:
                self._check_memory(len(labels), X)
            X = self._rows(X)
            front, order, _ = self._new_front(X, Y, counts, labels, seed)
            labels = labels[order].astype(np.int32)
            weights = self._positive_weights(counts, Y.shape[0])[labels]
            targets = _columns(Y, labels)
            parts = self._new_parts(X, targets, front, Y.shape[0], weights, seed)
            seen = counts > 0
        else:
            X = self._rows(X)
            seed, labels, weights, seen = (
                self._partial[name] for name in ("seed", "labels", "weights", "seen")
            )
            seen = seen | (counts > 0)
            front, parts = self._partial_front(X), self._fitted_parts()
        self._check_processes(X, Y, seed)
        output = self._output_layer(parts, front, weights, seed)
        plan = self._plan(Y.shape[0], seed)
        rewiring = self._rewiring(plan, Y.shape[0])
        learner = HeadLearner(
            self._accumulating(front),
            output,
            X,
            _columns(Y, labels),
            front_learning_rate=self._front_rate(),
            seed=seed,
            rewiring=rewiring and rewiring._replace(end=None, schedule="constant"),
        )
        trainer = Trainer(learner, plan._replace(warmup=0, schedule="constant"))
        if not first:
            trainer.load_state(self._partial["arrays"], self._partial["meta"])
        trainer.run_epoch(Y.shape[0])
        arrays, meta = trainer.state()
        self._collect(trainer, labels)
        self._partial = {
            "seed": seed,
            "labels": labels,
            "weights": weights,
            "seen": seen,
            "arrays": arrays,
            "meta": meta,
        }
        self._hide_labels(~seen)
        self._fit_done = True
        return self

    def _encode_part(self, Y, classes, first):
        """Canonical indicator of a part of the rows, with the columns of the first part."""
        if not sp.issparse(Y):
            Y = as_target_array(Y)
        if Y.ndim == 1:
            if first:
                if classes is None and getattr(self, "_target_kind", None) not in _CLASS_KINDS:
                    raise ValueError(
                        "classes must be passed to the first call of partial_fit with a 1-D y."
                    )
                self._encode_target(np.unique(self.classes_ if classes is None else classes))
            unknown = np.setdiff1d(Y, self.classes_)
            if len(unknown):
                raise ValueError(
                    f"y has the class {unknown.tolist()[0]!r}, which is not in classes."
                )
            codes = np.searchsorted(self.classes_, Y)
            return one_hot(codes, len(self.classes_))
        if first:
            return self._encode_target(Y)
        if Y.shape[1] != self.n_labels_:
            raise ValueError(
                f"Y has {Y.shape[1]} columns; partial_fit began with {self.n_labels_}."
            )
        return canonical_indicator(Y)

    def _partial_front(self, X):
        """A front of the right kind, to be filled by `Trainer.load_state`."""
        if self.encoder is not None:
            return self._front
        return self._numpy_front(self._front_arrays, **self._training_options())

    def _hide_labels(self, unseen):
        """Give labels that had no positive so far the margin minus infinity."""
        first = 0
        for part in self._parts:
            labels = self._layer_labels[first : first + len(part["bias"])]
            part["bias"] = np.where(unseen[labels], np.float32(-np.inf), part["bias"])
            first += len(labels)

    # ------------------------------------------------------------------ memory

    def memory_footprint(self, n_labels, n_features, *, n_samples=None, sparse=False):
        """Predict the memory of a fit beside its inputs, from sizes alone.

        Parameters
        ----------
        n_labels : int
            Labels with positives.
        n_features : int
            Columns of ``X``; of a text encoder, its width.
        n_samples : int or None, default=None
            Rows of ``X``, which ``batch_size="auto"`` depends on; None: many.
        sparse : bool, default=False
            Whether ``X`` is sparse, which ``hidden="auto"`` depends on.

        Returns
        -------
        MemoryFootprint
            Bytes of ``weights``, ``indices`` and ``optimizer`` of the output layer, of the
            ``front`` with its optimiser, of the ``auxiliary`` head, of the
            ``activations``, and their ``total``. Weights to ``auxiliary`` are exact.

        Examples
        --------
        >>> from skxmc import SparseDSTClassifier
        >>> model = SparseDSTClassifier(hidden=16_384, optimizer="sgd", n_jobs=1)
        >>> footprint = model.memory_footprint(670_091, 768)
        >>> layer = footprint.weights + footprint.indices + footprint.optimizer
        >>> f"{layer / 2**20:.0f} MiB"
        '414 MiB'
        """
        self._validate_params()
        width = _HIDDEN if self.hidden == "auto" and not sparse else self.hidden
        if self.encoder is not None or width == "auto":
            width = None
        n_inputs = n_features if width is None else width
        batch_size = self._batch_size(10**9 if n_samples is None else n_samples)
        plan = self._part_plan(n_labels, n_inputs)
        compensated = compensated_labels([size for size, _, _ in plan], self._kahan_share())
        weights, indices, state = layer_bytes(
            plan, n_inputs, self.precision, self._optimizer(), compensated
        )
        front = 0
        if self.encoder is None and width is not None:
            front = hidden_layer_bytes(n_features, width)
        auxiliary = 0
        if self.auxiliary > 0:
            sizes = [(self._n_meta_labels(n_labels), None, 1)]
            adam = new_optimizer("adam", 1.0, 0.0, 0.0)
            auxiliary = sum(layer_bytes(sizes, n_inputs, "float32", adam, [0]))
        activations = step_bytes(batch_size, n_inputs, effective_n_jobs(self.n_jobs))
        is_direct = sparse and self.encoder is None and width is None
        if self._connects_to_data(n_labels, n_inputs, is_direct):
            rows = 10**9 if n_samples is None else n_samples
            needed = connection_bytes(plan, n_inputs, rows, sparse=is_direct)
            activations = max(activations, needed)
        if self.encoder is not None and not is_front(self.encoder):
            from skxmc.neural.torch_text import text_footprint

            text = text_footprint(self.encoder, -(-batch_size // self.accumulation))
            activations += text["activations"]
            front = text["total"] - text["activations"]
        return MemoryFootprint(weights, indices, state, front, auxiliary, activations)

    def _check_memory(self, n_labels, X):
        if self.encoder is None:
            n_features = X.shape[1]
        else:
            from skxmc.neural.torch_text import text_width

            n_features = text_width(self.encoder)
        footprint = self.memory_footprint(
            n_labels, n_features, n_samples=X.shape[0], sparse=sp.issparse(X)
        )
        if footprint.total > self.memory_limit:
            raise MemoryLimitError(
                f"fit would take about {footprint.total:,} bytes beside its inputs, over "
                f"memory_limit={self.memory_limit:,} ("
                + ", ".join(f"{name} {size:,}" for name, size in footprint._asdict().items())
                + '): lower fan_in, hidden or batch_size, take optimizer="sgd", precision='
                '"bfloat16" or "float8", or raise memory_limit.'
            )

    # ------------------------------------------------------------------ parts of a fit

    def _new_seed(self):
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        processes = self._processes()
        return seed if processes is None else processes.of_first(seed)

    def _split(self, n_samples, seed):
        """Training and validation rows, in rising order."""
        n_held_out = 0
        if self.validation_fraction > 0:
            n_held_out = max(1, round(self.validation_fraction * n_samples))
            if n_held_out >= n_samples:
                raise ValueError(
                    f"validation_fraction={self.validation_fraction} leaves no row of {n_samples} "
                    "to train on."
                )
        order = np.random.default_rng([seed, _STREAM_SPLIT]).permutation(n_samples)
        return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])

    def _new_front(self, X, Y, counts, labels, seed):
        """The front, the order of ``labels`` in the layer, and the embeddings of all labels."""
        backend, device = self._backend()
        on_torch = backend in ("torch", "triton")
        front = None
        if self.encoder is not None:
            front = self._text_front(backend, device)
        grouped = self.layout == "group" and self.grouping == "cluster" and self.group_size > 1
        width = self._width(X)
        starts_from_labels = front is None and width is not None and self.hidden_init == "labels"
        embeddings = None
        if grouped or self.auxiliary > 0 or starts_from_labels:
            known = X if front is None else to_numpy(front.transform(X))
            embeddings = label_features(known, Y, n_jobs=self.n_jobs)[labels]
        order = self._label_order(embeddings, counts[labels], seed)
        if front is not None:
            return front, order, embeddings
        if on_torch:
            from skxmc.neural import torch_front as fronts

            options = {"device": device}
        else:
            fronts, options = _front, {}
        if width is None:
            scale = 1 / _front.root_mean_square_entry(X)
            front = fronts.IdentityFront(
                X.shape[1], scale=scale, dropout=self._dropout(), **options
            )
        else:
            weights, bias = _front.initial_hidden_layer(
                X,
                width,
                embeddings if starts_from_labels else None,
                stream_seed(seed, _STREAM_FRONT),
            )
            if not on_torch:
                options = {"n_jobs": self.n_jobs}
            options |= self._training_options()
            front = fronts.HiddenLayerFront(weights, bias, **options)
        return front, order, embeddings

    def _accumulating(self, front):
        return front if self.accumulation == 1 else AccumulatingFront(front, self.accumulation)

    def _text_front(self, backend, device):
        from skxmc.neural.torch_text import text_front

        options = {}
        if not is_front(self.encoder):
            options["dropout"] = self._dropout()
            if self.max_grad_norm != "auto":
                options["max_grad_norm"] = self.max_grad_norm
        on_torch = backend in ("torch", "triton")
        front = text_front(self.encoder, device=device, as_numpy=not on_torch, **options)
        processes = self._processes()
        if processes is not None and hasattr(front, "module"):
            from skxmc.neural.torch_distributed import RowParallelFront

            front = RowParallelFront(front, processes)
        return front

    def _width(self, X):
        """Units of the hidden layer; None where there is none."""
        if self.encoder is not None:
            return None
        if self.hidden == "auto":
            return None if sp.issparse(X) else _HIDDEN
        return self.hidden

    def _training_options(self):
        """Of a hidden layer."""
        norm = None if self.max_grad_norm == "auto" else self.max_grad_norm
        return {"dropout": self._dropout(), "max_grad_norm": norm}

    def _dropout(self):
        if self.dropout == "auto":
            return 0.0 if self.encoder is None else _DROPOUT
        return self.dropout

    def _label_order(self, embeddings, counts, seed):
        """Places in the layer: the dense head, then the others; the most frequent first."""
        by_frequency = np.lexsort((np.arange(len(counts)), -counts))
        if self.layout != "group" or self.group_size == 1:
            return by_frequency
        head, tail = np.split(by_frequency, [self._head_size(len(counts))])
        if len(tail) == 0:
            return head
        inner = label_groups(
            None if embeddings is None else embeddings[tail],
            counts[tail],
            self.group_size,
            method=self.grouping,
            seed=stream_seed(seed, _STREAM_GROUPS) % (1 << 31),
            n_jobs=self.n_jobs,
        )
        return np.concatenate([head, tail[inner]])

    def _head_size(self, n_labels):
        return n_labels if self.layout == "dense" else round(self.dense_head * n_labels)

    def _part_plan(self, n_labels, n_inputs):
        """(n_labels, fan_in, group_size) of each part; fan_in None is dense."""
        head = self._head_size(n_labels)
        group_size = self.group_size if self.layout == "group" else 1
        plan = [(head, None, 1), (n_labels - head, min(self.fan_in, n_inputs), group_size)]
        return [part for part in plan if part[0]]

    def _new_parts(self, X, targets, front, n_samples, weights, seed):
        if self.loss == "bce":  # the log-odds of the label among all rows, as it is weighted
            counts = np.bincount(targets.indices, minlength=targets.shape[1])
            bias = np.log(weights * (counts + 0.5) / (n_samples - counts + 0.5))
        else:  # negatives begin at the margin: they have no loss until a row is drawn to them
            bias = -1.0
        parts = initial_parts(
            self._part_plan(targets.shape[1], front.n_outputs),
            front.n_outputs,
            self.precision,
            stream_seed(seed, _STREAM_LAYER),
            bias=bias,
        )
        is_direct = is_sparse_identity(front, X)
        if self._connects_to_data(targets.shape[1], front.n_outputs, is_direct):
            connect_to_data(parts, front, X, targets)
        return parts

    def _connects_to_data(self, n_labels, n_inputs, is_direct):
        is_cheap = is_direct or n_labels * n_inputs <= _CONNECTED
        return self.connections == "data" or (self.connections == "auto" and is_cheap)

    def _output_layer(self, parts, front, weights, seed):
        backend, device = self._backend()
        weights = weights.astype(np.float32)
        layer = (
            parts,
            front.n_outputs,
            Loss(self.loss, None if (weights == 1).all() else weights),
            self._optimizer(),
        )
        options = {
            "compensated": self._kahan_share(),
            "backend": backend,
            "seed": stream_seed(seed, _STREAM_LAYER),
            "n_jobs": effective_n_jobs(self.n_jobs),
        }
        processes = self._processes()
        if processes is None:
            return OutputLayer(*layer, device=device, **options)
        from skxmc.neural.torch_distributed import ShardedOutputLayer

        return ShardedOutputLayer(processes, *layer, **options)

    def _kahan_share(self):
        return 0.0 if self.precision == "float32" else self.kahan

    def _optimizer(self):
        rate = self.learning_rate
        if rate == "auto":
            rate = _LEARNING_RATES[self.optimizer]
        return new_optimizer(self.optimizer, rate, self.momentum, self.weight_decay)

    def _positive_weights(self, counts, n_samples):
        return positive_weights(
            self.weighting, counts, n_samples, propensity=self.propensity, beta=self.beta
        )

    def _auxiliary(self, targets, embeddings, order, front, plan, seed):
        """The head over meta-labels, or None."""
        if self.auxiliary == 0:
            return None
        n_clusters = self._n_meta_labels(len(order))
        cluster = meta_labels(
            embeddings[order],
            n_clusters,
            stream_seed(seed, _STREAM_AUXILIARY) % (1 << 31),
            n_jobs=self.n_jobs,
        )
        meta = _meta_targets(targets, cluster, n_clusters)
        backend, device = self._backend()
        counts = np.bincount(meta.indices, minlength=n_clusters)
        parts = initial_parts(
            [(n_clusters, None, 1)],
            front.n_outputs,
            "float32",
            stream_seed(seed, _STREAM_AUXILIARY),
            bias=np.log((counts + 0.5) / (targets.shape[0] - counts + 0.5)),
        )
        layer = OutputLayer(
            parts,
            front.n_outputs,
            Loss("bce"),
            new_optimizer("adam", _LEARNING_RATES["adam"], 0.0, 0.0),
            backend=backend,
            device=device,
            seed=stream_seed(seed, _STREAM_AUXILIARY),
            n_jobs=effective_n_jobs(self.n_jobs),
        )
        n_batches = -(-targets.shape[0] // plan.batch_size)
        return AuxiliaryHead(
            layer, meta, self.auxiliary, self.auxiliary_epochs * n_batches, self.auxiliary_epochs
        )

    def _n_meta_labels(self, n_labels):
        if self.n_meta_labels == "auto":
            return max(2, min(n_labels, round(4 * np.sqrt(n_labels))))
        return min(self.n_meta_labels, n_labels)

    def _plan(self, n_samples, seed):
        batch_size = self._batch_size(n_samples)
        n_batches = -(-n_samples // batch_size)
        epochs = self.epochs
        if epochs == "auto":
            epochs = max(_EPOCHS, -(-_MIN_STEPS // n_batches))
        return Plan(
            epochs=epochs,
            batch_size=batch_size,
            warmup=int(self.warmup * epochs * n_batches),
            schedule=self.schedule,
            seed=seed,
            patience=self.patience,
        )

    def _rewiring(self, plan, n_samples):
        """When and how inputs of labels change, or None."""
        if self.dynamics == "static" or self.layout == "dense":
            return None
        n_steps = plan.epochs * -(-n_samples // plan.batch_size)
        return Rewiring(
            self.prune,
            "gradient" if self.dynamics == "rigl" else "random",
            self.rewire_fraction,
            self.rewire_interval,
            int(self.rewire_end * n_steps),
            self.schedule,
        )

    def _front_rate(self):
        if self.front_learning_rate != "auto":
            return self.front_learning_rate
        return _FRONT_LEARNING_RATE if self.encoder is None else _ENCODER_LEARNING_RATE

    def _batch_size(self, n_samples):
        if self.batch_size == "auto":
            return int(np.clip(n_samples // 100, _SMALLEST_BATCH, _LARGEST_BATCH))
        return min(self.batch_size, n_samples)

    def _backend(self):
        """Name of the backend and the device of torch."""
        on_gpu = self.device is not None and not str(self.device).startswith("cpu")
        name = self.backend
        if name == "auto":
            name = "triton" if on_gpu else "numba"
        if name in ("numba", "reference"):
            if on_gpu:
                raise ValueError(
                    f'backend="{name}" computes on the CPU; device={self.device!r} needs '
                    '"torch", "triton" or "auto".'
                )
            return name, None
        device = self.device
        if device is None:
            device = "cuda" if name == "triton" else "cpu"
        if self.distributed and device == "cuda":  # torchrun says which one
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        return name, device

    def _checkpoint(self, X, Y, seed):
        if self.checkpoint_dir is not None and self.random_state is None:
            raise ValueError(
                "checkpoint_dir needs a random_state, such as 0: without one, each fit is another "
                "training and could not go on from the one before."
            )
        if self.checkpoint_dir is None:
            return None
        digest, processes = self._fingerprint(X, Y, seed), self._processes()
        if processes is None:
            return Checkpoint(self.checkpoint_dir, digest)
        from skxmc.neural.torch_distributed import SharedCheckpoint

        return SharedCheckpoint(self.checkpoint_dir, digest, processes)

    def _fingerprint(self, X, Y, seed):
        params = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in _NOT_IN_FINGERPRINT
        }
        params["seed"], params["encoder"] = seed, type(self.encoder).__name__
        return fingerprint(params, (X, Y))

    def _check_processes(self, X, Y, seed):
        """Refuse data and parameters that are not the same in all processes."""
        processes = self._processes()
        if processes is not None:
            processes.check_equal(self._fingerprint(X, Y, seed))

    def _processes(self):
        """The processes that share the labels, or None."""
        if not self.distributed:
            return None
        from skxmc.neural.torch_distributed import Processes

        return Processes(self._backend()[1])

    def _collect(self, trainer, labels):
        """Keep what prediction needs, as NumPy arrays."""
        parts = trainer.learner.output.numpy_parts()
        self._parts = [part._asdict() for part in parts]
        self._layer_labels = np.asarray(labels, dtype=np.int32)
        self._front, self._front_arrays = None, {}
        if self.encoder is None:
            self._front_arrays = trainer.learner.front.model()
        else:
            self._front = innermost(trainer.learner.front)
            # what nothing but pickle can store stays an object
            with contextlib.suppress(TypeError, AttributeError):
                self._front_arrays = self._front.model()
        self.history_ = trainer.history
        self.n_iter_ = trainer.n_epochs
        self.best_epoch_ = trainer.best_epoch
        self.backend_ = trainer.learner.output.backend

    # ------------------------------------------------------------------ predict

    @_loaded.refuses_damage
    def _score_topk(self, X, k, exclude, candidates):
        labels = self._layer_labels
        n_columns = 1 if self._target_kind == "binary" else self.n_labels_
        ids = labels
        if len(labels) < n_columns:
            # the layer knows some of the labels: among these, they are numbered in their order
            known = np.sort(labels)
            ids = np.searchsorted(known, labels).astype(np.int32)
            exclude, candidates = (
                None if pattern is None else _columns(pattern, known)
                for pattern in (exclude, candidates)
            )
        answers = self._blocks(
            X,
            lambda features, rows: load_backend("numba").topk(
                features,
                self._fitted_parts(),
                ids,
                min(k, len(labels)),
                exclude=_some_rows(exclude, rows),
                candidates=_some_rows(candidates, rows),
                n_jobs=effective_n_jobs(self.n_jobs),
            ),
        )
        answers = TopK(*(np.concatenate(arrays) for arrays in zip(*answers, strict=True)))
        found = answers.labels if len(labels) == n_columns else known[answers.labels]
        # a margin of minus infinity: not allowed, or a label that had no positive so far
        found = np.where(answers.scores > -np.inf, found, -1).astype(np.int32)
        answers = answers._replace(labels=found)
        return answers if answers.labels.shape[1] == k else pad_topk(answers, k)

    @_loaded.refuses_damage
    def _score_dense(self, X):
        n_columns = 1 if self._target_kind == "binary" else self.n_labels_
        out = np.full((X.shape[0], n_columns), -np.inf, dtype=np.float32)

        def score(features, rows):
            out[rows, self._layer_labels] = load_backend("numba").scores(
                features, self._fitted_parts(), n_jobs=effective_n_jobs(self.n_jobs)
            )

        self._blocks(X, score)
        return out

    def _blocks(self, X, function):
        """``function(features, rows)`` for blocks of rows whose features fit into memory."""
        X, front = self._rows(X), self._fitted_front()
        n_rows = X.shape[0]
        block = max(1, _BLOCK_BYTES // (8 * front.n_outputs))
        results = []
        for first in range(0, n_rows, block):
            rows = slice(first, min(first + block, n_rows))
            features = front.transform(X if block >= n_rows else _front.rows_of(X, rows))
            results.append(function(to_numpy(features), rows))
        return results

    def __getstate__(self):
        state = dict(super().__getstate__())  # not the attributes themselves
        if state.get("_front_arrays"):  # from which the front is made anew
            state["_front"] = None
        state.pop("_unread", None)
        return state

    def _check_loaded_model(self):
        labels, parts = self._layer_labels, self._fitted_parts()
        n_columns = 1 if self._target_kind == "binary" else self.n_labels_
        n_labels = sum(len(part.bias) for part in parts)
        if labels.dtype != np.int32 or labels.shape != (n_labels,):
            raise ValueError("the labels of the output layer do not fit its parts")
        known = np.zeros(n_columns, dtype=bool)
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= n_columns:
            raise ValueError("the labels of the output layer are no labels")
        known[labels] = True
        if np.count_nonzero(known) != len(labels):
            raise ValueError("the labels of the output layer are not all different")
        self._front = None
        if self.encoder is None:
            front = self._numpy_front(self._front_arrays)
            _check_front(front, self.n_features_in_)
            check_parts(parts, front.n_outputs)
        elif {"scale", "weights"} & set(self._front_arrays):
            raise ValueError("it names an encoder, and stores what rows without one go through")
        self._unread = True

    def _check_all_weights(self):
        """Read all that `_check_loaded_model` leaves to the first use."""
        n_outputs, parts = self._fitted_front().n_outputs, self._fitted_parts()
        _loaded.check_encoder(self._front_arrays)
        try:
            check_parts(parts, n_outputs)
        except ValueError as error:
            raise ModelFormatError(f"The output layer does not fit the encoder: {error}") from error
        for number, part in enumerate(parts):
            where = f"part {number} of the output layer"
            if part.indices is not None:
                _loaded.check_indices(part.indices, n_outputs, f"the indices of {where}")
            _loaded.check_finite(part.weights, f"the weights of {where}", part.precision)
            if not (part.bias < np.inf).all():
                raise ModelFormatError(f"The biases of {where} are NaN or infinite.")
        self._unread = False

    def _fitted_parts(self):
        return tuple(Part(**part) for part in self._parts)

    def _fitted_front(self):
        if self.encoder is None:
            return self._numpy_front(self._front_arrays)
        if self._front is None:  # a loaded model
            from skxmc.neural.torch_text import TextFront

            self._front = _loaded.build(TextFront.from_model, self._front_arrays)
        return self._front

    def _numpy_front(self, arrays, dropout=0.0, max_grad_norm=None):
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        if "scale" in arrays:
            scale = arrays["scale"][0]
            return _front.IdentityFront(self.n_features_in_, scale=scale, dropout=dropout)
        return _front.HiddenLayerFront(
            arrays["weights"],
            arrays["bias"],
            dropout=dropout,
            max_grad_norm=max_grad_norm,
            n_jobs=self.n_jobs,
        )

    # ------------------------------------------------------------------ rows

    def _check_X(self, X, reset):
        if self.encoder is None:
            return super()._check_X(X, reset)
        return object_array(check_texts(X, min_rows=1))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        if self.encoder is not None:
            tags.input_tags.two_d_array = tags.input_tags.sparse = False
            tags.input_tags.string = True
        return tags

    def _rows(self, X):
        """Rows as the front takes them: of unit length, if asked for."""
        if self.encoder is not None:
            return X
        if sp.issparse(X):
            X = _without_zeros(X)
            if self.normalize is None:
                return X
            data = unit_data(X.data, X.indptr)
            return make_compressed(data, X.indices, X.indptr, X.shape)
        if self.normalize is None:
            return np.ascontiguousarray(X, dtype=np.float32)
        X = np.asarray(X)
        norms = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))
        norms[norms == 0] = 1.0
        return np.ascontiguousarray(X / norms[:, None], dtype=np.float32)


def _without_zeros(X):
    """Canonical CSR without stored zeros: for the hidden layer, what is stored is in the batch."""
    kept = X.data != 0
    if kept.all():
        return X
    indptr = np.concatenate(([0], np.cumsum(kept)))[X.indptr]
    return make_compressed(X.data[kept], X.indices[kept], indptr, X.shape)


def _check_front(front, n_features):
    if isinstance(front, _front.HiddenLayerFront):
        weights, bias = front.weights, front.bias
        if weights.dtype != np.float32 or bias.dtype != np.float32:
            raise ValueError("the hidden layer must be float32")
        if weights.ndim != 2 or weights.shape != (n_features, *bias.shape):
            raise ValueError("the hidden layer does not fit n_features_in_")


def _columns(Y, labels):
    """Canonical indicator of the columns ``labels`` of a canonical one, in this order."""
    place = np.full(Y.shape[1], -1, dtype=np.int32)
    place[labels] = np.arange(len(labels), dtype=np.int32)
    columns = place[Y.indices]
    kept = columns >= 0
    rows = np.repeat(np.arange(Y.shape[0]), np.diff(Y.indptr))[kept]
    columns = columns[kept]
    order = np.lexsort((columns, rows))
    indptr = np.zeros(Y.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=Y.shape[0]), out=indptr[1:])
    ones = np.ones(len(columns), dtype=np.uint8)
    return make_compressed(ones, columns[order], indptr, (Y.shape[0], len(labels)))


def _meta_targets(Y, cluster, n_clusters):
    """Canonical indicator of the clusters that a row has a label of."""
    pairs = np.repeat(np.arange(Y.shape[0], dtype=np.int64), np.diff(Y.indptr)) * n_clusters
    pairs = np.unique(pairs + cluster[Y.indices])
    rows, columns = np.divmod(pairs, n_clusters)
    indptr = np.zeros(Y.shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=Y.shape[0]), out=indptr[1:])
    ones = np.ones(len(pairs), dtype=np.uint8)
    return make_compressed(ones, columns.astype(np.int32), indptr, (Y.shape[0], n_clusters))


def _some_rows(pattern, rows):
    return None if pattern is None else _front.rows_of(pattern, rows)
