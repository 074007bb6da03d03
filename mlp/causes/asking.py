"""What is trained next: the reruns that are expected to decide most for what they cost.

Of each setting two things can be shown: that it acts, by pairs of reruns with further seeds, or
that it does nothing, by reruns that stay as they were. What is known (how the study's runs ended,
earlier reruns) says how likely each is, and how many reruns it would still take. The settings are
asked in the order of chance over cost, each for as many reruns as it needs and no more, until one
population is full; then all is estimated anew.

A pair may not be chosen by how its own unchanged run ended, or the bet on it would not be fair. So
the pairs of a setting come in a fixed order (a seed of each run, then the next seed), and only its
own pairs say how often an unchanged run does what it was picked for.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, product, zip_longest

from mlp.causes.changes import LEARNING_RATE, NORMALIZATION, Change, Factor
from mlp.causes.effects import (
    SINGLE_ERROR_RATE,
    STEP_ERROR_RATE,
    Effect,
    Seen,
    Sightings,
    step_contrast,
)
from mlp.causes.evidence import Conclusion, pairs_needed, stays_needed
from mlp.causes.plan import Pick, Plan, Results, Side
from mlp.config import RunConfig

_SETTLED = (Conclusion.CAUSE, Conclusion.NO_EFFECT)
_RATE, _SAME_STEP = Factor(NORMALIZATION), Factor(NORMALIZATION, keeps_step=True)

# Guesses before anything is trained. They decide what is asked first, and nothing that is said.
_CHANCE_OF_FIRST = 0.7  # that the setting which goes along with the verdict most turns a run
_CHANCE_OF_OTHER = 0.3
_STARTS_LESS = 0.5  # of these, from healthy runs: there one large step is far away
_WEIGHT_OF_GUESS = 2.0  # reruns that a guess counts as
_AGREEMENT = 0.85  # of further seeds with a change that turned the run's own seed
_WORTH_OF_CAUSE = 3.0  # a cause is what is asked for; that a setting does nothing is worth 1
_TIMES_SEEDS = 2  # as many seeds as wanted, where a setting is in doubt


@dataclass(frozen=True)
class _Aim:
    """Something that may be shown, and the reruns for it.

    Attributes:
        chance: that it will be shown, as far as is known.
        cost: reruns that it still takes, about.
        asked: what to train for it, the most urgent first.
    """

    chance: float
    cost: float
    asked: tuple[RunConfig, ...]
    worth: float = 1.0

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
    return missing, round(sum(aim.cost for aim in aims)) if missing else 0


def _aims(plan: Plan, results: Results, seen: Sightings, found: Sequence[Effect]) -> list[_Aim]:
    """The best aim of each setting that is neither named nor cleared nor given up."""
    if not plan.on(Side.STOPS):
        return []
    guesses = guesses_of(plan)
    first = _clearly_first(guesses)
    best = []
    for effect in found:
        factor = effect.factor
        if factor.keeps_step or effect.conclusion in _SETTLED:
            continue
        arms = [
            _Arm(
                plan,
                effect,
                side,
                tuple(seen.of(factor, side)),
                guesses[factor] * times,
                side is Side.STOPS and factor == first,
            )
            for side, times in ((Side.STOPS, 1.0), (Side.STARTS, _STARTS_LESS))
            if effect.on(side) is not None
        ]
        aims = [aim for arm in arms if (aim := arm.naming()) is not None]
        if (cleared := _clearing(arms, results)) is not None:
            aims.append(cleared)
        if aims:
            best.append(max(aims, key=lambda aim: aim.rank))
    if (contrast := _contrasting(plan, results, seen, {e.factor: e for e in found})) is not None:
        best.append(contrast)
    return best


def guesses_of(plan: Plan) -> dict[Factor, float]:
    """How likely each turns a run, by how the study's runs ended: a guess, no evidence."""
    shares = dict(plan.shares)
    # A rate is drawn by the normalization, so that either takes a part of what both explain.
    shares[LEARNING_RATE] = max(shares.get(NORMALIZATION, 0.0), shares.get(LEARNING_RATE, 0.0))
    largest = max(shares.values(), default=0.0) or 1.0
    span = _CHANCE_OF_FIRST - _CHANCE_OF_OTHER
    return {
        factor: _CHANCE_OF_OTHER + span * shares.get(factor.setting, 0.0) / largest
        for factor in plan.factors
    }


def _clearly_first(guesses: Mapping[Factor, float]) -> Factor | None:
    """The setting that alone goes along with the verdict; a rate goes with its normalization."""
    rates = {_RATE, _SAME_STEP} if Factor(LEARNING_RATE) in guesses else {_SAME_STEP}
    order = sorted((f for f in guesses if f not in rates), key=lambda f: -guesses[f])
    others = [guesses[factor] for factor in order[1:2]]
    midway = (_CHANCE_OF_FIRST + _CHANCE_OF_OTHER) / 2
    return order[0] if order and all(guess < midway for guess in others) else None


