"""Sweeps of small NumPy networks, tracked, judged and explained.

The commands as functions, for notebooks and scripts: `run_study`, `rehearse_study`, `load_study`,
`draw_study` and `explain_study` for studies; `train_network`, `rerun_network`, `repair_run` and
`load_run` for single networks; `run_config` and `study_config` for their settings; `judge_curve`
for any loss, `Guard` while it trains, and `audit_gradient` for a gradient of one's own. A fault is
an `MlpError` with one sentence.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # "as": a type checker takes only such names for those of this package
    from mlp.audit.audit_gradient import audit_gradient as audit_gradient
    from mlp.curve import judge_curve as judge_curve
    from mlp.errors import MlpError as MlpError
    from mlp.explain.explain_study import explain_study as explain_study
    from mlp.explain.repair_run import repair_run as repair_run
    from mlp.guard import Guard as Guard
    from mlp.rerun import Rerun as Rerun
    from mlp.rerun import rerun_network as rerun_network
    from mlp.run import Run as Run
    from mlp.run import draw_study as draw_study
    from mlp.run import load_run as load_run
    from mlp.run import load_study as load_study
    from mlp.sweep.rehearsal import Rehearsal as Rehearsal
    from mlp.sweep.run_study import rehearse_study as rehearse_study
    from mlp.sweep.run_study import run_study as run_study
    from mlp.sweep.winner import StudyEnd as StudyEnd
    from mlp.terminal.compose import run_config as run_config
    from mlp.terminal.compose import study_config as study_config
    from mlp.train import train_network as train_network

import os
import signal
import sys

__version__ = "0.1.0"

_PLACES = {
    "Guard": "mlp.guard",
    "MlpError": "mlp.errors",
    "Rehearsal": "mlp.sweep.rehearsal",
    "Rerun": "mlp.rerun",
    "Run": "mlp.run",
    "StudyEnd": "mlp.sweep.winner",
    "audit_gradient": "mlp.audit.audit_gradient",
    "draw_study": "mlp.run",
    "explain_study": "mlp.explain.explain_study",
    "judge_curve": "mlp.curve",
    "load_run": "mlp.run",
    "load_study": "mlp.run",
    "rehearse_study": "mlp.sweep.run_study",
    "repair_run": "mlp.explain.repair_run",
    "rerun_network": "mlp.rerun",
    "run_config": "mlp.terminal.compose",
    "run_study": "mlp.sweep.run_study",
    "study_config": "mlp.terminal.compose",
    "train_network": "mlp.train",
}

__all__ = [*_PLACES]


if not TYPE_CHECKING:  # a type checker is to see the names above and no others

    def __getattr__(name: str) -> Any:
        """Imports what is asked for, and nothing before."""
        if name not in _PLACES:
            raise AttributeError(f"module 'mlp' has no attribute {name!r}")
        return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _end_at_once(number: int, _frame: object) -> None:
    os.write(2, f"ended by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m")[:4] == "mlp.":
    # A command is being started. Its imports take a second, in which Ctrl-C would show a traceback;
    # nothing is begun yet that had to be put in order. `mlp.terminal.console` takes over from here.
    for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(_number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(_number, _end_at_once)
