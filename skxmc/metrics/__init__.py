"""Metrics @k for ranked answers, on sparse scores, and scikit-learn scorers made of them.

The rules that all of them follow:

* *Answers* of a row are its k best candidates: stored entries of sparse scores (an explicit 0 is
  one), all entries of dense scores; never a score of -inf. NaN is an error. Of equal scores the
  smaller label id is ranked first.
* *Rows with fewer than k answers* are scored as if the missing answers were wrong: precision
  divides by k in every row, also where k is larger than the number of labels.
* *Rows without labels* count in a mean over rows, with the value 0.
* *Recall* divides by the number of labels n_i of the row, *nDCG* by the discounts up to rank
  min(k, n_i).
* *k* is an int, which gives a float, or a sequence of ints, which gives a float64 array.
* *normalize=True* divides by the value that the best possible ranking of the same rows reaches: a
  ratio of two means over the corpus, not a mean of ratios. It is the default of the
  propensity-scored metrics, because published tables hold it, and of no other. 0 / 0 is 0.
* *Macro metrics and coverage* average over all label columns unless told otherwise.
* *exclude* holds pairs that are no valid answers (an item itself, for example). They are removed
  from the answers, so that later ones move up, and from the labels.

The calibration metrics (ECE, ACE, Brier, NLL) ask how probable the answers of all rows are said to
be, and how often they are right. They take probabilities only, pool the answers that there are (a
row with fewer than k adds fewer), and are better the smaller they are.
"""

from skxmc.metrics._calibration import (
    CalibrationError,
    ReliabilityCurve,
    ace_at_k,
    brier_at_k,
    ece_at_k,
    nll_at_k,
    reliability_curve_at_k,
)
from skxmc.metrics._macro import (
    coverage_at_k,
    macro_f1_at_k,
    macro_precision_at_k,
    macro_recall_at_k,
)
from skxmc.metrics._missing_labels import (
    unbiased_metric_at_k,
    unbiased_precision_at_k,
    unbiased_recall_at_k,
)
from skxmc.metrics._ranking import (
    dcg_at_k,
    hit_rate_at_k,
    ndcg_at_k,
    precision_at_k,
    ps_recall_at_k,
    psndcg_at_k,
    psp_at_k,
    recall_at_k,
)
from skxmc.metrics._report import evaluate_topk, format_evaluation
from skxmc.metrics._scorers import get_topk_scorer, make_topk_scorer

__all__ = [
    "CalibrationError",
    "ReliabilityCurve",
    "ace_at_k",
    "brier_at_k",
    "coverage_at_k",
    "dcg_at_k",
    "ece_at_k",
    "evaluate_topk",
    "format_evaluation",
    "get_topk_scorer",
    "hit_rate_at_k",
    "macro_f1_at_k",
    "macro_precision_at_k",
    "macro_recall_at_k",
    "make_topk_scorer",
    "ndcg_at_k",
    "nll_at_k",
    "precision_at_k",
    "ps_recall_at_k",
    "psndcg_at_k",
    "psp_at_k",
    "recall_at_k",
    "reliability_curve_at_k",
    "unbiased_metric_at_k",
    "unbiased_precision_at_k",
    "unbiased_recall_at_k",
]
