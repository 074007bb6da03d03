"""The loss and the gradient that a user's file offers, whichever way it offers them."""

import ast
import contextlib
import copy
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mlp.audit.audit_gradient import (
    Program,
    arranged,
    number,
    program_of_functions,
    same_random_numbers,
)
from mlp.audit.known_networks import Array, Layers
from mlp.audit.own_file import Function, OwnFile, SourceLines, is_main
from mlp.audit.parameters import (
    Arrangement,
    ShapeError,
    arrange,
    is_array,
    leaves,
)
from mlp.audit.sentences import Names
from mlp.errors import SettingError, did_you_mean

# Usual names of functions and globals, the likeliest first.
_USUAL = {
    "loss": "loss cost compute_loss calculate_loss calc_loss loss_fn loss_function get_loss"
    " compute_cost calculate_cost cost_function objective criterion forward_loss"
    " cross_entropy cross_entropy_loss mse mse_loss nll total_loss",
    "gradient": "gradient gradients grad grads backprop backward backpropagation back_propagation"
    " back_prop backward_pass backward_propagation backward_prop compute_gradient"
    " compute_gradients calculate_gradient calculate_gradients calc_gradients get_gradients"
    " gradient_fn loss_and_gradient loss_and_grad compute_grads model_backward"
    " L_model_backward backpropagate",
    "forward": "forward forward_pass forward_propagation forward_prop feedforward feed_forward"
    " model_forward L_model_forward propagate predict_proba predict",
    "train": "train fit build_model train_model train_network gradient_descent optimize nn_model"
    " L_layer_model learn training run model backprop",
    "params": "params parameters weights theta",
    "makers": "init init_params initialize initialise initialize_parameters init_weights"
    " initialize_weights init_parameters initialize_params init_network make_params"
    " create_params initialize_parameters_deep",
}

# What an argument is, by its name.
_ROLES = {
    "params": "params parameters param weights theta model net network w W state",
    "X": "X x inputs input data batch images features X_train x_train X_batch x_batch xs Xb xb",
    "y": "y Y labels label targets target t T y_true y_train Y_train ys y_batch Y_batch yb Yb true",
    "rate": "learning_rate lr alpha eta epsilon rate step_size eps",
    "passes": "num_passes n_passes passes epochs n_epochs num_epochs nb_epochs iterations"
    " num_iterations n_iterations iters n_iters num_iters steps n_steps num_steps max_iter n_iter"
    " niter maxiter nb_epoch epoch",
    "output": "AL A2 A3 A p probs y_hat yhat y_pred out output outputs prediction predictions pred"
    " preds o probabilities scores",
    "cache": "cache caches memory cached activations",
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names.split()}


def _usual(what: str) -> list[str]:
    return _USUAL[what].split()


def find_way_in(file: OwnFile, typed: Mapping[str, str]) -> tuple[Program, Names]:
    """The gradient of a file: by functions, by a class, else by two short runs of its training.

    Args:
        typed: names of functions, or expressions, by what they are: loss, gradient, params, train,
            model, forward, X, y.

    Returns:
        Its loss and gradient; and how the code calls things.

    Raises:
        SettingError: where there is none, with what to type.
        DataError: for a file that fails.
    """
    own = [*file.functions]
    gradient = _named(file, typed, "gradient", _usual("gradient"))
    if "train" not in typed and "model" not in typed and gradient in file.functions:
        return _by_functions(file, typed, gradient)
    maker = _class(file, typed, gradient)
    if "train" not in typed and maker:
        return _by_class(file, typed, maker, gradient)
    train = typed.get("train") or _training(file)
    if train:
        return _by_training(file, typed, train)
    what = f"its functions are {', '.join(own)}" if own else "it has no functions"
    raise SettingError(
        f"{file.path.name} has no gradient that is called as usual; {what}. Type gradient=NAME and"
        " loss=NAME, or train=NAME for a function that trains and returns its weights, and has an"
        " argument for the number of passes"
    )


def _named(file: OwnFile, typed: Mapping[str, str], what: str, usual: Sequence[str]) -> str:
    """A function of the file by its typed or usual name; empty: none."""
    if what in typed:
        name = typed[what]
        known = [*file.functions, *(m for c in file.classes for m in _methods(file, c))]
        if name.isidentifier() and name not in known:
            hint = did_you_mean(name, known, f"it has {', '.join(known)}")
            raise SettingError(f"{file.path.name} has no function {what}={name}{hint}")
        return name
    return next((name for name in usual if name in file.functions), "")


