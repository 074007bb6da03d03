"""The one door: every law of every setting, and nothing but a config or one sentence."""

import contextlib
import dataclasses
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlp.config import RUN_GROUPS, RunConfig, SweepConfig
from mlp.errors import SettingError
from mlp.settings import (
    default_settings,
    read_run,
    read_sweep,
    setting_paths,
    settings_of,
    with_settings,
)

INTEGERS = [
    "model.depth",
    "training.steps",
    "training.batch_size",
    "training.seed",
    "training.order_seed",
    "training.evaluate_every",
    "training.sharpness_points",
    "training.shift",
    "data.split_seed",
    "execution.population",
    "execution.threads",
    "study.seed",
    "study.n_trials",
    "study.generation",
    "study.confirm_seeds",
]
NUMBERS = [
    "data.validation_fraction",
    "data.scale",
    "initialization.scale",
    "initialization.bias",
    "gradient.clip_norm",
    "optimizer.learning_rate",
    "optimizer.momentum",
    "study.percentile",
    "study.timeout_s",
    "execution.memory_gb",
    "execution.silence_s",
]
NAMES = {
    "data.name": "one of auto, mnist or digits",
    "model.activation": "one of sigmoid, tanh or relu",
    "initialization.scheme": "one of lecun_normal, glorot_uniform, glorot_normal, he_normal, "
    "normal, uniform, orthogonal or zeros",
    "gradient.normalization": "one of sum, mean, unit or clip",
    "gradient.derivative": "exact or question",
    "optimizer.decay": "none or cosine",
    "optimizer.guard": "none or rollback",
    "training.dtype": "float32 or float64",
    "study.sampler": "one of tpe, random, qmc or grid",
    "study.pruner": "one of none, median or percentile",
    "execution.engine": "one of local, ray or cuda",
}
TEXTS = [
    "data.root",
    "tracking.uri",
    "tracking.experiment",
    "study.file",
    "study.name",
    "study.storage",
    "tracking.register",
    "execution.address",
]
OWN = {  # of an own function -> values that are refused, each with its law
    "own.file": {3: "a text", "": "at least 1 character long", "mine.txt": "FILE.py"},
    "own.timeout_s": {
        0: "greater than 0",
        "1": "a number",
        True: "a number",
        math.inf: "a finite number",
    },
    "own.roles": {3: "a mapping", None: "a mapping"},
    "own.changed": {1: "true or false", None: "true or false"},
}
OPTIONAL = {
    "data.root",
    "training.batch_size",
    "tracking.uri",
    "execution.population",
    "execution.threads",
    "study.name",
    "study.timeout_s",
    "tracking.register",
    "execution.memory_gb",
}
OUT_OF_RANGE = [
    ("data.validation_fraction", -0.01, "at least 0"),
    ("data.validation_fraction", 0.91, "at most 0.9"),
    ("data.scale", 0, "greater than 0"),
    ("data.split_seed", -1, "at least 0"),
    ("data.split_seed", 2**32, "less than 4294967296"),
    ("model.depth", 0, "at least 1"),
    ("model.depth", 65, "at most 64"),
    ("initialization.scale", 0, "greater than 0"),
    ("gradient.clip_norm", 0.0, "greater than 0"),
    ("optimizer.learning_rate", 0, "greater than 0"),
    ("optimizer.learning_rate", -0.1, "greater than 0"),
    ("optimizer.momentum", -0.1, "at least 0"),
    ("optimizer.momentum", 1, "less than 1"),
    ("training.steps", 0, "at least 1"),
    ("training.steps", 10**9 + 1, "at most 1000000000"),
    ("training.batch_size", 0, "at least 1"),
    ("training.evaluate_every", 0, "at least 1"),
    ("training.sharpness_points", -1, "at least 0"),
    ("training.sharpness_points", 1001, "at most 1000"),
    ("training.shift", -1, "at least 0"),
    ("training.shift", 15, "at most 14"),
    ("training.seed", -1, "at least 0"),
    ("training.seed", 2**32, "less than 4294967296"),
    ("training.order_seed", 2**32, "less than 4294967296"),
    ("tracking.experiment", "", "at least 1 character long"),
    ("execution.population", 0, "at least 1"),
    ("execution.threads", 0, "at least 1"),
    ("execution.threads", 1025, "at most 1024"),
    ("study.seed", -1, "at least 0"),
    ("study.n_trials", 0, "at least 1"),
    ("study.n_trials", 1_000_001, "at most 1000000"),
    ("study.generation", 0, "at least 1"),
    ("study.confirm_seeds", -1, "at least 0"),
    ("study.confirm_seeds", 101, "at most 100"),
    ("study.percentile", 0, "greater than 0"),
    ("study.percentile", 100, "less than 100"),
    ("study.timeout_s", 0, "greater than 0"),
    ("study.storage", "", "at least 1 character long"),
]


