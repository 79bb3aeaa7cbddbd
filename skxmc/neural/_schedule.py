"""How rates change over the steps of a training."""

import math

SCHEDULES = ("cosine", "constant")


def learning_rate_factor(step, n_steps, warmup, schedule="cosine"):
    """Factor of the learning rate in a step, from 0 on.

    It rises linearly over the first ``warmup`` steps and then stays at 1 (``"constant"``) or falls
    to 0 over the rest like half a cosine.

    Examples
    --------
    >>> from skxmc.neural._schedule import learning_rate_factor
    >>> [round(learning_rate_factor(step, 10, 2), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    return cosine_to_zero(1.0, step - warmup, n_steps - warmup)


def cosine_to_zero(start, step, end):
    """``start`` at step 0, falling like half a cosine to 0 at step ``end`` and from there on 0.

    Examples
    --------
    >>> from skxmc.neural._schedule import cosine_to_zero
    >>> [round(cosine_to_zero(0.4, step, 8), 3) for step in (0, 4, 8, 20)]
    [0.4, 0.2, 0.0, 0.0]
    """
    if step >= end:
        return 0.0
    return 0.5 * start * (1.0 + math.cos(math.pi * step / end))
