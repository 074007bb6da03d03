"""An audit in a process of its own: whatever the user's file does, it costs one sentence."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mlp.errors import DataError, MissingInputError, MlpError, SettingError

_GRACE_S = 3.0  # beyond the deadline, for code that hears no signal


def audit_file(path: Path, typed: Mapping[str, str], *, timeout_s: float) -> dict[str, Any]:
    """The audit of a file as plain values: `said`, and the fields of an `Audit`.

    Args:
        typed: what of the file is what, such as gradient=backprop.

    Raises:
        MissingInputError: for no such file.
        MlpError: for a file that fails, hangs or ends the process.
    """
    if not path.is_file():
        raise MissingInputError(f"there is no file {path}")
    here = str(Path(__file__).resolve().parents[2])
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    words = [sys.executable, "-m", "mlp.audit.own_process"]
    with subprocess.Popen(
        [*words, str(path.resolve()), str(timeout_s), json.dumps(dict(typed))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "MPLBACKEND": "Agg"},
    ) as child:
        try:
            report, _ = child.communicate(timeout=timeout_s + _GRACE_S)
        except subprocess.TimeoutExpired:
            raise DataError(_too_late(path.name, timeout_s)) from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    code = child.returncode
    if not report:
        ended = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        raise DataError(f"{path.name} ended its process {ended} while it was audited")
    found: dict[str, Any] = json.loads(report)
    if "fault" in found:
        raise {kind.__name__: kind for kind in (SettingError, DataError)}.get(
            found["kind"], MlpError
        )(found["fault"])
    return found


def _too_late(name: str, timeout_s: float, line: int | None = None, text: str = "") -> str:
    where = f" at line {line} ({text})" if line else ""
    return (
        f"{name} was still busy{where} after {timeout_s:g} s; put what trains below"
        " if __name__ == '__main__', name the functions (gradient=NAME loss=NAME), or wait longer"
        " (timeout_s=600)"
    )


class _OverdueError(BaseException):
    """The deadline; not for the file's own `except Exception`."""


def _overdue(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _OverdueError


def main() -> None:
    """The child: audits, and writes what it found to where its output went at first."""
    path, timeout_s, typed = Path(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])
    pipe = os.dup(sys.stdout.fileno())
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())  # prints of the file, also without end
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, _overdue)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    sys.argv[:] = [str(path)]
    try:
        found = audit_here(path, typed)
    except MlpError as error:
        found = {"fault": str(error), "kind": type(error).__name__}
    except BaseException as error:  # noqa: BLE001  whatever a foreign file raises, sys.exit included
        found = {"fault": _sentence(path, error, timeout_s), "kind": "DataError"}
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.write(pipe, json.dumps(found).encode())
    os._exit(0)  # threads of the file are not waited for


def audit_here(path: Path, typed: Mapping[str, str]) -> dict[str, Any]:
    """The same in this process, whose folder, search path and warnings it changes."""
    import warnings

    import numpy as np

    from mlp.audit.audit_gradient import audit_program
    from mlp.audit.own_file import parse_own_file
    from mlp.audit.ways_in import find_way_in

    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from None
    program, names = find_way_in(parse_own_file(path, text), typed)
    return {"said": names.said, **dataclasses.asdict(audit_program(program, names))}


def _sentence(path: Path, error: BaseException, timeout_s: float) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line, text = (frames[-1].lineno, frames[-1].line or "") if frames else (None, "")
    if isinstance(error, _OverdueError):
        return _too_late(path.name, timeout_s, line, text)
    from mlp.audit.own_file import told

    where = f"line {line} ({text})" if line else "the audit"
    return f"{path.name}: {where} raises {told(error)}"


if __name__ == "__main__":
    main()
