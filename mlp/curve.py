"""Judges a loss curve: how it ended, in one word and a few numbers.

A curve is taken apart into turning points, each as high as the swing it belongs to, as a share of
where the loss then is. So neither the scale of the loss nor a trend below the swings matters, and a
rise on one step in twenty counts as much as one on every second step.

How well it agrees with labels by eye, and with which it does not: tests/curves/README.md.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlp.errors import WithSentence, counted

if TYPE_CHECKING:  # this module judges before an engine is there
    from mlp.engine.result import Result

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

# Noise of minibatches. Where its size is not known, the points tell: batches are drawn anew, so an
# entry says nothing of the next, while a loss that swings does. On the labelled curves no noise
# comes back by more than 2.9 of its own errors, and all but four of the swings do.
STRUCTURE_ERRORS = 3.5  # errors of an autocorrelation, 1 / sqrt(n)
RETURN_SHARE = 0.25  # of the variance, that comes back after two entries or more
SMOOTH_SHARE = 0.5  # of the variance, that is in the next entry still
STRUCTURE_ENTRIES = 24  # of a tail; on fewer neither can be told
# A batch's mean varies by E[l^2] / B, which is at most the mean loss times what a hard example
# costs; that is taken for so many times the reference: 4.9 with two classes.
HARD_EXAMPLE = 7.0
BEYOND_NOISE = 2.0  # deviations over those of the noise: healthy runs stay below 1.5
NOISE_PAIRS = 8  # exact losses beside those of batches from which the noise is told

CONVERGED_SHARE = 0.1  # of the reference: below it a flat loss counts as learned
SPIKE_SHARE = 1.0  # of the best loss so far: a doubled loss stands out in any plot

FAR_ABOVE = 2.0  # times the start and the reference: such a fall is no learning
LOST_ABOVE = 100.0  # likewise: it is not only high but lost, also where it is flat
# Likewise, and above 1: it is on its way to infinity. A network of this package with a rate of 6e4
# on the sum goes on swinging at 1e7 times; one with 1e5, up to 1e8. No labelled curve that stays
# finite ends above 3e3 times. Above 1, since some losses begin at next to nothing.
EXPLODED_ABOVE = 1e9
SETTLED_TURNS = 5  # that came before the end: two whole swings and a half
FEW_ENTRIES = 40  # of a curve; the last quarter, which is judged, has ten of them
_LARGEST = float(np.finfo(np.float64).max)
_NO_MEAN = 100.0  # times chance: a loss that starts higher is a sum, or says nothing of chance

Curve = NDArray[np.float64]
LossKind = Literal["cross_entropy", "squared_error"]


class Verdict(WithSentence):
    """What a loss curve did in the end; the members carry a sentence for a person."""

    DIVERGED = "diverged", "The loss became infinite or undefined, or is on its way there."
    OSCILLATING = "oscillating", "The loss keeps swinging up and down and does not settle."
    CLIMBING = "climbing", "The loss drifts upwards at the end."
    LEARNING = "learning", "The loss is still falling; more steps would lower it."
    STALLED = (
        "stalled",
        "The loss is high and falls by less than 5 % in the end: little was learned.",
    )
    FLAT = "flat", "The loss is flat; whether that is low is not known of a loss below zero."
    CONVERGED = "converged", "The loss is flat and low: the run has learned and settled."
    FAILED = "failed", "The function did not come to its end, so there is nothing to judge."


# The same in MLflow's charts and on the page of a study. They stand out from white and from near
# black; where a colour alone would say it, a symbol goes with it.
VERDICT_SHADES: dict[Verdict, tuple[str, ...]] = {
    Verdict.DIVERGED: ("#8e44ad", "#6c3483", "#a569bd"),
    Verdict.OSCILLATING: ("#d7301f", "#a50f15", "#ef6548", "#fc8d59"),
    Verdict.CLIMBING: ("#cf7a00", "#b36b00", "#f2a33a"),
    Verdict.LEARNING: ("#2c7fb8", "#08519c", "#6baed6", "#17becf"),
    Verdict.STALLED: ("#8c8c8c", "#636363", "#b0b0b0"),
    Verdict.FLAT: ("#a6761d", "#7f5a12", "#c9a25a"),
    Verdict.CONVERGED: ("#1b9e77", "#00734f", "#66c2a5", "#5aae61"),
    Verdict.FAILED: ("#c2457c", "#9c2f60", "#dd7ba6"),
}
"""Verdict -> shades of one hue, so that runs of one verdict can be told apart in a chart."""

VERDICT_COLOURS = {verdict: shades[0] for verdict, shades in VERDICT_SHADES.items()}
"""Verdict -> its colour, where one is enough."""


class Swung(NamedTuple):
    """Swings that came to an end: the steps of the first and the last, and between which losses."""

    first_step: int
    last_step: int
    low: float
    high: float

    def __str__(self) -> str:
        steps = f"from step {self.first_step} to {self.last_step}"
        return f"It swung {steps}, between {self.low:.3g} and {self.high:.3g}, and settled."


@dataclass(frozen=True)
class Judgement:
    """A verdict and the numbers behind it; all finite, those of a diverged run from before.

    Attributes:
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
        period_steps: steps from one swing to its next like, 2 or more; None where the swings
            are aperiodic or too small to be seen, or where fewer than two fit into the tail.
        largest_rise: largest rise above the running minimum, in units of the loss.
        last_rise_step: where the loss last rose to visibly above its running minimum; None: never.
        spiked: whether the loss once stood at twice its running minimum or more and came back.
            Never of a run that oscillates or diverged.
        swung: where it swung before it settled; None: nowhere, or to the end.
        first_loss: where it began, in units of the loss; None: not known.
        n_entries: how many finite values were judged; None: not known.
        n_rollbacks: how often `mlp.guard` went back to better weights on the way.
        last_loss: where it ended, in units of the loss; None: not known, or not finite.
    """

    verdict: Verdict
    amplitude: float
    ripples: float
    tail_loss: float
    flip_rate: float
    period_steps: int | None
    largest_rise: float
    last_rise_step: int | None
    spiked: bool
    swung: Swung | None = None
    first_loss: float | None = None
    n_entries: int | None = None
    n_rollbacks: int = 0
    last_loss: float | None = None

    @property
    def words(self) -> str:
        """The verdict, and what it took: `learning, after 3 rollbacks`."""
        times = counted(self.n_rollbacks, "rollback")
        return f"{self.verdict}, after {times}" if self.n_rollbacks else str(self.verdict)

    @property
    def sentence(self) -> str:
        """The verdict's sentence, and a word about what else a person would say."""
        said = [self.verdict.sentence]
        n_entries = self.n_entries
        if (far := self._far_end()) and self.verdict in (Verdict.CLIMBING, Verdict.DIVERGED):
            said = [far]
        if self.ripples:
            share = f"{100 * self.ripples:.0f} % of its level"
            said.append(f"It ripples by {share}, which is too little to matter.")
        if self.swung is not None:
            said.append(str(self.swung))
        if n_entries is not None and n_entries < FEW_ENTRIES and self.verdict != Verdict.DIVERGED:
            values = "one value" if n_entries == 1 else f"only {n_entries} values"
            said.append(f"The verdict rests on {values} of the loss; more make it surer.")
        return " ".join(said)

    def _far_end(self) -> str:
        """Where it ended, if that is far above its start; of a swing that dips there, its level."""
        first, last, level = self.first_loss, self.last_loss, self.tail_loss
        if first is None or last is None or not _is_far_above(level, first):
            return ""
        end = f"ends at {last:.4g}" if _is_far_above(last, first) else f"lies at about {level:.4g}"
        return f"The loss {end}, far above {first:.4g}, where it began."


