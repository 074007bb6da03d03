"""Domains: what they hold, what they are made from, and that a fraction reaches all of it."""

import itertools
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlp.errors import SettingError
from mlp.study.space import Choice, Range, describe, read_domain, typed

RATE, DEPTH, WIDTHS = "optimizer.learning_rate", "model.depth", "model.widths"
BELOW_ONE = math.nextafter(1, 0)
fractions = st.floats(0, 1, exclude_max=True)


def domain(path=RATE, **keys):
    return read_domain(path, keys)


@st.composite
def float_ranges(draw):
    low, high = sorted(draw(st.tuples(*2 * [st.floats(1e-12, 1e12)])))
    how = draw(st.sampled_from(["plain", "log", "step"]))
    if how == "step":
        step = draw(st.floats(1e-3, 1e3))
        assume((high - low) / step <= 1e6)
        return domain(low=low, high=high, step=step)
    return domain(low=low, high=high, log=how == "log")


@st.composite
def integer_ranges(draw):
    low, high = sorted(draw(st.tuples(*2 * [st.integers(1, 2**32)])))
    how = draw(st.sampled_from(["plain", "log", "step"]))
    if how == "step":
        return domain(DEPTH, low=low, high=high, step=draw(st.integers(1, 1000)))
    return domain(DEPTH, low=low, high=high, log=how == "log")


choices = st.lists(
    st.integers() | st.text() | st.none() | st.lists(st.integers(), max_size=2),
    min_size=1,
    unique_by=repr,
).map(lambda values: read_domain(RATE, values))


@settings(max_examples=50)
@given(float_ranges() | integer_ranges() | choices, fractions)
def test_a_fraction_never_leaves_the_domain(found, fraction):
    value = found.at(fraction)
    assert found.contains(value)
    if isinstance(found, Range):
        assert isinstance(value, int if found.integer else (int, float))


@settings(max_examples=50)
@given(float_ranges() | integer_ranges() | choices)
def test_fractions_reach_both_ends(found):
    ends = found.at(0.0), found.at(BELOW_ONE)
    if isinstance(found, Choice):
        assert ends == (found.values[0], found.values[-1])
    else:
        assert ends == pytest.approx((found.low, found.high), rel=1e-9)


@settings(max_examples=50)
@given(integer_ranges() | choices, st.data())
def test_every_value_of_a_countable_domain_is_reached(found, data):
    size = found.size()
    index = data.draw(st.integers(0, size - 1))
    value = found.point(index)
    assert found.contains(value)
    if isinstance(found, Range) and found.log:
        return
    assume(size < 2**40)
    assert found.at((index + 0.5) / size) == value


@pytest.mark.parametrize("log", [False, True])
def test_every_integer_of_a_small_range_is_reached(log):
    found = domain(WIDTHS, low=1, high=8, log=log)
    values = [found.at(i / 10_000) for i in range(10_000)]
    counts = [values.count(width) for width in range(1, 9)]
    assert min(counts) > 0
    assert values == sorted(values)
    if not log:
        assert max(counts) - min(counts) <= 1
    else:
        assert counts == sorted(counts, reverse=True)


def test_a_logarithmic_range_is_even_in_the_logarithm():
    found = domain(low=1e-6, high=1e2, log=True)
    assert found.at(0.5) == pytest.approx(1e-2)
    assert found.at(0.25) == pytest.approx(1e-4)


@settings(max_examples=50)
@given(st.integers(-50, 50), st.integers(1, 40), st.integers(0, 60))
def test_steps_are_decimals(low, step, n):
    found = domain("optimizer.momentum", low=low / 10, high=(low + n * step) / 10, step=step / 10)
    assert [found.point(i) for i in range(n + 1)] == [(low + i * step) / 10 for i in range(n + 1)]
    assert found.size() == n + 1
    assert found.high == (low + n * step) / 10


def test_a_range_ends_on_its_last_step():
    found = domain(DEPTH, low=1, high=6, step=2)
    assert [found.point(i) for i in range(found.size())] == [1, 3, 5]
    assert (found.corners(), found.contains(6), found.contains(5)) == ([1, 5], False, True)
    assert domain(low=1.0, high=2.0, step=5.0).corners() == [1.0, 1.0]


def test_a_range_without_steps_cannot_be_counted():
    assert domain(low=0.1, high=1.0).size() is None
    assert domain("training.seed", low=0, high=2**32 - 1).size() == 2**32
    assert domain("training.seed", low=0, high=2**32 - 1).at(BELOW_ONE) == 2**32 - 1


@pytest.mark.parametrize(
    ("keys", "inside", "outside"),
    [
        ({"low": 1, "high": 3}, [1, 2.5, 3.0], [0.99, 3.01, "2", None, True, [2]]),
        ({"low": 0.1, "high": 0.7, "step": 0.2}, [0.1, 0.3, 0.1 + 0.2, 0.7], [0.2, 0.9]),
    ],
)
def test_what_a_range_holds(keys, inside, outside):
    found = domain(**keys)
    assert [value for value in [*inside, *outside] if found.contains(value)] == inside


def test_what_a_range_of_integers_holds():
    found = domain(DEPTH, low=1, high=3)
    mixed = [1, 3, 0, 4, 2.0, True, math.nan]
    assert [value for value in mixed if found.contains(value)] == [1, 3]


