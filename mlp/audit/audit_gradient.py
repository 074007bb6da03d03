"""`mlp.audit_gradient`: is a gradient that of its loss, and if not, what stands there?"""

import contextlib
import dataclasses
import itertools
import random as python_random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlp.audit.backward_steps import UNKNOWN, LayerSteps, explain_steps
from mlp.audit.known_networks import (
    ACTIVATIONS,
    Array,
    ForwardPass,
    KnownNetwork,
    Layers,
    forward_pass,
    recognise,
    right_gradient,
    softmax,
    vector,
)
from mlp.audit.parameters import (
    Arrangement,
    ExampleForm,
    ShapeError,
    arrange,
    as_numpy,
    form_of,
    likely_forms,
)
from mlp.audit.sentences import (
    BatchRatios,
    Flaw,
    Names,
    accumulation_flaw,
    change_flaw,
    shape_flaw,
    single_flaw,
    step_flaws,
)
from mlp.errors import SettingError

# Entries of an array that are drawn for differences; a known formula is compared in all entries.
_MOST, _MOST_UNKNOWN = 6, 100
_N_SINGLE = 8  # examples looked at one by one: enough that no two formulas agree on all
# Relative error from which a gradient is wrong, and up to which a formula is that of the code; in
# double and in single precision.
_LIMITS, _LIMITS_FLOAT32 = (1e-4, 1e-5), (2e-2, 2e-3)
_STEPS = 1e-3, 1e-4, 1e-5, 1e-6  # of differences


