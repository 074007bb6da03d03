"""The gradient that a run's first step is taken along, before anything is trained."""

import math
from collections.abc import Sequence

from mlp.config import RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.population import train
from mlp.network import Array, initialize
from mlp.settings import with_settings

# Steps of length 1 along the mean gradient, so that a step is the gradient. In float64, because it
# is seen in the difference of weights that may be a million times as large.
_ONE_STEP = {
    "data.root": None,
    "gradient.normalization": "mean",
    "gradient.clip_norm": 1.0,
    "optimizer.learning_rate": 1.0,
    "optimizer.momentum": 0.0,
    "optimizer.decay": "none",
    "training.steps": 1,
    "training.batch_size": None,
    "training.shift": 0,
    "training.order_seed": 0,
    "training.evaluate_every": 1,
    "training.sharpness_points": 0,
    "training.dtype": "float64",
}


def gradient_norms(configs: Sequence[RunConfig], data: Dataset, *, threads: int = 1) -> list[float]:
    """L2 norm of the gradient of the mean loss at the first weights, over the training part.

    Args:
        configs: one a run; runs that differ in normalization, optimizer or length share it.
        data: the examples, resolved and parted.
        threads: that compute them; they change nothing but the time.

    Returns:
        One norm for each config, 0 or more; that of the question's derivative is of the update that
        stands in the gradient's place.

    Raises:
        SystemLimitError: for a network that does not fit into memory.
    """
    steps = [with_settings(config, _ONE_STEP) for config in configs]
    different = list(dict.fromkeys(steps))
    known = {
        config: _distance(config, result.weights, data.train.pixels.shape[1])
        for config, result in zip(different, train(different, data, threads=threads), strict=True)
    }
    return [known[config] for config in steps]


def _distance(config: RunConfig, weights: Sequence[tuple[Array, Array]], n_inputs: int) -> float:
    """From a run's first weights to these."""
    first = initialize(
        config.model,
        config.initialization,
        n_inputs=n_inputs,
        seed=config.training.seed,
        dtype=config.training.dtype,
    )
    return math.sqrt(
        sum(
            float(((before - after) ** 2).sum())
            for layer, own in zip(first, weights, strict=True)
            for before, after in zip((layer.W, layer.b), own, strict=True)
        )
    )
