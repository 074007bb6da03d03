"""A user's own training function in real processes: what it gives, and what its faults cost.

All cases of `support.own_cases` train side by side, once, so that each also shows that no other
has cost it anything.
"""

import contextlib
import dataclasses
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from mlp.config import Execution
from mlp.curve import Verdict
from mlp.data.dataset import examples_for
from mlp.engine.result import Ending
from mlp.errors import DataError, MlpError, SettingError
from mlp.settings import read_run, with_settings
from mlp.tracking.record import curve_digest, weights_digest
from mlp.training import own_function
from mlp.training.train_runs import train_runs
from support import own_cases

CASES = Path(own_cases.__file__)
GIVEN = {  # case -> its losses, at a rate of 0.5
    "yields": [0.5, 0.25, 0.5 / 3, 0.125, 0.1, 0.5 / 6],
    "yields_names": [0.5] * 6,
    "returns_losses": [0.5] * 6,
    "returns_weights_first": [0.5] * 6,
    "returns_losses_first": [0.5] * 6,
    "returns_curves": [0.5] * 6,
    "prints": [1.0] * 6,
}
FAULTS = {  # case -> the losses up to there, and what is said
    "raises": ([1.0, 0.5], "KeyError: 'what is not there' (own_cases.py, line"),
    "raises_a_page": ([1.0], "ValueError: ?[2Jline line"),
    "crashes": ([1.0, 0.5, 0.25], "its process ended by SIGSEGV"),
    "leaves": ([1.0], "its process ended with exit code 7"),
    "exits": ([1.0], "SystemExit: enough (own_cases.py, line"),
    "hangs": ([1.0, 0.5], "it was ended after own.timeout_s=2 seconds"),
    "hangs_in_c": ([1.0], "it was ended after own.timeout_s=2 seconds"),
    "gives_none": ([1.0], "the loss at step 1 must be a number, but is None"),
    "gives_complex": ([], "the loss at step 0 must be a number, but is (1+2j)"),
    "gives_array": ([], "the loss at step 0 must be a number, but is an array of shape [3]"),
    "gives_text": ([], "returned str; it must yield its losses"),
    "gives_no_loss": ([], "yielded ['accuracy'] at step 0, without a loss"),
    "gives_nothing": ([], "it gave no loss"),
    "gives_unequal_curves": ([], "returned curves of different lengths"),
}
OTHERS = ("draws", "remembers", "diverges", "names_without_end", "leaves_children")


def written(folder, text=None, name="mine.py"):
    """A run of the function in a file."""
    file = folder / name
    shutil.copy(CASES, file) if text is None else file.write_text(text)
    return read_run({"own": {"file": str(file)}})


def trained(configs, threads=2, **options):
    _, data = examples_for(configs[0], notice=print)
    where = Execution(threads=threads)
    return train_runs(configs, data, where, **options)


def of_case(base, case, **values):
    limit = 2.0 if "hang" in case else 100.0
    base = dataclasses.replace(base, own=dataclasses.replace(base.own, timeout_s=limit))
    return with_settings(base, {"own.case": case, **values})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def records(folder):
    """Case -> its records; all trained by two workers, what does not hang twice in a row."""
    base = written(folder, name="own_cases.py")
    cases = [c for c in (*GIVEN, *FAULTS, *OTHERS) for _ in range(1 if "hang" in c else 2)]
    found = {}
    for case, record in zip(cases, trained([of_case(base, c) for c in cases]), strict=True):
        found.setdefault(case, []).append(record)
    return found


def test_every_case_is_tried():
    there = {n for n, v in vars(own_cases).items() if callable(v) and n not in ("Path", "train")}
    assert there == {*GIVEN, *FAULTS, *OTHERS}


@pytest.mark.parametrize("case", GIVEN)
def test_losses_come_in_any_usual_form(records, case):
    for record in records[case]:
        assert record.result.loss.tolist() == GIVEN[case]
        assert record.result.own.fault is None
        assert record.result.ending is Ending.COMPLETED


@pytest.mark.parametrize("case", FAULTS)
def test_fault_costs_its_own_run_and_keeps_the_losses_until_then(records, case):
    losses, said = FAULTS[case]
    for record in records[case]:
        result = record.result
        assert (result.loss[np.isfinite(result.loss)]).tolist() == losses
        assert said in result.own.fault
        assert result.own.fault.isprintable()
        assert len(result.own.fault) < 500
        assert (result.ending, record.judgement.verdict) == (Ending.FAILED, Verdict.FAILED)


def test_line_of_an_exception_is_the_users(records):
    lines = CASES.read_text().splitlines()
    number = 1 + next(i for i, line in enumerate(lines) if "what is not there" in line)
    said = f"(own_cases.py, line {number}: {lines[number - 1].strip()})"
    assert records["raises"][0].result.own.fault.endswith(said)


