"""Judges a loss curve: how it ended, in one word and a few numbers."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHANCE_LOSS = math.log(2)  # mean loss of a network that always answers 1/2; two classes

TAIL_SHARE = 0.25  # a verdict says how the run ended, so it looks at the last quarter
VISIBLE_SHARE = 0.05  # of the level: what a person sees as a swing or a drift in a plot
CONVERGED_SHARE = 0.1  # of the reference: below it a flat loss counts as learned


class Verdict(StrEnum):
    """What a loss curve did in the end; the members carry a sentence for a person."""

    sentence: str

    def __new__(cls, value: str, sentence: str = "") -> "Verdict":
        """A member with its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    DIVERGED = "diverged", "The loss became infinite or undefined, and the run ended there."
    OSCILLATING = "oscillating", "The loss keeps swinging up and down and does not settle."
    CLIMBING = "climbing", "The loss drifts upwards at the end."
    LEARNING = "learning", "The loss is still falling; more steps would lower it."
    STALLED = "stalled", "The loss is flat and high: little was learned and nothing moves."
    CONVERGED = "converged", "The loss is flat and low: the run has learned and settled."


@dataclass(frozen=True)
class Judgement:
    """A verdict and the numbers behind it.

    Attributes:
        verdict: how the curve ended.
        amplitude: peak to peak of the tail's detrended loss over the tail's mean level; 0 or more.
        flip_rate: share of neighbouring pairs of differences in the tail that change sign; 0 to 1.
        period_steps: length of a swing in entries of the curve; None where there is none.
        largest_rise: largest rise above the running minimum, in units of the loss.
        last_rise_entry: entry of the curve with the last such rise that is visible; None: never.
        spiked: whether the loss rose visibly before the tail and recovered.
    """

    verdict: Verdict
    amplitude: float
    flip_rate: float
    period_steps: int | None
    largest_rise: float
    last_rise_entry: int | None
    spiked: bool


def judge(loss: ArrayLike, *, reference: float = CHANCE_LOSS) -> Judgement:
    """Judges a loss curve by its last quarter.

    Args:
        loss: `(entry,)`, one entry or more; a non-finite entry makes the verdict `diverged`.
        reference: the loss of knowing nothing; flat below a tenth of it is `converged`.

    Raises:
        ValueError: for an empty curve.

    Example:
        >>> judge([0.7 * 0.9**i + 0.01 for i in range(200)]).verdict.value
        'converged'
        >>> judge([1.0 + 0.5 * (-1) ** i for i in range(200)]).period_steps
        2
    """
    curve = np.asarray(loss, dtype=np.float64)
    if curve.size == 0:
        raise ValueError("a loss curve must have at least one entry, but has none")
    finite = curve[np.isfinite(curve)] if not np.isfinite(curve).all() else curve
    if finite.size == 0:
        return Judgement(Verdict.DIVERGED, 0.0, 0.0, None, 0.0, None, False)
    tail = finite[-max(2, math.ceil(TAIL_SHARE * finite.size)) :]
    swing, drift = _swing_and_drift(tail)
    level = float(np.mean(tail))
    amplitude = float(np.ptp(swing)) / level if level > 0 else 0.0
    flips = np.diff(np.sign(np.diff(swing)))
    crossings = int(np.count_nonzero(np.diff(np.signbit(swing))))
    period = round(2 * (tail.size - 1) / crossings) if crossings >= 4 else None
    rises = finite - np.minimum.accumulate(finite)
    visible = np.flatnonzero(rises > VISIBLE_SHARE * np.minimum.accumulate(finite))
    return Judgement(
        verdict=_verdict(
            curve, amplitude, crossings, drift / level if level > 0 else 0.0, level, reference
        ),
        amplitude=amplitude,
        flip_rate=float(np.mean(flips != 0)) if flips.size else 0.0,
        period_steps=period,
        largest_rise=float(rises.max()),
        last_rise_entry=int(visible[-1]) if visible.size else None,
        spiked=bool(visible.size and visible[0] < finite.size - tail.size),
    )


def _swing_and_drift(tail: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The tail without its straight trend, and how far that trend goes over the tail."""
    if tail.size < 2:
        return np.zeros_like(tail), 0.0
    entries = np.arange(tail.size, dtype=np.float64)
    slope, start = np.polyfit(entries, tail, 1)
    return tail - (start + slope * entries), float(slope * (tail.size - 1))


def _verdict(
    curve: NDArray[np.float64],
    amplitude: float,
    crossings: int,
    drift_share: float,
    level: float,
    reference: float,
) -> Verdict:
    if not np.isfinite(curve).all():
        return Verdict.DIVERGED
    if amplitude > VISIBLE_SHARE and crossings >= 4:
        return Verdict.OSCILLATING
    if drift_share > VISIBLE_SHARE:
        return Verdict.CLIMBING
    if drift_share < -VISIBLE_SHARE:
        return Verdict.LEARNING
    return Verdict.STALLED if level > CONVERGED_SHARE * reference else Verdict.CONVERGED
