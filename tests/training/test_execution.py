"""Training and measuring together, on real digits: the measurement is seen nowhere else."""

import dataclasses
import sys

import numpy as np
import pytest

from mlp.config import Execution
from mlp.curve import Verdict, judge_run
from mlp.data.dataset import load_data
from mlp.engine.population import train
from mlp.engine.result import Ending
from mlp.errors import SettingError, SystemLimitError
from mlp.network import Layer
from mlp.settings import read_run, with_settings
from mlp.stability.ratio import sharpness_steps
from mlp.stability.sharpness import check_measurable
from mlp.tracking.record import curve_digest, sharpness_digest, weights_digest
from mlp.training.work import train_population
from support.losing import Losing, deadly
from support.training import results_of

MEASURED = ("sharpness_step", "sharpness", "sharpness_residual", "gradient_norm", "stability_ratio")
BASE = read_run(
    {"data": {"name": "digits"}, "training": {"steps": 60, "evaluate_every": 7}, "execution": {}}
)
SETTINGS = [
    {},
    {"optimizer.learning_rate": 30.0, "gradient.normalization": "clip"},
    {"model.widths": [4, 2], "training.steps": 33, "gradient.derivative": "question"},
    {"model.activation": "tanh", "training.dtype": "float64", "optimizer.momentum": 0.9},
    {"training.batch_size": 50},
    {"model.activation": "relu", "gradient.normalization": "sum", "optimizer.learning_rate": 1e30},
]


@pytest.fixture(scope="module")
def data():
    return load_data(BASE.data, notice=print)


def configs(points):
    every = [with_settings(BASE, settings) for settings in SETTINGS]
    return [with_settings(config, {"training.sharpness_points": points}) for config in every]


@pytest.fixture(scope="module")
def results(data):
    return results_of(configs(9), data, dataclasses.replace(BASE.execution, threads=2))


def test_no_bit_of_the_training_depends_on_the_measurement(data, results):
    plain = results_of(configs(0), data, BASE.execution)
    for off, on in zip(plain, results, strict=True):
        assert curve_digest(off) == curve_digest(on)
        assert weights_digest(off) == weights_digest(on)
        assert all(getattr(off, name).size == 0 for name in MEASURED)
    assert sharpness_digest(plain[0]) != sharpness_digest(results[0])


def test_a_run_is_measured_the_same_alone(data, results):
    for config, together in zip(configs(9), results, strict=True):
        [alone] = results_of([config], data, dataclasses.replace(BASE.execution, threads=1))
        assert sharpness_digest(alone) == sharpness_digest(together)


def test_what_was_due_is_measured(results):
    for config, result in zip(configs(9), results, strict=True):
        assert len({getattr(result, name).size for name in MEASURED}) == 1
        if result.ending is Ending.COMPLETED:
            assert tuple(result.sharpness_step) == sharpness_steps(config)
            assert (result.sharpness_residual < 1e-3).all()
        assert np.isfinite(result.stability_ratio).all()
    wild = results[-1]
    assert wild.ending is Ending.NON_FINITE
    assert wild.sharpness_step[0] == 0
    assert wild.sharpness_step[-1] <= wild.last_step


def test_what_cannot_be_measured_is_refused_before_it_is_trained(data):
    wide = with_settings(configs(9)[0], {"model.widths": 5000})
    check_measurable([wide], data, threads=2, memory_bytes=10**11)
    with pytest.raises(SystemLimitError, match=r"sharpness_points must be 0 .*5000"):
        check_measurable([wide], data, threads=2, memory_bytes=10**8)
    check_measurable(
        [with_settings(wide, {"training.sharpness_points": 0})], data, threads=2, memory_bytes=0
    )


def test_snapshots_are_the_weights_that_a_shorter_run_ends_with(data):
    every = configs(0)[:5]
    taken = [dict.fromkeys((0, 1, 13, 33, 1000), ()) for _ in every]
    train(every, data, snapshots=taken)
    assert all(copies.pop(1000) == () for copies in taken)
    for step in (1, 13, 33):
        shorter = [with_settings(config, {"training.steps": step}) for config in every]
        for number, result in enumerate(train(shorter, data)):
            for layer, (W, b) in zip(taken[number][step], result.weights, strict=True):
                assert isinstance(layer, Layer)
                assert layer.W.tobytes() == W.tobytes()
                assert layer.b.tobytes() == b.tobytes()


# Populations that are lost


def test_trial_that_kills_its_workers_is_found_and_costs_nobody_else_anything(data, results):
    where = Losing(deadly(3))
    told = {}
    found = results_of(configs(9), data, where, finished=told.update)
    assert [n for n, result in enumerate(found) if result.ending is Ending.CRASHED] == [3]
    for number in (0, 1, 2, 4, 5):
        assert weights_digest(found[number]) == weights_digest(results[number])
    assert {n: record.result for n, record in told.items()} == dict(enumerate(found))
    assert where.said[-1] == "a trial is given up and recorded as crashed: it died"
    assert judge_run(found[3], None).verdict is Verdict.DIVERGED


@pytest.mark.parametrize("population", [1, 3])
def test_two_bad_trials_are_both_found_one_by_one(data, population):
    where = Losing(deadly(1, 4), population=population, n_slots=1)
    found = results_of(configs(0), data, where)
    assert [n for n, result in enumerate(found) if result.ending is Ending.CRASHED] == [1, 4]
    alone = [numbers for numbers in where.submitted if len(numbers) == 1]
    for number in range(6):  # a bad one has three attempts of its own
        assert alone.count((number,)) == (3 if number in (1, 4) else 1)
    if population > 1:  # and two with its population
        assert where.submitted.count((0, 1, 2)) == where.submitted.count((3, 4, 5)) == 2
        assert where.said.count("3 trials are trained again: it died") == 2
        assert where.said.count("3 trials are trained one by one: it died") == 2


def test_population_that_is_lost_without_fault_of_its_trials_comes_out_the_same(data, results):
    where = Losing(lambda task: "its machine went" if len(task.numbers) > 1 else None, n_slots=1)
    found = results_of(configs(9), data, where)
    assert [weights_digest(r) for r in found] == [weights_digest(r) for r in results]
    assert where.said == [
        "6 trials are trained again: its machine went",
        "6 trials are trained one by one: its machine went",
    ]


def test_another_trainer_gets_what_the_built_in_one_gets(data, results):
    """So a function that is not ours can stand in its place."""
    asked = []

    def trainer(configs, data, **options):
        asked.append((len(configs), options["threads"], options["thresholds"]))
        return train_population(configs, data, **options)

    execution = dataclasses.replace(BASE.execution, threads=2, population=4)
    found = results_of(configs(9), data, execution, thresholds={7: 0.0}, trainer=trainer)
    assert asked == [(4, 2, {7: 0.0}), (2, 2, {7: 0.0})]
    assert [weights_digest(r) for r in found] == [weights_digest(r) for r in results]


def test_ray_that_is_not_installed_is_said(monkeypatch, data):
    monkeypatch.setitem(sys.modules, "mlp.training.ray_cluster", None)
    with pytest.raises(SettingError, match=r"needs Ray: python -m pip install 'mlp-sweep\[ray\]'"):
        results_of(configs(0), data, Execution(engine="ray"))
