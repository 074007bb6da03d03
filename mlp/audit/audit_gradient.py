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

from mlp.audit.backward_steps import UNKNOWN, Example, LayerSteps, explain_steps
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
    habit_flaw,
    shape_flaw,
    single_flaw,
    step_flaws,
)
from mlp.errors import SettingError

# Entries of an array that are drawn for differences; a known formula is compared in all entries.
_MOST, _MOST_UNKNOWN = 6, 100
_N_SINGLE = 8  # examples looked at one by one: enough that no two formulas agree on all
_WRONG, _WRONG_FLOAT32 = 1e-4, 2e-2  # relative error from which a gradient is wrong
_FITS, _FITS_FLOAT32 = 1e-5, 2e-3  # relative error up to which a formula is that of the code
_STEPS = 1e-3, 1e-4, 1e-5, 1e-6  # of differences


@dataclass(frozen=True, eq=False)
class Program:
    """A loss and its gradient, however the code offers them.

    Attributes:
        loss: of layers, plain examples and plain targets.
        gradient: of the same; gives the layers at which it was taken, and the gradient. A training
            function chooses its own weights and is called without.
        has_own_weights: whether it does.
        has_rate: whether the gradient's size is known; else it is known up to a positive factor.
        called_raw: the gradient without the same random numbers in each call; None: not to be had.
        changed: names of arguments that the last call of the gradient has changed.
    """

    arrangement: Arrangement
    form: ExampleForm
    loss: Callable[[Layers, Array, Array], float]
    gradient: Callable[[Layers | None, Array, Array], tuple[Layers, Layers]]
    has_own_weights: bool = False
    has_rate: bool = True
    called_raw: Callable[[Layers, Array, Array], Layers] | None = None
    changed: Callable[[], list[str]] = list

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
    return audit_program(program, Names.of(program.arrangement)).flaws


# A pair of functions as a program


def program_of_functions(
    loss: Callable[[Any, Any, Any], Any],
    gradient: Callable[[Any, Any, Any], Any],
    params: Any,
    X: Any = None,
    y: Any = None,
) -> Program:
    """Two functions of (params, X, y) as a program; without X and y their form is found by trial.

    Raises:
        SettingError: for params, examples or results that are none.
    """
    arrangement, forms = arranged(params, X, y)
    is_double = True
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


def _functions(
    loss: Callable[[Any, Any, Any], Any],
    gradient: Callable[[Any, Any, Any], Any],
    arrangement: Arrangement,
    form: ExampleForm,
) -> Program:
    changed: list[str] = []

    def loss_of(layers: Layers, X: Array, y: Array) -> float:
        same_random_numbers()
        return number(loss(arrangement.own(layers), *form.own(X, y)))

    def raw(layers: Layers, X: Array, y: Array) -> Layers:
        own, (X_own, y_own) = arrangement.own(layers), form.own(X, y)
        value = gradient(own, X_own, y_own)
        is_same = np.array_equal(_vector(layers), _vector(arrangement.layers(own)))
        changed[:] = [] if is_same or not arrangement.is_double else ["params"]
        if not np.array_equal(as_numpy(X_own), as_numpy(form.own(X, y)[0])):
            changed.append("X")
        return arrangement.gradient(value)

    def gradient_of(layers: Layers | None, X: Array, y: Array) -> tuple[Layers, Layers]:
        assert layers is not None
        same_random_numbers()
        return layers, raw(layers, X, y)

    return Program(
        arrangement, form, loss_of, gradient_of, called_raw=raw, changed=lambda: list(changed)
    )


def number(value: Any) -> float:
    """A loss as a number.

    Raises:
        SettingError: for an array of several.
    """
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


