"""Commands with a user's own function, as they are typed, stopped and killed."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support import own_descent
from support.sweeping import cold_command, command, start, table, tracked

GRID = "own: {file: mine.py}\nstudy:\n  n_trials: 8\n  sampler: grid\n  generation: 4\n"
SPACE = "  space:\n    own.rate: [0.1, 0.5, 4.0, 8.0]\n    own.label: [a, b]\n"
HANGING = """
import os, subprocess, time
def train(rate=0.5, waits=30.0):
    child = subprocess.Popen(["sleep", "1000"])
    with open("pids", "a") as file:
        file.write(f"{os.getpid()} {os.getppid()} {child.pid}\\n")
    yield rate
    time.sleep(waits)
    child.kill()
    yield rate / 2
"""


@pytest.fixture
def mine(here) -> Path:
    """A folder with a file, and a study of it."""
    shutil.copy(own_descent.__file__, here / "mine.py")
    (here / "sweeps").mkdir()
    (here / "sweeps" / "ours.yaml").write_text(GRID + SPACE)
    return here


def is_running(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def all_gone(pids, *, patience_s=20):
    end = time.monotonic() + patience_s
    while any(map(is_running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(is_running, pids))


def seen_in(folder, n_runs):
    """Ids of the processes of that many runs, once they are all at work."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            text = (folder / "pids").read_text()
            if text.count("\n") >= n_runs:
                return [int(pid) for pid in text.split()]
        time.sleep(0.05)
    raise AssertionError("no run began")


def typed(*words, by=command):
    done = by(*words, MLFLOW_TRACKING_URI="")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def run_of(said):
    found = re.search(r"^run (\w{32})", said, re.MULTILINE)
    assert found is not None
    return found[1]


def answer_of(said):
    """The sentences on the cause, between two empty lines."""
    _, answer, _ = said.split("\n\n")
    return answer


def test_every_command_of_a_session(mine):
    said = typed("train", "own.file=mine.py", "own.rate=4", by=cold_command)
    assert said.startswith("oscillating: ")
    swinging = run_of(said)
    assert f"python -m mlp.explain {swinging} own.file=mine.py" in said
    assert f"python -m mlp.rerun {swinging} own.file=mine.py" in said
    again = typed("rerun", swinging, "own.file=mine.py")
    assert "identical: 200 losses, 1 weights, bit for bit" in again
    lower = typed("rerun", swinging, "own.file=mine.py", "own.rate=0.5")
    assert "own.rate 4.0 -> 0.5" in lower
    assert "verdict oscillating -> converged" in lower
    repaired = typed("explain", swinging, "own.file=mine.py", "explain.seeds=2")
    assert "own.rate" in repaired
    at_once = typed("explain", "mine.py", "own.rate=4", "explain.seeds=2")
    assert answer_of(at_once) == answer_of(repaired)
    further = typed("explain", "mine.py", "own.rate=4", "explain.seeds=2")
    assert f"run {run_of(at_once)} of before is explained" in further
    assert answer_of(further) == answer_of(repaired)
    refused = command("explain", swinging, "own.file=mine.py", "own.rate=4")
    assert "own.rate is read from the runs that are explained" in refused.stderr
    dry = typed("sweep", "sweeps=ours", "study.dry_run=true")
    assert "a dry run: nothing was stored" in dry
    assert "own.rate" in dry
    swept = typed("sweep", "sweeps=ours")
    assert "8/8 trials" in swept
    assert "own.rate" in swept
    [study] = re.findall(r"^study (\S+) \(new\)", swept, re.MULTILINE)
    assert "own.rate" in typed("explain", study, "explain.interventions=2")
    assert "oscillating" in typed("judge", swinging)
    doctor = command("doctor", "sweeps=ours")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


