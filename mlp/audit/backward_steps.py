"""Which formula stands in each step of a backpropagation, from the gradients of single examples.

With one example, the gradient of a layer's bias is its delta, and the gradient of its weights is
its input times its delta. Each step is compared with what it takes from the program itself (the
delta of the layer above as it is there, right or wrong), so no mistake hides another.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlp.audit.known_networks import (
    ACTIVATIONS,
    COSTS,
    OUTPUTS,
    Array,
    ForwardPass,
    KnownNetwork,
    output_delta,
    rounded,
    value_of,
    written,
)

Values = Callable[[ForwardPass], Array]  # (example, unit)

UNKNOWN = "unknown formula"
_COSTS = {UNKNOWN: 3.0}


@dataclass(frozen=True)
class Formula:
    """One way of writing a step.

    Attributes:
        kind: of mistake; empty: none.
        text: as one would write it in the code.
        values: what it gives, (example, unit), or for weights (input, unit).
        factor: what it is multiplied with.
    """

    kind: str
    text: str
    values: Values
    factor: float = 1.0

    @property
    def is_due(self) -> bool:
        """Whether it is what should stand there."""
        return not self.kind and self.factor == 1.0

    def scaled(self, at: ForwardPass) -> Array:
        """Its values times its factor."""
        return self.factor * self.values(at)


@dataclass(frozen=True)
class LayerSteps:
    """The three formulas of a layer.

    Attributes:
        delta: how the delta comes from the layer above, or from the outputs.
        weights: how the weights' gradient comes from it.
        bias: how the bias' gradient comes from it.
        due_delta: the delta that is due, given the delta above as the program has it.
    """

    delta: Formula
    weights: Formula
    bias: Formula
    due_delta: Values

    @property
    def cost(self) -> float:
        """How much is wrong: the explanation with the least is taken."""
        return sum(
            _COSTS.get(step.kind, 1.0) + (0.1 if step.factor != 1.0 else 0.0)
            for step in (self.delta, self.weights, self.bias)
            if not step.is_due
        )

    @property
    def has_unknown(self) -> bool:
        """Whether one of them is none of those known."""
        return UNKNOWN in (self.delta.kind, self.weights.kind, self.bias.kind)


def explain_steps(examples: Sequence[ForwardPass], *, tolerance: float) -> list[LayerSteps]:
    """The steps of each layer, first layer first.

    Args:
        examples: at least four, each alone and with its gradient, at different weights or of
            different inputs.
        tolerance: relative, of a formula's values.
    """
    steps: list[LayerSteps] = []
    for layer in reversed(range(len(examples[0].layers))):
        steps.insert(0, _Layer(examples, layer, tuple(steps), tolerance).best())
    return steps


class _Layer:
    """What is known of one layer's gradients, and the formulas that fit."""

    def __init__(
        self,
        examples: Sequence[ForwardPass],
        layer: int,
        above: Sequence[LayerSteps],
        tolerance: float,
    ) -> None:
        self.examples, self.layer, self.tolerance = examples, layer, tolerance
        self.above = above
        self.network = examples[0].network
        self.shapes = [W.shape for W, _ in examples[0].layers]
        self.dW = [e.gradient[layer][0] for e in examples]
        self.db = [e.gradient[layer][1] for e in examples]

    def best(self) -> LayerSteps:
        found = []
        for delta in self._deltas():
            step = self._delta_step(delta)
            own = step.scaled
            steps = LayerSteps(step, self._weight_step(own), self._bias_step(own), self._due())
            if not steps.cost:
                return steps
            found.append(steps)
        return min(found, key=lambda steps: steps.cost)

    def _deltas(self) -> Iterator[list[Array]]:
        """What the delta may be, by the bias, by the weights, and as it is due."""
        if any(db.any() for db in self.db):
            yield self.db
        for inputs in self._inputs():
            values = [inputs.values(e)[0] for e in self.examples]
            projected = [v @ dW / max(v @ v, 1e-300) for v, dW in zip(values, self.dW, strict=True)]
            rebuilt = [np.outer(v, d) for v, d in zip(values, projected, strict=True)]
            if any(d.any() for d in projected) and _misfit(self.dW, rebuilt) < self.tolerance:
                yield projected
        yield [self._due()(e)[0] for e in self.examples]

    # The delta

    def _due(self) -> Values:
        if not self.above:
            return ForwardPass.output_delta
        back = self._backed(self.above[0].delta.scaled)
        return lambda at: back(at) * at.derivative(self.layer)

    def _delta_step(self, delta: list[Array]) -> Formula:
        due = self._due()
        if self._fits(delta, due):
            return Formula("", "", due)
        found = []
        for formula in self._hidden_formulas() if self.above else _output_formulas(self.network):
            factor = self._factor(delta, formula.values)
            if factor is not None:
                if factor == 1.0 or not formula.kind:
                    return dataclasses.replace(formula, factor=factor)
                found.append(dataclasses.replace(formula, factor=factor))
        nice = [formula for formula in found if abs(formula.factor) in (0.0, 1.0, 2.0, 0.5)]
        if nice or found:
            return (nice or found)[0]
        known = dict(zip(self.examples, delta, strict=True))
        return Formula(UNKNOWN, "", lambda at: known[at][None, :])

    def _hidden_formulas(self) -> Iterator[Formula]:
        layer, back_here = self.layer, self._backed(self.above[0].delta.scaled)
        others = list(self._other_ways_back())
        due = ACTIVATIONS[self.network.activations[layer]][1]
        factors = [_of_units(kind, text, layer) for kind, text in _factors(self.network, layer)]
        factors += [
            _of_units("derivative at another layer", due, k) for k in self._layers_of_same_size()
        ]
        for factor in factors:
            yield Formula(factor.kind, factor.text, _times(back_here, factor.values))
        for kind, text, back in others:
            yield Formula(kind, text, _times(back, factors[0].values))
        text = f"(delta{layer + 1} > 0)"
        yield Formula("mask of the delta", text, lambda at: np.maximum(back_here(at), 0))
        for kind, text, back in others:
            yield Formula(f"{kind}, no derivative", text, back)

    def _backed(self, delta: Values) -> Values:
        return _back(delta, self.layer + 1)

    def _other_ways_back(self) -> Iterator[tuple[str, str, Values]]:
        above, W, shapes = self.above[0].delta.scaled, self.layer + 1, self.shapes
        if shapes[W][0] == shapes[W][1]:
            yield "weights not transposed", f"W{W + 1}", _back(above, W, is_turned=True)
            yield "weights left out", f"delta{W + 1}", above
        for other in range(len(shapes)):
            kind, name = "weights of another layer", f"W{other + 1}"
            if other != W and shapes[other] == shapes[W]:
                yield kind, f"{name}.T", _back(above, other)
            if other != W and shapes[other] == shapes[W][::-1]:
                yield kind, name, _back(above, other, is_turned=True)
        if len(self.above) > 1:
            upper, name = self.above[1].delta.scaled, f"delta{W + 1} without its derivative"
            yield "delta before its derivative", name, self._backed(_back(upper, W + 1))
            if shapes[W + 1][1] == shapes[W][1]:
                yield "delta of another layer", f"delta{W + 2}", self._backed(upper)
        yield "right delta below", "", self._backed(self.above[0].due_delta)
        kind, name = "sign of the weights lost", f"abs(W{W + 1}).T"
        yield kind, name, lambda at: above(at) @ np.abs(at.layers[W][0]).T

    def _layers_of_same_size(self) -> list[int]:
        """Other hidden layers with as many units."""
        sizes = [n_out for _, n_out in self.shapes[:-1]]
        return [k for k, size in enumerate(sizes) if k != self.layer and size == sizes[self.layer]]

    # The weights and the bias

    def _inputs(self) -> Iterator[Formula]:
        """What the weights' gradient may be made of beside the delta."""
        layer, shapes = self.layer, self.shapes
        n_in, n_out = shapes[layer]
        a = f"a{layer}" if layer else "X"
        yield Formula("", a, _inputs_of(layer))
        if layer and shapes[0][0] == n_in:
            yield Formula("examples for activations", "X", _inputs_of(0))
        if layer:
            apply, derivative = ACTIVATIONS[self.network.activations[layer - 1]]
            for kind, text, said in [
                ("before the activation", "z", ""),
                ("derivative for activations", derivative, "the derivative of the activation"),
                (f"1 - {a}", "1 - a", ""),
                (
                    "activation applied twice",
                    written(apply, a="a", z="a"),
                    f"the activation of {a}",
                ),
            ]:
                yield _of_units(kind, text, layer - 1, said)
        kind = "activations of another layer"
        for other in range(1, len(shapes)):
            if other != layer and shapes[other][0] == n_in:
                yield Formula(kind, f"a{other}", _inputs_of(other))
        if n_in == n_out and layer < len(shapes) - 1:
            yield Formula(kind, f"a{layer + 1}", _inputs_of(layer + 1))
        yield Formula("inputs left out", "ones", lambda at: np.ones_like(at.inputs[layer]))

    def _weight_step(self, delta: Values) -> Formula:
        W = [e.layers[self.layer][0] for e in self.examples]
        decay = self.network.decay
        inputs = list(self._inputs())
        due = _outer(inputs[0].values, delta)
        without = [dW - 2 * decay * w for dW, w in zip(self.dW, W, strict=True)]
        if self._fits(without, due):
            return Formula("", "", due)
        if not any(dW.any() for dW in self.dW):
            return Formula("zero", "0", due, 0.0)
        for own in (without, self.dW) if decay else (without,):
            for formula in self._weight_formulas(inputs, delta):
                factor = self._factor(own, formula.values)
                if factor is not None:
                    if own is self.dW and not formula.kind and factor == 1.0:
                        return dataclasses.replace(formula, kind="weight decay left out")
                    return dataclasses.replace(formula, factor=factor)
        columns = np.stack([_flat([due(e) for e in self.examples]), _flat(W)], axis=1)
        fitted = np.linalg.lstsq(columns, _flat(self.dW), rcond=None)[0]
        if _relative(columns @ fitted - _flat(self.dW), _flat(self.dW)) < self.tolerance:
            kind = "weight decay of another size" if decay else "weight decay in the gradient alone"
            text = f"{fitted[1]:.4g} * W{self.layer + 1}"
            return Formula(kind, text, due, rounded(float(fitted[0])))
        return Formula(UNKNOWN, "", due)

    def _weight_formulas(self, inputs: list[Formula], delta: Values) -> Iterator[Formula]:
        for each in inputs:
            yield Formula(each.kind, each.text, _outer(each.values, delta))
        a = inputs[0].values
        n_in, n_out = self.shapes[self.layer]
        if n_in == n_out:
            yield Formula("gradient transposed", f"dW{self.layer + 1}.T", _outer(delta, a))
        for other in self._other_deltas():
            yield Formula(other.kind, other.text, _outer(a, other.values))
        yield Formula("absolute values", "abs", lambda at: np.abs(a(at)).T @ np.abs(delta(at)))

    def _bias_step(self, delta: Values) -> Formula:
        if self.db[0].size == 0 or self._fits(self.db, delta):
            return Formula("", "", delta)
        if not any(db.any() for db in self.db):
            return Formula("zero", "0", delta, 0.0)
        for formula in (Formula("", "", delta), *self._bias_formulas(delta)):
            factor = self._factor(self.db, formula.values)
            if factor is not None:
                return dataclasses.replace(formula, factor=factor)
        return Formula(UNKNOWN, "", delta)

    def _bias_formulas(self, delta: Values) -> Iterator[Formula]:
        layer, d = self.layer, f"delta{self.layer + 1}"
        yield Formula(
            "summed over the units",
            f"{d}.sum()",
            lambda at: np.broadcast_to(delta(at).sum(axis=1, keepdims=True), delta(at).shape),
        )
        yield from self._other_deltas()
        yield Formula(
            "summed from the weights",
            f"dW{layer + 1}.sum(axis=0)",
            lambda at: delta(at) * at.inputs[layer].sum(axis=1, keepdims=True),
        )
        b = f"b{layer + 1}"
        yield Formula(
            "bias for its gradient",
            b,
            lambda at: np.broadcast_to(at.layers[layer][1], delta(at).shape),
        )
        yield Formula("times its bias", f"{d} * {b}", lambda at: delta(at) * at.layers[layer][1])
        if self.above:
            text = f"{d} * a{layer + 1}"
            yield Formula("times its activation", text, _times(delta, _inputs_of(layer + 1)))
            once_more = _times(delta, lambda at: at.derivative(layer))
            yield Formula("derivative once more", f"{d} * its derivative", once_more)

    def _other_deltas(self) -> Iterator[Formula]:
        """What may be taken for the layer's delta."""
        if not self.above:
            return
        above, text = self.above[0].delta.scaled, f"delta{self.layer + 1} without its derivative"
        yield Formula("delta before its derivative", text, self._backed(above))
        if self.shapes[self.layer + 1][1] == self.shapes[self.layer][1]:
            yield Formula("delta of another layer", f"delta{self.layer + 2}", above)

    # Fits

    def _fits(self, values: list[Array], formula: Values) -> bool:
        return _misfit(values, [formula(e) for e in self.examples]) < self.tolerance

    def _factor(self, values: list[Array], formula: Values) -> float | None:
        """What a formula must be multiplied with to give the values; None: it does not."""
        with np.errstate(all="ignore"):
            given = _flat([formula(e) for e in self.examples])
            wanted = _flat(values)
            if given.size != wanted.size or not np.isfinite(given).all() or not given.any():
                return None
            factor = float(given @ wanted / (given @ given))
        if _relative(wanted - factor * given, wanted) >= self.tolerance or not factor:
            return None
        return rounded(factor)


