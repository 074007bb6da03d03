"""What was found about one run: what was tried on it, what stops it, and what does not."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlp.causes.change import Change, rerun
from mlp.causes.inquiry import Pick, Results, judged_after, turned
from mlp.causes.step import StepExample
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict


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