def test_curves_beside_the_loss_have_an_entry_for_each(records):
    series = records["yields_names"][0].result.own.series
    assert series["accuracy"].tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(series["late"], [0, np.nan, 2, np.nan, 4, np.nan])
    assert records["returns_curves"][0].result.own.series["accuracy"].tolist() == [*range(6)]


def test_arrays_are_kept_and_what_is_none_is_said(records):
    own = records["yields"][0].result.own
    assert {name: array.tolist() for name, array in own.kept.items()} == {
        "W": [[0.5] * 3] * 2,
        "b_1": [1, 2],
        "pairs.0.0": [[1] * 3] * 2,
        "pairs.0.1": [0] * 3,
        "pairs.1.W": [1] * 3,
    }
    assert own.notes == ("pairs.1.odd is no array of numbers and is not kept",)
    for case in ("returns_weights_first", "returns_losses_first"):
        [kept] = records[case][0].result.own.kept.values()
        assert (kept == 1).all()


def test_more_names_than_a_record_can_have_are_left_out_and_said(records):
    own = records["names_without_end"][0].result.own
    assert (len(own.series), len(own.kept)) == (100, 500)
    assert len(own.notes) == 10


def test_loss_that_is_not_finite_is_the_last_and_has_diverged(records):
    record = records["diverges"][0]
    np.testing.assert_array_equal(record.result.loss, [1, 2, np.nan])
    assert (record.result.ending, record.judgement.verdict) == (
        Ending.NON_FINITE,
        Verdict.DIVERGED,
    )


def test_only_the_end_of_a_print_storm_is_kept(records):
    printed = records["prints"][0].result.own.printed
    assert printed.endswith("x\nthe end\n")
    assert len(printed) == 4000


def test_file_is_imported_once_for_all_runs(records, folder):
    assert (folder / "imported.txt").read_text() == "once\n"


def test_no_run_sees_what_another_left_in_the_module(records):
    for record in records["remembers"]:
        assert record.result.loss.tolist() == [1.0] * 6


def test_what_a_run_started_ends_with_it(records):
    for record in records["leaves_children"]:
        pid = int(record.result.loss[0])
        assert not is_running(pid)


