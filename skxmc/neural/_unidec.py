"""UniDECClassifier: a dual encoder over label texts and a classifier, trained together."""

import contextlib
import numbers
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.lib.stride_tricks import as_strided
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skxmc.base import XMCClassifierMixin, pad_topk
from skxmc.exceptions import ModelFormatError
from skxmc.io._arrays import make_compressed
from skxmc.neural import _loaded
from skxmc.neural._checkpoint import Checkpoint, fingerprint
from skxmc.neural._encoders import (
    check_rows,
    encoder_from_model,
    encoder_model,
    resolve_encoder,
    stack_rows,
    takes_texts,
)
from skxmc.neural._front import rows_of
from skxmc.neural._hard_negatives import SEARCHES, LabelIndex
from skxmc.neural._output_layer import stream_seed
from skxmc.neural._projection import Projection, unit_rows
from skxmc.neural._schedule import SCHEDULES
from skxmc.neural._text import object_array
from skxmc.neural._training import Plan, Trainer
from skxmc.neural._unidec_learner import Parts, Settings, UniDECLearner
from skxmc.ops.contrastive import LOSSES
from skxmc.ops.csr import take_rows
from skxmc.ops.topk import TopK

MODES = ("both", "encoder", "classifier")

# Numbers of the random streams of a fit.
_STREAM_FRONT, _STREAM_DUAL, _STREAM_HEAD, _STREAM_SPLIT = range(211, 215)

# What a fit does not depend on.
_NOT_IN_FINGERPRINT = (
    *("n_jobs", "checkpoint_dir", "verbose", "top_k", "max_dense_bytes", "score_with"),
    *("random_state", "encoder", "search"),
)

# "auto": learning rate of a table of token vectors, and of a pre-trained transformer (thesis).
_STATIC_RATE, _TEXT_RATE = 3e-3, 1e-4

# "auto": learning rate of the classifier, over the root mean square of its first entries.
_CLASSIFIER_RATE = 0.01

# Rows and labels of each from which thresholds are taken.
_SAMPLE_ROWS, _SAMPLE_LABELS = 1024, 50

# Rows encoded at a time.
_BLOCK_ROWS = 8192


