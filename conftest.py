"""Folders to run commands in, each with an MLflow store that is already made."""

import importlib.util
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Doctests are looked for in every module, and these import Ray, an extra.
collect_ignore = [] if importlib.util.find_spec("ray") else ["mlp/training/ray_cluster.py"]

# Modules whose doctests train and track.
_TRACKING = ("mlp.explain.", "mlp.rerun.", "mlp.run.", "mlp.sweep.", "mlp.train.")

# No test is failed by the clock: on a busy machine any of its examples may take a second.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Under nohup the commands that the tests start would ignore it, too.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def made_store(tmp_path_factory) -> Path:
    """An MLflow store with its tables and no run; making one takes seconds, a copy does not."""
    from mlp.config import Tracking
    from mlp.tracking.store import open_store

    file = tmp_path_factory.mktemp("made") / "mlflow.db"
    open_store(Tracking(uri=f"sqlite:///{file}", experiment="none of the tests'"))
    return file


@pytest.fixture
def here(tmp_path, made_store, monkeypatch) -> Path:
    """An empty working directory, but for the store that the commands find there by default."""
    folder = tmp_path / "a [b] c"  # brackets and blanks are what people name folders with
    folder.mkdir()
    shutil.copy(made_store, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


@pytest.fixture(autouse=True)
def _doctests_that_track_have_a_folder(request) -> None:
    """Those of the functions that `mlp` offers do so in the working directory, as readers will."""
    if isinstance(request.node, pytest.DoctestItem) and request.node.name.startswith(_TRACKING):
        request.getfixturevalue("here")


@pytest.fixture
def only_here(tmp_path, monkeypatch):
    """The one folder in which files may be written."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder
