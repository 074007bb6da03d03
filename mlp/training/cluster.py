"""Trains populations on the workers of a Ray cluster.

Importing this imports Ray, an extra. Ray's own retries are off, so that every loss is seen and
counted in one place, `mlp.training.execution`. What happens on a worker is in `mlp.training.worker`.
"""

import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlp.training.connection import FAR, connect, leave, one_sentence  # first: it sets Ray up

# isort: split

import ray
from ray import exceptions as faults

from mlp.config import Execution
from mlp.data.dataset import Dataset
from mlp.errors import SystemLimitError, UnavailableError, one_line
from mlp.tracking.environment import cpu
from mlp.training.work import Done, Lost, Task, WorkDone
from mlp.training.worker import BEAT_S, Answer, Sign, train, versions

_TICK_S = 0.5  # how long the driver waits at most before it looks around
_LOOK_S = 2.0  # how often the driver asks which machines are there
_HEAD_PATIENCE_S = 30.0  # for the cluster's head
_IDLE_NOTICE_S = 15.0  # without a worker, before the user is told
_FIRST_WORD_S = 120.0  # for some worker to start, import what it needs, and say who it is

# The reason may be the trial itself: it takes all memory, or breaks the process.
_SUSPECT = (faults.WorkerCrashedError, faults.OutOfMemoryError, faults.TaskCancelledError)
_INNOCENT = (faults.NodeDiedError, faults.ObjectLostError, faults.ObjectStoreFullError)


@dataclass(eq=False)
class _Running:
    """A population that a worker has, or will have when one is free."""

    task: Task
    ref: Any
    sign: Sign | None = None
    n_done: float = 0.0
    heard: float = 0.0

    @property
    def who(self) -> str:
        return f"worker {self.sign.pid} on {self.sign.host}" if self.sign else "a worker"


@dataclass(eq=False)
class _View:
    """What the cluster's head last said of its machines.

    Attributes:
        at: when, on the monotonic clock.
        cpus: of each machine that is there.
        dead: machines that are not there any more.
    """

    at: float = field(default_factory=time.monotonic)
    cpus: list[float] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)


