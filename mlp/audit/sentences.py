"""What is wrong with a gradient, in the words of the code it comes from."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlp.audit.backward_steps import UNKNOWN, Formula, LayerSteps, Values
from mlp.audit.known_networks import ACTIVATIONS, ForwardPass, KnownNetwork, written
from mlp.audit.parameters import Arrangement, ShapeError

BatchRatios = tuple[str, dict[int, list[tuple[float, float]]]]
"""What mixes a batch's examples; batch size -> what each array's gradient is of the due one."""


@dataclass(frozen=True)
class Flaw:
    """One thing that is wrong with a gradient.

    Attributes:
        kind: of mistake, in a few words.
        layers: where, 1 is the first; empty: in all.
        sentence: what stands there and what is due.
        meaning: what it does to training.
        remedy: what to write.
        size: by which share the gradient is wrong through it.
        lines: of the source, with their text, where it shows.
    """

    kind: str
    layers: tuple[int, ...]
    sentence: str
    meaning: str
    remedy: str
    size: float
    lines: tuple[tuple[int, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.sentence}. {self.meaning}. {self.remedy}."


@dataclass(frozen=True)
class Names:
    """How the code calls what it has.

    Attributes:
        arrangement: of its weights and biases, with their names.
        function: that computes the gradient.
        find: (what, layer) -> line and its text, or None; what is delta, weights, bias or update.
        n_examples: of the program's own data, if known.
        rate: its learning rate, if known.
        said: by which functions the gradient is had, one line.
        activations: `a1`, ... -> what the code calls it, where that is known.
    """

    arrangement: Arrangement
    function: str = "gradient"
    find: Callable[[str, int], tuple[int, str] | None] = field(default=lambda _what, _layer: None)
    n_examples: int | None = None
    rate: float | None = None
    said: str = ""
    activations: Mapping[str, str] = field(default_factory=dict)

    def of(self, layers: Sequence[int], *, bias: bool = False) -> str:
        """The weights or biases of some layers (0 is the first)."""
        return _listed([self.arrangement.name(layer, bias=bias) for layer in layers])

    def flaw(
        self,
        kind: str,
        layers: Sequence[int],
        what: str,
        size: float,
        texts: tuple[str, str, str],
    ) -> Flaw:
        """A flaw of some layers, all if none is named, with the lines that `find` knows.

        Args:
            texts: its sentence, meaning and remedy.
        """
        found = [self.find(what, layer) for layer in layers or [-1]]
        lines = tuple(sorted({line for line in found if line}))
        sentence, meaning, remedy = (
            re.sub(r"\ba\d+\b", lambda name: self.activations.get(name[0], name[0]), text)
            for text in texts
        )
        return Flaw(kind, tuple(k + 1 for k in layers), sentence, meaning, remedy, size, lines)


def accumulation_flaw(names: Names) -> Flaw:
    """A gradient that depends on the calls before."""
    return Flaw(
        "accumulates",
        (),
        f"{names.function} adds to what it gave before: the second call with the same arguments"
        " gives twice the gradient, the third three times",
        "Each step repeats all steps before it, as with a momentum of 1: the loss swings",
        "Set the gradients to zero at the start of each call",
        10.0,
    )


def change_flaw(argument: str, names: Names) -> Flaw:
    """A gradient that changes what it is given."""
    return Flaw(
        f"changes {argument}",
        (),
        f"{names.function} changes the {argument} it is given",
        "The loss after it is not that of the weights before it",
        f"Work on a copy: {argument} = {argument}.copy()",
        5.0,
    )


def shape_flaw(error: ShapeError, names: Names) -> Flaw:
    """A part of a gradient that has another shape than its parameter."""
    is_bias = error.path in names.arrangement.biases
    paths = names.arrangement.biases if is_bias else names.arrangement.weights
    layer = paths.index(error.path)
    name = names.of([layer], bias=is_bias)
    is_turned = error.shape == error.due[::-1]
    texts = (
        f"the gradient of {name} has the shape {error.shape}, but {name} has {error.due}",
        "Where NumPy stretches one to the other, every entry gets a number that is not its own",
        "Transpose it" if is_turned else "Sum over the examples, and over nothing else",
    )
    return names.flaw("shape", [layer], _what(is_bias), 1000.0, texts)


def single_flaw(
    layer: int, is_bias: bool, error: float, factor: float | None, names: Names
) -> Flaw:
    """An array whose gradient is wrong by a formula that is none of those known."""
    name = names.of([layer], bias=is_bias)
    if factor is not None and abs(factor) < 1e-9:
        return _zero(names, [layer], is_bias=is_bias)
    if factor is not None:
        kind, size, number = "factor", abs(factor - 1), _number(factor)
        said = f"is {number} times what the loss gives by differences"
        meaning = _meaning_of_factor(factor)
        remedy = f"Look for a factor of {number} in {names.function}"
    elif error >= 1e9:
        kind, size, said = "not finite", error, "is not finite"
        meaning = "One step makes all weights undefined"
        remedy = (
            f"Look in {names.function} for a division by zero, or a logarithm or exponential of it"
        )
    else:
        kind, size = UNKNOWN, error
        said = (
            f"is off by {_share(error)} from differences of the loss, by a formula that is none of"
            " those known"
        )
        meaning = "Training does not follow the loss"
        remedy = f"Compare {names.function} with the derivation of that layer, line by line"
    sentence = f"the gradient of {name} {said}"
    what = _what(is_bias)
    return names.flaw(kind, [layer], what, size, (sentence, meaning, remedy))


def step_flaws(
    steps: Sequence[LayerSteps],
    batch: BatchRatios | None,
    examples: Sequence[ForwardPass],
    names: Names,
    network: KnownNetwork,
) -> list[Flaw]:
    """All that is not as it is due, a flaw a kind.

    Args:
        examples: on their way through the network that the gradient takes.
        network: that of the loss.
    """
    flaws: list[Flaw] = []
    own = examples[0].network
    if own != network:
        said = "no bias"
        if own.is_biased:
            activations = ", ".join(sorted(set(network.activations)))
            said = f"{own.activations[0]} in place of {activations}"
        texts = (
            f"{names.function} computes another network than the loss: {said}",
            "It is the gradient of another function",
            "Let both take the activations from one forward pass",
        )
        flaws.append(names.flaw("another forward pass", [], "forward", 2.0, texts))
    if not steps[-1].delta.is_due:
        flaws.append(_output_flaw(steps[-1], examples, names))
    flaws += _hidden_flaws(steps[:-1], examples, names)
    flaws += _array_flaws(steps, examples, names)
    flaws += _batch_flaws(batch, network, names, has_flaws=bool(flaws))
    return flaws


# Deltas


def _output_flaw(steps: LayerSteps, examples: Sequence[ForwardPass], names: Names) -> Flaw:
    step, network = steps.delta, examples[0].network
    due = _due_output(network)
    size, angle = _off(step, steps.due_delta, examples)
    number = _number(step.factor)
    if not step.kind:
        kind = _factor_kind(step.factor)
        sentence = f"all of the gradient is {number} times that of the loss"
        remedy = f"Take the factor {number} out of {names.function}, or put it into the loss"
        if kind == "sign":
            sentence = "all of the gradient has the wrong sign"
            remedy = f"Write {due} for the delta of the outputs"
        layers, meaning = [], _meaning_of_factor(step.factor)
    else:
        kind, layers = step.kind, [len(network.activations)]
        said = step.text if step.factor == 1.0 else f"{number} times {step.text}"
        if kind == UNKNOWN:
            said = f"off by {_share(size)}, by a formula that is none of those known"
        sentence = f"the delta of the outputs is {said}; {due} is due"
        meaning = (
            f"Every layer learns from a delta that points {angle:.0f} degrees away from the right"
            " one"
        )
        remedy = f"Write {due}"
    return names.flaw(kind, layers, "delta", size, (sentence, meaning, remedy))


def _due_output(network: KnownNetwork) -> str:
    """The delta of the outputs, as one would write it."""
    simple = {
        ("softmax", "cross-entropy"): "p - y",
        ("sigmoid", "binary cross-entropy"): "p - y",
        ("linear", "squared error"): "2 * (z - y)",
        ("sigmoid", "squared error"): "2 * (p - y) * p * (1 - p)",
        ("tanh", "squared error"): "2 * (p - y) * (1 - p**2)",
    }.get((network.output, network.cost))
    if simple is None:
        return f"the delta of {network.output} with {network.cost}"
    if network.factor == 0.5:
        return simple.replace("2 * ", "")
    return simple if network.factor == 1.0 else f"{network.factor:g} * ({simple})"


def _hidden_flaws(
    steps: Sequence[LayerSteps], examples: Sequence[ForwardPass], names: Names
) -> Iterator[Flaw]:
    activations = examples[0].network.activations
    groups: dict[tuple[str, str, float], list[int]] = {}
    for layer, each in enumerate(steps):
        step = each.delta
        if not step.is_due and step.kind != "right delta below":
            shape = "" if "another layer" in step.kind else _shape_of(step.text, layer)
            groups.setdefault((step.kind, shape, round(step.factor, 4)), []).append(layer)
    for (kind, _, factor), layers in groups.items():
        text = _common([steps[layer].delta.text for layer in layers], layers)
        dues = [
            written(ACTIVATIONS[activations[k]][1], a=f"a{k + 1}", z=f"z{k + 1}") for k in layers
        ]
        size, angle = max(_off(steps[k].delta, steps[k].due_delta, examples) for k in layers)
        sentence, remedy = _hidden_sentence(
            kind, factor, layers, text, _common(dues, layers), names
        )
        meaning = _meaning_of_factor(factor)
        if kind:
            meaning = (
                f"{_named(layers)} {_verb(layers, 'learns', 'learn')} from a delta that points"
                f" {angle:.0f} degrees away from the right one"
            )
        texts = (
            f"the delta of {_named(layers)} {sentence}",
            meaning,
            remedy,
        )
        yield names.flaw(kind or "factor", layers, "delta", size, texts)


def _shape_of(text: str, layer: int) -> str:
    """The text with its layers counted from its own, so that two layers' texts are the same."""
    return re.sub(r"(?<=[azWb])\d+|(?<=delta)\d+", lambda n: f"<{int(n[0]) - layer}>", text)


