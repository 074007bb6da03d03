"""Many arrays passed to compiled code as one pointer; shared counters; subnormal numbers.

Numba passes each array as seven numbers and counts references to it. With the fifty arrays of a
population that makes every call of every function long, compilation slow, and two threads wait for
each other's counts. A `Handle` is a table of addresses; in compiled code `handle.name` is a `View`:
an address and the lengths, which nobody counts. Its indices are integers from 0 on; fewer of them
than dimensions give a view of the rest. Whoever holds the handle keeps the arrays alive.

Beside that stand the two other things that compiled code needs of the processor: counters that
threads share, and a switch that takes numbers too small for a full mantissa as zero while a kernel
runs. The gradients of a saturated network fall below the smallest normal number (1.2e-38 in
float32). x86 processors compute with such subnormal numbers in microcode, so that the runs that
this program is about would train four times as long as healthy ones (docs/speed.md), and their
neighbours in a population with them. Beside any weight they are nothing.
"""

import hashlib
import operator
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import from_dtype, njit, types
from numba.core.cgutils import alloca_once, unpack_tuple
from numba.core.datamodel.models import OpaqueModel
from numba.core.typing.templates import AttributeTemplate, signature
from numba.extending import (
    NativeValue,
    infer_getattr,
    intrinsic,
    lower_builtin,
    lower_getattr_generic,
    register_model,
    typeof_impl,
    unbox,
)
from numpy.typing import NDArray

from mlp.engine.simd import View, element_pointer, typed, view_of

_SLOT = 4  # numbers of each entry: an address and up to three lengths
_INT64 = ir.IntType(64)

# Results that are subnormal become zero (bit 15), and operands that are (bit 6); see "MXCSR" in
# Intel's Software Developer's Manual, volume 1, section 10.2.3.
_FLUSH = 0x8040
# Other processors are left as they are; what subnormal numbers cost there was not measured.
_HAS_MXCSR = platform.machine().lower() in ("x86_64", "amd64", "x64")
_WORD = ir.IntType(32)


def inner(function: Callable[..., Any]) -> Any:
    """A function that only compiled code calls.

    What Python and C would need to call it is not made, and a division by zero raises nothing.
    """
    return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")(function)


def woven(function: Callable[..., Any]) -> Any:
    """A function that becomes part of each compiled function that calls it.

    Numba optimizes a function together with all that it calls, however deep, and each of those
    likewise before: a chain of eight calls is optimized eight times. So by themselves stand only
    what is called from many places and what would make one function of all.
    """
    return njit(inline="always")(function)


class Handle:
    """Arrays and integers under their names, as one argument of compiled code.

    Args:
        parts: named tuples of C-contiguous arrays of at most three dimensions; their fields' names
            are all different.
        others: further arrays, and integers, constants for as long as the handle lives.

    Attributes:
        arrays: those under their names; here they are kept alive.
        type: of the handle, for Numba.
    """

    def __init__(self, *parts: Any, **others: NDArray[Any] | int) -> None:
        self.arrays: dict[str, NDArray[Any]] = {}
        fields: dict[str, Any] = {}
        entries: list[list[int]] = []
        for part in (*(part._asdict() for part in parts), others):
            for name, value in part.items():
                entry = [value, 0, 0, 0]
                fields[name] = types.int64
                if isinstance(value, np.ndarray):
                    if not value.flags.c_contiguous:
                        raise ValueError(f"{name} must be C-contiguous")
                    self.arrays[name] = value
                    fields[name] = View(from_dtype(value.dtype), value.ndim)
                    entry = [value.ctypes.data, *value.shape, *[0] * (3 - value.ndim)]
                entries.append(entry)
        self.table = np.array(entries, np.int64)
        self.address = int(self.table.ctypes.data)
        self.type = _HandleType(fields)