# Values that are made in loops, of what the loop has just then


def _back(delta: Values, layer: int, *, is_turned: bool = False) -> Values:
    if is_turned:
        return lambda at: delta(at) @ at.layers[layer][0]
    return lambda at: delta(at) @ at.layers[layer][0].T


def _inputs_of(layer: int) -> Values:
    return lambda at: at.inputs[layer]


def _times(some: Values, others: Values) -> Values:
    return lambda at: some(at) * others(at)


def _outer(inputs: Values, delta: Values) -> Values:
    return lambda at: inputs(at).T @ delta(at)


def _of_units(kind: str, text: str, layer: int, said: str = "") -> Formula:
    """A formula of the a and z of a hidden layer (0 is the first)."""
    said = said or written(text, a=f"a{layer + 1}", z=f"z{layer + 1}")
    return Formula(kind, said, lambda at: at.of_units(text, layer))


def _flat(values: Sequence[Array]) -> Array:
    return np.concatenate([np.ravel(v) for v in values])


def _misfit(values: Sequence[Array], given: Sequence[Array]) -> float:
    return _relative(_flat(values) - _flat(given), _flat(values))


def _relative(error: Array, values: Array) -> float:
    size = float(np.linalg.norm(values))
    return float(np.linalg.norm(error)) / size if size else float(error.any())


