"""Files as people write them, and what those cost that misbehave."""

import json
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest

from mlp.audit.own_process import audit_file, audit_here
from mlp.errors import DataError, MissingInputError, SettingError
from support.sweeping import command

FUNCTIONS = """
import numpy as np

def loss(params, X, y):
    a = np.tanh(X @ params["W1"] + params["b1"])
    return ((a @ params["W2"] + params["b2"] - y) ** 2).mean()

def gradient(params, X, y):
    a = np.tanh(X @ params["W1"] + params["b1"])
    delta2 = 2 * (a @ params["W2"] + params["b2"] - y) / y.size
    delta1 = delta2 @ params["W2"].T * FACTOR
    db1, db2 = delta1.sum(axis=0), delta2.sum(axis=0)
    return {"W1": X.T @ delta1, "b1": db1, "W2": a.T @ delta2, "b2": db2}

params = {"W1": np.ones((4, 3)), "b1": np.zeros(3), "W2": np.ones((3, 2)), "b2": np.zeros(2)}
"""
RIGHT, WRONG = FUNCTIONS.replace("FACTOR", "(1 - a**2)"), FUNCTIONS.replace("FACTOR", "(1 - a)")


def write(folder, text):
    file = folder / "mine.py"
    file.write_text(textwrap.dedent(text))
    return file


@pytest.fixture
def audited(tmp_path, monkeypatch):
    """What is found in a text, without a process of its own."""

    def audited(text, **typed):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        with np.errstate(), warnings.catch_warnings():
            return json.loads(json.dumps(audit_here(write(tmp_path, text), typed)))

    return audited


def kinds(found):
    return [flaw["kind"] for flaw in found["flaws"]]


def test_functions_and_a_dict(audited):
    found = audited(RIGHT)
    assert found["flaws"] == []
    assert found["error"] < 1e-6
    [flaw] = audited(WRONG)["flaws"]
    assert flaw["sentence"] == "the delta of layer 1 has the factor 1 - a1; 1 - a1**2 is due"
    assert flaw["lines"] == [[11, 'delta1 = delta2 @ params["W2"].T * (1 - a)']]


def test_names_that_are_not_usual_are_typed(audited):
    text = WRONG.replace("def loss", "def badness").replace("def gradient", "def slope")
    text = text.replace("params = {", "start = {")
    found = audited(text, loss="badness", gradient="slope", params="start")
    assert kinds(found) == ["factor lost"]
    with pytest.raises(SettingError, match="gradient=slop; did you mean 'slope'"):
        audited(text, loss="badness", gradient="slop", params="start")
    with pytest.raises(SettingError, match="no loss that is called as usual; type loss=NAME"):
        audited(text, gradient="slope", params="start")
    with pytest.raises(SettingError, match=r"no gradient .* functions are badness, slope"):
        audited(text)


COLUMNS = """
import numpy as np

def initialize_parameters(n_x, n_h, n_y):
    return {"W1": np.random.randn(n_h, n_x), "b1": np.zeros((n_h, 1)),
            "W2": np.random.randn(n_y, n_h), "b2": np.zeros((n_y, 1))}

def forward_propagation(X, parameters):
    A1 = np.tanh(parameters["W1"] @ X + parameters["b1"])
    A2 = 1 / (1 + np.exp(-parameters["W2"] @ A1 - parameters["b2"]))
    return A2, {"A1": A1, "A2": A2}

def compute_cost(A2, Y):
    return -np.sum(Y * np.log(A2) + (1 - Y) * np.log(1 - A2)) / Y.shape[1]

def backward_propagation(parameters, cache, X, Y):
    m = X.shape[1]
    dZ2 = cache["A2"] - Y
    dZ1 = parameters["W2"].T @ dZ2 * (1 - cache["A1"] ** 2)
    return {"dW1": dZ1 @ X.T / m, "db1": dZ1.sum(axis=1, keepdims=True),
            "dW2": dZ2 @ cache["A1"].T / m, "db2": dZ2.sum(axis=1, keepdims=True) / m}

if __name__ == "__main__":
    parameters = fetch_somewhere_far_away()
"""


