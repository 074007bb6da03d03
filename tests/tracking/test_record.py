"""Records survive the way to disk and back; whatever is not a record is refused."""

import dataclasses
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp.curve import Verdict
from mlp.engine.result import Ending
from mlp.errors import RecordError
from mlp.tracking import record
from mlp.tracking.record import read_recipe
from support.sample_records import make_record


@pytest.mark.parametrize(
    ("changes", "loss"),
    [
        ({"model.widths": [5, 4], "training.dtype": "float64"}, None),
        ({"training.sharpness_points": 9, "training.batch_size": 16}, None),
        ({}, [0.7, 0.9, math.nan]),
        ({}, [math.inf]),
    ],
)
def test_record_survives_the_disk(tmp_path, changes, loss):
    written = make_record(changes, loss=loss)
    record.write_record(tmp_path, written)
    back = record.read_record(tmp_path)
    for field in dataclasses.fields(written):
        if field.name != "result":
            assert getattr(back, field.name) == getattr(written, field.name), field.name
    assert (back.result.ending, back.result.last_step) == (
        written.result.ending,
        written.result.last_step,
    )
    arrays = [f.name for f in dataclasses.fields(written.result)][:5]
    measured = [f.name for f in dataclasses.fields(written.result)][8:]
    measured.remove("own")
    assert (arrays[0], measured[0]) == ("loss", "sharpness_step")
    assert (written.result.sharpness.size > 0) == (written.stability is not None)
    for name in (*arrays, *measured):
        np.testing.assert_array_equal(getattr(back.result, name), getattr(written.result, name))
    for layer, expected in zip(back.result.weights, written.result.weights, strict=True):
        for array, wanted in zip(layer, expected, strict=True):
            assert array.dtype == wanted.dtype
            np.testing.assert_array_equal(array, wanted)


def test_record_of_a_crashed_trial_has_no_weights(tmp_path):
    made = make_record(loss=[np.nan])
    result = dataclasses.replace(made.result, weights=(), ending=Ending.CRASHED, last_step=0)
    result = dataclasses.replace(result, evaluated_step=result.evaluated_step[:0])
    result = dataclasses.replace(result, validation_accuracy=result.validation_accuracy[:0])
    record.write_record(tmp_path, dataclasses.replace(made, result=result))
    read = record.read_record(tmp_path)
    assert (read.result.ending, read.result.weights) == (Ending.CRASHED, ())
    assert read.judgement.verdict is Verdict.DIVERGED


def test_record_without_layers_is_read_and_one_whose_layers_were_changed_is_not(tmp_path):
    made = make_record()
    none = {"layer_step": np.empty(0, np.int64)}
    none |= {f"layer_{name}": np.empty((0, 0)) for name in ("gradient", "update", "idle")}
    before = dataclasses.replace(made, result=dataclasses.replace(made.result, **none))
    record.write_record(tmp_path, before)
    facts = json.loads((tmp_path / "record.json").read_text())
    del facts["layers_digest"]  # as versions before it wrote
    (tmp_path / "record.json").write_text(json.dumps(facts))
    back = record.read_record(tmp_path).result
    assert back.layer_idle.size == 0
    assert record.curve_digest(back) == record.curve_digest(made.result)

    record.write_record(tmp_path, made)
    other = dataclasses.replace(made.result, layer_idle=made.result.layer_idle / 2)
    changed_file = tmp_path / "other"
    changed_file.mkdir()
    record.write_artifacts(changed_file, dataclasses.replace(made, result=other))
    (changed_file / "curve.npz").replace(tmp_path / "curve.npz")
    with pytest.raises(RecordError, match="not those that were written"):
        record.read_record(tmp_path)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"layer_step": np.array([0, 20, 10])}, "increasing steps"),
        ({"layer_step": np.array([0, 10, 21])}, "increasing steps"),
        ({"layer_idle": np.ones((2, 2))}, "as many entries of layer_idle"),
        ({"layer_idle": np.ones((3, 3))}, "must be <f8 of shape"),
    ],
)
def test_layers_that_do_not_fit_are_refused(tmp_path, layers, said):
    made = make_record()
    record.write_artifacts(
        tmp_path, dataclasses.replace(made, result=dataclasses.replace(made.result, **layers))
    )
    with pytest.raises(RecordError, match=said):
        record.read_artifacts(tmp_path)