class _HandleType(types.Type):
    """Numba's type of each entry, in the order of the table."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        # The name is in the symbol of each compiled function that takes a handle: a short one.
        super().__init__(name=f"Handle {hashlib.sha256(str(fields).encode()).hexdigest()[:16]}")


register_model(_HandleType)(OpaqueModel)


@typeof_impl.register(Handle)
def _typeof(handle: Handle, _context: Any) -> Any:
    return handle.type


@unbox(_HandleType)
def _unbox(_type: Any, value: Any, context: Any) -> Any:
    address = context.pyapi.object_getattr_string(value, "address")
    pointer = context.pyapi.long_as_voidptr(address)
    context.pyapi.decref(address)
    return NativeValue(pointer, is_error=context.pyapi.c_api_error())


@infer_getattr
class _HandleAttributes(AttributeTemplate):
    key = _HandleType

    def generic_resolve(self, handle: _HandleType, name: str) -> Any:
        return handle.fields.get(name)


@lower_getattr_generic(_HandleType)
def _read(context: Any, builder: Any, handle: _HandleType, value: Any, name: str) -> Any:
    kind = handle.fields[name]
    place = list(handle.fields).index(name)
    table = builder.bitcast(value, _INT64.as_pointer())

    def entry(i: int) -> Any:
        return builder.load(builder.gep(table, [ir.Constant(_INT64, place * _SLOT + i)]))

    if kind == types.int64:
        return entry(0)
    address = builder.inttoptr(entry(0), context.get_data_type(kind.dtype).as_pointer())
    return view_of(builder, kind, address, [entry(1 + i) for i in range(kind.ndim)])


def _item_of(view: Any, index: Any) -> Any:
    if not isinstance(view, View):
        return None
    n_left = view.ndim - (len(index) if isinstance(index, types.BaseTuple) else 1)
    return signature(View(view.dtype, n_left) if n_left else view.dtype, view, index)


def _item_set(view: Any, index: Any, _value: Any) -> Any:
    return signature(types.none, view, index, view.dtype) if isinstance(view, View) else None


def _length_of(view: Any) -> Any:
    return signature(types.int64, view) if isinstance(view, View) else None


typed(operator.getitem, _item_of)
typed(operator.setitem, _item_set)
typed(len, _length_of)


@lower_builtin(operator.getitem, View, types.Any)
def _get_item(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    pointer, lengths = _place(context, builder, sig, args)
    if isinstance(sig.return_type, View):
        return view_of(builder, sig.return_type, pointer, lengths)
    return builder.load(pointer)


@lower_builtin(operator.setitem, View, types.Any, types.Any)
def _set_item(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    builder.store(args[2], _place(context, builder, sig, args)[0])


@lower_builtin(len, View)
def _length(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.extract_value(args[0], 1)


def _place(context: Any, builder: Any, sig: Any, args: Any) -> tuple[Any, list[Any]]:
    """Pointer to what an index stands for, and the lengths of the dimensions behind it."""
    view, index = sig.args[:2]
    is_tuple = isinstance(index, types.BaseTuple)
    kinds = list(index) if is_tuple else [index]
    values = unpack_tuple(builder, args[1]) if is_tuple else [args[1]]
    lengths = [builder.extract_value(args[0], 1 + i) for i in range(view.ndim)]
    place = ir.Constant(_INT64, 0)
    for i, length in enumerate(lengths):
        place = builder.mul(place, length) if i else place
        if i < len(values):
            own = context.cast(builder, values[i], kinds[i], types.int64)
            place = builder.add(place, own)
    return builder.gep(builder.extract_value(args[0], 0), [place]), lengths[len(values) :]


def version_of(*modules: str) -> str:
    """A digest of the source of some modules of this package.

    Numba looks for changes in the file of a compiled function alone, and would go on with old code
    of another file.
    """
    files = (Path(__file__).parent / f"{name}.py" for name in modules)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@intrinsic
def claim(_typing: Any, array: Any, index: Any, expected: Any, new: Any) -> Any:
    """Atomic compare-and-swap of an int64 element; True where it was `expected`."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = element_pointer(builder, args)
        result = builder.cmpxchg(pointer, args[2], args[3], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(array, types.intp, types.int64, types.int64), generate


@intrinsic
def count_up(_typing: Any, array: Any, index: Any) -> Any:
    """Atomically adds one to an int64 element and returns what it was."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = element_pointer(builder, args)
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(array, types.intp), generate


@intrinsic
def peek(_typing: Any, array: Any, index: Any) -> Any:
    """Atomic read of an int64 element."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = element_pointer(builder, args)
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(array, types.intp), generate


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
