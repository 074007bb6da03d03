"""Which settings make the loss oscillate: the answer, from reruns and from what was observed.

Training comes in as an argument: configs in, judgements out. Nothing here knows where or how.

    plan = plan_reruns(runs, space, n_examples=..., gradient_norm=...)
    results = investigate(plan, train, known=earlier, goes_on=lambda: clock() < end)
    found = answer(plan, results, n_examples=..., gradient_norm=...)
    print(render_answer(found))

What it cannot see: a setting whose tried values all act alike; one that acts only with two others;
one that stops some runs and starts as many others; and, where few runs oscillate with further
seeds, anything that needs a dozen pairs to be shown. A named cause is a cause in the picked runs
and within the space; nothing is claimed about other spaces.

The settings that act are to be known soonest. So, a few picked runs at a time, each setting is
changed in turn with the run's own seed; what turned the verdict is repeated with further seeds
beside the unchanged run. What is trained next follows from the results so far alone: training can
be stopped between any two batches and continued later, and every answer on the way is valid.
"""

from collections import UserDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mlp.causes.changes import (
    LEARNING_RATE,
    NORMALIZATION,
    Factor,
    GradientNorm,
    rerun,
    step_example,
)
from mlp.causes.effects import Effect, SideEffect, effects
from mlp.causes.evidence import Conclusion, capital
from mlp.causes.pairs import Dependence, PairCure, dependences, next_pair_batch, pair_cures
from mlp.causes.plan import Pick, Plan, Results, Side, missing, strongest, turns
from mlp.config import RunConfig
from mlp.curve import Judgement
from mlp.errors import WithSentence

_STEP = (Factor(NORMALIZATION), Factor(LEARNING_RATE))
_FEWEST_TRIED = 6  # reruns that could have turned; with fewer, none turning says nothing
_SAME_STEP = Factor(NORMALIZATION, keeps_step=True)

_LEADING = 3  # settings that are looked at first
_PICKS_A_ROUND = 4  # so that a time limit finds some picks complete instead of all half done
_WORTH_ASKING = 3.0  # capital on either side above which more seeds may well settle it

Train = Callable[[Sequence[RunConfig]], Sequence[Judgement]]
"""Trains each config and judges its loss curve."""

_MOST_NAMED = 4  # settings in a list; a sentence is not a table
_DID = {Side.STOPS: "stopped", Side.STARTS: "started"}
_HOW_OFTEN = ("likewise", "in fewer runs")


class Kind(WithSentence):
    """In which way settings cause the oscillation; the members carry a sentence for a person."""

    ALONE = "alone", "Changing it alone decides whether the loss oscillates."
    EFFECTIVE_STEP = "effective step", "They act through the effective step, and only through it."
    TOGETHER = "only together", "Changing either stops it, and neither brings it back alone."
    BOTH = "both needed", "No single change stops it; changing both does."


