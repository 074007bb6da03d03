"""Executes a user's training function, in a process of its own.

`python -m mlp.training.own_worker SOCKET FILE FUNCTION DIGEST` imports the file once. Then it forks
a process for each run that it is asked for: so no run sees what another has left behind, and
whatever one does, it costs that run alone. Where importing the file has started threads, which a
fork would lose, a process serves one run, itself.

The training process has the other end of the socket (`mlp.training.own_function`): it sends the
folder of each run, and a pipe for its output. It gets lines of JSON: `can_fork` or `fault` first,
then `pid` and `code` of each `run`. All that a run gives is written into its folder.
"""

import contextlib
import fcntl
import functools
import importlib
import importlib.util
import inspect
import json
import os
import random
import re
import select
import signal
import socket
import struct
import sys
import threading
import traceback
import zipfile  # noqa: F401  of NumPy's savez, which each fork would import anew
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mlp.errors import DataError, MlpError, one_line
from mlp.guard import Guard
from mlp.program import GUARD, imports_of, read_program

REQUEST = "request.json"  # in the folder of a run: its arguments and its seed
LOSSES = "losses.bin"  # there: each loss as soon as it is known, 8 bytes
ARRAYS = "result.npz"  # there: `series.NAME`, as long as the losses, and `kept.NAME`
SAID = "said.json"  # there: `fault`, a sentence or None; `notes`; `versions` of what was imported
_LARGEST_BYTES = 1 << 30  # of all arrays that a run keeps
_MOST_SERIES, _MOST_KEPT = 100, 500  # more, and the record would be longer than what is read
_MOST_NOTES = 10
_BEYOND_FORKS = ("jemalloc_bg_thd",)  # threads that are begun anew after a fork: of pyarrow


def main() -> None:
    """The process that imports the file, and forks."""
    server = socket.socket(fileno=int(sys.argv[1]))
    path, function, digest = Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _end_with(server, is_on=True)
    sys.argv[:] = [str(path)]
    try:
        if read_program(f"{path}:{function}")[0].digest != digest:
            raise DataError(f"{path.name} was changed meanwhile; type the command again")
        train = _imported(path, function)
    except BaseException as error:  # noqa: BLE001  whatever a foreign file raises
        _say(server, {"fault": sentence_of(error, path)})
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # else each fork would print it again
    _end_with(server, is_on=False)
    _names_imported(path)  # known to each fork
    can_fork = _n_threads() == 1
    _say(server, {"can_fork": can_fork})
    try:
        (_serve if can_fork else _serve_once)(server, train, path)
    finally:
        os._exit(0)