@dataclass(frozen=True, eq=False)
class AuditedCode:
    """A loss and its gradient, however the code offers them.

    Attributes:
        loss: of layers, plain examples and plain targets.
        gradient: of the same; gives the layers at which it was taken, and the gradient. A training
            function chooses its own weights and is called without.
        has_own_weights: whether it does.
        has_rate: whether the gradient's size is known; else it is known up to a positive factor.
        called_raw: the gradient without the same random numbers in each call, and the names of the
            arguments that it has changed; None: not to be had.
    """

    arrangement: Arrangement
    form: ExampleForm
    loss: Callable[[Layers, Array, Array], float]
    gradient: Callable[[Layers | None, Array, Array], tuple[Layers, Layers]]
    has_own_weights: bool = False
    has_rate: bool = True
    called_raw: Callable[[Layers, Array, Array], tuple[Layers, list[str]]] | None = None

    def drawn(self, n: int, random: np.random.RandomState) -> tuple[Layers, Layers, Array, Array]:
        """Random weights, the gradient there on n random examples, and these."""
        X, y = self.form.draw(n, random)
        weights = None if self.has_own_weights else self.arrangement.draw(random)
        return *self.gradient(weights, X, y), X, y


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        flaws: the worst first; none: the gradient is right.
        error: largest relative error of an array's gradient.
        n_checked: entries that were compared with differences.
        network: the loss's formula in words; empty: none of those known.
        notes: what else is worth knowing, such as random parts.
        angle: between gradient and descent, degrees.
    """

    flaws: tuple[Flaw, ...]
    error: float
    n_checked: int
    n_entries: int
    network: str
    notes: tuple[str, ...] = ()
    angle: float = 0.0


def audit_gradient(
    loss: Callable[[Any, Any, Any], Any],
    gradient: Callable[[Any, Any, Any], Any],
    params: Any,
    X: Any,
    y: Any,
) -> tuple[Flaw, ...]:
    """Compares a gradient with its loss, and names what is wrong with it.

    The functions are called with random weights and examples of the same shapes and kinds.

    Args:
        loss: of params, X and y; gives a number.
        gradient: of the same; gives arrays arranged as params.
        params: a list of (W, b), or a dict with W1, b1, W2, ...; NumPy's, JAX's or PyTorch's.
        X: a few examples, (example, input) or (input, example).
        y: their labels: classes, one-hot or real.

    Returns:
        What is wrong, the worst first; nothing for a right gradient.

    Raises:
        SettingError: for params or examples that are none, or a loss that gives no number.

    Example:
        >>> import mlp
        >>> X, y = np.random.rand(4, 3), np.random.rand(4, 1)
        >>> def loss(params, X, y):
        ...     [(W, b)] = params
        ...     return np.mean((X @ W + b - y) ** 2)
        >>> def gradient(params, X, y):
        ...     [(W, b)] = params
        ...     error = X @ W + b - y
        ...     return [(2 * X.T @ error / len(X), 2 * error.sum(axis=0))]
        >>> params = [(np.zeros((3, 1)), np.zeros(1))]
        >>> [flaw.kind for flaw in mlp.audit_gradient(loss, gradient, params, X, y)]
        ['summed in part']
    """
    program = program_of_functions(loss, gradient, params, X, y)
    return audit_program(program, Names(program.arrangement)).flaws


# A pair of functions as a program


def program_of_functions(
    loss: Callable[[Any, Any, Any], Any],
    gradient: Callable[[Any, Any, Any], Any],
    params: Any,
    X: Any = None,
    y: Any = None,
) -> AuditedCode:
    """Two functions of (params, X, y) as a program; without X and y their form is found by trial.

    Raises:
        SettingError: for params, examples or results that are none.
    """
    arrangement, forms = arranged(params, X, y)
    errors: list[Exception] = []
    first = None
    for is_double in (True, False):
        arrangement = dataclasses.replace(arrangement, is_double=is_double)
        for form in forms:
            form = dataclasses.replace(form, is_double=is_double)
            program = _functions(loss, gradient, arrangement, form)
            drawn = np.random.RandomState(1)
            try:
                value = program.loss(arrangement.draw(drawn), *form.draw(5, drawn))
            except SettingError:
                raise
            except Exception as error:  # noqa: BLE001  whatever a foreign function raises
                errors.append(error)
                continue
            if not np.isfinite(value):
                continue
            if len(forms) == 1 or recognised(program):
                return program
            first = first or program
        if first:
            return first
    if errors:
        raise errors[0]
    raise SettingError("loss must be a finite number, but is not at random weights")


def arranged(params: Any, X: Any, y: Any) -> tuple[Arrangement, list[ExampleForm]]:
    """How the weights are kept, and the examples; several ways where there are no examples.

    Raises:
        SettingError: for params that are no layers, or examples that do not fit them.
    """
    if X is None or y is None:
        arrangement = arrange(params, None if X is None else int(X.shape[-1]))
        shapes = arrangement.shapes
        return arrangement, likely_forms(shapes[0][0], shapes[-1][1])
    for n_inputs in reversed(X.shape):
        with contextlib.suppress(SettingError):
            arrangement = arrange(params, int(n_inputs))
            shapes = arrangement.shapes
            if form := form_of(X, y, shapes[0][0], shapes[-1][1]):
                return arrangement, [form]
    shapes = arrange(params).shapes
    text = f"X has the shape {tuple(X.shape)}, y {tuple(np.shape(y))}, the weights {shapes}"
    raise SettingError(f"examples, labels and weights must fit each other, but {text}")


def loss_of_layers(
    loss: Callable[[Any, Any, Any], Any], arrangement: Arrangement, form: ExampleForm
) -> Callable[[Layers, Array, Array], float]:
    """A loss of params, X and y as one of layers, plain examples and plain targets."""

    def loss_of(layers: Layers, X: Array, y: Array) -> float:
        same_random_numbers()
        return _number(loss(arrangement.own(layers), *form.own(X, y)))

    return loss_of


def _functions(
    loss: Callable[[Any, Any, Any], Any],
    gradient: Callable[[Any, Any, Any], Any],
    arrangement: Arrangement,
    form: ExampleForm,
) -> AuditedCode:
    def raw(layers: Layers, X: Array, y: Array) -> tuple[Layers, list[str]]:
        own, (X_own, y_own) = arrangement.own(layers), form.own(X, y)
        value = gradient(own, X_own, y_own)
        is_same = np.array_equal(vector(layers), vector(arrangement.layers(own)))
        changed = [] if is_same or not arrangement.is_double else ["params"]
        if not np.array_equal(as_numpy(X_own), as_numpy(form.own(X, y)[0])):
            changed.append("X")
        return arrangement.gradient(value), changed

    def gradient_of(layers: Layers | None, X: Array, y: Array) -> tuple[Layers, Layers]:
        assert layers is not None
        same_random_numbers()
        return layers, raw(layers, X, y)[0]

    loss_of = loss_of_layers(loss, arrangement, form)
    return AuditedCode(arrangement, form, loss_of, gradient_of, called_raw=raw)


def _number(value: Any) -> float:
    if isinstance(value, float | int):
        return float(value)
    values = as_numpy(value) if hasattr(value, "shape") else None
    if values is None or values.size != 1:
        shape = f"an array of shape {values.shape}" if values is not None else type(value).__name__
        raise SettingError(f"loss must give one number, but gives {shape}")
    return float(values.reshape(()))


def same_random_numbers() -> None:
    """So that a dropout takes the same units in each call."""
    python_random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


# The audit


def audit_program(program: AuditedCode, names: Names) -> Audit:
    """Compares gradient and loss by differences first; formulas name what does not agree."""
    flaws: list[Flaw] = []
    network = recognised(program)
    text = network.text if network else ""
    try:
        one_by_one = _one_by_one(program, network)
        flaws, notes, program = _habits(one_by_one or program, names)
        if one_by_one:
            notes.append("it takes one example at a time")
        is_float32 = _has_few_digits(program)
        limit, tolerance = _LIMITS_FLOAT32 if is_float32 else _LIMITS
        compared = _compared(program, network, limit)
    except ShapeError as error:
        return Audit((*flaws, shape_flaw(error, names)), 1.0, 0, 0, text)
    if is_float32:
        notes.append("it computes in single precision, so the limits are wider")
    largest, wrong = max(part.error for part in compared), _wrong(compared, limit)
    if wrong and network:
        off = _off_formula(program, network) if is_float32 else np.inf
        if off <= tolerance:  # differences are too coarse to tell
            largest, wrong = off, []
        elif names.rate and _steps_one_by_one(program, network, names.rate):
            notes.append(
                "it changes the weights after each example, each time by the right gradient"
            )
            largest, wrong = tolerance, []
    if wrong:
        found = _from_formulas(program, network, names, tolerance) if network else []
        flaws += found or [
            single_flaw(part.layer, part.is_bias, part.error, part.factor, names) for part in wrong
        ]
    return Audit(
        tuple(sorted(flaws, key=lambda flaw: -flaw.size)),
        largest,
        sum(len(part.due) for part in compared),
        sum(part.n_entries for part in compared),
        text,
        tuple(notes),
        _angle(compared),
    )


def _compared(
    program: AuditedCode, network: KnownNetwork | None, limit: float
) -> list["ComparedPart"]:
    """Each array beside differences, at weights at which it is wrong if there are such."""
    random = np.random.RandomState(0)
    if network is None:
        first = _compare(program, random, _MOST_UNKNOWN)
        return first if _wrong(first, limit) else _compare(program, random, _MOST_UNKNOWN)
    compared = _compare(program, random, _MOST)
    if not _wrong(compared, limit) and _off_formula(program, network) > limit:
        return _compare(program, random, None)  # in entries that were not drawn
    return compared


def _steps_one_by_one(program: AuditedCode, network: KnownNetwork, rate: float) -> bool:
    """Whether a pass of a training function is a right step for each example, in any order."""
    if not program.has_own_weights:
        return False
    X, y = program.form.draw(3, np.random.RandomState(8))
    at, gradient = program.gradient(None, X, y)
    for order in itertools.permutations(range(3)):
        layers = at
        for k in order:
            step = right_gradient(forward_pass(network, layers, X[k : k + 1], y[k : k + 1]))
            layers = [
                (W - rate * dW, b - rate * db if own.size else b)  # without a bias none moves
                for (W, b), (dW, db), (_, own) in zip(layers, step, gradient, strict=True)
            ]
        moved = zip(at, layers, gradient, strict=True)
        due = vector([(W - V, (b - c)[: own.size]) for (W, b), (V, c), (_, own) in moved]) / rate
        if np.linalg.norm(vector(gradient) - due) < 1e-6 * np.linalg.norm(due):
            return True
    return False


def _wrong(parts: Sequence["ComparedPart"], limit: float) -> list["ComparedPart"]:
    return [part for part in parts if part.error > max(limit, 10 * part.uncertainty)]


def _one_by_one(program: AuditedCode, network: KnownNetwork | None) -> AuditedCode | None:
    """A gradient that is meant for one example, a column, as one for several; None: it is not."""
    if not program.form.in_columns or program.form.X is not None or program.called_raw is None:
        return None
    random = np.random.RandomState(9)
    weights, (X, y) = program.arrangement.draw(random), program.form.draw(3, random)
    try:
        program.gradient(weights, X[:1], y[:1])
    except ShapeError:
        return None
    try:
        program.gradient(weights, X, y)
    except ShapeError:
        return dataclasses.replace(program, gradient=_summed(program, network), called_raw=None)
    return None


def _summed(
    program: AuditedCode, network: KnownNetwork | None
) -> Callable[[Layers | None, Array, Array], tuple[Layers, Layers]]:
    def gradient(layers: Layers | None, X: Array, y: Array) -> tuple[Layers, Layers]:
        assert layers is not None
        n = len(X) if network and network.is_mean else 1
        each = [program.gradient(layers, X[k : k + 1], y[k : k + 1])[1] for k in range(len(X))]
        total = np.sum([vector(g) for g in each], axis=0) / n
        return layers, _as_layers(total, each[0])

    return gradient


def _habits(program: AuditedCode, names: Names) -> tuple[list[Flaw], list[str], AuditedCode]:
    """What a gradient does beside being one: it changes its arguments, remembers, or is random."""
    if program.called_raw is None:
        return [], [], program
    random = np.random.RandomState(2)
    layers, (X, y) = program.arrangement.draw(random), program.form.draw(4, random)
    calls = [program.called_raw(layers, X, y) for _ in range(3)]
    flaws = [change_flaw(name, names) for name in calls[-1][1]]
    first, second, third = (vector(gradient) for gradient, _ in calls)
    size = float(np.linalg.norm(first)) or 1.0
    if np.linalg.norm(second - first) < 1e-6 * size:
        return flaws, [], program
    growth = second - first
    if np.linalg.norm(third - second - growth) < 1e-6 * size and (
        np.linalg.norm(growth - first) < 1e-6 * size or np.linalg.norm(growth) > 0.2 * size
    ):
        return [*flaws, accumulation_flaw(names)], [], _increments(program, third)
    note = "it draws random numbers: compared with the same ones in each call"
    return flaws, [note], program


def _increments(program: AuditedCode, last: Array) -> AuditedCode:
    """A gradient that accumulates, less what it had accumulated."""
    total = last

    def gradient(layers: Layers | None, X: Array, y: Array) -> tuple[Layers, Layers]:
        nonlocal total
        at, sums = program.gradient(layers, X, y)
        now = vector(sums)
        own, total = now - total, now
        return at, _as_layers(own, sums)

    return dataclasses.replace(program, gradient=gradient)


def _as_layers(values: Array, like: Layers) -> Layers:
    parts = [part for pair in like for part in pair]
    split = np.split(values, np.cumsum([part.size for part in parts])[:-1])
    made = [own.reshape(part.shape) for own, part in zip(split, parts, strict=True)]
    return list(zip(made[::2], made[1::2], strict=True))


def _has_few_digits(program: AuditedCode) -> bool:
    """Whether the loss does not notice a change in the ninth digit."""
    random = np.random.RandomState(3)
    layers, (X, y) = program.arrangement.draw(random), program.form.draw(4, random)
    values = {
        program.loss([(W * (1 + s), b) for W, b in layers], X, y) for s in (0, 1e-9, 2e-9, 3e-9)
    }
    return len(values) < 4


def _batch_size(program: AuditedCode, least: int) -> int:
    """That is no other size, so that a confusion of axes shows."""
    sizes = {size for shape in program.arrangement.shapes for size in shape}
    return next(n for n in range(least, 99) if n not in sizes)


@dataclass(frozen=True, eq=False)
class ComparedPart:
    """Some entries of an array's gradient beside differences of the loss.

    Attributes:
        given: by the program.
        due: by differences.
        off: what these may be off.
        n_entries: all that the array has.
        floor: size below which an entry counts as zero.
    """

    layer: int
    is_bias: bool
    given: Array
    due: Array
    off: Array
    n_entries: int
    floor: float = 0.0

    @property
    def error(self) -> float:
        """Relative; a billion for a gradient that is not finite."""
        error = float(np.linalg.norm(self.given - self.due)) / self._scale
        return error if error < 1e9 else 1e9

    @property
    def uncertainty(self) -> float:
        """Of the differences, relative."""
        return float(np.linalg.norm(self.off)) / self._scale

    @property
    def factor(self) -> float | None:
        """What the differences are multiplied with; None: it is no multiple of them."""
        factor = float(self.given @ self.due / max(float(self.due @ self.due), 1e-300))
        off = float(np.linalg.norm(self.given - factor * self.due))
        is_multiple = off <= (1e-4 + 10 * self.uncertainty) * float(np.linalg.norm(self.given))
        return factor if is_multiple else None

    @property
    def _scale(self) -> float:
        least = self.floor * len(self.due) ** 0.5
        return float(max(np.linalg.norm(self.due), least, 1e-300))


def _compare(
    program: AuditedCode, random: np.random.RandomState, most: int | None
) -> list[ComparedPart]:
    at, gradient, X, y = program.drawn(_batch_size(program, 5), random)
    flat = vector(at)

    def loss(values: Array) -> float:
        return program.loss(_as_layers(values, at), X, y)

    middle = loss(flat)
    parts: list[ComparedPart] = []
    start = 0
    for layer, (pair, given) in enumerate(zip(at, gradient, strict=True)):
        for array, values in zip(pair, given, strict=True):
            if values.size:
                chosen = np.sort(random.permutation(array.size)[:most])
                own = values.ravel()[chosen]
                due, off = np.transpose(
                    [
                        _difference(loss, flat, entry, given_there, middle)
                        for entry, given_there in zip(start + chosen, own, strict=True)
                    ]
                )
                parts.append(ComparedPart(layer, array.ndim == 1, own, due, off, array.size))
            start += array.size
    size = 1.0
    if not program.has_rate:
        all_given, all_due = _joined(parts)
        size = float(np.linalg.norm(all_due) / (np.linalg.norm(all_given) or 1.0))
    floor = 1e-6 * max(float(np.abs(part.due).max()) for part in parts)
    return [dataclasses.replace(part, given=size * part.given, floor=floor) for part in parts]


def _joined(parts: Sequence[ComparedPart]) -> tuple[Array, Array]:
    """The entries of all arrays: given by the program, and due."""
    return np.concatenate([part.given for part in parts]), np.concatenate([p.due for p in parts])


def _difference(
    loss: Callable[[Array], float], at: Array, entry: int, own: float, middle: float
) -> tuple[float, float]:
    """The loss's slope by one entry, and about what it is off.

    Of four steps the one is taken whose central difference agrees best with that of the next
    smaller step: a large step errs by the curve, a small one by rounding. At a kink, where the
    slopes left and right differ however small the step, any slope between the two is right.
    """
    size = max(1.0, abs(float(at[entry])))
    sides = []
    for step in _STEPS:
        for sign in (1, -1):
            moved = at.copy()
            moved[entry] += sign * step * size
            sides.append((loss(moved) - middle) / (moved[entry] - at[entry]))
    right, left = np.reshape(sides, (-1, 2)).T
    central, gap = (right + left) / 2, np.abs(right - left)
    if gap[1] > 1e-6 + 0.02 * abs(central[1]) and gap[2] > 0.5 * gap[1]:
        low, high = sorted((float(left[2]), float(right[2])))
        slack = 1e-3 * (high - low)
        if low - slack <= own <= high + slack:
            return float(own), 0.0
    off = np.abs(np.diff(central))
    best = int(np.argmin(off + 1e-16))
    return float(central[best + 1]), float(off[best])


def _angle(parts: Sequence[ComparedPart]) -> float:
    given, due = _joined(parts)
    size = float(np.linalg.norm(given) * np.linalg.norm(due))
    if not size or not np.isfinite(size):
        return 90.0
    return float(np.degrees(np.arccos(np.clip(given @ due / size, -1, 1))))


def recognised(program: AuditedCode) -> KnownNetwork | None:
    """The formula of a program's loss."""
    random = np.random.RandomState(4)
    X, y = program.form.draw(_batch_size(program, 4), random)
    points = [program.arrangement.draw(random) for _ in range(6)]
    try:
        return recognise(program.loss, points, X, y, tolerance=1e-5)
    except (ValueError, IndexError):
        return None  # of examples of a form that is not the program's


