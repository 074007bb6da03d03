"""Trains by the user's own function: each run in a process of its own, as many as there are cores.

An exception, a crash, a hang, or output without end costs that run and nothing else.
"""

import contextlib
import itertools
import json
import math
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlp.config import Own, RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Ending, OwnTrace, Result, Thresholds
from mlp.errors import DataError, SettingError, SystemLimitError, one_line
from mlp.program import read_source
from mlp.training.own_worker import ARRAYS, LOSSES, REQUEST, SAID
from mlp.training.work import Answer, Task, WorkDone, bare_result

_PACE_S = 0.1
_IS_WORKER = "MLP_OWN_WORKER"  # environment variable of the processes that import users' files
_MOST_OUTPUT = 4_000  # bytes of what a run printed last that are kept
IMPORT_S = 60.0  # for the import of a file, at least; else `own.timeout_s`
_END_S = 2.0  # for a process to end what it has begun
# One core a run: threads of a library would compete, and add in another order.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"
)


def train_functions(
    configs: Sequence[RunConfig],
    data: Dataset,
    *,
    threads: int,
    thresholds: Thresholds | None,
    progress: WorkDone | None,
) -> list[Result]:
    """The trainer of own functions; as `mlp.training.work.train_population` is of networks.

    Args:
        thresholds: prune nothing here, since no validation accuracy is known along the way.
    """
    del thresholds
    with contextlib.closing(Functions(threads)) as functions:
        for number, config in enumerate(configs):
            functions.submit(Task((number,), (config,), data, None, train_functions))
        results: dict[int, Result] = {}
        while len(results) < len(configs):
            for task, found in functions.wait(progress or (lambda _share, _losses: None)):
                assert not isinstance(found, str)  # whatever a run does, it has a result
                results[task.numbers[0]] = found[0]
    return [results[number] for number in range(len(configs))]


@dataclass(eq=False)
class _Host:
    """A process that has imported a file, and forks for runs."""

    function: tuple[str, str, str]
    source: str
    process: subprocess.Popen[bytes]
    socket: socket.socket
    can_fork: bool
    is_used: bool = False
    heard: bytes = b""

    @property
    def is_free(self) -> bool:
        """Whether it can take a further run."""
        return (self.can_fork or not self.is_used) and self.process.poll() is None


@dataclass(eq=False)
class _Run:
    """A run that is being trained; what it gives is written into its folder."""

    task: Task
    own: Own
    host: _Host
    folder: Path
    output: int
    started: float = math.inf
    pid: int | None = None
    printed: bytes = b""
    code: int | None = None
    is_overdue: bool = False

    def progress(self) -> tuple[float, float]:
        """The share of its steps, where it is known how many there are, and its latest loss."""
        steps = self.own.arguments.get(self.own.program.role("steps") or "")
        n_steps = steps if isinstance(steps, int) and steps > 0 else math.inf
        n_done, last = 0, math.nan
        with contextlib.suppress(OSError), (self.folder / LOSSES).open("rb") as file:
            n_done = os.fstat(file.fileno()).st_size // 8
            file.seek(8 * max(0, n_done - 1))
            [last] = np.frombuffer(file.read(8), "<f8") if n_done else [math.nan]
        return min(1.0, n_done / n_steps), last if math.isfinite(last) else math.nan


