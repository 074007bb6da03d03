"""Weights, examples and labels in the shape in which a program keeps them, and as plain arrays.

A program may keep pairs of (W, b), one flat list, two lists, a dict by names or attributes of an
object; weights may be (inputs, outputs) or (outputs, inputs); arrays may be NumPy's, JAX's or
PyTorch's.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mlp.audit.known_networks import Array, Layers
from mlp.errors import SettingError

Path = tuple[Any, ...]


def is_array(value: object) -> bool:
    """Whether it is an array or a tensor of numbers."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fiu"
    return (
        hasattr(value, "shape")
        and hasattr(value, "dtype")
        and hasattr(value, "ndim")
        and not re.search("bool|str|object|<U", str(getattr(value, "dtype", "")))
    )


def as_numpy(value: Any) -> Array:
    """The numbers of an array or tensor, in double precision."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.array(value, dtype=np.float64)


def alike(template: Any, values: Array, *, is_double: bool = True) -> Any:
    """Numbers as the kind of array that the template is.

    Args:
        is_double: floating numbers in double precision, whatever the template has.
    """
    if isinstance(template, np.ndarray):
        kind = template.dtype
        return np.array(values, dtype=np.float64 if is_double and kind.kind == "f" else kind)
    if hasattr(template, "new_tensor"):
        own = template.double() if is_double and "float" in str(template.dtype) else template
        made = own.new_tensor(values.tolist()).reshape(tuple(values.shape))
        return made.requires_grad_(True) if getattr(template, "requires_grad", False) else made
    if hasattr(template, "at"):  # JAX
        return template.at[...].set(np.asarray(values))
    return np.asarray(values)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All arrays in lists, tuples and dicts, with the way to each."""
    if is_array(value):
        yield path, value
    elif isinstance(value, Mapping):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            if isinstance(each, float | int) and path == () and not isinstance(each, bool):
                continue  # a loss beside the gradient
            yield from leaves(each, (*path, index))


def rebuilt(value: Any, new: Mapping[Path, Any], path: Path = ()) -> Any:
    """The same lists and dicts with other arrays."""
    if path in new:
        return new[path]
    if isinstance(value, Mapping):
        made = {key: rebuilt(each, new, (*path, key)) for key, each in value.items()}
        return made if type(value) is dict else type(value)(made)  # type: ignore[call-arg]
    if isinstance(value, list | tuple):
        items = [rebuilt(each, new, (*path, index)) for index, each in enumerate(value)]
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Where the weights and biases of each layer are.

    Attributes:
        template: a program's own parameters.
        weights: way to the weights of each layer.
        biases: way to the biases, None for a layer without.
        are_transposed: whether weights are (outputs, inputs).
    """

    template: Any
    weights: tuple[Path, ...]
    biases: tuple[Path | None, ...]
    are_transposed: bool
    is_double: bool = True

    def name(self, layer: int, *, bias: bool = False) -> str:
        """As the program calls it, `W2` where it has no name for it."""
        path = self.biases[layer] if bias else self.weights[layer]
        if path and isinstance(path[-1], str) and path[-1].isidentifier():
            return path[-1]
        return f"{'b' if bias else 'W'}{layer + 1}"

    @cached_property
    def _found(self) -> dict[Path, Any]:
        return dict(leaves(self.template))

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer."""
        found = self._found
        shapes = [_shape_of(found[path]) for path in self.weights]
        return [(s[1], s[0]) if self.are_transposed else (s[0], s[1]) for s in shapes]

    def own(self, layers: Layers) -> Any:
        """Layers as the program keeps them."""
        found = self._found
        new = {}
        for (W, b), weights, biases in zip(layers, self.weights, self.biases, strict=True):
            W_own = W.T if self.are_transposed else W
            W_own = W_own.reshape(tuple(found[weights].shape))
            new[weights] = alike(found[weights], W_own, is_double=self.is_double)
            if biases is not None:
                shape = tuple(found[biases].shape)
                new[biases] = alike(found[biases], b.reshape(shape), is_double=self.is_double)
        return rebuilt(self.template, new)

    def layers(self, params: Any) -> Layers:
        """The program's parameters as layers."""
        found = dict(leaves(params))
        made = []
        for layer, (weights, biases) in enumerate(zip(self.weights, self.biases, strict=True)):
            W = as_numpy(found[weights]).reshape(_shape_of(self._found[weights]))
            W = W.T if self.are_transposed else W
            n_out = self.shapes[layer][1]
            b = np.zeros(n_out) if biases is None else as_numpy(found[biases]).reshape(n_out)
            made.append((W, b))
        return made

    def gradient(self, value: Any) -> Layers:
        """A gradient as layers; without a bias its part is empty.

        Raises:
            ShapeError: where a part has not the shape of what it is the gradient of.
        """
        found = list(leaves(value))
        due = self._found
        ways = [path for path in due if path in {*self.weights, *self.biases}]
        parts = _matched(found, ways, due)
        made: Layers = []
        for weights, biases in zip(self.weights, self.biases, strict=True):
            W = parts[weights].reshape(_shape_of(due[weights]))
            b = np.zeros(0) if biases is None else parts[biases].reshape(-1)
            made.append((W.T if self.are_transposed else W, b))
        return made

    def draw(self, random: np.random.RandomState) -> Layers:
        """Random weights at which no unit is saturated."""
        return [
            (
                random.randn(n_in, n_out) * 1.2 / np.sqrt(n_in),
                random.randn(n_out) * 0.5 if biases is not None else np.zeros(n_out),
            )
            for (n_in, n_out), biases in zip(self.shapes, self.biases, strict=True)
        ]


