"""The output layer of extreme classification: few weights for each label, trained label by label.

`reference` is the definition in plain NumPy; what is exported here is the compiled version.
``torch_`` and ``triton_`` have the same functions on tensors and are imported where they are used.
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
