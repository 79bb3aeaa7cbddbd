"""The sparse output layer in plain NumPy: the definition that every backend is tested against.

Sums (margins, gradients, the loss) are taken in float64, of the decoded weights and the float32
features; what is returned or stored is rounded to float32 once. A backend that sums in float32 is
right if it differs by no more than its own rounding: about ``sqrt(n) * 2**-23`` times the sum of
the absolute values of the n terms.

The update of a weight starts from its gradient rounded to float32. From there on every operation is
one of float32 in the order written in `_update` and `_update_weights`, without fused multiply-add,
so that equal gradients give equal bits.

Every weight is updated in each step. Without gradient, momentum, Adam and weight decay an update
leaves an uncompensated weight as it is, because a number that the format has is never changed by
rounding: a backend may skip such labels. A compensated weight is rounded anew in each step.
"""

import numpy as np
import scipy.special

from skxmc.ops.sparse_head._random import random_bits, step_key
from skxmc.ops.sparse_head._types import StepResult
from skxmc.ops.sparse_head.low_precision import COMPENSATION, decode, encode
from skxmc.ops.topk import reference as topk_reference


def scores(features, parts, *, n_jobs=None):
    """Margins of all labels, (n_rows, n_labels) float32, in the order of the parts."""
    return np.hstack([_margins(features, part).astype(np.float32) for part in parts])


def topk(features, parts, labels, k, *, exclude=None, candidates=None, n_jobs=None):
    """The k labels of each row with the largest margins, as original ids.

    ``labels`` holds the original id of each label of the layer. Equal margins: the smaller original
    id first. ``exclude`` and ``candidates`` are sparse patterns over original ids.
    """
    margins = np.empty((features.shape[0], len(labels)), dtype=np.float32)
    margins[:, labels] = scores(features, parts)
    if candidates is not None:
        margins[candidates.toarray() == 0] = -np.inf
    if exclude is not None:
        margins[exclude.toarray() != 0] = -np.inf
    return topk_reference.topk_dense(margins, k)


def train_step(features, targets, parts, states, loss, optimizer, seed, step, *, n_jobs=None):
    """One step of training on a batch; changes the arrays of ``parts`` and ``states`` in place.

    Parameters
    ----------
    features : float32 ndarray of shape (n_rows, n_inputs)
    targets : csr_array of shape (n_rows, n_labels)
        Every stored entry that is not 0 is a positive; labels in the order of the parts.
    parts : tuple of Part
    states : tuple of State
    loss : Loss
    optimizer : Optimizer
    seed, step : int
        The random bits of part p are those of ``step_key(seed, step, p)``.

    Returns
    -------
    StepResult
    """
    positive = targets.toarray() != 0
    weight = loss.positive_weight
    total = 0.0
    grad_inputs = np.zeros(features.shape)
    first = 0
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        stop = first + part.n_labels
        part_loss, dmargins = loss_and_gradient(
            loss.name,
            _margins(features, part),
            positive[:, first:stop],
            None if weight is None else weight[first:stop],
        )
        total += part_loss
        grad_inputs += _grad_features(dmargins, part, features.shape[1])
        gradient = grad_weights(features, dmargins, part)
        _update_weights(part, state, gradient, optimizer, step_key(seed, step, number))
        if optimizer.train_bias:
            _update_bias(part, state, dmargins.sum(axis=0).astype(np.float32), optimizer)
        first = stop
    return StepResult(total, grad_inputs.astype(np.float32))


def loss_and_gradient(name, margins, positive, positive_weight=None):
    """The sum of the losses of all pairs, and its gradient with respect to the margins (float64).

    A positive with margin z costs w max(0, 1 - z)^2 or w log(1 + exp(-z)), a negative
    max(0, 1 + z)^2 or log(1 + exp(z)).
    """
    margins = np.asarray(margins, dtype=np.float64)
    sign = np.where(positive, 1.0, -1.0)
    weight = np.ones(margins.shape[1]) if positive_weight is None else positive_weight
    weight = np.where(positive, weight, 1.0)
    if name == "squared_hinge":
        distance = np.maximum(0.0, 1.0 - sign * margins)
        return float((weight * distance**2).sum()), -2.0 * sign * weight * distance
    if name == "bce":
        value = np.logaddexp(0.0, -sign * margins)
        return float((weight * value).sum()), -sign * weight * scipy.special.expit(-sign * margins)
    raise ValueError(f"The loss must be 'squared_hinge' or 'bce'; got {name!r}.")


