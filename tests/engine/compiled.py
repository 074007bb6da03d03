"""Compiles the kernels of the GPU engine without a GPU: `python -m engine.compiled`.

Prints of each the floating-point instructions of its PTX, and how often they are there.
"""

import json
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
from engine.simulated import SIGMOID, config_of, data_of
from numba import from_dtype, types
from numba.cuda import compile_ptx, dispatcher

from mlp.engine import cuda_kernels, packing
from mlp.engine.course import plan_course, read_examples
from mlp.engine.cuda_steps import arrays_of, rooms_of, rounded_as_written

HOPPER = 9, 0
WHOLE = types.int64


def type_of(value):
    is_array = isinstance(value, np.ndarray)
    return types.Array(from_dtype(value.dtype), value.ndim, "C") if is_array else WHOLE


def arguments(dtype):
    """Name -> types of the arguments of each kernel."""
    config, data = config_of(SIGMOID | {"training.dtype": dtype}), data_of(12)
    course = plan_course(read_examples(data, 0), config)
    first = packing.first_weights(config, data.train.pixels.shape[1])
    trials = [packing.PackedTrial(0, config, first, {}, {})]
    population = packing.assemble(course, trials, threads=0)
    sources = course.whole, course.held_out, course.whole
    record = packing._record(course, population, sources, 0, 2)
    part = packing.Slice(course, population, sources, record, 0, 2)
    fields = arrays_of(part) | record._asdict() | dict.fromkeys(rooms_of(part), np.zeros(1, dtype))
    fields |= {"n_examples": record.n_chunks, "n_blocks": record.n_chunks, "size": 1, "epoch": 1}
    names = cuda_kernels.Job._fields
    job = types.NamedTuple([type_of(fields[name]) for name in names], cuda_kernels.Job)
    names = cuda_kernels.Source._fields
    arrays = [type_of(course.whole.arrays[name]) for name in names]
    source = types.NamedTuple(arrays, cuda_kernels.Source)
    numbers = types.Array(from_dtype(np.dtype(dtype)), 1, "C")
    others = {
        "forward_rows": (source, WHOLE, WHOLE),
        "upper_layers": (source, WHOLE, WHOLE),
        "backward_pixels": (source, WHOLE),
    }
    kinds = {name: (job, *others.get(name, ())) for name in cuda_kernels.kernels_of(dtype)}
    products = source, numbers, numbers, numbers
    products = {"project_rows": (*products, *[WHOLE] * 3), "collect_pixels": (*products, WHOLE)}
    for name, kind in products.items():
        if dtype == "float64":
            kinds[name] = kind
        else:
            del kinds[name]
    return kinds


def main():
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=HOPPER)
    for dtype in "float32", "float64":
        kernels = cuda_kernels.kernels_of(dtype)
        assert not any(kernel.targetoptions["lto"] for kernel in kernels.values())
        for name, kinds in arguments(dtype).items():
            with rounded_as_written():
                code, _ = compile_ptx(kernels[name].py_func, kinds, cc=HOPPER)
            found = re.findall(
                r"^\s*(?:@!?%p\d+\s+)?([a-z]+\d?\.[a-z0-9.]*f(?:32|64))\s", code, re.M
            )
            print(json.dumps([dtype, name, Counter(found)]), flush=True)


if __name__ == "__main__":
    main()
