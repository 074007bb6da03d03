"""Lists of points: a grid is the product, a quasi-random list is spread evenly."""

import itertools
import json

import numpy as np
import pytest
from scipy.stats import qmc

from mlp.config import RunConfig, canonical_json
from mlp.errors import SettingError
from mlp.settings import read_sweep
from mlp.study.points import check_grid, list_points
from mlp.study.space import parameters, read_space

RATE, MEAN_OR_SUM = "optimizer.learning_rate", "gradient.normalization"
DEPTH, WIDTHS = "model.depth", "model.widths"


def points(space, base=None, **study):
    config = read_sweep({"study": {"space": space, **study}}).study
    base = base or RunConfig()
    return list_points(config, read_space(space, base), base)


def as_set(found):
    return {canonical_json(point) for point in found}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_samplers_have_no_list(sampler):
    assert points({RATE: [0.1]}, sampler=sampler) is None


# -- grid


def test_a_grid_is_the_product():
    space = {RATE: [0.1, 0.2], DEPTH: {"low": 1, "high": 3}, "model.activation": ["tanh", "relu"]}
    found = points(space, sampler="grid")
    expected = itertools.product([0.1, 0.2], [1, 2, 3], ["tanh", "relu"])
    assert len(found) == 12
    assert as_set(found) == as_set(
        {RATE: r, DEPTH: d, "model.activation": a} for r, d, a in expected
    )


def test_a_grid_of_branches_has_each_branch_once():
    space = {
        MEAN_OR_SUM: ["sum", "mean"],
        RATE: {"by": MEAN_OR_SUM, "sum": [1e-3, 1e-2], "mean": [0.1]},
    }
    assert as_set(points(space, sampler="grid")) == as_set(
        [
            {MEAN_OR_SUM: "sum", f"{RATE}[sum]": 1e-3},
            {MEAN_OR_SUM: "sum", f"{RATE}[sum]": 1e-2},
            {MEAN_OR_SUM: "mean", f"{RATE}[mean]": 0.1},
        ]
    )


def test_a_grid_of_conditional_widths():
    space = {DEPTH: [1, 2], WIDTHS: {"choices": [3, 5], "each_layer": True}}
    assert len(as_set(points(space, sampler="grid"))) == 2 + 4


def test_the_seed_shuffles_a_grid():
    space = {"training.seed": {"low": 0, "high": 99}}
    lists = [points(space, sampler="grid", seed=seed) for seed in (0, 0, 1)]
    assert lists[0] == lists[1]
    assert lists[0] != lists[2]
    assert as_set(lists[0]) == as_set(lists[2])
    assert lists[0] != sorted(lists[0], key=lambda point: point["training.seed"])


def test_an_enqueued_point_of_a_grid_comes_first_and_once():
    found = points({RATE: [0.1, 0.2, 0.3]}, sampler="grid", enqueue=[{RATE: 0.2}])
    assert found[0] == {RATE: 0.2}
    assert len(found) == len(as_set(found)) == 3


def test_one_and_one_point_nought_are_one_point_of_a_grid():
    assert len(points({RATE: [1, 2]}, sampler="grid", enqueue=[{RATE: 1.0}])) == 2
    assert len(points({RATE: [1.0, 2.0]}, sampler="grid", enqueue=[{RATE: 1}])) == 2
    stepped = {RATE: {"low": 0.1, "high": 0.7, "step": 0.2}}
    assert len(points(stepped, sampler="grid", enqueue=[{RATE: 0.1 + 0.2}])) == 4


def test_an_enqueued_point_of_a_grid_takes_first_values_for_what_it_leaves_open():
    space = {RATE: [0.1, 0.2], DEPTH: [1, 2]}
    found = points(space, sampler="grid", enqueue=[{DEPTH: 2}])
    assert found[0] == {RATE: 0.1, DEPTH: 2}
    assert len(found) == len(as_set(found)) == 4


@pytest.mark.parametrize("sampler", ["grid", "qmc"])
def test_without_a_space_there_is_one_point(sampler):
    assert points({}, sampler=sampler) == [{}]


def test_a_grid_of_a_range_of_floats_is_refused():
    space = read_space({DEPTH: [1, 2], RATE: {"low": 0.1, "high": 1.0}}, RunConfig())
    with pytest.raises(SettingError) as caught:
        check_grid(space, RunConfig())
    assert str(caught.value) == (
        f"study.sampler=grid needs choices or a step for {RATE}, not a range"
    )


