"""One run: why it oscillates, and the smallest change that stops it, verified by training it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from mlp.causes.answer import Train, investigate, next_turning_batch
from mlp.causes.changes import (
    LEARNING_RATE,
    NORMALIZATION,
    Change,
    Factor,
    GradientNorm,
    StepExample,
    domain_of,
    plain,
    position,
    rerun,
    shown_value,
    step_example,
)
from mlp.causes.observed import StudyRun, parameters_of
from mlp.causes.pairs import curing_pair, joint_cures, next_pair_batch
from mlp.causes.plan import (
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
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict
from mlp.settings import settings_of
from mlp.study.space import Domain, Range, Space

_SIZE_OF_STEP = {LEARNING_RATE, NORMALIZATION}

# A number's way from the run's value to a cure is cut in four, and a quarter in four again.
# Three values train together in little more time than one.
_ROUNDS, _POINTS = 2, 3
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
        cures: changes that stop it with its own seed, those that do so most often with further
            ones first and of these the smallest; the first is the repair. Empty: none was found.
        quiet_failures: changes that end the swings in a run that learns nothing.
        without_effect: settings of no cure; with its own seed and every value that was tried, the
            run goes on to oscillate.
        n_trained: reruns.
        is_complete: whether everything was tried.
    """

    config: RunConfig
    step: StepExample | None
    n_oscillating: int
    n_seeds: int
    cures: tuple[Attempt, ...]
    quiet_failures: tuple[Attempt, ...]
    without_effect: tuple[str, ...]
    n_trained: int
    is_complete: bool

    def __str__(self) -> str:
        """The answer in sentences."""
        return " ".join(describe_repair(self))


def summarise(
    pick: Pick,
    candidates: Sequence[Sequence[Change]],
    results: Results,
    *,
    step: StepExample | None,
    is_complete: bool,
) -> Repair:
    """What the results say of a run and of the changes that may stop it."""
    attempts = [a for both in candidates if (a := _attempt(pick, both, results)) is not None]
    cures = tuple(sorted(filter(_is_cure, attempts), key=_preference))
    acting = {setting for cure in cures for setting in cure.settings}
    unchanged = [j for c in pick.configs[1:] if (j := results.get(c)) is not None]
    return Repair(
        config=pick.configs[0],
        step=step,
        n_oscillating=sum(j.verdict is Verdict.OSCILLATING for j in unchanged),
        n_seeds=len(unchanged),
        cures=cures,
        quiet_failures=tuple(
            own
            for change in pick.changes
            if (own := _attempt(pick, [change], results)) and _is_quiet_failure(own)
        ),
        without_effect=tuple(s for s in _in_vain(pick, results) if s not in acting),
        n_trained=len(results),
        is_complete=is_complete,
    )


def _in_vain(pick: Pick, results: Results) -> tuple[str, ...]:
    """Settings that were changed in every way, and the run with its own seed went on as before."""
    judged: dict[str, list[Judgement | None]] = {}
    for change in pick.changes:
        own = judged_after(pick, [change], 0, results)
        judged.setdefault(change.factor.setting, []).append(own)
    return tuple(
        setting
        for setting, all_of_it in judged.items()
        if all(own is not None and own.verdict is Verdict.OSCILLATING for own in all_of_it)
    )


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


