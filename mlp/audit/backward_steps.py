"""Which formula stands in each step of a backpropagation, from the gradients of single examples.

With one example, the gradient of a layer's bias is its delta, and the gradient of its weights is
its input times its delta. Each step is compared with what it takes from the program itself (the
delta of the layer above as it is there, right or wrong), so no mistake hides another.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mlp.audit.known_networks import (
    ACTIVATIONS,
    COSTS,
    OUTPUTS,
    Activation,
    Array,
    ForwardPass,
    Layers,
    logistic,
    output_delta,
    softmax,
)

Values = Callable[[ForwardPass], Array]  # (example, unit)
_Unitwise = Callable[[Array, Array], Array]  # of z and a
_Outputwise = Callable[[Array, Array, Array], Array]  # of the outputs' z, p and y


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


UNKNOWN = "unknown formula"
_COSTS = {UNKNOWN: 3.0}


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


@dataclass(frozen=True)
class Example:
    """One example, alone, at some weights.

    Attributes:
        at: its way through the network.
        gradient: what the program says.
    """

    at: ForwardPass
    gradient: Layers


def explain_steps(examples: Sequence[Example], *, tolerance: float) -> list[LayerSteps]:
    """The steps of each layer, first layer first.

    Args:
        examples: at least four, at different weights or of different inputs.
        tolerance: relative, of a formula's values.
    """
    n_layers = len(examples[0].gradient)
    steps: list[LayerSteps] = []
    for layer in reversed(range(n_layers)):
        above = steps[0] if steps else None
        upper = steps[1] if len(steps) > 1 else None
        steps.insert(0, _Layer(examples, layer, above, upper, tolerance).best())
    return steps


class _Layer:
    """What is known of one layer's gradients, and the formulas that fit."""

    def __init__(
        self,
        examples: Sequence[Example],
        layer: int,
        above: LayerSteps | None,
        upper: LayerSteps | None,
        tolerance: float,
    ) -> None:
        self.examples, self.layer, self.tolerance = examples, layer, tolerance
        self.above = _scaled(above.delta) if above else None
        self.upper = _scaled(upper.delta) if upper else None
        self.due_above = above.due_delta if above else None
        self.dW = [e.gradient[layer][0] for e in examples]
        self.db = [e.gradient[layer][1] for e in examples]

    def best(self) -> LayerSteps:
        found = []
        for delta in self._deltas():
            step = self._delta_step(delta)
            known = dict(zip((id(e.at) for e in self.examples), delta, strict=True))

            def measured(at: ForwardPass, known: dict[int, Array] = known) -> Array:
                return known[id(at)][None, :]

            own = measured if step.kind == UNKNOWN else _scaled(step)
            if step.kind == UNKNOWN:
                step = dataclasses.replace(step, values=measured)
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
            values = [inputs.values(e.at)[0] for e in self.examples]
            projected = [v @ dW / max(v @ v, 1e-300) for v, dW in zip(values, self.dW, strict=True)]
            rebuilt = [np.outer(v, d) for v, d in zip(values, projected, strict=True)]
            if any(d.any() for d in projected) and _misfit(self.dW, rebuilt) < self.tolerance:
                yield projected
        yield [self._due()(e.at)[0] for e in self.examples]

    # The delta

    def _due(self) -> Values:
        if self.above is None:
            return ForwardPass.output_delta
        back = self._backed(self.above)
        return lambda at: back(at) * at.derivative(self.layer)

    def _delta_step(self, delta: list[Array]) -> Formula:
        due = self._due()
        if self._fits(delta, due):
            return Formula("", "", due)
        found = []
        for formula in self._output_formulas() if self.above is None else self._hidden_formulas():
            factor = self._factor(delta, formula.values)
            if factor is not None:
                if factor == 1.0 or not formula.kind:
                    return dataclasses.replace(formula, factor=factor)
                found.append(dataclasses.replace(formula, factor=factor))
        nice = [formula for formula in found if abs(formula.factor) in (0.0, 1.0, 2.0, 0.5)]
        return (nice or found or [Formula(UNKNOWN, "", due)])[0]

    def _output_formulas(self) -> Iterator[Formula]:
        yield Formula("", "", self._due())
        network = self.examples[0].at.network
        yield from _output_bases(network.output, network.cost, network.factor)

    def _hidden_formulas(self) -> Iterator[Formula]:
        assert self.above is not None
        layer, back_here = self.layer, self._backed(self.above)
        yield Formula("", "", self._due())
        sources = [("", "", back_here), *self._other_ways_back()]
        name = self.examples[0].at.network.activations[layer]
        for kind, text, back in sources:
            for factor in _factors(name, layer, self._same_size(layer)):
                if kind and factor.kind:
                    continue  # two mistakes in one step: rather unknown than guessed
                yield Formula(kind or factor.kind, text or factor.text, _times(back, factor.values))
        text = f"(delta{layer + 1} > 0)"
        yield Formula("mask of the delta", text, lambda at: np.maximum(back_here(at), 0))
        for kind, text, back in sources[1:]:
            for factor in _factors(name, layer, []):
                if factor.kind == "no derivative":
                    yield Formula(f"{kind}, no derivative", text, _times(back, factor.values))

    def _backed(self, delta: Values) -> Values:
        return _back(delta, self.layer + 1)

    def _other_ways_back(self) -> Iterator[tuple[str, str, Values]]:
        above, layer = self.above, self.layer
        assert above is not None
        shapes = [W.shape for W in self._all_weights()]
        W = layer + 1
        if shapes[W][0] == shapes[W][1]:
            yield "weights not transposed", f"W{W + 1}", lambda at: above(at) @ at.layers[W][0]
            yield "weights left out", f"delta{W + 1}", above
        for other in range(len(shapes)):
            kind, name = "weights of another layer", f"W{other + 1}"
            if other != W and shapes[other] == shapes[W]:
                yield kind, f"{name}.T", _back(above, other)
            if other != W and shapes[other] == shapes[W][::-1]:
                yield kind, name, _back(above, other, is_turned=True)
        if self.upper is not None:
            upper, name = self.upper, f"delta{W + 1} without its derivative"
            yield (
                "delta before its derivative",
                name,
                lambda at: upper(at) @ at.layers[W + 1][0].T @ at.layers[W][0].T,
            )
            if shapes[W + 1][1] == shapes[W][1]:
                yield "delta of another layer", f"delta{W + 2}", self._backed(upper)
        if self.due_above is not None:
            yield "right delta below", "", self._backed(self.due_above)
        kind, name = "sign of the weights lost", f"abs(W{W + 1}).T"
        yield kind, name, lambda at: above(at) @ np.abs(at.layers[W][0]).T

    def _all_weights(self) -> list[Array]:
        return [W for W, _ in self.examples[0].at.layers]

    def _same_size(self, layer: int) -> list[int]:
        """Other hidden layers with as many units."""
        sizes = [W.shape[1] for W, _ in self.examples[0].at.layers[:-1]]
        return [
            other for other, size in enumerate(sizes) if other != layer and size == sizes[layer]
        ]

    # The weights and the bias

    def _inputs(self) -> Iterator[Formula]:
        """What the weights' gradient may be made of beside the delta."""
        layer = self.layer
        shapes = self._all_weights()
        n_in = shapes[layer].shape[0]
        a = f"a{layer}" if layer else "X"
        yield Formula("", a, lambda at: at.inputs[layer])
        if layer and shapes[0].shape[0] == n_in:
            yield Formula("examples for activations", "X", lambda at: at.inputs[0])
        if layer:
            yield Formula("before the activation", f"z{layer}", lambda at: at.z[layer - 1])
            yield Formula(
                "derivative for activations",
                "the derivative of the activation",
                lambda at: at.derivative(layer - 1),
            )
            yield Formula(f"1 - {a}", f"1 - {a}", lambda at: 1 - at.inputs[layer])
            yield Formula(
                "activation applied twice",
                f"the activation of {a}",
                lambda at: ACTIVATIONS[at.network.activations[layer - 1]].apply(at.inputs[layer]),
            )
        for other, W in enumerate(shapes):
            if other and other != layer and W.shape[0] == n_in:
                kind = "activations of another layer"
                yield Formula(kind, f"a{other}", _inputs_of(other))
        if shapes[layer].shape == shapes[layer].shape[::-1] and layer < len(shapes) - 1:
            yield Formula("activations of another layer", f"a{layer + 1}", _inputs_of(layer + 1))
        yield Formula("inputs left out", "ones", lambda at: np.ones_like(at.inputs[layer]))

    def _weight_step(self, delta: Values) -> Formula:
        W = [e.at.layers[self.layer][0] for e in self.examples]
        decay = self.examples[0].at.network.decay
        inputs = list(self._inputs())
        a = inputs[0]

        def due(at: ForwardPass) -> Array:
            return a.values(at).T @ delta(at)

        without = [dW - 2 * decay * w for dW, w in zip(self.dW, W, strict=True)]
        if self._fits(without, due):
            return Formula("", "", due)
        if not any(dW.any() for dW in self.dW):
            return Formula("zero", "0", lambda at: 0 * due(at), 0.0)
        for own in (without, self.dW) if decay else (without,):
            lost = decay and own is self.dW
            for formula in self._weight_formulas(inputs, delta):
                factor = self._factor(own, formula.values)
                if factor is not None:
                    if lost and not formula.kind and factor == 1.0:
                        return dataclasses.replace(formula, kind="weight decay left out")
                    return dataclasses.replace(formula, factor=factor)
        columns = np.stack([_flat([due(e.at) for e in self.examples]), _flat(W)], axis=1)
        fitted = np.linalg.lstsq(columns, _flat(self.dW), rcond=None)[0]
        if _relative(columns @ fitted - _flat(self.dW), _flat(self.dW)) < self.tolerance:
            kind = "weight decay of another size" if decay else "weight decay in the gradient alone"
            text = f"{fitted[1]:.4g} * W{self.layer + 1}"
            return Formula(kind, text, due, _nice(float(fitted[0])))
        return Formula(UNKNOWN, "", due)

    def _weight_formulas(self, inputs: list[Formula], delta: Values) -> Iterator[Formula]:
        def outer(a: Values, d: Values) -> Values:
            return lambda at: a(at).T @ d(at)

        a = inputs[0].values
        yield Formula("", "", outer(a, delta))
        for each in inputs[1:]:
            yield Formula(each.kind, each.text, outer(each.values, delta))
        shape = self.dW[0].shape
        if shape[0] == shape[1]:
            yield Formula("gradient transposed", f"dW{self.layer + 1}.T", outer(delta, a))
        for kind, text, other in self._other_deltas():
            yield Formula(kind, text, outer(a, other))
        yield Formula("absolute values", "abs", lambda at: np.abs(a(at)).T @ np.abs(delta(at)))

    def _bias_step(self, delta: Values) -> Formula:
        if self.db[0].size == 0 or self._fits(self.db, delta):
            return Formula("", "", delta)
        if not any(db.any() for db in self.db):
            return Formula("zero", "0", lambda at: 0 * delta(at), 0.0)
        for formula in (Formula("", "", delta), *self._bias_formulas(delta)):
            factor = self._factor(self.db, formula.values)
            if factor is not None:
                return dataclasses.replace(formula, factor=factor)
        return Formula(UNKNOWN, "", delta)

    def _bias_formulas(self, delta: Values) -> Iterator[Formula]:
        layer = self.layer
        yield Formula(
            "summed over the units",
            f"delta{layer + 1}.sum()",
            lambda at: np.broadcast_to(delta(at).sum(axis=1, keepdims=True), delta(at).shape),
        )
        for kind, text, other in self._other_deltas():
            yield Formula(kind, text, other)
        yield Formula(
            "summed from the weights",
            f"dW{layer + 1}.sum(axis=0)",
            lambda at: delta(at) * at.inputs[layer].sum(axis=1, keepdims=True),
        )
        yield Formula(
            "bias for its gradient",
            f"b{layer + 1}",
            lambda at: np.broadcast_to(at.layers[layer][1], delta(at).shape),
        )
        yield Formula(
            "times its bias",
            f"delta{layer + 1} * b{layer + 1}",
            lambda at: delta(at) * at.layers[layer][1],
        )
        if layer < len(self.examples[0].gradient) - 1:
            yield Formula(
                "times its activation",
                f"delta{layer + 1} * a{layer + 1}",
                lambda at: delta(at) * at.inputs[layer + 1],
            )
            yield Formula(
                "derivative once more",
                f"delta{layer + 1} * its derivative",
                lambda at: delta(at) * at.derivative(layer),
            )

    def _other_deltas(self) -> Iterator[tuple[str, str, Values]]:
        """What may be taken for the layer's delta."""
        if self.above is None:
            return
        yield (
            "delta before its derivative",
            f"delta{self.layer + 1} without its derivative",
            self._backed(self.above),
        )
        shapes = self._all_weights()
        if shapes[self.layer + 1].shape[1] == shapes[self.layer].shape[1]:
            yield "delta of another layer", f"delta{self.layer + 2}", self.above

    # Fits

    def _fits(self, values: list[Array], formula: Values) -> bool:
        given = [formula(e.at) for e in self.examples]
        return _misfit(values, given) < self.tolerance

    def _factor(self, values: list[Array], formula: Values) -> float | None:
        """What a formula must be multiplied with to give the values; None: it does not."""
        with np.errstate(all="ignore"):
            given = _flat([formula(e.at) for e in self.examples])
            wanted = _flat(values)
            if given.size != wanted.size or not np.isfinite(given).all() or not given.any():
                return None
            factor = float(given @ wanted / (given @ given))
        if _relative(wanted - factor * given, wanted) >= self.tolerance or not factor:
            return None
        return _nice(factor)


