"""Reruns from end to end: the same bits, and where they are not, what was the first to differ."""

import dataclasses
import hashlib
import io
import json
import os
import re
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest

from mlp.errors import DataError, MissingInputError, RecordError
from mlp.rerun import compare, main, rerun_network
from mlp.tracking import record
from mlp.train import train_network
from support.sample_records import make_record
from support.sweeping import command, left_in, plain, run_config, tracked
from support.world import copy, said


@pytest.fixture
def run_id(world, empty) -> str:
    """The id of a run of 30 steps, trained by one thread; its store and files may be changed."""
    copy(world.trained(), empty)
    [run] = tracked(empty)
    return run.run_id


def rerun(run_id, *overrides, **changed) -> tuple[bool, str]:
    said = io.StringIO()
    paths = {name.replace("__", "."): value for name, value in changed.items()}
    made = rerun_network(run_id, paths, local=run_config(*overrides), console=plain(said))
    return made.is_as_expected, said.getvalue()


def the_rerun(original_id, folder=None):
    [run] = (run for run in tracked(folder or Path.cwd()) if run.run_id != original_id)
    return run


def artifact(run_id, name) -> Path:
    [file] = Path.cwd().glob(f"mlruns/*/{run_id}/artifacts/{name}")
    return file


def set_tag(run_id, name, value):
    with sqlite3.connect("mlflow.db") as file:
        file.execute(
            "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?", (value, run_id, name)
        )


# The command


def test_rerun_in_another_process_with_other_threads_is_identical(world):
    [original] = tracked(world.trained())
    run_id, done = original.run_id, said(world.rerun())
    assert (done.returncode, done.stderr) == (0, "")
    new = the_rerun(run_id, world.rerun())
    assert done.stdout.splitlines() == [
        "identical: 31 losses, 215 weights, bit for bit",
        f"run {new.run_id}, rerun of {run_id}",
        "next:",
        f"  python -m mlp.rerun {run_id} optimizer.learning_rate=0.25",
    ]
    assert new.tags["mlp.rerun_of"] == run_id
    assert new.tags["mlp.identical"] == "true"
    assert new.tags["mlp.threads"] == "2"
    assert new.name == "rerun lr 0.5 mean lecun 2x3"
    assert "test_accuracy" not in new.metrics


