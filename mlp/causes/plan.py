"""Which runs are rerun, and what is changed in each: the question, before anything is trained."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import zip_longest
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from mlp.causes.changes import (
    LEARNING_RATE,
    NORMALIZATION,
    Change,
    Factor,
    GradientNorm,
    Order,
    changes_of,
    domain_of,
    is_active,
    is_number,
    is_seed,
    own_seed,
    position,
    rerun,
    with_further_seeds,
)
from mlp.causes.observed import HEALTHY, StudyRun, explained_shares
from mlp.config import RunConfig, Value
from mlp.curve import Judgement, Verdict
from mlp.settings import settings_of
from mlp.study.space import Range, Space, typed

_MOST_SEEDS = 4  # times as many seeds as asked for, where fewer runs than asked for can be picked
_SEEDS_IN_DOUBT = 2  # times as many again, where a setting is in doubt

# Guesses before anything is trained. They decide what is asked first, and nothing that is said.
CHANCE_OF_FIRST = 0.7  # that the setting which goes along with the verdict most turns a run
CHANCE_OF_OTHER = 0.3

Results = Mapping[RunConfig, Judgement]
"""Plain config -> what training it gave, in the order of the training."""


class Side(StrEnum):
    """From which runs a change starts."""

    STOPS = "stops"  # from those with the verdict that is asked about: does it stop?
    STARTS = "starts"  # from healthy ones: does it start?

    @property
    def did(self) -> str:
        """What a change did that turned the run."""
        return "stopped" if self is Side.STOPS else "started"


@dataclass(frozen=True, eq=False)
class Pick:
    """A run of the study that is rerun.

    Attributes:
        run: its place in the study.
        asked: the verdict that is asked about.
        start: the verdicts that runs on this side are picked for.
        goal: those that a change on this side is to lead to.
        configs: unchanged, with its own seed first and then with further ones, twice as many as
            can be wanted.
        n_seeds: how many further seeds are wanted.
        changes: all that are tried, those of a factor in the order in which they are tried.
    """

    run: int
    side: Side
    asked: Verdict
    start: frozenset[Verdict]
    goal: frozenset[Verdict]
    configs: tuple[RunConfig, ...]
    n_seeds: int
    changes: tuple[Change, ...]

    def changed(self, changes: Sequence[Change], seed: int) -> RunConfig | None:
        """The run with these changes and so many-th seed; None where that is not possible."""
        return rerun(self.configs[seed], changes, seed)

    def judged(self, changes: Sequence[Change], seed: int, results: Results) -> Judgement | None:
        """What that run gave; None if it was not trained or is not possible."""
        config = self.changed(changes, seed)
        return results.get(config) if config is not None else None

    def is_turned(self, changes: Sequence[Change], results: Results) -> bool:
        """Whether these changes are trained with the run's own seed, and it ended as is asked."""
        judged = self.judged(changes, 0, results)
        return judged is not None and judged.verdict in self.goal

    def by_strength(self, factor: Factor, results: Results) -> list[Change]:
        """The changes of a factor that are trained with the run's own seed, the strongest first.

        Of what is to be stopped: those that cure it, then by the smallest swings, then other
        failures.
        """
        judged = ((self.judged([c], 0, results), c) for c in self.of_factor(factor))
        ranks = [(self._rank(own), change) for own, change in judged if own is not None]
        return [change for _, change in sorted(ranks, key=lambda ranked: ranked[0])]

    def of_factor(self, factor: Factor) -> list[Change]:
        """The changes of one factor."""
        return self.by_factor.get(factor, [])

    def in_turn(self, factor: Factor, seed: int) -> Change:
        """Where none is known to turn the run, each change has its turn with a further seed."""
        changes = self.by_factor[factor]
        return changes[(seed - 1) % len(changes)]

    @cached_property
    def by_factor(self) -> dict[Factor, list[Change]]:
        """Everything that is changed in this run."""
        found: dict[Factor, list[Change]] = {}
        for change in self.changes:
            found.setdefault(change.factor, []).append(change)
        return found

    @property
    def seeds_in_doubt(self) -> range:
        """The further seeds that there are where a setting is in doubt."""
        return range(1, _SEEDS_IN_DOUBT * self.n_seeds + 1)

    def _rank(self, judged: Judgement) -> tuple[int, float]:
        amplitude = judged.amplitude if math.isfinite(judged.amplitude) else 0.0
        if judged.verdict in self.goal:
            return (0, 0.0)
        if self.side is Side.STOPS:
            return (1, amplitude) if judged.verdict is self.asked else (2, 0.0)
        return (1, -amplitude) if judged.verdict is not Verdict.DIVERGED else (2, 0.0)


