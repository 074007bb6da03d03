"""What the GPU engine needs of a GPU; its bits: tests/system/test_cuda.py."""

import pytest
from engine.simulated import config_of, data_of
from hypothesis import given
from hypothesis import strategies as st

from mlp.engine import packing
from mlp.engine.course import plan_course, read_examples
from mlp.engine.cuda_steps import arrays_of, check_gpu, trial_bytes
from mlp.errors import UnavailableError

DATA = data_of(280)


@given(
    shapes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=6),
    dtype=st.sampled_from(["float32", "float64"]),
    batch_size=st.sampled_from([None, 50]),
    guard=st.sampled_from(["none", "rollback"]),
)
def test_the_memory_that_is_asked_for_suffices(shapes, dtype, batch_size, guard):
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
    course = plan_course(read_examples(DATA, 0), configs[0])
    n_examples, n_inputs = DATA.train.pixels.shape
    trials = [
        packing.PackedTrial(i, config, packing.first_weights(config, n_inputs), {}, {})
        for i, config in enumerate(configs)
    ]
    population = packing.assemble(course, trials, threads=0)
    sources = course.whole, course.held_out, course.whole
    record = packing._record(course, population, sources, 0, 2)
    part = packing.Slice(course, population, sources, record, 0, 2)
    used = sum(array.nbytes for array in (*arrays_of(part).values(), *record))
    sizes = {"n_inputs": n_inputs, "n_examples": n_examples}
    asked = sum(trial_bytes(config, **sizes) for config in configs)
    assert used <= 1.1 * asked  # a few small tables are as for the deepest and widest


def test_without_a_gpu_one_sentence_says_so():
    with pytest.raises(UnavailableError, match=r"execution\.engine=cuda (needs|found no)"):
        check_gpu()
