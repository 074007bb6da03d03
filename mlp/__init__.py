"""Sweeps of small NumPy networks, tracked, judged and explained."""

import os
import signal
import sys

__version__ = "0.1.0"


def _end_at_once(number: int, _frame: object) -> None:
    os.write(2, f"ended by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)].removeprefix("-m")[:4] == "mlp.":
    # A command is being started. Its imports take a second, in which Ctrl-C would show a traceback;
    # nothing is begun yet that had to be put in order. `mlp.terminal.console` takes over from here.
    for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(_number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(_number, _end_at_once)
