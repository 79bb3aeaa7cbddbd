"""Text vectorisers of scikit-learn in model files: parameters, terms, document frequencies.

What scikit-learn keeps inside changes between its versions; this does not.
"""

import warnings

import numpy as np

from skxmc.exceptions import ModelFormatError

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


def make_vectorizer(name, params, terms, idf):
    """Put a vectoriser together again; see `vectorizer_parts`."""
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
    if len(set(terms)) != len(terms) or not all(isinstance(term, str) for term in terms):
        raise ModelFormatError(f"The terms of a {name} are not strings, or not all different.")
    # With the vocabulary given, a fit learns nothing but the document frequencies.
    with warnings.catch_warnings():
        # of terms that seem to have capitals, such as a letter without a lower case
        warnings.filterwarnings("ignore", "Upper case characters found in vocabulary")
        vectorizer.set_params(vocabulary=terms).fit([""])
    if idf is not None:
        if idf.shape != (len(terms),) or not np.isfinite(idf).all():
            raise ModelFormatError(f"The document frequencies of a {name} do not fit its terms.")
        vectorizer.idf_ = idf
    return vectorizer.set_params(vocabulary=params["vocabulary"])
