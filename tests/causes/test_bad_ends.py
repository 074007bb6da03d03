"""Runs of digits that end badly in each way: what makes them do so, found by training."""

from functools import cache

import pytest

from mlp.causes.changes import LEARNING_RATE, standard_space
from mlp.causes.repair import named_causes, needs_repair, repair
from mlp.config import Data
from mlp.curve import Verdict, judge_run
from mlp.data.dataset import load_data
from mlp.engine.population import train
from mlp.settings import read_run, with_settings
from mlp.stability.sharpness import forecast, gradient_norms


@cache
def digits():
    return load_data(Data(name="digits"), notice=lambda line: None)


def judged(configs):
    made = zip(configs, train(configs, digits()), strict=True)
    return [judge_run(result, config.training.batch_size) for config, result in made]


def explained(settings):
    run = with_settings(read_run({"data": {"name": "digits"}}), settings)
    [before] = judged([run])
    assert needs_repair(before)
    return repair(
        run,
        standard_space(run),
        judged,
        before=before,
        n_examples=digits().train.n_examples,
        gradient_norm=lambda configs: gradient_norms(configs, digits()),
        ratio=forecast([run], digits())[0],
        seeds=2,
    )


RELU = {"model.activation": "relu", "model.depth": 3, "model.widths": [20, 7, 5]}
HE = {**RELU, "initialization.scheme": "he_normal", "training.steps": 100}


@pytest.mark.parametrize(
    ("settings", "verdict", "names", "said"),
    [
        (
            {**RELU, "initialization.scale": 0.01, "training.steps": 100},
            Verdict.STALLED,
            {"initialization.scale"},
            "initialization.scale makes it stall: initialization.scale=",
        ),
        (
            {**HE, "model.depth": 2, "model.widths": 16, LEARNING_RATE: 1e30},
            Verdict.DIVERGED,
            {LEARNING_RATE},
            "makes it diverge: ",
        ),
        (
            {LEARNING_RATE: 0.05, "gradient.normalization": "sum", "training.steps": 100},
            Verdict.OSCILLATING,
            {LEARNING_RATE},
            " seeds it ends well up to a step on the mean of ",
        ),
    ],
)
def test_what_makes_a_run_end_badly_is_found(settings, verdict, names, said):
    found = explained(settings)
    assert found.before.verdict is verdict
    assert set(named_causes(found)) == names
    assert said in str(found)
    best = found.cures[0]
    assert best.verdict in (Verdict.LEARNING, Verdict.CONVERGED)
    assert (best.n_cured, best.n_seeds) == (4, 4)


def test_a_run_that_swings_on_its_way_is_told_the_rate_from_which_it_does():
    found = explained({**HE, LEARNING_RATE: 0.6, "training.steps": 200})
    assert found.before.verdict in (Verdict.LEARNING, Verdict.CONVERGED)
    assert "makes it swing on its way: " in str(found)
