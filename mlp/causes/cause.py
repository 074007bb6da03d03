"""Which of the settings that act are one and the same cause, and in which way they act."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlp.causes.change import LEARNING_RATE, NORMALIZATION, Factor
from mlp.causes.effect import Effect
from mlp.causes.evidence import Conclusion
from mlp.causes.inquiry import Side
from mlp.causes.joint import Dependence, JointCure
from mlp.sentence import WithSentence

_STEP = (Factor(NORMALIZATION), Factor(LEARNING_RATE))
_FEWEST_TRIED = 6  # reruns that could have turned, before none of them turning says something
_SAME_STEP = Factor(NORMALIZATION, keeps_step=True)


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
    found: Sequence[Effect], bonds: Sequence[Dependence], joint: Sequence[JointCure]
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
    for cure in joint:
        if cure.conclusion is Conclusion.CAUSE:
            causes = _with_joint(causes, cure, found)
    return tuple(sorted(causes, key=_smallest_p_value))


def _with_joint(causes: Sequence[Cause], cure: JointCure, found: Sequence[Effect]) -> list[Cause]:
    """The causes with one of which both settings must be changed, where neither stops it alone."""
    settings = {factor.setting for factor in cure.factors}
    stopping = {setting for cause in causes if cause.stops for setting in cause.settings}
    if settings <= stopping:
        return list(causes)
    others = [cause for cause in causes if cause.stops or not set(cause.settings) <= settings]
    own = tuple(effect for effect in found if effect.factor.setting in settings)
    return [*others, Cause(tuple(sorted(settings)), Kind.BOTH, effects=own, joint=(cure,))]


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
    is_idle = any(e.factor == _SAME_STEP and _does_little(e) for e in found)
    only_fails = any(
        e.factor == normalization and e.conclusion is Conclusion.ONLY_FAILS for e in found
    )
    if normalization in named:
        return is_idle
    return only_fails and learning_rate in named and is_idle


def _does_little(effect: Effect) -> bool:
    """Whether it was tried often enough to see that it mostly does not stop the oscillation.

    Runs near the threshold fall to either side by their seed alone, so some do stop.
    """
    side = effect.on(Side.STOPS)
    if effect.conclusion is Conclusion.NO_EFFECT:
        return True
    return (
        side is not None and side.n_expected >= _FEWEST_TRIED and 2 * side.n_with < side.n_expected
    )


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
