"""The gradient that a run's first step is taken along, before anything is trained."""

from collections.abc import Sequence

from mlp.config import Gradient, RunConfig
from mlp.data.dataset import Dataset, features
from mlp.gradient import global_norm, normalize
from mlp.network import gradient, initialize


def gradient_norms(configs: Sequence[RunConfig], data: Dataset) -> list[float]:
    """L2 norm of the gradient of the mean loss at the first weights, over the training part.

    Args:
        configs: one a run; runs that differ in normalization, optimizer or length share it.
        data: the examples, resolved and parted.

    Returns:
        One norm for each config, 0 or more; that of the question's derivative is of the update that
        stands in the gradient's place.
    """
    known: dict[object, float] = {}
    dtypes = {config.training.dtype for config in configs}
    X = {dtype: features(data.train.pixels, data.scale, dtype) for dtype in dtypes}
    for config in configs:
        key = _key(config)
        if key not in known:
            training = config.training
            params = initialize(
                config.model,
                config.initialization,
                n_inputs=X[training.dtype].shape[1],
                seed=training.seed,
                dtype=training.dtype,
            )
            grads = gradient(
                params,
                X[training.dtype],
                data.train.labels,
                config.model.activation,
                derivative=config.gradient.derivative,
            )
            mean = normalize(grads, data.train.n_examples, Gradient(normalization="mean"))
            known[key] = global_norm(mean)
    return [known[_key(config)] for config in configs]


def _key(config: RunConfig) -> tuple[object, ...]:
    training = config.training
    return (
        config.model,
        config.initialization,
        config.gradient.derivative,
        training.seed,
        training.dtype,
    )
