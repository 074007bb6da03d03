"""How much memory there is, and how much a trial takes: asked before anything is allocated."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np

from mlp.config import RunConfig
from mlp.engine.kernels import ROW
from mlp.engine.simd import WIDE
from mlp.network import N_CLASSES

_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = (  # of the second and the first version of cgroups
    (_CGROUP / "memory.max", _CGROUP / "memory.current"),
    (_CGROUP / "memory/memory.limit_in_bytes", _CGROUP / "memory/memory.usage_in_bytes"),
)
_UNLIMITED = 2**63
_MEMINFO = Path("/proc/meminfo")
_COPIES_OF_FIRST = 3  # the first weights, those in float64 while they are drawn, the result's


def available_bytes() -> int:
    """Memory that can still be used, by the machine's account and the container's."""
    return min(_machine_bytes(), _container_bytes())


def trial_bytes(config: RunConfig, *, n_inputs: int, n_chunks: int, threads: int) -> int:
    """Memory that a trial takes in a population, at most.

    Weights, velocity and each chunk's gradient, twice while trials that go on are packed anew; the
    scratch of each thread, as if no other trial shared it; the curves; the copies of the weights
    at which the sharpness will be measured.

    Args:
        config: of the trial.
        n_inputs: pixels of an image.
        n_chunks: copies of the gradient.
        threads: that train.
    """
    item = np.dtype(config.training.dtype).itemsize
    lanes = WIDE // item
    widths = config.model.layer_widths
    sizes = (n_inputs, *widths, N_CLASSES)
    n_weights = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(sizes))
    n_packed = n_weights + lanes * (n_inputs + 1)  # a group may leave part of a tile empty
    n_units = widths[0] + lanes + 2 * sum(widths) + len(widths) + 2
    curves = 2 * 4 * 8 * (config.training.steps + 1)
    return (
        2 * (2 + n_chunks) * n_packed * item
        + _COPIES_OF_FIRST * n_weights * 8
        + threads * (n_units + max(widths) // ROW + 1) * ROW * item
        + curves
        + config.training.sharpness_points * n_weights * item
    )


def _machine_bytes() -> int:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:  # no Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fields = {line.split(":")[0]: line.split()[1] for line in lines}
    return int(fields["MemAvailable"]) * 1024


def _container_bytes() -> int:
    """What is left of a container's limit; no limit is a huge number."""
    for limit_file, used_file in _LIMITS:
        try:
            limit, used = limit_file.read_text().strip(), int(used_file.read_text())
        except OSError:
            continue
        return _UNLIMITED if limit == "max" else max(int(limit) - used, 0)
    return _UNLIMITED