def test_forward_and_backward_pass_with_a_cache_and_examples_in_columns(audited):
    found = audited(COLUMNS)
    assert kinds(found) == ["summed in part"]
    assert "gradient of b1 alone" in found["flaws"][0]["sentence"]
    assert kinds(audited(COLUMNS.replace("keepdims=True),\n", "keepdims=True) / m,\n"))) == []


ONE_COLUMN = """
import numpy as np

def sigmoid(z):
    return 1 / (1 + np.exp(-z))

class Network:
    def __init__(self, sizes):
        self.weights = [np.random.randn(b, a) for a, b in zip(sizes, sizes[1:])]
        self.biases = [np.random.randn(b, 1) for b in sizes[1:]]

    def feedforward(self, a):
        for W, b in zip(self.weights, self.biases):
            a = sigmoid(W @ a + b)
        return a

    def backprop(self, x, y):
        nabla_b, nabla_w = [0 * b for b in self.biases], [0 * W for W in self.weights]
        a, z = [x], []
        for W, b in zip(self.weights, self.biases):
            z.append(W @ a[-1] + b)
            a.append(sigmoid(z[-1]))
        delta = (a[-1] - y) * a[-1] * (1 - a[-1])
        nabla_b[-1], nabla_w[-1] = delta, delta @ a[-2].T
        for k in range(2, len(self.weights) + 1):
            delta = self.weights[1 - k].T @ delta * slope(DERIVED[-k])
            nabla_b[-k], nabla_w[-k] = delta, delta @ a[-k - 1].T
        return nabla_b, nabla_w

def slope(z):
    return sigmoid(z) * (1 - sigmoid(z))
"""


def test_one_example_at_a_time_in_a_column(audited):
    typed = {
        "model": "Network([4, 3, 2])",
        "loss": "0.5 * np.sum((model.feedforward(X) - y)**2)",
    }
    found = audited(ONE_COLUMN.replace("DERIVED", "z"), **typed)
    assert kinds(found) == []
    assert found["notes"] == ["it takes one example at a time"]
    [flaw] = audited(ONE_COLUMN.replace("DERIVED[-k]", "a[-k]"), **typed)["flaws"]
    assert "the factor sigmoid(a1) * (1 - sigmoid(a1)); a1 * (1 - a1) is due" in flaw["sentence"]
    assert flaw["lines"] == [[26, "delta = self.weights[1 - k].T @ delta * slope(a[-k])"]]


CLASS = """
import numpy as np

class Network:
    def __init__(self, sizes):
        self.weights = [np.random.randn(a, b) for a, b in zip(sizes, sizes[1:])]
        self.biases = [np.zeros(b) for b in sizes[1:]]
        self.rate = 0.1

    def forward(self, X):
        self.a = [X]
        for W, b in zip(self.weights, self.biases):
            self.a.append(1 / (1 + np.exp(-(self.a[-1] @ W + b))))
        return self.a[-1]

    def loss(self, X, y):
        return ((self.forward(X) - y) ** 2).sum() / len(X)

    def backward(self, X, y):
        self.forward(X)
        delta = 2 * (self.a[-1] - y) / len(X) * self.a[-1] * (1 - self.a[-1])
        for i in reversed(range(len(self.weights))):
            dW, db = self.a[i].T @ delta, delta.sum(axis=0)
            delta = delta @ self.weights[i].T * self.a[i] * (1 - self.a[i])
            self.weights[i] = self.weights[i] - SIGN self.rate * dW
            self.biases[i] = self.biases[i] - SIGN self.rate * db

    def fit(self, X, y):
        while True:
            self.backward(X, y)

if __name__ == "__main__":
    Network([2, 3, 1]).fit(np.eye(2), np.ones((2, 1)))
"""


def test_class_that_changes_its_own_weights(audited):
    assert kinds(audited(CLASS.replace("SIGN", ""))) == []
    assert kinds(audited(CLASS.replace("SIGN", "-"))) == ["sign"]


