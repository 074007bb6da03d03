"""Trains populations on the workers of a Ray cluster.

Importing this imports Ray, an extra. A worker opens no file and no database; it gets settings and
examples, and gives arrays back. While it trains it writes its progress on a board, an actor of the
cluster, which the driver (this process) reads: so it sees a worker that hangs or is frozen. Ray
retries nothing: what is lost is said, and `mlp.training.train_runs` hands it in again.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import itertools
import os
import platform
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

# Ray reads these when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # 20 would be a quarter of an hour
# A call after the connection is lost would start a cluster here, and train on that.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
os.environ.setdefault("RAY_task_oom_retries", "0")  # else one that takes all memory has no end

import ray
from ray import exceptions as faults

from mlp.config import Execution, RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Result, Thresholds
from mlp.errors import (
    MlpError,
    SystemLimitError,
    UnavailableError,
    one_line,
    patiently,
    translated,
)
from mlp.tracking.display import cpu
from mlp.training.work import Answer, Task, Trainer, WorkDone, trainer_on

_LEAVING = "leaving Ray"  # name of a thread
_CONNECT_S = 40.0  # within which another try begins; Ray itself gives up one after 30
_TICK_S = 0.5  # how long the driver waits at most before it looks around
_BEAT_S = 1.0  # how often a worker writes on the board
_LOOK_S = 2.0  # how often the driver asks which machines are there
_HEAD_PATIENCE_S = 30.0  # for the cluster's head
_IDLE_NOTICE_S = 15.0  # without a worker, before the user is told
_KNOCK_S = 5.0  # for the first answer of a cluster
_LEAVE_S = 5.0  # to leave a cluster that may be gone
_PACKAGES = ("numpy", "numba", "llvmlite", "scipy")  # that decide over the bits of a result
_DEATHS = (
    faults.WorkerCrashedError,
    faults.OutOfMemoryError,
    faults.NodeDiedError,
    faults.ObjectLostError,
    faults.ObjectStoreFullError,
    faults.TaskCancelledError,
)


_Word = tuple[str, float, float]
"""Who trains a population; trials' worth of steps; seconds since that was written on the board."""


