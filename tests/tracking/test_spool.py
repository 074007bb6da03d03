"""A finished trial is in the spool whole or not at all."""

import os
import shutil
import signal
import subprocess
import sys
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp.errors import RecordError, StoreError
from mlp.tracking import record, spool
from mlp.tracking.listing import Label, StudyPage, read_listing
from support.sample_records import make_record
from support.sweeping import environment_of_commands, run_script

LABEL = Label("#0", {"mlp.study": "s"})


def put(folder, number, made, seed=0):
    place = spool.place_of(folder, number, seed)
    spool.put({place: (made, LABEL)})
    return place


def test_trial_comes_back_and_goes(tmp_path):
    study = tmp_path / "optuna.db.spool" / "study"
    made = make_record({"model.widths": [5, 4]})
    place = put(study, 12, made)
    assert spool.waiting_in(study) == {(12, 0): place}
    assert record.config_json(record.read_record(place)) == record.config_json(made)
    assert read_listing(place).name == "#0"
    spool.drop(place)
    spool.clear(study)
    assert list(tmp_path.iterdir()) == []


def test_trials_wait_in_the_order_of_their_numbers(tmp_path):
    for number in (1_000_000, 3, 20, 100):
        put(tmp_path, number, make_record())
    assert [number for number, _ in spool.waiting_in(tmp_path)] == [3, 20, 100, 1_000_000]


def test_a_fork_keeps_runs_as_well(tmp_path):
    """Without the threads that flush the files of its parent."""
    put(tmp_path, 0, make_record())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, for the threads
        pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            put(tmp_path, 1, make_record())
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [number for number, _ in spool.waiting_in(tmp_path)] == [0, 1]


def test_spool_that_is_not_there_is_empty(tmp_path):
    assert spool.waiting_in(tmp_path / "nowhere") == {}
    spool.drop(tmp_path / "nowhere" / "000001")


def test_last_trial_takes_its_study_but_not_the_other_one_along(tmp_path):
    ours, theirs = tmp_path / "spool" / "ours", tmp_path / "spool" / "theirs"
    spool.put_page(ours, StudyPage("ours", "ours", {}, ""))
    kept = put(theirs, 0, make_record())
    last = put(ours, 0, make_record())
    spool.clear(ours)
    assert last.is_dir()
    spool.drop(last)
    spool.clear(ours)
    assert not ours.exists()
    spool.clear(theirs)
    assert kept.is_dir()


def test_folder_that_is_no_spool_stays(tmp_path):
    spool.clear(tmp_path / "here" / "runs.spool")
    (tmp_path / "here" / "runs.spool").mkdir(parents=True)
    spool.clear(tmp_path / "here" / "runs.spool")
    assert list((tmp_path / "here").iterdir()) == []


