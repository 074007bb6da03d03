"""What the GPU engine needs of a GPU; its bits: tests/system/test_simulated_gpu.py."""

import numpy as np
import pytest
from engine.simulated import config_of, data_of
from hypothesis import given
from hypothesis import strategies as st
from numba import cuda

from mlp.engine import packing
from mlp.engine.course import plan_course, read_examples
from mlp.engine.cuda_steps import (
    SMALL_ROOM,
    arrays_of,
    count_gpus,
    rooms_of,
    slots_of,
    trial_bytes,
)
from mlp.engine.steps import CHUNKS
from mlp.errors import UnavailableError


@given(
    shapes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=6),
    dtype=st.sampled_from(["float32", "float64"]),
    batch_size=st.sampled_from([None, 50]),
    guard=st.sampled_from(["none", "rollback"]),
    n_train=st.sampled_from([10, 600, 3000]),
    n_held_out=st.sampled_from([8, 600, 3000]),
)
def test_the_memory_that_is_asked_for_suffices(
    shapes, dtype, batch_size, guard, n_train, n_held_out
):
    data = data_of(n_train, n_held_out)
    configs = [
        config_of(
            {
                "model.widths": widths,
                "training.dtype": dtype,
                "training.batch_size": batch_size,
                "optimizer.guard": guard,
            }
        )
        for widths in shapes
    ]
    course = plan_course(read_examples(data, 0), configs[0])
    n_examples, n_inputs = data.train.pixels.shape
    trials = [
        packing.PackedTrial(i, config, packing.first_weights(config, n_inputs), {}, {})
        for i, config in enumerate(configs)
    ]
    population = packing.assemble(course, trials, threads=0)
    sources = course.whole, course.held_out, course.whole
    record = packing._record(course, population, sources, 0, packing.LONGEST_SLICE_OF_GPU)
    part = packing.Slice(course, population, sources, record, 0, packing.LONGEST_SLICE_OF_GPU)
    used = sum(array.nbytes for array in (*arrays_of(part).values(), *record))
    used += sum(rooms_of(part).values()) * np.dtype(dtype).itemsize
    sizes = {"n_inputs": n_inputs, "n_examples": n_examples, "n_held_out": n_held_out}
    asked = sum(trial_bytes(config, **sizes) for config in configs)
    of_slot = rooms_of(part)["room"] // slots_of(part) * np.dtype(dtype).itemsize
    spread = max(slots_of(part) - CHUNKS, 0) * of_slot
    assert spread <= SMALL_ROOM
    assert used - spread <= 1.1 * asked  # a few small tables are as for the deepest and widest


@pytest.mark.skipif(cuda.is_available(), reason="there is one")
def test_without_a_gpu_one_sentence_says_so():
    with pytest.raises(UnavailableError, match=r"numba-cuda|execution\.engine=cuda"):
        count_gpus()
