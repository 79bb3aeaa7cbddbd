"""Weights of a row to float32 and back, vector by vector, as LLVM vector IR.

What Numba makes of these loops is not reliably vectorised and takes several seconds to compile.
The arrays of weights, indices and compensation come as bytes, so that one version of the kernels
serves all formats; positions count elements. A row need not be a multiple of ``LANES`` long: what
is missing of its last vector is neither read nor written.

The formulas are those of `skxmc.ops.sparse_head._scalars`, and every operation on floats is one of
float32 without fused multiply-add, as in the reference: equal gradients give equal bits.
"""

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from skxmc.ops._lanes import _I32, _I64, _INT_VEC, _VEC, LANES, _loop, _pointers, _splat, ir
from skxmc.ops.sparse_head._random import GOLDEN, MULTIPLIERS

__all__ = [
    *("add_decay", "adam_update", "decode_bfloat16", "decode_float32", "decode_float8"),
    *("load_offsets_int32", "load_offsets_uint16", "momentum_update", "scale_update"),
    *("store_bfloat16", "store_bfloat16_compensated", "store_float32", "store_float8"),
    "store_float8_compensated",
]


def _int_vector(size):
    """The type of ``LANES`` integers of ``size`` bits; 1 is a condition.

    A function, as the compilation cache knows a constant by its pickle, and those of types change
    while they are used.
    """
    return ir.VectorType(ir.IntType(size), LANES)


def _stored_vector(size):
    """The type of ``LANES`` stored numbers of ``size`` bits: those of 32 are float32."""
    return _VEC if size == 32 else _int_vector(size)


# ---------------------------------------------------------------------------- vectors


class _Vector:
    """Floats or unsigned integers while code is generated."""

    def __init__(self, builder, value):
        self.builder = builder
        self.value = value

    @property
    def is_float(self):
        return self.value.type == _VEC

    def _other(self, other):
        if isinstance(other, _Vector):
            return other.value
        if not self.is_float and other >= 1 << 31:
            other -= 1 << 32  # the same bits
        return ir.Constant(self.value.type, [float(other) if self.is_float else other] * LANES)

    def _do(self, name, other):
        return _Vector(self.builder, getattr(self.builder, name)(self.value, self._other(other)))

    def __add__(self, other):
        return self._do("fadd" if self.is_float else "add", other)

    def __sub__(self, other):
        return self._do("fsub" if self.is_float else "sub", other)

    def __mul__(self, other):
        return self._do("fmul" if self.is_float else "mul", other)

    def __truediv__(self, other):
        return self._do("fdiv", other)

    def __xor__(self, other):
        return self._do("xor", other)

    def __and__(self, other):
        return self._do("and_", other)

    def __or__(self, other):
        return self._do("or_", other)

    def __rshift__(self, other):
        return self._do("lshr", other)

    def __lshift__(self, other):
        return self._do("shl", other)

    def _compare(self, operator, other):
        other = self._other(other)
        if self.is_float:
            return self.builder.fcmp_ordered(operator, self.value, other)
        return self.builder.icmp_unsigned(operator, self.value, other)

    def __lt__(self, other):
        return self._compare("<", other)

    def __gt__(self, other):
        return self._compare(">", other)

    def __ge__(self, other):
        return self._compare(">=", other)

    def equals(self, other):
        return self._compare("==", other)

    def where(self, condition, other):
        """The value itself where the condition holds, the other one elsewhere."""
        return _Vector(self.builder, self.builder.select(condition, self.value, self._other(other)))

    def instead(self, condition, other):
        """The other value where the condition holds."""
        return _Vector(self.builder, self.builder.select(condition, self._other(other), self.value))

    def bits(self):
        return _Vector(self.builder, self.builder.bitcast(self.value, _INT_VEC))

    def float(self):
        """The float32 with these bits."""
        return _Vector(self.builder, self.builder.bitcast(self.value, _VEC))

    def to_float(self):
        """The number as float32; for integers below 2^31."""
        return _Vector(self.builder, self.builder.sitofp(self.value, _VEC))

    def to_int(self):
        """The whole part; for floats from 0 to below 2^31."""
        return _Vector(self.builder, self.builder.fptosi(self.value, _INT_VEC))

    def resized(self, size):
        """The lower bits, or the number extended with zeros."""
        target = _int_vector(size)
        if self.value.type == target:
            return self
        now = self.value.type.element.width
        change = self.builder.zext if size > now else self.builder.trunc
        return _Vector(self.builder, change(self.value, target))

    def sqrt(self):
        return _Vector(self.builder, _call(self.builder, "llvm.sqrt", _VEC, [self.value]))


