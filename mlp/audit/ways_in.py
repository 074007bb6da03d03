"""The loss and the gradient that a user's file offers, whichever way it offers them."""

import ast
import builtins
import contextlib
import copy
import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from mlp.audit.audit_gradient import (
    AuditedCode,
    arranged,
    loss_of_layers,
    program_of_functions,
    same_random_numbers,
)
from mlp.audit.known_networks import Array, Layers, vector
from mlp.audit.own_file import (
    YIELDED,
    Function,
    OwnFile,
    activation_names,
    is_main,
    line_finder,
    yielded_loss,
)
from mlp.audit.parameters import (
    Arrangement,
    ExampleForm,
    ShapeError,
    arrange,
    as_numpy,
    is_array,
    leaves,
)
from mlp.audit.sentences import Names
from mlp.errors import SettingError, did_you_mean, shown

_Given = Mapping[str, Any]  # what there is for the arguments of a function, by their roles
_Call = Callable[..., Any]  # of what is given, and perhaps of the forward pass

# Usual names of functions and globals, the likeliest first.
_USUAL_NAMES = {
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
_USUAL = {what: names.split() for what, names in _USUAL_NAMES.items()}

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


def find_way_in(file: OwnFile, typed: Mapping[str, str]) -> tuple[AuditedCode, Names]:
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
    gradient = _named(file, typed, "gradient")
    if "train" not in typed and "model" not in typed and gradient in file.functions:
        return _by_functions(file, typed, gradient)
    model = typed.get("model") or _class(file, gradient)
    if "train" not in typed and model:
        return _by_class(file, typed, model, gradient)
    train = typed.get("train") or _training(file)
    if train:
        return _by_training(file, typed, train)
    own = ", ".join(file.functions)
    raise SettingError(
        f"{file.path.name} has no gradient that is called as usual;"
        f" {f'its functions are {own}' if own else 'it has no functions'}. Type gradient=NAME and"
        " loss=NAME, or train=NAME for a function that trains and returns its weights, and has an"
        " argument for the number of passes"
    )


def _named(file: OwnFile, typed: Mapping[str, str], what: str) -> str:
    """A function of the file by its typed or usual name; empty: none."""
    if what in typed:
        name = typed[what]
        known = [*file.functions, *(node.name for node in file.methods())]
        if name.isidentifier() and name not in known:
            hint = did_you_mean(name, known, f"it has {', '.join(known)}")
            raise SettingError(f"{file.path.name} has no function {what}={name}{hint}")
        return name
    return next((name for name in _USUAL[what] if name in file.functions), "")


# Calls by the names of the arguments


def _call_of(file: OwnFile, function: Callable[..., Any], name: str) -> _Call:
    """Calls a function of the file with what its arguments' names ask for."""
    parameters = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    roles = {p.name: _ROLE_OF.get(p.name, "") for p in parameters}
    required = [p.name for p in parameters if p.default is p.empty]
    if not any(roles[each] for each in required) and len(required) == 3:
        roles.update(zip(required, ("params", "X", "y"), strict=True))
    elif len(required) == 1 and not roles[required[0]] and name in _USUAL["forward"]:
        roles[required[0]] = "X"

    def call(given: _Given, forward: _Call | None = None) -> Any:
        passed = functools.cache(lambda: forward(given)) if forward else None
        params = given.get("params")
        by_place, by_name = [], {}
        for p in parameters:
            role = roles[p.name]
            if isinstance(params, Mapping) and p.name in params:
                value = params[p.name]
            elif role in given:
                value = given[role]
            elif role in ("output", "cache") and passed:
                value = _part_of(passed(), role)
            elif p.default is not p.empty:
                continue
            elif p.name in file.namespace:
                value = file.namespace[p.name]
            else:
                raise SettingError(
                    f"{name} has an argument {p.name} that is unknown; give it a default, or a"
                    f" global {p.name}"
                )
            if p.kind is p.POSITIONAL_ONLY:
                by_place.append(value)
            else:
                by_name[p.name] = value
        return function(*by_place, **by_name)

    return call


def _part_of(result: Any, role: str) -> Any:
    """The outputs or the cache of what a forward pass returned."""
    if not isinstance(result, tuple):
        return result
    if role == "cache":
        rest = [each for each in result if not is_array(each)]
        return rest[-1] if rest else result
    return next((each for each in result if is_array(each)), result[0])


def _loss(file: OwnFile, typed: Mapping[str, str], name: str, model: Any = None) -> _Call:
    """The loss as a call of what is given: a function, a method of the model, or an expression."""
    text = typed.get("loss", "")
    if text and not text.isidentifier():
        return _expression(file, text)
    if name:
        method = getattr(model, name, None)
        return _call_of(file, method if callable(method) else file.namespace[name], name)
    whose, of = (file.path.name, "params") if model is None else (type(model).__name__, "model")
    raise SettingError(f"{_no_loss(whose)} an expression of {of}, X and y")


def _no_loss(whose: str) -> str:
    return f"{whose} has no loss that is called as usual; type loss=NAME, or loss='...' with"


def _expression(file: OwnFile, text: str) -> _Call:
    """A loss that was typed: of what is given, the weights by their names, and the file's names."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise SettingError(f"loss={shown(text)} is no expression: {error.msg}") from None
    code = compile(tree, "loss", "eval")
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    own = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}

    def call(given: _Given, _forward: _Call | None = None) -> Any:
        local = {**_by_names(given["params"]), **given}
        known = {"np": np, **file.namespace, **local}
        for name in (node.id for node in names if node.id not in own):
            if name not in known and not hasattr(builtins, name):
                there = f"there are {', '.join(local)}, and the names of {file.path.name}"
                hint = did_you_mean(name, known, there)
                raise SettingError(f"loss has the name {name}, which is not known{hint}")
        return eval(code, known)  # typed on this command line

    return call


def _by_names(params: Any) -> dict[str, Any]:
    """The weights by what an expression calls them: their own names, else W1, b1, ..."""
    if isinstance(params, Mapping):
        return {name: each for name, each in params.items() if str(name).isidentifier()}
    try:
        found, arrays = arrange(params), dict(leaves(params))
    except (SettingError, IndexError):
        return {}
    ways = [(found.weights, False), (found.biases, True)]
    return {
        found.name(layer, bias=is_bias): arrays[way]
        for paths, is_bias in ways
        for layer, way in enumerate(paths)
        if way is not None
    }


# Functions


def _by_functions(
    file: OwnFile, typed: Mapping[str, str], gradient: str
) -> tuple[AuditedCode, Names]:
    loss, forward = _named(file, typed, "loss"), _named(file, typed, "forward")
    maker = _maker(file, typed)
    targets = [name for name in (gradient, loss, forward) if name in file.functions]
    file.execute(targets, typed, [maker] if maker.isidentifier() else [])
    params = _params(file, typed, maker)
    own_gradient = _call_of(file, file.namespace[gradient], gradient)
    own_forward = _call_of(file, file.namespace[forward], forward) if forward else None
    own_loss = _loss(file, typed, loss)
    X, y = file.data
    has_guessed_sizes = maker in file.functions and file.arguments(maker) is None
    if X is None or y is None or np.ndim(X) != 2 or has_guessed_sizes:
        X = y = None

    def run(call: _Call, params: Any, X: Any, y: Any) -> Any:
        file.set_data(X, y)
        return call({"params": params, "X": X, "y": y}, own_forward)

    program = program_of_functions(
        functools.partial(run, own_loss),
        lambda params, X, y: _picked(run(own_gradient, params, X, y), params),
        params,
        X,
        y,
    )
    said = f"{gradient}, compared with {loss or typed.get('loss')}"
    return program, _names(file, program, file.functions[gradient], said)


def _picked(value: Any, params: Any) -> Any:
    """The gradient in what a function returned, perhaps beside a loss or a cache."""
    wanted = len(list(leaves(params)))
    parts = value if isinstance(value, tuple | list) else []
    return next((each for each in (value, *parts) if len(list(leaves(each))) == wanted), value)


def _maker(file: OwnFile, typed: Mapping[str, str]) -> str:
    """A global name of the parameters, or a function that makes them."""
    if "params" in typed:
        return typed["params"]
    bound = [name for name in _USUAL["params"] if _is_global(file, name)]
    makers = [name for name in _USUAL["params"] + _USUAL["makers"] if name in file.functions]
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
    if maker not in file.namespace:
        raise SettingError(
            f"{file.path.name} has no weights that are called as usual; type params=NAME, or"
            " params='...' with an expression that makes them"
        )
    if maker not in file.functions:
        return file.namespace[maker]
    signature = inspect.signature(file.namespace[maker]).parameters.values()
    required = [p.name for p in signature if p.default is p.empty]
    sizes: list[Any] = [[4, 5, 3]] if required else []
    if len(required) > 1:
        sizes = [4, *([5] * (len(required) - 2)), 3]
    found = file.arguments(maker)
    arguments, named = found or (sizes, {})
    try:
        return _params_in(file.namespace[maker](*arguments, **named))
    except (TypeError, ValueError, IndexError, SettingError):
        if found:
            raise
        raise SettingError(
            f"{maker} needs {', '.join(required)}: type params='{maker}(...)' with a network's"
            " sizes"
        ) from None


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


def _names(file: OwnFile, program: AuditedCode, function: Function | None, said: str) -> Names:
    names = Names(program.arrangement, n_examples=file.n_examples, said=said)
    if function is None:
        return names
    find = line_finder(function, file.lines, program.arrangement)
    own = activation_names(function, program.arrangement)
    return dataclasses.replace(names, function=function.name, find=find, activations=own)


# A class


def _class(file: OwnFile, gradient: str) -> str:
    """A class with a method that gives or makes gradients."""
    method = gradient.rpartition(".")[2]
    for wanted in ([method] if method else _USUAL["gradient"], ["loss"]):  # which may give both
        for name in file.classes:
            if any(node.name in wanted for node in file.methods(name)):
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
    file: OwnFile, typed: Mapping[str, str], text: str, gradient: str
) -> tuple[AuditedCode, Names]:
    model = _model(file, typed, text)
    run = _ModelRun(file, model, gradient.rpartition(".")[2], typed)
    program = program_of_functions(run.loss, run.gradient, _state(model), *file.data)
    random = np.random.RandomState(1)
    with contextlib.suppress(ShapeError):  # the audit's own
        program.gradient(program.arrangement.draw(random), *program.form.draw(5, random))
    said = f"{type(model).__name__}.{run.backward}, compared with {run.loss_name}"
    if run.is_update:
        program = dataclasses.replace(program, has_rate=run.rate is not None, called_raw=None)
        said += "; it changes the weights itself, and the change is taken for the gradient"
    node = next((node for node in file.methods() if node.name == run.backward), None)
    return program, _names(file, program, node, said)


def _model(file: OwnFile, typed: Mapping[str, str], text: str) -> Any:
    """The object of a class: of an expression, a global one, or a new one as the file makes it."""
    name, is_call, _ = text.partition("(")
    name = name.strip()
    instances = [] if is_call else [n for s in file.tree.body for n in _bound_to(s, name)]
    file.execute([name], typed, instances[:1])
    if is_call:
        return file.value(text)
    model = file.namespace.get(instances[0]) if instances else None
    if model is not None:
        return model
    arguments, named = file.arguments(name) or ([], {})
    try:
        return file.namespace[name](*arguments, **named)
    except TypeError as error:
        raise SettingError(f"{name} needs arguments: type model='{name}(...)' ({error})") from None


def _bound_to(statement: ast.stmt, name: str) -> Iterator[str]:
    """Global names that are given an object of the class."""
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
        function = statement.value.func
        if isinstance(function, ast.Name) and function.id == name:
            yield from (t.id for t in statement.targets if isinstance(t, ast.Name))


class _ModelRun:
    """Loss and gradient of an object that keeps its weights.

    Attributes:
        is_update: whether its backward pass has changed the weights.
        rate: by which it does, if known.
    """

    def __init__(self, file: OwnFile, model: Any, gradient: str, typed: Mapping[str, str]) -> None:
        self.file, self.model = file, model
        self.is_update = False
        self.rate: float | None = None
        self.backward = self._method([gradient, *_USUAL["gradient"], "loss"])
        forward = self._method([typed.get("forward", ""), *_USUAL["forward"]])
        self.forward = _call_of(file, getattr(model, forward), forward) if forward else None
        text = typed.get("loss", "")
        wanted = [name for name in (text, *_USUAL["loss"]) if name.isidentifier()]
        function = next((name for name in wanted if name in file.functions), "")
        own = self._method(wanted) or function
        self.loss_name = text if text and not text.isidentifier() else own
        self.own_loss = _loss(file, typed, own, model)

    def _method(self, names: list[str]) -> str:
        return next((name for name in names if callable(getattr(self.model, name, None))), "")

    def _with(self, params: Mapping[str, Any], X: Any, y: Any) -> _Given:
        self.file.set_data(X, y)
        for name, value in params.items():
            setattr(self.model, name, value)
        return {"X": X, "y": y, "model": self.model, "params": params}

    def loss(self, params: Mapping[str, Any], X: Any, y: Any) -> Any:
        given = self._with(copy.deepcopy(params), X, y)
        value = self.own_loss(given, self.forward)
        return next(v for v in value if np.ndim(v) == 0) if isinstance(value, tuple) else value

    def gradient(self, params: Mapping[str, Any], X: Any, y: Any) -> Any:
        given = self._with(params, X, y)
        before = {path: np.array(value) for path, value in leaves(params)}
        passed = self.forward(given) if self.forward else None  # it may leave what backward needs
        backward = getattr(self.model, self.backward)
        call = _call_of(self.file, backward, self.backward)
        value = call(given, (lambda _: passed) if self.forward else None)
        after = dict(leaves({name: getattr(self.model, name) for name in params}))
        moved = {path: before[path] - np.array(after[path]) for path in before}
        if any(part.any() for part in moved.values()):
            self.is_update, self.rate = True, self._rate(backward)
            return {name: _at(moved, name, params[name], self.rate or 1.0) for name in params}
        for each in [value, *(value if isinstance(value, tuple | list) else [])]:
            if each is not None and len(list(leaves(each))) == len(before):
                return each
        return {
            name: value
            for name, value in vars(self.model).items()
            if name.lstrip("_").startswith(("d", "g", "nabla")) and next(leaves(value), None)
        }

    def _rate(self, backward: Callable[..., Any]) -> float | None:
        for p in inspect.signature(backward).parameters.values():
            if _ROLE_OF.get(p.name) == "rate" and p.default is not p.empty:
                return float(p.default)
        names = _ROLES["rate"].split()
        return _first_number({name: getattr(self.model, name, None) for name in names})


def _first_number(values: Mapping[str, Any]) -> float | None:
    """A learning rate among named values."""
    named = (values.get(name) for name in _ROLES["rate"].split())
    return next((float(value) for value in named if isinstance(value, float | int)), None)


def _at(moved: Mapping[Any, Array], name: str, value: Any, rate: float) -> Any:
    if is_array(value):
        return moved[(name,)] / rate
    return [part / rate for path, part in moved.items() if path[0] == name]


# A training function


def _training(file: OwnFile) -> str:
    """A function with an argument for the number of passes."""
    usual = [n for n in _USUAL["train"] if n in file.functions]
    for name in [*usual, *file.functions]:
        arguments = [
            node for node in ast.walk(file.functions[name].args) if isinstance(node, ast.arg)
        ]
        if any(_ROLE_OF.get(each.arg) == "passes" for each in arguments):
            return name
    return ""


def _by_training(file: OwnFile, typed: Mapping[str, str], train: str) -> tuple[AuditedCode, Names]:
    name = train.partition("(")[0]
    if name not in file.functions:
        hint = did_you_mean(name, file.functions)
        raise SettingError(f"{file.path.name} has no function train={name}{hint}")
    loss, forward = _named(file, typed, "loss"), _named(file, typed, "forward")
    targets = [n for n in (name, loss, forward) if n in file.functions]
    file.execute(targets, typed, [n for n in _ROLES["rate"].split() if _is_global(file, n)])
    X, y = file.data
    if X is None or y is None:
        fault = file.data_fault or "it has no global examples and labels"
        raise SettingError(
            f"{file.path.name}: {fault}; give examples: X='np.random.rand(6, 784)'"
            " y='np.arange(6) % 2'"
        )
    call = ast.parse(train, mode="eval").body
    found = file.given_in(call) if isinstance(call, ast.Call) else file.arguments(name)
    runs = _short_runs(file, name, found or ([], {}))
    weights, rate = runs.weights, runs.rate
    own_forward = _call_of(file, file.namespace[forward], forward) if forward else None
    arrangement, [form] = arranged(weights(1, *_some(X, y)), X, y)
    compared = loss or typed.get("loss", "")
    if compared:
        own_loss = _loss(file, typed, loss)
    else:
        own_loss, compared = _training_loss(file, name, runs, arrangement, form)

    def loss_of(params: Any, X: Any, y: Any) -> Any:
        file.set_data(X, y)
        return own_loss({"params": params, "X": X, "y": y}, own_forward)

    _check_layers(arrangement, loss_of, weights(2, *_some(X, y)), *_some(X, y))

    def gradient_of(_: Layers | None, X: Array, y: Array) -> tuple[Layers, Layers]:
        before, after = (arrangement.layers(weights(k, *form.own(X, y))) for k in (1, 2))
        gradient = [
            (
                (W - W_new) / (rate or 1.0),
                (b - b_new) / (rate or 1.0) if is_biased else np.zeros(0),
            )
            for (W, b), (W_new, b_new), is_biased in zip(
                before, after, arrangement.biases, strict=True
            )
        ]
        return before, gradient

    program = AuditedCode(
        arrangement,
        form,
        loss_of_layers(loss_of, arrangement, form),
        gradient_of,
        has_own_weights=True,
        has_rate=rate is not None,
    )
    _check_training(program, name)
    said = f"{name}, by the weights after one and two passes"
    if re.search("momentum|velocity|adam|beta1|rmsprop", ast.unparse(file.functions[name]).lower()):
        said += " (its momentum counts as gradient: gradient=NAME may say more)"
    names = _names(file, program, file.functions[name], f"{said}; compared with {compared}")
    return program, dataclasses.replace(names, rate=rate)


def _training_loss(
    file: OwnFile, name: str, runs: "_ShortRuns", arrangement: Arrangement, form: ExampleForm
) -> tuple[_Call, str]:
    """The loss that a training yields, and what it is called.

    It is believed if it is, at the weights after one pass or two, what a run yields there, and
    leaves the weights as they are.

    Raises:
        SettingError: where there is none, with an expression to type.
    """
    X, y = _some(*file.data)
    found = yielded_loss(file.functions[name])
    if found is not None:
        module = ast.Module([found.function], [])
        exec(compile(module, str(file.path), "exec"), file.namespace)
        function = file.namespace.pop(YIELDED)

        def loss(given: _Given, _forward: _Call | None = None) -> Any:
            return runs.called(function, 1, given["X"], given["y"], _weights=given["params"])

        with contextlib.suppress(Exception):  # whatever a foreign file raises
            second = runs.losses(2, X, y)[1]
            for passes in (1, 2):
                params = runs.weights(passes, X, y)
                kept = copy.deepcopy(params)
                value = float(loss({"params": params, "X": X, "y": y}))
                pairs = zip(leaves(params), leaves(kept), strict=True)
                is_left = all(np.array_equal(as_numpy(a), as_numpy(b)) for (_, a), (_, b) in pairs)
                if is_left and np.isclose(value, second, rtol=1e-5, atol=0):
                    return loss, f"the loss that it yields in line {found.line}"
    names = [*_by_names(arrangement.template), *file.data_names]
    example = _example_of_loss(arrangement, form, *file.data_names)
    raise SettingError(
        f"{_no_loss(file.path.name)} an expression of {', '.join(names[:-1])} and {names[-1]}, such"
        f" as loss='{example}'"
    )


def _example_of_loss(arrangement: Arrangement, form: ExampleForm, X: str, y: str) -> str:
    """A loss of this network that can be typed: hidden layers of tanh, and what fits the labels."""
    z = X
    for layer, biases in enumerate(arrangement.biases):
        inputs, W = f"np.tanh({z})" if layer else z, arrangement.name(layer)
        W += "" if arrangement.are_transposed == form.in_columns else ".T"
        z = f"{W} @ {inputs}" if form.in_columns else f"{inputs} @ {W}"
        z += "" if biases is None else f" + {arrangement.name(layer, bias=True)}"
    if form.labels == "classes":
        own, axis = f"range({y}.size), {y}.ravel()", 1
        if form.in_columns:
            own, axis = f"{y}.ravel(), range({y}.size)", 0
        return f"np.mean(np.log(np.exp({z}).sum(axis={axis})) - ({z})[{own}])"
    return f"np.mean((({z}).ravel() - {y})**2)" if form.y_ndim == 1 else f"np.mean(({z} - {y})**2)"


def _check_layers(arrangement: Arrangement, loss: _Call, params: Any, X: Any, y: Any) -> None:
    """Raises SettingError where the loss hangs on arrays that are not taken for weights."""
    known = {*arrangement.weights, *arrangement.biases}
    others = [(way, tuple(array.shape)) for way, array in leaves(params) if way not in known]
    if not others:
        return
    losses = []
    for each in (params, arrangement.own(arrangement.layers(params))):
        same_random_numbers()
        losses.append(float(loss(copy.deepcopy(each), X, y)))
    if np.isclose(losses[0], losses[1], rtol=1e-3, equal_nan=True):
        return
    said = ", ".join(f"{'.'.join(map(str, way))} of shape {shape}" for way, shape in others)
    raise SettingError(
        "the weights must be layers W1, b1, W2, ... of shapes that follow on each other, but the"
        f" loss hangs on {said} as well"
    )


def _check_training(program: AuditedCode, name: str) -> None:
    """Raises SettingError for a training that ignores the examples, or does not train."""
    random = np.random.RandomState(1)
    first, second = (
        vector(program.gradient(None, *program.form.draw(5, random))[1]) for _ in range(2)
    )
    if not first.any():
        raise SettingError(
            f"{name} returns the same weights after one and two passes over 5 examples; a smaller"
            " batch, or gradient=NAME, may do"
        )
    if np.array_equal(first, second):
        raise SettingError(
            f"{name} does not use the examples X and y that are global or its arguments; read the"
            " data outside of it"
        )


def _some(X: Any, y: Any) -> tuple[Any, Any]:
    """A few of the program's own examples, of all classes that come early."""
    labels = np.asarray(y)
    if labels.ndim == 1 and len(labels) == len(X):
        firsts = np.unique(labels, return_index=True)[1][:50].tolist()
        rows = np.unique([*range(min(5, len(X))), *firsts])
        return X[rows], y[rows]
    return (X[:5], y[:5]) if len(y) == len(X) else (X[:, :5], y[..., :5])


class _ShortRuns(NamedTuple):
    """A training function, called as its own file calls it.

    Attributes:
        called: calls a function that has its arguments with a number of passes, examples, labels.
        function: that trains.
        rate: its learning rate, None where it is not known.
    """

    called: _Call
    function: _Call
    rate: float | None

    def weights(self, passes: int, X: Any, y: Any) -> Any:
        """The weights after so many passes."""
        value = self.called(self.function, passes, X, y)
        if inspect.isgenerator(value):  # yields losses, and returns the weights
            value = _ended(value)[1]
        return _params_in(copy.deepcopy(value))

    def losses(self, passes: int, X: Any, y: Any) -> list[float]:
        """What a generator yields on the way."""
        yielded, _ = _ended(self.called(self.function, passes, X, y))
        return [float(each["loss"] if isinstance(each, dict) else each) for each in yielded]


def _short_runs(file: OwnFile, name: str, found: tuple[list[Any], dict[str, Any]]) -> _ShortRuns:
    """Short runs of a training function.

    Args:
        found: arguments by their place, and by their names.
    """
    function = file.namespace[name]
    signature = inspect.signature(function)
    bound = signature.bind_partial(*found[0], **found[1]).arguments
    X, y = file.data
    given = {n: v for n, v in bound.items() if not (v is X or v is y)}
    roles = {n: _ROLE_OF.get(n, "") for n in signature.parameters}
    passes_name = next((n for n, role in roles.items() if role == "passes"), "")
    if not passes_name:
        raise SettingError(f"{name} needs an argument for the number of passes, such as epochs")
    for n, p in signature.parameters.items():
        is_filled = roles[n] in ("X", "y", "passes") or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if n in given or p.default is not p.empty or is_filled:
            continue
        if roles[n] == "rate":
            given[n] = 0.01
        elif "hid" in n.lower() or n.lower().endswith("dim") or n.lower() == "n_h":
            given[n] = 3
        else:
            raise SettingError(
                f"{name} has an argument {n} that is unknown: type train='{name}({n}=...)'"
            )
    own_rate = next((n for n, role in roles.items() if role == "rate"), None)
    if own_rate is not None:
        rate: float | None = float(given.get(own_rate, signature.parameters[own_rate].default))
    else:
        source = ast.unparse(file.functions[name])
        rate = _first_number({n: v for n, v in file.namespace.items() if n in source})

    def called(function: _Call, passes: int, X: Any, y: Any, **more: Any) -> Any:
        same_random_numbers()
        file.set_data(X, y)
        examples = {n: {"X": X, "y": y}[role] for n, role in roles.items() if role in ("X", "y")}
        return function(**{**given, **examples, **more, passes_name: passes})

    return _ShortRuns(called, function, rate)


def _ended(steps: Generator[Any, Any, Any]) -> tuple[list[Any], Any]:
    """All that a generator yields, and what it returns."""
    yielded = []
    while True:
        try:
            yielded.append(next(steps))
        except StopIteration as end:
            return yielded, end.value
