"""Memory of training a text encoder, predicted."""

import contextlib

import torch

from skxmc.neural.torch_text_encoder import (
    checkpoint_layers,
    hidden_states,
    is_transformer,
    pool,
)

_PROBES = (16, 64)  # tokens


def products_in(precision, device):
    """A context in which torch computes matrix products in bfloat16 for ``precision="mixed"``."""
    if precision != "mixed" or device.type == "meta":  # which has no autocast
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def footprint(
    encoder, n_rows, n_tokens=None, *, trainable=True, checkpointing=False, precision="float32"
):
    """Predict the memory of a training step.

    Parameters
    ----------
    encoder : Encoder
        On any device, the meta device included; its layers' checkpointing is set already.
    n_rows, n_tokens : int
        Shape of the batch; None: ``encoder.max_length`` tokens.
    trainable : bool, default=True
    checkpointing : bool, default=False
    precision : {"float32", "bfloat16", "mixed"}, default="float32"
        The parameters have its type already.

    Returns
    -------
    dict of str to int
        See `TextFront.footprint`.
    """
    module = encoder.module
    n_tokens = encoder.max_length if n_tokens is None else min(n_tokens, encoder.max_length)
    tensors = [*module.parameters(), *module.buffers()]
    trained = sum(p.numel() * p.element_size() for p in module.parameters()) if trainable else 0
    in_bfloat16 = any(p.dtype == torch.bfloat16 for p in module.parameters())
    result = {
        "parameters": sum(t.numel() * t.element_size() for t in tensors),
        "gradients": trained,
        # Two moments, and in bfloat16 the compensation.
        "optimizer": trained * (3 if in_bfloat16 else 2),
        "activations": 0,
    }
    if trainable:
        result["activations"] = _activations(encoder, n_rows, n_tokens, checkpointing, precision)
        if precision == "mixed":
            result["activations"] += _copies(encoder)
    result["total"] = sum(result.values())
    return result


def _activations(encoder, n_rows, n_tokens, checkpointing, precision):
    if not checkpointing or not checkpoint_layers(encoder.module, on=False):
        # A whole module that is computed again at once needs as much then.
        return int(n_rows * _per_row(encoder, n_tokens, precision))
    everything = _per_row(encoder, n_tokens, precision)
    checkpoint_layers(encoder.module)
    inputs = _per_row(encoder, n_tokens, precision)
    # The inputs of all layers, and one layer at a time.
    return int(n_rows * (inputs + everything / encoder.module.config.num_hidden_layers))


def _per_row(encoder, n_tokens, precision):
    """Return the bytes that autograd keeps for a row: a t + b t^2, from two measurements."""
    short, long = _PROBES
    if n_tokens <= short or encoder.max_length < long:
        return _kept_of_row(encoder, n_tokens, precision)
    at_short, at_long = (_kept_of_row(encoder, n, precision) for n in _PROBES)
    b = (at_long / long - at_short / short) / (long - short)
    a = at_short / short - b * short
    return n_tokens * (a + b * n_tokens)


def _kept_of_row(encoder, n_tokens, precision):
    """Return the bytes of the tensors that autograd keeps of one row, parameters aside."""
    if precision != "mixed":
        return _kept(encoder, 1, n_tokens, precision)
    # the copies of the parameters in bfloat16 are no activations
    return _kept(encoder, 2, n_tokens, precision) - _kept(encoder, 1, n_tokens, precision)


def _copies(encoder):
    """Return the bytes of the copies of parameters in bfloat16: they are there once a batch."""
    parameters = list(encoder.module.parameters())
    if any(p.device.type == "meta" for p in parameters):  # at most
        return sum(2 * p.numel() for p in parameters)
    one, two = (_kept(encoder, n_rows, 4, "mixed") for n_rows in (1, 2))
    return 2 * one - two


def _kept(encoder, n_rows, n_tokens, precision):
    """Return the bytes of the tensors that autograd keeps, parameters aside."""
    module = encoder.module
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    ids = torch.full((n_rows, n_tokens), encoder.pad_id, device=device)
    mask = torch.ones_like(ids)
    own = {t.untyped_storage()._cdata for t in [*module.parameters(), *module.buffers()]}
    kept = {}

    def remember(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    was_training = module.training
    module.train()
    devices = [device] if device.type == "cuda" else []
    try:
        hooks = torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor)
        with torch.random.fork_rng(devices=devices), torch.enable_grad(), hooks:
            # Models of transformers read the values of a mask, which the meta device has not.
            masked = None if device.type == "meta" and is_transformer(module) else mask
            with products_in(precision, device):
                features = pool(hidden_states(module, ids, masked), mask, encoder.pooling)
            total = sum(kept.values())
            del features
    finally:
        module.train(was_training)
    return total
