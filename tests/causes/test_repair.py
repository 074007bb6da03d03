"""One run: the smallest change that stops its oscillation, trained before it is claimed."""

import dataclasses
import functools

import numpy as np
import pytest

from mlp.causes.changes import standard_space, step_example
from mlp.causes.observed import is_repair
from mlp.causes.repair import named_causes, repair
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict
from mlp.settings import settings_of, with_settings
from support.planted import N_EXAMPLES, RATE, effective_step, gradient_norms, training

_OF_THE_STEP = ("optimizer.learning_rate", "gradient.normalization")
SHARP = dataclasses.replace(RATE, noise=0.0, slope=np.inf)  # oscillates above 3.98 on the mean
OSCILLATING = Judgement(Verdict.OSCILLATING, 0.5, 0.0, 1.0, 1.0, 2, 1.0, None, False)


def repaired(planted, config, *, train=None, before=OSCILLATING, **kwargs):
    return repair(
        config,
        standard_space(config),
        train or training(planted, 0),
        before=before,
        n_examples=N_EXAMPLES,
        gradient_norm=gradient_norms,
        **kwargs,
    )


@pytest.fixture
def too_fast():
    return with_settings(RunConfig(), {"optimizer.learning_rate": 16.0})


def test_the_smallest_cure_is_found_and_verified(too_fast):
    found = repaired(SHARP, too_fast)
    best = found.cures[0]
    assert best.settings == ("optimizer.learning_rate",)
    assert 3.5 < best.config.optimizer.learning_rate < 3.98
    assert best.verdict in (Verdict.LEARNING, Verdict.CONVERGED)
    assert (best.n_cured, best.n_seeds) == (8, 8)
    assert (found.n_alike, found.n_seeds) == (4, 4)
    assert [judged.verdict for judged in training(SHARP, 0)([best.config])] == [best.verdict]
    changed = {
        path
        for path, value in settings_of(best.config).items()
        if value != settings_of(found.config)[path]
    }
    assert changed == {"optimizer.learning_rate"}
    text = str(found)
    assert text.startswith("optimizer.learning_rate makes it oscillate: optimizer.learning_rate=3.")
    assert "and with 8 of 8 further seeds). Unchanged it oscillates with 4 of 4 further" in text
    assert named_causes(found) == best.settings
    by_chance = dataclasses.replace(found, n_alike=1, n_bad=1)
    assert "by chance perhaps" in str(by_chance)
    assert named_causes(by_chance) == ()
    assert named_causes(dataclasses.replace(found, cures=(), edges=())) == ()


def test_a_lucky_cure_is_no_repair(too_fast):
    """A change that helps with the own seed alone comes after one that helps with every seed."""
    noisy = dataclasses.replace(SHARP, noise=0.2)
    cures = repaired(noisy, too_fast, seeds=8).cures
    shares = [cure.n_cured / cure.n_seeds for cure in cures]
    assert cures[0].settings == ("optimizer.learning_rate",)
    assert shares == sorted(shares, reverse=True)


def test_if_no_single_change_cures_a_pair_is_searched():
    config = with_settings(
        RunConfig(), {"optimizer.learning_rate": 16.0, "optimizer.momentum": 0.9}
    )
    both = dataclasses.replace(
        SHARP,
        score=lambda c: (
            0.5 if c.optimizer.learning_rate > 4 or c.optimizer.momentum > 0.5 else -0.5
        ),
    )
    space = tuple(e for e in standard_space(config) if e.path != "gradient.normalization")
    trained = []

    def train(configs):
        trained.extend(configs)
        return training(both, 0)(configs)

    found = repair(
        config,
        space,
        train,
        before=OSCILLATING,
        n_examples=N_EXAMPLES,
        gradient_norm=gradient_norms,
    )
    assert set(found.cures[0].settings) == {"optimizer.learning_rate", "optimizer.momentum"}
    assert found.cures[0].n_cured == 4
    assert "make it oscillate: " in str(found)
    assert "is the smallest change that stops it" in str(found)
    assert "model.depth" in found.without_effect
    assert "optimizer.learning_rate" not in found.without_effect  # it acts, if not alone
    paired = {s for cure in found.cures for s in cure.settings}
    for own in trained:
        changed = {p for p, v in settings_of(own).items() if v != settings_of(found.config)[p]}
        if "training.seed" in changed:
            assert changed - {"training.seed"} in (set(), paired)


