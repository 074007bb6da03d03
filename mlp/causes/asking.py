"""What is trained next: the reruns that are expected to decide most for what they cost.

Of each setting two things can be shown, by pairs of reruns with further seeds: that it acts, or
that it does not, first that it does not stop the verdict, then that it does not start it, either.
What is known (how the study's runs ended, earlier reruns) says how likely each is, and how many
reruns it would still take. The settings are asked in the order of chance over cost, each for as
many reruns as it needs and no more, until one population is full; then all is estimated anew.

A pair may not be chosen by how its own unchanged run ended, or the bet on it would not be fair. So
the pairs of a setting come in a fixed order (a seed of each run, then the next seed), and only its
own pairs say how often an unchanged run does what it was picked for.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product

from mlp.causes.changes import LEARNING_RATE, NORMALIZATION, Change, Factor
from mlp.causes.effects import (
    SINGLE_ERROR_RATE,
    STEP_ERROR_RATE,
    Effect,
    Seen,
    SideEffect,
    Sightings,
    step_contrast,
)
from mlp.causes.evidence import Conclusion, chance_of_clearing, pairs_needed, stays_needed
from mlp.causes.plan import CHANCE_OF_FIRST, CHANCE_OF_OTHER, Pick, Plan, Results, Side
from mlp.config import RunConfig

_RATE, _SAME_STEP = Factor(NORMALIZATION), Factor(NORMALIZATION, keeps_step=True)
_LEARNING_RATE = Factor(LEARNING_RATE)

# Guesses: they decide what is asked first, and nothing that is said.
_STARTS_LESS = 0.5  # of these, from healthy runs: there one large step is far away
_WEIGHT_OF_GUESS = 2.0  # reruns that a guess counts as
_AGREEMENT = 0.85  # of further seeds with a change that turned the run's own seed
_LEAST_CHANCE = 0.2  # of clearing a setting, to be worth the reruns
# A cause is what is asked for; then what does not stop the verdict, then what does not start it.
_WORTH_OF_CAUSE, _WORTH_OF_NO_STOP, _WORTH_OF_NO_START = 3.0, 0.5, 0.25


@dataclass(frozen=True)
class _Aim:
    """Something that may be shown, and the reruns for it.

    Attributes:
        chance: that it will be shown, as far as is known.
        cost: reruns that it still takes, about.
        asked: what to train for it, the most urgent first.
        worth: how much it says, beside other aims.
        later_cost: reruns that the setting is expected to take after it.
    """

    chance: float
    cost: float
    asked: tuple[RunConfig, ...]
    worth: float
    later_cost: float = 0.0

    @property
    def rank(self) -> float:
        """Higher is asked earlier."""
        return self.worth * self.chance / max(self.cost, 0.5)


def next_singles(
    plan: Plan, results: Results, seen: Sightings, found: Sequence[Effect]
) -> tuple[tuple[RunConfig, ...], int]:
    """What to train next about single settings.

    Args:
        results: in the order in which they were trained.

    Returns:
        The most decisive reruns first, none if all is settled; and how many it will still take.
    """
    aims = sorted(_aims(plan, results, seen, found), key=lambda aim: -aim.rank)
    wanted = dict.fromkeys(config for aim in aims for config in aim.asked)
    missing = tuple(config for config in wanted if config not in results)
    n_left = math.ceil(sum(aim.cost + aim.later_cost for aim in aims))
    return missing, max(1, n_left) if missing else 0


def _aims(plan: Plan, results: Results, seen: Sightings, found: Sequence[Effect]) -> list[_Aim]:
    """The best aim of each setting that is neither named nor cleared nor given up."""
    if not plan.on(Side.STOPS):
        return []
    first = _clearly_first(plan.guesses)
    is_step, contrast = _by_step(plan, results, seen, {e.factor: e for e in found})
    best = [] if contrast is None else [contrast]
    for effect in found:
        factor = effect.factor
        if factor.keeps_step or effect.is_settled:
            continue
        if is_step and factor in (_RATE, _LEARNING_RATE):
            continue
        arms = [
            _Arm(plan, factor, side, seen[factor, side.side], is_first=factor == first)
            for side in effect.sides
        ]
        cleared = _clearing(arms, results)
        naming = [arm.naming() for arm in arms if not arm.on.is_idle]
        possible = [aim for aim in (*naming, cleared) if aim is not None]
        if possible:
            aim = max(possible, key=lambda aim: aim.rank)
            if cleared is not None and aim is not cleared:
                both = cleared.cost + cleared.later_cost
                aim = replace(aim, later_cost=(1 - aim.chance) * both)
            best.append(aim)
    return best


def _clearly_first(guesses: Mapping[Factor, float]) -> Factor | None:
    """The setting that alone goes along with the verdict; a rate goes with its normalization."""
    rates = {_RATE, _SAME_STEP} if _LEARNING_RATE in guesses else {_SAME_STEP}
    order = sorted((f for f in guesses if f not in rates), key=lambda f: -guesses[f])
    midway = (CHANCE_OF_FIRST + CHANCE_OF_OTHER) / 2
    return order[0] if order and all(guesses[f] < midway for f in order[1:2]) else None


@dataclass(frozen=True)
class _Arm:
    """One setting from one side.

    Attributes:
        on: what is known of it.
        seen: what was seen of it, in order.
        is_first: whether no other setting is nearly as likely, before anything is trained.
    """

    plan: Plan
    factor: Factor
    on: SideEffect
    seen: Sequence[Seen]
    is_first: bool = False

    @cached_property
    def picks(self) -> list[Pick]:
        return [p for p in self.plan.on(self.on.side) if self.factor in p.by_factor]

    @cached_property
    def own(self) -> dict[tuple[Pick, str], Seen]:
        """What was seen with the runs' own seeds."""
        return {(s.pick, s.change.text): s for s in self.seen if not s.seed}

    @cached_property
    def pairs(self) -> dict[tuple[Pick, int], Seen]:
        """What was seen with further seeds."""
        return {(s.pick, s.seed): s for s in self.seen if s.seed}

    @cached_property
    def turning(self) -> dict[Pick, Change]:
        """The first change that turned a run with its own seed."""
        return {
            pick: change
            for pick in self.picks
            for change in reversed(pick.of_factor(self.factor))
            if (own := self.own.get((pick, change.text))) is not None and own.after in pick.goal
        }

    @cached_property
    def untried(self) -> dict[Pick, list[Change]]:
        """The changes that a run's own seed was not tried with."""
        return {
            pick: [c for c in pick.of_factor(self.factor) if (pick, c.text) not in self.own]
            for pick in self.picks
        }

    @cached_property
    def chance_of_turning(self) -> float:
        """That a change turns a run with its own seed."""
        guess = self.plan.guesses[self.factor]
        guess *= _STARTS_LESS if self.on.side is Side.STARTS else 1.0
        n_tried = len({pick for pick, _ in self.own})
        return (len(self.turning) + _WEIGHT_OF_GUESS * guess) / (n_tried + _WEIGHT_OF_GUESS)

    def naming(self) -> _Aim | None:
        """Pairs enough to show that it acts; None where that is out of reach."""
        level = SINGLE_ERROR_RATE / len(self.plan.factors) * (2 / 3)
        needed = pairs_needed(self.on.n_with, self.on.n_against, level)
        if needed is None:
            return None
        n_more = max(1, needed - self.on.n_with - self.on.n_against)
        screens = [
            _made(pick, changes[0], 0)
            for pick, changes in self.untried.items()
            if changes and pick not in self.turning
        ]
        # Screens would only delay what is likely.
        is_bold = self.is_first and self.on.side is Side.STOPS and not self.own
        among = self.picks if is_bold else [pick for pick in self.picks if pick in self.turning]
        further = self._further(among)
        # Of its own pairs in the runs that it turns; a fair bet allows no look at others.
        chosen = [s for s in self.pairs.values() if s.pick in self.turning]
        agreement = (sum(s.is_with for s in chosen) + 4 * _AGREEMENT) / (len(chosen) + 4)
        n_pairs = math.ceil(n_more / agreement)
        n_screened = 0 if is_bold else len(screens) * len(self.picks[0].seeds_in_doubt)
        # A first few show what is likeliest.
        is_hopeless = len(further) + n_screened < n_more and bool(self.pairs)
        if is_hopeless or not (further or screens):
            return None
        is_short = len(further) < n_pairs
        asked = [
            config
            for pick, seed in further[:n_pairs]
            for config in self._pair(pick, seed, pick.of_factor(self.factor)[0])
        ]
        if is_bold or is_short:
            asked += screens
        chance = agreement if chosen else self.chance_of_turning
        return _Aim(chance, 1.6 * n_pairs + len(screens) * is_short, tuple(asked), _WORTH_OF_CAUSE)

    def idle_reruns(self) -> Iterator[tuple[RunConfig, ...]]:
        """Pairs that may show that it does not act: the unchanged run and the changed one."""
        for pick, seed in self._further(self.picks):
            yield self._pair(pick, seed, pick.in_turn(self.factor, seed))

    def _further(self, picks: Sequence[Pick]) -> list[tuple[Pick, int]]:
        """The pairs of further seeds that are not trained, in their fixed order."""
        hopeful = [pick for pick in picks if not self._is_in_vain(pick)]
        seeds = hopeful[0].seeds_in_doubt if hopeful else ()
        return [(p, seed) for seed, p in product(seeds, hopeful) if (p, seed) not in self.pairs]

    def _pair(self, pick: Pick, seed: int, else_by: Change) -> tuple[RunConfig, ...]:
        """The unchanged run and that with the change that turned its own seed, if one did."""
        return pick.configs[seed], _made(pick, self.turning.get(pick, else_by), seed)

    def _is_in_vain(self, pick: Pick) -> bool:
        """Whether its pairs are not worth another one.

        Either it did what it was picked for by luck, and does it with none of two further seeds; or
        the change that turned it did so by luck, and turns none of three further seeds.
        """
        mine = [s for s in self.pairs.values() if s.pick is pick]
        is_luck = len(mine) >= 2 and not any(s.before in pick.start for s in mine)
        is_idle = len(mine) >= 3 and all(s.after in pick.start for s in mine)
        return is_luck or (pick in self.turning and is_idle)


