"""Ranked answers with their probabilities, from whatever model can be saved."""

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags

from skxmc._meta import base_topk, is_frozen
from skxmc.base import XMCClassifierMixin
from skxmc.decision import MacroAtKPredictor
from skxmc.ops.topk import TopK


def final_estimator(model):
    """The classifier at the end of pipelines, searches and `FrozenEstimator`."""
    while True:
        if is_frozen(model):
            model = model.estimator
        elif isinstance(model, Pipeline):
            model = model[-1]
        elif hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        else:
            return model


def takes_text(model):
    """Whether the rows of a model, fitted or not, are texts.

    The tags of a pipeline do not say it, those of its first step do.
    """
    while True:
        if isinstance(model, Pipeline):
            model = model[0]
        elif hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif hasattr(model, "estimator_"):
            model = model.estimator_
        elif is_frozen(model):
            model = model.estimator
        else:
            return bool(get_tags(model).input_tags.string)


def label_count(model):
    """Number of labels of a fitted model."""
    last = final_estimator(model)
    return int(last.n_labels_) if hasattr(last, "n_labels_") else len(last.classes_)


def feature_count(model):
    """Number of features of a row; None if the model does not say."""
    count = getattr(model, "n_features_in_", None)
    return None if count is None else int(count)


def probabilities(model, scores):
    """Probabilities of the margins that ``predict_topk`` returns, float32, 0 where -inf."""
    last = final_estimator(model)
    while isinstance(last, MacroAtKPredictor):  # passes on the margins of what it wraps
        last = final_estimator(last.estimator_)
    to_proba = last._proba if isinstance(last, XMCClassifierMixin) else expit
    proba = np.asarray(to_proba(scores), dtype=np.float32)
    return np.where(np.isneginf(scores), np.float32(0), proba)


def set_threads(model, n_jobs):
    """Set ``n_jobs`` of a fitted model and of all estimators in it; the answers stay the same."""
    parts, known = [model], set()
    while parts:
        part = parts.pop()
        if isinstance(part, (list, tuple)):  # steps of a pipeline, folds
            parts.extend(part)
        elif isinstance(part, BaseEstimator) and id(part) not in known:
            known.add(id(part))
            if hasattr(part, "n_jobs"):
                part.n_jobs = n_jobs
            parts.extend(vars(part).values())


def answer(model, X, k, *, scores="probability"):
    """The k best labels of each row.

    Parameters
    ----------
    model : fitted estimator
    X : rows as it takes them
    k : int
        Answers a row, at least 1.
    scores : {"probability", "margin"}, default="probability"
        Unit of the scores.

    Returns
    -------
    TopK
        Padded with -1; the score there is 0 (a probability) or -inf (a margin).
    """
    ranked = base_topk(model, X, k)
    if scores == "margin":
        return ranked
    return TopK(ranked.labels, probabilities(model, ranked.scores))