def test_a_step_that_is_hidden_in_the_normalization_is_told():
    """The learning rate looks small, and on the sum it is not."""
    config = with_settings(
        RunConfig(), {"optimizer.learning_rate": 0.005, "gradient.normalization": "sum"}
    )
    by_step = dataclasses.replace(SHARP, score=lambda c: effective_step(c) - 0.65)
    found = repaired(by_step, config)
    assert str(found.step) == "0.005 on the sum is a step of 50 on the mean"
    said = str(found)
    assert f"oscillate ({found.step}): " in said
    best, other = (next(c for c in found.cures if c.settings == (path,)) for path in _OF_THE_STEP)
    assert f": {best.text} is " in said
    assert f" Also stopped by {other.text}. " in said  # as it is typed, with its value


def test_the_most_reliable_of_what_else_stops_it_is_said_first(too_fast):
    found = repaired(SHARP, too_fast)
    [best] = found.cures[:1]
    paths = ("a", "optimizer.momentum", "b", "optimizer.momentum")
    cures = [
        dataclasses.replace(best, settings=(path,), text=f"{path}={i}")
        for i, path in enumerate(paths)
    ]
    said = str(dataclasses.replace(found, cures=tuple(cures)))
    assert " Also stopped by optimizer.momentum=1, b=2. " in said


def test_why_the_obvious_does_not_stop_it_is_said(too_fast):
    """A rate so small that nothing is learned, and one that was luck."""
    found = repaired(SHARP, too_fast)
    [best] = found.cures[:1]
    stalled = dataclasses.replace(best, settings=("a",), text="a=1", verdict=Verdict.STALLED)
    farther = dataclasses.replace(stalled, text="a=9", distance=best.distance + 1)
    lucky = dataclasses.replace(best, settings=("b",), text="b=2", n_cured=1)
    acting = dataclasses.replace(stalled, settings=best.settings, text="c=3")
    said = str(
        dataclasses.replace(found, cures=(best, lucky), quiet_failures=(farther, stalled, acting))
    )
    assert " Stopped with its own seed, but seldom with further ones, by b=2 (1 of 8). " in said
    assert " Swings end, but it does not learn, with a=1 (stalled). " in said
    assert "c=3" not in said
    nothing = dataclasses.replace(found, cures=(), edges=(), quiet_failures=(stalled,))
    assert str(nothing).endswith(" Swings end, but it does not learn, with a=1 (stalled).")


def test_a_change_is_not_called_the_smallest_beside_a_smaller_one(too_fast):
    found = repaired(SHARP, too_fast)
    [best] = found.cures[:1]
    nearer = dataclasses.replace(best, settings=("a",), distance=best.distance / 2, n_cured=7)
    assert f"{best.text} is the smallest single change" in str(found)
    said = str(dataclasses.replace(found, cures=(best, nearer)))
    assert f"{best.text} is the most reliable single change that stops it" in said


def test_what_does_not_stop_it_is_said_last(too_fast):
    found = repaired(SHARP, too_fast)
    assert "model.depth" in found.without_effect
    assert "optimizer.learning_rate" not in found.without_effect
    *names, last = found.without_effect
    said = str(found)
    assert said.endswith(
        f" With its own seed no change of {', '.join(names)} or {last} that was tried stops it."
    )
    one = dataclasses.replace(found, without_effect=("a",))
    assert str(one).endswith(" no change of a that was tried stops it.")
    none = dataclasses.replace(found, without_effect=())
    assert "no change" not in str(none)


