"""What training gives: curves against plain loops, and a trial that never notices the others."""

import gzip
import math
import os
from dataclasses import replace
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import pytest

from mlp.curve import CHANCE_LOSS
from mlp.data.dataset import Dataset, Part, moved
from mlp.engine.population import train
from mlp.engine.result import Ending
from mlp.errors import SystemLimitError
from mlp.gradient import descend, normalize, rate_share
from mlp.guard import Guard
from mlp.network import Layer, accuracy, example_losses, forward, gradient, initialize, loss
from mlp.settings import read_run, with_settings


def dataset(train, validation, *, scale=16):
    """Without a test part: training that looked at one would fail."""
    side = math.isqrt(train.pixels.shape[1])
    return Dataset("made up", scale, (side, side), train, validation, test=None, digest="")


def part(n, *, seed, n_inputs=9):
    rng = np.random.RandomState(seed)
    labels = rng.randint(2, size=n).astype(np.uint8)
    pixels = rng.randint(17, size=(n, n_inputs)) * (1 + labels[:, None]) // 2
    return Part(pixels.astype(np.uint8), labels)


DATA = dataset(part(53, seed=0), part(20, seed=1))
NOTHING_HELD_OUT = dataset(DATA.train, Part(np.empty((0, 9), np.uint8), np.empty(0, np.uint8)))


def config(**groups):
    groups["training"] = {"steps": 12, "evaluate_every": 5} | groups.get("training", {})
    return read_run(groups)


def mixed_configs():
    return [
        config(),
        config(model={"depth": 1, "widths": 7, "activation": "tanh"}, training={"steps": 5}),
        config(model={"depth": 4, "widths": [5, 2, 6, 3], "activation": "relu"}),
        config(gradient={"normalization": "unit"}, training={"dtype": "float64"}),
        config(gradient={"normalization": "clip"}, optimizer={"momentum": 0.9}),
        config(training={"batch_size": 8}),
        config(training={"batch_size": 8, "shift": 1}, optimizer={"decay": "cosine"}),
        config(data={"scale": 255.0}, initialization={"bias": 0.1}),
        wild_config(),
    ]


def wild_config(batch_size=None):
    """Its third update takes the loss beyond all numbers."""
    return config(
        model={"depth": 3, "widths": 8, "activation": "relu"},
        optimizer={"learning_rate": 1e9},
        training={"batch_size": batch_size, "evaluate_every": 1},
    )


def assert_same(one, other):
    layers = ("layer_step", "layer_gradient", "layer_update", "layer_idle")
    for name in ("loss", "loss_step", "validation_accuracy", "evaluated_step", *layers):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    assert (one.step_loss is None) == (other.step_loss is None)
    if one.step_loss is not None:
        assert one.step_loss.tobytes() == other.step_loss.tobytes()
    for (W, b), (V, c) in zip(one.weights, other.weights, strict=True):
        assert W.tobytes() == V.tobytes()
        assert b.tobytes() == c.tobytes()
    assert (one.ending, one.last_step) == (other.ending, other.last_step)


def plain_loop(run, data, batches, seen=None):
    """The loss before each update and after the last, accuracies after each, weights.

    `seen` gives the features that each update goes by, where they are not those of the data.
    """
    X, X_held = (
        (p.pixels / data.scale * run.data.scale).astype(run.training.dtype)
        for p in (data.train, data.validation)
    )
    y, f = data.train.labels, run.model.activation
    seed, dtype = run.training.seed, run.training.dtype
    params = initialize(run.model, run.initialization, n_inputs=9, seed=seed, dtype=dtype)
    velocity = tuple(Layer(0 * W, 0 * b) for W, b in params)
    losses, accuracies = [loss(params, X, y, f)], []
    for step, rows in zip(range(run.training.steps), batches, strict=False):
        derivative = run.gradient.derivative
        x = (X if seen is None else next(seen))[rows]
        grads = gradient(params, x, y[rows], f, derivative=derivative)
        grads = normalize(grads, y[rows].size, run.gradient)
        share = float(rate_share(run.optimizer, step, run.training.steps))
        params, velocity = descend(params, velocity, grads, run.optimizer, share=share)
        losses.append(loss(params, X, y, f))
        accuracies.append(accuracy(params, X_held, data.validation.labels, f))
    return losses, accuracies, params