def is_running(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def test_global_streams_are_seeded_and_order_and_workers_change_no_bit(records, folder, tmp_path):
    base = written(tmp_path, name="own_cases.py")
    seeds = [{"training.seed": seed} for seed in (3, 0, 1)]
    configs = [of_case(base, "draws", **seed) for seed in seeds]
    one = trained([*configs, of_case(base, "yields")], threads=1)
    same = records["draws"]
    assert curve_digest(same[0].result) == curve_digest(same[1].result)
    assert curve_digest(one[1].result) == curve_digest(same[0].result)
    assert len({curve_digest(record.result) for record in one[:3]}) == 3
    assert weights_digest(one[3].result) == weights_digest(records["yields"][0].result)
    assert curve_digest(one[3].result) == curve_digest(records["yields"][0].result)


def test_versions_and_text_are_recorded(records):
    own = records["yields"][0].result.own
    assert own.source == CASES.read_text()
    assert ("numpy", np.__version__) in own.versions


def test_progress_tells_shares_and_losses(tmp_path):
    text = (
        "import time\n"
        "def train(steps=20):\n"
        "    for step in range(steps):\n"
        "        time.sleep(0.05)\n"
        "        yield 0.5\n"
    )
    told = []
    trained([written(tmp_path, text)], progress=lambda share, losses: told.append((share, losses)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert any(0 < share < 1 for share in shares)
    assert any(0.5 in losses for _, losses in told)


THREADS = """
import os, queue, threading, time
asked, answered = queue.Queue(), queue.Queue()
def work():
    while True:
        answered.put(asked.get() ** 2)
threading.Thread(target=work, daemon=True).start()
def train(rate=0.5, hangs=False):
    for step in range(3):
        asked.put(rate)
        yield answered.get(timeout=20)
    yield float(os.getpid())
    if hangs:
        time.sleep(1000)
"""


def test_threads_that_the_import_has_started_are_there_in_each_run(tmp_path):
    base = written(tmp_path, THREADS)
    base = dataclasses.replace(base, own=dataclasses.replace(base.own, timeout_s=3.0))
    configs = [with_settings(base, {"own.rate": 3.0}), with_settings(base, {"own.hangs": True})]
    calm, hanging = trained(configs)
    assert calm.result.loss[:3].tolist() == [9.0] * 3
    assert calm.result.own.fault is None
    assert hanging.result.own.fault == "it was ended after own.timeout_s=3 seconds"
    assert calm.result.loss[3] != hanging.result.loss[3]  # a process each
    assert not is_running(int(hanging.result.loss[3]))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 / 0", r"cannot be trained: ZeroDivisionError: division by zero \(mine.py, line 2"),
        ("import os; os._exit(3)", "importing mine.py ended its process with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "importing mine.py ended its process by SIGKILL"),
        ("import nowhere_at_all", "ModuleNotFoundError"),
        ("del train", "AttributeError"),
        ("import time; time.sleep(1000)", "mine.py is still being imported after"),
    ],
)
def test_file_that_cannot_be_imported_is_one_sentence(tmp_path, monkeypatch, line, said):
    monkeypatch.setattr(own_function, "IMPORT_S", 2.0)
    base = written(tmp_path, f"def train(): yield 1.0\n{line}\n")
    base = dataclasses.replace(base, own=dataclasses.replace(base.own, timeout_s=1.0))
    with pytest.raises(DataError, match=said):
        trained([base] * 3)


def test_run_that_kills_what_it_was_forked_from_costs_no_later_run(tmp_path):
    text = (
        "import contextlib, os, time\n"
        "here = os.getpid()\n"  # not the parent of a run: that may be whoever takes in orphans
        "def train(rate=1.0):\n"
        "    yield rate\n"
        "    if rate == 2.0:\n"
        "        with contextlib.suppress(ProcessLookupError):\n"
        "            os.kill(here, 9)\n"
        "        time.sleep(1000)\n"
        "    yield rate\n"
    )
    base = written(tmp_path, text)
    configs = [with_settings(base, {"own.rate": rate}) for rate in (2.0, 2.0, 1.0)]
    *killed, calm = trained(configs)
    assert {r.result.own.fault.split(",")[0] for r in killed} == {"its process ended by SIGKILL"}
    assert calm.result.loss.tolist() == [1.0, 1.0]


def test_file_that_was_changed_meanwhile_is_not_trained(tmp_path):
    base = written(tmp_path, "def train(): yield 1.0\n")
    Path(base.own.path).write_text("def train(): yield 2.0\n")
    with pytest.raises(DataError, match=r"mine\.py was changed meanwhile; type the command again"):
        trained([base])


def test_file_that_trains_while_it_is_imported_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MLP_OWN_WORKER", "1")
    with pytest.raises(SettingError, match="below if __name__ == '__main__'"):
        trained([written(tmp_path, "def train(): yield 1.0\n")])


def test_nothing_is_left_when_the_training_is_interrupted(tmp_path):
    text = (
        "import os, subprocess, time\n"
        "def train():\n"
        "    child = subprocess.Popen(['sleep', '1000'])\n"
        "    open('pids', 'a').write(f'{os.getpid()} {os.getppid()} {child.pid}\\n')\n"
        "    yield 1.0\n"
        "    time.sleep(1000)\n"
    )
    base, pids = written(tmp_path, text), tmp_path / "pids"
    before = open_files()

    def stop(*_):
        if pids.exists() and pids.read_text().count("\n") == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained([base] * 3, progress=stop)
    seen = [int(pid) for pid in pids.read_text().split()]
    assert len(set(seen)) == 5  # two runs, their one parent, a child of each
    end = time.monotonic() + 5
    while any(map(is_running, seen)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(is_running, seen))
    assert open_files() == before


def open_files():
    return len([*Path("/proc/self/fd").iterdir()])


def test_no_file_stays_open_and_no_folder_is_left(tmp_path, only_here):
    base = written(tmp_path, "def train(rate=1.0):\n    yield rate\n")
    trained([base])
    before = open_files()
    trained([base] * 5)
    assert open_files() == before
    assert list(only_here.iterdir()) == []


def test_run_of_a_record_is_not_trained(tmp_path):
    base = written(tmp_path, "def train(): yield 1.0\n")
    base = dataclasses.replace(base, own=dataclasses.replace(base.own, path=None))
    with pytest.raises(
        MlpError, match=r"what a record says is not executed; name the file: own\.f"
    ):
        trained([base])


def test_functions_of_two_files_in_one_call_are_not_mixed_up(tmp_path):
    one = written(tmp_path, "def train(): yield 1.0\ndef other(): yield 2.0\n")
    two = read_run({"own": {"file": f"{tmp_path}/mine.py:other"}})
    results = [record.result.loss.tolist() for record in trained([one, two, one])]
    assert results == [[1.0], [2.0], [1.0]]


def test_own_file_may_be_called_as_the_package_or_a_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mlp.py", "numpy.py"):
        base = written(tmp_path, "def train(): yield 1.0\n", name)
        [record] = trained([base])
        assert record.result.own.fault is None
        assert record.result.loss.tolist() == [1.0]
