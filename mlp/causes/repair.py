"""One run: why it ends badly, and the smallest change with which it ends well, by reruns."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

from mlp.causes.changes import (
    DEPTH,
    LEARNING_RATE,
    NORMALIZATION,
    Change,
    Factor,
    GradientNorm,
    Train,
    chance_of,
    change_to,
    changes_of,
    distance_between,
    domain_of,
    entry_of,
    left_alone,
    places,
    plain,
    rerun,
    step_example,
    with_further_seeds,
)
from mlp.causes.observed import DEEDS, HEALTHY, Deed, is_repair
from mlp.config import RunConfig, Value
from mlp.curve import Judgement, Verdict
from mlp.settings import learning_rate_of, settings_of
from mlp.stability.ratio import step_factor
from mlp.study.space import Choice, Range, Space

_SIZE_OF_STEP = {LEARNING_RATE, NORMALIZATION}
_TEN, _FAR = 10.0, 100.0
_ROUNDS = 6  # of a bisection: three suffice where all seeds agree
_NARROWER = 0.0, 0.05, 0.12, 0.25, 0.5  # of the way back from the edge, until twice the seeds hold
_POINTS = 4  # between what is known; they train side by side
_TOLERANCE = 0.1  # of the value (log), or of the whole way
_FARTHEST_PLACE = -1.5  # beyond the value that was good with the own seed, in whole ways
_MOST_PAIRS = 3  # that are tried with further seeds

_SWINGS = Deed("swings on its way", "swing on its way", "the swings")  # and settles


@dataclass(frozen=True)
class Edge:
    """Between which values of a setting a run begins to end badly.

    Attributes:
        setting: its path.
        good: up to here it ended well with each seed.
        bad: from here on it ended badly with one of them, or more.
        n_seeds: with which it was tried, the run's own among them.
    """

    setting: str
    good: float
    bad: float
    n_seeds: int


@dataclass(frozen=True)
class Attempt:
    """A change that was tried on the run.

    Attributes:
        text: as typed.
        keeps_step: whether the normalization is changed at the same effective step.
        distance: how far it goes, as a share of the settings' domains.
        verdict: how the run ended with its own seed.
        n_cured: further seeds with which it ended well, and no higher than the unchanged run where
            that ends badly.
        config: the changed run, with its own seed.
    """

    text: str
    settings: tuple[str, ...]
    keeps_step: bool
    distance: float
    verdict: Verdict
    n_cured: int
    n_seeds: int
    config: RunConfig

    @property
    def is_reliable(self) -> bool:
        """Whether it works with more than half of the further seeds that were tried."""
        return 2 * self.n_cured > self.n_seeds


@dataclass(frozen=True)
class Repair:
    """Why one run ends badly, and with which changes it ends well.

    Attributes:
        before: how it ends unchanged.
        step: its first step in words; None where that is simply its learning rate.
        unit_step: the step on the mean gradient that a learning rate of 1 is worth; None where
            that depends on the gradient.
        ratio: its stability ratio at its first weights; None where that is not known.
        n_alike: further seeds with which it ends as it does with its own, unchanged.
        n_bad: further seeds with which it ends badly in any way, unchanged.
        cures: changes that repair it with its own seed, those that do so most often with further
            ones first and of these the smallest; the first is the repair. Empty: none was found.
        edges: of numbers, how far each can go before the run ends badly.
        quiet_failures: changes with which it ends otherwise, but not well, or at a higher loss.
        without_effect: settings of no cure; with its own seed and every value that was tried, the
            run still ends as it did.
    """

    config: RunConfig
    before: Judgement
    step: str | None
    unit_step: float | None
    ratio: float | None
    n_alike: int
    n_bad: int
    n_seeds: int
    cures: tuple[Attempt, ...]
    edges: tuple[Edge, ...]
    quiet_failures: tuple[Attempt, ...]
    without_effect: tuple[str, ...]
    n_trained: int
    is_complete: bool

    @property
    def is_verified(self) -> bool:
        """Whether there is a change that stops the run, and that was tried with further seeds."""
        return bool(self.cures) and self.cures[0].n_seeds > 0

    def __str__(self) -> str:
        """The answer in sentences."""
        return " ".join(describe_repair(self))


def needs_repair(judgement: Judgement) -> bool:
    """Whether a run ends badly, or swung on its way and settled."""
    return judgement.verdict not in HEALTHY or judgement.spiked


def repair(
    config: RunConfig,
    space: Space,
    train: Train,
    *,
    before: Judgement,
    n_examples: int,
    gradient_norm: GradientNorm,
    ratio: float | None = None,
    seeds: int = 4,
    known: Mapping[RunConfig, Judgement] | None = None,
    population: int = 64,
    goes_on: Callable[[], bool] = lambda: True,
) -> Repair:
    """Searches the smallest change with which one run ends well.

    Every single change is trained with the run's own seed. Where a number does, its edge is found
    by bisection with all seeds. The nearest change of each setting that does is trained with the
    further seeds, and the smallest of those that hold with twice as many. Only if no single change
    repairs, pairs are searched in the same way.

    Args:
        config: of a run that `needs_repair`.
        space: what may be changed; of its study, or the `standard_space`.
        ratio: its stability ratio at its first weights, if that is known.
        population: configs that are trained in one call of `train`, at most.
        goes_on: asked before each population.
    """
    own = plain(config)
    configs = with_further_seeds(own, 2 * seeds)
    norms = list(gradient_norm(configs))
    worth = float(step_factor(own, norms[0] or 1.0, n_examples))  # of a learning rate of 1
    usual = _usual_settings(own, worth)
    space = (*space, *_other_settings(own, space, usual))
    changes = changes_of(
        configs,
        space,
        n_examples=n_examples,
        gradient_norm=norms.__getitem__,
        targets={},
        order=lambda _name, _value: 0.0,
    )
    changes += tuple(_further_changes(own, space, changes, usual))
    results = {**(known or {}), own: before}
    search = _Search(configs, before, space, changes, train, results, population, goes_on, seeds)
    search.train([([], seed) for seed in search.seeds] + [([change], 0) for change in changes])
    ways = _find_edges(search)
    curing: list[tuple[Change, ...]] = [(change,) for change in _singles(search, ways)]
    _verify(search, curing)
    if not any(search.is_cured(own) for own in curing):
        curing += _pairs(search)
        _verify(search, curing)
    _hold(search, curing, ways)
    cures = [_attempt(search, changes) for changes in curing if search.is_cured(changes)]
    acting = {setting for cure in cures for setting in cure.settings}
    unchanged = [j for seed in search.seeds if (j := search.judged([], seed)) is not None]
    has_norm = own.own is None and own.gradient.normalization in ("sum", "mean")
    return Repair(
        config=own,
        before=before,
        step=step_example(own, n_examples, lambda _: norms[:1]),
        unit_step=float(step_factor(own, 1.0, n_examples)) if has_norm else None,
        ratio=ratio,
        n_alike=sum(_is_alike(before, judged) for judged in unchanged),
        n_bad=sum(search.ends_well([], seed) is False for seed in search.seeds),
        n_seeds=len(unchanged),
        cures=tuple(sorted(cures, key=_preference)),
        edges=tuple(edge for path, way in ways.items() if (edge := way.edge(path)) is not None),
        quiet_failures=tuple(
            _attempt(search, [change])
            for change in changes
            if (judged := search.judged([change], 0)) is not None
            and not _is_alike(before, judged)
            and not search.is_cured([change])
        ),
        without_effect=tuple(setting for setting in _in_vain(search) if setting not in acting),
        n_trained=len(results) - 1,  # the run itself is among them
        is_complete=search.is_complete,
    )


def _usual_settings(config: RunConfig, worth: float) -> dict[str, Value]:
    """What every setting of a run is where nobody says otherwise; its rate, of the usual step.

    Args:
        worth: the step on the mean gradient that a learning rate of 1 is worth.
    """
    if config.own is not None:
        return {f"own.{each.name}": each.default for each in config.own.program.arguments}
    usual_rate = float(f"{RunConfig().optimizer.rate / worth:.3g}")
    return {**settings_of(RunConfig()), LEARNING_RATE: usual_rate}


def _other_settings(config: RunConfig, space: Space, usual: Mapping[str, Value]) -> Space:
    """What is not as usual in the run and stands in no space: it may be made so."""
    own = settings_of(config)
    known = {entry.path for entry in space} | left_alone(config)
    return tuple(
        entry_of(path, Choice((own[path], value)))
        for path, value in usual.items()
        if path not in known and value is not None and own[path] not in (None, value)
    )


def _further_changes(
    config: RunConfig, space: Space, changes: Sequence[Change], usual: Mapping[str, Value]
) -> Iterator[Change]:
    """Numbers a hundred times larger and smaller, the usual ones, and lower depths.

    No study tells here which values are quiet.
    """
    own, known = settings_of(config), {change.values for change in changes}
    tried = {change.factor.setting for change in changes}
    for entry in space:
        drawn = domain_of(config, entry)
        domain = drawn and drawn[1]
        if entry.path not in tried or not isinstance(domain, Range):
            continue
        for _, value, set_to in places(config, own, entry):
            numbers: list[float] = []
            if isinstance(value, float):
                far = (value / _FAR, value * _FAR)
                numbers += [min(max(number, domain.low), domain.high) for number in far]
                if isinstance(often := usual[entry.path], float) and often > 0:
                    numbers += [often, often / _TEN]
            elif entry.path == DEPTH:
                numbers += range(1, config.model.depth - 1)
            for number in dict.fromkeys(numbers):
                values = set_to(number)
                if number != value and values not in known:
                    yield change_to(values, distance_between(domain, value, number))


@dataclass(eq=False)
class _Search:
    """A run, what may be changed in it, and what was trained so far.

    Attributes:
        configs: unchanged, with its own seed first and then with twice the further ones.
        n_seeds: further seeds that every cure is tried with.
    """

    configs: tuple[RunConfig, ...]
    before: Judgement
    space: Space
    changes: tuple[Change, ...]
    trainer: Train
    results: dict[RunConfig, Judgement]
    population: int
    goes_on: Callable[[], bool]
    n_seeds: int
    is_complete: bool = True

    @property
    def seeds(self) -> range:
        """Places of the further seeds."""
        return range(1, self.n_seeds + 1)

    def train(self, asked: Iterable[tuple[Sequence[Change], int]]) -> bool:
        """Trains what is not known; returns whether all of it is known now."""
        wanted = [rerun(self.configs[seed], changes, seed) for changes, seed in asked]
        batch = [c for c in dict.fromkeys(wanted) if c is not None and c not in self.results]
        for first in range(0, len(batch), self.population):
            self.is_complete = self.is_complete and self.goes_on()
            if not self.is_complete:
                return False
            configs = batch[first : first + self.population]
            self.results.update(zip(configs, self.trainer(configs), strict=True))
        return True

    def judged(self, changes: Sequence[Change], seed: int) -> Judgement | None:
        """How the changed run ended with a seed; None if it was not trained, or cannot be."""
        config = rerun(self.configs[seed], changes, seed)
        return None if config is None else self.results.get(config)

    def ends_well(self, changes: Sequence[Change], seed: int) -> bool | None:
        """Whether it learns below chance and, of a run that swung, calmly; None: not trained."""
        after = self.judged(changes, seed)
        if after is None:
            return None
        is_calm = self.before.verdict not in HEALTHY or not after.spiked
        is_below = after.tail_loss < chance_of(self.configs[0])
        return after.verdict in HEALTHY and is_below and is_calm

    def is_cured(self, changes: Sequence[Change], seed: int = 0) -> bool | None:
        """Whether it ends well, and no higher than the unchanged run where that ends badly."""
        before, after = self.judged([], seed), self.judged(changes, seed)
        if after is None or before is None or before.verdict in {*HEALTHY, Verdict.DIVERGED}:
            return self.ends_well(changes, seed)
        is_lower = is_repair(before, after, chance_of(self.configs[0]))
        return is_lower and self.ends_well(changes, seed)

    def of_factor(self) -> dict[Factor, list[Change]]:
        """The changes of each factor, the nearest first."""
        factors: dict[Factor, list[Change]] = {}
        for change in sorted(self.changes, key=lambda change: change.distance):
            factors.setdefault(change.factor, []).append(change)
        return dict(sorted(factors.items()))

    def changed_to(self, setting: str, value: float) -> Change:
        """A number of the run set to a value."""
        entry = next(entry for entry in self.space if entry.path == setting)
        drawn = domain_of(self.configs[0], entry)
        assert drawn is not None
        start = settings_of(self.configs[0])[setting]
        return change_to(((setting, value),), distance_between(drawn[1], start, value))


def _is_alike(before: Judgement, after: Judgement) -> bool:
    """Whether a rerun ends in the same bad way."""
    if before.verdict in HEALTHY:
        return after.verdict in HEALTHY and after.spiked
    return after.verdict is before.verdict


@dataclass
class Bisection:
    """The search of one edge, on the way from a value that is good to the run's own, which is not.

    A place on the way is 0 at the good value, 1 at the run's own, and below 0 beyond the good one.
    Values are evenly spaced by their logarithm where both ends are above 0. Of each seed, what lies
    before a good place counts as good; of all of them, what lies after a bad one as bad.

    Attributes:
        good: ends well with the run's own seed.
        start: of the run itself.
        ends: for each seed, place -> whether the run ended well there.
    """

    good: float
    start: float
    ends: list[dict[float, bool]] = field(default_factory=list)

    @property
    def is_log(self) -> bool:
        """Whether values are spaced by their logarithm."""
        return min(self.good, self.start) > 0

    def value(self, place: float) -> float:
        """The value at a place, to three digits, so that it can be typed.

        Example:
            >>> Bisection(0.1, 10.0).value(0.5)
            1.0
        """
        if place in (0, 1):
            return self.start if place else self.good
        if self.is_log:
            value = self.good ** (1 - place) * self.start**place
        else:
            value = self.good + (self.start - self.good) * place
        return float(f"{value:.3g}")

    @property
    def bad_place(self) -> float:
        """The first place where any seed ends badly."""
        return min(map(_first_bad, self.ends), default=math.inf)

    @property
    def good_place(self) -> float:
        """The last place up to which each seed ends well; -inf where one has no such place."""
        return min(map(_last_good, self.ends), default=-math.inf)

    def wanted(self) -> list[tuple[int, float]]:
        """Seeds and places to train next; none where the edge is known, or beyond reach."""
        bad, good = self.bad_place, self.good_place
        if (bad - good) * self._length <= _TOLERANCE:
            # What lies before a good place is good as a rule, not always.
            return [(seed, good) for seed, own in enumerate(self.ends) if good not in own]
        low = good
        if low == -math.inf:
            back = min(0.5, math.log(10) / self._length) if self.is_log else 0.5
            low = 0.0 if bad > 0 else bad - back
            if low < (_FARTHEST_PLACE if self.is_log else 0.0):
                return []
        places = [low + (bad - low) * i / (_POINTS + 1) for i in range(_POINTS + 1)]
        return [
            (seed, place)
            for seed, own in enumerate(self.ends)
            for place in places
            if place not in own and place > _last_good(own)
        ]

    def edge(self, setting: str) -> Edge | None:
        """What is known of the edge; None where no value is known that is good with each seed."""
        good, bad = self.good_place, self.bad_place
        if not -math.inf < good < bad < math.inf:
            return None
        return Edge(setting, self.value(good), self.value(bad), len(self.ends))

    @property
    def _length(self) -> float:
        return abs(math.log(self.start / self.good)) if self.is_log else 1.0


def _first_bad(ends: Mapping[float, bool]) -> float:
    return min((place for place, is_good in ends.items() if not is_good), default=math.inf)


def _last_good(ends: Mapping[float, bool]) -> float:
    first_bad = _first_bad(ends)
    good = (place for place, is_good in ends.items() if is_good and place < first_bad)
    return max(good, default=-math.inf)


def _find_edges(search: _Search) -> dict[str, Bisection]:
    """Bisects every number with which the run ends well, all of them side by side."""
    start, rate = settings_of(search.configs[0]), learning_rate_of(search.configs[0])
    ways: dict[str, Bisection] = {}
    for factor, changes in search.of_factor().items():
        path, value = factor.setting, start[factor.setting]
        if not isinstance(value, float):
            continue
        targets = [
            number
            for own in changes
            if isinstance(number := dict(own.values)[path], float) and search.ends_well([own], 0)
        ]
        if path == rate:  # a larger one may end well by chance, saturated
            targets.sort(key=lambda number: number > value)
        if targets:
            known = [search.ends_well([], seed) for seed in (0, *search.seeds)]
            ends = [{} if is_well is None else {1.0: is_well} for is_well in known]
            ends[0][0.0] = True
            ways[path] = Bisection(targets[0], value, ends)
    for _ in range(_ROUNDS):
        asked = [
            (way, seed, place, search.changed_to(path, way.value(place)))
            for path, way in ways.items()
            for seed, place in way.wanted()
        ]
        if not asked or not search.train(([change], seed) for _, seed, _, change in asked):
            break
        for way, seed, place, change in asked:
            way.ends[seed][place] = bool(search.ends_well([change], seed))
    return ways


def _singles(search: _Search, ways: Mapping[str, Bisection]) -> list[Change]:
    """The nearest change of each setting that cures with the run's own seed."""
    found = []
    for factor, changes in search.of_factor().items():
        way = ways.get(factor.setting)
        if way is not None and way.good_place > -math.inf:
            changes = [search.changed_to(factor.setting, way.value(way.good_place)), *changes]
            search.train([(changes[:1], 0)])
        found += [own for own in changes if search.is_cured([own])][:1]
    return found


