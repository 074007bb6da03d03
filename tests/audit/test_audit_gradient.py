"""Every kind of mistake is named in random networks, and none in right ones."""

import numpy as np
import pytest

import mlp
from support.backpropagations import KINDS, draw, make_gradient, make_loss, plant, random_net


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
