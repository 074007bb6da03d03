"""Which settings make the loss oscillate, or end badly otherwise: the answer, from reruns.

Training comes in as an argument: configs in, judgements out. Nothing here knows where or how.

    plan = plan_reruns(runs, space, n_examples=..., gradient_norm=...)
    results = investigate(plan, train, known=earlier, goes_on=lambda: clock() < end)
    found = answer(plan, results, n_examples=..., gradient_norm=...)
    print(render_answer(found))

What it cannot see: a setting whose tried values all act alike; one that acts only with two others;
one that stops some runs and starts as many others; and, where few runs oscillate with further
seeds, anything that needs a dozen pairs to be shown. A named cause is a cause in the picked runs
and within the space; nothing is claimed about other spaces.

What is trained next is chosen by what it is expected to decide (`mlp.causes.asking`), and follows
from the results so far alone: training can be stopped between any two populations and continued
later. Every answer on the way is valid, and what was named or cleared once stays so.
"""

from collections import UserDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mlp.causes.asking import next_singles
from mlp.causes.changes import (
    LEARNING_RATE,
    NORMALIZATION,
    Factor,
    GradientNorm,
    Train,
    shown_value,
    step_example,
    values_of,
)
from mlp.causes.effects import (
    Effect,
    SideEffect,
    Sightings,
    StepContrast,
    effects,
    look,
    step_contrast,
)
from mlp.causes.evidence import Conclusion
from mlp.causes.observed import DEEDS, deed
from mlp.causes.pairs import Dependence, PairCure, dependences, next_pair_batch, pair_cures
from mlp.causes.plan import Plan, Results, Side
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict
from mlp.errors import counted
from mlp.settings import settings_of
from mlp.study.space import typed

_STEP = (Factor(NORMALIZATION), Factor(LEARNING_RATE))
_SAME_STEP = Factor(NORMALIZATION, keeps_step=True)

_MOST_NAMED = 4  # settings in a list; a sentence is not a table


class Kind(StrEnum):
    """In which way settings cause a verdict."""

    ALONE = "alone"  # changing it alone decides
    EFFECTIVE_STEP = "effective step"  # they act through it, and only through it
    TOGETHER = "only together"  # changing either stops it, and neither brings it back alone
    BOTH = "both needed"  # no single change stops it; changing both does


