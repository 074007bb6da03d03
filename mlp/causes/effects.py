"""What reruns say about each setting, reduced from whatever was trained."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlp.causes.changes import Change, Factor
from mlp.causes.evidence import (
    ERROR_RATE,
    NEGLIGIBLE,
    Conclusion,
    capital,
    holm,
    p_value_of,
    paired_difference,
    pairs_needed,
)
from mlp.causes.plan import Inquiry, Results, Side, begins, ends, judged_after, strongest, turned
from mlp.curve import Verdict
from mlp.shares import Share

SINGLE_ERROR_RATE = ERROR_RATE / 2  # the other half is for pairs of settings


@dataclass(frozen=True)
class SideEffect:
    """What changing one setting did from one side, over further seeds.

    A pair is the same run with the same further seed, changed and unchanged. With and against are
    counted over all pairs, and again over the pairs of those runs alone that the change turned with
    their own seed.

    Attributes:
        side: whether it was to stop or to start the oscillation.
        n_runs: picked runs in which it was changed.
        n_own_seed: of these, how many some change turned with the run's own seed.
        n_pairs: all pairs.
        n_expected: pairs whose unchanged run still did what it was picked for.
        n_with: pairs turned the expected way: oscillating to healthy, or healthy to oscillating.
        n_against: pairs turned the other way.
        n_with_tested: as `n_with`, in the runs turned with their own seed.
        n_against_tested: as `n_against`, likewise.
        difference: (with - against) / pairs with its interval.
        left: as the difference, but for no longer doing what the run was picked for, whether that
            is healthy or not.
        endings: how the changed reruns ended, with further seeds.
        changes: the changes that were repeated with further seeds and how many pairs each turned.
    """

    side: Side
    n_runs: int
    n_own_seed: int
    n_pairs: int
    n_expected: int
    n_with: int
    n_against: int
    n_with_tested: int
    n_against_tested: int
    difference: Share
    left: Share
    endings: Mapping[Verdict, int]
    changes: Mapping[str, int]

    @property
    def has_no_effect(self) -> bool:
        """Whether the interval ends below `NEGLIGIBLE` of the pairs that could have turned."""
        could_turn = self.n_expected / self.n_pairs if self.n_pairs else 0.0
        return self.left.high < NEGLIGIBLE * could_turn

    @property
    def only_fails(self) -> bool:
        """Whether it ends the swings, but mostly in runs that learn nothing."""
        stops = self.side is Side.STOPS and self.left.low > NEGLIGIBLE
        return stops and self.difference.value <= self.left.value / 2


@dataclass(frozen=True)
class Effect:
    """What changing one setting does.

    Attributes:
        factor: what was changed.
        sides: from oscillating runs, and from healthy ones; sides without picked runs are left out.
        p_value: that it does nothing; after correction for all settings.
        pairs_needed: differing pairs on the better side that would settle it; None where nothing
            hints at an effect.
        conclusion: in one word.
    """

    factor: Factor
    sides: tuple[SideEffect, ...]
    p_value: float
    pairs_needed: int | None
    conclusion: Conclusion

    def on(self, side: Side) -> SideEffect | None:
        """What is known from one side."""
        return next((own for own in self.sides if own.side is side), None)

    @property
    def stops(self) -> bool:
        """Whether it is a cause whose change stops the oscillation."""
        return self.conclusion is Conclusion.CAUSE and _leans(self.on(Side.STOPS))

    @property
    def starts(self) -> bool:
        """Whether it is a cause whose change starts the oscillation."""
        return self.conclusion is Conclusion.CAUSE and _leans(self.on(Side.STARTS))


def effects(inquiry: Inquiry, results: Results) -> tuple[Effect, ...]:
    """What is known of each setting, from whatever was trained.

    Only the further seeds are evidence. A run was picked because it oscillated with its own seed,
    so anything that shakes it, also a change without effect, makes it look better (regression to
    the mean); with further seeds the unchanged run is a fresh draw as well. The own seed decides
    which change of a setting is tested, and in which runs, at no cost in error, since its results
    are not used again.

    The bets on both sides are put together as (E_stop E_start + E_stop + E_start) / 3, which is a
    fair game again and serves a setting that acts both ways as well as one that acts one way. A
    setting is called a cause where the chance of calling any setting one by mistake stays below
    `SINGLE_ERROR_RATE` over all settings. It is said to have no effect where, on every side, the
    interval of its effect ends below `NEGLIGIBLE` of the runs that it could have turned; a stalled,
    climbing or diverged rerun counts as an effect there, although it is no cure.

    Args:
        inquiry: as prepared.
        results: everything trained so far.
    """
    factors = inquiry.factors
    sides = [_sides(inquiry, factor, results) for factor in factors]
    raw = [p_value_of(_capital(own)) for own in sides]
    level = SINGLE_ERROR_RATE / max(1, len(raw))
    return tuple(
        Effect(factor, own, p_value, _needed(own, level), _conclude(own, p_value))
        for factor, own, p_value in zip(factors, sides, holm(raw), strict=True)
    )


@dataclass
class _Tally:
    """Counts of a `SideEffect` while they are counted."""

    side: Side
    n_runs: int = 0
    n_own_seed: int = 0
    n_pairs: int = 0
    n_expected: int = 0
    n_with: int = 0
    n_against: int = 0
    n_with_tested: int = 0
    n_against_tested: int = 0
    n_left: int = 0
    n_joined: int = 0
    endings: Counter[Verdict] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)


def _sides(inquiry: Inquiry, factor: Factor, results: Results) -> tuple[SideEffect, ...]:
    return tuple(
        _side_effect(_tally(inquiry, factor, side, results))
        for side in Side
        if any(factor in pick.factors for pick in inquiry.on(side))
    )


def _tally(inquiry: Inquiry, factor: Factor, side: Side, results: Results) -> _Tally:
    tally = _Tally(side)
    for pick in inquiry.on(side):
        change = strongest(pick, factor, results)
        own = judged_after(pick, [change], 0, results) if change else None
        if change is None or own is None:
            continue
        is_tested = turned(pick, own)
        tally.n_runs += 1
        tally.n_own_seed += is_tested
        for seed in range(1, len(pick.configs)):
            unchanged = results.get(pick.configs[seed])
            changed = judged_after(pick, [change], seed, results) if unchanged else None
            if changed is not None and unchanged is not None:
                _count(tally, change, unchanged.verdict, changed.verdict, is_tested=is_tested)
    return tally


def _count(
    tally: _Tally, change: Change, before: Verdict, after: Verdict, *, is_tested: bool
) -> None:
    side = tally.side
    is_with = begins(before, side) and ends(after, side)
    is_against = ends(before, side) and begins(after, side)
    tally.n_pairs += 1
    tally.n_expected += begins(before, side)
    tally.n_with += is_with
    tally.n_against += is_against
    tally.n_with_tested += is_with and is_tested
    tally.n_against_tested += is_against and is_tested
    tally.n_left += begins(before, side) and not begins(after, side)
    tally.n_joined += not begins(before, side) and begins(after, side)
    tally.endings[after] += 1
    tally.changes[change.text] += is_with


def _side_effect(tally: _Tally) -> SideEffect:
    return SideEffect(
        side=tally.side,
        n_runs=tally.n_runs,
        n_own_seed=tally.n_own_seed,
        n_pairs=tally.n_pairs,
        n_expected=tally.n_expected,
        n_with=tally.n_with,
        n_against=tally.n_against,
        n_with_tested=tally.n_with_tested,
        n_against_tested=tally.n_against_tested,
        difference=paired_difference(tally.n_with, tally.n_against, tally.n_pairs),
        left=paired_difference(tally.n_left, tally.n_joined, tally.n_pairs),
        endings=dict(tally.endings),
        changes={text: n for text, n in tally.changes.most_common() if n},
    )


def _capital(sides: Sequence[SideEffect]) -> float:
    own = [capital(side.n_with_tested, side.n_against_tested) for side in sides]
    return own[0] if len(own) == 1 else (own[0] * own[1] + own[0] + own[1]) / 3


def _needed(sides: Sequence[SideEffect], level: float) -> int | None:
    needed = [pairs_needed(side.n_with_tested, side.n_against_tested, level) for side in sides]
    return min((n for n in needed if n is not None), default=None)


def _leans(side: SideEffect | None) -> bool:
    """Whether a side agrees with an effect that was shown, by itself at the 5 % level."""
    return side is not None and capital(side.n_with_tested, side.n_against_tested) >= 20


def _conclude(sides: Sequence[SideEffect], p_value: float) -> Conclusion:
    if p_value <= SINGLE_ERROR_RATE:
        return Conclusion.CAUSE
    if all(side.has_no_effect for side in sides):
        return Conclusion.NO_EFFECT
    if any(side.only_fails for side in sides):
        return Conclusion.ONLY_FAILS
    return Conclusion.TOO_LITTLE
