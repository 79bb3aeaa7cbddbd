import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from traced import traced_memory

from skxmc.ops import linear_scores
from skxmc.ops.csr import canonical_csr, take_rows
from skxmc.ops.linear_scores import numba_, pair_scores, prepare_scorer, reference, scores, topk
from skxmc.ops.topk import topk_dense


def make_models(n_labels, n_features, seed=0, density=0.2):
    """Sparse weights, some features with weights for most labels, some with none."""
    rng = np.random.default_rng(seed)
    share = np.clip(density * rng.exponential(size=n_features), 0, 0.9)
    share[rng.random(n_features) < 0.1] = 0
    weights = rng.normal(size=(n_labels, n_features)) * (rng.random((n_labels, n_features)) < share)
    intercept = rng.normal(size=n_labels).astype(np.float32) - 1
    return canonical_csr(sp.csr_array(weights)), intercept


def make_rows(n_rows, n_features, seed=1, density=0.3):
    rng = np.random.default_rng(seed)
    X = rng.random((n_rows, n_features)) * (rng.random((n_rows, n_features)) < density)
    X[n_rows // 2] = 0
    return canonical_csr(sp.csr_array(X))


def random_pairs(n_rows, n_labels, seed=2, density=0.3):
    rng = np.random.default_rng(seed)
    return sp.csr_array(rng.random((n_rows, n_labels)) < density)


def assert_same_bits(a, b):
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a.view(np.int32), b.view(np.int32))


def assert_same_answers(a, b):
    np.testing.assert_array_equal(a.labels, b.labels)
    assert_same_bits(a.scores, b.scores)


SHAPES = [  # labels, features, rows
    (1, 1, 1),
    (2, 3, 5),
    (17, 5, 3),
    (33, 70, 40),
    (257, 19, 9),
    (1000, 64, 33),
]


@pytest.mark.parametrize(("n_labels", "n_features", "n_rows"), SHAPES)
def test_scores_are_the_sums_in_column_order_and_near_the_exact_ones(n_labels, n_features, n_rows):
    coef, intercept = make_models(n_labels, n_features)
    X = make_rows(n_rows, n_features)
    found = scores(prepare_scorer(coef, intercept), X)
    assert_same_bits(found, reference.scores(coef, intercept, X, np.float32))
    exact = X.toarray().astype(np.float64) @ coef.toarray().astype(np.float64).T + intercept
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n_labels", "n_features", "n_rows"), SHAPES)
@pytest.mark.parametrize("k", [1, 5, 40, 2000])
def test_topk_finds_what_all_scores_say(n_labels, n_features, n_rows, k):
    coef, intercept = make_models(n_labels, n_features)
    X = make_rows(n_rows, n_features)
    answers = topk(prepare_scorer(coef, intercept), X, k)
    assert answers.labels.shape == answers.scores.shape == (n_rows, k)
    assert_same_answers(answers, reference.topk(coef, intercept, X, k, dtype=np.float32))


@pytest.mark.parametrize("k", [1, 3, 300])
def test_topk_agrees_with_float64_where_scores_differ_clearly(k):
    # multiples of 1/8 are exact in float32: the float64 order has to come out, ties included
    rng = np.random.default_rng(3)
    coef = canonical_csr(sp.csr_array(np.round(8 * rng.normal(size=(400, 30))) / 8))
    intercept = np.round(2 * rng.normal(size=400)).astype(np.float32)
    X = canonical_csr(sp.csr_array(rng.integers(-2, 3, size=(20, 30)).astype(float)))
    answers = topk(prepare_scorer(coef, intercept), X, k)
    assert_same_answers(answers, reference.topk(coef, intercept, X, k, dtype=np.float64))


@pytest.mark.parametrize("k", [1, 4, 1000])
@pytest.mark.parametrize("restriction", ["exclude", "candidates", "both"])
@pytest.mark.parametrize("density", [0.01, 0.4, 1.0])
def test_restrictions_act_before_the_choice(k, restriction, density):
    coef, intercept = make_models(300, 25)
    intercept[::7] = -np.inf
    X = make_rows(12, 25)
    given_pairs = {}
    if restriction != "candidates":
        given_pairs["exclude"] = random_pairs(12, 300, seed=4, density=density)
    if restriction != "exclude":
        given_pairs["candidates"] = random_pairs(12, 300, seed=5, density=density)
    answers = topk(prepare_scorer(coef, intercept), X, k, **given_pairs)
    expected = reference.topk(coef, intercept, X, k, **given_pairs, dtype=np.float32)
    assert_same_answers(answers, expected)


