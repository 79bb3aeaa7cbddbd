"""The differentiable losses against the definition."""

import numpy as np
import pytest

from skxmc.ops.contrastive import LOSSES, Pairs, reference

torch = pytest.importorskip("torch")

from skxmc.ops.contrastive import torch_  # noqa: E402


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("row_share", [0.0, 0.5, 1.0])
def test_value_and_gradient(loss, row_share):
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (4, 7), (6, 3)]:
        values, state = 3 * rng.standard_normal(shape), rng.random(shape)
        positives = Pairs(*np.nonzero(state < 0.3))
        positives = positives._replace(weights=rng.uniform(0.2, 1, len(positives.rows)))
        options = {
            "loss": loss,
            "row_share": row_share,
            "ignored": Pairs(*np.nonzero(state > 0.8)),
        }
        expected = reference.contrastive_loss(values, positives, **options)
        logits = torch.tensor(values, requires_grad=True)
        result = torch_.contrastive_loss(logits, positives, **options)
        result.backward()
        np.testing.assert_allclose(result.item(), expected.loss, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(logits.grad.numpy(), expected.gradient, atol=1e-12)


def test_a_row_of_positives_only_has_a_finite_gradient():
    logits = torch.zeros((1, 3), requires_grad=True)
    torch_.contrastive_loss(logits, Pairs([0, 0, 0], [0, 1, 2])).backward()
    assert torch.isfinite(logits.grad).all()