def _common(texts: Sequence[str], layers: Sequence[int]) -> str:
    """One text for all layers: a1 * (1 - a1) and a2 * (1 - a2) are a * (1 - a)."""
    if len(set(texts)) == 1:
        return texts[0]
    bare = {
        _shape_of(text, layer).replace("<1>", "") for text, layer in zip(texts, layers, strict=True)
    }
    return bare.pop() if len(bare) == 1 and "<" not in "".join(bare) else _listed(texts)


def _off(step: Formula, due: Values, examples: Sequence[ForwardPass]) -> tuple[float, float]:
    """Relative size of what is wrong, and the angle in degrees."""
    own = np.concatenate([step.scaled(at).ravel() for at in examples])
    right = np.concatenate([due(at).ravel() for at in examples])
    sizes = float(np.linalg.norm(own)), float(np.linalg.norm(right))
    if not all(sizes):
        return 1.0, 90.0
    cosine = float(np.clip(own @ right / (sizes[0] * sizes[1]), -1, 1))
    return float(np.linalg.norm(own - right)) / sizes[1], math.degrees(math.acos(cosine))


_WAYS_BACK = {
    "weights not transposed": "goes back through",
    "weights left out": "goes back without weights, from",
    "weights of another layer": "goes back through",
    "sign of the weights lost": "goes back through",
    "delta before its derivative": "comes from",
    "delta of another layer": "comes from",
}