@pytest.fixture(params=["no dense rows", "default", "all dense rows"])
def layout(request, monkeypatch):
    share, budget = {
        "no dense rows": (2.0, 0.0),
        "default": (numba_._DENSE_SHARE, numba_._DENSE_BUDGET),
        "all dense rows": (0.0, np.inf),
    }[request.param]
    if request.param == "all dense rows":
        budget = 1e9
    monkeypatch.setattr(numba_, "_DENSE_SHARE", share)
    monkeypatch.setattr(numba_, "_DENSE_BUDGET", budget)
    return request.param


@pytest.mark.parametrize("few", [0.0, 1e9])
@pytest.mark.parametrize("bisection_cost", [0.0, 1e9])
def test_no_choice_of_layout_or_method_changes_a_bit(layout, few, bisection_cost, monkeypatch):
    coef, intercept = make_models(500, 40, density=0.15)
    intercept[[3, 77]] = -np.inf
    X = make_rows(30, 40)
    pairs = random_pairs(30, 500)
    scorer = prepare_scorer(coef, intercept)
    n_used = np.count_nonzero(np.bincount(coef.indices, minlength=40))
    n_dense = len(scorer.dense)
    assert {
        "no dense rows": n_dense == 0,
        "default": 0 < n_dense < n_used,
        "all dense rows": n_dense == n_used,
    }[layout]
    monkeypatch.setattr(numba_, "_FEW_WEIGHTS", few)
    monkeypatch.setattr(numba_, "_BISECTION_COST", bisection_cost)
    expected = reference.scores(coef, intercept, X, np.float32)
    assert_same_bits(scores(scorer, X), expected)
    for k in (1, 5, 300):
        assert_same_answers(topk(scorer, X, k), topk_dense(expected, k))
        allowed = np.where(pairs.toarray(), -np.inf, expected).astype(np.float32)
        assert_same_answers(topk(scorer, X, k, exclude=pairs), topk_dense(allowed, k))
        allowed = np.where(pairs.toarray(), expected, -np.inf).astype(np.float32)
        assert_same_answers(topk(scorer, X, k, candidates=pairs), topk_dense(allowed, k))
    found = pair_scores(scorer, X, pairs)
    assert_same_bits(found.data, expected[pairs.nonzero()])
    np.testing.assert_array_equal(found.indices, pairs.nonzero()[1])


def test_a_row_has_the_same_answers_in_any_company(monkeypatch):
    coef, intercept = make_models(600, 50)
    X = make_rows(70, 50)
    exclude, candidates = random_pairs(70, 600, 6), random_pairs(70, 600, 7, density=0.02)
    scorer = prepare_scorer(coef, intercept)
    for k in (5, 400):
        for restriction in ({}, {"exclude": exclude}, {"candidates": candidates}):
            whole = topk(scorer, X, k, **restriction)
            for i in (0, 35, 69):
                rows = slice(i, i + 1)
                of_row = {name: take_rows(pairs, rows) for name, pairs in restriction.items()}
                alone = topk(scorer, take_rows(X, rows), k, **of_row)
                assert_same_bits(alone.scores[0], whole.scores[i])
                np.testing.assert_array_equal(alone.labels[0], whole.labels[i])
            for chunk_rows, block_size in ((1, 1), (3, 1 << 20), (64, 2000)):
                monkeypatch.setattr(numba_, "_CHUNK_ROWS", chunk_rows)
                monkeypatch.setattr(numba_, "_BLOCK_SIZE", block_size)
                for n_threads in (1, 2, 5):
                    parts = topk(scorer, X, k, **restriction, n_threads=n_threads)
                    assert_same_answers(parts, whole)
                    dense = topk(scorer, X.toarray(), k, **restriction, n_threads=n_threads)
                    assert_same_answers(dense, whole)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_dense_rows_score_as_sparse_ones(n_threads, monkeypatch):
    coef, intercept = make_models(200, 30)
    X = make_rows(50, 30)
    pairs = random_pairs(50, 200)
    scorer = prepare_scorer(coef, intercept)
    monkeypatch.setattr(numba_, "_CHUNK_ROWS", 7)
    expected = scores(scorer, X)
    for dense in (X.toarray(), X.toarray().astype(np.float64), np.asfortranarray(X.toarray())):
        assert_same_bits(scores(scorer, dense, n_threads=n_threads), expected)
        assert_same_answers(topk(scorer, dense, 3, n_threads=n_threads), topk(scorer, X, 3))
        assert_same_bits(
            pair_scores(scorer, dense, pairs, n_threads=n_threads).data,
            pair_scores(scorer, X, pairs).data,
        )


