"""What the trials of a population share: the data as lists of pixels, cut for one way to train."""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlp.config import RunConfig
from mlp.data.dataset import Dataset, features
from mlp.engine.layout import Array, Mask
from mlp.engine.sparse import BLOCK, Batches, Images, cut_batches, pack_images
from mlp.engine.steps import CHUNKS


@dataclass(frozen=True, eq=False)
class Examples:
    """Training and held-out part as lists of non-zero pixels.

    Attributes:
        live: `(d,)`, pixels that are non-zero anywhere; the others' weights never change.
        train: what the weights are fitted to.
        held_out: what accuracies are taken on; None if there is nothing.
        scale: the pixel that stands for 1.
    """

    live: Mask
    train: Images
    held_out: Images | None
    scale: int

    @property
    def n_pixels(self) -> int:
        """Live pixels and the constant one."""
        return int(self.live.sum()) + 1


@dataclass(frozen=True, eq=False)
class Course:
    """What all trials of a population share: the data, cut, in one dtype.

    Attributes:
        examples: where the data came from.
        dtype: of weights and arithmetic.
        batch_size: examples of a step; None: all.
        epoch: steps of an epoch; 0 for the full batch.
        whole: the training part in one piece.
        held_out: the held-out part, if there is one.
        feature: `(256,)`, the number that each raw pixel value stands for.
        order: draws the order of each epoch.
    """

    examples: Examples
    dtype: Literal["float32", "float64"]
    batch_size: int | None
    epoch: int
    whole: Batches
    held_out: Batches | None
    feature: Array
    order: np.random.RandomState


@functools.lru_cache(
    maxsize=1
)  # a tenth of a second for MNIST, and a worker of a cluster asks often
def read_examples(data: Dataset) -> Examples:
    """Lists the non-zero pixels of the training and the validation part."""
    train, held_out = data.train, data.validation
    live = np.logical_or(train.pixels.any(axis=0), held_out.pixels.any(axis=0))
    return Examples(
        live,
        pack_images(train.pixels, train.labels, live, data.scale),
        pack_images(held_out.pixels, held_out.labels, live, data.scale) if len(held_out) else None,
        data.scale,
    )


def plan_course(examples: Examples, config: RunConfig) -> Course:
    """Cuts the data for all trials that share the config's dtype, batch size and order."""
    training = config.training

    def whole(images: Images) -> Batches:
        n = len(images.label)
        return cut_batches(images, np.arange(n), n, examples.n_pixels, training.dtype)

    n_train = len(examples.train.label)
    return Course(
        examples,
        training.dtype,
        training.batch_size,
        0 if training.batch_size is None else -(-n_train // training.batch_size),
        whole(examples.train),
        None if examples.held_out is None else whole(examples.held_out),
        features(np.arange(256, dtype=np.uint8), examples.scale, training.dtype),
        np.random.RandomState(training.order_seed),
    )


def next_epoch(course: Course) -> Batches:
    """The batches of the next epoch; the full batch where there are no others."""
    if course.batch_size is None:
        return course.whole
    images = course.examples.train
    order = course.order.permutation(len(images.label))
    return cut_batches(images, order, course.batch_size, course.examples.n_pixels, course.dtype)


def chunk_count(batch_size: int, n_examples: int) -> int:
    """Chunks of the largest batch, and with it copies of the gradient."""
    return min(CHUNKS, -(-min(batch_size, n_examples) // BLOCK))
