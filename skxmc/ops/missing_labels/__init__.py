"""Losses for labels of which some are missing, and their gradients with respect to the scores.

What is observed of a label is ``Y_observed = M * Y``: the mask ``M_j`` is 1 with the *propensity*
``p_j``, independently of the row and of the other masks (thesis eq. 3.15). An *unbiased* version of
a loss has on the observed labels the expectation that the loss has on the complete ones.

==============================  ======================================  =====================
function                        what it is                              thesis
==============================  ======================================  =====================
`ova_unbiased_loss`             one-vs-all, unbiased                    eq. 3.9
`ova_convex_loss`               its convex surrogate, with rebalancing  eq. 3.13, 3.14
`pal_unbiased_loss`             pick-all-labels, unbiased               section 3.3
`pal_normalized_unbiased_loss`  normalised pick-all-labels, unbiased    eq. 3.20 for eq. 3.21
`pal_normalized_bound_loss`     its upper bound                         eq. 3.23
`ova_normalized_unbiased_loss`  normalised one-vs-all, unbiased         eq. 3.20 for eq. 3.21
`general_estimate`              any function of the label set           eq. 3.20
==============================  ======================================  =====================

With ``inv_propensity=None`` nothing is missing and each of them is the usual loss.

`reference` is the definition, one row at a time and straight from the formulas; what is exported
here is vectorised NumPy. There is no compiled version: exponentials and logarithms dominate.
"""

from skxmc.ops.missing_labels._general import general_estimate, sublabeling_weights
from skxmc.ops.missing_labels._normalized import bounded_label_shares, unbiased_label_shares
from skxmc.ops.missing_labels._one_vs_all import (
    ova_convex_loss,
    ova_normalized_unbiased_loss,
    ova_unbiased_loss,
)
from skxmc.ops.missing_labels._pick_all_labels import (
    pal_normalized_bound_loss,
    pal_normalized_unbiased_loss,
    pal_unbiased_loss,
)
from skxmc.ops.missing_labels._types import LossAndGradient, check_inverse

__all__ = [
    "LossAndGradient",
    "bounded_label_shares",
    "check_inverse",
    "general_estimate",
    "ova_convex_loss",
    "ova_normalized_unbiased_loss",
    "ova_unbiased_loss",
    "pal_normalized_bound_loss",
    "pal_normalized_unbiased_loss",
    "pal_unbiased_loss",
    "sublabeling_weights",
    "unbiased_label_shares",
]
