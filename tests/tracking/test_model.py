"""Networks as models of MLflow: loaded and registered by MLflow's own tools.

That one is served over HTTP is typed as docs/models.md has it.
"""

import io
import json
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest

import mlp
from mlp.config import Data
from mlp.data.dataset import load_data
from mlp.errors import StoreError
from support.sweeping import (
    command,
    plain,
    run_script,
    sweep,
    tracked,
    unpublished_sweep,
)


@pytest.fixture(scope="module")
def digits():
    return load_data(Data(name="digits"), notice=print)


@pytest.fixture
def client(here):
    return mlflow.MlflowClient(f"sqlite:///{here}/mlflow.db", f"sqlite:///{here}/mlflow.db")


def models(client):
    found = client.get_experiment_by_name("three-vs-seven").experiment_id
    return client.search_logged_models([found])


def in_mlflow_alone(script, **names):
    """Runs a script as somebody does who has MLflow and not this package; returns what it says."""
    lines = ["import sys", "sys.modules['mlp'] = None"]
    lines += [f"{name} = {value!r}" for name, value in names.items()]
    done = run_script("\n".join([*lines, script]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_best_network_of_a_study_is_a_model(here, client, digits):
    registered = {"training.steps": 100, "tracking.register": "three-or-seven"}
    for _ in range(2):  # the same command again makes no second model and no second version
        said = io.StringIO()
        end = mlp.run_study("smoke", registered, console=plain(said))
        assert "mlflow models serve -m models:/three-or-seven/1 --env-manager local" in (
            said.getvalue()
        )
    [version] = client.search_model_versions("name = 'three-or-seven'")
    assert version.run_id == end.best_run_id
    [made] = models(client)
    assert made.name == f"best-of-{end.name}"
    assert made.source_run_id == end.best_run_id
    assert str(made.status) == "READY"
    run = client.get_run(end.best_run_id)
    assert made.params == run.data.params
    assert [output.model_id for output in run.outputs.model_outputs] == [made.model_id]

    history = client.get_metric_history(end.best_run_id, "loss")
    last = history[-1]
    linked = [(m.step, m.value) for m in made.metrics if m.key == "loss"]
    assert linked == [(last.step, last.value)]  # its whole curve is the run's
    assert len(history) == len({m.step for m in history})  # not twice for the run
    assert {"test_accuracy", "final_loss"} <= {m.key for m in made.metrics}

    np.save("images.npy", digits.test.pixels)
    script = """
import json, mlflow, numpy as np, pandas as pd
model = mlflow.pyfunc.load_model(uri)
signature = model.metadata.signature.to_dict()
answers = model.predict(pd.DataFrame(np.load("images.npy"))).to_dict("list")
print(json.dumps([signature, answers, model.predict(model.input_example).to_dict("list")]))
"""
    signature, answers, examples = in_mlflow_alone(script, uri=made.model_uri)
    expected = mlp.load_run(end.best_run_id).predict(digits.test.pixels)
    pd.testing.assert_frame_equal(pd.DataFrame(answers), expected)
    right = expected["digit"] == np.where(digits.test.labels, 7, 3)
    assert right.mean() == end.test_accuracy
    assert examples["digit"] == [3, 7]
    assert json.loads(signature["inputs"])[0]["tensor-spec"] == {
        "dtype": "uint8",
        "shape": [-1, 64],
    }
    assert [output["name"] for output in json.loads(signature["outputs"])] == list(expected)


def test_nothing_in_a_model_is_pickled_and_no_code_is_of_this_package(swept):
    uri = f"sqlite:///{swept}/mlflow.db"
    [made] = models(mlflow.MlflowClient(uri, uri))
    folder = Path(urllib.request.url2pathname(urlsplit(made.artifact_location).path))
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert "data/network/weights.npz" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]
    code = (folder / "code" / "three_or_seven.py").read_text()
    assert "import mlp" not in code
    assert "from mlp" not in code
    assert (folder / "requirements.txt").read_text().split()[-2:] == ["numpy", "pandas"]


def fails(*_args, **_keywords):
    raise OSError("no space left on device")


@pytest.mark.system
@pytest.mark.parametrize("step", ["log_model_artifacts", "log_outputs", "finalize_logged_model"])
def test_model_that_cannot_be_saved_is_failed_and_made_anew(here, client, monkeypatch, step):
    """While it fails it is tried several times; of these, one stays to be seen."""
    original = getattr(mlflow.MlflowClient, step)

    def failing(client, model_id, *args):
        return original(client, model_id, *args) if args == ("FAILED",) else fails()

    monkeypatch.setattr(mlflow.MlflowClient, step, failing)
    said, fault = unpublished_sweep(patience_s=3)
    assert isinstance(fault, StoreError)
    assert "best is trial" in said
    assert [str(m.status) for m in models(client)] == ["FAILED"]
    monkeypatch.undo()
    monkeypatch.chdir(here)
    sweep()
    assert [str(m.status) for m in models(client)] == ["READY"]


def test_model_that_a_dead_process_left_pending_goes(here, client, monkeypatch):
    """The store is away in the middle, so that not even the failure can be noted."""
    for step in ("log_model_artifacts", "finalize_logged_model"):
        monkeypatch.setattr(mlflow.MlflowClient, step, fails)
    unpublished_sweep()
    assert [str(m.status) for m in models(client)] == ["PENDING"]
    monkeypatch.undo()
    monkeypatch.chdir(here)
    sweep()
    assert [str(m.status) for m in models(client)] == ["READY"]


def test_single_run_is_registered_where_a_name_is_given(here, client):
    done = command("train", "data=digits", "training.steps=30", "tracking.register=mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  mlflow models serve -m models:/mine/1 --env-manager local" in done.stdout
    [run] = tracked(here)
    assert [v.run_id for v in client.search_model_versions("name = 'mine'")] == [run.run_id]
    done = command("rerun", run.run_id, "training.seed=1", "tracking.register=mine")
    assert "models:/mine/2" in done.stdout
    mlp.train_network({"data": "digits", "training.steps": 30})
    assert len(models(client)) == 2
