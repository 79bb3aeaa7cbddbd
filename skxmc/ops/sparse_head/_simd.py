"""Register-blocked products of weights and gathered feature rows, as LLVM vector IR.

The features lie feature-major in tiles of rows: the values of one input for the rows of a tile are
one or more *vectors* of ``LANES`` neighbouring floats (see `skxmc.ops._lanes`). A kernel here holds
the sums of a few labels, inputs and vectors in registers, which Numba does not do with loops over
small arrays. All arrays are one-dimensional and contiguous; ``*_at`` are positions in them, and
``offsets[f]`` is where the row of slot f begins in a tile.
"""

from numba import types
from numba.extending import intrinsic

from skxmc.ops._lanes import (
    _CONTRACT,
    _I32,
    _I64,
    _VEC,
    _WIDE,
    LANES,
    Lanes,
    _loop,
    _pointers,
    _splat,
    ir,
)

__all__ = [
    *("LANES", "add_margins_1x1", "add_margins_1x4", "add_margins_4x1", "add_margins_4x4"),
    *("add_gradients_1", "add_gradients_4", "add_input_gradients_16x1"),
    *("add_input_gradients_4x4", "add_weight_gradients_1x16", "add_weight_gradients_4x4"),
    *("any_at_least", "bce_of_negatives", "fence", "fill", "interleave", "nonzero_vectors"),
    *("prefetch_for_writing", "squared_hinge_of_negatives", "sum_vectors"),
    *("transpose_block", "transpose_block_past_caches"),
]

# The partial sums of a margin, which hide the latency of the additions. Their number is the same
# for every width, so that the margin of a row does not depend on the batch it comes in.
_PARTIAL = 4
_QUAD = ir.VectorType(_VEC.element, 4)


def _zero():
    return ir.Constant(_VEC, [0.0] * LANES)


def _number(value):
    return ir.Constant(_I64, value)


def _chosen(context, builder, sig, args, positions):
    """Pointers to the arrays among the arguments."""
    return _pointers(
        context, builder, [sig.args[q] for q in positions], [args[q] for q in positions]
    )


def _vector(builder, array, position):
    """Address of the vector that begins at a position."""
    return builder.bitcast(builder.gep(array, [position]), _VEC.as_pointer())


def _load(builder, array, position):
    return builder.load(_vector(builder, array, position), align=4)


def _store(builder, value, array, position):
    builder.store(value, _vector(builder, array, position), align=4)