@dataclass(frozen=True)
class Plan:
    """What is asked of a study: the picked runs and everything that may be changed in them.

    Attributes:
        asked: the verdict that is asked about, oscillating for one.
        picks: those with that verdict and healthy ones in turn.
        factors: everything that is changed, what goes along with the verdict most first.
        guesses: how likely each turns a run, by how the study's runs ended: no evidence.
    """

    asked: Verdict
    runs: tuple[StudyRun, ...]
    picks: tuple[Pick, ...]
    factors: tuple[Factor, ...]
    guesses: Mapping[Factor, float]

    def on(self, side: Side) -> list[Pick]:
        """The picks of one side."""
        return [pick for pick in self.picks if pick.side is side]


def plan_reruns(
    runs: Sequence[StudyRun],
    space: Space,
    *,
    asked: Verdict = Verdict.OSCILLATING,
    interventions: int = 8,
    seeds: int = 4,
    n_examples: int,
    gradient_norm: GradientNorm,
) -> Plan:
    """Picks the runs and lists the changes; trains nothing.

    Args:
        space: the settings that may be changed, and their bounds.
        asked: the verdict that is to be explained, a bad one.
        interventions: runs picked on each side, at most. More keep what fewer had.
        seeds: further seeds of each; likewise.
        gradient_norm: asked when a change at the same effective step needs it: the step of `unit`
            and `clip` depends on it.
    """
    highest = max((own_seed(run.config) for run in runs), default=0)
    most, bad = _MOST_SEEDS * seeds, frozenset({asked})
    sides: list[list[Pick]] = []
    for side, start, goal in ((Side.STOPS, bad, HEALTHY), (Side.STARTS, HEALTHY, bad)):
        among = [i for i, run in enumerate(runs) if run.verdict in start]
        picked = [among[i] for i in spread([runs[i] for i in among], space, interventions)]
        n_seeds = min(most, math.ceil(interventions * seeds / max(1, len(picked))))
        targets = _targets([run for run in runs if run.verdict in goal])
        order, own = _order(runs, goal, targets), list[Pick]()
        for i in picked:
            configs = with_further_seeds(runs[i].config, _SEEDS_IN_DOUBT * most, highest)
            changes = changes_of(
                configs,
                space,
                n_examples=n_examples,
                gradient_norm=_norm_of_seed(configs, gradient_norm),
                targets=targets,
                order=order,
                to_bounds=not any(run.verdict in goal for run in runs),
            )
            own.append(Pick(i, side, asked, start, goal, configs, n_seeds, changes))
        sides.append(own)
    picks = tuple(own for both in zip_longest(*sides) for own in both if own is not None)
    return Plan(asked, tuple(runs), picks, *_factors_and_guesses(runs, picks, asked))


def _norm_of_seed(
    configs: Sequence[RunConfig], gradient_norm: GradientNorm
) -> Callable[[int], float]:
    """The gradient's norm at the first weights of a seed, computed when it is first asked for."""
    return functools.cache(lambda seed: float(gradient_norm([configs[seed]])[0]))


def _targets(there: Sequence[StudyRun]) -> dict[str, float]:
    """Medians of each number over the runs that are as a change is to make others."""
    numbers: dict[str, list[float]] = {}
    for run in there:
        for name, value in run.params.items():
            if is_number(value):
                numbers.setdefault(name, []).append(value)
    # Of an even number the lower middle: a value that was seen, and an integer if they are.
    return {name: median_low(values) for name, values in numbers.items()}


def _order(runs: Sequence[StudyRun], goal: Set[Verdict], targets: Mapping[str, float]) -> Order:
    """What the study saw turn out well comes first; a guess about the order, no evidence."""
    seen: dict[tuple[str, str], list[bool]] = {}
    for run in runs:
        for name, value in run.params.items():
            seen.setdefault((name, typed(value)), []).append(run.verdict in goal)

    def order(name: str, value: Value) -> float:
        if name in targets and isinstance(value, int | float):
            return abs(value - targets[name])
        hits = seen.get((name, typed(value)), [])
        return -(sum(hits) + 0.5) / (len(hits) + 1)

    return order


