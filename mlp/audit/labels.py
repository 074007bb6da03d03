"""Examples and labels that an audit draws, in the form in which a program takes them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlp.audit.known_networks import Array
from mlp.audit.parameters import alike, as_numpy


@dataclass(frozen=True, eq=False)
class ExampleForm:
    """How a program wants its examples and labels.

    Attributes:
        X: a program's own examples, for their kind and shape; None: rows of NumPy's doubles.
        y: its labels; None: NumPy's.
        n_inputs: of an example.
        n_outputs: of the network.
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
        like_y = np.zeros(1, dtype=np.int64 if self.labels == "classes" else np.float64)
        return (
            alike(np.zeros(1) if self.X is None else self.X, X_own, is_double=self.is_double)
            if self.X is None or "int" not in str(self.X.dtype)
            else X_own,
            alike(like_y if self.y is None else self.y, y_own, is_double=self.is_double),
        )


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
