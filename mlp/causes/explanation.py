"""The answer in words: one to three sentences for a person, then the evidence as plain text."""

from collections.abc import Sequence

from mlp.causes.attribution import Answer
from mlp.causes.cause import Cause, Kind
from mlp.causes.change import LEARNING_RATE, NORMALIZATION, Factor
from mlp.causes.effect import Effect, SideEffect
from mlp.causes.evidence import Conclusion
from mlp.causes.inquiry import Side
from mlp.causes.joint import Dependence, JointCure

_MOST_NAMED = 4  # settings in a list; a sentence is not a table
_DID = {Side.STOPS: "stopped", Side.STARTS: "started"}
_HOW_OFTEN = ("likewise", "in fewer runs")


def sentences(answer: Answer) -> tuple[str, ...]:
    """What makes the loss oscillate, what does not, and what is not known: at most three.

    Settings are named as on the command line.
    """
    if answer.n_oscillating == 0 and not answer.causes:
        return (f"None of the {answer.n_runs} runs oscillates, so there is nothing to stop.",)
    lead = [_cause_sentence(answer, cause) for cause in answer.causes[:1]]
    lead += _further_causes(answer.causes[1:])
    if not lead and answer.n_trained == 0:
        lead = ["Nothing has been rerun in the time there was, so no cause is known yet."]
    if not lead:
        trained = f"{answer.n_trained} reruns of {sum(answer.n_picked)} runs"
        lead = [
            f"No setting was shown to make the loss oscillate, from {trained}."
            if answer.is_complete
            else f"Not answered yet: {trained} show no cause so far."
        ]
    return (*lead, *_rest(answer))


def render_answer(answer: Answer) -> str:
    """The sentences and the evidence below them, as plain text of many lines."""
    n_stops, n_starts = answer.n_picked
    state = "all that was asked" if answer.is_complete else "stopped early, goes on when run again"
    parts = [
        "\n".join(sentences(answer)),
        f"{answer.n_oscillating} of {answer.n_runs} runs oscillate. Reruns: {answer.n_trained}, "
        f"from {n_stops} oscillating and {n_starts} healthy runs ({state}).",
        _effect_lines(answer.effects),
        "\n".join(_dependence_line(bond) for bond in answer.dependences),
        "\n".join(_joint_line(cure) for cure in answer.joint_cures),
    ]
    return "\n\n".join(part for part in parts if part)


def evidence_table(answer: Answer) -> tuple[str, ...]:
    """What changing each setting did with new seeds, in lines for a screen; none without reruns.

    The strongest evidence comes first.
    """
    best: dict[str, float] = {}
    for own in answer.effects:
        best[own.factor.setting] = min(best.get(own.factor.setting, 1.0), own.p_value)
    tried = [own for own in answer.effects if any(side.n_pairs for side in own.sides)]
    order = sorted(
        tried,
        key=lambda own: (best[own.factor.setting], own.factor.setting, own.factor.keeps_step),
    )
    rows: list[tuple[str, ...]] = [
        ("changed alone, new seeds", "stopped it", "started it", "so it is")
    ]
    for own in order:
        name = "  at the same effective step" if own.factor.keeps_step else own.factor.setting
        turned = (_turned(own.on(side)) for side in (Side.STOPS, Side.STARTS))
        rows.append((name, *turned, own.conclusion.value))
    if len(rows) == 1:
        return ()
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return tuple(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
        for row in rows
    )


def _turned(side: SideEffect | None) -> str:
    return f"{side.n_with} of {side.n_expected}" if side and side.n_pairs else "·"


def _cause_sentence(answer: Answer, cause: Cause) -> str:
    names = _listed(cause.settings)
    match cause.kind:
        case Kind.EFFECTIVE_STEP:
            example = answer.step_example
            said = f" ({example})" if example else ""
            return (
                f"The effective step makes the loss oscillate{said}: {_shown_by(cause)}, while "
                f"{NORMALIZATION} changed at the same effective step {_idle(cause)}."
            )
        case Kind.TOGETHER:
            returned = sum(bond.n_returned for bond in cause.dependences)
            tried = sum(bond.n_pairs for bond in cause.dependences)
            return (
                f"{names} make the loss oscillate only together: {_shown_by(cause)}, and with one "
                f"of them cured the other brought it back in {returned} of {tried} reruns."
            )
        case Kind.BOTH:
            cure = cause.joint[0]
            return (
                f"{names} both have to be changed: no single change stopped {cure.n_uncured} of "
                f"the oscillating runs, both together did in {cure.n_cured} of {cure.n_pairs} "
                f"reruns ({cure.changes[0]})."
            )
        case Kind.ALONE:
            return f"{names} makes the loss oscillate: {_shown_by(cause)}."


def _further_causes(causes: Sequence[Cause]) -> list[str]:
    """One sentence on all but the first; those that decide the minority of runs are said to."""
    often = [_short(cause) for cause in causes if _decides_most(cause)]
    seldom = [_short(cause) for cause in causes if not _decides_most(cause)]
    parts = [
        f"{words} {'; '.join(own)}"
        for words, own in zip(_HOW_OFTEN, (often, seldom), strict=True)
        if own
    ]
    text = ", and ".join(parts)
    return [f"{text[:1].upper()}{text[1:]}."] if parts else []


