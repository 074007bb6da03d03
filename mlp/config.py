"""The typed schema of a run and of a study: every setting, its type, range and default.

Values become these dataclasses through `mlp.settings` alone.
"""

import dataclasses
import functools
import hashlib
import json
import sys
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, SkipValidation, Strict
from pydantic.dataclasses import dataclass

from mlp.errors import shown
from mlp.program import Program

Value = bool | int | float | str | None | list[Any]

_CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)

# Strict: 3.0 is no int, "3" and true are no numbers. (Strict classes would refuse plain mappings.)
_Int = Annotated[int, Strict()]
_Float = Annotated[float, Strict()]

_SEED_END = 2**32  # RandomState takes seeds below this
_Seed = Annotated[_Int, Field(ge=0, lt=_SEED_END)]
_NAME = r"^\w[\w.-]*$"  # of a study; it is a folder's name too
# Far beyond what can be trained; larger numbers are slips, and NumPy's indices end somewhere.
MAX_STEPS = 1_000_000_000
_MAX_WIDTH = 65_536


def canonical_json(value: Any) -> str:
    """The one JSON text of a plain value: sorted keys, no spaces, no NaN.

    Example:
        >>> canonical_json({"b": 1, "a": [0.5]})
        '{"a":[0.5],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of a plain value, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def text_keys(value: Any) -> Any:
    """A plain value whose keys are texts, at any depth: YAML reads the branch `1:` as a number.

    Example:
        >>> text_keys({"by": "model.depth", 1: [0.1], None: {"low": 2}})
        {'by': 'model.depth', '1': [0.1], 'null': {'low': 2}}
    """
    if not isinstance(value, dict):
        return value
    texts = [key if isinstance(key, str) else canonical_json(key) for key in value]
    if len(set(texts)) < len(texts):
        raise ValueError(f"must name each key once, but has {shown(list(value))}")
    return dict(zip(texts, map(text_keys, value.values()), strict=True))


def _check_text(value: str) -> str:
    """Texts become paths, addresses and lines on a screen; none of these has control characters."""
    if not value.isprintable():
        raise ValueError(f"must be printable characters, but is {shown(value)}")
    return value


_Text = Annotated[str, Strict(), AfterValidator(_check_text)]


def _check_widths(value: object) -> int | tuple[int, ...]:
    """An int for every hidden layer, or a list with one int a layer."""
    layers: list[int] = []
    for width in value if isinstance(value, list | tuple) else [value]:
        if isinstance(width, bool) or not isinstance(width, int):
            raise ValueError(f"must be an integer or a list of integers, but is {shown(value)}")
        if width < 1:
            raise ValueError(f"must be at least 1 in every layer, but is {shown(value)}")
        if width > _MAX_WIDTH:
            raise ValueError(f"must be at most {_MAX_WIDTH} in every layer, but is {shown(value)}")
        layers.append(width)
    if not layers:
        raise ValueError("must name at least one width, but is []")
    return tuple(layers) if isinstance(value, list | tuple) else layers[0]


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class Data:
    """Which digits, and how they are parted."""

    name: Annotated[
        Literal["auto", "mnist", "digits"],
        Field(description="mnist, scikit-learn's digits, or auto: mnist if it can be had"),
    ] = "auto"
    root: Annotated[
        _Text | None, Field(description="folder of the MNIST files; null: the user's cache folder")
    ] = None
    validation_fraction: Annotated[
        _Float, Field(ge=0, le=0.9, description="share of the training part that is held out")
    ] = 0.2
    split_seed: Annotated[_Seed, Field(description="seed of the validation split")] = 0
    scale: Annotated[
        _Float, Field(gt=0, description="factor on the inputs, which are 0 to 1; 255: 0 to 255")
    ] = 1.0


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class Model:
    """Hidden layers; the output layer always has two units under softmax."""

    depth: Annotated[_Int, Field(ge=1, le=64, description="number of hidden layers")] = 2
    widths: Annotated[
        int | tuple[int, ...],
        PlainValidator(_check_widths),
        Field(description="units of every hidden layer, or a list with one number a layer"),
    ] = 3
    activation: Annotated[
        Literal["sigmoid", "tanh", "relu"], Field(description="function of the hidden units")
    ] = "sigmoid"

    def __post_init__(self) -> None:
        if isinstance(self.widths, tuple) and len(self.widths) != self.depth:
            raise ValueError(
                f"model.widths must have model.depth = {self.depth} entries, "
                f"but is {shown(list(self.widths))}"
            )

    @property
    def layer_widths(self) -> tuple[int, ...]:
        """The width of each hidden layer, `depth` entries."""
        return self.widths if isinstance(self.widths, tuple) else (self.widths,) * self.depth


Scheme = Literal[
    "lecun_normal",
    "glorot_uniform",
    "glorot_normal",
    "he_normal",
    "normal",
    "uniform",
    "orthogonal",
    "zeros",
]


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class Initialization:
    """How the first weights are drawn, and where the biases start."""

    scheme: Annotated[Scheme, Field(description="distribution of the first weights")] = (
        "lecun_normal"
    )
    scale: Annotated[
        _Float,
        Field(gt=0, description="factor on them; normal: their deviation, uniform: half-width"),
    ] = 1.0
    bias: Annotated[_Float, Field(description="what all biases start at")] = 0.0


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class Gradient:
    """What is done to the gradient before the step."""

    normalization: Annotated[
        Literal["sum", "mean", "unit", "clip"],
        Field(description="sum or mean over examples; unit: scaled to norm 1; clip: mean, cut"),
    ] = "mean"
    clip_norm: Annotated[_Float, Field(gt=0, description="largest gradient norm under clip")] = 1.0
    derivative: Annotated[
        Literal["exact", "question"],
        Field(description="derivative of the activation; question: the question's factor"),
    ] = "exact"


def _check_rate(value: object) -> float | Literal["auto"]:
    """A number above 0, or a word."""
    if value == "auto":
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, but is {shown(value)}")
    if not -sys.float_info.max <= value <= sys.float_info.max:  # also an integer of 400 digits
        raise ValueError(f"must be a finite number, but is {shown(value)}")
    if value <= 0:
        raise ValueError(f"must be greater than 0, but is {shown(value)}")
    return float(value)


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class Optimizer:
    """Gradient descent: v = momentum v + g, w = w - learning_rate v."""

    learning_rate: Annotated[
        float | Literal["auto"],
        PlainValidator(_check_rate),
        Field(description="step size; auto: 1 / sharpness of the first weights"),
    ] = 0.5
    momentum: Annotated[_Float, Field(ge=0, lt=1, description="share of the last step kept")] = 0.0
    decay: Annotated[
        Literal["none", "cosine"],
        Field(description="fall of the learning rate; cosine: to 0 along half a cosine"),
    ] = "none"
    guard: Annotated[
        Literal["none", "rollback"],
        Field(
            description="rollback: where the loss swings, to the best weights with half the rate"
        ),
    ] = "none"

    @property
    def rate(self) -> float:
        """The learning rate of a run that is trained: `auto` has become a number by then."""
        assert self.learning_rate != "auto"
        return self.learning_rate


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class Training:
    """How long, on what, and with which random streams."""

    steps: Annotated[_Int, Field(ge=1, le=MAX_STEPS, description="updates of the weights")] = 500
    batch_size: Annotated[
        Annotated[_Int, Field(ge=1, le=MAX_STEPS)] | None,
        Field(description="examples in a step; null: all"),
    ] = None
    dtype: Annotated[
        Literal["float32", "float64"], Field(description="type of weights and arithmetic")
    ] = "float32"
    seed: Annotated[_Seed, Field(description="seed of the first weights")] = 0
    order_seed: Annotated[_Seed, Field(description="seed of the order of the batches")] = 0
    evaluate_every: Annotated[
        _Int,
        Field(ge=1, le=MAX_STEPS, description="steps from one validation accuracy to the next"),
    ] = 10
    sharpness_points: Annotated[
        _Int, Field(ge=0, le=1000, description="steps at which sharpness is measured; full batch")
    ] = 0
    shift: Annotated[
        _Int,
        Field(ge=0, le=14, description="pixels that each epoch moves an image at most; batches"),
    ] = 0

    def __post_init__(self) -> None:
        if self.shift and self.batch_size is None:
            raise ValueError(
                f"training.shift={self.shift} needs training.batch_size, but that is null"
            )


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class Tracking:
    """Where runs are recorded. Changes no result."""

    uri: Annotated[
        _Text | None,
        Field(description="MLflow's store; null: MLFLOW_TRACKING_URI, else ./mlflow.db"),
    ] = None
    experiment: Annotated[
        _Text, Field(min_length=1, max_length=250, description="name of the MLflow experiment")
    ] = "three-vs-seven"
    register: Annotated[
        Annotated[_Text, Field(min_length=1, max_length=200, pattern=_NAME)] | None,
        Field(description="name in MLflow's registry that gets the (best) network; null: none"),
    ] = None


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class Execution:
    """Where and how wide the training runs. Changes no result."""

    engine: Annotated[
        Literal["local", "ray", "cuda"],
        Field(
            description="local: this process; ray: a Ray cluster; cuda: GPUs here (experimental)"
        ),
    ] = "local"
    gpu: Annotated[
        Annotated[bool, Strict()],
        Field(description="ray: a population asks for a GPU, and trains on it (experimental)"),
    ] = False
    address: Annotated[
        _Text,
        Field(min_length=1, description="the cluster: auto, HOST:PORT, ray://HOST:PORT, local"),
    ] = "auto"
    memory_gb: Annotated[
        Annotated[_Float, Field(gt=0)] | None,
        Field(description="memory that a population reserves on a worker; null: none"),
    ] = None
    silence_s: Annotated[
        _Float, Field(gt=0, le=1e6, description="a worker that says nothing for so long is hung")
    ] = 600.0
    population: Annotated[
        Annotated[_Int, Field(ge=1)] | None,
        Field(description="trials trained at once; null: as many of a generation as fit in memory"),
    ] = None
    threads: Annotated[
        Annotated[_Int, Field(ge=1, le=1024)] | None,
        Field(description="threads of a population; null: one for each core (ray: one CPU)"),
    ] = None

    def __post_init__(self) -> None:
        if self.gpu and self.engine != "ray":
            raise ValueError(
                f"execution.gpu=true needs execution.engine=ray, but that is {self.engine}; leave "
                "it out: execution.engine=cuda trains on the GPUs of this machine"
            )


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class OwnSettings:
    """What is typed of an own training function, beside its arguments."""

    file: Annotated[
        Annotated[_Text, Field(min_length=1)] | None,
        Field(description="your training function, FILE.py or FILE.py:FUNCTION; null: built in"),
    ] = None
    timeout_s: Annotated[
        _Float, Field(gt=0, le=1e7, description="a run that takes longer is ended, and has failed")
    ] = 3600.0
    roles: Annotated[
        dict[str, _Text],
        Field(description="learning_rate, batch_size, seed, steps: the argument that is this"),
    ] = dataclasses.field(default_factory=dict)
    changed: Annotated[
        Annotated[bool, Strict()],
        Field(description="train although the file is not as it was for the run or study"),
    ] = False


@dataclasses.dataclass(frozen=True)
class Own:
    """A run of the user's own training function, in the place of the built-in network.

    Attributes:
        values: one an argument, in the signature's order; lists as tuples. None: the function's own
            default.
        path: of the file on this machine; None where only a record tells of the run, so that it
            cannot be trained.
        timeout_s: seconds that a run may take.
        changed: whether a file with other texts than those of a record is executed.
    """

    program: Program
    values: tuple[Any, ...]
    path: str | None = dataclasses.field(default=None, compare=False)
    timeout_s: float = dataclasses.field(default=OwnSettings().timeout_s, compare=False)
    changed: bool = dataclasses.field(default=False, compare=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """Argument -> value."""
        names = (own.name for own in self.program.arguments)
        return dict(zip(names, self.values, strict=True))


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class RunConfig:
    """Everything that defines one run, and where it is trained and tracked.

    Attributes:
        own: an own function, whose arguments and `training.seed` are then all that counts of it.
    """

    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    initialization: Initialization = dataclasses.field(default_factory=Initialization)
    gradient: Gradient = dataclasses.field(default_factory=Gradient)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    training: Training = dataclasses.field(default_factory=Training)
    tracking: Tracking = dataclasses.field(default_factory=Tracking)
    execution: Execution = dataclasses.field(default_factory=Execution)
    own: Annotated[Own | None, SkipValidation] = None

    def __post_init__(self) -> None:
        if self.gradient.derivative == "question" and self.model.activation != "sigmoid":
            raise ValueError(
                "gradient.derivative=question needs model.activation=sigmoid, "
                f"but that is {self.model.activation!r}"
            )
        if self.optimizer.learning_rate == "auto" and self.own is not None:
            raise ValueError(
                "optimizer.learning_rate=auto needs the built-in network: the curvature of an own "
                "function is not known"
            )

    @functools.cached_property
    def _hash(self) -> int:
        """Computed once: thousands of reruns are looked up by their configs."""
        return hash(tuple(getattr(self, own.name) for own in dataclasses.fields(self)))

    def __hash__(self) -> int:
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        """Without its hash, which is another one in another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class Study:
    """A search: which settings vary, how they are drawn and what is looked for."""

    file: Annotated[
        _Text,
        Field(
            min_length=1,
            max_length=100,
            pattern=_NAME,
            description="study file the settings come from",
        ),
    ] = "sweep"
    name: Annotated[
        Annotated[_Text, Field(min_length=1, max_length=200, pattern=_NAME)] | None,
        Field(description="its name; null: its file's and a digest of what determines results"),
    ] = None
    objective: Annotated[
        Annotated[_Text, Field(min_length=1, max_length=100)] | None,
        Field(
            description="validation_accuracy, training_loss or oscillation; of an own function a "
            "name it yields; null: the first, of an own function its loss"
        ),
    ] = None
    sampler: Annotated[
        Literal["tpe", "random", "qmc", "grid"], Field(description="how trials are drawn")
    ] = "tpe"
    seed: Annotated[_Seed, Field(description="seed of the sampler")] = 0
    n_trials: Annotated[_Int, Field(ge=1, le=1_000_000, description="trials in all")] = 32
    generation: Annotated[
        _Int, Field(ge=1, le=100_000, description="trials drawn and trained together")
    ] = 16
    pruner: Annotated[
        Literal["none", "median", "percentile"],
        Field(description="gives up trials that fall behind earlier generations"),
    ] = "none"
    percentile: Annotated[
        _Float,
        Field(gt=0, lt=100, description="share of earlier trials, in percent, to stay ahead of"),
    ] = 25.0
    confirm_seeds: Annotated[
        _Int,
        Field(ge=0, le=100, description="further seeds of the best settings, to test in the end"),
    ] = 0
    timeout_s: Annotated[
        Annotated[_Float, Field(gt=0)] | None,
        Field(description="start no generation after so many seconds"),
    ] = None
    force: Annotated[
        Annotated[bool, Strict()],
        Field(description="train settings again that have a run in the study already"),
    ] = False
    explain: Annotated[
        Annotated[bool, Strict()],
        Field(description="say at the end what makes runs end badly, in at most as long again"),
    ] = True
    dry_run: Annotated[
        Annotated[bool, Strict()],
        Field(description="only show space, first trials, time and memory; store nothing"),
    ] = False
    storage: Annotated[
        _Text, Field(min_length=1, description="Optuna's store, SQLite or PostgreSQL")
    ] = "sqlite:///optuna.db"
    space: Annotated[
        dict[str, Any], AfterValidator(text_keys), Field(description="the settings that vary")
    ] = dataclasses.field(default_factory=dict)
    enqueue: Annotated[
        list[dict[str, Any]], Field(description="settings of the first trials, instead of drawn")
    ] = dataclasses.field(default_factory=list)


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class SweepConfig:
    """A study over runs: `base` holds what every trial shares."""

    base: RunConfig
    study: Study

    @property
    def objective(self) -> str:
        """What the search looks for."""
        return self.study.objective or OBJECTIVES[0 if self.base.own is None else 1]


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class Explain:
    """How much is trained to find what makes tracked runs end badly, oscillating above all."""

    interventions: Annotated[
        _Int,
        Field(ge=1, le=1000, description="runs that end badly, and as many others, to change"),
    ] = 8
    seeds: Annotated[
        _Int, Field(ge=1, le=1000, description="further seeds that each change is repeated with")
    ] = 4
    timeout_s: Annotated[
        Annotated[_Float, Field(gt=0)] | None,
        Field(description="stop after so many seconds; null: the study's own, for a run no limit"),
    ] = None
    verdict: Annotated[
        Literal["worst", "oscillating", "diverged", "stalled", "climbing"],
        Field(
            description="of a study: which bad end; worst: diverged where most runs are, else "
            "oscillating where any is, else the commonest"
        ),
    ] = "worst"
    apply: Annotated[
        Annotated[bool, Strict()],
        Field(description="of a single run: track the repaired run beside it"),
    ] = False
    metric: Annotated[
        _Text, Field(min_length=1, description="of another program's runs: what has their loss")
    ] = "loss"
    map: Annotated[
        dict[str, str], Field(description="likewise: param -> the setting that it stands for")
    ] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, config=_CLOSED, kw_only=True)
class ExplainConfig:
    """An explanation: how much is trained, and where; `local` says nothing of what.

    Attributes:
        given: setting -> value, of another program's runs, where their params do not say it.
    """

    local: RunConfig
    explain: Explain
    given: dict[str, Any] = dataclasses.field(default_factory=dict)


OBJECTIVES = "validation_accuracy", "training_loss", "oscillation"
RUN_GROUPS = tuple(field.name for field in dataclasses.fields(RunConfig))
RESULT_GROUPS = RUN_GROUPS[:6]  # the others say where, or whose code is trained, not what