def _methods(file: OwnFile, name: str) -> list[str]:
    return [n.name for n in file.classes[name].body if isinstance(n, ast.FunctionDef)]


# Calls by the names of the arguments


class _Call:
    """Calls a function of the file with what its arguments' names ask for."""

    def __init__(self, file: OwnFile, function: Callable[..., Any], what: str) -> None:
        self.file, self.function, self.what = file, function, what
        self.parameters = [
            p
            for p in inspect.signature(function).parameters.values()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]

    def roles(self) -> dict[str, str]:
        """Each argument's role."""
        made = {p.name: _ROLE_OF.get(p.name, "") for p in self.parameters}
        required = [p.name for p in self.parameters if p.default is p.empty]
        if not any(made[name] for name in required) and len(required) == 3:
            made.update(zip(required, ("params", "X", "y"), strict=True))
        elif len(required) == 1 and not made[required[0]] and self.what in _usual("forward"):
            made[required[0]] = "X"
        return made

    def __call__(self, given: Mapping[str, Any], forward: Callable[[], Any] | None = None) -> Any:
        arguments = {}
        roles = self.roles()
        result = None
        params = given.get("params")
        for p in self.parameters:
            role = roles[p.name]
            if isinstance(params, Mapping) and p.name in params:
                arguments[p.name] = params[p.name]
            elif role in given:
                arguments[p.name] = given[role]
            elif role in ("output", "cache") and forward is not None:
                result = forward() if result is None else result
                arguments[p.name] = _part_of(result, role)
            elif p.default is not p.empty:
                continue
            elif p.name in self.file.namespace:
                arguments[p.name] = self.file.namespace[p.name]
            else:
                raise SettingError(
                    f"{self.what} has an argument {p.name} that is unknown; give it a default, or a"
                    f" global {p.name}"
                )
        positional = [
            p.name for p in self.parameters if p.kind is p.POSITIONAL_ONLY and p.name in arguments
        ]
        first = [arguments.pop(name) for name in positional]
        return self.function(*first, **arguments)


def _part_of(result: Any, role: str) -> Any:
    """The outputs or the cache of what a forward pass returned."""
    if not isinstance(result, tuple):
        return result
    if role == "cache":
        rest = [each for each in result if not is_array(each)]
        return rest[-1] if rest else result
    return next((each for each in result if is_array(each)), result[0])


# Functions


def _by_functions(file: OwnFile, typed: Mapping[str, str], gradient: str) -> tuple[Program, Names]:
    loss = _named(file, typed, "loss", _usual("loss"))
    forward = _named(file, typed, "forward", _usual("forward"))
    targets = [name for name in (gradient, loss, forward) if name in file.functions]
    maker = _maker(file, typed)
    file.execute(targets, typed, [maker] if maker.isidentifier() else [])
    params = _params(file, typed, maker)
    own_gradient = _Call(file, file.namespace[gradient], gradient)
    own_forward = _Call(file, file.namespace[forward], forward) if forward else None
    own_loss = _loss(file, typed, loss)
    X, y = (file.namespace.get(name or "") for name in file.data_names)
    has_guessed_sizes = maker in file.functions and file.arguments(maker) is None
    if X is None or y is None or np.ndim(X) != 2 or has_guessed_sizes:
        X = y = None

    def run(call: Callable[..., Any], params: Any, X: Any, y: Any) -> Any:
        file.set_data(X, y)
        given = {"params": params, "X": X, "y": y}
        back = (lambda: own_forward(given)) if own_forward else None
        return call(given, back)

    def picked(params: Any, X: Any, y: Any) -> Any:
        return _picked(run(own_gradient, params, X, y), params)

    program = program_of_functions(
        lambda params, X, y: run(own_loss, params, X, y), picked, params, X, y
    )
    said = f"{gradient}, compared with {loss or typed.get('loss')}"
    return program, _names(file, program.arrangement, file.functions[gradient], said)


