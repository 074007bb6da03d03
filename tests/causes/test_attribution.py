"""The planted cause is named, the decoy is not, and nothing is named where nothing was planted.

Few repetitions here; `tests/support/planted.py` counts a hundred of each.
"""

import dataclasses

import numpy as np
import pytest

from mlp.causes.answer import (
    Kind,
    _listed,
    answer,
    evidence_table,
    find_causes,
    investigate,
    next_trainings,
    render_answer,
    sentences,
    words_of,
)
from mlp.causes.changes import LEARNING_RATE, NORMALIZATION, Factor
from mlp.causes.evidence import Conclusion
from mlp.causes.observed import DEEDS, observe, verdict_to_explain
from mlp.causes.plan import Side, plan_reruns, spread
from mlp.curve import Verdict
from mlp.settings import with_settings
from support.planted import (
    AND,
    DEPTH,
    N_EXAMPLES,
    NOTHING,
    RATE,
    SCHEME,
    STEP,
    explain,
    gradient_norms,
    named,
    study,
    training,
)


def plan_of(planted, repetition=0, n_runs=48, **effort):
    runs, space = study(planted, repetition, n_runs)
    return plan_reruns(runs, space, **effort, n_examples=N_EXAMPLES, gradient_norm=gradient_norms)


def answer_of(plan, results):
    return answer(plan, results, n_examples=N_EXAMPLES, gradient_norm=gradient_norms)


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        (RATE, Kind.ALONE),
        (SCHEME, Kind.ALONE),
        (DEPTH, Kind.ALONE),
        (AND, Kind.TOGETHER),
        (STEP, Kind.EFFECTIVE_STEP),
    ],
    ids=["rate", "scheme", "depth", "and", "step"],
)
def test_exactly_the_planted_cause_is_named(planted, kind):
    found = explain(planted, 0, 64)
    assert named(found) == planted.settings
    assert [cause.kind for cause in found.causes] == [kind]


def test_nothing_is_named_where_nothing_was_planted():
    assert explain(NOTHING, 0, 48).causes == ()


def test_a_setting_without_effect_is_said_to_have_none():
    quiet = dataclasses.replace(RATE, noise=0.0, slope=np.inf)
    found = explain(quiet, 0, 48)
    assert set(found.without_effect) == {
        "model.depth",
        "model.widths",
        "optimizer.momentum",
        "initialization.scheme",
    }
    idle = next(e for e in found.effects if e.factor == Factor("optimizer.momentum"))
    assert idle.conclusion is Conclusion.NO_EFFECT
    assert idle.on(Side.STOPS).n_stayed >= 15
    said = " ".join(sentences(found))
    assert "neither stop nor start the swings" in said
    assert "model.depth (1 to 3)" in said


def test_what_does_not_stop_it_is_known_before_what_does_not_start_it():
    quiet = dataclasses.replace(RATE, noise=0.0, slope=np.inf)
    plan, looks = plan_of(quiet), []
    investigate(
        plan,
        training(quiet, 0),
        population=16,
        heard=lambda results: looks.append(answer_of(plan, results)),
    )
    idle = {"model.depth", "model.widths", "optimizer.momentum", "initialization.scheme"}
    half = next(found for found in looks if set(found.not_stopping) == idle)
    assert not half.without_effect
    assert not half.undecided
    said = " ".join(sentences(half))
    assert "initialization.scheme (glorot_uniform, " in said
    assert said.endswith(" do not stop the swings.")
    momentum = next(e for e in half.effects if e.factor == Factor("optimizer.momentum"))
    assert momentum.on(Side.STOPS).n_stayed >= 15
    assert not momentum.is_settled
    assert "does not stop it" in " ".join(evidence_table(half))
    assert set(looks[-1].without_effect) == idle
    assert not looks[-1].not_stopping


