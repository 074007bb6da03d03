"""Which runs are rerun, and what is changed in each: the question, before anything is trained."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

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
    is_seed,
    position,
    rerun,
    with_seeds,
)
from mlp.causes.observed import HEALTHY, StudyRun, explained_shares
from mlp.config import RunConfig, Value, digest
from mlp.curve import Judgement, Verdict
from mlp.settings import seeds_of, settings_for_seeds, settings_of
from mlp.study.space import Range, Space, typed

_MOST_SEEDS = 4  # times as many seeds as asked for, where fewer runs than asked for can be picked
_SEEDS_OF_A_RUN = 256  # apart; 2 to the 28 seeds in all, of 2 to the 32
_SEEDS_IN_DOUBT = 2  # times as many again, where a setting is in doubt

Results = Mapping[RunConfig, Judgement]
"""Plain config -> what training it gave."""


class Side(StrEnum):
    """From which runs a change starts."""

    STOPS = "stops"  # from those with the verdict that is asked about: does it stop?
    STARTS = "starts"  # from healthy ones: does it start?

    @property
    def did(self) -> str:
        """What a change did that turned the run."""
        return "stopped" if self is Side.STOPS else "started"


@dataclass(frozen=True)
class Pick:
    """A run of the study that is rerun.

    Attributes:
        run: its place in the study.
        asked: the verdict that is asked about.
        configs: unchanged, with its own seed first and then with more further ones than wanted.
        n_seeds: how many further seeds are wanted.
        changes: all that are tried, those of a factor in the order in which they are tried.
    """

    run: int
    side: Side
    asked: Verdict
    configs: tuple[RunConfig, ...]
    n_seeds: int
    changes: tuple[Change, ...]
    _made: dict[tuple[tuple[str, ...], int], RunConfig | None] = field(
        default_factory=dict, compare=False, repr=False
    )

    def changed(self, changes: Sequence[Change], seed: int) -> RunConfig | None:
        """The run with these changes and so many-th seed; None where that is not possible."""
        own = (tuple(change.text for change in changes), seed)
        if own not in self._made:
            self._made[own] = rerun(self.configs[seed], changes, seed)
        return self._made[own]

    def is_picked(self, verdict: Verdict) -> bool:
        """Whether a verdict is the one that runs on this side were picked for."""
        return _is_picked(verdict, self.side, self.asked)

    def is_wanted(self, verdict: Verdict) -> bool:
        """Whether a verdict is the one that a change on this side is to lead to."""
        return _is_wanted(verdict, self.side, self.asked)

    def of_factor(self, factor: Factor) -> list[Change]:
        """The changes of one factor."""
        return self._by_factor.get(factor, [])

    @property
    def factors(self) -> list[Factor]:
        """Everything that is changed in this run."""
        return list(self._by_factor)

    @cached_property
    def _by_factor(self) -> dict[Factor, list[Change]]:
        found: dict[Factor, list[Change]] = {}
        for change in self.changes:
            found.setdefault(change.factor, []).append(change)
        return found


@dataclass(frozen=True)
class Plan:
    """What is asked of a study: the picked runs and everything that may be changed in them.

    Attributes:
        asked: the verdict that is asked about, oscillating for one.
        picks: those with that verdict and healthy ones in turn.
        factors: everything that is changed, what goes along with the verdict most first.
    """

    asked: Verdict
    runs: tuple[StudyRun, ...]
    picks: tuple[Pick, ...]
    factors: tuple[Factor, ...]

    @cached_property
    def shares(self) -> dict[str, float]:
        """Setting -> how much of the difference between these runs and the others it explains.

        A setting that is drawn by another one, or in each layer, explains what the best of its
        parts does.
        """
        found: dict[str, float] = {}
        for name, share in explained_shares(self.runs, self.asked).items():
            setting = name.partition("[")[0]
            found[setting] = max(found.get(setting, 0.0), share)
        return found

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
    first_seed = 1 + max((_own_seed(run.config) for run in runs), default=0)
    drafts: list[tuple[int, Side, int, tuple[RunConfig, ...]]] = []
    for side in Side:
        among = [i for i, run in enumerate(runs) if _is_picked(run.verdict, side, asked)]
        picked = spread([runs[i] for i in among], space, interventions)
        n_most = _MOST_SEEDS * seeds
        n_seeds = min(n_most, math.ceil(interventions * seeds / max(1, len(picked))))
        for i in picked:
            config = runs[among[i]].config
            first = first_seed + _block(config)
            seeded = with_seeds(config, first, _SEEDS_IN_DOUBT * n_most)
            drafts.append((among[i], side, n_seeds, seeded))
    picks: dict[Side, list[Pick]] = {side: [] for side in Side}
    for run, side, n_seeds, configs in drafts:
        changes = changes_of(
            configs,
            space,
            n_examples=n_examples,
            gradient_norm=_norm_of_seed(configs, gradient_norm),
            targets=_targets(runs, side, asked),
            to_bounds=not any(_is_wanted(run.verdict, side, asked) for run in runs),
            order=_order(runs, side, asked),
        )
        picks[side].append(Pick(run, side, asked, configs, n_seeds, changes))
    in_turn = tuple(_in_turn(*picks.values()))
    return Plan(asked, tuple(runs), in_turn, _by_counts(runs, in_turn, asked))


def strongest(pick: Pick, factor: Factor, results: Results) -> Change | None:
    """The change of a factor that did most with the run's own seed; None before any is trained.

    Of what is to be stopped: one that cures it, else the smallest swings, else another failure.
    """
    ranked = by_strength(pick, factor, results)
    return ranked[0] if ranked else None


def by_strength(pick: Pick, factor: Factor, results: Results) -> list[Change]:
    """The changes of a factor that are trained with the run's own seed, the strongest first."""
    judged = ((judged_after(pick, [c], 0, results), c) for c in pick.of_factor(factor))
    ranks = [(_rank(pick, own), change) for own, change in judged if own is not None]
    return [change for _, change in sorted(ranks, key=lambda ranked: ranked[0])]