def test_changed_setting_says_what_came_out_differently(run_id):
    done = command(
        "rerun", run_id, "optimizer.learning_rate=5", "model.widths=[4,3,2]", "model.depth=3"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:3] == [
        "model.depth 2 -> 3",
        "model.widths 3 -> [4,3,2]",
        "optimizer.learning_rate 0.5 -> 5.0",
    ]
    for line in (r"verdict \w+ -> \w+", r"final loss \S+ -> \S+", "loss at step 0 was"):
        assert re.search(line, done.stdout), line
    assert "mlp.identical" not in the_rerun(run_id).tags


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "the id of a run is missing: python -m mlp.rerun RUN_ID"),
        (("zz",), 2, "a run id must be 32 hex digits, or the first of them, but is 'zz'"),
        (("seed=1",), 2, "the id of a run comes first, but there is 'seed=1'"),
        (("0" * 32, "gradient=sum"), 2, "name the settings one by one instead of 'gradient=sum'"),
        (("0" * 32, "optimizer.learning_rate=-1"), 2, "optimizer.learning_rate must be greater "),
        (("0" * 32,), 66, "there is no run 00000000000000000000000000000000, because there is no "),
    ],
)
def test_faults_are_one_sentence_and_make_no_store(
    empty, capsys, monkeypatch, arguments, code, message
):
    monkeypatch.setattr(sys, "argv", ["rerun", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    said = capsys.readouterr()
    assert (caught.value.code, said.out) == (code, "")
    assert said.err.startswith(f"error: {message}")
    assert said.err.count("\n") == 1
    assert left_in(empty) == set()


# What is compared


def test_setting_without_effect_says_so(run_id):
    same, said = rerun(run_id, optimizer__learning_rate=0.5, gradient__clip_norm=7.0)
    assert same
    assert said.splitlines()[0] == "gradient.clip_norm 1.0 -> 7.0"
    assert "curve and weights are identical all the same" in said


def test_laws_between_settings_are_those_of_the_original(here):
    made = train_network(run_config("model.depth=1", "model.widths=8", "training.steps=3"))
    _, said = rerun(made.run_id, model__depth=3, data__split_seed=3)
    assert said.startswith("data.split_seed 0 -> 3\nmodel.depth 1 -> 3\n")


@pytest.mark.skipif(
    "MLP_DATA_ROOT" not in os.environ, reason="MLP_DATA_ROOT names no folder with MNIST"
)
def test_mnist_by_its_folder_is_a_plain_rerun(here):
    root = f'data.root="{os.environ["MLP_DATA_ROOT"]}"'
    made = train_network(run_config("data=mnist", root, "training.steps=3"))
    done = command("rerun", made.run_id, root, MLP_DATA_ROOT="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("identical: 4 losses, ")


def test_diverged_run_is_rerun_identically(here):
    made = train_network(run_config("optimizer.learning_rate=1e30", "model=relu"))
    same, said = rerun(made.run_id, model__activation="relu")
    assert same
    assert said.startswith("identical: ")
    with pytest.raises(MissingInputError, match=r"there is no run 0{32}"):
        rerun("0" * 32)


def test_curve_that_differs_is_located_at_its_first_step(run_id):
    """The record of another machine: another last bit at step 7, and digests that fit it."""
    curve, weights = read_npz(run_id, "curve.npz"), read_npz(run_id, "weights.npz")
    loss = curve["loss"]
    loss[7] = np.nextafter(loss[7], 1)
    loss[20] += 1
    rewrite(run_id, "curve.npz", curve)
    set_tag(run_id, "mlp.cpu", "An Older One")
    own = [array for name, array in curve.items() if not name.startswith("layer_")]
    set_tag(run_id, "mlp.curve_digest", record.arrays_digest(own))
    done = command("rerun", run_id)
    assert (done.returncode, done.stderr) == (1, "")
    first, *rest = done.stdout.splitlines()
    assert re.fullmatch(r"different: loss at step 7 was 0\.\d+ and is 0\.\d+", first)
    assert rest[0].startswith("cpu: An Older One then, ")
    assert the_rerun(run_id).tags["mlp.identical"] == "false"
    assert weights.keys() == read_npz(run_id, "weights.npz").keys()


def test_weight_that_differs_is_named(run_id):
    weights = read_npz(run_id, "weights.npz")
    weights["W2"][1, 2] += 1
    rewrite(run_id, "weights.npz", weights)
    set_tag(run_id, "mlp.weights_digest", record.arrays_digest(weights.values()))
    same, said = rerun(run_id)
    assert not same
    assert said.startswith("different: W2[1,2] was ")


def test_tampered_weights_are_refused(run_id):
    weights = read_npz(run_id, "weights.npz")
    weights["W2"][1, 2] += 1
    rewrite(run_id, "weights.npz", weights)
    with pytest.raises(RecordError, match=f"{run_id} was changed: .* mlp.weights_digest"):
        rerun(run_id)
    assert len(tracked(Path.cwd())) == 1


def test_other_data_than_those_of_the_record_are_refused(run_id):
    file = artifact(run_id, "config.json")
    values = json.loads(file.read_text())
    here = values["data_digest"]
    other = hashlib.sha256(b"other digits").hexdigest()
    file.write_text(file.read_text().replace(here, other))
    set_tag(run_id, "mlp.data_digest", other)
    with pytest.raises(DataError, match=f"{other}, here {here}"):
        rerun(run_id)


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({}, None),
        ({"training.seed": 1}, "W1[0,0] was "),
        ({"model.depth": 3, "model.widths": 3}, "layer 3 has another shape"),
        ({"model.widths": [3, 4]}, "layer 2 has another shape"),
    ],
)
def test_weights_are_compared_layer_by_layer(settings, difference):
    old = make_record({"model.widths": [3, 3]}).result
    new = make_record({"model.widths": [3, 3], **settings}).result
    found = compare(old, new)
    assert found is None if difference is None else found.startswith(difference)


def test_curves_of_other_lengths_are_compared_to_the_shorter_end():
    long = make_record().result
    short = dataclasses.replace(long, loss=long.loss[:-1], loss_step=long.loss_step[:-1])
    assert compare(long, short) == "the rerun has no loss from step 20 on"
    assert compare(short, long) == "the original has no loss from step 20 on"


def test_equal_nans_are_identical_and_zeros_of_two_signs_are_not():
    broken = make_record(loss=[0.7, np.nan]).result
    assert compare(broken, broken) is None
    zero = dataclasses.replace(broken, loss=np.array([0.7, 0.0]))
    minus = dataclasses.replace(broken, loss=np.array([0.7, -0.0]))
    assert compare(zero, minus) == "loss at step 1 was 0.0 and is -0.0"


def read_npz(run_id, name) -> dict[str, np.ndarray]:
    with np.load(artifact(run_id, name)) as arrays:
        return dict(arrays)


def rewrite(run_id, name, arrays):
    artifact(run_id, name).write_bytes(record.pack_arrays(arrays))
