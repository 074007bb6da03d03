"""Vectors of numbers inside Numba kernels.

Numba's own loops become vector instructions only when LLVM sees fit, and keep no small array in
registers. The kernels of this package therefore say what they mean: a `Vector` is a value of
fixed width, loaded, combined lane by lane with one IEEE operation each, and stored. LLVM maps it
to whatever registers the machine has, so every lane gets the same bits on every machine with a
fused multiply-add.

Widths are given in bytes: `WIDE` is two of the widest registers in use today, `NARROW` one.
"""

import operator
from collections.abc import Callable, Sequence
from math import factorial, log
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, register_model

WIDE = 128
NARROW = 64

# Of float32 and of float64. Adding the shift to a number of small magnitude rounds it to an integer
# and leaves that in the lowest bits. Below the lowest exponent, 2^n would leave the range of normal
# numbers.
CONSTANTS = {
    "rounding_shift": (1.5 * 2.0**23, 1.5 * 2.0**52),
    "lowest_exponent": (-87.0, -708.0),
    "ln2_high": (float(np.float32(log(2))), log(2)),
    "ln2_low": (log(2) - float(np.float32(log(2))), 2.3190468138462996e-17),
}
# Taylor's terms, as many as the type can feel on the interval the kernels use: |x| <= ln(2) / 2
# for the exponential, 0 <= x <= 1 / 9 for the logarithm.
SERIES = {
    "expm1": [[1 / factorial(i + 2) for i in range(n)] for n in (6, 12)],
    "atanh": [[1 / (2 * i + 3) for i in range(n)] for n in (7, 15)],
}
_INT32 = ir.IntType(32)


class Vector(types.Type):
    """Numba type of `lanes` numbers of one float type, held in registers."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype = dtype
        self.lanes = lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


class View(types.Type):
    """Numba type of a C-contiguous array whose references nobody counts; see `Handle`."""

    def __init__(self, dtype: Any, ndim: int) -> None:
        self.dtype = dtype
        self.ndim = ndim
        super().__init__(name=f"View({dtype}, {ndim})")


@register_model(Vector)
@register_model(View)
class _Model(PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector | View) -> None:
        super().__init__(manager, kind, _llvm(kind))


def _llvm(kind: Vector | View) -> Any:
    if isinstance(kind, Vector):
        return ir.VectorType(_scalar(kind.dtype), kind.lanes)
    lengths = [ir.IntType(64)] * kind.ndim
    return ir.LiteralStructType([_scalar(kind.dtype).as_pointer(), *lengths])


def _scalar(dtype: Any) -> ir.Type:
    if isinstance(dtype, types.Integer):
        return ir.IntType(dtype.bitwidth)
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


def _vector(array: Any, span: Any) -> Vector:
    return Vector(array.dtype, span.literal_value * 8 // array.dtype.bitwidth)


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    blank = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(blank, value, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(first, blank, _mask([0] * lanes))


def _constant(vector: Vector, value: float) -> ir.Constant:
    return ir.Constant(_llvm(vector), [value] * vector.lanes)


def _mask(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INT32, len(lanes)), list(lanes))


def _call(builder: Any, name: str, vector: Vector, args: Sequence[Any]) -> Any:
    suffix = f"v{vector.lanes}f{vector.dtype.bitwidth}"
    kind = ir.FunctionType(_llvm(vector), [_llvm(vector)] * len(args))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.{suffix}")
    return builder.call(function, args)


def view_of(builder: Any, view: View, address: Any, lengths: Sequence[Any]) -> Any:
    """The value of a view."""
    value = ir.Constant(_llvm(view), ir.Undefined)
    for i, part in enumerate((address, *lengths)):
        value = builder.insert_value(value, part, i)
    return value


def element_pointer(builder: Any, args: Sequence[Any]) -> Any:
    """Pointer to an element of a 1-D view, from its value and the index."""
    return builder.gep(builder.extract_value(args[0], 0), [args[1]])


def _vector_pointer(builder: Any, args: Sequence[Any], kind: ir.VectorType) -> Any:
    return builder.bitcast(element_pointer(builder, args), kind.as_pointer())


def typed(symbol: Any, rule: Callable[..., Any]) -> None:
    """Lets Numba know what a function gives: a signature by the arguments' types, or None."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            return rule(*args)

    infer_global(symbol)(Template)


