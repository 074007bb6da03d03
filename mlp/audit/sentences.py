"""What is wrong with a gradient, in the words of the code it comes from."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from mlp.audit.backward_steps import UNKNOWN, Example, Formula, LayerSteps
from mlp.audit.known_networks import ACTIVATIONS, Array, KnownNetwork
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
        weights: of each layer.
        biases: of each layer.
        function: that computes the gradient.
        find: (what, layer) -> line and its text, or None; what is delta, weights, bias or update.
        n_examples: of the program's own data, if known.
        rate: its learning rate, if known.
        said: by which functions the gradient is had, one line.
    """

    weights: tuple[str, ...]
    biases: tuple[str, ...]
    function: str = "gradient"
    find: Callable[[str, int], tuple[int, str] | None] = field(default=lambda _what, _layer: None)
    n_examples: int | None = None
    rate: float | None = None
    said: str = ""

    @classmethod
    def of(cls, arrangement: Arrangement) -> "Names":
        """Those of the parameters."""
        layers = range(len(arrangement.weights))
        return cls(
            tuple(arrangement.name(layer) for layer in layers),
            tuple(arrangement.name(layer, bias=True) for layer in layers),
        )


def _built(
    names: Names,
    kind: str,
    layers: Sequence[int],
    texts: tuple[str, str, str],
    size: float,
    what: str,
) -> Flaw:
    """A flaw with the lines of its layers (which count from 0)."""
    found = [names.find(what, layer) for layer in layers or [-1]]
    lines = tuple(sorted({line for line in found if line}))
    return Flaw(kind, tuple(k + 1 for k in layers), *texts, size, lines)


def habit_flaw(kind: str, names: Names) -> Flaw:
    """A gradient that depends on the calls before, or changes what it is given."""
    if kind == "accumulates":
        return Flaw(
            kind,
            (),
            f"{names.function} adds to what it gave before: the second call with the same arguments"
            " gives twice the gradient, the third three times",
            "Each step repeats all steps before it, as with a momentum of 1: the loss swings",
            "Set the gradients to zero at the start of each call",
            10.0,
        )
    what = kind.removeprefix("changes ")
    return Flaw(
        kind,
        (),
        f"{names.function} changes the {what} it is given",
        "The loss after it is not that of the weights before it",
        f"Work on a copy: {what} = {what}.copy()",
        5.0,
    )


def shape_flaw(error: ShapeError, arrangement: Arrangement, names: Names) -> Flaw:
    """A part of a gradient that has another shape than its parameter."""
    path = error.path
    is_bias = path in arrangement.biases
    layer = (arrangement.biases if is_bias else arrangement.weights).index(path)
    name = arrangement.name(layer, bias=is_bias)
    is_turned = error.shape == error.due[::-1]
    remedy = "Transpose it" if is_turned else "Sum over the examples, and over nothing else"
    texts = (
        f"the gradient of {name} has the shape {error.shape}, but {name} has {error.due}",
        "Where NumPy stretches one to the other, every entry gets a number that is not its own",
        remedy,
    )
    return _built(names, "shape", [layer], texts, 1000.0, "bias" if is_bias else "weights")


def single_flaw(
    layer: int, is_bias: bool, error: float, factor: float | None, names: Names
) -> Flaw:
    """An array whose gradient is wrong by a formula that is none of those known."""
    name = (names.biases if is_bias else names.weights)[layer]
    what = "bias" if is_bias else "weights"
    if factor is not None and abs(factor) < 1e-9:
        return _zero(names, layer, is_bias=is_bias)
    if factor is not None:
        texts = (
            f"the gradient of {name} is {_number(factor)} times what the loss gives by differences",
            _meaning_of_factor(factor),
            f"Look for a factor of {_number(factor)} in {names.function}",
        )
        return _built(names, "factor", [layer], texts, abs(factor - 1), what)
    if error >= 1e9:
        texts = (
            f"the gradient of {name} is not finite",
            "One step makes all weights undefined",
            f"Look in {names.function} for a division by zero, or a logarithm or exponential of it",
        )
        return _built(names, "not finite", [layer], texts, error, what)
    texts = (
        f"the gradient of {name} is off by {_share(error)} from differences of the loss,"
        " by a formula that is none of those known",
        "Training does not follow the loss",
        f"Compare {names.function} with the derivation of that layer, line by line",
    )
    return _built(names, UNKNOWN, [layer], texts, error, what)


