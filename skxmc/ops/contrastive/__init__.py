"""Contrastive losses of a batch of rows and a pool of labels, with several positives a row.

`reference` is the definition in plain NumPy loops; what is exported here is the fast version, whose
time is that of NumPy's exponential and of passes over the memory. `torch_` computes the same for
tensors, differentiable.
"""

from skxmc.ops.contrastive._types import LOSSES, Pairs, Result
from skxmc.ops.contrastive.numpy_ import contrastive_loss

__all__ = ["LOSSES", "Pairs", "Result", "contrastive_loss"]
