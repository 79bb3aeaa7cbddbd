"""Tokenizers of the library ``tokenizers``, which is imported when the first one is needed."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np

TOKENIZERS = ("wordpiece", "bpe", "word")

UNKNOWN = "[UNK]"

# Texts tokenised together: bounds the lists of Python ints.
_BLOCK = 4096

# The longest word of a WordPiece tokenizer, in characters; a longer one is unknown.
_LONGEST_WORD = 100

# Times that a word is given to a trainer at once.
_REPEATED = 1000


def _library():
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            'A static encoder of texts needs tokenizers: pip install "skxmc[text]".'
        ) from error
    return tokenizers


def train_tokenizer(texts, kind, size, *, lowercase=True):
    """Return a tokenizer learned from texts.

    Texts are split at white space and punctuation.

    Parameters
    ----------
    texts : list of str
    kind : {"wordpiece", "bpe", "word"}
        Pieces of words, or whole words.
    size : int
        Tokens, the one for what is unknown included. Pieces include each character of the texts,
        at the beginning and within words, even where these are more.
    lowercase : bool, default=True
        Whether to lower the case and remove accents.

    Returns
    -------
    tokenizers.Tokenizer
        The same for the same texts.

    Examples
    --------
    >>> from skxmc.neural._tokenizers import train_tokenizer
    >>> tokenizer = train_tokenizer(["to be or not to be"], "word", 3)
    >>> tokenizer.encode("Be, or not to be!").tokens
    ['be', '[UNK]', '[UNK]', '[UNK]', 'to', 'be', '[UNK]']
    """
    library = _library()
    tokenizer = _untrained(kind, lowercase)
    counts = _count_words(texts, tokenizer)
    if kind == "word":
        best = sorted(counts, key=lambda word: (-counts[word], word))[: max(size - 1, 0)]
        vocabulary = {token: i for i, token in enumerate([UNKNOWN, *best])}
        tokenizer.model = library.models.WordLevel(vocabulary, unk_token=UNKNOWN)
        return tokenizer
    # The trainer numbers the pieces "##c" in the order of a hash table, and ties between pairs
    # are broken by number. As special tokens they have numbers of their own.
    within = sorted({c for word in counts for c in word[1:]})
    settings = {
        "vocab_size": size,
        "special_tokens": [UNKNOWN, *(f"##{c}" for c in within)],
        "show_progress": False,
    }
    if kind == "wordpiece":
        trainer = library.trainers.WordPieceTrainer(**settings)
    else:
        trainer = library.trainers.BpeTrainer(continuing_subword_prefix="##", **settings)
    learner = library.Tokenizer(tokenizer.model)
    learner.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(_repeated(counts), trainer)
    model = json.loads(learner.to_str())["model"]
    if kind == "wordpiece":
        tokenizer.model = _word_piece(model["vocab"])
    else:
        tokenizer.model = library.models.BPE(
            model["vocab"],
            [tuple(pair) for pair in model["merges"]],
            unk_token=UNKNOWN,
            continuing_subword_prefix="##",
        )
    return tokenizer


def _count_words(texts, tokenizer):
    """How often each word occurs, as the tokenizer splits texts."""
    counts = Counter()
    for chunk, count in Counter(chunk for text in texts for chunk in text.split()).items():
        chunk = tokenizer.normalizer.normalize_str(chunk)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(chunk):
            counts[word] += count
    return counts


def words_of(texts, *, lowercase=True):
    """Return the words of texts, as a tokenizer of words splits them."""
    return set(_count_words(texts, _untrained("word", lowercase)))


def _repeated(counts):
    for word, count in sorted(counts.items()):
        for start in range(0, count, _REPEATED):
            yield " ".join([word] * min(_REPEATED, count - start))


def word_tokenizer(words, *, lowercase=True):
    """Return the tokenizer whose tokens are the given words; another word is unknown.

    ``[UNK]`` is its token after the last word.
    """
    tokenizer = _untrained("word", lowercase)
    vocabulary = {word: i for i, word in enumerate(words)}
    vocabulary.setdefault(UNKNOWN, len(words))
    tokenizer.model = _library().models.WordLevel(vocabulary, unk_token=UNKNOWN)
    return tokenizer


def _untrained(kind, lowercase):
    library = _library()
    if kind == "wordpiece":
        model = _word_piece({UNKNOWN: 0})
    elif kind == "bpe":
        model = library.models.BPE(unk_token=UNKNOWN, continuing_subword_prefix="##")
    elif kind == "word":
        model = library.models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN)
    else:
        raise ValueError(f"tokenizer must be one of {TOKENIZERS}, got {kind!r}.")
    tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _word_piece(vocabulary):
    return _library().models.WordPiece(
        vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=_LONGEST_WORD
    )


def load_tokenizer(tokenizer):
    """Return a copy of a ``tokenizers.Tokenizer``, or the one in a file or folder.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer, transformers tokenizer, or path
        A path is a ``tokenizer.json`` or a folder with one.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        If there is none, or it cannot be read.
    """
    library = _library()
    if isinstance(tokenizer, (str, os.PathLike)):
        path = Path(tokenizer)
        path = path / "tokenizer.json" if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no tokenizer {path}; tokenizer= takes one of {TOKENIZERS}, a "
                "tokenizers.Tokenizer, or the path of a tokenizer.json."
            )
        try:
            return from_json(path.read_text(encoding="utf-8"))
        except Exception as error:  # damaged files raise a bare Exception
            raise ValueError(f"The tokenizer in {path} cannot be loaded: {error}") from error
    tokenizer = getattr(tokenizer, "backend_tokenizer", tokenizer)  # of transformers
    if not isinstance(tokenizer, library.Tokenizer):
        raise TypeError(
            f"tokenizer must be one of {TOKENIZERS}, a tokenizers.Tokenizer or the path of a "
            f"tokenizer.json; got {type(tokenizer).__name__}."
        )
    return from_json(tokenizer.to_str())


def from_json(text):
    """Return the tokenizer that a JSON text describes, without padding and truncation.

    Raises ValueError if it has no entry for unknown words, where it would fail at the first one.
    """
    tokenizer = _library().Tokenizer.from_str(text)
    model = tokenizer.model
    needs_one = type(model).__name__ in ("WordLevel", "WordPiece")
    if needs_one and model.token_to_id(model.unk_token) is None:
        raise ValueError(f"The vocabulary has no entry for unknown words, {model.unk_token}.")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def unknown_id(tokenizer):
    """Return the id of the token for what is unknown, or None."""
    model = json.loads(tokenizer.to_str())["model"]
    token = model.get("unk_token")
    return model.get("unk_id") if token is None else tokenizer.token_to_id(token)


def token_ids(tokenizer, texts, max_length=None, *, by_word=False):
    """Return the token ids of texts, without special tokens.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
    texts : list of str
    max_length : int, default=None
        Tokens of a text that are kept; None: all.
    by_word : bool, default=False
        Whether to tokenise each word that stands between white space once, wherever it occurs: for
        tokenizers of this module the same, and faster.

    Returns
    -------
    ids : int32 array of shape (n_tokens,)
    lengths : int64 array of shape (n_texts,)
    """
    lengths = np.zeros(len(texts), dtype=np.int64)
    parts, known = [np.empty(0, dtype=np.int32)], {}
    for start in range(0, len(texts), _BLOCK):
        block = texts[start : start + _BLOCK]
        if by_word:
            block = [text.split() for text in block]
            new = list({word for words in block for word in words if word not in known})
            known.update(zip(new, _encode(tokenizer, new), strict=True))
            rows = [[i for word in words for i in known[word]] for words in block]
        else:
            rows = _encode(tokenizer, block)
        rows = [row[:max_length] for row in rows]
        lengths[start : start + len(rows)] = [len(row) for row in rows]
        parts.extend(np.array(row, dtype=np.int32) for row in rows)
    return np.concatenate(parts), lengths


def _encode(tokenizer, texts):
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)  # from 0.20 on
    return [encoding.ids for encoding in encode(texts, add_special_tokens=False)]
