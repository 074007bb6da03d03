"""Trains the runs that `labels.csv` names and stores their loss curves in `curves.npz`.

    cd tests && python -m curves.make MNIST_FOLDER

MNIST_FOLDER holds the four files of MNIST. Needs the trainer (`mlp.engine.population`); about a
quarter of an hour. Only the curves are written, never a label.
"""

import csv
import dataclasses
import functools
import gzip
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import yaml
from sklearn.datasets import load_digits

from curves.ten import TenDigits, train_ten
from mlp.config import RunConfig
from mlp.data.dataset import load_data
from mlp.engine.population import train
from mlp.engine.result import Result
from mlp.network import Layer, example_losses, forward
from mlp.settings import with_settings

HERE = Path(__file__).parent
N_DIGITS = 290  # of 362, as with a fifth held out
FLOAT_SETTINGS = {"learning_rate", "momentum", "scale", "clip_norm"}


def main() -> None:
    with (HERE / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["origin"] != "formula"]
    arrays: dict[str, Any] = {}
    with ProcessPoolExecutor(2) as pool:
        for row, curve in zip(rows, pool.map(_curve, rows), strict=True):
            arrays |= curve
            print(row["name"], curve[row["name"]].size, flush=True)
    np.savez_compressed(HERE / "curves.npz", **arrays)


def _curve(row: dict[str, str]) -> dict[str, Any]:
    """The curve, the training accuracy beside it, and the standard error of one entry."""
    if row["origin"] == "ten":
        return {row["name"]: train_ten(TenDigits(**_words(row["settings"]))).astype(np.float32)}
    if row["split"] in (
        "own",
        "other",
        "other-held-out",
    ):  # with a validation part; the curve alone
        config = with_settings(RunConfig(), _settings(row["settings"]))
        where = dataclasses.replace(config.data, name=row["origin"], root=sys.argv[1])
        (result,) = train([config], load_data(where, notice=print))
        if row["curve"] != "both":
            return {row["name"]: result.loss.astype(np.float32)}
        assert result.step_loss is not None
        return {
            row["name"]: result.step_loss.astype(np.float32),
            f"{row['name']}/loss": result.loss.astype(np.float32),
            f"{row['name']}/loss_step": result.loss_step.astype(np.int32),
        }
    data = _digits() if row["origin"] == "digits" else _mnist(Path(sys.argv[1]))
    config = with_settings(RunConfig(), _settings(row["settings"]))
    n, batch_size = data.train.labels.size, config.training.batch_size
    every = 1 if batch_size is None else -(-n // batch_size)
    config = with_settings(config, {"training.evaluate_every": every})
    (result,) = train([config], data)
    curve = result.step_loss if row["curve"] == "step_loss" else result.loss
    assert curve is not None
    arrays: dict[str, Any] = {
        row["name"]: curve.astype(np.float32),
        f"{row['name']}/n_right": np.rint(n * result.validation_accuracy).astype(np.uint16),
        f"{row['name']}/n_examples": np.uint16(n),
    }
    if row["curve"] == "step_loss":
        arrays[f"{row['name']}/sampling_error"] = _sampling_error(config, result, data)
    return arrays


def _settings(text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in text.split():
        path, _, value = part.partition("=")
        name = path.partition(".")[2]
        values[path] = float(value) if name in FLOAT_SETTINGS else yaml.safe_load(value)
    return values


def _words(text: str) -> dict[str, Any]:
    return {key: yaml.safe_load(value) for key, value in (p.split("=") for p in text.split())}


def _sampling_error(config: RunConfig, result: Result, data: Any) -> np.float32:
    """Of the mean over a batch: the deviation over examples at the last weights, by its root."""
    assert config.training.batch_size is not None
    features = np.divide(data.train.pixels, data.scale, dtype=config.training.dtype)
    params = tuple(Layer(W, b) for W, b in result.weights)
    with np.errstate(all="ignore"):
        logits = forward(params, features, config.model.activation).logits
        losses = example_losses(logits, data.train.labels).astype(np.float64)
        return np.float32(losses.std() / np.sqrt(config.training.batch_size))


class _Examples(SimpleNamespace):
    __hash__ = object.__hash__  # type: ignore[assignment]  # the trainer notes what it made of it


def _dataset(pixels: Any, labels: Any, scale: int) -> _Examples:
    """The examples; the held-out part is the training part, so that its accuracy is recorded."""
    part = _Examples(pixels=pixels, labels=labels)
    n_rows = round(pixels.shape[1] ** 0.5)
    return _Examples(train=part, validation=part, scale=scale, shape=(n_rows, n_rows))


@functools.cache
def _digits() -> _Examples:
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = _three_vs_seven(pixels.astype(np.uint8), labels)
    chosen = np.random.RandomState(0).permutation(labels.size)[:N_DIGITS]
    return _dataset(pixels[chosen], labels[chosen], 16)


@functools.cache
def _mnist(folder: Path) -> _Examples:
    def read(name: str, offset: int) -> Any:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=offset)

    pixels = read("train-images-idx3-ubyte.gz", 16).reshape(-1, 28 * 28)
    return _dataset(*_three_vs_seven(pixels, read("train-labels-idx1-ubyte.gz", 8)), 255)


def _three_vs_seven(pixels: Any, labels: Any) -> tuple[Any, Any]:
    chosen = (labels == 3) | (labels == 7)
    return pixels[chosen], (labels[chosen] == 7).astype(np.uint8)


if __name__ == "__main__":
    main()