def audit_program(program: Program, names: Names) -> Audit:
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
        compared = _compared(program, network, is_float32=is_float32)
    except ShapeError as error:
        wrong_shape = shape_flaw(error, program.arrangement, names)
        return Audit((*flaws, wrong_shape), 1.0, 0, 0, text)
    if is_float32:
        notes.append("it computes in single precision, so the limits are wider")
    largest, wrong = max(part.error for part in compared), _wrong(compared, is_float32=is_float32)
    tolerance = _FITS_FLOAT32 if is_float32 else _FITS
    if is_float32 and wrong and network:
        off = _off_formula(program, network)
        if off <= tolerance:  # differences are too coarse to tell
            largest, wrong = off, []
    if wrong and network and names.rate and _steps_one_by_one(program, network, names.rate):
        notes.append("it changes the weights after each example, each time by the right gradient")
        largest, wrong = tolerance, []
    if wrong:
        found = _from_formulas(program, network, names, tolerance) if network else []
        flaws += found or _from_parts(wrong, names)
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
    program: Program, network: KnownNetwork | None, *, is_float32: bool
) -> list["ComparedPart"]:
    """Each array beside differences, at weights at which it is wrong if there are such."""
    random = np.random.RandomState(0)
    most = _MOST_UNKNOWN if network is None else _MOST
    for _ in range(2 if network is None else 1):
        compared = _compare(program, random, most)
        if _wrong(compared, is_float32=is_float32):
            return compared
    if network and _off_formula(program, network) > (_WRONG_FLOAT32 if is_float32 else _WRONG):
        return _compare(program, random, None)  # in entries that were not drawn
    return compared


def _steps_one_by_one(program: Program, network: KnownNetwork, rate: float) -> bool:
    """Whether a pass of a training function is a right step for each example, in any order."""
    if not program.has_own_weights:
        return False
    X, y = program.form.draw(3, np.random.RandomState(8))
    at, gradient = program.gradient(None, X, y)
    for order in itertools.permutations(range(3)):
        layers = at
        for k in order:
            steps = right_gradient(forward_pass(network, layers, X[k : k + 1], y[k : k + 1]))
            layers = [
                (W - rate * dW, b - rate * db)
                for (W, b), (dW, db) in zip(layers, steps, strict=True)
            ]
        due = (_vector(at) - _vector(layers)) / rate
        if np.linalg.norm(_vector(gradient) - due) < 1e-6 * np.linalg.norm(due):
            return True
    return False


def _wrong(parts: Sequence["ComparedPart"], *, is_float32: bool) -> list["ComparedPart"]:
    limit = _WRONG_FLOAT32 if is_float32 else _WRONG
    return [part for part in parts if part.error > max(limit, 10 * part.uncertainty)]


def _one_by_one(program: Program, network: KnownNetwork | None) -> Program | None:
    """A gradient that is meant for one example, a column, as one for several; None: it is not."""
    if not program.form.in_columns or program.form.X is not None or program.called_raw is None:
        return None
    random = np.random.RandomState(9)
    weights, several = program.arrangement.draw(random), program.form.draw(3, random)
    try:
        program.gradient(weights, several[0][:1], several[1][:1])
    except ShapeError:
        return None
    try:
        program.gradient(weights, *several)
    except ShapeError:
        return dataclasses.replace(program, gradient=_summed(program, network), called_raw=None)
    return None


def _summed(
    program: Program, network: KnownNetwork | None
) -> Callable[[Layers | None, Array, Array], tuple[Layers, Layers]]:
    def gradient(layers: Layers | None, X: Array, y: Array) -> tuple[Layers, Layers]:
        assert layers is not None
        n = len(X) if network and network.is_mean else 1
        each = [program.gradient(layers, X[k : k + 1], y[k : k + 1])[1] for k in range(len(X))]
        total = np.sum([_vector(g) for g in each], axis=0) / n
        return layers, _as_layers(total, each[0])

    return gradient


def _habits(program: Program, names: Names) -> tuple[list[Flaw], list[str], Program]:
    """What a gradient does beside being one: it changes its arguments, remembers, or is random."""
    if program.called_raw is None:
        return [], [], program
    random = np.random.RandomState(2)
    layers, (X, y) = program.arrangement.draw(random), program.form.draw(4, random)
    calls = [_vector(program.called_raw(layers, X, y)) for _ in range(3)]
    flaws = [habit_flaw(f"changes {name}", names) for name in program.changed()]
    first, second, third = calls
    size = float(np.linalg.norm(first)) or 1.0
    if np.linalg.norm(second - first) < 1e-6 * size:
        return flaws, [], program
    growth = second - first
    if np.linalg.norm(third - second - growth) < 1e-6 * size and (
        np.linalg.norm(growth - first) < 1e-6 * size or np.linalg.norm(growth) > 0.2 * size
    ):
        return [*flaws, habit_flaw("accumulates", names)], [], _increments(program, third)
    note = "it draws random numbers: compared with the same ones in each call"
    return flaws, [note], program