def nested(path, value):
    group, _, name = path.partition(".")
    return {group: {name: value}}


def refusal(values, read=read_sweep):
    with pytest.raises(SettingError) as caught:
        read(values)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


@pytest.mark.parametrize("path", INTEGERS)
def test_integers_are_integers(path):
    for value in (True, 1.0, "1", math.nan, [1], {"a": 1}, np.int64(1), np.float32(1), b"1"):
        assert refusal(nested(path, value)) == f"{path} must be an integer, but is {value!r}"


@pytest.mark.parametrize("path", NUMBERS)
def test_numbers_are_finite_numbers(path):
    for value in (True, "0.5", [0.5], {"a": 1}, b"1", 1j):
        assert refusal(nested(path, value)) == f"{path} must be a number, but is {value!r}"
    for value in (math.nan, math.inf, -math.inf):
        assert refusal(nested(path, value)) == f"{path} must be a finite number, but is {value}"


def test_a_number_becomes_a_plain_float():
    for value in (0.5, 1, np.float64(0.5), np.float32(0.5), np.int64(1)):
        found = read_run(nested("initialization.scale", value)).initialization.scale
        assert type(found) is float
        assert found == value


@pytest.mark.parametrize(("path", "law"), NAMES.items())
def test_names_are_among_those_there_are(path, law):
    for value in (None, 1, True, "", "xyz", ["mean"], {"a": 1}):
        assert refusal(nested(path, value)) == f"{path} must be {law}, but is {value!r}"


def test_a_misspelt_name_is_answered_with_the_nearest():
    assert refusal(nested("gradient.normalization", "meen")).endswith("; did you mean 'mean'?")


@pytest.mark.parametrize("path", TEXTS)
def test_texts_are_printable_texts(path):
    for value in (1, True, ["a"], {"a": 1}, b"a", Path("a")):
        way_out = "; in quotes it is one" if isinstance(value, int) else ""
        assert refusal(nested(path, value)) == f"{path} must be a text, but is {value!r}{way_out}"
    if path.partition(".")[0] != "study":  # whose texts are names, of fewer characters
        for value in ("a\0", "a\nb", "\x1b[31m", "\udcff"):
            assert "must be printable characters" in refusal(nested(path, value))


@pytest.mark.parametrize("path", ["study.name", "study.file"])
def test_a_study_is_called_what_a_folder_can_be(path):
    for value in ("..", ".", "a/b", "a b", "-x", "a\n", "ü/"):
        refusal(nested(path, value))


def test_null_where_the_schema_allows_it_and_nowhere_else():
    for path in sorted({*INTEGERS, *NUMBERS, *NAMES, *TEXTS} - OPTIONAL):
        assert f"{path} must be" in refusal(nested(path, None))
    for path in OPTIONAL:
        group, _, name = path.partition(".")
        read = read_sweep(nested(path, None))
        assert getattr(read.study if group == "study" else getattr(read.base, group), name) is None


def test_values_are_in_range():
    for path, value, law in OUT_OF_RANGE:
        assert refusal(nested(path, value)) == f"{path} must be {law}, but is {value!r}"


def test_a_claim_is_true_or_false():
    for path in ("study.dry_run", "study.explain", "study.force", "own.changed", "execution.gpu"):
        for value in (0, 1, "true", None):
            assert refusal(nested(path, value)).startswith(f"{path} must be")


@pytest.mark.parametrize("path", OWN)
def test_what_is_typed_of_an_own_function(path):
    for value, law in OWN[path].items():
        assert refusal(nested(path, value)).startswith(f"{path} must be {law}")