def _off_formula(program: AuditedCode, network: KnownNetwork) -> float:
    """Largest relative error of an array, by the formula of the loss."""
    at = _examples(program, network, _batch_size(program, 5), np.random.RandomState(5))
    due, given = right_gradient(at), at.gradient
    if not program.has_rate:
        scale = np.linalg.norm(vector(due)) / (np.linalg.norm(vector(given)) or 1.0)
        given = [(W * scale, b * scale) for W, b in given]
    floor = 1e-6 * float(np.abs(vector(due)).max())
    return max(
        float(np.linalg.norm(a - b) / (np.linalg.norm(b) + floor * np.sqrt(b.size)))
        for own, wanted in zip(given, due, strict=True)
        for a, b in zip(own, wanted, strict=True)
        if a.size
    )


def _examples(
    program: AuditedCode, network: KnownNetwork, n: int, random: np.random.RandomState
) -> ForwardPass:
    """Random examples at random weights, with the program's gradient."""
    at, gradient, X, y = program.drawn(n, random)
    return forward_pass(network, at, X, y, gradient)


# Which formulas stand there


def _from_formulas(
    program: AuditedCode, network: KnownNetwork, names: Names, tolerance: float
) -> list[Flaw]:
    random = np.random.RandomState(6)
    try:
        examples = [_examples(program, network, 1, random) for _ in range(_N_SINGLE)]
    except (ValueError, IndexError, ShapeError):
        return []  # one example alone is nothing that it takes
    if not all(np.isfinite(vector(at.gradient)).all() for at in examples):
        return []
    steps, own = explain_steps(examples, tolerance=tolerance), network
    if any(step.has_unknown for step in steps):
        for other in _other_networks(network):
            tried = [_through(at, other) for at in examples]
            found = explain_steps(tried, tolerance=tolerance)
            if not any(step.has_unknown for step in found) and _cost(found) < _cost(steps):
                steps, own, examples = found, other, tried
                break
    if not program.has_rate:
        steps = _without_size(steps)
    batch = _batch_ratios(program, own, steps, tolerance)
    return step_flaws(steps, batch, examples, names, network)