def _verify(search: _Search, curing: Sequence[Sequence[Change]]) -> None:
    """Trains all of them with the further seeds."""
    search.train((changes, seed) for changes in curing for seed in search.seeds)


def _pairs(search: _Search) -> list[tuple[Change, ...]]:
    """Two settings changed together that cure; of each its two most promising changes."""
    sides = {factor: _sides(search, changes) for factor, changes in search.of_factor().items()}
    tried = [
        both
        for one, other in combinations(sides, 2)
        if one.setting != other.setting
        for both in product(sides[one], sides[other])
    ]
    search.train((both, 0) for both in tried)
    cures = [both for both in tried if search.is_cured(both)]
    first: dict[tuple[str, ...], tuple[Change, ...]] = {}
    for both in sorted(cures, key=lambda both: sum(own.distance for own in both)):
        first.setdefault(tuple(own.factor.setting for own in both), both)
    return list(first.values())[:_MOST_PAIRS]


def _sides(search: _Search, changes: Sequence[Change]) -> list[Change]:
    """Of a number the nearest on each side; of a choice those that swing least, or end lowest."""
    path = changes[0].factor.setting
    own = settings_of(search.configs[0])[path]

    def size(change: Change) -> float:
        judged = search.judged([change], 0)
        return math.inf if judged is None else judged.amplitude or judged.tail_loss

    def is_above(change: Change) -> bool:
        return dict(change.values)[path] > own  # type: ignore[operator]

    if not isinstance(own, int | float):
        return sorted(changes, key=size)[:2]
    lower, higher = [[c for c in changes if is_above(c) is side] for side in (False, True)]
    return [*lower[:1], *higher[:1]]