def _factors(network: KnownNetwork, layer: int) -> list[tuple[str, str]]:
    """What may stand where the derivative of the activation of a layer is due: kind and formula."""
    name = network.activations[layer]
    due = ACTIVATIONS[name][1]
    own_value, z_for_a = "derivative of the activation's own value", "input for activation"
    others = [
        ("derivative of another activation", text)
        for other, (_, derivative) in ACTIVATIONS.items()
        if other != name
        for text in (derivative, written(derivative, a=f"{other}(z)", z="z"))
    ]
    slopes = [
        ("derivative of another activation", f"where(z > 0, 1, {slope:g})")
        for slope in (0.02, 0.05, 0.25, 0.5)
    ]
    swapped = [("slopes swapped", f"where(z > 0, {slope:g}, 1)") for slope in (0.01, 0.1, 0.2, 0.3)]
    return [
        ("", due),
        ("no derivative", "1"),
        ("factor lost", "1 - a"),
        ("factor lost", "a"),
        ("sigmoid of the activation", "1 - sigmoid(a)"),
        (own_value, written(due, a=f"{name}(a)", z="a")),
        (own_value, "sigmoid(a) * (1 - sigmoid(a))"),
        (own_value, "1 - tanh(a)**2"),
        (z_for_a, "z * (1 - z)"),
        (z_for_a, "1 - z**2"),
        (z_for_a, "1 - z"),
        (z_for_a, "z"),
        *others,
        *slopes,
        ("mask reversed", "(z < 0)"),
        *swapped,
        ("derivative twice", f"({due})**2"),
        ("divided by the derivative", f"1 / ({due})"),
        ("square wrong", "(1 - a)**2"),
        ("square wrong", "a**2"),
        ("sign inside", "a * (1 + a)"),
        ("sign inside", "1 + a**2"),
        ("sign inside", "1 + a"),
        ("second derivative", "a * (1 - a) * (1 - 2 * a)"),
        ("second derivative", "a * (1 - a**2)"),
        ("activation once more", f"a * ({due})"),
        ("input once more", f"z * ({due})"),
        ("sign of the input", "sign(z)"),
    ]