def test_objective_is_named_or_the_first():
    assert read_sweep(nested("study.objective", None)).study.objective == "validation_accuracy"
    law = "study.objective must be one of validation_accuracy, training_loss or oscillation"
    assert refusal(nested("study.objective", "xyz")) == f"{law}, but is 'xyz'"
    assert refusal(nested("study.objective", 3)).startswith("study.objective must be a text")


def test_the_tables_above_know_every_setting():
    described = {*INTEGERS, *NUMBERS, *NAMES, *TEXTS}
    rest = {"model.widths", "study.space", "study.enqueue", "study.dry_run", "study.explain"}
    rest |= {"study.force", "study.objective", "execution.gpu", *OWN}
    assert described | rest == set(setting_paths("sweep"))
    assert set(default_settings("sweep")) == set(setting_paths("sweep"))
    assert all(setting_paths("sweep").values()), "a setting without a description"


@pytest.mark.parametrize("huge", [10**30, 10**400, 16**5000], ids=["30", "400", "too many"])
def test_a_number_of_thousands_of_digits_is_refused_in_one_short_line(huge):
    for path in ("training.steps", "optimizer.momentum", "data.name"):
        refusal(nested(path, huge), read_run)
    refusal({"model": huge}, read_run)
    for widths in (huge, [huge, 1]):
        message = refusal(nested("model.widths", widths))
        assert message.startswith("model.widths must be at most 65536 in every layer, but is")


def test_widths_are_positive_integers():
    law = "model.widths must be an integer or a list of integers, but is"
    for value in (True, 2.0, "3", None, {}, [3, True], [3, 2.0], [[3], [3]], np.int64(3)):
        assert refusal(nested("model.widths", value)).startswith(law)
    law = "model.widths must be at least 1 in every layer, but is"
    for value in (0, -1, [3, 0]):
        assert refusal(nested("model.widths", value)) == f"{law} {value}"


@pytest.mark.parametrize("depth", [1, 3, 64])
def test_a_list_of_widths_matches_the_depth(depth):
    message = refusal({"model": {"depth": depth, "widths": [3, 4]}})
    assert message == f"model.widths must have model.depth = {depth} entries, but is [3, 4]"


def test_no_width_is_no_network():
    assert refusal(nested("model.widths", [])) == (
        "model.widths must name at least one width, but is []"
    )


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_questions_derivative_goes_with_sigmoid_alone(activation):
    values = {"gradient": {"derivative": "question"}, "model": {"activation": activation}}
    assert refusal(values) == (
        f"gradient.derivative=question needs model.activation=sigmoid, but that is {activation!r}"
    )


def test_a_shift_needs_batches():
    message = "training.shift=2 needs training.batch_size, but that is null"
    assert refusal({"training": {"shift": 2}}) == message
    assert read_run({"training": {"shift": 2, "batch_size": 9}}).training.shift == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"optimizer": {"learnig_rate": 1.0}},
            "unknown setting 'optimizer.learnig_rate'; did you mean 'optimizer.learning_rate'?",
        ),
        (
            {"training": {"learning_rate": 1.0}},
            "unknown setting 'training.learning_rate'; did you mean 'optimizer.learning_rate'?",
        ),
        ({"modle": {}}, "unknown setting 'modle'; did you mean 'model'?"),
        ({"nonsense": 1}, "unknown setting 'nonsense'; --help lists the settings"),
        ({"": 1}, "unknown setting ''; --help lists the settings"),
        ({7: 1}, "unknown setting '7'; --help lists the settings"),
        ({"model": {None: 1}}, "unknown setting 'model.None'; did you mean 'model.depth'?"),
        (
            {"model.depth": 3},
            "'model.depth' must be written as a setting in its group, model: {depth: ...}",
        ),
        (
            {"study": {"n_trial": 3}},
            "unknown setting 'study.n_trial'; did you mean 'study.n_trials'?",
        ),
    ],
)
def test_unknown_settings_are_answered_with_the_nearest(values, message):
    assert refusal(values) == message


def test_a_run_has_no_study():
    message = "unknown setting 'study'; only a sweep has one"
    assert refusal({"study": {"n_trials": 3}}, read_run) == message