def _hold(search: _Search, curing: list[tuple[Change, ...]], ways: Mapping[str, Bisection]) -> None:
    """Where the smallest reliable cure is a number, goes back from its edge until it holds.

    The edge of five seeds is not that of the sixth. So twice the seeds are tried.
    """
    # By the seeds that all were tried with: what an earlier call knows besides turns nothing.
    tried = [(_attempt(search, own, search.seeds), own) for own in curing]
    best, changes = min(tried, key=lambda own: _preference(own[0]), default=(None, ()))
    if best is None or len(changes) > 1 or not best.is_reliable:
        return
    [setting] = best.settings
    way = ways.get(setting)
    if way is None or way.good_place == -math.inf:
        return
    seeds = range(len(search.configs))
    for back in _NARROWER:
        change = search.changed_to(setting, way.value(way.good_place - back))
        if not search.train(([change], seed) for seed in seeds):
            return
        if all(search.ends_well([change], seed) for seed in seeds) and search.is_cured([change]):
            curing[curing.index(changes)] = (change,)
            return


def _in_vain(search: _Search) -> tuple[str, ...]:
    """Settings of which every change left the run as it was, with its own seed."""
    judged: dict[str, list[Judgement | None]] = {}
    for change in search.changes:
        judged.setdefault(change.factor.setting, []).append(search.judged([change], 0))
    return tuple(
        setting
        for setting, all_of_it in judged.items()
        if all(own is not None and _is_alike(search.before, own) for own in all_of_it)
    )


