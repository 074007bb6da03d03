"""The table of verdicts fits a terminal."""

import io

from mlp.causes.observed import ValueCount, count_values
from mlp.curve import Verdict
from mlp.study.identity import TrialRow
from mlp.terminal.screen import render_verdicts
from support.sweeping import plain

OF_OTHERS = Verdict.FLAT, Verdict.FAILED


def row(number, verdict=Verdict.LEARNING, **params):
    return TrialRow(number, params, verdict, 0.5, {})


def printed(rows) -> list[str]:
    said = io.StringIO()
    plain(said).print(render_verdicts(count_values(rows)))
    return said.getvalue().splitlines()


def test_table_of_nothing_is_a_heading():
    assert printed([])[0].startswith("verdicts by setting")


def test_widest_table_fits_80_columns():
    name = "optimizer.learning_rate[clip]"
    rows = [
        row(i, verdict, **{name: 1.2345e-6 * (i + 1), "initialization.scheme": "glorot_uniform"})
        # A loss of ours is never below zero, so it is never `flat`; nor does a run of ours fail.
        for i, verdict in enumerate([own for own in Verdict if own not in OF_OTHERS] * 20)
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
    plain(said).print(render_verdicts([ValueCount("a", "1", counts)]))
    assert said.getvalue().splitlines()[-1].split() == ["1", "1", "2", "33%"]
