"""Planning and judging reruns: one setting of a run is changed, everything else stays.

From runs that oscillate, each setting is changed in turn: does the loss settle? From healthy runs
the other way round: does it start to swing? All of that is trained with the run's own seed, and for
each setting the change that did most is repeated with further seeds, which no run of the study had,
beside the unchanged run with the same further seeds.

Only the further seeds are counted as evidence. The picked run was picked because it oscillated with
its own seed, so anything that shakes it, also a change without effect, makes it look better
(regression to the mean); with the further seeds the unchanged run is a fresh draw as well. The own
seed decides which value of a setting is tested, which costs no error because its results are not
used again.

What is trained next follows from the results so far (`next_batch`), and what they say is reduced
from whatever is there (`effects`): it can be stopped between any two batches and gone on with
later, with the same picks first.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mlp.change import (
    NORMALIZATION,
    SEEDS,
    Change,
    Factor,
    Order,
    changes_of,
    plain,
    rerun,
)
from mlp.config import RunConfig, Value
from mlp.curve import Judgement, Verdict
from mlp.domain import typed
from mlp.door import with_settings
from mlp.evidence import (
    ERROR_RATE,
    NEGLIGIBLE,
    Conclusion,
    Share,
    holm,
    paired_difference,
    pairs_needed,
    sign_p_value,
)
from mlp.observed import HEALTHY, StudyRun
from mlp.picking import spread
from mlp.space import Space

SINGLE_ERROR_RATE = ERROR_RATE / 2  # the other half is for pairs of settings

_MOST_SEEDS = 4  # times as many seeds as asked for, where fewer runs than asked for can be picked
_PICKS_A_ROUND = 8  # so that a time limit finds some picks complete instead of all half done

Results = Mapping[RunConfig, Judgement]
"""Plain config -> what training it gave."""

GradientNorm = Callable[[Sequence[RunConfig]], Sequence[float]]
"""Configs -> L2 norm of the gradient of the mean loss at their first weights."""


class Side(StrEnum):
    """From which runs a change starts."""

    STOPS = "stops"  # from oscillating ones: does it stop?
    STARTS = "starts"  # from healthy ones: does it start?


@dataclass(frozen=True)
class Effort:
    """How much may be trained.

    Attributes:
        interventions: runs picked on each side, at most.
        seeds: further seeds of each.
    """

    interventions: int = 8
    seeds: int = 4


@dataclass(frozen=True)
class Pick:
    """A run of the study that is rerun.

    Attributes:
        run: its place in the study.
        side: what is asked of it.
        configs: unchanged, with its own seed first and then with more further ones than wanted.
        n_seeds: how many further seeds are wanted.
        changes: all that are tried, those of a factor in the order in which they are tried.
    """

    run: int
    side: Side
    configs: tuple[RunConfig, ...]
    n_seeds: int
    changes: tuple[Change, ...]

    def of_factor(self, factor: Factor) -> list[Change]:
        """The changes of one factor."""
        return [change for change in self.changes if change.factor == factor]

    @property
    def factors(self) -> list[Factor]:
        """Everything that is changed in this run."""
        return list(dict.fromkeys(change.factor for change in self.changes))


@dataclass(frozen=True)
class Inquiry:
    """What is asked of a study: the picked runs and everything that may be changed in them.

    Attributes:
        runs: of the study.
        picks: oscillating and healthy in turn.
    """

    runs: tuple[StudyRun, ...]
    picks: tuple[Pick, ...]

    def on(self, side: Side) -> list[Pick]:
        """The picks of one side."""
        return [pick for pick in self.picks if pick.side is side]

    @property
    def hypotheses(self) -> list[tuple[Factor, Side]]:
        """Every factor on every side that has runs."""
        return [
            (factor, side)
            for side in Side
            for factor in sorted({f for pick in self.on(side) for f in pick.factors})
        ]


@dataclass(frozen=True)
class Effect:
    """What changing one setting did on one side, over further seeds.

    A pair is the same run with the same further seed, changed and unchanged.

    Attributes:
        factor: what was changed.
        side: whether it was to stop or to start the oscillation.
        n_runs: picked runs in which it was changed.
        n_own_seed: of these, how many some change turned with the run's own seed.
        n_pairs: all pairs.
        n_expected: pairs whose unchanged run still did what it was picked for.
        n_with: pairs turned the expected way: oscillating to healthy, or healthy to oscillating.
        n_against: pairs turned the other way.
        difference: (with - against) / pairs with its interval.
        p_value: after correction for all settings and sides.
        endings: how the changed reruns ended, with further seeds.
        changes: the changes that were repeated with further seeds and how many pairs each turned.
        pairs_needed: differing pairs that would settle it; None where nothing hints at an effect.
        conclusion: in one word.
    """

    factor: Factor
    side: Side
    n_runs: int
    n_own_seed: int
    n_pairs: int
    n_expected: int
    n_with: int
    n_against: int
    difference: Share
    p_value: float
    endings: Mapping[Verdict, int]
    changes: Mapping[str, int]
    pairs_needed: int | None
    conclusion: Conclusion


def prepare(
    runs: Sequence[StudyRun],
    space: Space,
    effort: Effort,
    *,
    n_examples: int,
    gradient_norm: GradientNorm,
) -> Inquiry:
    """Picks the runs and lists the changes; trains nothing.

    Args:
        runs: of a study.
        space: the settings that may be changed, and their bounds.
        effort: how many runs and seeds. More of either keeps what fewer had.
        n_examples: in the training part.
        gradient_norm: asked once, if the normalization can be `unit` or `clip`.
    """
    first_seed = 1 + max((run.config.training.seed for run in runs), default=0)
    drafts: list[tuple[int, Side, int, tuple[RunConfig, ...]]] = []
    for side in Side:
        among = [i for i, run in enumerate(runs) if _can_be_picked(run, side)]
        picked = spread([runs[i] for i in among], space, effort.interventions)
        n_most = _MOST_SEEDS * effort.seeds
        n_pairs = effort.interventions * effort.seeds
        n_seeds = min(n_most, math.ceil(n_pairs / max(1, len(picked))))
        for i in picked:
            seeded = _with_seeds(runs[among[i]].config, first_seed, n_most)
            drafts.append((among[i], side, n_seeds, seeded))
    norms = _norms([draft[3] for draft in drafts], space, gradient_norm)
    picks: dict[Side, list[Pick]] = {side: [] for side in Side}
    for (run, side, n_seeds, configs), of_seeds in zip(drafts, norms, strict=True):
        changes = changes_of(
            configs,
            space,
            n_examples=n_examples,
            gradient_norms=of_seeds,
            targets=_targets(runs, side),
            order=_order(runs, side),
        )
        picks[side].append(Pick(run, side, configs, n_seeds, changes))
    return Inquiry(tuple(runs), tuple(_in_turn(*picks.values())))


def next_batch(inquiry: Inquiry, results: Results) -> tuple[RunConfig, ...]:
    """What to train next; empty when all single changes are answered.

    Round by round of picks: every change with the run's own seed and the unchanged run with the
    further seeds; then, with the further seeds, the changes that turned the verdict; at last, for
    all picks, the strongest changes of the settings that turned nothing.

    Args:
        inquiry: as prepared.
        results: everything trained so far, also by an earlier and smaller effort.
    """
    for first in range(0, len(inquiry.picks), _PICKS_A_ROUND):
        round_ = inquiry.picks[first : first + _PICKS_A_ROUND]
        for stage in (_screening, _confirming_turned):
            if batch := _missing(stage(round_, results), results):
                return batch
    return _missing(_confirming_all(inquiry.picks, results), results)


def n_single(inquiry: Inquiry) -> int:
    """How many trainings all single changes take at most, with every seed."""
    return sum(len(pick.changes) + pick.n_seeds * (1 + len(pick.factors)) for pick in inquiry.picks)


def effects(inquiry: Inquiry, results: Results) -> tuple[Effect, ...]:
    """What is known of each setting on each side, from whatever was trained.

    A setting is called a cause where the chance of calling any setting one by mistake stays below
    `SINGLE_ERROR_RATE` over all settings and both sides. It is said to have no effect where the
    interval of its effect ends below `NEGLIGIBLE` of the runs that it could have turned; a stalled,
    climbing or diverged rerun counts as an effect there, although it is no cure.
    """
    tallies = [_tally(inquiry, factor, side, results) for factor, side in inquiry.hypotheses]
    raw = [sign_p_value(tally.n_with, tally.n_against) for tally in tallies]
    level = SINGLE_ERROR_RATE / max(1, len(raw))
    return tuple(
        _effect(tally, p_value, level) for tally, p_value in zip(tallies, holm(raw), strict=True)
    )


def strongest(pick: Pick, factor: Factor, results: Results) -> Change | None:
    """The change of a factor that did most with the run's own seed; None until all are trained.

    From an oscillating run: one that cures it, else the smallest swings, else a quiet failure.
    """
    ranked = by_strength(pick, factor, results)
    return ranked[0] if ranked else None


def by_strength(pick: Pick, factor: Factor, results: Results) -> list[Change]:
    """All changes of a factor, the strongest first; empty until all are trained."""
    ranks: list[tuple[tuple[int, float], Change]] = []
    for change in pick.of_factor(factor):
        judged = judged_after(pick, [change], 0, results)
        if judged is None:
            return []
        ranks.append((_rank(judged, pick.side), change))
    return [change for _, change in sorted(ranks, key=lambda ranked: ranked[0])]


def judged_after(
    pick: Pick, changes: Sequence[Change], seed: int, results: Results
) -> Judgement | None:
    """What the run with these changes gave with a seed; None if not trained or not possible."""
    config = rerun(pick.configs[seed], changes, seed)
    return results.get(config) if config is not None else None


def turned(pick: Pick, judged: Judgement) -> bool:
    """Whether a rerun with the run's own seed ended as the side asks."""
    return _ends(judged.verdict, pick.side)


