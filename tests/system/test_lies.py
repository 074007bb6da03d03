"""A tracking server that lies to `rerun` and `explain`: one sentence, and nothing was touched.

What is true comes from a real `mlflow server`; see `test_hostile.py` for lies in a store of files.
"""

import contextlib
import gc
import gzip
import io
import json
import pickle
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

import mlp
from mlp.errors import MlpError, RecordError
from mlp.tracking import record
from mlp.tracking.read import fetch_run
from mlp.tracking.store import open_store
from support import hostile
from support.lying_server import Reply, instead, lying_server
from support.sweeping import command, left_in, run_config

# MLflow leaves the connection of an answer that it gave up to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning",
    "ignore:.*unclosed:pytest.PytestUnraisableExceptionWarning",
)

PAGE = b"<!DOCTYPE html><title>Sign in</title>"
CONFIG, WEIGHTS, CURVE = (f"/artifacts/{name}" for name in ("config.json", "weights.npz", "curve"))


@pytest.fixture(scope="module")
def true(server):
    """The address of a server, and the id of a run that it has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(server.folder)
        settings = {"data": "digits", "training.steps": 30, "tracking.uri": server.url}
        run_id = mlp.train_network(settings).run_id
    fetch_run(at(server.url), run_id)  # imports what reading takes
    gc.collect()
    gc.freeze()  # so that what follows need not look through all that again
    return server.url, run_id


@pytest.fixture(autouse=True)
def collected():
    """What a test leaves to the collector is collected in it, and warns of nothing in the next."""
    yield
    gc.collect()


def told(change):
    """A lie about the run itself: `change` alters it in place."""

    def lie(path: str, true: Reply) -> Reply:
        if "/runs/get" not in path:
            return true
        values = json.loads(true.body)
        change(values["run"])
        return Reply(json.dumps(values).encode())

    return lie


def setting(name: str, value: object):
    """A config.json that is valid, but of another run."""

    def lie(path: str, true: Reply) -> Reply:
        if CONFIG not in path:
            return true
        values = json.loads(true.body)
        values["settings"]["training"][name] = value
        return Reply(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())

    return lie


def listed(**changes: object):
    """A lie about the files of the run."""

    def lie(path: str, true: Reply) -> Reply:
        if "/mlflow-artifacts/artifacts?" not in path:
            return true
        files = json.loads(true.body)["files"]
        return Reply(json.dumps({"files": [{**file, **changes} for file in files]}).encode())

    return lie


def other_weights(path: str, true: Reply) -> Reply:
    """Of the same shapes and types, so that only their digest can tell."""
    if WEIGHTS not in path:
        return true
    with np.load(io.BytesIO(true.body)) as arrays:
        changed = {name: arrays[name] + np.float32(1e-3) for name in arrays}
    return Reply(record.pack_arrays(changed))


LIES = {
    "run: a page": instead("/runs/get", body=PAGE),
    "run: nothing": instead("/runs/get", body=b""),
    "run: a list": instead("/runs/get", body=b"[]"),
    "run: another object": instead("/runs/get", body=b'{"run": {"info": 3}}'),
    "run: no run": instead("/runs/get", body=b"{}"),
    "run: brackets": instead("/runs/get", body=b"[" * 100_000),
    "run: running": told(lambda run: run["info"].update(status="RUNNING")),
    "run: no such status": told(lambda run: run["info"].update(status="EVIL")),
    "run: files elsewhere": told(lambda run: run["info"].update(artifact_uri="ftp://127.0.0.1/x")),
    "run: files of a page": told(lambda run: run["info"].update(artifact_uri="http://127.0.0.1:9")),
    "run: files of another host": told(
        lambda run: run["info"].update(artifact_uri="mlflow-artifacts://127.0.0.1:9/x")
    ),
    "run: files here": told(lambda run: run["info"].update(artifact_uri="file:///etc")),
    "run: no tags": told(lambda run: run["data"].update(tags=[])),
    "list: a page": instead("/mlflow-artifacts/artifacts?", body=PAGE),
    "list: nothing there": instead("/mlflow-artifacts/artifacts?", body=b"{}"),
    "list: above": listed(path="../../../../config.json"),
    "list: 10 GB": listed(file_size=10**10),
    "list: less than nothing": listed(file_size=-1),
    "list: a text for a size": listed(file_size="$(reboot)"),
    "config: other steps": setting("steps", 31),
    "config: other seed": setting("seed", 5),
    "config: a target": instead(CONFIG, body=b'{"_target_": "os.system", "_args_": ["true"]}'),
    "config: a page": instead(CONFIG, body=PAGE),
    "config: 10 GB promised": instead(CONFIG, headers={"Content-Length": str(10**10)}),
    "config: 10 GB of nothing": instead(
        CONFIG, body=bytes(2**20), n_repeats=1000, headers={"Content-Length": str(10**10)}
    ),
    "config: a bomb": instead(
        CONFIG,
        body=gzip.compress(bytes(200_000_000)),
        headers={"Content-Encoding": "gzip", "Content-Length": "194508"},
    ),
    "config: cut short": instead(CONFIG, body=b"{"),
    "weights: others": other_weights,
    "weights: a page": instead(WEIGHTS, body=PAGE),
    "weights: a pickle": instead(WEIGHTS, body=pickle.dumps(hostile.Evil())),
    "weights: 10 GB promised": instead(WEIGHTS, headers={"Content-Length": str(10**10)}),
    "weights: 10 GB of nothing": instead(
        WEIGHTS, body=bytes(2**20), n_repeats=1000, headers={"Content-Length": str(10**10)}
    ),
    "curve: a page": instead(CURVE, body=PAGE),
}


def at(url):
    return open_store(run_config(f"tracking.uri={url}").tracking)


def test_the_truth_is_believed(true, only_here):
    url, run_id = true
    with lying_server(url, lambda _, reply: reply) as there:
        store = at(there)
        with hostile.watched(only_here, sockets=True) as seen:
            fetched = fetch_run(store, run_id)
    assert seen == []
    assert fetched.recipe.config.training.steps == 30


@pytest.mark.parametrize("name", LIES)
def test_lie_is_refused_and_nothing_is_touched(true, only_here, name):
    url, run_id = true
    with lying_server(url, LIES[name]) as there:
        store = at(there)
        with hostile.watched(only_here, sockets=True) as seen, pytest.raises(MlpError) as caught:
            fetch_run(store, run_id)
    assert seen == []
    assert list(only_here.iterdir()) == []
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_weights_of_another_digest_are_told_from_the_run_s(true):
    url, run_id = true
    with (
        lying_server(url, other_weights) as there,
        pytest.raises(
            RecordError, match=r"was changed: its files do not have its mlp\.weights_dig"
        ),
    ):
        fetch_run(at(there), run_id)


@pytest.mark.parametrize("place", ["/runs/get", CONFIG, WEIGHTS])
def test_server_that_sends_the_client_elsewhere(true, place):
    """Say, to a service of the client's own network."""
    url, run_id = true
    with elsewhere() as (address, asked):
        lie = instead(place, status=302, headers={"Location": f"{address}/secret"}, body=b"")
        with lying_server(url, lie) as there, pytest.raises(MlpError):
            fetch_run(at(there), run_id)
    assert asked == []


@contextlib.contextmanager
def elsewhere():
    """A server that notes what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_): ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("explain", "run: a page"),
        ("rerun", "config: a target"),
        ("explain", "config: 10 GB of nothing"),
        ("rerun", "weights: others"),
    ],
)
def test_commands_end_in_one_sentence(true, here, what, name):
    url, run_id = true
    before = left_in(here)
    with lying_server(url, LIES[name]) as there:
        done = command(what, run_id, f"tracking.uri={there}")
    assert done.returncode in (65, 69, 74)
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "trained" not in done.stdout
    assert left_in(here) == before