def test_page_of_a_study_comes_back(tmp_path):
    page = StudyPage("s", "s-1", {"study": {"seed": 3, "space": {"a": [0.5, None]}}}, "**note**")
    spool.put_page(tmp_path / "s", page)
    assert spool.page_of(tmp_path / "s") == page
    assert spool.waiting_in(tmp_path / "s") == {}
    with pytest.raises(RecordError, match=r"study\.json is missing"):
        spool.page_of(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1, "tags": {}}', '{"name": "a"'])
def test_damaged_listing_is_a_record_error(tmp_path, text):
    place = put(tmp_path, 0, make_record())
    (place / "listing.json").write_text(text)
    with pytest.raises(RecordError, match=r"listing\.json cannot be used"):
        read_listing(place)


def test_networks_of_further_seeds_wait_behind_their_trial(tmp_path):
    for number, seed in ((4, 2), (4, 0), (3, 1), (4, 1)):
        put(tmp_path, number, make_record(), seed)
    assert [*spool.waiting_in(tmp_path)] == [(3, 1), (4, 0), (4, 1), (4, 2)]


def test_putting_again_replaces(tmp_path):
    put(tmp_path, 0, make_record())
    place = put(tmp_path, 0, make_record({"training.seed": 9}))
    assert record.read_record(place).config.training.seed == 9


def test_half_written_trial_is_not_waiting_and_does_not_stay(tmp_path):
    (tmp_path / "000000.part").mkdir()
    (tmp_path / "000000.part" / "weights.npz").write_bytes(b"half")
    assert spool.waiting_in(tmp_path) == {}
    place = put(tmp_path, 0, make_record())
    assert [file.name for file in tmp_path.iterdir()] == ["000000"]
    record.read_record(place)


@pytest.mark.parametrize(
    ("last", "whole"), [*((n, []) for n in (3, 13, 29)), (30, [0]), (31, [0, 1])]
)
def test_killed_writer_leaves_whole_trials_or_none(tmp_path, last, whole):
    """It dies as it makes a folder, opens a file to write or flush it, or renames a folder."""
    script = f"""
import os, sys
from pathlib import Path
from support.sample_records import make_record
from mlp.tracking import spool
from mlp.tracking.listing import Label
made, n = make_record(), 0
def die_at(event, args):
    global n
    if event in ("open", "os.rename", "os.mkdir") and {str(tmp_path)!r} in str(args[0]):
        n += 1
        if n == {last}:
            os._exit(9)
sys.addaudithook(die_at)
places = [spool.place_of(Path({str(tmp_path)!r}), number) for number in (0, 1)]
spool.put(dict.fromkeys(places, (made, Label("#0", {{}}))))
"""
    done = run_script(script)
    assert done.returncode == 9, done.stderr
    waiting = spool.waiting_in(tmp_path).items()
    assert [number for (number, _), place in waiting if record.read_record(place)] == whole
    record.read_record(put(tmp_path, 0, make_record()))


@settings(max_examples=16)
@given(
    file=st.sampled_from(["config.json", "curve.npz", "weights.npz", "record.json"]), data=st.data()
)
def test_damage_is_a_record_error_or_does_no_harm(tmp_path_factory, file, data):
    place = put(tmp_path_factory.mktemp("spool"), 0, make_record())
    content = (place / file).read_bytes()
    cut = data.draw(st.integers(0, len(content) - 1))
    (place / file).write_bytes(content[:cut])
    with pytest.raises(RecordError, match=file):
        record.read_record(place)


def test_missing_file_is_a_record_error(tmp_path):
    place = put(tmp_path, 0, make_record())
    (place / "curve.npz").unlink()
    with pytest.raises(RecordError, match=r"curve\.npz"):
        record.read_record(place)


def test_folder_that_cannot_be_made_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to .*: Not a directory"):
        put(tmp_path / "file" / "study", 0, make_record())


def test_spool_lies_beside_the_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert spool.folder_of("sqlite:///here/o.db").name == "o.db.spool"
    assert spool.folder_of("sqlite:///here/o.db").parent.name == "here"
    assert spool.folder_of("postgresql://db/optuna") == tmp_path / "optuna.spool"


def test_runs_of_a_process_that_lives_are_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = """
import sys
from mlp.tracking import spool
from mlp.tracking.listing import Label
from support.sample_records import make_record
spool.put_single((make_record(), Label("a run", {})))
print("kept", flush=True)
sys.stdin.read()
"""
    tests = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
    environment = environment_of_commands()
    environment["PYTHONPATH"] += os.pathsep + tests
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "kept\n"
        mine = spool.put_single((make_record(), LABEL))
        assert spool.left_behind() == [mine]
        process.kill()
    assert len(spool.left_behind()) == 2
    for each in spool.left_behind():
        spool.drop(each)
    spool.leave(spool.folder_of_runs())
    # The lock of a process that was killed goes when it is old enough to be sure.
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] in ([], [".lock"])


def test_a_run_is_kept_elsewhere_where_nothing_can_be_written_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs.spool").write_text("in the way")
    place = spool.put_single((make_record(), LABEL))
    assert tmp_path not in place.parents
    assert record.read_record(place).started_ms == make_record().started_ms
    shutil.rmtree(place.parent)