TRAINING = """
import numpy as np

X = np.random.rand(500, 6)
y = (X.sum(axis=1) > 3).astype(int)
n = len(X)
rate = 0.01

def forward(model):
    hidden = 1 / (1 + np.exp(-X @ model["W1"] - model["b1"]))
    powers = np.exp(hidden @ model["W2"] + model["b2"])
    return hidden, powers / powers.sum(axis=1, keepdims=True)

def calculate_loss(model):
    return -np.log(forward(model)[1][np.arange(n), y]).mean()

def build(size, n_steps=1000):
    np.random.seed(1)
    model = {"W1": np.random.randn(6, size), "b1": np.zeros((1, size)),
             "W2": np.random.randn(size, 2), "b2": np.zeros((1, 2))}
    losses = []
    for _ in range(n_steps):
        hidden, probs = forward(model)
        d2 = probs.copy()
        d2[np.arange(n), y] -= 1
        d1 = d2 @ model["W2"].T * (1 - 1 / (1 + np.exp(-hidden)))
        model["W2"] -= rate * hidden.T @ d2
        model["b2"] -= rate * d2.sum(axis=0)
        model["W1"] -= rate * X.T @ d1
        model["b1"] -= rate * d1.sum(axis=0)
        losses.append(calculate_loss(model))
    return model, losses

model, losses = build(3, n_steps=10**9)
"""


def test_training_function_as_a_black_box(audited):
    found = audited(TRAINING)
    assert kinds(found) == ["summed", "sigmoid of the activation"]
    summed, factor = found["flaws"]
    assert "summed over 500 examples" in summed["sentence"]
    assert summed["meaning"] == "a rate of 0.01 is a step of 5 on the mean"
    assert "has the factor 1 - sigmoid(a1); a1 * (1 - a1) is due" in factor["sentence"]


def test_training_that_yields_its_losses(audited):
    text = TRAINING.replace("losses.append(calculate_loss(model))", "yield calculate_loss(model)")
    text = text.replace("return model, losses", "return model").replace(
        "model, losses = ", "run = "
    )
    assert kinds(audited(text)) == ["summed", "sigmoid of the activation"]


YIELDING = """
import numpy as np

X = np.random.RandomState(0).randn(40, 4)
Y = np.sin(X[:, :1])

def train(lr=0.05, hidden=5, epochs=9, seed=0):
    r = np.random.RandomState(seed)
    n = len(X)
    W1, b1 = r.randn(4, hidden) / 2, np.zeros(hidden)
    W2, b2 = r.randn(hidden, 1), np.zeros(1)
    for _ in range(epochs):
        h = np.tanh(X @ W1 + b1)
        out = h @ W2 + b2
        FIRST
        g = 2 * (out - Y) / n
        gh = g @ W2.T * FACTOR
        W2, b2 = W2 - lr * h.T @ g, b2 - lr * g.sum(0)
        W1, b1 = W1 - lr * X.T @ gh, b1 - lr * gh.sum(0)
        LAST
    return BACK
"""
DICT = '{"W1": W1, "b1": b1, "W2": W2, "b2": b2}'


def yielding(first="yield np.mean((out - Y) ** 2)", last="", factor="(1 - h)", back=DICT):
    text = YIELDING.replace("FIRST", first or "pass").replace("LAST", last or "pass")
    return text.replace("FACTOR", factor).replace("BACK", back)


@pytest.mark.parametrize(
    "text",
    [
        yielding(),
        yielding('yield {"loss": np.mean((out - Y) ** 2), "accuracy": 1.0}'),
        yielding("loss_now = np.mean((out - Y) ** 2)", "yield loss_now"),
        yielding("", "yield np.mean((np.tanh(X @ W1 + b1) @ W2 + b2 - Y) ** 2)"),
        yielding(back="[(W1, b1), (W2, b2)]"),
        yielding(back="dict(W1=W1, b1=b1, W2=W2, b2=b2)"),
        yielding().replace("W1, b1 = W1 - lr * X.T @ gh, ", "W1 -= lr * X.T @ gh; b1 = "),
    ],
)
def test_the_loss_is_the_one_that_is_yielded(audited, text):
    found = audited(text)
    assert "compared with the loss that it yields in line" in found["said"]
    [flaw] = found["flaws"]
    assert flaw["sentence"] == "the delta of layer 1 has the factor 1 - h; 1 - h**2 is due"
    assert flaw["remedy"] == "Write 1 - h**2"
    assert audited(text.replace("(1 - h)", "(1 - h**2)"))["flaws"] == []