class _Limits(NamedTuple):
    """What cannot be told from nothing, in units of the loss."""

    reference: float
    rounding: float
    swing: float
    sampling_error: float
    least: float  # of any level that a swing is compared with; 0 for a loss that is never negative

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


def judge_run(result: "Result", batch_size: int | None) -> Judgement:
    """Judges a run of this package: exact mean cross-entropies of two classes.

    On minibatches they are taken once an epoch, where a swing of period 2 shows at one phase only,
    and the noise of the batches, which is in the weights, shows as bumps. So the losses of the
    steps are judged as well. They swing where they oscillate and are apart by more than twice the
    noise of their batches. Then the run oscillates; and what the ends of the epochs say alone is
    noise, unless the loss is above that of knowing nothing, where no batches would keep it: notably
    above it, if its swings have no period. (A dead network knows nothing, and its last bias jitters
    with the batches.)

    Args:
        batch_size: None: all examples.
    """
    judged = _judge_losses(result, batch_size)
    return replace(judged, n_rollbacks=int(result.restored_step.size))


def _judge_losses(result: "Result", batch_size: int | None) -> Judgement:
    curve, at = _in_order(np.asarray(result.loss, dtype=np.float64), result.loss_step, None)
    judged, batches = _judge(curve, at, CHANCE_LOSS, 0.0), result.step_loss
    if batch_size is None or batches is None or judged.verdict is Verdict.DIVERGED:
        return judged
    tail = _tail(batches)
    margin = NOTABLE_SHARE if judged.period_steps is None else 0.0
    is_below = float(np.mean(tail)) < (1 + margin) * CHANCE_LOSS
    if _deviation(tail) >= BEYOND_NOISE * _measured_noise(curve, at, batches, batch_size):
        by_steps = _judge(batches, np.arange(batches.size), CHANCE_LOSS, 0.0)
        if by_steps.verdict is Verdict.OSCILLATING:
            return by_steps
    elif judged.verdict is Verdict.OSCILLATING and is_below:
        judged = _judge(curve, at, CHANCE_LOSS, _scatter(_tail(curve)), is_noise=True)
    if judged.verdict is Verdict.LEARNING and not _falls_late(curve, at, tail):
        is_high = judged.tail_loss > CONVERGED_SHARE * CHANCE_LOSS
        return replace(judged, verdict=Verdict.STALLED if is_high else Verdict.CONVERGED)
    return judged


