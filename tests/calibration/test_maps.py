"""The maps, against closed forms and scikit-learn, and what is done row by row."""

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, log_expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from skxmc.calibration import _grouped, _maps, _rows
from skxmc.ops.csr import canonical_indicator
from skxmc.ops.topk import TopK


def make_pairs(n=3000, seed=0, slope=1.7, shift=-0.6):
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.normal(0, 2, n))
    return scores, (rng.random(n) < expit(slope * scores + shift)).astype(float)


def apply_one(method, scores, targets, at):
    return _maps.apply_map(
        _maps.make_table(method, [_maps.fit_map(method, scores, targets)]), 0, at
    )


@pytest.mark.parametrize("n_knots", [1, 2, 3, 4, 7, 200])
def test_each_score_has_the_line_of_its_own_map(n_knots):
    rng = np.random.default_rng(n_knots)
    maps = [np.sort(rng.random((2, n)), axis=1) for n in (n_knots, 0, n_knots + 1)]
    table = _maps.make_table("isotonic", maps)
    scores = np.concatenate([rng.normal(0.5, 1, 500), maps[0][0], maps[2][0], [-np.inf, np.inf]])
    scores = scores.reshape(1, -1)
    number = rng.integers(0, 3, scores.shape).astype(np.int32)
    expected = expit(scores)  # of a map without knots
    for index in (0, 2):
        line = np.interp(scores, *maps[index])
        expected[number == index] = line[number == index]
        assert_allclose(_maps.apply_map(table, index, scores), line, atol=1e-15)
    assert_allclose(_maps.apply_map(table, number, scores), expected, atol=1e-15)


def test_isotonic_is_the_regression_with_a_hit_below_and_a_miss_above():
    scores, targets = make_pairs()
    scores = np.round(scores, 1)  # ties
    knots, values = _maps.fit_map("isotonic", scores, targets)
    x = np.concatenate([scores[:1], scores, scores[-1:]])
    y = np.concatenate([[1.0], targets, [0.0]])
    other = IsotonicRegression().fit(x, y)
    assert_allclose(other.predict(knots), values, atol=0.05)
    # the value of the block in which a score lies
    for score in np.unique(scores):
        value = other.predict([score])[0]
        assert np.abs(values - value).min() < 1e-6
    assert (np.diff(knots) > 0).all()
    assert (np.diff(values) > 0).all()
    assert values[0] > 0
    assert values[-1] < 1


def test_the_end_blocks_follow_the_rule_of_succession():
    scores = np.arange(10.0)
    _, values = _maps.fit_map("isotonic", scores, (scores >= 6).astype(float))
    assert_allclose(values[[0, -1]], [1 / 7, 4 / 5])


def test_platt_is_unpenalised_logistic_regression_on_smoothed_targets():
    scores, targets = make_pairs()
    slope, shift = _maps.fit_map("platt", scores, targets)
    n_hits = targets.sum()
    high, low = (n_hits + 1) / (n_hits + 2), 1 / (len(targets) - n_hits + 2)
    t = np.where(targets == 1, high, low)
    x = np.tile(scores, 2)[:, np.newaxis]
    weight = np.concatenate([t, 1 - t])
    other = LogisticRegression(C=1e8, tol=1e-10, max_iter=1000)
    other.fit(x, np.repeat([1, 0], len(scores)), sample_weight=weight)
    assert_allclose([slope, shift], [other.coef_[0, 0], other.intercept_[0]], rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "link", "expected"),
    [
        ("platt", lambda s: 1.7 * s - 0.6, [1.7, -0.6]),
        ("temperature", lambda s: 0.4 * s, [0.4]),
        ("beta", lambda s: 0.5 * log_expit(s) - 1.5 * log_expit(-s) + 0.3, [0.5, 1.5, 0.3]),
    ],
)
def test_parametric_maps_find_the_coefficients(method, link, expected):
    rng = np.random.default_rng(1)
    scores = np.sort(rng.normal(0, 2, 400_000))
    targets = (rng.random(len(scores)) < expit(link(scores))).astype(float)
    assert_allclose(_maps.fit_map(method, scores, targets), expected, atol=0.03)


@pytest.mark.parametrize("method", _maps.METHODS)
def test_maps_never_fall(method):
    scores, targets = make_pairs(slope=-1.0)  # higher scores are hits less often
    at = np.linspace(-8, 8, 200)
    assert (np.diff(apply_one(method, scores, targets, at)) >= -1e-12).all()