@pytest.mark.parametrize(
    ("normalization", "derivative"),
    [("sum", "question"), ("mean", "exact"), ("unit", "exact"), ("clip", "exact")],
)
def test_full_batch_equals_a_plain_loop(normalization, derivative):
    run = config(
        gradient={"normalization": normalization, "derivative": derivative},
        optimizer={"learning_rate": 0.05, "momentum": 0.5},
        training={"dtype": "float64"},
    )
    (result,) = train([run], DATA)
    losses, accuracies, params = plain_loop(run, DATA, repeat(slice(None)))
    np.testing.assert_allclose(result.loss, losses, rtol=1e-10)
    assert result.loss_step.tolist() == list(range(13))
    assert result.step_loss is None
    assert result.evaluated_step.tolist() == [5, 10, 12]
    assert result.validation_accuracy.tolist() == [accuracies[i - 1] for i in (5, 10, 12)]
    assert (result.ending, result.last_step) == (Ending.COMPLETED, 12)
    assert_close(result.weights, params)


@pytest.mark.parametrize(
    ("activation", "normalization", "batch_size"),
    [
        ("sigmoid", "unit", None),
        ("sigmoid", "clip", 8),
        ("tanh", "sum", 8),
        ("tanh", "clip", None),
        ("relu", "mean", None),
        ("relu", "unit", 8),
    ],
)
def test_what_is_measured_of_the_layers_equals_a_plain_loop(activation, normalization, batch_size):
    """The weights are so large that units die or saturate, and some do not."""
    divisor = 53 if normalization == "sum" else 1  # larger steps would amplify the rounding
    run = config(
        model={"depth": 2, "widths": [9, 5], "activation": activation},
        initialization={"scale": 30.0},
        gradient={"normalization": normalization, "clip_norm": 0.1},
        optimizer={"learning_rate": 0.3 / divisor, "momentum": 0.5, "decay": "cosine"},
        training={"dtype": "float64", "batch_size": batch_size},
    )
    (result,) = train([run], DATA)
    order = repeat(slice(None)) if batch_size is None else batches_of(8, 0)
    params, points = None, {}
    for step, rows in zip(range(13), order, strict=False):
        X, y = DATA.train.pixels[rows] / DATA.scale, DATA.train.labels[rows]
        if params is None:
            params = initialize(run.model, run.initialization, n_inputs=9, seed=0, dtype="float64")
            velocity = tuple(Layer(0 * W, 0 * b) for W, b in params)
        grads = gradient(params, X, y, activation)
        share = float(rate_share(run.optimizer, step, 12))
        after, velocity = descend(
            params, velocity, normalize(grads, y.size, run.gradient), run.optimizer, share=share
        )
        changes = [Layer(v.W - w.W, v.b - w.b) for v, w in zip(after, params, strict=True)]
        points[step] = (
            [norm_of(layer) / y.size for layer in grads],
            [norm_of(d) / norm_of(w) for d, w in zip(changes, params, strict=True)],
            [
                np.mean(
                    is_gone(a, activation).mean(axis=0) >= (1 if activation == "relu" else 0.95)
                )
                for a in forward(params, X, activation).hidden
            ],
        )
        params = after
    assert result.layer_step.tolist() == [0, 5, 10, 12]
    measured = (result.layer_gradient, result.layer_update, result.layer_idle)
    for place, step in enumerate(result.layer_step.tolist()):
        for own, plain in zip(measured, points[step], strict=True):
            np.testing.assert_allclose(own[place], plain, rtol=1e-8, atol=1e-14)
    assert 0 < result.layer_idle.mean() < 1


def norm_of(layer):
    return np.sqrt((layer.W**2).sum() + (layer.b**2).sum())


def is_gone(a, activation):
    if activation == "relu":
        return a == 0
    low = 0 if activation == "sigmoid" else -1
    return (a <= low + 0.01) | (a >= 0.99)


def test_layers_are_measured_as_long_as_the_loss_is_finite():
    (result,) = train([wild_config()], DATA)
    assert result.ending is Ending.NON_FINITE
    assert result.layer_step.tolist() == [0, 1]  # at 2 the gradient is beyond all numbers
    assert np.isfinite(result.loss[2])
    (bare,) = train([config()], NOTHING_HELD_OUT)
    assert bare.evaluated_step.size == 0
    assert bare.layer_step.tolist() == [0, 5, 10, 12]