def grad_weights(features, dmargins, part):
    """Gradient of the weights of a part, (n_labels, fan_in) float32.

    ``dmargins`` of shape (n_rows, n_labels) is the gradient of the loss by the margins.
    """
    features, dmargins = features.astype(np.float64), dmargins.astype(np.float64)
    gradient = np.empty((part.n_labels, part.fan_in), dtype=np.float32)
    for labels, inputs in _groups(part):
        gradient[labels] = dmargins[:, labels].T @ features[:, inputs]
    return gradient


def grad_features(dmargins, part, n_inputs):
    """Gradient of the features by one part, (n_rows, n_inputs) float32."""
    return _grad_features(dmargins, part, n_inputs).astype(np.float32)


def input_gradients(features, dmargins, part, first, stop):
    """Gradient of the weights that labels ``first`` to ``stop`` had if they had all inputs.

    Returns float32 of shape (stop - first, n_inputs).
    """
    gradient = dmargins[:, first:stop].T.astype(np.float64) @ features.astype(np.float64)
    return gradient.astype(np.float32)


def _groups(part):
    """For each group of labels: their range, and the inputs that they share."""
    if part.indices is None:
        yield slice(0, part.n_labels), slice(0, part.fan_in)
        return
    for group, inputs in enumerate(part.indices):
        first = group * part.group_size
        yield slice(first, min(first + part.group_size, part.n_labels)), inputs.astype(np.int64)


def _margins(features, part):
    features = features.astype(np.float64)
    weights = decode(part.weights, part.precision).astype(np.float64)
    margins = np.tile(part.bias.astype(np.float64), (features.shape[0], 1))
    for labels, inputs in _groups(part):
        margins[:, labels] += features[:, inputs] @ weights[labels].T
    return margins


def _grad_features(dmargins, part, n_inputs):
    dmargins = dmargins.astype(np.float64)
    weights = decode(part.weights, part.precision).astype(np.float64)
    gradient = np.zeros((dmargins.shape[0], n_inputs))
    for labels, inputs in _groups(part):  # the inputs of a group are all different
        gradient[:, inputs] += dmargins[:, labels] @ weights[labels]
    return gradient


def _update_weights(part, state, gradient, optimizer, key):
    weights = decode(part.weights, part.precision)
    update = _update(weights, gradient, state.momentum, state.second, optimizer, decays=True)
    bits = random_bits(key, np.arange(weights.size).reshape(weights.shape))
    part.weights[:] = encode(weights - update, part.precision, bits)
    if state.compensation is not None:
        # Kahan 1965, with the rounding of ELMO: the compensation holds what rounding took off.
        head = slice(0, len(state.compensation))
        stored = COMPENSATION[part.precision]
        change = decode(state.compensation, stored) - update[head]
        part.weights[head] = encode(weights[head] + change, part.precision, bits[head])
        lost = (weights[head] - decode(part.weights[head], part.precision)) + change
        state.compensation[:] = encode(lost, stored)


def _update_bias(part, state, gradient, optimizer):
    part.bias[:] -= _update(
        part.bias, gradient, state.bias_momentum, state.bias_second, optimizer, decays=False
    )


def _update(values, gradient, momentum, second, optimizer, decays):
    """What the optimiser takes off the values, float32; changes its moments in place.

    Kingma and Ba, "Adam", 2015, algorithm 1, and Loshchilov and Hutter, "Decoupled weight decay
    regularization", 2019. The factors are computed in float64 and rounded to float32.
    """
    f32 = np.float32
    rate = optimizer.learning_rate
    if optimizer.name == "sgd":
        if optimizer.momentum:
            momentum[:] = f32(optimizer.momentum) * momentum + gradient
            gradient = momentum
        update = f32(rate) * gradient
    elif optimizer.name == "adam":
        beta1, beta2, t = optimizer.beta1, optimizer.beta2, optimizer.n_updates + 1
        momentum[:] = f32(beta1) * momentum + f32(1 - beta1) * gradient
        second[:] = f32(beta2) * second + (f32(1 - beta2) * gradient) * gradient
        size = np.sqrt(second) * f32(1 / np.sqrt(1 - beta2**t)) + f32(optimizer.epsilon)
        update = f32(rate / (1 - beta1**t)) * momentum / size
    else:
        raise ValueError(f"The optimizer must be 'sgd' or 'adam'; got {optimizer.name!r}.")
    if decays and optimizer.weight_decay:
        update = update + f32(rate * optimizer.weight_decay) * values
    return update
