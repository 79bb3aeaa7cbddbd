"""Models that come from a file: what is checked when they open, and what when a row is asked.

Sizes are checked at once, the rest where it is needed: a model that is mapped opens without its
weights being read. A prediction then reads all weights of an output layer, or all label vectors, in
one pass, in which the kernel looks at each index before it follows it. A weight that is not finite
shows in the score, which is not finite either. Only where something is wrong all is read once more,
to say what.
"""

import functools

import numpy as np

from skxmc.exceptions import ModelFormatError
from skxmc.io._arrays import NOT_DAMAGE
from skxmc.ops.sparse_head import low_precision

# Entries of an array that are looked at together.
_BLOCK = 1 << 20


def refuses_damage(score):
    """Decorate ``_score_topk`` or ``_score_dense`` of an estimator that a file may hold.

    Where the weights have not been looked through, its errors and answers that are no numbers are
    a reason to do so: by ``_check_all_weights``, which raises `ModelFormatError` if it is them.
    """

    @functools.wraps(score)
    def checked(self, *args, **kwargs):
        if not vars(self).get("_unread"):
            return score(self, *args, **kwargs)
        try:
            answers = score(self, *args, **kwargs)
        except ValueError:
            self._check_all_weights()
            raise
        scores = getattr(answers, "scores", answers)
        if not scores.max(initial=-np.inf) < np.inf:  # NaN too
            self._check_all_weights()
        return answers

    return checked


def check_finite(array, where, precision="float32"):
    """Raise ModelFormatError for a number that is not finite, whatever precision its bits have."""
    for first, block in _blocks(array):
        numbers = block if precision == "float32" else low_precision.decode(block, precision)
        finite = np.isfinite(numbers)
        if not finite.all():
            row = first + int(np.argmin(finite.reshape(len(block), -1).all(axis=1)))
            raise ModelFormatError(f"Row {row} of {where} has numbers that are not finite.")


def check_indices(indices, n_inputs, where):
    """Raise ModelFormatError for an index that is none of an input."""
    for first, block in _blocks(indices):
        if block.min() < 0 or block.max() >= n_inputs:
            wrong = ((block < 0) | (block >= n_inputs)).any(axis=1)
            row = first + int(np.argmax(wrong))
            raise ModelFormatError(
                f"Row {row} of {where} has an index outside of 0 to {n_inputs - 1}."
            )


def check_encoder(arrays):
    """Raise ModelFormatError for weights of a stored encoder that are not finite.

    Of a text encoder's only NaN is refused: infinities may belong to it, such as in masks.
    """
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            continue
        if "module." in name:
            if any(np.isnan(block).any() for _, block in _blocks(array)):
                raise ModelFormatError(f"The array {name} of the encoder has NaN.")
        else:
            check_finite(array, f"the array {name} of the encoder")


def stored_width(arrays, n_features=None):
    """Width of the features of a stored encoder; None for a text encoder, which has to be built.

    Raises ValueError if the encoder is one of rows of numbers that have not ``n_features`` columns.
    """
    kind = np.asarray(arrays["kind"], dtype=np.uint8).tobytes()
    if kind == b"text":
        return None
    if kind == b"identity":
        width = int(arrays["n_outputs"][0])
        if width != n_features:
            raise ValueError("the encoder does not fit n_features_in_")
        return width
    weights = arrays["projection.weights" if kind == b"projected" else "weights"]
    if weights.ndim != 2 or weights.dtype != np.float32:
        raise ValueError("the weights of the encoder must be float32, two-dimensional")
    if kind == b"linear" and len(weights) != n_features:
        raise ValueError("the encoder does not fit n_features_in_")
    return weights.shape[1]


def build(make, arrays, **options):
    """``make(arrays, **options)``, an encoder; ModelFormatError where the arrays are none."""
    try:
        return make(arrays, **options)
    except (ImportError, ModelFormatError, *NOT_DAMAGE):
        raise
    except Exception as error:  # parsers of tokenizers and configurations raise nearly anything
        raise ModelFormatError(
            f"The encoder of the model is damaged: {type(error).__name__}: {error}"
        ) from error


def _blocks(array):
    """First row and rows of parts of an array, of a scalar too."""
    array = np.atleast_1d(array)
    n_rows = max(1, _BLOCK // max(1, array[:1].size))
    for first in range(0, len(array) if array.size else 0, n_rows):
        yield first, array[first : first + n_rows]
