"""Numbers too small for a full mantissa, taken as zero while a kernel runs.

The gradients of a saturated network fall below the smallest normal number (1.2e-38 in float32).
x86 processors compute with such subnormal numbers in microcode, so that the runs that this program
is about would train four times as long as healthy ones (docs/speed.md), and their neighbours in a
population with them. Beside any weight they are nothing.
"""

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import alloca_once
from numba.extending import intrinsic

# Results that are subnormal become zero (bit 15), and operands that are (bit 6); see "MXCSR" in
# Intel's Software Developer's Manual, volume 1, section 10.2.3.
_FLUSH = 0x8040
# Other processors are left as they are; what subnormal numbers cost there was not measured.
_HAS_MXCSR = platform.machine().lower() in ("x86_64", "amd64", "x64")
_WORD = ir.IntType(32)


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
