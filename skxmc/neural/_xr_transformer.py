"""XRTransformerClassifier: a text encoder fine-tuned from coarse to fine, and a tree on top."""

import contextlib
import functools
import numbers
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.special import logit
from sklearn.base import BaseEstimator, clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skxmc._parallel import effective_n_jobs
from skxmc.base import XMCClassifierMixin
from skxmc.exceptions import ModelFormatError
from skxmc.io._arrays import make_compressed
from skxmc.label_space import LabelTree, build_tree, label_features
from skxmc.linear import ParabelTree
from skxmc.linear._rows import scaled_rows
from skxmc.linear._tree_training import node_rows, positive_costs
from skxmc.neural import _loaded
from skxmc.neural._checkpoint import Checkpoint, fingerprint
from skxmc.neural._encoders import (
    encoder_from_model,
    encoder_model,
    resolve_encoder,
    takes_texts,
)
from skxmc.neural._output_layer import stream_seed
from skxmc.neural._schedule import SCHEDULES
from skxmc.neural._text import check_texts, object_array
from skxmc.neural._training import Plan, Trainer
from skxmc.neural._xr_learner import (
    Level,
    Settings,
    XRLearner,
    _nodes_at,
    concatenated_rows,
    unit_features,
)
from skxmc.ops.csr import canonical_csr
from skxmc.ops.topk import topk_csr, topk_to_csr

# Numbers of the random streams of a member.
_STREAM_TREE, _STREAM_RANKER, _STREAM_ENCODER, _STREAM_MEMBER = range(121, 125)

# What a fine-tuning does not depend on.
_NOT_IN_FINGERPRINT = (
    *("n_estimators", "ranker", "n_jobs", "checkpoint_dir", "verbose", "top_k", "max_dense_bytes"),
)

# "auto": passes over the rows on each level and on the last one, and the learning rates of a
# transformer and of static vectors.
_PASSES, _LAST_PASSES = 0.25, 1.5
_ENCODER_RATE, _STATIC_RATE, _HEAD_RATE = 5e-5, 5e-3, 1e-3

# Labels that each member of an ensemble nominates: so many times k, and so many at least.
_NOMINATED, _MIN_NOMINATED = 2, 20


