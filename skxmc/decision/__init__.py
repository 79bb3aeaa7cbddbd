"""Decisions: which k labels to answer, so that the metric that counts becomes as large as it can.

`MacroAtKPredictor` turns the probabilities of any classifier into such decisions.
"""

from skxmc.decision._macro_at_k import MacroAtKPredictor

__all__ = ["MacroAtKPredictor"]
