"""The output layer of extreme classification: few weights for each label, trained label by label.

`reference` is the definition in plain NumPy; what is exported here is the compiled version.
``torch_`` and ``triton_`` have the same functions on tensors and are imported where they are used.

Examples
--------
A layer of three labels that see two of four features each:

>>> import numpy as np
>>> from skxmc.ops.sparse_head import (
...     Optimizer,
...     grad_features,
...     grad_weights,
...     gradients,
...     initialise,
...     input_gradients,
...     new_state,
...     scores,
...     topk,
... )
>>> part = initialise(3, n_inputs=4, fan_in=2)
>>> features = np.eye(2, 4, dtype=np.float32)
>>> margins = scores(features, (part,))
>>> answers = topk(features, (part,), np.arange(3), k=1)
>>> bool((answers.labels[:, 0] == margins.argmax(axis=1)).all())
True

Gradients of given gradients of the margins, together and one by one; also those that inputs would
have which a label does not see:

>>> by_weight, by_feature = gradients(features, margins, part)
>>> bool((by_weight == grad_weights(features, margins, part)).all())
True
>>> bool((by_feature == grad_features(margins, part, 4)).all())
True
>>> input_gradients(features, margins, part, 0, 3).shape
(3, 4)

What an optimiser keeps for the layer, at the start:

>>> state = new_state(part, Optimizer("adam", learning_rate=0.1))
>>> state.momentum.shape
(3, 2)
"""

from skxmc.ops.sparse_head._types import (
    LOSSES,
    PRECISIONS,
    Loss,
    Optimizer,
    Part,
    State,
    StepResult,
)
from skxmc.ops.sparse_head.initial import Footprint, footprint, initialise, new_state
from skxmc.ops.sparse_head.numba_ import (
    grad_features,
    grad_weights,
    gradients,
    input_gradients,
    scores,
    topk,
    train_step,
)

__all__ = [
    "LOSSES",
    "PRECISIONS",
    "Footprint",
    "Loss",
    "Optimizer",
    "Part",
    "State",
    "StepResult",
    "footprint",
    "grad_features",
    "grad_weights",
    "gradients",
    "initialise",
    "input_gradients",
    "new_state",
    "scores",
    "topk",
    "train_step",
]
