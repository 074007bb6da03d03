"""The cut of a generation into populations: complete, wide at first, even at the end."""

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlp.config import RunConfig
from mlp.engine.layout import tile_columns
from mlp.settings import with_settings
from mlp.training.train_runs import cost, cut, deal

COSTS = st.lists(st.floats(0, 1e6), max_size=30)


@settings(max_examples=50)
@given(COSTS, st.integers(1, 9), st.none() | st.integers(1, 5), st.booleans())
def test_each_trial_is_in_one_population(costs, n_slots, most, has_columns):
    columns = [1 + i * 7 % 40 for i in range(len(costs))] if has_columns else None
    populations = cut(costs, n_slots=n_slots, most=most, columns=columns)
    assert sorted(n for numbers in populations for n in numbers) == list(range(len(costs)))
    assert all(populations)
    assert most is None or max(map(len, populations), default=0) <= most


@given(COSTS, st.integers(1, 9), st.none() | st.integers(1, 5))
def test_dealt_populations_are_as_wide_as_can_be(costs, n_slots, most):
    populations = deal(costs, n_slots=n_slots, most=most)
    assert sorted(n for numbers in populations for n in numbers) == list(range(len(costs)))
    widths = [len(numbers) for numbers in populations]
    if most is None:
        assert len(widths) == min(n_slots, len(costs))
        assert max(widths, default=0) - min(widths, default=0) <= 1
    else:
        assert all(0 < width <= most for width in widths)


def idle_share(costs, populations, n_slots):
    """Of workers that each take the next population when they are free."""
    ends = [0.0] * n_slots
    for numbers in populations:
        heapq.heappush(ends, heapq.heappop(ends) + sum(costs[n] for n in numbers))
    return 1 - sum(ends) / (n_slots * max(ends))


def generation_of_64(seed):
    """As the shipped space has it: depth 1 to 3, widths 2 to 32."""
    draw = random.Random(seed)
    return [
        with_settings(
            RunConfig(),
            {
                "model.depth": (depth := draw.randint(1, 3)),
                "model.widths": [round(2 * 16 ** draw.random()) for _ in range(depth)],
            },
        )
        for _ in range(64)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_little_idle_time_for_a_generation_of_64_on_four_workers(seed):
    configs = generation_of_64(seed)
    costs = [cost(config, n_examples=9917, n_entries=1_500_000) for config in configs]
    columns = [config.model.layer_widths[0] for config in configs]
    populations = cut(costs, n_slots=4, columns=columns)
    assert idle_share(costs, populations, 4) < 0.1
    assert len(populations) <= 40  # each costs some time of its own


@pytest.mark.parametrize(("n_slots", "seed"), [(2, 0), (2, 1), (4, 2), (4, 3)])
def test_few_columns_of_the_tiles_are_empty(seed, n_slots):
    configs = generation_of_64(seed)
    costs = [cost(config, n_examples=9917, n_entries=1_500_000) for config in configs]
    columns = [config.model.layer_widths[0] for config in configs]
    room, sizes = 0, []
    for numbers in cut(costs, n_slots=n_slots, columns=columns):
        sizes.append(sum(columns[n] for n in numbers))
        tile = tile_columns(sizes[-1], "float32")
        room += -(-sizes[-1] // tile) * tile
    assert room < 1.1 * sum(sizes)


def test_early_populations_are_wide_and_large_trials_come_first():
    costs = [1.0] * 30 + [5.0]
    populations = cut(costs, n_slots=2)
    assert populations[0][0] == 30
    sums = [sum(costs[n] for n in numbers) for numbers in populations]
    assert sums[0] > 3 * sums[-1]


def test_cost_grows_with_work():
    def of(**changes):
        changed = with_settings(RunConfig(), {k.replace("__", "."): v for k, v in changes.items()})
        return cost(changed, n_examples=1000, n_entries=50_000)

    assert of(training__steps=1000) == 2 * of(training__steps=500)
    assert of(model__widths=6) > of(model__widths=3)
    assert of(training__batch_size=100) == pytest.approx(of() / 10)
    assert of(training__batch_size=5000) == of()
