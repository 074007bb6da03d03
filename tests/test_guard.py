"""The guard: it sees what the judge sees, while the loss still comes."""

import math
import sys
import time

import numpy as np
import pytest

from curves.collection import load
from mlp.config import Execution
from mlp.curve import Verdict, judge_curve
from mlp.data.dataset import load_data
from mlp.guard import LOW_PATIENCE, PATIENCE, Guard
from mlp.settings import read_run
from mlp.stability.ratio import stability_ratio
from mlp.training.train_runs import train_runs

DATA = load_data(read_run({"data": {"name": "digits"}}).data, notice=lambda _: None)


def acts(losses, **known):
    """`(step, action)` where it does not keep."""
    guard = Guard(**known)
    actions = enumerate(map(guard.observe, losses))
    return [(step, action) for step, action in actions if action.name != "keep"]


def falling(n=400):
    return np.exp(-np.arange(n) / 100)


def swinging(n=400, *, since=200, share=0.4, period=2):
    swing = np.cos(2 * np.pi * np.arange(n) / period) * share
    return 0.5 * np.where(np.arange(n) < since, falling(n) + 1, 1.2 * (1 + swing))


@pytest.mark.parametrize("period", [2, 3, 7, 20])
def test_swings_are_seen_within_three(period):
    losses = swinging(600, period=period)
    actions = list(enumerate(map(Guard(noise=0).observe, losses)))
    step, seen = next(each for each in actions if each[1].verdict is not None)
    assert (seen.name, seen.verdict) == ("keep", Verdict.OSCILLATING)
    assert 200 <= step <= 200 + 4 * period  # a swing is known when the next one begins
    assert "settle by itself" in seen.why
    step, action = acts(losses, noise=0)[0]
    assert (action.name, action.verdict) == ("restore", Verdict.OSCILLATING)
    due = LOW_PATIENCE * PATIENCE  # they swing about less than knowing nothing costs
    assert due <= step <= due + period
    assert action.factor == 0.5
    assert f"step {action.step}" in action.why


def test_the_best_weights_are_those_of_the_lowest_loss():
    losses = swinging(since=200)
    guard, best = Guard(noise=0), 0
    for step, loss in enumerate(losses):
        action = guard.observe(loss)
        best = step if action.is_best else best
        if action.name == "restore":
            break
    assert action.step == best
    assert losses[best] <= losses[:step].min() / 0.99


@pytest.mark.parametrize("losses", [
    falling(),
    falling() * (1 + 0.01 * np.cos(np.pi * np.arange(400))),  # ripples: 2 % of the level
    0.004 * (1 + 0.5 * np.cos(np.pi * np.arange(400))) + 0 * falling(),  # of chance, that is
    falling() * (1 + 0.4 * np.cos(np.pi * np.arange(400)) * 0.97 ** np.arange(400)),  # dies out
    np.where(np.arange(400) == 200, 5.0, falling()),  # one spike
    np.full(400, 0.7),
])  # fmt: skip
def test_what_is_no_oscillation_is_left_alone(losses):
    assert acts(losses, noise=0, reference=math.log(2)) == []


@pytest.mark.parametrize("batch_size", [16, 64])
@pytest.mark.parametrize("known", [True, False])
def test_noise_is_left_alone(batch_size, known):
    rng = np.random.RandomState(batch_size)
    for _ in range(40):
        level = 0.6 * falling(300) + 0.1
        losses = rng.gamma(batch_size * level, 1 / batch_size)
        told = {"batch_size": batch_size} if known else {}
        assert acts(losses, reference=math.log(2), **told) == []


@pytest.mark.parametrize("n_hard", [4, 5, 12])
def test_a_few_hard_batches_are_no_swings(n_hard):
    """Many examples do not make a batch's noise small where a few of them cost the most."""
    quiet = [0.30, 0.33, 0.27, 0.31, 0.29] * 80
    losses = [0.7, *quiet, *[2.0, 0.3, 0.3, 0.3] * n_hard, *quiet]
    assert acts(losses, batch_size=64, reference=math.log(2)) == []