def _hidden_sentence(
    kind: str, factor: float, layers: Sequence[int], text: str, due: str, names: Names
) -> tuple[str, str]:
    """What a hidden layer's delta does, and the remedy."""
    number = _number(factor)
    times = "" if factor == 1.0 else f", times {number}"
    if not kind:
        return f"is {number} times what is due", f"Take the factor {number} out"
    if kind == UNKNOWN:
        return (
            f"comes from the delta above by a formula that is none of those known; {due}"
            f" times the delta above through the transposed weights is due",
            f"Derive {_named(layers)} again, with {due} for the derivative",
        )
    if kind == "no derivative":
        said = f"lacks the derivative of the activation, {due}{times}"
        return said, f"Multiply it with {due}"
    base = kind.removesuffix(", no derivative")
    if base in _WAYS_BACK:
        if base.startswith("delta"):
            way = _listed([f"delta{layer + 2}" for layer in layers])
        else:
            way = _listed([f"{names.of([layer + 1])}.T" for layer in layers])
        lacks = f", and lacks the derivative {due}" if base != kind else ""
        remedy = f"Write {way}" + (f" and multiply with {due}" if lacks else "")
        return f"{_WAYS_BACK[base]} {text}{times}{lacks}; {way} is due", remedy
    return f"has the factor {text}{times}; {due} is due", f"Write {due}"