class UniDECClassifier(XMCClassifierMixin, BaseEstimator):
    r"""Dual encoder and classifier in one training, for labels that have texts (UniDEC).

    An encoder :math:`\Phi` of rows and label texts is shared by two heads. In that of the dual
    encoder, rows and label texts :math:`z_l` meet on the unit sphere; in that of the classifier, a
    row meets a vector :math:`\Psi_l` of the label alone:

    .. math::

        \Phi_D(\cdot) = \mathcal{N}(\tanh(W_1 \Phi(\cdot) + b_1)), \qquad
        \Phi_C(\cdot) = W_2 \Phi(\cdot) + b_2,

    with the unit norm :math:`\mathcal{N}`. A batch consists of similar rows; its pool of labels of
    up to ``n_positives`` positives and ``n_hard_negatives`` of the nearest wrong labels of each row
    ("pick some labels"). Minimised is :math:`\lambda L_D + (1 - \lambda) L_C`, each a multi-class
    loss over the pool, from rows to labels and from labels to rows
    (`skxmc.ops.contrastive.reference`). A label scores

    .. math::

        \frac{1}{2} \left( \langle \Phi_D(x), \Phi_D(z_l) \rangle
            + \langle \mathcal{N}(\Phi_C(x)), \mathcal{N}(\Psi_l) \rangle \right).

    The first half serves labels with few rows or none, also those that appear later
    (`add_labels`); the second those with many.

    Parameters
    ----------
    encoder : str, path, (tokenizer, module), StaticEncoder or front, default="static"
        What turns texts into vectors. "static": the mean of trainable token vectors, weighted by
        inverse document frequency, without torch.
        "precomputed": ``X`` and ``label_text`` are arrays of numbers. A path: a transformer. See
        `skxmc.neural.StaticEncoder`.
    dimension : int, default=512
        Width of each head, and of the encoder where it is "static" or takes sparse rows.
    mode : {"both", "encoder", "classifier"}, default="both"
        "encoder" trains the dual encoder alone (DePSL), "classifier" the classifier alone.
    loss : {"decoupled", "supcon", "bce", "decoupled+bce", "supcon+bce"}, default="decoupled"
        Of the dual encoder: decoupled softmax, SupCon, binary cross-entropy, or a sum.
    classifier_loss : the same or None, default=None
        Of the classifier; None: the same.
    temperature : float, default=0.1
        By which cosines are divided in the loss of the dual encoder.
    classifier_temperature : float or "auto", default="auto"
        By which inner products are divided in the loss of the classifier. Its vectors have no unit
        length: "auto" is ``temperature`` times the product of the mean lengths that rows and labels
        have at the start.
    lambda_ : float, default=0.5
        Weight of the dual encoder's loss.
    lambda_encoder, lambda_classifier : float, default=0.5
        Weight of the direction from rows to labels in each loss; the other direction has the rest.
        1 is the asymmetric loss.
    n_positives : int, default=3
        Positives of a row (beta) put into the pool of a batch; others of its positives that are in
        the pool count too.
    n_hard_negatives : int, default=6
        Hard negatives of a row (eta) put into the pool, drawn from the ``n_hard_negatives *
        refresh_every`` nearest labels that are not its own; 0 is none.
    refresh_every : int, default=3
        Epochs (tau) after which clusters and hard negatives are made anew.
    cluster_from : int, default=3
        The first epoch, from 0, with clusters and hard negatives; before it, batches are random.
    glas : float, default=0.0
        Weight of the GLaS regulariser, which draws inner products of classifier vectors towards the
        co-occurrence of their labels, in the loss of the classifier, over the pool of a batch
        (`skxmc.ops.glas.glas`); 0 is none.
    classifier_init : {"text", "zeros"}, default="text"
        First vectors of the classifier: the head of the classifier on the label texts, or 0.
    encoder_learning_rate : float or "auto", default="auto"
        "auto" is 0.003 for a static encoder or rows of numbers, and 1e-4 for a transformer.
    projection_learning_rate : float, default=5e-4
        Of the two heads.
    learning_rate : float or "auto", default="auto"
        Of the classifier; "auto" is a hundredth of the root mean square of its first entries. All
        three are those of Adam; vectors of tokens and labels that do not occur in a batch are left
        alone.
    epochs : int, default=20
        Passes over the rows.
    batch_size : int, default=512
        Rows of a batch, at most.
    dropout : float, default=0.1
        Share of the outputs of both heads set to 0 in a step.
    warmup : float, default=0.05
        Part of the steps in which learning rates rise linearly.
    schedule : {"cosine", "constant"}, default="cosine"
        Learning rates after that.
    search : {"exact", "faiss"}, default="exact"
        How nearest labels are found, in training and in `predict_topk`: by all inner products, or
        approximately by a graph (needs ``faiss-cpu``).
    score_with : {"auto", "both", "encoder", "classifier"}, default="auto"
        The half that scores; "auto" is ``mode``. May be set after `fit`.
    validation_fraction : float, default=0.0
        Share of the rows kept out to stop early, by P@1 after each epoch; 0 is none.
    patience : int, default=5
        Epochs without a better P@1 after which the training ends; the best model is kept.
    device : str or None, default=None
        Of a torch encoder.
    random_state : int, RandomState instance or None, default=None
        Of all random choices.
    n_jobs : int or None, default=None
        Threads; -1 for all processors. Matrix products have the threads of NumPy's BLAS.
    checkpoint_dir : str, path or None, default=None
        Folder in which `fit` leaves its state; a later `fit` of the same parameters and data goes
        on from there. See `skxmc.neural.SparseDSTClassifier`. Needs a ``random_state``.
    top_k : int, default=100
        Labels kept in a row of the sparse `predict_proba` and `decision_function`.
    max_dense_bytes : int, default=2**30
        Largest dense output; see `skxmc.base.XMCClassifierMixin`.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    history_ : list of dict
        For each epoch the mean loss of a row, and P@1 and P@3 on the validation rows.
    n_iter_ : int
        Epochs.
    best_epoch_ : int or None
        The epoch, from 1, whose model was kept, where there are validation rows.
    thresholds_ : dict of str to float
        The score with margin 0, for each half and both: as many pairs of a sample of the rows score
        higher as are positive.
    encoder_ : front
        The trained encoder.
    classes_, n_labels_
        See `skxmc.base.XMCClassifierMixin`.

    Raises
    ------
    ValueError, TypeError
        For input that `skxmc.base.XMCClassifierMixin` refuses, a label text that is no str, as many
        texts as there are not labels, no ``label_text`` where the mode needs it.
    FloatingPointError
        If the training diverges.

    Notes
    -----
    A margin is (score - threshold) / ``temperature``. `predict_proba` is the logistic function of
    it: an order of magnitude, *not* a calibrated probability.

    Soft targets in (0, 1], as of `skxmc.label_space.GandalfAugmenter`, weigh the positives of a row
    in its loss.

    A row whose text equals that of a label which is not its own (an item among related items) is no
    negative of it: no encoder could tell them apart. Leave such answers out by ``exclude=``.

    A label without rows is never a hard negative, has no vector in the classifier, and is scored by
    its text: its cosine, times the mean ratio of both halves' scores, stands for the other half. An
    empty text, or one of unknown tokens only, is the same point for all such rows or labels; the
    classifier still tells labels apart by their vectors. Labels with equal texts have equal scores
    in the dual encoder.

    Losses are means, over the rows with positives and over the labels with positives; the thesis
    writes sums. Time of a step: O(batch x pool x dimension), and O(rows x labels x dimension) for
    the hard negatives of ``refresh_every`` epochs. Memory of a step: two float32 arrays of the size
    batch x pool, beside the model and twice its size for Adam.

    References
    ----------
    S. Kharbanda. Compute efficient extreme multi-label classification. Thesis, UCLA, 2024: chapter
    2, Algorithm 1.

    S. Kharbanda, D. Gupta, E. Schultheis, P. Malhotra, C.-J. Hsieh, R. Babbar. UniDEC: Unified dual
    encoder and classifier training for extreme multi-label classification. WWW 2025.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.neural import UniDECClassifier
    >>> texts = ["fast web server", "web browser", "chess game", "puzzle game"]
    >>> Y = sp.csr_array([[1, 0], [1, 0], [0, 1], [0, 1]])
    >>> model = UniDECClassifier(dimension=16, epochs=20, random_state=0)
    >>> model = model.fit(texts, Y, label_text=["web software", "games"])
    >>> model.predict_topk(["small web page", "board game"], k=1).labels.ravel()
    array([0, 1], dtype=int32)
    """

    _parameter_constraints = {
        **XMCClassifierMixin._parameter_constraints,
        "encoder": [str, Path, tuple, HasMethods(["forward", "backward", "step"])],
        "dimension": [Interval(numbers.Integral, 1, None, closed="left")],
        "mode": [StrOptions(set(MODES))],
        "loss": [StrOptions(set(LOSSES))],
        "classifier_loss": [StrOptions(set(LOSSES)), None],
        "temperature": [Interval(numbers.Real, 0, None, closed="neither")],
        "classifier_temperature": [
            Interval(numbers.Real, 0, None, closed="neither"),
            StrOptions({"auto"}),
        ],
        "lambda_": [Interval(numbers.Real, 0, 1, closed="both")],
        "lambda_encoder": [Interval(numbers.Real, 0, 1, closed="both")],
        "lambda_classifier": [Interval(numbers.Real, 0, 1, closed="both")],
        "n_positives": [Interval(numbers.Integral, 1, None, closed="left")],
        "n_hard_negatives": [Interval(numbers.Integral, 0, None, closed="left")],
        "refresh_every": [Interval(numbers.Integral, 1, None, closed="left")],
        "cluster_from": [Interval(numbers.Integral, 0, None, closed="left")],
        "glas": [Interval(numbers.Real, 0, None, closed="left")],
        "classifier_init": [StrOptions({"text", "zeros"})],
        "encoder_learning_rate": [
            Interval(numbers.Real, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "projection_learning_rate": [Interval(numbers.Real, 0, None, closed="left")],
        "learning_rate": [Interval(numbers.Real, 0, None, closed="left"), StrOptions({"auto"})],
        "epochs": [Interval(numbers.Integral, 1, None, closed="left")],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left")],
        "dropout": [Interval(numbers.Real, 0, 1, closed="left")],
        "warmup": [Interval(numbers.Real, 0, 1, closed="left")],
        "schedule": [StrOptions(set(SCHEDULES))],
        "search": [StrOptions(set(SEARCHES))],
        "score_with": [StrOptions({"auto", *MODES})],
        "validation_fraction": [Interval(numbers.Real, 0, 1, closed="left")],
        "patience": [Interval(numbers.Integral, 1, None, closed="left")],
        "device": [str, None],
        "random_state": ["random_state"],
        "n_jobs": [numbers.Integral, None],
        "checkpoint_dir": [str, Path, None],
        "verbose": ["verbose"],
    }

    _accepts_soft_targets = True

    _weight_attributes = ("_encoder_arrays", "_heads", "_label_halves")

    def __init__(
        self,
        encoder="static",
        dimension=512,
        *,
        mode="both",
        loss="decoupled",
        classifier_loss=None,
        temperature=0.1,
        classifier_temperature="auto",
        lambda_=0.5,
        lambda_encoder=0.5,
        lambda_classifier=0.5,
        n_positives=3,
        n_hard_negatives=6,
        refresh_every=3,
        cluster_from=3,
        glas=0.0,
        classifier_init="text",
        encoder_learning_rate="auto",
        projection_learning_rate=5e-4,
        learning_rate="auto",
        epochs=20,
        batch_size=512,
        dropout=0.1,
        warmup=0.05,
        schedule="cosine",
        search="exact",
        score_with="auto",
        validation_fraction=0.0,
        patience=5,
        device=None,
        random_state=None,
        n_jobs=None,
        checkpoint_dir=None,
        top_k=100,
        max_dense_bytes=2**30,
        verbose=0,
    ):
        self.encoder = encoder
        self.dimension = dimension
        self.mode = mode
        self.loss = loss
        self.classifier_loss = classifier_loss
        self.temperature = temperature
        self.classifier_temperature = classifier_temperature
        self.lambda_ = lambda_
        self.lambda_encoder = lambda_encoder
        self.lambda_classifier = lambda_classifier
        self.n_positives = n_positives
        self.n_hard_negatives = n_hard_negatives
        self.refresh_every = refresh_every
        self.cluster_from = cluster_from
        self.glas = glas
        self.classifier_init = classifier_init
        self.encoder_learning_rate = encoder_learning_rate
        self.projection_learning_rate = projection_learning_rate
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.dropout = dropout
        self.warmup = warmup
        self.schedule = schedule
        self.search = search
        self.score_with = score_with
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.device = device
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.checkpoint_dir = checkpoint_dir
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def fit(self, X, Y, *, label_text=None):
        """Learn from texts, their labels, and the labels' texts.

        Parameters
        ----------
        X : sequence of str of length n_samples, or array of shape (n_samples, n_features)
            Rows as the encoder takes them.
        Y : {sparse array or matrix, array-like} of shape (n_samples, n_labels) or (n_samples,)
            Indicator, or soft targets in [0, 1]; a column may be empty if its label has a text. Or
            one class a row.
        label_text : sequence of str, LabelText, or array (n_labels, n_features), default=None
            Texts of the labels, or what the encoder takes in their place, one a label. Only
            ``mode="classifier"`` does without.

        Returns
        -------
        UniDECClassifier
            The fitted estimator itself.
        """
        return self._fit(X, Y, label_text=label_text)

    def _fit_indicator(self, X, Y, label_text=None):
        self._check_score_with()
        label_text = self._check_label_text(label_text, X, Y.shape[1])
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        train, held_out = self._split(Y.shape[0], seed)
        checkpoint = self._checkpoint(X, Y, label_text, seed)
        rows = self._as_rows(X)
        front = resolve_encoder(
            self.encoder,
            [rows[i] for i in train] if isinstance(rows, list) else rows_of(rows, train),
            label_text,
            dimension=self._encoder_width(rows),
            seed=stream_seed(seed, _STREAM_FRONT),
            device=self.device,
            n_jobs=self.n_jobs,
        )
        inputs = _prepared(front, rows if label_text is None else stack_rows(rows, label_text))
        parts = self._new_parts(front, inputs, Y.shape, label_text is not None, seed)
        same_text = None
        if label_text is not None and takes_texts(self.encoder):
            same_text = _same_text(rows, label_text, Y)
        lengths = _mean_lengths(parts, inputs, train)
        settings = self._settings(front, lengths, seed)
        learner = UniDECLearner(
            parts,
            inputs,
            Y,
            settings,
            train=train,
            validation=held_out if len(held_out) else None,
            same_text=same_text,
            n_jobs=self.n_jobs,
        )
        n_batches = -(-len(train) // self.batch_size)
        plan = Plan(
            epochs=self.epochs,
            batch_size=self.batch_size,
            warmup=int(self.warmup * self.epochs * n_batches),
            schedule=self.schedule,
            seed=seed,
            patience=self.patience,
        )
        trainer = Trainer(learner, plan)
        if checkpoint is not None:
            checkpoint.restore(trainer)
        trainer.fit(len(train), checkpoint=checkpoint, verbose=self.verbose)
        has_rows = np.bincount(take_rows(Y, train).indices, minlength=Y.shape[1]) > 0
        self._collect(trainer, has_rows)
        sample = held_out if len(held_out) else train
        sample = sample[:: -(-len(sample) // _SAMPLE_ROWS)]
        self._set_thresholds(learner, sample, Y, same_text, has_rows)
        if checkpoint is not None:
            checkpoint.remove()

    def add_labels(self, label_text):
        """Serve further labels, by their texts alone.

        Parameters
        ----------
        label_text : sequence of str, or array of shape (n_new, n_features)
            They are numbered from ``n_labels_`` on, in this order.

        Returns
        -------
        UniDECClassifier
            The estimator itself, which knows them from now on.

        Raises
        ------
        ValueError
            If the model has no dual encoder, or was fitted to classes (a 1-D ``y``).

        Notes
        -----
        Nothing is trained: the cost is that of encoding the texts.

        Examples
        --------
        >>> import scipy.sparse as sp
        >>> from skxmc.neural import UniDECClassifier
        >>> texts = ["fast web server", "web browser", "chess game", "puzzle game"]
        >>> Y = sp.csr_array([[1, 0], [1, 0], [0, 1], [0, 1]])
        >>> model = UniDECClassifier(dimension=16, epochs=20, random_state=0)
        >>> model = model.fit(texts, Y, label_text=["web software", "games"])
        >>> model.add_labels(["chess"]).predict_topk(["chess"], k=1).labels
        array([[2]], dtype=int32)
        """
        check_is_fitted(self)
        if "encoder" not in self._label_halves:
            raise ValueError("add_labels needs a dual encoder: fit with mode='both' or 'encoder'.")
        if self._target_kind in ("binary", "multiclass"):
            raise ValueError("add_labels needs a model fitted to an indicator matrix Y.")
        label_text = check_rows(
            self.encoder,
            getattr(label_text, "texts", label_text),
            name="label_text",
            n_columns=getattr(self, "n_features_in_", None),
        )
        new = self._query_halves(label_text)["encoder"]
        halves = {"encoder": np.concatenate([self._label_halves["encoder"], new])}
        if "classifier" in self._label_halves:
            known = self._label_halves["classifier"]
            none = np.zeros((len(new), known.shape[1]), dtype=np.float32)
            halves["classifier"] = np.concatenate([known, none])
        self._label_halves = halves
        self.n_labels_ += len(new)
        self.classes_ = np.arange(self.n_labels_, dtype=np.int32)
        self._indexes = {}
        return self

    # ------------------------------------------------------------------ parts of a fit

    def _check_label_text(self, label_text, X, n_columns):
        label_text = getattr(label_text, "texts", label_text)
        if label_text is None:
            if self.mode != "classifier":
                raise ValueError(
                    f'mode="{self.mode}" needs label_text, a text for each label; '
                    'mode="classifier" does without.'
                )
            return None
        label_text = check_rows(
            self.encoder,
            label_text,
            name="label_text",
            n_columns=None if takes_texts(self.encoder) else X.shape[1],
        )
        n_texts = label_text.shape[0] if hasattr(label_text, "shape") else len(label_text)
        if n_texts != self.n_labels_:
            raise ValueError(
                f"label_text has {n_texts} rows, but there are {self.n_labels_} labels."
            )
        if not takes_texts(self.encoder):
            if sp.issparse(label_text) != sp.issparse(X):
                raise TypeError("X and label_text must both be sparse, or both dense.")
            label_text = self._as_rows(label_text)
        if n_columns < self.n_labels_:  # two classes: one column, of the second
            return label_text[1:]
        return label_text

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

    def _encoder_width(self, rows):
        """The width of encoders that have none of their own."""
        own = isinstance(self.encoder, str) and (
            self.encoder == "static" or (self.encoder == "precomputed" and sp.issparse(rows))
        )
        return self.dimension if own else None

    def _new_parts(self, front, inputs, shape, has_texts, seed):
        options = {"dropout": self.dropout, "n_jobs": self.n_jobs}
        dual = head = table = None
        if self.mode != "classifier":
            dual = Projection.new(
                front.n_outputs,
                self.dimension,
                tanh=True,
                seed=stream_seed(seed, _STREAM_DUAL),
                **options,
            )
        if self.mode != "encoder":
            head = Projection.new(
                front.n_outputs, self.dimension, seed=stream_seed(seed, _STREAM_HEAD), **options
            )
            if self.classifier_init == "text" and has_texts:
                texts = rows_of(inputs, shape[0] + np.arange(shape[1]))
                table = head.transform(front.transform(texts))
            else:
                table = np.zeros((shape[1], self.dimension), dtype=np.float32)
        return Parts(front, dual, head, table)

    def _settings(self, front, lengths, seed):
        classifier_temperature = self.classifier_temperature
        if classifier_temperature == "auto":
            classifier_temperature = self.temperature * lengths[0] * lengths[1]
        rate = self.encoder_learning_rate
        if rate == "auto":
            is_torch = type(front).__module__.rpartition(".")[2].startswith("torch")
            rate = _TEXT_RATE if is_torch else _STATIC_RATE
        classifier_rate = self.learning_rate
        if classifier_rate == "auto":
            classifier_rate = _CLASSIFIER_RATE * lengths[1] / np.sqrt(self.dimension)
        return Settings(
            mode=self.mode,
            losses=(self.loss, self.classifier_loss or self.loss),
            temperatures=(self.temperature, classifier_temperature),
            row_shares=(self.lambda_encoder, self.lambda_classifier),
            share=self.lambda_,
            n_positives=self.n_positives,
            n_hard_negatives=self.n_hard_negatives,
            refresh_every=self.refresh_every,
            cluster_from=self.cluster_from,
            batch_size=self.batch_size,
            learning_rates=(rate, self.projection_learning_rate, classifier_rate),
            search=self.search,
            seed=seed,
            glas=self.glas,
        )

    def _checkpoint(self, X, Y, label_text, seed):
        if self.checkpoint_dir is None:
            return None
        if self.random_state is None:
            raise ValueError(
                "checkpoint_dir needs a random_state, such as 0: without one, each fit is another "
                "training and could not go on from the one before."
            )
        params = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in _NOT_IN_FINGERPRINT
        }
        params["seed"], params["encoder"] = seed, repr(self.encoder)
        data = [X, Y]
        if label_text is not None:
            data.append(object_array(label_text) if isinstance(label_text, list) else label_text)
        return Checkpoint(self.checkpoint_dir, fingerprint(params, data))

    def _collect(self, trainer, has_rows):
        """Keep what prediction needs, as NumPy arrays."""
        parts, learner = trainer.learner.parts, trainer.learner
        self.encoder_, self._encoder_arrays = parts.front, {}
        with contextlib.suppress(TypeError, AttributeError):
            self._encoder_arrays = encoder_model(parts.front)
        heads = {"encoder": parts.dual, "classifier": parts.head}
        self._heads = {name: head.model() for name, head in heads.items() if head is not None}
        halves = dict(zip(self._heads, learner._label_vectors(), strict=True))
        if "classifier" in halves:
            halves["classifier"][~has_rows] = 0  # never trained towards a row
        # Side by side, which is how they are searched: not twice in memory.
        vectors, first = np.hstack(list(halves.values())), 0
        for name, half in halves.items():
            halves[name] = vectors[:, first : first + half.shape[1]]
            first += half.shape[1]
        self._label_halves = halves
        self._indexes = {}
        self.history_ = trainer.history
        self.n_iter_ = trainer.n_epochs
        self.best_epoch_ = trainer.best_epoch

    def _set_thresholds(self, learner, sample, Y, same_text, has_rows):
        """Scores of margin 0, and the ratio of the halves' scores, from some rows."""
        features = learner.parts.front.transform(rows_of(learner._inputs, sample))
        queries = dict(zip(self._heads, learner._queries(features), strict=True))
        halves = {name: half[has_rows] for name, half in self._label_halves.items()}
        exclude = None if same_text is None else take_rows(same_text, sample)[:, has_rows]
        n_positive = int(max(1, round(float(take_rows(Y, sample).sum()))))
        k = min(_SAMPLE_LABELS, int(has_rows.sum()))
        self.thresholds_, self._text_ratio = {}, 1.0
        choices = [(name,) for name in halves] + ([tuple(halves)] if len(halves) == 2 else [])
        for names in choices:
            vectors = np.hstack([halves[name] for name in names]) / np.float32(len(names))
            index = LabelIndex(np.ascontiguousarray(vectors), n_jobs=self.n_jobs)
            rows = np.hstack([queries[name] for name in names])
            scores = index.topk(rows, k, exclude=exclude).scores
            ranked = np.sort(scores[np.isfinite(scores)])[::-1]
            place = min(n_positive, len(ranked)) - 1
            threshold = float(ranked[place]) if len(ranked) else 0.0
            self.thresholds_["both" if len(names) == 2 else names[0]] = threshold
        if len(halves) == 2:
            index = LabelIndex(np.ascontiguousarray(halves["encoder"]), n_jobs=self.n_jobs)
            found = index.nearest(queries["encoder"], k, exclude)
            row, place = np.nonzero(found >= 0)
            label = found[row, place]
            dual, own = ((queries[name][row] * halves[name][label]).sum(axis=1) for name in halves)
            self._text_ratio = float(np.clip((dual @ own) / max(dual @ dual, 1e-12), 0, 1))

    # ------------------------------------------------------------------ predict

    def _check_score_with(self):
        """The half that scores, by name."""
        choice = self.mode if self.score_with == "auto" else self.score_with
        if self.mode not in ("both", choice):
            raise ValueError(f'score_with="{choice}" does not fit mode="{self.mode}".')
        return choice

    @_loaded.refuses_damage
    def _score_topk(self, X, k, exclude, candidates):
        index, *query = self._index()
        n_rows = X.shape[0]
        answers = [TopK(np.empty((0, k), np.int32), np.empty((0, k), np.float32))]
        for first in range(0, n_rows, _BLOCK_ROWS):
            rows = np.arange(first, min(first + _BLOCK_ROWS, n_rows))
            patterns = {
                name: None if pattern is None else take_rows(pattern, rows)
                for name, pattern in (("exclude", exclude), ("candidates", candidates))
            }
            found = index.topk(self._queries(X, rows, *query), k, **patterns)
            answers.append(found)
        answers = TopK(*(np.concatenate(arrays) for arrays in zip(*answers, strict=True)))
        labels = np.where(answers.scores > -np.inf, answers.labels, -1).astype(np.int32)
        answers = answers._replace(labels=labels)
        return answers if labels.shape[1] == k else pad_topk(answers, k)

    @_loaded.refuses_damage
    def _score_dense(self, X):
        index, *query = self._index()
        out = np.empty((X.shape[0], len(index.vectors)), dtype=np.float32)
        for first in range(0, len(out), _BLOCK_ROWS):
            rows = np.arange(first, min(first + _BLOCK_ROWS, len(out)))
            out[rows] = index.scores(self._queries(X, rows, *query))
        return out

    def _queries(self, X, rows, names, scale):
        own = self._as_rows(X if len(rows) == X.shape[0] else take_rows(X, rows))
        halves = self._query_halves(own)
        return np.hstack([halves[name] for name in names]) * scale

    def _query_halves(self, rows):
        """Unit vectors of rows, for each half."""
        front = self._fitted_front()
        features = front.transform(_prepared(front, rows))
        return {name: unit_rows(self._head(name).transform(features))[0] for name in self._heads}

    def _head(self, name):
        return Projection(**self._heads[name], tanh=name == "encoder", n_jobs=self.n_jobs)

    def _index(self):
        """Label vectors of the present `score_with`; halves and factor of the queries; kept.

        The products of label vectors and such queries are margins, but for the bias.
        """
        key = (self._check_score_with(), self.search, self.temperature)
        found = self._indexes.get(key)
        if found is None:
            found = self._new_index(key[0])
            self._indexes.clear()  # one only; in place, as prediction sets no attribute
            self._indexes[key] = found
        found[0].n_jobs = self.n_jobs
        return found

    def _new_index(self, choice):
        halves = self._label_halves
        if choice != "both":
            own = {choice: halves[choice]}
        else:
            own = dict(halves)
        scale = np.float32(1 / (len(own) * self.temperature))
        threshold = self.thresholds_[choice] / self.temperature
        bias = np.full(len(next(iter(own.values()))), -threshold, dtype=np.float32)
        if "classifier" in own:
            textual = ~halves["classifier"].any(axis=1)  # served by their texts
            if "encoder" in halves and textual.any():
                ratio = np.float32(self._text_ratio)
                stand_in = halves["encoder"][textual] * ratio
                if choice == "classifier":
                    own = {"encoder": np.zeros_like(halves["encoder"]), **own}
                own["encoder"] = own["encoder"].copy()
                own["encoder"][textual] += stand_in
            elif textual.any():
                bias[textual] = -np.inf
        vectors = _beside(list(own.values()))
        index = LabelIndex(vectors, bias, search=self.search, n_jobs=self.n_jobs)
        return index, tuple(own), scale

    def _fitted_front(self):
        if self.encoder_ is None:  # a loaded model
            encoder = _loaded.build(encoder_from_model, self._encoder_arrays, n_jobs=self.n_jobs)
            if any(len(head["weights"]) != encoder.n_outputs for head in self._heads.values()):
                raise ModelFormatError("A head does not fit the encoder.")
            self.encoder_ = encoder
        return self.encoder_

    def __getstate__(self):
        state = dict(super().__getstate__())  # not the attributes themselves
        if "_indexes" in state:
            state["_indexes"] = {}
        if state.get("_encoder_arrays"):  # from which the encoder is made anew
            state["encoder_"] = None
        state.pop("_unread", None)
        return state

    def _mapped_state(self):
        """State for files that are mapped: both halves side by side, as they are searched."""
        state = self.__getstate__()
        if len(state.get("_label_halves", ())) == 2:
            halves = state.pop("_label_halves")
            state["_label_vectors"] = _beside([halves[name] for name in MODES[1:]])
        return state

    def __setstate__(self, state):
        state = dict(state)
        vectors = state.pop("_label_vectors", None)
        if vectors is not None:
            first, second = MODES[1:]
            width = state["_heads"][first]["weights"].shape[1]
            state["_label_halves"] = {first: vectors[:, :width], second: vectors[:, width:]}
        super().__setstate__(state)

    def _check_loaded_model(self):
        halves, n_columns = self._label_halves, 1 if self._target_kind == "binary" else None
        n_columns = self.n_labels_ if n_columns is None else n_columns
        if not halves or set(halves) != set(self._heads) or set(halves) - set(MODES[1:]):
            raise ValueError("the halves of the model do not belong together")
        n_features = self._stored_width()
        for name, half in halves.items():
            head = self._head(name)
            if half.dtype != np.float32 or half.shape != (n_columns, head.n_outputs):
                raise ValueError(f"the label vectors of the {name} do not fit")
            if head.weights.ndim != 2:
                raise ValueError(f"the head of the {name} is no matrix")
            if head.weights.dtype != np.float32 or head.bias.shape != (head.n_outputs,):
                raise ValueError(f"the head of the {name} does not fit")
            if n_features not in (None, head.weights.shape[0]):
                raise ValueError(f"the head of the {name} does not fit the encoder")
        names = [*halves, *MODES[:1]] if len(halves) == 2 else list(halves)
        numbers_ = [*(self.thresholds_[name] for name in names), self._text_ratio]
        if not all(isinstance(number, numbers.Real) for number in numbers_):
            raise ValueError("the thresholds must be numbers")
        self.encoder_, self._indexes = None, {}
        self._unread = True

    def _stored_width(self):
        return _loaded.stored_width(self._encoder_arrays, vars(self).get("n_features_in_"))

    def _check_all_weights(self):
        """Read all that `_check_loaded_model` leaves to the first use."""
        self._fitted_front()
        _loaded.check_encoder(self._encoder_arrays)
        for name, half in self._label_halves.items():
            for array in self._heads[name].values():
                _loaded.check_finite(array, f"the head of the {name}")
            _loaded.check_finite(half, f"the label vectors of the {name}")
        self._unread = False

    # ------------------------------------------------------------------ rows

    def _check_X(self, X, reset):
        if not takes_texts(self.encoder):
            return super()._check_X(X, reset)
        return object_array(check_rows(self.encoder, X, min_rows=1))

    def _as_rows(self, X):
        """Rows as `resolve_encoder` and `prepare` take them."""
        if takes_texts(self.encoder):
            return X.tolist()
        return _without_zeros(X) if sp.issparse(X) else np.ascontiguousarray(X, dtype=np.float32)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        if takes_texts(self.encoder):
            tags.input_tags.two_d_array = tags.input_tags.sparse = False
            tags.input_tags.string = True
        return tags


def _mean_lengths(parts, inputs, train):
    """Root mean square lengths of rows and labels in the classifier at its start; 1 for zeros."""
    if parts.head is None:
        return 1.0, 1.0
    sample = train[:: -(-len(train) // _SAMPLE_ROWS)]
    rows = parts.head.transform(parts.front.transform(rows_of(inputs, sample)))
    row = float(np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1).mean())) or 1.0
    squares = (parts.classifier.astype(np.float64) ** 2).sum(axis=1)
    label = float(np.sqrt(squares[squares > 0].mean())) if squares.any() else row
    return row, label


def _without_zeros(X):
    """Canonical CSR without stored zeros: what is stored is in the batch, and is updated."""
    if X.data.all():
        return X
    X = sp.csr_array(X, copy=True)
    X.eliminate_zeros()
    return make_compressed(X.data, X.indices.astype(np.int32), X.indptr.astype(np.int64), X.shape)


def _prepared(front, rows):
    return front.prepare(rows) if hasattr(front, "prepare") else rows


def _beside(halves):
    """Matrices as one with all their columns: not copied where they lie like that in memory."""
    if len(halves) == 1:
        return np.ascontiguousarray(halves[0])
    first, second = halves
    n, (own, others) = len(first), (first.shape[1], second.shape[1])
    row = first.itemsize * (own + others)
    strides = {half.strides for half in halves}
    if strides == {(row, first.itemsize)} and second.ctypes.data == first.ctypes.data + (
        first.itemsize * own
    ):
        return as_strided(first, (n, own + others), (row, first.itemsize), writeable=False)
    return np.ascontiguousarray(np.hstack(halves))


def _same_text(texts, label_text, Y):
    """Canonical pattern of the pairs of a row and a label with the same text, if there are any."""
    labels = {}
    for label, text in enumerate(label_text):
        labels.setdefault(text, []).append(label)
    found = [labels.get(text, ()) for text in texts]
    lengths = np.array([len(own) for own in found])
    if not lengths.any():
        return None
    indices = np.array([label for own in found for label in own], dtype=np.int32)
    indptr = np.zeros(len(found) + 1, dtype=np.int64)
    np.cumsum(lengths, out=indptr[1:])
    ones = np.ones(len(indices), dtype=np.uint8)
    return make_compressed(ones, indices, indptr, Y.shape)
