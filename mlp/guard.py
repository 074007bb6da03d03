"""Watches a loss while it trains: when to go back to better weights, and with which rate.

The judge of `mlp.curve` sees a whole curve; this one sees a value at a time, in constant time and
memory, with the same words and thresholds. A swing is a peak and the fall to the trough behind it.
Swings count as long as they are not dying out and no new best loss comes; a few in a row are an
oscillation. That is said at once. But most runs that swing in the beginning settle by themselves,
so the first steps are theirs, in the engine half of them (docs/guard.md has the numbers).

Halving the rate where the weights stand does not help: by then the units are saturated. So the
answer is to go back to the best weights first. Near the loss of knowing nothing, lower is not
better: a saturated network lies there as well. So until something is learned, the best weights are
the first ones. Having gone back once, the guard waits no more: a rise is enough.

The functions below compute on a row of plain numbers, so that the compiled engine runs them too.
"""

import math
from collections.abc import MutableSequence
from typing import Literal, NamedTuple

from mlp.curve import BEYOND_NOISE, FAR_ABOVE, HARD_EXAMPLE, NOTABLE_SHARE, VISIBLE_SHARE, Verdict

PATIENCE = 300  # steps, where nobody knows how many there will be (docs/guard.md)
BEST_PATIENCE = 64  # steps since the last new best, which a run that goes down while it swings has
LOW = 1.5  # times the reference: swings about a lower mean settle by themselves more often, and
LOW_PATIENCE = 4 / 3  # times the other have time for it
FAR_PATIENCE = 1.5  # times the other, at most 300: steps after a blow-up without a fall
LATER_PATIENCE = 16  # steps, once weights were restored
SWINGS = 3  # in a row; one more where most of the losses lie within the noise of their batches
FACTOR = 0.5
MOST_RESTORES = 40  # a rate 10**12 times smaller that still swings is not what makes it swing
BETTER_SHARE = 0.99  # of the best loss: what is lower is a new best, worth a copy of the weights
BETTER_LEAST = 0.001  # of the reference, likewise: what is lower by less is not seen
RISE = 1.25  # times the best and the reference: too high for weights that were just gone back to
SUSTAINED_SHARE = 0.95  # of the peaks, or of the heights, before: less is dying out
LONG_PAUSE, SHORT_PAUSE = 4.0, 16  # a swing that comes later than so many pauses and steps is none

_SMOOTHING = 0.125  # of batches' losses: the mean of about eight
_SMOOTHED = 0.25  # of a loss's error: what is left of it in such a mean
_LUCK = 5.0  # errors of such a mean: the best of a thousand lies three below the others
_MEMORY = 1 / 32  # of what tells swings from noise
_FEWEST = 24  # values before points can tell them, as of the judge
# A sixth of the mean squared second difference is the variance of independent errors, and 2.7 times
# that of a swing of period 2. A slow swing is many such errors high.
_ALTERNATES, _SLOW = 2.2, 8.0

KEEP, BEST, RESTORE, STOP = range(4)

# Places in a row.
(
    REFERENCE,
    IS_UNKNOWN,
    NOISE_SQUARED,
    NOISE_PER_LOSS,
    PATIENCE_STEPS,
    STEP,
    BEST_LOSS,
    BEST_STEP,
    LEVEL,
    DIRECTION,
    EXTREME,
    PEAK,
    LAST_PEAK,
    LAST_HEIGHT,
    SECOND_PEAK,
    SECOND_HEIGHT,
    THIRD_PEAK,
    THIRD_HEIGHT,
    SWUNG,
    PAUSE,
    N_SWINGS,
    N_FAR,
    LOWEST_FAR,
    HAS_FALLEN,
    N_RESTORES,
    N_SEEN,
    LAST,
    BEFORE_LAST,
    CURVED,
    UNSEEN,
    MEAN,
    VARIANCE,
    REASON,
    SHARE,
    BEYOND,
) = range(35)
ROW_SIZE = 35


def row_of(
    reference: float = 0.0,
    *,
    batch_size: int | None = None,
    noise: float | None = None,
    patience: int = PATIENCE,
) -> list[float]:
    """The row of a run that has not begun; arguments as of `Guard`, a reference of 0: unknown."""
    row = [0.0] * ROW_SIZE
    row[REFERENCE], row[PATIENCE_STEPS], row[SHARE] = reference, patience, 1.0
    row[IS_UNKNOWN] = float(noise is None and batch_size is None)
    row[NOISE_SQUARED] = (noise or 0.0) ** 2
    if noise is None and batch_size is not None:
        row[NOISE_PER_LOSS] = HARD_EXAMPLE / batch_size
    return row


