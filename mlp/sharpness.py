"""The sharpness of many networks at once: one product with the data serves them all.

A network's result is the same bit for bit whatever other networks are measured with it, in any
order, with any number of threads.
"""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np
from threadpoolctl import threadpool_limits

from mlp.curvature import Measurement, Network, Sharpness, measure, working_bytes
from mlp.data import Dataset
from mlp.pixels import Matrix, Pixels, collect, project, read_pixels

_COLUMNS = 128  # first-layer units from which on a thread takes no further network beside them
_WORKING_BYTES = 2**28  # likewise for the memory they take


def measure_sharpness(
    networks: Sequence[Network], data: Dataset, *, threads: int = 1
) -> list[Sharpness]:
    """Measures the sharpness of each network over the whole training part.

    Args:
        networks: of any shapes; all read the same pixels.
        data: whose training part the loss is taken over.
        threads: that measure; they change nothing but the time.

    Returns:
        One for each network, in their order.
    """
    if not networks:
        return []
    pixels = read_pixels(data.train, data.scale)
    queue: SimpleQueue[tuple[int, Network]] = SimpleQueue()
    for item in enumerate(networks):
        queue.put(item)
    # A product that is shared out over threads adds up in another order.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        shares = list(pool.map(lambda _: _work(queue, pixels), range(threads)))
    found = dict(itertools.chain.from_iterable(shares))
    return [found[number] for number in range(len(networks))]


@dataclass(eq=False)
class _Running:
    """A measurement, what it asks for, and the memory it takes."""

    number: int
    measurement: Measurement
    ask: Matrix
    n_bytes: int


@np.errstate(all="ignore")  # weights may be beyond all numbers
def _work(queue: "SimpleQueue[tuple[int, Network]]", pixels: Pixels) -> list[tuple[int, Sharpness]]:
    """Measures networks until none is left, some side by side."""
    done: list[tuple[int, Sharpness]] = []
    running: list[_Running] = []
    while True:
        running += _newcomers(queue, running, pixels)
        if not running:
            return done
        for product in (project, collect):
            running = _advance(running, product, pixels, done)


def _newcomers(
    queue: "SimpleQueue[tuple[int, Network]]", running: Sequence[_Running], pixels: Pixels
) -> list[_Running]:
    """Begins further measurements, as long as there is room beside those that run."""
    n_columns = sum(len(one.ask) for one in running)
    n_bytes = sum(one.n_bytes for one in running)
    begun: list[_Running] = []
    while n_columns < _COLUMNS and n_bytes < _WORKING_BYTES:
        try:
            number, network = queue.get_nowait()
        except Empty:
            break
        measurement = measure(network, pixels)
        one = _Running(
            number, measurement, next(measurement), working_bytes(network.params, pixels)
        )
        n_columns += len(one.ask)
        n_bytes += one.n_bytes
        begun.append(one)
    return begun


def _advance(
    running: Sequence[_Running],
    product: Callable[[Pixels, Matrix], Matrix],
    pixels: Pixels,
    done: list[tuple[int, Sharpness]],
) -> list[_Running]:
    """Answers all measurements at once; those that end go to `done`."""
    answers = product(pixels, np.vstack([one.ask for one in running]))
    ends = np.cumsum([len(one.ask) for one in running])[:-1]
    going_on: list[_Running] = []
    for one, answer in zip(running, np.split(answers, ends), strict=True):
        try:
            one.ask = one.measurement.send(answer)
        except StopIteration as end:
            done.append((one.number, end.value))
        else:
            going_on.append(one)
    return going_on