def _picked(value: Any, params: Any) -> Any:
    """The gradient in what a function returned, perhaps beside a loss or a cache."""
    wanted = len(list(leaves(params)))
    if not isinstance(value, tuple | list) or len(list(leaves(value))) == wanted:
        return value
    return next((each for each in value if len(list(leaves(each))) == wanted), value)


def _loss(
    file: OwnFile, typed: Mapping[str, str], name: str, model: Any = None
) -> Callable[..., Any]:
    """The loss as a call of what is given: a function, a method of the model, or an expression."""
    text = typed.get("loss", "")
    if text and not text.isidentifier():
        code = compile(text, "loss", "eval")

        def evaluated(given: Mapping[str, Any], _forward: Any = None) -> Any:
            file.namespace.setdefault("np", np)
            return eval(code, file.namespace, dict(given))

        return evaluated
    if name:
        method = getattr(model, name, None)
        return _Call(file, method if callable(method) else file.namespace[name], name)
    whose, of = (file.path.name, "params") if model is None else (type(model).__name__, "model")
    raise SettingError(
        f"{whose} has no loss that is called as usual; type loss=NAME, or loss='...'"
        f" with an expression of {of}, X and y"
    )


def _maker(file: OwnFile, typed: Mapping[str, str]) -> str:
    """A global name of the parameters, or a function that makes them."""
    if "params" in typed:
        return typed["params"]
    bound = [name for name in _usual("params") if _is_global(file, name)]
    makers = [name for name in (*_usual("params"), *_usual("makers")) if name in file.functions]
    return next(iter(bound + makers), "")


def _is_global(file: OwnFile, name: str) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        for statement in file.tree.body
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef) and not is_main(statement)
        for node in ast.walk(statement)
    )


def _params(file: OwnFile, typed: Mapping[str, str], maker: str) -> Any:
    if "params" in typed:
        return file.value(typed["params"])
    if maker in file.functions:
        found = file.arguments(maker)
        required = [
            p
            for p in inspect.signature(file.namespace[maker]).parameters.values()
            if p.default is p.empty
        ]
        sizes = [4, *([5] * (len(required) - 2)), 3] if len(required) > 1 else [[4, 5, 3]]
        arguments, named = found or (sizes if required else [], {})
        try:
            return _params_in(file.namespace[maker](*arguments, **named))
        except (TypeError, ValueError, IndexError, SettingError):
            if found:
                raise
            names = ", ".join(p.name for p in required)
            raise SettingError(
                f"{maker} needs {names}: type params='{maker}(...)' with a network's sizes"
            ) from None
    if maker in file.namespace:
        return file.namespace[maker]
    raise SettingError(
        f"{file.path.name} has no weights that are called as usual; type params=NAME, or"
        " params='...' with an expression that makes them"
    )


def _params_in(value: Any) -> Any:
    """The weights in what a function returned."""
    best, most = None, 0
    for each in _candidates(value):
        try:
            found = arrange(each)
        except (SettingError, IndexError):
            continue
        n_arrays = len([*found.weights, *filter(None, found.biases)])
        if n_arrays >= most:  # of a tuple (weights, losses) the weights alone
            best, most = each, n_arrays
    if most:
        return best
    raise SettingError(
        "the function must return its weights: a list of (W, b), or a dict with W1, b1, ..., but"
        f" returns {type(value).__name__}"
    )


def _candidates(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, tuple | list):
        for each in value:
            if not is_array(each):
                yield from _candidates(each)
    elif hasattr(value, "__dict__"):
        yield _state(value)


def _names(file: OwnFile, arrangement: Arrangement, function: Function | None, said: str) -> Names:
    names = dataclasses.replace(Names.of(arrangement), n_examples=file.n_examples, said=said)
    if function is None:
        return names
    find = SourceLines(function, file.lines, names.weights, names.biases).find
    return dataclasses.replace(names, function=function.name, find=find)


# A class


def _class(file: OwnFile, typed: Mapping[str, str], gradient: str) -> str:
    """A class with a method that gives or makes gradients."""
    if "model" in typed:
        return typed["model"]
    typed_method = {gradient.rpartition(".")[2]} - {""}
    for wanted in (typed_method or set(_usual("gradient")), {"loss"}):  # which may give both
        for name in file.classes:
            if wanted & set(_methods(file, name)):
                return name
    return ""