class RayCluster:
    """The executor over Ray; see `mlp.training.work.Executor`."""

    def __init__(self, execution: Execution, n_threads: int, notice: Callable[[str], None]) -> None:
        """Connects to the cluster, or starts one that goes with this process.

        Raises:
            UnavailableError: where none answers.
            SystemLimitError: where Python or Ray has another version.
        """
        self.n_threads = n_threads
        self.notice = notice
        self.population = execution.population
        self.is_on_gpu = execution.gpu
        self._silence_s = execution.silence_s
        options: dict[str, Any] = {"num_cpus": n_threads, "max_retries": 0}
        if execution.memory_gb is not None:
            options["memory"] = int(execution.memory_gb * 1e9)
        if execution.gpu:
            # A worker keeps what it has compiled; Ray would end it after each population.
            options |= {"num_gpus": 1, "max_calls": 0}
        self._train = ray.remote(**options)(_train)
        self._data: tuple[Dataset, Any] | None = None
        self._running: dict[Any, tuple[int, Task]] = {}  # reference -> its name on the board
        self._keys = itertools.count()
        self._words: dict[int, _Word] = {}
        self._other_cpus: set[str] = set()
        self._busy_s = self._slot_s = 0.0
        self._counted_to = self._told = time.monotonic()
        self._closing = threading.Event()
        _connect(execution, n_threads)
        try:
            with _one_sentence():
                self._board = ray.remote(num_cpus=0, max_restarts=-1)(_Board).remote()
                self._reading = self._board.read.remote([])
                self._look()
            if execution.gpu and execution.address == "local" and not self._n_gpus():
                raise UnavailableError(
                    "execution.gpu=true finds no GPU in the cluster that execution.address=local "
                    "starts; leave it out, or name a cluster that has one"
                )
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._look_around, daemon=True).start()

    def slots(self) -> int:
        """How many populations the machines that are there can train."""
        return max(1, self._n_slots())

    def submit(self, task: Task) -> None:
        """Hands a population to Ray; the examples travel once to each machine."""
        if not self._running:
            self._counted_to = self._told = time.monotonic()
        key = next(self._keys)
        with _one_sentence():
            if self._data is None or self._data[0] is not task.data:
                self._data = task.data, ray.put(task.data)
            ref = self._train.remote(
                self._board,
                key,
                versions(),
                trainer_on(task.trainer, 0 if self.is_on_gpu else None),
                task.configs,
                (self._data[1],),
                self.n_threads,
                task.thresholds,
            )
        self._running[ref] = key, task

    def wait(self, progress: WorkDone) -> list[Answer]:
        """What the workers have brought, and whom they have lost."""
        answers: list[Answer] = []
        with _one_sentence():
            ready, waiting = ray.wait(list(self._running), timeout=_TICK_S)
            if ready and waiting:
                ready += ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
            answers += [self._answer(ref) for ref in ready]
            self._read_board()
            answers += self._overdue()
        self._count_slots()
        # What has come back is kept before the head is missed.
        if not answers and time.monotonic() - self._seen_at > _HEAD_PATIENCE_S:
            raise UnavailableError(
                f"the head of the Ray cluster has not answered for {_HEAD_PATIENCE_S:.0f} seconds; "
                "when it is back, the same command goes on"
            )
        in_work = sum(self._word(key)[1] for key, _ in self._running.values())
        come = sum(len(task.configs) for task, results in answers if not isinstance(results, str))
        progress(in_work + come, np.empty(0))
        return answers

    def idle_share(self) -> float | None:
        """Share of the CPUs' time since the last call that trained nothing."""
        busy_s, slot_s = self._busy_s, self._slot_s
        self._busy_s = self._slot_s = 0.0
        return max(0.0, 1 - busy_s / slot_s) if slot_s else None

    def close(self) -> None:
        """Ends what still trains, and leaves the cluster."""
        self._closing.set()
        _leave(list(self._running))

    def _answer(self, ref: Any) -> Answer:
        """What came of a population."""
        key, task = self._running.pop(ref)
        who = self._word(key)[0] or "a worker"
        try:
            results, its_worker, its_cpu, busy_s = ray.get(ref)
        except faults.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, MlpError):
                raise cause from None
            if isinstance(cause, ImportError | faults.RayError) and not isinstance(cause, _DEATHS):
                # Or it cannot read what it gets
                said = one_line(str(cause).partition("\n")[0])
                raise SystemLimitError(
                    f"{who} cannot import what it needs: {said}; "
                    "install this program on every machine, in the same version"
                ) from None
            raised = f"{type(cause).__name__}: {one_line(cause)}"
            return task, f"its training raised {raised}"
        except _DEATHS as error:
            return task, f"{who} was lost: {one_line(error, most=120)}"
        self._busy_s += busy_s
        if its_cpu != cpu() and its_cpu not in self._other_cpus:
            self._other_cpus.add(its_cpu)
            self.notice(
                f"{its_worker} has another processor ({its_cpu}) than this machine ({cpu()}): "
                "results may differ in their last bits"
            )
        return task, results

    def _read_board(self) -> None:
        """Takes what was read, and asks anew; an answer may come many calls later, or never."""
        if not ray.wait([self._reading], timeout=0)[0]:
            return
        self._words = {}
        with contextlib.suppress(faults.RayError):  # it is being started again elsewhere
            self._words = ray.get(self._reading)
        self._reading = self._board.read.remote([key for key, _ in self._running.values()])

    def _word(self, key: int) -> _Word:
        return self._words.get(key, ("", 0.0, 0.0))

    def _overdue(self) -> list[Answer]:
        """Cancels what has made no progress for too long."""
        lost: list[Answer] = []
        for ref, (key, task) in list(self._running.items()):
            who, _, silent_s = self._word(key)
            if silent_s > self._silence_s:
                del self._running[ref]
                ray.cancel(ref, force=True)
                lost.append((task, f"{who} said nothing for {silent_s:.0f} s"))
        return lost

    def _n_slots(self) -> int:
        return sum(
            int(min(cpus // self.n_threads, gpus) if self.is_on_gpu else cpus // self.n_threads)
            for cpus, gpus in self._machines
        )

    def _n_gpus(self) -> float:
        return float(sum(gpus for _, gpus in self._machines))

    def _count_slots(self) -> None:
        """Adds up the time in which populations could have trained."""
        now = time.monotonic()
        self._slot_s += (now - self._counted_to) * self._n_slots()
        self._counted_to = now
        if not self._running or any(self._word(key)[0] for key, _ in self._running.values()):
            self._told = now
        elif now - self._told > _IDLE_NOTICE_S:
            self._told = now + 4 * _IDLE_NOTICE_S
            n_cpus, n_gpus = sum(cpus for cpus, _ in self._machines), self._n_gpus()
            and_gpus = f" and {n_gpus:g} GPUs" if self.is_on_gpu else ""
            and_one = " and a GPU" if self.is_on_gpu else ""
            if self.is_on_gpu and not n_gpus:
                and_one += "; without execution.gpu CPUs train"
            self.notice(
                f"waiting for a worker: the cluster has {n_cpus:g} CPUs{and_gpus}, none of them is "
                f"free for a population, which takes {self.n_threads}{and_one}"
            )

    def _look_around(self) -> None:
        while not self._closing.wait(_LOOK_S):
            with contextlib.suppress(Exception):  # whatever it is, the view grows old
                self._look()

    def _look(self) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._machines = [(own.get("CPU", 0.0), own.get("GPU", 0.0)) for own in nodes]
        self._seen_at = time.monotonic()


# On the workers


class _Board:
    """An actor: who trains each population, how far it is, and when that was written.

    It may be lost with its machine and begin empty on another: the workers write again.
    """

    def __init__(self) -> None:
        self._words: dict[int, _Word] = {}

    def write(self, key: int, who: str, n_done: float) -> None:
        self._words[key] = who, n_done, time.monotonic()

    def read(self, keys: Sequence[int]) -> dict[int, _Word]:
        """For those keys that were written to; in place of the time, the seconds since then."""
        words, now = self._words, time.monotonic()
        return {key: (*words[key][:2], now - words[key][2]) for key in keys if key in words}


def _train(
    board: Any,
    key: int,
    expected: dict[str, str],
    trainer: Trainer,
    configs: Sequence[RunConfig],
    held: tuple[Any],
    threads: int,
    thresholds: Thresholds | None,
) -> tuple[tuple[Result, ...], str, str, float]:
    """Trains a population, and writes on the board how far it is.

    Returns:
        The results, who has trained them on what processor, and the seconds that it took.

    Raises:
        SystemLimitError: if this worker has other versions than the driver's, `expected`.
    """
    host = socket.gethostname()
    who = f"worker {os.getpid()} on {host}"
    board.write.remote(key, who, 0.0)
    for name, there in versions().items():
        if there != expected.get(name):
            raise SystemLimitError(
                f"the worker on {host} has {name} {there}, but here it is {expected.get(name)}; "
                "install the same on every machine"
            )
    started = written = time.monotonic()

    def progress(n_done: float, _losses: object) -> None:
        nonlocal written
        if time.monotonic() - written > _BEAT_S:
            written = time.monotonic()
            board.write.remote(key, who, n_done)

    with threadpool_limits(threads):
        results = trainer(
            configs, _fetched(held), threads=threads, thresholds=thresholds, progress=progress
        )
    return tuple(results), who, cpu(), time.monotonic() - started


@functools.lru_cache(maxsize=1)
def _fetched(held: tuple[Any]) -> Dataset:
    """The examples behind a reference, which stands in a tuple so that Ray does not fetch it.

    They are the same object for as long as they are the same, so that what is cut of them is kept.
    """
    data = ray.get(held[0])
    assert isinstance(data, Dataset)
    return data


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


# Joining and leaving a cluster


def _connect(execution: Execution, n_threads: int) -> None:
    """Joins the cluster at the address; `local` starts one that goes with this process."""
    for thread in threading.enumerate():
        if thread.name == _LEAVING:  # a process can be in one cluster only
            thread.join(3 * _LEAVE_S)
    # Ray prints pages of its own logs into this program's output when a machine goes, and no
    # setting turns that off: `log_to_driver` is for what workers print. So this one place reaches
    # into Ray's private modules; a test tells when they change.
    sys.modules["ray._private.worker"].print_to_stdstream = lambda *_, **__: None  # type: ignore[attr-defined]
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if execution.address == "local":
        options["num_cpus"] = max(n_threads, len(os.sched_getaffinity(0)))
        options["include_dashboard"] = False
    else:  # Ray would end this process, a notebook too, a minute after its cluster lost its head
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "1000000")
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with (
            _one_sentence(execution.address),
            warnings.catch_warnings(action="ignore"),  # Ray's client warns before it gives up
        ):
            _knock(execution.address)
            patiently(
                lambda: ray.init(address=execution.address, **options),
                may_pass=_is_client_slow,
                patience_s=_CONNECT_S,
            )
    finally:  # Ray puts its own in their place
        if threading.current_thread() is threading.main_thread():
            for number, handler in heard.items():
                signal.signal(number, handler)


def _is_client_slow(error: Exception) -> bool:
    """Whether the process died, or was late, that a head starts for a client on a busy machine."""
    said = str(error)
    return "Starting Ray client server failed" in said or "connection timeout" in said


def _leave(refs: Sequence[Any]) -> None:
    """Leaves the cluster, and ends what still trains there; takes five seconds at most."""

    def leave() -> None:
        with contextlib.suppress(Exception):
            for ref in refs:
                ray.cancel(ref, force=True)
        with contextlib.suppress(Exception):
            ray.shutdown()

    leaving = threading.Thread(target=leave, name=_LEAVING, daemon=True)
    leaving.start()
    leaving.join(_LEAVE_S)  # a head that is gone does not answer


def _one_sentence(address: str = "") -> contextlib.AbstractContextManager[None]:
    """Turns what Ray raises of itself into one of this program's errors."""
    where = f" at {address}" if address else ""

    def unreachable(error: ConnectionError) -> MlpError:
        # Ray hands a token to the cluster that it finds by itself, to another only if told so.
        return UnavailableError(
            f"no Ray cluster answers{where}: {one_line(error)}; start one with: ray start --head, "
            "or name another by execution.address; if it asks for a token: "
            "export RAY_AUTH_MODE=token"
        )

    def other_version(error: RuntimeError) -> MlpError | None:
        if "ersion mismatch" not in str(error):
            return None
        return SystemLimitError(
            f"the Ray cluster{where} has other versions than are here: {one_line(error)}"
        )

    def failed(error: Exception) -> MlpError:
        return UnavailableError(f"the Ray cluster{where} failed: {one_line(error)}")

    own = (faults.AuthenticationError, faults.RpcError, faults.RaySystemError)
    return translated(
        {
            ConnectionError: unreachable,
            RuntimeError: other_version,
            **dict.fromkeys(own, failed),
        }
    )


def _knock(address: str) -> None:
    """Whether anybody is at an address at all: Ray itself tries for most of a minute.

    Raises:
        ConnectionError: if not.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return  # auto and local are no addresses
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(one_line(error)) from None
