"""SIMD primitive: one sparse row times a block of ``LANES`` dense columns.

LLVM does not keep a small accumulator array in vector registers when the loop is written in
Python, which costs a factor of six, so the inner loop is emitted as LLVM vector IR here.
"""

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.extending import intrinsic

#: Labels that are scored together: one 64-byte cache line of float32 per feature.
LANES = 16

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_VEC = ir.VectorType(_F32, LANES)
_CONTRACT = ("contract",)


@intrinsic
def row_times_block(typingctx, indices, data, block, out, out_row, start, stop):
    """``out[out_row, :] = sum_p data[p] * block[indices[p], :]`` for ``start <= p < stop``.

    ``block`` and ``out`` are C-contiguous float32 with ``LANES`` columns. Every lane is summed in
    the order of the stored entries, so a label's score does not depend on its neighbours.
    """
    signature = types.void(indices, data, block, out, out_row, start, stop)

    def codegen(context, builder, sig, args):
        def pointer(k):
            return context.make_array(sig.args[k])(context, builder, args[k]).data

        indices_p, data_p, block_p, out_p = (pointer(k) for k in range(4))
        row, begin, end = args[4:]
        lanes = ir.Constant(_I64, LANES)
        zero = ir.Constant(_VEC, [0.0] * LANES)
        undefined = ir.Constant(_VEC, ir.Undefined)
        splat = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)

        entry = builder.block
        loop = builder.append_basic_block("entries")
        done = builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("<", begin, end), loop, done)

        builder.position_at_end(loop)
        p = builder.phi(_I64)
        total = builder.phi(_VEC)
        feature = builder.zext(builder.load(builder.gep(indices_p, [p])), _I64)
        value = builder.load(builder.gep(data_p, [p]))
        value = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
        value = builder.shuffle_vector(value, undefined, splat)
        address = builder.gep(block_p, [builder.mul(feature, lanes)])
        weights = builder.load(builder.bitcast(address, _VEC.as_pointer()), align=4)
        product = builder.fmul(value, weights, flags=_CONTRACT)
        total_next = builder.fadd(total, product, flags=_CONTRACT)
        p_next = builder.add(p, ir.Constant(_I64, 1))
        p.add_incoming(begin, entry)
        p.add_incoming(p_next, loop)
        total.add_incoming(zero, entry)
        total.add_incoming(total_next, loop)
        builder.cbranch(builder.icmp_signed("<", p_next, end), loop, done)

        builder.position_at_end(done)
        result = builder.phi(_VEC)
        result.add_incoming(zero, entry)
        result.add_incoming(total_next, loop)
        address = builder.gep(out_p, [builder.mul(row, lanes)])
        builder.store(result, builder.bitcast(address, _VEC.as_pointer()), align=4)
        return context.get_dummy_value()

    return signature, codegen


def aligned_zeros(shape):
    """float32 zeros on a 64-byte boundary: a lane block then never straddles two cache lines."""
    size = int(np.prod(shape))
    buffer = np.zeros(size + LANES, dtype=np.float32)
    offset = (-buffer.ctypes.data % 64) // 4
    return buffer[offset : offset + size].reshape(shape)
