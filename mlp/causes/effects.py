"""What reruns say about each setting, reduced from whatever was trained."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlp.causes.changes import NORMALIZATION, Change, Factor
from mlp.causes.evidence import (
    CLEARING_ERROR_RATE,
    ERROR_RATE,
    NEGLIGIBLE,
    Conclusion,
    capital,
    idle_capital,
    p_value_of,
    paired_difference,
    pairs_needed,
)
from mlp.causes.plan import Pick, Plan, Results, Side
from mlp.curve import Verdict
from mlp.shares import Share

SINGLE_ERROR_RATE = ERROR_RATE / 2  # a quarter each is for the effective step and for pairs
STEP_ERROR_RATE = ERROR_RATE / 4


@dataclass(frozen=True)
class SideEffect:
    """What changing one setting did from one side.

    A pair is the same run with the same further seed, changed and unchanged.

    Attributes:
        n_runs: picked runs in which it was changed.
        n_expected: pairs whose unchanged run still did what it was picked for.
        n_with: pairs turned the expected way: to healthy, or to the verdict that is asked about.
        n_against: pairs turned the other way.
        n_stayed: reruns, with the run's own seed and with further ones, that ended like the
            unchanged run, where that did what it was picked for.
        n_left: reruns that ended otherwise, healthy or not, likewise.
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
    n_stayed: int
    n_left: int
    difference: Share
    left: Share
    endings: Mapping[Verdict, int]
    changes: Mapping[str, int]

    @property
    def only_fails(self) -> bool:
        """Whether it ends what is asked about, but mostly in runs that end badly otherwise."""
        stops = self.side is Side.STOPS and self.left.low > NEGLIGIBLE
        return stops and self.difference.value <= self.left.value / 2


@dataclass(frozen=True)
class Effect:
    """What changing one setting does.

    Attributes:
        sides: from runs with the verdict, and from healthy ones; those without runs are left out.
        p_value: that it does nothing; corrected for all settings and looks.
        odds: how many times likelier the reruns are if it acts than if it does nothing.
        pairs_needed: differing pairs on the better side that would settle it; None where nothing
            hints at an effect.
    """

    factor: Factor
    sides: tuple[SideEffect, ...]
    p_value: float
    odds: float
    pairs_needed: int | None
    conclusion: Conclusion

    def on(self, side: Side) -> SideEffect | None:
        """What is known from one side; None where it was not asked."""
        return next((own for own in self.sides if own.side is side), None)

    @property
    def stops(self) -> bool:
        """Whether it is a cause whose change stops what is asked about."""
        side = self.on(Side.STOPS)
        # The side agrees with what was shown, by itself at the 5 % level.
        is_shown = side is not None and capital(side.n_with, side.n_against) >= 20
        return is_shown and self.conclusion is Conclusion.CAUSE


@dataclass(frozen=True)
class StepContrast:
    """The normalization changed with the rate kept, beside the same with the first step kept.

    Only further seeds in which the unchanged run ends as is asked about are counted.

    Attributes:
        n_pairs: runs and seeds in which both were trained.
        n_rate: of these, stopped with the rate kept.
        n_step: of these, stopped with the step kept.
        to: the normalizations that were changed to.
        n_with: stopped with the rate kept only.
        n_against: stopped with the step kept only.
        is_shown: whether the step kept stops clearly fewer, at `STEP_ERROR_RATE` over all looks.
    """

    n_pairs: int
    n_rate: int
    n_step: int
    to: tuple[str, ...]
    n_with: int
    n_against: int
    is_shown: bool


@dataclass(frozen=True)
class Seen:
    """One rerun with a setting changed, beside the unchanged run.

    Attributes:
        at: when it was known, as a place among the results.
        seed: 0 for the run's own, whose unchanged run was picked for how it ended.
    """

    at: int
    pick: Pick
    seed: int
    change: Change
    before: Verdict
    after: Verdict

    @property
    def is_with(self) -> bool:
        """Whether the change turned it the expected way."""
        return self.pick.is_picked(self.before) and self.pick.is_wanted(self.after)

    @property
    def is_against(self) -> bool:
        """Whether it was turned the other way."""
        return self.pick.is_wanted(self.before) and self.pick.is_picked(self.after)


