"""The sharpness against dense matrices, by autograd and by differences of the gradient."""

from typing import NamedTuple

import autograd.numpy as anp
import numpy as np
import pytest
from autograd import hessian

from mlp.config import Initialization, Model
from mlp.data.dataset import Dataset, Part
from mlp.network import Layer, Params, gradient, initialize
from mlp.settings import read_run
from mlp.stability.curvature import MAX_PRODUCTS
from mlp.stability.sharpness import measure_sharpness

N, N_INPUTS, SCALE = 300, 7, 16  # more than a block of rows, and no multiple of anything
RULES = [("sigmoid", "exact"), ("tanh", "exact"), ("relu", "exact"), ("sigmoid", "question")]


def part(n=N, *, seed=0):
    rng = np.random.RandomState(seed)
    labels = rng.randint(2, size=n).astype(np.uint8)
    pixels = rng.randint(17, size=(n, N_INPUTS)) * (rng.rand(n, N_INPUTS) < 0.5)
    pixels[:, 3] = 0
    pixels[labels == 1, 0] //= 3
    return Part(pixels.astype(np.uint8), labels)


def dataset(train):
    return Dataset("made up", SCALE, (1, N_INPUTS), train, part(20, seed=1), test=None, digest="")


DATA = dataset(part())
X = DATA.train.pixels / SCALE


class Network(NamedTuple):
    params: Params
    activation: str
    derivative: str


def measured_in(networks, data, **options):
    rules = [
        {"model": {"activation": n.activation}, "gradient": {"derivative": n.derivative}}
        for n in networks
    ]
    weights = [network.params for network in networks]
    return measure_sharpness([read_run(rule) for rule in rules], weights, data, **options)


def network(depth, rule, *, seed=0, scale=1.0, dtype="float64"):
    rng = np.random.RandomState(seed + 100 * depth)
    model = Model(depth=depth, widths=tuple(rng.randint(2, 6, size=depth).tolist()))
    initialization = Initialization(scale=scale)
    params = initialize(model, initialization, n_inputs=N_INPUTS, seed=seed, dtype=dtype)
    biased = tuple(Layer(W, rng.normal(scale=0.3, size=b.shape).astype(dtype)) for W, b in params)
    return Network(biased, *rule)


def flat(params):
    return np.concatenate([np.asarray(a, np.float64).ravel() for layer in params for a in layer])


def shaped(weights, params):
    layers, place = [], 0
    for W, b in params:
        middle, end = place + W.size, place + W.size + b.size
        layers.append(Layer(weights[place:middle].reshape(W.shape), weights[middle:end]))
        place = end
    return tuple(layers)


def mean_gradient(weights, net):
    params = shaped(weights, net.params)
    labels = DATA.train.labels
    return flat(gradient(params, X, labels, net.activation, derivative=net.derivative)) / N


def dense_jacobian(net):
    """Central differences of fourth order."""
    weights, h = flat(net.params), 1e-4
    columns = []
    for step in h * np.eye(weights.size):
        near = mean_gradient(weights + step, net) - mean_gradient(weights - step, net)
        far = mean_gradient(weights + 2 * step, net) - mean_gradient(weights - 2 * step, net)
        columns.append((8 * near - far) / (12 * h))
    return np.array(columns).T


def dense_hessian(net):
    activate = {
        "sigmoid": lambda z: 1 / (1 + anp.exp(-z)),
        "tanh": anp.tanh,
        "relu": lambda z: anp.maximum(z, 0),
    }[net.activation]
    side = 1.0 - 2.0 * DATA.train.labels

    def loss(weights):
        *hidden, output = shaped(weights, net.params)
        a = X
        for W, b in hidden:
            a = activate(anp.dot(a, W) + b)
        z = anp.dot(a, output.W) + output.b
        return anp.mean(anp.logaddexp(0, side * (z[:, 1] - z[:, 0])))

    return hessian(loss)(flat(net.params))


CASES = [(depth, rule) for depth in (1, 2, 4) for rule in RULES]


@pytest.fixture(scope="module")
def measured():
    networks = [network(depth, rule, scale=2.0) for depth, rule in CASES]
    return dict(zip(CASES, measured_in(networks, DATA), strict=True))


