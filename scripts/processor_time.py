"""Runs a command and says how much processor time it took, with all processes that it started.

    python scripts/processor_time.py COMMAND ...

Ends as the command does.
"""

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import time

_SET_CHILD_SUBREAPER = 36  # prctl's number for it, in linux/prctl.h


def main() -> int:
    # A process whose parent has ended becomes a child of this one, so that it is counted, too.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    started = time.monotonic()
    code = subprocess.run(sys.argv[1:], check=False).returncode
    taken_s = time.monotonic() - started
    wait_for_the_rest()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{taken_s:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of processor time")
    return code


def wait_for_the_rest(patience_s: float = 30) -> None:
    end = time.monotonic() + patience_s
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
