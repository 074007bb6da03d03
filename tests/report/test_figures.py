"""A figure has each run once, in the colour of its verdict, and is as red as the answer says."""

import dataclasses

import numpy as np
import pytest

from mlp.causes.changes import LEARNING_RATE
from mlp.causes.plan import Side
from mlp.config import RunConfig
from mlp.curve import VERDICT_COLOURS, Judgement, Verdict
from mlp.report.page import (
    Axis,
    causes_figure,
    curves_figure,
    map_figure,
    stability_figure,
)
from mlp.report.summary import CurvePair
from mlp.settings import with_settings
from mlp.shares import wilson
from mlp.tracking.display import ThinCurve
from mlp.tracking.read import PastRun
from support.planted import RATE, explain

RED, GREY = "cause", "too-little"
SYMBOLS = {Side.STARTS: "starts", Side.STOPS: "stops"}


@pytest.fixture(scope="module")
def found():
    """Both sides of the named cause; when one has settled it, the other is hardly asked."""

    def mirrored(effect):
        counts = {"n_pairs": 16, "n_expected": 14, "n_with": 13, "n_against": 1}
        sides = (dataclasses.replace(effect.sides[0], side=side, **counts) for side in Side)
        return dataclasses.replace(effect, sides=tuple(sides))

    return with_effect(explain(RATE, 0, 64), mirrored)


def past(verdict, rate, normalization="mean"):
    settings = {"optimizer.learning_rate": rate, "gradient.normalization": normalization}
    judged = Judgement(verdict, 1.0, 0.0, 0.5, 0.5, None, 0.1, None, False)
    config = with_settings(RunConfig(), settings)
    return PastRun("0" * 32, f"lr {rate}", 0, config, judged, None, {}, 0, 0)


def curve(*values):
    return ThinCurve(np.array(values, float), np.arange(len(values)))


def colour(answer, side):
    [row] = [row for row in causes_figure(answer).rows if row.label == LEARNING_RATE]
    [dot] = [dot for dot in row.dots if dot.symbol == SYMBOLS[side]]
    return dot.kind


def with_effect(answer, change):
    effects = (change(e) if str(e.factor) == LEARNING_RATE else e for e in answer.effects)
    return dataclasses.replace(answer, effects=tuple(effects))


def test_a_named_cause_is_red_on_both_sides(found):
    assert [cause.settings for cause in found.causes] == [(LEARNING_RATE,)]
    assert [colour(found, side) for side in Side] == [RED, RED]


def test_a_side_that_turns_the_other_way_is_not(found):
    def turned(effect):
        sides = [
            dataclasses.replace(s, n_with=1, n_against=4) if s.side is Side.STARTS else s
            for s in effect.sides
        ]
        return dataclasses.replace(effect, sides=tuple(sides))

    answer = with_effect(found, turned)
    assert (colour(answer, Side.STOPS), colour(answer, Side.STARTS)) == (RED, GREY)


def test_what_the_answer_does_not_name_is_not(found):
    nameless = dataclasses.replace(found, causes=())
    assert colour(nameless, Side.STOPS) == GREY
    said = {row.label: row.words for row in causes_figure(nameless).rows}
    assert said[LEARNING_RATE].startswith("another setting explains it: stopped it in ")


def test_what_was_tried_has_a_row_with_its_numbers_and_its_interval(found):
    figure = causes_figure(found)
    tried = [e for e in found.effects if any(side.n_expected for side in e.sides)]
    assert {row.label for row in figure.rows} == {str(e.factor) for e in tried}
    assert figure.rows[0].label == LEARNING_RATE, "the strongest cure comes first"
    [dot] = [dot for dot in figure.rows[0].dots if dot.symbol == "stops"]
    assert (dot.x, dot.low, dot.high) == wilson(13, 14)
    assert "stopped it in 13 of 14" in figure.rows[0].words
    assert "stopped it in 13 of 14, the opposite in 1" in dot.words
    assert all(0 <= figure.x.place(d.low) < figure.x.place(d.high) <= 100 for d in all_dots(figure))


def test_where_no_unchanged_rerun_did_as_its_run_there_is_no_point(found):
    def unexpected(effect):
        sides = (dataclasses.replace(own, n_expected=0, n_with=0) for own in effect.sides)
        return dataclasses.replace(effect, sides=tuple(sides))

    shown = causes_figure(with_effect(found, unexpected))
    assert LEARNING_RATE not in {row.label for row in shown.rows}
    assert len(shown.rows) == len(causes_figure(found).rows) - 1


def all_dots(figure):
    return [dot for row in figure.rows for dot in row.dots]


def test_each_run_is_on_the_map_once_in_the_colour_of_its_verdict():
    runs = [
        past(Verdict.OSCILLATING, 3.0),
        past(Verdict.LEARNING, 0.5, "sum"),
        past(Verdict.DIVERGED, 9.0),
    ]
    figure = map_figure(runs, ("a", "b", "c"))
    drawn = {
        row.label: [(dot.x, dot.kind, dot.symbol, dot.address, dot.words) for dot in row.dots]
        for row in figure.rows
    }
    assert drawn == {
        "mean": [
            (9.0, "diverged", "diverged", "c", "lr 9.0: diverged"),
            (3.0, "oscillating", "oscillating", "a", "lr 3.0: oscillating"),  # on top
        ],
        "sum": [(0.5, "learning", "learning", "b", "lr 0.5: learning")],
    }
    assert [row.words for row in figure.rows] == ["1 of 2 oscillates", "0 of 1 oscillate"]
    places = [figure.x.place(dot.x) for dot in all_dots(figure)]
    assert all(0 < place < 100 for place in places)


