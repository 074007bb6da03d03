"""One run: why it oscillates, and the smallest change that stops it, verified by training it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mlp.causes.attribution import Train, investigate
from mlp.causes.change import (
    Change,
    Factor,
    domain_of,
    plain,
    position,
    rerun,
    shown,
)
from mlp.causes.inquiry import (
    Effort,
    Inquiry,
    Pick,
    Results,
    by_strength,
    judged_after,
    prepare,
    turned,
)
from mlp.causes.joint import curing_pair, joint_cures
from mlp.causes.observed import StudyRun, parameters_of
from mlp.causes.step import GradientNorm, StepExample, step_example
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict
from mlp.settings import settings_of
from mlp.study.domain import Domain, Range
from mlp.study.space import Space

_HALVINGS = 4  # of a number's way from the run's value to a cure: to a sixteenth of it
_FAR = 100.0


@dataclass(frozen=True)
class Attempt:
    """A change that was tried on the run.

    Attributes:
        text: as typed.
        settings: that it changes.
        keeps_step: whether the normalization is changed at the same effective step.
        distance: how far it goes, as a share of the settings' domains.
        verdict: how the run ended with its own seed.
        n_cured: further seeds with which it ended learning or converged.
        n_seeds: further seeds that were tried.
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


@dataclass(frozen=True)
class Repair:
    """Why one run oscillates, and what stops it.

    Attributes:
        config: of the run.
        step: its first step; None where that is simply its learning rate.
        n_oscillating: further seeds with which it oscillates unchanged.
        n_seeds: further seeds that were tried.
        cures: verified changes, the most reliable first and of these the smallest; the first one is
            the repair. Empty: none was found.
        quiet_failures: changes that end the swings in a run that learns nothing.
        n_trained: reruns.
        is_complete: whether everything was tried.
    """

    config: RunConfig
    step: StepExample | None
    n_oscillating: int
    n_seeds: int
    cures: tuple[Attempt, ...]
    quiet_failures: tuple[Attempt, ...]
    n_trained: int
    is_complete: bool


def repair(
    config: RunConfig,
    space: Space,
    train: Train,
    *,
    n_examples: int,
    gradient_norm: GradientNorm,
    seeds: int = 4,
    known: Results | None = None,
    goes_on: Callable[[], bool] = lambda: True,
) -> Repair:
    """Searches the smallest change that stops the oscillation of one run.

    Every single change is trained with the run's own seed and the strongest one of each setting
    with further seeds. Where a number cures, the way to it is halved four times: the smallest
    change of each setting that still cures is then verified with the further seeds. Only if no
    single change cures, pairs are searched.

    Args:
        config: of a run that oscillates.
        space: what may be changed; of its study, or the `standard_space`.
        train: configs -> judgements.
        n_examples: in the training part.
        gradient_norm: configs -> norms of the mean gradient at the start.
        seeds: further seeds.
        known: results of an earlier call.
        goes_on: asked before each population.
    """
    run = StudyRun(plain(config), parameters_of(config, space), Verdict.OSCILLATING)
    effort = Effort(interventions=1, seeds=seeds)
    inquiry = _of_one_run(
        prepare([run], space, effort, n_examples=n_examples, gradient_norm=gradient_norm), space
    )
    pick = inquiry.picks[0]
    results = investigate(inquiry, train, known=known, goes_on=goes_on)
    candidates: list[tuple[Change, ...]] = [
        (change,) for change in _halved(pick, space, train, results, goes_on)
    ]
    candidates += [(best,) for f in pick.factors for best in by_strength(pick, f, results)[:1]]
    candidates += _pairs(inquiry, results)
    _verify(pick, candidates, train, results, goes_on)
    attempts = [a for both in candidates if (a := _attempt(pick, both, results)) is not None]
    unchanged = [j for c in pick.configs[1:] if (j := results.get(c)) is not None]
    return Repair(
        config=run.config,
        step=step_example(run.config, n_examples, gradient_norm),
        n_oscillating=sum(j.verdict is Verdict.OSCILLATING for j in unchanged),
        n_seeds=len(unchanged),
        cures=tuple(sorted(filter(_is_cure, attempts), key=_preference)),
        quiet_failures=tuple(
            own
            for change in pick.changes
            if (own := _attempt(pick, [change], results)) and _is_quiet_failure(own)
        ),
        n_trained=len(results),
        is_complete=goes_on(),
    )


def _of_one_run(inquiry: Inquiry, space: Space) -> Inquiry:
    """An inquiry into a single run: with fewer seeds, and numbers farther away."""
    pick = inquiry.picks[0]
    pick = replace(
        pick,
        configs=pick.configs[: pick.n_seeds + 1],  # one run needs no error rate over all settings
        changes=(*pick.changes, *_farther(pick, space)),
    )
    return replace(inquiry, picks=(pick,))


def _farther(pick: Pick, space: Space) -> list[Change]:
    """Numbers a hundred times larger and smaller: no study says here what would be quiet."""
    found = []
    for factor in pick.factors:
        value = settings_of(pick.configs[0])[factor.setting]
        drawn = domain_of(pick.configs[0], next(e for e in space if e.path == factor.setting))
        if not isinstance(value, float) or drawn is None or not isinstance(drawn[1], Range):
            continue
        known = [dict(change.values[0])[factor.setting] for change in pick.of_factor(factor)]
        for times in (1 / _FAR, _FAR):
            far = min(max(value * times, drawn[1].low), drawn[1].high)
            if far not in (value, *known):
                found.append(_to_value(pick, factor, far, drawn[1]))
    return found


