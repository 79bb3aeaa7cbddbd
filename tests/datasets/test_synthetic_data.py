"""The generator: its marginals, propensities and power law are what it says."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split

from skxmc.datasets import make_xmc_classification


@pytest.fixture(scope="module")
def data():
    return make_xmc_classification(
        20_000, 800, 300, propensity=np.linspace(0.2, 1, 300), random_state=0
    )


def label_counts(Y):
    return np.bincount(Y.indices, minlength=Y.shape[1])


def assert_frequencies(counts, expected, variance):
    """Counts of independent draws stay within 4.5 standard deviations, on average within one."""
    z = (counts - expected) / np.sqrt(variance)
    assert np.abs(z).max() < 4.5
    assert 0.7 < np.mean(z**2) < 1.3


def test_shapes_and_types(data):
    assert data.X.shape == (20_000, 800)
    assert data.X.dtype == data.marginals.dtype == np.float32
    for name in ("Y", "Y_true", "marginals"):
        assert data[name].shape == (20_000, 300)
    assert data.Y.dtype == data.Y_true.dtype == np.uint8
    assert data.priors.shape == data.propensities.shape == (300,)
    assert data.signatures.shape == (300, 800)
    for name in ("X", "Y", "Y_true", "marginals", "signatures"):
        matrix = data[name]
        assert isinstance(matrix, csr_array)
        matrix.check_format(full_check=True)
        fresh = csr_array((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
        assert fresh.has_canonical_format
    assert (data.Y.data == 1).all()
    assert (data.Y_true.data == 1).all()
    assert (data.marginals.data > 0).all()
    assert (data.marginals.data <= 1).all()


def test_averages(data):
    assert data.priors.sum() == pytest.approx(3.0)
    assert data.Y_true.nnz / 20_000 == pytest.approx(3.0, rel=0.03)
    assert data.X.nnz / 20_000 == pytest.approx(40, rel=0.1)


def test_true_labels_follow_the_marginals(data):
    """Per label, and in ten bins of the marginal: reliable to sampling noise."""
    eta = data.marginals
    assert data.Y_true.multiply(eta > 0).nnz == data.Y_true.nnz  # never outside the candidates
    expected = np.bincount(eta.indices, weights=eta.data, minlength=300)
    variance = np.bincount(eta.indices, weights=eta.data * (1 - eta.data), minlength=300)
    assert_frequencies(label_counts(data.Y_true), expected, variance)

    rows = np.repeat(np.arange(20_000), np.diff(eta.indptr))
    hit = np.asarray(data.Y_true[rows, eta.indices]).ravel()
    bins = np.minimum((eta.data * 10).astype(int), 9)
    for b in range(10):
        p = eta.data[bins == b]
        assert abs(hit[bins == b].sum() - p.sum()) < 4.5 * np.sqrt((p * (1 - p)).sum())


def test_labels_are_independent_given_the_marginals(data):
    """The variance of the number of labels of a row is the one of independent draws."""
    eta = data.marginals
    noise = np.diff(data.Y_true.indptr) - np.asarray(eta.sum(axis=1)).ravel()
    variance = np.asarray(eta.sum(axis=1) - eta.multiply(eta).sum(axis=1)).ravel()
    assert np.mean(noise**2) == pytest.approx(variance.mean(), rel=0.04)


def test_priors(data):
    p = data.priors
    assert_frequencies(label_counts(data.Y_true), 20_000 * p, 20_000 * p * (1 - p))
    candidates = label_counts(data.marginals)
    rate = 2 * p
    assert_frequencies(candidates, 20_000 * rate, 20_000 * rate * (1 - rate))


def test_observed_labels_follow_the_propensities(data):
    n_true = label_counts(data.Y_true)
    p = data.propensities
    np.testing.assert_array_equal(p, np.linspace(0.2, 1, 300))
    assert data.Y.multiply(data.Y_true).nnz == data.Y.nnz  # only ever removes labels
    some = p < 1
    assert_frequencies(label_counts(data.Y)[some], (n_true * p)[some], (n_true * p * (1 - p))[some])
    assert label_counts(data.Y)[-1] == n_true[-1]


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.3])
def test_power_law(exponent):
    data = make_xmc_classification(
        20_000, 500, 400, label_exponent=exponent, avg_labels_per_sample=1.5, random_state=1
    )
    below = np.sort(data.priors)[::-1]
    below = below[below < 0.45]
    ratio = below[1:] / below[:-1]
    rank = np.arange(401 - len(below), 400)
    np.testing.assert_allclose(ratio, (rank / (rank + 1)) ** exponent)
    counts = label_counts(data.Y_true)[np.argsort(-data.priors, kind="stable")][5:150]
    slope = np.polyfit(np.log(np.arange(6, 151)), np.log(counts), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.06)


def test_frequencies_are_capped():
    data = make_xmc_classification(
        50, 500, 20, label_exponent=3.0, avg_labels_per_sample=5.0, random_state=0
    )
    assert data.priors.max() == pytest.approx(0.45)
    assert data.priors.sum() == pytest.approx(5.0)
    assert (data.priors > 0).all()
    full = make_xmc_classification(50, 500, 7, avg_labels_per_sample=0.45 * 7, random_state=0)
    np.testing.assert_allclose(full.priors, 0.45)


def test_jpv_propensities():
    a, b = 0.55, 1.5
    data = make_xmc_classification(2000, 300, 100, propensity=("jpv", a, b), random_state=0)
    for label, n_l in enumerate(label_counts(data.Y_true)):
        c = (np.log(2000) - 1) * (b + 1) ** a
        # The other form of the formula, with the natural exponential.
        assert data.propensities[label] == pytest.approx(1 / (1 + c * np.exp(-a * np.log(n_l + b))))
    tiny = make_xmc_classification(2, 300, 10, propensity=("jpv", a, b), random_state=0)
    np.testing.assert_array_equal(tiny.propensities, 1)


def test_without_propensity_all_labels_are_observed():
    data = make_xmc_classification(100, 200, 50, random_state=0)
    np.testing.assert_array_equal(data.Y.toarray(), data.Y_true.toarray())
    assert not np.shares_memory(data.Y.data, data.Y_true.data)
    np.testing.assert_array_equal(data.propensities, 1)
    half = make_xmc_classification(100, 200, 50, propensity=0.5, random_state=0)
    np.testing.assert_array_equal(half.propensities, 0.5)
    np.testing.assert_array_equal(half.Y_true.toarray(), data.Y_true.toarray())


def test_features_are_the_documented_sum(data):
    """Outside the noise columns X is a function of the marginals."""
    strengths = data.marginals.copy()
    strengths.data = strengths.data + 0.5
    expected = (strengths @ data.signatures).toarray() / np.sqrt(40)
    X = data.X.toarray()
    np.testing.assert_allclose(X[:, :600], expected[:, :600], rtol=1e-5)
    assert data.signatures[:, 600:].nnz == 0
    noise = X[:, 600:]
    assert (noise > 0).mean() == pytest.approx(10 / 200, rel=0.03)
    # Noise says nothing about the labels: the same number of noise features either way.
    top = int(np.argmax(data.priors))
    has = data.Y_true[:, [top]].toarray()[:, 0] > 0
    per_row = (noise > 0).sum(axis=1)
    error = np.sqrt(per_row.var() * (1 / has.sum() + 1 / (~has).sum()))
    assert abs(per_row[has].mean() - per_row[~has].mean()) < 4.5 * error


def test_labels_can_be_learned_by_a_linear_model():
    data = make_xmc_classification(4000, 400, 100, random_state=0)
    train, test = train_test_split(np.arange(4000), random_state=0)
    Y = data.Y.toarray().astype(float)
    scores = Ridge(alpha=0.1).fit(data.X[train].toarray(), Y[train]).predict(data.X[test].toarray())

    def precision_at_1(score):
        return Y[test, np.argmax(score, axis=1)].mean()

    prior = precision_at_1(np.broadcast_to(Y[train].mean(axis=0), scores.shape))
    best = precision_at_1(data.marginals[test].toarray())
    learned = precision_at_1(scores)
    assert learned > prior + 0.3
    assert learned <= best + 0.02


def test_same_seed_same_data():
    first = make_xmc_classification(200, 100, 30, propensity=0.7, random_state=3)
    again = make_xmc_classification(200, 100, 30, propensity=0.7, random_state=3)
    other = make_xmc_classification(200, 100, 30, propensity=0.7, random_state=4)
    for name in ("X", "Y", "Y_true", "marginals"):
        np.testing.assert_array_equal(first[name].toarray(), again[name].toarray())
        assert (first[name].toarray() != other[name].toarray()).any()
    rng = np.random.RandomState(0)
    one, two = (
        make_xmc_classification(50, 50, 10, avg_features_per_sample=20, random_state=rng)
        for _ in range(2)
    )
    assert (one.X.toarray() != two.X.toarray()).any()


def test_wide_and_short():
    """Nothing depends on n_samples * n_labels: here it is 2e11 cells."""
    data = make_xmc_classification(
        200_000,
        1000,
        1_000_000,
        avg_labels_per_sample=1.0,
        avg_features_per_sample=8,
        random_state=0,
    )
    assert data.Y.shape == (200_000, 1_000_000)
    assert data.Y.indices.dtype == data.X.indices.dtype == np.int32
    assert data.Y.nnz == pytest.approx(200_000, rel=0.02)


@pytest.mark.parametrize(("n", "n_labels"), [(1, 1), (1, 50), (30, 1)])
def test_tiny(n, n_labels):
    data = make_xmc_classification(
        n, 60, n_labels, avg_labels_per_sample=0.4, avg_features_per_sample=8, random_state=0
    )
    assert data.X.shape == (n, 60)
    assert data.Y.shape == (n, n_labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "n_samples must be between 1"),
        ({"n_samples": 2.5}, "n_samples must be an int"),
        ({"n_features": 7}, "n_features must be between 8"),
        ({"n_labels": True}, "n_labels must be an int"),
        ({"avg_labels_per_sample": 0}, "avg_labels_per_sample must be above 0"),
        ({"avg_labels_per_sample": 100}, "avg_labels_per_sample=100 is too large for 200 labels"),
        ({"avg_labels_per_sample": np.nan}, "avg_labels_per_sample must be finite"),
        ({"avg_features_per_sample": 5}, "avg_features_per_sample=5 is too small"),
        ({"avg_features_per_sample": 5000}, "avg_features_per_sample=5000 is too large"),
        ({"avg_features_per_sample": "9"}, "avg_features_per_sample must be a number"),
        ({"label_exponent": -1}, "label_exponent must be finite and not negative"),
        ({"propensity": 0.0}, r"propensity\[0\] is 0.0, must be in \(0, 1\]"),
        ({"propensity": np.full(200, 1.1)}, r"propensity\[0\] is 1.1"),
        ({"propensity": np.full(3, 0.5)}, r"propensity has shape \(3,\), expected \(200,\)"),
        ({"propensity": "jpv"}, r"propensity must be \('jpv', A, B\)"),
        ({"propensity": ("jpv", 0.5)}, r"propensity must be \('jpv', A, B\)"),
        ({"propensity": ("jpv", 0.5, 0)}, "B of propensity must be above 0"),
        ({"propensity": ("jpv", -0.5, 1)}, "A and B of propensity must be finite and not negative"),
    ],
)
def test_wrong_parameters(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_xmc_classification(**options)
