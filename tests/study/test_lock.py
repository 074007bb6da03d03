"""One driver a study, and no lock that outlives its holder."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mlp.errors import BusyError, StoreError
from mlp.flow.lock import only_driver

HOLD = """
import sys
from pathlib import Path
from mlp.flow.lock import only_driver
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
    assert (tmp_path / "spool" / "study-1.lock").exists()
    with only_driver(tmp_path / "spool", "study-1"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_but_what_others_need(tmp_path: Path):
    folder = tmp_path / "spool"
    with only_driver(folder, "a"):
        (folder / "a" / "000001").mkdir(parents=True)
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"), only_driver(tmp_path / "file", "a"):
        pass