def test_record_is_judged_anew_whatever_it_says(tmp_path):
    made = make_record()
    judgement = dataclasses.replace(made.judgement, amplitude=math.inf)
    record.write_record(tmp_path, dataclasses.replace(made, judgement=judgement))
    assert record.read_record(tmp_path).judgement == made.judgement


def test_config_json_is_the_settings_and_nothing_local():
    values = json.loads(record.config_json(make_record({"data.root": "/secret"})))
    assert values["version"] == 1
    assert values["ended"] == {"ending": "completed", "last_step": 20}
    assert values["settings"]["model"] == {"depth": 2, "widths": 3, "activation": "sigmoid"}
    assert "secret" not in json.dumps(values)
    assert "tracking" not in values["settings"]


def test_config_json_refuses_unresolved_data():
    made = make_record()
    unresolved = dataclasses.replace(
        made.config, data=dataclasses.replace(made.config.data, name="auto")
    )
    with pytest.raises(ValueError, match="must be resolved"):
        record.config_json(dataclasses.replace(made, config=unresolved))


def test_same_arrays_give_the_same_bytes_and_numpy_reads_them():
    arrays = {"W1": np.arange(6.0).reshape(2, 3), "b1": np.zeros(3, np.float32)}
    data = record.pack_arrays(arrays)
    assert data == record.pack_arrays({name: array.copy() for name, array in arrays.items()})
    with np.load(io.BytesIO(data)) as loaded:
        np.testing.assert_array_equal(loaded["W1"], arrays["W1"])
    assert record.pack_arrays({"a": np.asfortranarray(arrays["W1"])}) == record.pack_arrays(
        {"a": arrays["W1"]}
    )


def test_digests_see_every_bit_shape_and_dtype_but_no_kind_of_nan():
    a = np.arange(6.0)
    digests = {
        record.arrays_digest([array])
        for array in (a, np.nextafter(a, 9), a.reshape(2, 3), a.astype(np.float32))
    }
    assert len(digests) == 4
    assert record.arrays_digest([np.array([np.nan])]) == record.arrays_digest([np.array([-np.nan])])
    assert record.arrays_digest([np.array([0.0])]) != record.arrays_digest([np.array([-0.0])])


GOOD = json.loads(record.config_json(make_record()))


def changed(path: str, value: object) -> str:
    """The good config.json with one value changed or added."""
    values = json.loads(json.dumps(GOOD))
    *groups, last = path.split(".")
    place = values
    for group in groups:
        place = place[group]
    place[last] = value
    return json.dumps(values)


FOREIGN_CONFIGS = {
    "empty": ("", "Expecting value"),
    "no json": ("loss: 1", "Expecting value"),
    "list": ("[]", "must be a mapping"),
    "null": ("null", "must be a mapping"),
    "html": ("<!DOCTYPE html><html></html>", "Expecting value"),
    "huge": ('{"a": "' + "x" * 300_000 + '"}', "at most 262144 bytes"),
    "many keys": (json.dumps({f"k{i}": 0 for i in range(1000)}), "the key"),
    "deep lists": ("[" * 100_000, "cannot be used"),
    "deep mappings": ('{"a":' * 5000 + "1" + "}" * 5000, "cannot be used"),
    "nine deep": (changed("settings", json.loads("[" * 9 + "]" * 9)), "nested at most 8"),
    "huge integer": ('{"version": ' + "9" * 10_000 + "}", "cannot be used"),
    "nan": (changed("settings.optimizer.learning_rate", math.nan), "NaN is no number"),
    "infinity": (changed("settings.optimizer.learning_rate", math.inf), "Infinity is no number"),
    "overflow": (json.dumps(GOOD).replace('"scale": 1.0', '"scale": 1e999'), "too large"),
    "duplicate": (json.dumps(GOOD).replace('"version"', '"version": 1, "version"'), "twice"),
    "target": (changed("settings.model._target_", "os.system"), "may be called '_target_'"),
    "args": (changed("settings._args_", ["rm"]), "may be called '_args_'"),
    "resolver": (changed("settings.data.name", "${oc.env:HOME}"), "interpolation"),
    "resolver in a list": (changed("settings.model.widths", ["${x}", 3]), "interpolation"),
    "other version": (changed("version", 2), "version must be 1"),
    "version true": (changed("version", True), "version must be 1"),
    "more": (changed("extra", 1), "must not have the key 'extra'"),
    "local setting": (changed("settings.data.root", "/etc"), "must not have the setting data.root"),
    "tracking": (changed("settings.tracking", {"uri": "x"}), "the setting tracking.uri"),
    "look-alike": (changed("settings.m\u043edel", {"depth": 2}), "must not have the setting"),
    "younger": (changed("settings.optimizer.decay", "steps"), "decay must be none or cosine"),
    "wrong type": (changed("settings.model.depth", "2"), "model.depth must be an integer"),
    "out of range": (changed("settings.optimizer.learning_rate", -1), "greater than 0"),
    "widths": (changed("settings.model.widths", [1, 2, 3]), "model.depth = 2 entries"),
    "group is a list": (changed("settings.model", []), "settings.model must be a mapping"),
    "auto": (changed("settings.data.name", "auto"), "data.name must be one of mnist, digits"),
    "digest": (changed("data_digest", "../../etc/passwd"), "64 hex digits"),
    "digest type": (changed("data_digest", 1), "64 hex digits"),
    "ending": (changed("ended.ending", "won"), "ended.ending must be one of"),
    "ending type": (changed("ended.ending", ["completed"]), "ended.ending must be one of"),
    "last step": (changed("ended.last_step", 10**9), "a step of the training"),
    "last step true": (changed("ended.last_step", True), "a step of the training"),
    "surrogate": (changed("ended.ending", "\ud800"), "ended.ending must be one of"),
    "escape": (changed("\x1b[31mred", 1), "must not have the key"),
}


