"""Other ways to train the same networks, each as its own documentation recommends.

Every peer starts from the weights of `network.initialize`, takes full-batch gradient descent on the
mean loss with the exact derivative, and keeps the loss of every step, as the engine does.
"""

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlp.network import Params

Features = NDArray[np.floating]
Labels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Problem:
    """What all contenders train.

    Attributes:
        first: the first weights of each model, float32, sigmoid networks.
        features: `(n, d)`, float32.
        labels: `(n,)`, 0 or 1.
        learning_rate: of the mean loss.
        threads: cores to use.
        gpu: number of the GPU to use; None: the CPU.
    """

    first: Sequence[Params]
    features: Features
    labels: Labels
    learning_rate: float
    threads: int
    gpu: int | None = None

    @property
    def is_uniform(self) -> bool:
        """Whether all models have one shape."""
        return len({tuple(layer.W.shape for layer in params) for params in self.first}) == 1


Steps = Callable[[int], NDArray[np.float64]]
"""Takes so many steps of every model, from where it stands; losses before each, `(model, step)`."""


class NotApplicableError(Exception):
    """A peer that has no way for a problem."""


def question(problem: Problem) -> Steps:
    """The question's code: float64, dense, one network after the other."""
    if problem.gpu is not None:
        raise NotApplicableError("runs on the CPU")
    X, y = problem.features.astype(np.float64), problem.labels
    rows = np.arange(len(X))
    models = [[(W.astype(np.float64), b.astype(np.float64)) for W, b in p] for p in problem.first]

    def step(model: list[tuple[Any, Any]]) -> float:
        activations = [X]
        for W, b in model[:-1]:
            activations.append(1 / (1 + np.exp(-(activations[-1].dot(W) + b))))
        exp_scores = np.exp(activations[-1].dot(model[-1][0]) + model[-1][1])
        probs = exp_scores / np.sum(exp_scores, axis=1, keepdims=True)
        loss = float(np.sum(-np.log(probs[rows, y])) / len(X))
        delta = probs
        delta[rows, y] -= 1
        delta /= len(X)
        for layer in reversed(range(len(model))):
            W, b = model[layer]
            a = activations[layer]
            dW, db = a.T.dot(delta), np.sum(delta, axis=0)
            if layer:
                delta = delta.dot(W.T) * (a * (1 - a))
            model[layer] = W - problem.learning_rate * dW, b - problem.learning_rate * db
        return loss

    return lambda n: np.array([[step(model) for _ in range(n)] for model in models])