class XRTransformerClassifier(XMCClassifierMixin, BaseEstimator):
    r"""Text encoder fine-tuned on the levels of a label tree, with a tree classifier on top.

    A text becomes two blocks of features, each of length one: tf-idf, which sees all of it, and the
    embedding of an encoder, which sees its beginning but knows what words mean (eq. 10),

    .. math::

        \Phi_{cat}(x) = \left[ \frac{\Phi_{tfidf}(x)}{\|\Phi_{tfidf}(x)\|},
        \frac{\Phi_{dnn}(x)}{\|\Phi_{dnn}(x)\|} \right].

    Training has two parts (algorithm 2). *Fine-tuning*: the labels are clustered into a preliminary
    tree by their tf-idf features; the encoder learns to find the clusters of the coarsest level,
    then those of the next one among the children of the clusters that it finds and those that hold
    a label of the row, and so on down to the labels. Each level starts from the encoder of the one
    before and from the solution of its linear problem on the present embeddings (eq. 11), so that a
    few hundred steps do. *Ranking*: the labels are clustered anew by :math:`\Phi_{cat}` with the
    encoder as it is now, and a tree classifier is trained on it.

    Parameters
    ----------
    encoder : str, path, (tokenizer, module), front, or list of these, default="static"
        What embeds texts. "static": trainable token vectors, started at random
        (`skxmc.neural.StaticEncoder`; fast, no torch). A path: the folder of a transformers or
        sentence-transformers model. See `skxmc.neural.torch_text.TextFront` for the path and the
        pair. Another object that follows the protocol of `skxmc.neural._front` is copied. Of a
        list, the members of an ensemble take one after the other.
    vectorizer : transformer or None, default=None
        Makes sparse rows of texts; cloned and fitted. None: `TfidfVectorizer` with sublinear term
        frequencies.
    ranker : estimator of skxmc or None, default=None
        Trained on the concatenated features; cloned. None: `ParabelTree` with C = 0.5, since two
        blocks of features fit the rows more easily than one.
    n_estimators : int, default=1
        Members of the ensemble, each with an encoder, tree and ranker of its own seed; their
        probabilities are averaged.
    fine_tune : bool, default=True
        False: the encoder stays as it is ("pre-trained + tf-idf", table 5 of the paper).
    n_steps : "auto", int or sequence of int, default="auto"
        Steps of fine-tuning on each level: of all, or for the coarsest level first. "auto" is a
        quarter of a pass over the rows on each level and one and a half on the last one.
    batch_size : int, default=32
        Rows of a step.
    learning_rate : float or "auto", default="auto"
        Of the encoder (AdamW), at its highest on each level; "auto" is 5e-5, for static vectors
        5e-3.
    head_learning_rate : float, default=1e-3
        Of the clusters' weights (Adam).
    warmup : float, default=0.1
        Share of a level's steps in which the learning rates rise.
    schedule : {"cosine", "constant"}, default="cosine"
        Learning rates after that, on each level: half a cosine to 0, or constant.
    arity : int, default=16
        Children of a cluster in the preliminary tree, at most; a power of two.
    max_leaf : int, default=16
        Labels of its last clusters.
    max_clusters : int, default=32768
        Levels with more outputs are not fine-tuned on.
    n_shortlist : int, default=10
        Clusters of a level whose children a row sees on the next one, beside those with a label of
        it: k of eq. 7.
    relevance : {"induce", None}, default="induce"
        Cost of a positive in fine-tuning: the share of the row's labels that a cluster holds (eq. 6
        and after), or 1.
    negative_cost : float, default=1.0
        Cost of a negative in fine-tuning: alpha of the paper.
    C : float, default=1.0
        Of the linear problems of fine-tuning; the paper's lambda is 1 / (2 C). The ranker has its
        own.
    embedding_weight : float, default=1.0
        Length of the embedding in the concatenation, tf-idf having 1.
    dimension : int or None, default=None
        Width of the embedding. None: as the encoder gives; 256 for "static". On a transformer a
        trainable projection to this width.
    pooling, max_length, long_texts, precision, dropout : as in `skxmc.neural.torch_text.TextFront`
        For a path or a pair (``max_length`` and
        ``dropout`` for "static" too). The time of a step is about proportional to ``max_length``
        (tokens).
    frozen_layers : int, default=0
        Lowest layers of a transformer that are not trained, with its token embeddings if any are:
        saves time and memory.
    device : str or None, default=None
        Of the encoder, such as "cuda:0"; None is the CPU.
    checkpoint_dir : str, path or None, default=None
        Folder in which the fine-tuning leaves its state after each pass, every five minutes, and at
        an interrupt (Ctrl-C). A later `fit` with the same parameters and data goes on from there,
        to the same model. Needs a ``random_state``.
    top_k : int, default=100
        Labels kept in a row of the sparse ``predict_proba`` and ``decision_function``.
    max_dense_bytes : int, default=2**30
        Largest dense output; see `skxmc.base.XMCClassifierMixin`.
    random_state : int, RandomState instance or None, default=None
        Of all random choices.
    n_jobs : int or None, default=None
        Threads of the linear problems and of a default ranker; -1 for all processors. The result
        does not depend on it. The threads of a transformer are torch's.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    vectorizer_ : transformer
        Fitted.
    rankers_ : list of estimators
        Of the members.
    tree_ : LabelTree or None
        The preliminary tree of the first member; None without fine-tuning.
    history_ : list of list of dict
        For each member and each pass over the rows in fine-tuning: ``"loss"``, the mean over the
        rows; ``"depth"`` of the level in the tree; ``"n_outputs"`` of it.
    classes_, n_labels_
        See `skxmc.base.XMCClassifierMixin`.

    Raises
    ------
    ValueError
        For input that `skxmc.base.XMCClassifierMixin` refuses, and parameters out of range or that
        do not fit the data.
    TypeError
        If ``X`` is not a sequence of str.
    FileNotFoundError
        If there is no folder ``encoder``.
    FloatingPointError
        If the training diverges.
    CheckpointError
        If a checkpoint is damaged.

    Notes
    -----
    ``X`` is a sequence of str. An empty text, or one of unknown words only, has no tf-idf features,
    and the embedding of nothing: it gets the answers that the intercepts give.

    The paper's P for the next level comes from the linear model on :math:`\Phi_{cat}` of the level
    above; here those of all levels above are trained on the present embeddings and searched by
    beam, which is how they would be used. Shortlists are exact: no label of a row is ever left out.

    Time: fine-tuning is the time of the encoder. A step costs about 6 flops a parameter and token;
    each level begins with the embeddings of all rows, which cost a third of a pass, and so does the
    ranker. The ranker sees all columns of the embedding in each row: with 384 of them it takes some
    five times as long as on tf-idf alone. Prediction: one embedding a text, and the ranker.

    Memory: the encoder with its optimiser (16 bytes a parameter), 8 bytes an entry of the
    concatenated features (twice), and that of the ranker (`ParabelTree.estimate_memory`).

    References
    ----------
    J. Zhang, W.-C. Chang, H.-F. Yu, I. S. Dhillon. Fast multi-resolution transformer fine-tuning
    for extreme multi-label text classification. NeurIPS 2021. https://arxiv.org/abs/2110.00685

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from skxmc.neural import XRTransformerClassifier
    >>> texts = ["fast web server", "web browser", "chess game", "puzzle game"]
    >>> Y = sp.csr_array([[1, 0, 1], [1, 0, 0], [0, 1, 0], [0, 1, 0]])  # web, game, fast
    >>> model = XRTransformerClassifier(n_steps=5, random_state=0).fit(texts, Y)
    >>> model.predict(["small web page", "board game"]).toarray()
    array([[1, 0, 0],
           [0, 1, 0]])
    """

    _parameter_constraints = {
        **XMCClassifierMixin._parameter_constraints,
        "encoder": [str, Path, tuple, list, HasMethods(["forward", "backward", "step"])],
        "vectorizer": [HasMethods(["fit_transform", "transform"]), None],
        "ranker": [HasMethods(["fit", "predict_topk"]), None],
        "n_estimators": [Interval(numbers.Integral, 1, None, closed="left")],
        "fine_tune": ["boolean"],
        "n_steps": [
            StrOptions({"auto"}),
            Interval(numbers.Integral, 1, None, closed="left"),
            "array-like",
        ],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left")],
        "learning_rate": [Interval(numbers.Real, 0, None, closed="left"), StrOptions({"auto"})],
        "head_learning_rate": [Interval(numbers.Real, 0, None, closed="left")],
        "warmup": [Interval(numbers.Real, 0, 1, closed="left")],
        "schedule": [StrOptions(set(SCHEDULES))],
        "arity": [Interval(numbers.Integral, 2, None, closed="left")],
        "max_leaf": [Interval(numbers.Integral, 1, None, closed="left")],
        "max_clusters": [Interval(numbers.Integral, 1, None, closed="left")],
        "n_shortlist": [Interval(numbers.Integral, 1, None, closed="left")],
        "relevance": [StrOptions({"induce"}), None],
        "negative_cost": [Interval(numbers.Real, 0, None, closed="neither")],
        "C": [Interval(numbers.Real, 0, None, closed="neither")],
        "embedding_weight": [Interval(numbers.Real, 0, None, closed="neither")],
        "dimension": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "pooling": [str],
        "max_length": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "long_texts": [StrOptions({"truncate", "windows"})],
        "precision": [str],
        "dropout": [Interval(numbers.Real, 0, 1, closed="left")],
        "frozen_layers": [Interval(numbers.Integral, 0, None, closed="left")],
        "device": [str, None],
        "checkpoint_dir": [str, Path, None],
        "random_state": ["random_state"],
        "n_jobs": [numbers.Integral, None],
        "verbose": ["verbose"],
    }

    _weight_attributes = ("_front_arrays", "rankers_")

    # What a loaded model gets as a function that makes it.
    _deferred = ("vectorizer_",)

    def __init__(
        self,
        encoder="static",
        *,
        vectorizer=None,
        ranker=None,
        n_estimators=1,
        fine_tune=True,
        n_steps="auto",
        batch_size=32,
        learning_rate="auto",
        head_learning_rate=_HEAD_RATE,
        warmup=0.1,
        schedule="cosine",
        arity=16,
        max_leaf=16,
        max_clusters=32768,
        n_shortlist=10,
        relevance="induce",
        negative_cost=1.0,
        C=1.0,
        embedding_weight=1.0,
        dimension=None,
        pooling="auto",
        max_length=None,
        long_texts="truncate",
        precision="float32",
        dropout=0.1,
        frozen_layers=0,
        device=None,
        checkpoint_dir=None,
        top_k=100,
        max_dense_bytes=2**30,
        random_state=None,
        n_jobs=None,
        verbose=0,
    ):
        self.encoder = encoder
        self.vectorizer = vectorizer
        self.ranker = ranker
        self.n_estimators = n_estimators
        self.fine_tune = fine_tune
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.warmup = warmup
        self.schedule = schedule
        self.arity = arity
        self.max_leaf = max_leaf
        self.max_clusters = max_clusters
        self.n_shortlist = n_shortlist
        self.relevance = relevance
        self.negative_cost = negative_cost
        self.C = C
        self.embedding_weight = embedding_weight
        self.dimension = dimension
        self.pooling = pooling
        self.max_length = max_length
        self.long_texts = long_texts
        self.precision = precision
        self.dropout = dropout
        self.frozen_layers = frozen_layers
        self.device = device
        self.checkpoint_dir = checkpoint_dir
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def _fit_indicator(self, X, Y):
        if self.arity & (self.arity - 1):
            raise ValueError(f"arity must be a power of two, got {self.arity}.")
        if self.checkpoint_dir is not None and self.random_state is None:
            raise ValueError(
                "checkpoint_dir needs a random_state, such as 0: without one, each fit is another "
                "training and could not go on from the one before."
            )
        if isinstance(self.encoder, list) and not self.encoder:
            raise ValueError("encoder is an empty list.")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        texts = X.tolist()
        default = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
        self.vectorizer_ = default if self.vectorizer is None else clone(self.vectorizer)
        rows = self._sparse_rows(self.vectorizer_.fit_transform(texts))
        self._n_sparse = rows.shape[1]
        members = [
            self._fit_member(number, texts, X, rows, Y, seed) for number in range(self.n_estimators)
        ]
        self._fronts, self.rankers_, trees, self.history_, checkpoints = map(
            list, zip(*members, strict=True)
        )
        tree = trees[0]
        self._tree_arrays = None if tree is None else (tree.child_start, tree.label)
        self._front_arrays = self._stored_fronts()
        for checkpoint in checkpoints:
            if checkpoint is not None:
                checkpoint.remove()

    def _fit_member(self, number, texts, X, rows, Y, seed):
        if number > 0:
            seed = stream_seed(seed, _STREAM_MEMBER, number) % (1 << 31)
        front = self._new_front(number, texts, seed)
        prepared = front.prepare(texts)
        tree, history, checkpoint = None, [], None
        if self.fine_tune:
            learner = self._learner(front, prepared, rows, Y, seed)
            tree = learner.tree
            checkpoint = self._checkpoint(number, X, Y, seed)
            history = self._fine_tune(learner, checkpoint)
        embeddings = unit_features(np.asarray(front.transform(prepared)))[0]
        embeddings *= np.float32(self.embedding_weight)
        ranker = self._new_ranker(seed)
        ranker.fit(concatenated_rows(rows, embeddings), Y)
        return front, ranker, tree, history, checkpoint

    def _fine_tune(self, learner, checkpoint):
        trainer = Trainer(
            learner,
            Plan(
                epochs=len(learner.epochs),
                batch_size=learner.settings.batch_size,
                schedule="constant",  # the learner has one for each level
                seed=learner.settings.seed,
                n_steps=sum(level.n_steps for level in learner.levels),
            ),
        )
        if checkpoint is not None:
            checkpoint.restore(trainer)
        trainer.fit(learner.n_rows, checkpoint=checkpoint, verbose=self.verbose)
        history = []
        for (number, _, _), epoch in zip(learner.epochs, trainer.history, strict=True):
            depth = learner.levels[number].depth
            nodes = _nodes_at(learner.tree, depth)
            history.append({**epoch, "depth": depth, "n_outputs": nodes.stop - nodes.start})
        return history

    def _learner(self, front, prepared, rows, Y, seed):
        Z = label_features(rows, Y, "pifa", n_jobs=effective_n_jobs(self.n_jobs))
        tree = build_tree(
            Z,
            arity=self.arity,
            max_leaf=self.max_leaf,
            clustering="bisect",
            order=np.bincount(Y.indices, minlength=Y.shape[1]),
            random_state=stream_seed(seed, _STREAM_TREE) % (1 << 31),
            n_jobs=effective_n_jobs(self.n_jobs),
        )
        n_rows = rows.shape[0]
        batch_size = min(self.batch_size, n_rows)
        norm = None if self.relevance is None else "l1"
        positives = positive_costs(
            tree, node_rows(tree, Y.indptr, Y.indices), n_rows, self.relevance, norm
        )
        settings = Settings(
            batch_size=batch_size,
            learning_rate=self._encoder_rate(front),
            head_learning_rate=self.head_learning_rate,
            warmup=self.warmup,
            schedule=self.schedule,
            C=self.C,
            negative_cost=self.negative_cost,
            n_shortlist=self.n_shortlist,
            seed=seed,
            n_jobs=effective_n_jobs(self.n_jobs),
        )
        levels = self._levels(tree, -(-n_rows // batch_size))
        weight = self.embedding_weight
        return XRLearner(front, prepared, rows, weight, tree, positives, levels, settings)

    def _levels(self, tree, n_batches):
        """The levels to train on, with their steps; the coarsest first."""
        sizes = np.bincount(tree.depth)
        depths = [d for d in range(1, len(sizes)) if sizes[d] <= self.max_clusters]
        if not depths:
            raise ValueError(
                f"max_clusters={self.max_clusters} leaves no level to fine-tune on: the levels of "
                f"the preliminary tree have {sizes[1:].tolist()} nodes."
            )
        if isinstance(self.n_steps, str):
            passes = [_PASSES] * (len(depths) - 1) + [_LAST_PASSES]
            steps = [max(1, round(p * n_batches)) for p in passes]
        elif isinstance(self.n_steps, numbers.Integral):
            steps = [int(self.n_steps)] * len(depths)
        else:
            steps = [int(n) for n in self.n_steps]
            if len(steps) != len(depths) or min(steps) < 1:
                raise ValueError(
                    f"n_steps must have a positive number for each level; got {steps} for levels "
                    f"of {[int(sizes[d]) for d in depths]} outputs."
                )
        return [Level(depth, n) for depth, n in zip(depths, steps, strict=True)]

    # ------------------------------------------------------------------ parts

    def _member_encoder(self, number):
        encoder = self.encoder
        return encoder[number % len(encoder)] if isinstance(encoder, list) else encoder

    def _new_front(self, number, texts, seed):
        encoder = self._member_encoder(number)
        if not takes_texts(encoder):
            raise ValueError(
                "The rows are texts, but encoder= is one of rows of numbers. For embeddings that "
                "are there already, put them beside the tf-idf rows and fit a ParabelTree."
            )
        options = {} if encoder == "static" else {"precision": self.precision}
        front = resolve_encoder(
            encoder,
            texts,
            dimension=self.dimension,
            pooling=self.pooling,
            trainable=self.fine_tune,
            max_length=self.max_length,
            long_texts=self.long_texts,
            dropout=self.dropout,
            seed=stream_seed(seed, _STREAM_ENCODER) % (1 << 31),
            device=self.device,
            n_jobs=self.n_jobs,
            **options,
        )
        if hasattr(front, "as_numpy"):  # a TextFront
            front.as_numpy = True
            front.to(self.device)
        if self.frozen_layers and self.fine_tune:
            from skxmc.neural.torch_freezing import freeze_layers

            freeze_layers(_encoder_of(front), self.frozen_layers)
        return front

    def _encoder_rate(self, front):
        if self.learning_rate != "auto":
            return self.learning_rate
        return _ENCODER_RATE if hasattr(_encoder_of(front), "module") else _STATIC_RATE

    def _new_ranker(self, seed):
        number = stream_seed(seed, _STREAM_RANKER) % (1 << 31)
        if self.ranker is None:
            return ParabelTree(C=0.5, random_state=number, n_jobs=self.n_jobs, verbose=self.verbose)
        ranker = clone(self.ranker)
        params = ranker.get_params(deep=False)
        if "random_state" in params and params["random_state"] is None:
            ranker.set_params(random_state=number)
        return ranker

    def _checkpoint(self, number, X, Y, seed):
        if self.checkpoint_dir is None:
            return None
        params = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in _NOT_IN_FINGERPRINT
            and name not in ("random_state", "encoder", "vectorizer")
        }
        encoder = self._member_encoder(number)
        is_path = isinstance(encoder, (str, Path))
        params["encoder"] = str(encoder) if is_path else type(encoder).__name__
        params["vectorizer"], params["seed"] = repr(self.vectorizer_), seed
        return Checkpoint(self.checkpoint_dir, fingerprint(params, (X, Y)))

    # ------------------------------------------------------------------ rows

    def _check_X(self, X, reset):
        return object_array(check_texts(X, min_rows=1))

    def _check_predict(self, X):
        """The features of texts: tf-idf, then the embedding of each member."""
        check_is_fitted(self)
        texts = self._check_X(X, reset=False).tolist()
        rows = self._sparse_rows(self.vectorizer_.transform(texts))
        embeddings = [
            unit_features(np.asarray(front.transform(front.prepare(texts))))[0]
            * np.float32(self.embedding_weight)
            for front in self._fitted_fronts()
        ]
        if vars(self).get("_unread"):
            if rows.shape[1] != self._n_sparse:
                raise ModelFormatError("The vectoriser does not fit the rankers.")
            if not all(np.isfinite(embedding).all() for embedding in embeddings):
                self._check_all_weights()
        return concatenated_rows(rows, np.column_stack(embeddings))

    def _sparse_rows(self, rows):
        """What the vectoriser returned as canonical CSR, rows of length one."""
        rows = canonical_csr(sp.csr_array(rows), np.float32, name="the rows of vectorizer")
        return scaled_rows(rows, "l2")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = tags.input_tags.sparse = False
        tags.input_tags.string = True
        return tags

    # ------------------------------------------------------------------ predict

    def _score_topk(self, X, k, exclude, candidates):
        if len(self.rankers_) == 1:
            return self.rankers_[0]._score_topk(X, k, exclude, candidates)
        members = self._member_rows(X)
        if candidates is None:
            n = min(self._n_columns(), max(_NOMINATED * k, _MIN_NOMINATED))
            candidates = _union(
                [
                    ranker._score_topk(rows, n, exclude, None)
                    for ranker, rows in zip(self.rankers_, members, strict=True)
                ],
                self._n_columns(),
            )
        n = max(1, int(np.diff(candidates.indptr).max(initial=0)))
        total = np.zeros(len(candidates.indices))
        keys = _keys(candidates)
        for ranker, rows in zip(self.rankers_, members, strict=True):
            found = topk_to_csr(ranker._score_topk(rows, n, None, candidates), self._n_columns())
            total[np.searchsorted(keys, _keys(found))] += ranker._scores_to_proba(
                found.data.astype(np.float64)
            )
        margins = self._mean_margins(total)
        return topk_csr(
            make_compressed(margins, candidates.indices, candidates.indptr, candidates.shape),
            k,
        )

    def _score_dense(self, X):
        if len(self.rankers_) == 1:
            return self.rankers_[0]._score_dense(X)
        return self._mean_margins(
            sum(
                ranker._scores_to_proba(ranker._score_dense(rows).astype(np.float64))
                for ranker, rows in zip(self.rankers_, self._member_rows(X), strict=True)
            )
        )

    def _mean_margins(self, total):
        with np.errstate(divide="ignore"):
            return logit(total / len(self.rankers_)).astype(np.float32)

    def _scores_to_proba(self, scores):
        if len(self.rankers_) == 1:
            return self.rankers_[0]._scores_to_proba(scores)
        return super()._scores_to_proba(scores)

    def _member_rows(self, X):
        """For each member the columns of tf-idf and of its embedding."""
        start = self._n_sparse
        sparse = np.arange(start)
        rows = []
        for front in self._fitted_fronts():
            columns = np.concatenate([sparse, np.arange(start, start + front.n_outputs)])
            rows.append(canonical_csr(X[:, columns], np.float32, name="X"))
            start += front.n_outputs
        return rows

    def _n_columns(self):
        return 1 if self._target_kind == "binary" else self.n_labels_

    # ------------------------------------------------------------------ state

    @property
    def tree_(self):
        check_is_fitted(self)
        return None if self._tree_arrays is None else LabelTree(*self._tree_arrays)

    def _stored_fronts(self):
        """The encoders as arrays, where they can be stored as such, else None."""
        arrays = []
        for front in self._fronts:
            # what nothing but pickle can store stays an object
            with contextlib.suppress(TypeError, AttributeError):
                arrays.append(encoder_model(front))
        return arrays if len(arrays) == len(self._fronts) else None

    def _fitted_fronts(self):
        if self._fronts is None:  # a loaded model
            fronts = [
                _loaded.build(encoder_from_model, arrays, n_jobs=self.n_jobs)
                for arrays in self._front_arrays
            ]
            for front, ranker in zip(fronts, self.rankers_, strict=True):
                if ranker.n_features_in_ != self._n_sparse + front.n_outputs:
                    raise ModelFormatError("An encoder does not fit its ranker.")
                if hasattr(front, "as_numpy"):  # a TextFront
                    front.to(self.device)
            self._fronts = fronts
        return self._fronts

    def __getstate__(self):
        state = dict(super().__getstate__())
        if state.get("_front_arrays"):  # from which the encoders are made anew
            state["_fronts"] = None
        state.pop("_unread", None)
        if state.pop("_make_vectorizer", None) is not None and "vectorizer_" not in state:
            state["vectorizer_"] = self.vectorizer_
        return state

    def __setstate__(self, state):
        state = dict(state)
        state.pop("_make_vectorizer", None)
        if isinstance(state.get("vectorizer_"), functools.partial):
            state["_make_vectorizer"] = state.pop("vectorizer_")
        super().__setstate__(state)

    def __getattr__(self, name):
        if name == "vectorizer_" and "_make_vectorizer" in self.__dict__:
            self.vectorizer_ = self._make_vectorizer()
            return self.vectorizer_
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _check_loaded_model(self):
        rankers, fronts = self.rankers_, self._front_arrays
        if not rankers or len(rankers) != len(fronts):
            raise ValueError("it has no rankers, or not an encoder for each")
        for ranker, front in zip(rankers, fronts, strict=True):
            if not isinstance(ranker, XMCClassifierMixin):
                raise ValueError("a ranker is none of skxmc")
            if ranker.n_labels_ != self._n_columns():
                raise ValueError("a ranker does not have the labels of the model")
            width = _loaded.stored_width(front)
            if width is not None and ranker.n_features_in_ != self._n_sparse + width:
                raise ValueError("an encoder does not fit its ranker")
        self._fronts = None
        self._unread = True

    def _check_all_weights(self):
        """Read what `_check_loaded_model` leaves to the first use; rankers check themselves."""
        self._fitted_fronts()
        for arrays in self._front_arrays:
            _loaded.check_encoder(arrays)
        self._unread = False


def _encoder_of(front):
    """What stands before a projection, if there is one."""
    return getattr(front, "encoder", front)


def _union(answers, n_columns):
    """Canonical pattern of the labels that any member answers."""
    n_rows = answers[0].labels.shape[0]
    labels = np.hstack([member.labels for member in answers])
    rows = np.broadcast_to(np.arange(n_rows, dtype=np.int64)[:, None], labels.shape)
    keys = np.unique((rows * n_columns + labels)[labels >= 0])
    rows, labels = np.divmod(keys, n_columns)
    indptr = np.concatenate(([0], np.cumsum(np.bincount(rows, minlength=n_rows))))
    ones = np.ones(len(labels), dtype=np.uint8)
    return make_compressed(ones, labels.astype(np.int32), indptr, (n_rows, n_columns))


def _keys(rows):
    """A number for each stored pair, rising in canonical CSR."""
    numbers_ = np.repeat(np.arange(rows.shape[0], dtype=np.int64), np.diff(rows.indptr))
    return numbers_ * rows.shape[1] + rows.indices
