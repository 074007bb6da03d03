"""The edge of a number is found by bisection, with as many seeds as there are."""

import math

import pytest

from mlp.causes.repair import Bisection


def searched(edges, *, good, start, is_bad=None):
    """Bisects where the seeds end badly from these values on; the trainings it took."""
    is_bad = is_bad or (lambda seed, value: value >= edges[seed])
    way, n_trained = Bisection(good, start), 0
    way.ends = [{1.0: not is_bad(seed, start)} for seed in range(len(edges))]
    way.ends[0][0.0] = True
    while asked := way.wanted():
        assert len(set(asked)) == len(asked)
        n_trained += len(asked)
        for seed, place in asked:
            assert place not in way.ends[seed]
            way.ends[seed][place] = not is_bad(seed, way.value(place))
    return way.edge("a"), n_trained


@pytest.mark.parametrize(
    "edges", [(5.0,), (5.0, 5.0, 5.0), (5.0, 3.0, 8.0, 4.0, 6.0), (9.5, 1.2), (5.0, 40.0, 50.0)]
)
def test_the_edge_is_that_of_the_seed_that_ends_badly_first(edges):
    edge, n_trained = searched(edges, good=1.0, start=10.0)
    assert edge.good < min(edges) <= edge.bad
    assert edge.bad / edge.good < 1.12  # the values have three digits
    assert edge.n_seeds == len(edges)
    assert n_trained <= 10 + 10 * len(edges)


def test_the_search_goes_beyond_what_is_good_with_the_runs_own_seed_alone():
    edge, _ = searched((5.0, 0.2), good=1.0, start=10.0)
    assert edge.good < 0.2 <= edge.bad


def test_a_seed_that_ends_badly_everywhere_leaves_no_edge():
    edge, n_trained = searched((5.0, 0.0), good=1.0, start=10.0)
    assert edge is None
    assert n_trained < 60


@pytest.mark.parametrize(("good", "start"), [(100.0, 1.0), (0.0, 0.9)])
def test_an_edge_may_lie_above_and_a_number_may_be_zero(good, start):
    def is_bad(_, value):
        return value < 7 if good > start else value >= 0.7

    edge, _ = searched((None, None), good=good, start=start, is_bad=is_bad)
    wanted = 7 if good > start else 0.7
    assert min(edge.good, edge.bad) <= wanted <= max(edge.good, edge.bad)
    assert (edge.good > edge.bad) == (good > start)


def test_a_lucky_island_beyond_the_edge_is_not_called_good():
    """Bad from 3 on, but for a good spot about 6."""
    edge, _ = searched(
        (3.0, 3.0),
        good=1.0,
        start=10.0,
        is_bad=lambda seed, value: value >= 3 and not 5 < value < 7,
    )
    assert edge.good < 3 <= edge.bad < 4


def test_values_can_be_typed():
    way = Bisection(1 / 3, 10 / 3)
    assert (way.value(0), way.value(1)) == (1 / 3, 10 / 3)  # of runs that are known
    assert way.value(0.5) == 1.05
    assert math.isclose(Bisection(0.0, 0.9).value(0.5), 0.45)