def further_seeds(pick: Pick) -> range:
    """The places of the further seeds that are wanted; place 0 is the run's own seed."""
    return range(1, pick.n_seeds + 1)


@dataclass
class _Tally:
    factor: Factor
    side: Side
    n_runs: int = 0
    n_own_seed: int = 0
    n_pairs: int = 0
    n_expected: int = 0
    n_with: int = 0
    n_against: int = 0
    n_left: int = 0  # no longer what the pick was picked for, healthy or not
    n_joined: int = 0  # the other way round
    endings: Counter[Verdict] = None  # type: ignore[assignment]
    changes: Counter[str] = None  # type: ignore[assignment]


def _can_be_picked(run: StudyRun, side: Side) -> bool:
    return run.is_oscillating if side is Side.STOPS else run.is_healthy


def _ends(verdict: Verdict, side: Side) -> bool:
    """Whether a verdict is the one that a change on this side is to lead to."""
    return verdict in HEALTHY if side is Side.STOPS else verdict is Verdict.OSCILLATING


def _begins(verdict: Verdict, side: Side) -> bool:
    """Whether a verdict is the one that runs on this side were picked for."""
    return verdict is Verdict.OSCILLATING if side is Side.STOPS else verdict in HEALTHY


def _with_seeds(config: RunConfig, first: int, n: int) -> tuple[RunConfig, ...]:
    paths = SEEDS if config.training.batch_size is not None else SEEDS[:1]
    further = [with_settings(config, dict.fromkeys(paths, first + k)) for k in range(n)]
    return (plain(config), *map(plain, further))


