"""A tracked run as a notebook wants it: its config, curve, weights and answers."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from mlp.config import RunConfig, Tracking
from mlp.curve import Judgement, Verdict, judge
from mlp.engine.result import Result
from mlp.errors import MissingInputError
from mlp.network import Layer, Params
from mlp.tracking.store_uri import mask, resolve, sqlite_path
from mlp.tracking.three_or_seven import SCALES, Network

if TYPE_CHECKING:  # importing these takes seconds
    import pandas as pd

    from mlp.tracking.store import Store

DEFAULT_EXPERIMENT = Tracking().experiment


@dataclass(frozen=True, eq=False)
class Run:
    """A trained network and how it came about.

    Attributes:
        run_id: MLflow's id of it.
        config: its settings.
        result: its curves and weights as arrays, and how its training ended.
    """

    run_id: str
    config: RunConfig = field(repr=False)
    result: Result = field(repr=False)

    def __str__(self) -> str:
        loss = f"loss {self.result.loss[-1]:.6g} after {self.result.last_step} steps"
        return f"run {self.run_id}: {self.verdict.value}, {loss}"

    @cached_property
    def judgement(self) -> Judgement:
        """What the loss curve did, and the numbers behind it."""
        return judge(self.result.loss)

    @property
    def verdict(self) -> Verdict:
        """What the loss curve did; a text such as `oscillating`, with a `sentence`."""
        return self.judgement.verdict

    @property
    def weights(self) -> Params:
        """`W (fan_in, fan_out)` and `b (fan_out,)` of each layer, first layer first."""
        return tuple(Layer(W, b) for W, b in self.result.weights)

    @cached_property
    def curve(self) -> "pd.DataFrame":
        """The curves, a row for each step at which anything was measured.

        The index is `step`, the number of updates done. `loss` is that of the training part and
        `validation_accuracy` is 0 to 1; of minibatches there is `step_loss`, and where it was
        measured `sharpness` and `stability_ratio`. What was not measured at a step is NaN.
        """
        import pandas as pd

        result = self.result
        columns = {
            "loss": pd.Series(result.loss, result.loss_step),
            "validation_accuracy": pd.Series(result.validation_accuracy, result.evaluated_step),
        }
        if result.step_loss is not None:
            columns["step_loss"] = pd.Series(result.step_loss)
        if result.sharpness_step.size:
            columns["sharpness"] = pd.Series(result.sharpness, result.sharpness_step)
            columns["stability_ratio"] = pd.Series(result.stability_ratio, result.sharpness_step)
        return pd.DataFrame(columns).rename_axis("step")

    def predict(self, images: ArrayLike) -> "pd.DataFrame":
        """What the network takes images for.

        Args:
            images: `(image, pixel)` or `(image, row, column)`, raw pixels: 0 to 255 for MNIST, 0 to
                16 for the small digits. An array or a frame.

        Returns:
            A row an image: `digit` (3 or 7), `probability_of_3` and `probability_of_7`.

        Raises:
            ValueError: for images of another size than those of the training.
        """
        scale = SCALES[self.config.data.name]
        return Network(self.result.weights, self.config.model.activation, scale).predict(images)


def load_run(
    run_id: str, *, tracking_uri: str | None = None, experiment: str = DEFAULT_EXPERIMENT
) -> Run:
    """Reads a tracked run back, checked against the digests that it was recorded with.

    Args:
        run_id: MLflow's id of it.
        tracking_uri: of the store; None: MLFLOW_TRACKING_URI, else `mlflow.db` in the working
            directory.
        experiment: name of the MLflow experiment.

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
        >>> len(run.curve), list(run.curve)
        (41, ['loss', 'validation_accuracy'])
    """
    from mlp.tracking.tracked_run import fetch_run

    store = existing_store(Tracking(uri=tracking_uri, experiment=experiment), f"run {run_id}")
    found = fetch_run(store, run_id)
    return Run(run_id, found.recipe.config, found.result)


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