@pytest.mark.parametrize(
    "text",
    [
        yielding(last="out = np.tanh(X @ W1 + b1) @ W2 + b2", first="").replace(
            "    return", "        yield np.mean((out - Y) ** 2)\n    return"
        ),
        yielding("if _ % 2 == 0: yield np.mean((out - Y) ** 2)"),
        yielding("yield np.mean((out - Y) ** 2) + 0.1 * np.random.rand() + _"),
        yielding(back='{"W1": W1 + 0, "b1": b1, "W2": W2, "b2": b2}'),
    ],
)
def test_a_yielded_loss_that_the_text_does_not_show_is_typed_with_the_names_of_the_file(
    audited, text
):
    with pytest.raises(SettingError, match="no loss that is called as usual") as refused:
        audited(text)
    said = str(refused.value)
    assert "an expression of W1, b1, W2, b2, X and Y, such as loss='" in said
    example = said.partition("such as loss='")[2].removesuffix("'")
    assert example == "np.mean((np.tanh(X @ W1 + b1) @ W2 + b2 - Y)**2)"
    assert kinds(audited(text, loss=example)) == ["factor lost"]


SHAPES = """
import numpy as np

X = np.random.RandomState(0).randn(4, 40)TURN
LABELS

def train(lr=0.05, epochs=9):
    W, b = np.full(SHAPE, 0.1), np.zeros(BIAS)
    for _ in range(epochs):
        W, b = W - lr * np.ones_like(W) * X.mean(), b - lr * np.ones_like(b)
    return {"W": W, "b": b}
"""


@pytest.mark.parametrize("labels", ["t = np.arange(40) % 3", "t = np.ones((3, 40))TURN"])
@pytest.mark.parametrize("in_columns", [True, False])
def test_the_expression_that_is_proposed_works_when_it_is_typed(audited, labels, in_columns):
    text = SHAPES.replace("LABELS", labels).replace("TURN", "" if in_columns else ".T")
    text = text.replace("SHAPE", "(3, 4)" if in_columns else "(4, 3)")
    text = text.replace("BIAS", "(3, 1)" if in_columns else "3")
    with pytest.raises(SettingError, match="an expression of W, b, X and t") as refused:
        audited(text)
    found = audited(
        text, loss=str(refused.value).partition("loss='")[2].partition("loss='")[2][:-1]
    )
    assert "linear with squared" in found["network"] or "softmax" in found["network"]
    assert found["flaws"] != []


def test_names_in_an_expression_are_known_or_told(audited):
    text = yielding()
    with pytest.raises(SettingError, match="loss has the name w3, which is not known") as refused:
        audited(text, loss="np.mean((np.tanh(X @ w3 + b1) - Y)**2)")
    assert "W1, b1, W2, b2, params, X, y" in str(refused.value)
    with pytest.raises(SettingError, match="is no expression: "):
        audited(text, loss="np.mean((")
    sums = "sum(np.mean((h @ W2 + b2 - Y)**2) for h in [np.tanh(X @ W1 + b1)])"
    assert kinds(audited(text, loss=sums)) == ["factor lost"]


LINE = """
import numpy as np

random = np.random.RandomState(1)
X = random.randn(200, 8)
y = (X @ random.randn(8) > 0).astype(float)

def train(rate=0.5, hidden=3, steps=200, seed=0):
    random = np.random.RandomState(seed)
    W1, W2, b2 = random.randn(8, hidden) / 8**0.5, random.randn(hidden) / hidden**0.5, 0.0
    for _ in range(steps):
        a = np.tanh(X @ W1)
        z = a @ W2 + b2
        yield np.mean(np.logaddexp(0, z) - y * z)
        d = (1 / (1 + np.exp(-z)) - y) / MEAN
        W1 = W1 - rate * X.T @ (np.outer(d, W2) * (1 - a * a))
        W2, b2 = W2 - rate * a.T @ d, b2 - rate * d.sum()
    return {"W1": W1, "W2": W2, "b2": b2}
"""