class ShapeError(Exception):
    """A gradient's part of another shape than its parameter.

    Attributes:
        path: of the parameter.
        shape: of the gradient.
        due: shape of the parameter.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], due: tuple[int, ...]) -> None:
        """Notes both shapes."""
        super().__init__(path)
        self.path, self.shape, self.due = path, shape, due


def arrange(params: Any, n_inputs: int | None = None) -> Arrangement:
    """How a program keeps its weights.

    Args:
        n_inputs: of an example, where it is known; decides about square weights.

    Raises:
        SettingError: where these are no layers.
    """
    found = list(leaves(params))
    kinds = [_kind_of(index, found) for index in range(len(found))]
    weights, biases = (
        sorted(
            (leaf for leaf, kind in zip(found, kinds, strict=True) if kind == wanted), key=_order
        )
        for wanted in ("W", "b")
    )
    if any(value.ndim == 1 for _, value in weights[:-1]):  # no layers: gains, or a cache
        weights = [leaf for leaf in weights if leaf[1].ndim == 2]
    if not weights:
        is_dict = isinstance(params, Mapping)
        keys = f"has the keys {', '.join(map(str, list(params)[:8]))}" if is_dict else ""
        raise SettingError(
            "params must be weights and biases: a list of (W, b), or a dict with W1, b1, W2, ...;"
            f" but {keys or f'is {type(params).__name__}'}"
        )
    shapes = [_shape_of(value) for _, value in weights]
    plain = _chain(shapes) and n_inputs in (None, shapes[0][0])
    turned = _chain([s[::-1] for s in shapes]) and n_inputs in (None, shapes[0][1])
    sizes = [int(np.prod(value.shape)) for _, value in biases]
    if plain and turned:  # one layer, or square ones: the bias tells
        plain = not sizes or sizes[0] == shapes[0][1]
    if not plain and not turned:
        text = ", ".join(str(s) for s in shapes)
        given = "" if n_inputs is None else f" for {n_inputs} inputs"
        raise SettingError(f"the weights' shapes must follow on each other{given}, but are {text}")
    outputs = [s[1] if plain else s[0] for s in shapes]
    return Arrangement(
        params,
        tuple(path for path, _ in weights),
        tuple(_biases_of(outputs, biases)),
        not plain,
    )


def _shape_of(weights: Any) -> tuple[int, int]:
    """Of weights as they are kept; those of a single output may be one line of numbers."""
    shape = tuple(weights.shape)
    return (shape[0], 1) if len(shape) == 1 else (shape[0], shape[1])


def _biases_of(outputs: Sequence[int], biases: Sequence[tuple[Path, Any]]) -> Iterator[Path | None]:
    rest = list(biases)
    for n_left, size in zip(range(len(outputs), 0, -1), outputs, strict=True):
        fits = rest and int(np.prod(rest[0][1].shape)) == size
        if fits and len(rest) <= n_left:
            yield rest.pop(0)[0]
        else:
            yield None


def _chain(shapes: Sequence[tuple[int, ...]]) -> bool:
    return all(a[1] == b[0] for a, b in itertools.pairwise(shapes))


_WEIGHT = re.compile(r"^_*(w|theta|kernel|weight)", re.IGNORECASE)
_BIAS = re.compile(r"^_*(b|bias|offset)", re.IGNORECASE)


def _kind_of(index: int, found: Sequence[tuple[Path, Any]]) -> str:
    """W or b, by the names on the way to an array, else by its place and shape; empty: neither."""
    path, value = found[index]
    words = [word for word in path if isinstance(word, str)]
    kinds = [
        kind
        for word in reversed(words)
        for kind, start in (("b", _BIAS), ("W", _WEIGHT))
        if start.match(word)
    ]
    named = kinds[0] if kinds else "b" if value.ndim != 2 or _is_second(index, found) else "W"
    # A single output may have a line of weights and a number for its bias; a name tells.
    is_known = value.ndim == 1 or (value.ndim == 0 and bool(kinds) and named == "b")
    return named if value.ndim == 2 or is_known else ""


def _is_second(index: int, found: Sequence[tuple[Path, Any]]) -> bool:
    """Whether it stands behind the weights it belongs to, and is as long as they are wide."""
    if index % 2 == 0:
        return False
    (path_before, before), (path, value) = found[index - 1 : index + 1]
    is_thin = value.ndim == 1 or 1 in tuple(value.shape)
    is_behind = before.ndim == 2 and path[:-1] == path_before[:-1]
    return is_thin and is_behind and int(np.prod(value.shape)) in tuple(before.shape)


def _order(leaf: tuple[Path, Any]) -> tuple[int, ...]:
    numbers = [int(n) for word in leaf[0] for n in re.findall(r"\d+", str(word))]
    return tuple(numbers)


def bare(word: object) -> str:
    """A gradient's key as that of its parameter: dW1, grad_W1, W1_grad, nabla_W1 are W1."""
    text = re.sub(r"^(d|g|grad|nabla|delta)_?(?=[WwbBt])|[_.]?grad(ient)?s?$", "", str(word))
    return text.replace("_", "").lower()


