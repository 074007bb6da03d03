"""Search spaces: what can be drawn from them, and what fails before a study starts."""

import random

import pytest

from mlp.config import RunConfig
from mlp.errors import SettingError
from mlp.settings import read_run, with_settings
from mlp.study.points import check_enqueued, enqueued, enqueued_base
from mlp.study.space import draw, every_point, flat, parameters, read_space

RATE, MEAN_OR_SUM = "optimizer.learning_rate", "gradient.normalization"
DEPTH, WIDTHS = "model.depth", "model.widths"
LAYERS = {"low": 2, "high": 8, "log": True, "each_layer": True}
RATES = {
    "by": MEAN_OR_SUM,
    "sum": {"low": 1e-6, "high": 1e-2, "log": True},
    "mean": {"low": 0.01, "high": 10.0, "log": True},
}


def draws(space, base, count=200):
    stream = random.Random(0)
    for _ in range(count):
        asked = []

        def suggest(name, domain, asked=asked):
            asked.append(name)
            return domain.at(stream.random())

        yield asked, draw(space, base, suggest)


def refusal(values, base=None):
    with pytest.raises(SettingError) as caught:
        read_space(values, base or RunConfig())
    assert str(caught.value).isprintable()
    return str(caught.value)


def names(values, base=None):
    return list(parameters(read_space(values, base or RunConfig()), base or RunConfig()))


def test_a_rate_that_finds_itself_is_not_searched():
    message = refusal({"optimizer.learning_rate": [0.1, "auto"]})
    assert message.startswith("study.space.optimizer.learning_rate must be numbers")


# -- what is drawn


def test_one_width_is_drawn_for_each_layer_there_is():
    space = read_space({WIDTHS: LAYERS, DEPTH: {"low": 1, "high": 4}}, RunConfig())
    depths = set()
    for asked, drawn in draws(space, RunConfig()):
        depth = drawn[DEPTH]
        depths.add(depth)
        assert asked == [DEPTH, *(f"{WIDTHS}[{layer}]" for layer in range(1, depth + 1))]
        assert with_settings(RunConfig(), drawn).model.layer_widths == tuple(drawn[WIDTHS])
    assert depths == {1, 2, 3, 4}


def test_one_width_is_drawn_for_each_layer_of_a_fixed_depth():
    base = read_run({"model": {"depth": 3, "widths": [7, 8, 9]}})
    assert names({WIDTHS: LAYERS}, base) == [f"{WIDTHS}[{layer}]" for layer in (1, 2, 3)]


def test_widths_of_all_layers_may_be_one_parameter():
    space = read_space({WIDTHS: {"low": 2, "high": 8}, DEPTH: [1, 3]}, RunConfig())
    assert all(isinstance(drawn[WIDTHS], int) for _, drawn in draws(space, RunConfig(), 10))


def test_a_choice_may_be_a_list():
    space = read_space({WIDTHS: [[3, 3], [8, 4]]}, RunConfig())
    assert {tuple(drawn[WIDTHS]) for _, drawn in draws(space, RunConfig())} == {(3, 3), (8, 4)}


def test_the_domain_follows_the_setting_it_depends_on():
    space = read_space({RATE: RATES, MEAN_OR_SUM: ["sum", "mean"]}, RunConfig())
    for asked, drawn in draws(space, RunConfig()):
        branch = drawn[MEAN_OR_SUM]
        assert asked == [MEAN_OR_SUM, f"{RATE}[{branch}]"]
        assert RATES[branch]["low"] <= drawn[RATE] <= RATES[branch]["high"]


def test_the_domain_follows_a_setting_that_is_fixed():
    base = read_run({"gradient": {"normalization": "sum"}})
    for asked, drawn in draws(read_space({RATE: RATES}, base), base, 20):
        assert asked == [f"{RATE}[sum]"]
        assert set(drawn) == {RATE}


def test_whole_lists_of_widths_may_follow_the_depth():
    values = {DEPTH: [1, 2], WIDTHS: {"by": DEPTH, 1: [[3], [4]], 2: [[3, 3], [4, 4]]}}
    space = read_space(values, RunConfig())
    for _, drawn in draws(space, RunConfig(), 20):
        assert len(drawn[WIDTHS]) == drawn[DEPTH]


def test_widths_of_each_layer_may_follow_another_setting():
    by = {"by": MEAN_OR_SUM, "mean": LAYERS, "sum": {"choices": [2, 3], "each_layer": True}}
    assert names({WIDTHS: by, MEAN_OR_SUM: ["mean", "sum"], DEPTH: [1, 2]}) == [
        MEAN_OR_SUM,
        DEPTH,
        *(f"{WIDTHS}[{layer}][{branch}]" for layer in (1, 2) for branch in ("mean", "sum")),
    ]