def test_a_single_output_may_have_a_line_of_weights_and_a_number_for_its_bias(audited):
    right = audited(LINE.replace("MEAN", "len(y)"))
    assert right["flaws"] == []
    assert "sigmoid with binary cross-entropy" in right["network"]
    assert kinds(audited(LINE.replace("MEAN", "1"))) == ["summed"]
    assert kinds(audited(LINE.replace("MEAN", "1").replace("b2 - rate * d.sum()", "0.0"))) != []


def test_the_file_of_the_docs_is_audited_as_it_stands(audited):
    page = Path(__file__).parents[2] / "docs" / "own.md"
    [flaw] = audited(page.read_text().split("```py\n# ./mine.py\n")[1].split("```")[0])["flaws"]
    assert "summed over 200 examples, and the loss is their mean" in flaw["sentence"]


def test_weights_that_are_no_layers_are_not_passed_over(audited):
    text = LINE.replace("MEAN", "len(y)").replace("a @ W2 + b2", "a * gain @ W2 + b2")
    text = text.replace("    for _", "    gain = np.ones(hidden)\n    for _")
    text = text.replace("W2, b2 = W2 -", "gain = gain - rate * (d @ a) * W2\n        W2, b2 = W2 -")
    with pytest.raises(SettingError, match=r"the loss hangs on .*weight_gain of shape \(3,\)"):
        audited(text.replace('"b2": b2}', '"b2": b2, "weight_gain": gain}'))


ONE_BY_ONE = """
import numpy as np

X, y = np.random.rand(50, 3), np.random.rand(50, 2)

def loss(model):
    return ((X @ model["W"] + model["b"] - y) ** 2).mean(axis=0).sum()

def train(epochs, lr=0.02):
    W, b = np.ones((3, 2)), np.zeros(2)
    for _ in range(epochs):
        for i in ORDER:
            error = X[i] @ W + b - y[i]
            W = W - lr * FACTOR * np.outer(X[i], error)
            b = b - lr * FACTOR * error
    return {"W": W, "b": b}
"""


def test_steps_after_each_example_are_no_mistake(audited):
    for order in ("range(len(X))", "np.random.permutation(len(X))"):
        text = ONE_BY_ONE.replace("ORDER", order)
        found = audited(text.replace("FACTOR", "2"))
        assert kinds(found) == []
        assert "after each example" in found["notes"][0]
        assert "sign" in kinds(audited(text.replace("FACTOR", "-2")))


def test_training_that_hides_its_data_is_refused(audited):
    text = ONE_BY_ONE.replace("FACTOR", "2").replace("ORDER", "range(5)")
    text = text.replace("    W, b", "    X, y = np.ones((5, 3)), np.ones((5, 2))\n    W, b")
    with pytest.raises(SettingError, match="does not use the examples X and y"):
        audited(text)
    text = ONE_BY_ONE.replace("FACTOR", "2").replace("ORDER", "range(0)")
    with pytest.raises(SettingError, match="same weights after one and two passes"):
        audited(text)


def test_data_that_cannot_be_read_are_given(audited):
    text = TRAINING.replace("np.random.rand(500, 6)", "np.load('nowhere.npy')")
    with pytest.raises(DataError, match=r"line 4 raises FileNotFoundError.*X='np.random"):
        audited(text)
    found = audited(text, X="np.random.rand(20, 6)", y="np.arange(20) % 2")
    assert kinds(found) == ["summed", "sigmoid of the activation"]