def describe_repair(found: Repair) -> tuple[str, ...]:
    """Why the run oscillates, what stops it and what does not: one to five sentences."""
    again = f"Unchanged it oscillates with {found.n_oscillating} of {found.n_seeds} further seeds."
    known = (again,) if found.n_seeds else ()
    if not found.cures and not found.is_complete:
        return ("The time was up before a change was found that stops this run.", *known)
    if not found.cures:
        said = "No change of one setting, or of two, stops the oscillation."
        return (said, *known, *_quiet_sentences(found))
    best = found.cures[0]
    if not is_verified(found):
        return (
            f"With its own seed {best.text} stops it ({best.verdict.value}); the time was up "
            "before it was tried with further seeds.",
        )
    so_far = "" if found.is_complete else " so far (the search was stopped early)"
    ended = f"{best.verdict.value}, and with {best.n_cured} of {best.n_seeds} further seeds"
    if _is_chance(found):
        said = f"With its first weights {best.text} stops it{so_far} ({ended}), by chance perhaps."
        return (said, *known)
    others = _others(found)
    is_single = len(best.settings) == 1
    is_smallest = all(best.distance <= other.distance for other in others if _is_reliable(other))
    how = "the smallest" if is_smallest else "the most reliable"
    how += f"{' single' * (is_single and not best.keeps_step)} change"
    names = " and ".join(best.settings)
    subject = f"{names} {'makes' if is_single else 'make'} it oscillate{_about_its_step(found)}"
    lead = f"{subject}: {best.text} is {how} that stops it{so_far} ({ended})."
    return (lead, *known, *_other_sentences(others), *_quiet_sentences(found))


def _others(found: Repair) -> list[Attempt]:
    """What else stops it: of each setting the most reliable change, which comes first."""
    others: dict[tuple[str, ...], Attempt] = {}
    for cure in found.cures:
        others.setdefault(cure.settings, cure)
    del others[found.cures[0].settings]
    return list(others.values())


def _other_sentences(others: Sequence[Attempt]) -> Iterator[str]:
    reliable = [other.text for other in others if _is_reliable(other)]
    if reliable:
        yield f"Also stopped by {', '.join(reliable)}."
    seldom = [
        f"{other.text} ({other.n_cured} of {other.n_seeds})"
        for other in others
        if other.n_seeds and not _is_reliable(other)
    ]
    if seldom:
        yield f"With its own seed, but seldom with further ones, by {', '.join(seldom)}."


def _quiet_sentences(found: Repair) -> Iterator[str]:
    """What ends the swings without learning, and what was changed in vain."""
    acting = {setting for cure in found.cures for setting in cure.settings}
    quiet: dict[tuple[str, ...], Attempt] = {}
    for failure in sorted(found.quiet_failures, key=lambda own: own.distance):
        if not acting.intersection(failure.settings):
            quiet.setdefault(failure.settings, failure)
    if quiet:
        listed = ", ".join(f"{own.text} ({own.verdict.value})" for own in quiet.values())
        yield f"Swings end, but it does not learn, with {listed}."
    if found.cures and found.without_effect:
        *names, last = found.without_effect
        listed = f"{', '.join(names)} or {last}" if names else last
        yield f"With its own seed no change of {listed} that was tried stops it."


def is_verified(found: Repair) -> bool:
    """Whether there is a change that stops the run, and that was tried with further seeds."""
    return bool(found.cures) and found.cures[0].n_seeds > 0


def named_causes(found: Repair) -> tuple[str, ...]:
    """The settings that the answer names; none where what stops the run may be chance."""
    return found.cures[0].settings if is_verified(found) and not _is_chance(found) else ()


def _is_chance(found: Repair) -> bool:
    return 2 * found.n_oscillating < found.n_seeds or not _is_reliable(found.cures[0])


def _about_its_step(found: Repair) -> str:
    """What the size of the step has to do with it, as far as the cures tell."""
    best = found.cures[0]
    if best.keeps_step:
        return ", at any size of the step"
    acts = _SIZE_OF_STEP.intersection(best.settings)
    is_refuted = any(cure.keeps_step and _is_reliable(cure) for cure in found.cures)
    return f" ({found.step})" if found.step and acts and not is_refuted else ""


def _is_reliable(cure: Attempt) -> bool:
    """Whether it works with more than half of the further seeds that were tried."""
    return 2 * cure.n_cured > cure.n_seeds


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
        f"{setting}={shown_value(value)}",
        (((setting, value),),) * len(pick.configs),
        abs(position(domain, value) - position(domain, start)),
    )


def _pairs(inquiry: Inquiry, results: Results) -> list[tuple[Change, ...]]:
    pick = inquiry.picks[0]
    found = [curing_pair(pick, cure.factors, results) for cure in joint_cures(inquiry, results)]
    return [both for both in found if both is not None]
