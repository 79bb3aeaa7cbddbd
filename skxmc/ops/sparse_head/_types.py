"""What an output layer is made of: arrays, and the settings of a training step."""

from typing import Any, NamedTuple

#: Number formats of the weights. The last two are stored as their bits, uint16 and uint8.
PRECISIONS = ("float32", "bfloat16", "float8")

#: Loss of a pair with margin z and target y in {-1, +1}: max(0, 1 - y z)^2 or log(1 + exp(-y z)).
LOSSES = ("squared_hinge", "bce")


class Part(NamedTuple):
    """Consecutive labels with one layout.

    The margin of label l in row b is ``sum_f weights[l, f] * features[b, indices[l // g, f]] +
    bias[l]`` with g = ``group_size``: g = 1 is fixed fan-in, g > 1 group-shared fixed fan-in. A
    dense part has no ``indices``: ``fan_in`` is then the number of inputs.

    Attributes
    ----------
    weights : array of shape (n_labels, fan_in)
        float32, or the bits of bfloat16 (uint16) or of float8 e4m3 (uint8).
    indices : array of shape (ceil(n_labels / group_size), fan_in), or None
        Inputs of each group, all different in a row: uint16 for up to 65,536 inputs, else int32.
    bias : float32 array of shape (n_labels,)
    group_size : int
        The last group of a part may be smaller.
    precision : {"float32", "bfloat16", "float8"}
    """

    weights: Any
    indices: Any
    bias: Any
    group_size: int
    precision: str

    @property
    def n_labels(self):
        return self.weights.shape[0]

    @property
    def fan_in(self):
        return self.weights.shape[1]


class State(NamedTuple):
    """What the optimiser keeps for a part; None for what it does not need.

    Attributes
    ----------
    momentum, second : float32 array of shape (n_labels, fan_in), or None
        Momentum of SGD or first moment of Adam; second moment of Adam.
    compensation : array of shape (n_compensated, fan_in), or None
        Kahan compensation of the first labels of the part: bits of bfloat16 (uint16).
    bias_momentum, bias_second : float32 array of shape (n_labels,), or None
        The same of the biases.
    """

    momentum: Any = None
    second: Any = None
    compensation: Any = None
    bias_momentum: Any = None
    bias_second: Any = None


class Loss(NamedTuple):
    """Sum over the pairs of a batch of w(l, y) loss(y z).

    Attributes
    ----------
    name : {"squared_hinge", "bce"}
    positive_weight : float32 array of shape (n_labels,) of all parts, or None
        Weight of a positive; a negative weighs 1.
    """

    name: str
    positive_weight: Any = None


class Optimizer(NamedTuple):
    """One update of a weight w with gradient g.

    ``"sgd"``: m = momentum m + g; w = (1 - learning_rate weight_decay) w - learning_rate m.
    ``"adam"``: Adam with bias correction after ``n_updates`` earlier updates, and the same
    (decoupled) weight decay. Biases do not decay.

    Attributes
    ----------
    name : {"sgd", "adam"}
        The rule.
    learning_rate, momentum, weight_decay : float
        As in the formulas.
    beta1, beta2, epsilon : float
        Of Adam.
    n_updates : int
        Earlier updates.
    train_bias : bool
        Whether the biases are updated too.
    """

    name: str
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    n_updates: int = 0
    train_bias: bool = True


class StepResult(NamedTuple):
    """What a training step returns.

    Attributes
    ----------
    loss : float
        Sum over all pairs of the batch, before the update.
    grad_features : float32 array of shape (n_rows, n_inputs)
        Gradient of the loss with respect to the features, by the weights before the update.
    """

    loss: float
    grad_features: Any
