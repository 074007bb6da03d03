"""Records of own functions: they come back as they were, and what lies in them is refused.

Nothing of a record is executed, and no file that one names is read.
"""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from mlp.config import Tracking
from mlp.curve import Verdict
from mlp.engine.result import Ending, OwnTrace, Result
from mlp.errors import DataError, RecordError, SettingError
from mlp.settings import located, read_named_file, read_run
from mlp.tracking import display, record
from mlp.tracking.batch import batch_of, read_batch, write_batch
from mlp.tracking.listing import Label
from mlp.tracking.read import fetch_run, fetch_source, read_past_run, reruns_of
from mlp.tracking.store import open_store
from support import hostile
from support.sample_records import STARTED_MS, make_record, uploaded

TEXT = """
from typing import Literal
def train(rate=0.5, hidden=3, on=True, name: str = "7", sizes=(3, 4), limit: float | None = None,
          kind: Literal["a", "b"] = "a", width=3 * 3):
    yield 0.0
"""
VALUES = {"rate": 2, "name": "None of these", "sizes": [5], "limit": None, "kind": "b"}


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(TEXT)
    return file


def own_record(
    file, *, fault=None, ending=Ending.COMPLETED, series=(), kept=None, loss=None, **values
):
    """A record of the function in a file."""
    config = read_run({"own": {"file": str(file), **VALUES, **values}, "training": {"seed": 3}})
    loss = np.array(0.7 * 0.9 ** np.arange(21) if loss is None else loss, np.float64)
    trace = OwnTrace(
        series={"accuracy": np.linspace(0, 1, loss.size), **dict(series)},
        kept={"W": np.ones((2, 3), np.float32), "on": np.array([True]), "n": np.array(3)}
        if kept is None
        else kept,
        fault=fault,
        printed="said\n",
        notes=("x is not kept",),
        versions=(("numpy", "2.0"),),
        source=file.read_text(),
    )
    result = Result(
        loss=loss,
        loss_step=np.arange(loss.size),
        step_loss=None,
        validation_accuracy=np.empty(0),
        evaluated_step=np.empty(0, np.int64),
        weights=(),
        ending=ending,
        last_step=loss.size - 1,
        own=trace,
    )
    return record.RunRecord(
        config=config,
        data_digest=config.own.program.digest,
        n_train=0,
        n_validation=0,
        n_test=0,
        result=result,
        judgement=record.judge_result(config, result),
        started_ms=STARTED_MS,
        ended_ms=STARTED_MS + 900,
        threads=2,
    )


ENDS = {
    "completed": {},
    "failed": {"fault": "KeyError: 'x' (mine.py, line 3)", "ending": Ending.FAILED},
    "failed before any loss": {"fault": "it hung", "ending": Ending.FAILED, "loss": [np.nan]},
    "nothing kept": {"kept": {}},
    "diverged": {"ending": Ending.NON_FINITE, "loss": [1.0, 2.0, np.inf]},
    "curve with gaps": {"series": {"late": np.array([np.nan] * 20 + [1.0])}},
}


@pytest.mark.parametrize("end", ENDS)
def test_record_comes_back_as_it_was(mine, tmp_path, end):
    made = own_record(mine, **ENDS[end])
    folder = tmp_path / "kept"
    folder.mkdir()
    record.write_record(folder, made)
    read = record.read_record(folder)
    assert read.config == made.config
    assert read.config.own.path is None
    assert read.judgement == made.judgement
    for old, new in (
        (made.result.own.series, read.result.own.series),
        (made.result.own.kept, read.result.own.kept),
        ({"loss": made.result.loss}, {"loss": read.result.loss}),
    ):
        assert old.keys() == new.keys()
        for name, array in old.items():
            assert (array.dtype, array.shape) == (new[name].dtype, new[name].shape)
            np.testing.assert_array_equal(array, new[name])
    assert (read.result.own.fault, read.result.ending, read.result.last_step) == (
        made.result.own.fault,
        made.result.ending,
        made.result.last_step,
    )
    for name in ("curve_digest", "weights_digest"):
        assert getattr(record, name)(read.result) == getattr(record, name)(made.result)
    assert (read.result.own.source, read.result.own.printed) == (TEXT, "said\n")