@pytest.mark.parametrize(
    "values",
    [
        {"training.seed": {"low": 0, "high": 2**32 - 1}},
        {"training.seed": {"low": 0, "high": 999}, "training.order_seed": {"low": 0, "high": 999}},
    ],
)
def test_a_grid_that_nobody_could_train_is_refused_without_being_made(values):
    with pytest.raises(SettingError, match="grid would have more than 100,000 points"):
        check_grid(read_space(values, RunConfig()), RunConfig())


# -- quasi-random

MIXED = {
    DEPTH: {"low": 1, "high": 3},
    WIDTHS: {"low": 2, "high": 32, "log": True, "each_layer": True},
    MEAN_OR_SUM: ["sum", "mean", "unit"],
    RATE: {
        "by": MEAN_OR_SUM,
        "sum": {"low": 1e-6, "high": 1e-2, "log": True},
        "mean": {"low": 0.01, "high": 30.0, "log": True},
        "unit": {"low": 0.1, "high": 0.9, "step": 0.2},
    },
}


@pytest.mark.parametrize("shorter", [1, 2, 3, 16, 63])
def test_a_longer_list_begins_with_the_shorter_one(shorter):
    long = points(MIXED, sampler="qmc", n_trials=64)
    assert len(long) == 64
    assert points(MIXED, sampler="qmc", n_trials=shorter) == long[:shorter]


def test_every_value_is_in_its_domain_and_no_parameter_too_many():
    domains = parameters(read_space(MIXED, RunConfig()), RunConfig())
    for point in points(MIXED, sampler="qmc", n_trials=256):
        assert all(domains[name].contains(value) for name, value in point.items())
        assert sum(name.startswith(WIDTHS) for name in point) == point[DEPTH]
        assert [name for name in point if name.startswith(RATE)] == [
            f"{RATE}[{point[MEAN_OR_SUM]}]"
        ]


def test_a_conditional_parameter_keeps_its_coordinate():
    mixed = points(MIXED, sampler="qmc", n_trials=256)
    for branch in ("sum", "mean"):
        rates = np.log([p[f"{RATE}[{branch}]"] for p in mixed if p[MEAN_OR_SUM] == branch])
        low, high = (np.log(MIXED[RATE][branch][end]) for end in ("low", "high"))
        places = np.sort((rates - low) / (high - low))
        assert np.abs(places - np.linspace(0, 1, places.size)).max() < 0.1


def test_the_points_are_spread_more_evenly_than_random_ones():
    space = {RATE: {"low": 1.0, "high": 2.0}, "optimizer.momentum": {"low": 0.0, "high": 0.9}}
    found = points(space, sampler="qmc", n_trials=64)
    unit = np.array([[p[RATE] - 1, p["optimizer.momentum"] / 0.9] for p in found])
    random = [qmc.discrepancy(np.random.RandomState(seed).rand(64, 2)) for seed in range(20)]
    assert qmc.discrepancy(unit) < min(random) / 2


def test_every_choice_is_drawn_equally_often():
    found = points({MEAN_OR_SUM: ["sum", "mean", "unit", "clip"]}, sampler="qmc", n_trials=64)
    assert {f: sum(p[MEAN_OR_SUM] == f for p in found) for f in ("sum", "clip")} == {
        "sum": 16,
        "clip": 16,
    }


def test_the_seed_scrambles():
    lists = [points(MIXED, sampler="qmc", n_trials=8, seed=seed) for seed in (0, 0, 1)]
    assert lists[0] == lists[1]
    assert lists[0] != lists[2]


def test_enqueued_points_come_first_and_count():
    enqueue = [{DEPTH: 1, MEAN_OR_SUM: "mean", RATE: 0.5}, {DEPTH: 3}]
    found = points(MIXED, sampler="qmc", n_trials=10, enqueue=enqueue)
    assert len(found) == 10
    assert found[0][f"{RATE}[mean]"] == 0.5
    assert found[1][DEPTH] == 3
    assert found[2:] == points(MIXED, sampler="qmc", n_trials=8)
    assert points(MIXED, sampler="qmc", n_trials=1, enqueue=enqueue)[:1] == found[:1]


def test_points_are_plain_values():
    for sampler in ("grid", "qmc"):
        for point in points({DEPTH: [1, 2], RATE: [0.5]}, sampler=sampler, n_trials=4):
            assert json.loads(canonical_json(point)) == point


def test_a_seed_out_of_four_thousand_million_is_drawn_without_listing_them():
    space = {"training.seed": {"low": 0, "high": 2**32 - 1}}
    found = [point["training.seed"] for point in points(space, sampler="qmc", n_trials=8)]
    assert len({seed // 2**29 for seed in found}) == 8
