"""What to train next, so that the settings that act are known soonest.

Round by round of picked runs, each setting of a run is changed in turn with the run's own seed;
what turned the verdict is repeated with further seeds beside the unchanged run. What is trained
next follows from the results so far and from nothing else, so the training can be stopped between
any two batches and gone on with later, and every answer on the way is a valid one.
"""

from collections.abc import Iterator, Sequence

from mlp.causes.change import Factor, rerun
from mlp.causes.effect import Effect, effects
from mlp.causes.evidence import Conclusion, capital
from mlp.causes.inquiry import Inquiry, Pick, Results, judged_after, missing, strongest, turned
from mlp.config import RunConfig

_LEADING = 3  # settings that are looked at first
_PICKS_A_ROUND = 4  # so that a time limit finds some picks complete instead of all half done
_WORTH_ASKING = 3.0  # capital on either side from which more seeds may well settle it


def next_batch(inquiry: Inquiry, results: Results) -> tuple[RunConfig, ...]:
    """What to train next; empty when all single changes are answered.

    First what turns the verdict. After that the strongest change of the settings that turned
    nothing, so that they can be said to have no effect; at last twice and then four times as many
    seeds for the settings that the reruns favour without settling them.

    Args:
        inquiry: as prepared.
        results: everything trained so far, also by an earlier and smaller effort.
    """
    if batch := next_turning_batch(inquiry, results):
        return batch
    if batch := missing(_confirming(inquiry.picks, None, results), results):
        return batch
    for times in (2, 4):
        open_factors = [e.factor for e in effects(inquiry, results) if _may_settle(e)]
        if batch := missing(_settling(inquiry, open_factors, results, times), results):
            return batch
    return ()


def next_turning_batch(inquiry: Inquiry, results: Results) -> tuple[RunConfig, ...]:
    """What to train next to know which single changes turn the verdict; empty when that is known.

    First the settings that go along with oscillation most, over all picks, then all others: every
    change with the run's own seed and the unchanged run with further seeds; then the changes that
    turned the verdict, with the further seeds; then the same for the next picks.
    """
    for factors in (inquiry.factors[:_LEADING], inquiry.factors):
        for first in range(0, len(inquiry.picks), _PICKS_A_ROUND):
            round_ = inquiry.picks[first : first + _PICKS_A_ROUND]
            if batch := missing(_screening(round_, factors), results):
                return batch
            if batch := missing(_confirming(round_, factors, results), results):
                return batch
    return ()


def n_left(inquiry: Inquiry, results: Results) -> int:
    """How many trainings the single changes still take, before any setting is in doubt."""
    n = len(missing(_screening(inquiry.picks, inquiry.factors), results))
    for pick in inquiry.picks:
        for factor in pick.factors:
            repeated = list(_repeated(pick, factor, results, pick.n_seeds))
            n += len(missing(repeated, results)) if repeated else pick.n_seeds
    return n


def _screening(picks: Sequence[Pick], factors: Sequence[Factor]) -> Iterator[RunConfig | None]:
    for pick in picks:
        own = (change for change in pick.changes if change.factor in factors)
        yield from (rerun(pick.configs[0], [change], 0) for change in own)
        yield from (pick.configs[seed] for seed in range(1, pick.n_seeds + 1))


def _confirming(
    picks: Sequence[Pick], factors: Sequence[Factor] | None, results: Results
) -> Iterator[RunConfig | None]:
    """Of these factors what turned the verdict; None: of all factors, whether it did or not."""
    for pick in picks:
        for factor in pick.factors:
            if factors is None or (factor in factors and _has_turned(pick, factor, results)):
                yield from _repeated(pick, factor, results, pick.n_seeds)


def _settling(
    inquiry: Inquiry, factors: Sequence[Factor], results: Results, times: int
) -> Iterator[RunConfig | None]:
    for pick in inquiry.picks:
        n_seeds = min(times * pick.n_seeds, len(pick.configs) - 1)
        for factor in factors:
            if factor in pick.factors and _has_turned(pick, factor, results):
                yield from _repeated(pick, factor, results, n_seeds)
                yield from pick.configs[1 : n_seeds + 1]


def _repeated(
    pick: Pick, factor: Factor, results: Results, n_seeds: int
) -> Iterator[RunConfig | None]:
    change = strongest(pick, factor, results)
    if change is not None:
        for seed in range(1, n_seeds + 1):
            yield rerun(pick.configs[seed], [change], seed)


def _has_turned(pick: Pick, factor: Factor, results: Results) -> bool:
    change = strongest(pick, factor, results)
    judged = judged_after(pick, [change], 0, results) if change else None
    return judged is not None and turned(pick, judged)


def _may_settle(effect: Effect) -> bool:
    if effect.conclusion is Conclusion.CAUSE:
        return False
    return any(
        capital(side.n_with_tested, side.n_against_tested) > _WORTH_ASKING for side in effect.sides
    )