def test_many_examples_equal_a_plain_loop():
    """So many that each chunk of their sums has several blocks, and the last is not full."""
    many = dataset(part(5003, seed=2), part(20, seed=1))
    run = config(optimizer={"learning_rate": 0.5}, training={"dtype": "float64", "steps": 3})
    (result,) = train([run], many, threads=2)
    assert_same(train([*mixed_configs(), run], many, threads=1)[-1], result)
    losses, _, params = plain_loop(run, many, repeat(slice(None)))
    np.testing.assert_allclose(result.loss, losses, rtol=1e-10)
    assert_close(result.weights, params)


def batches_of(size, order_seed, n=53):
    rng = np.random.RandomState(order_seed)
    while True:
        order = rng.permutation(n)
        yield from (order[start : start + size] for start in range(0, n, size))


@pytest.mark.parametrize("normalization", ["sum", "clip"])
def test_minibatches_equal_a_plain_loop(normalization):
    run = config(
        gradient={"normalization": normalization, "clip_norm": 0.1},
        optimizer={"learning_rate": 0.05, "momentum": 0.5},
        training={"dtype": "float64", "batch_size": 8, "steps": 16, "order_seed": 3},
    )
    (result,) = train([run], DATA)
    losses, accuracies, params = plain_loop(run, DATA, batches_of(8, 3))
    # 53 examples are 7 batches of 8, the last of 5.
    assert result.loss_step.tolist() == [0, 7, 14, 16]
    np.testing.assert_allclose(result.loss, [losses[i] for i in (0, 7, 14, 16)], rtol=1e-10)
    assert result.evaluated_step.tolist() == [5, 10, 15, 16]
    assert result.validation_accuracy.tolist() == [accuracies[i - 1] for i in (5, 10, 15, 16)]
    assert_close(result.weights, params)


@pytest.mark.parametrize("shift", [1, 2])
def test_moved_minibatches_equal_a_plain_loop(shift):
    run = config(
        optimizer={"learning_rate": 0.05, "momentum": 0.5, "decay": "cosine"},
        training={
            "dtype": "float64",
            "batch_size": 8,
            "steps": 16,
            "order_seed": 3,
            "shift": shift,
        },
    )
    order, seen = [], []
    rng = np.random.RandomState(3)
    for _ in range(3):  # epochs of 7 batches
        rows = rng.permutation(53)
        ways = rng.randint(-shift, shift + 1, (2, 53))
        order += [rows[start : start + 8] for start in range(0, 53, 8)]
        seen += [moved(DATA.train.pixels, (3, 3), *ways) / 16] * 7
    (result,) = train([run], DATA)
    losses, accuracies, params = plain_loop(run, DATA, order, iter(seen))
    np.testing.assert_allclose(result.loss, [losses[i] for i in (0, 7, 14, 16)], rtol=1e-10)
    assert result.validation_accuracy.tolist() == [accuracies[i - 1] for i in (5, 10, 15, 16)]
    assert_close(result.weights, params)
    (unmoved,) = train([with_settings(run, {"training.shift": 0})], DATA)
    assert not np.allclose(result.loss[1:], unmoved.loss[1:], rtol=1e-6)


def test_images_at_the_edge_reach_pixels_that_were_never_inked():
    pixels = np.zeros((20, 9), np.uint8)
    pixels[:, 4] = 16  # the middle alone; its eight neighbours are reached
    data = dataset(Part(pixels, np.arange(20, dtype=np.uint8) % 2), DATA.validation)
    data = replace(data, validation=Part(pixels[:2], np.array([0, 1], np.uint8)))
    runs = [config(training={"batch_size": 5, "shift": shift}) for shift in (0, 1)]
    still, moving = (result.weights[0][0] for result in train(runs, data))
    first = initialize(runs[0].model, runs[0].initialization, n_inputs=9, seed=0, dtype="float32")[
        0
    ].W
    assert (still != first).any(axis=1).tolist() == [pixel == 4 for pixel in range(9)]
    assert (moving != first).any(axis=1).all()