def test_what_does_not_stop_it_is_never_said_to_stop_it_after_all():
    """Changing the momentum cures one run of sixteen: less than is worth a change, but not none."""
    quiet = dataclasses.replace(RATE, noise=0.0, slope=np.inf)
    plan = plan_of(quiet, n_runs=64, interventions=16, seeds=8)
    momentum, obeys = Factor("optimizer.momentum"), training(quiet, 0)
    cured = plan.on(Side.STOPS)[-1].configs[0]

    def train(configs):
        return [
            dataclasses.replace(judged, verdict=Verdict.CONVERGED)
            if config.model == cured.model and config.optimizer != cured.optimizer
            else judged
            for config, judged in zip(configs, obeys(configs), strict=True)
        ]

    looks = []
    investigate(
        plan, train, population=16, heard=lambda results: looks.append(answer_of(plan, results))
    )
    effects = [next(e for e in found.effects if e.factor == momentum) for found in looks]
    kinds = [effect.conclusion for effect in effects]
    assert Conclusion.NO_STOP in kinds
    for effect, found in list(zip(effects, looks, strict=True))[kinds.index(Conclusion.NO_STOP) :]:
        assert effect.does_not_stop
        assert not effect.stops
        assert momentum.setting in {*found.not_stopping, *found.without_effect}


def test_where_no_run_is_healthy_nothing_is_said_of_what_starts_it():
    quiet = dataclasses.replace(RATE, noise=0.0, slope=np.inf)
    runs, space = study(quiet, 0, 64)
    runs = [run for run in runs if run.verdict is Verdict.OSCILLATING]
    plan = plan_reruns(runs, space, n_examples=N_EXAMPLES, gradient_norm=gradient_norms)
    found = answer_of(plan, investigate(plan, training(quiet, 0)))
    assert found.is_complete
    assert not found.without_effect
    assert {"model.depth", "optimizer.momentum"} <= set(found.not_stopping)
    assert "do not stop the swings" in " ".join(sentences(found))


def test_what_acts_in_healthy_runs_alone_is_cleared_by_these():
    """The bound of `clip` does something where gradients are clipped, which here never swings."""
    planted = dataclasses.replace(
        STEP,
        score=lambda c: 0.5 if c.gradient.normalization in ("sum", "mean") else -0.5,
        space={**STEP.space, "gradient.clip_norm": {"low": 0.1, "high": 10.0, "log": True}},
        noise=0.0,
        slope=np.inf,
    )
    found = explain(planted, 0, 64)
    effect = next(e for e in found.effects if e.factor == Factor("gradient.clip_norm"))
    assert [side.side for side in effect.sides] == [Side.STARTS]
    assert effect.conclusion is Conclusion.NO_EFFECT


def test_too_few_pairs_are_too_little_evidence():
    found = explain(RATE, 0, 48, interventions=1, seeds=2)
    assert found.causes == ()
    assert "optimizer.learning_rate" in found.undecided
    effect = next(e for e in found.effects if e.factor == Factor("optimizer.learning_rate"))
    assert effect.pairs_missing > 4
    assert "more differing pairs are needed" in render_answer(found)
    assert found.likeliest == effect
    assert "likeliest is optimizer.learning_rate (odds " in sentences(found)[0]


def test_the_effective_step_is_said_in_both_ways():
    text = " ".join(sentences(explain(STEP, 0, 64)))
    assert text.startswith("The effective step makes the loss oscillate")
    assert "on the mean" in text
    assert "at the same effective step" in text


def test_the_table_counts_what_the_sentence_counts():
    found = explain(STEP, 0, 64)
    heading, *lines = evidence_table(found)
    assert heading.split("  ")[0] == "changed alone, new seeds"
    assert len({line.index(line.split("  ")[-1]) for line in (heading, *lines)}) == 1
    assert len(lines) == len([own for own in found.effects if any(s.n_pairs for s in own.sides)])
    at = next(i for i, line in enumerate(lines) if line.startswith("gradient.normalization "))
    kept = next(own for own in found.effects if own.factor.keeps_step)
    assert lines[at + 1].startswith("  at the same effective step ")
    for effect, line in (
        (kept, lines[at + 1]),
        *((e, lines[at]) for e in found.effects if e.factor == Factor("gradient.normalization")),
    ):
        assert line.endswith(f"  {words_of(found, effect)}")
        side = effect.on(Side.STOPS)
        assert f"  {side.n_with} of {side.n_expected}  " in line
    assert words_of(found, kept) == "so the step acts"
    rate = next(own for own in found.effects if own.factor == Factor(LEARNING_RATE))
    strongest = rate.on(Side.STOPS)
    counts = f"stopped it in {strongest.n_with} of {strongest.n_expected} reruns"
    assert counts in sentences(found)[0]