def _matched(
    found: Sequence[tuple[Path, Any]], ways: Sequence[Path], due: Mapping[Path, Any]
) -> dict[Path, Array]:
    by_name = {bare(path[-1]): value for path, value in found if _has_name(path)}
    if all(_has_name(path) and bare(path[-1]) in by_name for path in ways):
        pairs = [(path, by_name[bare(path[-1])]) for path in ways]
    else:
        values = [value for _, value in found]
        sizes = [int(np.prod(due[path].shape)) for path in ways]
        orders = [values, values[::-1], *_regrouped(values)]
        fitting = [order for order in orders if [as_numpy(v).size for v in order] == sizes]
        if not fitting and len(values) != len(ways):
            raise SettingError(
                f"gradient must give a part for each of the {len(ways)} arrays in params, but"
                f" gives {len(values)}"
            )
        pairs = list(zip(ways, (fitting or orders)[0], strict=True))
    parts = {}
    for path, value in pairs:
        shape, wanted_shape = tuple(value.shape), tuple(due[path].shape)
        is_same = shape == wanted_shape or (
            1 in (*wanted_shape, len(wanted_shape))
            and tuple(n for n in shape if n > 1) == tuple(n for n in wanted_shape if n > 1)
        )
        if not is_same:
            raise ShapeError(path, shape, wanted_shape)
        parts[path] = as_numpy(value).reshape(wanted_shape)
    return parts


def _has_name(path: Path) -> bool:
    return bool(path) and isinstance(path[-1], str)


def _regrouped(values: list[Any]) -> Iterator[list[Any]]:
    """Biases before weights, or pairs from the last layer to the first."""
    half = len(values) // 2
    yield values[half:] + values[:half]
    yield [
        values[i + k] for i in range(len(values) - 2, -1, -2) for k in (0, 1) if i + k < len(values)
    ]
    yield values[half:][::-1] + values[:half][::-1]
    yield values[:half][::-1] + values[half:][::-1]


