"""What the search needs of LLVM IR: an inner loop that is not vectorised by itself, prefetches."""

from numba import types
from numba.extending import intrinsic

from skxmc.ops._lanes import LANES, _loop, _pointers, _row_pointer, _splat, ir

__all__ = ["LANES", "add_scaled_blocks", "prefetch"]


@intrinsic
def prefetch(typingctx, array, position):
    """Have the processor fetch ``array[position]``, a contiguous array of one dimension.

    The position may be out of range: nothing is read then.
    """
    signature = types.void(array, types.int64)

    def codegen(context, builder, sig, args):
        (pointer,) = _pointers(context, builder, sig.args[:1], args[:1])
        address = builder.bitcast(builder.gep(pointer, [args[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch",
            (address.type,),
            ir.FunctionType(ir.VoidType(), (address.type, number, number, number)),
        )
        read, keep, of_data = number(0), number(3), number(1)
        builder.call(function, (address, read, keep, of_data))
        return context.get_dummy_value()

    return signature, codegen


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