def test_what_cleared_a_setting_are_pairs_with_new_seeds_on_both_sides():
    found = explain(dataclasses.replace(RATE, noise=0.0, slope=np.inf), 0, 48)
    cleared = [own for own in found.effects if own.conclusion is Conclusion.NO_EFFECT]
    assert cleared
    for own in cleared:
        assert all(side.n_turned == 0 and side.n_stayed >= 15 for side in own.sides)
        assert all(side.n_expected == side.n_stayed <= side.n_pairs for side in own.sides)


def test_two_that_act_only_together_are_shown_as_a_pair():
    found = explain(AND, 0, 64)
    assert len(found.causes) == 1
    assert all(bond.is_needed for bond in found.causes[0].dependences)
    assert "only together" in sentences(found)[0]


def test_if_both_must_be_changed_that_is_found():
    both = dataclasses.replace(
        RATE,
        score=lambda c: (
            0.5 if c.optimizer.learning_rate > 0.3 or c.optimizer.momentum > 0.3 else -0.5
        ),
        noise=0.0,
    )
    runs, space = study(both, 0, 64)
    # Only runs in which either setting would do by itself.
    kept = [
        run
        for run in runs
        if run.verdict is not Verdict.OSCILLATING
        or (run.config.optimizer.learning_rate > 5 and run.config.optimizer.momentum > 0.4)
    ]
    plan = plan_reruns(kept, space, n_examples=N_EXAMPLES, gradient_norm=gradient_norms)
    found = answer_of(plan, investigate(plan, training(both, 0)))
    cure = found.pair_cures[0]
    assert {factor.setting for factor in cure.factors} == {
        "optimizer.learning_rate",
        "optimizer.momentum",
    }
    assert cure.conclusion is Conclusion.CAUSE
    assert named(found) == {"optimizer.learning_rate", "optimizer.momentum"}
    assert "both have to be changed" in sentences(found)[0]
    assert "no single cure" in render_answer(found)


def test_quiet_failures_are_no_cures():
    """Deep networks stall: depth ends the swings, but it does not repair."""

    def train(configs):
        judged = training(dataclasses.replace(RATE, noise=0.0), 0)(configs)
        return [
            dataclasses.replace(own, verdict=Verdict.STALLED)
            if config.initialization.scheme == "orthogonal"
            else own
            for own, config in zip(judged, configs, strict=True)
        ]

    runs, space = study(RATE, 0, 48)
    configs = [run.config for run in runs if run.config.initialization.scheme != "orthogonal"]
    kept = observe(configs, [own.verdict for own in train(configs)], space)
    plan = plan_reruns(kept, space, n_examples=N_EXAMPLES, gradient_norm=gradient_norms)
    found = answer_of(plan, investigate(plan, train))
    assert named(found) == {"optimizer.learning_rate"}
    scheme = next(e for e in found.effects if e.factor.setting == "initialization.scheme")
    assert scheme.conclusion is not Conclusion.CAUSE


@pytest.mark.parametrize(
    ("planted", "asked"),
    [(RATE, Verdict.STALLED), (AND, Verdict.DIVERGED), (STEP, Verdict.CLIMBING)],
)
def test_any_other_bad_end_is_explained_as_oscillation_is(planted, asked):
    """The same study, in which the runs that oscillate end in another bad way."""
    other = {Verdict.OSCILLATING: asked}

    def train(configs):
        judged = training(planted, 0)(configs)
        return [dataclasses.replace(j, verdict=other.get(j.verdict, j.verdict)) for j in judged]

    runs, space = study(planted, 0, 64)
    runs = [dataclasses.replace(run, verdict=other.get(run.verdict, run.verdict)) for run in runs]
    assert verdict_to_explain([run.verdict for run in runs]) is asked
    effort = {"n_examples": N_EXAMPLES, "gradient_norm": gradient_norms}
    plan = plan_reruns(runs, space, asked=asked, **effort)
    found = answer_of(plan, investigate(plan, train))
    swinging = explain(planted, 0, 64)
    assert named(found) == named(swinging) == planted.settings
    assert [cause.kind for cause in found.causes] == [cause.kind for cause in swinging.causes]
    for said, of_swings in (
        (sentences(found), sentences(swinging)),
        (evidence_table(found), evidence_table(swinging)),
    ):
        words = "\n".join(of_swings).replace("oscillate", DEEDS[asked].do)
        words = words.replace("the swings", DEEDS[asked].noun)
        words = words.replace("learn nothing", "end badly otherwise")
        words = words.replace("ends swings and learning", "ends it badly otherwise")
        assert "\n".join(said) == words