def _state(model: Any) -> dict[str, Any]:
    """The attributes that are weights and biases."""
    kept = {}
    for name, value in vars(model).items():
        word = name.lstrip("_").lower()
        is_kept = word[:1] in ("w", "b") or word in ("params", "parameters", "theta", "layers")
        if is_kept and next(leaves(value), None) is not None:
            kept[name] = value
    return kept


def _by_class(
    file: OwnFile, typed: Mapping[str, str], maker: str, gradient: str
) -> tuple[Program, Names]:
    name = maker.partition("(")[0].strip()
    instance = (
        next((n for s in file.tree.body for n in _bound_to(s, name)), "") if maker == name else ""
    )
    file.execute([name], typed, [instance] if instance else [])
    if "(" in maker:
        model = file.value(maker)
    elif isinstance(file.namespace.get(instance), type(None)):
        found = file.arguments(name)
        try:
            arguments, named = found or ([], {})
            model = file.namespace[name](*arguments, **named)
        except TypeError as error:
            raise SettingError(
                f"{name} needs arguments: type model='{name}(...)' ({error})"
            ) from None
    else:
        model = file.namespace[instance]
    methods = _methods(file, type(model).__name__) if type(model).__name__ in file.classes else []
    wanted = [gradient.rpartition(".")[2], *_usual("gradient"), "loss"]
    backward = next((n for n in wanted if n and (n in methods or hasattr(model, n))), "")
    template = _state(model)
    arrangement = arrange(template)
    X, y = (file.namespace.get(n or "") for n in file.data_names)
    parts = [n for c in file.classes.values() for n in c.body if isinstance(n, ast.FunctionDef)]
    node = next((n for n in parts if n.name == backward), None)
    run = _ModelRun(file, model, backward, typed)
    program = program_of_functions(run.loss, run.gradient, template, X, y)
    random = np.random.RandomState(1)
    with contextlib.suppress(ShapeError):  # the audit's own
        program.gradient(program.arrangement.draw(random), *program.form.draw(5, random))
    if run.is_update:
        program = dataclasses.replace(program, has_rate=run.has_rate, called_raw=None)
    said = f"{type(model).__name__}.{backward}, compared with {run.loss_name}"
    if run.is_update:
        said += "; it changes the weights itself, and the change is taken for the gradient"
    return program, _names(file, arrangement, node, said)


def _bound_to(statement: ast.stmt, name: str) -> Iterator[str]:
    """Global names that are given an object of the class."""
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        if isinstance(function, ast.Name) and function.id == name:
            yield from (t.id for t in statement.targets if isinstance(t, ast.Name))


class _ModelRun:
    """Loss and gradient of an object that keeps its weights."""

    def __init__(self, file: OwnFile, model: Any, backward: str, typed: Mapping[str, str]) -> None:
        self.file, self.model, self.backward = file, model, backward
        self.is_update, self.has_rate = False, True
        usual = (typed.get("forward", ""), *_usual("forward"))
        forward = next((n for n in usual if n and hasattr(model, n)), "")
        self.forward = _Call(file, getattr(model, forward), forward) if forward else None
        text = typed.get("loss", "")
        wanted = [n for n in (text, *_usual("loss")) if n.isidentifier()]
        methods = [n for n in wanted if callable(getattr(model, n, None))]
        own = next(iter([*methods, *(n for n in wanted if n in file.functions)]), "")
        self.loss_name = text if text and not text.isidentifier() else own
        self.own_loss = _loss(file, typed, own, model)

    def _with(self, params: Mapping[str, Any], X: Any, y: Any) -> dict[str, Any]:
        self.file.set_data(X, y)
        for name, value in params.items():
            setattr(self.model, name, value)
        return {"X": X, "y": y, "model": self.model, "params": params}

    def loss(self, params: Mapping[str, Any], X: Any, y: Any) -> Any:
        given = self._with(copy.deepcopy(params), X, y)
        value = self.own_loss(given, self._forward(given))
        if isinstance(value, tuple):
            value = next(v for v in value if np.ndim(v) == 0)
        return value

    def _forward(self, given: Mapping[str, Any]) -> Callable[[], Any] | None:
        forward = self.forward
        return (lambda: forward(given)) if forward else None

    def gradient(self, params: Mapping[str, Any], X: Any, y: Any) -> Any:
        given = self._with(params, X, y)
        before = {path: np.array(value) for path, value in leaves(params)}
        back = self._forward(given)
        call = _Call(self.file, getattr(self.model, self.backward), self.backward)
        result = back() if back else None  # it may leave what the backward pass needs
        value = call(given, (lambda: result) if back else None)
        after = dict(leaves({name: getattr(self.model, name) for name in params}))
        moved = {path: before[path] - np.array(after[path]) for path in before}
        if any(part.any() for part in moved.values()):
            self.is_update = True
            rate = self._rate(call)
            self.has_rate = rate is not None
            return {name: _at(moved, name, params[name], rate or 1.0) for name in params}
        wanted = len(before)
        for each in [value, *(value if isinstance(value, tuple | list) else [])]:
            if each is not None and len(list(leaves(each))) == wanted:
                return each
        return {
            name: value
            for name, value in vars(self.model).items()
            if name.lstrip("_").startswith(("d", "g", "nabla")) and next(leaves(value), None)
        }

    def _rate(self, call: _Call) -> float | None:
        for p in call.parameters:
            if _ROLE_OF.get(p.name) == "rate" and p.default is not p.empty:
                return float(p.default)
        for name in _ROLES["rate"].split():
            value = getattr(self.model, name, None)
            if isinstance(value, float | int):
                return float(value)
        return None