def _call(builder, name, vector_type, arguments, suffix="", result=None):
    """Call an intrinsic function of LLVM on vectors."""
    element = vector_type.element
    kind = "f32" if element == _VEC.element else f"i{element.width}"
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(result or vector_type, [argument.type for argument in arguments]),
        f"{name}.v{LANES}{kind}{suffix}",
    )
    return builder.call(function, arguments)


class _Rows:
    """Loads and stores of whole vectors, or of the first lanes of the last one of a row."""

    def __init__(self, builder, mask):
        self.builder = builder
        self.mask = mask

    def _address(self, array, position, vector_type):
        pointer = self.builder.bitcast(array, vector_type.element.as_pointer())
        return self.builder.bitcast(self.builder.gep(pointer, [position]), vector_type.as_pointer())

    def load(self, array, position, vector_type=_VEC, missing=0):
        b = self.builder
        address = self._address(array, position, vector_type)
        if self.mask is None:
            return _Vector(b, b.load(address, align=1 if vector_type == _int_vector(8) else 2))
        filler = ir.Constant(vector_type, [missing] * LANES)
        arguments = [address, ir.Constant(_I32, 1), self.mask, filler]
        return _Vector(b, _call(b, "llvm.masked.load", vector_type, arguments, ".p0"))

    def store(self, vector, array, position):
        b, value = self.builder, vector.value
        address = self._address(array, position, value.type)
        if self.mask is None:
            b.store(value, address, align=1 if value.type == _int_vector(8) else 2)
            return
        arguments = [value, address, ir.Constant(_I32, 1), self.mask]
        _call(b, "llvm.masked.store", value.type, arguments, ".p0", ir.VoidType())


def _over_row(builder, count, body):
    """Generate ``body(first slot, rows)`` for the whole vectors of a row and for its last one.

    What it returns is a vector of conditions or None; returned are the lanes where one was true.
    """
    rest = builder.and_(count, ir.Constant(_I64, LANES - 1))
    whole = builder.sub(count, rest)

    def step(f, conditions):
        condition = body(f, _Rows(builder, None))
        return conditions if condition is None else [builder.or_(conditions[0], condition)]

    def last(f, conditions):
        mask = builder.icmp_signed("<", _lane_numbers(_int_vector(64)), _splat_int(builder, rest))
        condition = body(f, _Rows(builder, mask))
        return conditions if condition is None else [builder.or_(conditions[0], condition)]

    conditions = [ir.Constant(_int_vector(1), [0] * LANES)]
    conditions = _loop(builder, ir.Constant(_I64, 0), whole, LANES, conditions, step)
    return _loop(builder, whole, count, LANES, conditions, last)[0]


def _lane_numbers(vector_type):
    return ir.Constant(vector_type, list(range(LANES)))


def _splat_int(builder, value):
    vector_type = ir.VectorType(value.type, LANES)
    undefined = ir.Constant(vector_type, ir.Undefined)
    value = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(value, undefined, ir.Constant(_INT_VEC, [0] * LANES))


# ---------------------------------------------------------------------------- formats


def _decode_bfloat16(code):
    return (code.resized(32) << 16).float()


def _decode_float8(code):
    code = code.resized(32)
    magnitude, sign = code & 0x7F, (code & 0x80) << 24
    normal = (magnitude << 20) + (120 << 23)
    subnormal = (magnitude.to_float() * 2.0**-9).bits()
    pattern = normal.where(magnitude > 7, subnormal)
    return (pattern.instead(magnitude.equals(0x7F), 0x7FC00000) | sign).float()


def _magnitude_and_sign(x, shift):
    pattern = x.bits()
    return pattern & 0x7FFFFFFF, (pattern & 0x80000000) >> shift


def _to_bfloat16(x, added):
    magnitude, sign = _magnitude_and_sign(x, 16)
    code = (magnitude + added) >> 16
    code = code.instead(code > 0x7F7F, 0x7F7F)
    code = code.instead(magnitude.equals(0x7F800000), 0x7F80) | sign
    return code.instead(magnitude > 0x7F800000, 0x7FC0).resized(16)


def _round_bfloat16(x, bits):
    return _to_bfloat16(x, bits & 0xFFFF)


def _nearest_bfloat16(x):
    return _to_bfloat16(x, ((x.bits() >> 16) & 1) + 0x7FFF)


