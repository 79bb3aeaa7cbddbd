"""Looking at what was learnt: drawings."""

from skxmc.inspection._plot_tree import plot_tree

__all__ = ["plot_tree"]
