"""SIMD primitives: kernels that treat ``LANES`` labels at a time, written as LLVM vector IR.

A *block* is a C-contiguous float32 array with ``LANES`` columns: one 64-byte cache line a row. LLVM
does not keep a small accumulator array in vector registers when the loop over it is written in
Python, and does not vectorise loops over several blocks that might overlap, which costs a factor of
three to six. So these inner loops are emitted as vectors here; LLVM cuts them to what the processor
has.
"""

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.extending import intrinsic

from skxmc.ops._memory import new_zeros

#: Labels that are treated together.
LANES = 16

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_VEC = ir.VectorType(_F32, LANES)
_INT_VEC = ir.VectorType(_I32, LANES)
_WIDE = ir.VectorType(ir.DoubleType(), LANES)
_CONTRACT = ("contract",)
_UNROLL = 4

# Blocks that are larger than a core's first caches: gathers from them would wait for the page table
# as long as for the data (a factor of two on 40,000 rows).
_LARGE_BLOCK = 1 << 18


def aligned_zeros(shape):
    """float32 zeros whose rows of ``LANES`` never straddle two cache lines."""
    large = 4 * np.prod(shape, dtype=np.int64) >= _LARGE_BLOCK
    return new_zeros(shape, np.float32, huge_pages=bool(large))


# ------------------------------------------------------------------ sparse rows and blocks


