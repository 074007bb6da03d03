"""A trained network that tells threes from sevens, with NumPy alone.

MLflow copies this file into each model that it keeps, beside the weights, and loads it there: a
model works where this package is not installed. So nothing of the package is imported here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS_FILE, CONFIG_FILE = "weights.npz", "config.json"
SCALES = {"mnist": 255, "digits": 16}  # the largest pixel, by data set

_DIGITS = np.array([3, 7])


@dataclass(frozen=True, eq=False)
class Network:
    """A perceptron with two outputs under softmax.

    Attributes:
        layers: `W (fan_in, fan_out)` and `b (fan_out,)` of each layer, first layer first.
        activation: of the hidden units: sigmoid, tanh or relu.
        scale: the pixel that stands for 1: the largest, over `data.scale`.
    """

    layers: Sequence[tuple[NDArray[Any], NDArray[Any]]]
    activation: str
    scale: float

    def probabilities(self, images: ArrayLike) -> NDArray[np.float64]:
        """How likely each image is a three and a seven.

        Args:
            images: `(image, pixel)` or `(image, row, column)`, raw pixels.

        Returns:
            `(image, 2)`; a row adds up to 1, but for rounding.

        Raises:
            ValueError: for images of another size than those of the training.

        Example:
            >>> zeros = [(np.zeros((4, 2)), np.zeros(2))]
            >>> Network(zeros, "sigmoid", 255).probabilities([[0, 51, 102, 255]])
            array([[0.5, 0.5]])
        """
        pixels = np.asarray(images)
        pixels = pixels.reshape(len(pixels), -1)
        n_pixels = self.layers[0][0].shape[0]
        if pixels.shape[1] != n_pixels:
            raise ValueError(f"an image must have {n_pixels} pixels, but has {pixels.shape[1]}")
        a = np.divide(pixels, self.scale, dtype=self.layers[0][0].dtype)
        for W, b in self.layers[:-1]:
            a = _activate(a @ W + b, self.activation)
        W, b = self.layers[-1]
        z = (a @ W + b).astype(np.float64)
        margin = z[:, 1] - z[:, 0]
        return np.column_stack([_sigmoid(-margin), _sigmoid(margin)])  # a softmax of two

    def predict(self, images: ArrayLike, params: object = None) -> "pd.DataFrame":  # noqa: ARG002
        """The likelier digit of each image, and how likely each is.

        Args:
            images: `(image, pixel)`, raw pixels: an array or a frame.
            params: of MLflow's; there are none.

        Returns:
            A row an image: `digit` (3 or 7; 3 where both are equally likely), `probability_of_3`
            and `probability_of_7`.
        """
        import pandas as pd

        found = self.probabilities(images)
        return pd.DataFrame(
            {
                "digit": _DIGITS[(found[:, 1] > found[:, 0]).astype(int)],
                "probability_of_3": found[:, 0],
                "probability_of_7": found[:, 1],
            }
        )


def _load_pyfunc(path: str) -> Network:
    """The network in a folder with `weights.npz` and `config.json`, for MLflow."""
    settings = json.loads((Path(path) / CONFIG_FILE).read_text(encoding="utf-8"))["settings"]
    with np.load(Path(path) / WEIGHTS_FILE, allow_pickle=False) as arrays:
        n_layers = next(i for i in count(1) if f"W{i}" not in arrays) - 1
        layers = [(arrays[f"W{i}"], arrays[f"b{i}"]) for i in range(1, n_layers + 1)]
    scale = SCALES[settings["data"]["name"]] / settings["data"].get("scale", 1.0)
    return Network(layers, settings["model"]["activation"], scale)


def _activate(z: NDArray[Any], activation: str) -> NDArray[Any]:
    if activation == "sigmoid":
        return _sigmoid(z)
    a: NDArray[Any] = np.tanh(z) if activation == "tanh" else np.maximum(z, 0)
    return a


def _sigmoid(z: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(-z)), exponentiating nothing above 0, so that nothing overflows."""
    small: NDArray[Any] = np.exp(-np.abs(z))
    a: NDArray[Any] = np.where(z >= 0, 1, small) / (1 + small)
    return a
