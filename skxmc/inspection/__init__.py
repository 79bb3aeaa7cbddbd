"""Looking at what was learnt: drawings, and a report on one page."""

from skxmc.inspection._plot_tree import plot_tree
from skxmc.inspection._reliability import ReliabilityDisplay
from skxmc.inspection._report import XMCReport
from skxmc.inspection._tradeoff import TradeoffDisplay

__all__ = ["ReliabilityDisplay", "TradeoffDisplay", "XMCReport", "plot_tree"]