def test_function_that_failed_has_no_verdict_on_its_loss(mine):
    swinging = np.tile([1.0, 0.2], 200)
    assert own_record(mine, loss=swinging).judgement.verdict is Verdict.OSCILLATING
    failed = own_record(mine, loss=swinging, fault="it hung", ending=Ending.FAILED)
    assert failed.judgement.verdict is Verdict.FAILED
    assert failed.judgement.amplitude == 0


def test_reruns_of_a_batch_come_back(mine):
    made = [own_record(mine, rate=rate) for rate in (1.0, 2.0)]
    read = reruns_of(read_batch(write_batch(batch_of("ab" * 32, made))))
    assert [own.config for own in read] == [own.config for own in made]
    assert all(own.config.own.path is None for own in read)


# What others may have written

_ARGUMENT = json.dumps(
    {
        "name": "rate",
        "kind": "float",
        "default": 0.5,
        "is_required": False,
        "choices": [],
        "may_be_none": False,
    }
)
LIES = {  # path in config.json -> a value that must be refused
    "another program's settings": ("settings.own.extra", 3),
    "a path": ("settings.own.path", "/etc/passwd"),
    "a file": ("settings.own.file", "/etc/passwd"),
    "changed": ("settings.own.changed", True),
    "a built-in setting": ("settings.optimizer", {"learning_rate": 0.5}),
    "a value of another kind": ("settings.own.rate", "fast"),
    "a value that is none of the choices": ("settings.own.kind", "__import__('os')"),
    "a nested value": ("settings.own.sizes", [[1]]),
    "an interpolation": ("settings.own.name", "${oc.env:HOME}"),
    "settings as a list": ("settings", []),
    "a group as a text": ("settings.own", "x"),
    "seed as a text": ("settings.training.seed", "3"),
    "negative seed": ("settings.training.seed", -1),
    "program as a text": ("program", "import os"),
    "no program": ("program", None),
    "program's path": ("program.path", "/tmp/evil.py"),
    "file with a folder": ("program.file", "../mine.py"),
    "file of another kind": ("program.file", "mine.so"),
    "file with an escape": ("program.file", "\x1b[2J.py"),
    "function with code": ("program.function", "train() or exit"),
    "digest of another length": ("program.digest", "ab"),
    "argument with code": ("program.arguments.0.name", "a, b=print(1)"),
    "argument of another kind": ("program.arguments.0.kind", "callable"),
    "argument with more": ("program.arguments.0.code", "x"),
    "default that is a mapping": ("program.arguments.0.default", {"a": 1}),
    "arguments as a mapping": ("program.arguments", {}),
    "no arguments": ("program.arguments", []),
    "an argument twice": ("program.arguments.1", json.loads(_ARGUMENT)),
    "unknown role": ("program.roles", {"evil": "rate"}),
    "role of nothing": ("program.roles", {"learning_rate": "nothing"}),
    "seed that is nothing": ("program.roles", {"seed": "nothing"}),
    "arrays as a list": ("arrays", []),
    "array with a folder": ("arrays.kept./etc/passwd", ["<f8", [1]]),
    "array upwards": ("arrays.kept.\\..", ["<f8", [1]]),
    "array of objects": ("arrays.kept.W", ["|O", [1]]),
    "array of texts": ("arrays.kept.W", ["<U8", [1]]),
    "array with fields": ("arrays.kept.W", ["<f8,O", [1]]),
    "big endian": ("arrays.kept.W", [">f4", [2, 3]]),
    "negative shape": ("arrays.kept.W", ["<f4", [-1]]),
    "shape as a number": ("arrays.kept.W", ["<f4", 3]),
    "shape of fractions": ("arrays.kept.W", ["<f4", [1.5]]),
    "shape of truth": ("arrays.kept.W", ["<f4", [True, 3]]),
    "three things": ("arrays.kept.W", ["<f4", [2, 3], "x"]),
    "other kind of array": ("arrays.weights.W", ["<f4", [2, 3]]),
    "curve of another length": ("arrays.series.accuracy", ["<f8", [7]]),
    "curve of integers": ("arrays.series.accuracy", ["<i8", [21]]),
    "more arrays than are there": ("arrays.kept.more", ["<f4", [2, 3]]),
    "an array of 8 TB": ("arrays.kept.W", ["<f8", [10**12]]),
    "an overflowing shape": ("arrays.kept.W", ["<f8", [2**62, 2**62]]),
    "fewer steps": ("ended.last_step", 3),
    "more steps": ("ended.last_step", 10**9),
    "endless": ("ended.last_step", 10**18),
    "fault without a failure": ("ended.fault", "x"),
    "fault that is no text": ("ended", {"ending": "failed", "last_step": 20, "fault": {"a": 1}}),
}


