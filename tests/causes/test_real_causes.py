"""The real trainer on the small digits: a cause that is known, beside settings that are not it."""

import numpy as np
import pytest

from mlp.causes.answer import Kind, answer, investigate, render_answer
from mlp.causes.changes import standard_space
from mlp.causes.observed import explained_shares, observe
from mlp.causes.plan import plan_reruns
from mlp.causes.repair import repair
from mlp.config import Data, RunConfig
from mlp.curve import Verdict, judge_run
from mlp.data.dataset import features, load_data
from mlp.engine.population import train
from mlp.gradient import global_norm, normalize
from mlp.network import gradient, initialize
from mlp.settings import with_settings
from mlp.stability.sharpness import gradient_norms
from mlp.study.space import draw, read_space

BASE = with_settings(RunConfig(), {"data.name": "digits", "training.steps": 120})
SPACE = {
    "optimizer.learning_rate": {"low": 0.3, "high": 300.0, "log": True},
    "model.depth": {"low": 1, "high": 2},
}


@pytest.fixture(scope="module")
def data():
    return load_data(Data(name="digits"), notice=print)


@pytest.fixture
def training(data):
    return lambda configs: [judge_run(result, None) for result in train(configs, data)]


@pytest.fixture
def norms(data):
    return lambda configs: gradient_norms(configs, data)


def test_a_learning_rate_that_is_too_large_is_named_and_depth_is_not(data, training, norms):
    space = read_space(SPACE, BASE)
    random = np.random.RandomState(0)
    configs = []
    for _ in range(16):
        place = random.random_sample()

        def suggest(name, domain, place=place):  # depth goes along with the learning rate
            return domain.at(place)

        configs.append(with_settings(BASE, draw(space, BASE, suggest)))
    runs = observe(configs, [own.verdict for own in training(configs)], space)
    plan = plan_reruns(
        runs,
        space,
        interventions=3,
        seeds=5,
        n_examples=data.train.n_examples,
        gradient_norm=norms,
    )
    found = answer(
        plan,
        investigate(plan, training),
        n_examples=data.train.n_examples,
        gradient_norm=norms,
    )
    assert [(cause.settings, cause.kind) for cause in found.causes] == [
        (("optimizer.learning_rate",), Kind.ALONE)
    ], render_answer(found)
    shares = explained_shares(runs)  # as the study has it, depth looks as guilty
    assert shares["model.depth"] > 0.5 * shares["optimizer.learning_rate"]


def test_a_run_is_repaired_by_a_smaller_rate(data, training, norms):
    config = with_settings(BASE, {"optimizer.learning_rate": 60.0})
    [before] = training([config])
    assert before.verdict is Verdict.OSCILLATING
    space = read_space(SPACE, BASE)
    found = repair(
        config,
        space,
        training,
        before=before,
        n_examples=data.train.n_examples,
        gradient_norm=norms,
        seeds=2,
    )
    best = found.cures[0]
    assert best.settings == ("optimizer.learning_rate",)
    assert best.config.optimizer.learning_rate < 60
    assert training([best.config])[0].verdict is best.verdict


def test_inputs_that_are_not_scaled_are_named(data, training, norms):
    rate = {"low": 3.9, "high": 4.1}  # other rates are another question
    space = read_space({"data.scale": [1.0, 255.0], "optimizer.learning_rate": rate}, BASE)
    config = with_settings(
        BASE, {"data.scale": 255.0, "optimizer.learning_rate": 4.0, "model.depth": 1}
    )
    [before] = training([config])
    assert before.verdict is Verdict.OSCILLATING
    found = repair(
        config,
        space,
        training,
        before=before,
        n_examples=data.train.n_examples,
        gradient_norm=norms,
        seeds=2,
    )
    assert found.cures[0].settings == ("data.scale",)
    assert found.cures[0].n_cured == found.cures[0].n_seeds
    assert found.cures[0].config.data.scale < 2


def test_inputs_and_biases_are_tried_where_they_are_not_as_usual():
    usual = {entry.path for entry in standard_space(BASE)}
    odd = with_settings(BASE, {"data.scale": 255.0, "initialization.bias": 1.0})
    further = {entry.path: entry.domains[""].values for entry in standard_space(odd)[:6]}
    assert not usual & {"data.scale", "initialization.bias"}
    assert further["data.scale"] == (1.0, 255.0)
    assert further["initialization.bias"] == (0.0, 1.0)


def test_first_gradients_are_those_of_the_network(data, norms):
    config = with_settings(BASE, {"training.dtype": "float64", "training.seed": 3})
    X = features(data.train.pixels, data.scale, "float64")
    params = initialize(
        config.model, config.initialization, n_inputs=X.shape[1], seed=3, dtype="float64"
    )
    grads = gradient(params, X, data.train.labels, "sigmoid")
    expected = global_norm(normalize(grads, len(X), config.gradient))
    other_rate = with_settings(config, {"optimizer.learning_rate": 9.0})
    assert norms([config, other_rate]) == pytest.approx([expected, expected])
