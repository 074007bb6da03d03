"""Step size against curvature: the stability ratio of a run, and what it says of its mechanism.

Near a minimum along a direction of curvature `c`, gradient descent with step `s` multiplies the
distance to it by `1 - s c`: above `s c = 2` it overshoots by more than it came from. So with the
sharpness, the largest curvature of the mean loss,

    ratio = effective step x sharpness / 2,    with momentum m divided by (1 + m)

where the effective step is the length of the step along the mean gradient `g`, over `|g|`. Above 1
a step leaves the present valley. That is not yet how the run ends: the next valley may be wider.
For unit and clip the ratio tells what a step of the present length does across the gradient; along
it, steps of fixed length overshoot near any minimum. With the question's derivative, the spectral
radius of its Jacobian takes the place of the sharpness (see `mlp.stability.curvature`).

References:
    Cohen et al. 2021, "Gradient descent on neural networks typically occurs at the edge of
    stability" (also with momentum). Lewkowycz et al. 2020, "The large learning rate phase of deep
    learning: the catapult mechanism".
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlp.config import RunConfig
from mlp.curve import TAIL_SHARE, Verdict
from mlp.errors import WithSentence
from mlp.shares import DEVIATIONS_95, Share, wilson

# At the edge of stability the ratio hovers about 1, a little above: within a quarter either way.
EDGE_LOW = 0.8
EDGE_HIGH = 1.25
# A swing about the bottom of a valley needs a ratio of 1. A swing between a valley's side and a
# flat place has about half of that, on average over the points measured.
GONE = 0.5

_TAIL_POINTS = 4  # two for each phase of a swing of period 2
_FEWEST_FOR_TAIL = 8  # points in all: with fewer, the way there counts more
_THRESHOLD = 1.0  # a forecast: above it a run is to oscillate
_NEAR = 1e-9
_ALL = "all"

Numbers = NDArray[np.float64]


class Mechanism(WithSentence):
    """How steps and curvature went together; the members carry a sentence for a person."""

    SATURATED = "saturated", "The loss swings where its curvature is gone: the units saturate."
    ABOVE = "above", "The step is too large for the curvature to the end."
    EDGE = "edge", "The curvature has settled where the step is just about too large."
    STARTED_ABOVE = (
        "started_above",
        "The step was too large at the start, and the run never calmed.",
    )
    CATAPULT = "catapult", "The step was too large at the start; the run found a wider valley."
    BELOW = "below", "The step is small enough for the curvature at the end, as at the start."


@dataclass(frozen=True)
class Stability:
    """The stability ratio of a run in short, and its mechanism.

    Attributes:
        start: at the first weights: the forecast. None where they were not measured, or not finite.
        tail: the median over the last quarter of the steps done; at least the last point counts.
    """

    start: float | None
    highest: float
    tail: float
    mechanism: Mechanism


def sharpness_steps(config: RunConfig) -> tuple[int, ...]:
    """The numbers of updates after which the sharpness of a run is measured.

    `training.sharpness_points` of them, fewer where steps coincide: 0, the last, and log-spaced
    ones between. Of eight or more, four lie in the last quarter, by odd distances, so that both
    phases of a swing of period 2 are seen. None with minibatches: no step follows the gradient of
    the loss that is measured.

    Example:
        >>> from mlp.settings import read_run
        >>> sharpness_steps(read_run({"training": {"steps": 1000, "sharpness_points": 10}}))
        (0, 1, 5, 27, 143, 750, 817, 878, 939, 1000)
    """
    last, points = config.training.steps, config.training.sharpness_points
    if points == 0 or config.training.batch_size is not None:
        return ()
    if points < _FEWEST_FOR_TAIL:
        return _log_spaced(last, points)
    quarter = math.ceil(TAIL_SHARE * last)
    distance = max(quarter // _TAIL_POINTS, 1)
    distance -= 1 - distance % 2
    tail = {max(last - i * distance, 0) for i in range(_TAIL_POINTS)}
    before = _log_spaced(max(last - quarter, 1), points - _TAIL_POINTS)
    return tuple(sorted({*before, *tail}))


def step_factor(config: RunConfig, gradient_norm: ArrayLike, n_examples: int) -> Numbers:
    """Effective step over learning rate: what a learning rate of 1 is worth on the mean gradient.

    N for sum over N examples, 1 for mean, 1 / |g| for unit, min(1, c / |g|) for clip.

    Args:
        gradient_norm: |g| of the mean gradient where the step is taken, any shape, above 0.
        n_examples: of the training part; a batch has no more than its size of them.

    Example:
        >>> from mlp.settings import read_run
        >>> run = read_run({"gradient": {"normalization": "sum"}})
        >>> float(0.005 * step_factor(run, 0.2, 12_396))
        61.980000000000004
    """
    times, over = _times_and_over(config, gradient_norm, n_examples)
    return times / over


def effective_step(config: RunConfig, gradient_norm: ArrayLike, n_examples: int) -> Numbers:
    """By what the mean gradient is multiplied in the first step from rest.

    Args:
        gradient_norm: of the mean gradient, any shape. Where it is 0, unit makes no step.

    Returns:
        0 or more, in the shape of the norms.

    Example:
        >>> from mlp.settings import read_run
        >>> run = read_run({"gradient": {"normalization": "clip", "clip_norm": 1.0}})
        >>> effective_step(run, [0.5, 2.0], 100)
        array([0.5 , 0.25])
    """
    times, over = _times_and_over(config, gradient_norm, n_examples)
    inverse = np.divide(1.0, over, out=np.zeros_like(over), where=over > 0)
    return config.optimizer.rate * times * inverse


def _times_and_over(
    config: RunConfig, gradient_norm: ArrayLike, n_examples: int
) -> tuple[Numbers, Numbers]:
    """What the learning rate is multiplied by, and divided by.

    They come apart since each use rounds in its own way, and both the ratios of records and the
    learning rates of earlier reruns are compared bit for bit.
    """
    norm = np.asarray(gradient_norm, np.float64)
    one = np.ones_like(norm)
    match config.gradient.normalization:
        case "sum":
            return one * min(n_examples, config.training.batch_size or n_examples), one
        case "mean":
            return one, one
        case "unit":
            return one, norm
        case "clip":
            limit = config.gradient.clip_norm
            return np.where(norm > limit, limit, 1.0), np.where(norm > limit, norm, 1.0)


def stability_ratio(
    config: RunConfig, sharpness: ArrayLike, gradient_norm: ArrayLike, n_examples: int
) -> Numbers:
    """Effective step x sharpness / 2, with momentum m divided by (1 + m).

    Args:
        config: whose step is meant; the curvature may be that along another run.
        sharpness: of the mean training loss, any shape.
        gradient_norm: of the mean training loss, likewise.
    """
    step = effective_step(config, gradient_norm, n_examples)
    return step * np.asarray(sharpness, np.float64) / (2 * (1 + config.optimizer.momentum))


def judge_stability(
    step: ArrayLike, ratio: ArrayLike, verdict: Verdict, last_step: int
) -> Stability | None:
    """What the stability ratio along a run says of its mechanism.

    Decided by the tail, in this order: `saturated` (it oscillates, and the ratio is below `GONE`);
    `above` and `edge` (the ratio is above and within `EDGE_LOW .. EDGE_HIGH`); then, with the ratio
    below: `started_above` and `catapult` (it was above 1 at the start, and the loss is oscillating,
    climbing or diverged, or none of these); `below`.

    Args:
        step: `(point,)`, updates done, increasing.
        ratio: `(point,)`, finite.
        last_step: updates done in all.

    Returns:
        None without any point.

    Example:
        >>> judge_stability([0, 50, 90, 99], [3.0, 0.5, 0.4, 0.4], Verdict.LEARNING, 99).mechanism
        <Mechanism.CATAPULT: 'catapult'>
    """
    steps, ratios = np.asarray(step), np.asarray(ratio, np.float64)
    if not ratios.size:
        return None
    is_tail = steps > (1 - TAIL_SHARE) * last_step
    is_tail[-1] = True
    start = float(ratios[0]) if steps[0] == 0 else None
    tail = float(np.median(ratios[is_tail]))
    return Stability(start, float(ratios.max()), tail, _mechanism(start, tail, verdict))


def _mechanism(start: float | None, tail: float, verdict: Verdict) -> Mechanism:
    if verdict is Verdict.OSCILLATING and tail < GONE:
        return Mechanism.SATURATED
    if tail > EDGE_HIGH:
        return Mechanism.ABOVE
    if tail >= EDGE_LOW:
        return Mechanism.EDGE
    if start is None or start <= 1:
        return Mechanism.BELOW
    is_wild = verdict in (Verdict.OSCILLATING, Verdict.CLIMBING, Verdict.DIVERGED)
    return Mechanism.STARTED_ABOVE if is_wild else Mechanism.CATAPULT


def _log_spaced(last: int, points: int) -> tuple[int, ...]:
    if points == 1:
        return (0,)
    spaced = np.geomspace(1, last, points - 1) if points > 2 else [last]
    return tuple(sorted({0, *(round(float(step)) for step in spaced)}))


# How well the ratio at the first weights tells whether a run will end oscillating. How often the
# forecast is right depends on the line at 1; how well the ratio orders the runs, oscillating ones
# above the others, does not.


class Forecast(NamedTuple):
    """One run: what was known before its first step, and what became of it."""

    normalization: str
    ratio: float
    verdict: Verdict


@dataclass(frozen=True)
class Quality:
    """How good the forecasts of some runs are.

    Attributes:
        hits: share of runs whose forecast was right.
        auc: chance that of one run that ended oscillating and one that did not, the first had the
            higher ratio, ties counting half. None where there are not both.
        missed: runs that oscillated although the ratio was not above the threshold.
        false_alarms: verdict -> runs above the threshold that ended so instead.
    """

    n_runs: int
    n_oscillating: int
    hits: Share
    auc: Share | None
    missed: int
    false_alarms: Mapping[Verdict, int]


def forecast_quality(forecasts: Iterable[Forecast]) -> dict[str, Quality]:
    """How good the forecasts are, for each normalization and under `all`.

    Args:
        forecasts: one a run; their ratios are finite.

    Returns:
        Normalization -> quality, in order of first appearance, then `all`; empty without runs.

    Example:
        >>> runs = [("mean", 0.3, "learning"), ("mean", 4.0, "oscillating")]
        >>> forecast_quality(Forecast(n, r, Verdict(v)) for n, r, v in runs)["all"].hits.value
        1.0

    References:
        Wilson 1927, "Probable inference, the law of succession, and statistical inference" (the
        hits' interval). Newcombe 2006, "Confidence intervals for an effect size measure based on
        the Mann-Whitney statistic. Part 2", method 5 (the area's interval).
    """
    runs = list(forecasts)
    names = dict.fromkeys(run.normalization for run in runs)
    groups = {name: [run for run in runs if run.normalization == name] for name in names}
    if runs:
        groups[_ALL] = runs
    return {name: _quality(group) for name, group in groups.items()}


def _quality(runs: Sequence[Forecast]) -> Quality:
    ratio = np.array([run.ratio for run in runs])
    oscillates = np.array([run.verdict is Verdict.OSCILLATING for run in runs])
    is_forecast = ratio > _THRESHOLD
    alarms = [run.verdict for run in runs if run.ratio > _THRESHOLD]
    return Quality(
        n_runs=len(runs),
        n_oscillating=int(oscillates.sum()),
        hits=wilson(int((is_forecast == oscillates).sum()), len(runs)),
        auc=_auc(ratio[oscillates], ratio[~oscillates]),
        missed=int((oscillates & ~is_forecast).sum()),
        false_alarms={
            verdict: alarms.count(verdict)
            for verdict in Verdict
            if verdict is not Verdict.OSCILLATING and verdict in alarms
        },
    )


def _auc(positive: Numbers, negative: Numbers) -> Share | None:
    """The area under the ROC curve from ranks, as Mann and Whitney's U over the pairs.

    The interval holds all areas `t` from which the one found is at most `DEVIATIONS_95` deviations
    away. The variance is that at `t` itself, so that a perfect order of few runs does not look
    certain.
    """
    n, m = positive.size, negative.size
    if not n or not m:
        return None
    from scipy.optimize import brentq  # take a while, and only a study's page asks
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([positive, negative]))[:n]
    area = float((ranks.sum() - n * (n + 1) / 2) / (n * m))
    more = (n + m) / 2 - 1

    def excess(t: float) -> float:
        variance = t * (1 - t) * (1 + more * (1 - t) / (2 - t) + more * t / (1 + t)) / (n * m)
        return float(abs(area - t) - DEVIATIONS_95 * math.sqrt(variance))

    # The excess is positive at the far end of each side. Areas of 0 and 1 are roots of their own.
    low = brentq(excess, 0.0, min(area, 1 - _NEAR)) if area > 0 else 0.0
    high = brentq(excess, max(area, _NEAR), 1.0) if area < 1 else 1.0
    return Share(area, float(low), float(high))