REFUSED = {  # words -> exit code, and what is said
    ("train", "own.file=nowhere.py"): (66, "there is no file"),
    ("train", "own.file=mine.txt"): (2, "own.file must be FILE.py or FILE.py:FUNCTION"),
    ("train", "own.file=mine.py", "own.rat=1"): (2, "did you mean 'own.rate'?"),
    ("train", "own.file=mine.py", "model.depth=3"): (2, "model.depth is of the built-in network"),
    ("train", "own.rate=1"): (2, "own.rate needs own.file=FILE.py"),
    ("train", "own.file=broken.py"): (65, "broken.py is no Python: line 1"),
    ("train", "own.file=raises.py"): (65, "ZeroDivisionError: division by zero (raises.py, line"),
    ("train", "own.file=mine.py", "own.timeout_s=0"): (2, "own.timeout_s must be greater than 0"),
    ("explain", "nowhere.py"): (66, "there is no file"),
    ("explain", "mine.py", "model.depth=3"): (2, "model.depth is of the built-in network"),
    ("explain", "raises.py"): (65, "ZeroDivisionError: division by zero (raises.py, line"),
    ("sweep", "sweeps=accuracy", "own.file=mine.py"): (2, "varies the arguments of your function"),
    ("sweep", "sweeps=ours", "study.objective=scor"): (2, "(loss, score), but is 'scor'"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_trained_is_one_sentence(mine, words):
    Path("broken.py").write_text("def train(:")
    Path("raises.py").write_text("def train(): yield 1.0\n1 / 0\n")
    code, said = REFUSED[words]
    done = command(*words)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_command_and_all_that_it_started(here, number):
    Path("mine.py").write_text(HANGING)
    process = start("train", "own.file=mine.py", cwd=here)
    pids = seen_in(here, 1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (128 + number, -number)
    assert "Traceback" not in errors
    assert all_gone(pids)


def test_killed_driver_takes_all_processes_with_it(here):
    Path("mine.py").write_text(HANGING)
    space = "+study.space.own.rate=[0.1,0.5]"
    process = start(
        "sweep", "sweeps=own", "own.file=mine.py", space, "study.n_trials=2", "execution.threads=2",
        cwd=here,
    )  # fmt: skip
    pids = seen_in(here, 2)
    process.kill()
    process.communicate()
    assert all_gone(pids)


@pytest.mark.parametrize("text", ["import time\ntime.sleep(1000)\ndef train(): yield 1.0\n"])
def test_killed_driver_takes_an_import_that_hangs_with_it(here, text):
    Path("mine.py").write_text("import os\nopen('pids', 'w').write(f'{os.getpid()}\\n')\n" + text)
    process = start("train", "own.file=mine.py", cwd=here)
    pids = seen_in(here, 1)
    process.kill()
    process.communicate()
    assert all_gone(pids)


def test_killed_driver_takes_a_run_without_a_fork_with_it(here):
    threads = (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    Path("mine.py").write_text(threads + HANGING)
    process = start("train", "own.file=mine.py", cwd=here)
    run, _, child = seen_in(here, 1)
    process.kill()
    process.communicate()
    assert all_gone([run])
    os.kill(child, signal.SIGKILL)  # which only the driver would have ended


def test_sweep_that_is_killed_and_gone_on_with_gives_the_same(mine, tmp_path, made_store):
    counted = "    open('calls', 'a').write('x'); import time; time.sleep(0.3)\n    x = start"
    Path("mine.py").write_text(Path("mine.py").read_text().replace("    x = start", counted))
    whole = tmp_path / "whole"
    shutil.copytree(mine / "sweeps", whole / "sweeps")
    shutil.copy(mine / "mine.py", whole)
    shutil.copy(made_store, whole / "mlflow.db")
    words = ("sweep", "sweeps=ours", "study.explain=false", "execution.threads=1")
    assert command(*words, cwd=whole).returncode == 0
    for n_begun in (2, 6):
        process = start(*words, cwd=mine, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while not has_begun(mine, n_begun) and time.monotonic() < end:
            time.sleep(0.02)
        assert process.poll() is None
        process.kill()
        process.communicate()
    done = command(*words, cwd=mine)
    assert "(continued)" in done.stdout
    assert table(mine) == table(whole)


def has_begun(folder, n_runs):
    calls = folder / "calls"
    return calls.exists() and calls.stat().st_size >= n_runs


def test_hanging_trials_cost_themselves(mine):
    text = Path("mine.py").read_text() + "    import time\n"
    text = text.replace(
        "    x = start", '    import time\n    time.sleep(1000 * (label == "b"))\n    x = start'
    )
    Path("mine.py").write_text(text)
    done = command("sweep", "sweeps=ours", "own.timeout_s=2", "study.explain=false")
    assert done.returncode == 0, done.stderr
    assert "is the first of" in done.stdout + done.stderr
    rows = table(mine)
    assert {(row.params["own.label"], row.verdict == "failed") for row in rows} == {
        ("a", False),
        ("b", True),
    }
    faults = {run.tags.get("mlp.own.fault") for run in tracked(mine) if "mlp.trial" in run.tags}
    assert faults == {None, "it was ended after own.timeout_s=2 seconds"}


def test_explain_tries_a_function_again_that_failed_and_goes_on_with_one_that_did_not(
    here, monkeypatch
):
    text = "def train(rate=0.1, eta=0.1, seed=0):\n    if Path('full').exists():\n        1 / 0\n"
    text += "    for i in range(60):\n        yield 1 / (1 + i)\n"
    Path("mine.py").write_text(f"from pathlib import Path\n\n\n{text}")
    for typed in ("explain.verdict=stalled", "metric=other", "map.lr=own.rate"):
        refused = command("explain", "mine.py", typed)
        assert refused.returncode == 2, refused.stderr
    assert tracked(here) == []
    Path("full").touch()
    failed = command("explain", "mine.py")
    assert "division by zero" in failed.stdout, failed.stderr
    Path("full").unlink()
    well = command("explain", "mine.py")
    assert "this run ends well" in well.stdout, well.stderr
    again = command("explain", "mine.py")
    assert "of before is explained" in again.stdout, again.stderr
    assert len(tracked(here)) == 2
    other = command("explain", "mine.py", "own.roles={learning_rate: eta}")
    assert "of before is explained" not in other.stdout, other.stderr
    assert len(tracked(here)) == 3
    monkeypatch.setenv("MLP_DATA_ROOT", str(here))  # where its examples may come from
    there = command("explain", "mine.py")
    assert "of before is explained" not in there.stdout, there.stderr
    assert len(tracked(here)) == 4