def test_equal_scores_come_by_label():
    coef = sp.csr_array((9, 4), dtype=np.float32)
    scorer = prepare_scorer(coef, np.zeros(9))
    answers = topk(scorer, make_rows(3, 4), 4)
    np.testing.assert_array_equal(answers.labels, [[0, 1, 2, 3]] * 3)
    # reached and unreached labels with one score
    coef = canonical_csr(sp.csr_array([[0.0], [1.0], [0.0], [1.0], [0.0], [0.0]]))
    expected = np.array([[0, 1, 2, 3], [0, 2, 4, 5]])
    for few in (0, 1e9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(numba_, "_FEW_WEIGHTS", few)
            patch.setattr(numba_, "_DENSE_SHARE", 2.0)
            scorer = prepare_scorer(coef, np.array([0, -1, 0, -1, 0, 0]))
            for k in (1, 2, 3, 4):
                answers = topk(scorer, np.array([[1.0], [0.5]]), k)
                np.testing.assert_array_equal(answers.labels, expected[:, :k])


def test_minus_zero_does_not_depend_on_the_method():
    coef = canonical_csr(sp.csr_array([[0.0, 0.0], [1.0, -1.0]]))
    scorer = prepare_scorer(coef, np.array([-0.0, -0.0]))
    found = scores(scorer, np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert not np.signbit(found).any()


def test_labels_without_candidacy_are_never_answered():
    coef, intercept = make_models(50, 10)
    X = make_rows(6, 10)
    intercept[10:] = -np.inf
    scorer = prepare_scorer(coef, intercept)
    answers = topk(scorer, X, 20)
    assert (answers.labels[:, :10] >= 0).all()
    assert (answers.labels[:, :10] < 10).all()
    assert (answers.labels[:, 10:] == -1).all()
    assert np.isneginf(answers.scores[:, 10:]).all()
    assert np.isneginf(scores(scorer, X)[:, 10:]).all()
    everything = topk(prepare_scorer(coef, np.full(50, -np.inf)), X, 3)
    assert (everything.labels == -1).all()
    assert np.isneginf(everything.scores).all()


def test_excluding_all_labels_leaves_no_answer():
    coef, intercept = make_models(20, 5)
    X = make_rows(4, 5)
    everything = sp.csr_array(np.ones((4, 20)))
    scorer = prepare_scorer(coef, intercept)
    for restriction in ({"exclude": everything}, {"candidates": sp.csr_array((4, 20))}):
        assert (topk(scorer, X, 2, **restriction).labels == -1).all()


@pytest.mark.parametrize(("n_rows", "n_labels"), [(0, 5), (3, 0), (0, 0)])
def test_nothing_to_do(n_rows, n_labels):
    scorer = prepare_scorer(sp.csr_array((n_labels, 4)), np.zeros(n_labels))
    for X in (sp.csr_array((n_rows, 4)), np.zeros((n_rows, 4))):
        assert scores(scorer, X).shape == (n_rows, n_labels)
        assert topk(scorer, X, 2).labels.shape == (n_rows, 2)
        assert (topk(scorer, X, 2).labels == -1).all()
        assert pair_scores(scorer, X, sp.csr_array((n_rows, n_labels))).nnz == 0


def test_no_features():
    scorer = prepare_scorer(sp.csr_array((3, 0)), [0.0, 2.0, 1.0])
    np.testing.assert_array_equal(topk(scorer, np.zeros((2, 0)), 2).labels, [[1, 2]] * 2)


def test_read_only_and_memory_mapped_input(tmp_path):
    coef, intercept = make_models(80, 20)
    X = make_rows(9, 20)
    expected = topk(prepare_scorer(coef, intercept), X, 5)

    def mapped(A):
        arrays = []
        for name in ("data", "indices", "indptr"):
            np.save(tmp_path / f"{name}_{A.shape}.npy", getattr(A, name))
            arrays.append(np.load(tmp_path / f"{name}_{A.shape}.npy", mmap_mode="r"))
        out = sp.csr_array(A.shape, dtype=A.dtype)
        out.data, out.indices, out.indptr = arrays
        return out

    np.save(tmp_path / "intercept.npy", intercept)
    np.save(tmp_path / "X.npy", X.toarray())
    n_compiled = (
        len(numba_._topk_rows.signatures) if hasattr(numba_._topk_rows, "signatures") else 0
    )
    scorer = prepare_scorer(mapped(coef), np.load(tmp_path / "intercept.npy", mmap_mode="r"))
    assert_same_answers(topk(scorer, mapped(X), 5), expected)
    assert_same_answers(topk(scorer, np.load(tmp_path / "X.npy", mmap_mode="r"), 5), expected)
    for field in scorer[2:9]:
        field.flags.writeable = False
    assert_same_answers(topk(scorer, X, 5), expected)
    copied = pickle.loads(pickle.dumps(scorer))
    assert_same_answers(topk(copied, X, 5, exclude=sp.csr_array((9, 80))), expected)
    if n_compiled:
        assert len(numba_._topk_rows.signatures) == n_compiled


def test_inputs_are_not_changed():
    coef, intercept = make_models(60, 15)
    X, pairs = make_rows(8, 15), random_pairs(8, 60)
    intercept[4] = -np.inf
    before = [a.copy() for A in (coef, X, pairs) for a in (A.data, A.indices, A.indptr)]
    scorer = prepare_scorer(coef, intercept)
    fields = [field.copy() for field in scorer[2:9]]
    topk(scorer, X, 3, exclude=pairs)
    topk(scorer, X, 3, candidates=pairs)
    scores(scorer, X)
    after = [a for A in (coef, X, pairs) for a in (A.data, A.indices, A.indptr)]
    for a, b in zip(before + fields, after + list(scorer[2:9]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("density", [0.001, 0.05, 0.2, 1.0])
def test_memory_of_the_layout_is_as_documented(density):
    n_labels, n_features = 1500, 300
    coef = canonical_csr(
        sp.random_array((n_labels, n_features), density=density, format="csr", rng=0)
    )
    scorer = prepare_scorer(coef, np.zeros(n_labels))
    limit = 2 * 8 * coef.nnz + 12 * n_features + 8 * n_labels + 8
    assert scorer.nbytes <= limit


def test_topk_never_holds_all_scores():
    n_rows, n_labels = 3000, 4000
    coef = canonical_csr(sp.random_array((n_labels, 50), density=0.01, format="csr", rng=0))
    X = canonical_csr(sp.random_array((n_rows, 50), density=0.1, format="csr", rng=1))
    scorer = prepare_scorer(coef, np.zeros(n_labels))
    topk(scorer, X, 5)
    with traced_memory() as peak:
        topk(scorer, X, 5)
        assert peak() < n_rows * n_labels * 4 / 20


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_small_case_agrees_with_the_reference(data):
    n_labels = data.draw(st.integers(1, 40))
    n_features = data.draw(st.integers(1, 8))
    n_rows = data.draw(st.integers(1, 6))
    seed = data.draw(st.integers(0, 2**20))
    k = data.draw(st.integers(1, 45))
    rng = np.random.default_rng(seed)
    # few different values, so that ties are common
    coef = rng.integers(-2, 3, (n_labels, n_features)) * (
        rng.random((n_labels, n_features)) < rng.random()
    )
    intercept = np.where(rng.random(n_labels) < 0.2, -np.inf, rng.integers(-2, 2, n_labels))
    X = rng.integers(-1, 3, (n_rows, n_features)) * (rng.random((n_rows, n_features)) < 0.6)
    pairs = sp.csr_array(rng.random((n_rows, n_labels)) < rng.random())
    restriction = data.draw(st.sampled_from([{}, {"exclude": pairs}, {"candidates": pairs}]))
    coef, X = canonical_csr(sp.csr_array(coef)), canonical_csr(sp.csr_array(X))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numba_, "_FEW_WEIGHTS", data.draw(st.sampled_from([0.0, 0.5, 10.0])))
        patch.setattr(numba_, "_LARGEST_LIST", data.draw(st.sampled_from([3, 256])))
        patch.setattr(numba_, "_BISECTION_COST", data.draw(st.sampled_from([0.0, 1.0, 100.0])))
        patch.setattr(numba_, "_DENSE_SHARE", data.draw(st.sampled_from([0.0, 0.3, 2.0])))
        patch.setattr(numba_, "_DENSE_BUDGET", 100.0)
        answers = topk(prepare_scorer(coef, intercept), X, k, **restriction)
    assert_same_answers(answers, reference.topk(coef, intercept, X, k, **restriction))


# ------------------------------------------------------------------ bad input


@pytest.fixture
def scorer():
    return prepare_scorer(sp.csr_array([[1.0, 0.0, 2.0], [0.0, 2.0, 0.0]]), [0.0, -1.0])


@pytest.mark.parametrize(
    ("intercept", "message"),
    [
        ([0.0, np.nan], "intercept of label 1 is nan"),
        ([np.inf, 0.0], "intercept of label 0 is inf"),
        ([0.0], "one value for each of the 2 rows"),
        ([[0.0, 1.0]], "one value for each of the 2 rows"),
    ],
)
def test_bad_intercepts(intercept, message):
    with pytest.raises(ValueError, match=message):
        prepare_scorer(sp.csr_array((2, 3)), intercept)


def test_bad_weights():
    with pytest.raises(ValueError, match=r"coef contains NaN \(row 0, column 1\)"):
        prepare_scorer(sp.csr_array([[0.0, np.nan]]), [0.0])
    with pytest.raises(TypeError, match="coef must be a scipy sparse"):
        prepare_scorer(np.ones((2, 2)), [0.0, 0.0])
    corrupt = sp.csr_array([[0.0, 1.0], [1.0, 0.0]])
    corrupt.indices[1] = 9
    with pytest.raises(ValueError, match="row 1 has the column index 9"):
        prepare_scorer(corrupt, [0.0, 0.0])


@pytest.mark.parametrize("function", [scores, lambda s, X: topk(s, X, 1)])
def test_bad_rows(scorer, function):
    for X in (sp.csr_array((2, 4)), np.zeros((2, 4))):
        with pytest.raises(ValueError, match="X has 4 features, but the models have 3 weights"):
            function(scorer, X)
    with pytest.raises(ValueError, match="two-dimensional"):
        function(scorer, np.zeros(3))
    X = np.zeros((4, 3))
    for value in (np.nan, np.inf, 1e300):
        X[2, 1] = value
        with pytest.raises(ValueError, match=r"in row 2, column 1"):
            function(scorer, X)
        with pytest.raises(ValueError, match=r"row 2, column 1"):
            function(scorer, sp.csr_array(X))


def test_rows_are_named_by_their_number_in_the_whole_input(scorer, monkeypatch):
    monkeypatch.setattr(numba_, "_CHUNK_ROWS", 2)
    X = np.zeros((9, 3))
    X[7, 2] = np.nan
    with pytest.raises(ValueError, match="row 7, column 2"):
        topk(scorer, X, 1)


def test_scores_that_are_not_numbers(monkeypatch):
    big = np.float32(3e38)
    scorer = prepare_scorer(sp.csr_array([[big, -big]]), [0.0])
    X = np.zeros((5, 2), dtype=np.float32)
    X[3] = 10
    monkeypatch.setattr(numba_, "_CHUNK_ROWS", 2)
    everything = sp.csr_array(np.ones((5, 1)))
    for rows in (X, sp.csr_array(X)):
        for few in (0.0, 1e9):
            monkeypatch.setattr(numba_, "_FEW_WEIGHTS", few)
            with pytest.raises(ValueError, match="row 3 of X exceed float32"):
                topk(scorer, rows, 1)
        with pytest.raises(ValueError, match="row 3 of X exceed float32"):
            topk(scorer, rows, 1, candidates=everything)
        monkeypatch.setattr(numba_, "_LARGEST_LIST", 0)
        with pytest.raises(ValueError, match="row 3 of X exceed float32"):
            topk(scorer, rows, 1)
        monkeypatch.undo()


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None])
def test_bad_k(scorer, k):
    with pytest.raises((TypeError, ValueError), match="k must be"):
        topk(scorer, np.zeros((1, 3)), k)


def test_bad_restrictions(scorer):
    X = np.zeros((2, 3))
    for name in ("exclude", "candidates"):
        with pytest.raises(ValueError, match=rf"{name} must have the shape .* = \(2, 2\)"):
            topk(scorer, X, 1, **{name: sp.csr_array((2, 3))})
        with pytest.raises(TypeError, match=f"{name} must be a scipy sparse"):
            topk(scorer, X, 1, **{name: np.ones((2, 2))})
    with pytest.raises(ValueError, match="pairs must have the shape"):
        pair_scores(scorer, X, sp.csr_array((2, 3)))


def test_bad_n_threads(scorer):
    for function in (
        lambda n: topk(scorer, np.zeros((1, 3)), 1, n_threads=n),
        lambda n: scores(scorer, np.zeros((1, 3)), n_threads=n),
        lambda n: pair_scores(scorer, np.zeros((1, 3)), sp.csr_array((1, 2)), n_threads=n),
    ):
        with pytest.raises(ValueError, match="n_threads must be at least 1"):
            function(0)


def test_exports():
    for name in linear_scores.__all__:
        assert getattr(linear_scores, name) is getattr(numba_, name)
