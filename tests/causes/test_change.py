"""Which changes are tried on a run, and that nothing but the named setting changes."""

import functools
import math

import pytest

from mlp.causes.changes import Factor, changes_of, plain, rerun
from mlp.causes.observed import complete_space, parameters_of
from mlp.config import Execution, RunConfig
from mlp.settings import settings_of, with_settings
from mlp.stability.ratio import step_factor
from mlp.study.space import read_space

SPACE = {
    "model.depth": {"low": 1, "high": 4},
    "model.widths": {"low": 2, "high": 32, "log": True, "each_layer": True},
    "gradient.normalization": ["sum", "mean", "unit", "clip"],
    "optimizer.learning_rate": {
        "by": "gradient.normalization",
        "sum": {"low": 1e-6, "high": 1e-2, "log": True},
        "mean": {"low": 0.01, "high": 30.0, "log": True},
        "unit": {"low": 0.001, "high": 1.0, "log": True},
        "clip": {"low": 0.01, "high": 30.0, "log": True},
    },
    "gradient.clip_norm": {"low": 0.1, "high": 10.0, "log": True},
    "initialization.scheme": ["lecun_normal", "orthogonal"],
    "training.seed": [0, 1, 2],
}
N_EXAMPLES, NORMS = 12_396, (0.25, 0.5)


@functools.cache
def space_of_study():
    return read_space(SPACE, RunConfig())


def config_of(**settings):
    return plain(with_settings(RunConfig(), {k.replace("__", "."): v for k, v in settings.items()}))


def changes(config, targets=None, space=SPACE, norms=NORMS):
    return changes_of(
        [config, with_settings(config, {"training.seed": 7})],
        space_of_study() if space is SPACE else read_space(space, RunConfig()),
        n_examples=N_EXAMPLES,
        gradient_norm=norms.__getitem__,
        targets=targets or {},
        order=lambda name, value: 0.0,
    )


def of(config, setting, *, keeps_step=False, **kwargs):
    found = changes(config, **kwargs)
    own = [change for change in found if change.factor == Factor(setting, keeps_step)]
    return [settings_of(rerun(config, [change], 0)) for change in own]


def test_one_change_changes_one_setting():
    config = config_of(model__depth=3, model__widths=[4, 5, 6])
    for change in changes(config):
        before, after = settings_of(config), settings_of(rerun(config, [change], 0))
        differ = {path for path in before if before[path] != after[path]}
        allowed = {change.factor.setting}
        if change.factor.setting == "model.depth":
            allowed.add("model.widths")
        if change.factor.keeps_step:
            allowed.add("optimizer.learning_rate")
        assert change.factor.setting in differ
        assert differ <= allowed, change.text


def test_depth_repeats_the_last_width_or_cuts_the_list():
    config = config_of(model__depth=3, model__widths=[4, 5, 6])
    assert [c["model.widths"] for c in of(config, "model.depth")] == [[4, 5], [4, 5, 6, 6]]
    assert [c["model.depth"] for c in of(config_of(model__depth=1), "model.depth")] == [2]


def test_numbers_go_a_factor_of_ten_and_to_the_target_within_bounds():
    config = config_of(optimizer__learning_rate=5.0)
    target = {"optimizer.learning_rate[mean]": 0.3, "optimizer.learning_rate[sum]": 1e-4}
    rates = [
        c["optimizer.learning_rate"] for c in of(config, "optimizer.learning_rate", targets=target)
    ]
    assert rates == pytest.approx([0.3, 0.5, 30.0])
    assert [c["optimizer.learning_rate"] for c in of(config, "optimizer.learning_rate")] == [
        0.5,
        30.0,
    ]


def test_integers_go_to_their_neighbours_and_the_target():
    config = config_of(model__depth=2, model__widths=[2, 8])
    found = [c["model.widths"] for c in of(config, "model.widths", targets={"model.widths[2]": 20})]
    assert found == [[3, 8], [2, 20], [2, 7], [2, 9]]


def test_inactive_settings_and_seeds_are_left_out():
    names = {change.factor.setting for change in changes(config_of())}
    assert "gradient.clip_norm" not in names
    assert "training.seed" not in names
    clipped = {c.factor.setting for c in changes(config_of(gradient__normalization="clip"))}
    assert "gradient.clip_norm" in clipped


def test_the_normalization_is_changed_with_the_rate_and_with_the_step_kept():
    config = config_of(gradient__normalization="sum", optimizer__learning_rate=0.005)
    kept = of(config, "gradient.normalization")
    assert {c["optimizer.learning_rate"] for c in kept} == {0.005}
    assert {c["gradient.normalization"] for c in kept} == {"mean", "unit", "clip"}
    step = {
        c["gradient.normalization"]: c["optimizer.learning_rate"]
        for c in of(config, "gradient.normalization", keeps_step=True)
    }
    assert step == pytest.approx({"mean": 61.98, "unit": 61.98 * 0.25, "clip": 61.98})


def test_the_step_is_kept_for_each_seed():
    config = config_of(gradient__normalization="unit", optimizer__learning_rate=0.1)
    other = with_settings(config, {"training.seed": 7})
    for change in changes(config):
        if change.factor.keeps_step:
            for seed, own in enumerate([config, other]):
                after = rerun(own, [change], seed)
                steps = [
                    c.optimizer.learning_rate * step_factor(c, NORMS[seed], N_EXAMPLES)
                    for c in (own, after)
                ]
                assert steps[0] == pytest.approx(steps[1])


def test_without_a_usable_gradient_no_step_is_kept():
    config = config_of(gradient__normalization="unit")
    assert not of(config, "gradient.normalization", keeps_step=True, norms=(0.0, math.nan))


def test_colliding_changes_are_none():
    config = config_of(model__depth=2, model__widths=[3, 4])
    found = changes(config)
    depth = next(c for c in found if c.factor.setting == "model.depth")
    widths = next(c for c in found if c.factor.setting == "model.widths")
    assert rerun(config, [depth, widths], 0) is None


def test_a_value_that_the_schema_refuses_is_left_out():
    space = {"gradient.derivative": ["exact", "question"], "model.activation": ["sigmoid"]}
    tanh = config_of(model__activation="tanh")
    assert not of(tanh, "gradient.derivative", space=space)


def test_plain_forgets_where_a_run_was_trained():
    here = with_settings(RunConfig(execution=Execution(threads=2)), {"data.root": "/a"})
    assert plain(here) == plain(RunConfig())
    assert plain(RunConfig()).model.widths == (3, 3)


def test_settings_outside_the_space_are_seen():
    configs = [config_of(), config_of(gradient__derivative="question", model__widths=[3, 9])]
    space = complete_space(configs, read_space({"model.depth": [1, 2]}, RunConfig()))
    assert [entry.path for entry in space] == [
        "model.depth",
        "model.widths",
        "gradient.derivative",
    ]
    assert parameters_of(configs[1], space) == {
        "model.depth": 2,
        "model.widths[1]": 3,
        "model.widths[2]": 9,
        "gradient.derivative": "question",
    }


@pytest.mark.parametrize("normalization", ["sum", "mean", "unit", "clip"])
def test_a_rerun_is_found_again_by_the_key_that_it_was_recorded_with(normalization):
    """And keeps what does nothing in the run itself: a change may wake it."""
    config = config_of(gradient__normalization=normalization, gradient__clip_norm=3.0)
    for change in changes(config):
        changed = rerun(config, [change], 0)
        assert plain(changed) == changed
        if change.factor.setting != "gradient.clip_norm":
            assert changed.gradient.clip_norm == 3.0