# Formulas that are made in loops, of what the loop has just then


def _back(delta: Values, layer: int, *, is_turned: bool = False) -> Values:
    if is_turned:
        return lambda at: delta(at) @ at.layers[layer][0]
    return lambda at: delta(at) @ at.layers[layer][0].T


def _inputs_of(layer: int) -> Values:
    return lambda at: at.inputs[layer]


def _of_units(values: _Unitwise, layer: int) -> Values:
    return lambda at: values(at.z[layer], at.inputs[layer + 1])


def _of_outputs(values: _Outputwise) -> Values:
    return lambda at: values(at.z[-1], at.p, at.y)


def _of_z(activation: Activation) -> _Unitwise:
    return lambda z, _: activation.derivative(z, activation.apply(z))


def _slopes(above: float, below: float) -> _Unitwise:
    return lambda z, _: np.where(z > 0, above, below)


def _delta_of_loss(output: str, cost: str) -> _Outputwise:
    return lambda z, _, y: output_delta(output, cost, z, OUTPUTS[output](z), y)


def _scaled(step: Formula) -> Values:
    return lambda at: step.factor * step.values(at)


def _times(back: Values, factor: Values) -> Values:
    return lambda at: back(at) * factor(at)


def _flat(values: Sequence[Array]) -> Array:
    return np.concatenate([np.ravel(v) for v in values])