def _round_float8(x, bits):
    magnitude, sign = _magnitude_and_sign(x, 24)
    bounded = magnitude.instead(magnitude > 0x43E00000, 0x43E00000)
    normal = ((bounded + (bits & 0xFFFFF)) >> 20) - 960
    is_small = magnitude < 0x3C800000
    scaled = magnitude.where(is_small, 0).float() * 512.0
    whole = scaled.to_int()
    rest = scaled - whole.to_float()
    threshold = (((bits >> 8) * 0xFFFFFFFF) + (1 << 24)).to_float() * 2.0**-24
    up = _Vector(x.builder, x.builder.zext(rest >= threshold, _INT_VEC))
    code = (whole + up).where(is_small, normal) | sign
    return code.instead(magnitude > 0x7F800000, 0x7F).resized(8)


def _random_bits(builder, key, position):
    """32 random bits for ``LANES`` positions of a part; see `_random.random_bits`."""
    offsets = _Vector(builder, _splat_int(builder, position)) + _Vector(
        builder, _lane_numbers(_int_vector(64))
    )
    key = _Vector(builder, _splat_int(builder, key))
    low, high = offsets.resized(32), (offsets >> 32).resized(32)
    return _mix(_mix(low ^ key) + (high * GOLDEN + key))


def _mix(x):
    x = x ^ (x >> 16)
    x = x * MULTIPLIERS[0]
    x = x ^ (x >> 15)
    x = x * MULTIPLIERS[1]
    return x ^ (x >> 16)


# ---------------------------------------------------------------------------- loads


def _decoder(size, decode):
    """``out[out_at + f] = decode(weights[start + f])`` for ``count`` slots, then zeros.

    The zeros fill the last vector of ``out``.
    """

    @intrinsic
    def decode_row(typingctx, weights, start, count, out, out_at):
        signature = types.void(weights, start, count, out, out_at)

        def codegen(context, builder, sig, args):
            t = sig.args
            weights, out = _pointers(context, builder, [t[0], t[3]], [args[0], args[3]])

            def body(f, rows):
                code = rows.load(weights, builder.add(args[1], f), _stored_vector(size))
                value = decode(code)
                _Rows(builder, None).store(value, out, builder.add(args[4], f))

            _over_row(builder, args[2], body)
            return context.get_dummy_value()

        return signature, codegen

    return decode_row


decode_float32 = _decoder(32, lambda code: code)
decode_bfloat16 = _decoder(16, _decode_bfloat16)
decode_float8 = _decoder(8, _decode_float8)


def _offset_loader(size):
    """``out[f] = width * indices[start + f]`` for ``count`` slots, then ``width * n_inputs``.

    The latter fill the last vector of ``out``. Returns whether all indices are below ``n_inputs``;
    a negative one is not.
    """

    @intrinsic
    def load_offsets(typingctx, indices, start, count, n_inputs, width, out):
        signature = types.boolean(indices, start, count, n_inputs, width, out)

        def codegen(context, builder, sig, args):
            t = sig.args
            indices, out = _pointers(context, builder, [t[0], t[5]], [args[0], args[5]])
            # A factor of 32 bits makes for a much faster product.
            width = _Vector(builder, _splat_int(builder, args[4])) & 0x7FFFFFFF
            limit = _splat_int(builder, args[3])

            def body(f, rows):
                codes = rows.load(indices, builder.add(args[1], f), _int_vector(size)).resized(64)
                too_large = builder.icmp_signed(">=", codes.value, limit)
                if rows.mask is not None:
                    codes = _Vector(builder, builder.select(rows.mask, codes.value, limit))
                _Rows(builder, None).store(codes * width, out, f)
                return too_large

            bits = builder.bitcast(_over_row(builder, args[2], body), ir.IntType(LANES))
            return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, 0))

        return signature, codegen

    return load_offsets


load_offsets_uint16 = _offset_loader(16)
load_offsets_int32 = _offset_loader(32)


# ---------------------------------------------------------------------------- updates
# They turn a gradient, in whole vectors of float32 from `at` on, into what is taken off the
# weights. The moments are rows of `count` slots from `start` on.


def _constant(builder, value):
    return _Vector(builder, _splat(builder, value))