class Functions:
    """Runs of own functions, several side by side."""

    def __init__(self, n_workers: int) -> None:
        """Starts nothing yet."""
        self._n_workers = max(1, n_workers)
        self._waiting: deque[Task] = deque()
        self._hosts: list[_Host] = []
        self._running: dict[str, _Run] = {}
        self._numbers = itertools.count()
        self._selector = selectors.DefaultSelector()
        self._folder = tempfile.TemporaryDirectory(prefix="mlp-own-", ignore_cleanup_errors=True)

    def submit(self, task: Task) -> None:
        """Takes a run: a task of one config."""
        self._waiting.append(task)

    @property
    def is_busy(self) -> bool:
        """Whether any run is waiting or being trained."""
        return bool(self._waiting or self._running)

    def wait(self, progress: WorkDone) -> list[Answer]:
        """The runs that have ended; waits for a moment, so that there may be none.

        Raises:
            DataError: for a file that cannot be imported, before any run.
        """
        while self._waiting and len(self._running) < self._n_workers:
            if not self._start(self._waiting.popleft()).can_fork:
                break  # it has imported the file anew; the others are heard before the next one
        for key, _ in self._selector.select(_PACE_S):
            key.data()
        for run in self._running.values():
            if run.code is None and run.host.process.poll() is not None:
                run.code = run.host.process.returncode
            is_late = time.monotonic() - run.started > run.own.timeout_s
            if run.code is None and run.pid is not None and is_late:
                run.is_overdue = True
                _kill(run.pid)
        ended = [run for run in self._running.values() if run.code is not None]
        done: list[Answer] = [(run.task, [self._finish(run)]) for run in ended]
        at_work = [run.host for run in self._running.values()]
        for host in [*self._hosts]:
            if not host.is_free and host not in at_work:
                self._end(host)
        seen = [run.progress() for run in self._running.values()]
        progress(len(done) + sum(share for share, _ in seen), np.array([loss for _, loss in seen]))
        return done

    def close(self) -> None:
        """Ends whatever still runs."""
        self._waiting.clear()
        for host in [*self._hosts]:
            self._end(host)
        self._selector.close()
        self._folder.cleanup()

    def _start(self, task: Task) -> _Host:
        own = _own(task)
        host = self._host_for(task)
        folder = Path(self._folder.name) / str(next(self._numbers))
        folder.mkdir()
        request = {"arguments": _given(own), "seed": task.configs[0].training.seed}
        (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
        output, printing = os.pipe()
        os.set_blocking(output, False)
        with contextlib.suppress(OSError):  # a host that has just died is met in `wait`
            socket.send_fds(host.socket, [str(folder).encode()], [printing])
        os.close(printing)
        host.is_used = True
        run = _Run(task, own, host, folder, output)
        self._running[str(folder)] = run
        self._selector.register(output, selectors.EVENT_READ, lambda: self._hear_output(run))
        return host

    def _host_for(self, task: Task) -> _Host:
        """A host of the function that can take a run; waits for a new one to have imported it."""
        function = _function_of(task)
        for host in self._hosts:
            if host.function == function and host.is_free:
                return host
        host = _begun(*function, own=_own(task))
        self._hosts.append(host)
        self._selector.register(host.socket, selectors.EVENT_READ, lambda: self._hear_host(host))
        return host

    def _hear_host(self, host: _Host) -> None:
        try:
            text = host.socket.recv(65_536)
        except OSError:
            text = b""
        if not text:
            self._selector.unregister(host.socket)
            _end_process(host.process)
            return
        *lines, host.heard = (host.heard + text).split(b"\n")
        for message in map(json.loads, lines):
            run = self._running[message["run"]]
            if "pid" in message:
                run.pid, run.started = int(message["pid"]), time.monotonic()
            else:
                run.code = int(message["code"])

    def _hear_output(self, run: _Run) -> None:
        try:
            text = os.read(run.output, 1 << 20)
        except BlockingIOError:
            return
        if not text:
            self._forget(run.output)
        run.printed = (run.printed + text)[-_MOST_OUTPUT:]

    def _finish(self, run: _Run) -> Result:
        """What came of a run whose process has ended."""
        del self._running[str(run.folder)]
        self._hear_output(run)
        self._let_go(run)
        result = _result(run)
        shutil.rmtree(run.folder, ignore_errors=True)
        return result

    def _end(self, host: _Host) -> None:
        self._hosts.remove(host)
        for run in self._running.values():
            if run.host is host:
                self._let_go(run)
        self._forget(host.socket)
        host.socket.close()  # which it hears, and ends also a run that is not heard of yet
        _end_process(host.process)

    def _let_go(self, run: _Run) -> None:
        """Ends what a run has started, and itself, and closes its pipe."""
        if run.pid is not None:
            _kill(run.pid)
        self._forget(run.output)
        os.close(run.output)

    def _forget(self, file: Any) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(file)


def _own(task: Task) -> Own:
    [config] = task.configs
    assert config.own is not None
    return config.own


def _function_of(task: Task) -> tuple[str, str, str]:
    """The path of the file, the function, and their digest."""
    program = _own(task).program
    return str(task.data.program), program.function, program.digest


def _begun(path: str, function: str, digest: str, *, own: Own) -> _Host:
    """A process that has imported a file.

    Raises:
        DataError: for a file that cannot be imported.
    """
    if _IS_WORKER in os.environ:
        raise SettingError(
            "this was called while the file of a training function was imported; put the call "
            "below if __name__ == '__main__'"
        )
    source = read_source(Path(path))
    here, there = socket.socketpair()
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    # -P: nothing that lies where the command was typed is imported
    words = ["-P", "-m", "mlp.training.own_worker", str(there.fileno()), path, function, digest]
    try:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # what the import prints, also without end
            stderr=subprocess.DEVNULL,
            pass_fds=[there.fileno()],
            start_new_session=True,  # Ctrl-C is for the driver, which ends it
            env=os.environ
            | _ONE_THREAD
            | {
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONHASHSEED": "0",
                "MPLBACKEND": "Agg",
                _IS_WORKER: "1",
            },
        )
    except OSError as error:
        here.close()
        raise SystemLimitError(
            f"no process for {own.program.file} can be started: {error}"
        ) from None
    finally:
        there.close()
    try:
        said = _first_word(process, here, own)
    except BaseException:
        here.close()
        _kill(process.pid)  # it may import for ever
        process.wait()
        raise
    return _Host((path, function, digest), source, process, here, bool(said["can_fork"]))


