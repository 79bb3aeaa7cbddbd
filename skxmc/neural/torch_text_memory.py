"""Memory of training a text encoder, predicted."""

import torch

from skxmc.neural.torch_text_encoder import (
    checkpoint_layers,
    hidden_states,
    is_transformer,
    pool,
)

_PROBES = (16, 64)  # tokens


def footprint(encoder, n_rows, n_tokens=None, *, trainable=True, checkpointing=False):
    """Predict the memory of a training step.

    Parameters
    ----------
    encoder : Encoder
        On any device, the meta device included; its layers' checkpointing is set already.
    n_rows, n_tokens : int
        Shape of the batch; None: ``encoder.max_length`` tokens.
    trainable : bool, default=True
    checkpointing : bool, default=False

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
        "activations": _activations(encoder, n_rows, n_tokens, checkpointing) if trainable else 0,
    }
    result["total"] = sum(result.values())
    return result


def _activations(encoder, n_rows, n_tokens, checkpointing):
    if not checkpointing or not checkpoint_layers(encoder.module, on=False):
        # A whole module that is computed again at once needs as much then.
        return int(n_rows * _per_row(encoder, n_tokens))
    everything = _per_row(encoder, n_tokens)
    checkpoint_layers(encoder.module)
    inputs = _per_row(encoder, n_tokens)
    # The inputs of all layers, and one layer at a time.
    return int(n_rows * (inputs + everything / encoder.module.config.num_hidden_layers))


def _per_row(encoder, n_tokens):
    """Return the bytes that autograd keeps for a row: a t + b t^2, from two measurements."""
    short, long = _PROBES
    if n_tokens <= short or encoder.max_length < long:
        return _kept(encoder, n_tokens)
    at_short, at_long = _kept(encoder, short), _kept(encoder, long)
    b = (at_long / long - at_short / short) / (long - short)
    a = at_short / short - b * short
    return n_tokens * (a + b * n_tokens)


def _kept(encoder, n_tokens):
    """Return the bytes of the tensors that autograd keeps of one row, parameters aside."""
    module = encoder.module
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    ids = torch.full((1, n_tokens), encoder.pad_id, device=device)
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
            features = pool(hidden_states(module, ids, masked), mask, encoder.pooling)
            total = sum(kept.values())
            del features
    finally:
        module.train(was_training)
    return total