@pytest.mark.parametrize("group", [*RUN_GROUPS, "study"])
def test_groups_are_groups(group):
    for value in (None, 3, "model", [], True):
        if (group, value) == ("own", None):
            assert read_run({group: value}).own is None  # the built-in network
        else:
            message = f"{group} must be a group of settings, but is {value!r}"
            assert refusal({group: value}) == message


@pytest.mark.parametrize(
    ("study", "message"),
    [
        ({"space": None}, "study.space must be a mapping, but is None"),
        ({"space": [1]}, "study.space must be a mapping, but is [1]"),
        ({"enqueue": None}, "study.enqueue must be a list, but is None"),
        ({"enqueue": {}}, "study.enqueue must be a list, but is {}"),
        ({"enqueue": [3]}, "study.enqueue.0 must be a mapping, but is 3"),
    ],
)
def test_the_shape_of_a_study(study, message):
    assert refusal({"study": study}) == message


# -- nothing but a config or one sentence

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**301)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=3)
    | st.decimals()
    | st.sampled_from([np.int64(3), np.float32(1), np.array([3, 3]), object(), ..., Decimal(1)]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.none(), inner, max_size=3)
    ),
    max_leaves=6,
)
PATHS = sorted(setting_paths("sweep"))


def assert_config_or_sentence(values):
    with contextlib.suppress(SettingError):
        assert isinstance(read_sweep(values), SweepConfig)
        return
    refusal(values)


@given(st.dictionaries(st.sampled_from(PATHS), PLAIN, max_size=4))
def test_no_value_gives_anything_but_a_config_or_one_sentence(flat):
    values: dict = {}
    for path, value in flat.items():
        group, _, name = path.partition(".")
        values.setdefault(group, {})[name] = value
    assert_config_or_sentence(values)


@given(
    st.dictionaries(
        st.sampled_from([*RUN_GROUPS, "study"]) | st.text() | st.none() | st.integers(),
        PLAIN,
        max_size=3,
    )
)
def test_no_group_gives_anything_but_a_config_or_one_sentence(values):
    assert_config_or_sentence(values)


@st.composite
def runs(draw):
    depth = draw(st.integers(1, 64))
    widths = st.integers(1, 65_536)
    activation = draw(st.sampled_from(["sigmoid", "tanh", "relu"]))
    derivatives = ["exact", "question"] if activation == "sigmoid" else ["exact"]
    positive = st.floats(0, exclude_min=True, allow_infinity=False)
    seeds = st.integers(0, 2**32 - 1)
    return {
        "data": {"validation_fraction": draw(st.floats(0, 0.9)), "split_seed": draw(seeds)},
        "model": {
            "depth": depth,
            "widths": draw(widths | st.lists(widths, min_size=depth, max_size=depth)),
            "activation": activation,
        },
        "initialization": {"scale": draw(positive)},
        "gradient": {"clip_norm": draw(positive), "derivative": draw(st.sampled_from(derivatives))},
        "optimizer": {"learning_rate": draw(positive), "momentum": draw(st.floats(0, 0.99))},
        "training": {"steps": draw(st.integers(1, 10**9)), "seed": draw(seeds)},
    }


@given(runs())
def test_what_passed_the_door_passes_it_again(values):
    run = read_run(values)
    assert read_run(dataclasses.asdict(run)) == run
    assert with_settings(RunConfig(), settings_of(run)) == run
    assert with_settings(run, {}) == run


# -- changed settings


def test_changed_settings_leave_the_config_they_came_from():
    before = RunConfig()
    after = with_settings(before, {"optimizer.learning_rate": 0.1, "model.widths": [2, 3]})
    assert (before.optimizer.learning_rate, before.model.widths) == (0.5, 3)
    assert (after.optimizer.learning_rate, after.model.widths) == (0.1, (2, 3))


def test_settings_that_only_match_together_are_changed_together():
    config = with_settings(RunConfig(), {"model.widths": [1, 2]})
    changed = with_settings(config, {"model.depth": 3, "model.widths": [1, 2, 3]})
    assert changed.model.layer_widths == (1, 2, 3)


@pytest.mark.parametrize("path", ["", ".", "model", "model.", "modle.depth", "study.n_trials"])
def test_changes_of_unknown_settings_are_refused(path):
    with pytest.raises(SettingError, match=f"unknown setting '{path}'"):
        with_settings(RunConfig(), {path: 3})