def _at(moved: Mapping[Any, Array], name: str, value: Any, rate: float) -> Any:
    if is_array(value):
        return moved[(name,)] / rate
    return [part / rate for path, part in moved.items() if path[0] == name]


# A training function


def _training(file: OwnFile) -> str:
    """A function with an argument for the number of passes."""
    usual = [n for n in _usual("train") if n in file.functions]
    for name in [*usual, *file.functions]:
        node = file.functions[name]
        arguments = [
            a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        ]
        if any(_ROLE_OF.get(a) == "passes" for a in arguments):
            return name
    return ""


def _by_training(file: OwnFile, typed: Mapping[str, str], train: str) -> tuple[Program, Names]:
    name, _, rest = train.partition("(")
    if name not in file.functions:
        hint = did_you_mean(name, file.functions)
        raise SettingError(f"{file.path.name} has no function train={name}{hint}")
    loss = _named(file, typed, "loss", _usual("loss"))
    forward = _named(file, typed, "forward", _usual("forward"))
    targets = [n for n in (name, loss, forward) if n in file.functions]
    file.execute(targets, typed, [n for n in _ROLES["rate"].split() if _is_global(file, n)])
    X, y = (file.namespace.get(n or "") for n in file.data_names)
    if X is None or y is None:
        fault = file.namespace.get("__data_fault__", "it has no global examples and labels")
        raise SettingError(
            f"{file.path.name}: {fault}; give examples: X='np.random.rand(6, 784)'"
            " y='np.arange(6) % 2'"
        )
    found = file.arguments(name) if not rest else _typed_arguments(file, train)
    run = _TrainingRun(file, name, found, X, y)
    own_forward = _Call(file, file.namespace[forward], forward) if forward else None
    own_loss = _loss(file, typed, loss)
    some = _some(X, y)
    params = _params_in(run.weights(1, *some))
    arrangement, [form] = arranged(params, X, y)

    def loss_of(layers: Layers, X: Array, y: Array) -> float:
        same_random_numbers()
        X_own, y_own = form.own(X, y)
        file.set_data(X_own, y_own)
        given = {"params": arrangement.own(layers), "X": X_own, "y": y_own}
        back = (lambda: own_forward(given)) if own_forward else None
        return number(own_loss(given, back))

    def gradient_of(_: Layers | None, X: Array, y: Array) -> tuple[Layers, Layers]:
        before, after = (
            arrangement.layers(_params_in(run.weights(k, *form.own(X, y)))) for k in (1, 2)
        )
        rate = run.rate or 1.0
        gradient = [
            ((W - W_new) / rate, (b - b_new) / rate if is_biased else np.zeros(0))
            for (W, b), (W_new, b_new), is_biased in zip(
                before, after, arrangement.biases, strict=True
            )
        ]
        return before, gradient

    program = Program(
        arrangement, form, loss_of, gradient_of, has_own_weights=True, has_rate=run.rate is not None
    )
    _check_training(program, name)
    said = f"{name}, by the weights after one and two passes"
    if re.search("momentum|velocity|adam|beta1|rmsprop", ast.unparse(file.functions[name]).lower()):
        said += " (its momentum counts as gradient: gradient=NAME may say more)"
    said += f"; compared with {loss or typed.get('loss')}"
    names = _names(file, arrangement, file.functions[name], said)
    return program, dataclasses.replace(names, rate=run.rate)