def _attempt(
    search: _Search, changes: Sequence[Change], seeds: Iterable[int] | None = None
) -> Attempt:
    """A change that was trained with the run's own seed; counted over these further ones."""
    own, config = search.judged(changes, 0), rerun(search.configs[0], changes, 0)
    assert own is not None
    assert config is not None
    further = [search.is_cured(changes, s) for s in seeds or range(1, len(search.configs))]
    known = [is_cured for is_cured in further if is_cured is not None]
    return Attempt(
        text=" ".join(change.text for change in changes),
        settings=tuple(change.factor.setting for change in changes),
        keeps_step=any(change.factor.keeps_step for change in changes),
        distance=sum(change.distance for change in changes),
        verdict=own.verdict,
        n_cured=sum(known),
        n_seeds=len(known),
        config=config,
    )


def _preference(attempt: Attempt) -> tuple[int, float, float]:
    """Fewest settings, then most further seeds cured, then the shortest way."""
    share = attempt.n_cured / attempt.n_seeds if attempt.n_seeds else 0.0
    return len(attempt.settings), -share, attempt.distance


def describe_repair(found: Repair) -> tuple[str, ...]:
    """Why the run ends badly, what stops that and what does not: one to seven sentences."""
    does, do, noun = DEEDS.get(found.before.verdict, _SWINGS)
    unchanged, quiet = tuple(_unchanged_sentence(found, does)), tuple(_quiet_sentences(found))
    so_far = "" if found.is_complete else " so far (the search was stopped early)"
    if not found.cures and not found.is_complete:
        return ("The time was up before a change was found that stops this run.", *unchanged)
    if found.cures and not found.is_verified:
        own = found.cures[0]
        return (
            f"With its own seed {own.text} stops it ({own.verdict.value}); the time was up "
            "before it was tried with further seeds.",
        )
    if (edge := _surer_edge(found)) is not None:
        about = f" ({found.step})" if found.step and edge.setting == LEARNING_RATE else ""
        lead = (
            f"{edge.setting} makes it {do}{about}: with {edge.n_seeds} seeds it ends well "
            f"{_edge_words(found, edge)}{so_far}, but not in all of them at as low a loss."
        )
        return (lead, *unchanged, *_other_sentences(found.cures), *quiet)
    edges = "; ".join(_edge_words(found, edge) for edge in found.edges)
    edges = f"With {found.edges[0].n_seeds} seeds it ends well {edges}." if edges else ""
    if not found.cures:
        ends_higher = any(own.verdict in HEALTHY for own in found.quiet_failures)
        how = " at as low a loss" if ends_higher else ""
        lead = f"No change of one setting, or of two, stops {noun}{how}."
        return tuple(filter(None, (lead, *unchanged, edges, *quiet)))
    best = found.cures[0]
    ended = f"{best.verdict.value}, and with {best.n_cured} of {best.n_seeds} further seeds"
    if _is_chance(found):
        said = f"With its first weights {best.text} stops it{so_far} ({ended}), by chance perhaps."
        return (said, *unchanged)
    # What else stops it: of each setting the most reliable change, which comes first.
    by_settings = {cure.settings: cure for cure in reversed(found.cures)}
    others = [cure for cure in found.cures[1:] if by_settings[cure.settings] is cure]
    is_single = len(best.settings) == 1
    is_smallest = all(best.distance <= other.distance for other in others if other.is_reliable)
    how = "the smallest" if is_smallest else "the most reliable"
    how += f"{' single' * (is_single and not best.keeps_step)} change"
    names = " and ".join(best.settings)
    subject = f"{names} {'makes' if is_single else 'make'} it {do}{_about_its_step(found)}"
    lead = f"{subject}: {best.text} is {how} that stops it{so_far} ({ended})."
    rest = (lead, *unchanged, edges, *_other_sentences(others), *quiet)
    return tuple(sentence for sentence in rest if sentence)


