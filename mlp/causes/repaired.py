"""What was found about one run: what stops it and what does not, as numbers and in sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlp.causes.change import LEARNING_RATE, NORMALIZATION, Change, rerun
from mlp.causes.inquiry import Pick, Results, judged_after, turned
from mlp.causes.step import StepExample
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict

_SIZE_OF_STEP = {LEARNING_RATE, NORMALIZATION}


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