def _misfit(values: Sequence[Array], given: Sequence[Array]) -> float:
    return _relative(_flat(values) - _flat(given), _flat(values))


def _relative(error: Array, values: Array) -> float:
    size = float(np.linalg.norm(values))
    return float(np.linalg.norm(error)) / size if size else float(error.any())


def _nice(factor: float) -> float:
    """Without rounding error, where it is a number that one would type."""
    for nice in (1.0, -1.0, 2.0, -2.0, 0.5, -0.5):
        if abs(factor - nice) < 1e-4:
            return nice
    return factor


def _factors(name: str, layer: int, others: Sequence[int]) -> Iterator[Formula]:
    """What may stand where the derivative of the activation of a layer is due."""
    due, called = ACTIVATIONS[name], name.replace(" ", "_")
    own_value, z_for_a = "derivative of the activation's own value", "input for activation"
    another = "derivative of another activation"
    rows: list[tuple[str, str, _Unitwise]] = [
        ("", due.text, due.derivative),
        ("no derivative", "1", lambda z, _: np.ones_like(z)),
        ("factor lost", "1 - {a}", lambda _, a: 1 - a),
        ("factor lost", "{a}", lambda _, a: a),
        ("sigmoid of the activation", "1 - sigmoid({a})", lambda _, a: 1 - logistic(a)),
        (
            own_value,
            due.text.format(z="{a}", a=f"{called}({{a}})"),
            lambda _, a: due.derivative(a, due.apply(a)),
        ),
        (
            own_value,
            "sigmoid({a}) * (1 - sigmoid({a}))",
            lambda _, a: logistic(a) * (1 - logistic(a)),
        ),
        (own_value, "1 - tanh({a})**2", lambda _, a: 1 - np.tanh(a) ** 2),
        (z_for_a, "{z} * (1 - {z})", lambda z, _: z * (1 - z)),
        (z_for_a, "1 - {z}**2", lambda z, _: 1 - z**2),
        (z_for_a, "1 - {z}", lambda z, _: 1 - z),
        (z_for_a, "{z}", lambda z, _: z),
    ]
    for other, own in ACTIVATIONS.items():
        if other != name:
            text = own.text.format(z="{z}", a=f"{other}({{z}})")
            rows += [(another, own.text, own.derivative), (another, text, _of_z(own))]
    for slope in (0.02, 0.05, 0.25, 0.5):
        rows += [(another, f"where({{z}} > 0, 1, {slope:g})", _slopes(1.0, slope))]
    rows += [("mask reversed", "({z} < 0)", lambda z, _: (z <= 0).astype(float))]
    for slope in (0.01, 0.1, 0.2, 0.3):
        rows += [("slopes swapped", f"where({{z}} > 0, {slope:g}, 1)", _slopes(slope, 1.0))]
    d = due.derivative
    rows += [
        ("derivative twice", f"({due.text})**2", lambda z, a: d(z, a) ** 2),
        ("divided by the derivative", f"1 / ({due.text})", lambda z, a: 1 / d(z, a)),
        ("square wrong", "(1 - {a})**2", lambda _, a: (1 - a) ** 2),
        ("square wrong", "1 - {a}", lambda _, a: 1 - a),
        ("square wrong", "{a}**2", lambda _, a: a**2),
        ("sign inside", "{a} * (1 + {a})", lambda _, a: a * (1 + a)),
        ("sign inside", "1 + {a}**2", lambda _, a: 1 + a**2),
        ("sign inside", "1 + {a}", lambda _, a: 1 + a),
        (
            "second derivative",
            "{a} * (1 - {a}) * (1 - 2 * {a})",
            lambda _, a: a * (1 - a) * (1 - 2 * a),
        ),
        ("second derivative", "{a} * (1 - {a}**2)", lambda _, a: a * (1 - a**2)),
        ("activation once more", f"{{a}} * ({due.text})", lambda z, a: a * d(z, a)),
        ("input once more", f"{{z}} * ({due.text})", lambda z, a: z * d(z, a)),
        ("sign of the input", "sign({z})", lambda z, _: np.sign(z)),
    ]
    for kind, text, values in rows:
        said = text.format(a=f"a{layer + 1}", z=f"z{layer + 1}")
        yield Formula(kind, said, _of_units(values, layer))
    for k in others:
        said = due.text.format(a=f"a{k + 1}", z=f"z{k + 1}")
        yield Formula("derivative at another layer", said, _of_units(due.derivative, k))