def named_causes(found: Repair) -> tuple[str, ...]:
    """The settings that the answer names; none where what stops the run may be chance."""
    if found.cures and not found.is_verified:
        return ()
    if (edge := _surer_edge(found)) is not None:
        return (edge.setting,)
    return found.cures[0].settings if found.cures and not _is_chance(found) else ()


def _surer_edge(found: Repair) -> Edge | None:
    """An edge that says more than the best change: it holds in all seeds, and that does not.

    On its good side the run ends well, but not in all seeds as low as unchanged: it is no repair.
    """
    best = found.cures[0] if found.cures else None
    if 2 * found.n_bad < found.n_seeds or (best is not None and best.n_cured == best.n_seeds):
        return None
    rate = learning_rate_of(found.config)
    return min(found.edges, key=lambda edge: edge.setting != rate, default=None)


def _is_chance(found: Repair) -> bool:
    return 2 * found.n_bad < found.n_seeds or not found.cures[0].is_reliable


def _unchanged_sentence(found: Repair, does: str) -> Iterator[str]:
    if found.n_seeds:
        others = found.n_bad - found.n_alike
        bad = f", and ends badly in another way with {others}" if others else ""
        yield f"Unchanged it {does} with {found.n_alike} of {found.n_seeds} further seeds{bad}."