def test_what_a_choice_holds():
    found = Choice((1, 2.0, "a", None, (3, 3)))
    assert [v for v in (1, 1.0, 2, "a", None, True, 3, "b", math.nan) if found.contains(v)] == [
        1,
        1.0,
        2,
        "a",
        None,
    ]
    assert (found.own(1.0), type(found.own(1.0)), type(found.own(2))) == (1, int, float)


def test_a_value_is_written_as_its_domain_writes_it():
    assert domain(low=0.1, high=0.7, step=0.2).own(0.1 + 0.2) == 0.3
    assert domain(low=0.1, high=0.7).own(0.25) == 0.25


@pytest.mark.parametrize("value", [0.1, "a", None, True])
def test_one_value_is_a_choice_of_one(value):
    assert read_domain(RATE, value) == Choice((value,))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (RATE, {"low": 1, "high": 0}, ".low must be at most its high, but 1 > 0"),
        (RATE, {"low": 0, "high": 1, "log": True}, ".low must be greater than 0 for log, but is 0"),
        (RATE, {"low": 1}, ".high must be a finite number, but is None"),
        (RATE, {}, ".low must be a finite number, but is None"),
        (RATE, {"low": "1", "high": 2}, ".low must be a finite number, but is '1'"),
        (RATE, {"low": True, "high": 2}, ".low must be a finite number, but is True"),
        (RATE, {"low": math.nan, "high": 2}, ".low must be a finite number, but is nan"),
        (RATE, {"low": 1, "high": math.inf}, ".high must be a finite number, but is inf"),
        (RATE, {"low": 1, "high": 10**400}, ".high must be a finite number, but is 1000"),
        (RATE, {"low": [1], "high": 2}, ".low must be a finite number, but is [1]"),
        (DEPTH, {"low": 1.0, "high": 2}, ".low must be an integer, but is 1.0"),
        (DEPTH, {"low": 1, "high": 2, "step": 1.0}, ".step must be an integer, but is 1.0"),
        (DEPTH, {"low": 1, "high": 10**400}, ".high must be an integer, but is 1000"),
        (RATE, {"low": 1, "high": 2, "log": 1}, ".log must be true or false, but is 1"),
        (RATE, {"low": 1, "high": 2, "log": "yes"}, ".log must be true or false, but is 'yes'"),
        (RATE, {"low": 1, "high": 2, "log": None}, ".log must be true or false, but is None"),
        *(
            (RATE, {"low": 1, "high": 2, "step": step}, ".step must be")
            for step in (0, -1, "", [], {}, True, False, math.nan, "0.1")
        ),
        (
            RATE,
            {"low": 1, "high": 2, "log": True, "step": 0.1},
            ".step must be greater than 0 and without log, but is 0.1",
        ),
        (RATE, {"low": 1, "high": 1e308, "step": 1e-300}, ".step must be at most"),
        (RATE, {"low": -1e308, "high": 1e308, "step": 1}, ".step must be at most"),
        (RATE, {"lo": 1, "high": 2}, " has an unknown key 'lo'; a domain has low, high, log"),
        (RATE, {1: 2}, " has an unknown key '1'"),
        (RATE, [], " must list at least one choice, but is []"),
        (RATE, {"choices": "abc"}, " must list at least one choice, but is 'abc'"),
        (RATE, {"choices": [1], "low": 1}, " must have choices or a range, but has both"),
        (RATE, [0.1, 0.2, 0.1], " names 0.1 twice"),
        (RATE, [1, 1.0], " names 1.0 twice"),
        (WIDTHS, [[3, 3], 4, [3, 3]], " names [3, 3] twice"),
        (RATE, {"low": 1, "high": 2, "each_layer": True}, ".each_layer goes with model.widths"),
        (WIDTHS, {"low": 1, "high": 2, "each_layer": 1}, ".each_layer must be true or false"),
        (WIDTHS, {"low": 1, "high": 2, "each_layer": None}, ".each_layer must be true or false"),
    ],
)
def test_bad_domains_are_refused(path, value, message):
    with pytest.raises(SettingError) as caught:
        read_domain(path, value)
    assert str(caught.value).startswith(f"study.space.{path}{message}")
    assert str(caught.value).isprintable()


@settings(max_examples=50)
@given(
    st.sampled_from([RATE, DEPTH, WIDTHS, "nonsense"]),
    st.dictionaries(
        st.sampled_from(["low", "high", "log", "step", "choices", "each_layer"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.lists(st.floats() | st.integers() | st.dictionaries(st.text(), st.none())),
    ),
)
def test_no_value_gives_anything_but_a_domain_or_one_sentence(path, value):
    try:
        found = read_domain(path, value)
    except SettingError:
        return
    for fraction, corner in itertools.product((0.0, 0.5, BELOW_ONE), found.corners()):
        found.at(fraction)
        typed(corner)
    assert describe(found).isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"low": 1e-6, "high": 0.01, "log": True}, "1e-06 to 0.01 (log)"),
        ({"low": 0.1, "high": 0.7, "step": 0.2}, "0.1 to 0.7 (step 0.2)"),
        ({"low": 1, "high": 3}, "1 to 3"),
        (["sum", None, [3, 3], 0.5, True], "sum, null, [3,3], 0.5, true"),
    ],
)
def test_a_domain_says_what_it_is(value, text):
    assert describe(read_domain(RATE, value)) == text
