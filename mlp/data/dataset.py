"""Threes and sevens: from MNIST or from scikit-learn's small digits, verified and parted."""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlp import config as schema
from mlp.data.mnist import (
    MNIST,
    IdxFile,
    Source,
    cache_folder,
    parse_idx,
    read_cache,
    read_folder,
)
from mlp.errors import (
    DataError,
    MissingInputError,
    SettingError,
    StoreError,
    UnavailableError,
)
from mlp.program import FUNCTION
from mlp.settings import with_settings

Integers = NDArray[np.int64]

ROOT_VARIABLE = "MLP_DATA_ROOT"
AUTO_SILENCE_S = 5.0  # data=auto waits no longer for a mirror's first answer

_THREE, _SEVEN = 3, 7
_MNIST_SHAPE, _DIGITS_SHAPE = (28, 28), (8, 8)
_MNIST_SCALE, _DIGITS_SCALE = 255, 16  # the largest pixel

# scikit-learn's digits come in one piece. A fifth of them, the same for everybody and at any
# split_seed, is their test part.
_DIGITS_TEST_FRACTION = 0.2
_DIGITS_TEST_SEED = 0


@dataclass(frozen=True, eq=False)
class Part:
    """A part of a data set, in the order of its files.

    Attributes:
        pixels: `(example, pixel)`, uint8, rows of the image one after the other.
        labels: `(example,)`, uint8; 0: three, 1: seven.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    @property
    def n_examples(self) -> int:
        """The number of images."""
        return len(self.labels)

    def __len__(self) -> int:
        return self.n_examples


@dataclass(frozen=True, eq=False)
class Dataset:
    """Threes and sevens in three parts without a common example.

    Attributes:
        scale: the largest possible pixel; a feature is pixel / scale, times `data.scale`.
        validation: what the search looks at; empty where nothing is held out.
        digest: SHA-256 of name, scale and all examples before training and validation part were
            separated; 64 hex digits. It does not depend on the split's settings. Of an own
            function, which has examples of its own: of the program.
        program: file of that function; None: there is none, and the parts hold examples.
    """

    name: str
    scale: int
    shape: tuple[int, int]
    train: Part
    validation: Part
    test: Part
    digest: str
    program: Path | None = None


def examples_for(
    config: schema.RunConfig, *, notice: Callable[[str], None]
) -> tuple[schema.RunConfig, Dataset]:
    """What a run is trained on, and the config with its name in it.

    Args:
        config: its data may be `auto`; or of an own function, which has examples of its own.
        notice: as of `load_data`.

    Raises:
        SettingError: for an own function whose file nobody named.
        MlpError: as `load_data`.
    """
    if config.own is not None:
        return config, _of_program(config.own)
    data = load_data(config.data, notice=notice)
    return with_settings(config, {"data.name": data.name}), data


def _of_program(own: schema.Own) -> Dataset:
    """No examples, but the program that has them."""
    if own.path is None:
        program = own.program
        where = program.file + ("" if program.function == FUNCTION else f":{program.function}")
        raise SettingError(
            f"this was trained by {program.function} in {program.file}, and what a record says is "
            f"not executed; name the file: own.file={where}"
        )
    none = Part(np.empty((0, 0), np.uint8), np.empty(0, np.uint8))
    return Dataset("own", 1, (0, 0), none, none, none, own.program.digest, Path(own.path))


def example_images(data: Dataset) -> NDArray[np.uint8]:
    """A three and a seven, `(2, pixel)`, that a model keeps as an input to try."""
    part = data.validation if len(data.validation) else data.train
    return part.pixels[[int(np.argmax(part.labels == label)) for label in (0, 1)]]


def parts_of(data: Dataset) -> str:
    """The sizes of a data set's parts, for a person."""
    return (
        f"data {data.name}: {data.train.n_examples} to train on, {data.validation.n_examples} to "
        f"validate, {data.test.n_examples} to test"
    )


def features(
    pixels: NDArray[np.uint8], scale: float, dtype: Literal["float32", "float64"]
) -> NDArray[np.floating[Any]]:
    """Pixels as numbers, each quotient correctly rounded in its dtype.

    Args:
        pixels: any shape, uint8.
        scale: the pixel that becomes 1: the largest, over `data.scale`.

    Example:
        >>> features(np.array([0, 51, 255], dtype=np.uint8), 255, "float64").tolist()
        [0.0, 0.2, 1.0]
    """
    return np.divide(pixels, scale, dtype=np.dtype(dtype))


def moved(
    pixels: NDArray[np.uint8], shape: tuple[int, int], down: Integers, right: Integers
) -> NDArray[np.uint8]:
    """Images moved by whole pixels, each by its own way; what leaves the image is gone.

    Args:
        pixels: `(n, rows * columns)`.
        down: `(n,)`, rows that each goes down; up where negative.
        right: `(n,)`, columns that each goes right; left where negative.

    Example:
        >>> image = np.array([[1, 2, 3, 4]], np.uint8)
        >>> moved(image, (2, 2), np.array([1]), np.array([0])).tolist()
        [[0, 0, 1, 2]]
    """
    rows, columns = (np.arange(size) for size in shape)
    row, column = rows[:, None] - down[:, None, None], columns - right[:, None, None]
    is_inside = (row >= 0) & (row < shape[0]) & (column >= 0) & (column < shape[1])
    images = pixels.reshape(-1, *shape)
    found = images[np.arange(len(images))[:, None, None], row % shape[0], column % shape[1]]
    return np.where(is_inside, found, 0).astype(np.uint8).reshape(pixels.shape)


