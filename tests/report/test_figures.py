"""A point of the figure of causes is as red as the answer above it says."""

import dataclasses

import pytest

from mlp.causes.changes import LEARNING_RATE
from mlp.causes.evidence import Conclusion
from mlp.causes.plan import Effort, Side
from mlp.report.figures import CONCLUSION_COLOURS, causes_figure
from support.planted import RATE, explain

RED, GREY = (CONCLUSION_COLOURS[own] for own in (Conclusion.CAUSE, Conclusion.TOO_LITTLE))
NAMES = {Side.STARTS: "starts it", Side.STOPS: "stops it"}


@pytest.fixture(scope="module")
def found():
    return explain(RATE, 0, 64, Effort(interventions=8, seeds=4))


def colour(answer, side):
    [trace] = [own for own in causes_figure(answer).data if own.name == NAMES[side]]
    return trace.marker.color[list(trace.y).index(LEARNING_RATE)]


def with_effect(answer, change):
    effects = (change(e) if str(e.factor) == LEARNING_RATE else e for e in answer.effects)
    return dataclasses.replace(answer, effects=tuple(effects))


def test_a_named_cause_is_red_on_both_sides(found):
    assert [cause.settings for cause in found.causes] == [(LEARNING_RATE,)]
    assert [colour(found, side) for side in Side] == [RED, RED]


def test_a_side_that_turns_the_other_way_is_not(found):
    def turned(effect):
        sides = [
            dataclasses.replace(s, difference=dataclasses.replace(s.difference, value=-0.3))
            if s.side is Side.STARTS
            else s
            for s in effect.sides
        ]
        return dataclasses.replace(effect, sides=tuple(sides))

    answer = with_effect(found, turned)
    assert (colour(answer, Side.STOPS), colour(answer, Side.STARTS)) == (RED, GREY)


def test_what_the_answer_does_not_name_is_not(found):
    assert colour(dataclasses.replace(found, causes=()), Side.STOPS) == GREY
