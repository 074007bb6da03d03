"""What reruns say about each setting, reduced from whatever was trained."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlp.causes.changes import Factor
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
from mlp.causes.plan import (
    Plan,
    Results,
    Side,
    ends_as_wanted,
    is_picked,
    is_wanted,
    judged_after,
    strongest,
)
from mlp.curve import Verdict
from mlp.shares import Share

SINGLE_ERROR_RATE = ERROR_RATE / 2  # the other half is for pairs of settings


@dataclass(frozen=True)
class SideEffect:
    """What changing one setting did from one side, over further seeds.

    A pair is the same run with the same further seed, changed and unchanged. With and against are
    counted over all pairs, and once more over the runs that the change turned with their own seed.

    Attributes:
        n_runs: picked runs in which it was changed.
        n_expected: pairs whose unchanged run still did what it was picked for.
        n_with: pairs turned the expected way: oscillating to healthy, or healthy to oscillating.
        n_against: pairs turned the other way.
        n_with_tested: as `n_with`, in the runs turned with their own seed.
        n_against_tested: as `n_against`, likewise.
        difference: (with - against) / pairs with its interval.
        left: likewise for any other end than that which the run was picked for, healthy or not.
        endings: how the changed reruns ended, with further seeds.
        changes: as typed -> how many pairs it turned, the most first.
    """

    side: Side
    n_runs: int
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
        sides: from oscillating runs, and from healthy ones; sides without picked runs are left out.
        p_value: that it does nothing; corrected for all settings.
        pairs_needed: differing pairs on the better side that would settle it; None where nothing
            hints at an effect.
    """

    factor: Factor
    sides: tuple[SideEffect, ...]
    p_value: float
    pairs_needed: int | None
    conclusion: Conclusion

    def on(self, side: Side) -> SideEffect | None:
        """What is known from one side; None where it was not asked."""
        return next((own for own in self.sides if own.side is side), None)

    @property
    def stops(self) -> bool:
        """Whether it is a cause whose change stops the oscillation."""
        return self.conclusion is Conclusion.CAUSE and _leans(self.on(Side.STOPS))

    @property
    def starts(self) -> bool:
        """Whether it is a cause whose change starts the oscillation."""
        return self.conclusion is Conclusion.CAUSE and _leans(self.on(Side.STARTS))


def effects(plan: Plan, results: Results) -> tuple[Effect, ...]:
    """What is known of each setting, from whatever was trained.

    Only the further seeds are evidence. A run was picked because it oscillated with its own seed,
    so any change, also one without effect, makes it look better (regression to the mean); with
    further seeds the unchanged run is a fresh draw as well. The own seed only decides which change
    of a setting is tested, and in which runs.

    The bets on both sides are combined as (E_stop E_start + E_stop + E_start) / 3: still a fair
    bet, and good for a setting that acts both ways as well as for one that acts one way. A setting
    is called a cause where the chance of calling any setting one by mistake stays below
    `SINGLE_ERROR_RATE` over all settings. It is said to have no effect where, on every side, the
    interval of its effect ends below `NEGLIGIBLE` of the runs that it could have turned; a stalled,
    climbing or diverged rerun counts as an effect there, although it is no cure.
    """
    factors = plan.factors
    sides = [_sides(plan, factor, results) for factor in factors]
    raw = [p_value_of(_capital(own)) for own in sides]
    level = SINGLE_ERROR_RATE / max(1, len(raw))
    return tuple(
        Effect(factor, own, p_value, _needed(own, level), _conclude(own, p_value))
        for factor, own, p_value in zip(factors, sides, holm(raw), strict=True)
    )


def _sides(plan: Plan, factor: Factor, results: Results) -> tuple[SideEffect, ...]:
    return tuple(
        _side_effect(plan, factor, side, results)
        for side in Side
        if any(factor in pick.factors for pick in plan.on(side))
    )


def _side_effect(plan: Plan, factor: Factor, side: Side, results: Results) -> SideEffect:
    n_runs = 0
    pairs: list[tuple[Verdict, Verdict, str, bool]] = []  # before, after, change, is tested
    for pick in plan.on(side):
        change = strongest(pick, factor, results)
        own = judged_after(pick, [change], 0, results) if change else None
        if change is None or own is None:
            continue
        n_runs += 1
        is_tested = ends_as_wanted(pick, own)
        for seed in range(1, len(pick.configs)):
            before = results.get(pick.configs[seed])
            after = judged_after(pick, [change], seed, results) if before else None
            if before is not None and after is not None:
                pairs.append((before.verdict, after.verdict, change.text, is_tested))
    turns = [pair for pair in pairs if is_picked(pair[0], side) and is_wanted(pair[1], side)]
    returns = [pair for pair in pairs if is_wanted(pair[0], side) and is_picked(pair[1], side)]
    n_turned = Counter(dict.fromkeys((text for _, _, text, _ in pairs), 0))
    n_turned.update(text for _, _, text, _ in turns)
    n_left = sum(is_picked(b, side) and not is_picked(a, side) for b, a, _, _ in pairs)
    n_joined = sum(not is_picked(b, side) and is_picked(a, side) for b, a, _, _ in pairs)
    return SideEffect(
        side=side,
        n_runs=n_runs,
        n_pairs=len(pairs),
        n_expected=sum(is_picked(before, side) for before, _, _, _ in pairs),
        n_with=len(turns),
        n_against=len(returns),
        n_with_tested=sum(is_tested for _, _, _, is_tested in turns),
        n_against_tested=sum(is_tested for _, _, _, is_tested in returns),
        difference=paired_difference(len(turns), len(returns), len(pairs)),
        left=paired_difference(n_left, n_joined, len(pairs)),
        endings=dict(Counter(after for _, after, _, _ in pairs)),
        changes={text: n for text, n in n_turned.most_common() if n},
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