def watch(row: MutableSequence[float], loss: float) -> int:
    """Takes one loss, of the weights as they are before the next update.

    Returns:
        `KEEP` (go on), `BEST` (go on, and keep a copy of these weights), `RESTORE` (go back to that
        copy; multiply the rate by `FACTOR`), or `STOP` (no smaller rate helps).
    """
    step = row[STEP]
    row[STEP] = step + 1
    if not math.isfinite(loss):
        row[REASON] = 1
        return go_back(row) if step > 0 else STOP
    if step == 0:
        if row[REFERENCE] == 0:
            row[REFERENCE] = abs(loss)
        row[BEST_LOSS], row[LEVEL] = loss, loss
        begin_again(row, loss)
        return BEST
    see(row, loss)
    row[LEVEL] = loss if is_exact(row) else row[LEVEL] + (loss - row[LEVEL]) * _SMOOTHING
    count_swings(row, loss)
    better = max((1 - BETTER_SHARE) * abs(row[BEST_LOSS]), BETTER_LEAST * row[REFERENCE])
    is_learned = row[LEVEL] < (1 - VISIBLE_SHARE) * row[REFERENCE]
    if is_learned and row[LEVEL] < row[BEST_LOSS] - better:
        row[BEST_LOSS], row[BEST_STEP] = row[LEVEL], step
        row[N_SWINGS], row[N_FAR] = 0, 0
        return BEST
    if row[N_RESTORES] == 0:
        count_far(row, loss, is_learned)
        patience = row[PATIENCE_STEPS]
        is_low = is_exact(row) and row[MEAN] < LOW * row[REFERENCE]
        least = LOW_PATIENCE * patience if is_low else patience
        is_due = step >= least and step - row[BEST_STEP] >= min(patience, BEST_PATIENCE)
        # A late blow-up is not waited for as long as half of a long run.
        is_far = row[N_FAR] >= max(FAR_PATIENCE * min(patience, PATIENCE), 1)
        is_climbing = is_far and step >= patience
    else:
        is_due, is_climbing = True, rises(row, loss)
    if is_due and swings(row):
        row[REASON] = 0
        return go_back(row)
    if is_climbing:
        row[REASON] = 2
        return go_back(row)
    return KEEP


def count_far(row: MutableSequence[float], loss: float, is_learned: bool) -> None:
    """Counts the steps since a blow-up, or since the loss last fell by a swing's height after it.

    A loss that falls is learning, wherever it comes from: first from where the blow-up ends, which
    may take several steps and which a mean over noise reaches late.
    """
    highest = FAR_ABOVE * max(abs(row[BEST_LOSS]), row[REFERENCE])
    if (row[N_FAR] == 0 or is_learned) and loss <= highest:
        row[N_FAR] = 0
    elif row[N_FAR] == 0:
        row[N_FAR], row[LOWEST_FAR], row[HAS_FALLEN] = 1, row[LEVEL], 0
    elif row[LOWEST_FAR] - row[LEVEL] > least_swing(row, row[LOWEST_FAR]):
        row[N_FAR], row[LOWEST_FAR], row[HAS_FALLEN] = 1, row[LEVEL], 1
    else:
        row[N_FAR] += 1
        if row[HAS_FALLEN] == 0:
            row[LOWEST_FAR] = max(row[LOWEST_FAR], row[LEVEL])


def swings(row: MutableSequence[float]) -> bool:
    """Whether the last loss has ended one swing of an oscillation.

    Now and then a batch is hard, and a few of them in a row look like swings. So there are to be
    more where less than half of the losses lie beyond the noise, as the judge asks.
    """
    least = SWINGS if row[BEYOND] >= 0.5 else SWINGS + 1
    return row[SWUNG] == row[STEP] and row[N_SWINGS] >= least and tells_swings(row)


def rises(row: MutableSequence[float], loss: float) -> bool:
    """Whether the loss rises from weights that were gone back to: a small enough step goes down.

    Over noise the best was the best by luck as well. Batches of a small loss have more noise than
    is known, as few examples make it; so what is seen since then counts, too.
    """
    best, noise = row[BEST_LOSS], noise_of(row, row[BEST_LOSS])
    if not is_exact(row):
        noise = max(noise, math.sqrt(row[CURVED] / (1 - min(row[UNSEEN], 1 - _MEMORY))))
    far = best + (1 - BETTER_SHARE) * abs(best) + _LUCK * _SMOOTHED * noise
    row[N_FAR] = row[N_FAR] + 1 if row[LEVEL] > far else 0
    high = RISE * max(abs(best), row[REFERENCE])
    if loss > high + 2 * BEYOND_NOISE * noise_of(row, high):
        return True
    return row[N_FAR] >= max(min(row[PATIENCE_STEPS], LATER_PATIENCE), 1)