def _norms(
    drafts: Sequence[Sequence[RunConfig]], space: Space, gradient_norm: GradientNorm
) -> list[list[float]]:
    """Gradient norms at the start of each pick and seed; NaN where no change needs them."""
    entry = next((entry for entry in space if entry.path == NORMALIZATION), None)
    choices = [v for domain in entry.domains.values() for v in domain.corners()] if entry else []
    if not {"unit", "clip"} & {str(choice) for choice in choices}:
        return [[math.nan] * len(configs) for configs in drafts]
    flat = iter(gradient_norm([config for configs in drafts for config in configs]))
    return [[float(next(flat)) for _ in configs] for configs in drafts]


def _targets(runs: Sequence[StudyRun], side: Side) -> dict[str, float]:
    """Medians of each number over the runs that are as the change is to make them."""
    there = [run for run in runs if _ends(run.verdict, side)]
    numbers: dict[str, list[float]] = {}
    for run in there:
        for name, value in run.params.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                numbers.setdefault(name, []).append(value)
    # Of an even number the lower middle: a value that was seen, and an integer if they are.
    return {name: sorted(values)[(len(values) - 1) // 2] for name, values in numbers.items()}


def _order(runs: Sequence[StudyRun], side: Side) -> Order:
    """What the study saw turn out well comes first; a guess about the order, no evidence."""
    seen: dict[tuple[str, str], list[bool]] = {}
    for run in runs:
        for name, value in run.params.items():
            seen.setdefault((name, typed(value)), []).append(_ends(run.verdict, side))
    targets = _targets(runs, side)

    def order(name: str, value: Value) -> float:
        if name in targets and isinstance(value, int | float):
            return abs(value - targets[name])
        hits = seen.get((name, typed(value)), [])
        return -(sum(hits) + 0.5) / (len(hits) + 1)

    return order


def _in_turn(one: Sequence[Pick], other: Sequence[Pick]) -> Iterator[Pick]:
    for place in range(max(len(one), len(other))):
        yield from one[place : place + 1]
        yield from other[place : place + 1]


def _missing(configs: Iterable[RunConfig | None], results: Results) -> tuple[RunConfig, ...]:
    return tuple(dict.fromkeys(c for c in configs if c is not None and c not in results))


def _screening(picks: Sequence[Pick], results: Results) -> Iterator[RunConfig | None]:  # noqa: ARG001
    for pick in picks:
        yield from (rerun(pick.configs[0], [change], 0) for change in pick.changes)
        yield from (pick.configs[seed] for seed in further_seeds(pick))


def _confirming_turned(picks: Sequence[Pick], results: Results) -> Iterator[RunConfig | None]:
    return _confirming(picks, results, only_turned=True)


def _confirming_all(picks: Sequence[Pick], results: Results) -> Iterator[RunConfig | None]:
    return _confirming(picks, results, only_turned=False)


def _confirming(
    picks: Sequence[Pick], results: Results, *, only_turned: bool
) -> Iterator[RunConfig | None]:
    for pick in picks:
        for factor in pick.factors:
            change = strongest(pick, factor, results)
            if change is None:
                continue
            judged = judged_after(pick, [change], 0, results)
            if only_turned and not (judged and turned(pick, judged)):
                continue
            for seed in further_seeds(pick):
                yield rerun(pick.configs[seed], [change], seed)


def _rank(judged: Judgement, side: Side) -> tuple[int, float]:
    oscillates = judged.verdict is Verdict.OSCILLATING
    if _ends(judged.verdict, side):
        return (0, 0.0)
    if side is Side.STOPS:
        return (1, judged.amplitude) if oscillates else (2, 0.0)
    return (1, -judged.amplitude) if judged.verdict is not Verdict.DIVERGED else (2, 0.0)


def _tally(inquiry: Inquiry, factor: Factor, side: Side, results: Results) -> _Tally:
    tally = _Tally(factor, side, endings=Counter(), changes=Counter())
    for pick in inquiry.on(side):
        change = strongest(pick, factor, results)
        own = judged_after(pick, [change], 0, results) if change else None
        if change is None or own is None:
            continue
        tally.n_runs += 1
        tally.n_own_seed += turned(pick, own)
        for seed in range(1, len(pick.configs)):
            changed = judged_after(pick, [change], seed, results)
            unchanged = results.get(pick.configs[seed])
            if changed is not None and unchanged is not None:
                _count(tally, change, unchanged.verdict, changed.verdict)
    return tally


def _count(tally: _Tally, change: Change, before: Verdict, after: Verdict) -> None:
    side = tally.side
    tally.n_pairs += 1
    tally.n_expected += _begins(before, side)
    is_turned = _begins(before, side) and _ends(after, side)
    tally.n_with += is_turned
    tally.n_against += _ends(before, side) and _begins(after, side)
    tally.n_left += _begins(before, side) and not _begins(after, side)
    tally.n_joined += not _begins(before, side) and _begins(after, side)
    tally.endings[after] += 1
    tally.changes[change.text] += is_turned


def _effect(tally: _Tally, p_value: float, level: float) -> Effect:
    return Effect(
        factor=tally.factor,
        side=tally.side,
        n_runs=tally.n_runs,
        n_own_seed=tally.n_own_seed,
        n_pairs=tally.n_pairs,
        n_expected=tally.n_expected,
        n_with=tally.n_with,
        n_against=tally.n_against,
        difference=paired_difference(tally.n_with, tally.n_against, tally.n_pairs),
        p_value=p_value,
        endings=dict(tally.endings),
        changes=dict(tally.changes.most_common()),
        pairs_needed=pairs_needed(tally.n_with, tally.n_against, level),
        conclusion=_conclude(tally, p_value),
    )


def _conclude(tally: _Tally, p_value: float) -> Conclusion:
    if p_value <= SINGLE_ERROR_RATE:
        return Conclusion.CAUSE
    if tally.n_expected == 0:
        return Conclusion.TOO_LITTLE
    left = paired_difference(tally.n_left, tally.n_joined, tally.n_pairs)
    could_turn = tally.n_expected / tally.n_pairs
    if left.high < NEGLIGIBLE * could_turn:
        return Conclusion.NO_EFFECT
    if tally.side is Side.STOPS and left.low > NEGLIGIBLE and tally.n_with <= tally.n_left / 2:
        return Conclusion.ONLY_FAILS
    return Conclusion.TOO_LITTLE