def _decides_most(cause: Cause) -> bool:
    """Whether its change turned at least half of what it could have turned, on either side."""
    if cause.kind is not Kind.ALONE:
        return True
    sides = [_acting_side(effect) for effect in _acting(cause)]
    return any(2 * side.n_with >= side.n_expected for side in sides)


def _short(cause: Cause) -> str:
    what = _listed(cause.settings)
    if cause.joint:
        return f"{what} (both changed together)"
    if cause.kind is not Kind.ALONE:
        what += f" ({cause.kind.value})"
    return f"{what} ({', '.join(_brief(_acting_side(effect)) for effect in _acting(cause))})"


def _brief(side: SideEffect) -> str:
    such = f"such as {next(iter(side.changes))}, " if side.changes else ""
    return f"{such}{_DID[side.side]} it in {side.n_with} of {side.n_expected} reruns"


def _shown_by(cause: Cause) -> str:
    """What the changes of a cause did, in numbers."""
    return ", ".join(_effect_words(effect, cause) for effect in _acting(cause))


def _acting(cause: Cause) -> list[Effect]:
    """The effects that show a cause, without those that only repeat it."""
    shown = [e for e in cause.effects if e.conclusion is Conclusion.CAUSE]
    acting = [e for e in shown if not e.factor.keeps_step] or shown
    if cause.kind is Kind.EFFECTIVE_STEP:  # one of the two shows it, best beside its own contrast
        for setting in (NORMALIZATION, LEARNING_RATE):
            acting = [e for e in acting if e.factor == Factor(setting)] or acting
    return acting[:1] if cause.kind is Kind.EFFECTIVE_STEP else acting


def _acting_side(effect: Effect) -> SideEffect:
    side = effect.on(Side.STOPS) if effect.stops else None
    if side is None:
        side = max(effect.sides, key=lambda own: own.n_with_tested - own.n_against_tested)
    return side


def _effect_words(effect: Effect, cause: Cause) -> str:
    side = _acting_side(effect)
    such = f" (such as {next(iter(side.changes))})" if side.changes else ""
    what = "changing it alone" if len(cause.settings) == 1 else f"changing {effect.factor} alone"
    return (
        f"{what}{such} {_DID[side.side]} it in {side.n_with} of {side.n_expected} reruns with new "
        "seeds"
    )


def _idle(cause: Cause) -> str:
    effect = next((e for e in cause.effects if e.factor.keeps_step), None)
    side = effect.on(Side.STOPS) if effect else None
    if side is None:
        return "was not tried"
    return f"stopped {side.n_with} of {side.n_expected}"


def _rest(answer: Answer) -> list[str]:
    """One sentence on settings without effect, those not settled, and whether it is all."""
    parts = []
    if answer.without_effect:
        verb = "does" if len(answer.without_effect) == 1 else "do"
        parts.append(f"{_listed(answer.without_effect)} {verb} nothing")
    if answer.only_failing:
        which = _listed(answer.only_failing)
        parts.append(f"changing {which} ends the swings only in runs that learn nothing")
    if answer.undecided:
        parts.append(f"too little evidence on {_listed(answer.undecided)}")
    if not answer.is_complete:
        parts.append("the reruns were stopped early, so this may be a part of it")
    text = "; ".join(parts)
    is_sentence_start = not answer.without_effect  # a setting's name keeps its small letter
    return [f"{text[:1].upper() if is_sentence_start else text[:1]}{text[1:]}."] if text else []


def _listed(names: Sequence[str]) -> str:
    shown = list(names[:_MOST_NAMED])
    if len(names) > _MOST_NAMED:
        shown[-1:] = [shown[-1], f"{len(names) - _MOST_NAMED} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _effect_lines(found: Sequence[Effect]) -> str:
    lines = []
    for effect in sorted(found, key=lambda own: own.p_value):
        needed = ""
        if effect.pairs_needed and effect.conclusion.value == "too little evidence":
            needed = f" (about {effect.pairs_needed} differing pairs are needed)"
        lines.append(
            f"{effect.factor}: {effect.conclusion.value}, p = {effect.p_value:.2g}{needed}"
        )
        lines += [f"  {_side_words(side)}" for side in effect.sides if side.n_pairs]
    return "\n".join(lines)


def _side_words(side: SideEffect) -> str:
    endings = ", ".join(f"{n} {v.value}" for v, n in sorted(side.endings.items()))
    return (
        f"{side.side.value} it in {side.n_with}, the opposite in {side.n_against} of "
        f"{side.n_pairs} pairs from {side.n_runs} runs: {side.difference.value:+.0%} "
        f"[{side.difference.low:+.0%}, {side.difference.high:+.0%}], counting any other end "
        f"{side.left.value:+.0%} [{side.left.low:+.0%}, {side.left.high:+.0%}]; ended {endings}"
    )


def _dependence_line(bond: Dependence) -> str:
    word = {True: "needs", False: "does not need", None: "may or may not need"}[bond.is_needed]
    return (
        f"{bond.factor} {word} {bond.without}: with that cured it brought the swings back in "
        f"{bond.n_returned} of {bond.n_pairs} reruns"
    )


def _joint_line(cure: JointCure) -> str:
    return (
        f"{cure.factors[0]} with {cure.factors[1]}: {cure.conclusion.value}, p = "
        f"{cure.p_value:.2g}; both changed cured {cure.n_cured} of {cure.n_pairs} reruns of "
        f"{cure.n_runs} runs ({cure.n_uncured} runs had no single cure)"
    )