def count_swings(row: MutableSequence[float], loss: float) -> None:
    """Follows the turning points; a turn is one when the loss has come back by a swing's height."""
    extreme = row[EXTREME]
    if (row[DIRECTION] > 0 and loss > extreme) or (row[DIRECTION] < 0 and loss < extreme):
        row[EXTREME] = loss
    elif abs(loss - extreme) > least_swing(row, abs(loss + extreme) / 2):
        if loss < extreme:
            row[PEAK] = extreme if row[DIRECTION] > 0 else math.inf
            row[DIRECTION] = -1.0
        else:
            if math.isfinite(row[PEAK]):
                take_swing(row, row[PEAK], extreme)
            row[DIRECTION] = 1.0
        row[EXTREME] = loss


def take_swing(row: MutableSequence[float], peak: float, trough: float) -> None:
    """Counts a swing from a peak to a trough, or begins to count anew where they are dying out.

    That is where the higher of the last two is lower than the higher of the two before: swings that
    are high and low by turns go on.
    """
    height, high, before = peak - trough, peak, row[LAST_PEAK]
    recent, earlier = height, row[LAST_HEIGHT]
    if row[SECOND_HEIGHT] > 0:
        high, recent = max(peak, before), max(height, earlier)
        before = max(row[SECOND_PEAK], row[THIRD_PEAK])
        earlier = max(row[SECOND_HEIGHT], row[THIRD_HEIGHT])
    is_lower = high < before - (1 - SUSTAINED_SHARE) * abs(before)
    pause = row[STEP] - row[SWUNG]
    is_late = row[PAUSE] > 0 and pause > LONG_PAUSE * row[PAUSE] + SHORT_PAUSE
    if is_late or (is_lower and recent < SUSTAINED_SHARE * earlier):
        row[N_SWINGS] = 0
    else:
        row[N_SWINGS] += 1
    row[PAUSE], row[SWUNG] = (0.0 if is_late else pause), row[STEP]
    row[THIRD_PEAK], row[THIRD_HEIGHT] = row[SECOND_PEAK], row[SECOND_HEIGHT]
    row[SECOND_PEAK], row[SECOND_HEIGHT] = row[LAST_PEAK], row[LAST_HEIGHT]
    row[LAST_PEAK], row[LAST_HEIGHT] = peak, height


def least_swing(row: MutableSequence[float], level: float) -> float:
    """The smallest swing that counts about a level, in units of the loss."""
    noise = noise_of(row, max(level, row[LEVEL]))
    return max(VISIBLE_SHARE * level, NOTABLE_SHARE * row[REFERENCE], 2 * BEYOND_NOISE * noise)


def is_exact(row: MutableSequence[float]) -> bool:
    """Whether each loss is known to be over all examples."""
    return row[IS_UNKNOWN] == 0 and row[NOISE_SQUARED] == 0 and row[NOISE_PER_LOSS] == 0


def noise_of(row: MutableSequence[float], level: float) -> float:
    """Standard error of one loss about a level."""
    return math.sqrt(row[NOISE_SQUARED] + row[NOISE_PER_LOSS] * row[REFERENCE] * abs(level))


def see(row: MutableSequence[float], loss: float) -> None:
    """Notes what tells swings from noise: variance, squared second differences, share beyond it."""
    noise = noise_of(row, row[LEVEL])
    beyond = 1.0 if abs(loss - row[LEVEL]) >= BEYOND_NOISE * noise else 0.0
    row[BEYOND] += (beyond - row[BEYOND]) * _MEMORY
    if row[N_SEEN] >= 2:
        bend = loss - 2 * row[LAST] + row[BEFORE_LAST]
        row[CURVED] += (bend * bend / 6 - row[CURVED]) * _MEMORY
        row[UNSEEN] *= 1 - _MEMORY
    away = loss - row[MEAN]
    row[MEAN] += away * _MEMORY
    row[VARIANCE] += (away * (loss - row[MEAN]) - row[VARIANCE]) * _MEMORY
    row[BEFORE_LAST], row[LAST] = row[LAST], loss
    row[N_SEEN] += 1


def tells_swings(row: MutableSequence[float]) -> bool:
    """Whether swings are no noise: of exact losses, far above the start, or told by the points.

    That batches have so many examples says little of their noise where a network is sure of what
    it gets wrong: one example in a hundred then costs more than all others.
    """
    if is_exact(row) or row[MEAN] > FAR_ABOVE * row[REFERENCE]:
        return True
    alternates = row[CURVED] > _ALTERNATES * row[VARIANCE]
    is_slow = row[LAST_HEIGHT] > _SLOW * math.sqrt(row[CURVED])
    return row[N_SEEN] >= _FEWEST and (alternates or is_slow)


def go_back(row: MutableSequence[float]) -> int:
    """Begins to count anew from the best weights."""
    if row[N_RESTORES] >= MOST_RESTORES:
        return STOP
    row[N_RESTORES] += 1
    row[SHARE] *= FACTOR
    begin_again(row, row[BEST_LOSS])
    return RESTORE