@intrinsic
def row_times_block(typingctx, indices, data, block, out, out_row, start, stop):
    """``out[out_row, :] = sum_p data[p] * block[indices[p], :]`` for ``start <= p < stop``."""
    signature = types.void(indices, data, block, out, out_row, start, stop)

    def codegen(context, builder, sig, args):
        indices_p, data_p, block_p, out_p = _pointers(context, builder, sig.args[:4], args[:4])
        row, begin, end = args[4:]
        total = _row_product(builder, indices_p, data_p, block_p, begin, end)
        builder.store(total, _row_pointer(builder, out_p, row), align=4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def row_times_block_plus(typingctx, indices, data, block, out, row, start, stop, added, scale):
    """``out[row, :] = sum_p data[p] * block[indices[p], :] + scale * added[row, :]``.

    As `row_times_block`; ``added`` may be ``out``.
    """
    signature = types.void(indices, data, block, out, row, start, stop, added, types.float32)

    def codegen(context, builder, sig, args):
        indices_p, data_p, block_p, out_p = _pointers(context, builder, sig.args[:4], args[:4])
        (added_p,) = _pointers(context, builder, sig.args[7:8], args[7:8])
        row, begin, end = args[4:7]
        more = builder.load(_row_pointer(builder, added_p, row), align=4)
        more = builder.fmul(more, _splat(builder, args[8]), flags=_CONTRACT)
        total = _row_product(builder, indices_p, data_p, block_p, begin, end)
        total = builder.fadd(total, more, flags=_CONTRACT)
        builder.store(total, _row_pointer(builder, out_p, row), align=4)
        return context.get_dummy_value()

    return signature, codegen


def _row_product(builder, indices_p, data_p, block_p, begin, end):
    """Sum of a sparse row times a block.

    A lane's sum is taken in an order that the stored entries fix, so a label's score does not
    depend on its neighbours. Four partial sums hide the latency of the additions.
    """
    zero = ir.Constant(_VEC, [0.0] * LANES)

    def add_entry(p, total):
        address = _row_pointer(builder, block_p, builder.load(builder.gep(indices_p, [p])))
        value = _splat(builder, builder.load(builder.gep(data_p, [p])))
        product = builder.fmul(value, builder.load(address, align=4), flags=_CONTRACT)
        return builder.fadd(total, product, flags=_CONTRACT)

    def four(p, totals):
        return [
            add_entry(builder.add(p, ir.Constant(_I64, k)), total) for k, total in enumerate(totals)
        ]

    def one(p, totals):
        return [add_entry(p, totals[0])]

    count = builder.sub(end, begin)
    middle = builder.add(begin, builder.and_(count, ir.Constant(_I64, -_UNROLL)))
    parts = _loop(builder, begin, middle, _UNROLL, [zero] * _UNROLL, four)
    total = builder.fadd(builder.fadd(parts[0], parts[1]), builder.fadd(parts[2], parts[3]))
    (total,) = _loop(builder, middle, end, 1, [total], one)
    return total


@intrinsic
def add_row_to_block(typingctx, indices, data, block, factors, factor_row, start, stop):
    """``block[indices[p], :] += data[p] * factors[factor_row, :]`` for ``start <= p < stop``.

    The transpose of `row_times_block`. A row whose factors are all zero costs nothing.
    """
    signature = types.void(indices, data, block, factors, factor_row, start, stop)

    def codegen(context, builder, sig, args):
        indices_p, data_p, block_p, factors_p = _pointers(context, builder, sig.args[:4], args[:4])
        row, begin, end = args[4:]
        factor = builder.load(_row_pointer(builder, factors_p, row), align=4)

        def add_entry(p, _):
            address = _row_pointer(builder, block_p, builder.load(builder.gep(indices_p, [p])))
            value = _splat(builder, builder.load(builder.gep(data_p, [p])))
            product = builder.fmul(value, factor, flags=_CONTRACT)
            total = builder.fadd(builder.load(address, align=4), product, flags=_CONTRACT)
            builder.store(total, address, align=4)
            return []

        nonzero = builder.fcmp_unordered("!=", factor, ir.Constant(_VEC, [0.0] * LANES))
        nonzero = builder.bitcast(nonzero, ir.IntType(LANES))
        with builder.if_then(builder.icmp_unsigned("!=", nonzero, ir.Constant(nonzero.type, 0))):
            _loop(builder, begin, end, 1, [], add_entry)
        return context.get_dummy_value()

    return signature, codegen


# ------------------------------------------------------------------ row by row over blocks


def over_rows(n_sums):
    """Decorator that makes a kernel which goes through the rows of some blocks once.

    It decorates ``body(blocks, vectors) -> (stores, sums)``. ``blocks``: the rows of the blocks,
    ``vectors``: constants of the lanes, both as `Lanes`. ``stores``: a dict from the position of a
    block to what its row becomes; ``sums``: the ``n_sums`` values that are added up over the rows,
    in float64.

    The kernel's arguments are ``blocks`` and ``vectors``, tuples of float32 blocks and of float32
    arrays of ``LANES`` values, ``n_rows``, and ``sums``, a float64 array of shape (at least
    n_sums, LANES) that is overwritten.
    """

    def decorator(body):
        @intrinsic
        def kernel(typingctx, blocks, vectors, n_rows, sums):
            signature = types.void(blocks, vectors, n_rows, sums)

            def codegen(context, builder, sig, args):
                def unpack(k):
                    count = sig.args[k].count
                    if count == 0:
                        return []
                    items = [builder.extract_value(args[k], q) for q in range(count)]
                    return _pointers(context, builder, [sig.args[k].dtype] * count, items)

                block_ps = unpack(0)
                (sums_p,) = _pointers(context, builder, [sig.args[3]], [args[3]])
                constants = [
                    Lanes(builder, builder.load(builder.bitcast(p, _VEC.as_pointer()), align=4))
                    for p in unpack(1)
                ]

                def add_row(i, totals):
                    pointers = [_row_pointer(builder, p, i) for p in block_ps]
                    rows = [Lanes(builder, builder.load(p, align=4)) for p in pointers]
                    stores, terms = body(rows, constants)
                    for position, lanes in stores.items():
                        builder.store(lanes.value, pointers[position], align=4)
                    return [
                        builder.fadd(total, term.wide().value, flags=_CONTRACT)
                        for total, term in zip(totals, terms, strict=True)
                    ]

                zero = ir.Constant(_WIDE, [0.0] * LANES)
                first = ir.Constant(_I64, 0)
                totals = _loop(builder, first, args[2], 1, [zero] * n_sums, add_row)
                for k, total in enumerate(totals):
                    address = builder.gep(sums_p, [ir.Constant(_I64, k * LANES)])
                    builder.store(total, builder.bitcast(address, _WIDE.as_pointer()), align=8)
                return context.get_dummy_value()

            return signature, codegen

        return kernel

    return decorator


class Lanes:
    """One value a lane while code is generated: float32 or, after `wide`, float64."""

    def __init__(self, builder, value):
        self.builder = builder
        self.value = value

    def _like(self, other):
        if isinstance(other, Lanes):
            return other.value
        return ir.Constant(self.value.type, [float(other)] * LANES)

    def _new(self, value):
        return Lanes(self.builder, value)

    def __add__(self, other):
        return self._new(self.builder.fadd(self.value, self._like(other), flags=_CONTRACT))

    def __sub__(self, other):
        return self._new(self.builder.fsub(self.value, self._like(other), flags=_CONTRACT))

    def __rsub__(self, other):
        return self._new(self.builder.fsub(self._like(other), self.value, flags=_CONTRACT))

    def __mul__(self, other):
        return self._new(self.builder.fmul(self.value, self._like(other), flags=_CONTRACT))

    def __truediv__(self, other):
        return self._new(self.builder.fdiv(self.value, self._like(other), flags=_CONTRACT))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self):
        return self * -1.0

    def sign(self):
        """1 where the value is above 0, else -1."""
        one = self._new(self._like(1.0))
        return one.where(self.positive(), -1.0)

    def positive(self):
        """Lanes that are above 0, as a condition for `where`."""
        return self.builder.fcmp_ordered(">", self.value, self._like(0.0))

    def where(self, condition, other):
        """The value itself where the condition holds, the other one elsewhere."""
        return self._new(self.builder.select(condition, self.value, self._like(other)))

    def clip_below(self, bound):
        """The larger of value and bound."""
        keep = self.builder.fcmp_ordered(">", self.value, self._like(bound))
        return self.where(keep, bound)

    def absolute(self):
        """The magnitude."""
        return self.where(self.positive(), -self)

    def wide(self):
        """The same in float64."""
        if self.value.type == _WIDE:
            return self
        return self._new(self.builder.fpext(self.value, _WIDE))

    def exp(self):
        """e to the value, for float32 values of at most 0; relative error below 2e-7.

        What is below -87 counts as -87: the result, 1.6e-38, stays a normal number.
        """
        b = self.builder
        x = self.clip_below(-87.0)
        # x = n log 2 + r with |r| <= log(2) / 2; n is x / log 2, rounded (x <= 0: half down)
        scaled = x * 1.4426950408889634 - 0.5
        n = b.fptosi(scaled.value, _INT_VEC)
        n_float = self._new(b.sitofp(n, _VEC))
        r = x - n_float * 0.693359375 - n_float * -2.12194440e-4
        total = r * (1 / 5040) + 1 / 720
        for factor in (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
            total = total * r + factor
        exponent = b.shl(
            b.add(n, ir.Constant(_INT_VEC, [127] * LANES)), ir.Constant(_INT_VEC, [23] * LANES)
        )
        return total * self._new(b.bitcast(exponent, _VEC))

    def log1p(self):
        """log(1 + value) for float32 values in [0, 1]; relative error below 4e-7.

        It is 2 artanh(v / (2 + v)), by its series.
        """
        s = self / (self + 2.0)
        s2 = s * s
        total = s2 * (2 / 15) + 2 / 13
        for power in (11, 9, 7, 5, 3, 1):
            total = total * s2 + 2 / power
        return total * s


def _pointers(context, builder, array_types, arrays):
    return [
        context.make_array(array_type)(context, builder, array).data
        for array_type, array in zip(array_types, arrays, strict=True)
    ]


def _row_pointer(builder, block, row):
    """Address of the lanes of a row; ``row`` is a number of any integer type, not negative."""
    row = builder.zext(row, _I64) if row.type.width < 64 else row
    offset = builder.mul(row, ir.Constant(_I64, LANES))
    return builder.bitcast(builder.gep(block, [offset]), _VEC.as_pointer())


def _splat(builder, value):
    undefined = ir.Constant(_VEC, ir.Undefined)
    value = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(value, undefined, ir.Constant(_INT_VEC, [0] * LANES))


def _loop(builder, start, stop, step, state, body):
    """``for p in range(start, stop, step): state = body(p, state)``; returns the last state."""
    entry = builder.block
    loop = builder.append_basic_block("loop")
    done = builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed("<", start, stop), loop, done)
    builder.position_at_end(loop)
    p = builder.phi(_I64)
    carried = [builder.phi(value.type) for value in state]
    following = body(p, carried)
    p_next = builder.add(p, ir.Constant(_I64, step))
    last = builder.block
    for phi, before, after in zip(
        [p, *carried], [start, *state], [p_next, *following], strict=True
    ):
        phi.add_incoming(before, entry)
        phi.add_incoming(after, last)
    builder.cbranch(builder.icmp_signed("<", p_next, stop), loop, done)
    builder.position_at_end(done)
    results = []
    for before, after in zip(state, following, strict=True):
        phi = builder.phi(before.type)
        phi.add_incoming(before, entry)
        phi.add_incoming(after, last)
        results.append(phi)
    return results
