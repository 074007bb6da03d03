"""Which settings make the loss oscillate: the answer, from reruns and from what was observed.

Training comes in as an argument: configs in, judgements out. Nothing here knows where or how.

    inquiry = prepare(runs, space, Effort(), n_examples=..., gradient_norm=...)
    results = investigate(inquiry, train, known=earlier, goes_on=lambda: clock() < end)
    found = answer(inquiry, results, associate(runs), n_examples=..., gradient_norm=...)
    print(render_answer(found))

What it cannot see: a setting whose tried values all act alike; one that acts with two others only;
one whose effect has both signs in different runs, as often as not; and, with few runs that
oscillate again with further seeds, anything that needs a dozen pairs to be shown. Named causes are
causes in the picked runs and within the space; nothing is claimed about other spaces.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlp.causes.cause import Cause, Kind, curing_factors, find_causes
from mlp.causes.change import LEARNING_RATE, NORMALIZATION, Factor
from mlp.causes.effect import Effect, effects
from mlp.causes.evidence import Conclusion
from mlp.causes.inquiry import Inquiry, Results, Side
from mlp.causes.intervention import n_left, next_batch
from mlp.causes.joint import Dependence, JointCure, dependences, joint_cures, next_joint_batch
from mlp.causes.step import GradientNorm, StepExample, step_example
from mlp.config import RunConfig
from mlp.curve import Judgement

Train = Callable[[Sequence[RunConfig]], Sequence[Judgement]]
"""Trains each config and judges its loss curve."""


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
        only_failing: settings whose change ends the swings, but mostly in runs that learn nothing.
        undecided: settings of which the reruns show neither.
        step_example: an oscillating run's learning rate, normalization and effective step at the
            start, where the effective step is a cause.
        effects: every setting on both sides.
        dependences: what was asked about causes that cure the same runs.
        joint_cures: what was asked about runs that no single change cures.
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
    step_example: StepExample | None
    effects: tuple[Effect, ...]
    dependences: tuple[Dependence, ...]
    joint_cures: tuple[JointCure, ...]


@dataclass(frozen=True)
class Estimate:
    """What is left to train.

    Attributes:
        n_trainings: of single changes and unchanged runs. Doubts and pairs of settings may ask for
            more once these are known, most often for none to a third.
        duration_s: that they take.
    """

    n_trainings: int
    duration_s: float


def estimate(inquiry: Inquiry, results: Results, *, seconds_per_training: float) -> Estimate:
    """How much is left to train, before it is trained."""
    n_trainings = n_left(inquiry, results)
    return Estimate(n_trainings, n_trainings * seconds_per_training)


def next_trainings(inquiry: Inquiry, results: Results) -> tuple[RunConfig, ...]:
    """What to train next; empty when everything is answered.

    Args:
        inquiry: as `inquiry.prepare` gives it.
        results: everything trained so far, now or earlier.
    """
    batch = next_batch(inquiry, results)
    return batch or next_joint_batch(inquiry, curing_factors(effects(inquiry, results)), results)


def investigate(
    inquiry: Inquiry,
    train: Train,
    *,
    known: Results | None = None,
    population: int = 64,
    goes_on: Callable[[], bool] = lambda: True,
    asked: Callable[[Inquiry, Results], tuple[RunConfig, ...]] = next_trainings,
) -> dict[RunConfig, Judgement]:
    """Trains what the inquiry asks for, until it is answered or the time is up.

    Args:
        inquiry: as `inquiry.prepare` gives it.
        train: configs -> judgements, in the same order.
        known: results of an earlier call; nothing of it is trained again.
        population: configs that are trained in one call of `train`, at most.
        goes_on: asked before each population.
        asked: what to train next; empty when all is answered.

    Returns:
        Everything known, `known` included; `answer` takes it whether it is complete or not.
    """
    results = dict(known or {})
    while batch := asked(inquiry, results):
        for first in range(0, len(batch), population):
            if not goes_on():
                return results
            configs = batch[first : first + population]
            results.update(zip(configs, train(configs), strict=True))
    return results


def answer(
    inquiry: Inquiry,
    results: Results,
    *,
    n_examples: int,
    gradient_norm: GradientNorm,
) -> Answer:
    """Reduces everything known to the answer.

    Args:
        inquiry: as prepared.
        results: as `investigate` gives them, or fewer.
        n_examples: in the training part.
        gradient_norm: as for `inquiry.prepare`; asked for one run at most.
    """
    consulted = _Consulted(results)
    found = effects(inquiry, consulted)
    curing = curing_factors(found)
    bonds = dependences(inquiry, curing, consulted)
    joint = joint_cures(inquiry, consulted)
    causes = find_causes(found, bonds, joint)
    named = {setting for cause in causes for setting in cause.settings}
    idle = _without_effect(found, named)
    failing = _only_failing(found, named)
    tested = dict.fromkeys(effect.factor.setting for effect in found)
    runs = inquiry.runs
    is_by_step = any(cause.kind is Kind.EFFECTIVE_STEP for cause in causes)
    has_step = is_by_step or {LEARNING_RATE, NORMALIZATION} <= named
    return Answer(
        n_runs=len(runs),
        n_oscillating=sum(run.is_oscillating for run in runs),
        n_picked=(len(inquiry.on(Side.STOPS)), len(inquiry.on(Side.STARTS))),
        n_trained=len(consulted.keys_read),
        is_complete=not next_trainings(inquiry, results),
        causes=causes,
        without_effect=idle,
        only_failing=failing,
        undecided=tuple(s for s in tested if s not in (*named, *idle, *failing)),
        step_example=_step_example(inquiry, n_examples, gradient_norm) if has_step else None,
        effects=found,
        dependences=bonds,
        joint_cures=joint,
    )


class _Consulted(Mapping[RunConfig, Judgement]):
    """Results that remember which of them were asked for: earlier answers may have had others."""

    def __init__(self, results: Results) -> None:
        self.keys_read: set[RunConfig] = set()
        self._results = results

    def __getitem__(self, config: RunConfig) -> Judgement:
        found = self._results[config]
        self.keys_read.add(config)
        return found

    def __iter__(self) -> Iterator[RunConfig]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)


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


def _step_example(
    inquiry: Inquiry, n_examples: int, gradient_norm: GradientNorm
) -> StepExample | None:
    """Of the first picked run whose step is not simply its learning rate."""
    configs = (pick.configs[0] for pick in inquiry.on(Side.STOPS))
    config = next((c for c in configs if c.gradient.normalization != "mean"), None)
    return step_example(config, n_examples, gradient_norm) if config is not None else None