# Arrays


def _array_flaws(
    steps: Sequence[LayerSteps], examples: Sequence[ForwardPass], names: Names
) -> Iterator[Flaw]:
    for is_bias in (False, True):
        groups: dict[tuple[str, float], list[int]] = {}
        for layer, each in enumerate(steps):
            step = each.bias if is_bias else each.weights
            if not step.is_due:
                groups.setdefault((step.kind, round(step.factor, 4)), []).append(layer)
        for (kind, factor), layers in groups.items():
            if kind == "zero":
                yield _zero(names, layers, is_bias=is_bias)
                continue
            chosen = [steps[layer].bias if is_bias else steps[layer].weights for layer in layers]
            text = _listed([step.text for step in chosen])
            size = max(
                _array_off(steps[layer].delta, layer, examples, is_bias=is_bias) for layer in layers
            )
            yield _array_flaw(kind, factor, layers, text, size, names, is_bias=is_bias)


def _array_off(
    delta: Formula, layer: int, examples: Sequence[ForwardPass], *, is_bias: bool
) -> float:
    own = np.concatenate([at.gradient[layer][int(is_bias)].ravel() for at in examples])
    due = np.concatenate(
        [
            (
                delta.scaled(at)
                if is_bias
                else at.inputs[layer].T @ delta.scaled(at)
                + 2 * at.network.decay * at.layers[layer][0]
            ).ravel()
            for at in examples
        ]
    )
    return float(np.linalg.norm(own - due) / (np.linalg.norm(due) or 1.0))


def _array_flaw(
    kind: str,
    factor: float,
    layers: list[int],
    text: str,
    size: float,
    names: Names,
    *,
    is_bias: bool,
) -> Flaw:
    own, number = names.of(layers, bias=is_bias), _number(factor)
    times = "" if factor == 1.0 else f", times {number}"
    due = _due_arrays(layers, is_bias=is_bias)
    said = {
        "": f"alone is {number} times what is due",
        UNKNOWN: f"is off by {_share(size)} from {due}, by a formula that is none of those known",
        "gradient transposed": f"is transposed{times}",
        "weight decay left out": "lacks the weight decay of the loss",
        "weight decay of another size": f"has the weight decay {text}, which is not that of the"
        " loss",
        "weight decay in the gradient alone": f"has the weight decay {text}, and the loss has none",
    }.get(kind, f"is made of {text}{times}; {due} is due")
    meaning, remedy = f"{own} {_verb(layers, 'does', 'do')} not follow the loss", f"Write {due}"
    if not kind:
        kind, size = _factor_kind(factor), abs(factor - 1)
        meaning, remedy = _meaning_of_factor(factor, own), f"Take the factor {number} out"
    elif "decay" in kind:
        remedy = (
            "Let loss and gradient have the same weight decay: c * (W**2).sum() gives 2 * c * W"
        )
    sentence = f"the gradient of {own} {said}"
    what = _what(is_bias)
    return names.flaw(kind, layers, what, size, (sentence, meaning, remedy))


