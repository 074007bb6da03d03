"""What the schema derives from its settings, and the one text of plain values."""

import dataclasses
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp.config import RESULT_GROUPS, Own, RunConfig, canonical_json, digest
from mlp.errors import SettingError
from mlp.program import Program
from mlp.settings import read_run, settings_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(("widths", "expected"), [(5, (5, 5, 5)), ([2, 3, 4], (2, 3, 4))])
def test_every_hidden_layer_has_its_width(widths, expected):
    assert read_run({"model": {"depth": 3, "widths": widths}}).model.layer_widths == expected


def test_auto_needs_a_network_whose_curvature_is_known():
    auto = {"optimizer": {"learning_rate": "auto"}}
    own = Own(Program("mine.py", "train", "", ()), ())
    with pytest.raises(SettingError, match=r"^optimizer\.learning_rate=auto needs the built-in"):
        read_run({**auto, "own": own})
    assert settings_of(read_run(auto))["optimizer.learning_rate"] == "auto"


def test_configs_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().training.steps = 3  # type: ignore[misc]


def test_equal_configs_have_one_hash_and_none_travels_to_another_process():
    run, other = read_run({}), read_run({})
    assert hash(run) == hash(other) == hash(run)
    again = pickle.loads(pickle.dumps(run))
    assert again == run
    assert vars(again).keys() == {field.name for field in dataclasses.fields(RunConfig)}


def test_settings_of_says_what_was_computed_but_not_where():
    settings = settings_of(RunConfig())
    assert {path.partition(".")[0] for path in settings} == set(RESULT_GROUPS)
    assert "data.root" not in settings
    assert not {"tracking", "execution"} & set(RESULT_GROUPS)


def test_widths_are_a_list_among_the_settings():
    run = read_run({"model": {"widths": [3, 4]}})
    assert settings_of(run)["model.widths"] == [3, 4]


@settings(max_examples=30)
@given(JSON)
def test_the_digest_does_not_depend_on_the_order_of_keys(value):
    turned = dict(reversed(value.items())) if isinstance(value, dict) else value
    assert canonical_json(turned) == canonical_json(value)
    assert digest(turned) == digest(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, [-math.inf]])
def test_canonical_text_has_no_number_that_json_lacks(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json(value)