@pytest.mark.parametrize("method", _maps.METHODS)
def test_maps_of_nothing_are_the_logistic_function(method):
    nothing = np.zeros(0)
    at = np.array([-2.0, 0.0, 3.0])
    assert_allclose(apply_one(method, nothing, nothing, at), expit(at), rtol=1e-12)


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_targets_divided_by_propensities_recover_the_true_probability(method):
    rng = np.random.default_rng(2)
    scores = np.sort(rng.normal(0, 1.5, 200_000))
    truth = expit(1.3 * scores - 0.4)
    propensity = rng.choice([0.3, 0.5, 0.9], len(scores))
    seen = rng.random(len(scores)) < truth * propensity
    corrected = apply_one(method, scores, seen / propensity, scores)
    naive = apply_one(method, scores, seen.astype(float), scores)
    assert np.abs(corrected - truth).mean() < 0.012
    assert np.abs(naive - truth).mean() > 0.1


# ------------------------------------------------------------------ rows


def test_hits_are_the_stored_pairs():
    rng = np.random.default_rng(3)
    Y = rng.random((40, 12)) < 0.3
    labels = np.argsort(rng.random((40, 12)), axis=1)[:, :5].astype(np.int32)
    labels[::7, 3:] = -1
    expected = np.take_along_axis(Y, np.maximum(labels, 0), axis=1) & (labels >= 0)
    assert_array_equal(_rows.hits(labels, canonical_indicator(sp.csr_array(Y))), expected)


def test_hits_do_not_depend_on_threads_or_blocks_of_rows():
    rng = np.random.default_rng(0)
    n = 2 * _rows._ROWS + 3
    labels = rng.integers(-1, 6, (n, 2)).astype(np.int32)
    Y = sp.csr_array((rng.random((n, 6)) < 0.3).astype(np.uint8))
    expected = (labels >= 0) & (Y.toarray()[np.arange(n)[:, None], np.maximum(labels, 0)] == 1)
    for n_jobs in (1, 2):
        assert_array_equal(_rows.hits(labels, Y, n_jobs), expected)


def test_falling_is_isotonic_regression_of_each_row():
    rng = np.random.default_rng(4)
    proba = rng.random((60, 8))
    scores = -np.sort(-rng.normal(size=(60, 8)), axis=1)
    n_answers = rng.integers(0, 9, 60)
    result = _rows.falling(proba, scores, n_answers)
    for row, n in enumerate(n_answers):
        if n:
            expected = IsotonicRegression(increasing=False).fit_transform(
                np.arange(n), proba[row, :n]
            )
            assert_allclose(result[row, :n], expected, atol=1e-9)


def test_falling_gives_equal_scores_equal_values():
    proba = np.array([[0.2, 0.6, 0.9, 0.1]])
    scores = np.array([[2.0, 1.0, 1.0, 0.0]])
    result = _rows.falling(proba, scores, np.array([4]))
    assert_allclose(result[0, 1], result[0, 2])
    assert (np.diff(result) <= 0).all()


@pytest.mark.parametrize("low", [-np.inf, np.finfo(np.float32).tiny])
def test_split_ties_orders_values_as_scores(low):
    rng = np.random.default_rng(5)
    values = -np.sort(-rng.choice([1e-38, 0.2, 0.5, 1 - 1e-8], (50, 9)), axis=1)
    falls = rng.random(values.shape) < 0.7
    # equal scores have equal values by then
    for r in range(1, 9):
        values[:, r] = np.where(falls[:, r], values[:, r], values[:, r - 1])
    result = _rows.split_ties(values, np.full(50, 9), falls, low)
    assert_array_equal(np.diff(result, axis=1) < 0, falls[:, 1:])
    assert_array_equal(np.diff(result, axis=1) == 0, ~falls[:, 1:])
    assert result.min() >= low
    assert_allclose(result, np.maximum(values, low), atol=1e-6)


def test_places_among_other_answers():
    among = TopK(np.array([[3, 1, -1]], np.int32), np.array([[2.0, 1.0, -np.inf]], np.float32))
    answers = TopK(np.array([[1, 7, 8]], np.int32), np.array([[1.0, 1.5, 0.0]], np.float32))
    place, found = _rows.places(answers, among)
    assert_array_equal(place, [[1, 1, 2]])
    assert_array_equal(found, [[True, False, False]])


# ------------------------------------------------------------------ groups


def test_groups_of_labels():
    counts = np.array([100, 90, 5, 5, 1, 50])
    found = np.array([60, 60, 3, 3, 0, 40])
    assert_array_equal(_grouped.label_groups("pooled", counts, found, 3, 1)[0], np.zeros(6))
    assert_array_equal(_grouped.label_groups("label", counts, found, 3, 40)[0], [1, 2, 0, 0, 0, 3])
    of_label, of_frequency = _grouped.label_groups("frequency", counts, found, 3, 40)
    assert of_label[2] == of_label[3]  # labels of one frequency stay together
    assert of_label[0] != of_label[5]
    assert_array_equal(of_label, of_frequency[counts])


