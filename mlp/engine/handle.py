"""Many arrays passed to compiled code as one pointer; shared counters; subnormal numbers.

Numba passes each array as seven numbers and counts references to it. With the fifty arrays of a
population that makes every call of every function long, compilation slow, and two threads wait for
each other's counts. A `Handle` is a table of addresses; compiled code reads `handle.name` from it
as an ordinary array that nobody counts. Whoever holds the handle keeps the arrays alive.

Beside that stand the two other things that compiled code needs of the processor: counters that
threads share, and a switch that takes numbers too small for a full mantissa as zero while a kernel
runs. The gradients of a saturated network fall below the smallest normal number (1.2e-38 in
float32). x86 processors compute with such subnormal numbers in microcode, so that the runs that
this program is about would train four times as long as healthy ones (docs/speed.md), and their
neighbours in a population with them. Beside any weight they are nothing.
"""

import functools
import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.core.cgutils import alloca_once
from numba.core.datamodel.models import OpaqueModel
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

_SLOT = 4  # numbers of each entry: an address and up to three lengths
_INT64 = ir.IntType(64)

# Results that are subnormal become zero (bit 15), and operands that are (bit 6); see "MXCSR" in
# Intel's Software Developer's Manual, volume 1, section 10.2.3.
_FLUSH = 0x8040
# Other processors are left as they are; what subnormal numbers cost there was not measured.
_HAS_MXCSR = platform.machine().lower() in ("x86_64", "amd64", "x64")
_WORD = ir.IntType(32)

# A function that only compiled code calls. What Python and C would need to call it is not made: an
# eighth of the first start's compilation.
inner = functools.partial(njit, no_cpython_wrapper=True, no_cfunc_wrapper=True)


class _Field(NamedTuple):
    """Where an entry stands, and what it is: an integer where there is no dtype."""

    place: int
    dtype: str | None
    ndim: int


class Handle:
    """Arrays and integers under their names, as one argument of compiled code.

    Args:
        parts: named tuples of C-contiguous arrays of at most three dimensions; their fields' names
            are all different.
        others: further arrays, and integers, constants for as long as the handle lives.
    """

    def __init__(self, *parts: Any, **others: NDArray[Any] | int) -> None:
        self.arrays: dict[str, NDArray[Any]] = {
            name: array
            for part in (*(part._asdict() for part in parts), others)
            for name, array in part.items()
            if isinstance(array, np.ndarray)
        }
        entries: list[list[int]] = []
        self.fields: dict[str, _Field] = {}
        for name, array in self.arrays.items():
            if not array.flags.c_contiguous:
                raise ValueError(f"{name} must be C-contiguous")
            self.fields[name] = _Field(len(entries), array.dtype.name, array.ndim)
            entries.append([array.ctypes.data, *array.shape, *[0] * (3 - array.ndim)])
        for name in (name for name in others if name not in self.arrays):
            self.fields[name] = _Field(len(entries), None, 0)
            entries.append([int(others[name]), 0, 0, 0])
        self.table = np.array(entries, np.int64)
        self.address = int(self.table.ctypes.data)


class _HandleType(types.Type):
    def __init__(self, fields: Mapping[str, _Field]) -> None:
        self.fields = dict(fields)
        text = ", ".join(f"{name}:{f.dtype}:{f.ndim}" for name, f in fields.items())
        super().__init__(name=f"Handle({text})")


@register_model(_HandleType)
class _HandleModel(OpaqueModel):
    pass


@typeof_impl.register(Handle)
def _typeof(handle: Handle, _context: Any) -> _HandleType:
    return _HandleType(handle.fields)


@unbox(_HandleType)
def _unbox(_type: Any, value: Any, context: Any) -> Any:
    address = context.pyapi.object_getattr_string(value, "address")
    pointer = context.pyapi.long_as_voidptr(address)
    context.pyapi.decref(address)
    return NativeValue(pointer, is_error=context.pyapi.c_api_error())


def version_of(*modules: str) -> str:
    """A digest of the source of some modules of this package.

    Numba looks for changes in the file of a compiled function alone, and would go on with old code
    of another file.
    """
    files = (Path(__file__).parent / f"{name}.py" for name in modules)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _array_type(field: _Field) -> Any:
    return types.Array(from_dtype(np.dtype(field.dtype)), field.ndim, "C")


@infer_getattr
class _HandleAttributes(AttributeTemplate):
    key = _HandleType

    def generic_resolve(self, handle: _HandleType, name: str) -> Any:
        if name not in handle.fields:
            return None
        field = handle.fields[name]
        return types.int64 if field.dtype is None else _array_type(field)


@lower_getattr_generic(_HandleType)
def _read(context: Any, builder: Any, handle: _HandleType, value: Any, name: str) -> Any:
    field = handle.fields[name]
    table = builder.bitcast(value, _INT64.as_pointer())

    def entry(i: int) -> Any:
        return builder.load(builder.gep(table, [ir.Constant(_INT64, field.place * _SLOT + i)]))

    if field.dtype is None:
        return entry(0)
    kind = _array_type(field)
    array = context.make_array(kind)(context, builder)
    item = context.get_abi_sizeof(context.get_data_type(kind.dtype))
    shape = [entry(1 + i) for i in range(field.ndim)]
    strides = [ir.Constant(_INT64, item)]
    for length in reversed(shape[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    data = builder.inttoptr(entry(0), context.get_data_type(kind.dtype).as_pointer())
    populate_array(array, data, shape, strides, item, None)
    return array._getvalue()


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


@intrinsic
def flush_subnormals(_typing: Any) -> Any:
    """From here on this thread takes subnormal numbers as zero; returns its mode before."""

    def generate(_context: Any, builder: Any, _sig: Any, _args: Any) -> Any:
        if not _HAS_MXCSR:
            return ir.Constant(_WORD, 0)
        place = alloca_once(builder, _WORD)
        _call(builder, "llvm.x86.sse.stmxcsr", place)
        before = builder.load(place)
        builder.store(builder.or_(before, ir.Constant(_WORD, _FLUSH)), place)
        _call(builder, "llvm.x86.sse.ldmxcsr", place)
        return before

    return types.uint32(), generate


@intrinsic
def restore(_typing: Any, before: Any) -> Any:
    """Sets this thread's arithmetic back to the mode that `flush_subnormals` found."""

    def generate(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        if _HAS_MXCSR:
            place = alloca_once(builder, _WORD)
            builder.store(args[0], place)
            _call(builder, "llvm.x86.sse.ldmxcsr", place)
        return context.get_dummy_value()

    return types.none(before), generate


def _call(builder: Any, name: str, place: Any) -> None:
    pointer = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [pointer])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, [builder.bitcast(place, pointer)])
