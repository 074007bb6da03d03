"""A worker's side of a cluster: gets settings and examples, gives arrays back, keeps nothing.

No file, no database, no state that the next population could see.
"""

import faulthandler
import functools
import hashlib
import importlib.metadata
import os
import platform
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from threadpoolctl import threadpool_limits

from mlp.config import RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Result, Thresholds
from mlp.errors import MlpError, one_line
from mlp.tracking.environment import cpu
from mlp.training.work import WorkDone, train_population

BEAT_S = 1.0  # how often a worker tells how far it is
_PACKAGES = ("numpy", "numba", "llvmlite", "scipy")  # that decide over the bits of a result


@dataclass(frozen=True)
class Sign:
    """The first word of a worker: who it is."""

    pid: int
    host: str
    node: str
    cpu: str
    versions: dict[str, str]


@dataclass(frozen=True, eq=False)
class Answer:
    """The last word of a worker.

    Attributes:
        sign: who it was.
        results: one a trial, or what its training raised.
        refusal: in place of results: what this program refuses to do.
        busy_s: how long it took.
    """

    sign: Sign
    results: tuple[Result | str, ...]
    refusal: MlpError | None
    busy_s: float


def train(
    node: str,
    data: Dataset,
    configs: Sequence[RunConfig],
    thresholds: Thresholds | None,
    threads: int,
    silence_s: float,
) -> Iterator[Sign | float | Answer]:
    """Trains a population: says who trains, how far it is, and at last what came out.

    A training that shows no progress for `silence_s` seconds ends its process: nothing else helps
    against compiled code that hangs.

    Args:
        node: the machine's name in the cluster.
        data: the examples.
        configs: one a trial.
        thresholds: that prune each of them; None prunes nothing.
        threads: that train, and as many for BLAS.
        silence_s: seconds.
    """
    sign = Sign(os.getpid(), socket.gethostname(), node, cpu(), versions())
    yield sign
    started = time.monotonic()
    news: SimpleQueue[float | None] = SimpleQueue()

    def progress(trials_done: float, _losses: object) -> None:
        faulthandler.dump_traceback_later(silence_s, exit=True)  # from now, in place of the last
        news.put(trials_done)

    with ThreadPoolExecutor(1) as pool, threadpool_limits(threads):
        progress(0.0, None)
        training = pool.submit(_tried, configs, data, thresholds, threads, progress)
        training.add_done_callback(lambda _: news.put(None))
        told = started
        while (n_done := news.get()) is not None:
            if time.monotonic() - told > BEAT_S:
                told = time.monotonic()
                yield n_done
        faulthandler.cancel_dump_traceback_later()
        results, refusal = training.result()
    yield Answer(sign, results, refusal, time.monotonic() - started)


def _tried(
    configs: Sequence[RunConfig],
    data: Dataset,
    thresholds: Thresholds | None,
    threads: int,
    progress: WorkDone,
) -> tuple[tuple[Result | str, ...], MlpError | None]:
    """Results, or what was raised: errors travel as data, for Ray's would take the others along."""
    try:
        results = train_population(
            configs, data, threads=threads, thresholds=thresholds, progress=progress
        )
        return tuple(results), None
    except MlpError as error:
        return (), error
    except Exception as error:  # noqa: BLE001  whatever a trial raises is that trial's alone
        if len(configs) == 1:
            return (f"its training raised {type(error).__name__}: {one_line(error)}",), None
    alone = [_tried([config], data, thresholds, threads, progress) for config in configs]
    refusals = [refusal for _, refusal in alone if refusal is not None]
    if refusals:
        return (), refusals[0]
    return tuple(result for results, _ in alone for result in results), None


@functools.cache
def versions() -> dict[str, str]:
    """What must be the same everywhere: Python, the packages that compute, this program."""
    source = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for file in sorted(root.rglob("*.py")):
        source.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "Python": platform.python_version(),
        **packages,
        "mlp-sweep's code": source.hexdigest()[:12],
    }
