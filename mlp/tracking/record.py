"""The record of one run: its config, its curves and weights, and what was measured about it.

A record is four files in a folder: `config.json` (all that a rerun needs), `curve.npz`,
`weights.npz`, and `record.json` (times, sizes, the judgement). Whatever does not fit the schema to
the letter is refused with one sentence.
"""

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from mlp.config import RunConfig
from mlp.curve import Judgement
from mlp.engine.result import Ending, Result
from mlp.errors import RecordError, one_line
from mlp.stability.ratio import Stability, judge_stability, sharpness_steps
from mlp.tracking import npz
from mlp.tracking.recipe import LARGEST_TEXT, PIXELS, Recipe, parse_json, read_recipe, write_recipe

CONFIG_FILE, CURVE_FILE, WEIGHTS_FILE = "config.json", "curve.npz", "weights.npz"
FACTS_FILE = "record.json"

_N_CLASSES = 2
_SHARPNESS_ARRAYS = {
    "sharpness_step": "<i8",
    "sharpness": "<f8",
    "sharpness_residual": "<f8",
    "gradient_norm": "<f8",
    "stability_ratio": "<f8",
}


@dataclass(frozen=True, eq=False)
class RunRecord:
    """Everything about one run that is kept.

    Attributes:
        config: its settings; `data.name` is the data set itself, never `auto`.
        data_digest: SHA-256 of the data, 64 hex digits.
        n_train: examples it was trained on.
        n_validation: examples held out; 0 or more.
        n_test: examples of the test part.
        result: curves and weights.
        judgement: the verdict on its loss curve.
        started_ms: when its training began, milliseconds since 1970 in UTC.
        ended_ms: when it ended.
        threads: threads that trained it.
        test_accuracy: share of the test part that is right; None where nobody looked.
    """

    config: RunConfig
    data_digest: str
    n_train: int
    n_validation: int
    n_test: int
    result: Result
    judgement: Judgement
    started_ms: int
    ended_ms: int
    threads: int
    test_accuracy: float | None = None

    @property
    def stability(self) -> Stability | None:
        """The stability ratio in short, and the mechanism; None where nobody measured."""
        result, verdict = self.result, self.judgement.verdict
        return judge_stability(
            result.sharpness_step, result.stability_ratio, verdict, result.last_step
        )


def config_json(record: RunRecord) -> str:
    """The text of `config.json`; equal runs have equal texts.

    Raises:
        ValueError: if the data set is still `auto`.
    """
    result = record.result
    return write_recipe(Recipe(record.config, record.data_digest, result.ending, result.last_step))


def curve_digest(result: Result) -> str:
    """SHA-256 over the curves of `curve.npz`; equal for equal training, measured or not."""
    return npz.digest(_curve_arrays(result).values())


def sharpness_digest(result: Result) -> str:
    """SHA-256 over what `curve.npz` holds of the sharpness; equal for equal measurements."""
    return npz.digest(_sharpness_arrays(result).values())


def weights_digest(result: Result) -> str:
    """SHA-256 over the arrays of `weights.npz`; equal for equal weights."""
    return npz.digest(_weight_arrays(result).values())


def write_artifacts(folder: Path, record: RunRecord) -> None:
    """Writes what a tracked run shows: `config.json`, `curve.npz` and `weights.npz`."""
    (folder / CONFIG_FILE).write_text(config_json(record), encoding="utf-8")
    (folder / CURVE_FILE).write_bytes(npz.pack(_all_arrays(record)))
    (folder / WEIGHTS_FILE).write_bytes(npz.pack(_weight_arrays(record.result)))


def read_artifacts(folder: Path) -> tuple[Recipe, Result]:
    """Reads those three files.

    Raises:
        RecordError: for whatever is missing or does not fit; names the file and the reason.
    """
    recipe = read_recipe(read_text(folder / CONFIG_FILE))
    curve = npz.read(folder / CURVE_FILE, expected_curve(recipe.config))
    has_weights = recipe.ending is not Ending.CRASHED
    weights = (
        npz.read(folder / WEIGHTS_FILE, expected_weights(recipe.config)) if has_weights else {}
    )
    _check_curve(curve, recipe.config)
    n_layers = recipe.config.model.depth + 1 if has_weights else 0
    result = Result(
        loss=curve["loss"],
        loss_step=curve["loss_step"],
        step_loss=curve.get("step_loss"),
        validation_accuracy=curve["validation_accuracy"],
        evaluated_step=curve["evaluated_step"],
        weights=tuple((weights[f"W{i}"], weights[f"b{i}"]) for i in range(1, n_layers + 1)),
        ending=recipe.ending,
        last_step=recipe.last_step,
        **{name: curve[name] for name in _SHARPNESS_ARRAYS if name in curve},
    )
    return recipe, result


def write_record(folder: Path, record: RunRecord) -> None:
    """Writes the whole record into an existing folder."""
    write_artifacts(folder, record)
    facts = _Facts(
        **{name: getattr(record, name) for name in _FACT_NAMES},
        curve_digest=curve_digest(record.result),
        sharpness_digest=sharpness_digest(record.result),
        weights_digest=weights_digest(record.result),
    )
    (folder / FACTS_FILE).write_bytes(_facts.dump_json(facts))