# Examples and labels


@dataclass(frozen=True, eq=False)
class ExampleForm:
    """How a program wants its examples and labels.

    Attributes:
        X: a program's own examples, for their kind and shape; None: rows of NumPy's doubles.
        y: its labels; None: NumPy's.
        in_columns: whether an example is a column of X.
        labels: classes (0, 1, ...), one-hot, binary (0 or 1 an output), or real.
        y_ndim: 1, or 2 for a row (or column) an example.
    """

    X: Any
    y: Any
    n_inputs: int
    n_outputs: int
    in_columns: bool
    labels: str
    y_ndim: int
    is_double: bool = True

    def draw(self, n: int, random: np.random.RandomState) -> tuple[Array, Array]:
        """Plain examples (example, input) and targets (example, output)."""
        X = random.randn(n, self.n_inputs)
        if self.labels == "real":
            return X, random.randn(n, self.n_outputs)
        if self.labels == "binary":
            y = (random.rand(n, self.n_outputs) < 0.5).astype(np.float64)
            if n > 1:
                y[0], y[-1] = 0.0, 1.0
            return X, y
        classes = random.permutation(np.arange(n) % self.n_outputs)
        if n == 1:
            classes = random.randint(self.n_outputs, size=1)
        elif classes[0] == classes[-1]:  # in reverse order they must not be the same
            other = int(np.flatnonzero(classes != classes[0])[0])
            classes[[other, -1]] = classes[[-1, other]]
        return X, np.eye(self.n_outputs)[classes]

    def own(self, X: Array, y: Array) -> tuple[Any, Any]:
        """Plain examples and targets as the program takes them."""
        X_own = X.T if self.in_columns else X
        if self.labels == "classes":
            classes = y.argmax(axis=1)
            y_own = classes if self.y_ndim == 1 else classes[:, None]
        else:
            y_own = y[:, 0] if self.y_ndim == 1 else y
        if self.in_columns and self.y_ndim == 2:
            y_own = y_own.T
        like_X = np.zeros(1) if self.X is None else self.X
        like_y = np.zeros(1, dtype=np.int64 if self.labels == "classes" else np.float64)
        if "int" not in str(like_X.dtype):
            X_own = alike(like_X, X_own, is_double=self.is_double)
        y_own = alike(like_y if self.y is None else self.y, y_own, is_double=self.is_double)
        return X_own, y_own


def form_of(X: Any, y: Any, n_inputs: int, n_outputs: int) -> ExampleForm | None:
    """How a program's own examples and labels look; None: these do not fit the network."""
    shape = tuple(X.shape)
    if len(shape) != 2 or n_inputs not in shape:
        return None
    values = as_numpy(y)
    in_columns = shape[1] != n_inputs or (
        shape[0] == n_inputs and values.shape[-1] == shape[1] != values.shape[0]
    )
    n = shape[1] if in_columns else shape[0]
    rows = values.T if in_columns and values.ndim == 2 else values
    if rows.ndim not in (1, 2) or len(rows) != n:
        return None
    width = 1 if rows.ndim == 1 else rows.shape[1]
    is_whole = bool(np.isin(rows, (0, 1)).all())
    if width == n_outputs:
        is_hot = is_whole and width > 1 and bool((rows.sum(axis=1) == 1).all())
        labels = "one-hot" if is_hot else "binary" if is_whole else "real"
    elif width == 1 and bool((rows == np.round(rows)).all()) and rows.max() < n_outputs:
        labels = "classes"
    else:
        return None
    return ExampleForm(X, y, n_inputs, n_outputs, in_columns, labels, rows.ndim)


def likely_forms(n_inputs: int, n_outputs: int) -> list[ExampleForm]:
    """What a program may take of which no examples are known, likeliest first."""
    plain = ExampleForm(None, None, n_inputs, n_outputs, False, "", 2)
    kinds = [("binary", 2), ("binary", 1), ("real", 2), ("real", 1)]
    if n_outputs > 1:
        kinds = [("classes", 1), ("one-hot", 2), ("binary", 2), ("real", 2), ("classes", 2)]
    return [
        replace(plain, labels=labels, y_ndim=ndim, in_columns=turned)
        for turned in (False, True)
        for labels, ndim in kinds
    ]
