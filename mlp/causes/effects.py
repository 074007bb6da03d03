"""What reruns say about each setting, reduced from whatever was trained."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from mlp.config import RunConfig
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
        n_stayed: of `n_expected`, pairs in which the change neither stopped nor started what is
            asked about.
        n_turned: of `n_expected`, pairs in which it did, in whichever way the rerun ended.
        difference: (with - against) / pairs with its interval.
        left: likewise for any other end than that which the run was picked for, healthy or not.
        endings: how the changed reruns ended, with further seeds.
        changes: as typed -> how many pairs it turned, the most first.
        is_idle: whether it was shown, at any time, that it turns fewer than `NEGLIGIBLE`.
    """

    side: Side
    n_runs: int
    n_pairs: int
    n_expected: int
    n_with: int
    n_against: int
    n_stayed: int
    n_turned: int
    difference: Share
    left: Share
    endings: Mapping[Verdict, int]
    changes: Mapping[str, int]
    is_idle: bool

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
        p_value: that it has no effect on that; corrected for all settings and looks.
        odds: how many times likelier the reruns are if it acts than if it does not.
        pairs_missing: differing pairs of one side that would name it, beside those there are; None
            where nothing hints at an effect.
    """

    factor: Factor
    sides: tuple[SideEffect, ...]
    p_value: float
    odds: float
    pairs_missing: int | None
    conclusion: Conclusion

    def on(self, side: Side) -> SideEffect | None:
        """What is known from one side; None where it was not asked."""
        return next((own for own in self.sides if own.side is side), None)

    @property
    def stops(self) -> bool:
        """Whether it is a cause whose change stops what is asked about."""
        side = self.on(Side.STOPS)
        if side is None or side.is_idle or self.conclusion is not Conclusion.CAUSE:
            return False
        # The side agrees with what was shown, by itself at the 5 % level.
        return capital(side.n_with, side.n_against) >= 20

    @property
    def does_not_stop(self) -> bool:
        """Whether it was shown not to stop what is asked about, whatever it starts."""
        side = self.on(Side.STOPS)
        return side is not None and side.is_idle

    @property
    def is_settled(self) -> bool:
        """Whether it is named, or cleared on every side there is."""
        is_idle = all(side.is_idle for side in self.sides)
        return is_idle or self.conclusion in (Conclusion.CAUSE, Conclusion.NO_EFFECT)


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
        return self.before in self.pick.start and self.after in self.pick.goal

    @property
    def is_turned(self) -> bool:
        """Whether the change stopped or started what is asked about, healthy in the end or not."""
        return (self.after is self.pick.asked) is (self.pick.side is Side.STARTS)

    @property
    def is_against(self) -> bool:
        """Whether it was turned the other way."""
        return self.before in self.pick.goal and self.after in self.pick.start


Sightings = Mapping[tuple[Factor, Side], Sequence[Seen]]
"""Factor, side -> everything that was seen of it, in the order in which it was known.

