"""Runs a command and says how much processor time it took, with all processes that it started.

    python scripts/processor_time.py SECONDS COMMAND ...

Ends as the command does, or with 1 where it took more than SECONDS.
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
    most_s, *command = sys.argv[1:]
    # A process whose parent has ended becomes a child of this one, so that it is counted, too.
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    code = subprocess.run(command, check=False).returncode
    wait_for_the_rest()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = used.ru_utime + used.ru_stime
    is_over = used_s > float(most_s)
    print(f"{used_s:.0f} s of processor time, {'more than' if is_over else 'of'} {most_s} s")
    return code or int(is_over)


def wait_for_the_rest(patience_s: float = 30) -> None:
    end = time.monotonic() + patience_s
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < end:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
