"""The labelled curves: `labels.csv` with the stored curves and those made by formula."""

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curves.synthetic import SYNTHETIC, Curve, synthesize
from mlp.curve import CHANCE_LOSS, Judgement, judge_curve, judge_run

HERE = Path(__file__).parent
HELD_OUT_ONE_IN = 3


@dataclass(frozen=True, eq=False)
class Labelled:
    """A curve and what was seen in it.

    Attributes:
        name: neutral; nothing in it hints at the label.
        origin: mnist, digits or formula.
        split: tune, held-out, fresh, later, own, other or other-held-out; see the README.
        label: the verdict given by eye.
        first_label: what was said to the question before, where that differs; else empty.
        spiked: what was seen, None where it was not noted.
        loss: `(entry,)`; of a run on minibatches that was judged by both its curves, the batches'.
        epoch_loss: `(entry,)`, the exact loss at the ends of its epochs, and `epoch_step`, where.
            None where there is only one curve.
        known: what was known of the curve, by `judge_curve`'s arguments.
        sampling_error: standard error of one entry, 0 where there is no sampling noise.
        accuracy: training accuracy after each update or epoch; None where it is unknown.
        settings: of the run, as on the command line, or the formula in words.
    """

    name: str
    origin: str
    split: str
    label: str
    first_label: str
    spiked: bool | None
    loss: Curve
    epoch_loss: Curve | None
    epoch_step: NDArray[np.int64] | None
    known: dict[str, Any]
    sampling_error: float
    accuracy: NDArray[np.float64] | None
    settings: str


def split_of(name: str) -> str:
    """The rule, fixed before any label: one in three by the hash of the name; later batches whole.

    Example:
        >>> [split_of(f"{batch}-001") for batch in ("run", "fresh", "later", "own", "other")]
        ['held-out', 'fresh', 'later', 'own', 'other']
    """
    batch = name.partition("-")[0]
    if batch in ("fresh", "later", "own"):
        return batch
    is_held_out = int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0
    if batch == "other":
        return "other-held-out" if is_held_out else "other"
    return "held-out" if is_held_out else "tune"


def load() -> list[Labelled]:
    """All labelled curves, in the order of the table."""
    with (HERE / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(HERE / "curves.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    return [_labelled(row, arrays) for row in rows]


def _labelled(row: dict[str, str], arrays: dict[str, NDArray[np.generic]]) -> Labelled:
    name = row["name"]
    made = SYNTHETIC.get(name)
    is_both = row["curve"] == "both"
    n_right = arrays.get(f"{name}/n_right")
    return Labelled(
        name=name,
        origin=row["origin"],
        split=split_of(name),
        label=row["label"],
        first_label=row["first_label"],
        spiked={"yes": True, "no": False, "": None}[row["spiked"]],
        loss=synthesize(name) if made else arrays[name].astype(np.float64),
        epoch_loss=arrays[f"{name}/loss"].astype(np.float64) if is_both else None,
        epoch_step=arrays[f"{name}/loss_step"].astype(np.int64) if is_both else None,
        known={key: _value(value) for key, value in (p.split("=") for p in row["known"].split())},
        sampling_error=(
            made.sampling_error if made else float(arrays.get(f"{name}/sampling_error", 0.0))
        ),
        accuracy=(
            None if n_right is None else n_right.astype(np.float64) / arrays[f"{name}/n_examples"]
        ),
        settings=row["settings"],
    )


def _value(text: str) -> str | int:
    return int(text) if text.isdigit() else text


def judged(curve: Labelled) -> Judgement:
    """What the judge says when it is told what is known of the curve."""
    if curve.epoch_loss is not None:
        losses = SimpleNamespace(
            loss=curve.epoch_loss,
            loss_step=curve.epoch_step,
            step_loss=curve.loss,
            restored_step=np.empty(0, np.int64),
        )
        return judge_run(losses, curve.known["batch_size"])
    if curve.split.startswith("other"):
        return judge_curve(curve.loss, **curve.known)
    return judge_curve(curve.loss, reference=CHANCE_LOSS, noise=curve.sampling_error)
