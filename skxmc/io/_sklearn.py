"""Pipelines and row transformers of scikit-learn in model files.

Stored are parameters and the fitted attributes named here, nothing else that scikit-learn keeps
inside and may change.
"""

import numpy as np

from skxmc.exceptions import ModelFormatError
from skxmc.io import _vectorizers

#: Fitted attributes of what a file can hold, by class, and for the transformers by column.
ATTRIBUTES = {
    "FrozenEstimator": (),
    "Pipeline": (),
    "MaxAbsScaler": ("n_features_in_", "feature_names_in_", "n_samples_seen_"),
    "Normalizer": ("n_features_in_", "feature_names_in_"),
    "TfidfTransformer": ("n_features_in_", "feature_names_in_"),
}
_BY_COLUMN = {"MaxAbsScaler": ("max_abs_", "scale_"), "TfidfTransformer": ("idf_",)}


def fitted_attributes(model):
    """The fitted attributes of an object of scikit-learn that is stored, by name."""
    name = type(model).__name__
    names = (*ATTRIBUTES[name], *_BY_COLUMN.get(name, ()))
    return {name: getattr(model, name) for name in names if name in vars(model)}


def stored_params(model, params):
    """The parameters to be stored: without the cache folder of a pipeline, which holds pickles."""
    if type(model).__name__ == "Pipeline":
        if params.get("memory") is not None:
            raise TypeError(
                "A Pipeline with memory is not stored, for its cache is a folder of pickles: "
                "pipeline.set_params(memory=None) before saving."
            )
        params = {name: value for name, value in params.items() if name != "memory"}
    return params


def make(cls, params, attributes):
    """Put such an object together again, and check it."""
    name = cls.__name__
    # models of the first format version keep the version of scikit-learn here
    attributes = {k: v for k, v in attributes.items() if k != "_sklearn_version"}
    by_column = _BY_COLUMN.get(name, ())
    unknown = set(attributes) - {*ATTRIBUTES[name], *by_column}
    if unknown or (name == "Pipeline" and "memory" in params):
        raise ModelFormatError(f"A {name} is not stored with {sorted(unknown) or 'memory'}.")
    model = cls(**params)
    if name == "Pipeline":
        _check_steps(model.steps)
    elif name != "FrozenEstimator":
        model._validate_params()
    width = attributes.get("n_features_in_")
    if width is not None and not (type(width) is int and width >= 0):
        raise ModelFormatError(f"The number of features of a {name} is {width!r}.")
    for attribute in by_column:
        values = attributes.get(attribute)
        if values is None:
            needed = width is not None and getattr(model, "use_idf", True)
            if needed:
                raise ModelFormatError(f"A fitted {name} needs {attribute}.")
            continue
        fits = isinstance(values, np.ndarray) and values.dtype.kind == "f"
        if not fits or values.shape != (width,) or not np.isfinite(values).all():
            raise ModelFormatError(f"{attribute} of a {name} does not fit its columns.")
        if attribute == "scale_" and not values.all():
            raise ModelFormatError(f"A {name} divides by zero.")
    vars(model).update(attributes)
    return model


def _check_steps(steps):
    fits = isinstance(steps, list) and len(steps) > 0
    fits = fits and all(
        isinstance(step, tuple) and len(step) == 2 and isinstance(step[0], str) for step in steps
    )
    if not fits or len({name for name, _ in steps}) != len(steps):
        raise ModelFormatError("The steps of a Pipeline must be pairs of different names.")
    for _, step in steps[:-1]:
        if not (step is None or step == "passthrough" or hasattr(step, "transform")):
            raise ModelFormatError(f"A {type(step).__name__} is no step of a Pipeline.")
    if not hasattr(steps[-1][1], "fit"):
        raise ModelFormatError("The last step of a Pipeline must be an estimator.")


def check_pipeline(pipeline):
    """Refuse a fitted pipeline whose steps do not fit to each other.

    Returns
    -------
    int or None
        The columns that it makes, None if it ends in an estimator.
    """
    width = None
    for number, (name, step) in enumerate(pipeline.steps):
        if step is None or isinstance(step, str):
            continue
        kind = type(step).__name__
        takes = None if kind == "Pipeline" else getattr(step, "n_features_in_", None)
        if width is not None and (takes or width) != width:
            raise ModelFormatError(f"The step {name!r} takes {takes} features, but gets {width}.")
        if kind == "Pipeline":
            width = check_pipeline(step)
        elif _vectorizers.is_vectorizer(step):
            if width is not None:
                raise ModelFormatError(f"The step {name!r} takes texts, but gets numbers.")
            width = _vectorizers.n_columns(step)
        else:
            width = takes if hasattr(step, "transform") else None
        if width is None and number < len(pipeline.steps) - 1:
            raise ModelFormatError(f"The step {name!r} is not fitted, or makes no columns.")
    return width
