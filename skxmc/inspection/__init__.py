"""Looking at what was learnt: drawings."""

from skxmc.inspection._plot_tree import plot_tree
from skxmc.inspection._reliability import ReliabilityDisplay
from skxmc.inspection._tradeoff import TradeoffDisplay

__all__ = ["ReliabilityDisplay", "TradeoffDisplay", "plot_tree"]
