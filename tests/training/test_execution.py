"""Training and measuring together, on real digits: the measurement is seen nowhere else."""

import dataclasses
import sys
from collections import Counter

import numpy as np
import pytest

from mlp.config import Execution
from mlp.curve import Verdict, judge
from mlp.data.dataset import load
from mlp.door import read_run, with_settings
from mlp.engine.population import train
from mlp.engine.result import Ending, Snapshots
from mlp.errors import SettingError, SystemLimitError, UnavailableError
from mlp.flow.execution import train_trials
from mlp.flow.work import Done, Lost
from mlp.network import Layer
from mlp.stability.ratio import sharpness_steps
from mlp.stability.sharpness import check_measurable
from mlp.tracking.record import curve_digest, sharpness_digest, weights_digest
from support.losing import Losing, deadly

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
    return load(BASE.data, notice=print)


def configs(points):
    every = [with_settings(BASE, settings) for settings in SETTINGS]
    return [with_settings(config, {"training.sharpness_points": points}) for config in every]


@pytest.fixture(scope="module")
def results(data):
    return train_trials(configs(9), data, dataclasses.replace(BASE.execution, threads=2))


def test_no_bit_of_the_training_depends_on_the_measurement(data, results):
    plain = train_trials(configs(0), data, BASE.execution)
    for off, on in zip(plain, results, strict=True):
        assert curve_digest(off) == curve_digest(on)
        assert weights_digest(off) == weights_digest(on)
        assert all(getattr(off, name).size == 0 for name in MEASURED)
    assert sharpness_digest(plain[0]) != sharpness_digest(results[0])


def test_a_run_is_measured_the_same_alone(data, results):
    for config, together in zip(configs(9), results, strict=True):
        [alone] = train_trials([config], data, dataclasses.replace(BASE.execution, threads=1))
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
    every, taken = configs(0)[:5], {}

    def take(number, step, weights):
        taken[number, step] = weights

    train(every, data, snapshots=Snapshots([(0, 1, 13, 33)] * 5, take))
    assert sorted(taken) == [(number, step) for number in range(5) for step in (0, 1, 13, 33)]
    for step in (1, 13, 33):
        shorter = [with_settings(config, {"training.steps": step}) for config in every]
        for number, result in enumerate(train(shorter, data)):
            for layer, (W, b) in zip(taken[number, step], result.weights, strict=True):
                assert isinstance(layer, Layer)
                assert layer.W.tobytes() == W.tobytes()
                assert layer.b.tobytes() == b.tobytes()


# Losses, as the tally of them sees it


def test_poisoned_trial_is_found_and_costs_nobody_else_anything(data, results):
    where = Losing(deadly(3))
    found = train_trials(configs(9), data, where)
    assert [result.ending for result in found].count(Ending.CRASHED) == 1
    assert found[3].ending is Ending.CRASHED
    for number in (0, 1, 2, 4, 5):
        assert weights_digest(found[number]) == weights_digest(results[number])
    assert sum("it died" in line for line in where.said) == 3  # in company, and twice alone
    assert judge(found[3].loss).verdict is Verdict.DIVERGED


@pytest.mark.parametrize(("population", "attempts"), [(1, 3), (3, 3), (6, 4)])
def test_two_poisoned_trials_are_both_found(data, population, attempts):
    """In one population the first death is certainly that of neither, so each costs one more."""
    where = Losing(deadly(1, 4), population=population, n_slots=1)
    found = train_trials(configs(0), data, where)
    assert [n for n, result in enumerate(found) if result.ending is Ending.CRASHED] == [1, 4]
    assert {where.lost[1], where.lost[4]} == {attempts}


def test_neighbour_of_a_poisoned_trial_is_not_blamed_for_what_that_did(data, results):
    """Trial 2 dies with 3, and then twice alone of something else: that makes two of its own."""
    where = Losing(lambda task: fate(task), n_slots=1)

    def fate(task):
        is_unlucky = task.numbers == (2,) and where.lost[2] < 3
        return Lost(task, "it died", True) if is_unlucky or 3 in task.numbers else None

    found = train_trials(configs(9), data, where)
    assert [n for n, result in enumerate(found) if result.ending is Ending.CRASHED] == [3]
    assert weights_digest(found[2]) == weights_digest(results[2])


