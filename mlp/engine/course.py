"""What the trials of a population share: the data as lists of pixels, cut for one way to train."""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mlp.config import RunConfig
from mlp.data.dataset import Dataset
from mlp.engine.handle import Handle
from mlp.engine.layout import Array, Mask
from mlp.engine.sparse import BLOCK, Images, cut_batches, move_images, pack_images, pixel_features
from mlp.engine.steps import CHUNKS


@dataclass(frozen=True, eq=False)
class Examples:
    """Training and held-out part as lists of non-zero pixels."""

    # (d,), pixels that are non-zero anywhere, once the images of the training part are moved; the
    # others' weights never change
    live: Mask
    train: Images
    held_out: Images | None  # what accuracies are taken on; None if there is nothing
    scale: int  # the pixel that stands for 1
    shape: tuple[int, int]  # rows and columns of an image
    shift: int  # pixels that an epoch moves an image at most

    @property
    def n_pixels(self) -> int:
        """Live pixels and the constant one."""
        return int(self.live.sum()) + 1


@dataclass(frozen=True, eq=False)
class Course:
    """What all trials of a population share: the data, cut, in one dtype."""

    examples: Examples
    dtype: Literal["float32", "float64"]
    batch_size: int | None  # examples of a step; None: all
    epoch: int  # steps of an epoch; 0 for the full batch
    whole: Handle  # the training part as one batch: on Images and Batches
    held_out: Handle | None  # likewise; None if there is nothing
    feature: Array  # (256,), the number that each raw pixel value stands for; 1 for 0, the constant
    order: np.random.RandomState  # draws the order of each epoch, and how its images are moved


@functools.lru_cache(4)  # a tenth of a second for MNIST, and a worker of a cluster asks often
def read_examples(data: Dataset, shift: int) -> Examples:
    """Lists the non-zero pixels of the training and the validation part."""
    train, held_out = data.train, data.validation
    reached = _reached(np.asarray(train.pixels.any(axis=0)), data.shape, shift)
    live = np.logical_or(reached, held_out.pixels.any(axis=0))
    return Examples(
        live,
        pack_images(train.pixels, train.labels, live),
        pack_images(held_out.pixels, held_out.labels, live) if len(held_out) else None,
        data.scale,
        data.shape,
        shift,
    )


def _reached(inked: Mask, shape: tuple[int, int], shift: int) -> Mask:
    """The pixels that are at most `shift` rows and columns from one of those given."""
    around = np.pad(inked.reshape(shape), shift)
    windows = np.lib.stride_tricks.sliding_window_view(around, (2 * shift + 1, 2 * shift + 1))
    return np.asarray(windows.any(axis=(-2, -1))).ravel()


def plan_course(examples: Examples, config: RunConfig) -> Course:
    """Cuts the data for all trials that share the config's dtype, batches, and scale of inputs."""
    training = config.training

    def whole(images: Images) -> Handle:
        n = len(images.label)
        return Handle(
            images, cut_batches(images, np.arange(n), n, examples.n_pixels, training.dtype)
        )

    n_train = len(examples.train.label)
    return Course(
        examples,
        training.dtype,
        training.batch_size,
        0 if training.batch_size is None else -(-n_train // training.batch_size),
        whole(examples.train),
        None if examples.held_out is None else whole(examples.held_out),
        pixel_features(examples.scale / config.data.scale, training.dtype),
        np.random.RandomState(training.order_seed),
    )


def next_epoch(course: Course) -> Handle:
    """The batches of the next epoch, with its images moved if they are to be.

    Where there are no others, the full batch. Drawn are the order, then, for images that are to be
    moved, how far down and right each goes.
    """
    examples = course.examples
    images, shift = examples.train, examples.shift
    if course.batch_size is None:
        return course.whole
    order = course.order.permutation(len(images.label))
    if shift:
        ways = course.order.randint(-shift, shift + 1, (2, len(images.label)))
        images = move_images(images, examples.live, examples.shape, *ways)
    cut = cut_batches(images, order, course.batch_size, examples.n_pixels, course.dtype)
    return Handle(images, cut)


def chunk_count(batch_size: int | None, n_examples: int) -> int:
    """Chunks of the largest batch, and with it copies of the gradient."""
    return min(CHUNKS, -(-min(batch_size or n_examples, n_examples) // BLOCK))
