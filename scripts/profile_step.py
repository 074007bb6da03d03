"""Where the time of a step goes, on one thread; what accuracies cost: behind docs/speed.md.

    python scripts/profile_step.py

The clock is taken from a chain of operations of one cycle each, so that cycles are those of the
moment, turbo included.
"""

import time
from collections.abc import Callable

import numpy as np
from numba import njit

from benchmarks.__main__ import find_data
from mlp.config import Data, RunConfig
from mlp.data.dataset import load_data
from mlp.engine import kernels
from mlp.engine.handle import Handle
from mlp.engine.population import train
from mlp.engine.simd import NARROW, aligned_zeros
from mlp.engine.sparse import BLOCK, cut_batches, pack_images, pixel_features
from mlp.settings import with_settings

ROUNDS, STEPS = 30, 100
POPULATION, TURNS = 32, 15
SMALL = with_settings(
    RunConfig(), {"model.depth": 2, "model.widths": 3, "optimizer.learning_rate": 0.1}
)
TILE = NARROW // 4  # float32 columns that a pixel's weights take at least


@njit
def spin(n):
    """Six operations a turn, each of which needs the one before."""
    x = np.uint64(88172645463325252)
    for _ in range(n):
        x ^= x << np.uint64(13)
        x ^= x >> np.uint64(7)
        x ^= x << np.uint64(17)
    return x


@njit(nogil=True)
def forward(source, work, n_blocks):
    feature, weights, sums = work.feature, work.weights, work.sums
    for block in range(n_blocks):
        first, end = source.block_position[block], source.block_position[block + 1]
        kernels.forward_narrow(source, feature, weights, 0, first, end - first, sums)


@njit(nogil=True)
def backward(source, work, n_pixels, n_blocks):
    feature, delta, gradient = work.feature, work.sums, work.gradient
    for block in range(n_blocks):
        kernels.backward_narrow(source, feature, block, n_pixels, delta, gradient, 0, block == 0)


def best(run: Callable[[], object]) -> float:
    run()  # compiles
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def price_of_accuracies(every: int) -> None:
    """Training with an accuracy every so many steps against training with one at the end."""
    data = load_data(Data(name="mnist"), notice=print)
    few, many = (
        [
            with_settings(SMALL, {"training.seed": seed, "training.evaluate_every": period})
            for seed in range(POPULATION)
        ]
        for period in (10**6, every)
    )
    ratios = []
    for _ in range(TURNS):
        seconds = []
        for configs in (few, many):
            started = time.perf_counter()
            train(configs, data, threads=2)
            seconds.append(time.perf_counter() - started)
        ratios.append(seconds[1] / seconds[0])
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    print(
        f"{POPULATION} networks, an accuracy every {every} steps: {middle - 1:+.1%} of the time "
        f"(quartiles of {TURNS} turns {low - 1:+.1%} and {high - 1:+.1%})"
    )


def main() -> None:
    data = find_data()
    part = data.train
    live = np.asarray(part.pixels.any(axis=0))
    n, n_pixels = part.n_examples, int(live.sum()) + 1
    images = pack_images(part.pixels, part.labels, live)
    batches = cut_batches(images, np.arange(n), n, n_pixels, "float32")
    source, n_blocks = Handle(images, batches), len(batches.block_position) - 1
    work = Handle(
        feature=pixel_features(data.scale, "float32"),
        weights=aligned_zeros(n_pixels * TILE, np.float32),
        gradient=aligned_zeros(n_pixels * TILE, np.float32),
        sums=aligned_zeros(BLOCK * TILE, np.float32),
    )

    def steps(number: int) -> float:
        long = with_settings(SMALL, {"training.steps": number})
        return best(lambda: train([long], data, threads=1))

    ghz = 6e7 / best(lambda: spin(10**7)) / 1e9
    step = (steps(2 * STEPS) - steps(STEPS)) / STEPS
    passes = {
        "forward over the pixels": best(lambda: forward(source, work, n_blocks)),
        "backward over the pixels": best(lambda: backward(source, work, n_pixels, n_blocks)),
    }
    n_entries = len(images.pixel)
    print(f"{n} examples, {n_entries} non-zero pixels, {ghz:.2f} GHz, one thread")
    print(f"a step of one network 784-3-3-2: {step * 1e3:.2f} ms")
    for name, seconds in passes.items():
        cycles = seconds * ghz * 1e9 / n_entries
        print(
            f"  {name}: {seconds * 1e3:.2f} ms, {seconds / step:.0%} of it, "
            f"{cycles:.2f} cycles a non-zero pixel"
        )
    print(f"  all else: {(step - sum(passes.values())) * 1e3:.2f} ms")
    price_of_accuracies(10)


if __name__ == "__main__":
    main()
