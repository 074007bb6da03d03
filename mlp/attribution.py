"""Which settings make the loss oscillate: the answer, from reruns and from what was observed.

Training comes in as an argument: configs in, judgements out. Nothing here knows where or how.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mlp.association import Association
from mlp.change import LEARNING_RATE, NORMALIZATION, Factor, step_factor
from mlp.config import RunConfig
from mlp.curve import Judgement
from mlp.effect import Effect, effects
from mlp.evidence import Conclusion
from mlp.inquiry import GradientNorm, Inquiry, Results, Side
from mlp.intervention import n_single, next_batch
from mlp.joint import Dependence, JointCure, dependences, joint_cures, next_joint_batch

Train = Callable[[Sequence[RunConfig]], Sequence[Judgement]]
"""Trains each config and judges its loss curve."""

_STEP = (Factor(NORMALIZATION), Factor(LEARNING_RATE))
_SAME_STEP = Factor(NORMALIZATION, keeps_step=True)


class Kind(StrEnum):
    """In which way settings cause the oscillation; the members carry a sentence for a person."""

    sentence: str

    def __new__(cls, value: str, sentence: str = "") -> "Kind":
        """A member with its sentence."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    ALONE = "alone", "Changing it alone decides whether the loss oscillates."
    EFFECTIVE_STEP = "effective step", "They act through the effective step, and only through it."
    TOGETHER = "only together", "Changing either stops it, and neither brings it back alone."
    BOTH = "both needed", "No single change stops it; changing both does."