def _first_word(process: subprocess.Popen[bytes], here: socket.socket, own: Own) -> dict[str, Any]:
    """What a process says once it has imported the file."""
    most_s = max(own.timeout_s, IMPORT_S)
    here.settimeout(most_s)
    try:
        text = here.recv(65_536)
    except TimeoutError:
        raise DataError(
            f"{own.program.file} is still being imported after {most_s:.0f} s; put what trains "
            "into the function, or below if __name__ == '__main__'"
        ) from None
    here.settimeout(None)
    if not text:
        _end_process(process)
        how = _how(process.returncode)
        raise DataError(f"importing {own.program.file} ended its process {how}")
    said: dict[str, Any] = json.loads(text)
    if "fault" in said:
        raise DataError(f"cannot be trained: {said['fault']}")
    return said


def _given(own: Own) -> dict[str, Any]:
    """The arguments that the function is called with; it has its own defaults for the others."""
    return {
        argument.name: list(value) if isinstance(value, tuple) else value
        for argument, value in zip(own.program.arguments, own.values, strict=True)
        if value is not None or argument.may_be_none
    }


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _end_process(process: subprocess.Popen[bytes]) -> None:
    """Waits a moment for a process to end, then kills what is left of it and of its group."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    _kill(process.pid)
    process.wait()


def _how(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"by {name}" + (", as where memory is short" if -code == signal.SIGKILL else "")


def _result(run: _Run) -> Result:
    """The losses up to where it came, and its fault if it has one."""
    said: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {}
    fault: str | None = f"its process ended {_how(run.code or 0)}"
    try:
        said = json.loads((run.folder / SAID).read_bytes())
        fault = said["fault"]
        with np.load(run.folder / ARRAYS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        fault = fault or f"what it gave cannot be read: {one_line(error)}"
    if run.is_overdue:
        fault = f"it was ended after own.timeout_s={run.own.timeout_s:g} seconds"
    loss = _losses(run.folder / LOSSES)
    if fault is None and loss.size == 0:
        fault = "it gave no loss"
    trace = OwnTrace(
        series={name[7:]: array for name, array in arrays.items() if name.startswith("series.")},
        kept={name[5:]: array for name, array in arrays.items() if name.startswith("kept.")},
        fault=None if fault is None else one_line(fault),
        printed=run.printed.decode("utf-8", "replace"),
        notes=tuple(map(str, said.get("notes", ()))),
        versions=tuple(sorted(said.get("versions", {}).items())),
        source=run.host.source,
    )
    is_finite = loss.size == 0 or bool(np.isfinite(loss[-1]))
    ending = Ending.COMPLETED if is_finite else Ending.NON_FINITE
    if fault is not None:
        ending = Ending.FAILED
        loss = loss if loss.size else np.array([np.nan])
    return bare_result(loss, ending, own=trace)


def _losses(file: Path) -> NDArray[np.float64]:
    """All that a run gave, or as many as it had given when it ended in the middle."""
    try:
        text = file.read_bytes()
    except OSError:
        return np.empty(0)
    return np.frombuffer(text[: len(text) // 8 * 8], "<f8").astype(np.float64)