def test_verdict_to_explain_is_the_worst():
    swings, lost, flat, well = map(Verdict, ("oscillating", "diverged", "stalled", "learning"))
    for verdicts, asked in (
        ([], swings),
        ([well, well], swings),
        ([flat, flat, flat, swings], swings),
        ([lost, swings, well], swings),
        ([lost, lost, swings], lost),
        ([flat, flat, lost, well, well], flat),
        ([lost, well, well], lost),
    ):
        assert verdict_to_explain(verdicts) is asked


def test_training_can_be_stopped_and_gone_on_with():
    plan = plan_of(RATE)
    whole = investigate(plan, training(RATE, 0), population=32)
    n_calls, trained = 0, []

    def count(configs):
        trained.extend(configs)
        return training(RATE, 0)(configs)

    def twice():
        nonlocal n_calls
        n_calls += 1
        return n_calls <= 2

    part = investigate(plan, count, population=32, goes_on=twice)
    assert 0 < len(part) <= 64
    assert not answer_of(plan, part).is_complete
    rest = investigate(plan, count, known=part, population=32)
    assert rest == whole
    assert len(trained) == len(set(trained)) == len(whole)
    assert answer_of(plan, rest) == answer_of(plan, whole)


def test_every_early_stop_is_an_answer_without_a_false_cause():
    plan = plan_of(RATE)
    results = {}
    while batch := next_trainings(plan, results):
        results.update(zip(batch, training(RATE, 0)(batch), strict=True))
        assert named(answer_of(plan, results)) <= RATE.settings


def test_more_effort_keeps_what_less_effort_trained():
    small = plan_of(RATE, interventions=4, seeds=4)
    large = plan_of(RATE, interventions=8, seeds=4)
    on = {side: ([p.run for p in small.on(side)], [p.run for p in large.on(side)]) for side in Side}
    assert all(more[: len(fewer)] == fewer for fewer, more in on.values())
    known = investigate(small, training(RATE, 0))
    trained = []

    def train(configs):
        trained.extend(configs)
        return training(RATE, 0)(configs)

    investigate(large, train, known=known)
    assert not set(trained) & set(known)


def test_what_is_left_is_about_what_is_trained_and_nothing_in_the_end():
    quiet = dataclasses.replace(RATE, noise=0.0, slope=np.inf)
    plan = plan_of(quiet)
    n_planned = answer_of(plan, {}).n_left
    results = investigate(plan, training(quiet, 0), population=16)
    assert n_planned == pytest.approx(len(results), rel=0.5)
    assert answer_of(plan, results).n_left == 0


def test_further_seeds_are_new_to_the_study():
    plan = plan_of(RATE)
    seen = {run.config.training.seed for run in plan.runs}
    for pick in plan.picks:
        assert not {config.training.seed for config in pick.configs[1:]} & seen


def test_picks_are_spread_and_the_same_every_time():
    runs, space = study(RATE, 0, 64)
    picked = spread(runs, space, 8)
    assert picked == spread(runs, space, 8)
    assert spread(runs, space, 4) == picked[:4]
    rates = sorted(runs[i].config.optimizer.learning_rate for i in picked)
    assert rates[0] < 0.1
    assert rates[-1] > 10