def _same_vectors(a: Any, b: Any = None) -> Any:
    return signature(a, a, b) if isinstance(a, Vector) and a == b else None


def _operation(symbol: Any, name: str) -> None:
    typed(symbol, _same_vectors)

    @lower_builtin(symbol, Vector, Vector)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, name)(*args)


for _symbol, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operation(_symbol, _name)


@intrinsic
def rank(_typing: Any) -> Any:
    """Number of this thread among those that do one sequence of operations: here one does, 0."""
    return types.intp(), lambda _c, _b, _s, _a: ir.Constant(ir.IntType(64), 0)


@intrinsic
def team_size(_typing: Any) -> Any:
    """How many threads do one sequence of operations: here 1, on a GPU one for each lane."""
    return types.intp(), lambda _c, _b, _s, _a: ir.Constant(ir.IntType(64), 1)


@intrinsic
def meet(_typing: Any) -> Any:
    """Waits until all those threads are here and see what the others have written."""
    return types.none(), lambda context, _b, _s, _a: context.get_dummy_value()


@intrinsic(prefer_literal=True)
def lanes(_typing: Any, array: Any, span: Any) -> Any:
    """How many elements of `array` a vector of `span` bytes holds (a compile-time constant)."""
    count = _vector(array, span).lanes
    return types.intp(array, span), lambda _c, _b, _s, _a: ir.Constant(ir.IntType(64), count)


@intrinsic
def at(_typing: Any, array: Any, index: Any) -> Any:
    """Element of a 1-D view, without the test for a negative index."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(element_pointer(builder, args))

    return array.dtype(array, types.intp), generate


@intrinsic(prefer_literal=True)
def load(_typing: Any, array: Any, index: Any, span: Any) -> Any:
    """Vector of `span` bytes that starts at element `index` of a 1-D view."""
    vector = _vector(array, span)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _vector_pointer(builder, args, _llvm(vector))
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return vector(array, types.intp, span), generate


@intrinsic
def store(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Writes a vector from element `index` of a 1-D view on."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _vector_pointer(builder, args, _llvm(value))
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic(prefer_literal=True)
def spread(_typing: Any, array: Any, index: Any, span: Any) -> Any:
    """Vector of `span` bytes with element `index` of a 1-D view in every lane."""
    vector = _vector(array, span)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = builder.load(element_pointer(builder, args))
        return _splat(builder, value, vector.lanes)

    return vector(array, types.intp, span), generate


@intrinsic(prefer_literal=True)
def zeros(_typing: Any, array: Any, span: Any) -> Any:
    """Vector of `span` bytes of zeros, of the array's type."""
    vector = _vector(array, span)
    return vector(array, span), lambda _c, _b, _s, _a: _constant(vector, 0.0)


@intrinsic
def like(_typing: Any, vector: Any, value: Any) -> Any:
    """Vector of the same type with the constant `value` in every lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, context.cast(builder, args[1], value, vector.dtype), vector.lanes)

    return vector(vector, value), generate


@intrinsic
def fma(_typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Product of a and b plus c, rounded once."""
    return c(c, c, c), lambda _c, builder, _s, args: _call(builder, "fma", c, args)


@intrinsic
def magnitude(_typing: Any, a: Any) -> Any:
    """|a|."""
    return a(a), lambda _c, builder, _s, args: _call(builder, "fabs", a, args)