def _edge_words(found: Repair, edge: Edge) -> str:
    """One edge; that of the learning rate as a step on the mean, with the theory beside it."""
    value = settings_of(found.config)[edge.setting]
    assert isinstance(value, float)
    times, name, notes = 1.0, f"{edge.setting}=", []
    if edge.setting == LEARNING_RATE:
        if found.unit_step not in (None, 1.0):
            assert found.unit_step is not None
            times, name = found.unit_step, "a step on the mean of "
            notes.append(f"its own is {value * times:.3g}")
        if found.ratio:
            curvature = f"{2 * (1 + found.config.optimizer.momentum):.3g}/sharpness"
            threshold = value / found.ratio * times
            notes.append(f"{curvature} at its first weights says {threshold:.2g}")
    good, bad = f"{name}{edge.good * times:.3g}", f"{edge.bad * times:.3g}"
    beside = f" ({', '.join(notes)})" if notes else ""
    if edge.good < value:
        return f"up to {good}, not from {bad} on{beside}"
    return f"from {good} on, not from {bad} down{beside}"


def _about_its_step(found: Repair) -> str:
    """What the cures tell about the size of the step."""
    best = found.cures[0]
    if best.keeps_step:
        return ", at any size of the step"
    acts = _SIZE_OF_STEP.intersection(best.settings)
    is_refuted = any(cure.keeps_step and cure.is_reliable for cure in found.cures)
    return f" ({found.step})" if found.step and acts and not is_refuted else ""


