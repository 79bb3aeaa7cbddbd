"""Scores of linear models in torch against the definition and the compiled version."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from skxmc.ops import linear_scores
from skxmc.ops.linear_scores import reference, torch_
from skxmc.ops.topk import torch_ as topk_torch


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def eighths(shape, rng, density=0.4):
    """Numbers whose products and sums are exact in float32: equal scores are equal everywhere."""
    A = rng.integers(-4, 5, size=shape) / 8 * (rng.random(shape) < density)
    return sp.csr_array(A.astype(np.float32))


def make_case(n_labels, n_features, n_rows, seed=0):
    rng = np.random.default_rng(seed)
    coef, X = eighths((n_labels, n_features), rng), eighths((n_rows, n_features), rng)
    intercept = (rng.integers(-4, 5, size=n_labels) / 8).astype(np.float32)
    intercept[rng.random(n_labels) < 0.1] = -np.inf
    return coef, intercept, X


def random_pairs(shape, seed, density=0.4):
    return sp.csr_array((np.random.default_rng(seed).random(shape) < density).astype(np.uint8))


SHAPES = [(1, 1, 1), (9, 5, 3), (40, 23, 17), (300, 7, 12)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block_bytes", [None, 1])
def test_scores_are_those_of_the_definition(shape, block_bytes):
    coef, intercept, X = make_case(*shape)
    scorer = torch_.prepare_scorer(coef, intercept)
    found = torch_.scores(scorer, X, block_bytes=block_bytes)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, reference.scores(coef, intercept, X, np.float32))
    np.testing.assert_array_equal(torch_.scores(scorer, X.toarray()), found)


@pytest.mark.parametrize("k", [1, 3, 1000])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("restricted", ["", "exclude", "candidates", "both"])
def test_topk_finds_what_the_definition_does_ties_included(shape, k, restricted, monkeypatch):
    coef, intercept, X = make_case(*shape)
    n_labels, _, n_rows = shape
    options = {}
    if restricted in ("exclude", "both"):
        options["exclude"] = random_pairs((n_rows, n_labels), 1)
    if restricted in ("candidates", "both"):
        options["candidates"] = random_pairs((n_rows, n_labels), 2)
    expected = reference.topk(coef, intercept, X, k, dtype=np.float32, **options)
    for block_labels, block_bytes in ((8192, None), (7, 3000)):
        monkeypatch.setattr(torch_, "_BLOCK_LABELS", block_labels)
        scorer = torch_.prepare_scorer(coef, intercept)
        assert len(scorer.blocks) == -(-n_labels // block_labels)
        found = torch_.topk(scorer, X, k, **options, block_bytes=block_bytes)
        assert found.labels.dtype == np.int32
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.scores, expected.scores)


def test_real_numbers_agree_with_the_compiled_version():
    rng = np.random.default_rng(0)
    coef = sp.random_array((200, 90), density=0.2, rng=rng, format="csr", dtype=np.float32)
    X = sp.random_array((31, 90), density=0.3, rng=rng, format="csr", dtype=np.float32)
    intercept = rng.normal(size=200)
    compiled = linear_scores.topk(linear_scores.prepare_scorer(coef, intercept), X, 5)
    scorer = torch_.prepare_scorer(coef, intercept)
    found = torch_.topk(scorer, X, 5)
    np.testing.assert_array_equal(found.labels, compiled.labels)
    np.testing.assert_allclose(found.scores, compiled.scores, rtol=1e-5)
    alone = torch_.topk(scorer, X[[7]], 5)  # a row has the same bits in any company
    np.testing.assert_array_equal(alone.scores[0], found.scores[7])


def test_labels_without_candidacy_and_rows_without_labels():
    coef, intercept, X = make_case(6, 4, 3)
    nothing = torch_.topk(torch_.prepare_scorer(coef, np.full(6, -np.inf)), X, 2)
    assert (nothing.labels == -1).all()
    assert (nothing.scores == -np.inf).all()
    scorer = torch_.prepare_scorer(coef, intercept)
    assert torch_.topk(scorer, X[:0], 2).labels.shape == (0, 2)
    everything = sp.csr_array(np.ones((3, 6)))
    assert (torch_.topk(scorer, X, 2, exclude=everything).labels == -1).all()


def test_no_weights_and_no_features():
    scorer = torch_.prepare_scorer(sp.csr_array((3, 4)), [0.0, 2.0, 1.0])
    assert torch_.topk(scorer, np.ones((1, 4)), 2).labels.tolist() == [[1, 2]]
    scorer = torch_.prepare_scorer(sp.csr_array((3, 0)), [0.0, 2.0, 1.0])
    assert torch_.scores(scorer, np.ones((1, 0))).tolist() == [[0, 2, 1]]


def test_long_labels_are_summed_in_pieces():
    rng = np.random.default_rng(0)
    coef, X = eighths((3, 2000), rng, 0.9), eighths((4, 2000), rng)
    scorer = torch_.prepare_scorer(coef, np.zeros(3))
    assert scorer.blocks[0].rows is not None
    expected = X.toarray().astype(np.float64) @ coef.toarray().T
    np.testing.assert_array_equal(torch_.scores(scorer, X), expected)


def test_read_only_arrays():
    coef, intercept, X = make_case(9, 5, 3)
    expected = torch_.topk(torch_.prepare_scorer(coef, intercept), X, 3)
    for array in (coef.data, coef.indices, coef.indptr, intercept, X.data, X.indices, X.indptr):
        array.flags.writeable = False
    found = torch_.topk(torch_.prepare_scorer(coef, intercept), X, 3)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_wrong_input():
    coef, intercept, X = make_case(9, 5, 3)
    scorer = torch_.prepare_scorer(coef, intercept)
    with pytest.raises(ValueError, match="X has 4 features"):
        torch_.topk(scorer, X[:, :4], 2)
    with pytest.raises(ValueError, match="k must be at least 1"):
        torch_.topk(scorer, X, 0)
    with pytest.raises(ValueError, match="exclude"):
        torch_.topk(scorer, X, 2, exclude=sp.csr_array((2, 9)))
    with pytest.raises(ValueError, match="one value for each of the 9"):
        torch_.prepare_scorer(coef, intercept[:4])
    bad = X.toarray()
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match="row 1, column 2"):
        torch_.scores(scorer, bad)
    huge = sp.csr_array(np.array([[3e38, 3e38]], np.float32))
    scorer = torch_.prepare_scorer(sp.csr_array([[2.0, -2.0]]), [0.0])
    with pytest.raises(ValueError, match="Scores of row 1 of X exceed float32"):
        torch_.topk(scorer, sp.vstack([huge * 0, huge], format="csr"), 1)


def test_keys_rank_as_score_and_number_do():
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    scores = [-np.inf, -3e38, -1.0, -tiny, 0.0, tiny, 1.0, 3e38, np.inf]
    scores = torch.tensor(scores, dtype=torch.float32)
    numbers = torch.tensor([0, 1, 2**31 - 1])
    keys = topk_torch.pack_keys(scores[:, None], numbers)
    assert (keys.diff(dim=1) < 0).all()
    assert (keys[1:, -1] > keys[:-1, 0]).all()
    assert (topk_torch.pack_keys(torch.tensor([-0.0]), numbers) == keys[4]).all()
    assert keys.min() > topk_torch.NO_KEY
    found, values = topk_torch.unpack_keys(keys)
    assert (found[1:] == numbers).all()
    assert (values == scores[:, None]).all()
    assert (found[0] == -1).all()
    assert [part.item() for part in topk_torch.unpack_keys(torch.tensor(topk_torch.NO_KEY))] == [
        -1,
        -np.inf,
    ]