@dataclass(frozen=True)
class Cause:
    """Settings that were shown by reruns to make the loss oscillate.

    Attributes:
        settings: as on the command line, sorted.
        kind: in which way.
        effects: the single changes that show it; those that started it included.
        dependences: for settings that act only together.
        joint: for settings of which both must be changed.
    """

    settings: tuple[str, ...]
    kind: Kind
    effects: tuple[Effect, ...] = ()
    dependences: tuple[Dependence, ...] = ()
    joint: tuple[JointCure, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether a change was shown to stop it, rather than only to start it."""
        return bool(self.joint) or any(effect.stops for effect in self.effects)


@dataclass(frozen=True)
class Answer:
    """Which settings make the loss of a study's runs oscillate, and the evidence.

    Attributes:
        n_runs: of the study.
        n_oscillating: of these.
        n_picked: oscillating and healthy runs that were rerun.
        n_trained: reruns that the answer rests on.
        is_complete: whether everything that was asked is trained.
        causes: shown by reruns, the best supported first.
        without_effect: settings of which reruns show that changing them does nothing.
        undecided: settings of which the reruns show neither.
        step_example: an oscillating run's learning rate, normalization and effective step at the
            start, where the effective step is a cause.
        effects: every setting on both sides.
        dependences: what was asked about causes that cure the same runs.
        joint_cures: what was asked about runs that no single change cures.
        association: what is only counted and correlated.
    """

    n_runs: int
    n_oscillating: int
    n_picked: tuple[int, int]
    n_trained: int
    is_complete: bool
    causes: tuple[Cause, ...]
    without_effect: tuple[str, ...]
    undecided: tuple[str, ...]
    step_example: "StepExample | None"
    effects: tuple[Effect, ...]
    dependences: tuple[Dependence, ...]
    joint_cures: tuple[JointCure, ...]
    association: Association


@dataclass(frozen=True)
class StepExample:
    """One oscillating run's step, said in both ways.

    Attributes:
        learning_rate: as set.
        normalization: as set.
        effective_step: the learning rate on the mean gradient that takes the same first step.
    """

    learning_rate: float
    normalization: str
    effective_step: float


@dataclass(frozen=True)
class Estimate:
    """What an inquiry will train at most, beside what is known.

    Attributes:
        n_single: trainings of single changes and unchanged runs.
        n_joint_at_most: that may follow about pairs of settings; most inquiries need far fewer.
        duration_s: of the single changes.
    """

    n_single: int
    n_joint_at_most: int
    duration_s: float


def estimate(inquiry: Inquiry, results: Results, *, seconds_per_training: float) -> Estimate:
    """How much is left to train, before anything is trained."""
    left = max(0, n_single(inquiry) - len(results))
    return Estimate(left, n_single(inquiry), left * seconds_per_training)


def next_trainings(inquiry: Inquiry, results: Results) -> tuple[RunConfig, ...]:
    """What to train next; empty when everything is answered.

    Args:
        inquiry: as `inquiry.prepare` gives it.
        results: everything trained so far, now or earlier.
    """
    batch = next_batch(inquiry, results)
    return batch or next_joint_batch(inquiry, _curing(effects(inquiry, results)), results)


def investigate(
    inquiry: Inquiry,
    train: Train,
    *,
    known: Results | None = None,
    population: int = 64,
    goes_on: Callable[[], bool] = lambda: True,
) -> dict[RunConfig, Judgement]:
    """Trains what the inquiry asks for, until it is answered or the time is up.

    Args:
        inquiry: as `inquiry.prepare` gives it.
        train: configs -> judgements, in the same order.
        known: results of an earlier call; nothing of it is trained again.
        population: configs that are trained in one call of `train`, at most.
        goes_on: asked before each population.

    Returns:
        Everything known, `known` included; `answer` takes it whether it is complete or not.
    """
    results = dict(known or {})
    while batch := next_trainings(inquiry, results):
        for first in range(0, len(batch), population):
            if not goes_on():
                return results
            configs = batch[first : first + population]
            results.update(zip(configs, train(configs), strict=True))
    return results


def answer(
    inquiry: Inquiry,
    results: Results,
    association: Association,
    *,
    n_examples: int,
    gradient_norm: GradientNorm,
) -> Answer:
    """Reduces everything known to the answer.

    Args:
        inquiry: as prepared.
        results: as `investigate` gives them, or fewer.
        association: of the same runs.
        n_examples: in the training part.
        gradient_norm: as for `inquiry.prepare`; asked for one run at most.
    """
    found = effects(inquiry, results)
    curing = _curing(found)
    bonds = dependences(inquiry, curing, results)
    joint = joint_cures(inquiry, results)
    causes = _causes(found, bonds, joint)
    named = {setting for cause in causes for setting in cause.settings}
    idle = _without_effect(found, named)
    tested = dict.fromkeys(effect.factor.setting for effect in found)
    runs = inquiry.runs
    has_step = (
        any(cause.kind is Kind.EFFECTIVE_STEP for cause in causes)
        or {
            LEARNING_RATE,
            NORMALIZATION,
        }
        <= named
    )
    return Answer(
        n_runs=len(runs),
        n_oscillating=sum(run.is_oscillating for run in runs),
        n_picked=(len(inquiry.on(Side.STOPS)), len(inquiry.on(Side.STARTS))),
        n_trained=len(results),
        is_complete=not next_trainings(inquiry, results),
        causes=causes,
        without_effect=idle,
        undecided=tuple(s for s in tested if s not in named and s not in idle),
        step_example=_step_example(inquiry, n_examples, gradient_norm) if has_step else None,
        effects=found,
        dependences=bonds,
        joint_cures=joint,
        association=association,
    )


def _named(found: Sequence[Effect]) -> set[Factor]:
    return {effect.factor for effect in found if effect.conclusion is Conclusion.CAUSE}


def _is_effective_step(found: Sequence[Effect]) -> bool:
    """Whether the normalization acts, but not once the learning rate makes up for its step.

    Most often the mean at the sum's learning rate learns nothing: that ends the swings as well, and
    so counts here, where the learning rate itself is shown to cure.
    """
    named = _named(found)
    normalization, learning_rate = _STEP
    if _SAME_STEP in named:
        return False
    is_idle = any(e.factor == _SAME_STEP and e.conclusion is Conclusion.NO_EFFECT for e in found)
    only_fails = any(
        e.factor == normalization and e.conclusion is Conclusion.ONLY_FAILS for e in found
    )
    if normalization in named:
        return learning_rate in named or is_idle
    return only_fails and learning_rate in named and is_idle


def _own_causes(found: Sequence[Effect]) -> list[tuple[Factor, ...]]:
    """The factors that act, those that are one and the same cause together."""
    named = _named(found)
    normalization, learning_rate = _STEP
    groups: list[tuple[Factor, ...]] = []
    if _is_effective_step(found):
        groups.append(_STEP)
        named -= set(_STEP)
    elif learning_rate in named and normalization not in named:
        # At the same effective step the learning rate changes as well, and that explains it.
        named -= {_SAME_STEP}
    elif _SAME_STEP in named:
        named = named - {_SAME_STEP} | {normalization}
    return [*groups, *((factor,) for factor in sorted(named))]


def _curing(found: Sequence[Effect]) -> list[Factor]:
    """One factor for each cause that seems to stop the oscillation, not only to start it."""
    stopping = {
        effect.factor
        for effect in found
        if (side := effect.on(Side.STOPS)) and side.n_with_tested > side.n_against_tested
    }
    groups = [[f for f in reversed(group) if f in stopping] for group in _own_causes(found)]
    return [group[0] for group in groups if group]


def _causes(
    found: Sequence[Effect], bonds: Sequence[Dependence], joint: Sequence[JointCure]
) -> tuple[Cause, ...]:
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
    known = {setting for cause in causes for setting in cause.settings}
    for cure in joint:
        settings = tuple(sorted(factor.setting for factor in cure.factors))
        if cure.conclusion is Conclusion.CAUSE and not set(settings) <= known:
            causes.append(Cause(settings, Kind.BOTH, joint=(cure,)))
    return tuple(sorted(causes, key=_smallest_p_value))


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
    return min([*values, *(cure.p_value for cure in cause.joint)], default=1.0)


def _without_effect(found: Sequence[Effect], named: set[str]) -> tuple[str, ...]:
    """Settings that do nothing on any side that was asked, in all their ways of changing."""
    settings = dict.fromkeys(e.factor.setting for e in found if not e.factor.keeps_step)
    return tuple(
        setting
        for setting in settings
        if setting not in named
        and all(e.conclusion is Conclusion.NO_EFFECT for e in found if e.factor == Factor(setting))
    )


def _step_example(
    inquiry: Inquiry, n_examples: int, gradient_norm: GradientNorm
) -> StepExample | None:
    """The first picked run whose step is not simply its learning rate."""
    picks = inquiry.on(Side.STOPS)
    config = next(
        (p.configs[0] for p in picks if p.configs[0].gradient.normalization != "mean"), None
    )
    if config is None:
        return None
    needs_norm = config.gradient.normalization in ("unit", "clip")
    norm = gradient_norm([config])[0] if needs_norm else 1.0
    rate = config.optimizer.learning_rate
    if not norm > 0:
        return None
    step = rate * step_factor(config, n_examples, norm)
    return StepExample(rate, config.gradient.normalization, step)