def _cost(steps: Sequence[LayerSteps]) -> float:
    return sum(step.cost for step in steps)


def _other_networks(network: KnownNetwork) -> list[KnownNetwork]:
    """What the gradient's own forward pass may be, where it is not that of the loss."""
    count = len(network.activations)
    others = [(name,) * count for name in ACTIVATIONS if (name,) * count != network.activations]
    return [
        dataclasses.replace(network, is_biased=False),
        *(dataclasses.replace(network, activations=each) for each in others),
    ]


def _through(at: ForwardPass, other: KnownNetwork) -> ForwardPass:
    """The same examples on their way through another network."""
    return forward_pass(other, at.layers, at.inputs[0], at.y, at.gradient)


def _without_size(steps: list[LayerSteps]) -> list[LayerSteps]:
    """Without the learning rate, which is not known, in the outputs' delta."""
    last = steps[-1]
    size = abs(last.delta.factor) or 1.0
    delta = dataclasses.replace(last.delta, factor=last.delta.factor / size)
    return [*steps[:-1], dataclasses.replace(last, delta=delta)]


_MIXED: dict[str, Callable[[ForwardPass], ForwardPass]] = {
    "": lambda at: at,  # nothing mixes the examples
    "softmax over everything": lambda at: dataclasses.replace(at, p=softmax(at.z[-1], None)),
    "softmax over the batch": lambda at: dataclasses.replace(at, p=softmax(at.z[-1], 0)),
    "labels in reverse order": lambda at: dataclasses.replace(at, y=at.y[::-1]),
    "labels of the next example": lambda at: dataclasses.replace(at, y=np.roll(at.y, -1, axis=0)),
    "labels of the example before": lambda at: dataclasses.replace(at, y=np.roll(at.y, 1, axis=0)),
    "only the first example": lambda at: _rows(at, slice(0, 1)),
    "only the last example": lambda at: _rows(at, slice(-1, None)),
    "all but the last example": lambda at: _rows(at, slice(0, -1)),
    "all but the first example": lambda at: _rows(at, slice(1, None)),
}


