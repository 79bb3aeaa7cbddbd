"""Tile sizes and warps of each kernel: the same for running and for compiling ahead of time."""

import functools
from typing import NamedTuple

from skxmc.ops.sparse_head.triton_fixed import (
    fixed_grad_weights,
    fixed_scatter,
    fixed_scores,
    fixed_update,
    sum_by_input,
)
from skxmc.ops.sparse_head.triton_grouped import (
    grouped_grad_weights,
    grouped_partial,
    grouped_scores,
    grouped_update,
)
from skxmc.ops.sparse_head.triton_loss import negatives, put_positives, take_positives
from skxmc.ops.sparse_head.triton_update import update_bias

KERNELS = {
    "fixed_scores": fixed_scores,
    "fixed_grad_weights": fixed_grad_weights,
    "fixed_update": fixed_update,
    "fixed_scatter": fixed_scatter,
    "sum_by_input": sum_by_input,
    "grouped_scores": grouped_scores,
    "grouped_grad_weights": grouped_grad_weights,
    "grouped_update": grouped_update,
    "grouped_partial": grouped_partial,
    "take_positives": take_positives,
    "negatives": negatives,
    "put_positives": put_positives,
    "update_bias": update_bias,
}

# Kernels whose float32 operations must not be contracted, so that updates are the reference's.
_EXACT = ("fixed_update", "grouped_update", "update_bias")


class Launch(NamedTuple):
    """How a kernel is compiled.

    Attributes
    ----------
    blocks : dict of str to int
        Sizes of the tiles: of columns (B), slots (F), labels of a group (G), labels (L), slots of
        an input (S), or pairs.
    options : dict
        Options of the compiler.
    """

    blocks: dict
    options: dict

    def tiles(self, axis, size):
        """Number of tiles that cover ``size`` elements of an axis ("B", "F", "G", "L" or "")."""
        return -(-size // self.blocks[f"BLOCK_{axis}" if axis else "BLOCK"])


@functools.cache
def launch(name, n_columns=16, fan_in=16, group_size=16, dot="bf16"):
    """Tiles and options of a kernel for these sizes.

    Tiles of ``tl.dot`` have at least 16 rows and columns; what is beyond the array is masked. The
    sizes are chosen so that no kernel spills registers (tools/compile_triton.py shows them).

    Kept for each set of arguments, not to be changed by the caller: small kernels wait for Python.
    """
    columns = _tile(n_columns, 64)
    slots = _tile(fan_in, 64)
    few_columns = _tile(n_columns, 32)
    warps = 4
    if name.startswith("grouped"):
        labels = _tile(group_size, 64)
        width = few_columns if dot == "ieee" else columns
        blocks = {"BLOCK_G": labels, "BLOCK_F": slots, "BLOCK_B": width}
        warps = 8 if labels * slots >= 4096 else 4
    elif name in ("fixed_scores", "negatives", "update_bias"):
        blocks = {"BLOCK_L": 16, "BLOCK_B": columns}
    elif name == "sum_by_input":
        blocks = {"BLOCK_S": 16, "BLOCK_B": columns}
    elif name in ("take_positives", "put_positives"):
        blocks = {"BLOCK": 256}
    else:  # one label a program
        blocks = {"BLOCK_F": slots, "BLOCK_B": few_columns}
    fusion = name not in _EXACT
    return Launch(blocks, {"num_warps": warps, "num_stages": 2, "enable_fp_fusion": fusion})


def _tile(size, largest):
    """The power of two from ``size`` on, at least 16 and at most ``largest``."""
    return min(max(1 << (size - 1).bit_length(), 16), largest)
