"""The network against oracles: autograd, the question's own formulas, and worked numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlp.config import Initialization, Model
from mlp.errors import SettingError
from mlp.network import (
    Layer,
    accuracy,
    example_losses,
    forward,
    gradient,
    initialize,
    loss,
)
from mlp.settings import read_run

ACTIVATIONS = ["sigmoid", "tanh", "relu"]
DTYPES = ["float32", "float64"]


def drawn(scheme, *, scale=1.0, seed=0, dtype="float64", n_inputs=500, widths=(400, 300)):
    model = Model(depth=len(widths), widths=widths)
    initialization = Initialization(scheme=scheme, scale=scale)
    return initialize(model, initialization, n_inputs=n_inputs, seed=seed, dtype=dtype)


def examples(n=11, n_inputs=6, *, dtype="float64"):
    rng = np.random.RandomState(7)
    return rng.uniform(size=(n, n_inputs)).astype(dtype), (np.arange(n) % 2).astype(np.uint8)


def with_biases(params, *, seed=3):
    rng = np.random.RandomState(seed)
    return tuple(Layer(W, rng.normal(size=b.shape).astype(b.dtype)) for W, b in params)


# --- first weights ---


def test_first_weights_are_the_questions_own_to_the_last_bit():
    np.random.seed(0)
    W1 = np.random.randn(784, 3) / np.sqrt(784)
    W2 = np.random.randn(3, 3) / np.sqrt(3)
    W3 = np.random.randn(3, 2) / np.sqrt(3)
    params = drawn("lecun_normal", n_inputs=784, widths=(3, 3))
    for layer, W in zip(params, [W1, W2, W3], strict=True):
        assert layer.W.tobytes() == W.tobytes()
        assert not layer.b.any()


@pytest.mark.parametrize(
    ("scheme", "deviation"),
    [
        ("lecun_normal", lambda fan_in, fan_out: np.sqrt(1 / fan_in)),
        ("he_normal", lambda fan_in, fan_out: np.sqrt(2 / fan_in)),
        ("glorot_normal", lambda fan_in, fan_out: np.sqrt(2 / (fan_in + fan_out))),
        ("glorot_uniform", lambda fan_in, fan_out: np.sqrt(2 / (fan_in + fan_out))),
        ("normal", lambda fan_in, fan_out: 1),
        ("uniform", lambda fan_in, fan_out: 1 / np.sqrt(3)),
        ("zeros", lambda fan_in, fan_out: 0),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_weights_have_the_mean_and_deviation_of_their_scheme(scheme, deviation, scale):
    for W, b in drawn(scheme, scale=scale)[:2]:
        expected = scale * deviation(*W.shape)
        five_sigma = 5 / np.sqrt(W.size)
        assert abs(W.mean()) <= five_sigma * expected
        assert abs(W.std() - expected) <= five_sigma * expected
        assert not b.any()


@pytest.mark.parametrize("scheme", ["lecun_normal", "glorot_normal", "he_normal", "normal"])
def test_normal_schemes_are_not_truncated(scheme):
    W = drawn(scheme)[0].W
    beyond = np.mean(np.abs(W) > 3 * W.std())
    assert 0.002 < beyond < 0.0035  # 0.0027 of a normal distribution


@pytest.mark.parametrize(
    ("scheme", "half_width"), [("uniform", 0.3), ("glorot_uniform", 0.3 * np.sqrt(6 / 900))]
)
def test_uniform_schemes_fill_their_interval_and_stay_in_it(scheme, half_width):
    W = drawn(scheme, scale=0.3)[0].W
    assert 0.999 * half_width < W.max() <= half_width
    assert -half_width <= W.min() < -0.999 * half_width


@pytest.mark.parametrize("widths", [(40, 30), (60, 70), (1, 1)])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_orthogonal_weights_keep_lengths_up_to_the_scale(widths, scale):
    for W, _ in drawn("orthogonal", scale=scale, n_inputs=50, widths=widths):
        gram = W.T @ W if W.shape[0] >= W.shape[1] else W @ W.T
        np.testing.assert_allclose(gram, scale**2 * np.eye(min(W.shape)), atol=1e-12)


def test_orthogonal_weights_take_both_signs():
    signs = {
        float(drawn("orthogonal", seed=seed, n_inputs=2, widths=(1, 1))[1].W[0, 0])
        for seed in range(20)
    }
    assert signs == {-1.0, 1.0}


@pytest.mark.parametrize(
    "scheme", ["lecun_normal", "glorot_uniform", "uniform", "orthogonal", "zeros"]
)
def test_a_seed_gives_one_network_in_both_dtypes(scheme):
    small = {"n_inputs": 30, "widths": (20, 40)}
    double, other = drawn(scheme, seed=5, **small), drawn(scheme, seed=6, **small)
    single = drawn(scheme, seed=5, dtype="float32", **small)
    for a, b, c in zip(double, single, other, strict=True):
        assert b.W.dtype == b.b.dtype == np.float32
        assert np.array_equal(a.W.astype(np.float32), b.W)
        assert a.W.flags.c_contiguous
        assert scheme == "zeros" or not np.array_equal(a.W, c.W)


def test_the_first_layer_is_drawn_first():
    short, long = drawn("he_normal", widths=(4,)), drawn("he_normal", widths=(4, 4, 4))
    assert np.array_equal(short[0].W, long[0].W)


# --- loss ---


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_logits_give_a_finite_loss_and_gradient(activation, dtype, size):
    params = (
        Layer(np.full((6, 2), 1e4, dtype), np.zeros(2, dtype)),
        Layer(np.array([[0, size], [0, size]], dtype), np.array([0, size], dtype)),
    )
    features, labels = examples(dtype=dtype)
    with np.errstate(all="raise", under="ignore"):
        mean = loss(params, features, labels, activation)
        grads = gradient(params, features, labels, activation)
    assert 1e3 < mean < np.inf
    assert all(np.isfinite(entries).all() for layer in grads for entries in layer)


logits = st.floats(-1e4, 1e4)


@given(zero=logits, one=logits, dtype=st.sampled_from(DTYPES))
def test_the_probabilities_of_the_two_classes_add_up_to_one(zero, one, dtype):
    both = np.array([[zero, one]] * 2, dtype)
    with np.errstate(all="raise", under="ignore"):
        losses = example_losses(both, np.array([0, 1], np.uint8))
    assert losses.dtype == dtype
    assert (losses >= 0).all()
    assert np.exp(-losses).sum() == pytest.approx(1, abs=1e-6)
    assert losses[0] - losses[1] == pytest.approx(float(both[0, 1] - both[0, 0]), abs=1e-2)


def test_loss_accuracy_and_classes_of_a_hand_worked_network():
    params = (Layer(np.array([[1.0]]), np.array([0.0])), Layer(np.array([[0.0, 2.0]]), np.zeros(2)))
    features, labels = np.array([[3.0], [-1.0], [1.0]]), np.array([1, 1, 0], np.uint8)
    # relu gives 3, 0, 1, hence logits (0, 6), (0, 0), (0, 2)
    expected = [np.log1p(np.exp(-6)), np.log(2), np.log1p(np.exp(2))]
    outputs = forward(params, features, "relu")
    np.testing.assert_allclose(example_losses(outputs.logits, labels), expected, rtol=1e-15)
    assert loss(params, features, labels, "relu") == pytest.approx(np.mean(expected))
    assert accuracy(params, features, labels, "relu") == pytest.approx(1 / 3)


# --- gradient ---


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("depth", "scheme"), [(1, "uniform"), (2, "zeros"), (4, "orthogonal")])
def test_gradient_equals_that_of_autograd(activation, depth, scheme):
    autograd = pytest.importorskip("autograd")
    anp = pytest.importorskip("autograd.numpy")
    functions = {
        "sigmoid": lambda z: 1 / (1 + anp.exp(-z)),
        "tanh": anp.tanh,
        "relu": lambda z: z * (z > 0),
    }

    def summed_loss(layers):
        a = features
        for W, b in layers[:-1]:
            a = functions[activation](anp.dot(a, W) + b)
        W, b = layers[-1]
        z = anp.dot(a, W) + b
        right = z[np.arange(labels.size), labels]
        return anp.sum(anp.log(anp.sum(anp.exp(z), axis=1)) - right)

    features, labels = examples()
    params = with_biases(drawn(scheme, n_inputs=6, widths=(5, 4, 3, 4)[:depth]))
    expected = autograd.grad(summed_loss)([tuple(layer) for layer in params])
    grads = gradient(params, features, labels, activation)
    assert labels.size * loss(params, features, labels, activation) == pytest.approx(
        float(summed_loss(params)), rel=1e-12
    )
    for layer, (dW, db) in zip(grads, expected, strict=True):
        np.testing.assert_allclose(layer.W, dW, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(layer.b, db, rtol=1e-10, atol=1e-12)


def test_the_questions_derivative_is_the_one_in_its_code():
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    X, y = examples()
    num_examples = len(X)
    (W1, b1), (W2, b2), (W3, b3) = params = with_biases(
        drawn("lecun_normal", n_inputs=6, widths=(3, 3))
    )
    a1 = sigmoid(X.dot(W1) + b1)
    a2 = sigmoid(a1.dot(W2) + b2)
    exp_scores = np.exp(a2.dot(W3) + b3)
    delta4 = exp_scores / np.sum(exp_scores, axis=1, keepdims=True)
    delta4[range(num_examples), y] -= 1
    delta3 = delta4.dot(W3.T) * (1 - sigmoid(a2))
    delta2 = delta3.dot(W2.T) * (1 - sigmoid(a1))
    expected = [
        (X.T.dot(delta2), delta2.sum(axis=0)),
        (a1.T.dot(delta3), delta3.sum(axis=0)),
        (a2.T.dot(delta4), delta4.sum(axis=0)),
    ]
    grads = gradient(params, X, y, "sigmoid", derivative="question")
    for layer, (dW, db) in zip(grads, expected, strict=True):
        np.testing.assert_allclose(layer.W, dW, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(layer.b, db, rtol=1e-12, atol=1e-14)
    exact = gradient(params, X, y, "sigmoid")
    assert not np.allclose(exact[0].W, grads[0].W)
    np.testing.assert_allclose(exact[2].W, grads[2].W)  # no activation below the output is passed


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_questions_derivative_goes_with_sigmoid_only(activation):
    features, labels = examples()
    params = drawn("lecun_normal", n_inputs=6, widths=(3,))
    with pytest.raises(ValueError, match="goes with activation='sigmoid' only"):
        gradient(params, features, labels, activation, derivative="question")
    with pytest.raises(SettingError, match=r"needs model\.activation=sigmoid"):
        read_run({"model": {"activation": activation}, "gradient": {"derivative": "question"}})


def test_the_derivative_of_relu_at_zero_is_zero():
    params = (Layer(np.zeros((6, 2)), np.zeros(2)), Layer(np.ones((2, 2)) * [0, 1], np.zeros(2)))
    features, labels = examples()
    grads = gradient(params, features, labels, "relu")
    assert not grads[0].W.any()
    assert not grads[0].b.any()


@pytest.mark.parametrize(
    ("activation", "derivative"),
    [*((activation, "exact") for activation in ACTIVATIONS), ("sigmoid", "question")],
)
def test_float32_stays_float32(activation, derivative):
    features, labels = examples(dtype="float32")
    params = drawn("lecun_normal", n_inputs=6, widths=(5, 4), dtype="float32")
    outputs = forward(params, features, activation)
    grads = gradient(params, features, labels, activation, derivative=derivative)
    arrays = [*outputs.hidden, outputs.logits, *(entries for g in grads for entries in g)]
    assert {entries.dtype for entries in arrays} == {np.dtype(np.float32)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_confident_network_still_has_a_gradient(dtype):
    params = (
        Layer(np.zeros((6, 1), dtype), np.zeros(1, dtype)),
        Layer(np.zeros((1, 2), dtype), np.array([0, 50], dtype)),
    )
    features = np.ones((1, 6), dtype)
    grads = gradient(params, features, np.array([1], np.uint8), "sigmoid")
    np.testing.assert_allclose(grads[-1].b, [np.exp(-50.0), -np.exp(-50.0)], rtol=1e-5)