def test_swings_of_batches_are_told_by_as_many_points_as_the_judge_asks_for():
    losses = [0.7, *[0.3, 1.2] * 20]
    assert acts(losses, batch_size=512, reference=math.log(2), patience=1)[0][0] == 24


def test_swings_about_the_first_loss_are_seen():
    """The loss has come down to them by less than a swing."""
    losses = [0.7, *[0.3] * 400, *[1.6, 0.2] * 30]
    assert acts(losses, batch_size=64, reference=math.log(2))[0][0] < 450


def test_a_network_at_chance_is_no_better_than_the_first():
    """It is saturated, and what goes on from there stalls."""
    losses = [0.8, 3.0, *([0.69, 3.0] * 200)]
    assert acts(losses, noise=0, reference=math.log(2))[0][1].step == 0
    assert acts([*losses[:50], 0.6, *losses[50:]], noise=0, reference=math.log(2))[0][1].step == 50


@pytest.mark.parametrize("losses", [
    [*falling(320), *[3.0, 0.4, 0.2] * 2, *falling(320)[100:], 3.0, *falling(320)[100:]],
    [0.7, *[3.0, 1.0] * 6, *falling(400) * 1e-3],  # settled long ago
])  # fmt: skip
def test_what_was_long_ago_does_not_count(losses):
    assert acts(losses, noise=0, reference=math.log(2)) == []


def test_high_and_low_swings_by_turns_go_on():
    losses = [0.7, *[9.0, 1.0, 3.0, 1.0] * 100]
    assert acts(losses, noise=0)[0][0] <= PATIENCE + 4


def test_no_further_catapult_once_it_went_back():
    losses = [0.7, *[3.0, 1.0] * 150, 3.0, 0.7, 2.0]
    assert [step for step, _ in acts(losses, noise=0)] == [301, 303]


@pytest.mark.parametrize("known", [{}, {"batch_size": 64}])
def test_noise_about_the_luckiest_loss_is_no_rise(known):
    """The best of a thousand noisy losses was lucky; what comes after it once went back is more."""
    random = np.random.RandomState(0)
    guard, n_back = Guard(patience=1000, **known), 0
    for step in range(3000):
        loss = (0.2 if step < 1000 or n_back else 3.0 + 2 * (-1) ** step) + 0.02 * random.randn()
        n_back += guard.observe(0.7 if step == 0 else loss).name == "restore"
    assert n_back <= 2


def test_a_blow_up_that_nothing_comes_of_is_gone_back_from():
    losses = [0.7, 50.0, *[0.6931] * 500]  # where it has fallen for the last time
    [(step, action)] = acts(losses, noise=0)
    assert (step, action.verdict) == (451, Verdict.CLIMBING)


@pytest.mark.parametrize("what", [{"noise": 0}, {"batch_size": 64}, {}])
@pytest.mark.parametrize("rise", [[], [1.5, 8], [*np.geomspace(0.8, 45, 10)]])
def test_a_loss_that_falls_after_a_blow_up_is_left_alone(rise, what):
    """It learns, however long that takes, and however many steps the blow-up took."""
    assert acts([0.7, *rise, *np.geomspace(50, 3, 700)], **what) == []


def test_a_loss_that_no_longer_falls_after_a_blow_up_is_gone_back_from():
    losses = np.append(0.7, 50 * falling(700) ** 0.4)
    step = acts([*losses[:200], *[losses[200]] * 500], noise=0)[0][0]
    assert 200 + 430 < step <= 200 + 450


def test_swings_at_the_start_get_their_time():
    losses = swinging(600, since=1)
    [(step, _), (second, _)] = acts(losses, noise=0)[:2]
    assert step == LOW_PATIENCE * PATIENCE
    [(high, _)] = acts([0.7, *[3.0, 1.0] * 200], noise=0)[:1]
    assert high == PATIENCE + 1
    assert second < step + 20
    assert acts(losses, noise=0, patience=0)[0][0] < 10


def test_a_divergence_is_gone_back_from_at_once():
    [(step, action)] = acts([1.0, 0.9, math.nan, 0.9, 0.8], noise=0)
    assert (step, action.step, action.verdict) == (2, 1, Verdict.DIVERGED)
    [(step, action)] = acts([math.inf], noise=0)
    assert (action.name, action.verdict) == ("stop", Verdict.DIVERGED)


