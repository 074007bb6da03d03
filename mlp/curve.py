"""Judges a loss curve: how it ended, in one word and a few numbers.

A curve is taken apart into turning points, each as high as the swing it belongs to, as a share of
where the loss then is. So neither the scale of the loss nor a trend below the swings matters, and a
rise on one step in twenty counts as much as one on every second step.

How well it agrees with labels by eye, and with which it does not: tests/curves/README.md.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlp.errors import WithSentence

CHANCE_LOSS = math.log(2)  # mean loss of a network that always answers 1/2; two classes

TAIL_SHARE = 0.25  # a verdict says how the run ended, so it looks at the last quarter
MIN_TAIL_ENTRIES = 8  # two full swings of period 2 and as many entries again, to tell a trend

VISIBLE_SHARE = 0.05  # of the level: what a person sees as a swing or a drift in a plot
# Of the reference: what a person sees beside what there is to learn. On the labelled curves, most
# swings below 2.0 % of ln 2 look like ripples on a curve that falls or lies still, others do not.
NOTABLE_SHARE = 0.02
ROUNDING_SHARE = 2.0**-22  # of the reference: the last two bits of 1 - p in float32 are rounding
ROUNDING_OF_ENTRY = 2.0**-21  # of an entry: the last bits of a float32 loss flip without meaning
NOISE_MARGIN = 1.25  # losses are skewed: batch means range wider than normal errors would
DRIFT_ERRORS = 2.0  # deviations of the drift that sampling alone hardly exceeds

MIN_TURNS = 3  # peak, trough, peak: with the ends two rises and two falls; less is a hump
DYING_RATIO = 0.5  # the highest late swing over the highest early one: below half looks dying
QUIET_SHARE = 0.4  # of the tail without a swing at its end: longer than the pauses between bursts
PERIODIC_MISMATCH = 0.25  # three quarters of the variance come back one period later
PERIODIC_LEEWAY = 0.05  # a shorter lag is preferred to the best one only if it is nearly as good

CONVERGED_SHARE = 0.1  # of the reference: below it a flat loss counts as learned
SPIKE_SHARE = 1.0  # of the best loss so far: a doubled loss stands out in any plot

_NO_MEAN = 100.0  # times chance: a loss that starts higher is a sum, or says nothing of chance

Curve = NDArray[np.float64]
LossKind = Literal["cross_entropy", "squared_error"]


class Verdict(WithSentence):
    """What a loss curve did in the end; the members carry a sentence for a person."""

    DIVERGED = "diverged", "The loss became infinite or undefined, and the run ended there."
    OSCILLATING = "oscillating", "The loss keeps swinging up and down and does not settle."
    CLIMBING = "climbing", "The loss drifts upwards at the end."
    LEARNING = "learning", "The loss is still falling; more steps would lower it."
    STALLED = "stalled", "The loss is flat and high: little was learned and nothing moves."
    CONVERGED = "converged", "The loss is flat and low: the run has learned and settled."


@dataclass(frozen=True)
class Judgement:
    """A verdict and the numbers behind it; all finite, those of a diverged run from before.

    Attributes:
        verdict: how the curve ended.
        amplitude: peak to peak over the middle between them, 0 to 2, that the tail's swings reach
            again and again: the height of its third highest turning point; 0 with fewer. Only
            swings of more than 2 % of the reference count.
        ripples: the same of all swings, where they go on by more than 5 % of the level but the
            curve does not oscillate: they are too small beside what there is to learn, or the loss
            falls further than it swings. Else 0.
        tail_loss: level of the loss in the last third of the tail, in units of the loss: a median,
            which neither a spike nor an alternation moves.
        flip_rate: share of neighbouring pairs of differences in the tail that change sign, 0 to 1;
            a difference within float32 rounding has no sign.
        period_steps: entries from one swing to its next like, 2 or more; None where the swings
            are aperiodic or too small to be seen, or where fewer than two fit into the tail.
        largest_rise: largest rise above the running minimum, in units of the loss.
        last_rise_entry: entry where the loss last rose to visibly above its running minimum;
            None: never.
        spiked: whether the loss once stood at twice its running minimum or more and came back.
            Never of a run that oscillates or diverged.
    """

    verdict: Verdict
    amplitude: float
    ripples: float
    tail_loss: float
    flip_rate: float
    period_steps: int | None
    largest_rise: float
    last_rise_entry: int | None
    spiked: bool

    @property
    def sentence(self) -> str:
        """The verdict's sentence, and a word about ripples."""
        if not self.ripples:
            return self.verdict.sentence
        share = f"{100 * self.ripples:.0f} % of its level"
        return f"{self.verdict.sentence} It ripples by {share}, which is too little to matter."


