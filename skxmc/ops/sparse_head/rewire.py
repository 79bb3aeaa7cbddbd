"""Dynamic sparse training: give up the weakest inputs of a sparse part, and grow new ones.

Prune by magnitude over the whole part (SET, Mocanu et al. 2018; RigL, Evci et al. 2020), in each
row (constant fan-in as in SRigL, Lasby et al. 2024) or below a decaying threshold (Ullah et al.,
"Navigating extremes: dynamic sparsity in large output spaces", 2024); grow at random (SET) or where
the gradient is largest (RigL). A row is what shares an index set: a label, or a group of labels.
"""

import math
from typing import NamedTuple

import numpy as np

from skxmc.ops._jit import jit
from skxmc.ops.sparse_head._random import step_key
from skxmc.ops.sparse_head.initial import uniform_below
from skxmc.ops.sparse_head.low_precision import decode

_CHUNK = 1 << 20  # weights, and entries of the dense gradient / 4, looked at at a time
_STREAM = 0xFFFFFFFD  # number of the random stream, counted down for further parts


class RewireResult(NamedTuple):
    """What `rewire` did.

    Attributes
    ----------
    n_rewired : int
        Slots that got another input.
    n_slots : int
        All slots: ``indices.size``.
    """

    n_rewired: int
    n_slots: int


def rewire(
    part,
    state,
    n_inputs,
    *,
    prune="global",
    fraction=None,
    threshold=None,
    grow="random",
    gradient=None,
    seed,
    step,
    part_number=0,
):
    """Replace the weakest inputs of each row by others, in place.

    The score of a slot is the absolute weight, in a group the mean over its labels. New weights are
    0, and so are the moments and compensations of their slots. Each row keeps exactly ``fan_in``
    different inputs.

    Parameters
    ----------
    part : Part
        NumPy arrays. A dense part is left as it is.
    state : State
    n_inputs : int
        Number of features.
    prune : {"global", "row", "threshold"}, default="global"
        ``"global"``: the ``round(fraction * n_slots)`` slots with the smallest scores of the part;
        ``"row"``: the ``round(fraction * fan_in)`` smallest of each row; equal scores in the order
        of the slots. ``"threshold"``: all slots with a score below ``threshold``.
    fraction : float in [0, 1], default=None
        Needed for ``"global"`` and ``"row"`` only.
    threshold : float, default=None
        Needed for ``"threshold"`` only.
    grow : {"random", "gradient"}, default="random"
        ``"random"``: uniformly among the inputs that the row does not have. ``"gradient"``: those
        among them with the largest absolute gradient, in a group the largest norm over its labels
        (equal ones: the smaller input first); where fewer have a gradient other than 0, the rest at
        random.
    gradient : callable, default=None
        ``gradient(first, stop)`` returns the gradient of the weights of labels ``first`` to
        ``stop - 1`` of the part with respect to all inputs, float32 of shape
        (stop - first, n_inputs): see ``input_gradients`` of the backends. Needed for ``"gradient"``
        only; called for consecutive chunks of whole groups, not for those without pruned slots.
    seed, step : int
        Equal ones give equal results.
    part_number : int, default=0
        Place of the part in its layer, so that parts draw different numbers.

    Returns
    -------
    RewireResult

    Raises
    ------
    ValueError
        If an option is unknown, missing, of no use or out of range; if the indices do not fit
        ``n_inputs``; if the gradient has a wrong shape.

    Notes
    -----
    The inputs given up do not come back in the same call. So a row can give up at most
    ``n_inputs - fan_in`` slots: of more, those with the smallest scores; with
    ``fan_in = n_inputs`` nothing happens.

    O(weights) time, three passes; with ``grow="gradient"`` O(n_labels * n_inputs) and the gradient.
    Memory beside the part: about 40 MiB plus 16 bytes for each input, and 16 MiB (at least one
    group) of dense gradient.

    Examples
    --------
    >>> from skxmc.ops.sparse_head._types import Optimizer
    >>> from skxmc.ops.sparse_head.initial import initialise, new_state
    >>> from skxmc.ops.sparse_head.rewire import rewire
    >>> part = initialise(100, n_inputs=50, fan_in=8)
    >>> state = new_state(part, Optimizer("sgd", learning_rate=0.1))
    >>> rewire(part, state, 50, fraction=0.1, seed=0, step=100)
    RewireResult(n_rewired=80, n_slots=800)
    >>> int((part.weights == 0).sum())
    80
    """
    _check_options(prune, fraction, threshold, grow, gradient)
    if part.indices is None:
        return RewireResult(0, 0)
    n_groups, fan_in = part.indices.shape
    _check_indices(part, n_inputs)
    if prune == "global":
        cut = _GlobalCut(part, round(fraction * n_groups * fan_in))
    key = np.uint32(step_key(seed, step, _STREAM - part_number))
    regrow = _Regrow(n_inputs, fan_in, key)
    n_rewired = 0
    width = n_inputs * 4 if grow == "gradient" else 0
    for groups, labels in _chunks(part, width):
        scores = _slot_scores(part, labels)
        if prune == "global":
            pruned = cut.next(scores)
        elif prune == "row":
            pruned = _smallest_of_rows(scores, round(fraction * fan_in))
        else:
            pruned = scores < _bits(np.float32(threshold))
        pruned = _limit(pruned, scores, n_inputs - fan_in)
        n_pruned = int(np.count_nonzero(pruned))
        if n_pruned == 0:
            continue
        n_rewired += n_pruned
        dense = None
        if grow == "gradient":
            dense = _checked_gradient(gradient, labels, n_inputs)
        regrow(part.indices[groups], pruned, dense, part.group_size)
        _reset(part, state, labels, pruned)
    return RewireResult(n_rewired, n_groups * fan_in)