@pytest.mark.parametrize("batch_size", [None, 8])
def test_scaled_inputs_and_biases_equal_a_plain_loop(batch_size):
    run = config(
        data={"scale": 16.0},
        initialization={"bias": -0.5},
        optimizer={"learning_rate": 0.01},
        training={"dtype": "float64", "batch_size": batch_size, "steps": 16, "order_seed": 3},
    )
    (result,) = train([run], DATA)
    batches = repeat(slice(None)) if batch_size is None else batches_of(8, 3)
    losses, accuracies, params = plain_loop(run, DATA, batches)
    np.testing.assert_allclose(result.loss, [losses[i] for i in result.loss_step], rtol=1e-10)
    assert result.validation_accuracy.tolist() == [accuracies[i - 1] for i in (5, 10, 15, 16)]
    assert_close(result.weights, params)
    usual = {"data.scale": 1.0, "initialization.bias": 0.0}
    for path, value in usual.items():
        (other,) = train([with_settings(run, {path: value})], DATA)
        assert not np.allclose(other.loss, result.loss, rtol=1e-3)


@pytest.mark.parametrize("batch_size", [None, 8])
def test_the_rate_falls_along_a_cosine(batch_size):
    optimizer = {"learning_rate": 0.05, "momentum": 0.5, "decay": "cosine"}
    run = config(
        optimizer=optimizer,
        training={"dtype": "float64", "batch_size": batch_size, "steps": 16, "order_seed": 3},
    )
    (result,) = train([run], DATA)
    batches = repeat(slice(None)) if batch_size is None else batches_of(8, 3)
    losses, _, params = plain_loop(run, DATA, batches)
    np.testing.assert_allclose(result.loss, [losses[i] for i in result.loss_step], rtol=1e-10)
    assert_close(result.weights, params)