def load_data(
    config: schema.Data,
    *,
    notice: Callable[[str], None],
    source: Source = MNIST,
    cache: Path | None = None,
) -> Dataset:
    """Loads the threes and sevens that a config asks for.

    MNIST's files are read from `data.root`, else from the folder in the environment variable
    MLP_DATA_ROOT, else from the user's cache folder. A folder that the user named is only read:
    nothing is downloaded into it, and it must hold all four files. What the cache folder lacks is
    downloaded into it.

    With `data.name=auto`, digits take MNIST's place where no folder was named and no mirror answers
    within five seconds, where the cache folder cannot be used, or where MLP_DATA_ROOT lacks files.
    Wrong bytes, found or sent, are an error even so, and so is a `data.root` without files: the
    user meant MNIST.

    Per class, the rounded `validation_fraction` of the training examples, but at least one, is
    drawn with RandomState(split_seed), threes first; 0 holds nothing out.

    Args:
        notice: told in one line what `auto` became and why, and about downloads.
        source: training images, training labels, test images, test labels, and their mirrors.
        cache: the cache folder; None: the user's.

    Raises:
        MissingInputError: for a named folder that lacks files.
        DataError: for files with other bytes than were published.
        UnavailableError: where MNIST was asked for and no mirror gives it.
        StoreError: for a folder or file that cannot be read or written.
    """
    if config.name == "digits":
        return _digits(config)
    root = config.root or os.environ.get(ROOT_VARIABLE)
    folder = Path(root) if root else cache or cache_folder()
    is_auto = config.name == "auto"
    if is_auto:
        source = replace(source, silence_s=AUTO_SILENCE_S, retries=0, is_asked_first=True)
    try:
        if root:
            contents = read_folder(folder, source.files)
        else:
            contents = read_cache(folder, source, notice=notice)
    except (MissingInputError, UnavailableError, StoreError) as error:
        if config.root or not is_auto:
            raise
        notice(f"data=auto is digits: {error}")
        return _digits(config)
    if is_auto:
        notice(f"data=auto is mnist, read from {folder}")
    return _mnist(contents, source.files, config)


def _mnist(contents: Mapping[str, bytes], files: Sequence[IdxFile], config: schema.Data) -> Dataset:
    train_images, train_labels, test_images, test_labels = (file.name for file in files)
    train = _read_part(contents, train_images, train_labels)
    test = _read_part(contents, test_images, test_labels)
    return _parted("mnist", _MNIST_SCALE, _MNIST_SHAPE, train, test, config)


def _read_part(contents: Mapping[str, bytes], images_name: str, labels_name: str) -> Part:
    images = parse_idx(contents[images_name], images_name)
    labels = parse_idx(contents[labels_name], labels_name)
    if images.shape[1:] != _MNIST_SHAPE:
        raise DataError(f"{images_name} must hold images of 28 x 28, but has shape {images.shape}")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{labels_name} must hold one label for each of {len(images)} images, "
            f"but has shape {labels.shape}"
        )
    if labels.size and labels.max() > 9:
        raise DataError(f"{labels_name} must hold labels from 0 to 9, but has {labels.max()}")
    return _threes_and_sevens(images.reshape(-1, _MNIST_SHAPE[0] * _MNIST_SHAPE[1]), labels)


def _digits(config: schema.Data) -> Dataset:
    train, test = _split(_read_digits(), _DIGITS_TEST_FRACTION, _DIGITS_TEST_SEED)
    return _parted("digits", _DIGITS_SCALE, _DIGITS_SHAPE, train, test, config)


def _read_digits() -> Part:
    """The threes and sevens of `sklearn.datasets.load_digits`.

    Importing scikit-learn takes seconds, and the file that it reads 20 ms.
    """
    found = importlib.util.find_spec("sklearn")
    if found is not None and found.origin is not None:
        file = Path(found.origin).with_name("datasets") / "data" / "digits.csv.gz"
        if file.is_file():
            table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
            return _threes_and_sevens(table[:, :-1], table[:, -1])
    from sklearn.datasets import load_digits  # the file lies elsewhere in this version

    bunch = load_digits()
    return _threes_and_sevens(bunch.data.astype(np.uint8), bunch.target)


def _threes_and_sevens(images: NDArray[np.uint8], labels: NDArray[np.integer[Any]]) -> Part:
    chosen = (labels == _THREE) | (labels == _SEVEN)
    return Part(pixels=images[chosen], labels=(labels[chosen] == _SEVEN).astype(np.uint8))


def _parted(
    name: str, scale: int, shape: tuple[int, int], train: Part, test: Part, config: schema.Data
) -> Dataset:
    digest = hashlib.sha256(f"{name}/{scale}".encode())
    for part in (train, test):
        digest.update(f"/{part.pixels.shape}/".encode())
        digest.update(part.pixels.tobytes())
        digest.update(part.labels.tobytes())
    kept, validation = _split(train, config.validation_fraction, config.split_seed)
    return Dataset(name, scale, shape, kept, validation, test, digest.hexdigest())


def _split(part: Part, fraction: float, seed: int) -> tuple[Part, Part]:
    """What stays and what is held out, stratified, both in the order of the part."""
    held_out = np.zeros(part.n_examples, dtype=np.bool_)
    random = np.random.RandomState(seed)
    for label in (0, 1):
        rows = np.flatnonzero(part.labels == label)
        n_held_out = max(1, round(fraction * rows.size)) if fraction > 0 else 0
        held_out[random.permutation(rows)[:n_held_out]] = True
    return _rows(part, ~held_out), _rows(part, held_out)


def _rows(part: Part, mask: NDArray[np.bool_]) -> Part:
    return Part(part.pixels[mask], part.labels[mask])
