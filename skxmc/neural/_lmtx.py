"""LMTXClassifier: tagging without a single labelled row; a teacher answers questions instead."""

import contextlib
import numbers
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from skxmc._progress import progress
from skxmc.base import XMCClassifierMixin
from skxmc.exceptions import ModelFormatError
from skxmc.neural import _loaded
from skxmc.neural._answers import Answers
from skxmc.neural._bi_encoder import BiEncoder, own_label_projection
from skxmc.neural._encoders import (
    ProjectedFront,
    check_rows,
    resolve_encoder,
    takes_texts,
    with_projection,
)
from skxmc.neural._front import rows_of
from skxmc.neural._hard_negatives import LabelIndex
from skxmc.neural._linear_front import LinearFront
from skxmc.neural._output_layer import stream_seed
from skxmc.neural._static import StaticEncoder
from skxmc.neural._text import object_array
from skxmc.neural._training import Plan, Trainer
from skxmc.neural._triplet_learner import TripletLearner, TripletSettings
from skxmc.ops.csr import canonical_pattern, take_rows
from skxmc.ops.topk import TopK

# Numbers of the random streams of a fit.
_STREAM_SPLIT, _STREAM_FRONT, _STREAM_ORDER, _STREAM_STEP = range(221, 225)

# Documents whose best label the teacher judges after a round, at most.
_JUDGED = 800

# "auto": learning rate of a projection, of a table of token vectors, and of a transformer.
_PROJECTION_RATE, _STATIC_RATE, _TEXT_RATE = 1e-3, 3e-3, 5e-5

# Margins where the answers tell no threshold: this times the cosine, less one half of it.
_SLOPE = 20.0

# "auto": documents of a step at least and at most, epochs, and steps of a round at least.
_SMALLEST_BATCH, _LARGEST_BATCH, _EPOCHS, _MIN_STEPS = 8, 128, 3, 100

# Rows encoded at a time.
_BLOCK_ROWS = 8192