def step_flaws(
    steps: Sequence[LayerSteps],
    batch: BatchRatios | None,
    examples: Sequence[Example],
    names: Names,
    own_forward: str,
) -> list[Flaw]:
    """All that is not as it is due, a flaw a kind."""
    flaws: list[Flaw] = []
    network = examples[0].at.network
    if own_forward:
        texts = (
            f"{names.function} computes another network than the loss: {own_forward}",
            "It is the gradient of another function",
            "Let both take the activations from one forward pass",
        )
        flaws.append(_built(names, "another forward pass", [], texts, 2.0, "forward"))
    flaws += _delta_flaws(steps, examples, network, names)
    flaws += _array_flaws(steps, examples, names)
    flaws += _batch_flaws(batch, network, names, has_flaws=bool(flaws))
    return flaws


# Deltas


def _delta_flaws(
    steps: Sequence[LayerSteps], examples: Sequence[Example], network: KnownNetwork, names: Names
) -> Iterator[Flaw]:
    last = len(steps) - 1
    step = steps[last].delta
    off = [_off(each.delta, each.due_delta, examples) for each in steps]
    if not step.is_due:
        yield _output_flaw(step, network, names, last, off[last])
    groups: dict[tuple[str, str, float], list[int]] = {}
    for layer in range(last):
        step = steps[layer].delta
        if not step.is_due and step.kind != "right delta below":
            shape = "" if "another layer" in step.kind else _shape_of(step.text, layer)
            groups.setdefault((step.kind, shape, round(step.factor, 4)), []).append(layer)
    for (kind, _, factor), layers in groups.items():
        texts = [steps[layer].delta.text for layer in layers]
        dues = [_due_text(network, layer) for layer in layers]
        size, angle = max(off[layer] for layer in layers)
        sentence, remedy = _hidden_sentence(kind, factor, layers, texts, dues, names)
        meaning = (
            _meaning_of_factor(factor)
            if not kind
            else f"{_named(layers)} {_verb(layers, 'learns', 'learn')} from a delta that points"
            f" {angle:.0f} degrees"
            " away from the right one"
        )
        yield _built(names, kind or "factor", layers, (sentence, meaning, remedy), size, "delta")


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


def _due_text(network: KnownNetwork, layer: int) -> str:
    return ACTIVATIONS[network.activations[layer]].text.format(a=f"a{layer + 1}", z=f"z{layer + 1}")


def _off(
    step: Formula, due: Callable[..., Array], examples: Sequence[Example]
) -> tuple[float, float]:
    """Relative size of what is wrong, and the angle in degrees."""
    own = np.concatenate([(step.factor * step.values(e.at)).ravel() for e in examples])
    right = np.concatenate([due(e.at).ravel() for e in examples])
    sizes = float(np.linalg.norm(own)), float(np.linalg.norm(right))
    if not all(sizes):
        return 1.0, 90.0
    cosine = float(np.clip(own @ right / (sizes[0] * sizes[1]), -1, 1))
    return float(np.linalg.norm(own - right)) / sizes[1], math.degrees(math.acos(cosine))