def _made(pick: Pick, change: Change, seed: int) -> RunConfig:
    """The run with a change that is possible with each seed: one that keeps no step."""
    config = pick.changed([change], seed)
    assert config is not None
    return config


def _clearing(arms: Sequence[_Arm], results: Results) -> _Aim | None:
    """Reruns enough to show that it does not stop the verdict, and then that it does not start it.

    None where the first that is not shown is too far.
    """
    aims: list[_Aim] = []
    for arm in (arm for arm in arms if not arm.on.is_idle):
        turned, stayed = arm.on.n_turned, arm.on.n_stayed
        n_more, reruns = stays_needed(turned, stayed), [*arm.idle_reruns()]
        possible = n_more is not None and n_more <= len(reruns)
        if not possible or chance_of_clearing(turned, stayed, len(reruns)) < _LEAST_CHANCE:
            break
        asked = tuple(config for rerun in reruns[:n_more] for config in rerun)
        cost = sum(config not in results for config in asked)
        worth = _WORTH_OF_NO_STOP if arm.on.side is Side.STOPS else _WORTH_OF_NO_START
        aims.append(_Aim(1 - arm.chance_of_turning, cost, asked, worth))
    return replace(aims[0], later_cost=sum(aim.cost for aim in aims[1:])) if aims else None