def _falls_late(curve: Curve, at: NDArray[np.int64], batches: Curve) -> bool:
    """Whether a run that has fallen still does.

    Of few epochs the tail is most of the run. So the losses of the second half must fall, or those
    of the batches in its last quarter.
    """
    if curve.size >= MIN_TAIL_ENTRIES / TAIL_SHARE or batches.size < MIN_TAIL_ENTRIES:
        return True  # the tail is the last quarter, or there is nothing else to tell
    late = curve[min(int(np.searchsorted(at, at[-1] / 2)), max(curve.size - 3, 0)) :]
    n_third = max(1, batches.size // 3)
    is_lower = _level(batches[-n_third:]) < _level(batches[:n_third])
    return bool(late[-1] < (1 - VISIBLE_SHARE) * late[0]) or (is_lower and _has_trend(batches))


def _measured_noise(curve: Curve, at: NDArray[np.int64], batches: Curve, batch_size: int) -> float:
    """Standard error of a batch's loss in the tail, from pairs of losses of the same weights.

    A pair is the loss of a batch beside the exact one, at each end of an epoch. Where few of them
    are in the tail, the latest of the run tell, by their share of the root of the loss, with which
    such an error grows. These tell less. So what batches are expected to have at most bounds it
    from above; and from below, so that no tail swings which is apart by 1.25 times that or less
    (healthy ones are by up to 0.8 times).
    """
    tail = _tail(batches)
    is_pair = at < batches.size
    exact, place = curve[is_pair], at[is_pair]
    errors = np.abs(batches[place] - exact)
    in_tail = errors[place >= batches.size - tail.size]
    if in_tail.size >= NOISE_PAIRS:
        return 1.4826 * float(np.median(in_tail))
    shares = errors / np.sqrt(np.maximum(exact, np.finfo(np.float32).tiny))
    latest = 1.4826 * float(np.median(shares[-NOISE_PAIRS:])) * math.sqrt(float(np.mean(tail)))
    most = _batch_noise(tail, batch_size, CHANCE_LOSS)
    return min(max(latest, NOISE_MARGIN * most / BEYOND_NOISE), most)


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

    Decided in this order: `diverged` (a non-finite entry, or an end above 1e9 times the start, the
    reference and 1, that does not swing at one height); `oscillating` (two rises and two falls of
    more than 5 % of where the loss then is and of more than 2 % of the reference, neither dying out
    nor over, and higher than the loss falls over the tail); `climbing` (it drifts up by more than
    5 % of its level over the tail, or ends far above its start), `learning` (it drifts down by as
    much); `stalled`, `converged` (flat, above and below a tenth of the reference), `flat` (of a
    loss that becomes negative, which has no such tenth; there swings and drifts are compared with
    the span of the curve as well).

    Args:
        loss: `(entry,)`, one entry or more. What follows a non-finite entry is not looked at.
        steps: `(entry,)`, where each was taken; they are judged in that order. None: 0, 1, 2, ...
        times: `(entry,)`, when each was taken: the order of those of one step.
        kind: what it is a mean of, and `classes` the number of classes: so what it is for a
            network that knows nothing; `reference` says the same as a number. Else the first
            entry is taken for that.
        batch_size: examples that an entry is a mean over, where that is a minibatch.
        noise: standard error of one entry, in units of the loss: the deviation of the per-example
            losses over the root of the batch size. 0: the entries are exact. Not finite, as after
            a divergence: taken for 0. None: not known; the points tell, and the batch size.

    Raises:
        ValueError: for an empty curve, one that is not a line of numbers, several entries that are
            all of one step without their times, steps or times of another number, or a negative
            error.

    Example:
        >>> judge_curve([2.3 * 0.9**i + 0.15 for i in range(200)], classes=10).verdict.value
        'converged'
        >>> judge_curve([1.0 + 0.5 * (-1) ** i for i in range(200)]).period_steps
        2
    """
    curve, at = _in_order(np.asarray(loss, dtype=np.float64), steps, times)
    if noise is not None and noise < 0:
        raise ValueError(f"noise must be at least 0, but is {noise}")
    if reference is None:
        reference = _reference(curve, kind, classes)
    if noise is not None:
        return _judge(curve, at, reference, noise)
    finite = curve[: _n_finite(curve)]
    error = _noise(_tail(finite), batch_size, reference) if finite.size else 0.0
    return _judge(curve, at, reference, error, is_noise=error > 0)


def _judge(
    curve: Curve,
    at: NDArray[np.int64],
    reference: float,
    error: float,
    *,
    is_noise: bool = False,
) -> Judgement:
    """Judges a curve in order, whose reference and standard error are known.

    Args:
        is_noise: it does not swing, whatever it looks like, and whether it drifts is told by ranks.
    """
    finite = curve[: _n_finite(curve)]
    if finite.size == 0:
        return Judgement(Verdict.DIVERGED, 0.0, 0.0, 0.0, 0.0, None, 0.0, None, False)
    is_negative = bool(finite.min() < -NOTABLE_SHARE * reference)
    largest = float(np.abs(finite).max())
    unit = 2.0 ** max(0, math.frexp(largest)[1] - 1)  # so that no sum overflows
    limits = _limits(finite / unit, reference / unit, error / unit, is_negative)
    finite = (finite if is_negative else np.maximum(finite, 0.0)) / unit
    tail = _tail(finite)
    turns = _turns(tail, limits)
    notable = _higher(turns, math.inf if is_noise else limits.notable)
    is_rippled = _keeps_swinging(tail, turns)
    end = _level(tail[-max(1, tail.size // 3) :])
    verdict = Verdict.DIVERGED
    if finite.size == curve.size:
        verdict = _verdict(tail, notable, is_rippled, limits, is_noise=is_noise)
        verdict = _corrected(verdict, float(finite[0]), end, limits)
        if _has_exploded(tail, verdict, max(abs(float(finite[0])), reference / unit, 1 / unit)):
            verdict = Verdict.DIVERGED
    is_quiet = verdict not in (Verdict.DIVERGED, Verdict.OSCILLATING)
    amplitude = _again_and_again(notable.share)
    ripples = _again_and_again(turns.share) if is_quiet and is_rippled and not is_noise else 0.0
    rise, last_rise = _rises(finite, limits)
    period = _period(tail) if max(amplitude, ripples) > VISIBLE_SHARE else None
    each = max(1, int(np.median(np.diff(at)))) if at.size > 1 else 1
    swung = None
    if is_quiet and verdict is not Verdict.CLIMBING and not ripples and not error:
        swung = _swung(finite, at, limits, unit)
    return Judgement(
        verdict=verdict,
        amplitude=amplitude,
        ripples=ripples,
        tail_loss=end * unit,
        flip_rate=_flip_rate(tail, limits.rounding),
        period_steps=None if period is None else period * each,
        largest_rise=min(float(rise.max()), _LARGEST / unit) * unit,
        last_rise_step=None if last_rise is None else int(at[last_rise]),
        spiked=is_quiet and _has_recovered_spike(finite, rise, tail, limits),
        swung=swung,
        first_loss=float(finite[0]) * unit,
        n_entries=finite.size,
        last_loss=float(finite[-1]) * unit if finite.size == curve.size else None,
    )


def _n_finite(curve: Curve) -> int:
    """How many entries there are before the first that is not finite."""
    bad = np.flatnonzero(~np.isfinite(curve))
    return int(bad[0]) if bad.size else curve.size


def _in_order(
    curve: Curve, steps: ArrayLike | None, times: ArrayLike | None
) -> tuple[Curve, NDArray[np.int64]]:
    """The curve by step, and of one step by time; and the steps, or places if they are all one."""
    if curve.ndim != 1 or curve.size == 0:
        raise ValueError(f"a loss curve must be a line of numbers, but has shape {curve.shape}")
    places = np.arange(curve.size)
    if steps is None:
        return curve, places
    at, when = np.asarray(steps), places if times is None else np.asarray(times)
    if not at.shape == when.shape == curve.shape:
        raise ValueError(f"{curve.size} losses must have as many steps and times, not {at.size}")
    is_one_step = curve.size > 1 and bool((at == at[0]).all())
    if is_one_step and (times is None or (when == when[0]).all()):
        raise ValueError(
            f"all {curve.size} values of the loss are of step {at[0]:g}, so their order is not "
            "known; log each with its step"
        )
    order = np.lexsort((when, at))
    return curve[order], places if is_one_step else at[order].astype(np.int64)


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


def _tail(curve: Curve) -> Curve:
    return curve[-max(MIN_TAIL_ENTRIES, math.ceil(TAIL_SHARE * curve.size)) :]


def _noise(tail: Curve, batch_size: int | None, reference: float) -> float:
    """Standard error of one entry, told from the points: 0 where they follow one another.

    Few entries are taken as they are, unless they are known to be of batches; the noise of a
    negative loss is not bounded by its level.
    """
    if batch_size is not None and tail.min() >= 0:
        bound = _batch_noise(tail, batch_size, reference)
        if tail.size < STRUCTURE_ENTRIES:
            return bound
        if _deviation(tail) >= BEYOND_NOISE * bound:
            return 0.0
    if tail.size < STRUCTURE_ENTRIES or _has_structure(tail):
        return 0.0
    return _scatter(tail)


def _scatter(tail: Curve) -> float:
    """Deviation of independent errors; of a trend the second differences are next to nothing."""
    return float(np.std(np.diff(tail, 2))) / math.sqrt(6) if tail.size > 2 else 0.0


def _batch_noise(tail: Curve, batch_size: int, reference: float) -> float:
    """The largest standard error that batches of this size are expected to have."""
    return math.sqrt(HARD_EXAMPLE * reference * float(np.mean(np.abs(tail))) / batch_size)


def _residual(tail: Curve, *, is_among: bool) -> Curve:
    """The tail without its trend: the median of up to 41 neighbours, of 4,096 entries at most.

    Args:
        is_among: whether an entry is among its neighbours. Where a loss goes up and down by turns
            it is then nearly its own trend.
    """
    part = tail[-4096:]
    width = max(3, min(part.size // 4, 41)) | 1
    padded = np.pad(part, width // 2, mode="reflect" if part.size > width // 2 else "edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, width)
    if not is_among:
        around = np.delete(around, width // 2, axis=1)
    trend = np.median(around, axis=1)
    return np.asarray(part - trend, dtype=np.float64)


def _deviation(tail: Curve) -> float:
    """Standard deviation about the trend, by the median: rare hard batches do not count."""
    return 1.4826 * float(np.median(np.abs(_residual(tail, is_among=False))))


def _has_structure(tail: Curve) -> bool:
    """Whether entries tell of later ones, by the autocorrelation of their ranks."""
    ranks = _ranks(_residual(tail, is_among=True))
    lags = range(1, min(20, ranks.size // 3) + 1)
    share = np.array([ranks[lag:] @ ranks[:-lag] for lag in lags]) / (ranks @ ranks)
    least = STRUCTURE_ERRORS / math.sqrt(ranks.size)
    return bool(share[0] > max(SMOOTH_SHARE, least) or share[1:].max() > max(RETURN_SHARE, least))


def _has_trend(tail: Curve) -> bool:
    """Whether entries rank by their place, beyond chance: Spearman's correlation and its error."""
    ranks, places = _ranks(tail), np.arange(tail.size) - (tail.size - 1) / 2
    share = (ranks @ places) / (places @ places)
    return bool(abs(share) * math.sqrt(tail.size - 1) > DRIFT_ERRORS)


def _ranks(values: Curve) -> Curve:
    """Ranks about their middle."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)
    return ranks - (values.size - 1) / 2


def _limits(finite: Curve, reference: float, error: float, is_negative: bool) -> _Limits:
    """The smallest swing is what rounding, or the scatter of n normal errors, could span.

    n normal errors lie within sqrt(2 ln n) deviations on either side. A loss that becomes negative
    has the span of its curve as the reference.
    """
    least = float(np.subtract(*np.quantile(finite, [0.98, 0.02]))) if is_negative else 0.0
    if is_negative:
        reference = max(least, VISIBLE_SHARE * float(np.abs(finite).max()))
    error = error if math.isfinite(error) else 0.0
    span = 2 * math.sqrt(2 * math.log(finite.size + 1)) * error
    rounding = ROUNDING_SHARE * reference
    return _Limits(reference, rounding, max(rounding, NOISE_MARGIN * span), error, least)


def _is_far_above(end: float, start: float, times: float = FAR_ABOVE) -> bool:
    return end - start > (times - 1) * abs(start)


def _corrected(verdict: Verdict, start: float, end: float, limits: _Limits) -> Verdict:
    """The verdict with a view to where the curve began, and whether it is negative."""
    if verdict in (Verdict.LEARNING, Verdict.STALLED, Verdict.CONVERGED):
        times = FAR_ABOVE if verdict is Verdict.LEARNING else LOST_ABOVE
        if _is_far_above(end, start, times) and _is_far_above(end, limits.reference, times):
            return Verdict.CLIMBING
    if limits.least and verdict in (Verdict.STALLED, Verdict.CONVERGED):
        return Verdict.FLAT
    return verdict


def _has_exploded(tail: Curve, verdict: Verdict, usual: float) -> bool:
    """Whether it ends where no loss comes back from; of swings, only if they still grow."""
    n_third = max(1, tail.size // 3)
    before, end = _level(tail[:n_third]), _level(tail[-n_third:])
    is_held = verdict is Verdict.OSCILLATING and not _is_far_above(end, before)
    return end > EXPLODED_ABOVE * usual and not is_held


def _swung(finite: Curve, at: NDArray[np.int64], limits: _Limits, unit: float) -> Swung | None:
    """The longest series of swings that a person sees on the whole plot, if it has ended.

    A pause of a tenth of the curve ends one.
    """
    turns = _higher(_turns(finite, limits), limits.notable)
    entry = turns.entry[turns.share > VISIBLE_SHARE]
    pause = max(MIN_TAIL_ENTRIES, 0.1 * finite.size)
    parts = [
        part
        for part in np.split(entry, np.flatnonzero(np.diff(entry) > pause) + 1)
        if part.size >= SETTLED_TURNS
    ]
    if not parts:
        return None
    part = max(parts, key=lambda each: each.size)
    if finite.size - 1 - part[-1] <= pause:
        return None
    heights = finite[part] * unit
    return Swung(int(at[part[0]]), int(at[part[-1]]), float(heights.min()), float(heights.max()))


def _verdict(
    tail: Curve, notable: _Turns, is_rippled: bool, limits: _Limits, *, is_noise: bool
) -> Verdict:
    """The verdict of a finite curve, by its turns that are seen beside the reference.

    Where it ripples, so is a rise only what is seen beside the reference. Whether noise drifts is
    told by ranks.
    """
    n_third = max(1, tail.size // 3)
    start, end = _level(tail[:n_third]), _level(tail[-n_third:])
    drift = 1.5 * (end - start)  # the middles of the outer thirds are two thirds of a tail apart
    if _keeps_swinging(tail, notable) and -drift < _again_and_again(notable.height):
        return Verdict.OSCILLATING
    level = max(abs(start + end) / 2, limits.least)
    seen = max(VISIBLE_SHARE * level, limits.rounding)
    if not is_noise:
        # A median errs 1.25 times as much as a mean, a difference of two sqrt(2) times as one.
        error = 1.5 * 1.25 * math.sqrt(2 / n_third) * limits.sampling_error
        seen = max(seen, DRIFT_ERRORS * error)
    elif not _has_trend(tail):
        seen = math.inf
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


def _turns(tail: Curve, limits: _Limits) -> _Turns:
    """The inner turning points of a tail whose height is above the smallest swing.

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
    kept = np.flatnonzero(height > limits.swing)
    kept = kept[np.argsort(entry[kept])]
    level = np.maximum(np.abs(middle[kept]), limits.least)
    return _Turns(entry[kept], height[kept], height[kept] / level, is_cut[kept])


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
    steps[np.abs(steps) <= np.maximum(ROUNDING_OF_ENTRY * np.abs(tail[1:]), rounding)] = 0.0
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
    x = np.clip(tail, *np.quantile(tail, [0.01, 0.99])) / np.abs(tail).max()
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


def _rises(finite: Curve, limits: _Limits) -> tuple[Curve, int | None]:
    """By how much each entry is above the running minimum, and where it last visibly rose to it."""
    best = np.minimum.accumulate(finite)
    rise = finite - best
    level = np.maximum(np.abs(best), limits.least)
    is_visible = rise > np.maximum(VISIBLE_SHARE * level, limits.swing)
    risen = np.flatnonzero(is_visible[1:] & (finite[1:] > finite[:-1])) + 1
    return rise, int(risen[-1]) if risen.size else None


def _has_recovered_spike(finite: Curve, rise: Curve, tail: Curve, limits: _Limits) -> bool:
    """Whether the loss shot up from some minimum, and ends no longer far above that minimum."""
    best = finite - rise
    level = np.maximum(np.abs(best), limits.least)
    is_high = rise > np.maximum(SPIKE_SHARE * level, limits.swing)
    if not is_high.any():
        return False
    first = int(np.argmax(is_high))
    before, allowed = float(best[first]), SPIKE_SHARE * float(level[first])
    end = _level(tail[-max(1, tail.size // 3) :])
    return end - before <= max(allowed, limits.swing)