def _output_flaw(
    step: Formula, network: KnownNetwork, names: Names, last: int, off: tuple[float, float]
) -> Flaw:
    simple = {
        ("softmax", "cross-entropy"): "p - y",
        ("sigmoid", "binary cross-entropy"): "p - y",
        ("linear", "squared error"): "2 * (z - y)",
        ("sigmoid", "squared error"): "2 * (p - y) * p * (1 - p)",
        ("tanh", "squared error"): "2 * (p - y) * (1 - p**2)",
    }.get((network.output, network.cost))
    due = simple or f"the delta of {network.output} with {network.cost}"
    if simple and network.factor == 0.5:
        due = simple.replace("2 * ", "")
    elif simple and network.factor != 1.0:
        due = f"{network.factor:g} * ({simple})"
    size, angle = off
    if not step.kind:
        kind, number = _factor_kind(step.factor), _number(step.factor)
        sentence = f"all of the gradient is {number} times that of the loss"
        remedy = f"Take the factor {number} out of {names.function}, or put it into the loss"
        if kind == "sign":
            sentence = "all of the gradient has the wrong sign"
            remedy = f"Write {due} for the delta of the outputs"
        texts = (sentence, _meaning_of_factor(step.factor), remedy)
        return _built(names, kind, [], texts, size, "delta")
    factor = "" if step.factor == 1.0 else f"{_number(step.factor)} times "
    said = f"{factor}{step.text}"
    if step.kind == UNKNOWN:
        said = f"off by {_share(size)}, by a formula that is none of those known"
    texts = (
        f"the delta of the outputs is {said}; {due} is due",
        f"Every layer learns from a delta that points {angle:.0f} degrees away from the right one",
        f"Write {due}",
    )
    return _built(names, step.kind, [last], texts, size, "delta")


def _hidden_sentence(
    kind: str,
    factor: float,
    layers: Sequence[int],
    texts: Sequence[str],
    dues: Sequence[str],
    names: Names,
) -> tuple[str, str]:
    where = f"the delta of {_named(layers)}"
    text, due = _common(texts, layers), _common(dues, layers)
    times = "" if factor == 1.0 else f", times {_number(factor)}"
    if not kind:
        return (
            f"{where} is {_number(factor)} times what is due",
            f"Take the factor {_number(factor)} out",
        )
    if kind == UNKNOWN:
        return (
            f"{where} comes from the delta above by a formula that is none of those known; {due}"
            f" times the delta above through the transposed weights is due",
            f"Derive {_named(layers)} again, with {due} for the derivative",
        )
    if kind == "no derivative":
        return (
            f"{where} lacks the derivative of the activation, {due}{times}",
            f"Multiply it with {due}",
        )
    ways = {
        "weights not transposed": "goes back through {text}",
        "weights left out": "goes back without weights, from {text}",
        "weights of another layer": "goes back through {text}",
        "sign of the weights lost": "goes back through {text}",
        "delta before its derivative": "comes from {text}",
        "delta of another layer": "comes from {text}",
    }
    base = kind.removesuffix(", no derivative")
    if base in ways:
        right = _listed([f"{names.weights[layer + 1]}.T" for layer in layers])
        from_delta = _listed([f"delta{layer + 2}" for layer in layers])
        due_way = from_delta if base.startswith("delta") else right
        lacks = f", and lacks the derivative {due}" if base != kind else ""
        return (
            f"{where} {ways[base].format(text=text)}{times}{lacks}; {due_way} is due",
            f"Write {due_way}" + (f" and multiply with {due}" if lacks else ""),
        )
    return f"{where} has the factor {text}{times}; {due} is due", f"Write {due}"


# Arrays


def _array_flaws(
    steps: Sequence[LayerSteps], examples: Sequence[Example], names: Names
) -> Iterator[Flaw]:
    for is_bias in (False, True):
        groups: dict[tuple[str, float], list[int]] = {}
        for layer, each in enumerate(steps):
            step = each.bias if is_bias else each.weights
            if not step.is_due:
                groups.setdefault((step.kind, round(step.factor, 4)), []).append(layer)
        for (kind, factor), layers in groups.items():
            chosen = [steps[layer].bias if is_bias else steps[layer].weights for layer in layers]
            size = max(
                _array_off(steps[layer], layer, examples, is_bias=is_bias) for layer in layers
            )
            yield _array_flaw(kind, factor, layers, [s.text for s in chosen], size, names, is_bias)


def _array_off(
    steps: LayerSteps, layer: int, examples: Sequence[Example], *, is_bias: bool
) -> float:
    own, right = [], []
    for example in examples:
        delta = steps.delta.factor * steps.delta.values(example.at)
        decay = 2 * example.at.network.decay * example.at.layers[layer][0]
        due = delta if is_bias else example.at.inputs[layer].T @ delta + decay
        own.append(example.gradient[layer][int(is_bias)].ravel())
        right.append(due.ravel())
    difference = np.concatenate(own) - np.concatenate(right)
    return float(np.linalg.norm(difference) / (np.linalg.norm(np.concatenate(right)) or 1.0))