def test_a_chain_of_dependences_is_drawn_from_its_start():
    values = {
        RATE: {"by": DEPTH, 1: [0.1], 2: [0.2]},
        DEPTH: {"by": MEAN_OR_SUM, "mean": [1], "sum": [2]},
        MEAN_OR_SUM: ["mean", "sum"],
    }
    space = read_space(values, RunConfig())
    assert [entry.path for entry in space] == [MEAN_OR_SUM, DEPTH, RATE]
    rates = {(drawn[MEAN_OR_SUM], drawn[RATE]) for _, drawn in draws(space, RunConfig())}
    assert rates == {("mean", 0.1), ("sum", 0.2)}


def test_null_is_a_branch():
    values = {"training.batch_size": [None, 8], RATE: {"by": "training.batch_size", 8: 0.1}}
    values[RATE][None] = 0.5
    space = read_space(values, RunConfig())
    found = {(d["training.batch_size"], d[RATE]) for _, d in draws(space, RunConfig())}
    assert found == {(None, 0.5), (8, 0.1)}


def test_paths_and_groups_mean_the_same():
    dotted = {DEPTH: [1, 2], WIDTHS: LAYERS, MEAN_OR_SUM: ["sum"]}
    grouped = {"model": {"depth": [1, 2], "widths": LAYERS}, "gradient": {"normalization": ["sum"]}}
    assert read_space(dotted, RunConfig()) == read_space(grouped, RunConfig())
    assert flat(dotted) == flat(grouped)


def test_a_setting_outside_the_space_keeps_its_value():
    space = read_space({RATE: [0.1]}, RunConfig())
    [(_, drawn)] = draws(space, RunConfig(), 1)
    assert drawn == {RATE: 0.1}


def test_no_space_is_a_space():
    assert read_space({}, RunConfig()) == ()
    assert draw((), RunConfig(), lambda name, domain: 1 / 0) == {}


# -- what is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"optimizer.learnig_rate": [1.0]},
            "unknown setting 'study.space.optimizer.learnig_rate'; "
            "did you mean 'study.space.optimizer.learning_rate'?",
        ),
        ({"model.depth.x": [1]}, "unknown setting 'study.space.model.depth.x'"),
        ({"model": 3}, "unknown setting 'study.space.model'"),
        ({"model": {"low": 1, "high": 2}}, "unknown setting 'study.space.model'"),
        ({"study.seed": [1]}, "unknown setting 'study.space.study.seed'"),
        ({"tracking.uri": ["a"]}, "unknown setting 'study.space.tracking.uri'"),
        ({1: [2]}, "unknown setting 'study.space.1'"),
        (
            {"data.name": ["mnist", "digits"]},
            "study.space cannot vary data.name: a study has one data set",
        ),
        ({"model.depth": [1], "model": {"depth": [2]}}, "study.space names model.depth twice"),
        (
            {RATE: {"low": 0, "high": 1}},
            f"study.space can draw {RATE}=0: {RATE} must be greater than 0, but is 0",
        ),
        ({RATE: [0.1, "fast"]}, f"study.space can draw {RATE}=fast: {RATE} must be a number"),
        ({RATE: [float("nan")]}, f"study.space can draw {RATE}=NaN: {RATE} must be a finite"),
        ({RATE: None}, f"study.space can draw {RATE}=null: {RATE} must be a number"),
        ({RATE: [{"a": 1}]}, f'study.space can draw {RATE}={{"a":1}}: {RATE} must be a number'),
        ({DEPTH: {"low": 0, "high": 3}}, "study.space can draw model.depth=0: model.depth must"),
        ({DEPTH: {"low": 1, "high": 65}}, "study.space can draw model.depth=65: model.depth must"),
        ({DEPTH: [1, 2.0]}, "study.space can draw model.depth=2.0: model.depth must be an integer"),
        ({WIDTHS: [[3, 3], [4]]}, "study.space can draw model.widths=[4]: model.widths must have"),
        (
            {WIDTHS: {"low": 1, "high": 70_000, "each_layer": True}},
            "study.space can draw model.widths=[70000,70000]: model.widths must be at most 65536",
        ),
    ],
)
def test_bad_spaces_are_refused(values, message):
    assert refusal(values).startswith(message)


def test_depths_that_do_not_match_the_fixed_widths_are_refused():
    base = read_run({"model": {"widths": [3, 3]}})
    message = "study.space can draw model.depth=1: model.widths must have model.depth = 1 entries"
    assert refusal({DEPTH: [1, 2]}, base).startswith(message)