@intrinsic
def scale_update(typingctx, update, at, count, rate):
    """Plain SGD: the gradient times the learning rate."""
    signature = types.void(update, at, count, types.float32)

    def codegen(context, builder, sig, args):
        (update,) = _pointers(context, builder, sig.args[:1], args[:1])
        rate = _constant(builder, args[3])

        def body(f, rows):
            position = builder.add(args[1], f)
            rows.store(rate * rows.load(update, position), update, position)

        _over_row(builder, args[2], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def momentum_update(typingctx, update, at, count, momentum, start, factor, rate):
    """SGD with momentum."""
    signature = types.void(*(update, at, count, momentum, start), types.float32, types.float32)

    def codegen(context, builder, sig, args):
        t = sig.args
        update, momentum = _pointers(context, builder, [t[0], t[3]], [args[0], args[3]])
        factor, rate = _constant(builder, args[5]), _constant(builder, args[6])

        def body(f, rows):
            position, place = builder.add(args[1], f), builder.add(args[4], f)
            new = factor * rows.load(momentum, place) + rows.load(update, position)
            rows.store(new, momentum, place)
            rows.store(rate * new, update, position)

        _over_row(builder, args[2], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def adam_update(
    typingctx, update, at, count, momentum, second, start, rate, beta1, rest1, beta2, rest2, root,
    epsilon,
):  # fmt: skip
    """Adam; ``rest`` is 1 - beta, ``root`` the bias correction of the second moment's root."""
    signature = types.void(*(update, at, count, momentum, second, start), *[types.float32] * 7)

    def codegen(context, builder, sig, args):
        t = sig.args
        update, momentum, second = _pointers(
            context, builder, [t[0], t[3], t[4]], [args[0], args[3], args[4]]
        )
        rate, beta1, rest1, beta2, rest2, root, epsilon = (
            _constant(builder, value) for value in args[6:]
        )

        def body(f, rows):
            position, place = builder.add(args[1], f), builder.add(args[5], f)
            gradient = rows.load(update, position)
            first = beta1 * rows.load(momentum, place) + rest1 * gradient
            square = beta2 * rows.load(second, place) + (rest2 * gradient) * gradient
            rows.store(first, momentum, place)
            rows.store(square, second, place)
            rows.store(rate * first / (square.sqrt() * root + epsilon), update, position)

        _over_row(builder, args[2], body)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def add_decay(typingctx, update, at, count, values, value_at, decay):
    """Add ``decay`` times the weights to the update."""
    signature = types.void(update, at, count, values, value_at, types.float32)

    def codegen(context, builder, sig, args):
        t = sig.args
        update, values = _pointers(context, builder, [t[0], t[3]], [args[0], args[3]])
        decay = _constant(builder, args[5])

        def body(f, rows):
            position = builder.add(args[1], f)
            weight = rows.load(values, builder.add(args[4], f))
            rows.store(rows.load(update, position) + decay * weight, update, position)

        _over_row(builder, args[2], body)
        return context.get_dummy_value()

    return signature, codegen


# ---------------------------------------------------------------------------- stores


def _storer(size, decode, encode):
    """Take an update off the stored weights, in place."""

    @intrinsic
    def store_row(typingctx, weights, start, count, update, at, key):
        signature = types.void(weights, start, count, update, at, types.uint32)

        def codegen(context, builder, sig, args):
            t = sig.args
            weights, update = _pointers(context, builder, [t[0], t[3]], [args[0], args[3]])

            def body(f, rows):
                place = builder.add(args[1], f)
                weight = decode(rows.load(weights, place, _stored_vector(size)))
                new = weight - rows.load(update, builder.add(args[4], f))
                rows.store(
                    encode(new, lambda: _random_bits(builder, args[5], place)), weights, place
                )

            _over_row(builder, args[2], body)
            return context.get_dummy_value()

        return signature, codegen

    return store_row


store_float32 = _storer(32, lambda code: code, lambda x, bits: x)
store_bfloat16 = _storer(16, _decode_bfloat16, lambda x, bits: _round_bfloat16(x, bits()))
store_float8 = _storer(8, _decode_float8, lambda x, bits: _round_float8(x, bits()))


def _compensated_storer(size, decode, encode):
    """Take an update off the stored weights, in place, with Kahan compensation."""

    @intrinsic
    def store_row(typingctx, weights, compensation, start, count, update, at, key):
        signature = types.void(weights, compensation, start, count, update, at, types.uint32)

        def codegen(context, builder, sig, args):
            t = sig.args
            weights, compensation, update = _pointers(
                context, builder, [t[0], t[1], t[4]], [args[0], args[1], args[4]]
            )

            def body(f, rows):
                place = builder.add(args[2], f)
                weight = decode(rows.load(weights, place, _stored_vector(size)))
                correction = _decode_bfloat16(rows.load(compensation, place, _stored_vector(16)))
                correction = correction - rows.load(update, builder.add(args[5], f))
                code = encode(weight + correction, _random_bits(builder, args[6], place))
                lost = (weight - decode(code)) + correction
                rows.store(code, weights, place)
                rows.store(_nearest_bfloat16(lost), compensation, place)

            _over_row(builder, args[3], body)
            return context.get_dummy_value()

        return signature, codegen

    return store_row


store_bfloat16_compensated = _compensated_storer(16, _decode_bfloat16, _round_bfloat16)
store_float8_compensated = _compensated_storer(8, _decode_float8, _round_float8)