def _other_sentences(others: Sequence[Attempt]) -> Iterator[str]:
    reliable = [other.text for other in others if other.is_reliable]
    if reliable:
        yield f"Also stopped by {', '.join(reliable)}."
    seldom = [
        f"{other.text} ({other.n_cured} of {other.n_seeds})"
        for other in others
        if other.n_seeds and not other.is_reliable
    ]
    if seldom:
        yield f"Stopped with its own seed, but seldom with further ones, by {', '.join(seldom)}."


def _quiet_sentences(found: Repair) -> Iterator[str]:
    """What ends otherwise without repairing the run, and what was changed in vain."""
    acting = {setting for cure in found.cures for setting in cure.settings}
    acting |= {edge.setting for edge in found.edges}
    quiet: dict[tuple[str, ...], Attempt] = {}
    for failure in sorted(found.quiet_failures, key=lambda own: own.distance):
        if not acting.intersection(failure.settings):
            quiet.setdefault(failure.settings, failure)
    swings = found.before.verdict is Verdict.OSCILLATING
    not_well = "Swings end, but it does not learn," if swings else "It ends otherwise, not well,"
    higher = f"{'Swings end' if swings else 'It ends well'}, but at a higher loss,"
    for is_healthy, lead in ((False, not_well), (True, higher)):
        kind = [own for own in quiet.values() if (own.verdict in HEALTHY) is is_healthy]
        if kind:
            listed = ", ".join(f"{own.text} ({own.verdict.value})" for own in kind)
            yield f"{lead} with {listed}."
    if found.cures and found.without_effect:
        *names, last = found.without_effect
        listed = f"{', '.join(names)} or {last}" if names else last
        yield f"With its own seed no change of {listed} that was tried stops it."