def cosine_fraction(alpha, step, end):
    """The share of slots to rewire: ``alpha / 2 (1 + cos(pi step / end))``, and 0 from ``end`` on.

    RigL, Evci et al. 2020, section 3. ``step`` counts training steps from 0.

    Examples
    --------
    >>> from skxmc.ops.sparse_head.rewire import cosine_fraction
    >>> [round(cosine_fraction(0.3, step, 100), 3) for step in (0, 50, 100, 150)]
    [0.3, 0.15, 0.0, 0.0]
    """
    return alpha * _half_cosine(step, end)


def decaying_threshold(start, stop, step, end):
    """The pruning threshold: from ``start`` at step 0 along half a cosine to ``stop`` at ``end``.

    Examples
    --------
    >>> from skxmc.ops.sparse_head.rewire import decaying_threshold
    >>> [round(decaying_threshold(0.05, 0.01, step, 100), 3) for step in (0, 50, 100, 150)]
    [0.05, 0.03, 0.01, 0.01]
    """
    return stop + (start - stop) * _half_cosine(step, end)


def _half_cosine(step, end):
    if step < 0:
        raise ValueError(f"step must not be negative; got {step}.")
    if step >= end:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * step / end))


def _chunks(part, width):
    """Ranges of groups and of their labels, of about _CHUNK weights or entries of the gradient."""
    size = part.group_size
    n_groups = len(part.indices)
    step = max(1, _CHUNK * 4 // (size * max(4 * part.fan_in, width)))
    for first in range(0, n_groups, step):
        stop = min(first + step, n_groups)
        yield slice(first, stop), slice(first * size, min(stop * size, part.n_labels))


def _bits(values):
    # The bits of floats that are not negative are ordered as the floats, and NaN comes last.
    return values.view(np.uint32)


def _slot_scores(part, labels):
    """Bits of the scores of the slots of whole groups, (n_groups, fan_in)."""
    magnitude = np.abs(decode(part.weights[labels], part.precision))
    size = part.group_size
    if size == 1:
        return _bits(magnitude)
    first = np.arange(0, len(magnitude), size)
    total = np.add.reduceat(magnitude, first, axis=0, dtype=np.float64)
    n_labels = np.diff(first, append=len(magnitude))  # the last group may be smaller
    return _bits((total / n_labels[:, None]).astype(np.float32))


class _GlobalCut:
    """The `count` slots with the smallest scores of a part, without a copy of the scores.

    The count-th smallest score is found by its upper 16 bits and then by its lower 16 bits: two
    passes with a histogram. Of the slots with exactly that score the first ones are taken.
    """

    def __init__(self, part, count):
        self._n_equal = 0
        self._cut = np.uint32(0)
        if count == 0:
            return
        histogram = np.zeros(1 << 16, dtype=np.int64)
        for _, labels in _chunks(part, 0):
            upper = (_slot_scores(part, labels) >> np.uint32(16)).ravel()
            histogram += np.bincount(upper, minlength=1 << 16)
        upper, count = self._locate(histogram, count)
        histogram[:] = 0
        for _, labels in _chunks(part, 0):
            scores = _slot_scores(part, labels)
            lower = scores[scores >> np.uint32(16) == upper] & np.uint32(0xFFFF)
            histogram += np.bincount(lower, minlength=1 << 16)
        lower, self._n_equal = self._locate(histogram, count)
        self._cut = np.uint32(upper << 16 | lower)

    @staticmethod
    def _locate(histogram, count):
        """The bin of the count-th smallest, and its place in the bin (from 1)."""
        total = np.cumsum(histogram)
        position = int(np.searchsorted(total, count))
        return position, count - int(total[position] - histogram[position])

    def next(self, scores):
        """Which slots of the next chunk are pruned; to be called once for each, in order."""
        pruned = scores < self._cut
        if self._n_equal:
            equal = np.flatnonzero(scores == self._cut)[: self._n_equal]
            pruned.reshape(-1)[equal] = True
            self._n_equal -= len(equal)
        return pruned


def _smallest_of_rows(scores, count):
    if count == 0:
        return np.zeros(scores.shape, dtype=bool)
    cut = np.partition(scores, count - 1, axis=1)[:, count - 1 : count]
    pruned = scores < cut
    equal = scores == cut
    n_equal = count - np.count_nonzero(pruned, axis=1, keepdims=True)
    pruned |= equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= n_equal)
    return pruned