def _array_flaw(
    kind: str,
    factor: float,
    layers: list[int],
    texts: list[str],
    size: float,
    names: Names,
    is_bias: bool,
) -> Flaw:
    own = _arrays(names, layers, is_bias=is_bias)
    what = "bias" if is_bias else "weights"
    times = "" if factor == 1.0 else f", times {_number(factor)}"
    if kind == "zero":
        return _zero(names, *layers, is_bias=is_bias)
    if not kind:
        texts_ = (
            f"the gradient of {own} alone is {_number(factor)} times what is due",
            _meaning_of_factor(factor, own),
            f"Take the factor {_number(factor)} out",
        )
        return _built(names, _factor_kind(factor), layers, texts_, abs(factor - 1), what)
    due = _listed([_due_array(k, is_bias=is_bias) for k in layers])
    text = _listed(texts)
    sentences = {
        UNKNOWN: f"the gradient of {own} is off by {_share(size)} from {due}, by a formula that is"
        " none of those known",
        "gradient transposed": f"the gradient of {own} is transposed{times}",
        "weight decay left out": f"the gradient of {own} lacks the weight decay of the loss",
        "weight decay of another size": f"the gradient of {own} has the weight decay {text}, which"
        " is not that of the loss",
        "weight decay in the gradient alone": f"the gradient of {own} has the weight decay {text},"
        " and the loss has none",
    }
    sentence = sentences.get(kind, f"the gradient of {own} is made of {text}{times}; {due} is due")
    remedy = f"Write {due}"
    if "decay" in kind:
        remedy = (
            "Let loss and gradient have the same weight decay: c * (W**2).sum() gives 2 * c * W"
        )
    meaning = f"{own} {_verb(layers, 'does', 'do')} not follow the loss"
    return _built(names, kind, layers, (sentence, meaning, remedy), size, what)


def _due_array(layer: int, *, is_bias: bool) -> str:
    inputs = f"a{layer}" if layer else "X"
    delta = f"delta{layer + 1}"
    return f"{delta}.sum(axis=0)" if is_bias else f"{inputs}.T @ {delta}"


def _zero(names: Names, *layers: int, is_bias: bool) -> Flaw:
    own = _arrays(names, layers, is_bias=is_bias)
    texts = (
        f"the gradient of {own} is zero",
        f"{own} {_verb(layers, 'stays', 'stay')} as drawn: it is never trained",
        f"Write {_listed([_due_array(k, is_bias=is_bias) for k in layers])}",
    )
    return _built(names, "zero", list(layers), texts, 1.0, "bias" if is_bias else "weights")


# Batches


