"""Text vectorisers of scikit-learn in model files: parameters, terms, document frequencies.

What scikit-learn keeps inside changes between its versions; this does not.
"""

import json
import warnings

import numpy as np

from skxmc.exceptions import ModelFormatError
from skxmc.io._arrays import NOT_DAMAGE

#: Those that a model file can hold, all of ``sklearn.feature_extraction.text``.
VECTORIZERS = ("CountVectorizer", "HashingVectorizer", "TfidfVectorizer")


def is_vectorizer(value):
    """Return whether an object is one of them, not of a class derived from one."""
    kind = type(value)
    return kind.__name__ in VECTORIZERS and kind.__module__ == "sklearn.feature_extraction.text"


def vectorizer_parts(vectorizer):
    """Take a vectoriser apart.

    Returns
    -------
    params : dict
        With the dtype as `numpy.dtype`, and a set of terms as a list.
    terms : list of str, or None
        By column; None if it is not fitted, or has no vocabulary.
    idf : float64 array of shape (n_terms,), or None
    """
    params = vectorizer.get_params(deep=False)
    params["dtype"] = np.dtype(params["dtype"])
    if params["input"] != "content":
        raise TypeError(
            f"A {type(vectorizer).__name__} that reads files by their names is not stored: "
            'set_params(input="content").'
        )
    if isinstance(params.get("vocabulary"), (set, frozenset)):
        params["vocabulary"] = sorted(params["vocabulary"])
    if not hasattr(vectorizer, "vocabulary_"):
        return params, None, None
    idf = None
    if params.get("use_idf") and hasattr(vectorizer, "idf_"):
        idf = np.asarray(vectorizer.idf_, dtype=np.float64)
    by_column = sorted(vectorizer.vocabulary_.items(), key=lambda item: item[1])
    return params, [term for term, _ in by_column], idf


def n_columns(vectorizer):
    """Columns that it makes; None if it is not fitted."""
    if type(vectorizer).__name__ == "HashingVectorizer":
        return vectorizer.n_features
    return len(vectorizer.vocabulary_) if hasattr(vectorizer, "vocabulary_") else None


def terms_to_array(terms):
    """Terms as an array of the bytes of JSON: not read before they are needed."""
    return np.frombuffer(json.dumps(terms).encode(), dtype=np.uint8)


def make_vectorizer(name, params, terms, idf):
    """Put a vectoriser together again; see `vectorizer_parts`.

    Raises ModelFormatError where it cannot be one. ``terms`` may be what `terms_to_array` made.
    """
    try:
        if isinstance(terms, np.ndarray):
            terms = json.loads(terms.astype(np.uint8, casting="no", copy=False).tobytes())
        return _make_vectorizer(name, params, terms, idf)
    except (ModelFormatError, *NOT_DAMAGE):
        raise
    except Exception as error:  # of JSON, of regular expressions
        raise ModelFormatError(f"A {name} is damaged: {type(error).__name__}: {error}") from error


def _make_vectorizer(name, params, terms, idf):
    from sklearn.feature_extraction import text

    if name not in VECTORIZERS:
        raise ModelFormatError(f"{name!r} is not a text vectoriser that is stored.")
    params = {**params, "dtype": np.dtype(params["dtype"]).type}
    if params.get("input", "content") != "content":
        raise ModelFormatError("A vectoriser of a model file takes texts, not names of files.")
    vectorizer = getattr(text, name)(**params)
    if terms is None:
        vectorizer._validate_params()
        return vectorizer
    if name == "HashingVectorizer":
        raise ModelFormatError("A HashingVectorizer has no terms.")
    if not isinstance(terms, list) or set(map(type, terms)) != {str}:
        raise ModelFormatError(f"The terms of a {name} are not strings, or there are none.")
    columns = dict(zip(terms, range(len(terms)), strict=True))
    if len(columns) != len(terms):
        raise ModelFormatError(f"The terms of a {name} are not all different.")
    if idf is not None and (idf.shape != (len(terms),) or not np.isfinite(idf).all()):
        raise ModelFormatError(f"The document frequencies of a {name} do not fit its terms.")
    given = params["vocabulary"]
    with warnings.catch_warnings():
        # of terms that seem to have capitals, such as a letter without a lower case
        warnings.filterwarnings("ignore", "Upper case characters found in vocabulary")
        # A fit refuses wrong parameters; with the vocabulary given it learns nothing but document
        # frequencies. With many terms it takes long.
        transforms_by_idf = name == "TfidfVectorizer" and idf is not None
        alone = transforms_by_idf or name == "CountVectorizer"
        vectorizer.set_params(vocabulary=["a"] if alone else terms).fit([""])
    if alone:
        vectorizer = getattr(text, name)(**{**params, "vocabulary": None})
        vectorizer.fixed_vocabulary_, vectorizer.vocabulary_ = given is not None, columns
    if idf is not None:
        vectorizer.idf_ = idf
    return vectorizer.set_params(vocabulary=given)