def torch_eager(problem: Problem) -> Steps:
    """PyTorch's own training loop: modules, CrossEntropyLoss, SGD, one model after the other."""
    torch, X, y = _torch(problem)
    models = [_torch_module(torch, params, X.device) for params in problem.first]
    loss_of = torch.nn.CrossEntropyLoss()
    optimizers = [torch.optim.SGD(m.parameters(), lr=problem.learning_rate) for m in models]

    def step(model: Any, optimizer: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(model(X), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return lambda n: _numbers(
        torch,
        [
            [step(model, optimizer) for _ in range(n)]
            for model, optimizer in zip(models, optimizers, strict=True)
        ],
    )


def torch_graph(problem: Problem) -> Steps:
    """The same recorded once as a CUDA graph and replayed; GPU only."""
    if problem.gpu is None:
        raise NotApplicableError("runs on a GPU")
    torch, X, y = _torch(problem)
    models = [_torch_module(torch, params, X.device) for params in problem.first]
    loss_of = torch.nn.CrossEntropyLoss()
    replays = []
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=problem.learning_rate)
        first = {name: value.clone() for name, value in model.state_dict().items()}

        def step(model: Any = model, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model(X), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

        aside = torch.cuda.Stream(X.device)
        aside.wait_stream(torch.cuda.current_stream(X.device))
        with torch.cuda.stream(aside):
            for _ in range(3):
                step()
        torch.cuda.current_stream(X.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = step()
        model.load_state_dict(first)  # in place, so that the graph sees them
        replays.append((graph, loss))

    def steps(n: int) -> NDArray[np.float64]:
        losses = []
        for graph, loss in replays:
            row = []
            for _ in range(n):
                graph.replay()
                row.append(loss.clone())
            losses.append(row)
        return _numbers(torch, losses)

    return steps


def torch_compile(problem: Problem) -> Steps:
    """The same with the model and its loss compiled."""
    torch, X, y = _torch(problem)
    models = [_torch_module(torch, params, X.device) for params in problem.first]
    loss_of = torch.nn.CrossEntropyLoss()
    optimizers = [torch.optim.SGD(m.parameters(), lr=problem.learning_rate) for m in models]
    # Models of one shape share their code; many shapes would pass the limit of recompilations.
    torch._dynamo.config.cache_size_limit = 256
    forward = torch.compile(lambda model: loss_of(model(X), y), dynamic=False)

    def step(model: Any, optimizer: Any) -> Any:
        optimizer.zero_grad()
        loss = forward(model)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return lambda n: _numbers(
        torch,
        [
            [step(model, optimizer) for _ in range(n)]
            for model, optimizer in zip(models, optimizers, strict=True)
        ],
    )


def torch_vmap(problem: Problem) -> Steps:
    """Model ensembling with `torch.func`: stacked parameters, `vmap` over `grad_and_value`."""
    if not problem.is_uniform:
        raise NotApplicableError("models of different shapes cannot be stacked")
    torch, X, y = _torch(problem)
    models = [_torch_module(torch, params, X.device) for params in problem.first]
    params, buffers = torch.func.stack_module_state(models)
    params = {name: value.detach() for name, value in params.items()}
    model = models[0]

    def loss_of(one: Any) -> Any:
        logits = torch.func.functional_call(model, (one, buffers), (X,))
        return torch.nn.functional.cross_entropy(logits, y)

    both = torch.func.vmap(torch.func.grad_and_value(loss_of))

    def steps(n: int) -> NDArray[np.float64]:
        nonlocal params
        losses = []
        with torch.no_grad():
            for _ in range(n):
                grads, loss = both(params)
                params = {k: v - problem.learning_rate * grads[k] for k, v in params.items()}
                losses.append(loss)
        return np.asarray(torch.stack(losses, dim=1).cpu().numpy().astype(np.float64))

    return steps


def jax_jit(problem: Problem) -> Steps:
    """JAX's MNIST example: a jitted update, one model after the other."""
    jax, update = _jax_update(problem)
    update = jax.jit(update)
    models = [jax.device_put([tuple(layer) for layer in params]) for params in problem.first]

    def steps(n: int) -> NDArray[np.float64]:
        losses = []
        for i in range(len(models)):
            row = []
            for _ in range(n):
                models[i], loss = update(models[i])
                row.append(loss)
            losses.append(row)
        return np.array(jax.device_get(losses), np.float64)

    return steps


def jax_vmap(problem: Problem, precision: str | None = None) -> Steps:
    """The same update, vmapped over stacked parameters; a GPU multiplies in TF32 by default."""
    if not problem.is_uniform:
        raise NotApplicableError("models of different shapes cannot be stacked")
    jax, update = _jax_update(problem)
    update = jax.jit(jax.vmap(update))
    params = jax.device_put(
        [
            (np.stack([p[k].W for p in problem.first]), np.stack([p[k].b for p in problem.first]))
            for k in range(len(problem.first[0]))
        ]
    )

    def steps(n: int) -> NDArray[np.float64]:
        nonlocal params
        losses = []
        with jax.default_matmul_precision(precision):
            for _ in range(n):
                params, loss = update(params)
                losses.append(loss)
        return np.stack(jax.device_get(losses), axis=1).astype(np.float64)

    return steps


def jax_vmap_float32(problem: Problem) -> Steps:
    """The same with products in float32; GPU only, as on a CPU they are."""
    if problem.gpu is None:
        raise NotApplicableError("runs on a GPU")
    return jax_vmap(problem, "float32")


def sklearn(problem: Problem) -> Steps:
    """MLPClassifier: one logistic output and weights of its own, so its losses are others."""
    if problem.gpu is not None:
        raise NotApplicableError("runs on the CPU")
    module = importlib.import_module("sklearn.neural_network")

    def classifier(params: Params, seed: int) -> Any:
        return module.MLPClassifier(
            hidden_layer_sizes=[layer.W.shape[1] for layer in params[:-1]],
            activation="logistic",
            solver="sgd",
            alpha=0.0,
            batch_size=len(problem.features),
            learning_rate_init=problem.learning_rate,
            momentum=0.0,
            nesterovs_momentum=False,
            shuffle=False,
            tol=0.0,
            n_iter_no_change=10**9,
            warm_start=True,
            random_state=seed,
        )

    models = [classifier(params, seed) for seed, params in enumerate(problem.first)]

    def steps(n: int) -> NDArray[np.float64]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            for model in models:
                model.set_params(max_iter=n).fit(problem.features, problem.labels)
        return np.array([model.loss_curve_[-n:] for model in models])

    return steps


PEERS: dict[str, Callable[[Problem], Steps]] = {
    "question": question,
    "torch_eager": torch_eager,
    "torch_graph": torch_graph,
    "torch_compile": torch_compile,
    "torch_vmap": torch_vmap,
    "jax_jit": jax_jit,
    "jax_vmap": jax_vmap,
    "jax_vmap_float32": jax_vmap_float32,
    "sklearn": sklearn,
}


def _torch(problem: Problem) -> tuple[Any, Any, Any]:
    torch = importlib.import_module("torch")
    torch.set_num_threads(problem.threads)
    where = torch.device("cpu" if problem.gpu is None else f"cuda:{problem.gpu}")
    if problem.gpu is not None:
        torch.cuda.set_device(where)
    X = torch.from_numpy(np.ascontiguousarray(problem.features)).to(where)
    return torch, X, torch.from_numpy(problem.labels.astype(np.int64)).to(where)


def _numbers(torch: Any, losses: Sequence[Sequence[Any]]) -> NDArray[np.float64]:
    """They are read when all are known: reading one would wait for a GPU at each step."""
    rows = [torch.stack([*row]) for row in losses]
    return np.asarray(torch.stack(rows).cpu().numpy().astype(np.float64))


def _torch_module(torch: Any, params: Params, where: Any) -> Any:
    layers: list[Any] = []
    for W, b in params:
        linear = torch.nn.Linear(*W.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(W.T)))
            linear.bias.copy_(torch.from_numpy(b))
        layers += [linear, torch.nn.Sigmoid()]
    return torch.nn.Sequential(*layers[:-1]).to(where)


def _jax_update(problem: Problem) -> tuple[Any, Callable[[Any], Any]]:
    jax = importlib.import_module("jax")
    jnp = importlib.import_module("jax.numpy")
    if problem.gpu is not None:
        jax.config.update("jax_default_device", jax.devices("gpu")[problem.gpu])
    X, y = jax.device_put(problem.features), jax.device_put(problem.labels.astype(np.int32))
    rows = np.arange(len(problem.labels))

    def loss_of(params: Any) -> Any:
        activations = X
        for W, b in params[:-1]:
            activations = jax.nn.sigmoid(jnp.dot(activations, W) + b)
        logits = jnp.dot(activations, params[-1][0]) + params[-1][1]
        return -jnp.mean(jax.nn.log_softmax(logits)[rows, y])

    def update(params: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params)
        new = [
            (W - problem.learning_rate * dW, b - problem.learning_rate * db)
            for (W, b), (dW, db) in zip(params, grads, strict=True)
        ]
        return new, loss

    return jax, update