@pytest.mark.parametrize("name", FOREIGN_CONFIGS)
def test_foreign_config_is_refused(name):
    text, reason = FOREIGN_CONFIGS[name]
    with pytest.raises(RecordError) as caught:
        read_recipe(text)
    message = str(caught.value)
    assert reason in message
    assert message.startswith("config.json cannot be used: ")
    assert message.isprintable()
    assert len(message) < 400


def test_missing_setting_is_refused():
    values = json.loads(json.dumps(GOOD))
    del values["settings"]["optimizer"]["momentum"]
    with pytest.raises(RecordError, match=r"must have the setting optimizer\.momentum"):
        read_recipe(json.dumps(values))


YOUNGER = {"optimizer.decay": "cosine", "training.shift": 2, "training.batch_size": 16}


def test_a_record_from_before_a_setting_came_reads_as_what_was_done_then():
    assert "decay" not in GOOD["settings"]["optimizer"]  # as in the oldest records
    assert "shift" not in GOOD["settings"]["training"]
    assert read_recipe(json.dumps(GOOD)).config == make_record().config


def test_a_younger_setting_is_recorded_where_it_does_something():
    recorded = make_record(YOUNGER)
    text = record.config_json(recorded)
    values = json.loads(text)["settings"]
    assert (values["optimizer"]["decay"], values["training"]["shift"]) == ("cosine", 2)
    assert read_recipe(text).config == recorded.config


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
PLACES = [f"settings.{group}.{name}" for group, part in GOOD["settings"].items() for name in part]


@settings(max_examples=40)
@given(st.sampled_from([*PLACES, "version", "data_digest", "ended", "settings.model"]), JSON)
def test_any_value_anywhere_is_read_or_refused(path, value):
    text = changed(path, value)
    try:
        recipe = read_recipe(text)
    except RecordError:
        return
    assert recipe.config.training.steps >= 1


@settings(max_examples=40)
@given(st.text(max_size=200))
def test_any_text_is_refused(text):
    with pytest.raises(RecordError):
        read_recipe(text)


EXPECTED = {
    "a": record.Expected("<f8", (3,)),
    "b": record.Expected("<f4", (9, 2), may_be_shorter=True),
}
FITTING = {"a": np.arange(3.0), "b": np.ones((4, 2), np.float32)}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def member(array: object, **options: object) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


A, B = member(FITTING["a"]), member(FITTING["b"])
FOREIGN_ARRAYS = {  # what an archive may be besides stands in `hostile.archives`
    "missing": zipped({"a.npy": A}),
    "dtype": zipped({"a.npy": member(np.arange(3)), "b.npy": B}),
    "too long": zipped({"a.npy": A, "b.npy": member(np.ones((10, 2), np.float32))}),
    "wide": zipped({"a.npy": A, "b.npy": member(np.ones((4, 3), np.float32))}),
    "fortran": zipped({"a.npy": A, "b.npy": member(np.asfortranarray(np.ones((4, 2), "f4")))}),
    "void": zipped({"a.npy": member(np.zeros(3, "V8")), "b.npy": B}),
}