def _by_step(
    plan: Plan, results: Results, seen: Sightings, found: Mapping[Factor, Effect]
) -> tuple[bool, _Aim | None]:
    """Whether learning rate and normalization need no reruns of their own, and what they need.

    Where one of them is named, the other one acts through the effective step as well if that is
    shown, or if it can be: by pairs enough with the rate kept and with the step kept.
    """
    either = [found[own] for own in (_RATE, _LEARNING_RATE) if own in found]
    ends = {effect.conclusion for effect in either}
    is_named = Conclusion.CAUSE in ends and Conclusion.NO_EFFECT not in ends
    is_named = is_named and not any(effect.does_not_stop for effect in either)
    kept = found.get(_SAME_STEP)
    if not is_named or kept is None or kept.conclusion is Conclusion.CAUSE:
        return False, None
    contrast, on = step_contrast(seen), found[_RATE].on(Side.STOPS)
    if contrast.is_shown:
        return True, None
    needed = pairs_needed(contrast.n_with, contrast.n_against, STEP_ERROR_RATE)
    if needed is None or on is None:
        return False, None
    arm = _Arm(plan, _RATE, on, seen[_RATE, Side.STOPS])
    n_more = max(1, needed - contrast.n_with - contrast.n_against)
    asked = list(islice(_beside(arm, results), math.ceil(n_more / _AGREEMENT)))
    if len(asked) < n_more:
        return False, None
    missing = tuple(config for both in asked for config in both if config not in results)
    return True, _Aim(_AGREEMENT, len(missing), missing, _WORTH_OF_CAUSE)


def _beside(arm: _Arm, results: Results) -> Iterator[tuple[RunConfig, ...]]:
    """The unchanged run, the rate kept and the step kept, where the rate kept ends the swings."""
    for seed, pick in product(range(1, len(arm.plan.picks[0].configs)), arm.picks):
        rate = arm.pairs.get((pick, seed))
        among = pick.of_factor(_RATE) if rate is None else [rate.change]
        change = next((c for c in among if _ends(arm, pick, c)), None)
        if change is None:
            continue
        normalization = dict(change.values)[NORMALIZATION]
        for step in pick.of_factor(_SAME_STEP):
            kept = pick.changed([step], seed)
            is_same = dict(step.values)[NORMALIZATION] == normalization
            if is_same and kept is not None and kept not in results:
                yield pick.configs[seed], _made(pick, change, seed), kept


def _ends(arm: _Arm, pick: Pick, change: Change) -> bool:
    """Whether the change ends the swings with the run's own seed, in whichever way."""
    own = arm.own.get((pick, change.text))
    return own is not None and own.after is not pick.asked