def _halved(
    pick: Pick,
    space: Space,
    train: Train,
    results: dict[RunConfig, Judgement],
    goes_on: Callable[[], bool],
) -> list[Change]:
    """For each number that cures, the smallest change on the way to it that still does."""
    smallest: dict[Factor, Change] = {}
    for factor in pick.factors:
        best = next(iter(by_strength(pick, factor, results)), None)
        value = settings_of(pick.configs[0])[factor.setting]
        judged = judged_after(pick, [best], 0, results) if best else None
        if best and judged and turned(pick, judged) and isinstance(value, float):
            smallest[factor] = best
    failed = {f: settings_of(pick.configs[0])[f.setting] for f in smallest}
    for _ in range(_HALVINGS):
        halves = {
            f: half
            for f, change in smallest.items()
            if (half := _half_way(pick, change, failed[f], space)) is not None
        }
        if not _train_missing(
            pick, [[half] for half in halves.values()], [0], train, results, goes_on
        ):
            break
        for factor, half in halves.items():
            judged = judged_after(pick, [half], 0, results)
            if judged is not None and turned(pick, judged):
                smallest[factor] = half
            elif judged is not None:
                failed[factor] = dict(half.values[0])[factor.setting]  # type: ignore[assignment]
    return list(smallest.values())


def _half_way(pick: Pick, change: Change, failed: object, space: Space) -> Change | None:
    """The change half way from a value that does not cure; None once they are one."""
    setting = change.factor.setting
    cured = dict(change.values[0])[setting]
    assert isinstance(cured, int | float)
    assert isinstance(failed, int | float)
    middle = math.sqrt(cured * failed) if min(cured, failed) > 0 else (cured + failed) / 2
    value = float(f"{middle:.3g}")
    if value in (cured, failed):
        return None
    drawn = domain_of(pick.configs[0], next(entry for entry in space if entry.path == setting))
    if drawn is None:
        return None
    return _to_value(pick, change.factor, value, drawn[1])


def _to_value(pick: Pick, factor: Factor, value: float, domain: Domain) -> Change:
    setting = factor.setting
    start = settings_of(pick.configs[0])[setting]
    return Change(
        factor,
        f"{setting}={shown(value)}",
        (((setting, value),),) * len(pick.configs),
        abs(position(domain, value) - position(domain, start)),
    )


def _pairs(inquiry: Inquiry, results: Results) -> list[tuple[Change, ...]]:
    pick = inquiry.picks[0]
    found = [curing_pair(pick, cure.factors, results) for cure in joint_cures(inquiry, results)]
    return [both for both in found if both is not None]


def _verify(
    pick: Pick,
    candidates: Sequence[Sequence[Change]],
    train: Train,
    results: dict[RunConfig, Judgement],
    goes_on: Callable[[], bool],
) -> None:
    curing = [both for both in candidates if _turns(pick, both, results)]
    _train_missing(pick, curing, range(1, pick.n_seeds + 1), train, results, goes_on)


def _turns(pick: Pick, changes: Sequence[Change], results: Results) -> bool:
    judged = judged_after(pick, changes, 0, results)
    return judged is not None and turned(pick, judged)


def _train_missing(
    pick: Pick,
    candidates: Sequence[Sequence[Change]],
    seeds: Sequence[int],
    train: Train,
    results: dict[RunConfig, Judgement],
    goes_on: Callable[[], bool],
) -> bool:
    """Trains what is not known yet; whether there was anything, and time for it."""
    wanted = [rerun(pick.configs[s], changes, s) for changes in candidates for s in seeds]
    configs = tuple(dict.fromkeys(c for c in wanted if c is not None and c not in results))
    if not configs or not goes_on():
        return bool(wanted) and not configs
    results.update(zip(configs, train(configs), strict=True))
    return True


def _attempt(pick: Pick, changes: Sequence[Change], results: Results) -> Attempt | None:
    own, config = judged_after(pick, changes, 0, results), rerun(pick.configs[0], changes, 0)
    if own is None or config is None:
        return None
    further = [judged_after(pick, changes, s, results) for s in range(1, pick.n_seeds + 1)]
    known = [judged for judged in further if judged is not None]
    return Attempt(
        text=" ".join(change.text for change in changes),
        settings=tuple(change.factor.setting for change in changes),
        keeps_step=any(change.factor.keeps_step for change in changes),
        distance=sum(change.distance for change in changes),
        verdict=own.verdict,
        n_cured=sum(turned(pick, judged) for judged in known),
        n_seeds=len(known),
        config=config,
    )


def _is_cure(attempt: Attempt) -> bool:
    return attempt.verdict in (Verdict.LEARNING, Verdict.CONVERGED)


def _is_quiet_failure(attempt: Attempt) -> bool:
    return not _is_cure(attempt) and attempt.verdict is not Verdict.OSCILLATING


def _preference(attempt: Attempt) -> tuple[int, float, float]:
    """Fewest settings, then most further seeds cured, then the shortest way."""
    share = attempt.n_cured / attempt.n_seeds if attempt.n_seeds else 0.0
    return len(attempt.settings), -share, attempt.distance
