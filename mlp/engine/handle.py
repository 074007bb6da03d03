"""Many arrays passed to compiled code as one pointer.

Numba passes each array as seven numbers and counts references to it. With the fifty arrays of a
population that makes every call of every function long, compilation slow, and two threads wait for
each other's counts. A `Handle` is a table of addresses; compiled code reads `handle.name` from it
as an ordinary array that nobody counts. Whoever holds the handle keeps the arrays alive.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import from_dtype, types
from numba.core.datamodel.models import OpaqueModel
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_getattr_generic,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import populate_array
from numpy.typing import NDArray

_SLOT = 4  # numbers of each entry: an address and up to three lengths
_INT64 = ir.IntType(64)


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
        integers: further entries, constants for as long as the handle lives.
    """

    def __init__(self, *parts: Any, **integers: int) -> None:
        self.arrays: dict[str, NDArray[Any]] = {
            name: array for part in parts for name, array in part._asdict().items()
        }
        entries: list[list[int]] = []
        self.fields: dict[str, _Field] = {}
        for name, array in self.arrays.items():
            if not array.flags.c_contiguous:
                raise ValueError(f"{name} must be C-contiguous")
            self.fields[name] = _Field(len(entries), array.dtype.name, array.ndim)
            entries.append([array.ctypes.data, *array.shape, *[0] * (3 - array.ndim)])
        for name, value in integers.items():
            self.fields[name] = _Field(len(entries), None, 0)
            entries.append([value, 0, 0, 0])
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