def test_choices_that_the_schema_refuses_only_together_are_refused():
    values = {"gradient.derivative": ["exact", "question"], "model.activation": ["sigmoid", "relu"]}
    assert "gradient.derivative=question needs model.activation=sigmoid" in refusal(values)
    assert "gradient.derivative=question needs model.activation=sigmoid" in refusal(
        {"model.activation": ["sigmoid", "relu"]},
        read_run({"gradient": {"derivative": "question"}}),
    )


def test_they_are_refused_too_where_there_are_too_many_combinations_to_try():
    values = {
        "gradient.derivative": ["exact", "question"],
        "model.activation": ["sigmoid", "relu"],
        "training.seed": list(range(700)),  # the first 2,048 combinations break no law
    }
    assert "gradient.derivative=question needs model.activation=sigmoid" in refusal(values)


@pytest.mark.parametrize("by", [RATE, "speed", "tracking.uri", ["a"], 3, True, "", {"a": 1}])
def test_a_domain_goes_by_another_setting(by):
    message = f"study.space.{RATE}.by must name another setting, but is {by!r}"
    assert refusal({RATE: {"by": by, "mean": [0.1]}}) == message


@pytest.mark.parametrize("by", ["data.name", "data.root"])
def test_a_domain_cannot_go_by_the_data(by):
    message = f"study.space.{RATE}.by cannot be {by}: a study has one data set"
    assert refusal({RATE: {"by": by, "auto": [0.1], "null": [0.1]}}) == message


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"sum": 0.1}, f"{RATE} has no domain for {MEAN_OR_SUM}=mean; it has sum"),
        ({}, f"{RATE} needs a domain of one kind for each value of {MEAN_OR_SUM}"),
        ({"mean": {"low": 1}}, f"{RATE}.mean.high must be a finite number, but is None"),
        ({"mean": {"by": DEPTH, 1: 0.1}}, f"{RATE}.mean has an unknown key '1'"),
        (
            {"mean": 0.1, "summ": 0.1},
            f"{RATE} has a domain for summ: {MEAN_OR_SUM} must be one of sum, mean, unit or clip, "
            "but is 'summ'; did you mean 'sum'?",
        ),
    ],
)
def test_bad_branches_are_refused(rates, message):
    assert refusal({RATE: {"by": MEAN_OR_SUM, **rates}}).startswith(f"study.space.{message}")


def test_a_branch_that_is_missing_inside_a_range_is_refused():
    values = {DEPTH: {"low": 1, "high": 3}, RATE: {"by": DEPTH, 1: 0.1, 3: 0.3}}
    message = f"study.space.{RATE} has no domain for {DEPTH}=2; it has 1, 3; "
    message += "'2: [0.5]' keeps the default there"
    assert refusal(values) == message
    values = {"training.seed": {"low": 0, "high": 2**32 - 1}, RATE: {"by": "training.seed", 0: 0.1}}
    assert refusal(values).startswith(f"study.space.{RATE} has no domain for training.seed=1;")


def test_a_branch_cannot_be_a_number_from_a_range():
    values = {RATE: {"low": 0.1, "high": 1.0}, DEPTH: {"by": RATE, 0.1: 1, 1.0: 2}}
    assert (
        refusal(values) == f"study.space.{DEPTH} cannot go by {RATE}, which is drawn from a range"
    )


def test_a_branch_cannot_be_a_width_of_each_layer():
    message = refusal({WIDTHS: LAYERS, RATE: {"by": WIDTHS, 3: 0.1}})
    assert message == f"study.space.{RATE} cannot go by {WIDTHS}, which has a value in each layer"


def test_domains_of_several_kinds_are_refused():
    values = {WIDTHS: {"by": MEAN_OR_SUM, "mean": LAYERS, "sum": [3]}}
    assert "needs a domain of one kind" in refusal(values)


def test_dependence_in_a_circle_is_refused():
    values = {
        RATE: [0.1],
        DEPTH: {"by": MEAN_OR_SUM, "mean": 1},
        MEAN_OR_SUM: {"by": "model.activation", "sigmoid": "mean"},
        "model.activation": {"by": DEPTH, 1: "sigmoid"},
    }
    assert refusal(values) == (
        "study.space: model.depth and gradient.normalization and model.activation "
        "depend on each other in a circle"
    )


# -- enqueued points

SPACE = {RATE: RATES, MEAN_OR_SUM: ["sum", "mean"], DEPTH: {"low": 1, "high": 3}, WIDTHS: LAYERS}


def fixed_by(point, values=None, base=None):
    base = base or RunConfig()
    space = read_space(values or SPACE, base)
    check_enqueued(point, space, base)
    return enqueued(point, space, base)


