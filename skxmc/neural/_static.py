"""StaticEncoder: texts as the mean of trainable token vectors, without torch."""

import copy
import json
import numbers

import numpy as np
import scipy.sparse as sp
from sklearn.base import BaseEstimator

from skxmc.neural._linear_front import LinearFront
from skxmc.neural._text import check_texts
from skxmc.neural._tokenizers import (
    TOKENIZERS,
    from_json,
    load_tokenizer,
    token_ids,
    train_tokenizer,
    unknown_id,
    word_tokenizer,
    words_of,
)
from skxmc.neural._vectors import load_vectors
from skxmc.ops.csr import canonical_csr

WEIGHTINGS = ("mean", "sqrt", "idf")

#: Width of a table that is drawn at random.
DIMENSION = 256

# Parameters that the vocabulary and the table depend on.
_OF_BUILD = ("dimension", "tokenizer", "vocabulary_size", "vectors", "lowercase", "seed")


class StaticEncoder(BaseEstimator):
    r"""Text encoder that adds up one trainable vector for each token: an embedding bag.

    With :math:`E` the table of vectors and :math:`w_{it}` the weight of token t in text i, the
    features are :math:`h_i = \sum_t w_{it} E_t`. It has no context and no order of words, is a
    thousand times cheaper than a transformer, and is enough where texts are short.

    It follows the protocol of a front (`skxmc.neural._front`): `prepare`, `forward`, `backward`,
    `step`, `transform`, `model`, `state`, `load_state`, with features and gradients as NumPy
    arrays. Needs the library ``tokenizers``, but not torch.

    Parameters
    ----------
    dimension : int or None, default=None
        Width of the features. None: that of ``vectors``, else 256. Wider ``vectors`` are reduced
        to their first principal components (about 0).
    tokenizer : {"wordpiece", "bpe", "word"}, tokenizers.Tokenizer, or path, default="wordpiece"
        How texts become tokens. A name: learned from the texts of `build`. A path is a
        ``tokenizer.json`` or a folder with one. Given ``vectors`` that bring their own tokens, a
        name stands for these.
    vocabulary_size : int, default=30_000
        Tokens of a learned tokenizer, at most.
    vectors : None, path, or (words, array), default=None
        First vectors. None: random. A folder or file of safetensors: the token embeddings of a
        model, whose tokenizer is the ``tokenizer.json`` beside it. Another file: word vectors in
        the text format of word2vec or GloVe, of which are read the words that occur in the texts
        of `build`, and the first ``vocabulary_size``.
    weighting : {"mean", "sqrt", "idf"}, default="idf"
        Weight of the tokens of a text with m of them: 1 / m; 1 / sqrt(m); or proportional to the
        inverse document frequency, log((1 + n) / (1 + df)) + 1 over the n texts of `build`, with
        the sum 1.
    lowercase : bool, default=True
        Of a learned tokenizer and of word vectors: lower the case and remove accents.
    dropout : float, default=0.0
        Share of the features set to 0 in training; the others are divided by one less this.
    max_length : int or None, default=None
        Tokens of a text that count; None: all.
    trainable : bool, default=True
        False: the table stays as it is.
    seed : int or None, default=None
        Of the random vectors. None: what the estimator that uses the encoder says, else 0.
    n_jobs : int or None, default=None
        Threads; the result does not depend on it.

    Attributes
    ----------
    n_outputs : int
        Width of the features.
    n_tokens : int
        Rows of the table.
    tokenizer_ : tokenizers.Tokenizer

    Notes
    -----
    A token that is unknown counts for nothing; a text without known tokens, such as an empty one,
    has the features 0.

    Random vectors are drawn from :math:`N(0, 1 / d)`: their length is about 1.

    Cost: a text takes about 1 microsecond a character to tokenise, then O(tokens x dimension).
    Memory: 4 bytes x tokens x dimension, and twice as much for the moments of Adam in training; the
    step updates only the vectors of the tokens in the batch.

    A clone (`sklearn.base.clone`) keeps table and tokenizer, unless `set_params` changed what they
    depend on.

    References
    ----------
    A. Joulin, E. Grave, P. Bojanowski, T. Mikolov. Bag of tricks for efficient text classification.
    EACL 2017.

    Examples
    --------
    >>> from skxmc.neural import StaticEncoder
    >>> texts = ["a web server", "a web browser", "a game of chess"]
    >>> encoder = StaticEncoder(dimension=4, vocabulary_size=100).build(texts)
    >>> encoder.transform(["chess server", ""]).shape
    (2, 4)
    >>> features = encoder.forward(texts, training=True)
    >>> encoder.backward(features)  # the gradient of half the squared length
    >>> encoder.step(0.01)
    >>> bool((encoder.transform(texts) ** 2).sum() < (features**2).sum())
    True
    """

    takes_texts = True

    _weight_attributes = ("_arrays",)

    def __init__(
        self,
        dimension=None,
        *,
        tokenizer="wordpiece",
        vocabulary_size=30_000,
        vectors=None,
        weighting="idf",
        lowercase=True,
        dropout=0.0,
        max_length=None,
        trainable=True,
        seed=None,
        n_jobs=None,
    ):
        self.dimension = dimension
        self.tokenizer = tokenizer
        self.vocabulary_size = vocabulary_size
        self.vectors = vectors
        self.weighting = weighting
        self.lowercase = lowercase
        self.dropout = dropout
        self.max_length = max_length
        self.trainable = trainable
        self.seed = seed
        self.n_jobs = n_jobs

    # ------------------------------------------------------------------ build

    def build(self, texts):
        """Learn the tokenizer, where none is given, and draw or load the table.

        Parameters
        ----------
        texts : sequence of str
            Those of the training, of labels too. They set the tokens and the document frequencies.

        Returns
        -------
        StaticEncoder
            The encoder itself.

        Raises
        ------
        TypeError, ValueError, FileNotFoundError
            If parameters or texts are not what they should be.
        ImportError
            If ``tokenizers`` is not installed.
        """
        self._check_params()
        texts = check_texts(texts, "texts", min_rows=1)
        table = None
        named = isinstance(self.tokenizer, str) and self.tokenizer in TOKENIZERS
        by_word = named
        if self.vectors is None:
            tokenizer = self._own_tokenizer(texts, named)
        else:
            tokenizer, table, by_word = self._load_vectors(texts, named)
        n_tokens = tokenizer.get_vocab_size()
        n_tokens = max(n_tokens, 1 + max(tokenizer.get_vocab().values(), default=-1))
        table = self._table_of(table, n_tokens)
        self.tokenizer_ = tokenizer
        self._unknown = unknown_id(tokenizer)
        self._by_word = by_word
        self._front = LinearFront(table)
        ids, lengths = self._token_ids(texts)
        row = np.repeat(np.arange(len(texts)), lengths)
        row, token = np.divmod(np.unique(row * len(table) + ids), len(table))
        frequency = np.bincount(token, minlength=len(table))
        self._idf = (np.log((1 + len(texts)) / (1 + frequency)) + 1).astype(np.float32)
        return self

    def _check_params(self):
        for name in ("dimension", "vocabulary_size", "max_length"):
            value = getattr(self, name)
            if value is None and name != "vocabulary_size":
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise TypeError(f"{name} must be an int, got {value!r}.")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {WEIGHTINGS}, got {self.weighting!r}.")
        if not isinstance(self.dropout, numbers.Real) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}.")

    def _own_tokenizer(self, texts, named):
        if named:
            return train_tokenizer(
                texts, self.tokenizer, int(self.vocabulary_size), lowercase=self.lowercase
            )
        return load_tokenizer(self.tokenizer)

    def _load_vectors(self, texts, named):
        wanted = words_of(texts, lowercase=self.lowercase)
        table, words, folder = load_vectors(self.vectors, wanted, self.vocabulary_size)
        if words is not None:
            if not named:
                raise ValueError(
                    "vectors of words bring their own tokens: leave tokenizer as it is."
                )
            tokenizer = word_tokenizer(words, lowercase=self.lowercase)
        else:
            tokenizer = load_tokenizer(folder if named else self.tokenizer)
        return tokenizer, table, words is not None

    def _table_of(self, table, n_tokens):
        """The first vectors, one for each token."""
        seed = 0 if self.seed is None else self.seed
        if table is None:
            width = DIMENSION if self.dimension is None else int(self.dimension)
            table = np.random.default_rng(seed).standard_normal((n_tokens, width), np.float32)
            table /= np.float32(np.sqrt(width))
            return table
        width = table.shape[1] if self.dimension is None else int(self.dimension)
        if width > table.shape[1]:
            raise ValueError(
                f"dimension is {width}, but vectors are {table.shape[1]} wide: leave it None."
            )
        if width < table.shape[1]:
            _, axes = np.linalg.eigh(table.T.astype(np.float64) @ table)
            table = (table @ axes[:, : -width - 1 : -1]).astype(np.float32)
        if len(table) < n_tokens:  # tokens that were added to a tokenizer later, [UNK] of words
            new = np.zeros((n_tokens - len(table), width), dtype=np.float32)
            table = np.concatenate([table, new])
        return np.ascontiguousarray(table)

    def set_params(self, **params):
        """Set parameters; the table is given up where it depends on one of them.

        Parameters
        ----------
        **params : dict
            Names and values, as `get_params` has them.

        Returns
        -------
        StaticEncoder
            The encoder itself.
        """
        if any(name in _OF_BUILD for name in params):
            for name in ("tokenizer_", "_front", "_idf", "_unknown", "_by_word"):
                self.__dict__.pop(name, None)
        return super().set_params(**params)

    @property
    def is_built(self):
        """Whether there is a table."""
        return hasattr(self, "_front")

    @property
    def n_outputs(self):
        """Width of the features."""
        if self.is_built:
            return self._front.n_outputs
        if self.dimension is None and self.vectors is not None:
            raise AttributeError("Call build(texts): the vectors have not been read yet.")
        return DIMENSION if self.dimension is None else self.dimension

    @property
    def n_tokens(self):
        """Rows of the table."""
        return self._built().n_inputs

    # ------------------------------------------------------------------ front

    def prepare(self, X):
        """Tokenise texts once for many epochs.

        Parameters
        ----------
        X : sequence of str of length n, or csr_array that this method returned
            Texts; rows are returned as they are.

        Returns
        -------
        csr_array of shape (n, n_tokens), float32
            Weight of each token in each text; 8 bytes a pair. `forward` and `transform` accept it
            in place of texts.

        Raises
        ------
        TypeError, ValueError
            If a row is no text; see `skxmc.neural._text.check_texts`.
        """
        front = self._built()
        if sp.issparse(X):
            return front.prepare(X)
        texts = check_texts(X)
        ids, lengths = self._token_ids(texts)
        rows = np.repeat(np.arange(len(texts)), lengths)
        if self.weighting == "idf":
            weights = self._idf[ids].astype(np.float64)
            total = np.bincount(rows, weights, minlength=len(texts))
        else:
            weights = np.ones(len(ids))
            total = lengths if self.weighting == "mean" else np.sqrt(lengths)
        weights /= total[rows]
        bags = sp.csr_array((weights, (rows, ids)), shape=(len(texts), self.n_tokens))
        return canonical_csr(bags, np.float32)

    def _token_ids(self, texts):
        """Ids of the known tokens, and how many each text has of them."""
        ids, lengths = token_ids(self.tokenizer_, texts, self.max_length, by_word=self._by_word)
        if len(ids) and ids.max() >= self.n_tokens:
            raise ValueError(
                f"The tokenizer gives the token {ids.max()}, but there are {self.n_tokens} "
                "vectors: they do not belong together."
            )
        if self._unknown is None:
            return ids, lengths
        known = ids != self._unknown
        row = np.repeat(np.arange(len(texts)), lengths)
        return ids[known], np.bincount(row[known], minlength=len(texts))

    def forward(self, batch, *, training=False, seed=0):
        """Features of texts, or of rows that `prepare` returned.

        Parameters
        ----------
        batch : sequence of str of length n, or csr_array
            Texts, or what `prepare` made of them.
        training : bool
            Whether to apply dropout and to remember what `backward` needs.
        seed : int or sequence of int, default=0
            Of dropout.

        Returns
        -------
        ndarray of shape (n, n_outputs)
            A vector for each text, float32.
        """
        front = self._built()
        front.dropout, front.trainable = self.dropout, self.trainable
        front.n_jobs = self.n_jobs
        if not sp.issparse(batch):
            batch = self.prepare(batch)
        return front.forward(batch, training=training, seed=seed)

    def backward(self, gradient):
        """Add the gradient of the table to what it has.

        Parameters
        ----------
        gradient : float32 ndarray of shape (n, n_outputs)
            Of the loss with respect to what the last ``forward(training=True)`` returned. Several
            pairs of `forward` and `backward` before one `step` add up.
        """
        self._built().backward(gradient)

    def step(self, learning_rate):
        """Update the table by Adam and clear its gradient.

        Parameters
        ----------
        learning_rate : float
            Length of the step of a number whose gradients agree.
        """
        self._built().step(learning_rate)

    def transform(self, X, *, n_jobs=None):
        """Features for prediction.

        Parameters
        ----------
        X : sequence of str of length n, or csr_array that `prepare` returned
            Texts, or their rows of token weights.
        n_jobs : int or None, default=None
            Threads, if not as the encoder says.

        Returns
        -------
        ndarray of shape (n, n_outputs)
            A vector for each text, float32.
        """
        if not sp.issparse(X):
            X = self.prepare(X)
        return self._built().transform(X, n_jobs=self.n_jobs if n_jobs is None else n_jobs)

    def model(self):
        """What prediction needs, to be stored; see `from_model`.

        Returns
        -------
        dict of str to ndarray
            The table, and the tokenizer and options as bytes of JSON.
        """
        front = self._built()
        options = {
            name: getattr(self, name)
            for name in ("weighting", "lowercase", "dropout", "max_length", "trainable")
        }
        options["by_word"] = self._by_word
        return {
            "weights": front.weights,
            "idf": self._idf,
            "tokenizer": _to_bytes(self.tokenizer_.to_str()),
            "options": _to_bytes(json.dumps(options)),
        }

    @classmethod
    def from_model(cls, arrays):
        """Return the encoder of what `model` returned. No code of the arrays is run.

        Parameters
        ----------
        arrays : dict of str to ndarray
            As `model` returned them, and as they are kept in a file.

        Returns
        -------
        StaticEncoder
            Its features are the same, bit for bit; its optimiser begins anew.

        Raises
        ------
        ValueError
            If the arrays do not belong together.
        """
        options = json.loads(_from_bytes(arrays["options"]))
        options.pop("by_word")
        tokenizer = from_json(_from_bytes(arrays["tokenizer"]))
        encoder = cls(arrays["weights"].shape[1], tokenizer=tokenizer, **options)
        encoder._check_params()
        encoder._take_model(arrays)
        return encoder

    def _take_model(self, arrays):
        weights, idf = np.asarray(arrays["weights"]), np.asarray(arrays["idf"])
        if weights.ndim != 2 or weights.dtype != np.float32:
            raise ValueError("The table of a static encoder must be float32, two-dimensional.")
        fits = idf.shape == weights.shape[:1] and idf.dtype == np.float32
        if not fits or not ((idf > 0) & (idf < np.inf)).all():  # a text divides by their sum
            raise ValueError("The document frequencies of a static encoder do not fit its table.")
        self.tokenizer_ = from_json(_from_bytes(arrays["tokenizer"]))
        self._unknown = unknown_id(self.tokenizer_)
        self._by_word = json.loads(_from_bytes(arrays["options"]))["by_word"]
        self._front, self._idf = LinearFront(weights), idf

    def state(self):
        """Return parameters and optimiser.

        Returns
        -------
        dict of str to ndarray
            Not copied.
        """
        return self._built().state()

    def load_state(self, state):
        """Set parameters and optimiser: training goes on bit for bit.

        Parameters
        ----------
        state : dict of str to ndarray
            What `state` returned.
        """
        self._built().load_state(state)

    def _built(self):
        if not self.is_built:
            raise RuntimeError("This StaticEncoder has no table yet: call build(texts) first.")
        return self._front

    def __sklearn_clone__(self):
        return copy.deepcopy(self)

    def __getstate__(self):
        # The tokenizer as JSON, and no moments: a copy begins to train anew.
        state = {name: getattr(self, name) for name in self._get_param_names()}
        return {**state, "_arrays": self.model()} if self.is_built else state

    def __setstate__(self, state):
        state = dict(state)
        arrays = state.pop("_arrays", None)
        self.__dict__.update(state)
        if arrays is not None:
            self._take_model(arrays)


def _to_bytes(text):
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _from_bytes(array):
    return np.asarray(array, dtype=np.uint8).tobytes().decode()