def read_record(folder: Path) -> RunRecord:
    """Reads a whole record; the inverse of `write_record`, but for the settings that say where.

    Raises:
        RecordError: as `read_artifacts`, and for arrays that are not those that were written.
    """
    recipe, result = read_artifacts(folder)
    values = parse_json(read_text(folder / FACTS_FILE), source=FACTS_FILE)
    try:
        facts = _facts.validate_python(values)
    except ValidationError as error:
        raise RecordError(f"{FACTS_FILE} cannot be used: {one_line(error)}") from None
    found = (curve_digest(result), sharpness_digest(result), weights_digest(result))
    if found != (facts.curve_digest, facts.sharpness_digest, facts.weights_digest):
        raise RecordError(f"the arrays of {folder.name} are not those that were written")
    return RunRecord(
        config=recipe.config,
        data_digest=recipe.data_digest,
        result=result,
        **{name: getattr(facts, name) for name in _FACT_NAMES},
    )


def read_text(path: Path) -> str:
    """The text of one of a record's JSON files.

    Raises:
        RecordError: for a file that is missing, too large or no text.
    """
    try:
        return npz.read_bytes(path, LARGEST_TEXT).decode()
    except UnicodeDecodeError:
        raise RecordError(f"{path.name} must be UTF-8 text") from None


def expected_weights(run: RunConfig) -> dict[str, npz.Expected]:
    """The arrays of `weights.npz` that fit a config: `W1` `(fan_in, fan_out)`, `b1`, and so on."""
    dtype = np.dtype(run.training.dtype).newbyteorder("<").str
    sizes = (PIXELS[run.data.name], *run.model.layer_widths, _N_CLASSES)
    arrays: dict[str, npz.Expected] = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
        arrays[f"W{i}"] = npz.Expected(dtype, (fan_in, fan_out))
        arrays[f"b{i}"] = npz.Expected(dtype, (fan_out,))
    return arrays


def expected_curve(run: RunConfig) -> dict[str, npz.Expected]:
    """The arrays of `curve.npz` that fit a config; each at most one entry a step, and the first."""
    most = (run.training.steps + 1,)
    arrays = {
        "loss": npz.Expected("<f8", most, may_be_shorter=True),
        "loss_step": npz.Expected("<i8", most, may_be_shorter=True),
        "validation_accuracy": npz.Expected("<f8", most, may_be_shorter=True),
        "evaluated_step": npz.Expected("<i8", most, may_be_shorter=True),
    }
    if run.training.batch_size is not None:
        arrays["step_loss"] = npz.Expected("<f8", most, may_be_shorter=True)
    if points := len(sharpness_steps(run)):
        for name, dtype in _SHARPNESS_ARRAYS.items():
            arrays[name] = npz.Expected(dtype, (points,), may_be_shorter=True)
    return arrays


def _curve_arrays(result: Result) -> dict[str, npz.Array]:
    arrays: dict[str, npz.Array | None] = {
        "loss": result.loss,
        "loss_step": result.loss_step,
        "validation_accuracy": result.validation_accuracy,
        "evaluated_step": result.evaluated_step,
        "step_loss": result.step_loss,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def _sharpness_arrays(result: Result) -> dict[str, npz.Array]:
    return {name: getattr(result, name) for name in _SHARPNESS_ARRAYS}


def _all_arrays(record: RunRecord) -> dict[str, npz.Array]:
    arrays = _curve_arrays(record.result)
    return arrays | _sharpness_arrays(record.result) if sharpness_steps(record.config) else arrays


def _weight_arrays(result: Result) -> dict[str, npz.Array]:
    arrays: dict[str, npz.Array] = {}
    for i, (W, b) in enumerate(result.weights, start=1):
        arrays[f"W{i}"], arrays[f"b{i}"] = W, b
    return arrays


def _check_curve(curve: dict[str, npz.Array], run: RunConfig) -> None:
    """That each value has its step, and that the steps are those of the training, in order."""
    pairs = [("loss", "loss_step"), ("validation_accuracy", "evaluated_step")]
    measured = [name for name in _SHARPNESS_ARRAYS if name in curve]
    for values, steps in (*pairs, *((name, "sharpness_step") for name in measured)):
        at = curve[steps]
        if curve[values].shape != at.shape:
            raise RecordError(f"{CURVE_FILE} must have as many entries of {values} as of {steps}")
        if at.size and (at[0] < 0 or at[-1] > run.training.steps or (np.diff(at) <= 0).any()):
            raise RecordError(f"{CURVE_FILE} must have increasing steps of the training in {steps}")


# A judgement of a huge loss may hold an infinity, which JSON has no number for.
@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid", ser_json_inf_nan="strings"))
class _Facts:
    """`record.json`: the rest of a record, and the digests of its arrays."""

    n_train: Annotated[int, Field(ge=0)]
    n_validation: Annotated[int, Field(ge=0)]
    n_test: Annotated[int, Field(ge=0)]
    judgement: Judgement
    started_ms: int
    ended_ms: int
    threads: int
    test_accuracy: float | None
    curve_digest: str
    sharpness_digest: str
    weights_digest: str


_FACT_NAMES = tuple(field.name for field in dataclasses.fields(_Facts))[:8]
_facts = TypeAdapter(_Facts)