def _due_arrays(layers: Sequence[int], *, is_bias: bool) -> str:
    if is_bias:
        return _listed([f"delta{layer + 1}.sum(axis=0)" for layer in layers])
    return _listed([f"{f'a{k}' if k else 'X'}.T @ delta{k + 1}" for k in layers])


def _zero(names: Names, layers: Sequence[int], *, is_bias: bool) -> Flaw:
    own = names.of(layers, bias=is_bias)
    texts = (
        f"the gradient of {own} is zero",
        f"{own} {_verb(layers, 'stays', 'stay')} as drawn: it is never trained",
        f"Write {_due_arrays(layers, is_bias=is_bias)}",
    )
    return names.flaw("zero", layers, _what(is_bias), 1.0, texts)


# Batches


def _batch_flaws(
    batch: BatchRatios | None, network: KnownNetwork, names: Names, *, has_flaws: bool
) -> Iterator[Flaw]:
    if batch is None:
        if not has_flaws:
            texts = (
                "the gradient of a batch is not the sum of those of its examples, though"
                " each alone is right",
                "What one example teaches hangs on the others",
                f"Look in {names.function} for sums, means or indices over the wrong axis",
            )
            yield names.flaw("examples mixed", [], "delta", 1.0, texts)
        return
    kind, ratios = batch
    if kind:
        said, remedy = "counts {}", "Sum over all examples, each with its own label"
        if "softmax" in kind or "labels" in kind:
            said = "takes {}; each example has to count with its own"
        if "softmax" in kind:
            remedy = "Divide by np.sum(exp_scores, axis=1, keepdims=True)"
        texts = (
            f"the gradient of a batch {said.format(kind)}",
            "What it learns from a batch is not what the batch says",
            remedy,
        )
        yield names.flaw(kind, [], "delta", 1.0, texts)
    yield from _size_flaws(ratios, network, names)


def _size_flaws(
    ratios: dict[int, list[tuple[float, float]]], network: KnownNetwork, names: Names
) -> Iterator[Flaw]:
    """What grows or shrinks with the number of examples."""
    (n, small), (m, large) = ratios.items()
    powers: dict[tuple[int, bool], float | None] = {}
    factors: dict[tuple[int, bool], float] = {}
    for layer, pairs in enumerate(zip(small, large, strict=True)):
        for is_bias in (False, True):
            a, b = (pair[int(is_bias)] for pair in pairs)
            if math.isfinite(a) and math.isfinite(b):
                powers[layer, is_bias], factors[layer, is_bias] = _power(a, n, b, m), a
    wrong = {key: power for key, power in powers.items() if power != 0.0}
    if not wrong:
        return
    if len(wrong) == len(powers) and len(set(wrong.values())) == 1:
        key = next(iter(wrong))
        yield _all_of_it(wrong[key], factors[key], network, names)
        return
    by_layer = [powers.get((layer, False)) for layer in range(len(small))]
    if _is_division_in_each(by_layer):
        times = f"N**{-min(p for p in by_layer if p is not None):.0f}"
        texts = (
            "the delta is divided by the number of examples again in each layer, so the"
            f" gradient of {names.of([0])} is {times} times too small",
            "The lower layers hardly learn",
            "Divide once, in the delta of the outputs or in the arrays",
        )
        yield names.flaw("divided in each layer", [], "delta", 1.0, texts)
        return
    for is_bias in (False, True):
        for power in sorted({p for (_, b), p in wrong.items() if b == is_bias}, key=str):
            own = [k for (k, b), p in wrong.items() if b == is_bias and p == power]
            factor = factors[own[0], is_bias]
            yield _part_of_it(power, own, factor, network, names, is_bias=is_bias)


def _power(a: float, n: int, b: float, m: int) -> float | None:
    """The power of the number of examples in a factor; None: no power."""
    if a <= 0 or b <= 0:
        return None
    power = round(2 * math.log(b) / math.log(m)) / 2
    is_power = all(abs(value / size**power - 1) < 0.01 for value, size in ((a, n), (b, m)))
    return power if is_power else None


