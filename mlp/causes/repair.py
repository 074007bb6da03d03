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
    domain_of,
    plain,
    position,
    rerun,
    shown_value,
    step_example,
)
from mlp.causes.observed import HEALTHY, StudyRun, is_repair, parameters_of
from mlp.causes.pairs import curing_pair, next_curing_pairs, pair_cures
from mlp.causes.plan import (
    Pick,
    Plan,
    Results,
    by_strength,
    ends_as_wanted,
    judged_after,
    missing,
    plan_reruns,
    turns,
)
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict
from mlp.settings import settings_of
from mlp.study.space import Domain, Range, Space

_SIZE_OF_STEP = {LEARNING_RATE, NORMALIZATION}

# The way from the run's value of a number to one that cures is divided into four parts, and one of
# these into four parts. Three values train together in little more time than one.
_ROUNDS, _POINTS = 2, 3
_FAR = 100.0


@dataclass(frozen=True)
class Attempt:
    """A change that was tried on the run.

    Attributes:
        text: as typed.
        keeps_step: whether the normalization is changed at the same effective step.
        distance: how far it goes, as a share of the settings' domains.
        verdict: how the run ended with its own seed.
        n_cured: further seeds with which it ended learning or converged, and no higher than the
            unchanged run where that oscillates.
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
        step: its first step in words; None where that is simply its learning rate.
        n_oscillating: further seeds with which it oscillates unchanged.
        n_seeds: further seeds that were tried.
        cures: changes that repair it with its own seed, those that do so most often with further
            ones first and of these the smallest; the first is the repair. Empty: none was found.
        quiet_failures: changes that end the swings in a run that learns nothing, or that ends
            learning or converged at a higher loss than this one.
        without_effect: settings of no cure; with its own seed and every value that was tried, the
            run still oscillates.
        n_trained: reruns.
        is_complete: whether everything was tried.
    """

    config: RunConfig
    step: str | None
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


def _summarise(
    pick: Pick,
    curing: Sequence[Sequence[Change]],
    results: Results,
    *,
    step: str | None,
    is_complete: bool,
) -> Repair:
    cures = tuple(sorted((_attempt(pick, own, results) for own in curing), key=_preference))
    acting = {setting for cure in cures for setting in cure.settings}
    unchanged = [j for c in pick.configs[1:] if (j := results.get(c)) is not None]
    return Repair(
        config=pick.configs[0],
        step=step,
        n_oscillating=sum(j.verdict is Verdict.OSCILLATING for j in unchanged),
        n_seeds=len(unchanged),
        cures=cures,
        quiet_failures=tuple(
            _attempt(pick, [change], results)
            for change in pick.changes
            if (judged := judged_after(pick, [change], 0, results)) is not None
            and judged.verdict is not Verdict.OSCILLATING
            and not ends_as_wanted(pick, judged)
        ),
        without_effect=tuple(s for s in _in_vain(pick, results) if s not in acting),
        n_trained=len(results) - 1,  # the run itself is among them
        is_complete=is_complete,
    )


def _in_vain(pick: Pick, results: Results) -> tuple[str, ...]:
    """Settings of which every change left the run oscillating, with its own seed."""
    judged: dict[str, list[Judgement | None]] = {}
    for change in pick.changes:
        own = judged_after(pick, [change], 0, results)
        judged.setdefault(change.factor.setting, []).append(own)
    return tuple(
        setting
        for setting, all_of_it in judged.items()
        if all(own is not None and own.verdict is Verdict.OSCILLATING for own in all_of_it)
    )


def _attempt(pick: Pick, changes: Sequence[Change], results: Results) -> Attempt:
    """A change that was trained with the run's own seed."""
    own, config = judged_after(pick, changes, 0, results), rerun(pick.configs[0], changes, 0)
    assert own is not None
    assert config is not None
    further = [_cures_seed(pick, changes, s, results) for s in range(1, pick.n_seeds + 1)]
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


def _cures_seed(pick: Pick, changes: Sequence[Change], seed: int, results: Results) -> bool | None:
    """Whether the run ends well with a further seed; None if that was not trained."""
    before, after = results.get(pick.configs[seed]), judged_after(pick, changes, seed, results)
    if after is None:
        return None
    if before is not None and before.verdict is Verdict.OSCILLATING:
        return is_repair(before, after)
    return after.verdict in HEALTHY  # with this seed there is nothing to repair


def _preference(attempt: Attempt) -> tuple[int, float, float]:
    """Fewest settings, then most further seeds cured, then the shortest way."""
    share = attempt.n_cured / attempt.n_seeds if attempt.n_seeds else 0.0
    return len(attempt.settings), -share, attempt.distance