def _factors_and_guesses(
    runs: Sequence[StudyRun], picks: Sequence[Pick], asked: Verdict
) -> tuple[tuple[Factor, ...], dict[Factor, float]]:
    """What goes along with the verdict most first, and how likely each turns a run.

    Of a setting that is drawn by another one, or in each layer, the parts are added up for the
    order; as likely as its best part is the setting. Normalization and learning rate count as much
    as the better of them: a rate is drawn by the normalization, so that either takes a part of what
    both explain, and only both tell whether the effective step acts.
    """
    parts: dict[str, list[float]] = {}
    for name, share in explained_shares(runs, asked).items():
        parts.setdefault(name.partition("[")[0], []).append(share)
    sums = {setting: sum(shares) for setting, shares in parts.items()}
    best = {setting: max(shares) for setting, shares in parts.items()}
    sums[NORMALIZATION] = max(sums.get(own, 0.0) for own in (NORMALIZATION, LEARNING_RATE))
    best[LEARNING_RATE] = max(best.get(own, 0.0) for own in (NORMALIZATION, LEARNING_RATE))
    largest = max(best.values(), default=0.0) or 1.0
    span = CHANCE_OF_FIRST - CHANCE_OF_OTHER
    factors = sorted({factor for pick in picks for factor in pick.by_factor})
    factors.sort(key=lambda factor: -sums.get(factor.setting, 0.0))
    return tuple(factors), {
        factor: CHANCE_OF_OTHER + span * best.get(factor.setting, 0.0) / largest
        for factor in factors
    }


def spread(runs: Sequence[StudyRun], space: Space, n: int) -> list[int]:
    """Picks runs that lie far from each other.

    The first is the one with the smallest mean distance to all others, each next one the farthest
    from those picked so far (ties: the earlier run). So a larger n adds to the picks of a smaller
    one. Runs that differ in their seeds alone, or in what does nothing in them, count once.

    Returns:
        Positions in `runs`, in the order of picking.

    References:
        Gonzalez 1985, "Clustering to minimize the maximum intercluster distance"; Johnson, Moore
        and Ylvisaker 1990, "Minimax and maximin distance designs"; Gower 1971, "A general
        coefficient of similarity and some of its properties".
    """
    groups = {_what_acts(run.config): i for i, run in reversed(list(enumerate(runs)))}
    candidates = sorted(groups.values())
    if not candidates:
        return []
    apart = _distances([runs[i].config for i in candidates], space)
    picked = [int(np.argmin(apart.mean(axis=1)))]
    while len(picked) < min(n, len(candidates)):
        nearest = apart[:, picked].min(axis=1)
        nearest[picked] = -1.0
        picked.append(int(np.argmax(nearest)))
    return [candidates[i] for i in picked]


def _what_acts(config: RunConfig) -> str:
    settings = settings_of(config).items()
    return typed(
        [v for path, v in settings if not is_seed(config, path) and is_active(config, path)]
    )


def _distances(configs: Sequence[RunConfig], space: Space) -> NDArray[np.float64]:
    """Gower's distance of each pair, `(run, run)`, 0 to 1: the mean over the settings.

    Two numbers of one range are as far apart as their share of it; two choices, or numbers of
    different branches, are 1 apart.
    """
    apart = np.zeros((len(configs), len(configs)))
    settings = [settings_of(config) for config in configs]
    for entry in space:
        if is_seed(configs[0], entry.path):
            continue
        kinds: list[str] = []
        places: list[float] = []
        for config, values in zip(configs, settings, strict=True):
            found = domain_of(config, entry)
            branch, domain = found if found else ("no domain", None)
            value = values[entry.path]
            if entry.each_layer or isinstance(value, list):
                value = float(np.mean(config.model.layer_widths))
            kinds.append(branch if isinstance(domain, Range) else f"{branch} {typed(value)}")
            places.append(position(domain, value) if domain else 0.0)
        spots, names = np.array(places), np.array(kinds)
        numbers = np.abs(spots[:, None] - spots[None, :])
        apart += np.where(names[:, None] == names[None, :], numbers, 1.0)
    return apart / max(1, len(space))