def _output_formulas(network: KnownNetwork) -> Iterator[Formula]:
    """What may stand where the delta of the outputs is due."""
    output, cost = network.output, network.cost
    outputs = "z" if output == "linear" else "p"

    def formula(kind: str, text: str, said: str = "") -> Formula:
        said = said or re.sub(r"\bp\b", outputs, text)
        return Formula(kind, said, lambda at: value_of(text, z=at.z[-1], p=at.p, y=at.y))

    def delta_of(output: str, cost: str) -> Values:
        return lambda at: output_delta(
            output, cost, at.z[-1], value_of(OUTPUTS[output], z=at.z[-1]), at.y
        )

    once_more, swapped = "derivative of the outputs once more", "labels swapped"
    another = "outputs of another kind"
    yield Formula("", "", ForwardPass.output_delta)
    yield formula(
        "derivative of the outputs left out",
        f"{network.factor} * ({COSTS[cost][1]})",
        f"the derivative of {cost} by {outputs}",
    )
    yield formula("outputs minus labels alone", "p - y")
    yield formula("labels left out", "p")
    yield formula("outputs left out", "-y")
    yield formula(swapped, "p - (1 - y)")
    yield formula(swapped, "p - y[:, ::-1]")
    yield formula(swapped, "p - roll(y, 1, axis=1)")
    yield formula(swapped, "p - roll(y, -1, axis=1)")
    yield formula("labels added", "p + y")
    for factor in (
        "p * (1 - p)",
        "(1 - p**2)",
        "(1 - p)",
        "p",
        "(1 - sigmoid(p))",
        "sigmoid(p) * (1 - sigmoid(p))",
        "(z > 0)",
        "sigmoid(z) * (1 - sigmoid(z))",
        "(1 - tanh(z)**2)",
    ):
        yield formula(once_more, f"(p - y) * {factor}")
    if output != "linear":
        yield formula("before the outputs", "z - y")
    due = delta_of(output, cost)
    slope = formula("", "1 - p**2" if output == "tanh" else "p * (1 - p)")
    said = "the delta times the derivative of the outputs"
    yield Formula(once_more, said, _times(due, slope.values))
    if output == "softmax":
        yield formula(another, "sigmoid(z) - y")
        yield formula("softmax twice", "softmax(p) - y")
        yield formula("softmax over the batch", "softmax(z, 0) - y", "softmax over axis 0")
        yield formula("only the labelled output", "(p - y) * y")
        yield formula("only the other outputs", "(p - y) * (1 - y)")
        yield formula("exponentials not divided", "exp(z) - y")
    if output == "sigmoid":
        yield formula(another, "softmax(z) - y")
        yield formula(another, "tanh(z) - y")
        yield formula("activation applied twice", "sigmoid(p) - y")
    if output == "linear":
        yield formula(another, "sigmoid(z) - y")
        yield formula(another, "tanh(z) - y")
        yield formula(another, "softmax(z) - y")
    decisions = "(p == p.max(axis=1, keepdims=True))" if output == "softmax" else "(p > 0.5)"
    yield formula("decisions for outputs", f"{decisions} - y", "decisions - y")
    yield formula("squared difference", "(p - y)**2")
    yield formula("absolute difference", "abs(p - y)")
    yield formula("sign of the difference", "sign(p - y)")
    known = [
        ("softmax", "cross-entropy"),
        ("sigmoid", "binary cross-entropy"),
        ("linear", "squared error"),
        *((output, each) for each in COSTS),
    ]
    for ends, own in known:
        if (ends, own) != (output, cost):
            said = f"the delta of {ends} with {own}"
            yield Formula("gradient of another loss", said, delta_of(ends, own))
    yield formula("costs for their derivative", "-y * log(p)", "the loss itself")
