"""What is wrong around the sweeps of a folder is found, said, and mended if that does no harm."""

import io
import re
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest
from mlflow import MlflowClient
from numba import cuda

from mlp.config import Tracking
from mlp.doctor import run_doctor
from mlp.errors import StoreError
from mlp.settings import read_sweep
from mlp.study.lock import only_driver
from mlp.tracking import spool
from mlp.tracking.listing import Label, StudyPage, label_of_trial
from mlp.tracking.store import open_store
from support.sample_records import make_record
from support.sweeping import (
    SMOKE,
    command,
    composed,
    environment_of_commands,
    left_in,
    parent,
    plain,
    sweep,
    table,
    tracked,
    unpublished_sweep,
)


def doctor(*overrides, fix=False) -> tuple[bool, str]:
    config = read_sweep(composed("sweep", *SMOKE, *overrides))
    said = io.StringIO()
    is_well = run_doctor(config, plain(said), fix=fix)
    return is_well, said.getvalue()


@pytest.mark.skipif(cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_found():
    is_well, said = doctor("execution.engine=cuda")
    assert not is_well
    assert "needs numba-cuda" in said or "no NVIDIA GPU is found" in said


def wrong(said: str) -> list[str]:
    return re.findall(r"^wrong ([\w ]+):", said, re.MULTILINE)


# All is well


def test_empty_folder_is_healthy_and_stays_empty(tmp_path):
    done = command("doctor", "data=digits", cwd=tmp_path, MLFLOW_TRACKING_URI="")
    assert (done.returncode, done.stderr) == (0, "")
    looked_at = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert looked_at == [
        "ok    study store",
        "ok    tracking store",
        "ok    spool",
        "ok    locks",
        "ok    data",
        "ok    free space",
        "ok    versions",
        "ok    threads",
        "ok    engine",
    ]
    assert left_in(tmp_path) == set()


def test_finished_study_is_healthy(swept):
    is_well, said = doctor()
    assert is_well, said
    assert "sqlite:///optuna.db holds 1 study, 4 trials" in said
    assert re.search(r"tracking store: sqlite:///\S.*mlflow.db can be used", said)
    assert "runs in progress: none is left over" in said
    before, files = table(swept), left_in(swept)
    assert doctor("tracking.experiment=other", fix=True) == (True, said)
    assert (table(swept), left_in(swept)) == (before, files)
    experiments = MlflowClient(f"sqlite:///{swept}/mlflow.db").search_experiments()
    assert "other" not in {found.name for found in experiments}


def test_looking_where_nothing_is_imports_no_mlflow(here):
    (here / "mlflow.db").unlink()
    script = (
        "import sys; sys.argv = ['doctor', 'data=digits']; from mlp import doctor; doctor.main(); "
        "print('mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment_of_commands(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(
    ("argument", "code", "message"),
    [
        ("fix=yes", 2, "error: fix must be true or false, but there is 'fix=yes'\n"),
        # An address that cannot work is a finding.
        ("tracking.uri=mlruns", 1, "wrong tracking store: tracking.uri must be an SQLite file"),
        ("--help", 0, "python -m mlp.doctor fix=true"),
    ],
)
def test_what_is_typed(tmp_path, argument, code, message):
    done = command("doctor", argument, "data=digits", cwd=tmp_path, MLFLOW_TRACKING_URI="")
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert left_in(tmp_path) == set()


# What waits for MLflow


def test_spool_is_published_once(here, monkeypatch):
    monkeypatch.setattr("mlp.errors.PATIENCE_S", 0.1)
    unpublished_sweep("tracking.uri=http://127.0.0.1:1")
    is_well, said = doctor()
    assert not is_well
    assert wrong(said) == ["spool"]
    assert re.search(r"4 runs of smoke-\w+ wait for MLflow\n.*mlp\.doctor fix=true", said)
    assert tracked(here) == []
    is_well, said = doctor(fix=True)
    assert is_well
    assert "fixed spool: 4 runs published" in said
    assert [row.status for row in table(here)] == ["FINISHED"] * 4
    assert doctor()[0]
    assert left_in(here) == {"mlflow.db", "mlruns", "optuna.db"}
    before = table(here)
    sweep()
    assert table(here) == before
    assert parent(here).status == "FINISHED"


def test_trial_that_the_study_lacks_waits_for_the_sweep(here, monkeypatch):
    """Killed between the spool and the search."""

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlp.study.search.tell", stop)
        with pytest.raises(KeyboardInterrupt):
            sweep()
    _, said = doctor(fix=True)
    assert "0 runs published; 2 are not in the study yet: the same sweep command" in said
    assert len(list(here.glob("optuna.db.spool/*/[0-9]*"))) == 2
    sweep()
    assert [row.status for row in table(here)] == ["FINISHED"] * 4


def test_damaged_trial_is_named_and_stays(here, monkeypatch):
    monkeypatch.setattr("mlp.errors.PATIENCE_S", 0.1)
    unpublished_sweep("tracking.uri=http://127.0.0.1:1")
    [file] = here.glob("optuna.db.spool/*/000002/curve.npz")
    file.write_bytes(b"")
    _, said = doctor(fix=True)
    assert re.search(r"3 runs published; damaged, .* trains them again: 000002 \(curve", said)
    assert "trial 2 is trained again" in sweep()
    assert [row.status for row in table(here)] == ["FINISHED"] * 4


@pytest.mark.system
def test_store_that_is_still_down_is_said(here, monkeypatch):
    monkeypatch.setattr("mlp.errors.PATIENCE_S", 0.1)
    unpublished_sweep("tracking.uri=http://127.0.0.1:1")
    is_well, said = doctor("tracking.uri=http://127.0.0.1:1", fix=True)
    assert not is_well
    assert "wrong tracking store: http://127.0.0.1:1 does not answer" in said
    assert re.search(r"not fixed: the tracking store http://127.0.0.1:1 does not answer", said)
    assert len(list(here.glob("optuna.db.spool/*/[0-9]*"))) == 4


def test_single_run_is_published_with_its_name_and_tags(here):
    label = Label("rerun of it", {"mlp.rerun_of": "0" * 32})
    spool.put({spool.new_place(): (make_record(), label)})
    is_well, said = doctor()
    assert (is_well, wrong(said)) == (False, ["spool"])
    assert doctor(fix=True)[0]
    [run] = tracked(here)
    assert (run.name, run.status) == ("rerun of it", "FINISHED")
    assert run.tags["mlp.rerun_of"] == "0" * 32
    assert not spool.folder_of_runs().exists()
    assert here.is_dir()


# What processes that are gone have left


def test_unfinished_trial_is_removed_and_the_lock_of_a_dead_process_no_fault(here):
    folder = here / "optuna.db.spool"
    study = folder / "smoke-1"
    (study / "000003.part").mkdir(parents=True)
    (folder / "smoke-1.lock").write_text("{}")
    is_well, said = doctor()
    assert not is_well
    assert wrong(said) == ["spool"]
    assert "nobody holds a study" in said
    assert "left by a sweep that was killed, with 1 unfinished trial" in said
    assert "1 unfinished trials" not in said
    is_well, said = doctor(fix=True)
    assert is_well, said
    assert not study.exists()


def test_what_somebody_holds_is_left_alone(here):
    folder = here / "optuna.db.spool"
    page = StudyPage("smoke-1", "smoke-1", {}, "")
    store = open_store(Tracking())
    with only_driver(folder, "smoke-1"):
        spool.put_page(folder / "smoke-1", page)
        kept = (make_record(), label_of_trial(page, 0, "#0"))
        spool.put({spool.place_of(folder / "smoke-1", 0): kept})
        run = store.client.create_run(
            store.experiment_id, tags={"mlp.study": "smoke-1", "mlp.key": "smoke-1/study"}
        )
        is_well, said = doctor(fix=True)
        assert is_well, said
        assert re.search(r"study smoke-1 is held by process \d+ on ", said)
        assert "1 run is being worked on" in said
        assert (folder / "smoke-1" / "000000").is_dir()
        assert store.client.get_run(run.info.run_id).info.status == "RUNNING"


def test_run_that_says_running_is_ended(swept):
    store = open_store(Tracking())
    study = parent(swept)
    store.client.update_run(study.run_id, status="RUNNING")
    twin = store.client.create_run(
        store.experiment_id,
        tags={"mlp.study": study.tags["mlp.study"], "mlp.key": f"{study.tags['mlp.study']}/1"},
    )
    others = store.client.create_run(store.experiment_id)  # somebody else's
    is_well, said = doctor()
    assert (is_well, wrong(said)) == (False, ["runs in progress"])
    assert "2 runs say RUNNING, but no sweep works on them" in said
    assert doctor(fix=True)[0]
    assert store.client.get_run(study.run_id).info.status == "KILLED"
    assert store.client.get_run(twin.info.run_id).info.lifecycle_stage == "deleted"
    assert store.client.get_run(others.info.run_id).info.status == "RUNNING"
    assert doctor()[0]
    sweep()
    assert parent(swept).status == "FINISHED"


@pytest.mark.system
def test_killed_sweep_is_put_in_order(here):
    with subprocess.Popen(
        [sys.executable, "-m", "mlp.sweep", *SMOKE, "training.steps=5000000"],
        env=environment_of_commands(),
        stdout=subprocess.DEVNULL,
    ) as process:
        while not any(run.status == "RUNNING" for run in tracked(here)):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    is_well, said = doctor()
    assert not is_well
    assert wrong(said) == ["runs in progress", "spool"]
    assert doctor(fix=True)[0]
    assert {run.status for run in tracked(here)} == {"KILLED"}
    assert "optuna.db.spool" not in left_in(here)


# Stores, data, disk


def test_damaged_files_are_never_touched(swept):
    contents = {}
    for name in ("optuna.db", "mlflow.db"):
        content = bytearray((swept / name).read_bytes())
        content[4096:40960] = b"\x55" * 36864
        (swept / name).write_bytes(content)
        contents[name] = bytes(content)
    is_well, said = doctor(fix=True)
    assert not is_well
    for name, content in contents.items():
        assert re.search(rf"{name} is damaged: .*make a copy of it, .*recover", said)
        assert (swept / name).read_bytes() == content


def test_files_of_no_database(here):
    for name in ("optuna.db", "mlflow.db"):
        (here / name).write_text("no database, and longer than a header")
    _, said = doctor()
    for name in ("optuna.db", "mlflow.db"):
        assert f"{name} is not an SQLite database" in said


def test_file_that_is_locked_is_said(here, monkeypatch):
    monkeypatch.setattr("mlp.doctor._PATIENCE_S", 0.1)
    with sqlite3.connect(here / "mlflow.db", isolation_level=None) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        _, said = doctor()
    assert re.search(r"another program holds .*mlflow\.db", said)


def test_stores_of_other_versions(swept):
    with sqlite3.connect("mlflow.db") as file:
        file.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with sqlite3.connect("optuna.db") as file:
        file.execute("UPDATE alembic_version SET version_num = 'v3.0.0.a'")
    said = command("doctor", *SMOKE).stdout  # MLflow looks at a file's version once a process
    assert wrong(said) == ["study store", "tracking store"]
    assert "mlflow db upgrade" in said


def test_database_of_another_program(here):
    (here / "mlflow.db").unlink()
    with sqlite3.connect("mlflow.db") as file:
        file.execute("CREATE TABLE theirs (x)")
    _, said = doctor()
    assert "mlflow.db is a database of another program" in said


def test_data_that_are_damaged_or_missing(here, tmp_path, monkeypatch):
    from support.mirror import made_up_contents, put

    monkeypatch.delenv("MLP_DATA_ROOT", raising=False)
    folder = put(tmp_path / "mnist", made_up_contents())
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    is_well, said = doctor("data.name=mnist", f'data.root="{folder}"')
    assert not is_well
    assert len(re.findall(r"wrong data: .*the sha256 of", said)) == 3
    assert "must hold t10k-labels-idx1-ubyte (or .gz), but does not" in said


def test_full_disk_is_said(here, monkeypatch):
    usage = shutil.disk_usage(here)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    _, said = doctor()
    assert wrong(said) == ["free space"]
    assert "only 0.0 GiB in " in said


def test_more_threads_than_cores(here):
    _, said = doctor("execution.threads=900")
    assert wrong(said) == ["threads"]
    assert "execution.threads=" in said


def test_package_of_another_version_is_said(here, monkeypatch):
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["numpy<1", "no-such-thing>=2"])
    _, said = doctor()
    assert "no-such-thing>=2 is not installed" in said
    assert re.search(r"numpy is \S+, but must be <1\n +pip install 'numpy<1'", said)


def test_folder_that_cannot_be_written(here):
    with pytest.raises(StoreError, match=r"cannot write to /proc: "):
        open_store(Tracking(uri="sqlite:////proc/mlflow.db"))
