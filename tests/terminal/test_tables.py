"""Tables are counted right, and fit a terminal."""

import io
import itertools

import pytest

from mlp.curve import Verdict
from mlp.study.identity import TrialRow
from mlp.terminal.tables import VerdictCounts, render_verdicts, summarise_verdicts
from support.sweeping import plain


def row(number, verdict=Verdict.LEARNING, **params):
    return TrialRow(number, params, verdict, 0.5, {})


def printed(rows) -> list[str]:
    said = io.StringIO()
    plain(said).print(render_verdicts(summarise_verdicts(rows)))
    return said.getvalue().splitlines()


def test_verdicts_are_counted_by_value():
    rows = [
        row(0, Verdict.OSCILLATING, a="x"),
        row(1, Verdict.OSCILLATING, a="x"),
        row(2, Verdict.STALLED, a="x"),
        row(3, Verdict.LEARNING, a="y"),
    ]
    x, y = summarise_verdicts(rows)
    assert (x.parameter, x.value, x.n_trials) == ("a", "x", 3)
    assert x.counts == {Verdict.OSCILLATING: 2, Verdict.STALLED: 1}
    assert x.oscillating_share == pytest.approx(2 / 3)
    assert (y.value, y.n_trials, y.oscillating_share) == ("y", 1, 0.0)


def test_parameters_come_in_order_and_only_where_a_trial_has_them():
    rows = [row(0, b=1), row(1, a=1, b=1), row(2, b=2)]
    found = [(c.parameter, c.value, c.n_trials) for c in summarise_verdicts(rows)]
    assert found == [("a", "1", 1), ("b", "1", 2), ("b", "2", 1)]


def test_numbers_come_by_size():
    values = [c.value for c in summarise_verdicts([row(i, a=v) for i, v in enumerate([10, 9, 2])])]
    assert values == ["2", "9", "10"]


def test_many_numbers_are_put_into_three_ranges_of_equal_size():
    rows = [row(i, a=0.1 * (i + 1)) for i in reversed(range(9))]
    found = [(c.value, c.n_trials) for c in summarise_verdicts(rows)]
    assert found == [("0.1 to 0.3", 3), ("0.4 to 0.6", 3), ("0.7 to 0.9", 3)]


def test_every_trial_is_in_one_range():
    """Also where the shortest texts of two ranges are the same."""
    rows = [row(i, a=1 + i * 1e-6) for i in range(20)]
    assert sum(c.n_trials for c in summarise_verdicts(rows)) == 20


def test_no_value_is_in_two_ranges():
    rows = [row(i, a=v) for i, v in enumerate([1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7])]
    found = [c.value for c in summarise_verdicts(rows)]
    ends = [tuple(float(end) for end in value.split(" to ")) for value in found]
    assert all(low[-1] < high[0] for low, high in itertools.pairwise(ends))


def test_lists_and_words_are_never_put_into_ranges():
    rows = [row(i, a=[i, i]) for i in range(9)]
    assert [c.value for c in summarise_verdicts(rows)] == [f"[{i},{i}]" for i in range(9)]
    rows = [row(i, a=flag) for i, flag in enumerate([True, False])]
    assert [c.value for c in summarise_verdicts(rows)] == ["true", "false"]


def test_equal_values_of_two_types_are_two_values():
    rows = [row(0, a=1), row(1, a=True), row(2, a="1")]
    assert sum(c.n_trials for c in summarise_verdicts(rows)) == 3


@pytest.mark.parametrize("n_trials", [2, 20])
def test_values_are_shown_in_the_digits_that_tell_them_apart(n_trials):
    rows = [row(i, a=0.12345 + i * 1e-7) for i in range(n_trials)]
    values = [c.value for c in summarise_verdicts(rows)]
    assert len(set(values)) == len(values) == min(3, n_trials)


def test_table_of_nothing_is_a_heading():
    assert printed([])[0].startswith("verdicts by setting")


def test_widest_table_fits_80_columns():
    name = "optimizer.learning_rate[clip]"
    rows = [
        row(i, verdict, **{name: 1.2345e-6 * (i + 1), "initialization.scheme": "glorot_uniform"})
        for i, verdict in enumerate([*Verdict] * 20)
    ]
    lines = printed(rows)
    assert max(map(len, lines)) <= 80
    assert name in lines
    assert [line.split() for line in lines if "glorot_uniform" in line] == [
        ["glorot_uniform", *["20"] * 6, "17%"]
    ]


def test_long_value_is_cut_instead_of_wrapped():
    lines = printed([row(0, a=list(range(100)))])
    assert max(map(len, lines)) <= 80
    assert len(lines) == 4


def test_verdicts_that_never_came_out_have_no_column():
    heading = printed([row(0, a=1), row(1, Verdict.STALLED, a=2)])[1]
    assert heading.split() == ["setting", "learning", "stalled", "share"]


def test_brackets_survive():
    lines = printed([row(0, **{"model.widths[1]": "[red]"})])
    assert "model.widths[1]" in lines
    assert lines[-1].startswith(" [red]")


def test_share_of_oscillating_runs_is_a_percentage():
    counts = {Verdict.OSCILLATING: 1, Verdict.LEARNING: 2}
    said = io.StringIO()
    plain(said).print(render_verdicts([VerdictCounts("a", "1", counts)]))
    assert said.getvalue().splitlines()[-1].split() == ["1", "1", "2", "33%"]
