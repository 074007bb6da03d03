"""What a user's file offers, without running its main part.

Imports, functions and classes are executed, and of the other statements those that give a name
which the audited functions need. A statement that calls an audited function is left out: it trains.
"""

import ast
import contextlib
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mlp.audit.parameters import bare, is_array
from mlp.errors import DataError, one_line

_WORDS = {
    "examples": "X_train x_train X_tr train_X X x inputs data images xs",
    "labels": "y_train Y_train y_tr train_y train_Y y Y labels targets t ys",
    "sets up": "seed manual_seed seterr filterwarnings simplefilter use set_default_dtype",
    "fills": "append extend insert update add setdefault",
}
_EXAMPLES, _LABELS, _SETS_UP, _FILLS = (words.split() for words in _WORDS.values())
_ARRAYS = ("w", "ws", "weight", "weights"), ("b", "bs", "bias", "biases")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(eq=False)
class OwnFile:
    """A file as it is written, and what of it was executed.

    Attributes:
        functions: at the top, by name.
        classes: at the top, by name.
        namespace: what was executed has left; empty before `execute`.
        data_names: of the global examples and labels, None where there are none.
        n_examples: of the file's own data.
    """

    path: Path
    tree: ast.Module
    lines: Sequence[str]
    functions: dict[str, Function]
    classes: dict[str, ast.ClassDef]
    namespace: dict[str, Any] = field(default_factory=dict)
    data_names: tuple[str | None, str | None] = (None, None)
    n_examples: int | None = None
    _again: list[tuple[ast.stmt, types.CodeType]] = field(default_factory=list)
    _counts: list[str] = field(default_factory=list)
    _width: int = 0

    def execute(
        self, targets: Sequence[str], typed: Mapping[str, str], names: Sequence[str]
    ) -> None:
        """Executes what the targets need.

        Args:
            targets: functions and classes to be audited.
            typed: expressions for X and y, in place of the file's own.
            names: further global names that are needed, where the file has them.

        Raises:
            DataError: for a statement that fails, with its line.
        """
        module = types.ModuleType("own_file")
        module.__file__ = str(self.path)
        sys.modules["own_file"] = module
        self.namespace = module.__dict__
        os.chdir(self.path.parent)
        sys.path.insert(0, str(self.path.parent))
        training = self._callers({name for name in targets if name in self.functions})
        needed = self._needed(targets, names)
        X, y = self._data_names(needed)
        needed |= self._needed([], [n for n in (X, y) if n])
        chosen = [s for s in self.tree.body if self._is_run(s, needed, training)]
        given = {
            name: typed[key] for name, key in ((X or "X", "X"), (y or "y", "y")) if key in typed
        }
        for statement in chosen:
            if given and set(_bound(statement)) & set(given):
                self._give(given)
            else:
                self._run(statement, is_data=bool({X, y} & set(_bound(statement))))
        self._give(given)
        self.data_names = tuple(
            name if is_array(self.namespace.get(name or "")) else None
            for name in (X or "X", y or "y")
        )  # type: ignore[assignment]
        self._note_dependents(chosen)

    def _give(self, given: dict[str, str]) -> None:
        for name, text in given.items():
            if name not in self.namespace:
                self.namespace[name] = self.value(text)

    def value(self, text: str) -> Any:
        """An expression that was typed, with the file's names.

        Raises:
            DataError: where it fails.
        """
        self.namespace.setdefault("np", __import__("numpy"))
        try:
            return eval(text, self.namespace)  # typed on this command line
        except Exception as error:  # noqa: BLE001  whatever the expression raises
            raise DataError(f"{text!r} raises {told(error)}") from None

    def set_data(self, X: Any, y: Any) -> None:
        """Puts other examples in the place of the file's own, and all that was computed of them."""
        for name, value in zip(self.data_names, (X, y), strict=True):
            if name:
                self.namespace[name] = value
        n = max(X.shape) if self.n_examples is None else _count(X, self._width)
        for name in self._counts:
            self.namespace[name] = n
        for statement, code in self._again:
            self._run(statement, code)

    def arguments(self, name: str) -> tuple[list[Any], dict[str, Any]] | None:
        """What the file calls a function with, where that can be computed from globals."""
        for node in ast.walk(self.tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id == name
            ):
                with contextlib.suppress(Exception):  # names of another place
                    return self.given_in(node)
        return None

    def given_in(self, call: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        """The values of a call's arguments: by place, and by name."""

        def value(node: ast.expr) -> Any:
            return eval(compile(ast.Expression(node), "", "eval"), self.namespace)

        return [value(a) for a in call.args], {
            k.arg: value(k.value) for k in call.keywords if k.arg
        }

    def _compiled(self, statement: ast.stmt) -> types.CodeType:
        return compile(ast.Module([statement], []), str(self.path), "exec")

    def _run(
        self, statement: ast.stmt, code: types.CodeType | None = None, *, is_data: bool = False
    ) -> None:
        try:
            exec(code or self._compiled(statement), self.namespace)
        except Exception as error:  # noqa: BLE001  whatever a foreign statement raises
            if is_data and not isinstance(error, NameError):
                self.namespace["__data_fault__"] = f"line {statement.lineno} raises {told(error)}"
                return
            fault = self.namespace.get("__data_fault__")
            text = fault or f"line {statement.lineno} raises {told(error)}"
            way = "; give examples yourself: X='np.random.rand(6, 784)' y='...'" if fault else ""
            raise DataError(f"{self.path.name}: {text}{way}") from None

    def _callers(self, names: set[str]) -> set[str]:
        """The functions and those that call them, directly or through others."""
        found = set(names)
        while True:
            more = {
                name
                for name, node in self.functions.items()
                if name not in found and found & _loaded(node)
            }
            if not more:
                return found
            found |= more

    def _needed(self, targets: Sequence[str], names: Sequence[str]) -> set[str]:
        """Global names on which these hang."""
        needed = {*targets, *names}
        while True:
            more: set[str] = set()
            for statement in self.tree.body:
                if set(_bound(statement)) & needed:
                    more |= _loaded(statement)
            if more <= needed:
                return needed
            needed |= more

    def _data_names(self, needed: set[str]) -> tuple[str | None, str | None]:
        bound = {name: s for s in reversed(self.tree.body) for name in _bound(s)}
        found: list[str | None] = []
        for names in (_EXAMPLES, _LABELS):
            own = [n for n in names if n in bound and n in needed] or [
                n for n in names if n in bound
            ]
            # What is computed of another one, as one-hot labels are, follows from that one.
            first = [n for n in own if not (_loaded(bound[n]) & (set(names) & set(bound)) - {n})]
            found.append(next(iter(first or own), None))
        return found[0], found[1]

    def _is_run(self, statement: ast.stmt, needed: set[str], training: set[str]) -> bool:
        if isinstance(statement, ast.Import | ast.ImportFrom | Function | ast.ClassDef):
            return True
        if _called(statement) & training or is_main(statement):
            return False
        if isinstance(statement, ast.Expr):
            call = statement.value
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                return False
            root = ast.unparse(call.func.value)
            return (
                call.func.attr in _SETS_UP
                or root.startswith("sys.path")
                or (call.func.attr in _FILLS and root in needed)
            )
        bound = set(_bound(statement)) & needed
        if isinstance(statement, ast.For | ast.While):
            before = {
                name
                for other in self.tree.body[: self.tree.body.index(statement)]
                for name in _bound(other)
            }
            fills = {
                ast.unparse(node.func.value)
                for node in ast.walk(statement)
                if isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in _FILLS
            }
            return bool(bound - before or fills & needed)
        return bool(bound)

    def _note_dependents(self, chosen: Sequence[ast.stmt]) -> None:
        data = {name for name in self.data_names if name}
        X = self.namespace.get(self.data_names[0] or "")
        if X is not None:
            self.n_examples = len(X)
            self._width = X.shape[-1]
        tainted = set(data)
        for statement in chosen:
            if isinstance(statement, ast.Import | ast.ImportFrom | Function | ast.ClassDef):
                continue
            bound = set(_bound(statement))
            if _loaded(statement) & tainted and not bound & data:
                self._again.append((statement, self._compiled(statement)))
                tainted |= bound
            elif bound & data:
                self._counts += [
                    name
                    for name in bound
                    if type(self.namespace.get(name)) is int
                    and self.namespace[name] == self.n_examples
                ]


def parse_own_file(path: Path, text: str) -> OwnFile:
    """A file as it is written; nothing is executed.

    Raises:
        DataError: for what is no Python.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise DataError(f"{path.name}: line {error.lineno} is no Python: {error.msg}") from None
    return OwnFile(
        path.resolve(),
        tree,
        text.splitlines(),
        {node.name: node for node in tree.body if isinstance(node, Function)},
        {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)},
    )


def told(error: BaseException) -> str:
    """An exception as a few words."""
    return f"{type(error).__name__}: {one_line(error, most=200)}"


def _count(X: Any, width: int) -> int:
    shape = tuple(X.shape)
    return int(shape[0] if shape[-1] == width else shape[-1])


def _bound(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, Function | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            root = node.value
            while isinstance(root, ast.Subscript | ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name):
                yield root.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]


def _loaded(node: ast.AST) -> set[str]:
    return {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
    } | {
        n.target.id
        for n in ast.walk(node)
        if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)
    }


def _called(node: ast.AST) -> set[str]:
    return {
        n.func.id
        for n in ast.walk(node)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }


def is_main(statement: ast.stmt) -> bool:
    """Whether it is what runs only when the file is the program."""
    return isinstance(statement, ast.If) and "__name__" in _loaded(statement.test)


@dataclass(frozen=True, eq=False)
class SourceLines:
    """Where in a function each step of a backpropagation stands, as far as its names tell.

    Attributes:
        function: that computes the gradient.
        weights: names of the weights, first layer first.
    """

    function: Function
    lines: Sequence[str]
    weights: Sequence[str]
    biases: Sequence[str]

    def find(self, what: str, layer: int) -> tuple[int, str] | None:
        """Line and text of the delta, weights, bias or update of a layer (0 is the first)."""
        last = len(self.weights) - 1
        layer = last if layer < 0 else layer
        is_last = layer == last
        weights, bias = (
            self._array(names[layer], is_output=is_last) for names in (self.weights, self.biases)
        )
        found = {
            "weights": weights,
            "bias": bias,
            "update": self._update(self.weights[layer]) or weights,
            "delta": self._delta(weights, bias, is_output=is_last),
        }.get(what)
        if found is None:
            return None
        return found.lineno, self.lines[found.lineno - 1].strip()

    @cached_property
    def _places(self) -> list["_Place"]:
        """Names and keys that are given something; of a dict its keys, each with its value."""
        places = []
        for node in ast.walk(self.function):
            if isinstance(node, ast.Dict):
                places += [
                    _Place(key.value, value, True)
                    for key, value in zip(node.keys, node.values, strict=True)
                    if isinstance(key, ast.Constant)
                    and isinstance(key.value, str)
                    and not isinstance(value, ast.Name)
                ]
            elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                        is_entry = isinstance(each, ast.Subscript) and bool(
                            _GRADIENT.search(ast.unparse(each.value))
                        )
                        places.append(_Place(_key(each), node, is_entry))
        return sorted(places, key=lambda place: place.node.lineno)

    def _array(self, name: str, *, is_output: bool) -> ast.stmt | ast.expr | None:
        """Where the gradient of a parameter is computed, else where the parameter is changed."""
        ranks: list[list[ast.stmt | ast.expr]] = [[], [], []]
        for place in self._places:
            if bare(place.key) == bare(name) and (place.key != name or place.is_entry):
                ranks[0].append(place.node)
            elif bare(place.key) in _ARRAYS[bare(name)[:1] == "b"] and place.key != name:
                if not isinstance(getattr(place.node, "value", None), ast.List | ast.ListComp):
                    ranks[1].append(place.node)  # of all layers, the last one perhaps before a loop
            elif place.key == name and name in _used(place.node):
                ranks[2].append(place.node)
        if not ranks[0] and ranks[1] and not is_output:
            return ranks[1][-1]
        return next((nodes[0] for nodes in ranks if nodes), None)

    def _update(self, name: str) -> ast.stmt | ast.expr | None:
        """Where a parameter is changed by its gradient."""
        for place in self._places:
            used = _used(place.node)
            if place.key == name and any(bare(n) == bare(name) != n for n in used - {name}):
                return place.node
        return None

    def _delta(
        self,
        weights: ast.stmt | ast.expr | None,
        bias: ast.stmt | ast.expr | None,
        *,
        is_output: bool,
    ) -> ast.stmt | ast.expr | None:
        """Where what both gradients are made of is computed."""
        if weights is None:
            return None
        own = {place.key for place in self._places} & _used(weights)
        own &= _used(bias) if bias else own
        names = sorted(own, key=lambda n: ("delta" not in n and n[:1] not in "dge", n))
        places = [place.node for place in self._places if names and place.key == names[0]]
        if not places:
            return None
        before = [node for node in places if node.lineno <= weights.lineno] or places
        if len(places) > 1 and not is_output and places[-1].lineno > weights.lineno:
            return places[-1]  # in a loop the delta of the next layer is computed at the end
        return before[0] if is_output else before[-1]


@dataclass(frozen=True)
class _Place:
    """Something that is given a value; an entry of what is called a gradient, or not."""

    key: str
    node: ast.stmt | ast.expr
    is_entry: bool


_GRADIENT = re.compile(r"grad|nabla|^d|^g", re.IGNORECASE)


def _used(node: ast.AST) -> set[str]:
    return _loaded(node) | {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}


def _key(target: ast.expr) -> str:
    if isinstance(target, ast.Subscript):
        if isinstance(target.slice, ast.Constant) and isinstance(target.slice.value, str):
            return target.slice.value
        return _key(target.value)
    if isinstance(target, ast.Attribute):
        return target.attr
    return target.id if isinstance(target, ast.Name) else ""
