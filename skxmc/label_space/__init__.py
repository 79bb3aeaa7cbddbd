"""What is known of the labels before any model is trained."""

from skxmc.label_space._propensity import (
    PROPENSITY_CONSTANTS,
    inverse_propensity,
    jpv_propensity,
)

__all__ = ["PROPENSITY_CONSTANTS", "inverse_propensity", "jpv_propensity"]
