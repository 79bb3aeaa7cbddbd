"""The sparse output layer as a differentiable function of torch."""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from skxmc.ops.sparse_head.torch_layouts import layout_of

_BLOCK = 1 << 22  # gathered numbers at a time


class SparseLinear(Function):
    """Margins of labels with fixed fan-in, for use inside a torch model.

    ``SparseLinear.apply(features, weights, indices, bias, group_size)`` returns the margins
    ``sum_f weights[l, f] * features[b, indices[l // group_size, f]] + bias[l]``. Unlike
    `skxmc.ops.sparse_head.torch_.train_step` it makes all (n_rows, n_labels) margins, and the
    gradient of the weights as a tensor.

    Parameters
    ----------
    features : float tensor of shape (n_rows, n_inputs)
    weights : float tensor of shape (n_labels, fan_in)
    indices : integer tensor of shape (ceil(n_labels / group_size), fan_in), or None
        Inputs of each group, all different in a row. ``None``: a dense layer.
    bias : float tensor of shape (n_labels,), or None
    group_size : int
        1 is fixed fan-in; the last group may be smaller.

    Returns
    -------
    tensor of shape (n_rows, n_labels)
        float64 if the features are, else float32: features and weights of less are widened, and
        their gradients come back in their own types.

    Notes
    -----
    Gradients are exact and the same from run to run, on CUDA too (no atomic additions; see
    `skxmc.ops.sparse_head.torch_layouts`). They cannot be differentiated again. O(n_rows * n_labels
    * fan_in) time.

    Examples
    --------
    >>> import torch
    >>> from skxmc.ops.sparse_head.torch_autograd import SparseLinear
    >>> features = torch.tensor([[1.0, 2.0, 3.0]])
    >>> weights = torch.tensor([[1.0, 10.0], [0.5, 0.0]], requires_grad=True)
    >>> indices = torch.tensor([[0, 2], [1, 0]])
    >>> margins = SparseLinear.apply(features, weights, indices, None, 1)
    >>> margins
    tensor([[31.,  1.]], grad_fn=<SparseLinearBackward>)
    >>> margins.sum().backward()
    >>> weights.grad
    tensor([[1., 3.],
            [2., 1.]])
    """

    @staticmethod
    def forward(ctx, features, weights, indices, bias, group_size):
        """See the class."""
        ctx.save_for_backward(features, weights, indices)
        ctx.group_size = group_size
        ctx.bias_type = None if bias is None else bias.dtype
        inputs = _widen(features).T.contiguous()
        out = inputs.new_empty(features.shape[0], weights.shape[0])
        for labels, layout in _blocks(weights, indices, group_size, features.shape[0]):
            out[:, labels] = layout.margins(inputs, weights[labels].to(inputs.dtype)).T
        return out if bias is None else out.add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        """Return the gradients of features, weights and bias."""
        features, weights, indices = ctx.saved_tensors
        of_features, of_weights, _, of_bias, _ = ctx.needs_input_grad
        inputs = _widen(features).T.contiguous()
        grad_inputs = torch.zeros_like(inputs) if of_features else None
        grad_weights = torch.empty_like(weights) if of_weights else None
        for labels, layout in _blocks(weights, indices, ctx.group_size, features.shape[0]):
            part = gradient[:, labels].T.contiguous()
            if of_features:
                wide = weights[labels].to(inputs.dtype)
                grad_inputs += layout.input_gradient(wide, part, len(inputs))
            if of_weights:
                grad_weights[labels] = layout.weight_gradient(inputs, part).to(weights.dtype)
        if of_features:
            grad_inputs = grad_inputs.T.contiguous().to(features.dtype)
        grad_bias = gradient.sum(dim=0).to(ctx.bias_type) if of_bias else None
        return grad_inputs, grad_weights, None, grad_bias, None


def _widen(features):
    return features if features.dtype == torch.float64 else features.to(torch.float32)


def _blocks(weights, indices, group_size, n_rows):
    """Ranges of labels and their layouts, so that no large array of gathered inputs is made."""
    n_labels, fan_in = weights.shape
    n_groups = max(1, _BLOCK // (fan_in * n_rows + group_size * (n_rows + fan_in)))
    step = n_groups * group_size
    for first in range(0, n_labels, step):
        labels = slice(first, min(first + step, n_labels))
        chosen = indices
        if indices is not None:
            groups = slice(first // group_size, -(-labels.stop // group_size))
            chosen = indices[groups].to(torch.int32)
        yield labels, layout_of(chosen, group_size)