def _increments(program: Program, last: Array) -> Program:
    """A gradient that accumulates, less what it had accumulated."""
    total = last

    def gradient(layers: Layers | None, X: Array, y: Array) -> tuple[Layers, Layers]:
        nonlocal total
        at, sums = program.gradient(layers, X, y)
        now = _vector(sums)
        own, total = now - total, now
        return at, _as_layers(own, sums)

    return dataclasses.replace(program, gradient=gradient)


def _vector(layers: Layers) -> Array:
    return np.concatenate([part.ravel() for pair in layers for part in pair])


def _as_layers(values: Array, like: Layers) -> Layers:
    made, start = [], 0
    for pair in like:
        parts = []
        for part in pair:
            parts.append(values[start : start + part.size].reshape(part.shape))
            start += part.size
        made.append((parts[0], parts[1]))
    return made


def _has_few_digits(program: Program) -> bool:
    """Whether the loss does not notice a change in the ninth digit."""
    random = np.random.RandomState(3)
    layers, (X, y) = program.arrangement.draw(random), program.form.draw(4, random)
    values = {
        program.loss([(W * (1 + s), b) for W, b in layers], X, y) for s in (0, 1e-9, 2e-9, 3e-9)
    }
    return len(values) < 4


def _batch_size(program: Program, least: int) -> int:
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
    program: Program, random: np.random.RandomState, most: int | None
) -> list[ComparedPart]:
    at, gradient, X, y = program.drawn(_batch_size(program, 5), random)
    flat = _vector(at)

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
        size = _norm([part.due for part in parts]) / (_norm([p.given for p in parts]) or 1.0)
    floor = 1e-6 * max(float(np.abs(part.due).max()) for part in parts)
    return [dataclasses.replace(part, given=size * part.given, floor=floor) for part in parts]


def _norm(arrays: Sequence[Array]) -> float:
    return float(np.linalg.norm(np.concatenate(arrays)))


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
    given = np.concatenate([part.given for part in parts])
    due = np.concatenate([part.due for part in parts])
    size = float(np.linalg.norm(given) * np.linalg.norm(due))
    if not size or not np.isfinite(size):
        return 90.0
    return float(np.degrees(np.arccos(np.clip(given @ due / size, -1, 1))))


def recognised(program: Program) -> KnownNetwork | None:
    """The formula of a program's loss."""
    random = np.random.RandomState(4)
    X, y = program.form.draw(_batch_size(program, 4), random)
    points = [program.arrangement.draw(random) for _ in range(6)]
    try:
        return recognise(program.loss, points, X, y, tolerance=1e-5)
    except (ValueError, IndexError):
        return None  # of examples of a form that is not the program's


def _off_formula(program: Program, network: KnownNetwork) -> float:
    """Largest relative error of an array, by the formula of the loss."""
    at, gradient, X, y = program.drawn(_batch_size(program, 5), np.random.RandomState(5))
    due = right_gradient(forward_pass(network, at, X, y))
    given = gradient
    if not program.has_rate:
        scale = np.linalg.norm(_vector(due)) / (np.linalg.norm(_vector(gradient)) or 1.0)
        given = [(W * scale, b * scale) for W, b in gradient]
    floor = 1e-6 * float(np.abs(_vector(due)).max())
    return max(
        float(np.linalg.norm(a - b) / (np.linalg.norm(b) + floor * np.sqrt(b.size)))
        for own, wanted in zip(given, due, strict=True)
        for a, b in zip(own, wanted, strict=True)
        if a.size
    )


# Which formulas stand there


def _from_formulas(
    program: Program, network: KnownNetwork, names: Names, tolerance: float
) -> list[Flaw]:
    random = np.random.RandomState(6)
    drawn = []
    for _ in range(_N_SINGLE):
        try:
            at, gradient, X, y = program.drawn(1, random)
        except (ValueError, IndexError, ShapeError):
            return []  # one example alone is nothing that it takes
        if not np.isfinite(_vector(gradient)).all():
            return []
        drawn.append((at, gradient, X, y))
    examples = [Example(forward_pass(network, at, X, y), g) for at, g, X, y in drawn]
    steps = explain_steps(examples, tolerance=tolerance)
    own_forward = ""
    if any(_has_unknown(step) for step in steps):
        for said, other, is_biased in _other_networks(network):
            tried = [
                Example(forward_pass(other, at if is_biased else _unbiased(at), X, y), g)
                for at, g, X, y in drawn
            ]
            found = explain_steps(tried, tolerance=tolerance)
            if not any(_has_unknown(step) for step in found) and _cost(found) < _cost(steps):
                steps, own_forward = found, said
                network, examples = other, tried
                break
    if not program.has_rate:
        steps = _without_size(steps)
    batch = _batch_ratios(program, network, steps, tolerance, is_biased="bias" not in own_forward)
    return step_flaws(steps, batch, examples, names, own_forward)


