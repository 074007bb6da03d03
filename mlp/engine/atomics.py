"""Atomic operations on int64 arrays inside Numba kernels, for threads that share work."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
def claim(_typing: Any, array: Any, index: Any, expected: Any, new: Any) -> Any:
    """Atomic compare-and-swap of an int64 element; True where it was `expected`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args)
        result = builder.cmpxchg(pointer, args[2], args[3], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(array, types.intp, types.int64, types.int64), generate


@intrinsic
def count_up(_typing: Any, array: Any, index: Any) -> Any:
    """Atomically adds one to an int64 element and returns what it was."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args)
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(array, types.intp), generate


@intrinsic
def peek(_typing: Any, array: Any, index: Any) -> Any:
    """Atomic read of an int64 element."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args)
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(array, types.intp), generate


def _pointer(context: Any, builder: Any, array: Any, args: Any) -> Any:
    return builder.gep(context.make_array(array)(context, builder, args[0]).data, [args[1]])
