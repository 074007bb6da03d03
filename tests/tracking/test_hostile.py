"""Runs from a store that anybody could write to: refused in one sentence, and nothing was touched.

Each file takes the place of a real one in a real store and goes the way of `rerun`. Python itself
notes every file that is opened to be written, every socket, process, unpickling and execution.
"""

import io
import os
import shutil
from pathlib import Path

import pytest

from mlp.config import Tracking
from mlp.errors import MlpError, RecordError
from mlp.rerun import rerun_network
from mlp.tracking import record
from mlp.tracking.display import tags
from mlp.tracking.listing import Label
from mlp.tracking.read import fetch_run
from mlp.tracking.store import open_store
from support import hostile
from support.sample_records import make_record, uploaded
from support.sweeping import command, plain, run_config

MADE = make_record()
GOOD = record.config_json(MADE)
WEIGHTS = {
    name: array
    for i, (W, b) in enumerate(MADE.result.weights, start=1)
    for name, array in ((f"W{i}", W), (f"b{i}", b))
}
CURVE = {
    "loss": MADE.result.loss,
    "loss_step": MADE.result.loss_step,
    "validation_accuracy": MADE.result.validation_accuracy,
    "evaluated_step": MADE.result.evaluated_step,
}
FILES = {
    **{f"config {name}": ("config.json", data) for name, data in hostile.configs(GOOD).items()},
    **{
        f"weights {name}": ("weights.npz", data) for name, data in hostile.archives(WEIGHTS).items()
    },
    "curve a pickle inside": ("curve.npz", hostile.archives(CURVE)["a pickle inside"]),
    "curve one entry more": ("curve.npz", hostile.archives(CURVE)["one entry more"]),
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, made_store):
    """A store with one run, whose files may be replaced; and the run's id."""
    folder = tmp_path_factory.mktemp("foreign")
    shutil.copy(made_store, folder / "mlflow.db")
    store = open_store(Tracking(uri=f"sqlite:///{folder}/mlflow.db"))
    run_id = uploaded(store, MADE, Label("x", {}))
    fetch_run(store, run_id)  # imports what reading takes
    return store, run_id


