"""One map for all labels or one for each group of them, then one for each range of ranks.

The hit rate of a pair depends on more than its score: of two pairs with equal scores, the one that
is the best answer of its row is right more often than the one that is the fifth. A map of all pairs
is therefore not calibrated for the best answers alone. Maps of single ranks are, and so is any pool
of them: the best 1, 3 or 5 answers of each row.
"""

import itertools

import numpy as np
from scipy.special import expit, logit

from skxmc._parallel import map_chunks
from skxmc.calibration._maps import apply_map, check_table, fit_map, make_table
from skxmc.calibration._rows import falling

GROUPINGS = ("pooled", "frequency", "label")

# A label with at most so many positives learns from each row with the frequency in the other rows.
RARE = 20

# Folds of rows in which the maps of the ranks learn from maps of the groups of other rows.
_FOLDS = 3

# Share of the logistic function in each map: strictly increasing and strictly inside (0, 1).
MIX = 1e-6


def label_groups(grouping, counts, found, n_bins, min_positives):
    """Number of the map of each label: 0 is that of all labels.

    Parameters
    ----------
    grouping : {"pooled", "frequency", "label"}
    counts : int array of shape (n_labels,)
        Positives of each label in training.
    found : int array of shape (n_labels,)
        Those of them among the pairs to learn from.
    n_bins : int
        Groups of "frequency", with about equal numbers of positives.
    min_positives : int
        A label, or group, with fewer among the pairs has the map of all labels.

    Returns
    -------
    of_label : ndarray of shape (n_labels,), int32
    of_frequency : ndarray of shape (max(counts) + 1,), int32, or None
        For "frequency" the group of each number of positives.
    """
    if grouping == "pooled":
        return np.zeros(len(counts), dtype=np.int32), None
    if grouping == "label":
        return _numbered(np.arange(len(counts)), found, min_positives), None
    frequency = _frequency_elsewhere(counts, found > 0)
    mass = np.bincount(frequency, found, minlength=counts.max(initial=0) + 1)
    before = np.cumsum(mass) - mass
    key = (n_bins * (before + mass / 2) / max(mass.sum(), 1)).astype(np.int64)
    of_frequency = _numbered(key, mass, min_positives)
    return of_frequency[counts], of_frequency


def pair_groups(of_label, of_frequency, counts, labels, hits):
    """Group of each pair to learn from, by the frequency that its label has in the *other* rows.

    Else a label seen once would be a hit wherever it was seen, and one never seen a miss, by the
    definition of frequency. It matters for rare labels only. Of frequent ones, few have the same
    frequency, and a limit of groups could fall between the hits and the misses of one label.
    """
    if of_frequency is None:
        return of_label[labels]
    return of_frequency[_frequency_elsewhere(counts[labels], hits)]


def _frequency_elsewhere(counts, hits):
    return counts - (hits & (counts > 0) & (counts <= RARE))


def _numbered(key, positives, min_positives):
    """Number the groups with enough positives from 1; the others are 0."""
    enough = np.bincount(key, positives)[key] >= min_positives
    groups = np.zeros(len(key), dtype=np.int32)
    groups[enough] = 1 + np.unique(key[enough], return_inverse=True)[1]
    return groups


def rank_ends(ends, targets, min_positives):
    """Ends of the ranges of ranks, each with enough positives.

    ``ends`` (1, 3) stands for the ranks 1, 2 to 3, and all further ones. A range without
    enough positives is joined with the one after it; the last one with the one before.
    """
    positives = np.concatenate(([0], np.cumsum(targets.sum(axis=0))))
    n_ranks = targets.shape[1]
    kept = []
    done = 0
    for end in ends:
        if end >= n_ranks:
            break
        if positives[end] - done >= min_positives:
            kept.append(end)
            done = positives[end]
    while kept and positives[-1] - positives[kept[-1]] < min_positives:
        kept.pop()
    return np.array(kept, dtype=np.int64)