def _has_unknown(steps: LayerSteps) -> bool:
    return UNKNOWN in (steps.delta.kind, steps.weights.kind, steps.bias.kind)


def _cost(steps: Sequence[LayerSteps]) -> float:
    return sum(step.cost for step in steps)


def _other_networks(network: KnownNetwork) -> list[tuple[str, KnownNetwork, bool]]:
    """What the gradient's own forward pass may be, where it is not that of the loss."""
    count = len(network.activations)
    others = [
        (
            f"{name} in place of {', '.join(sorted(set(network.activations)))}",
            dataclasses.replace(network, activations=(name,) * count),
            True,
        )
        for name in ACTIVATIONS
        if count and (name,) * count != network.activations
    ]
    return [("no bias", network, False), *others]


def _unbiased(layers: Layers) -> Layers:
    return [(W, np.zeros_like(b)) for W, b in layers]


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
    program: Program,
    network: KnownNetwork,
    steps: list[LayerSteps],
    tolerance: float,
    *,
    is_biased: bool,
) -> BatchRatios | None:
    """Compares batches of two sizes with the sum of their examples; None: nothing fits.

    Returns:
        What mixes the examples, if anything does; and batch size -> what each array's gradient is
        of the due one, weights and bias a layer.
    """
    random = np.random.RandomState(7)
    least = 5
    taken = []
    for _ in range(2):
        n = _batch_size(program, least)
        least = n + 2
        at, gradient, X, y = program.drawn(n, random)
        taken.append((forward_pass(network, at if is_biased else _unbiased(at), X, y), gradient))
    for kind, mixed in _MIXED.items():
        ratios = {
            len(whole.y): found
            for whole, given in taken
            if (found := _ratios(mixed(whole), whole, given, steps, tolerance * 10)) is not None
        }
        if len(ratios) == len(taken):
            return kind, ratios
    return None


def _ratios(
    at: ForwardPass,
    whole: ForwardPass,
    gradient: Layers,
    steps: list[LayerSteps],
    tolerance: float,
) -> list[tuple[float, float]] | None:
    due = 1.0 / len(whole.y) if at.network.is_mean else 1.0
    found = []
    is_single = at.network.decay or any("decay" in step.weights.kind for step in steps)
    for layer, (step, (dW, db)) in enumerate(zip(steps, gradient, strict=True)):
        if _has_unknown(step):
            found.append((np.nan, np.nan))
            continue
        pair = []
        W = at.layers[layer][0]
        for values, formula in ((dW, step.weights), (db, step.bias)):
            if not values.size or formula.factor == 0.0:
                pair.append(np.nan)
                continue
            rows = formula.values(at)
            wanted = formula.factor * (rows if values.ndim == 2 else rows.sum(axis=0))
            columns = [wanted.ravel()]
            if values.ndim == 2 and is_single:
                columns.append(W.ravel())
            matrix = np.stack(columns, axis=1)
            fitted = np.linalg.lstsq(matrix, values.ravel(), rcond=None)[0]
            off = np.linalg.norm(matrix @ fitted - values.ravel())
            size = np.linalg.norm(values)
            if off > tolerance * size + 1e-12:
                return None
            pair.append(float(fitted[0]) / due if wanted.any() else np.nan)
        found.append((pair[0], pair[1]))
    return found


def _from_parts(wrong: Sequence[ComparedPart], names: Names) -> list[Flaw]:
    """What can be said without a formula: arrays that are wrong, and by which factor."""
    flaws: dict[tuple[int, bool], Flaw] = {}
    for part in wrong:
        key = part.layer, part.is_bias
        if key not in flaws or flaws[key].size < part.error:
            flaws[key] = single_flaw(part.layer, part.is_bias, part.error, part.factor, names)
    return list(flaws.values())
