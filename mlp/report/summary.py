"""What is drawn of a study and its explanation, reduced to plain numbers."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from mlp.causes.answer import Answer
from mlp.causes.changes import SEEDS, Change, chance_of
from mlp.causes.observed import StudyRun, is_repair
from mlp.causes.plan import Pick, Plan, Results, Side
from mlp.config import Value
from mlp.curve import Judgement, Verdict
from mlp.stability.ratio import Forecast, Quality, forecast_quality
from mlp.study.space import typed
from mlp.tracking.display import ThinCurve
from mlp.tracking.read import PastRun

_MOST_PAIRS = 4  # curves that are drawn with their repaired ones; more do not fit a screen
_MOST_GROUPS = 48  # lines of the table of combinations
_FIRST_STEP = "stability_ratio_start"


Cure = tuple[Pick, Change]
"""A picked run, and a change of one setting that repairs it with the run's own seed."""


@dataclass(frozen=True)
class CurvePair:
    """The loss of a run that ends badly, and of the same run with one setting changed.

    Attributes:
        change: as typed.
    """

    name: str
    change: str
    before: ThinCurve
    after: ThinCurve
    verdict: Verdict


@dataclass(frozen=True)
class Combination:
    """All runs that differ in their seeds alone.

    Attributes:
        settings: those that vary, as typed.
        counts: verdict -> runs.
        amplitude: median over the runs.
        periods: period in steps -> runs that swing.
        final_loss: median over the runs that stayed finite; None without any.
    """

    settings: Mapping[str, str]
    counts: Mapping[Verdict, int]
    amplitude: float
    periods: Mapping[int, int]
    final_loss: float | None


@dataclass(frozen=True)
class PageContent:
    """Everything that the page of a study shows.

    Attributes:
        facts: short lines: how many runs, of what, when.
        observed: the same, as `causes` sees them.
        pairs: curves that end badly and repaired ones.
        ratios: place in `runs` -> stability ratio along the run.
        quality: normalization -> how good the forecast by the ratio at the start was.
        combinations: empty where there are too many.
    """

    title: str
    facts: tuple[str, ...]
    sentences: tuple[str, ...]
    evidence: str
    answer: Answer
    runs: tuple[PastRun, ...]
    observed: tuple[StudyRun, ...]
    pairs: tuple[CurvePair, ...]
    ratios: Mapping[int, ThinCurve]
    quality: Mapping[str, Quality]
    combinations: tuple[Combination, ...]
    addresses: tuple[str, ...]
    commands: tuple[str, ...]


def find_cures(
    plan: Plan, results: Results, found: Answer, judged: Sequence[Judgement]
) -> list[Cure]:
    """For each picked run that ends badly a change that repairs it, of the best supported setting.

    Args:
        judged: how each run of the study ended.
    """
    order = [effect.factor for cause in found.causes for effect in cause.effects]
    order += [effect.factor for effect in sorted(found.effects, key=lambda own: own.p_value)]

    def repairs(pick: Pick) -> Iterator[Cure]:
        for factor in dict.fromkeys(order):
            for change in pick.by_strength(factor, results):
                after = pick.judged([change], 0, results)
                chance = chance_of(pick.configs[0])
                if after is not None and is_repair(judged[pick.run], after, chance):
                    yield pick, change

    return [cure for pick in plan.on(Side.STOPS) for cure in itertools.islice(repairs(pick), 1)]


def spread_out(cures: Sequence[Cure]) -> list[Cure]:
    """A few cures: first one by each change, in the order of the runs, then further ones."""
    by_change: dict[str, list[Cure]] = {}
    for pick, change in cures:
        by_change.setdefault(change.text, []).append((pick, change))
    in_turn = itertools.chain(*itertools.zip_longest(*by_change.values()))
    return [cure for cure in in_turn if cure is not None][:_MOST_PAIRS]


def combinations_of(
    runs: Sequence[PastRun], observed: Sequence[StudyRun]
) -> tuple[Combination, ...]:
    """Runs by their settings, seeds put together; the most oscillating first.

    Empty where few combinations have more than one run, or there are too many to read.
    """
    groups: dict[str, list[int]] = {}
    for i, run in enumerate(observed):
        groups.setdefault(typed(_without_seeds(run.params)), []).append(i)
    if len(groups) > _MOST_GROUPS or len(groups) * 2 > len(runs):
        return ()
    found = [_combination([runs[i] for i in own], observed[own[0]]) for own in groups.values()]
    return tuple(sorted(found, key=lambda own: -own.counts.get(Verdict.OSCILLATING, 0)))


def quality_of(runs: Sequence[PastRun]) -> dict[str, Quality]:
    """How good the forecast was, over the runs that have one; by normalization."""
    return forecast_quality(
        Forecast(run.config.gradient.normalization, run.metrics[_FIRST_STEP], run.judgement.verdict)
        for run in runs
        if _FIRST_STEP in run.metrics and run.config.training.batch_size is None
    )


def short_value(value: Value | None) -> str:
    """A setting or number for a table; empty where there is none."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else typed(value)


def _combination(runs: Sequence[PastRun], example: StudyRun) -> Combination:
    judged = [run.judgement for run in runs]
    swinging = [own.period_steps for own in judged if own.amplitude]
    losses = [run.metrics["final_loss"] for run in runs if "final_loss" in run.metrics]
    by_setting: dict[str, list[str]] = {}  # what is drawn by another setting, or by layer, is one
    for name, value in _without_seeds(example.params).items():
        by_setting.setdefault(name.partition("[")[0], []).append(short_value(value))
    return Combination(
        settings={name: ",".join(values) for name, values in by_setting.items()},
        counts=Counter(own.verdict for own in judged),
        amplitude=median(own.amplitude for own in judged),
        periods=Counter(period for period in swinging if period is not None),
        final_loss=median(losses) if losses else None,
    )


def _without_seeds(params: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in params.items() if name not in SEEDS}
