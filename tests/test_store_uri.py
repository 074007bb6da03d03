"""Which address the tracking store has, and what is refused before MLflow is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlp import addresses
from mlp.config import Tracking
from mlp.errors import SettingError, StoreError


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_default_is_the_file_that_a_bare_mlflow_ui_opens(tmp_path):
    assert addresses.resolve(Tracking()) == f"sqlite:///{tmp_path}/mlflow.db"
    assert list(tmp_path.iterdir()) == []


def test_setting_comes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert addresses.resolve(Tracking()) == "http://server:5000"
    assert addresses.resolve(Tracking(uri="sqlite:///x.db")) == f"sqlite:///{tmp_path}/x.db"
    assert addresses.resolve(Tracking(uri="sqlite:////x/y.db")) == "sqlite:////x/y.db"


@pytest.mark.parametrize(
    "uri", ["mlruns", "file:///x", "./x.db", "sqlite://", "sqlite:///:memory:"]
)
def test_other_kinds_of_address_are_refused(uri):
    with pytest.raises(SettingError, match=r"tracking.uri must be an SQLite file"):
        addresses.resolve(Tracking(uri=uri))


def test_the_variable_is_named_where_it_says_what_cannot_work(monkeypatch):
    """MLflow's older default was a folder, and its own command takes the runs along."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(SettingError, match="the environment variable MLFLOW_TRACKING_URI") as said:
        addresses.resolve(Tracking())
    way = "mlflow migrate-filestore --source ./mlruns --target sqlite:///mlflow.db"
    assert way in str(said.value)


def test_paths_that_cannot_work(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no database")
    for name, reason in {
        "folder": "is a folder",
        "text": "is not an SQLite database",
        "text/mlflow.db": "is no folder",
        "a%20b/mlflow.db": "must not hold",
    }.items():
        with pytest.raises(StoreError, match=reason):
            addresses.resolve(Tracking(uri=f"sqlite:///{name}"))


def test_read_only_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(StoreError, match="cannot be written; change its permissions"):
        addresses.resolve(Tracking())


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://ann:secret@host:1/x", "http://ann:***@host:1/x"),
        ("postgresql+psycopg2://a:p%40ss@h/db", "postgresql+psycopg2://a:***@h/db"),
        (
            "failed at http://a:b@h and mysql://c:d@e/f",
            "failed at http://a:***@h and mysql://c:***@e/f",
        ),
        ("https://h/x?token=abc&n=1", "https://h/x?token=***&n=1"),
        ("https://h/x?X-Amz-Signature=abc", "https://h/x?X-Amz-Signature=***"),
        ("http://:secret@host", "http://:***@host"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////home/a:b@c/mlflow.db", "sqlite:////home/a:b@c/mlflow.db"),
    ],
)
def test_secrets_are_masked(text, masked):
    assert addresses.mask(text) == masked


def test_a_wrong_address_costs_no_mlflow():
    program = (
        "import sys; from mlp.config import Tracking\n"
        "from mlp import addresses; from mlp.tracking import display, record\n"
        "try: addresses.resolve(Tracking(uri='mlruns'))\n"
        "except Exception as error: print(type(error).__name__, 'mlflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "SettingError False\n"