def fit_maps(method, answers, targets, groups, pair_groups, ends, keep_ranking=True, n_jobs=None):
    """Fit the maps of the groups, and on what they return those of the ranks.

    Parameters
    ----------
    method : str
    answers : TopK of shape (n_samples, k)
        Out-of-fold margins.
    targets : ndarray of shape (n_samples, k), float
    groups : int32 array of shape (n_labels,)
    pair_groups : int32 array of shape (n_samples, k)
        As `pair_groups` returns them.
    ends : int array
        As `rank_ends` returns it.
    keep_ranking : bool, default=True
        Whether the labels of a row are to stay in the order of their scores.
    n_jobs : int or None, default=None
        Threads; the result does not depend on it.

    Returns
    -------
    dict
        Of arrays and strings.
    """
    n_groups = int(max(groups.max(initial=0), pair_groups.max(initial=0))) + 1
    state = {"groups": groups, "rank_ends": ends, "keep_ranking": keep_ranking}
    state |= {"group_maps": None, "rank_maps": None}
    answered = answers.labels >= 0
    scores = answers.scores
    if n_groups > 1:
        order = _order(scores[answered])
        s, t = scores[answered][order], targets[answered][order]
        group = pair_groups[answered][order]
        state["group_maps"] = _fit_group_maps(method, s, t, group, n_groups)
        if len(ends):
            # What the maps return for pairs that they have learned from is too good: the maps of
            # the ranks learn from maps of other rows.
            fold = np.arange(len(scores)) % _FOLDS
            fold_of_pair = np.broadcast_to(fold[:, np.newaxis], scores.shape)[answered][order]
            z = np.empty(scores.shape, dtype=np.float32)

            def fit_fold(number):
                others, here = fold_of_pair != number, fold == number
                table = _fit_group_maps(method, s[others], t[others], group[others], n_groups)
                z[here] = _group_scores(
                    {**state, "group_maps": table},
                    *(answers.labels[here], scores[here], pair_groups[here]),
                )

            for _ in map_chunks(fit_fold, range(_FOLDS), n_jobs):
                pass
            scores = z
    if n_groups == 1 or len(ends):
        maps = [
            fit_map(method, *_ascending(scores[:, part][mask], targets[:, part][mask]))
            for part in _ranges(ends, scores.shape[1])
            for mask in [answered[:, part]]
        ]
        state["rank_maps"] = make_table(method, maps)
    return state


def _fit_group_maps(method, scores, targets, groups, n_groups):
    """Table of the map of all pairs, which is number 0, and of each group; scores ascend."""
    maps = [fit_map(method, scores, targets)]
    by_group = _stable_order(groups)
    cuts = np.searchsorted(groups[by_group], np.arange(1, n_groups + 1))
    for start, stop in itertools.pairwise(cuts):
        part = by_group[start:stop]
        maps.append(fit_map(method, scores[part], targets[part]))
    return make_table(method, maps)


def _order(scores):
    """Stable ascending order of float32 numbers.

    They are sorted together with their positions as integers, which NumPy does several times as
    fast as an argsort of floating-point numbers.
    """
    bits = (np.asarray(scores, dtype=np.float32) + np.float32(0)).view(np.int32)  # no -0
    # integers in the order of the numbers: negative ones have all other bits turned round
    bits = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    keys = (bits.astype(np.int64) << 32) | np.arange(len(bits), dtype=np.int64)
    keys.sort()
    return keys & 0xFFFFFFFF


def _stable_order(groups):
    """Stable order of small numbers, from -1; of at most 16 bits it is a radix sort."""
    if groups.size and groups.max() < np.iinfo(np.int16).max:
        groups = groups.astype(np.int16)
    return np.argsort(groups, kind="stable")


def _ascending(scores, targets):
    order = _order(scores)
    return scores[order], targets[order]


def _ranges(ends, n_ranks):
    return [slice(a, b) for a, b in itertools.pairwise([0, *ends, n_ranks])]