def _rows(at: ForwardPass, rows: slice) -> ForwardPass:
    return dataclasses.replace(
        at,
        inputs=[a[rows] for a in at.inputs],
        z=[z[rows] for z in at.z],
        p=at.p[rows],
        y=at.y[rows],
    )


def _batch_ratios(
    program: AuditedCode, network: KnownNetwork, steps: list[LayerSteps], tolerance: float
) -> BatchRatios | None:
    """Compares batches of two sizes with the sum of their examples; None: nothing fits.

    Returns:
        What mixes the examples, if anything does; and batch size -> what each array's gradient is
        of the due one, weights and bias a layer.
    """
    random = np.random.RandomState(7)
    small = _batch_size(program, 5)
    taken = {
        n: _examples(program, network, n, random) for n in (small, _batch_size(program, small + 2))
    }
    for kind, mixed in _MIXED.items():
        ratios = {
            n: found
            for n, whole in taken.items()
            if (found := _ratios(mixed(whole), n, steps, tolerance * 10)) is not None
        }
        if len(ratios) == len(taken):
            return kind, ratios
    return None


def _ratios(
    at: ForwardPass, n: int, steps: list[LayerSteps], tolerance: float
) -> list[tuple[float, float]] | None:
    """What each array's gradient is of the due one; None: it is no multiple of it."""
    due = 1.0 / n if at.network.is_mean else 1.0
    has_decay = at.network.decay or any("decay" in step.weights.kind for step in steps)
    found = []
    for layer, step in enumerate(steps):
        dW, db = at.gradient[layer]
        pair = []
        for values, formula in ((dW, step.weights), (db, step.bias)):
            # The formula of a delta that is not known is only numbers of single examples.
            is_known = not step.has_unknown and all(s.delta.kind != UNKNOWN for s in steps[layer:])
            if not is_known or not values.size or formula.factor == 0.0:
                pair.append(np.nan)
                continue
            is_bias = values.ndim == 1
            rows = formula.scaled(at)
            columns = [rows.sum(axis=0) if is_bias else rows.ravel()]
            if has_decay and not is_bias:
                columns.append(at.layers[layer][0].ravel())
            matrix = np.stack(columns, axis=1)
            fitted = np.linalg.lstsq(matrix, values.ravel(), rcond=None)[0]
            off = np.linalg.norm(matrix @ fitted - values.ravel())
            if off > tolerance * np.linalg.norm(values) + 1e-12:
                return None
            pair.append(float(fitted[0]) / due if columns[0].any() else np.nan)
        found.append((pair[0], pair[1]))
    return found