def _end_with(server: socket.socket, *, is_on: bool) -> None:
    """Whether this process ends when whoever asked is gone, as the import of a file may be long.

    The kernel signals it then (Linux); so nothing may be sent meanwhile.
    """
    flags = fcntl.fcntl(server, fcntl.F_GETFL)
    fcntl.fcntl(server, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(server, fcntl.F_SETFL, flags | os.O_ASYNC if is_on else flags & ~os.O_ASYNC)


def _imported(path: Path, function: str) -> Callable[..., Any]:
    """The function, its file imported as a module of its own name.

    What it draws from the global random streams meanwhile is the same in each process.
    """
    _seed(0)
    os.chdir(path.parent)
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    if "torch" in sys.modules and re.search(r"\boptim\b", path.read_text(encoding="utf-8")):
        with contextlib.suppress(ImportError):  # a part of PyTorch that has no promised name
            # The first step of any optimizer imports it, which takes two seconds: in each fork.
            importlib.import_module("torch._dynamo")
    train: Callable[..., Any] = getattr(module, function)
    return train


def _n_threads() -> int:
    """Threads of this process that a fork would lose; more than one where that is not known."""
    try:
        names = [(own / "comm").read_text().strip() for own in Path("/proc/self/task").iterdir()]
    except OSError:
        return 2
    return max(threading.active_count(), sum(name not in _BEYOND_FORKS for name in names))


def _say(server: socket.socket, message: Mapping[str, Any]) -> None:
    server.sendall(json.dumps(message).encode() + b"\n")


def _serve(server: socket.socket, train: Callable[..., Any], path: Path) -> None:
    """Forks for each request; says who was started, and who has ended and how."""
    hearing, waking = os.pipe()
    os.set_blocking(waking, False)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, Path] = {}
    try:
        while True:
            ready, _, _ = select.select([server.fileno(), hearing], [], [])
            if hearing in ready:
                os.read(hearing, 4096)
            for pid, folder in list(running.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    del running[pid]
                    _say(server, {"run": str(folder), "code": os.waitstatus_to_exitcode(status)})
            if server.fileno() in ready:
                asked = _heard(server)
                if asked is None:
                    return
                folder, output = asked
                pid = os.fork()
                if pid == 0:
                    server.close()
                    _child(train, path, folder, output)
                running[pid] = folder
                os.close(output)
                _say(server, {"run": str(folder), "pid": pid})
    finally:  # whoever asked is gone, and nobody waits for a run any more
        for pid in running:
            for kill in (os.killpg, os.kill):  # it may have no group of its own yet
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(pid, signal.SIGKILL)


def _serve_once(server: socket.socket, train: Callable[..., Any], path: Path) -> None:
    """Does a run in this process, whose threads a fork would not have."""
    if asked := _heard(server):
        _end_with(server, is_on=True)
        _say(server, {"run": str(asked[0]), "pid": os.getpid()})
        _child(train, path, *asked)


def _heard(server: socket.socket) -> tuple[Path, int] | None:
    """The folder of a run, and the pipe for its output; None: nobody asks any more."""
    text, fds, _, _ = socket.recv_fds(server, 65_536, 1)
    return (Path(text.decode()), fds[0]) if text else None


def _child(train: Callable[..., Any], path: Path, folder: Path, output: int) -> NoReturn:
    """One run, to the end of its process."""
    code = 1
    try:
        with contextlib.suppress(PermissionError):  # it is a group of its own already
            os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _train_in(folder, train, path)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        code = 0
    except OSError:  # a full disk, say
        traceback.print_exc()
    finally:
        os._exit(code)  # threads of the function are not waited for


def _train_in(folder: Path, train: Callable[..., Any], path: Path) -> None:
    """Calls a training function, takes what it gives, and writes that into the run's folder."""
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    taken, fault = _Taken(folder), None
    try:
        _seed(int(request["seed"]))
        guard = {GUARD: Guard()} if GUARD in inspect.signature(train).parameters else {}
        taken.take(train(**request["arguments"], **guard))
    except BaseException as error:  # noqa: BLE001  whatever a foreign function raises
        fault = sentence_of(error, path)
    try:
        arrays: dict[str, Any] = taken.arrays()
        np.savez(folder / ARRAYS, **arrays)
    except Exception as error:  # noqa: BLE001  a full disk, say
        fault = fault or f"what it gave cannot be kept: {one_line(error)}"
    said = {"fault": fault, "notes": taken.notes, "versions": _versions(path)}
    (folder / SAID).write_text(json.dumps(said), encoding="utf-8")


def _seed(seed: int) -> None:
    """Seeds the global random streams."""
    random.seed(seed)
    np.random.seed(seed)
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)


def _versions(path: Path) -> dict[str, str]:
    """The versions of what the file imports."""
    names = _names_imported(path)
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in names}
    return {name: str(version) for name, version in found.items() if isinstance(version, str)}


