"""All arrays that a model has learned, for comparisons bit for bit."""

import hashlib

import numpy as np
import scipy.sparse as sp

_NOT_LEARNED = ("_search", "_scorer", "random_state", "checkpoint_dir", "cache_dir")


def arrays_of(model):
    """Arrays by the names of the attributes that hold them."""
    found = {}

    def collect(name, value):
        if sp.issparse(value):
            value = {"data": value.data, "indices": value.indices, "indptr": value.indptr}
        elif hasattr(value, "_asdict"):
            value = value._asdict()
        elif hasattr(value, "get_params") and hasattr(value, "__getstate__"):
            value = value.__getstate__()
        if isinstance(value, np.ndarray):
            found[name] = value
        elif isinstance(value, dict):
            for key, part in value.items():
                if key not in _NOT_LEARNED:
                    collect(f"{name}.{key}", part)
        elif isinstance(value, (list, tuple)):
            for number, part in enumerate(value):
                collect(f"{name}.{number}", part)

    collect(type(model).__name__, model)
    return found


def digest(arrays):
    """One number for named arrays: names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype.str} {array.shape}".encode())
        data = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
        total.update(data)
    return total.hexdigest()


def answers_digest(model, X, k=5):
    answers = model.predict_topk(X, k=k)
    return digest({"labels": answers.labels, "scores": answers.scores})
