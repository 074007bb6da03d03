"""Trains by the user's own function: each run in a process of its own, as many as there are cores.

An exception, a crash, a hang, or output without end costs that run and nothing else.
"""

import contextlib
import json
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlp.config import Own, RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.result import Ending, OwnTrace, Result, Thresholds
from mlp.errors import DataError, SettingError, SystemLimitError, one_line
from mlp.program import read_source
from mlp.training.work import Answer, Task, WorkDone

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
            for done in functions.wait(progress or (lambda _share, _losses: None)):
                assert done.results is not None
                results[done.task.numbers[0]] = done.results[0]
    return [results[number] for number in range(len(configs))]


@dataclass(eq=False)
class _Run:
    """A run that is being trained."""

    number: int
    task: Task
    host: "_Host"
    folder: Path
    reading: int
    output: int
    own: Own
    n_steps: int | None
    started: float = 0.0
    pid: int | None = None
    step: int = 0
    loss: float = float("nan")
    said: dict[str, Any] | None = None
    printed: bytes = b""
    heard: bytes = b""
    code: int | None = None
    is_overdue: bool = False

    @property
    def done_share(self) -> float:
        """Of its steps, where it is known how many there are, 0 to 1."""
        return min(1.0, self.step / self.n_steps) if self.n_steps else 0.0


@dataclass(eq=False)
class _Host:
    """A process that has imported a file, and forks for runs."""

    of: tuple[str, str, str]
    source: str
    process: subprocess.Popen[bytes]
    socket: socket.socket
    began: float
    is_ready: bool = False
    can_fork: bool = True
    n_served: int = 0
    fault: str | None = None
    heard: bytes = b""
    runs: dict[int, _Run] = field(default_factory=dict)

    @property
    def is_free(self) -> bool:
        """Whether it can take a further run."""
        is_new = self.can_fork or self.n_served == 0
        return self.is_ready and is_new and self.process.poll() is None