def test_runs_that_differ_in_their_seed_alone_are_picked_once():
    runs, space = study(RATE, 0, 2)
    twin = dataclasses.replace(
        runs[0],
        config=dataclasses.replace(
            runs[0].config,
            training=dataclasses.replace(runs[0].config.training, seed=5),
        ),
    )
    assert len(spread([*runs, twin], space, 8)) == 2


def test_runs_that_differ_in_what_does_nothing_in_them_are_picked_once():
    runs, space = study(RATE, 0, 2)
    idle = dataclasses.replace(
        runs[0], config=with_settings(runs[0].config, {"gradient.clip_norm": 7.0})
    )
    assert runs[0].config.gradient.normalization != "clip"
    assert len(spread([*runs, idle], space, 8)) == 2


def test_a_study_without_oscillation_has_nothing_to_stop():
    runs, space = study(RATE, 0, 24)
    quiet = [dataclasses.replace(run, verdict=Verdict.CONVERGED) for run in runs]
    plan = plan_reruns(quiet, space, n_examples=N_EXAMPLES, gradient_norm=gradient_norms)
    found = answer_of(plan, {})
    assert sentences(found) == ("None of the 24 runs oscillates, so there is nothing to stop.",)


def test_an_empty_study_is_answered():
    plan = plan_reruns([], (), n_examples=1, gradient_norm=gradient_norms)
    assert next_trainings(plan, {}) == ()
    assert answer_of(plan, {}).causes == ()


def test_nothing_is_claimed_where_nothing_was_rerun():
    plan = plan_of(RATE)
    said = sentences(answer_of(plan, {}))
    assert evidence_table(answer_of(plan, {})) == ()
    assert said[0].startswith("Nothing has been rerun yet; likeliest, by how the study's own runs")


def test_what_stops_it_comes_first_and_then_what_turns_the_largest_share():
    """More pairs give a smaller p-value to a setting that turns only half of them."""
    [rate] = (e for e in explain(RATE, 0, 64).effects if e.factor == Factor(LEARNING_RATE))

    def turning(setting, n_stopped, n_started, p_value):
        counts = {Side.STOPS: n_stopped, Side.STARTS: n_started}
        sides = [
            dataclasses.replace(own, n_with=counts[own.side], n_against=0, n_expected=60)
            for own in rate.sides
        ]
        effect = dataclasses.replace(rate, factor=Factor(setting), p_value=p_value)
        return dataclasses.replace(effect, sides=tuple(sides))

    found = (
        turning("model.widths", 0, 60, 1e-9),
        turning("model.depth", 30, 0, 1e-9),
        turning(LEARNING_RATE, 50, 0, 1e-3),
    )
    names = [cause.settings for cause in find_causes(found, (), (), is_step=False)]
    assert names == [(LEARNING_RATE,), ("model.depth",), ("model.widths",)]


def test_what_was_cleared_is_no_part_of_the_effective_step():
    [rate] = (e for e in explain(RATE, 0, 64).effects if e.factor == Factor(LEARNING_RATE))
    normalization = dataclasses.replace(rate, factor=Factor(NORMALIZATION))
    idle = dataclasses.replace(rate, conclusion=Conclusion.NO_EFFECT)

    def named(*found):
        return [cause.settings for cause in find_causes(found, (), (), is_step=True)]

    assert named(rate, normalization) == [(NORMALIZATION, LEARNING_RATE)]
    assert named(idle, normalization) == [(NORMALIZATION,)]


def test_a_list_leaves_no_single_name_out():
    """A word for it, such as "and 1 more", is as long."""
    assert _listed("abcde") == "a, b, c, d and e"
    assert _listed("abcdef") == "a, b, c, d and 2 more"


def test_pairs_that_are_missing_are_those_of_one_side():
    """Six of six on one side need fewer more than twelve of sixteen on the other."""
    found = answer_of(plan_of(RATE), {})
    assert found.n_to_decide is None
    [rate] = (e for e in explain(RATE, 0, 64).effects if e.factor == Factor(LEARNING_RATE))
    waiting = dataclasses.replace(found, likeliest=dataclasses.replace(rate, pairs_missing=7))
    assert waiting.n_to_decide == 7
    assert "and 7 more pairs would decide" in sentences(waiting)[0]
