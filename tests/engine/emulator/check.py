"""What the emulated GPU itself can do and finds: `python -m engine.emulator.check WHAT [ORDER]`."""

import sys

from engine import emulator

if __name__ == "__main__":
    DRIVER = emulator.start(int((sys.argv[2:] or ["0"])[0]))

import warnings

import numpy as np
from cuda.core import Device, LaunchConfig, ObjectCode, launch
from numba import cuda

warnings.filterwarnings("ignore", message="Grid size")
N = 24

# Of each: the instructions on %a, %b (bits of the arguments) that leave their result in %o.
INSTRUCTIONS = {
    "add.s64 %o, %a, %b;": [(2**63 - 1, 1, -(2**63))],
    "shr.s64 %o, %a, 70;": [(-5, 0, -1), (5, 0, 0)],
    "shl.b64 %o, %a, 64;": [(5, 0, 0)],
    "div.s64 %o, %a, %b;": [(-7, 2, -3), (-(2**63), -1, -(2**63))],
    "rem.s64 %o, %a, %b;": [(-7, 2, -1)],
    "mul.hi.s64 %o, %a, %b;": [(-1, 1, -1), (2**62, 4, 1)],
    "min.s64 %o, %a, %b;": [(-1, 1, -1)],
    "min.u64 %o, %a, %b;": [(-1, 1, 1)],
    "setp.ltu.f64 %p, %x, %y; selp.u64 %o, 1, 0, %p;": [(0x7FF8 << 48, 0, 1)],
    "setp.ne.f64 %p, %x, %y; selp.u64 %o, 1, 0, %p;": [(0x7FF8 << 48, 0, 0)],
    "setp.neu.f64 %p, %x, %y; @%p mov.u64 %o, 7; @!%p mov.u64 %o, 8;": [(0x7FF8 << 48, 0, 7)],
    "max.f64 %x, %x, %y; mov.b64 %o, %x;": [(0x7FF8 << 48, 5, 5), (-(2**63), 0, 0)],
    "cvt.rzi.s64.f64 %o, %x;": [(0x7FF8 << 48, 0, -(2**63)), (0x47E0 << 48, 0, 2**63 - 1)],
    "add.rn.f64 %x, %x, %y; mov.b64 %o, %x;": [(1, 2, 3)],  # subnormal numbers stay
    "cvt.u32.u64 %r, %a; mov.b32 %f, %r; add.rn.ftz.f32 %f, %f, %f; mov.b32 %r, %f;"
    " cvt.u64.u32 %o, %r;": [(0x80000001, 0, 0x80000000), (0x7FC12345, 0, 0x7FFFFFFF)],
    "cvt.u32.u64 %r, %a; mov.b32 %f, %r; cvt.ftz.f64.f32 %x, %f; mov.b64 %o, %x;": [(1, 0, 0)],
    "mov.b64 {%r, %q}, %a; mov.b64 %o, {%q, %r};": [(1 << 32, 0, 1)],
}
MODULE = """
.version 9.0
.target sm_90
.address_size 64
.visible .entry one(.param .u64 to, .param .u64 first, .param .u64 second)
{{
    .reg .pred %p; .reg .b32 %r; .reg .b32 %q; .reg .f32 %f; .reg .f64 %x; .reg .f64 %y;
    .reg .b64 %a; .reg .b64 %b; .reg .b64 %o; .reg .b64 %to;
    ld.param.u64 %to, [to]; ld.param.u64 %a, [first]; ld.param.u64 %b, [second];
    mov.b64 %x, %a; mov.b64 %y, %b;
    {}
    st.global.u64 [%to], %o;
    ret;
}}
"""


def jit(function):
    return cuda.jit(function, lto=False)  # without the function, Numba forgets that it is False


@jit
def scale(a, b, factor):
    i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    b[i] = a[i] * factor + 1


@jit
def reverse(a, b):
    room = cuda.shared.array(8, np.float32)
    first = cuda.blockIdx.x * 8
    room[cuda.threadIdx.x] = b[first + cuda.threadIdx.x]
    cuda.syncthreads()
    a[first + cuda.threadIdx.x] = room[7 - cuda.threadIdx.x]


@jit
def race(a):
    a[0] = cuda.blockIdx.x * 8 + cuda.threadIdx.x


@jit
def outside(a):
    a[a.size + cuda.threadIdx.x] = 1


@jit
def apart(a):
    if cuda.threadIdx.x > 2:
        cuda.syncthreads()
        a[cuda.threadIdx.x] = 1


def arrays():
    return cuda.to_device(np.arange(N, dtype=np.float32)), cuda.device_array(N, np.float32)


def graph():
    """Kernels in a graph do what they do one by one."""
    a, b = arrays()
    for _ in range(3):
        scale[3, 8](a, b, 2.0)
        reverse[3, 8](a, b)
    expected = a.copy_to_host()
    a, b = arrays()
    device = Device()
    device.set_current()
    stream = device.create_stream()
    builder = stream.create_graph_builder()
    builder.begin_building()
    scale[3, 8, builder](a, b, 2.0)
    reverse[3, 8, builder](a, b)
    built = builder.end_building().complete()
    assert np.array_equal(a.copy_to_host(), np.arange(N)), "recorded, not run"
    for _ in range(3):
        built.launch(stream)
    # The stream does not heed the default one, and nothing waited for it.
    assert np.array_equal(a.copy_to_host(), np.arange(N))
    stream.sync()
    assert np.array_equal(a.copy_to_host(), expected)
    assert DRIVER.count_of(1) == 3


def instructions():
    to = cuda.device_array(1, np.int64)
    device = Device()
    device.set_current()
    for code, examples in INSTRUCTIONS.items():
        kernel = ObjectCode.from_ptx(MODULE.format(code).encode()).get_kernel("one")
        for *given, expected in examples:
            values = [np.uint64(int(each) % 2**64) for each in given]
            pointer = np.uint64(to.device_ctypes_pointer.value)
            launch(device.default_stream, LaunchConfig(grid=1, block=1), kernel, pointer, *values)
            (found,) = to.copy_to_host().view(np.uint64)
            assert found == expected % 2**64, (code, given, hex(found))


def unknown():
    ObjectCode.from_ptx(MODULE.format("popc.b64 %o, %a;").encode()).get_kernel("one")


if __name__ == "__main__":
    what = globals()[sys.argv[1]]
    if what in (race, outside, apart):
        numbers, _ = arrays()
        what[3, 8](numbers)
        print(int(numbers.copy_to_host()[0]))
    else:
        what()