class Cluster:
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
        self._silence_s = execution.silence_s
        self._is_far = execution.address.startswith(FAR)
        connect(execution, n_threads)
        options: dict[str, Any] = {"num_cpus": n_threads, "max_retries": 0}
        if execution.memory_gb is not None:
            options["memory"] = int(execution.memory_gb * 1e9)
        # Ray's client cannot hear a worker before its end; such a worker watches itself alone.
        self._train = (
            ray.remote(**options)(_train_in_silence)
            if self._is_far
            else ray.remote(**options, num_returns="streaming")(_train)
        )
        self._data: tuple[Dataset, Any] | None = None
        self._running: dict[Any, _Running] = {}
        self._other_cpus: set[str] = set()
        self._patience_s = self._first_patience_s()
        self._busy_s = self._slot_s = 0.0
        self._counted_to = self._heard = self._told = time.monotonic()
        self._view = _View()
        self._closing = threading.Event()
        try:
            with one_sentence(execution.address):
                self._look()
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
            self._counted_to = self._heard = self._told = time.monotonic()
        with one_sentence():
            if self._data is None or self._data[0] is not task.data:
                self._data = task.data, ray.put(task.data)  # once, whatever is trained on it
            ref = self._train.remote(
                (self._data[1],), task.configs, task.thresholds, self.n_threads, self._silence_s
            )
        self._running[ref] = _Running(task, ref)

    def wait(self, progress: WorkDone) -> list[Done | Lost]:
        """What the workers have brought, and whom they have lost."""
        answers: list[Done | Lost] = []
        with one_sentence():
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_TICK_S)
            if ready:
                n_running = len(self._running)
                ready, _ = ray.wait(list(self._running), num_returns=n_running, timeout=0)
            for awaited in ready:
                answer = self._hear(awaited)
                if answer is not None:
                    answers.append(answer)
            self._count_slots()
            answers += self._overdue()
            self._hand_out_anew()
        if not answers:  # what has come back is kept before the head is missed
            self._check_head()
        progress(sum(running.n_done for running in self._running.values()), np.empty(0))
        return answers

    def idle_share(self) -> float | None:
        """Share of the CPUs' time since the last call that trained nothing."""
        busy_s, slot_s = self._busy_s, self._slot_s
        self._busy_s = self._slot_s = 0.0
        return max(0.0, 1 - busy_s / slot_s) if slot_s else None

    def close(self) -> None:
        """Ends what still trains, and leaves the cluster."""
        self._closing.set()
        leave([running.ref for running in self._running.values()])

    def _hear(self, awaited: Any) -> Done | Lost | None:
        """Takes what a worker has said; None where that is not its last word."""
        running = self._running.pop(awaited)
        now = time.monotonic()
        self._heard, self._patience_s = now, self._first_patience_s()
        try:
            if awaited is running.ref and not self._is_far:  # the word is there, but maybe not here
                self._running[next(awaited)] = running
                return None
            word = ray.get(awaited)
        except faults.RayTaskError as error:
            if not isinstance(error.cause, _INNOCENT):
                raise _fault_of_worker(error, running) from None
            return Lost(running.task, f"{running.who} could not be sent the data", False)
        except _SUSPECT as error:
            is_suspect = running.sign is None or running.sign.node not in self._view.dead
            return Lost(running.task, f"{running.who} {_died(error)}", is_suspect)
        except _INNOCENT as error:
            return Lost(running.task, f"{running.who} {_died(error)}", is_suspect=False)
        running.heard = now
        if isinstance(word, Answer):
            self._check(word.sign)
            self._busy_s += word.busy_s
            if word.refusal is not None:
                raise word.refusal
            return Done(running.task, word.results)
        if isinstance(word, Sign):
            self._check(word)
            running.sign = word
        else:
            running.n_done = word
        self._running[running.ref] = running
        return None

    def _overdue(self) -> list[Done | Lost]:
        """Gives up workers that have said nothing for too long, or whose machine is gone."""
        lost: list[Done | Lost] = []
        now = time.monotonic()
        for awaited, running in list(self._running.items()):
            if running.sign is None:
                continue
            # The worker's own watch comes first; it leaves a traceback in Ray's log.
            is_hung = not self._is_far and now - running.heard > 1.2 * self._silence_s + BEAT_S
            if is_hung or running.sign.node in self._view.dead:
                del self._running[awaited]
                with contextlib.suppress(faults.RayError, ValueError, TypeError):
                    ray.cancel(running.ref, force=True)
                self._heard = now
                silence = f"said nothing for {now - running.heard:.0f} s"
                reason = silence if is_hung else "went with its machine"
                lost.append(Lost(running.task, f"{running.who} {reason}", is_hung))
        return lost

    def _hand_out_anew(self) -> None:
        """Withdraws what nobody has answered to, and submits it once more.

        Ray does not say whether a population waits for a CPU or has a worker that froze before its
        first word. Who only waits loses nothing by it, and neither counts as a loss. A worker that
        needs long for its first word has twice as long the next time.
        """
        silence = time.monotonic() - self._heard
        if self._is_far or not self._running or silence < self._patience_s:
            return
        self._patience_s *= 2
        self.notice(f"no worker has said anything for {silence:.0f} s; all is handed out anew")
        waiting = list(self._running.values())
        self._running.clear()
        for running in waiting:
            with contextlib.suppress(faults.RayError, ValueError, TypeError):
                ray.cancel(running.ref, force=True)
            self.submit(running.task)

    def _first_patience_s(self) -> float:
        return max(_FIRST_WORD_S, 1.2 * self._silence_s + BEAT_S)

    def _check(self, sign: Sign) -> None:
        """Refuses a worker that would compute other bits; says where it might."""
        here = versions()
        for name, there in sign.versions.items():
            if there != here[name]:
                raise SystemLimitError(
                    f"the worker on {sign.host} has {name} {there}, but here it is {here[name]}; "
                    "install the same on every machine"
                )
        if sign.cpu != cpu() and sign.cpu not in self._other_cpus:
            self._other_cpus.add(sign.cpu)
            self.notice(
                f"{sign.host} has another processor ({sign.cpu}) than this machine ({cpu()}): "
                "results may differ in their last bits"
            )

    def _n_slots(self) -> int:
        return sum(int(cpus // self.n_threads) for cpus in self._view.cpus)

    def _count_slots(self) -> None:
        """Adds up the time in which populations could have trained."""
        now = time.monotonic()
        if self._running or now - self._counted_to < 2 * _TICK_S:
            self._slot_s += (now - self._counted_to) * self._n_slots()
        self._counted_to = now
        is_working = any(running.sign is not None for running in self._running.values())
        if is_working or not self._running:
            self._told = now
        elif now - self._told > _IDLE_NOTICE_S:
            self._told = now + 4 * _IDLE_NOTICE_S
            n_cpus = sum(self._view.cpus)
            self.notice(
                f"waiting for a worker: the cluster has {n_cpus:g} CPUs, none of them is free for "
                f"a population, which takes {self.n_threads}"
            )

    def _check_head(self) -> None:
        if time.monotonic() - self._view.at > _HEAD_PATIENCE_S:
            raise UnavailableError(
                f"the head of the Ray cluster has not answered for {_HEAD_PATIENCE_S:.0f} seconds; "
                "when it is back, the same command goes on"
            )

    def _look_around(self) -> None:
        while not self._closing.wait(_LOOK_S):
            with contextlib.suppress(Exception):  # whatever it is, the view grows old
                self._look()

    def _look(self) -> None:
        nodes = ray.nodes()
        cpus = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
        self._view = _View(cpus=cpus, dead={node["NodeID"] for node in nodes if not node["Alive"]})


def _died(error: faults.RayError) -> str:
    if isinstance(error, faults.OutOfMemoryError):
        return "ran out of memory"
    if isinstance(error, faults.ObjectLostError):
        return "was gone before its results had arrived"
    if isinstance(error, faults.NodeDiedError):
        return "went with its machine"
    return "died"


def _fault_of_worker(error: faults.RayTaskError, running: _Running) -> Exception:
    """What was raised outside the training: a package that is missing there, or a bug here."""
    if isinstance(error.cause, ImportError | faults.RayError):  # or it cannot read what it is sent
        said = str(error.cause).partition("\n")[0]
        return SystemLimitError(
            f"{running.who} cannot import what it needs: {one_line(said)}; "
            "install this program on every machine, in the same version"
        )
    assert isinstance(error, Exception)
    return error


@functools.lru_cache(maxsize=1)
def fetched(held: tuple[Any]) -> Dataset:
    """On a worker: the examples, the same object for as long as they are the same.

    Args:
        held: the reference to them, in a tuple, so that Ray leaves it alone.
    """
    data = ray.get(held[0])
    assert isinstance(data, Dataset)
    return data


def _train(held: tuple[Any], *arguments: Any) -> Iterator[Sign | float | Answer]:
    """On a worker: says who it is, how far it is, and at last what came out."""
    yield from train(ray.get_runtime_context().get_node_id(), fetched(held), *arguments)


def _train_in_silence(*arguments: Any) -> Answer:
    """As `_train`, but only the last word."""
    last = deque(_train(*arguments), maxlen=1).pop()
    assert isinstance(last, Answer)
    return last
