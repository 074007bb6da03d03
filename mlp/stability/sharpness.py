"""The sharpness of many networks at once: one product with the data serves them all.

A network's result is the same bit for bit whatever other networks are measured with it, in any
order, with any number of threads.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from mlp.config import RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.packing import first_weights
from mlp.engine.pixels import Matrix, Pixels, collect, project, read_pixels
from mlp.engine.population import available_bytes, train
from mlp.engine.simd import WIDE
from mlp.engine.sparse import BLOCK
from mlp.errors import SystemLimitError
from mlp.gradient import rate_share
from mlp.network import Array, Params
from mlp.settings import with_settings
from mlp.stability.curvature import MAX_PRODUCTS, Measurement, Sharpness, measure
from mlp.stability.ratio import effective_step, sharpness_steps, stability_ratio

Numbers = NDArray[np.float64]

_LARGEST_RATE = 1000.0  # that `auto` becomes
_NUMBERS_OF_UNIT = 10  # of each example, while a product is taken
# First-layer units from which on a thread takes no further network beside them, and likewise the
# bytes they take; GPUs are busy with more, and share the bytes.
_COLUMNS, _COLUMNS_OF_GPU = 128, 1024
_WORKING_BYTES, _WORKING_BYTES_OF_GPUS = 2**28, 2**31

# Steps of length 1 along the mean gradient, so that a step is the gradient. In float64, because it
# is seen in the difference of weights that may be a million times as large.
_ONE_STEP = {
    "data.root": None,
    "gradient.normalization": "mean",
    "gradient.clip_norm": 1.0,
    "optimizer.learning_rate": 1.0,
    "optimizer.momentum": 0.0,
    "optimizer.decay": "none",
    "optimizer.guard": "none",
    "training.steps": 1,
    "training.batch_size": None,
    "training.shift": 0,
    "training.order_seed": 0,
    "training.evaluate_every": 1,
    "training.sharpness_points": 0,
    "training.dtype": "float64",
}


_Queue = SimpleQueue[tuple[int, RunConfig, Params]]


class SharpnessCurve(NamedTuple):
    """The curvature along a run, `(point,)` each, at finite points only; see `Sharpness`."""

    step: NDArray[np.int64]  # updates done
    sharpness: Numbers
    residual: Numbers
    gradient_norm: Numbers
    ratio: Numbers  # the stability ratio


def measure_sharpness(
    configs: Sequence[RunConfig],
    weights: Sequence[Params],
    data: Dataset,
    *,
    threads: int = 1,
    gpu: int | None = None,
) -> list[Sharpness]:
    """Measures the sharpness of networks over the whole training part.

    Args:
        configs: one a network, by which it is trained.
        weights: one a network.
        threads: they change nothing but the time.
        gpu: number of one that takes the products with the data; None: the CPU does. It changes
            nothing but the time.
    """
    found: dict[int, Sharpness] = {}
    for scale in dict.fromkeys(config.data.scale for config in configs):
        pixels = read_pixels(data.train, data.scale / scale)
        queue: _Queue = SimpleQueue()
        for number, (config, params) in enumerate(zip(configs, weights, strict=True)):
            if config.data.scale == scale:
                queue.put((number, config, params))
        # A product that is shared out over threads adds up in another order.
        with (
            threadpool_limits(1, user_api="blas"),
            _products(pixels, gpu, threads) as products,
            ThreadPoolExecutor(threads) as pool,
        ):
            tasks = [pool.submit(_measure_all, queue, pixels, products) for _ in range(threads)]
            for task in tasks:
                found |= task.result()
    return [found[number] for number in range(len(configs))]


def measure_sharpness_curves(
    configs: Sequence[RunConfig],
    snapshots: Sequence[Mapping[int, Params]],
    data: Dataset,
    *,
    threads: int = 1,
    gpu: int | None = None,
) -> list[SharpnessCurve]:
    """Measures the sharpness along runs, all of them together.

    Args:
        configs: one a run.
        snapshots: one a run: updates done -> weights.
        gpu: as in `measure_sharpness`.

    Returns:
        One for each run. Points where weights or curvature are not finite are left out.
    """
    of_each = [c for c, taken in zip(configs, snapshots, strict=True) for _ in taken]
    weights = [weights for taken in snapshots for weights in taken.values()]
    measured = iter(measure_sharpness(of_each, weights, data, threads=threads, gpu=gpu))
    curves = []
    for config, taken in zip(configs, snapshots, strict=True):
        points = [(step, next(measured)) for step in taken]
        curves.append(_curve(config, points, data.train.n_examples))
    return curves


def forecast(
    configs: Sequence[RunConfig], data: Dataset, *, threads: int = 1
) -> list[float | None]:
    """The stability ratio of each run at its first weights, before it is trained.

    The same number, bit for bit, as the first point of `measure_sharpness_curves` along the run.

    Returns:
        One for each run; None with minibatches, and where it is not finite.

    Raises:
        SystemLimitError: for a network that is too large to be measured.
    """
    check_measurable(configs, data, threads=threads)
    measurable = [config for config in configs if config.training.batch_size is None]
    snapshots = [{0: _first_weights(config, data)} for config in measurable]
    curves = measure_sharpness_curves(measurable, snapshots, data, threads=threads)
    ratios = iter([float(curve.ratio[0]) if curve.ratio.size else None for curve in curves])
    return [None if config.training.batch_size is not None else next(ratios) for config in configs]


def with_first_rates(
    configs: Sequence[RunConfig], data: Dataset, *, threads: int = 1
) -> list[RunConfig]:
    """The configs, with a number wherever `optimizer.learning_rate` is `auto`.

    It is that of an effective step of 1 / sharpness at the first weights, over the training part:
    half the longest that gradient descent bears there (see `mlp.stability.ratio`). With momentum it
    is the same, and so on the careful side.

    It is 1000 at most, where nothing bends the loss, and 1 where the first loss is not finite: such
    a run learns at no rate.

    Raises:
        SystemLimitError: for a network that is too large to be measured.
    """
    at_one = {
        place: with_settings(config, {"optimizer.learning_rate": 1.0})
        for place, config in enumerate(configs)
        if config.optimizer.learning_rate == "auto"
    }
    for config in at_one.values():
        _check_memory(config, "optimizer.learning_rate must be a number", data, threads, None)
    found = list(configs)
    weights = [_first_weights(config, data) for config in at_one.values()]
    measured = measure_sharpness(list(at_one.values()), weights, data, threads=threads)
    for (place, config), point in zip(at_one.items(), measured, strict=True):
        step = float(effective_step(config, point.gradient_norm, data.train.n_examples))
        bend = point.value * step
        rate = min(1 / bend, _LARGEST_RATE) if bend > 0 else _LARGEST_RATE
        if not 0 < rate < math.inf:  # nobody knows the sharpness: its first loss is lost
            rate = 1.0
        found[place] = with_settings(config, {"optimizer.learning_rate": rate})
    return found


def gradient_norms(configs: Sequence[RunConfig], data: Dataset, *, threads: int = 1) -> list[float]:
    """L2 norm of the gradient of the mean loss at the first weights, over the training part.

    It is read off a first step that the engine takes.

    Returns:
        One norm for each config, 0 or more; with the question's derivative that of the direction
        that takes the gradient's place.

    Raises:
        SystemLimitError: for a network that does not fit into memory.
    """
    steps = [with_settings(config, _ONE_STEP) for config in configs]
    different = list(dict.fromkeys(steps))
    known = {
        config: _distance(_first_weights(config, data), result.weights)
        for config, result in zip(different, train(different, data, threads=threads), strict=True)
    }
    return [known[config] for config in steps]


def _distance(before: Params, after: Sequence[tuple[Array, Array]]) -> float:
    squares = (
        float(((one - other) ** 2).sum())
        for layer, own in zip(before, after, strict=True)
        for one, other in zip(layer, own, strict=True)
    )
    return math.sqrt(sum(squares))


def _first_weights(config: RunConfig, data: Dataset) -> Params:
    return first_weights(config, data.train.pixels.shape[1])


@np.errstate(over="ignore")
def _curve(
    config: RunConfig, points: Sequence[tuple[int, Sharpness]], n_examples: int
) -> SharpnessCurve:
    step = np.array([step for step, _ in points], np.int64)
    sharpness, residual, norm = (
        np.array([getattr(point, name) for _, point in points], np.float64)
        for name in ("value", "residual", "gradient_norm")
    )
    share = rate_share(config.optimizer, step, config.training.steps)
    ratio = stability_ratio(config, sharpness, norm, n_examples) * share
    kept = np.isfinite(ratio)
    return SharpnessCurve(step[kept], sharpness[kept], residual[kept], norm[kept], ratio[kept])


def check_measurable(
    configs: Sequence[RunConfig], data: Dataset, *, threads: int, memory_bytes: int | None = None
) -> None:
    """Refuses to measure what will not fit into memory, before it is trained.

    Args:
        memory_bytes: to be used at most; None: what is free.

    Raises:
        SystemLimitError: for a network that is too large.
    """
    for config in configs:
        if sharpness_steps(config):
            law = "training.sharpness_points must be 0"
            _check_memory(config, law, data, threads, memory_bytes)


def _check_memory(
    config: RunConfig, law: str, data: Dataset, threads: int, memory_bytes: int | None
) -> None:
    limit = available_bytes() if memory_bytes is None else memory_bytes
    n_examples, n_inputs = data.train.pixels.shape
    widths = config.model.layer_widths
    needed = threads * _measuring_bytes(widths, n_inputs=n_inputs, n_examples=n_examples)
    if needed > limit:
        raise SystemLimitError(
            f"{law} for model.widths={list(widths)}: "
            f"measuring takes {needed / 1e9:.3g} GB of memory, of {limit / 1e9:.3g} GB"
        )


class _Products(NamedTuple):
    """The products with the data, and how much is multiplied at once."""

    project: Callable[[Matrix], Matrix]
    collect: Callable[[Matrix], Matrix]
    columns: int
    working_bytes: int


@contextmanager
def _products(pixels: Pixels, gpu: int | None, threads: int) -> Iterator[_Products]:
    if gpu is None:
        own = functools.partial(project, pixels), functools.partial(collect, pixels)
        yield _Products(*own, _COLUMNS, _WORKING_BYTES)
        return
    from mlp.engine.cuda_pixels import PixelsOnGpu  # of an extra
    from mlp.engine.cuda_steps import count_gpus

    of_thread = max(_WORKING_BYTES_OF_GPUS // (threads * count_gpus()), 1)
    there = PixelsOnGpu(pixels, gpu)
    try:
        yield _Products(there.project, there.collect, _COLUMNS_OF_GPU, of_thread)
    finally:
        there.close()


@np.errstate(all="ignore")  # weights may be beyond all numbers
def _measure_all(queue: _Queue, pixels: Pixels, products: _Products) -> dict[int, Sharpness]:
    """Measures networks until none is left, some side by side."""
    done: dict[int, Sharpness] = {}
    running: dict[int, Measurement] = {}
    asks: dict[int, Matrix] = {}
    n_bytes: dict[int, int] = {}
    while True:
        while (
            sum(map(len, asks.values())) < products.columns
            and sum(n_bytes.values()) < products.working_bytes
        ):
            try:
                number, config, params = queue.get_nowait()
            except Empty:
                break
            activation, derivative = config.model.activation, config.gradient.derivative
            running[number] = measure(params, activation, derivative, pixels)
            asks[number] = next(running[number])
            widths = [layer.b.size for layer in params[:-1]]
            sizes = {"n_inputs": pixels.n_inputs, "n_examples": pixels.n_examples}
            n_bytes[number] = _measuring_bytes(widths, **sizes)
        if not running:
            return done
        for product in (products.project, products.collect):
            answers = product(np.vstack(list(asks.values())))
            ends = np.cumsum([len(ask) for ask in asks.values()])[:-1]
            for number, answer in zip(list(asks), np.split(answers, ends), strict=True):
                further = _send(running[number], answer)
                if isinstance(further, Sharpness):
                    done[number] = further
                    del running[number], asks[number], n_bytes[number]
                else:
                    asks[number] = further


def _send(measurement: Measurement, answer: Matrix) -> Matrix | Sharpness:
    """What a measurement asks for next, or what it has found."""
    try:
        return measurement.send(answer)
    except StopIteration as end:
        found: Sharpness = end.value
        return found


def _measuring_bytes(widths: Sequence[int], *, n_inputs: int, n_examples: int) -> int:
    """Memory that measuring the sharpness of one network takes, at most.

    What each unit keeps of each example, and the directions that products were taken along, in
    float64.
    """
    sizes = (n_inputs, *widths, 1)
    n_weights = sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
    n_units = sum(widths) + WIDE // 8  # a tile may be partly empty
    rows = -(-n_examples // BLOCK) * BLOCK + BLOCK
    return 8 * (_NUMBERS_OF_UNIT * n_units * rows + (MAX_PRODUCTS + 8) * n_weights)