def _limit(pruned, scores, limit):
    """At most ``limit`` pruned slots in each row: those with the smallest scores."""
    if limit >= pruned.shape[1] or np.count_nonzero(pruned, axis=1).max(initial=0) <= limit:
        return pruned
    ranked = np.where(pruned, scores, np.uint32(0xFFFFFFFF))
    return pruned & _smallest_of_rows(ranked, limit)


def _reset(part, state, labels, pruned):
    """Zero the weights of the pruned slots and what the optimiser keeps for them."""
    pruned = np.repeat(pruned, part.group_size, axis=0)[: labels.stop - labels.start]
    for array in (part.weights, state.momentum, state.second, state.compensation):
        if array is not None:
            rows = array[labels]  # the compensation ends before the last label
            rows[pruned[: len(rows)]] = 0


class _Regrow:
    """Put new inputs into the pruned slots of the chunks, with scratch memory kept for all."""

    def __init__(self, n_inputs, fan_in, key):
        self._key = key
        self._counter = np.zeros(1, dtype=np.int64)  # numbers drawn so far
        self._marks = np.zeros(n_inputs, dtype=np.int32)
        self._pool = np.empty(n_inputs, dtype=np.int32)
        self._strength = np.empty(n_inputs, dtype=np.float64)
        self._row = np.empty(fan_in, dtype=np.int32)

    def __call__(self, indices, pruned, gradient, group_size):
        if gradient is None:
            gradient = np.empty((0, 0), dtype=np.float32)
        _regrow(
            *(indices, pruned, gradient, group_size, self._key, self._counter),
            *(self._marks, self._pool, self._strength, self._row),
        )


@jit
def _regrow(indices, pruned, gradient, group_size, key, counter, marks, pool, strength, chosen):
    n_groups, fan_in = indices.shape
    marks[:] = 0  # marks[i] == group + 1: the group has, had, or has just got the input i
    for group in range(n_groups):
        wanted = 0
        for slot in range(fan_in):
            wanted += pruned[group, slot]
        if wanted == 0:
            continue
        for slot in range(fan_in):
            marks[indices[group, slot]] = group + 1
        found = 0
        if len(gradient) > 0:
            first = group * group_size
            stop = min(first + group_size, len(gradient))
            _strengths(gradient[first:stop], strength)
            found = _strongest(strength, marks, group + 1, chosen[:wanted])
            for n in range(found):
                marks[chosen[n]] = group + 1
        _draw_unmarked(marks, group + 1, pool, fan_in, chosen[found:wanted], key, counter)
        n = 0
        for slot in range(fan_in):
            if pruned[group, slot]:
                indices[group, slot] = chosen[n]
                n += 1


