"""A GPU that this machine's CPU plays, so that the real code of the GPU engine runs without one.

Numba compiles, NVVM makes PTX, and everything up to the driver is the real thing; the driver is
`driver.c`, and what it runs is the PTX, as C (`translate.py`, `ptx.h`).
"""

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from engine.emulator.translate import translated

UP, DOWN = 0, 1  # orders of blocks and threads; larger numbers are seeds of random ones
_HERE = Path(__file__).parent
_BUILT = Path(tempfile.gettempdir()) / "mlp-emulated-gpu"
# Rounded as written; an opcode that `ptx.h` lacks is an error.
_GCC = (
    *("gcc", "-O2", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing", "-fwrapv"),
    *("-Werror=implicit-function-declaration", "-Wno-overflow", "-shared", "-fPIC"),
)
_LOADER = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_char_p)
_kept = []  # what C still points to


def start(order: int = UP, is_late: bool = True, n_gpus: int = 1) -> ctypes.CDLL:
    """Makes the emulated GPU the machine's; to be called before numba-cuda is imported.

    Args:
        order: in which blocks of a grid, and threads between barriers, are run.
        is_late: a stream's work waits until the host waits for it.
        n_gpus: that there seem to be; one thread of this process is served at a time.
    """
    from cuda.pathfinder import find_nvidia_header_directory

    source = (_HERE / "driver.c").read_text()
    headers = find_nvidia_header_directory("cudart")
    flags = (f"-I{headers}", "-Wl,-soname,libcuda.so.1", "-ldl", "-lm")
    driver = ctypes.CDLL(str(_built(source, *flags)), ctypes.RTLD_GLOBAL)
    _kept.append(_LOADER(_load))
    driver.emulate(_kept[-1], order, int(is_late), n_gpus)

    from cuda.core import ObjectCode
    from numba.cuda.cudadrv.driver import _Linker

    def complete(self: _Linker) -> ObjectCode:
        """In place of machine code, the PTX."""
        (code,) = self._object_codes
        self.close = self._info_log = self._error_log = ""
        self._complete = self.linker = True
        return code

    _Linker.complete = complete
    return driver


def _load(ptx: bytes) -> int:
    path = ctypes.create_string_buffer(str(_built(translated(ptx.decode()), "-lm")).encode())
    _kept.append(path)
    return ctypes.addressof(path)


def _built(source: str, *flags: str) -> Path:
    """A library made of C; found by its digest where there is one already."""
    tools = [(_HERE / "ptx.h").read_text(), *_GCC, *flags, _gcc_version()]
    name = hashlib.sha256("\0".join([source, *tools]).encode()).hexdigest()[:32]
    path = _BUILT / f"{name}.so"
    if not path.exists():
        _BUILT.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_BUILT) as folder:
            (Path(folder) / "code.c").write_text(source)
            made = Path(folder) / "code.so"
            subprocess.run(
                [*_GCC, f"-I{_HERE}", "-o", str(made), str(Path(folder) / "code.c"), *flags],
                check=True,
            )
            shutil.move(made, path)  # at once: other processes may build the same
    return path


@functools.cache
def _gcc_version() -> str:
    return subprocess.run(
        ["gcc", "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