def test_a_pair_learns_with_the_frequency_in_other_rows():
    """Labels are hits at random: no group of frequencies may look better than another."""
    rng = np.random.default_rng(8)
    labels = np.argsort(rng.random((400, 2000)), axis=1)[:, :5].astype(np.int32)
    hits = rng.random(labels.shape) < 0.4
    found = np.bincount(labels[hits], minlength=2000)
    groups = _grouped.label_groups("frequency", found, found, 4, 50)
    assert len(np.unique(groups[0])) > 2
    of_pair = _grouped.pair_groups(*groups, found, labels, hits)
    large = [group for group in np.unique(of_pair) if (of_pair == group).sum() > 200]
    assert len(large) > 1
    for group in large:
        assert abs(hits[of_pair == group].mean() - 0.4) < 0.1
    assert np.ptp([hits[groups[0][labels] == g].mean() for g in np.unique(groups[0])]) > 0.4


def test_ranges_of_ranks_have_enough_positives():
    targets = np.zeros((100, 20))
    targets[:80, 0] = targets[:30, 1] = targets[:30, 2] = 1
    targets[:5, 10] = 1
    assert_array_equal(_grouped.rank_ends([1, 2, 3, 10, 30], targets, 50), [1])
    assert_array_equal(_grouped.rank_ends([1, 2, 3, 10, 30], targets, 30), [1, 2])
    assert_array_equal(_grouped.rank_ends([1, 2, 3, 10, 30], targets, 5), [1, 2, 3])
    assert_array_equal(_grouped.rank_ends([1, 2, 3], targets * 0, 5), [])


def test_order_of_float32_numbers():
    rng = np.random.default_rng(6)
    scores = rng.normal(size=500).astype(np.float32).round(1)
    scores[:4] = [0.0, -0.0, -np.inf, np.inf]
    assert_array_equal(_grouped._order(scores), np.argsort(scores, kind="stable"))


@pytest.mark.parametrize("grouping", _grouped.GROUPINGS)
def test_apply_maps_takes_the_map_of_rank_and_group(grouping):
    """The probabilities are those of maps fitted and applied to each part by hand."""
    rng = np.random.default_rng(7)
    n, k, n_labels = 2000, 4, 6
    labels = np.argsort(rng.random((n, n_labels)), axis=1)[:, :k].astype(np.int32)
    scores = -np.sort(-rng.normal(0, 2, (n, k)), axis=1).astype(np.float32)
    labels[:100, 3], scores[:100, 3] = -1, -np.inf
    targets = rng.random((n, k)) < expit(scores + np.arange(n_labels)[labels] / 3 - np.arange(k))
    targets &= labels >= 0
    found = np.bincount(labels[targets], minlength=n_labels)
    groups, of_frequency = _grouped.label_groups(grouping, found, found, 2, 50)
    of_pair = _grouped.pair_groups(groups, of_frequency, found, labels, targets)
    ends = np.array([1, 2])
    state = _grouped.fit_maps(
        "isotonic", TopK(labels, scores), targets.astype(np.float32), groups, of_pair, ends, False
    )
    got = _grouped.apply_maps(state, labels, scores, groups=of_pair)

    def mixed(fit_at, scores):
        values = scores.astype(float)
        mix = _grouped.MIX
        fitted = apply_one("isotonic", *fit_at, values)
        return (1 - mix) * fitted + mix * expit(values)

    def ascending(mask, z):
        order = np.argsort(z[mask], kind="stable")
        return z[mask][order], targets[mask][order].astype(float)

    def group_maps(rows_from, rows_to):
        z = np.full(scores.shape, -np.inf, np.float32)
        for group in np.unique(of_pair[labels >= 0]):
            mine = (of_pair == group) & (labels >= 0)
            source = ((labels >= 0) if group == 0 else mine) & rows_from
            z[mine & rows_to] = logit(mixed(ascending(source, scores), scores[mine & rows_to]))
        return z

    everything = np.ones((n, 1), dtype=bool)
    z = z_learned = scores
    if grouping != "pooled":
        z = group_maps(everything, everything)
        z_learned = np.full(scores.shape, -np.inf, np.float32)
        for fold in range(3):  # the maps of the ranks learn from maps of other rows
            here = np.arange(n)[:, np.newaxis] % 3 == fold
            z_learned = np.where(here, group_maps(~here, here), z_learned)
    expected = np.zeros(scores.shape)
    for columns in ([0], [1], [2, 3]):
        mine = np.isin(np.arange(k), columns) & (labels >= 0)
        expected[mine] = mixed(ascending(mine, z_learned), z[mine])
    assert_allclose(got, expected, atol=1e-6)
    ranks = np.broadcast_to(np.arange(k), labels.shape)
    assert_allclose(_grouped.apply_maps(state, labels, scores, ranks, of_pair), expected, atol=1e-6)
