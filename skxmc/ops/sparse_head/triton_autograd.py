"""The sparse output layer as a differentiable function of torch, by the Triton kernels."""

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from skxmc.ops.sparse_head import triton_
from skxmc.ops.sparse_head._types import Part

_PRECISIONS = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float8_e4m3fn: "float8",
}


class SparseLinear(Function):
    """Margins of labels with fixed fan-in, for use inside a torch model.

    ``SparseLinear.apply(features, weights, indices, bias, group_size)`` is the function of
    `skxmc.ops.sparse_head.torch_autograd.SparseLinear`, on a GPU and in float32: it makes all
    (n_rows, n_labels) margins, and the gradient of the weights as a tensor.

    Parameters
    ----------
    features : float32 tensor of shape (n_rows, n_inputs)
    weights : float32, bfloat16 or float8_e4m3fn tensor of shape (n_labels, fan_in)
        Products of bfloat16 and float8 weights in groups are those of tensor cores, with features
        rounded to bfloat16 (``dot="auto"`` of `triton_.scores`).
    indices : integer tensor of shape (ceil(n_labels / group_size), fan_in), or None
        Inputs of each group, all different in a row. ``None``: a dense layer.
    bias : float32 tensor of shape (n_labels,), or None
    group_size : int
        1 is fixed fan-in; the last group may be smaller.

    Returns
    -------
    float32 tensor of shape (n_rows, n_labels)

    Raises
    ------
    TypeError
        If features or weights are of another type.
    ValueError
        As `triton_.scores`.

    Notes
    -----
    Gradients are the same from run to run, and cannot be differentiated again. O(n_rows * n_labels
    * fan_in) time.
    """

    @staticmethod
    def forward(ctx, features, weights, indices, bias, group_size):
        """See the class."""
        if features.dtype != torch.float32 or weights.dtype not in _PRECISIONS:
            raise TypeError(
                "Triton kernels take float32 features and float32, bfloat16 or float8_e4m3fn "
                f"weights; got {features.dtype} and {weights.dtype}. The torch backend takes more."
            )
        ctx.save_for_backward(features, weights, indices, bias)
        ctx.group_size = group_size
        return triton_.scores(features, (_part(weights, indices, bias, group_size),))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        """Return the gradients of features, weights and bias."""
        features, weights, indices, bias = ctx.saved_tensors
        part = _part(weights, indices, bias, ctx.group_size)
        of_features, of_weights, _, of_bias, _ = ctx.needs_input_grad
        grad_features = grad_weights = grad_bias = None
        if of_features:
            grad_features = triton_.grad_features(gradient, part, features.shape[1])
        if of_weights:
            grad_weights = triton_.grad_weights(features, gradient, part).to(weights.dtype)
        if of_bias:
            grad_bias = gradient.sum(dim=0)
        return grad_features, grad_weights, None, grad_bias, None


def _part(weights, indices, bias, group_size):
    if bias is None:
        bias = torch.zeros(weights.shape[0], device=weights.device)
    if indices is not None:
        indices = indices.contiguous()
    precision = _PRECISIONS[weights.dtype]
    return Part(weights.detach().contiguous(), indices, bias.detach(), group_size, precision)