def test_main_part_is_not_run(tmp_path):
    hours = """
    for epoch in range(10**12):
        step = gradient(params, np.ones((2, 4)), np.ones((2, 2)))
    raise SystemExit
    """
    file = write(tmp_path, WRONG + textwrap.dedent(hours))
    assert kinds(audit_file(file, {}, timeout_s=30)) == ["factor lost"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("while True: pass", r"was still busy at line 9 \(while True: pass\) after 2 s"),
        ("raise SystemExit(3)", "line 9 .* raises SystemExit: 3"),
        ("import os; os._exit(3)", "ended its process with exit code 3"),
        ("import os; os.kill(os.getpid(), 11)", "ended its process by SIGSEGV"),
    ],
)
def test_code_that_misbehaves_costs_one_sentence(tmp_path, line, said):
    text = WRONG.replace("def gradient(params, X, y):", f"def gradient(params, X, y):\n    {line}")
    with pytest.raises(DataError, match=said):
        audit_file(write(tmp_path, text), {}, timeout_s=2 if "was still" in said else 60)


def test_prints_without_end_are_not_kept(tmp_path):
    text = WRONG.replace(
        "def gradient(params, X, y):", "def gradient(params, X, y):\n    print('x' * 1_000_000)"
    )
    assert kinds(audit_file(write(tmp_path, text), {}, timeout_s=60)) == ["factor lost"]


def test_dropout_is_compared_with_the_same_units(audited):
    mask = "    mask = np.random.rand(*a.shape) < 0.8\n    a = a * mask\n"
    text = RIGHT.replace('params["b1"])\n', 'params["b1"])\n' + mask)
    found = audited(text.replace("(1 - a**2)", "(1 - a**2) * mask"))
    assert kinds(found) == []
    assert "draws random numbers" in found["notes"][0]


def test_single_precision_has_wider_limits(audited):
    text = RIGHT.replace(
        "params, X, y):\n",
        "params, X, y):\n    X, y = np.float32(X), np.float32(y)\n"
        "    params = {k: np.float32(v) for k, v in params.items()}\n",
    )
    found = audited(text)
    assert kinds(found) == []
    assert "single precision" in found["notes"][0]
    assert kinds(audited(text.replace("(1 - a**2)", "(1 - a)"))) == ["factor lost"]


def test_formula_that_is_not_known_is_said_to_be_none(audited):
    [flaw] = audited(RIGHT.replace("(1 - a**2)", "np.exp(-np.abs(a) ** 1.3)"))["flaws"]
    assert flaw["kind"] == "unknown formula"
    assert "none of those known" in flaw["sentence"]


def test_gradient_that_is_not_finite_is_not_right(audited):
    found = audited(RIGHT.replace("(1 - a**2)", "(1 - a**2) / (X.sum() - X.sum())"))
    assert set(kinds(found)) == {"not finite"}


def test_loss_that_is_not_known_is_compared_by_differences(audited):
    text = WRONG.replace("np.tanh(X", "np.sin(X")
    found = audited(text)
    assert found["network"] == ""
    assert {flaw["kind"] for flaw in found["flaws"]} == {"unknown formula"}
    assert kinds(audited(text.replace("(1 - a)", 'np.cos(X @ params["W1"] + params["b1"])'))) == []


def test_command(tmp_path):
    (tmp_path / "mine.py").write_text(WRONG)
    (tmp_path / "fine.py").write_text(RIGHT)
    (tmp_path / "broken.py").write_text("def f(:\n")

    def typed(*words):
        return command("audit", *words, cwd=tmp_path)

    done = typed("mine.py")
    assert done.returncode == 1
    assert "1. the delta of layer 1 has the factor 1 - a1; 1 - a1**2 is due" in done.stdout
    assert "   line 11: delta1 = " in done.stdout
    assert done.stdout.splitlines()[-1] == "  python -m mlp.audit mine.py"
    done = typed("fine.py", "json=true")
    assert done.returncode == 0
    assert json.loads(done.stdout)["flaws"] == []
    for words, code, said in [
        (["nowhere.py"], 66, "there is no file nowhere.py"),
        (["broken.py"], 65, "broken.py: line 1 is no Python"),
        ([], 2, "one file is audited at a time"),
        (["mine.py", "gradeint=x"], 2, "did you mean 'gradient'?"),
    ]:
        done = typed(*words)
        assert done.returncode == code
        assert said in done.stderr
        assert done.stdout == ""


def test_nothing_is_audited_that_is_not_there(tmp_path):
    with pytest.raises(MissingInputError):
        audit_file(tmp_path / "no.py", {}, timeout_s=5)
