"""Estimators by short names, with the options of the command line as their parameters."""

import difflib
import inspect
import json

import numpy as np
from sklearn.pipeline import Pipeline

import skxmc
from skxmc._cli._errors import USAGE, stage, usage_error
from skxmc.linear import PRESETS

#: Short name -> (class, parameters).
ESTIMATORS = {
    "dismec": ("DismecClassifier", {}),
    **{name: ("ParabelTree", {"preset": name}) for name in PRESETS},
    "sparse-dst": ("SparseDSTClassifier", {}),
    "unidec": ("UniDECClassifier", {}),
    "xr-transformer": ("XRTransformerClassifier", {}),
}
VECTORIZERS = ("tfidf", "hashing", "none")

# Words with inner + . # - kept whole (c++11, x-window, 0.9), single characters too.
_TOKENS = r"\w[\w+.#-]*\w|\w"
_WORDS = {"strip_accents": "unicode", "token_pattern": _TOKENS, "dtype": np.float32}
_VECTORIZER_DEFAULTS = {
    "tfidf": {**_WORDS, "sublinear_tf": True, "min_df": 2},
    "hashing": {**_WORDS, "n_features": 2**18, "alternate_sign": False},
}


def parse_options(pairs, document):
    """Parameters of ``key=value`` options and of a JSON object.

    A value is read as JSON where it is JSON (numbers, true, null, lists, "texts"), else as text.
    """
    options = {}
    if document is not None:
        try:
            options = json.loads(document)
        except ValueError as error:
            raise usage_error(f"--params is not JSON: {error}") from None
        if not isinstance(options, dict):
            raise usage_error("--params must be a JSON object, such as '{\"C\": 2.0}'.")
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise usage_error(f"Expected key=value, got {pair!r}.")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


def make_estimator(
    name, options, *, jobs=None, seed=None, memory_limit=None, verbose=0, label_text=False
):
    """An unfitted estimator.

    Parameters
    ----------
    name : str
        A key of ESTIMATORS or the name of the class.
    options : dict
        Parameters; they win over those of the name.
    jobs, seed, memory_limit, verbose
        ``n_jobs``, ``random_state``, ``memory_limit``, ``verbose``, where the estimator has them.
        It must have ``memory_limit`` if that is given.
    label_text : bool
        Whether the labels have texts: a tree then clusters them by these too.
    """
    classes = {cls for cls, _ in ESTIMATORS.values()}
    if name in ESTIMATORS:
        class_name, params = ESTIMATORS[name]
    elif name in classes:
        class_name, params = name, {}
    else:
        raise usage_error(_unknown("estimator", name, [*ESTIMATORS, *sorted(classes)]))
    with stage(USAGE, f"--estimator {name}"):
        cls = getattr(skxmc, class_name)
    known = cls._get_param_names()
    for key in options:
        if key not in known:
            raise usage_error(_unknown(f"parameter of {class_name}", key, known))
    general = {"n_jobs": jobs, "random_state": seed, "verbose": verbose}
    params = {**{k: v for k, v in general.items() if k in known}, **params}
    if memory_limit is not None:
        if "memory_limit" not in known:
            raise usage_error(f"{class_name} has no memory limit: leave out --memory-limit.")
        params["memory_limit"] = memory_limit
    if label_text and "label_representation" in known:
        params["label_representation"] = "pifa+text"
    estimator = cls(**{**params, **options})
    with stage(USAGE, f"--estimator {name}"):
        estimator._validate_params()
    return estimator


def with_vectorizer(estimator, kind, options):
    """A pipeline that turns texts into word weights for the estimator.

    Parameters
    ----------
    estimator : classifier
    kind : {"tfidf", "hashing", "none"}
    options : dict
        Parameters of `TfidfVectorizer` or `HashingVectorizer`.
    """
    if kind not in VECTORIZERS:
        raise usage_error(_unknown("vectorizer", kind, VECTORIZERS))
    if kind == "none":
        if options:
            raise usage_error("--vectorizer none has no parameters (--tokens).")
        return estimator
    from sklearn.feature_extraction import text

    cls = text.TfidfVectorizer if kind == "tfidf" else text.HashingVectorizer
    known = cls._get_param_names()
    for key, value in options.items():
        if key not in known:
            raise usage_error(_unknown(f"parameter of {cls.__name__}", key, known))
        if key == "ngram_range" and isinstance(value, list):
            options = {**options, key: tuple(value)}
    vectorizer = cls(**{**_VECTORIZER_DEFAULTS[kind], **options})
    with stage(USAGE, "--tokens"):
        vectorizer._validate_params()
    return Pipeline([("vectorizer", vectorizer), ("classifier", estimator)])


def takes_label_text(estimator):
    """Whether ``fit`` has the argument ``label_text``."""
    return "label_text" in inspect.signature(estimator.fit).parameters


def _unknown(what, name, known):
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"There is no {what} {name!r}.{hint} There are: {', '.join(map(str, known))}."