Results are ordered: what was trained first stands first. So what is concluded at any time is
concluded at every later time as well.
"""


def look(plan: Plan, results: Results) -> Sightings:
    """Looks through the results once."""
    place = {config: at for at, config in enumerate(results)}
    found: dict[tuple[Factor, Side], list[Seen]] = {
        (factor, side): [] for factor in plan.factors for side in Side
    }
    for pick in plan.picks:
        unchanged = [s for s in range(1, len(pick.configs)) if pick.configs[s] in place]
        with_rate: dict[str, list[int]] = {}
        for factor in sorted(pick.by_factor):  # the rate kept comes before the step kept
            # The step kept only where the rate kept is known: its rates may be dear to compute.
            seeds = with_rate.get(factor.setting, []) if factor.keeps_step else unchanged
            seen = list(_in_pick(pick, factor, seeds, place, results))
            with_rate.setdefault(factor.setting, sorted(own.seed for own in seen if own.seed))
            found[factor, pick.side] += seen
    return {key: sorted(seen, key=lambda own: own.at) for key, seen in found.items()}


def _in_pick(
    pick: Pick,
    factor: Factor,
    seeds: Sequence[int],
    place: Mapping[RunConfig, int],
    results: Results,
) -> Iterator[Seen]:
    def known(change: Change, seed: int) -> tuple[int, RunConfig] | None:
        config = pick.changed([change], seed)
        return (place[config], config) if config is not None and config in place else None

    own_end = pick.asked if pick.side is Side.STOPS else Verdict.LEARNING
    turned = []  # such changes are tried with all seeds
    for change in pick.of_factor(factor):
        if (own := known(change, 0)) is not None:
            yield Seen(own[0], pick, 0, change, own_end, results[own[1]].verdict)
            turned.append(change)
    for seed in seeds:
        tried = dict.fromkeys([pick.of_factor(factor)[0], pick.in_turn(factor, seed), *turned])
        if factor.keeps_step:  # any may be trained, to be compared with the rate kept
            tried = dict.fromkeys(pick.of_factor(factor))
        trained = [(*own, change) for change in tried if (own := known(change, seed)) is not None]
        if trained:
            first, config, change = min(trained, key=lambda own: own[0])
            unchanged = pick.configs[seed]
            at, before = max(first, place[unchanged]), results[unchanged].verdict
            yield Seen(at, pick, seed, change, before, results[config].verdict)


def effects(plan: Plan, seen: Sightings) -> tuple[Effect, ...]:
    """What is known of each setting, from whatever was trained.

    A setting is called a cause by further seeds only. A run was picked because of its verdict with
    its own seed, so any change, also one without effect, makes it look better (regression to the
    mean); with further seeds the unchanged run is a fresh draw as well. Which pair is trained next
    may depend on everything that is known but on its own unchanged run. The bets on both sides are
    combined as (E_stop E_start + E_stop + E_start) / 3: still a fair bet, and good for a setting
    that acts both ways as well as for one that acts one way. The chance of calling any setting a
    cause by mistake, at any time, stays below `SINGLE_ERROR_RATE` over all settings.

    A setting is cleared where the bets on every side that it turns fewer than `NEGLIGIBLE` have
    won, and half cleared where the one on runs with the verdict has; if there are no others, it
    stays so. The chance of error of each is `CLEARING_ERROR_RATE`. Whatever ends otherwise than as
    is asked about counts as stopped there, although not all of it is a cure. Here, too, only
    further seeds tell: with its own a run near the threshold was picked because it just swung, and
    whatever is changed in it looks as if it acted.

    Whether it is named or cleared first holds; no later rerun takes it back. A side that has been
    cleared says nothing for naming it any more: what does not stop the verdict may be shown to
    start it, but not to stop it after all.

    Args:
        seen: what `look` found in the results.
    """
    return tuple(_effect(plan, factor, seen) for factor in plan.factors)


def step_contrast(seen: Sightings) -> StepContrast:
    """Whether the normalization acts through the size of the step."""
    kept = {
        (own.pick, own.seed): own
        for own in seen.get((Factor(NORMALIZATION, keeps_step=True), Side.STOPS), ())
        if own.seed
    }
    both = []
    for rate in seen.get((Factor(NORMALIZATION), Side.STOPS), ()):
        step = kept.get((rate.pick, rate.seed))
        is_same = step is not None and _target(rate.change) == _target(step.change)
        if step is not None and is_same and rate.before is rate.pick.asked:
            both.append((rate, step))
    both.sort(key=lambda pair: max(own.at for own in pair))
    ends: Counter[tuple[bool, bool]] = Counter()
    highest = 0.0
    for pair in both:
        rate_stops, step_stops = (own.after is not own.pick.asked for own in pair)
        ends[rate_stops, step_stops] += 1
        highest = max(highest, capital(ends[True, False], ends[False, True]))
    return StepContrast(
        n_pairs=len(both),
        n_rate=ends[True, False] + ends[True, True],
        n_step=ends[False, True] + ends[True, True],
        to=tuple(dict.fromkeys(_target(rate.change) for rate, _ in both)),
        n_with=ends[True, False],
        n_against=ends[False, True],
        is_shown=highest * STEP_ERROR_RATE >= 1,
    )


def _target(change: Change) -> str:
    return str(dict(change.values)[NORMALIZATION])


def _effect(plan: Plan, factor: Factor, seen: Sightings) -> Effect:
    asked = [side for side in Side if any(factor in pick.by_factor for pick in plan.on(side))]
    level = SINGLE_ERROR_RATE / len(plan.factors)
    highest, named_at, cleared_at = 1.0, math.inf, math.inf
    bets, idle = dict.fromkeys(asked, 1.0), set[Side]()
    counts = {side: Counter[str]() for side in asked}
    events = sorted((own for side in asked for own in seen[factor, side]), key=lambda e: e.at)
    for own in events:
        side, count = own.pick.side, counts[own.pick.side]
        if own.seed:
            count["with"] += own.is_with
            count["against"] += own.is_against
            if side not in idle:  # else nothing is bet on it any more, so that nothing turns round
                bets[side] = capital(count["with"], count["against"])
            highest = max(highest, _combined([*bets.values()]))
            if highest * level >= 1:
                named_at = min(named_at, own.at)
            if own.before in own.pick.start:
                count["turned" if own.is_turned else "stayed"] += 1
                rest = idle_capital(count["turned"], count["stayed"])
                # Of what is named, no side is cleared: it may act on fewer than `NEGLIGIBLE`.
                if named_at == math.inf and rest * CLEARING_ERROR_RATE >= 1:
                    idle.add(side)
                if Side.STARTS in asked and idle == set(asked):
                    cleared_at = min(cleared_at, own.at)
    sides = tuple(
        _side_effect(side, seen[factor, side], counts[side], is_idle=side in idle) for side in asked
    )
    conclusion = Conclusion.TOO_LITTLE
    if named_at < math.inf and named_at <= cleared_at:
        conclusion = Conclusion.CAUSE
    elif cleared_at < math.inf:
        conclusion = Conclusion.NO_EFFECT
    elif Side.STOPS in idle:
        conclusion = Conclusion.NO_STOP
    elif any(side.only_fails for side in sides):
        conclusion = Conclusion.ONLY_FAILS
    # From one side alone, of which the combined bet keeps about two thirds where there are two.
    of_side = level if len(sides) == 1 else level * 2 / 3
    missing = [
        max(1, needed - side.n_with - side.n_against)
        for side in sides
        if not side.is_idle
        and (needed := pairs_needed(side.n_with, side.n_against, of_side)) is not None
    ]
    return Effect(
        factor=factor,
        sides=sides,
        p_value=min(1.0, len(plan.factors) * p_value_of(highest)),
        odds=_combined([*bets.values()]),
        pairs_missing=min(missing, default=None),
        conclusion=conclusion,
    )


def _side_effect(
    side: Side, seen: Sequence[Seen], count: Mapping[str, int], *, is_idle: bool
) -> SideEffect:
    pairs = [own for own in seen if own.seed]
    n_turned = Counter(dict.fromkeys((own.change.text for own in pairs), 0))
    n_turned.update(own.change.text for own in pairs if own.is_with)
    ends = [(own.before in own.pick.start, own.after in own.pick.start) for own in pairs]
    n_with, n_against = count["with"], count["against"]
    return SideEffect(
        side=side,
        n_runs=len({own.pick for own in seen}),
        n_pairs=len(pairs),
        n_expected=sum(before for before, _ in ends),
        n_with=n_with,
        n_against=n_against,
        n_stayed=count["stayed"],
        n_turned=count["turned"],
        difference=paired_difference(n_with, n_against, len(pairs)),
        left=paired_difference(ends.count((True, False)), ends.count((False, True)), len(pairs)),
        endings=dict(Counter(own.after for own in pairs)),
        changes={text: n for text, n in n_turned.most_common() if n},
        is_idle=is_idle,
    )


def _combined(bets: Sequence[float]) -> float:
    return bets[0] if len(bets) == 1 else (bets[0] * bets[1] + bets[0] + bets[1]) / 3