@dataclass(frozen=True)
class Cause:
    """Settings that were shown by reruns to make the loss oscillate.

    Attributes:
        settings: as on the command line, sorted.
        effects: the single changes that show it, to stop and to start it.
        dependences: for settings that act only together.
        pairs: for settings of which both must be changed.
    """

    settings: tuple[str, ...]
    kind: Kind
    effects: tuple[Effect, ...] = ()
    dependences: tuple[Dependence, ...] = ()
    pairs: tuple[PairCure, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether a change was shown to stop it, rather than only to start it."""
        return bool(self.pairs) or any(effect.stops for effect in self.effects)


def curing_factors(found: Sequence[Effect]) -> list[Factor]:
    """One factor for each cause that seems to stop the oscillation, not only to start it."""
    stopping = {
        effect.factor
        for effect in found
        if (side := effect.on(Side.STOPS)) and side.n_with_tested > side.n_against_tested
    }
    groups = [[f for f in reversed(group) if f in stopping] for group in _own_causes(found)]
    return [group[0] for group in groups if group]


def find_causes(
    found: Sequence[Effect], bonds: Sequence[Dependence], pairs: Sequence[PairCure]
) -> tuple[Cause, ...]:
    """The causes, the best supported first.

    Normalization and learning rate are one cause, the effective step, where the normalization acts
    with the learning rate kept but not with the effective step kept. Causes that need each other
    are one, and so are two settings that cure only if both are changed.
    """
    groups = _own_causes(found)
    causes: list[Cause] = []
    for linked in _linked(groups, bonds):
        factors = [factor for group in linked for factor in group]
        kind = Kind.TOGETHER if len(linked) > 1 else Kind.ALONE
        if len(linked) == 1 and len(linked[0]) > 1:
            kind = Kind.EFFECTIVE_STEP
        own = {f.setting for f in factors}
        causes.append(
            Cause(
                settings=tuple(sorted(own)),
                kind=kind,
                effects=tuple(e for e in found if e.factor.setting in own),
                dependences=tuple(b for b in bonds if {b.factor.setting, b.without.setting} <= own),
            )
        )
    for cure in pairs:
        if cure.conclusion is Conclusion.CAUSE:
            causes = _with_pair(causes, cure, found)
    return tuple(sorted(causes, key=_smallest_p_value))


def _with_pair(causes: Sequence[Cause], cure: PairCure, found: Sequence[Effect]) -> list[Cause]:
    """The causes with one of which both settings must be changed, where neither stops it alone."""
    settings = {factor.setting for factor in cure.factors}
    stopping = {setting for cause in causes if cause.stops for setting in cause.settings}
    if settings <= stopping:
        return list(causes)
    others = [cause for cause in causes if cause.stops or not set(cause.settings) <= settings]
    own = tuple(effect for effect in found if effect.factor.setting in settings)
    return [*others, Cause(tuple(sorted(settings)), Kind.BOTH, effects=own, pairs=(cure,))]


def _named_factors(found: Sequence[Effect]) -> set[Factor]:
    return {effect.factor for effect in found if effect.conclusion is Conclusion.CAUSE}


def _is_effective_step(found: Sequence[Effect]) -> bool:
    """Whether the normalization acts, but not at the same effective step.

    Most often the mean at the sum's learning rate learns nothing. That ends the swings as well, so
    it counts as acting here, if the learning rate is shown to cure.
    """
    named = _named_factors(found)
    normalization, learning_rate = _STEP
    if _SAME_STEP in named:
        return False
    is_idle = any(e.factor == _SAME_STEP and _does_little(e) for e in found)
    only_fails = any(
        e.factor == normalization and e.conclusion is Conclusion.ONLY_FAILS for e in found
    )
    if normalization in named:
        return is_idle
    return only_fails and learning_rate in named and is_idle


def _does_little(effect: Effect) -> bool:
    """Whether it was tried often enough to see that it mostly does not stop the oscillation.

    Some runs near the threshold stop by another seed alone.
    """
    side = effect.on(Side.STOPS)
    if effect.conclusion is Conclusion.NO_EFFECT:
        return True
    return (
        side is not None and side.n_expected >= _FEWEST_TRIED and 2 * side.n_with < side.n_expected
    )


def _own_causes(found: Sequence[Effect]) -> list[tuple[Factor, ...]]:
    """The factors that act, those that are one and the same cause together."""
    named = _named_factors(found)
    normalization, learning_rate = _STEP
    groups: list[tuple[Factor, ...]] = []
    if _is_effective_step(found):
        groups.append(_STEP)
        named -= set(_STEP)
    elif learning_rate in named and normalization not in named:
        # A change at the same effective step changes the learning rate too: that explains it.
        named -= {_SAME_STEP}
    elif _SAME_STEP in named:
        named = named - {_SAME_STEP} | {normalization}
    return [*groups, *((factor,) for factor in sorted(named))]


def _linked(
    groups: Sequence[tuple[Factor, ...]], bonds: Sequence[Dependence]
) -> list[list[tuple[Factor, ...]]]:
    """Groups joined where each needs the other to act."""
    needs = {(bond.factor, bond.without) for bond in bonds if bond.is_needed}

    def act_together(one: tuple[Factor, ...], other: tuple[Factor, ...]) -> bool:
        return any((a, b) in needs and (b, a) in needs for a in one for b in other)

    joined: list[list[tuple[Factor, ...]]] = []
    for group in groups:
        near = [own for own in joined if any(act_together(group, other) for other in own)]
        joined = [own for own in joined if own not in near]
        joined.append([*(other for own in near for other in own), group])
    return joined


def _smallest_p_value(cause: Cause) -> float:
    values = [e.p_value for e in cause.effects if e.conclusion is Conclusion.CAUSE]
    return min([*values, *(cure.p_value for cure in cause.pairs)], default=1.0)


def next_trainings(plan: Plan, results: Results) -> tuple[RunConfig, ...]:
    """What to train next; empty when everything is answered.

    First what turns the verdict. Then the strongest change of the settings that turned nothing, so
    that they can be said to have no effect. Then twice and four times as many seeds for the
    settings that seem to act and are not settled. At last pairs of settings.
    """
    if batch := next_turning_batch(plan, results):
        return batch
    if batch := missing(_confirming(plan.picks, None, results), results):
        return batch
    for times in (2, 4):
        open_factors = [e.factor for e in effects(plan, results) if _may_settle(e)]
        if batch := missing(_settling(plan, open_factors, results, times), results):
            return batch
    return next_pair_batch(plan, curing_factors(effects(plan, results)), results)


def next_turning_batch(plan: Plan, results: Results) -> tuple[RunConfig, ...]:
    """What to train next to know which single changes turn the verdict; empty when that is known.

    First the settings that go along with oscillation most, then all others. Some picks at a time:
    every change with the run's own seed, and the unchanged run with further seeds; then the changes
    that turned the verdict, with the further seeds.
    """
    for factors in (plan.factors[:_LEADING], plan.factors):
        for first in range(0, len(plan.picks), _PICKS_A_ROUND):
            round_ = plan.picks[first : first + _PICKS_A_ROUND]
            if batch := missing(_screening(round_, factors), results):
                return batch
            if batch := missing(_confirming(round_, factors, results), results):
                return batch
    return ()


def n_left(plan: Plan, results: Results) -> int:
    """How many trainings the single changes still take.

    Settings in doubt and pairs of settings may ask for more, most often for none to a third.
    """
    n = len(missing(_screening(plan.picks, plan.factors), results))
    for pick in plan.picks:
        for factor in pick.factors:
            repeated = list(_repeated(pick, factor, results, pick.n_seeds))
            n += len(missing(repeated, results)) if repeated else pick.n_seeds
    return n


def _screening(picks: Sequence[Pick], factors: Sequence[Factor]) -> Iterator[RunConfig | None]:
    for pick in picks:
        own = (change for change in pick.changes if change.factor in factors)
        yield from (rerun(pick.configs[0], [change], 0) for change in own)
        yield from (pick.configs[seed] for seed in range(1, pick.n_seeds + 1))


def _confirming(
    picks: Sequence[Pick], factors: Sequence[Factor] | None, results: Results
) -> Iterator[RunConfig | None]:
    """Of these factors what turned the verdict; None: of all factors, whether it did or not."""
    for pick in picks:
        for factor in pick.factors:
            if factors is None or (factor in factors and _has_turned(pick, factor, results)):
                yield from _repeated(pick, factor, results, pick.n_seeds)


def _settling(
    plan: Plan, factors: Sequence[Factor], results: Results, times: int
) -> Iterator[RunConfig | None]:
    for pick in plan.picks:
        n_seeds = min(times * pick.n_seeds, len(pick.configs) - 1)
        for factor in factors:
            if factor in pick.factors and _has_turned(pick, factor, results):
                yield from _repeated(pick, factor, results, n_seeds)
                yield from pick.configs[1 : n_seeds + 1]


def _repeated(
    pick: Pick, factor: Factor, results: Results, n_seeds: int
) -> Iterator[RunConfig | None]:
    change = strongest(pick, factor, results)
    if change is not None:
        for seed in range(1, n_seeds + 1):
            yield rerun(pick.configs[seed], [change], seed)


def _has_turned(pick: Pick, factor: Factor, results: Results) -> bool:
    change = strongest(pick, factor, results)
    return change is not None and turns(pick, [change], results)


def _may_settle(effect: Effect) -> bool:
    if effect.conclusion is Conclusion.CAUSE:
        return False
    return any(
        capital(side.n_with_tested, side.n_against_tested) > _WORTH_ASKING for side in effect.sides
    )


@dataclass(frozen=True)
class Answer:
    """Which settings make the loss of a study's runs oscillate, and the evidence.

    Attributes:
        n_picked: oscillating and healthy runs that were rerun.
        n_trained: reruns that the answer rests on.
        is_complete: whether everything that was asked is trained.
        causes: the best supported first.
        without_effect: settings of which reruns show that changing them does nothing.
        only_failing: settings whose change ends the swings, but mostly in runs that learn nothing.
        undecided: settings of which the reruns show neither.
        step_example: an oscillating run's first step in words, where the effective step is a cause.
        effects: of every setting.
        dependences: of causes that cure the same runs.
        pair_cures: of runs that no single change cures.
    """

    n_runs: int
    n_oscillating: int
    n_picked: tuple[int, int]
    n_trained: int
    is_complete: bool
    causes: tuple[Cause, ...]
    without_effect: tuple[str, ...]
    only_failing: tuple[str, ...]
    undecided: tuple[str, ...]
    step_example: str | None
    effects: tuple[Effect, ...]
    dependences: tuple[Dependence, ...]
    pair_cures: tuple[PairCure, ...]


def investigate(
    plan: Plan,
    train: Train,
    *,
    known: Results | None = None,
    population: int = 64,
    goes_on: Callable[[], bool] = lambda: True,
    asked: Callable[[Plan, Results], tuple[RunConfig, ...]] = next_trainings,
) -> dict[RunConfig, Judgement]:
    """Trains what the plan asks for, until it is answered or the time is up.

    Args:
        known: results of an earlier call; nothing of it is trained again.
        population: configs that are trained in one call of `train`, at most.
        goes_on: asked before each population.
        asked: what to train next; empty when all is answered.

    Returns:
        Everything known, `known` included, complete or not.
    """
    results = dict(known or {})
    while batch := asked(plan, results):
        for first in range(0, len(batch), population):
            if not goes_on():
                return results
            configs = batch[first : first + population]
            results.update(zip(configs, train(configs), strict=True))
    return results


def answer(
    plan: Plan,
    results: Results,
    *,
    n_examples: int,
    gradient_norm: GradientNorm,
) -> Answer:
    """Reduces everything known to the answer.

    Args:
        results: as `investigate` gives them, or fewer.
        n_examples: in the training part.
        gradient_norm: asked for one run at most.
    """
    consulted = _Consulted(results)
    found = effects(plan, consulted)
    curing = curing_factors(found)
    bonds = dependences(plan, curing, consulted)
    pairs = pair_cures(plan, consulted)
    causes = find_causes(found, bonds, pairs)
    named = {setting for cause in causes for setting in cause.settings}
    idle = _without_effect(found, named)
    failing = _only_failing(found, named)
    tested = dict.fromkeys(effect.factor.setting for effect in found)
    runs = plan.runs
    is_by_step = any(cause.kind is Kind.EFFECTIVE_STEP for cause in causes)
    has_step = is_by_step or {LEARNING_RATE, NORMALIZATION} <= named
    return Answer(
        n_runs=len(runs),
        n_oscillating=sum(run.is_oscillating for run in runs),
        n_picked=(len(plan.on(Side.STOPS)), len(plan.on(Side.STARTS))),
        n_trained=len(consulted.keys_read),
        is_complete=not next_trainings(plan, results),
        causes=causes,
        without_effect=idle,
        only_failing=failing,
        undecided=tuple(s for s in tested if s not in (*named, *idle, *failing)),
        step_example=_step_example(plan, n_examples, gradient_norm) if has_step else None,
        effects=found,
        dependences=bonds,
        pair_cures=pairs,
    )


class _Consulted(UserDict[RunConfig, Judgement]):
    """Results that note which of them are read: some may answer what another plan asked."""

    def __init__(self, results: Results) -> None:
        super().__init__(results)
        self.keys_read: set[RunConfig] = set()

    def __getitem__(self, config: RunConfig) -> Judgement:
        found = super().__getitem__(config)
        self.keys_read.add(config)
        return found


def _without_effect(found: Sequence[Effect], named: set[str]) -> tuple[str, ...]:
    """Settings that do nothing on any side that was asked, in all their ways of changing."""
    settings = dict.fromkeys(e.factor.setting for e in found if not e.factor.keeps_step)
    return tuple(
        setting
        for setting in settings
        if setting not in named
        and all(e.conclusion is Conclusion.NO_EFFECT for e in found if e.factor == Factor(setting))
    )


def _only_failing(found: Sequence[Effect], named: set[str]) -> tuple[str, ...]:
    """Settings that end the swings, but mostly in runs that learn nothing."""
    return tuple(
        e.factor.setting
        for e in found
        if e.conclusion is Conclusion.ONLY_FAILS
        and not e.factor.keeps_step
        and e.factor.setting not in named
    )


def _step_example(plan: Plan, n_examples: int, gradient_norm: GradientNorm) -> str | None:
    """Of the first picked run whose step is not simply its learning rate."""
    configs = (pick.configs[0] for pick in plan.on(Side.STOPS))
    config = next((c for c in configs if c.gradient.normalization != "mean"), None)
    return step_example(config, n_examples, gradient_norm) if config is not None else None


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
        "\n".join(_pair_line(cure) for cure in answer.pair_cures),
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
        ("changed alone, new seeds", "stopped it", "started it", "so it")
    ]
    for own in order:
        name = "  at the same effective step" if own.factor.keeps_step else own.factor.setting
        turned = (_turned_words(own.on(side)) for side in (Side.STOPS, Side.STARTS))
        rows.append((name, *turned, own.conclusion.value))
    if len(rows) == 1:
        return ()
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return tuple(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
        for row in rows
    )


def _turned_words(side: SideEffect | None) -> str:
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
            cure = cause.pairs[0]
            return (
                f"{names} both have to be changed: no single change stopped {cure.n_uncured} of "
                f"the oscillating runs, both together did in {cure.n_cured} of {cure.n_pairs} "
                f"reruns ({cure.changes[0]})."
            )
        case Kind.ALONE:
            return f"{names} makes the loss oscillate: {_shown_by(cause)}."


def _further_causes(causes: Sequence[Cause]) -> list[str]:
    """One sentence on all but the first; those that decide the minority of runs are said to."""
    often = [_in_short(cause) for cause in causes if _decides_most(cause)]
    seldom = [_in_short(cause) for cause in causes if not _decides_most(cause)]
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


def _in_short(cause: Cause) -> str:
    what = _listed(cause.settings)
    if cause.pairs:
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
        if effect.pairs_needed and effect.conclusion is Conclusion.TOO_LITTLE:
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


def _pair_line(cure: PairCure) -> str:
    return (
        f"{cure.factors[0]} with {cure.factors[1]}: {cure.conclusion.value}, p = "
        f"{cure.p_value:.2g}; both changed cured {cure.n_cured} of {cure.n_pairs} reruns of "
        f"{cure.n_runs} runs ({cure.n_uncured} runs had no single cure)"
    )
