"""The GPU engine on a GPU: `python -m pytest -m gpu`, a few minutes. No GPU has run it yet."""

import pytest
from engine.simulated import config_of, data_of, differences
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import cuda

from mlp.engine.cuda_steps import IS_SIMULATED
from mlp.engine.population import train

DATA = data_of(12) if IS_SIMULATED else data_of(2600, 600)
SHARED = st.builds(
    lambda dtype, batches: {
        "training.dtype": dtype,
        "training.batch_size": batches[0],
        "training.shift": batches[1],
    },
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([(None, 0), (8, 0), (8, 1), (50, 0)]),
)
OWN = st.fixed_dictionaries(
    {
        "model.widths": st.lists(st.integers(1, 4 if IS_SIMULATED else 40), min_size=1, max_size=4),
        "model.activation": st.sampled_from(["sigmoid", "tanh", "relu"]),
        "gradient.normalization": st.sampled_from(["sum", "mean", "unit", "clip"]),
        "gradient.derivative": st.sampled_from(["exact", "question"]),
        "optimizer.learning_rate": st.sampled_from([1e-3, 0.5, 60.0, 1e30]),
        "optimizer.momentum": st.sampled_from([0.0, 0.9]),
        "optimizer.guard": st.sampled_from(["none", "rollback"]),
        "training.steps": st.integers(1, 3 if IS_SIMULATED else 300),
        "training.evaluate_every": st.sampled_from([1, 7]),
        "training.seed": st.integers(0, 9),
    }
)


@pytest.mark.gpu
@settings(max_examples=3 if IS_SIMULATED else 150)
@given(shared=SHARED, owns=st.lists(OWN, min_size=1, max_size=2 if IS_SIMULATED else 40))
def test_random_mixtures_have_the_bits_of_the_cpu(shared, owns):
    if not cuda.is_available():
        pytest.skip("no GPU")
    for own in owns:
        own["gradient.derivative"] = (
            own["gradient.derivative"] if own["model.activation"] == "sigmoid" else "exact"
        )
    configs = [config_of(shared | own) for own in owns]
    there = train(configs, DATA, gpu=0)
    for ours, theirs in zip(train(configs, DATA), there, strict=True):
        assert differences(ours, theirs) == []