def _batch_flaws(
    batch: BatchRatios | None, network: KnownNetwork, names: Names, *, has_flaws: bool
) -> Iterator[Flaw]:
    if batch is None:
        if not has_flaws:
            texts = (
                "the gradient of a batch is not the sum of those of its examples, though each"
                " alone is right",
                "What one example teaches hangs on the others",
                f"Look in {names.function} for sums, means or indices over the wrong axis",
            )
            yield _built(names, "examples mixed", [], texts, 1.0, "delta")
        return
    kind, ratios = batch
    if kind:
        texts = (
            f"the gradient of a batch takes {kind}; each example has to count with its own"
            if "example" not in kind or "labels" in kind
            else f"the gradient of a batch counts {kind}",
            "What it learns from a batch is not what the batch says",
            "Divide by np.sum(exp_scores, axis=1, keepdims=True)"
            if "softmax" in kind
            else "Sum over all examples, each with its own label",
        )
        yield _built(names, kind, [], texts, 1.0, "delta")
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
            a, b = pairs[0][int(is_bias)], pairs[1][int(is_bias)]
            if math.isfinite(a) and math.isfinite(b):
                powers[layer, is_bias], factors[layer, is_bias] = _power(a, n, b, m), a
    wrong = {key: power for key, power in powers.items() if power != 0.0}
    if not wrong:
        return
    if len(wrong) == len(powers) and len(set(wrong.values())) == 1:
        power, factor = next(iter(wrong.values())), next(iter(factors.values()))
        yield _all_of_it(power, factor, network, names)
        return
    by_layer = [powers.get((layer, False)) for layer in range(len(small))]
    if _is_division_in_each(by_layer):
        texts = (
            "the delta is divided by the number of examples again in each layer, so the gradient of"
            f" {names.weights[0]} is N**{-min(p for p in by_layer if p is not None):.0f} times too"
            " small",
            "The lower layers hardly learn",
            "Divide once, in the delta of the outputs or in the arrays",
        )
        yield _built(names, "divided in each layer", [], texts, 1.0, "delta")
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
    texts = (
        f"all of the gradient of a batch of N examples is {_times_of_size(power, factor)} what is"
        " due",
        "The step hangs on the size of the batch",
        "Divide by the number of examples once",
    )
    kind, size = "batch factor", 1.0
    if power == 1.0 and network.is_mean:
        kind, size = "summed", float(names.n_examples or 100)
        count = f"{names.n_examples:,} examples" if names.n_examples else "the examples"
        step = f"{names.n_examples:,} r" if names.n_examples else "r times the number of examples"
        rate = "r"
        if names.rate and names.n_examples:
            rate, step = f"{names.rate:g}", f"{names.rate * names.n_examples:.3g}"
        texts = (
            f"all of the gradient is summed over {count}, and the loss is their mean",
            f"a rate of {rate} is a step of {step} on the mean",
            "Divide the delta of the outputs by the number of examples, or the rate",
        )
    elif power == -1.0:
        kind = "divided twice" if network.is_mean else "averaged"
        reduced = "twice by the number of examples"
        if not network.is_mean:
            reduced = "by the number of examples, and the loss is their sum"
        texts = (
            f"all of the gradient is divided {reduced}",
            "The step shrinks as the examples grow in number: it learns as good as nothing",
            "Divide once" if network.is_mean else "Divide the loss as well, or neither",
        )
    return _built(names, kind, [], texts, size, "update")


def _part_of_it(
    power: float | None,
    layers: list[int],
    factor: float,
    network: KnownNetwork,
    names: Names,
    *,
    is_bias: bool,
) -> Flaw:
    own = _arrays(names, layers, is_bias=is_bias)
    kind, size = "batch factor in part", 1.0
    said = f"{_times_of_size(power, factor)} what is due" + " in a batch" * (power is None)
    meaning = f"{own} {_verb(layers, 'has', 'have')} another rate than the rest"
    if power == 1.0:
        kind, size = "summed in part", float(names.n_examples or 100)
        reduced = ", and the loss is their mean" if network.is_mean else ""
        said = f"summed over the examples{reduced}"
        times = f"{names.n_examples:,}" if names.n_examples else "N"
        meaning = f"{own} {_verb(layers, 'takes', 'take')} steps {times} times as large as the rest"
    elif power == -1.0:
        kind, said = "divided twice in part", "divided by the number of examples once more"
        meaning = f"{own} hardly {_verb(layers, 'learns', 'learn')}"
    texts = (
        f"the gradient of {own} alone is {said}",
        meaning,
        f"Divide the gradient of {own} as often as the others",
    )
    return _built(names, kind, layers, texts, size, "bias" if is_bias else "weights")


def _times_of_size(power: float | None, factor: float) -> str:
    return f"N**{power:g} times" if power is not None else f"{_number(factor)} times"


# Words


def _factor_kind(factor: float) -> str:
    return {-1.0: "sign", 2.0: "twice", 0.5: "half"}.get(
        factor, "factor" if factor > 0 else "sign and factor"
    )


def _meaning_of_factor(factor: float, own: str = "") -> str:
    who = own or "Training"
    if factor < 0:
        return f"{who} climbs the loss where it is to descend"
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


def _arrays(names: Names, layers: Sequence[int], *, is_bias: bool) -> str:
    return _listed([(names.biases if is_bias else names.weights)[layer] for layer in layers])


def _named(layers: Sequence[int]) -> str:
    numbers = _listed([str(layer + 1) for layer in layers])
    return f"layer{'s' if len(layers) > 1 else ''} {numbers}"


def _verb(layers: Sequence[int], one: str, several: str) -> str:
    return one if len(layers) == 1 else several
