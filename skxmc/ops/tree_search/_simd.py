"""The inner loop of the search as LLVM vector IR: LLVM does not vectorise it by itself."""

from numba import types
from numba.extending import intrinsic

from skxmc.ops._lanes import LANES, _loop, _pointers, _row_pointer, _splat, ir

__all__ = ["LANES", "add_scaled_blocks"]


@intrinsic
def add_scaled_blocks(typingctx, out, blocks, first, n_blocks, scale):
    """``out[:n] += scale * blocks[first * LANES :][:n]`` with ``n = n_blocks * LANES``.

    Each product and each sum is rounded to float32, as in a scalar loop. `out` and `blocks` are
    contiguous float32 arrays that do not overlap, `first` and `n_blocks` int64.
    """
    signature = types.void(out, blocks, types.int64, types.int64, types.float32)

    def codegen(context, builder, sig, args):
        out_p, blocks_p = _pointers(context, builder, sig.args[:2], args[:2])
        first, n_blocks, scale = args[2:]
        factor = _splat(builder, scale)

        def add_block(b, _):
            address = _row_pointer(builder, out_p, b)
            values = builder.load(_row_pointer(builder, blocks_p, builder.add(first, b)), align=4)
            total = builder.fadd(builder.load(address, align=4), builder.fmul(factor, values))
            builder.store(total, address, align=4)
            return []

        _loop(builder, ir.Constant(first.type, 0), n_blocks, 1, [], add_block)
        return context.get_dummy_value()

    return signature, codegen
