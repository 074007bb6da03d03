"""Every kind of mistake is named in random networks, and none in right ones."""

import numpy as np
import pytest

import mlp
from support.backpropagations import KINDS, Net, draw, make_gradient, make_loss, plant, random_net


@pytest.mark.parametrize("name", KINDS)
def test_mistake_is_named(name):
    random = np.random.RandomState(100)
    net, layers = plant(name, random)
    params, X, y = draw(net, random)
    [flaw] = mlp.audit_gradient(make_loss(net), make_gradient(net, name, layers), params, X, y)
    assert flaw.kind in KINDS[name].names
    assert flaw.size > 0.01
    assert str(flaw).count(". ") >= 2


@pytest.mark.parametrize("seed", range(6))
def test_right_gradient_has_no_flaw(seed):
    random = np.random.RandomState(seed)
    net = random_net(random, squarish=seed % 3 == 0, decay=[0.0, 0.01][seed % 2])
    assert mlp.audit_gradient(make_loss(net), make_gradient(net), *draw(net, random)) == ()


def test_formula_that_is_not_known_hides_no_layer_below_it():
    net = Net("tanh", "squared", (4, 3, 5, 2))

    def gradient(params, X, y):
        (W1, b1), (W2, b2), (W3, b3) = params
        a1 = np.tanh(X @ W1 + b1)
        a2 = np.tanh(a1 @ W2 + b2)
        delta3 = 2 * (a2 @ W3 + b3 - y) / len(X)
        delta2 = delta3 @ W3.T * np.exp(-(np.abs(a2) ** 1.3))
        delta1 = delta2 @ W2.T * (1 - a1)
        inputs, deltas = (X, a1, a2), (delta1, delta2, delta3)
        return [(a.T @ d, d.sum(axis=0)) for a, d in zip(inputs, deltas, strict=True)]

    params, X, y = draw(net, np.random.RandomState(0))
    flaws = mlp.audit_gradient(make_loss(net), gradient, params, X, y)
    assert {flaw.layers: flaw.kind for flaw in flaws} == {
        (2,): "unknown formula",
        (1,): "factor lost",
    }