class _Limits(NamedTuple):
    """What cannot be told from nothing, in units of the loss."""

    reference: float
    rounding: float
    swing: float
    sampling_error: float

    @property
    def notable(self) -> float:
        """What is seen beside the reference."""
        return NOTABLE_SHARE * self.reference


class _Turns(NamedTuple):
    """Turning points that are high enough to be swings, `(turn,)`, in order of entry."""

    entry: NDArray[np.intp]
    height: Curve  # in units of the loss
    share: Curve  # height over the middle of the swing, 0 to 2
    is_cut: NDArray[np.bool_]  # whether the start or end of the tail cuts its height


def judge_run(loss: ArrayLike) -> Judgement:
    """Judges the loss of a run of this package: exact, a mean cross-entropy of two classes.

    Args:
        loss: `(entry,)`, as `mlp.engine.result.Result` has it.

    Example:
        >>> judge_run([0.7 * 0.9**i + 0.01 for i in range(200)]).verdict.value
        'converged'
    """
    return judge_curve(loss, reference=CHANCE_LOSS, noise=0.0)


def judge_curve(
    loss: ArrayLike,
    *,
    steps: ArrayLike | None = None,
    times: ArrayLike | None = None,
    kind: LossKind | None = None,
    classes: int | None = None,
    reference: float | None = None,
    batch_size: int | None = None,
    noise: float | None = None,
) -> Judgement:
    """Judges any loss curve by its last quarter; what is known of it may be left out.

    Decided in this order: `diverged` (a non-finite entry); `oscillating` (two rises and two falls
    of more than 5 % of where the loss then is and of more than 2 % of the reference, neither dying
    out nor over, and higher than the loss falls over the tail); `climbing`, `learning` (a drift of
    more than 5 % of the level over the tail); `stalled`, `converged` (flat, above and below a tenth
    of the reference).

    Args:
        loss: `(entry,)`, one entry or more. What follows a non-finite entry is not looked at.
        steps: `(entry,)`, where each was taken; they are judged in that order. None: as they come.
        times: `(entry,)`, when each was taken: the order of those of one step.
        kind: what it is a mean of, and `classes` the number of classes: so what it is for a
            network that knows nothing; `reference` says the same as a number. Else the first
            entry is taken for that.
        batch_size: examples that an entry is a mean over, where that is a minibatch.
        noise: standard error of one entry, in units of the loss: the deviation of the per-example
            losses over the root of the batch size. 0: the entries are exact. Not finite, as after
            a divergence: taken for 0. None: not known.

    Raises:
        ValueError: for an empty curve, one that is not a line of numbers, several entries that are
            all of one step without their times, or a negative error.

    Example:
        >>> judge_curve([2.3 * 0.9**i + 0.15 for i in range(200)], classes=10).verdict.value
        'converged'
        >>> judge_curve([1.0 + 0.5 * (-1) ** i for i in range(200)]).period_steps
        2
    """
    curve = _in_order(np.asarray(loss, dtype=np.float64), steps, times)
    if noise is not None and noise < 0:
        raise ValueError(f"noise must be at least 0, but is {noise}")
    if reference is None:
        reference = _reference(curve, kind, classes)
    if noise is None:
        noise = 0.0 if batch_size is None else _scatter(curve)
    bad = np.flatnonzero(~np.isfinite(curve))
    finite = np.maximum(curve[: bad[0]] if bad.size else curve, 0.0)
    if finite.size == 0:
        return Judgement(Verdict.DIVERGED, 0.0, 0.0, 0.0, 0.0, None, 0.0, None, False)

    unit = 2.0 ** max(0, math.frexp(float(finite.max()))[1] - 1)  # so that no sum overflows
    finite = finite / unit
    limits = _limits(finite, reference, noise, unit)
    tail = finite[-max(MIN_TAIL_ENTRIES, math.ceil(TAIL_SHARE * finite.size)) :]
    turns = _turns(tail, limits.swing)
    notable = _higher(turns, limits.notable)
    is_rippled = _keeps_swinging(tail, turns)
    verdict = Verdict.DIVERGED if bad.size else _verdict(tail, notable, is_rippled, limits)
    is_quiet = verdict not in (Verdict.DIVERGED, Verdict.OSCILLATING)
    amplitude = _again_and_again(notable.share)
    ripples = _again_and_again(turns.share) if is_quiet and is_rippled else 0.0
    rise, last_rise_entry = _rises(finite, limits.swing)
    return Judgement(
        verdict=verdict,
        amplitude=amplitude,
        ripples=ripples,
        tail_loss=_level(tail[-max(1, tail.size // 3) :]) * unit,
        flip_rate=_flip_rate(tail, limits.rounding),
        period_steps=_period(tail) if max(amplitude, ripples) > VISIBLE_SHARE else None,
        largest_rise=float(rise.max()) * unit,
        last_rise_entry=last_rise_entry,
        spiked=is_quiet and _has_recovered_spike(finite, rise, tail, limits.swing),
    )


def _in_order(curve: Curve, steps: ArrayLike | None, times: ArrayLike | None) -> Curve:
    """The curve by step, and of one step by time."""
    if curve.ndim != 1 or curve.size == 0:
        raise ValueError(f"a loss curve must be a line of numbers, but has shape {curve.shape}")
    if steps is None:
        return curve
    at = np.asarray(steps)
    if times is None and curve.size > 1 and (at == at[0]).all():
        raise ValueError(
            f"all {curve.size} values of the loss are of step {at[0]:g}, so their \
order is not known; log each with its step"
        )
    return curve[np.lexsort((np.arange(curve.size) if times is None else np.asarray(times), at))]


def _reference(curve: Curve, kind: LossKind | None, classes: int | None) -> float:
    """The loss of a network that knows nothing; the first entry where that is not known."""
    first = float(curve[0])
    if classes is None or not math.isfinite(first):
        return abs(first)
    if kind == "squared_error":  # over outputs or a mean of them, with or without a half
        known = [(classes - 1) / classes**2 * factor for factor in (0.5, 1, classes / 2, classes)]
        return max((value for value in known if value < 1.1 * first), default=min(known))
    chance = math.log(classes)
    return chance if first < _NO_MEAN * chance else first


def _scatter(curve: Curve) -> float:
    """Deviation of independent errors of the entries; second differences of a trend are small."""
    bends = np.diff(curve, 2)
    return float(np.std(bends[-max(MIN_TAIL_ENTRIES, bends.size // 4) :]) / math.sqrt(6))


def _limits(finite: Curve, reference: float, sampling_error: float, unit: float) -> _Limits:
    """The smallest swing is what rounding, or the scatter of n normal errors, could span.

    n normal errors lie within sqrt(2 ln n) deviations on either side.
    """
    level = reference / unit
    error = sampling_error / unit if math.isfinite(sampling_error) else 0.0
    span = 2 * math.sqrt(2 * math.log(finite.size + 1)) * error
    rounding = ROUNDING_SHARE * level
    return _Limits(level, rounding, max(rounding, NOISE_MARGIN * span), error)


def _verdict(tail: Curve, notable: _Turns, is_rippled: bool, limits: _Limits) -> Verdict:
    """The verdict of a finite curve, by its turns that are seen beside the reference.

    Where it ripples, so is a rise only what is seen beside the reference.
    """
    n_third = max(1, tail.size // 3)
    start, end = _level(tail[:n_third]), _level(tail[-n_third:])
    drift = 1.5 * (end - start)  # the middles of the outer thirds are two thirds of a tail apart
    if _keeps_swinging(tail, notable) and -drift < _again_and_again(notable.height):
        return Verdict.OSCILLATING
    # A median errs 1.25 times as much as a mean, a difference of two sqrt(2) times as one.
    error = 1.5 * 1.25 * math.sqrt(2 / n_third) * limits.sampling_error
    seen = max(VISIBLE_SHARE * (start + end) / 2, limits.rounding, DRIFT_ERRORS * error)
    if drift > max(seen, limits.notable if is_rippled else 0.0):
        return Verdict.CLIMBING
    if drift < -seen:
        return Verdict.LEARNING
    is_high = float(np.median(tail)) > CONVERGED_SHARE * limits.reference
    return Verdict.STALLED if is_high else Verdict.CONVERGED


def _keeps_swinging(tail: Curve, turns: _Turns) -> bool:
    """Whether there are enough visible turns, the last one lately, and none dying out.

    Dying out: of the span from the first whole swing to the last, the highest in the last third is
    below `DYING_RATIO` of the highest in the first third. Only the highest count: large swings may
    carry ripples.
    """
    visible = turns.share > VISIBLE_SHARE
    entry, share = turns.entry[visible], turns.share[visible]
    if entry.size < MIN_TURNS or tail.size - 1 - entry[-1] > QUIET_SHARE * tail.size:
        return False
    is_whole = ~turns.is_cut[visible]
    entry, share = entry[is_whole], share[is_whole]
    if entry.size < 2:
        return True  # too few to see them die
    third = (entry[-1] - entry[0]) / 3
    early, late = share[entry <= entry[0] + third], share[entry >= entry[-1] - third]
    return float(late.max()) >= DYING_RATIO * float(early.max())


def _again_and_again(heights: Curve) -> float:
    """What at least `MIN_TURNS` turns reach; 0 with fewer turns."""
    return float(np.sort(heights)[-MIN_TURNS]) if heights.size >= MIN_TURNS else 0.0


def _higher(turns: _Turns, smallest: float) -> _Turns:
    """Those that are higher."""
    kept = turns.height > smallest
    return _Turns(turns.entry[kept], turns.height[kept], turns.share[kept], turns.is_cut[kept])


def _turns(tail: Curve, smallest: float) -> _Turns:
    """The inner turning points of a tail whose height is above `smallest`.

    Small swings are taken out of the midst of larger ones, as in rainflow counting (Matsuishi and
    Endo 1968): two neighbours that lie between the points before and after them are a swing of
    their own height. What is left first grows and then shrinks from turn to turn; there a turn is
    as high as the lower of its two flanks, so that a trend alone has no height.
    """
    nested, outer = _rainflow(tail)
    a, b = tail[nested[:, 0]], tail[nested[:, 1]]
    points = tail[outer]
    flanks = np.abs(np.diff(points))
    nearer = np.where(flanks[:-1] <= flanks[1:], points[:-2], points[2:])
    entry = np.concatenate([nested.ravel(), outer[1:-1]])
    height = np.concatenate([np.repeat(np.abs(a - b), 2), np.abs(points[1:-1] - nearer)])
    middle = np.concatenate([np.repeat((a + b) / 2, 2), (points[1:-1] + nearer) / 2])
    is_cut = np.isin(entry, np.concatenate([outer[1:2], outer[-2:-1]]))
    kept = np.flatnonzero(height > smallest)
    kept = kept[np.argsort(entry[kept])]
    return _Turns(entry[kept], height[kept], height[kept] / middle[kept], is_cut[kept])


def _rainflow(tail: Curve) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Entries of the nested swings, `(swing, 2)`, and of the outer turning points with the ends."""
    ends_of_levels = np.append(np.flatnonzero(np.diff(tail)), tail.size - 1)
    is_up = np.diff(tail[ends_of_levels]) > 0
    is_turn = np.ones(ends_of_levels.size, dtype=bool)
    is_turn[1:-1] = is_up[1:] != is_up[:-1]
    nested: list[int] = []
    outer: list[int] = []
    entries: list[int] = []  # the points, and their values, that may still enclose later ones
    values: list[float] = []
    for entry in ends_of_levels[is_turn].tolist():
        value = float(tail[entry])
        while len(values) > 1 and abs(value - values[-1]) >= abs(values[-1] - values[-2]):
            if len(values) == 2:
                outer.append(entries[0])
                del entries[0], values[0]
            else:
                nested += entries[-2:]
                del entries[-2:], values[-2:]
        entries.append(entry)
        values.append(value)
    pairs = np.array(nested, dtype=np.intp).reshape(-1, 2)
    return pairs, np.array(outer + entries, dtype=np.intp)


def _level(part: Curve) -> float:
    """Median of neighbours' means: neither a spike nor an alternation moves it."""
    return float(np.median((part[1:] + part[:-1]) / 2 if part.size > 1 else part))


def _flip_rate(tail: Curve, rounding: float) -> float:
    steps = np.diff(tail)
    steps[np.abs(steps) <= np.maximum(ROUNDING_OF_ENTRY * tail[1:], rounding)] = 0.0
    signs = np.sign(steps)
    return float(np.mean(signs[1:] * signs[:-1] < 0)) if signs.size > 1 else 0.0


def _period(tail: Curve) -> int | None:
    """The smallest lag at which the tail resembles itself, up to half its length.

    With `d(k)` the mean of `(x[i] - x[i + k])^2` over all i, a lag fits where `d(k)` is below
    `PERIODIC_MISMATCH` times the mean of `d(1) .. d(k)`, and within `PERIODIC_LEEWAY` of the best
    lag, so that a period of 4 is not taken for one of 2; of neighbouring such lags, the best.
    The highest and lowest hundredth are cut off, or one spike would hide the period of the rest.

    References:
        de Cheveigne and Kawahara 2002, "YIN, a fundamental frequency estimator for speech and
        music", doi 10.1121/1.1458024 (there the threshold is 0.1: sound is more regular).
    """
    n = tail.size
    since = np.arange(n) - (n - 1) / 2
    x = np.clip(tail, *np.quantile(tail, [0.01, 0.99])) / tail.max()
    x = x - x.mean() - since * (since @ x) / (since @ since)
    n_padded = 1 << (2 * n - 1).bit_length()
    products = np.fft.irfft(np.abs(np.fft.rfft(x, n_padded)) ** 2, n_padded)
    squares = np.concatenate([[0.0], np.cumsum(x**2)])
    lag = np.arange(1, n // 2 + 1)
    d = (squares[n - lag] + squares[n] - squares[lag] - 2 * products[lag]) / (n - lag)
    mean = np.cumsum(d) / lag
    mismatch = np.divide(d, mean, out=np.ones_like(d), where=mean > 0)
    fits = np.flatnonzero(mismatch < min(PERIODIC_MISMATCH, mismatch.min() + PERIODIC_LEEWAY))
    if fits.size == 0:
        return None
    best = int(fits[0])
    while best + 1 < lag.size and mismatch[best + 1] < mismatch[best]:
        best += 1
    return int(lag[best])


def _rises(finite: Curve, smallest: float) -> tuple[Curve, int | None]:
    """By how much each entry is above the running minimum, and where it last visibly rose to it."""
    best = np.minimum.accumulate(finite)
    rise = finite - best
    is_visible = rise > np.maximum(VISIBLE_SHARE * best, smallest)
    risen = np.flatnonzero(is_visible[1:] & (finite[1:] > finite[:-1])) + 1
    return rise, int(risen[-1]) if risen.size else None


def _has_recovered_spike(finite: Curve, rise: Curve, tail: Curve, smallest: float) -> bool:
    """Whether the loss shot up from some minimum, and ends no longer far above that minimum."""
    best = finite - rise
    is_high = rise > np.maximum(SPIKE_SHARE * best, smallest)
    if not is_high.any():
        return False
    before = float(best[np.argmax(is_high)])
    end = _level(tail[-max(1, tail.size // 3) :])
    return end - before <= max(SPIKE_SHARE * before, smallest)
