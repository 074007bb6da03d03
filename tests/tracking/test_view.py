"""The view of a study in MLflow's pages: what it sorts by, lists and draws."""

import json

import pytest

from mlp.tracking.listing import StudyPage, view_tag


def page(*searched, objective="oscillation"):
    config = {"study": {"objective": objective}, "data": {"validation_fraction": 0.2}}
    return StudyPage("mine-0f", "mine-0f", config, "", {path: [1, 2] for path in searched})


VIEW = page("model.widths", "optimizer.learning_rate", "gradient.normalization")


def state(view, **options):
    return json.loads(json.loads(view_tag(view, 0, **options)[1])["state"])


def test_columns_are_verdict_numbers_and_what_the_study_searches():
    assert state(VIEW)["selectedColumns"] == [
        "tags.`verdict`",
        "tags.`loss_at_end`",
        "metrics.`final_validation_accuracy`",
        "metrics.`amplitude`",
        "params.`model.widths`",
        "params.`optimizer.learning_rate`",
        "params.`gradient.normalization`",
    ]


@pytest.mark.parametrize(
    ("objective", "metric", "is_ascending"),
    [
        ("validation_accuracy", "metrics.`final_validation_accuracy`", False),
        ("training_loss", "metrics.`final_loss`", True),
        ("oscillation", "metrics.`amplitude`", False),
    ],
)
def test_best_runs_come_first(objective, metric, is_ascending):
    found = state(page(objective=objective))
    assert (found["orderByKey"], found["orderByAsc"]) == (metric, is_ascending)
    assert found["searchFilter"] == "tags.`mlp.study` = 'mine-0f'"


def test_chart_has_all_runs_and_reaches_down_to_the_lowest_loss():
    found = state(VIEW, lowest=-7)
    assert found["runsHiddenMode"] == "SHOW_ALL"
    [loss] = found["compareRunCharts"]
    assert loss["selectedMetricKeys"] == ["loss"]
    assert loss["range"] == {"yMin": -7, "yMax": 3}


def test_a_view_of_many_settings_fits_into_a_tag():
    searched = tuple(f"group.setting_number_{i}" for i in range(40))
    assert len(view_tag(page(*searched), 10**13)[1]) < 20_000  # MLflow's limit