class Functions:
    """Runs of own functions, several side by side."""

    def __init__(self, n_workers: int) -> None:
        """Starts nothing yet."""
        self._n_workers = max(1, n_workers)
        self._waiting: deque[Task] = deque()
        self._hosts: list[_Host] = []
        self._running: dict[int, _Run] = {}
        self._n_begun = 0
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
        self._begin()
        for key, _ in self._selector.select(_PACE_S):
            key.data()
        now = time.monotonic()
        for run in self._running.values():
            if run.pid is not None and now - run.started > run.own.timeout_s and run.code is None:
                run.is_overdue = True
                _kill(run.pid)
        for host in self._hosts:
            self._check(host)
        ended = [run for run in self._running.values() if run.code is not None]
        done = [Answer(run.task, (self._finish(run),)) for run in ended]
        working = self._running.values()
        losses = np.array([run.loss for run in working])
        progress(len(done) + sum(run.done_share for run in working), losses)
        return done

    def close(self) -> None:
        """Ends whatever still runs."""
        self._waiting.clear()
        for host in self._hosts:
            self._end(host)
        self._hosts.clear()
        self._selector.close()
        self._folder.cleanup()

    def _begin(self) -> None:
        """Hands runs to hosts, as many as there are workers."""
        while self._waiting and len(self._running) < self._n_workers:
            task = self._waiting[0]
            hosts = [own for own in self._hosts if own.of == _function_of(task)]
            host = next((own for own in hosts if own.is_free), None)
            if host is None:
                if all(own.is_ready for own in hosts):
                    self._start_host(_path(task), task)
                return
            self._start(self._waiting.popleft(), host)

    def _start_host(self, path: Path, task: Task) -> None:
        own = task.configs[0].own
        assert own is not None
        if _IS_WORKER in os.environ:
            raise SettingError(
                "this was called while the file of a training function was imported; put the call "
                "below if __name__ == '__main__'"
            )
        source = read_source(path)
        here, there = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        try:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # nothing that lies where the command was typed is imported
                    "-m",
                    "mlp.training.own_worker",
                    str(there.fileno()),
                    str(path),
                    own.program.function,
                    own.program.digest,
                ],
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
            raise SystemLimitError(f"no process for {path.name} can be started: {error}") from None
        there.close()
        host = _Host(_function_of(task), source, process, here, time.monotonic())
        self._hosts.append(host)
        self._selector.register(here, selectors.EVENT_READ, lambda: self._hear_host(host))

    def _start(self, task: Task, host: _Host) -> None:
        [config] = task.configs
        own = config.own
        assert own is not None
        number, self._n_begun = self._n_begun, self._n_begun + 1
        folder = Path(self._folder.name) / str(number)
        folder.mkdir()
        request = {
            "number": number,
            "arguments": _given(own),
            "seed": config.training.seed,
            "file": str(folder / "result.npz"),
            "losses": str(folder / "losses.bin"),
        }
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        reading, reporting = os.pipe()
        output, printing = os.pipe()
        steps = own.arguments.get(own.program.role("steps") or "")
        n_steps = steps if isinstance(steps, int) and steps > 0 else None
        run = _Run(number, task, host, folder, reading, output, own, n_steps, time.monotonic())
        with contextlib.suppress(OSError):  # a host that has just died is met below
            socket.send_fds(
                host.socket, [str(folder / "request.json").encode()], [reporting, printing]
            )
        os.close(reporting)
        os.close(printing)
        for fd, hear in ((reading, self._hear_run), (output, self._hear_output)):
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ, lambda hear=hear: hear(run))
        host.runs[number], host.n_served = run, host.n_served + 1
        self._running[number] = run
        if host.can_fork:  # it takes one request at a time
            self._await(lambda: run.pid is not None or host.process.poll() is not None)

    def _await(self, is_met: Any) -> None:
        while not is_met():
            for key, _ in self._selector.select(_PACE_S):
                key.data()

    def _hear_host(self, host: _Host) -> None:
        try:
            text = host.socket.recv(65_536)
        except OSError:
            text = b""
        if not text:
            self._forget(host.socket)
            _end_process(host.process)
            return
        *lines, host.heard = (host.heard + text).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "fault" in message:
                host.fault = str(message["fault"])
            elif "ready" in message:
                host.is_ready, host.can_fork = True, bool(message["can_fork"])
            elif "started" in message:
                host.runs[message["started"]].pid = int(message["pid"])
                host.runs[message["started"]].started = time.monotonic()
            elif "ended" in message:
                host.runs[message["ended"]].code = int(message["code"])

    def _hear_run(self, run: _Run) -> None:
        text = _read(run.reading)
        if text == b"":
            self._forget(run.reading)
        *lines, run.heard = (run.heard + (text or b"")).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if "done" in message:
                run.said = message
            else:
                run.step = int(message["step"]) + 1
                run.loss = float("nan") if message["loss"] is None else float(message["loss"])

    def _hear_output(self, run: _Run) -> None:
        text = _read(run.output)
        if text == b"":
            self._forget(run.output)
        run.printed = (run.printed + (text or b""))[-_MOST_OUTPUT:]

    def _check(self, host: _Host) -> None:
        """Notices a file that cannot be imported, and a host that has died."""
        if host.fault is not None:
            raise DataError(f"cannot be trained: {host.fault}")
        task = next((run.task for run in host.runs.values()), None) or (
            self._waiting[0] if self._waiting else None
        )
        own = task.configs[0].own if task else None
        if not host.is_ready and own is not None:
            waited = time.monotonic() - host.began
            if waited > max(own.timeout_s, IMPORT_S):
                raise DataError(
                    f"{own.program.file} is still being imported after {waited:.0f} s; put what "
                    "trains into the function, or below if __name__ == '__main__'"
                )
        if host.process.poll() is None:
            return
        if not host.is_ready and own is not None:
            how = _how(host.process.returncode)
            raise DataError(f"importing {own.program.file} ended its process {how}")
        for run in host.runs.values():
            if run.code is None:
                run.code = host.process.returncode

    def _finish(self, run: _Run) -> Result:
        """What came of a run whose process has ended."""
        if run.pid is not None:
            _kill(run.pid)  # what it has started itself
        for fd, hear in ((run.reading, self._hear_run), (run.output, self._hear_output)):
            if fd in self._selector.get_map():
                hear(run)
        self._close_pipes(run)
        del self._running[run.number]
        del run.host.runs[run.number]
        if not run.host.can_fork or run.host.process.poll() is not None:
            self._end(run.host)
            self._hosts.remove(run.host)
        result = _result(run)
        shutil.rmtree(run.folder, ignore_errors=True)
        return result

    def _end(self, host: _Host) -> None:
        for run in host.runs.values():
            if run.pid is not None:
                _kill(run.pid)
            self._close_pipes(run)
        if not host.is_ready:  # it may import for ever
            _kill(host.process.pid)
        self._forget(host.socket)
        host.socket.close()  # which it hears, and ends also a run that is not heard of yet
        _end_process(host.process)

    def _close_pipes(self, run: _Run) -> None:
        for fd in (run.reading, run.output):
            self._forget(fd)
            os.close(fd)

    def _forget(self, file: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(file)


def _path(task: Task) -> Path:
    """The file of the function."""
    assert task.data.program is not None
    return task.data.program


def _function_of(task: Task) -> tuple[str, str, str]:
    """The path of the file, the function, and their digest."""
    own = task.configs[0].own
    assert own is not None
    return str(_path(task)), own.program.function, own.program.digest


def _losses_so_far(file: Path) -> NDArray[np.float64]:
    """What a run that ended in the middle had given by then."""
    try:
        text = file.read_bytes()
    except OSError:
        return np.empty(0)
    return np.frombuffer(text[: len(text) // 8 * 8], "<f8").astype(np.float64)


def _given(own: Own) -> dict[str, Any]:
    """The arguments that the function is called with; it has its own defaults for the others."""
    return {
        argument.name: list(value) if isinstance(value, tuple) else value
        for argument, value in zip(own.program.arguments, own.values, strict=True)
        if value is not None or argument.may_be_none
    }


def _read(fd: int) -> bytes | None:
    """What there is to read; None: nothing yet; empty: the other end is closed."""
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return None


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
    said, arrays = run.said or {}, dict[str, NDArray[Any]]()
    fault = said.get("fault")
    if run.is_overdue:
        fault = f"it was ended after own.timeout_s={run.own.timeout_s:g} seconds"
    elif run.said is None:
        fault = f"its process ended {_how(run.code or 0)}"
    else:
        try:
            with np.load(run.folder / "result.npz", allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            fault = fault or f"what it gave cannot be read: {one_line(error)}"
    if "loss" in arrays:
        loss = np.asarray(arrays.pop("loss"), np.float64)
    else:
        loss = _losses_so_far(run.folder / "losses.bin")
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
    return Result(
        loss=loss,
        loss_step=np.arange(loss.size, dtype=np.int64),
        step_loss=None,
        validation_accuracy=np.empty(0),
        evaluated_step=np.empty(0, np.int64),
        weights=(),
        ending=ending,
        last_step=loss.size - 1,
        own=trace,
    )