@pytest.fixture
def artifacts(mine, tmp_path):
    folder = tmp_path / "artifacts"
    folder.mkdir()
    record.write_artifacts(folder, own_record(mine))
    return folder


@pytest.mark.parametrize("name", LIES)
def test_config_that_lies_is_refused(artifacts, only_here, name):
    path, value = LIES[name]
    values = json.loads((artifacts / "config.json").read_text())
    place, parts = values, path.split(".", 1 if path.startswith("arrays.") else -1)
    for part in parts[:-1]:
        place = place[int(part) if isinstance(place, list) else part]
    if isinstance(place, list):
        place[int(parts[-1])] = value
    else:
        place[parts[-1]] = value
    (artifacts / "config.json").write_text(json.dumps(values))
    with hostile.watched(only_here) as seen, pytest.raises(RecordError) as caught:
        record.read_artifacts(artifacts)
    assert seen == []
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


ARRAYS = {f"kept.{name}": array for name, array in {"W": np.ones((2, 3), np.float32)}.items()}
ARRAYS |= {"kept.n": np.array(3), "kept.on": np.array([True])}
FILES = hostile.archives(ARRAYS)  # test_hostile.py has all of them


@pytest.mark.parametrize("name", ["a pickle inside", "8 TB", "one entry more", "other dtype"])
def test_hostile_arrays_are_refused(artifacts, only_here, name):
    (artifacts / "weights.npz").write_bytes(hostile.content(FILES[name]))
    with (
        hostile.watched(only_here) as seen,
        pytest.raises(RecordError, match=re.escape("weights.npz")),
    ):
        record.read_artifacts(artifacts)
    assert seen == []


def test_good_one_is_read_and_nothing_else_happens(artifacts, only_here):
    with hostile.watched(only_here) as seen:
        recipe, result = record.read_artifacts(artifacts)
    assert seen == []
    assert recipe.config.own.program.file == "mine.py"
    assert result.own.kept["W"].shape == (2, 3)


# Only a file that was named here is executed


def test_record_alone_gives_nothing_to_execute(mine):
    recorded = own_record(mine).config.own
    assert recorded.path is not None
    assert located(recorded, None, lambda: "").path is None


def test_named_file_takes_its_place_where_it_is_the_same(mine, tmp_path):
    recorded = dataclasses.replace(own_record(mine).config.own, path=None)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(mine, elsewhere)
    named = read_named_file({"file": str(elsewhere / "mine.py"), "timeout_s": 3.0})
    found = located(recorded, named, lambda: TEXT)
    assert (found, found.path, found.timeout_s) == (recorded, str(elsewhere / "mine.py"), 3.0)


def test_file_that_is_another_by_now_says_how_and_is_trained_when_asked(mine):
    recorded = own_record(mine).config.own
    mine.write_text(TEXT.replace("yield 0.0", "yield 1.0").replace("hidden=3", "hidden=4, new=1"))
    named = read_named_file({"file": str(mine)})
    with pytest.raises(DataError) as caught:
        located(recorded, named, lambda: TEXT)
    said = str(caught.value)
    assert "mine.py is not what the run was trained by: - def train(rate=0.5, hidden=3" in said
    assert said.endswith("own.changed=true trains it all the same")
    found = located(recorded, dataclasses.replace(named, changed=True), lambda: TEXT)
    assert found.arguments == recorded.arguments | {"new": 1}
    mine.write_text("def train(rate=0.5): yield 1.0")
    with pytest.raises(SettingError, match=r"own\.hidden"):
        located(recorded, read_named_file({"file": str(mine), "changed": True}), lambda: TEXT)