def _check_training(program: Program, name: str) -> None:
    """Raises SettingError for a training that ignores the examples, or does not train."""
    random = np.random.RandomState(1)
    moved = []
    for _ in range(2):
        _, gradient = program.gradient(None, *program.form.draw(5, random))
        moved.append(np.concatenate([part.ravel() for pair in gradient for part in pair]))
    if not moved[0].any():
        raise SettingError(
            f"{name} returns the same weights after one and two passes over 5 examples; a smaller"
            " batch, or gradient=NAME, may do"
        )
    if np.array_equal(moved[0], moved[1]):
        raise SettingError(
            f"{name} does not use the examples X and y that are global or its arguments; read the"
            " data outside of it"
        )


def _typed_arguments(file: OwnFile, text: str) -> tuple[list[Any], dict[str, Any]]:
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    return (
        [file.value(ast.unparse(a)) for a in call.args],
        {k.arg: file.value(ast.unparse(k.value)) for k in call.keywords if k.arg},
    )


def _some(X: Any, y: Any) -> tuple[Any, Any]:
    """A few of the program's own examples, of all classes that come early."""
    labels = np.asarray(y)
    if labels.ndim == 1 and len(labels) == len(X):
        firsts = np.unique(labels, return_index=True)[1][:50].tolist()
        rows = np.unique([*range(min(5, len(X))), *firsts])
        return X[rows], y[rows]
    return (X[:5], y[:5]) if len(y) == len(X) else (X[:, :5], y[..., :5])


class _TrainingRun:
    """Short runs of a training function, called as its own file calls it."""

    def __init__(
        self,
        file: OwnFile,
        name: str,
        found: tuple[list[Any], dict[str, Any]] | None,
        X: Any,
        y: Any,
    ) -> None:
        self.file, self.name = file, name
        self.function = file.namespace[name]
        signature = inspect.signature(self.function)
        arguments, named = found or ([], {})
        bound = signature.bind_partial(*arguments, **named).arguments
        self.given = {n: v for n, v in bound.items() if not (v is X or v is y)}
        self.roles = {n: _ROLE_OF.get(n, "") for n in signature.parameters}
        self.passes = next((n for n, role in self.roles.items() if role == "passes"), "")
        if not self.passes:
            raise SettingError(f"{name} needs an argument for the number of passes, such as epochs")
        for n, p in signature.parameters.items():
            is_set = (
                n in self.given or p.default is not p.empty or self.roles[n] in ("X", "y", "passes")
            )
            if is_set or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                continue
            if self.roles[n] == "rate":
                self.given[n] = 0.01
            elif "hid" in n.lower() or n.lower().endswith("dim") or n.lower() == "n_h":
                self.given[n] = 3
            else:
                raise SettingError(
                    f"{name} has an argument {n} that is unknown: type train='{name}({n}=...)'"
                )
        self.rate = self._rate(signature)

    def _rate(self, signature: inspect.Signature) -> float | None:
        for n, p in signature.parameters.items():
            if self.roles[n] == "rate":
                return float(self.given.get(n, p.default))
        source = ast.unparse(self.file.functions[self.name])
        for n in _ROLES["rate"].split():
            value = self.file.namespace.get(n)
            if isinstance(value, float | int) and n in source:
                return float(value)
        return None

    def weights(self, passes: int, X: Any, y: Any) -> Any:
        """What the training returns after some passes over these examples."""
        same_random_numbers()
        self.file.set_data(X, y)
        given = dict(self.given)
        given[self.passes] = passes
        for n, role in self.roles.items():
            if role in ("X", "y"):
                given[n] = X if role == "X" else y
        value = self.function(**given)
        if inspect.isgenerator(value):  # yields losses, and returns the weights
            value = _returned(iter(value))
        return copy.deepcopy(value)


def _returned(steps: Iterator[Any]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