def _is_division_in_each(powers: Sequence[float | None]) -> bool:
    known = [p for p in powers if p is not None]
    steps = np.diff(known)
    return len(known) == len(powers) > 1 and known[-1] <= 0 and bool((steps == 1).all())


def _all_of_it(power: float | None, factor: float, network: KnownNetwork, names: Names) -> Flaw:
    kind, size, n = "batch factor", 1.0, names.n_examples
    said = f" of a batch of N examples is {_times_of_size(power, factor)} what is due"
    meaning = "The step hangs on the size of the batch"
    remedy = "Divide by the number of examples once"
    if power == 1.0 and network.is_mean:
        kind, size = "summed", float(n or 100)
        count = f"{n:,} examples" if n else "the examples"
        said = f" is summed over {count}, and the loss is their mean"
        rate, step = "r", f"{n:,} r" if n else "r times the number of examples"
        if names.rate and n:
            rate, step = f"{names.rate:g}", f"{names.rate * n:.3g}"
        meaning = f"a rate of {rate} is a step of {step} on the mean"
        remedy = "Divide the delta of the outputs by the number of examples, or the rate"
    elif power == -1.0:
        meaning = "The step shrinks as the examples grow in number: it learns as good as nothing"
        if network.is_mean:
            kind, remedy = "divided twice", "Divide once"
            said = " is divided twice by the number of examples"
        else:
            kind, remedy = "averaged", "Divide the loss as well, or neither"
            said = " is divided by the number of examples, and the loss is their sum"
    sentence = f"all of the gradient{said}"
    return names.flaw(kind, [], "update", size, (sentence, meaning, remedy))


def _part_of_it(
    power: float | None,
    layers: list[int],
    factor: float,
    network: KnownNetwork,
    names: Names,
    *,
    is_bias: bool,
) -> Flaw:
    own, n = names.of(layers, bias=is_bias), names.n_examples
    kind, size = "batch factor in part", 1.0
    said = f"{_times_of_size(power, factor)} what is due" + " in a batch" * (power is None)
    meaning = f"{own} {_verb(layers, 'has', 'have')} another rate than the rest"
    if power == 1.0:
        kind, size = "summed in part", float(n or 100)
        said = "summed over the examples" + ", and the loss is their mean" * network.is_mean
        times = f"{n:,}" if n else "N"
        meaning = f"{own} {_verb(layers, 'takes', 'take')} steps {times} times as large as the rest"
    elif power == -1.0:
        kind, said = "divided twice in part", "divided by the number of examples once more"
        meaning = f"{own} hardly {_verb(layers, 'learns', 'learn')}"
    texts = (
        f"the gradient of {own} alone is {said}",
        meaning,
        f"Divide the gradient of {own} as often as the others",
    )
    return names.flaw(kind, layers, _what(is_bias), size, texts)


def _times_of_size(power: float | None, factor: float) -> str:
    return f"N**{power:g} times" if power is not None else f"{_number(factor)} times"


# Words


def _what(is_bias: bool) -> str:
    return "bias" if is_bias else "weights"


def _factor_kind(factor: float) -> str:
    return {-1.0: "sign", 2.0: "twice", 0.5: "half"}.get(
        factor, "factor" if factor > 0 else "sign and factor"
    )


def _meaning_of_factor(factor: float, own: str = "") -> str:
    if factor < 0:
        return f"{own or 'Training'} climbs the loss where it is to descend"
    if own:
        return f"{own} has another rate than the rest"
    return f"The rate acts as {_number(factor)} times the one that is set"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _share(error: float) -> str:
    return f"{100 * error:.3g} %" if error < 10 else f"{error:.3g} times its size"


def _listed(texts: Sequence[str]) -> str:
    unique = list(dict.fromkeys(texts))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} and {unique[-1]}"


def _named(layers: Sequence[int]) -> str:
    numbers = _listed([str(layer + 1) for layer in layers])
    return f"layer{'s' if len(layers) > 1 else ''} {numbers}"


def _verb(layers: Sequence[int], one: str, several: str) -> str:
    return one if len(layers) == 1 else several