def _output_bases(output: str, cost: str, size: float) -> Iterator[Formula]:
    """What may stand where the delta of the outputs is due."""
    q = "z" if output == "linear" else "p"
    once_more, swapped = "derivative of the outputs once more", "labels swapped"
    another = "outputs of another kind"
    rows: list[tuple[str, str, _Outputwise]] = [
        (
            "derivative of the outputs left out",
            f"the derivative of {cost} by {q}",
            lambda z, p, y: size * output_delta("linear", cost, z, p, y),
        ),
        ("outputs minus labels alone", f"{q} - y", lambda _, p, y: p - y),
        ("labels left out", q, lambda _, p, _y: p),
        ("outputs left out", "-y", lambda _, _p, y: -y),
        (swapped, f"{q} - (1 - y)", lambda _, p, y: p - (1 - y)),
        (swapped, f"{q} - y[:, ::-1]", lambda _, p, y: p - y[:, ::-1]),
        (swapped, f"{q} - y shifted", lambda _, p, y: p - np.roll(y, 1, axis=1)),
        (swapped, f"{q} - y shifted", lambda _, p, y: p - np.roll(y, -1, axis=1)),
        ("labels added", f"{q} + y", lambda _, p, y: p + y),
    ]
    factors: list[tuple[str, _Unitwise]] = [
        ("p * (1 - p)", lambda _, p: p * (1 - p)),
        ("1 - p**2", lambda _, p: 1 - p**2),
        ("(1 - p)", lambda _, p: 1 - p),
        ("p", lambda _, p: p),
        ("(1 - sigmoid(p))", lambda _, p: 1 - logistic(p)),
        ("sigmoid(p) * (1 - sigmoid(p))", lambda _, p: logistic(p) * (1 - logistic(p))),
        ("(z > 0)", lambda z, _: (z > 0).astype(float)),
        ("sigmoid(z) * (1 - sigmoid(z))", lambda z, _: logistic(z) * (1 - logistic(z))),
        ("(1 - tanh(z)**2)", lambda z, _: 1 - np.tanh(z) ** 2),
    ]
    for text, factor in factors:
        rows += [(once_more, f"({q} - y) * {text}", _difference_times(factor))]
    if output != "linear":
        rows += [("before the outputs", "z - y", lambda z, _, y: z - y)]
    due = _delta_of_loss(output, cost)
    rows += [
        (
            once_more,
            "the delta times the derivative of the outputs",
            lambda z, p, y: due(z, p, y) * (1 - p**2 if output == "tanh" else p * (1 - p)),
        )
    ]
    if output == "softmax":
        over_batch = OUTPUTS["softmax over the batch"]
        rows += [
            (another, "sigmoid(z) - y", lambda z, _, y: logistic(z) - y),
            ("softmax twice", "softmax(p) - y", lambda _, p, y: softmax(p) - y),
            ("softmax over the batch", "softmax over axis 0", lambda z, _, y: over_batch(z) - y),
            ("only the labelled output", "(p - y) * y", lambda _, p, y: (p - y) * y),
            ("only the other outputs", "(p - y) * (1 - y)", lambda _, p, y: (p - y) * (1 - y)),
            ("exponentials not divided", "exp(z) - y", lambda z, _, y: np.exp(z) - y),
        ]
    if output == "sigmoid":
        rows += [
            (another, "softmax(z) - y", lambda z, _, y: softmax(z) - y),
            (another, "tanh(z) - y", lambda z, _, y: np.tanh(z) - y),
            ("activation applied twice", "sigmoid(p) - y", lambda _, p, y: logistic(p) - y),
        ]
    if output == "linear":
        rows += [
            (another, "sigmoid(z) - y", lambda z, _, y: logistic(z) - y),
            (another, "tanh(z) - y", lambda z, _, y: np.tanh(z) - y),
            (another, "softmax(z) - y", lambda z, _, y: softmax(z) - y),
        ]
    rows += [
        ("decisions for outputs", "decisions - y", lambda _, p, y: _decided(p, output) - y),
        ("squared difference", f"({q} - y)**2", lambda _, p, y: (p - y) ** 2),
        ("absolute difference", f"abs({q} - y)", lambda _, p, y: np.abs(p - y)),
        ("sign of the difference", f"sign({q} - y)", lambda _, p, y: np.sign(p - y)),
    ]
    known = [
        ("softmax", "cross-entropy"),
        ("sigmoid", "binary cross-entropy"),
        ("linear", "squared error"),
        *((output, each) for each in COSTS),
    ]
    for ends, own in known:
        if (ends, own) != (output, cost):
            said = f"the delta of {ends} with {own}"
            rows += [("gradient of another loss", said, _delta_of_loss(ends, own))]
    rows += [("costs for their derivative", "the loss itself", lambda _, p, y: -y * np.log(p))]
    for kind, text, values in rows:
        yield Formula(kind, text, _of_outputs(values))


def _difference_times(factor: _Unitwise) -> _Outputwise:
    return lambda z, p, y: (p - y) * factor(z, p)


def _decided(p: Array, output: str) -> Array:
    if output == "softmax":
        return np.asarray(np.eye(p.shape[1])[p.argmax(axis=1)])
    return (p > 0.5).astype(np.float64)