class LMTXClassifier(XMCClassifierMixin, BaseEstimator):
    r"""Zero-shot tagging: a teacher answers yes-or-no questions, a small bi-encoder learns.

    A bi-encoder gives documents and label texts vectors of length 1; a label's score is the cosine
    :math:`s_{il} = f(x_i)^T f(t_l)`. `fit` has documents and label texts, but no labels of the
    documents. In each round

    1. the bi-encoder finds for each document the nearest labels that were not asked about yet,
    2. the teacher is asked whether they are relevant,
    3. the bi-encoder is trained on all answers so far, by triplets with a margin: document,
       relevant label, and labels that are not, first of all those the teacher refused,
    4. the teacher judges the best label of some documents that are not trained on. Rounds end when
       this precision falls, and the best model is kept.

    Prediction needs no teacher. No true label is read, neither to train nor to stop: ``Y`` is
    ignored.

    Parameters
    ----------
    teacher : callable
        ``teacher(texts, label_texts)`` for two lists of the same length n returns n numbers in
        [0, 1] or booleans, the relevance of the label to the document; 0.5 and more is a yes, NaN
        or None is no answer. See `skxmc.neural.ChatTeacher` and `skxmc.neural.TransformersTeacher`.
        With ``encoder="precomputed"`` it gets rows of the two arrays in place of texts.
    encoder : str, path, (tokenizer, module), StaticEncoder or front, default="static"
        What turns texts into vectors, the same for documents and labels. "static": the mean of
        token vectors by inverse document frequency, random at first, so that the first candidates
        share words with the document. A pre-trained model finds better ones. See
        `skxmc.neural._encoders.resolve_encoder`.
    trainable : bool, default=True
        False, for a path or pair: the model stays as it is, and a matrix after it is trained, one
        for documents and one for labels. Texts are then encoded once, which a CPU can do.
    shared_projection : bool, default=False
        Whether it is the same matrix for both: LMTX has no other. With fewer parameters, it learns
        less.
    dimension : int or None, default=None
        Width of the vectors. None: as the encoder gives.
    pooling : {"auto", "mean", "cls", "max", "none"}, default="auto"
        Of a path or pair.
    max_length : int or None, default=None
        Tokens of a text; the rest is cut off.
    long_texts : {"truncate", "windows"}, default="truncate"
        Of a path or pair: cut longer texts off, or take the mean over windows.
    n_rounds : int, default=5
        At most.
    n_questions : int, default=10
        Questions about each document, in all rounds together.
    max_teacher_calls : int or None, default=None
        Questions of a fit, those of the judgement included. Equal pairs of texts count once; those
        that were answered in ``cache_dir`` already count too, so that a fit that is repeated is the
        same. None: as many as ``n_questions`` makes, and up to ``n_rounds + 1`` about each document
        that is judged.
    validation_fraction : float, default=0.1
        Share of the documents that is not trained on but judged, up to 800 documents; 0: all rounds
        are done.
    patience : int, default=2
        Rounds without a better judgement after which the training ends. LMTX ends after one; but
        of 500 documents a judgement is off by 2 points now and then.
    epochs : int or "auto", default="auto"
        Passes in each round over the documents with a relevant label. "auto" is 3, and more where
        these are fewer than 100 steps.
    batch_size : int or "auto", default="auto"
        Documents of a step. "auto" is a twentieth of the documents, from 8 to 128.
    learning_rate : float or "auto", default="auto"
        "auto": 3e-3 for token vectors, 5e-5 for a transformer, 1e-3 for a matrix after it.
    margin : float, default=0.3
        By how much the cosine of a relevant label has to be larger.
    n_negatives : int, default=10
        Hardest negatives of a document in a step.
    temperature : float, default=0.1
        Of the softmax that weighs them.
    cache_dir : str, path or None, default=None
        Folder where answers are kept, each as soon as it came: a fit that is killed, or that is
        repeated with other parameters, does not ask again. Answers are found by the texts and the
        teacher's ``cache_key``, if it has such an attribute; else keep a folder for each teacher.
    teacher_batch_size : int, default=256
        Questions for a call of the teacher.
    device : str or None, default=None
        Of torch.
    random_state : int, RandomState instance or None, default=None
        Of all random choices.
    n_jobs : int or None, default=None
        Threads.
    top_k : int, default=100
        Labels kept in a row of the sparse `predict_proba` and `decision_function`.
    max_dense_bytes : int, default=2**30
        Largest 0/1 prediction; see `skxmc.base.XMCClassifierMixin`.
    verbose : int, default=0
        1 shows progress bars.

    Attributes
    ----------
    history_ : list of dict
        For each round from 0, the untrained encoder: ``"questions"`` so far, ``"yes"``: share of
        them answered so, ``"judged P@1"``: relevance of the best label of the judged documents in
        the eyes of the teacher, ``"loss"``.
    best_round_ : int
        The round whose model was kept.
    n_questions_ : int
        Different pairs of texts that were asked about.
    n_teacher_calls_ : int
        Those of them that the teacher answered in this fit; the others were in ``cache_dir``.
    n_unanswered_ : int
        Those of them without an answer.
    slope_, threshold_ : float
        The margin is ``slope_ * (cosine - threshold_)``, a logistic regression of the answers.
    classes_, n_labels_, n_features_in_
        See `skxmc.base.XMCClassifierMixin`.

    Raises
    ------
    TypeError, ValueError
        For input that is no text, an encoder that is none, parameters out of range, a teacher that
        returns something else than one number in [0, 1] for each question.
    FileNotFoundError
        If there is no folder of the encoder.
    CheckpointError
        If the file in ``cache_dir`` is damaged.

    Warns
    -----
    UserWarning
        If the teacher said yes to nothing: the model is the untrained encoder; or if it did not
        answer more than half of the questions.

    Notes
    -----
    What the teacher raises comes through, with a note about the answers that are kept.

    Margins are no calibrated log-odds: the answers are about the nearest labels only.

    A label with an empty text is never asked about and never answered (margin minus infinity);
    labels with the same text have the same scores, and the smaller number comes first. A document
    without known tokens has the cosine 0 with all labels.

    Outputs are sparse, as if ``Y`` had been sparse. With a fixed ``random_state`` two fits are the
    same if the teacher gives the same answers; scores differ in the last bits between numbers of
    threads only where torch computes.

    Cost: questions, first of all. Besides, each round encodes all documents and labels, and takes a
    product of their vectors: O(documents x labels x dimension).

    References
    ----------
    LMTX, "Zero-shot extreme multi-label classification with a language model as teacher": loop,
    question, loss and judgement; its numbers are the defaults of ``n_questions``, ``margin``,
    ``n_negatives``, ``temperature`` and ``n_rounds``.

    Examples
    --------
    A teacher that knows a few words:

    >>> from skxmc.neural import LMTXClassifier
    >>> texts = ["a fast web server", "browser for the web", "a game of chess", "puzzle game"]
    >>> tags = ["web software", "chess", "games"]
    >>> def teacher(texts, tags):
    ...     return [any(w[:4] in text for w in tag.split()) for text, tag in zip(texts, tags)]
    >>> model = LMTXClassifier(teacher, dimension=16, validation_fraction=0, random_state=0)
    >>> model.fit(texts, label_text=tags).predict_topk(["new web page", "chess game"], k=1).labels
    array([[0],
           [1]], dtype=int32)
    """

    _parameter_constraints = {
        **XMCClassifierMixin._parameter_constraints,
        "teacher": [callable],
        "encoder": [str, Path, tuple, HasMethods(["forward", "backward", "step"])],
        "trainable": ["boolean"],
        "shared_projection": ["boolean"],
        "dimension": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "pooling": [StrOptions({"auto", "mean", "cls", "max", "none"})],
        "max_length": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "long_texts": [StrOptions({"truncate", "windows"})],
        "n_rounds": [Interval(numbers.Integral, 1, None, closed="left")],
        "n_questions": [Interval(numbers.Integral, 1, None, closed="left")],
        "max_teacher_calls": [Interval(numbers.Integral, 1, None, closed="left"), None],
        "validation_fraction": [Interval(numbers.Real, 0, 1, closed="left")],
        "patience": [Interval(numbers.Integral, 1, None, closed="left")],
        "epochs": [Interval(numbers.Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "learning_rate": [Interval(numbers.Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "margin": [Interval(numbers.Real, 0, None, closed="neither")],
        "n_negatives": [Interval(numbers.Integral, 1, None, closed="left")],
        "temperature": [Interval(numbers.Real, 0, None, closed="neither")],
        "cache_dir": [str, Path, None],
        "teacher_batch_size": [Interval(numbers.Integral, 1, None, closed="left")],
        "device": [str, None],
        "random_state": ["random_state"],
        "n_jobs": [numbers.Integral, None],
        "verbose": ["verbose"],
    }

    _weight_attributes = ("_encoder_arrays", "_label_vectors")

    # Parameters that are not stored with a model: prediction does not need them.
    _params_not_stored = ("teacher", "cache_dir")

    def __init__(
        self,
        teacher=None,
        *,
        encoder="static",
        trainable=True,
        shared_projection=False,
        dimension=None,
        pooling="auto",
        max_length=None,
        long_texts="truncate",
        n_rounds=5,
        n_questions=10,
        max_teacher_calls=None,
        validation_fraction=0.1,
        patience=2,
        epochs="auto",
        batch_size="auto",
        learning_rate="auto",
        margin=0.3,
        n_negatives=10,
        temperature=0.1,
        cache_dir=None,
        teacher_batch_size=256,
        device=None,
        random_state=None,
        n_jobs=None,
        top_k=100,
        max_dense_bytes=2**30,
        verbose=0,
    ):
        self.teacher = teacher
        self.encoder = encoder
        self.trainable = trainable
        self.shared_projection = shared_projection
        self.dimension = dimension
        self.pooling = pooling
        self.max_length = max_length
        self.long_texts = long_texts
        self.n_rounds = n_rounds
        self.n_questions = n_questions
        self.max_teacher_calls = max_teacher_calls
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.margin = margin
        self.n_negatives = n_negatives
        self.temperature = temperature
        self.cache_dir = cache_dir
        self.teacher_batch_size = teacher_batch_size
        self.device = device
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.top_k = top_k
        self.max_dense_bytes = max_dense_bytes
        self.verbose = verbose

    # ------------------------------------------------------------------ fit

    def fit(self, X, Y=None, *, label_text=None):
        """Learn from documents, label texts and the answers of the teacher.

        Parameters
        ----------
        X : sequence of str of length n_samples, or array of shape (n_samples, n_features)
            Documents, as the encoder takes them.
        Y : None
            Ignored.
        label_text : sequence of str, LabelText, or array of shape (n_labels, n_features)
            Texts of the labels, or what the encoder takes in their place, one a label.

        Returns
        -------
        LMTXClassifier
            The fitted estimator itself.
        """
        self._validate_params()
        self._fit_done = False
        X = self._check_X(X, reset=True)
        labels = self._check_label_text(label_text, X)
        rows = self._as_rows(X)
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        self._target_kind, self._target_is_spmatrix = "sparse", False
        self._target_dtype = np.dtype(np.uint8)
        self.n_labels_ = labels.shape[0] if hasattr(labels, "shape") else len(labels)
        self.classes_ = np.arange(self.n_labels_, dtype=np.int32)
        front = self._new_front(rows, labels, seed)
        projection = None if self.shared_projection else own_label_projection(front)
        search = _Search(BiEncoder(front, projection), rows, labels, self.n_jobs)
        train, judged = self._split(X.shape[0], seed)
        answers = Answers(
            self.teacher,
            rows,
            labels,
            limit=self.max_teacher_calls,
            batch_size=self.teacher_batch_size,
            folder=self.cache_dir,
        )
        self._train(search, answers, train, judged, seed)
        self._collect(search, answers)
        self._fit_done = True
        return self

    def _train(self, search, answers, train, judged, seed):
        """The rounds; the search has the best model at the end."""
        learner = TripletLearner(search.model, self._settings(search.model.front, seed))
        asked = _Asked(len(search.vectors), self.n_labels_)
        self.history_, self.best_round_, best = [], 0, None
        for number in range(self.n_rounds + 1):
            loss = np.nan
            if number > 0:
                self._ask(search, answers, asked, train, number, seed)
                loss = self._learn(learner, asked, number, seed)
                search.refresh()
            found = {"questions": answers.n_questions, "yes": asked.share_of_yes, "loss": loss}
            if len(judged):
                best_label = search.nearest(judged, 1)[:, 0]
                known = best_label >= 0
                said = answers.ask(judged[known], best_label[known])
                found["questions"] = answers.n_questions
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)  # no answer at all
                    found["judged P@1"] = float(np.nanmean(said))
            self.history_.append(found)
            if not len(judged):
                self.best_round_ = number
            elif number == 0 or found["judged P@1"] > self._best_judgement():
                self.best_round_, best = number, learner.parameters()
            elif number - self.best_round_ >= self.patience:
                break
            if answers.n_left == 0:
                break
        if len(judged) and self.best_round_ != len(self.history_) - 1:
            learner.load_parameters(best)
            search.refresh()
        self._asked = asked
        self._warn(answers, asked)

    def _best_judgement(self):
        return self.history_[self.best_round_]["judged P@1"]

    def _ask(self, search, answers, asked, train, number, seed):
        """Ask about the nearest labels that were not asked about, the nearest ones first."""
        n_asked = _share(self.n_questions, self.n_rounds, number)
        if n_asked == 0:
            return
        nearest = search.nearest(train, n_asked, exclude=asked.pattern(train))
        # Where the questions do not suffice, they are spread over the documents.
        order = np.random.default_rng([seed, _STREAM_ORDER, number]).permutation(len(train))
        rows = np.tile(train[order], nearest.shape[1])
        labels = nearest[order].T.ravel()
        rows, labels = rows[labels >= 0], labels[labels >= 0]
        with progress(len(rows), f"questions {number}/{self.n_rounds}", self.verbose) as bar:
            said = answers.ask(rows, labels, progress=bar)
        asked.add(rows, labels, said)

    def _learn(self, learner, asked, number, seed):
        """Train on all answers so far; return the mean loss of the last epoch."""
        learner.take_answers(asked.pattern(value=True), asked.pattern(value=False))
        n_rows = len(learner.documents)
        if n_rows == 0:
            return np.nan
        batch_size, epochs = self.batch_size, self.epochs
        if batch_size == "auto":
            batch_size = int(np.clip(n_rows // 20, _SMALLEST_BATCH, _LARGEST_BATCH))
        batch_size = min(batch_size, n_rows)
        if epochs == "auto":
            epochs = max(_EPOCHS, -(-_MIN_STEPS * batch_size // n_rows))
        plan = Plan(epochs, batch_size, seed=stream_seed(seed, _STREAM_STEP, number))
        learner.settings = learner.settings._replace(seed=stream_seed(seed, _STREAM_STEP, number))
        trainer = Trainer(learner, plan)
        trainer.fit(n_rows, verbose=self.verbose)
        return trainer.history[-1]["loss"]

    def _settings(self, front, seed):
        rate = self.learning_rate
        if rate == "auto":
            if isinstance(front, StaticEncoder):
                rate = _STATIC_RATE
            elif isinstance(front, (ProjectedFront, LinearFront)):
                rate = _PROJECTION_RATE
            else:
                rate = _TEXT_RATE
        return TripletSettings(self.margin, self.n_negatives, self.temperature, rate, seed)

    def _new_front(self, rows, labels, seed):
        encoder, dimension = self.encoder, self.dimension
        front_seed = stream_seed(seed, _STREAM_FRONT)
        if isinstance(encoder, str) and encoder == "static":
            encoder = StaticEncoder(
                dimension,
                weighting="idf",
                max_length=self.max_length,
                trainable=self.trainable,
                n_jobs=self.n_jobs,
            )
        if isinstance(encoder, str) and encoder == "precomputed" and not sp.issparse(rows):
            dimension = rows.shape[1] if dimension is None else dimension
        front = resolve_encoder(
            encoder,
            rows,
            labels,
            dimension=dimension,
            pooling=self.pooling,
            trainable=self.trainable or encoder == "precomputed",
            max_length=self.max_length,
            long_texts=self.long_texts,
            seed=front_seed,
            device=self.device,
            n_jobs=self.n_jobs,
        )
        if getattr(front, "trainable", True):
            return front
        return with_projection(front, front.n_outputs, seed=front_seed, n_jobs=self.n_jobs)

    def _split(self, n_samples, seed):
        """Documents to train on and to be judged, in rising order."""
        n_judged = min(_JUDGED, n_samples - 1, round(self.validation_fraction * n_samples))
        if self.validation_fraction > 0 and n_samples > 1:
            n_judged = max(1, n_judged)
        order = np.random.default_rng([seed, _STREAM_SPLIT]).permutation(n_samples)
        return np.sort(order[n_judged:]), np.sort(order[:n_judged])

    def _warn(self, answers, asked):
        if asked.share_of_yes == 0:
            warnings.warn(
                f"The teacher said yes to none of {answers.n_questions} questions: the model is "
                "the untrained encoder. Look at what the teacher answers, and at the candidates of "
                "the encoder.",
                UserWarning,
                stacklevel=4,
            )
        elif answers.n_unanswered > 0.5 * answers.n_calls:
            warnings.warn(
                f"The teacher did not answer {answers.n_unanswered} of {answers.n_calls} "
                "questions.",
                UserWarning,
                stacklevel=4,
            )

    def _collect(self, search, answers):
        """Keep what prediction needs, as NumPy arrays where this is possible."""
        self._label_vectors = search.label_vectors
        self._answerable = search.answerable
        self.slope_, self.threshold_ = self._asked.threshold(search)
        self.n_questions_ = answers.n_questions
        self.n_teacher_calls_ = answers.n_calls
        self.n_unanswered_ = answers.n_unanswered
        self._encoder_arrays = {}
        self.encoder_ = search.model
        # what nothing but pickle can store stays an object
        with contextlib.suppress(TypeError, AttributeError):
            self._encoder_arrays = search.model.model()
        self._index = None
        del self._asked

    def add_labels(self, label_text):
        """Serve further labels, by their texts alone.

        Parameters
        ----------
        label_text : sequence of str, or array of shape (n_new, n_features)
            They are numbered from ``n_labels_`` on, in this order.

        Returns
        -------
        LMTXClassifier
            The estimator itself, which knows them from now on.

        Notes
        -----
        Nothing is trained and nothing asked: the cost is that of encoding the texts.

        Examples
        --------
        >>> from skxmc.neural import LMTXClassifier
        >>> texts = ["a fast web server", "browser for the web", "a game of chess", "puzzle game"]
        >>> def teacher(texts, tags):
        ...     return [tag in text for text, tag in zip(texts, tags)]
        >>> model = LMTXClassifier(teacher, dimension=16, validation_fraction=0, random_state=0)
        >>> model = model.fit(texts, label_text=["web", "chess"]).add_labels(["puzzle"])
        >>> model.predict_topk(["puzzle"], k=1).labels
        array([[2]], dtype=int32)
        """
        check_is_fitted(self)
        label_text = check_rows(
            self.encoder,
            getattr(label_text, "texts", label_text),
            name="label_text",
            n_columns=getattr(self, "n_features_in_", None),
        )
        new = self._fitted_encoder().encode_labels(label_text)
        self._label_vectors = np.concatenate([self._label_vectors, new])
        self._answerable = np.concatenate([self._answerable, _answerable(label_text)])
        self.n_labels_ = len(self._label_vectors)
        self.classes_ = np.arange(self.n_labels_, dtype=np.int32)
        self._index = None
        return self

    # ------------------------------------------------------------------ predict

    @_loaded.refuses_damage
    def _score_topk(self, X, k, exclude, candidates):
        index, parts = self._label_index(), []
        for first in range(0, X.shape[0], _BLOCK_ROWS):
            rows = np.arange(first, min(first + _BLOCK_ROWS, X.shape[0]))
            patterns = [None if p is None else take_rows(p, rows) for p in (exclude, candidates)]
            parts.append(
                index.topk(
                    self._queries(take_rows(X, rows)),
                    k,
                    exclude=patterns[0],
                    candidates=patterns[1],
                )
            )
        answers = TopK(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        labels = np.where(answers.scores > -np.inf, answers.labels, -1).astype(np.int32)
        return answers._replace(labels=labels)

    @_loaded.refuses_damage
    def _score_dense(self, X):
        return self._label_index().scores(self._queries(X))

    def _label_index(self):
        if getattr(self, "_index", None) is None:
            # The label vectors as they are, which may be mapped: the slope is in the queries.
            bias = np.full(self.n_labels_, -self.slope_ * self.threshold_, dtype=np.float32)
            bias[~np.asarray(self._answerable)] = -np.inf
            self._index = LabelIndex(self._label_vectors, bias, n_jobs=self.n_jobs)
        self._index.n_jobs = self.n_jobs
        return self._index

    def _queries(self, X):
        """Vectors whose products with those of labels are margins, but for the bias."""
        return self._encode(X) * np.float32(self.slope_)

    def _encode(self, X):
        """Vectors of documents, of length 1."""
        return self._fitted_encoder().encode(self._as_rows(X))

    def _fitted_encoder(self):
        if self.encoder_ is None:  # a loaded model
            encoder = _loaded.build(BiEncoder.from_model, self._encoder_arrays, n_jobs=self.n_jobs)
            if encoder.n_outputs != self._label_vectors.shape[1]:
                raise ModelFormatError("The encoder does not fit the label vectors.")
            self.encoder_ = encoder
        return self.encoder_

    def __getstate__(self):
        state = dict(super().__getstate__())  # not the attributes themselves
        if "_index" in state:
            state["_index"] = None
        if state.get("_encoder_arrays"):  # from which the encoder is made anew
            state["encoder_"] = None
        state.pop("_unread", None)
        return state

    def _check_loaded_model(self):
        vectors, answerable = self._label_vectors, self._answerable
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != self.n_labels_:
            raise ValueError("the label vectors do not fit")
        if not vectors.flags.c_contiguous:
            raise ValueError("the label vectors must lie row by row")
        if answerable.dtype != bool or answerable.shape != (self.n_labels_,):
            raise ValueError("the mask of the labels does not fit")
        if not all(isinstance(value, numbers.Real) for value in (self.slope_, self.threshold_)):
            raise ValueError("slope_ and threshold_ must be numbers")
        if self._stored_width() not in (None, vectors.shape[1]):
            raise ValueError("the encoder does not fit the label vectors")
        self.encoder_ = self._index = None
        self._unread = True

    def _stored_width(self):
        return _loaded.stored_width(self._encoder_arrays, vars(self).get("n_features_in_"))

    def _check_all_weights(self):
        """Read all that `_check_loaded_model` leaves to the first use."""
        self._fitted_encoder()
        _loaded.check_encoder(self._encoder_arrays)
        _loaded.check_finite(self._label_vectors, "the label vectors")
        self._unread = False

    # ------------------------------------------------------------------ rows

    def _check_X(self, X, reset):
        if not takes_texts(self.encoder):
            return super()._check_X(X, reset)
        return object_array(check_rows(self.encoder, X, min_rows=1))

    def _as_rows(self, X):
        """Rows as the encoder takes them."""
        if takes_texts(self.encoder):
            return X.tolist()
        return X if sp.issparse(X) else np.ascontiguousarray(X, dtype=np.float32)

    def _check_label_text(self, label_text, X):
        if label_text is None:
            raise ValueError("fit needs label_text, a text for each label.")
        texts = takes_texts(self.encoder)
        label_text = check_rows(
            self.encoder,
            getattr(label_text, "texts", label_text),
            name="label_text",
            min_rows=1,
            n_columns=None if texts else X.shape[1],
        )
        if not texts and sp.issparse(label_text) != sp.issparse(X):
            raise TypeError("X and label_text must both be sparse, or both dense.")
        return label_text

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        if takes_texts(self.encoder):
            tags.input_tags.two_d_array = tags.input_tags.sparse = False
            tags.input_tags.string = True
        return tags


class _Search:
    """The vectors of documents and labels by the present encoder.

    Parameters
    ----------
    model : BiEncoder
    rows, labels : list of str, or arrays
    n_jobs : int or None

    Attributes
    ----------
    answerable : bool array of shape (n_labels,)
        Labels that have a text.
    vectors, label_vectors : float32 arrays of shape (n, n_outputs)
    """

    def __init__(self, model, rows, labels, n_jobs):
        self.model, self.n_jobs = model, n_jobs
        self.answerable = _answerable(labels)
        model.take_rows(rows, labels)
        self.refresh()

    def refresh(self):
        """Encode all again."""
        self.vectors, self.label_vectors = self.model.vectors()
        bias = np.where(self.answerable, 0, -np.inf).astype(np.float32)
        self.index = LabelIndex(self.label_vectors, bias, n_jobs=self.n_jobs)

    def nearest(self, documents, k, exclude=None):
        """Numbers of the k nearest labels of each document, padded with -1."""
        return self.index.nearest(self.vectors[documents], k, exclude)

    def cosines(self, rows, labels):
        """Cosines of pairs."""
        return np.einsum("ij,ij->i", self.vectors[rows], self.label_vectors[labels])


def _answerable(labels):
    """Which labels have a text."""
    if isinstance(labels, list):
        return np.array([bool(text.strip()) for text in labels])
    return np.ones(labels.shape[0], dtype=bool)


class _Asked:
    """Pairs of document and label that the teacher was asked about, and what it said."""

    def __init__(self, n_documents, n_labels):
        self.shape = (n_documents, n_labels)
        self.rows, self.labels = np.empty((2, 0), dtype=np.int64)
        self.said = np.empty(0)

    def add(self, rows, labels, said):
        self.rows = np.concatenate([self.rows, rows])
        self.labels = np.concatenate([self.labels, labels])
        self.said = np.concatenate([self.said, said])

    @property
    def share_of_yes(self):
        answered = ~np.isnan(self.said)
        return float((self.said[answered] >= 0.5).mean()) if answered.any() else 0.0

    def pattern(self, documents=None, *, value=None):
        """Pairs with this answer (None: with any, or none) as a pattern, of some documents."""
        kept = slice(None)
        if value is not None:
            kept = (self.said >= 0.5) if value else (self.said < 0.5)
        rows, labels = self.rows[kept], self.labels[kept]
        pairs = sp.csr_array((np.ones(len(rows)), (rows, labels)), shape=self.shape)
        pattern = canonical_pattern(pairs, self.shape)
        return pattern if documents is None else rows_of(pattern, documents)

    def threshold(self, search):
        """Slope and threshold of the answers as a logistic function of the cosine."""
        from sklearn.linear_model import LogisticRegression

        kept = ~np.isnan(self.said)
        said = self.said[kept]
        if not 0 < (said >= 0.5).sum() < len(said):
            return _SLOPE, 0.5
        cosines = search.cosines(self.rows[kept], self.labels[kept])[:, None]
        model = LogisticRegression(C=1e4).fit(cosines, said >= 0.5)
        slope = float(model.coef_[0, 0])
        if slope < 1:  # the answers have nothing to do with the cosines
            return _SLOPE, float(cosines.mean())
        return slope, float(-model.intercept_[0] / slope)


def _share(n_questions, n_rounds, number):
    """Questions of a round, from 1: equal shares, the first rounds get what is left over."""
    share, left = divmod(n_questions, n_rounds)
    return share + (number <= left)
