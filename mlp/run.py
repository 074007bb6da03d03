"""A tracked run as a notebook wants it: its config, curve, weights and answers."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike, NDArray

from mlp.addresses import mask, resolve, sqlite_path
from mlp.config import RunConfig, Tracking
from mlp.curve import Judgement, Verdict
from mlp.engine.result import Result
from mlp.errors import MissingInputError, RecordError, SettingError, counted, one_line
from mlp.network import Layer, Params
from mlp.settings import settings_of
from mlp.study.space import typed
from mlp.tracking.display import layer_curves
from mlp.tracking.picture import Picture, run_picture, study_picture
from mlp.tracking.record import judge_result
from mlp.tracking.three_or_seven import SCALES, Network

if TYPE_CHECKING:  # importing these takes seconds
    import pandas as pd

    from mlp.tracking.read import PastStudy
    from mlp.tracking.store import Store


DEFAULT_EXPERIMENT = Tracking().experiment

# Of curves, which MLflow lists as well; `final_loss` and the like say the same.
_LAST_POINTS = re.compile(r"loss|validation_accuracy|sharpness|stability_ratio|gradient_norm|.*/.*")


@dataclass(frozen=True, eq=False)
class Run:
    """A trained network and how it came about.

    Attributes:
        result: its curves and weights as arrays, and how its training ended.
    """

    run_id: str
    config: RunConfig = field(repr=False)
    result: Result = field(repr=False)

    def __str__(self) -> str:
        loss = f"loss {self.result.loss[-1]:.6g} after {counted(self.result.last_step, 'step')}"
        return f"run {self.run_id}: {self.verdict.value}, {loss}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        standard = settings_of(RunConfig())
        if self.config.own is not None:
            standard = {f"own.{own.name}": own.default for own in self.config.own.program.arguments}
        own = settings_of(self.config).items()
        changed = ", ".join(f"{path}={typed(v)}" for path, v in own if v != standard.get(path))
        words = f"run {self.run_id}" + (f": {changed}" if changed else "")
        return f"{self.picture}<p><code>{html.escape(words)}</code></p>"

    @cached_property
    def picture(self) -> Picture:
        """Its verdict and its whole loss curve as an SVG, which a notebook shows."""
        return run_picture(self.config, self.result, self.judgement)

    @cached_property
    def judgement(self) -> Judgement:
        """What the loss curve did, and the numbers behind it."""
        return judge_result(self.config, self.result)

    @property
    def verdict(self) -> Verdict:
        """What the loss curve did; a text such as `oscillating`, with a `sentence`."""
        return self.judgement.verdict

    @property
    def weights(self) -> Params:
        """`W (fan_in, fan_out)` and `b (fan_out,)` of each layer, first layer first.

        Of an own function there are none: see `arrays`.
        """
        return tuple(Layer(W, b) for W, b in self.result.weights)

    @property
    def arrays(self) -> "Mapping[str, NDArray[Any]]":
        """What an own function returned, by name; empty for the built-in network."""
        return self.result.own.kept if self.result.own is not None else {}

    @cached_property
    def curve(self) -> "pd.DataFrame":
        """The curves, a row for each step at which anything was measured.

        The index is `step`, the number of updates done. `loss` is that of the training part and
        `validation_accuracy` is 0 to 1; of minibatches there is `step_loss`, and where it was
        measured `sharpness` and `stability_ratio`. `gradient_norm` is that of the mean gradient;
        of each layer, `update_ratio/layer1` is the norm of an update over that of the weights, and
        `idle_units/layer1` the share of its units, 0 to 1, that are dead or saturated. Of an own
        function there is what it yields. What was not measured at a step is NaN.
        """
        import pandas as pd

        result, own = self.result, self.result.own
        columns = {"loss": pd.Series(result.loss, result.loss_step)}
        if own is None:
            accuracy = pd.Series(result.validation_accuracy, result.evaluated_step)
            columns["validation_accuracy"] = accuracy
        for name, values in (own.series if own is not None else {}).items():
            columns[name] = pd.Series(values, result.loss_step)
        if result.step_loss is not None:
            columns["step_loss"] = pd.Series(result.step_loss)
        if result.sharpness_step.size:
            columns["sharpness"] = pd.Series(result.sharpness, result.sharpness_step)
            columns["stability_ratio"] = pd.Series(result.stability_ratio, result.sharpness_step)
        for name, values in layer_curves(result).items():
            columns[name] = pd.Series(values, result.layer_step)
        return pd.DataFrame(columns).rename_axis("step")

    def predict(self, images: ArrayLike) -> "pd.DataFrame":
        """What the network takes images for.

        Args:
            images: `(image, pixel)` or `(image, row, column)`, raw pixels: 0 to 255 for MNIST, 0 to
                16 for the small digits. An array or a frame.

        Returns:
            A row an image: `digit` (3 or 7), `probability_of_3` and `probability_of_7`.

        Raises:
            SettingError: for a run of an own function.
            ValueError: for images of another size than those of the training.
        """
        if self.config.own is not None:
            raise SettingError(
                "only a network of this program predicts here; what your function returned is in "
                "run.arrays"
            )
        scale = SCALES[self.config.data.name] / self.config.data.scale
        return Network(self.result.weights, self.config.model.activation, scale).predict(images)


def load_run(
    run_id: str, *, tracking_uri: str | None = None, experiment: str = DEFAULT_EXPERIMENT
) -> Run:
    """Reads a tracked run back, checked against the digests that it was recorded with.

    Args:
        run_id: or its first digits.
        tracking_uri: of the store; None: MLFLOW_TRACKING_URI, else `mlflow.db` in the working
            directory.

    Raises:
        SettingError: for what is no run id or address.
        MissingInputError: for a run or store that is not there.
        RecordError: for one that was not recorded by this program, or was changed since.

    Example:
        >>> import mlp
        >>> run_id = mlp.train_network({"data": "digits", "training.steps": 40}).run_id
        >>> run = mlp.load_run(run_id)
        >>> run.config.training.steps, [W.shape for W, b in run.weights]
        (40, [(64, 3), (3, 3), (3, 2)])
        >>> len(run.curve), list(run.curve)[:3]
        (41, ['loss', 'validation_accuracy', 'gradient_norm'])
    """
    from mlp.tracking.read import fetch_run

    store = existing_store(Tracking(uri=tracking_uri, experiment=experiment), f"run {run_id}")
    found = fetch_run(store, run_id)
    return Run(found.run_id, found.recipe.config, found.result)


def existing_store(tracking: Tracking, wanted: str) -> "Store":
    """Opens a tracking store to read from; makes none.

    Raises:
        MissingInputError: where there is none.
    """
    uri = resolve(tracking)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise MissingInputError(
            f"there is no {wanted}, because there is no store {mask(str(path))}"
        )

    from mlp.tracking.store import open_store

    return open_store(tracking)


def load_study(
    name: str | None = None,
    *,
    tracking_uri: str | None = None,
    experiment: str = DEFAULT_EXPERIMENT,
) -> "pd.DataFrame":
    """The tracked runs of a study as one frame, ready for CSV or Parquet.

    Args:
        name: of the study, such as `smoke-1a2b3c4d`; or the id of its parent run, or the name of an
            experiment; None: the study that was started last.
        tracking_uri: of the store; None: MLFLOW_TRACKING_URI, else `mlflow.db` in the working
            directory.

    Returns:
        A row a finished run, in the order of the trials: `trial`, `run_id`, `name`, `verdict` and
        `mechanism`; each setting of the run by its path, widths as they are typed; then the numbers
        of its curve, such as `final_loss`, `amplitude` and `final_validation_accuracy`. What a run
        does not have is missing.

    Raises:
        MissingInputError: for a study or store that is not there.
        RecordError: for one without any run that can be read.

    Example:
        >>> import mlp
        >>> frame = mlp.load_study(mlp.run_study("smoke", {"training.steps": 30}).name)
        >>> frame[["training.steps", "optimizer.learning_rate"]].dtypes.to_dict()
        {'training.steps': Int64Dtype(), 'optimizer.learning_rate': dtype('float64')}
    """
    import pandas as pd

    _, study = _stored_study(name, tracking_uri, experiment)
    runs = study.runs
    if not runs:
        why = study.brought[0].read.problem
        raise RecordError(f"{study.name} has no run whose settings are all known: {why}")
    facts = {
        "trial": pd.Series([run.trial for run in runs], dtype="Int64"),
        "run_id": _texts([run.run_id for run in runs]),
        "name": _texts([run.name for run in runs]),
        "verdict": _texts([run.judgement.verdict.value for run in runs]),
        "mechanism": _texts([run.mechanism for run in runs]),
    }
    settings = [settings_of(run.config) for run in runs]
    if runs[0].config.own is not None:
        columns = {path: _own_column([v.get(path) for v in settings]) for path in settings[0]}
    else:
        usual = {**settings_of(RunConfig()), "model.widths": ""}
        columns = {path: _column([v[path] for v in settings], usual[path]) for path in usual}
    numbers = pd.DataFrame([dict(run.metrics) for run in runs])
    told = {str(name).removeprefix("final_") for name in numbers if str(name).startswith("final_")}
    left_out = [n for n in numbers if _LAST_POINTS.fullmatch(str(n)) or str(n) in told]
    return pd.concat([pd.DataFrame({**facts, **columns}), numbers.drop(columns=left_out)], axis=1)


def draw_study(
    name: str | None = None,
    *,
    tracking_uri: str | None = None,
    experiment: str = DEFAULT_EXPERIMENT,
) -> Picture:
    """The losses of a study's runs in one picture, those that swing first, as a notebook shows it.

    Args:
        name: as of `load_study`, and so the others.

    Raises:
        MissingInputError: for a study or store that is not there.
        RecordError: for one without any run that can be read.

    Example:
        >>> import mlp
        >>> picture = mlp.draw_study(mlp.run_study("smoke", {"training.steps": 30}).name)
        >>> picture.startswith("<svg"), picture.count("<polyline")
        (True, 4)
    """
    from mlp.tracking.read import read_points

    store, study = _stored_study(name, tracking_uri, experiment)
    return study_picture(
        {
            i if run.trial is None else run.trial: (
                run.judgement.verdict,
                run.curve or read_points(store, run.run_id, run.metric),
            )
            for i, run in enumerate(study.runs)
        }
    )


def _stored_study(
    name: str | None, tracking_uri: str | None, experiment: str
) -> "tuple[Store, PastStudy]":
    tracking = Tracking(uri=tracking_uri, experiment=experiment)
    store = existing_store(tracking, f"study {one_line(name)}" if name else "study")

    from mlp.tracking.read import read_study

    return store, read_study(store, name)


def _texts(values: Sequence[object]) -> "pd.Series[Any]":
    import pandas as pd

    return pd.Series([None if value is None else typed(value) for value in values], dtype="string")


def _own_column(values: Sequence[object]) -> "pd.Series[Any]":
    """An argument as a column: numbers and truth values as they are, the rest as texts."""
    import pandas as pd

    is_plain = all(isinstance(value, bool | int | float) for value in values)
    return pd.Series(values) if is_plain else _texts(values)


def _column(values: Sequence[object], default: object) -> "pd.Series[Any]":
    """A setting as a column of one kind, by what it is where nobody says otherwise."""
    import pandas as pd

    if isinstance(default, str):
        return _texts(values)
    return pd.Series(values, dtype="float64" if isinstance(default, float) else "Int64")