@functools.cache
def _names_imported(path: Path) -> tuple[str, ...]:
    try:
        return imports_of(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return ()


def sentence_of(error: BaseException, path: Path) -> str:
    """What an exception says, with the line of the user's file that it comes from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).parent == path.parent]
    if isinstance(error, MlpError):
        return one_line(error)
    kind = type(error).__name__
    said = f"{kind}: {one_line(error)}" if str(error) else kind
    if not own:
        return said
    frame = own[-1]
    return (
        f"{said} ({Path(frame.filename).name}, line {frame.lineno}: {one_line(frame.line or '')})"
    )


class _Taken:
    """What a training function gave.

    Attributes:
        notes: what could not be kept.
    """

    def __init__(self, folder: Path) -> None:
        self.notes: list[str] = []
        self._losses = (folder / LOSSES).open("wb", buffering=0)
        self._n_losses = 0
        self._series: dict[str, list[float]] = {}
        self._kept: dict[str, np.ndarray[Any, Any]] = {}

    def take(self, given: Any) -> None:
        """A generator is run to its end; else losses, or losses and arrays in any order."""
        if isinstance(given, Iterator):
            self._take_steps(given)
            return
        losses, arrays = _losses_and_arrays(given)
        rows = losses
        if isinstance(losses, Mapping):
            columns = {name: np.asarray(losses[name], np.float64).ravel() for name in losses}
            if len({column.size for column in columns.values()}) > 1:
                raise DataError("returned curves of different lengths")
            rows = [
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ]
        for row in rows:
            if not self._add(row):
                break
        self._keep(arrays)

    def _take_steps(self, steps: Iterator[Any]) -> None:
        while True:
            try:
                given = next(steps)
            except StopIteration as end:
                self._keep(end.value)
                return
            if not self._add(given):
                return

    def _add(self, given: Any) -> bool:
        """Takes one step; whether there is a next: a loss that is not finite is the last."""
        entry = self._n_losses
        values = given if isinstance(given, Mapping) else {"loss": given}
        if "loss" not in values:
            raise DataError(f"yielded {one_line(list(values))} at step {entry}, without a loss")
        loss = number_of(values["loss"], f"the loss at step {entry}")
        self._losses.write(struct.pack("<d", loss))
        self._n_losses += 1
        for given_name, value in values.items():
            name = _plain_name(str(given_name))
            if given_name == "loss" or (name not in self._series and not self._has_room(name)):
                continue
            series = self._series.setdefault(name, [])
            series += [np.nan] * (entry - len(series))
            series[entry:] = [number_of(value, f"{given_name} at step {entry}")]
        return bool(np.isfinite(loss))

    def _has_room(self, name: str) -> bool:
        if len(self._series) < _MOST_SERIES:
            return True
        self._note(f"{name} is not kept: there are {_MOST_SERIES} other curves")
        return False

    def _keep(self, given: Any) -> None:
        """Arrays by name; what is none is left out, with a word about it."""
        if given is None:
            return
        size = 0
        for given_name, value in _named(given):
            array, name = _array(value), _plain_name(given_name)
            if array is None:
                self._note(f"{name} is no array of numbers and is not kept")
                continue
            size += array.nbytes
            if size > _LARGEST_BYTES:
                self._note(f"{name} is not kept: all arrays are larger than 1 GB")
                break
            if name in self._kept or len(self._kept) >= _MOST_KEPT:
                why = "another has its name" if name in self._kept else f"there are {_MOST_KEPT}"
                self._note(f"{name} is not kept: {why}")
                continue
            self._kept[name] = array

    def _note(self, line: str) -> None:
        if len(self.notes) < _MOST_NOTES and line not in self.notes:
            self.notes.append(one_line(line))

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """All that is handed over beside the losses."""
        series = {
            f"series.{name}": np.array(values + [np.nan] * (self._n_losses - len(values)))
            for name, values in self._series.items()
        }
        return {**series, **{f"kept.{name}": array for name, array in self._kept.items()}}


def _losses_and_arrays(given: Any) -> tuple[Any, Any]:
    """What was returned, parted: the losses and, where there are two things, the rest."""
    if _is_losses(given):
        return given, None
    if isinstance(given, tuple) and len(given) == 2:
        for one, other in (given, given[::-1]):
            if _is_losses(one) and not _is_losses(other):
                return one, other
        if _is_losses(given[1]):  # (weights, losses), both rows of numbers
            return given[1], given[0]
    raise DataError(
        f"returned {type(given).__name__}; it must yield its losses, or return them as a sequence"
        " of numbers, alone or beside the weights"
    )


def _is_losses(given: Any) -> bool:
    if isinstance(given, Mapping):
        return "loss" in given and _is_losses(given["loss"])
    if isinstance(given, str | bytes) or not hasattr(given, "__len__"):
        return False
    if getattr(given, "ndim", 1) != 1 or len(given) == 0:
        return False
    return all(_is_number(value) for value in given)


def _is_number(value: Any) -> bool:
    try:
        number_of(value, "")
    except DataError:
        return False
    return True


def number_of(value: Any, what: str) -> float:
    """A number, a 0-d array or tensor, or one of a single entry, as a float."""
    if isinstance(value, bool | int | float):
        return float(value)
    array = _array(value)
    if array is None or array.size != 1:
        kind = f"an array of shape {list(array.shape)}" if array is not None else repr(value)
        raise DataError(f"{what} must be a number, but is {one_line(kind, most=80)}")
    return float(array.reshape(()))


def _array(value: Any) -> np.ndarray[Any, Any] | None:
    """A NumPy array of numbers; None of what is none."""
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except Exception:  # noqa: BLE001  whatever a foreign object raises
        return None
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        return None
    return array


def _named(given: Any, within: str = "", depth: int = 5) -> Iterator[tuple[str, Any]]:
    """What stands in dicts, lists and tuples, by the names and places of all that it stands in.

    Example:
        >>> [name for name, _ in _named({"first": (np.ones((2, 2)), np.zeros(3))})]
        ['first.0', 'first.1']
    """
    if hasattr(given, "state_dict"):  # a module of PyTorch
        with contextlib.suppress(Exception):  # then it is no array of numbers, which is said
            given = given.state_dict()
    is_list = isinstance(given, list | tuple) and _array(given) is None
    if not (isinstance(given, Mapping) or is_list) or not depth:
        yield within or "0", given
        return
    for name, value in given.items() if isinstance(given, Mapping) else enumerate(given):
        yield from _named(value, f"{within}.{name}" if within else str(name), depth - 1)


def _plain_name(name: str) -> str:
    """The name with what stands in names of files and of metrics, at most 100 characters."""
    plain = "".join(c if c.isalnum() or c in "_.-" else "_" for c in name)
    return plain.lstrip(".")[:100] or "_"


if __name__ == "__main__":
    main()