def test_trial_whose_worker_dies_thrice_is_not_blamed_where_others_died_and_came_back(
    data, results
):
    where = Losing(lambda task: fate(task), population=1)

    def fate(task):
        [number] = task.numbers
        often = {0: 3, 1: 1, 5: 1}.get(number, 0)
        return Lost(task, "it died", True) if where.lost[number] < often else None

    found = train_trials(configs(9), data, where)
    assert [weights_digest(r) for r in found] == [weights_digest(r) for r in results]
    assert where.lost == {0: 3, 1: 1, 5: 1}


def test_trials_whose_workers_are_killed_by_others_are_not_blamed(data, results):
    """Every worker dies four times over, whatever it trains: no trial is the reason for that."""
    deaths = Counter()

    def die(task):
        deaths[task.numbers] += 1
        return Lost(task, "it died", True) if deaths[task.numbers] <= 4 else None

    found = train_trials(configs(9), data, Losing(die))
    assert [weights_digest(r) for r in found] == [weights_digest(r) for r in results]


def test_machine_that_goes_is_no_trial_s_fault(data, results):
    gone = []

    def go(task):
        gone.append(task)
        return Lost(task, "its machine went", False) if len(gone) <= 5 else None

    where = Losing(go)
    found = train_trials(configs(9), data, where)
    assert [weights_digest(r) for r in found] == [weights_digest(r) for r in results]
    assert all(task.numbers in where.trained for task in gone)  # none was taken apart


def test_trial_that_is_lost_with_every_machine_is_no_crash(data):
    with pytest.raises(UnavailableError, match=r"was lost 12 times \(gone\), and no other"):
        train_trials(configs(0)[:1], data, Losing(lambda task: Lost(task, "gone", False)))


def test_result_that_is_a_text_is_that_trial_s_alone(data, results):
    class Raising(Losing):
        def wait(self, progress):
            answers = super().wait(progress)
            for place, answer in enumerate(answers):
                texts = ["it raised" if n == 2 else None for n in answer.task.numbers]
                both = zip(texts, answer.results, strict=True)
                answers[place] = Done(answer.task, tuple(text or result for text, result in both))
            return answers

    found = train_trials(configs(9), data, Raising(lambda _: None))
    assert [n for n, result in enumerate(found) if result.ending is Ending.CRASHED] == [2]
    assert weights_digest(found[0]) == weights_digest(results[0])


def test_ray_that_is_not_installed_is_said(monkeypatch, data):
    monkeypatch.setitem(sys.modules, "mlp.flow.cluster", None)
    with pytest.raises(SettingError, match=r"needs Ray: python -m pip install 'mlp-sweep\[ray\]'"):
        train_trials(configs(0), data, Execution(engine="ray"))


def test_machines_that_go_are_no_fault_of_their_trials(data, results):
    """A population may lose eleven machines; what its trials lose alone is counted anew."""
    where = Losing(lambda task: fate(task), population=4)

    def fate(task):
        n = max(where.lost[number] for number in task.numbers)
        if n < 11 or n == 12:
            return Lost(task, "its machine went", False)
        return Lost(task, "it died", True) if n == 11 else None

    found = train_trials(configs(9), data, where)
    assert [weights_digest(r) for r in found] == [weights_digest(r) for r in results]


def test_trial_that_takes_every_machine_with_it_is_found(data, results):
    where = Losing(
        lambda task: Lost(task, "its machine went", False) if 3 in task.numbers else None,
        population=4,
    )
    found = train_trials(configs(9), data, where)
    assert [n for n, result in enumerate(found) if result.ending is Ending.CRASHED] == [3]
    assert weights_digest(found[2]) == weights_digest(results[2])