def test_text_that_is_not_known_is_compared_with_nothing(mine):
    recorded = own_record(mine).config.own
    mine.write_text(TEXT + "# changed\n")
    with pytest.raises(
        DataError, match=r"was trained by, or what it imports beside it is not; own"
    ):
        located(recorded, read_named_file({"file": str(mine)}), lambda: "")


@pytest.fixture(scope="module")
def store(tmp_path_factory, made_store):
    folder = tmp_path_factory.mktemp("foreign")
    shutil.copy(made_store, folder / "mlflow.db")
    return open_store(Tracking(uri=f"sqlite:///{folder}/mlflow.db"))


def test_tracked_run_comes_back_from_its_files_and_from_its_params(mine, store):
    made = own_record(
        mine, series={n: np.full(21, 5.0) for n in ("amplitude", "loss.", "é", "a..b")}
    )
    run_id = uploaded(store, made, Label("x", {}))
    fetched = fetch_run(store, run_id)
    assert fetched.recipe.config == made.config
    assert fetch_source(store, run_id) == TEXT
    past = read_past_run(store, store.client.get_run(run_id))
    assert past.config == made.config
    assert past.config.own.path is None
    assert past.judgement.amplitude == made.judgement.amplitude  # not the curve of that name
    assert past.metrics["own.amplitude"] == 5.0
    assert past.metrics["final_accuracy"] == 1.0


def test_long_file_is_recorded_whole_and_its_difference_said(mine, store):
    arguments = ", ".join(f"argument_number_{i}={i}.5" for i in range(150))
    lines = [f"number_{i} = {i} # one of many" for i in range(2000)]
    lines[0] = f"many = '{'.' * 300_000}'"
    long = TEXT.replace("width=3 * 3", f"width=3 * 3, {arguments}") + "\n".join(lines)
    mine.write_text(long)
    made = own_record(mine)
    run_id = uploaded(store, made, Label("x", {}))
    run = store.client.get_run(run_id)
    assert len(long) > record.LARGEST_TEXT
    assert fetch_source(store, run_id) == long
    assert len(run.data.tags[display.PROGRAM]) == display.LONGEST_TAG
    assert read_past_run(store, run).config == made.config
    mine.write_text(long.replace("number_700 = 700", "number_700 = -1"))
    with pytest.raises(DataError) as caught:
        located(
            made.config.own,
            read_named_file({"file": str(mine)}),
            lambda: fetch_source(store, run_id),
        )
    assert str(caught.value) == (
        "mine.py is not what the run was trained by: - number_700 = 700 # one of many "
        "+ number_700 = -1 # one of many; own.changed=true trains it all the same"
    )


def test_file_that_the_params_of_a_run_name_is_not_taken(mine, store):
    run_id = uploaded(store, make_record(), Label("x", {}))
    for name, value in {"own.file": str(mine), "own.changed": "True", "own.rate": "1"}.items():
        store.client.log_param(run_id, name, value)
    assert read_past_run(store, store.client.get_run(run_id)).config.own is None


def test_params_and_program_that_lie_are_refused(mine, store, only_here):
    run_id = uploaded(store, own_record(mine), Label("x", {}))
    for tag, value in [
        (display.PROGRAM, "{"),
        (display.PROGRAM, '{"file": "/tmp/evil.py"}'),
        (display.PROGRAM, "__import__('os').system('true')"),
        ("own.rate", "__import__('os').system('true')"),
        ("own.kind", "c"),
        ("own.sizes", "[" * 500),
    ]:
        run = store.client.get_run(run_id)
        (run.data.tags if tag == display.PROGRAM else run.data.params)[tag] = value
        with hostile.watched(only_here) as seen, pytest.raises(RecordError) as caught:
            read_past_run(store, run)
        assert [event for event in seen if not event.startswith(("open", "socket"))] == []
        assert str(caught.value).isprintable()