@pytest.mark.parametrize(("depth", "rule"), [c for c in CASES if c[1][1] == "exact"])
def test_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian(measured, depth, rule):
    net, found = network(depth, rule, scale=2.0), measured[depth, rule]
    by_autograd = np.linalg.eigvalsh(dense_hessian(net)).max()
    assert found.value == pytest.approx(by_autograd, rel=1e-4)
    if rule[0] != "relu":  # whose differences may cross a kink
        jacobian = dense_jacobian(net)
        by_differences = np.linalg.eigvalsh((jacobian + jacobian.T) / 2).max()
        assert found.value == pytest.approx(by_differences, rel=1e-4)


@pytest.mark.parametrize(("depth", "rule"), [c for c in CASES if c[1][1] == "question"])
def test_sharpness_of_the_questions_rule_is_a_spectral_radius(measured, depth, rule):
    jacobian = dense_jacobian(network(depth, rule, scale=2.0))
    assert depth == 1 or np.abs(jacobian - jacobian.T).max() > 1e-3 * np.abs(jacobian).max()
    radius = np.abs(np.linalg.eigvals(jacobian)).max()
    assert measured[depth, rule].value == pytest.approx(radius, rel=1e-3)


@pytest.mark.parametrize(("depth", "rule"), CASES)
def test_gradient_norm_is_that_of_the_readable_gradient(measured, depth, rule):
    net = network(depth, rule, scale=2.0)
    norm = np.linalg.norm(mean_gradient(flat(net.params), net))
    found = measured[depth, rule]
    assert found.gradient_norm == pytest.approx(norm, rel=1e-12)
    assert found.converged
    assert found.n_products <= MAX_PRODUCTS


def test_a_leading_complex_pair_is_found():
    net = network(3, ("sigmoid", "question"), seed=151, scale=10.0)
    values = np.linalg.eigvals(dense_jacobian(net))
    leader = values[np.abs(values).argmax()]
    assert abs(leader.imag) > 0.3 * abs(leader)
    [found] = measured_in([net], DATA)
    assert found.value == pytest.approx(abs(leader), rel=1e-3)


def test_negative_curvature_does_not_count():
    """Sure of wrong answers, this network has a negative eigenvalue of 16 times the largest."""
    net = network(2, ("tanh", "exact"), scale=4.0)
    *hidden, output = net.params
    sure = Network((*hidden, Layer(5 * output.W, output.b)), "tanh", "exact")
    values = np.linalg.eigvalsh(dense_hessian(sure))
    assert -values.min() > 10 * values.max()
    [found] = measured_in([sure], DATA)
    assert found.value == pytest.approx(values.max(), rel=1e-4)


def test_dead_units_leave_no_curvature():
    net = network(1, ("relu", "exact"))
    first = Layer(-np.abs(net.params[0].W), -np.ones_like(net.params[0].b))
    output = Layer(net.params[1].W, 1e3 * np.array([-1.0, 1.0]))  # sure of class 1 everywhere
    only_sevens = np.ones(N, np.uint8)
    data = dataset(Part(DATA.train.pixels, only_sevens))
    [found] = measured_in([Network((first, output), "relu", "exact")], data)
    assert found.value == 0
    assert found.converged


@pytest.mark.parametrize("weight", [np.inf, np.nan, 1e200])
def test_weights_beyond_all_numbers_have_no_finite_sharpness_and_disturb_nobody(weight):
    net = network(3, ("relu", "exact"))
    broken = tuple(Layer(W * weight, b) for W, b in net.params)
    found = measured_in([net, Network(broken, "relu", "exact"), net], DATA)
    assert not np.isfinite(found[1].value)
    assert not found[1].converged
    assert found[0] == found[2] == measured_in([net], DATA)[0]


def test_a_network_does_not_notice_the_others():
    networks = [network(1 + i % 4, RULES[i % 4], seed=i, scale=1.5) for i in range(24)]
    together = measured_in(networks, DATA)
    assert measured_in(networks[::-1], DATA)[::-1] == together
    assert measured_in(networks, DATA, threads=3) == together
    assert [measured_in([net], DATA)[0] for net in networks] == together


@pytest.mark.parametrize("rule", RULES)
def test_networks_of_float32_are_measured_as_exactly(rule):
    single = network(2, rule, dtype="float32")
    double = Network(
        tuple(Layer(W.astype(np.float64), b.astype(np.float64)) for W, b in single.params), *rule
    )
    one, other = measured_in([single, double], DATA)
    assert one == other
