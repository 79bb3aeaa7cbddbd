"""What is known of the labels before any model is trained."""

from skxmc.label_space._clustering import build_tree
from skxmc.label_space._cooccurrence import label_targets, symmetrized_cooccurrence
from skxmc.label_space._features import label_features
from skxmc.label_space._gandalf import GandalfAugmenter
from skxmc.label_space._groups import label_groups
from skxmc.label_space._growth import TreeGrowth, grow_tree
from skxmc.label_space._meta_labels import meta_labels
from skxmc.label_space._propensity import (
    PROPENSITY_CONSTANTS,
    inverse_propensity,
    jpv_propensity,
)
from skxmc.label_space._propensity_check import PropensityWarning, check_propensity
from skxmc.label_space._propensity_models import (
    GivenPropensity,
    JointPropensity,
    JPVPropensity,
    PropensityModel,
    RichardsonPropensity,
)
from skxmc.label_space._text import LabelText
from skxmc.label_space._tree import LabelTree

__all__ = [
    "PROPENSITY_CONSTANTS",
    "GandalfAugmenter",
    "GivenPropensity",
    "JPVPropensity",
    "JointPropensity",
    "LabelText",
    "LabelTree",
    "PropensityModel",
    "PropensityWarning",
    "RichardsonPropensity",
    "TreeGrowth",
    "build_tree",
    "check_propensity",
    "grow_tree",
    "inverse_propensity",
    "jpv_propensity",
    "label_features",
    "label_groups",
    "label_targets",
    "meta_labels",
    "symmetrized_cooccurrence",
]