def is_screened(pick: Pick, factor: Factor, results: Results) -> bool:
    """Whether every change of a factor is trained with the run's own seed."""
    return all(judged_after(pick, [c], 0, results) for c in pick.of_factor(factor))


def judged_after(
    pick: Pick, changes: Sequence[Change], seed: int, results: Results
) -> Judgement | None:
    """What the run with these changes gave with a seed; None if not trained or not possible."""
    config = pick.changed(changes, seed)
    return results.get(config) if config is not None else None


def missing(configs: Iterable[RunConfig | None], results: Results) -> tuple[RunConfig, ...]:
    """Those that exist and are not trained, once each."""
    return tuple(dict.fromkeys(c for c in configs if c is not None and c not in results))


def turns(pick: Pick, changes: Sequence[Change], results: Results) -> bool:
    """Whether these changes are trained with the run's own seed, and it ended as is asked."""
    judged = judged_after(pick, changes, 0, results)
    return judged is not None and pick.is_wanted(judged.verdict)


def _is_picked(verdict: Verdict, side: Side, asked: Verdict) -> bool:
    return verdict is asked if side is Side.STOPS else verdict in HEALTHY


def _is_wanted(verdict: Verdict, side: Side, asked: Verdict) -> bool:
    return verdict in HEALTHY if side is Side.STOPS else verdict is asked


def _block(config: RunConfig) -> int:
    """Where a run's further seeds begin: each run has its own, so that no two share their luck."""
    return int(digest(settings_for_seeds(config))[:5], 16) * _SEEDS_OF_A_RUN


def _own_seed(config: RunConfig) -> int:
    seed = settings_of(config)[seeds_of(config)[0]]
    return seed if isinstance(seed, int) else 0


def _norm_of_seed(
    configs: Sequence[RunConfig], gradient_norm: GradientNorm
) -> Callable[[int], float]:
    """The gradient's norm at the first weights of a seed, computed when it is first asked for."""
    return functools.cache(lambda seed: float(gradient_norm([configs[seed]])[0]))


def _targets(runs: Sequence[StudyRun], side: Side, asked: Verdict) -> dict[str, float]:
    """Medians of each number over the runs that are as the change is to make them."""
    there = [run for run in runs if _is_wanted(run.verdict, side, asked)]
    numbers: dict[str, list[float]] = {}
    for run in there:
        for name, value in run.params.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                numbers.setdefault(name, []).append(value)
    # Of an even number the lower middle: a value that was seen, and an integer if they are.
    return {name: sorted(values)[(len(values) - 1) // 2] for name, values in numbers.items()}


def _order(runs: Sequence[StudyRun], side: Side, asked: Verdict) -> Order:
    """What the study saw turn out well comes first; a guess about the order, no evidence."""
    seen: dict[tuple[str, str], list[bool]] = {}
    for run in runs:
        is_wanted = _is_wanted(run.verdict, side, asked)
        for name, value in run.params.items():
            seen.setdefault((name, typed(value)), []).append(is_wanted)
    targets = _targets(runs, side, asked)

    def order(name: str, value: Value) -> float:
        if name in targets and isinstance(value, int | float):
            return abs(value - targets[name])
        hits = seen.get((name, typed(value)), [])
        return -(sum(hits) + 0.5) / (len(hits) + 1)

    return order


def _by_counts(
    runs: Sequence[StudyRun], picks: Sequence[Pick], asked: Verdict
) -> tuple[Factor, ...]:
    """A guess about where to look first, no evidence; branches of a setting are added up.

    Normalization comes as early as the learning rate: only both tell whether the effective step
    acts.
    """
    shares: Counter[str] = Counter()
    for name, share in explained_shares(runs, asked).items():
        shares[name.partition("[")[0]] += share  # type: ignore[assignment]
    shares[NORMALIZATION] = max(shares[NORMALIZATION], shares[LEARNING_RATE])
    factors = sorted({factor for pick in picks for factor in pick.factors})
    return tuple(sorted(factors, key=lambda factor: -shares[factor.setting]))


def _in_turn(one: Sequence[Pick], other: Sequence[Pick]) -> Iterator[Pick]:
    for place in range(max(len(one), len(other))):
        yield from one[place : place + 1]
        yield from other[place : place + 1]


def _rank(pick: Pick, judged: Judgement) -> tuple[int, float]:
    amplitude = judged.amplitude if math.isfinite(judged.amplitude) else 0.0
    if pick.is_wanted(judged.verdict):
        return (0, 0.0)
    if pick.side is Side.STOPS:
        return (1, amplitude) if judged.verdict is pick.asked else (2, 0.0)
    return (1, -amplitude) if judged.verdict is not Verdict.DIVERGED else (2, 0.0)


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