def test_it_stops_where_no_step_is_small_enough():
    actions = acts(np.where(np.arange(2000) % 2 == 0, 1.0, 3.0), noise=0)
    assert [action.name for _, action in actions[:41]] == ["restore"] * 40 + ["stop"]
    assert "halvings" in actions[40][1].why


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("since", [1, 200])
def test_units_of_the_loss_do_not_matter(scale, since):
    losses = swinging(since=since)
    plain = [(step, action.step) for step, action in acts(losses, noise=0)]
    assert [(step, action.step) for step, action in acts(scale * losses, noise=0)] == plain


def test_huge_losses_leave_the_best_what_it_was():
    guard = Guard(noise=0, patience=64)
    for loss in [0.7, 4.0, 1e5, 1e26, 7e8, *[5.0, 2.0] * 40]:
        action = guard.observe(loss)
        if action.name == "restore":
            break
    assert (action.name, action.step) == ("restore", 0)


def test_labelled_curves_are_seen_as_by_eye():
    """Those that swing unseen reach a new best loss all along, and learn."""
    exact = [c for c in load() if c.origin != "formula" and c.sampling_error == 0 and not c.known]
    alarmed = {
        label: np.mean(
            [
                bool(acts(c.loss, noise=0, patience=len(c.loss) // 2))
                for c in exact
                if c.label == label
            ]
        )
        for label in ("oscillating", "learning", "converged")
    }
    assert alarmed["oscillating"] > 0.8, alarmed
    assert max(alarmed["learning"], alarmed["converged"]) < 0.04, alarmed


def test_the_stability_ratio_goes_with_the_rate_that_is_left():
    run = read_run(
        {
            "data": {"name": "digits"},
            "model": {"widths": 8},
            "optimizer": {"learning_rate": 30.0, "guard": "rollback"},
            "training": {"steps": 300, "sharpness_points": 8},
        }
    )
    [record] = train_runs([run], DATA, Execution(threads=1))
    result, n = record.result, DATA.train.n_examples
    at_full_rate = stability_ratio(run, result.sharpness, result.gradient_norm, n)
    shares = result.stability_ratio / at_full_rate
    assert shares[0] == 1
    np.testing.assert_allclose(shares[-1], result.restored_share[-1])
    assert record.judgement.verdict is Verdict.LEARNING
    assert record.judgement.n_rollbacks == result.restored_step.size > 0


@pytest.mark.parametrize("steps", [300, 900])
def test_a_run_waits_for_half_of_its_steps(steps):
    run = read_run(
        {
            "data": {"name": "digits"},
            "model": {"widths": 8},
            "optimizer": {"learning_rate": 300.0, "guard": "rollback"},
            "training": {"steps": steps},
        }
    )
    [record] = train_runs([run], DATA, Execution(threads=1))
    assert steps // 2 <= record.result.restored_step[0] < steps // 2 + 50


def test_it_is_fast_and_small():
    guard, losses = Guard(), swinging(20_000, since=10_000)
    started = time.process_time()
    for loss in losses:
        guard.observe(loss)
    assert (time.process_time() - started) / losses.size < 20e-6
    assert sys.getsizeof(guard._row) < 1000


@pytest.mark.parametrize("known", [{"batch_size": 0}, {"noise": -1.0}, {"patience": -1}])
def test_what_cannot_be_is_refused(known):
    [name] = known
    with pytest.raises(ValueError, match=f"^{name} must be at least"):
        Guard(**known)
    assert judge_curve([1.0]).n_rollbacks == 0


@pytest.mark.parametrize(("blown_up", "acted"), [(1500, 2000), (2100, 2100 + 449)])
def test_a_blow_up_is_gone_back_from_in_the_second_half_of_a_long_run(blown_up, acted):
    losses = [*falling(blown_up), *[6.0] * 1000]
    [(step, action), *_] = acts(losses, noise=0, reference=math.log(2), patience=2000)
    assert (step, action.verdict) == (acted, Verdict.CLIMBING)