def test_fitting_arrays_are_read():
    for data in (record.pack_arrays(FITTING), zipped({"b.npy": B, "a.npy": A})):
        read = record.unpack_arrays(data, EXPECTED, source="w.npz")
        for name, array in FITTING.items():
            np.testing.assert_array_equal(read[name], array)


@pytest.mark.parametrize("name", FOREIGN_ARRAYS)
def test_foreign_arrays_are_refused(name):
    with pytest.raises(RecordError, match=r"^w.npz cannot be used: ") as caught:
        record.unpack_arrays(FOREIGN_ARRAYS[name], EXPECTED, source="w.npz")
    assert str(caught.value).isprintable()


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(st.integers(0, len(record.pack_arrays(FITTING)) - 1), st.integers(0, 255)),
        max_size=6,
    )
)
def test_changed_bytes_are_refused_or_harmless(changes):
    data = bytearray(record.pack_arrays(FITTING))
    for place, value in changes:
        data[place] = value
    try:
        read = record.unpack_arrays(bytes(data), EXPECTED, source="w.npz")
    except RecordError:
        return
    assert read["a"].shape == (3,)


def test_too_large_missing_and_linked_files_are_refused(tmp_path: Path):
    (tmp_path / "large.npz").write_bytes(b"\0" * 10_000)
    (tmp_path / "link.npz").symlink_to("/dev/zero")
    for name in ("large.npz", "link.npz", "none.npz"):
        with pytest.raises(RecordError, match=name):
            record.read_arrays(tmp_path / name, EXPECTED)


def test_record_whose_parts_do_not_belong_together_is_refused(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, seed in ((one, 1), (other, 2)):
        folder.mkdir()
        record.write_record(folder, make_record({"training.seed": seed}))
    (one / "weights.npz").write_bytes((other / "weights.npz").read_bytes())
    with pytest.raises(RecordError, match="not those that were written"):
        record.read_record(one)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"loss_step": np.arange(21)[::-1].copy()}, "increasing steps"),
        ({"loss_step": np.arange(1, 22)}, "increasing steps"),
        ({"loss": np.zeros(5)}, "as many entries"),
        ({"sharpness": np.zeros(2)}, "as many entries of sharpness"),
        ({"sharpness_step": np.arange(9)[::-1].copy()}, "increasing steps"),
        ({"sharpness_step": np.arange(15, 24)}, "increasing steps"),
    ],
)
def test_impossible_curve_is_refused(tmp_path, change, reason):
    made = make_record({"training.sharpness_points": 9})
    broken = dataclasses.replace(made.result, **change)
    record.write_artifacts(tmp_path, dataclasses.replace(made, result=broken))
    with pytest.raises(RecordError, match=reason):
        record.read_artifacts(tmp_path)


def test_a_changed_measurement_is_found_out_and_changes_no_curve(tmp_path):
    made = make_record({"training.sharpness_points": 9})
    record.write_record(tmp_path, made)
    changed = dataclasses.replace(made.result, sharpness=made.result.sharpness + 1)
    assert record.curve_digest(changed) == record.curve_digest(made.result)
    record.write_artifacts(tmp_path, dataclasses.replace(made, result=changed))
    with pytest.raises(RecordError, match="not those that were written"):
        record.read_record(tmp_path)


def test_ending_is_kept(tmp_path):
    made = make_record(loss=[0.7, 0.8, math.nan])
    record.write_record(tmp_path, made)
    assert record.read_record(tmp_path).result.ending is Ending.NON_FINITE


def test_what_the_guard_did_is_part_of_the_record(tmp_path):
    made = make_record({"optimizer.guard": "rollback"})
    parts = {
        "restored_step": np.array([9, 15]),
        "restored_to": np.array([2, 11]),
        "restored_share": np.array([0.5, 0.25]),
    }
    guarded = dataclasses.replace(made, result=dataclasses.replace(made.result, **parts))
    assert record.curve_digest(guarded.result) != record.curve_digest(made.result)
    record.write_record(tmp_path, guarded)
    back = record.read_record(tmp_path)
    for name, part in parts.items():
        np.testing.assert_array_equal(getattr(back.result, name), part)
    assert back.judgement.words == f"{back.judgement.verdict}, after 2 rollbacks"
    short = dataclasses.replace(made.result, **parts | {"restored_to": np.array([2])})
    record.write_record(tmp_path, dataclasses.replace(made, result=short))
    with pytest.raises(RecordError, match="as many entries of restored_to as of restored_step"):
        record.read_record(tmp_path)