def begin_again(row: MutableSequence[float], loss: float) -> None:
    """Forgets all but the best."""
    row[DIRECTION], row[EXTREME], row[LEVEL] = -1.0, loss, loss
    row[PEAK], row[LAST_PEAK], row[LAST_HEIGHT] = math.inf, -math.inf, 0.0
    row[SECOND_PEAK], row[SECOND_HEIGHT] = -math.inf, 0.0
    row[THIRD_PEAK], row[THIRD_HEIGHT] = -math.inf, 0.0
    row[N_SWINGS], row[N_FAR], row[N_SEEN], row[PAUSE] = 0.0, 0.0, 1.0, 0.0
    row[LAST], row[MEAN], row[VARIANCE], row[BEYOND] = loss, loss, 0.0, 1.0
    row[CURVED], row[UNSEEN] = 0.0, 1.0  # the share of the mean that is zeros still


_REASONS = (Verdict.OSCILLATING, Verdict.DIVERGED, Verdict.CLIMBING)


class Action(NamedTuple):
    """What to do before the next update.

    Attributes:
        name: `keep`: go on, also where it swings but may settle by itself; `restore`: go back to
            the weights that were kept and multiply the learning rate by `factor`; `stop`: no
            smaller rate helps.
        is_best: whether the present weights are the best so far: copy them.
        step: of the best weights, counted in calls of `observe` from 0.
        factor: for the learning rate, 0 to 1.
        verdict: what the loss did; None as long as it is fine, and, while it swings but may settle,
            between the ends of two swings.
        why: in a sentence; empty as long as it is fine.
    """

    name: Literal["keep", "restore", "stop"]
    is_best: bool
    step: int
    factor: float = 1.0
    verdict: Verdict | None = None
    why: str = ""


class Guard:
    """Watches the loss of any training loop: `restore` where it swings, climbs or diverges.

    Args:
        reference: loss of a network that knows nothing; None: the first loss.
        batch_size: examples that each loss is a mean over, where these change from step to step.
        noise: standard error of each loss; 0: it is over all examples. With neither, the points
            tell, which takes 24 of them.
        patience: steps from the start in which swings are left to settle by themselves.

    Raises:
        ValueError: for a batch size below 1, a negative noise or patience.

    Example:
        >>> guard = Guard(noise=0, patience=0)
        >>> losses = [1.0, 0.9, 1.4, 0.8, 1.4, 0.9, 1.4, 0.9, 1.4]
        >>> [action.name for action in map(guard.observe, losses)][-2:]
        ['keep', 'restore']
    """

    def __init__(
        self,
        *,
        reference: float | None = None,
        batch_size: int | None = None,
        noise: float | None = None,
        patience: int = PATIENCE,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, but is {batch_size}")
        for name, value in (("noise", noise), ("patience", patience)):
            if value is not None and value < 0:
                raise ValueError(f"{name} must be at least 0, but is {value}")
        self._row = row_of(reference or 0.0, batch_size=batch_size, noise=noise, patience=patience)
        self._keep = Action("keep", False, 0)

    def observe(self, loss: float) -> Action:
        """Takes the loss of the present weights, once a step, and says what to do.

        Args:
            loss: in its own units; a non-finite one is a divergence.
        """
        loss, row = float(loss), self._row
        what = watch(row, loss)
        step, best = int(row[STEP]) - 1, int(row[BEST_STEP])
        if what == KEEP:
            if not swings(row):
                return self._keep
            said = _SENTENCES[Verdict.OSCILLATING].format(best=row[BEST_LOSS])
            why = f"At step {step} {said}, but it may settle by itself."
            return Action("keep", False, best, 1.0, Verdict.OSCILLATING, why)
        if what == BEST:
            self._keep = Action("keep", False, best)
            return Action("keep", True, best)
        reason = _REASONS[int(row[REASON])]
        said = _SENTENCES[reason].format(loss=loss, best=row[BEST_LOSS])
        if what == RESTORE:
            why = f"At step {step} {said}: back to the weights of step {best}, with half the rate."
            return Action("restore", False, best, FACTOR, reason, why)
        if step == 0:
            return Action("stop", False, 0, 1.0, reason, "The first loss is no finite number.")
        why = f"At step {step} {said}, after {MOST_RESTORES} halvings of the rate: it is not that."
        return Action("stop", False, best, 1.0, reason, why)


_SENTENCES = {
    Verdict.OSCILLATING: "the loss keeps swinging and does not fall below {best:.4g}",
    Verdict.DIVERGED: "the loss is {loss} after {best:.4g}",
    Verdict.CLIMBING: "the loss stays above {best:.4g}, its best",
}
