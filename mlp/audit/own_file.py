"""What a user's file offers, without running its main part.

Imports, functions and classes are executed, and of the other statements those that give a name
which the audited functions need. A statement that calls an audited function is left out: it trains.
"""

import ast
import contextlib
import copy
import os
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlp.audit.parameters import Arrangement, bare, is_array
from mlp.errors import DataError, one_line

_EXAMPLES = "X_train x_train X_tr train_X X x inputs data images xs".split()  # noqa: SIM905
_LABELS = "y_train Y_train y_tr train_y train_Y y Y labels targets t ys".split()  # noqa: SIM905
_SETS_UP = (
    "seed",
    "manual_seed",
    "seterr",
    "filterwarnings",
    "simplefilter",
    "use",
    "set_default_dtype",
)
_FILLS = ("append", "extend", "insert", "update", "add", "setdefault")
YIELDED = "_yielded_loss"
_ARRAYS = ("w", "ws", "weight", "weights"), ("b", "bs", "bias", "biases")

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(eq=False)
class OwnFile:
    """A file as it is written, and what of it was executed.

    Attributes:
        functions: at the top, by name.
        classes: at the top, by name.
        namespace: what was executed has left; empty before `execute`.
        n_examples: of the file's own data, if known.
        data_fault: why the file's own examples cannot be had, if they cannot.
    """

    path: Path
    tree: ast.Module
    lines: Sequence[str]
    functions: dict[str, Function]
    classes: dict[str, ast.ClassDef]
    namespace: dict[str, Any] = field(default_factory=dict)
    n_examples: int | None = None
    data_fault: str = ""
    _data_names: tuple[str, str] = ("", "")  # of the global examples and labels; empty: none
    _again: list[tuple[ast.stmt, types.CodeType]] = field(default_factory=list)
    _counts: list[str] = field(default_factory=list)
    _width: int = 0

    @property
    def data_names(self) -> tuple[str, str]:
        """What an expression calls them: X and y, if the file has no other names."""
        X, y = self._data_names
        return X or "X", y or "y"

    @property
    def data(self) -> tuple[Any, Any]:
        """The global examples and labels, None where there are none."""
        X, y = (self.namespace.get(name) for name in self._data_names)
        return X, y

    def methods(self, name: str = "") -> list[ast.FunctionDef]:
        """The methods of a class, or of all."""
        classes = [self.classes[name]] if name else self.classes.values()
        return [n for each in classes for n in each.body if isinstance(n, ast.FunctionDef)]

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
        needed = self._needed([*targets, *names])
        X, y = (self._data_name(usual, needed) for usual in (_EXAMPLES, _LABELS))
        needed |= self._needed([X, y])
        chosen = [s for s in self.tree.body if self._is_run(s, needed, training)]
        X_name, y_name = X or "X", y or "y"
        given = {name: typed[key] for name, key in ((X_name, "X"), (y_name, "y")) if key in typed}
        for statement in chosen:
            bound = set(_bound(statement))
            if bound & set(given):
                self._give(given)
            else:
                self._run(statement, is_data=bool({X, y} & bound))
        self._give(given)
        X, y = (n if is_array(self.namespace.get(n)) else "" for n in (X_name, y_name))
        self._data_names = X, y
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
        self.namespace.setdefault("np", np)
        try:
            return eval(text, self.namespace)  # typed on this command line
        except Exception as error:  # noqa: BLE001  whatever the expression raises
            raise DataError(f"{text!r} raises {told(error)}") from None

    def set_data(self, X: Any, y: Any) -> None:
        """Puts other examples in the place of the file's own, and all that was computed of them."""
        for name, value in zip(self._data_names, (X, y), strict=True):
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
            if isinstance(node, ast.Call) and _called_name(node) == name:
                with contextlib.suppress(DataError):  # names of another place
                    return self.given_in(node)
        return None

    def given_in(self, call: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        """The values of a call's arguments: by place, and by name."""
        by_place = [self.value(ast.unparse(a)) for a in call.args]
        return by_place, {k.arg: self.value(ast.unparse(k.value)) for k in call.keywords if k.arg}

    def _compiled(self, statement: ast.stmt) -> types.CodeType:
        return compile(ast.Module([statement], []), str(self.path), "exec")

    def _run(
        self, statement: ast.stmt, code: types.CodeType | None = None, *, is_data: bool = False
    ) -> None:
        try:
            exec(code or self._compiled(statement), self.namespace)
        except Exception as error:  # noqa: BLE001  whatever a foreign statement raises
            fault = f"line {statement.lineno} raises {told(error)}"
            if is_data and not isinstance(error, NameError):
                self.data_fault = fault
                return
            if self.data_fault:
                fault = f"{self.data_fault}; give examples yourself: X='np.random.rand(6, 784)'"
                fault += " y='...'"
            raise DataError(f"{self.path.name}: {fault}") from None

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

    def _needed(self, names: Sequence[str]) -> set[str]:
        """Global names on which these hang, and these."""
        needed = set(names)
        while True:
            more = {
                name
                for statement in self.tree.body
                if needed & set(_bound(statement))
                for name in _loaded(statement)
            }
            if more <= needed:
                return needed
            needed |= more

    def _data_name(self, usual: Sequence[str], needed: set[str]) -> str:
        """The global name of the examples, or of the labels; empty: there is none."""
        bound = {name: s for s in reversed(self.tree.body) for name in _bound(s)}
        own = [name for name in usual if name in bound]
        wanted = [name for name in own if name in needed] or own
        # What is computed of another one, as one-hot labels are, follows from that one.
        first = [name for name in wanted if not _loaded(bound[name]) & ({*own} - {name})]
        return next(iter(first or wanted), "")

    def _is_run(self, statement: ast.stmt, needed: set[str], training: set[str]) -> bool:
        if isinstance(statement, ast.Import | ast.ImportFrom | Function | ast.ClassDef):
            return True
        if _called(statement) & training or is_main(statement):
            return False
        if isinstance(statement, ast.Expr):
            name, root = _method_call(statement.value)
            sets_up = name in _SETS_UP or root.startswith("sys.path")
            return sets_up or (name in _FILLS and root in needed)
        bound = set(_bound(statement)) & needed
        if isinstance(statement, ast.For | ast.While):
            place = self.tree.body.index(statement)
            before = {name for other in self.tree.body[:place] for name in _bound(other)}
            calls = map(_method_call, ast.walk(statement))
            fills = {root for name, root in calls if name in _FILLS}
            return bool(bound - before or fills & needed)
        return bool(bound)

    def _note_dependents(self, chosen: Sequence[ast.stmt]) -> None:
        data = {name for name in self._data_names if name}
        X, _ = self.data
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
    return {_called_name(n) for n in ast.walk(node) if isinstance(n, ast.Call)}


def _called_name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _method_call(node: ast.AST) -> tuple[str, str]:
    """The name of a method that is called, and of what; empty: it is no such call."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr, ast.unparse(node.func.value)
    return "", ""


def is_main(statement: ast.stmt) -> bool:
    """Whether it is what runs only when the file is the program."""
    return isinstance(statement, ast.If) and "__name__" in _loaded(statement.test)


class YieldedLoss(NamedTuple):
    """The loss that a generator yields while it trains, as a function of its own arguments.

    Attributes:
        function: called `YIELDED`; takes also `_weights`, arranged as what the generator returns.
        line: where it is yielded.
    """

    function: Function
    line: int


def yielded_loss(function: Function) -> YieldedLoss | None:
    """The loss of a training, by its own text; None: that does not show it.

    The function goes as far as its loop, takes the given weights there, and returns the loss in the
    place of yielding it: before anything changes the weights.
    """
    yields = [node for node in ast.walk(function) if isinstance(node, ast.Yield | ast.YieldFrom)]
    back = function.body[-1]
    if len(yields) != 1 or not isinstance(back, ast.Return) or back.value is None:
        return None
    given = _given_back(back.value, "_weights")
    names = {name for name, _ in given or ()}
    for at, loop in enumerate(function.body):
        if not isinstance(loop, ast.For | ast.While):
            continue
        for place, step in enumerate(loop.body):
            if not (names and isinstance(step, ast.Expr) and step.value is yields[0]):
                continue
            before = [n for n in range(place) if _changes(loop.body[n], names)]
            cut = min([place, *before])
            loss = _loss_in(yields[0].value)
            later = {name for each in loop.body[cut:place] for name in _bound(each)} - names
            if loss is None or _loaded(loss) & later:
                return None
            taken = ast.parse("\n".join(f"{name} = {way}" for name, way in given or ())).body
            inner = copy.copy(loop)
            inner.body, inner.orelse = [*taken, *loop.body[:cut], ast.Return(loss)], []
            made = copy.copy(function)
            made.args = copy.deepcopy(function.args)
            made.args.kwonlyargs.append(ast.arg("_weights"))
            made.args.kw_defaults.append(None)
            made.name, made.decorator_list = YIELDED, []
            made.body = [*function.body[:at], inner]
            return YieldedLoss(ast.fix_missing_locations(made), step.lineno)
    return None


def _given_back(node: ast.expr, way: str) -> list[tuple[str, str]] | None:
    """The names in what a function returns, each with the way to it; None: not only names."""
    if isinstance(node, ast.Name):
        return [(node.id, way)]
    parts: list[tuple[str, ast.expr]] = []
    if isinstance(node, ast.Tuple | ast.List):
        parts = [(str(place), each) for place, each in enumerate(node.elts)]
    elif isinstance(node, ast.Dict) and None not in node.keys:
        parts = [
            (ast.unparse(key), each)
            for key, each in zip(node.keys, node.values, strict=True)
            if key
        ]
    elif isinstance(node, ast.Call) and _called_name(node) == "dict" and not node.args:
        parts = [(repr(each.arg), each.value) for each in node.keywords if each.arg]
    found = [_given_back(each, f"{way}[{key}]") for key, each in parts]
    return None if None in found or not found else [own for each in found for own in each or ()]


def _loss_in(value: ast.expr | None) -> ast.expr | None:
    """The loss in what is yielded: a number, or the entry `loss` of a dict."""
    if not isinstance(value, ast.Dict):
        return value
    return next(
        (
            own
            for key, own in zip(value.keys, value.values, strict=True)
            if isinstance(key, ast.Constant) and key.value == "loss"
        ),
        None,
    )


def _changes(statement: ast.stmt, names: set[str]) -> bool:
    """Whether a statement may change what has one of these names."""
    if names & set(_bound(statement)):
        return True
    if isinstance(statement, ast.Expr):  # a call of something that changes its arguments
        return bool(names & _loaded(statement))
    if isinstance(statement, ast.For) and names & _loaded(statement.iter):
        own = {n.id for n in ast.walk(statement.target) if isinstance(n, ast.Name)}
        return any(own & set(_bound(each)) for each in statement.body)
    return False


class _Place(NamedTuple):
    """Something that is given a value; an entry of what is called a gradient, or not."""

    key: str
    node: ast.stmt | ast.expr
    is_entry: bool


_GRADIENT = re.compile(r"grad|nabla|^d|^g", re.IGNORECASE)


def line_finder(
    function: Function, lines: Sequence[str], arrangement: Arrangement
) -> Callable[[str, int], tuple[int, str] | None]:
    """Where in a function each step of a backpropagation stands, as far as its names tell.

    Args:
        function: that computes the gradient.
        lines: of its file.

    Returns:
        A function that finds the line and text of the delta, weights, bias or update of a layer
        (0 is the first, -1 the last).
    """
    places = _places(function)
    last = len(arrangement.weights) - 1

    def find(what: str, layer: int) -> tuple[int, str] | None:
        is_last = layer in (-1, last)
        name = arrangement.name(layer % (last + 1))
        weights = _array(places, name, is_output=is_last)
        bias = _array(places, arrangement.name(layer % (last + 1), bias=True), is_output=is_last)
        found = {
            "weights": weights,
            "bias": bias,
            "update": _update(places, name) or weights,
            "delta": _delta(places, weights, bias, is_output=is_last),
        }.get(what)
        if found is None:
            return None
        return found.lineno, lines[found.lineno - 1].strip()

    return find


def activation_names(function: Function, arrangement: Arrangement) -> dict[str, str]:
    """`a1`, ... -> what the function calls it: the one name of its own that meets the next weights.

    Left out where it is not one name, or that of several layers, or the function has another `a1`.
    """
    own = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    steps = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
    made = {name for step in steps for name in _bound(step)}
    layers = range(len(arrangement.weights))
    params = {arrangement.name(k, bias=is_bias) for k in layers for is_bias in (False, True)}
    names = {}
    for layer in layers[1:]:
        weights = arrangement.name(layer)
        first = min(
            (step for step in steps if weights in _loaded(step) - set(_bound(step))),
            key=lambda step: step.lineno,
            default=None,
        )
        met = _loaded(first) & made - params if first else set()
        if len(met) == 1 and f"a{layer}" not in own:
            names[f"a{layer}"] = met.pop()
    shared = list(names.values())
    return {usual: name for usual, name in names.items() if shared.count(name) == 1}


def _places(function: Function) -> list[_Place]:
    """Names and keys that are given something; of a dict its keys, each with its value."""
    places = []
    for node in ast.walk(function):
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


def _array(places: Sequence[_Place], name: str, *, is_output: bool) -> ast.stmt | ast.expr | None:
    """Where the gradient of a parameter is computed, else where the parameter is changed."""
    of_name: list[ast.stmt | ast.expr] = []
    of_all: list[ast.stmt | ast.expr] = []  # layers, the last one perhaps before a loop
    changed: list[ast.stmt | ast.expr] = []
    for key, node, is_entry in places:
        if bare(key) == bare(name) and (key != name or is_entry):
            of_name.append(node)
        elif bare(key) in _ARRAYS[bare(name)[:1] == "b"] and key != name:
            if not isinstance(getattr(node, "value", None), ast.List | ast.ListComp):
                of_all.append(node)
        elif key == name and name in _used(node):
            changed.append(node)
    if of_all and not is_output:
        of_all = of_all[-1:]
    return next(iter([*of_name, *of_all, *changed]), None)


def _update(places: Sequence[_Place], name: str) -> ast.stmt | ast.expr | None:
    """Where a parameter is changed by its gradient."""
    for place in places:
        used = _used(place.node)
        if place.key == name and any(bare(n) == bare(name) != n for n in used - {name}):
            return place.node
    return None


def _delta(
    places: Sequence[_Place],
    weights: ast.stmt | ast.expr | None,
    bias: ast.stmt | ast.expr | None,
    *,
    is_output: bool,
) -> ast.stmt | ast.expr | None:
    """Where what both gradients are made of is computed."""
    if weights is None:
        return None
    own = {place.key for place in places} & _used(weights)
    own &= _used(bias) if bias else own
    if not own:
        return None
    name = min(own, key=lambda n: ("delta" not in n and n[:1] not in "dge", n))
    nodes = [place.node for place in places if place.key == name]
    before = [node for node in nodes if node.lineno <= weights.lineno] or nodes
    if len(nodes) > 1 and not is_output and nodes[-1].lineno > weights.lineno:
        return nodes[-1]  # in a loop the delta of the next layer is computed at the end
    return before[0] if is_output else before[-1]


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