@intrinsic
def where_less(_typing: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """`yes` in the lanes where a < b, else `no` (also where a or b is not a number)."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return yes(a, a, yes, yes), generate


@intrinsic
def power_of_two(_typing: Any, shifted: Any) -> Any:
    """2^n, where `shifted` is n plus 1.5 times two to the number of mantissa bits."""
    bits, bias = (23, 127) if shifted.dtype == types.float32 else (52, 1023)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        integer = ir.VectorType(ir.IntType(shifted.dtype.bitwidth), shifted.lanes)
        amount = ir.Constant(integer, [bits] * shifted.lanes)
        one = ir.Constant(integer, [bias << bits] * shifted.lanes)
        exponent = builder.add(builder.shl(builder.bitcast(args[0], integer), amount), one)
        return builder.bitcast(exponent, _llvm(shifted))

    return shifted(shifted), generate


def _series(name: str) -> Any:
    @intrinsic
    def evaluate(_typing: Any, x: Any) -> Any:
        values = SERIES[name][x.dtype != types.float32]

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            total: Any = _constant(x, values[-1])
            for value in reversed(values[:-1]):
                total = _call(builder, "fma", x, (total, args[0], _constant(x, value)))
            return total

        return x(x), generate

    return evaluate


expm1_series, atanh_series = _series("expm1"), _series("atanh")


def _constant_by_type(name: str) -> Any:
    @intrinsic
    def constant(_typing: Any, x: Any) -> Any:
        value = CONSTANTS[name][x.dtype != types.float32]
        return x(x), lambda _c, _b, _s, _a: _constant(x, value)

    return constant


rounding_shift, lowest_exponent, ln2_high, ln2_low = map(_constant_by_type, CONSTANTS)


def _accumulation(add: Callable[[Any, Vector, Any, Any], Any]) -> Any:
    @intrinsic
    def accumulate(_typing: Any, total: Any, index: Any, x: Any) -> Any:
        double = Vector(types.float64, x.lanes)

        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            pointer = _vector_pointer(builder, args, _llvm(double))
            wide = args[2] if x.dtype == types.float64 else builder.fpext(args[2], _llvm(double))
            before = builder.load(pointer, align=8)
            builder.store(add(builder, double, before, wide), pointer, align=8)
            return context.get_dummy_value()

        return types.void(total, types.intp, x), generate

    return accumulate


# `(total, index, x)`: adds x, or its square, to the float64 array `total` from element `index` on,
# lane by lane; each sum is rounded once.
widen_sum = _accumulation(lambda builder, _, before, x: builder.fadd(before, x))
widen_square = _accumulation(
    lambda builder, double, before, x: _call(builder, "fma", double, (x, x, before))
)


@intrinsic
def transpose(
    _typing: Any, source: Any, start: Any, stride: Any, target: Any, to: Any, to_stride: Any
) -> Any:
    """Square of NARROW lanes: row i of `source` becomes column i of `target`."""
    n = NARROW * 8 // source.dtype.bitwidth
    kind = ir.VectorType(_scalar(source.dtype), n)

    def pointer(builder: Any, args: Any, i: int) -> Any:
        step = builder.mul(args[2], ir.Constant(ir.IntType(64), i))
        return _vector_pointer(builder, (args[0], builder.add(args[1], step)), kind)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        align = source.dtype.bitwidth // 8
        rows = [builder.load(pointer(builder, args[:3], i), align=align) for i in range(n)]
        half = n // 2
        while half:
            low = _mask([k if not k & half else n + k - half for k in range(n)])
            high = _mask([k + half if not k & half else n + k for k in range(n)])
            for i in range(n):
                if not i & half:
                    a, b = rows[i], rows[i + half]
                    rows[i] = builder.shuffle_vector(a, b, low)
                    rows[i + half] = builder.shuffle_vector(a, b, high)
            half //= 2
        for i, row in enumerate(rows):
            builder.store(row, pointer(builder, args[3:], i), align=align)
        return context.get_dummy_value()

    ints = types.intp
    return types.void(source, ints, ints, target, ints, ints), generate


@intrinsic
def store_sums(_typing: Any, target: Any, index: Any, vectors: Any) -> Any:
    """Writes the sum over the lanes of each vector of a tuple, summed pairwise, side by side."""
    n = vectors[0].lanes

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        parts = [builder.extract_value(args[2], i) for i in range(len(vectors))]
        size = n
        while size > 1:
            half = size // 2
            starts = [g + i for g in range(0, 2 * n, size) for i in range(half)]
            low, high = _mask(starts), _mask([s + half for s in starts])
            parts = [
                builder.fadd(builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high))
                for a, b in zip(parts[::2], parts[1::2], strict=True)
            ]
            size = half
        for i, part in enumerate(parts):
            place = builder.add(args[1], ir.Constant(ir.IntType(64), i * n))
            pointer = _vector_pointer(builder, (args[0], place), _llvm(vectors[0]))
            builder.store(part, pointer, align=vectors[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(target, types.intp, vectors), generate


def aligned_zeros(size: int, dtype: Any) -> Any:
    """1-D view of zeros whose first element lies on a border of 128 bytes.

    A vector that straddles two cache lines loads at half the speed.
    """
    kind = np.dtype(dtype)
    raw = np.zeros(size * kind.itemsize + WIDE, np.uint8)
    start = -raw.ctypes.data % WIDE
    return raw[start : start + size * kind.itemsize].view(kind)