@jit
def _strengths(gradient, strength):
    strength[:] = 0.0
    for label in range(len(gradient)):
        for i in range(len(strength)):
            strength[i] += np.float64(gradient[label, i]) ** 2


@jit
def _strongest(strength, marks, mark, chosen):
    """The unmarked inputs with the largest strengths above 0, best first; returns how many."""
    found = 0
    for i in range(len(strength)):
        value = strength[i]
        if not value > 0.0 or marks[i] == mark:
            continue
        if found == len(chosen) and not value > strength[chosen[found - 1]]:
            continue
        # Insertion; i is larger than all before, so it goes behind equal ones.
        place = found if found < len(chosen) else found - 1
        while place > 0 and value > strength[chosen[place - 1]]:
            chosen[place] = chosen[place - 1]
            place -= 1
        chosen[place] = i
        found = min(found + 1, len(chosen))
    return found


@jit
def _draw_unmarked(marks, mark, pool, fan_in, chosen, key, counter):
    """Draw different unmarked inputs, and mark them."""
    n_inputs = len(marks)
    if 2 * (fan_in + len(chosen)) <= n_inputs:  # most are free: draw until it fits
        for n in range(len(chosen)):
            while True:
                candidate = uniform_below(key, counter[0], n_inputs)
                counter[0] += 1
                if marks[candidate] != mark:
                    break
            marks[candidate] = mark
            chosen[n] = candidate
        return
    n_free = 0
    for i in range(n_inputs):
        if marks[i] != mark:
            pool[n_free] = i
            n_free += 1
    for n in range(len(chosen)):  # the first steps of a Fisher-Yates shuffle
        other = n + uniform_below(key, counter[0], n_free - n)
        counter[0] += 1
        pool[n], pool[other] = pool[other], pool[n]
        marks[pool[n]] = mark
        chosen[n] = pool[n]


def _checked_gradient(gradient, labels, n_inputs):
    dense = np.ascontiguousarray(gradient(labels.start, labels.stop), dtype=np.float32)
    shape = labels.stop - labels.start, n_inputs
    if dense.shape != shape:
        raise ValueError(
            f"gradient({labels.start}, {labels.stop}) must have the shape (labels, n_inputs) = "
            f"{shape}; got {dense.shape}."
        )
    return dense


def _check_indices(part, n_inputs):
    fan_in = part.indices.shape[1]
    if fan_in > n_inputs:
        raise ValueError(
            f"fan_in must be at most the number of inputs, {n_inputs}; got {fan_in}. Lower it, or "
            "widen the layer below."
        )
    for groups, _ in _chunks(part, 0):  # kernels do not check bounds
        indices = part.indices[groups]
        if indices.min() < 0 or indices.max() >= n_inputs:
            row = groups.start + int(np.argmax(((indices < 0) | (indices >= n_inputs)).any(axis=1)))
            raise ValueError(
                f"indices: row {row} holds an input outside 0 to {n_inputs - 1} (n_inputs = "
                f"{n_inputs})."
            )


def _check_options(prune, fraction, threshold, grow, gradient):
    if prune not in ("global", "row", "threshold"):
        raise ValueError(f"prune must be 'global', 'row' or 'threshold'; got {prune!r}.")
    if grow not in ("random", "gradient"):
        raise ValueError(f"grow must be 'random' or 'gradient'; got {grow!r}.")
    if prune == "threshold":
        if threshold is None or fraction is not None:
            raise ValueError("prune='threshold' needs threshold, and takes no fraction.")
        if not threshold >= 0:
            raise ValueError(f"threshold must not be negative; got {threshold}.")
    else:
        if fraction is None or threshold is not None:
            raise ValueError(f"prune={prune!r} needs fraction, and takes no threshold.")
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be from 0 to 1; got {fraction}.")
    if (grow == "gradient") != (gradient is not None):
        raise ValueError("grow='gradient' needs gradient, and nothing else does.")
