"""Encoders of which the lowest layers are not trained."""

import torch

from skxmc.neural.torch_text_encoder import is_transformer


def freeze_layers(front, n_layers):
    """Keep the token embeddings and the lowest layers of a transformer as they are.

    Their part of the backward pass and of the optimiser falls away: with half of the layers, about
    a third of a step's time.

    Parameters
    ----------
    front : TextFront
    n_layers : int
        From the lowest; all there are, if fewer.

    Raises
    ------
    ValueError
        If it is no transformer, or its layers are not found.
    """
    module = getattr(front, "module", None)
    if module is None or not is_transformer(module):
        raise ValueError(
            "frozen_layers is for models of transformers; set it to 0 for this encoder, or freeze "
            "what you want in the module that you pass."
        )
    lists = [m for m in module.modules() if isinstance(m, torch.nn.ModuleList)]
    if not lists:
        raise ValueError("frozen_layers: the encoder has no list of layers; set it to 0.")
    layers = max(lists, key=lambda found: sum(p.numel() for p in found.parameters()))
    frozen = [module.get_input_embeddings(), *layers[:n_layers]]
    # what comes before the layers, such as position embeddings and their norm
    embeddings = getattr(module, "embeddings", None)
    if isinstance(embeddings, torch.nn.Module):
        frozen.append(embeddings)
    for part in frozen:
        part.requires_grad_(False)