@pytest.fixture
def artifacts(foreign, tmp_path):
    """The folder of the run's files, whole again for each test."""
    store, run_id = foreign
    folder = Path(store.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


def refused(foreign, only_here, kind: type[MlpError] = RecordError) -> str:
    """What is said of the run; nothing else may have happened."""
    store, run_id = foreign
    with hostile.watched(only_here) as seen, pytest.raises(kind) as caught:
        fetch_run(store, run_id)
    assert seen == []
    assert list(only_here.iterdir()) == []
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 1000
    return said


def test_there_are_enough_of_them():
    assert len(FILES) >= 90


def test_the_watch_sees(tmp_path, only_here):
    with hostile.watched(only_here) as seen:
        (only_here / "allowed").write_text("")
        assert seen == []
        (tmp_path / "elsewhere").write_text("")
        eval("1 + 1")
    assert [event.split()[0] for event in seen] == ["open", "exec"]


def test_good_one_is_read_and_nothing_else_happens(foreign, artifacts, only_here):
    store, run_id = foreign
    with hostile.watched(only_here) as seen:
        fetched = fetch_run(store, run_id)
    assert seen == []
    assert fetched.recipe.config == MADE.config


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of the run, without a store."""
    folder = tmp_path_factory.mktemp("written")
    record.write_artifacts(folder, MADE)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_hostile_file_is_refused(written, only_here, name):
    file, data = FILES[name]
    whole = (written / file).read_bytes()
    (written / file).write_bytes(hostile.content(data))
    try:
        with hostile.watched(only_here) as seen, pytest.raises(RecordError, match=file) as caught:
            record.read_artifacts(written)
    finally:
        (written / file).write_bytes(whole)
    assert seen == []
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "name", ["config target", "weights a pickle inside", "curve one entry more"]
)
def test_hostile_file_of_a_store_is_refused(foreign, artifacts, only_here, name):
    file, data = FILES[name]
    (artifacts / file).write_bytes(hostile.content(data))
    assert file in refused(foreign, only_here)


@pytest.mark.parametrize("file", ["config.json", "curve.npz", "weights.npz"])
@pytest.mark.parametrize("target", ["/etc/passwd", "/dev/zero", "nowhere"])
def test_link_is_refused(foreign, artifacts, only_here, file, target):
    (artifacts / file).unlink()
    (artifacts / file).symlink_to(target)
    refused(foreign, only_here, MlpError)  # some by MLflow itself


@pytest.mark.parametrize("file", ["config.json", "curve.npz", "weights.npz"])
def test_folder_pipe_and_hole_are_refused(foreign, artifacts, only_here, file):
    (artifacts / file).unlink()
    os.mkfifo(artifacts / file)
    refused(foreign, only_here)
    (artifacts / file).unlink()
    (artifacts / file).mkdir()
    refused(foreign, only_here)
    (artifacts / file).rmdir()
    with (artifacts / file).open("wb") as hole:
        hole.truncate(10**12)
    refused(foreign, only_here)


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/files",
        "ftp://127.0.0.1/files",
        "sftp://127.0.0.1/files",
        "hdfs://127.0.0.1/files",
        "s3://bucket/files",
        "dbfs:/files",
        "runs:/0123/x",
        "models:/m/1",
        "mlflow-artifacts://127.0.0.1:9/files",
        "file://127.0.0.1/files",
        "javascript:alert(1)",
    ],
)
def test_address_of_files_is_not_followed(foreign, only_here, monkeypatch, address):
    store, run_id = foreign
    run = store.client.get_run(run_id)
    monkeypatch.setattr(run.info, "_artifact_uri", address)
    monkeypatch.setattr(type(store.client), "get_run", lambda *_: run)
    assert "which is not followed" in refused(foreign, only_here)


def test_file_that_grows_after_it_was_measured_is_cut_off(
    foreign, artifacts, only_here, monkeypatch
):
    """A server may say any size, and send without an end."""
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    original = LocalArtifactRepository.download_artifacts

    def grown(self, path, folder):
        with (artifacts / path).open("ab") as file:
            file.write(bytes(50_000_000))
        original(self, path, folder)

    monkeypatch.setattr(LocalArtifactRepository, "download_artifacts", grown)
    with hostile.watched(only_here) as seen, pytest.raises(Exception, match="File too large"):
        fetch_run(*foreign)
    assert [event for event in seen if str(artifacts) not in event] == []


@pytest.mark.parametrize("name", ["config a pickle", "weights a pickle inside"])
def test_rerun_of_it_trains_nothing(foreign, artifacts, only_here, monkeypatch, name):
    store, run_id = foreign
    file, data = FILES[name]
    (artifacts / file).write_bytes(hostile.content(data))
    local = run_config(f'tracking.uri="{store.uri}"')
    monkeypatch.setattr("mlp.rerun.train_record", None)
    with pytest.raises(RecordError):
        rerun_network(run_id, local=local, console=plain(io.StringIO()))
    done = command("rerun", run_id, f'tracking.uri="{store.uri}"')
    assert done.returncode == 65
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not Path("/tmp/mlp-was-unpickled").exists()


def test_tags_and_names_are_only_shown(foreign, here):
    """What a run's tags say is neither obeyed nor printed as it is."""
    store = open_store(Tracking())
    run_id = uploaded(store, MADE, Label("x", {}))
    evil = "\x1b]0;owned\x07${oc.env:HOME} {{7*7}} [bold]"
    for name in ("mlp.cpu", "mlp.python", "mlflow.user", "mlp.packages"):
        store.client.set_tag(run_id, name, evil)
    found = fetch_run(store, run_id).tags
    assert found["mlp.cpu"] == "?]0;owned?${oc.env:HOME} {{7*7}} [bold]"
    assert all(value.isprintable() for value in found.values())


def test_a_tag_that_lies_is_found_out(foreign):
    store, run_id = foreign
    before = tags(MADE)["mlp.weights_digest"]
    store.client.set_tag(run_id, "mlp.weights_digest", "0" * 64)
    try:
        with pytest.raises(RecordError, match=r"was changed: .* mlp\.weights_digest"):
            fetch_run(store, run_id)
    finally:
        store.client.set_tag(run_id, "mlp.weights_digest", before)