def guarded_loop(run, data, batches):
    """As `plain_loop`, with the guard; losses of the batches, and when it went back where to."""
    X = (data.train.pixels / data.scale).astype(run.training.dtype)
    y, f, batch_size = data.train.labels, run.model.activation, run.training.batch_size
    params = initialize(run.model, run.initialization, n_inputs=9, seed=0, dtype=X.dtype)
    rest = velocity = tuple(Layer(0 * W, 0 * b) for W, b in params)
    noise = 0 if batch_size is None else None
    known = {"batch_size": batch_size, "noise": noise, "patience": run.training.steps // 2}
    guard, share = Guard(reference=CHANCE_LOSS, **known), 1.0
    losses, restores, best = [], [], params
    for step, rows in zip(range(run.training.steps), batches, strict=False):
        losses.append(loss(params, X[rows], y[rows], f))
        grads = gradient(params, X[rows], y[rows], f)
        action = guard.observe(losses[-1])
        best = params if action.is_best else best
        if action.name == "restore":
            if not math.isfinite(losses[-1]):
                losses[-1] = losses[action.step]
            params, velocity, share = best, rest, share * action.factor
            restores.append((step, action.step, share))
            continue
        grads = normalize(grads, y[rows].size, run.gradient)
        params, velocity = descend(params, velocity, grads, run.optimizer, share=share)
    return losses, restores, params


@pytest.mark.parametrize(
    ("batch_size", "normalization"),
    [(None, "sum"), (None, "unit"), (32, "mean"), (32, "clip")],
)
def test_the_guard_does_what_it_does_in_a_plain_loop(batch_size, normalization):
    rate = {"sum": 4.0, "mean": 120.0, "unit": 12.0, "clip": 80.0}[normalization]
    run = config(
        model={"depth": 1, "widths": 4},
        gradient={"normalization": normalization},
        optimizer={"learning_rate": rate, "momentum": 0.5, "guard": "rollback"},
        training={"dtype": "float64", "batch_size": batch_size, "steps": 120},
    )
    (result,) = train([run], DATA)
    batches = repeat(slice(None)) if batch_size is None else batches_of(batch_size, 0)
    losses, restores, params = guarded_loop(run, DATA, batches)
    own = result.loss[:-1] if batch_size is None else result.step_loss
    np.testing.assert_allclose(own, losses, rtol=1e-6)
    assert len(restores) >= 2
    restored = result.restored_step, result.restored_to, result.restored_share
    assert list(zip(*(part.tolist() for part in restored), strict=True)) == restores
    for (W, b), layer in zip(result.weights, params, strict=True):
        np.testing.assert_allclose(W, layer.W, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(b, layer.b, rtol=1e-5, atol=1e-8)


def guarded_configs():
    calm = [with_settings(run, {"optimizer.guard": "rollback"}) for run in mixed_configs()]
    swinging = [
        config(
            model={"depth": depth, "widths": 4, "activation": activation},
            optimizer={"learning_rate": rate, "guard": "rollback"},
            training={"steps": 300, "batch_size": batch_size},
        )
        for depth, activation, rate, batch_size in (
            (1, "sigmoid", 60.0, None),
            (2, "tanh", 30.0, None),
            (1, "relu", 30.0, None),
            (1, "tanh", 30.0, 16),
        )
    ]
    return [*calm, *swinging]


def test_a_guarded_trial_never_notices_the_others():
    configs = [*guarded_configs(), *mixed_configs()]
    alone = [train([each], DATA)[0] for each in configs]
    together = train(configs, DATA, threads=3)
    turned = train(configs[::-1], DATA, threads=2)[::-1]
    for one, two, three in zip(alone, together, turned, strict=True):
        for other in (two, three):
            assert_same(one, other)
            for name in ("restored_step", "restored_to", "restored_share"):
                assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    assert sum(result.restored_step.size > 0 for result in alone) >= 4
    assert all(result.restored_step.size == 0 for result in alone[len(guarded_configs()) :])


@pytest.mark.parametrize("n_steps", range(1, 6))
def test_weights_that_are_lost_stay_so_where_a_neighbour_ends(n_steps):
    """Sigmoids hide an infinite weight from the loss; trials that go on are packed anew."""
    lost = config(
        model={"depth": 1, "widths": [17]},
        gradient={"normalization": "clip", "derivative": "question"},
        optimizer={"learning_rate": 1e38, "momentum": 0.9, "guard": "rollback"},
        training={"seed": 7},
    )
    (alone,) = train([lost], DATA)
    neighbour = config(training={"steps": n_steps})
    copies = dict.fromkeys(range(1, 9), ())  # each ends a slice
    beside, _ = train([lost, neighbour], DATA, snapshots=[copies, {}])
    assert_same(alone, beside)
    assert alone.restored_step.tolist() == beside.restored_step.tolist() != []


def test_a_divergence_is_gone_back_from():
    run = with_settings(wild_config(), {"optimizer.guard": "rollback", "training.steps": 900})
    (result,) = train([run], DATA)
    assert (result.ending, result.last_step) == (Ending.COMPLETED, 900)
    assert np.isfinite(result.loss).all()
    assert result.loss.shape == (901,)
    assert result.restored_step[0] == 3  # where it is no number any more without the guard
    assert result.loss[3] == result.loss[result.restored_to[0]]
    assert result.loss[-1] < result.loss[0]
    (batches,) = train([with_settings(run, {"training.batch_size": 8})], DATA)
    assert batches.ending is Ending.COMPLETED
    assert np.isfinite(batches.loss).all()
    assert np.isfinite(batches.step_loss).all()


def test_a_guard_that_does_nothing_changes_no_bit():
    for run in mixed_configs()[:-1]:
        (with_guard,) = train([with_settings(run, {"optimizer.guard": "rollback"})], DATA)
        assert with_guard.restored_step.size == 0
        assert_same(train([run], DATA)[0], with_guard)


def assert_close(weights, params):
    for (W, b), layer in zip(weights, params, strict=True):
        np.testing.assert_allclose(W, layer.W, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(b, layer.b, rtol=1e-9, atol=1e-12)


def mnist_threes_and_sevens():
    if "MLP_DATA_ROOT" not in os.environ:
        pytest.skip("MLP_DATA_ROOT names no folder with the MNIST files")
    root = Path(os.environ["MLP_DATA_ROOT"])
    images, labels = (
        gzip.decompress((root / f"train-{name}-ubyte.gz").read_bytes())
        for name in ("images-idx3", "labels-idx1")
    )
    digits = np.frombuffer(labels, np.uint8, offset=8)
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 784)
    chosen = (digits == 3) | (digits == 7)
    return Part(pixels[chosen], (digits[chosen] == 7).astype(np.uint8))


def test_the_questions_first_25_losses_on_mnist():
    examples = mnist_threes_and_sevens()
    X, y = examples.pixels / 255, examples.labels
    num_examples = len(X)
    assert num_examples == 12396

    def sigmoid(x):
        with np.errstate(over="ignore"):  # 1 / (1 + inf) is the right 0
            return 1 / (1 + np.exp(-x))

    rng = np.random.RandomState(0)
    W1, b1 = rng.randn(784, 3) / np.sqrt(784), np.zeros((1, 3))
    W2, b2 = rng.randn(3, 3) / np.sqrt(3), np.zeros((1, 3))
    W3, b3 = rng.randn(3, 2) / np.sqrt(3), np.zeros((1, 2))
    losses = []
    for _ in range(25):
        a1 = sigmoid(X.dot(W1) + b1)
        a2 = sigmoid(a1.dot(W2) + b2)
        exp_scores = np.exp(a2.dot(W3) + b3)
        probs = exp_scores / np.sum(exp_scores, axis=1, keepdims=True)
        losses.append(np.sum(-np.log(probs[range(num_examples), y])) / num_examples)
        delta4 = probs
        delta4[range(num_examples), y] -= 1
        delta3 = delta4.dot(W3.T) * (1 - sigmoid(a2))
        delta2 = delta3.dot(W2.T) * (1 - sigmoid(a1))
        W3, b3 = W3 - 0.005 * a2.T.dot(delta4), b3 - 0.005 * delta4.sum(axis=0)
        W2, b2 = W2 - 0.005 * a1.T.dot(delta3), b2 - 0.005 * delta3.sum(axis=0)
        W1, b1 = W1 - 0.005 * X.T.dot(delta2), b1 - 0.005 * delta2.sum(axis=0)

    question = read_run(
        {
            "model": {"depth": 2, "widths": [3, 3]},
            "gradient": {"normalization": "sum", "derivative": "question"},
            "optimizer": {"learning_rate": 0.005},
            "training": {"steps": 24, "dtype": "float64"},
        }
    )
    held_out = Part(examples.pixels[:0], examples.labels[:0])
    (result,) = train([question], dataset(examples, held_out, scale=255))
    assert np.abs(result.loss / losses - 1).max() < 1e-10


def test_a_trial_does_not_notice_the_others():
    runs = mixed_configs()
    alone = [train([run], DATA)[0] for run in runs]
    order = np.random.RandomState(5).permutation(len(runs))
    together = train([runs[i] for i in order], DATA, threads=5)
    for place, i in enumerate(order):
        assert_same(together[place], alone[i])


def test_weights_keep_the_training_dtype():
    for result, run in zip(train(mixed_configs(), DATA), mixed_configs(), strict=True):
        assert all(a.dtype == run.training.dtype for layer in result.weights for a in layer)
        assert result.loss.dtype == np.float64


def test_each_step_notes_the_loss_of_its_batch_in_a_reproducible_order():
    # At this rate the weights stand still, so a batch's loss is known from its examples'.
    run = config(
        training={"batch_size": 8, "steps": 16, "dtype": "float64", "order_seed": 4},
        optimizer={"learning_rate": 1e-300},
    )
    result, again, other = train([run, run, with_settings(run, {"training.order_seed": 5})], DATA)
    assert_same(result, again)
    X, y = DATA.train.pixels / 16, DATA.train.labels
    weights = tuple(Layer(*layer) for layer in result.weights)
    losses = example_losses(forward(weights, X, "sigmoid").logits, y)
    expected = [losses[rows].mean() for rows in islice(batches_of(8, 4), 16)]
    np.testing.assert_allclose(result.step_loss, expected, rtol=1e-12)
    assert not np.allclose(result.step_loss, other.step_loss)


def test_a_batch_with_all_examples_is_a_step_on_the_full_batch():
    run = config(training={"dtype": "float64"})
    full, batch = train([run, with_settings(run, {"training.batch_size": 100})], DATA)
    np.testing.assert_allclose(batch.loss, full.loss, rtol=1e-12)
    assert batch.loss_step.tolist() == full.loss_step.tolist()
    np.testing.assert_allclose(batch.step_loss, full.loss[:-1], rtol=1e-12)


@pytest.mark.parametrize("batch_size", [None, 8])
def test_a_loss_that_is_not_finite_ends_the_trial_early(batch_size):
    result, quiet = train([wild_config(batch_size), config()], DATA)
    assert result.ending is Ending.NON_FINITE
    assert result.last_step == result.loss_step[-1] == 3
    assert np.isfinite(result.loss[:-1]).all()
    assert not np.isfinite(result.loss[-1])
    assert result.evaluated_step.tolist() == [1, 2]
    assert quiet.ending is Ending.COMPLETED
    if batch_size is not None:
        assert result.step_loss.size == 4
        assert not np.isfinite(result.step_loss[-1])


def test_first_weights_can_already_be_beyond_the_dtype():
    run = config(initialization={"scheme": "normal", "scale": 1e300})
    (result,) = train([run], DATA)
    assert (result.ending, result.last_step, result.loss.size) == (Ending.NON_FINITE, 0, 1)


def test_nothing_held_out_means_no_accuracy():
    (result,) = train([config()], NOTHING_HELD_OUT)
    assert result.validation_accuracy.size == result.evaluated_step.size == 0
    (other,) = train([config()], DATA)
    assert result.loss.tobytes() == other.loss.tobytes()


def test_no_configs_give_no_results():
    assert train([], DATA) == []


def test_progress_is_told_the_last_losses_until_all_have_ended():
    told = []
    short, long = config(training={"steps": 2}), config(training={"steps": 2000})
    results = train([short, long], DATA, threads=2, progress=lambda *now: told.append(now))
    updates = [n_done for n_done, _ in told]
    assert updates == sorted(set(updates))
    assert updates[-1] == 2002
    assert len(updates) > 2
    for n_done, losses in told:
        assert losses.tolist() == [results[0].loss[-1], results[1].loss[n_done - 2]]


def test_progress_goes_on_from_one_population_to_the_next():
    """Trials of another dtype are trained apart, one after the other; a diverged one is done."""
    told = []
    training = {"steps": 500}
    configs = [
        config(training={**training, "dtype": "float64"}),
        config(training=training),
        config(training=training, optimizer={"learning_rate": 1e30}),
    ]
    train(configs, DATA, progress=lambda *now: told.append(now))
    updates = [n_done for n_done, _ in told]
    assert updates == sorted(updates)
    assert 0 < updates[0] <= 500
    assert updates[-1] == 1500


@pytest.mark.parametrize("threads", [1, 2])
def test_what_progress_raises_passes_through(threads):
    def stop(step, losses):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(mixed_configs(), DATA, threads=threads, progress=stop)


def test_a_trial_below_its_threshold_ends_there_and_its_rerun_too():
    run = config(training={"steps": 40, "evaluate_every": 4})
    (full,) = train([run], DATA)
    at = 12
    bar = full.validation_accuracy[full.evaluated_step == at][0] + 1e-9
    # Step 13 is not evaluated; below no number is nobody.
    bounds = [{at: bar, 13: np.inf}, {at: bar - 1e-6, 4: -np.inf}, {}]
    pruned, *others = train([run] * 3, DATA, thresholds=bounds)
    assert (pruned.ending, pruned.last_step) == (Ending.PRUNED, at)
    assert pruned.loss.tobytes() == full.loss[: at + 1].tobytes()
    assert pruned.evaluated_step.tolist() == [4, 8, 12]
    (weights,) = train([with_settings(run, {"training.steps": at})], DATA)
    assert_close(pruned.weights, [Layer(*layer) for layer in weights.weights])
    for other in others:
        assert_same(other, full)
    (again,) = train([run], DATA, thresholds=[{at: np.inf}])
    assert_same(again, pruned)


def test_little_memory_splits_a_population_and_changes_nothing():
    runs = mixed_configs()
    roomy = train(runs, DATA)
    for one, other in zip(roomy, train(runs, DATA, memory_bytes=2_000_000), strict=True):
        assert_same(one, other)


def test_what_cannot_fit_is_refused_with_the_numbers_before_any_work():
    told = []
    huge = config(model={"depth": 2, "widths": [65_000, 65_000]})
    law = r"model.widths=\[65000, 65000\] must fit into .* GB of memory, but needs .* GB"
    with pytest.raises(SystemLimitError, match=law):
        train([config(), huge], DATA, progress=lambda *now: told.append(now))
    assert told == []
