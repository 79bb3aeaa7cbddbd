"""The optimiser of a text encoder: AdamW, and AdamW on bfloat16 parameters with compensation."""

import torch


def make_optimizer(module, *, precision, weight_decay, betas, epsilon):
    """Return AdamW for the trainable parameters of a module.

    Matrices decay; vectors (biases, scales of normalisation) do not.

    Parameters
    ----------
    module : torch.nn.Module
    precision : {"float32", "bfloat16", "mixed"}
    weight_decay : float
    betas : (float, float), or None
        None: (0.9, 0.999), and (0.9, 0.99) in bfloat16, where a slower average of the squares
        would not move: steps of less than 1/512 of its value are rounded away.
    epsilon : float

    Returns
    -------
    torch.optim.Optimizer
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    if precision != "bfloat16":
        return torch.optim.AdamW(groups, lr=0.0, betas=betas or (0.9, 0.999), eps=epsilon)
    return KahanAdamW(groups, betas=betas or (0.9, 0.99), eps=epsilon)


class KahanAdamW(torch.optim.Optimizer):
    """AdamW for bfloat16 parameters, with compensated summation of the updates.

    A bfloat16 weight has 8 significant bits: an update of less than 1/512 of it is rounded away,
    and so are most updates of fine-tuning. Here what the rounding takes away is kept in a second
    bfloat16 number and added to the next update (Kahan), so that updates down to 2^-17 of the
    weight count. 8 bytes a parameter with the moments, against 12 of AdamW in float32 (ELMO trains
    its encoders so).

    Parameters
    ----------
    params : iterable
        Parameters or groups of them.
    lr : float, default=0
    betas : (float, float), default=(0.9, 0.99)
    eps : float, default=1e-8
    weight_decay : float, default=0
        Decoupled, as in AdamW.

    Notes
    -----
    All is computed in float32 and stored in bfloat16, rounded to nearest. With update u, weight w
    and compensation c: t = c - u; w' = round(w + t); c' = round((w - w') + t). Beside the state the
    largest parameter is held three times in float32 during a step.

    Examples
    --------
    >>> import torch
    >>> from skxmc.neural.torch_text_optimizer import KahanAdamW
    >>> weight = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    >>> optimizer = KahanAdamW([weight], lr=2**-10)
    >>> for _ in range(64):
    ...     weight.grad = torch.ones_like(weight)
    ...     optimizer.step()
    >>> weight.item()  # 1 - 64 / 1024; plain rounding would have left 1.0
    0.9375
    """

    def __init__(self, params, lr=0.0, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0):
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self):
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter, group):
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            for name in ("exp_avg", "exp_avg_sq", "compensation"):
                state[name] = torch.zeros_like(parameter)
        state["step"] += 1
        n_updates = state["step"].item()
        beta1, beta2 = group["betas"]
        gradient = parameter.grad.float()
        first = state["exp_avg"].float().lerp_(gradient, 1 - beta1)
        state["exp_avg"].copy_(first)
        second = state["exp_avg_sq"].float().lerp_(gradient.square_(), 1 - beta2)
        state["exp_avg_sq"].copy_(second)
        scale = second.div_(1 - beta2**n_updates).sqrt_().add_(group["eps"])
        update = first.div_(1 - beta1**n_updates).div_(scale)
        weight = parameter.float()
        update.add_(weight, alpha=group["weight_decay"]).mul_(group["lr"])

        total = state["compensation"].float().sub_(update)
        parameter.copy_(weight + total)
        state["compensation"].copy_(weight.sub_(parameter.float()).add_(total))
