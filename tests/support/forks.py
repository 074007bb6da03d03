"""Commands in forks of a process that has imported everything, so that they start at once.

A cold `python -m mlp.sweep` imports for seconds before it does anything. Here the imports are done
once, and each command is a new process all the same: its own files, environment and exit code.
"""

import atexit
import functools
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path


@dataclass(frozen=True)
class Done:
    """How a process ended; its errors are part of `stdout` where both were to go to one file."""

    returncode: int
    stdout: str
    stderr: str


@functools.cache
def forks() -> ForkServerContext:
    """The context whose processes are such forks."""
    import support.imported  # noqa: F401  the server swallows an ImportError, this does not

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.imported"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    # A test may have set a folder of its own, whose name is too long for the server's socket.
    own, tempfile.tempdir = tempfile.tempdir, "/tmp"
    try:
        forkserver.ensure_running()
    finally:
        tempfile.tempdir = own
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def run_module(
    words: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    is_one_file: bool = False,
    patience_s: float = 300,
) -> Done:
    """Runs `python -m` with the words in a fork."""
    return run_in_fork(
        as_main, list(words), folder, environment, is_one_file=is_one_file, patience_s=patience_s
    )


def run_in_fork(
    main: Callable[..., None],
    what: object,
    folder: Path,
    environment: Mapping[str, str],
    *,
    is_one_file: bool = False,
    patience_s: float = 300,
) -> Done:
    """Calls `main(what)` in a fork, in a folder and with an environment.

    Args:
        main: a function of a module.
        what: its argument, to be pickled.
        folder: the working directory.
        environment: all of it.
        is_one_file: whether errors go where the output goes.
        patience_s: after so long it is killed.
    """
    with tempfile.TemporaryDirectory(prefix="mlp-said-") as said:
        files = [
            Path(said) / "stdout",
            Path(said) / "stdout" if is_one_file else Path(said) / "stderr",
        ]
        for file in files:
            file.touch()
        process = forks().Process(
            target=_child, args=(main, what, folder, dict(environment), files)
        )
        process.start()
        process.join(patience_s)
        if process.exitcode is None:
            process.kill()
            process.join()
        assert process.exitcode is not None
        out, errors = (file.read_text() for file in files)
        return Done(process.exitcode, out, "" if is_one_file else errors)


class Fork:
    """A fork that is at work, with the methods of `subprocess.Popen` that tests use.

    Args:
        main: a function of a module.
        what: its argument, to be pickled.
        folder: the working directory.
        environment: all of it.
        is_heard: whether what it writes can be read.

    Attributes:
        stdout: what it writes, as `stderr`.
        returncode: None until it was waited for.
    """

    def __init__(
        self,
        main: Callable[..., None],
        what: object,
        folder: Path,
        environment: Mapping[str, str],
        *,
        is_heard: bool = True,
    ) -> None:
        pipes = [multiprocessing.Pipe(duplex=False) for _ in range(2)]
        self.stdout, self.stderr = (
            open(os.dup(reading.fileno()))  # noqa: PTH123, SIM115  a descriptor
            for reading, _ in pipes
        )
        outputs = [writing if is_heard else Path(os.devnull) for _, writing in pipes]
        self._process = forks().Process(
            target=_child, args=(main, what, folder, dict(environment), outputs)
        )
        self._process.start()
        for ends in pipes:
            for end in ends:
                end.close()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self.returncode: int | None = None
        atexit.register(self.kill)  # else a test that failed would be waited for

    def poll(self) -> int | None:
        self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.poll()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """What it writes until its end; it is killed if it takes longer."""
        errors: list[str] = []
        reading = threading.Thread(target=lambda: errors.append(self.stderr.read()))
        overdue = threading.Timer(timeout, self.kill)
        for thread in (reading, overdue):
            thread.start()
        said = self.stdout.read()
        self.wait()
        for thread in (reading, overdue):
            overdue.cancel()
            thread.join()
        self._close()
        return said, errors[0]

    def __enter__(self) -> "Fork":
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error:
            self.kill()
        self.wait()
        self._close()

    def _close(self) -> None:
        self.stdout.close()
        self.stderr.close()


def start_module(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], *, is_heard: bool = True
) -> Fork:
    """Starts `python -m` with the words in a fork."""
    return Fork(as_main, list(words), folder, environment, is_heard=is_heard)


def as_main(words: list[str]) -> None:
    """What `python -m` with the words does in this process."""
    sys.argv = ["", *words[1:]]
    sys.modules.pop(words[0], None)  # else runpy warns that it is there already
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _child(
    main: Callable[..., None],
    what: object,
    folder: Path,
    environment: dict[str, str],
    outputs: Sequence[Path | Connection],
) -> None:
    """What is printed goes to files or pipes, from libraries in C as well."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, output in enumerate(outputs, start=1):
        if isinstance(output, Path):
            opened = os.open(output, os.O_WRONLY | os.O_APPEND)
            os.dup2(opened, number)
            os.close(opened)
        else:
            os.dup2(output.fileno(), number)
            output.close()
    sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
    try:
        main(what)
    except Exception:  # noqa: BLE001 as the interpreter does
        traceback.print_exc()
        sys.exit(1)