@dataclass(frozen=True)
class _Arm:
    """One setting from one side.

    Attributes:
        seen: what was seen of it, in order.
        guess: that it turns a run, before anything is trained.
        is_first: whether no other setting is nearly as likely, before anything is trained.
    """

    plan: Plan
    effect: Effect
    side: Side
    seen: tuple[Seen, ...]
    guess: float
    is_first: bool = False

    @cached_property
    def picks(self) -> list[Pick]:
        return [p for p in self.plan.on(self.side) if self.effect.factor in p.factors]

    @cached_property
    def own(self) -> dict[tuple[int, str], Seen]:
        """What was seen with the runs' own seeds, by pick and change."""
        return {(id(s.pick), s.change.text): s for s in self.seen if not s.seed}

    @cached_property
    def pairs(self) -> dict[tuple[int, int], Seen]:
        """What was seen with further seeds, by pick and seed."""
        return {(id(s.pick), s.seed): s for s in self.seen if s.seed}

    def turning(self, pick: Pick) -> Change | None:
        """The first change that turned the run with its own seed."""
        return self._turning.get(id(pick))

    @cached_property
    def _turning(self) -> dict[int, Change]:
        return {
            id(pick): change
            for pick in self.picks
            for change in reversed(pick.of_factor(self.effect.factor))
            if self._has_turned(pick, change)
        }

    def untried(self, pick: Pick) -> Change | None:
        """The next change to try on a run that none has turned."""
        if self.turning(pick) is not None:
            return None
        changes = pick.of_factor(self.effect.factor)
        return next((c for c in changes if (id(pick), c.text) not in self.own), None)

    def _has_turned(self, pick: Pick, change: Change) -> bool:
        own = self.own.get((id(pick), change.text))
        return own is not None and pick.is_wanted(own.after)

    @cached_property
    def chance_of_turning(self) -> float:
        """That a change turns a run with its own seed."""
        tried = {id(own.pick) for own in self.own.values()}
        n_turned = sum(self.turning(pick) is not None for pick in self.picks)
        return (n_turned + _WEIGHT_OF_GUESS * self.guess) / (len(tried) + _WEIGHT_OF_GUESS)

    def naming(self) -> _Aim | None:
        """Pairs enough to show that it acts; None where that is out of reach."""
        on = self.effect.on(self.side)
        assert on is not None
        level = SINGLE_ERROR_RATE / len(self.plan.factors) * (2 / 3)
        needed = pairs_needed(on.n_with, on.n_against, level)
        if needed is None:
            return None
        n_more = max(1, needed - on.n_with - on.n_against)
        screens = [c for pick in self.picks if (c := self._screen(pick)) is not None]
        turned = [pick for pick in self.picks if self.turning(pick) is not None]
        is_bold = self.is_first and not self.own  # screens would only delay what is likely
        among = self.picks if is_bold else turned
        n_further = self._n_further(among)
        # Of its own pairs in the runs that it turns; a fair bet allows no look at others.
        chosen = [s for s in self.pairs.values() if self.turning(s.pick) is not None]
        n_with = sum(own.is_with for own in chosen)
        agreement = (n_with + 4 * _AGREEMENT) / (len(chosen) + 4)
        n_pairs = math.ceil(n_more / agreement)
        chance = self.chance_of_turning if not chosen else agreement
        n_possible = n_further + (len(screens) * _seeds_of(self.picks) if not is_bold else 0)
        is_hopeless = n_possible < n_more and bool(self.pairs)  # a first few show what is likeliest
        if is_hopeless or not (n_further or screens):
            return None
        asked = [config for pair in self._further(among, n_pairs) for config in pair]
        is_short = n_further < n_pairs
        if is_bold or is_short:
            asked += screens
        cost = 1.6 * n_pairs + len(screens) * is_short
        return _Aim(chance, cost, tuple(asked), _WORTH_OF_CAUSE)

    def stays_left(self) -> int | None:
        """Reruns that would have to stay as they were, to clear it from this side."""
        on = self.effect.on(self.side)
        assert on is not None
        return stays_needed(on.n_left, on.n_stayed)

    def idle_reruns(self, n: int) -> list[RunConfig]:
        """So many reruns that may show that it does nothing, or as many as there are.

        Those with the runs' own seeds first: their unchanged runs are the study's own.
        """
        untried = [
            [c for c in pick.of_factor(self.effect.factor) if (id(pick), c.text) not in self.own]
            for pick in self.picks
        ]
        own = [  # the first change of each run, then the second ones: runs differ most
            config
            for alike in islice(zip_longest(*untried), n)
            for pick, change in zip(self.picks, alike, strict=True)
            if change is not None and (config := pick.changed([change], 0)) is not None
        ]
        further = self._further(self.picks, max(0, n - len(own)))
        return [*own[:n], *(config for pair in further for config in pair)]

    def n_idle(self) -> int:
        """How many such reruns there are."""
        n_own = sum(
            (id(pick), change.text) not in self.own
            for pick in self.picks
            for change in pick.of_factor(self.effect.factor)
        )
        return n_own + self._n_further(self.picks)

    def _screen(self, pick: Pick) -> RunConfig | None:
        change = self.untried(pick)
        return pick.changed([change], 0) if change is not None else None

    def _n_further(self, picks: Sequence[Pick]) -> int:
        """How many pairs of further seeds are not trained."""
        return sum(
            (id(pick), seed) not in self.pairs
            for pick in picks
            if not self._is_in_vain(pick)
            for seed in range(1, _n_seeds(pick) + 1)
        )

    def _further(self, picks: Sequence[Pick], n: int) -> list[tuple[RunConfig, RunConfig]]:
        """The next pairs of further seeds, in their fixed order: unchanged, changed."""
        found: list[tuple[RunConfig, RunConfig]] = []
        open_picks = [pick for pick in picks if not self._is_in_vain(pick)]
        for seed, pick in product(range(1, _seeds_of(picks) + 1), open_picks):
            if len(found) == n:
                break
            if seed > _n_seeds(pick) or (id(pick), seed) in self.pairs:
                continue
            changes = pick.of_factor(self.effect.factor)
            change = self.turning(pick) or self.untried(pick) or changes[0]
            changed = pick.changed([change], seed)
            if changed is not None:
                found.append((pick.configs[seed], changed))
        return found

    def _is_in_vain(self, pick: Pick) -> bool:
        """Whether a change that turned the own seed turned none of three further ones."""
        mine = [s for s in self.pairs.values() if s.pick is pick]
        is_turned = self.turning(pick) is not None
        return is_turned and len(mine) >= 3 and all(pick.is_picked(s.after) for s in mine)


