"""One driver a study, and a lock that ends with its holder."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from mlp.errors import BusyError, StoreError
from mlp.study.lock import holder_of, only_driver

HOLD = """
import sys
from pathlib import Path
from mlp.study.lock import only_driver
with only_driver(Path(sys.argv[1]), "study-1"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the study."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "spool")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_driver_is_told_who_holds_it(tmp_path: Path, holder: subprocess.Popen[str]):
    says = rf"study study-1 is held by process {holder.pid} on {socket.gethostname()} since 20\d\d"
    with pytest.raises(BusyError, match=says), only_driver(tmp_path / "spool", "study-1"):
        pass
    with only_driver(tmp_path / "spool", "study-2"):
        pass


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path, holder: subprocess.Popen[str]):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert holder_of(tmp_path / "spool", "study-1") is None
    with only_driver(tmp_path / "spool", "study-1"):
        assert f"process {os.getpid()} on " in str(holder_of(tmp_path / "spool", "study-1"))


@pytest.mark.parametrize("content", ['{"host": "a", "pid": 1, "since": "2026-01-01"}', "", "\xff"])
def test_file_of_before_does_no_harm(tmp_path: Path, content: str):
    (tmp_path / "a.lock").write_text(content, encoding="latin-1")
    assert holder_of(tmp_path, "a") is None
    with only_driver(tmp_path, "a"), pytest.raises(BusyError), only_driver(tmp_path, "a"):
        pass
    assert holder_of(tmp_path, "a") is None


def test_many_that_come_and_go_are_never_two_at_once(tmp_path: Path):
    n_inside, most, n_done = 0, 0, 0
    guard = threading.Lock()

    def drive():
        nonlocal n_inside, most, n_done
        while n_done < 50:
            with suppress(BusyError), only_driver(tmp_path / "spool", "a"):
                with guard:
                    n_inside += 1
                    most = max(most, n_inside)
                with guard:
                    n_inside -= 1
                    n_done += 1

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"), only_driver(tmp_path / "file", "a"):
        pass
