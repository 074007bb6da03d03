"""What this machine can do, and what is installed on it."""

import importlib
import importlib.util
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

_REPEATS = 7


def product_gflops() -> float:
    """Speed of a large product of float32 matrices, in GFLOP/s."""
    rng = np.random.RandomState(0)
    A, B = (rng.random_sample(shape).astype(np.float32) for shape in ((4096, 640), (640, 1024)))
    A @ B
    begin = time.perf_counter()
    A @ B
    seconds = time.perf_counter() - begin
    return float(2 * A.size * B.shape[1] / seconds / 1e9)


def memory_gbytes_per_s() -> float:
    """Speed of copying an array that fits into no cache: bytes read and written, in GB/s."""
    source = np.ones(2**26, np.float32)
    target = np.empty_like(source)
    np.copyto(target, source)
    begin = time.perf_counter()
    np.copyto(target, source)
    return 2 * source.nbytes / (time.perf_counter() - begin) / 1e9


def machine(threads: int, gpu: int | None = None) -> dict[str, Any]:
    """What it was measured on."""
    names = ("numpy", "numba", "numba_cuda", "torch", "jax", "sklearn")
    return {
        "gpu": None if gpu is None else _gpu(gpu),
        "cpu": _cpu(),
        "threads": threads,
        "gflops_float32": round(float(np.median([product_gflops() for _ in range(_REPEATS)]))),
        "copy_gbytes_per_s": round(memory_gbytes_per_s(), 1),
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")


def _gpu(gpu: int) -> str:
    from numba import cuda

    name = getattr(cuda.gpus[gpu], "name", "simulated")
    return name.decode() if isinstance(name, bytes) else str(name)


def _version(package: str) -> str | None:
    if importlib.util.find_spec(package) is None:
        return None
    return str(importlib.import_module(package).__version__)