def _n_seeds(pick: Pick) -> int:
    return min(_TIMES_SEEDS * pick.n_seeds, len(pick.configs) - 1)


def _seeds_of(picks: Sequence[Pick]) -> int:
    return max((_n_seeds(pick) for pick in picks), default=0)


def _clearing(arms: Sequence[_Arm], results: Results) -> _Aim | None:
    """Reruns enough on both sides to show that it does nothing; None where that is too far."""
    cost, asked = 0.0, list[RunConfig]()
    for arm in arms:
        n_more = arm.stays_left()
        if n_more is None or n_more > arm.n_idle():
            return None
        reruns = arm.idle_reruns(n_more)
        cost += len([config for config in reruns if config not in results])
        asked += reruns
    chance = math.prod(1 - arm.chance_of_turning for arm in arms)
    return _Aim(chance, cost, tuple(asked)) if asked else None


def _contrasting(
    plan: Plan, results: Results, seen: Sightings, found: dict[Factor, Effect]
) -> _Aim | None:
    """Pairs enough to show whether the normalization acts through the step; None if not asked."""
    if _SAME_STEP not in found or found[_SAME_STEP].conclusion is Conclusion.CAUSE:
        return None
    named = {factor for factor, own in found.items() if own.conclusion is Conclusion.CAUSE}
    if not named & {_RATE, Factor(LEARNING_RATE)}:
        return None
    contrast = step_contrast(seen)
    needed = pairs_needed(contrast.n_with, contrast.n_against, STEP_ERROR_RATE)
    if contrast.is_shown or needed is None:
        return None
    arm = _Arm(plan, found[_RATE], Side.STOPS, tuple(seen.of(_RATE, Side.STOPS)), 0.0)
    n_more = max(1, needed - contrast.n_with - contrast.n_against)
    asked = list(islice(_beside(arm, results), math.ceil(n_more / _AGREEMENT)))
    if len(asked) < n_more:
        return None
    configs = [config for pair in asked for config in pair]
    missing = [config for config in configs if config not in results]
    return _Aim(_AGREEMENT, len(missing), tuple(missing), _WORTH_OF_CAUSE)


def _beside(arm: _Arm, results: Results) -> Iterator[tuple[RunConfig, ...]]:
    """The unchanged run, the rate kept and the step kept, where the rate kept ends the swings."""
    most = max((len(pick.configs) for pick in arm.picks), default=0)
    for seed, pick in product(range(1, most), arm.picks):
        rate = arm.pairs.get((id(pick), seed))
        change = rate.change if rate is not None else _ending(arm, pick)
        if change is not None and seed < len(pick.configs) and _ends(arm, pick, change):
            step = _at_same_step(pick, change)
            kept = pick.changed([step], seed) if step is not None else None
            changed = pick.changed([change], seed)
            if kept is not None and changed is not None and kept not in results:
                yield pick.configs[seed], changed, kept


def _ending(arm: _Arm, pick: Pick) -> Change | None:
    """The first change that ends the swings with the run's own seed, in whichever way."""
    changes = pick.of_factor(arm.effect.factor)
    return next((change for change in changes if _ends(arm, pick, change)), None)


def _ends(arm: _Arm, pick: Pick, change: Change) -> bool:
    own = arm.own.get((id(pick), change.text))
    return own is not None and own.after is not pick.asked


def _at_same_step(pick: Pick, change: Change) -> Change | None:
    wanted = dict(change.values)[NORMALIZATION]
    steps = pick.of_factor(_SAME_STEP)
    return next((s for s in steps if dict(s.values)[NORMALIZATION] == wanted), None)