def _group_scores(state, labels, scores, groups=None):
    """Log-odds by the maps of the groups: those of the labels, or given for each pair.

    In the order of the row, if it is to be kept: the maps of the ranks then learn what the labels
    that were turned round are worth.
    """
    table = state["group_maps"]
    if table is None:
        return scores
    of_pair = state["groups"][np.maximum(labels, 0)] if groups is None else groups
    values = scores.astype(np.float64)
    proba = apply_map(table, of_pair, values, MIX)
    answered = labels >= 0
    if state["keep_ranking"]:
        proba = falling(proba, scores, answered.sum(axis=1))
    z = logit(np.clip(proba, 1e-300, np.nextafter(1.0, 0.0)))
    return np.where(answered, z, -np.inf).astype(np.float32)


def check_state(state, n_labels):
    """Raise ValueError unless what `fit_maps` returned, and a file held, is sound."""
    groups, ends = state["groups"], state["rank_ends"]
    if groups.dtype.kind != "i" or groups.shape != (n_labels,):
        raise ValueError("there is not a group for each label")
    if state["group_maps"] is not None:
        n_maps = check_table(state["group_maps"])
        if n_labels and not 0 <= groups.min() <= groups.max() < n_maps:
            raise ValueError(f"a group is out of the range of the {n_maps} maps")
    ends = np.asarray(ends)
    if ends.ndim != 1 or (ends.size and (ends.dtype.kind != "i" or ends[0] < 1)):
        raise ValueError("the ranges of ranks are damaged")
    if (np.diff(ends) <= 0).any():
        raise ValueError("the ranges of ranks do not ascend")
    if state["rank_maps"] is not None and check_table(state["rank_maps"]) != len(ends) + 1:
        raise ValueError("there is not a map for each range of ranks")
    if not isinstance(state["keep_ranking"], (bool, np.bool_)):
        raise ValueError("keep_ranking is not True or False")


def apply_maps(state, labels, scores, ranks=None, groups=None):
    """Probabilities of answers, best first.

    Parameters
    ----------
    state : dict
        Of `fit_maps`.
    labels, scores : ndarray of shape (n_samples, k)
        Labels, -1 for none, and margins.
    ranks : int array of shape (n_samples, k) or None, default=None
        Ranks of the answers from 0; None: their columns.
    groups : int32 array of shape (n_samples, k) or None, default=None
        Groups of the pairs; None: those of their labels.

    Returns
    -------
    ndarray of shape (n_samples, k), float64
        In [0, 1]; 0 for no answer, not necessarily falling in a row.
    """
    z = _group_scores(state, labels, scores, groups)
    table = state["rank_maps"]
    if table is None:
        return np.where(labels >= 0, expit(z), 0.0)
    proba = np.zeros(scores.shape)
    for number, part in enumerate(_ranges(state["rank_ends"], None)):
        if ranks is None:
            answered = labels[:, part] >= 0
            if answered.size and answered.all():
                values = z[:, part].astype(np.float64)
                proba[:, part] = apply_map(table, number, values, MIX)
                continue
            where = np.zeros(scores.shape, dtype=bool)
            where[:, part] = answered
        else:
            stop = np.inf if part.stop is None else part.stop
            where = (ranks >= part.start) & (ranks < stop) & (labels >= 0)
        values = z[where].astype(np.float64)
        proba[where] = apply_map(table, number, values, MIX)
    return proba


def log_likelihood(state, answers, targets, groups):
    """Mean log-likelihood of a pair."""
    proba = apply_maps(state, answers.labels, answers.scores, groups=groups)
    answered = answers.labels >= 0
    if state["keep_ranking"]:
        proba = falling(proba, answers.scores, answered.sum(axis=1))
    p, t = np.clip(proba[answered], 1e-15, 1 - 1e-15), targets[answered]
    return float(np.mean(t * np.log(p) + (1 - t) * np.log1p(-p)))
