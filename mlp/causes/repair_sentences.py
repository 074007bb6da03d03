"""Why one run oscillates and what stops it, in sentences."""

from mlp.causes.change import LEARNING_RATE, NORMALIZATION
from mlp.causes.repaired import Attempt, Repair

_SIZE_OF_STEP = {LEARNING_RATE, NORMALIZATION}


def describe_repair(found: Repair) -> str:
    """Why the run oscillates, what stops it and what does not, in one to four sentences."""
    again = f"Unchanged it oscillates with {found.n_oscillating} of {found.n_seeds} further seeds."
    if not found.cures and not found.is_complete:
        text = "The time was up before a change was found that stops this run."
        return f"{text} {again}" if found.n_seeds else text
    if not found.cures:
        return f"No change of one setting, or of two, stops the oscillation. {again}"
    best = found.cures[0]
    if not is_verified(found):
        return (
            f"With its own seed {best.text} stops it ({best.verdict.value}); the time was up "
            "before it was tried with further seeds."
        )
    so_far = "" if found.is_complete else " so far (the search was stopped early)"
    ended = f"{best.verdict.value}, and with {best.n_cured} of {best.n_seeds} further seeds"
    if _is_chance(found):
        text = f"With its first weights {best.text} stops it{so_far} ({ended}), by chance perhaps."
        return f"{text} {again}"
    others: dict[tuple[str, ...], Attempt] = {}
    for cure in filter(_is_reliable, found.cures):  # the most reliable of a setting comes first
        others.setdefault(cure.settings, cure)
    del others[best.settings]
    is_single = len(best.settings) == 1
    is_smallest = all(best.distance <= other.distance for other in others.values())
    how = "the smallest" if is_smallest else "the most reliable"
    how += f"{' single' * (is_single and not best.keeps_step)} change"
    names = " and ".join(best.settings)
    subject = f"{names} {'makes' if is_single else 'make'} it oscillate{_about_its_step(found)}"
    text = f"{subject}: {best.text} is {how} that stops it{so_far} ({ended})."
    text = f"{text} {again}"
    if others:
        text = f"{text} Also stopped by {', '.join(other.text for other in others.values())}."
    return f"{text}{_without_effect(found)}"


def _without_effect(found: Repair) -> str:
    *names, last = found.without_effect or ("",)
    listed = f"{', '.join(names)} or {last}" if names else last
    return f" With its own seed no change of {listed} that was tried stops it." if listed else ""


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