def test_a_whole_point_fixes_every_parameter():
    point = {MEAN_OR_SUM: "sum", RATE: 0.005, DEPTH: 2, WIDTHS: [3, 4]}
    assert fixed_by(point) == {
        MEAN_OR_SUM: "sum",
        f"{RATE}[sum]": 0.005,
        DEPTH: 2,
        f"{WIDTHS}[1]": 3,
        f"{WIDTHS}[2]": 4,
    }


def test_what_a_point_leaves_open_is_drawn():
    assert fixed_by({DEPTH: 3}) == {DEPTH: 3}
    assert fixed_by({}) == {}


def test_open_widths_need_not_match_those_of_the_base():
    base = read_run({"model": {"widths": [3, 3]}})
    assert fixed_by({DEPTH: 3}, base=base) == {DEPTH: 3}


def test_one_width_stands_for_each_layer():
    assert fixed_by({DEPTH: 2, WIDTHS: 5}) == {DEPTH: 2, f"{WIDTHS}[1]": 5, f"{WIDTHS}[2]": 5}


def test_a_point_may_set_what_the_space_does_not():
    point = {"gradient.derivative": "question", DEPTH: 1}
    assert fixed_by(point) == {DEPTH: 1}
    base = enqueued_base(point, read_space(SPACE, RunConfig()), RunConfig())
    assert base.gradient.derivative == "question"


def test_an_enqueued_value_is_written_as_the_space_writes_it():
    fixed = fixed_by({RATE: 1}, {RATE: [1.0, 2.0]})
    assert (fixed, type(fixed[RATE])) == ({RATE: 1.0}, float)
    fixed = fixed_by({RATE: 1.0}, {RATE: [1, 2]})
    assert (fixed, type(fixed[RATE])) == ({RATE: 1}, int)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"optimizer.learnig_rate": 1}, "study.enqueue: unknown setting 'optimizer.learnig_rate'"),
        ({RATE: -1, MEAN_OR_SUM: "sum"}, f"study.enqueue: {RATE} must be greater than 0"),
        ({DEPTH: 4}, f"study.enqueue sets {DEPTH} = 4, outside 1 to 3"),
        ({DEPTH: "deep"}, f"study.enqueue: {DEPTH} must be an integer, but is 'deep'"),
        (
            {MEAN_OR_SUM: "unit"},
            f"study.enqueue sets {MEAN_OR_SUM} = unit, outside sum, mean; study.enqueue=[]",
        ),
        (
            {MEAN_OR_SUM: "sum", RATE: 0.5},
            f"study.enqueue sets {RATE}[sum] = 0.5, outside 1e-06 to 0.01 (log)",
        ),
        ({DEPTH: 2, WIDTHS: [3, 9]}, f"study.enqueue sets {WIDTHS}[2] = 9, outside 2 to 8 (log)"),
        ({DEPTH: 2, WIDTHS: [3]}, "study.enqueue: model.widths must have model.depth = 2 entries"),
        (
            {RATE: 0.005},
            f"study.enqueue sets {RATE} and must set {MEAN_OR_SUM} too, which its domain",
        ),
        ({WIDTHS: [3, 3]}, f"study.enqueue sets {WIDTHS} and must set {DEPTH} too"),
        ({"study.seed": 3}, "study.enqueue: unknown setting 'study.seed'"),
    ],
)
def test_points_outside_the_space_are_refused(point, message):
    with pytest.raises(SettingError) as caught:
        fixed_by(point)
    assert str(caught.value).startswith(message)


def test_a_point_beside_which_the_schema_refuses_a_draw_is_refused():
    values = {"model.activation": ["sigmoid", "relu"]}
    with pytest.raises(SettingError, match="leaves open what the schema refuses"):
        fixed_by({"gradient.derivative": "question"}, values)
    assert fixed_by({"gradient.derivative": "question", "model.activation": "sigmoid"}, values)


# -- every point


def test_every_point_of_a_conditional_space():
    space = read_space(
        {DEPTH: [1, 2], WIDTHS: {"choices": [3, 5], "each_layer": True}}, RunConfig()
    )

    def all_values(_name, domain):
        return [domain.point(index) for index in range(domain.size())]

    points = list(every_point(lambda suggest: draw(space, RunConfig(), suggest), all_values))
    assert points == [
        {DEPTH: 1, f"{WIDTHS}[1]": 3},
        {DEPTH: 1, f"{WIDTHS}[1]": 5},
        *({DEPTH: 2, f"{WIDTHS}[1]": i, f"{WIDTHS}[2]": j} for i in (3, 5) for j in (3, 5)),
    ]


def test_what_cannot_be_printed_is_not_printed():
    with pytest.raises(SettingError) as caught:
        read_space({"model.activation": "\x1f"}, RunConfig())
    assert str(caught.value).isprintable()
