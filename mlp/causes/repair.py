"""One run: why it oscillates, and the smallest change that stops it, verified by training it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

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
    missing,
    prepare,
    turned,
)
from mlp.causes.intervention import next_turning_batch
from mlp.causes.joint import curing_pair, joint_cures, next_pair_batch
from mlp.causes.observed import StudyRun, parameters_of
from mlp.causes.repaired import Repair, summarise
from mlp.causes.step import GradientNorm, step_example
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict
from mlp.settings import settings_of
from mlp.study.domain import Domain, Range
from mlp.study.space import Space

# A number's way from the run's value to a cure is cut in four, and a quarter in four again.
# Three values train together in little more time than one.
_ROUNDS, _POINTS = 2, 3
_FAR = 100.0


def repair(
    config: RunConfig,
    space: Space,
    train: Train,
    *,
    n_examples: int,
    gradient_norm: GradientNorm,
    seeds: int = 4,
    known: Results | None = None,
    population: int = 64,
    goes_on: Callable[[], bool] = lambda: True,
) -> Repair:
    """Searches the smallest change that stops the oscillation of one run.

    Every single change is trained with the run's own seed and, of each setting that stops it, the
    strongest one with further seeds. Where a number cures, the way to it is cut in sixteen: the
    smallest change that still cures is then verified with the further seeds. Only if no single
    change cures, pairs are searched in the same way.

    Args:
        config: of a run that oscillates.
        space: what may be changed; of its study, or the `standard_space`.
        train: configs -> judgements.
        n_examples: in the training part.
        gradient_norm: configs -> norms of the mean gradient at the start.
        seeds: further seeds.
        known: results of an earlier call.
        population: configs that are trained in one call of `train`, at most.
        goes_on: asked before each population.
    """
    run = StudyRun(plain(config), parameters_of(config, space), Verdict.OSCILLATING)
    effort = Effort(interventions=1, seeds=seeds)
    inquiry = _of_one_run(
        prepare([run], space, effort, n_examples=n_examples, gradient_norm=gradient_norm), space
    )
    pick = inquiry.picks[0]
    trials = _Trials(pick, train, population, goes_on)
    trials.results = investigate(
        inquiry,
        train,
        known=known,
        population=population,
        goes_on=trials.go_on,
        asked=_next_cures,
    )
    candidates: list[tuple[Change, ...]] = [(change,) for change in _approached(trials, space)]
    candidates += [
        (best,) for f in pick.factors for best in by_strength(pick, f, trials.results)[:1]
    ]
    candidates += _pairs(inquiry, trials.results)
    trials.train_missing(filter(trials.cures, candidates), range(1, pick.n_seeds + 1))
    step = step_example(run.config, n_examples, gradient_norm)
    return summarise(pick, candidates, trials.results, step=step, is_complete=trials.is_complete)


def _next_cures(inquiry: Inquiry, results: Results) -> tuple[RunConfig, ...]:
    """What to train next to know what stops the run; nothing about what has no effect on it."""
    return next_turning_batch(inquiry, results) or next_pair_batch(inquiry, results)


class _Trials:
    """What is trained of one run, and what came of it.

    Attributes:
        pick: the run and its changes.
        results: everything known.
        is_complete: whether there was time for everything that was wanted.
    """

    def __init__(
        self, pick: Pick, train: Train, population: int, goes_on: Callable[[], bool]
    ) -> None:
        self.pick = pick
        self.results: dict[RunConfig, Judgement] = {}
        self.is_complete = True
        self._train, self._population, self._goes_on = train, population, goes_on

    def go_on(self) -> bool:
        """Whether there is time for another population; asked only where one is wanted."""
        self.is_complete = self.is_complete and self._goes_on()
        return self.is_complete

    def cures(self, changes: Sequence[Change]) -> bool:
        """Whether these changes stop the run with its own seed."""
        judged = judged_after(self.pick, changes, 0, self.results)
        return judged is not None and turned(self.pick, judged)

    def train_missing(self, candidates: Iterable[Sequence[Change]], seeds: Sequence[int]) -> bool:
        """Trains what is not known yet; whether there was anything, and time for all of it."""
        wanted = [
            rerun(self.pick.configs[seed], changes, seed)
            for changes in candidates
            for seed in seeds
        ]
        configs = missing(wanted, self.results)
        for first in range(0, len(configs), self._population):
            if not self.go_on():
                return False
            some = configs[first : first + self._population]
            self.results.update(zip(some, self._train(some), strict=True))
        return bool(wanted)


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


def _approached(trials: _Trials, space: Space) -> list[Change]:
    """For each number that cures, the smallest change on the way to it that still does."""
    pick = trials.pick
    start = settings_of(pick.configs[0])
    smallest: dict[Factor, Change] = {}
    for factor in pick.factors:
        best = next(iter(by_strength(pick, factor, trials.results)), None)
        if best and trials.cures([best]) and isinstance(start[factor.setting], float):
            smallest[factor] = best
    failed = {factor: start[factor.setting] for factor in smallest}
    for _ in range(_ROUNDS):
        ways = {f: _between(pick, change, failed[f], space) for f, change in smallest.items()}
        if not trials.train_missing([[step] for way in ways.values() for step in way], [0]):
            break
        for factor, way in ways.items():
            for step in way:
                if not trials.cures([step]):
                    failed[factor] = dict(step.values[0])[factor.setting]  # type: ignore[assignment]
                    break
                smallest[factor] = step
    return list(smallest.values())


def _between(pick: Pick, change: Change, failed: object, space: Space) -> list[Change]:
    """Changes at even distances on the way from a cure to a value that does not cure."""
    setting = change.factor.setting
    cured = dict(change.values[0])[setting]
    assert isinstance(cured, int | float)
    assert isinstance(failed, int | float)
    drawn = domain_of(pick.configs[0], next(entry for entry in space if entry.path == setting))
    if drawn is None:
        return []
    shares = [i / (_POINTS + 1) for i in range(1, _POINTS + 1)]
    if min(cured, failed) > 0:
        values = [cured ** (1 - share) * failed**share for share in shares]
    else:
        values = [cured + (failed - cured) * share for share in shares]
    low, high = min(cured, failed), max(cured, failed)
    rounded = dict.fromkeys(float(f"{value:.3g}") for value in values)
    return [_to_value(pick, change.factor, v, drawn[1]) for v in rounded if low < v < high]


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