def test_what_is_asked_lies_on_top_and_below_it_what_is_rare():
    verdicts = [Verdict.STALLED, Verdict.CONVERGED, *[Verdict.LEARNING] * 3, Verdict.STALLED]
    runs = [past(verdict, 0.1) for verdict in verdicts]
    [row] = map_figure(runs, asked=Verdict.STALLED).rows
    drawn = [dot.kind for dot in row.dots]
    assert drawn == ["learning"] * 3 + ["converged"] + ["stalled"] * 2


def test_the_words_of_a_row_say_what_an_edge_parts():
    verdicts = [*[Verdict.STALLED] * 2, Verdict.OSCILLATING, Verdict.DIVERGED]
    runs = [past(verdict, 10.0**place) for place, verdict in enumerate(verdicts)]
    [row] = map_figure(runs, asked=Verdict.STALLED).rows
    edge = "edge near 32: 0 of 2 oscillate or diverge below it, 2 of 2 above"
    assert row.words == f"2 of 4 stall; {edge}"


def test_runs_of_one_rate_stand_in_the_middle_and_apart():
    figure = map_figure([past(Verdict.LEARNING, 0.1)] * 5)
    assert {figure.x.place(dot.x) for dot in all_dots(figure)} == {50.0}
    assert len({dot.lane for dot in all_dots(figure)}) == 5


def test_of_very_many_runs_each_keeps_its_point():
    dots = all_dots(map_figure([past(Verdict.LEARNING, 0.1)] * 601, ["there"] * 601))
    assert len(dots) == 601
    assert {(dot.words, dot.address) for dot in dots} == {("", "")}


def test_a_loss_is_drawn_with_its_repaired_one():
    pair = CurvePair("a", "b=1", curve(1.0, 4.0, 2.0), curve(1.0, 0.1, 0.0), Verdict.LEARNING)
    figure = curves_figure(pair)
    assert [(line.kind, line.points) for line in figure.lines] == [
        ("oscillating", ((0, 1.0), (1, 4.0), (2, 2.0))),
        ("learning", ((0, 1.0), (1, 0.1))),  # 0 has no logarithm
    ]
    assert figure.lines[1].words == "with b=1: learning"
    assert (figure.x.low, figure.x.high) == (0, 2)
    assert figure.y.low < 0.1 < 4.0 < figure.y.high


def test_losses_that_are_all_zero_are_an_empty_figure():
    pair = CurvePair("a", "b=1", curve(), curve(0.0, 0.0), Verdict.CONVERGED)
    figure = curves_figure(pair)
    assert [line.points for line in figure.lines] == [(), ()]
    assert "<polyline" not in figure._repr_html_()


def test_the_ratio_is_drawn_from_step_one_with_its_threshold():
    runs = [past(Verdict.OSCILLATING, 3.0), past(Verdict.LEARNING, 0.5)]
    ratio = ThinCurve(np.array([2.0, 0.5]), np.array([0, 9]))
    figure = stability_figure(runs, {1: ratio})
    [line] = figure.lines
    assert (line.points, line.kind) == (((1, 2.0), (10, 0.5)), "learning")
    assert figure.baseline == 1.0


def test_a_path_is_on_a_square_of_a_thousand():
    x, y = Axis("x", 0, 10), Axis("y", 0.01, 100.0, is_log=True)
    pair = CurvePair("a", "b=1", curve(0.01, 100.0), curve(1.0), Verdict.LEARNING)
    before, after = curves_figure(pair).lines
    assert before.path(x, y) == "0,1000 100,0"
    assert after.path(x, y) == "0,500 0,500", "a lone point would be no line"


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (Axis("a", 0.02, 0.3, is_log=True), ["0.02", "0.05", "0.1", "0.2"]),
        (Axis("a", 1e-7, 10.0, is_log=True), ["10⁻⁷", "10⁻⁵", "10⁻³", "10⁻¹", "10¹"]),
        (Axis("a", 2e-4, 3e-3, is_log=True), ["2·10⁻⁴", "5·10⁻⁴", "10⁻³", "2·10⁻³"]),
        (Axis("a", 0.01, 10_000, is_log=True), ["0.01", "1", "100", "10,000"]),
        (Axis("a", 0, 200_000), ["0", "50,000", "100,000", "150,000", "200,000"]),
        (Axis("a", 0, 10_000), ["0", "2,000", "4,000", "6,000", "8,000", "10,000"]),
        (Axis("a", 0, 1), ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis("a", -0.6, 1.05, is_share=True), ["-50%", "0%", "50%", "100%"]),
    ],
)
def test_ticks_are_round_and_few(axis, texts):
    assert [text for _, text in axis.ticks] == texts
    assert all(0 <= place <= 100 for place, _ in axis.ticks)


def test_a_notebook_shows_a_figure_with_its_colours_and_its_names_escaped():
    risky = dataclasses.replace(past(Verdict.LEARNING, 0.1), name="<script>alert(1)</script>")
    shown = map_figure([risky])._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)" in shown
    assert ".is-learning { color: #" in shown
    assert 'id="form-learning"' in shown


@pytest.mark.parametrize("page", ["#ffffff", "#15181c"])
def test_each_verdict_stands_out_from_a_light_and_a_dark_page(page):
    """By the contrast that the Web Content Accessibility Guidelines ask of graphics: 3 to 1."""
    for colour in VERDICT_COLOURS.values():
        dark, light = sorted((luminance(colour), luminance(page)))
        assert (light + 0.05) / (dark + 0.05) >= 3


def luminance(colour):
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.03928, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