def describe_repair(found: Repair) -> tuple[str, ...]:
    """Why the run oscillates, what stops it and what does not: one to six sentences."""
    unchanged = (
        f"Unchanged it oscillates with {found.n_oscillating} of {found.n_seeds} further seeds."
    )
    known = (unchanged,) if found.n_seeds else ()
    if not found.cures and not found.is_complete:
        return ("The time was up before a change was found that stops this run.", *known)
    if not found.cures:
        ends_higher = any(own.verdict in HEALTHY for own in found.quiet_failures)
        how = " at as low a loss" if ends_higher else ""
        said = f"No change of one setting, or of two, stops the oscillation{how}."
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
    """What ends the swings without repairing the run, and what was changed in vain."""
    acting = {setting for cure in found.cures for setting in cure.settings}
    quiet: dict[tuple[str, ...], Attempt] = {}
    for failure in sorted(found.quiet_failures, key=lambda own: own.distance):
        if not acting.intersection(failure.settings):
            quiet.setdefault(failure.settings, failure)
    for is_healthy, but in ((False, "it does not learn"), (True, "at a higher loss")):
        kind = [own for own in quiet.values() if (own.verdict in HEALTHY) is is_healthy]
        if kind:
            listed = ", ".join(f"{own.text} ({own.verdict.value})" for own in kind)
            yield f"Swings end, but {but}, with {listed}."
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
    """What the cures tell about the size of the step."""
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
    before: Judgement,
    n_examples: int,
    gradient_norm: GradientNorm,
    seeds: int = 4,
    known: Results | None = None,
    population: int = 64,
    goes_on: Callable[[], bool] = lambda: True,
) -> Repair:
    """Searches the smallest change that repairs one run.

    Every single change is trained with the run's own seed and, of each setting that repairs it, the
    strongest one with further seeds. Where a number does, smaller changes of it are tried: the
    smallest that still repairs is verified with the further seeds. Only if no single change
    repairs, pairs are searched in the same way.

    Args:
        config: of a run that oscillates.
        space: what may be changed; of its study, or the `standard_space`.
        before: how this run ended.
        n_examples: in the training part.
        seeds: further seeds.
        known: results of an earlier call.
        population: configs that are trained in one call of `train`, at most.
        goes_on: asked before each population.
    """
    run = StudyRun(plain(config), parameters_of(config, space), Verdict.OSCILLATING)
    plan = plan_reruns(
        [run],
        space,
        interventions=1,
        seeds=seeds,
        n_examples=n_examples,
        gradient_norm=gradient_norm,
    )
    plan = _of_one_run(plan, before, space)
    pick = plan.picks[0]
    results = {**(known or {}), pick.configs[0]: before}
    is_complete = True

    def has_time() -> bool:
        nonlocal is_complete
        is_complete = is_complete and goes_on()
        return is_complete

    def train_asked(asked: Callable[[Plan, Results], tuple[RunConfig, ...]]) -> None:
        found = investigate(
            plan, train, known=results, population=population, goes_on=has_time, asked=asked
        )
        results.update(found)

    def train_all(candidates: Iterable[Sequence[Change]], seeds: Sequence[int]) -> bool:
        """Whether there was anything to train, and time for all of it."""
        wanted = [rerun(pick.configs[s], changes, s) for changes in candidates for s in seeds]
        train_asked(lambda _, known: missing(wanted, known))
        return bool(wanted) and not missing(wanted, results)

    train_asked(_next_cures)
    candidates: list[tuple[Change, ...]] = [
        (change,) for change in _approached(pick, space, results, train_all)
    ]
    candidates += [(best,) for f in pick.factors for best in by_strength(pick, f, results)[:1]]
    candidates += _pairs(plan, results)
    curing = [own for own in candidates if turns(pick, own, results)]
    train_all(curing, range(1, pick.n_seeds + 1))
    step = step_example(run.config, n_examples, gradient_norm)
    return _summarise(pick, curing, results, step=step, is_complete=is_complete)


def _next_cures(plan: Plan, results: Results) -> tuple[RunConfig, ...]:
    """What to train next to know what stops the run; nothing about what has no effect on it."""
    return next_turning_batch(plan, results) or next_curing_pairs(plan, results)


def _of_one_run(plan: Plan, before: Judgement, space: Space) -> Plan:
    """The plan for a single run: with fewer seeds, and numbers farther away."""
    pick = plan.picks[0]
    pick = replace(
        pick,
        before=before,
        configs=pick.configs[: pick.n_seeds + 1],  # one run needs no error rate over all settings
        changes=(*pick.changes, *_farther(pick, space)),
    )
    return replace(plan, picks=(pick,))


def _farther(pick: Pick, space: Space) -> list[Change]:
    """Numbers a hundred times larger and smaller: no study tells here which values are quiet."""
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


def _approached(
    pick: Pick,
    space: Space,
    results: Results,
    train_all: Callable[[Iterable[Sequence[Change]], Sequence[int]], bool],
) -> list[Change]:
    """For each number that cures, the smallest change on the way to it that still does."""
    start = settings_of(pick.configs[0])
    smallest: dict[Factor, Change] = {}
    for factor in pick.factors:
        best = next(iter(by_strength(pick, factor, results)), None)
        if best and turns(pick, [best], results) and isinstance(start[factor.setting], float):
            smallest[factor] = best
    failed = {factor: start[factor.setting] for factor in smallest}
    for _ in range(_ROUNDS):
        ways = {f: _between(pick, change, failed[f], space) for f, change in smallest.items()}
        if not train_all([[step] for way in ways.values() for step in way], [0]):
            break
        for factor, way in ways.items():
            for step in way:
                if not turns(pick, [step], results):
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


def _pairs(plan: Plan, results: Results) -> list[tuple[Change, ...]]:
    pick = plan.picks[0]
    found = [curing_pair(pick, cure.factors, results) for cure in pair_cures(plan, results)]
    return [both for both in found if both is not None]