def test_only_what_stops_it_is_trained_with_further_seeds(too_fast):
    trained = []

    def train(configs):
        trained.append(configs)
        return training(SHARP, 0)(configs)

    found = repaired(SHARP, too_fast, train=train, population=5)
    assert max(map(len, trained)) == 5
    trained = [config for configs in trained for config in configs]
    assert len(trained) == found.n_trained
    curing = {setting for cure in found.cures for setting in cure.settings}
    before = settings_of(found.config)
    for config in trained:
        own = {p: v for p, v in settings_of(config).items() if v != before[p]}
        if own.pop("training.seed", None) is not None:
            assert set(own) <= curing


def test_the_data_stay_as_they_are():
    """Also how they were parted: no rerun is trained on other examples than the run."""
    config = with_settings(
        RunConfig(), {"data.split_seed": 3, "data.scale": 2.0, "optimizer.learning_rate": 16.0}
    )
    trained = []

    def train(configs):
        trained.extend(configs)
        return training(SHARP, 0)(configs)

    found = repaired(SHARP, config, train=train)
    assert {own.data.split_seed for own in trained} == {3}
    assert "data.scale" in found.without_effect


def test_a_search_is_complete_unless_it_was_stopped(too_fast):
    """Its clock may change its mind; a search that it has stopped once stays stopped."""
    asked = []
    whole = repaired(SHARP, too_fast, population=8, goes_on=lambda: asked.append(True) or True)
    assert whole.is_complete
    for stop in (0, 1, 2, len(asked) // 2, len(asked) - 1):
        answers = iter([True] * stop + [False])
        cut = repaired(SHARP, too_fast, population=8, goes_on=functools.partial(next, answers, 1))
        assert not cut.is_complete
        assert cut.n_trained <= 8 * stop
        assert (cut.cures, cut.n_trained) != (whole.cures, whole.n_trained)
    answers = iter([True] * len(asked))  # the time is up with the last rerun
    assert repaired(SHARP, too_fast, population=8, goes_on=lambda: next(answers, False)) == whole


def test_what_was_not_tried_with_further_seeds_is_not_called_a_cause(too_fast):
    found = repaired(SHARP, too_fast)
    own = dataclasses.replace(found.cures[0], n_cured=0, n_seeds=0)
    cut = dataclasses.replace(
        found, cures=(own,), n_alike=0, n_seeds=0, is_complete=False, without_effect=()
    )
    assert str(cut) == (
        f"With its own seed {own.text} stops it ({own.verdict.value}); the time was up before it "
        "was tried with further seeds."
    )
    assert named_causes(cut) == ()


def test_the_step_is_not_blamed_where_it_stays_as_it_was():
    """The normalization itself: a change at the same effective step cures as well."""
    config = with_settings(
        RunConfig(), {"optimizer.learning_rate": 0.005, "gradient.normalization": "sum"}
    )
    itself = dataclasses.replace(
        SHARP, score=lambda c: 0.5 if c.gradient.normalization == "sum" else -0.5
    )
    found = repaired(itself, config)
    text = str(found)
    assert found.step is not None
    assert str(found.step) not in text
    if found.cures[0].keeps_step:
        assert "makes it oscillate, at any size of the step: " in text
        assert "single" not in text


@pytest.mark.parametrize("normalization", ["mean", "clip"])
def test_a_step_that_is_its_learning_rate_is_not_told(normalization):
    config = with_settings(
        RunConfig(), {"gradient.normalization": normalization, "gradient.clip_norm": 1.0}
    )
    assert step_example(config, N_EXAMPLES, lambda _: [0.5]) is None


def test_quiet_failures_are_listed_apart(too_fast):
    def train(configs):
        return [
            dataclasses.replace(own, verdict=Verdict.STALLED)
            if config.gradient.normalization == "unit"
            else own
            for own, config in zip(training(SHARP, 0)(configs), configs, strict=True)
        ]

    found = repaired(SHARP, too_fast, train=train)
    assert all("unit" not in cure.text for cure in found.cures)
    assert any("gradient.normalization=unit" in own.text for own in found.quiet_failures)


@pytest.mark.parametrize(
    ("verdict", "tail_loss", "expected"),
    [
        (Verdict.LEARNING, 0.1, True),
        (Verdict.CONVERGED, 0.69, True),
        (Verdict.CONVERGED, 0.7, False),  # above the loss of knowing nothing
        (Verdict.LEARNING, 2.0, False),
        (Verdict.STALLED, 0.1, False),
        (Verdict.OSCILLATING, 0.1, False),
    ],
)
def test_a_repair_learns_and_ends_no_higher(verdict, tail_loss, expected):
    after = dataclasses.replace(OSCILLATING, verdict=verdict, tail_loss=tail_loss)
    assert is_repair(OSCILLATING, after) is expected
    lower = dataclasses.replace(OSCILLATING, tail_loss=0.09)
    assert not is_repair(lower, after)


def ends_at(tail_loss, where):
    """The training of `SHARP`, but what `where` picks settles at this loss."""

    def train(configs):
        return [
            dataclasses.replace(own, verdict=Verdict.CONVERGED, tail_loss=tail_loss)
            if where(config)
            else own
            for own, config in zip(training(SHARP, 0)(configs), configs, strict=True)
        ]

    return train


def test_a_change_that_ends_higher_is_listed_apart(too_fast):
    train = ends_at(1.5, lambda config: config.initialization.scheme == "orthogonal")
    found = repaired(SHARP, too_fast, train=train)
    assert found.cures[0].settings == ("optimizer.learning_rate",)
    assert all("orthogonal" not in cure.text for cure in found.cures)
    listed = "with initialization.scheme=orthogonal (converged). "
    assert f" Swings end, but at a higher loss, {listed}" in str(found)


def test_another_value_of_a_setting_repairs_where_those_at_the_edge_end_higher(too_fast):
    train = ends_at(0.5, lambda config: 1 < config.optimizer.learning_rate < 3.98)
    lower = dataclasses.replace(OSCILLATING, tail_loss=0.2)
    found = repaired(SHARP, too_fast, train=train, before=lower)
    assert found.cures[0].text == "optimizer.learning_rate=0.5"
    [edge] = found.edges
    assert edge.good < 3.98 < edge.bad


def test_if_every_change_ends_higher_none_is_offered(too_fast):
    found = repair(
        too_fast,
        standard_space(too_fast),
        training(SHARP, 0),
        before=dataclasses.replace(OSCILLATING, tail_loss=0.09),
        n_examples=N_EXAMPLES,
        gradient_norm=gradient_norms,
    )
    assert found.cures == ()
    assert named_causes(found) == ("optimizer.learning_rate",)
    assert "but not in all of them at as low a loss" in str(found)
    found = dataclasses.replace(found, edges=())
    assert named_causes(found) == ()
    said = str(found)
    assert said.startswith(
        "No change of one setting, or of two, stops the swings at as low a loss."
    )
    assert "Swings end, but at a higher loss, with optimizer.learning_rate=" in said
    assert "it does not learn" not in said


def test_a_further_seed_that_ends_higher_is_not_cured(too_fast):
    train = ends_at(1.5, lambda c: c.training.seed % 4 == 1 and c.optimizer.learning_rate < 4)
    best = repaired(SHARP, too_fast, train=train).cures[0]
    assert (best.n_cured, best.n_seeds) == (3, 4)  # of four seeds in a row


def test_without_a_cure_that_is_said(too_fast):
    always = dataclasses.replace(SHARP, score=lambda c: 1.0)
    found = repaired(always, too_fast)
    assert found.cures == ()
    assert str(found).startswith("No change of one setting, or of two, stops")


def test_a_search_without_time_ends_at_once(too_fast):
    found = repaired(SHARP, too_fast, goes_on=lambda: False)
    assert found.n_trained == 0
    assert not found.is_complete
    said = "The time was up before a change was found that stops this run."
    assert str(found) == said  # no word of seeds that nobody has trained