@dataclass(frozen=True)
class Cause:
    """Settings that were shown by reruns to decide the verdict.

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


def curing_factors(found: Sequence[Effect], *, is_step: bool) -> list[Factor]:
    """One factor for each cause that seems to stop what is asked about, not only to start it."""
    stopping = {
        effect.factor
        for effect in found
        if (side := effect.on(Side.STOPS)) and side.n_with > side.n_against and not side.is_idle
    }
    own = _own_causes(found, is_step=is_step)
    groups = [[f for f in reversed(group) if f in stopping] for group in own]
    return [group[0] for group in groups if group]


def find_causes(
    found: Sequence[Effect],
    bonds: Sequence[Dependence],
    pairs: Sequence[PairCure],
    *,
    is_step: bool,
) -> tuple[Cause, ...]:
    """The causes, those that stop it first, of these that which turns the largest share of reruns.

    Normalization and learning rate are one cause, the effective step, where changing the
    normalization stops clearly fewer with the step kept than with the rate kept. Causes that need
    each other are one, and so are two settings that cure only if both are changed.
    """
    causes: list[Cause] = []
    for linked in _linked(_own_causes(found, is_step=is_step), bonds):
        own = {factor.setting for group in linked for factor in group}
        alone = Kind.EFFECTIVE_STEP if len(own) > 1 else Kind.ALONE
        causes.append(
            Cause(
                settings=tuple(sorted(own)),
                kind=Kind.TOGETHER if len(linked) > 1 else alone,
                effects=tuple(e for e in found if e.factor.setting in own),
                dependences=tuple(b for b in bonds if {b.factor.setting, b.without.setting} <= own),
            )
        )
    for cure in pairs:
        if cure.conclusion is Conclusion.CAUSE:
            causes = _with_pair(causes, cure, found)
    return tuple(sorted(causes, key=_order))


def _with_pair(causes: Sequence[Cause], cure: PairCure, found: Sequence[Effect]) -> list[Cause]:
    """The causes with one of which both settings must be changed, where neither stops it alone."""
    settings = {factor.setting for factor in cure.factors}
    stopping = {setting for cause in causes if cause.stops for setting in cause.settings}
    if settings <= stopping:
        return list(causes)
    others = [cause for cause in causes if cause.stops or not set(cause.settings) <= settings]
    own = tuple(effect for effect in found if effect.factor.setting in settings)
    return [*others, Cause(tuple(sorted(settings)), Kind.BOTH, effects=own, pairs=(cure,))]


def _own_causes(found: Sequence[Effect], *, is_step: bool) -> list[tuple[Factor, ...]]:
    """The factors that act, those that are one and the same cause together."""
    named = {effect.factor for effect in found if effect.conclusion is Conclusion.CAUSE}
    cleared = {
        effect.factor
        for effect in found
        if effect.conclusion is Conclusion.NO_EFFECT or effect.does_not_stop
    }
    normalization, learning_rate = _STEP
    groups: list[tuple[Factor, ...]] = []
    # Most often the mean at the sum's learning rate learns nothing, so that the normalization alone
    # is no cure. That ends the swings as well, which is enough if the learning rate cures.
    if is_step and named & set(_STEP) and _SAME_STEP not in named and not cleared & set(_STEP):
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


def _order(cause: Cause) -> tuple[bool, float, float]:
    """What stops it first; then the largest share, as more reruns give a smaller p-value."""
    acting = [e for e in cause.effects if e.conclusion is Conclusion.CAUSE]
    sides = [_acting_side(effect) for effect in acting]
    shares = [side.n_with / max(1, side.n_expected) for side in sides]
    shares += [cure.n_cured / max(1, cure.n_pairs) for cure in cause.pairs]
    values = [*(own.p_value for own in acting), *(own.p_value for own in cause.pairs)]
    return not cause.stops, -max(shares, default=0.0), min(values, default=1.0)


def next_trainings(plan: Plan, results: Results) -> tuple[RunConfig, ...]:
    """What to train next, the most decisive first; empty when everything is answered.

    First the single settings, then pairs of them.
    """
    seen = look(plan, results)
    found = effects(plan, seen)
    batch, _ = next_singles(plan, results, seen, found)
    is_step = step_contrast(seen).is_shown
    return batch or next_pair_batch(plan, curing_factors(found, is_step=is_step), results)


@dataclass(frozen=True)
class Answer:
    """Which settings make the loss of a study's runs oscillate, or end badly otherwise.

    Attributes:
        asked: the verdict that is asked about, oscillating for one.
        n_asked: runs with that verdict.
        n_picked: runs with it, and healthy ones, that were rerun.
        n_trained: reruns that the answer rests on.
        n_left: reruns that the single settings still take, about.
        is_complete: whether everything is trained that is worth it.
        causes: those that stop it first, of these that which turns the largest share of reruns.
        without_effect: settings of which reruns show that changing them neither stops nor starts
            it -> the values that they had in these.
        not_stopping: likewise of those that do not stop it, and may start it or do.
        only_failing: settings whose change ends it, but mostly in runs that end badly otherwise.
        undecided: settings of which the reruns show neither.
        likeliest: the setting, neither named nor cleared, that most speaks for, and how many times
            likelier what is known is if it acts; None where nothing speaks for any.
        guess: the undecided setting that goes along with the verdict most; None without any.
        shared: settings, as typed, that all runs have in common and one of which may do it; empty
            unless every run has the verdict.
        is_asked_together: whether it is known of causes that cure the same runs that each acts
            alone, or needs the other.
        step_example: the first step of such a run in words, where the effective step is a cause.
        contrast: of the normalization with the rate kept and with the step kept.
        dependences: of causes that cure the same runs.
        pair_cures: of runs that no single change cures.
        pace_s: seconds that a rerun takes; None where that is not known.
    """

    asked: Verdict
    n_runs: int
    n_asked: int
    n_picked: tuple[int, int]
    n_trained: int
    n_left: int
    is_complete: bool
    causes: tuple[Cause, ...]
    without_effect: Mapping[str, str]
    not_stopping: Mapping[str, str]
    only_failing: tuple[str, ...]
    undecided: tuple[str, ...]
    likeliest: Effect | None
    guess: str | None
    shared: tuple[str, ...]
    is_asked_together: bool
    step_example: str | None
    effects: tuple[Effect, ...]
    contrast: StepContrast
    dependences: tuple[Dependence, ...]
    pair_cures: tuple[PairCure, ...]
    pace_s: float | None = None

    @property
    def n_to_decide(self) -> int | None:
        """Pairs that would name the likeliest setting; None where none is likely, or one named."""
        best = self.likeliest
        return best.pairs_missing if best is not None and not self.causes else None


def investigate(
    plan: Plan,
    train: Train,
    *,
    known: Results | None = None,
    population: int | Callable[[], int] = 64,
    goes_on: Callable[[], bool] = lambda: True,
    heard: Callable[[Results], None] = lambda _: None,
) -> dict[RunConfig, Judgement]:
    """Trains what is asked for, one population at a time, until it is answered or the time is up.

    Args:
        known: results of an earlier call, in the order of their training; nothing of it is trained
            again.
        population: configs that are trained in one call of `train`, at most; or what tells it anew
            before each.
        goes_on: asked before each population.
        heard: told all results after each population.

    Returns:
        Everything known, `known` included, complete or not, in the order of its training.
    """
    results = dict(known or {})
    while (batch := next_trainings(plan, results)) and goes_on():
        configs = batch[: population() if callable(population) else population]
        judged = zip(configs, train(configs), strict=True)
        results.update(sorted(judged, key=lambda pair: order_in_population(pair[0])))
        heard(results)
    return results


def order_in_population(config: RunConfig) -> str:
    """By what the results of one population are ordered, here and when they are read back."""
    return repr(config)


def answer(
    plan: Plan,
    results: Results,
    *,
    n_examples: int,
    gradient_norm: GradientNorm,
    pace_s: float | None = None,
) -> Answer:
    """Reduces everything known to the answer.

    Args:
        results: as `investigate` gives them, or fewer.
        gradient_norm: asked for one run at most, beyond those that the plan asks for.
        pace_s: seconds that a rerun takes, for the sentence that says what is missing.
    """
    consulted = _Consulted(results)
    seen = look(plan, consulted)
    found, contrast = effects(plan, seen), step_contrast(seen)
    curing = curing_factors(found, is_step=contrast.is_shown)
    bonds = dependences(plan, curing, consulted)
    pairs = pair_cures(plan, consulted)
    causes = find_causes(found, bonds, pairs, is_step=contrast.is_shown)
    named = {setting for cause in causes for setting in cause.settings}
    idle = _concluded(found, Conclusion.NO_EFFECT, named)
    no_stop = [
        effect.factor.setting
        for effect in found
        if effect.does_not_stop
        and not effect.factor.keeps_step
        and effect.factor.setting not in idle
    ]
    failing = _concluded(found, Conclusion.ONLY_FAILS, named)
    tested = dict.fromkeys(effect.factor.setting for effect in found)
    undecided = tuple(s for s in tested if s not in (*named, *idle, *no_stop, *failing))
    runs = plan.runs
    has_step = {LEARNING_RATE, NORMALIZATION} <= named
    batch, n_left = next_singles(plan, results, seen, found)
    is_complete = not (batch or next_pair_batch(plan, curing, results))
    return Answer(
        asked=plan.asked,
        n_runs=len(runs),
        n_asked=sum(run.verdict is plan.asked for run in runs),
        n_picked=(len(plan.on(Side.STOPS)), len(plan.on(Side.STARTS))),
        n_trained=len(consulted.keys_read - {run.config for run in runs}),
        n_left=n_left,
        is_complete=is_complete,
        causes=causes,
        without_effect={setting: _tried(seen, setting, [*Side]) for setting in idle},
        not_stopping={setting: _tried(seen, setting, [Side.STOPS]) for setting in no_stop},
        only_failing=failing,
        undecided=undecided,
        likeliest=_likeliest(found, {*undecided, *no_stop} - named),
        guess=_guess(plan, undecided),
        shared=_shared(plan),
        is_asked_together=is_complete or len(curing) < 2,
        step_example=_step_example(plan, n_examples, gradient_norm) if has_step else None,
        effects=found,
        contrast=contrast,
        dependences=bonds,
        pair_cures=pairs,
        pace_s=pace_s,
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


def _concluded(found: Sequence[Effect], conclusion: Conclusion, named: set[str]) -> tuple[str, ...]:
    """Settings of no cause of which this is concluded where they are changed alone."""
    return tuple(
        e.factor.setting
        for e in found
        if e.conclusion is conclusion and not e.factor.keeps_step and e.factor.setting not in named
    )


def _tried(seen: Sightings, setting: str, sides: Collection[Side]) -> str:
    """The values that a setting had in reruns: `1 to 3`, or a list of words."""
    values = [
        value
        for (factor, side), events in seen.items()
        if factor.setting == setting and side in sides
        for own in events
        for value in values_of(own.pick.configs[0], own.change)
    ]
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) == len(values):
        return f"{shown_value(min(numbers))} to {shown_value(max(numbers))}"
    return ", ".join(sorted({shown_value(value) for value in values}))


def _likeliest(found: Sequence[Effect], undecided: Collection[str]) -> Effect | None:
    """The undecided setting that its reruns speak for most."""
    open_ones = [
        effect
        for effect in found
        if effect.factor.setting in undecided
        and not effect.factor.keeps_step
        and not effect.is_settled
    ]
    best = max(open_ones, key=lambda effect: effect.odds, default=None)
    return best if best is not None and best.odds > 1 else None


def _guess(plan: Plan, undecided: Sequence[str]) -> str | None:
    guesses = {factor.setting: guess for factor, guess in plan.guesses.items()}
    return min(undecided, key=lambda own: (-guesses[own], own != LEARNING_RATE), default=None)


def _shared(plan: Plan) -> tuple[str, ...]:
    """What may be changed and is the same in all runs, where all have the verdict."""
    if not plan.runs or not all(run.verdict is plan.asked for run in plan.runs):
        return ()
    settings = [settings_of(run.config) for run in plan.runs]
    tested = dict.fromkeys(factor.setting for factor in plan.factors)
    return tuple(
        f"{path}={typed(settings[0][path])}"
        for path in tested
        if len({typed(own[path]) for own in settings}) == 1
    )


def _step_example(plan: Plan, n_examples: int, gradient_norm: GradientNorm) -> str | None:
    """Of the first picked run whose step is known, and not simply its learning rate."""
    configs = (pick.configs[0] for pick in plan.on(Side.STOPS))
    examples = (step_example(config, n_examples, gradient_norm) for config in configs)
    return next(filter(None, examples), None)


def sentences(answer: Answer) -> tuple[str, ...]:
    """What makes the loss end so, what does not, and what is not known: at most three.

    Settings are named as on the command line.
    """
    if answer.n_asked == 0 and not answer.causes:
        does = DEEDS[answer.asked].does
        return (f"None of the {answer.n_runs} runs {does}, so there is nothing to stop.",)
    lead = [_cause_sentence(answer, cause) for cause in answer.causes[:1]]
    lead += _further_causes(answer.causes[1:])
    return (*(lead or [_undecided_sentence(answer)]), *_rest(answer))


def _undecided_sentence(answer: Answer) -> str:
    """What is likeliest, with its odds, and what is missing."""
    do, reruns = DEEDS[answer.asked].do, counted(answer.n_trained, "rerun")
    said = f"Not decided yet, by {reruns} of {sum(answer.n_picked)} runs"
    if answer.is_complete or not (answer.undecided or answer.not_stopping):
        which = "setting" if answer.is_complete else "single setting"
        said = f"No {which} was shown to make the loss {do}, by {reruns}"
    elif answer.n_trained == 0:
        said = "Nothing has been rerun yet"
    if answer.shared:
        listed = ", ".join(answer.shared)
        said += f"; all {answer.n_runs} runs {do}, so something that they share may do it, "
        said += f"of {listed}"
    best, missing = answer.likeliest, ""
    if best is not None:
        side = _better_side(best)
        said += f"; likeliest is {best.factor.setting} (odds {_odds(best.odds)}): changing it "
        said += f"{side.side.did} {DEEDS[answer.asked].noun} in {side.n_with} of {side.n_expected} "
        said += "reruns so far"
        if answer.n_to_decide is not None:
            missing = f", and {counted(answer.n_to_decide, 'more pair')} would decide"
            missing += _duration(answer, 2 * answer.n_to_decide)
    elif answer.guess is not None:
        said += f"; likeliest, by how the study's own runs ended, is {answer.guess}"
        missing = f": about {answer.n_left} reruns would decide{_duration(answer, answer.n_left)}"
    return f"{said}{'' if answer.is_complete else missing}."


def _odds(odds: float) -> str:
    return f"{odds:.2g} to 1" if odds < 100 else f"{odds:.0f} to 1"


def _duration(answer: Answer, n_reruns: int) -> str:
    """How long so many reruns take, where the pace is known."""
    return f", about {max(1.0, n_reruns * answer.pace_s):.0f} s" if answer.pace_s else ""


def render_answer(answer: Answer) -> str:
    """The sentences and the evidence below them, as plain text of many lines."""
    n_stops, n_starts = answer.n_picked
    state = "all that was asked" if answer.is_complete else "stopped early, goes on when run again"
    parts = [
        "\n".join(sentences(answer)),
        f"{deed(answer.asked, answer.n_asked, f'of {answer.n_runs} runs ')}. Reruns: "
        f"{answer.n_trained}, from {n_stops} of them and {n_starts} healthy runs ({state}).",
        _effect_lines(answer),
        "\n".join(_dependence_line(bond, answer.asked) for bond in answer.dependences),
        "\n".join(_pair_line(cure, answer.asked) for cure in answer.pair_cures),
    ]
    return "\n\n".join(part for part in parts if part)


def words_of(answer: Answer, effect: Effect) -> str:
    """What a table says of a setting, in accord with the answer."""
    setting, step = effect.factor.setting, {NORMALIZATION, LEARNING_RATE}
    named = next((c.settings for c in answer.causes if setting in c.settings), None)
    if effect.conclusion is Conclusion.CAUSE:
        words = effect.conclusion.words(answer.asked)
        return words if named is not None else "another setting explains it"
    if named is not None and setting in step <= {*named} and answer.contrast.is_shown:
        return "so the step acts" if effect.factor.keeps_step else "acts through the step"
    return effect.conclusion.words(answer.asked)


def evidence_table(answer: Answer) -> tuple[str, ...]:
    """What changing each setting did with new seeds, in lines for a screen; none without reruns.

    The strongest evidence comes first.
    """
    best: dict[str, float] = {}
    for own in answer.effects:
        best[own.factor.setting] = min(best.get(own.factor.setting, 1.0), own.p_value)
    rows: list[tuple[str, ...]] = [
        ("changed alone, new seeds", "stopped it", "started it", "so it")
    ]
    for own in sorted(answer.effects, key=lambda own: (best[own.factor.setting], own.factor)):
        name = "  at the same effective step" if own.factor.keeps_step else own.factor.setting
        words = words_of(answer, own)
        sides = [own.on(side) for side in Side]
        if any(side and side.n_pairs for side in sides):
            turned = (f"{s.n_with} of {s.n_expected}" if s and s.n_pairs else "·" for s in sides)
            rows.append((name, *turned, words))
    if len(rows) == 1:
        return ()
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return tuple(
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}"
        for row in rows
    )


def _cause_sentence(answer: Answer, cause: Cause) -> str:
    names, do = _listed(cause.settings), DEEDS[answer.asked].do
    match cause.kind:
        case Kind.EFFECTIVE_STEP:
            example = answer.step_example
            said, contrast = f" ({example})" if example else "", answer.contrast
            return (
                f"The effective step makes the loss {do}{said}: {_shown_by(cause)}; "
                f"{NORMALIZATION} changed to {' or '.join(contrast.to)} stopped "
                f"{contrast.n_rate} of {contrast.n_pairs}, and at the same effective step "
                f"{contrast.n_step} of {contrast.n_pairs}."
            )
        case Kind.TOGETHER:
            returned = sum(bond.n_returned for bond in cause.dependences)
            tried = sum(bond.n_pairs for bond in cause.dependences)
            return (
                f"{names} make the loss {do} only together: {_shown_by(cause)}, and with one "
                f"of them cured the other brought it back in {returned} of {tried} reruns."
            )
        case Kind.BOTH:
            cure = cause.pairs[0]
            return (
                f"{names} both have to be changed: no single change stopped {cure.n_uncured} of "
                f"the {answer.asked.value} runs, both together did in {cure.n_cured} of "
                f"{cure.n_pairs} reruns ({cure.changes[0]})."
            )
        case Kind.ALONE:
            return f"{names} makes the loss {do}: {_shown_by(cause)}."


def _further_causes(causes: Sequence[Cause]) -> list[str]:
    """One sentence on all but the first."""
    return [f"Likewise {'; '.join(map(_in_short, causes))}."] if causes else []


def _in_short(cause: Cause) -> str:
    what = _listed(cause.settings)
    if cause.pairs:
        return f"{what} (both changed together)"
    if cause.kind is not Kind.ALONE:
        what += f" ({cause.kind.value})"
    did = [", ".join(filter(None, _what_it_did(effect))) for effect in _acting(cause)]
    return f"{what} ({', '.join(did)})"


def _shown_by(cause: Cause) -> str:
    """What the changes of a cause did, in numbers."""
    parts = []
    for effect in _acting(cause):
        such, done = _what_it_did(effect)
        what = "it" if len(cause.settings) == 1 else str(effect.factor)
        example = f" ({such})" if such else ""
        parts.append(f"changing {what} alone{example} {done} with new seeds")
    return ", ".join(parts)


def _what_it_did(effect: Effect) -> tuple[str, str]:
    """An example of the change, empty without one, and what came of it."""
    side = _acting_side(effect)
    such = f"such as {next(iter(side.changes))}" if side.changes else ""
    return such, f"{side.side.did} it in {side.n_with} of {side.n_expected} reruns"


def _acting(cause: Cause) -> list[Effect]:
    """The effects that show a cause, without those that only repeat it."""
    shown = [e for e in cause.effects if e.conclusion is Conclusion.CAUSE]
    acting = [e for e in shown if not e.factor.keeps_step] or shown
    if cause.kind is Kind.EFFECTIVE_STEP:  # one of the two shows it: that with most reruns
        acting = sorted(acting, key=lambda own: -_acting_side(own).n_with)[:1]
    return acting


def _acting_side(effect: Effect) -> SideEffect:
    return (effect.on(Side.STOPS) if effect.stops else None) or _better_side(effect)


def _better_side(effect: Effect) -> SideEffect:
    return max(effect.sides, key=lambda own: (not own.is_idle, own.n_with - own.n_against))


def _rest(answer: Answer) -> list[str]:
    """One sentence on settings without effect, those not settled, and what is not asked."""
    parts = []
    if answer.without_effect:
        names = [f"{name} ({tried})" for name, tried in answer.without_effect.items()]
        do = "stops nor starts" if len(names) == 1 else "stop nor start"
        parts.append(f"{_listed(names)} neither {do} {DEEDS[answer.asked].noun}")
    if answer.not_stopping:
        names = [f"{name} ({tried})" for name, tried in answer.not_stopping.items()]
        do = "does" if len(names) == 1 else "do"
        parts.append(f"{_listed(names)} {do} not stop {DEEDS[answer.asked].noun}")
    if answer.only_failing:
        which = _listed(answer.only_failing)
        is_swing = answer.asked is Verdict.OSCILLATING
        how = "learn nothing" if is_swing else "end badly otherwise"
        parts.append(f"changing {which} ends {DEEDS[answer.asked].noun} only in runs that {how}")
    is_named_first = bool(answer.without_effect or answer.not_stopping)
    if answer.undecided and (answer.causes or is_named_first):
        parts.append(f"not known of {_listed(answer.undecided)}")
    if not answer.is_asked_together:
        parts.append("whether two of these act only together is not asked yet")
    text = "; ".join(parts)
    if not is_named_first:  # a setting's name keeps its small letter
        text = text[:1].upper() + text[1:]
    return [f"{text}."] if text else []


def _listed(names: Sequence[str]) -> str:
    shown = list(names[: _MOST_NAMED + 1])  # "and 1 more" would be as long as the name
    if len(names) > _MOST_NAMED + 1:
        shown.pop()
        shown[-1:] = [shown[-1], f"{len(names) - _MOST_NAMED} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def _effect_lines(answer: Answer) -> str:
    lines = []
    for effect in sorted(answer.effects, key=lambda own: own.p_value):
        needed, words = "", words_of(answer, effect)
        if effect.pairs_missing and words == Conclusion.TOO_LITTLE:
            needed = f" (about {effect.pairs_missing} more differing pairs are needed)"
        lines.append(f"{effect.factor}: {words}, p = {effect.p_value:.2g}{needed}")
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


def _dependence_line(bond: Dependence, asked: Verdict) -> str:
    word = {True: "needs", False: "does not need", None: "may or may not need"}[bond.is_needed]
    return (
        f"{bond.factor} {word} {bond.without}: with that cured it brought {DEEDS[asked].noun} back "
        f"in {bond.n_returned} of {bond.n_pairs} reruns"
    )


def _pair_line(cure: PairCure, asked: Verdict) -> str:
    return (
        f"{cure.factors[0]} with {cure.factors[1]}: {cure.conclusion.words(asked)}, p = "
        f"{cure.p_value:.2g}; both changed cured {cure.n_cured} of {cure.n_pairs} reruns of "
        f"{cure.n_runs} runs ({cure.n_uncured} runs had no single cure)"
    )