def _prefetch_line(builder, array, position, write=False):
    """Fetch the cache line of a position, which need not exist, without waiting for it."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    address = builder.bitcast(builder.gep(array, [position]), byte)
    # to the first cache (3), which is one of data (1)
    builder.call(function, [address, *(ir.Constant(_I32, v) for v in (int(write), 3, 1))])


def _load_quad(builder, array, position):
    """Four neighbouring values, again and again."""
    value = builder.load(
        builder.bitcast(builder.gep(array, [position]), _QUAD.as_pointer()), align=4
    )
    return _shuffle(builder, value, value, [j % 4 for j in range(LANES)])


def _load_splat(builder, array, position):
    return _splat(builder, builder.load(builder.gep(array, [position])))


def _fma(builder, a, b, total):
    return builder.fadd(total, builder.fmul(a, b, flags=_CONTRACT), flags=_CONTRACT)


def _add(builder, a, b):
    return builder.fadd(a, b, flags=_CONTRACT)


def _at(builder, position, k):
    return builder.add(position, _number(k)) if k else position


def _row(builder, start, number, stride):
    return builder.add(start, builder.mul(number, stride))


# ---------------------------------------------------------------------------- margins


def _margins(n_labels, n_vectors):
    """``z[l, v] += sum_f w[l, f] x[offsets[f], v]`` for a few labels and vectors.

    ``stop - first``, the number of slots, is a multiple of four.
    """
    n_partial = _PARTIAL if n_labels == 1 else 1

    @intrinsic
    def add_margins(typingctx, z, z_at, z_stride, x, x_at, offsets, w, w_at, w_stride, first, stop):
        arguments = (z, z_at, z_stride, x, x_at, offsets, w, w_at, w_stride, first, stop)
        signature = types.void(*arguments)

        def codegen(context, builder, sig, args):
            z, x, offsets, w = _chosen(context, builder, sig, args, (0, 3, 5, 6))
            z_at, z_stride, x_at, w_at, w_stride, first, stop = (
                args[q] for q in (1, 2, 4, 7, 8, 9, 10)
            )
            w_rows = [_row(builder, w_at, _number(k), w_stride) for k in range(n_labels)]
            z_rows = [_row(builder, z_at, _number(k), z_stride) for k in range(n_labels)]

            def add_slots(f, totals):
                totals = list(totals)
                for p in range(n_partial):
                    slot = _at(builder, f, p)
                    offset = builder.load(builder.gep(offsets, [slot]))
                    start = builder.add(x_at, offset)
                    rows = [
                        _load(builder, x, _at(builder, start, v * LANES)) for v in range(n_vectors)
                    ]
                    for k in range(n_labels):
                        weight = _load_splat(builder, w, builder.add(w_rows[k], slot))
                        for v in range(n_vectors):
                            q = (p * n_labels + k) * n_vectors + v
                            totals[q] = _fma(builder, weight, rows[v], totals[q])
                return totals

            totals = [_zero()] * (n_partial * n_labels * n_vectors)
            totals = _loop(builder, first, stop, n_partial, totals, add_slots)
            for k in range(n_labels):
                for v in range(n_vectors):
                    sums = [totals[(p * n_labels + k) * n_vectors + v] for p in range(n_partial)]
                    while len(sums) > 1:
                        sums = [
                            _add(builder, a, b) for a, b in zip(sums[::2], sums[1::2], strict=True)
                        ]
                    position = _at(builder, z_rows[k], v * LANES)
                    total = _add(builder, _load(builder, z, position), sums[0])
                    _store(builder, total, z, position)
            return context.get_dummy_value()

        return signature, codegen

    return add_margins


add_margins_1x1 = _margins(1, 1)
add_margins_1x4 = _margins(1, 4)
add_margins_4x1 = _margins(4, 1)
add_margins_4x4 = _margins(4, 4)


# ---------------------------------------------------------------------------- one label


def _gradients(n_vectors):
    """Both gradients of one label; reads each gathered row once.

    ``gw[f] += sum_v x[offsets[f], v] . dz[v]`` and ``gx[offsets[f], v] += w[f] dz[v]`` for
    ``n_vectors`` vectors. ``stop - first``, the number of slots, is a multiple of ``LANES``.
    """

    @intrinsic
    def add_gradients(typingctx, gw, gw_at, x, gx, x_at, offsets, w, w_at, dz, dz_at, first, stop):
        arguments = (gw, gw_at, x, gx, x_at, offsets, w, w_at, dz, dz_at, first, stop)
        signature = types.void(*arguments)

        def codegen(context, builder, sig, args):
            gw, x, gx, offsets, w, dz = _chosen(context, builder, sig, args, (0, 2, 3, 5, 6, 8))
            gw_at, x_at, w_at, dz_at, first, stop = (args[q] for q in (1, 4, 7, 9, 10, 11))
            factors = [_load(builder, dz, _at(builder, dz_at, v * LANES)) for v in range(n_vectors)]

            def add_slots(f, _):
                sums = []
                for j in range(LANES):
                    slot = _at(builder, f, j)
                    offset = builder.load(builder.gep(offsets, [slot]))
                    start = builder.add(x_at, offset)
                    weight = _load_splat(builder, w, builder.add(w_at, slot))
                    total = None
                    for v, factor in enumerate(factors):
                        position = _at(builder, start, v * LANES)
                        row = _load(builder, x, position)
                        product = builder.fmul(row, factor, flags=_CONTRACT)
                        total = product if total is None else _add(builder, total, product)
                        new = _fma(builder, weight, factor, _load(builder, gx, position))
                        _store(builder, new, gx, position)
                    sums.append(total)
                position = builder.add(gw_at, f)
                sums = _add(builder, _load(builder, gw, position), _reduce(builder, sums))
                _store(builder, sums, gw, position)
                return []

            _loop(builder, first, stop, LANES, [], add_slots)
            return context.get_dummy_value()

        return signature, codegen

    return add_gradients


add_gradients_1 = _gradients(1)
add_gradients_4 = _gradients(4)


def _shuffle(builder, a, b, order):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(order)), list(order)))


def _reduce(builder, vectors):
    """One vector of the sums of neighbouring lanes, as many as there are ``vectors``: n.

    Lane ``n * i + j`` is the sum of the lanes ``n * i`` to ``n * i + n - 1`` of ``vectors[j]``.
    """
    lanes = range(LANES)
    width = len(vectors) // 2
    while width:
        pairs = zip(vectors[:width], vectors[width:], strict=True)
        # Each half of the lanes of a pair is folded onto the other half: one blend, one shuffle.
        vectors = [
            _add(
                builder,
                _shuffle(builder, a, b, [j + LANES if j & width else j for j in lanes]),
                _shuffle(builder, a, b, [(j ^ width) + LANES * bool(j & width) for j in lanes]),
            )
            for a, b in pairs
        ]
        width //= 2
    return vectors[0]


# ---------------------------------------------------------------------------- groups

# For the gradient of weights, whose sums go along the rows of the batch, a vector holds four
# labels and four rows: label i and row j of the four in lane 4 i + j. Four neighbouring features,
# broadcast, meet four labels at once, and only four lanes remain to be added up. With vectors of 16
# rows of one label, adding up the lanes takes a third as many instructions as the products.


@intrinsic
def interleave(typingctx, dz, rows, dz_rows, vectors, n_vectors, out, out_at, out_stride):
    """Rearrange four labels' rows of ``dz`` to vectors of four labels and four rows.

    ``rows`` holds, from the position ``dz_rows`` on, where the four rows begin in ``dz``, and from
    ``vectors`` on where the ``n_vectors`` vectors begin in a row. Each gives four, of the rows 0 to
    3, 4 to 7, ..., which are written ``out_stride`` apart.
    """
    signature = types.void(dz, rows, dz_rows, vectors, n_vectors, out, out_at, out_stride)

    def codegen(context, builder, sig, args):
        dz, rows, out = _chosen(context, builder, sig, args, (0, 1, 5))
        dz_rows, vectors, n_vectors, out_at, out_stride = (args[q] for q in (2, 3, 4, 6, 7))
        dz_rows = _integers(builder, rows, dz_rows, 4)

        def rearrange(q, _):
            vector = builder.load(builder.gep(rows, [builder.add(vectors, q)]))
            labels = [_load(builder, dz, builder.add(row, vector)) for row in dz_rows]
            start = _row(builder, out_at, builder.mul(q, _number(4)), out_stride)
            for c, value in enumerate(_transposed(builder, labels)):
                _store(builder, value, out, _row(builder, start, _number(c), out_stride))
            return []

        _loop(builder, _number(0), n_vectors, 1, [], rearrange)
        return context.get_dummy_value()

    return signature, codegen


def _integers(builder, array, position, count):
    return [builder.load(builder.gep(array, [_at(builder, position, k)])) for k in range(count)]


def _weight_gradients(n_quads, n_slots_at_once):
    """``gw[l, f] += sum_b x[offsets[f], b] dz[l, b]`` for ``4 * n_quads`` labels of a group.

    ``rows`` holds, from the position ``gw_rows`` on, where the rows of the labels begin in ``gw``,
    and from ``vectors`` on where the ``n_vectors`` vectors begin in a row. ``dz``, from the
    position ``dz_at`` on, is as `interleave` makes it, the vectors of the quads side by side.
    ``stop - first``, the number of slots, is a multiple of ``n_slots_at_once``.
    """

    @intrinsic
    def add_weight_gradients(
        typingctx, gw, x, x_at, offsets, dz, dz_at, rows, gw_rows, vectors, n_vectors, first, stop
    ):
        signature = types.void(
            gw, x, x_at, offsets, dz, dz_at, rows, gw_rows, vectors, n_vectors, first, stop
        )

        def codegen(context, builder, sig, args):
            gw, x, offsets, dz, rows = _chosen(context, builder, sig, args, (0, 1, 3, 4, 6))
            x_at, dz_at, gw_rows, vectors, n_vectors, first, stop = (
                args[q] for q in (2, 5, 7, 8, 9, 10, 11)
            )
            gw_rows = _integers(builder, rows, gw_rows, 4 * n_quads)

            def add_slots(f, _):
                def rows_of(slot):
                    starts = _integers(builder, offsets, slot, n_slots_at_once)
                    return [builder.add(x_at, start) for start in starts]

                x_rows = rows_of(f)
                later = _at(builder, f, n_slots_at_once)
                is_slot = builder.icmp_signed("<", later, stop)
                later_rows = rows_of(builder.select(is_slot, later, f)) if n_quads > 1 else []

                def add_vector(q, totals):
                    totals = list(totals)
                    vector = builder.load(builder.gep(rows, [builder.add(vectors, q)]))
                    start = _row(builder, dz_at, q, _number(4 * n_quads * LANES))
                    for row in later_rows:
                        _prefetch_line(builder, x, builder.add(row, vector))
                    for c in range(4):
                        factors = [
                            _load(builder, dz, _at(builder, start, (c * n_quads + k) * LANES))
                            for k in range(n_quads)
                        ]
                        for j in range(n_slots_at_once):
                            position = _at(builder, builder.add(x_rows[j], vector), 4 * c)
                            value = _load_quad(builder, x, position)
                            for k in range(n_quads):
                                p = k * n_slots_at_once + j
                                totals[p] = _fma(builder, factors[k], value, totals[p])
                    return totals

                totals = [_zero()] * (n_quads * n_slots_at_once)
                totals = _loop(builder, _number(0), n_vectors, 1, totals, add_vector)
                for p in range(0, len(totals), 4):
                    k, j = divmod(p, n_slots_at_once)
                    sums = _reduce(builder, totals[p : p + 4])
                    for i in range(4):
                        of_label = _shuffle(builder, sums, sums, range(4 * i, 4 * i + 4))
                        position = builder.add(gw_rows[4 * k + i], _at(builder, f, j))
                        address = builder.bitcast(builder.gep(gw, [position]), _QUAD.as_pointer())
                        total = _add(builder, builder.load(address, align=4), of_label)
                        builder.store(total, address, align=4)
                return []

            _loop(builder, first, stop, n_slots_at_once, [], add_slots)
            return context.get_dummy_value()

        return signature, codegen

    return add_weight_gradients


add_weight_gradients_4x4 = _weight_gradients(4, 4)
add_weight_gradients_1x16 = _weight_gradients(1, 16)


def _input_gradients(n_slots_at_once, n_vectors):
    """``gx[offsets[f], v] += sum_l w[l, f] dz[l, v]`` for ``n_labels`` labels of a group.

    ``rows`` holds, from the positions ``w_rows`` and ``dz_rows`` on, where the rows of the labels
    begin in ``w`` and in ``dz``. ``stop - first``, the number of slots, is a multiple of
    ``n_slots_at_once``.
    """

    @intrinsic
    def add_input_gradients(
        typingctx, gx, x_at, offsets, w, dz, dz_at, rows, w_rows, dz_rows, n_labels, first, stop
    ):
        signature = types.void(
            *(gx, x_at, offsets, w, dz, dz_at, rows, w_rows, dz_rows, n_labels, first, stop)
        )

        def codegen(context, builder, sig, args):
            gx, offsets, w, dz, rows = _chosen(context, builder, sig, args, (0, 2, 3, 4, 6))
            x_at, dz_at, w_rows, dz_rows, n_labels, first, stop = (
                args[q] for q in (1, 5, 7, 8, 9, 10, 11)
            )

            def row(begin, k):
                return builder.load(builder.gep(rows, [builder.add(begin, k)]))

            def add_slots(f, _):
                def add_label(k, totals):
                    totals = list(totals)
                    dz_row = builder.add(dz_at, row(dz_rows, k))
                    w_row = builder.add(f, row(w_rows, k))
                    factors = [
                        _load(builder, dz, _at(builder, dz_row, v * LANES))
                        for v in range(n_vectors)
                    ]
                    for j in range(n_slots_at_once):
                        weight = _load_splat(builder, w, _at(builder, w_row, j))
                        for v in range(n_vectors):
                            q = j * n_vectors + v
                            totals[q] = _fma(builder, weight, factors[v], totals[q])
                    return totals

                totals = [_zero()] * (n_slots_at_once * n_vectors)
                starts = [
                    builder.add(x_at, offset)
                    for offset in _integers(builder, offsets, f, n_slots_at_once)
                ]
                for start in starts:
                    for v in range(n_vectors):
                        position = _at(builder, start, v * LANES)
                        _prefetch_line(builder, gx, position, write=True)
                totals = _loop(builder, _number(0), n_labels, 1, totals, add_label)
                for j, start in enumerate(starts):
                    for v in range(n_vectors):
                        position = _at(builder, start, v * LANES)
                        total = _add(
                            builder, _load(builder, gx, position), totals[j * n_vectors + v]
                        )
                        _store(builder, total, gx, position)
                return []

            _loop(builder, first, stop, n_slots_at_once, [], add_slots)
            return context.get_dummy_value()

        return signature, codegen

    return add_input_gradients


add_input_gradients_4x4 = _input_gradients(4, 4)
add_input_gradients_16x1 = _input_gradients(16, 1)


# ---------------------------------------------------------------------------- losses


def _loss_of_negatives(formula):
    """Turn margins of negatives into gradients of the loss, in place; add the losses to ``sums``.

    ``sums`` holds ``LANES`` float64. ``formula`` takes margins and returns (loss, gradient).
    """

    @intrinsic
    def kernel(typingctx, z, z_at, n_vectors, sums):
        signature = types.void(z, z_at, n_vectors, sums)

        def codegen(context, builder, sig, args):
            t = sig.args
            z, sums = _pointers(context, builder, [t[0], t[3]], [args[0], args[3]])
            sums = builder.bitcast(sums, _WIDE.as_pointer())

            def add_vector(v, totals):
                position = builder.add(args[1], builder.mul(v, _number(LANES)))
                loss, gradient = formula(Lanes(builder, _load(builder, z, position)))
                _store(builder, gradient.value, z, position)
                return [_add(builder, totals[0], loss.wide().value)]

            totals = [builder.load(sums, align=8)]
            (total,) = _loop(builder, _number(0), args[2], 1, totals, add_vector)
            builder.store(total, sums, align=8)
            return context.get_dummy_value()

        return signature, codegen

    return kernel


def _squared_hinge(z):
    excess = z + 1.0
    # NaN is not below 0 and stays, where the larger of the two would be 0.
    below = z.builder.fcmp_ordered("<", excess.value, _zero())
    excess = Lanes(z.builder, _zero()).where(below, excess)
    return excess * excess, excess * 2.0


def _bce(z):
    """log(1 + exp z) and the sigmoid; relative error of both below 1e-6."""
    positive = z.positive()
    small = (-z.absolute()).exp()
    sigmoid = Lanes(z.builder, z._like(1.0)).where(positive, small) / (small + 1.0)
    loss = z.where(positive, 0.0) + small.log1p()
    is_nan = z.builder.fcmp_unordered("uno", z.value, z.value)
    return z.where(is_nan, loss), z.where(is_nan, sigmoid)


squared_hinge_of_negatives = _loss_of_negatives(_squared_hinge)
bce_of_negatives = _loss_of_negatives(_bce)


# ---------------------------------------------------------------------------- vectors


def _any_lane(builder, condition):
    mask = builder.bitcast(condition, ir.IntType(LANES))
    return builder.icmp_unsigned("!=", mask, ir.Constant(mask.type, 0))


@intrinsic
def fill(typingctx, array, position, n_vectors, value):
    """Set ``n_vectors`` vectors to one float32."""
    signature = types.void(array, position, n_vectors, types.float32)

    def codegen(context, builder, sig, args):
        (array,) = _pointers(context, builder, sig.args[:1], args[:1])
        value = _splat(builder, args[3])
        stop = builder.add(args[1], builder.mul(args[2], _number(LANES)))
        _loop(
            builder, args[1], stop, LANES, [], lambda p, _: _store(builder, value, array, p) or []
        )
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def nonzero_vectors(typingctx, array, position, n_vectors):
    """Bit v of the result: whether vector v is not all zero (of vectors v, v + 64, ... any)."""
    signature = types.int64(array, position, n_vectors)

    def codegen(context, builder, sig, args):
        (array,) = _pointers(context, builder, sig.args[:1], args[:1])

        def look_at(v, bits):
            value = _load(builder, array, _row(builder, args[1], v, _number(LANES)))
            nonzero = _any_lane(builder, builder.fcmp_unordered("!=", value, _zero()))
            bit = builder.shl(builder.zext(nonzero, _I64), builder.and_(v, _number(63)))
            return [builder.or_(bits[0], bit)]

        (bits,) = _loop(builder, _number(0), args[2], 1, [_number(0)], look_at)
        return bits

    return signature, codegen


@intrinsic
def any_at_least(typingctx, array, position, bounds, bound_at):
    """Whether a lane of the vector at a position is not below the lane of the bounds (or NaN)."""
    signature = types.boolean(array, position, bounds, bound_at)

    def codegen(context, builder, sig, args):
        t = sig.args
        array, bounds = _pointers(context, builder, [t[0], t[2]], [args[0], args[2]])
        value, bound = _load(builder, array, args[1]), _load(builder, bounds, args[3])
        return _any_lane(builder, builder.fcmp_unordered(">=", value, bound))

    return signature, codegen


@intrinsic
def sum_vectors(typingctx, array, position, n_vectors):
    """Sum (float64) of ``n_vectors`` vectors."""
    signature = types.float64(array, position, n_vectors)

    def codegen(context, builder, sig, args):
        (array,) = _pointers(context, builder, sig.args[:1], args[:1])

        def add_vector(v, totals):
            where = builder.add(args[1], builder.mul(v, _number(LANES)))
            value = Lanes(builder, _load(builder, array, where)).wide().value
            return [_add(builder, totals[0], value)]

        zero = ir.Constant(_WIDE, [0.0] * LANES)
        (total,) = _loop(builder, _number(0), args[2], 1, [zero], add_vector)
        width = LANES // 2
        while width:
            low = _shuffle(builder, total, total, range(width))
            high = _shuffle(builder, total, total, range(width, 2 * width))
            total = _add(builder, low, high)
            width //= 2
        return builder.extract_element(total, ir.Constant(_I32, 0))

    return signature, codegen


def _transpose(past_caches):
    """Transpose a block of ``LANES`` rows and columns."""

    @intrinsic
    def transpose_block(typingctx, source, source_at, source_stride, out, out_at, out_stride):
        signature = types.void(source, source_at, source_stride, out, out_at, out_stride)

        def codegen(context, builder, sig, args):
            t = sig.args
            source, out = _pointers(context, builder, [t[0], t[3]], [args[0], args[3]])
            starts = [_row(builder, args[1], _number(i), args[2]) for i in range(LANES)]
            rows = _transposed(builder, [_load(builder, source, start) for start in starts])
            for i, row in enumerate(rows):
                position = _row(builder, args[4], _number(i), args[5])
                if past_caches:
                    store = builder.store(row, _vector(builder, out, position), align=4 * LANES)
                    one = ir.Constant(_I32, 1)
                    store.set_metadata("nontemporal", builder.module.add_metadata([one]))
                else:
                    _store(builder, row, out, position)
            return context.get_dummy_value()

        return signature, codegen

    return transpose_block


def _transposed(builder, rows):
    """Transpose a square of rows; each of its entries is ``LANES // len(rows)`` lanes."""
    lanes, rows = range(LANES), list(rows)
    width = len(rows) // 2
    while width:
        w = width * LANES // len(rows)
        for i in range(len(rows)):
            if not i & width:
                a, b = rows[i], rows[i + width]
                low = [j - w + LANES if j & w else j for j in lanes]
                high = [j + LANES if j & w else j + w for j in lanes]
                rows[i] = _shuffle(builder, a, b, low)
                rows[i + width] = _shuffle(builder, a, b, high)
        width //= 2
    return rows


transpose_block = _transpose(past_caches=False)
#: The same, written to memory past the caches, which saves reading what is overwritten: for results
#: that no cache holds, each of whose rows of ``LANES`` is a cache line. `fence` has to follow.
transpose_block_past_caches = _transpose(past_caches=True)


@intrinsic
def prefetch_for_writing(typingctx, array, position, n_values):
    """Fetch float32 that will be written, without waiting for them; they need not exist."""
    signature = types.void(array, position, n_values)

    def codegen(context, builder, sig, args):
        (array,) = _pointers(context, builder, sig.args[:1], args[:1])

        def fetch(p, _):
            _prefetch_line(builder, array, p, write=True)
            return []

        _loop(builder, args[1], builder.add(args[1], args[2]), LANES, [], fetch)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fence(typingctx):
    """Wait until all that was written is seen by other threads."""
    signature = types.void()

    def codegen(context, builder, sig, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return signature, codegen