class Sightings:
    """Everything that was seen of each factor and side, in the order in which it was known.

    Results are ordered: what was trained first stands first. So what is concluded at any time is
    concluded at every later time as well.
    """

    def __init__(self, plan: Plan, results: Results) -> None:
        """Looks through the results once."""
        self._results = results
        self._place = {config: at for at, config in enumerate(results)}
        self._unchanged = {
            id(pick): [s for s in range(1, len(pick.configs)) if pick.configs[s] in self._place]
            for pick in plan.picks
        }
        self._of: dict[tuple[Factor, Side], list[Seen]] = {}
        for factor in sorted(plan.factors):  # with the rate kept first, see `_seeds`
            for side in Side:
                found = [s for pick in plan.on(side) for s in self._in_pick(pick, factor)]
                self._of[factor, side] = sorted(found, key=lambda seen: seen.at)

    def everything_of(self, setting: str) -> list[Seen]:
        """What was seen of a setting, in all ways of changing it, from both sides."""
        return [own for (f, _), seen in self._of.items() if f.setting == setting for own in seen]

    def of(self, factor: Factor, side: Side) -> list[Seen]:
        """What was seen of a factor from one side."""
        return self._of.get((factor, side), [])

    def _in_pick(self, pick: Pick, factor: Factor) -> Iterable[Seen]:
        changes = pick.of_factor(factor)
        own = pick.asked if pick.side is Side.STOPS else Verdict.LEARNING
        asked = changes[:1]  # of the others no seed is trained before the run's own
        for change in changes:
            if (at := self._at(pick, change, 0)) is not None:
                yield Seen(at, pick, 0, change, own, self._after(pick, change, 0))
                asked += [change] * (change not in asked)
        for seed in self._seeds(pick, factor):
            known = [(at, c) for c in asked if (at := self._at(pick, c, seed)) is not None]
            if known:
                unchanged = pick.configs[seed]
                first, change = min(known, key=lambda pair: pair[0])
                at = max(first, self._place[unchanged])
                before = self._results[unchanged].verdict
                yield Seen(at, pick, seed, change, before, self._after(pick, change, seed))

    def _seeds(self, pick: Pick, factor: Factor) -> Iterable[int]:
        """With the step kept those of the rate kept only: its rates may be dear to compute."""
        if not factor.keeps_step:
            return self._unchanged[id(pick)]
        kept = self.of(Factor(factor.setting), pick.side)
        return sorted(seen.seed for seen in kept if seen.pick is pick and seen.seed)

    def _at(self, pick: Pick, change: Change, seed: int) -> int | None:
        config = pick.changed([change], seed)
        return self._place.get(config) if config is not None else None

    def _after(self, pick: Pick, change: Change, seed: int) -> Verdict:
        config = pick.changed([change], seed)
        assert config is not None
        return self._results[config].verdict


def effects(plan: Plan, results: Results, seen: Sightings | None = None) -> tuple[Effect, ...]:
    """What is known of each setting, from whatever was trained.

    A setting is called a cause by further seeds only. A run was picked because of its verdict with
    its own seed, so any change, also one without effect, makes it look better (regression to the
    mean); with further seeds the unchanged run is a fresh draw as well. Which pair is trained next
    may depend on everything that is known but on its own unchanged run. The bets on both sides are
    combined as (E_stop E_start + E_stop + E_start) / 3: still a fair bet, and good for a setting
    that acts both ways as well as for one that acts one way. The chance of calling any setting a
    cause by mistake, at any time, stays below `SINGLE_ERROR_RATE` over all settings.

    A setting is cleared where the bets on every side that it turns fewer than `NEGLIGIBLE` have
    won: its own chance of error is `CLEARING_ERROR_RATE`. A stalled, climbing or diverged rerun
    counts as turned there, although it is no cure, and so does every rerun with the run's own
    seed: what regression to the mean does to these makes a setting look as if it acted.

    Whichever of the two is reached first holds; no later rerun takes it back.

    Args:
        results: in the order in which they were trained.
        seen: made of the same, where it is at hand.
    """
    seen = seen or Sightings(plan, results)
    n = max(1, len(plan.factors))
    return tuple(_effect(plan, factor, seen, n) for factor in plan.factors)


def step_contrast(seen: Sightings) -> StepContrast:
    """Whether the normalization acts through the size of the step."""
    kept = {
        (id(own.pick), own.seed): own
        for own in seen.of(Factor(NORMALIZATION, keeps_step=True), Side.STOPS)
        if own.seed
    }
    both = []
    for rate in seen.of(Factor(NORMALIZATION), Side.STOPS):
        step = kept.get((id(rate.pick), rate.seed))
        is_same = step is not None and _target(rate.change) == _target(step.change)
        if step is not None and is_same and rate.before is rate.pick.asked:
            both.append((max(rate.at, step.at), rate, step))
    both.sort(key=lambda own: own[0])
    n_with = n_against = n_rate = n_step = 0
    highest = 0.0
    for _, rate, step in both:
        stopped = [own.after is not own.pick.asked for own in (rate, step)]
        n_rate, n_step = n_rate + stopped[0], n_step + stopped[1]
        n_with += stopped[0] and not stopped[1]
        n_against += stopped[1] and not stopped[0]
        highest = max(highest, capital(n_with, n_against))
    to = tuple(dict.fromkeys(_target(rate.change) for _, rate, _ in both))
    is_shown = highest * STEP_ERROR_RATE >= 1
    return StepContrast(len(both), n_rate, n_step, to, n_with, n_against, is_shown)


def _target(change: Change) -> str:
    return str(dict(change.values)[NORMALIZATION])


def _effect(plan: Plan, factor: Factor, seen: Sightings, n_factors: int) -> Effect:
    asked = [side for side in Side if any(factor in pick.factors for pick in plan.on(side))]
    level = SINGLE_ERROR_RATE / n_factors
    highest, named_at, cleared_at = 1.0, None, None
    bets, rests = dict.fromkeys(asked, 1.0), dict.fromkeys(asked, 1.0)
    counts = {side: Counter[str]() for side in asked}
    events = sorted((own for side in asked for own in seen.of(factor, side)), key=lambda e: e.at)
    for own in events:
        side, count = own.pick.side, counts[own.pick.side]
        if own.seed:
            count["with"] += own.is_with
            count["against"] += own.is_against
            bets[side] = capital(count["with"], count["against"])
            highest = max(highest, _combined([*bets.values()]))
            if named_at is None and highest * level >= 1:
                named_at = own.at
        if own.pick.is_picked(own.before):
            count["stayed" if own.pick.is_picked(own.after) else "left"] += 1
            rests[side] = max(rests[side], idle_capital(count["left"], count["stayed"]))
            if cleared_at is None and min(rests.values()) * CLEARING_ERROR_RATE >= 1:
                cleared_at = own.at
    sides = tuple(_side_effect(side, seen.of(factor, side), counts[side]) for side in asked)
    conclusion = Conclusion.TOO_LITTLE
    if named_at is not None and (cleared_at is None or named_at <= cleared_at):
        conclusion = Conclusion.CAUSE
    elif cleared_at is not None:
        conclusion = Conclusion.NO_EFFECT
    elif any(side.only_fails for side in sides):
        conclusion = Conclusion.ONLY_FAILS
    return Effect(
        factor=factor,
        sides=sides,
        p_value=min(1.0, n_factors * p_value_of(highest)),
        odds=_combined([*bets.values()]),
        pairs_needed=_needed(sides, level),
        conclusion=conclusion,
    )


def _side_effect(side: Side, seen: Sequence[Seen], count: Mapping[str, int]) -> SideEffect:
    pairs = [own for own in seen if own.seed]
    n_turned = Counter(dict.fromkeys((own.change.text for own in pairs), 0))
    n_turned.update(own.change.text for own in pairs if own.is_with)
    ends = [(own.pick.is_picked(own.before), own.pick.is_picked(own.after)) for own in pairs]
    n_with, n_against = count["with"], count["against"]
    return SideEffect(
        side=side,
        n_runs=len({id(own.pick) for own in seen}),
        n_pairs=len(pairs),
        n_expected=sum(before for before, _ in ends),
        n_with=n_with,
        n_against=n_against,
        n_stayed=count["stayed"],
        n_left=count["left"],
        difference=paired_difference(n_with, n_against, len(pairs)),
        left=paired_difference(ends.count((True, False)), ends.count((False, True)), len(pairs)),
        endings=dict(Counter(own.after for own in pairs)),
        changes={text: n for text, n in n_turned.most_common() if n},
    )


def _combined(bets: Sequence[float]) -> float:
    return bets[0] if len(bets) == 1 else (bets[0] * bets[1] + bets[0] + bets[1]) / 3


def _needed(sides: Sequence[SideEffect], level: float) -> int | None:
    # From one side alone, of which the combined bet keeps about two thirds where there are two.
    own = level if len(sides) == 1 else level * 2 / 3
    needed = [pairs_needed(side.n_with, side.n_against, own) for side in sides]
    return min((n for n in needed if n is not None), default=None)
