"""The page of a small study: small, loads nothing, and every figure's data are in it."""

import dataclasses
import re

import numpy as np
import pytest

from mlp.causes.plan import Side
from mlp.curve import Judgement, Verdict
from mlp.report.page import figures_of, render_page
from mlp.report.summary import CurvePair, PageContent
from mlp.stability.ratio import Forecast, forecast_quality
from mlp.tracking.display import ThinCurve
from mlp.tracking.read import PastRun
from support.planted import RATE, explain, study

RISKY = '<img src="https://example.org/x.png" onerror=alert(1)>'
N_RUNS = 24


def curve(values):
    return ThinCurve(np.asarray(values, float), np.arange(len(values)))


@pytest.fixture(scope="module")
def content():
    observed, _ = study(RATE, 0, N_RUNS)
    runs = tuple(
        PastRun(
            f"{i:032x}",
            f"{i} {RISKY}",
            i,
            seen.config,
            Judgement(seen.verdict, 0.5, 0.0, 0.5, 0.5, 2, 0.1, None, False),
            None,
            {"final_loss": 0.25 + i, "final_validation_accuracy": 0.75},
            0,
            0,
        )
        for i, seen in enumerate(observed)
    )
    swinging = 1 + np.arange(320) % 2
    return PageContent(
        title=f"study {RISKY}",
        facts=("24 runs",),
        sentences=(f"{RISKY} makes the loss oscillate.",),
        evidence=RISKY,
        answer=explain(RATE, 0, N_RUNS, interventions=3, seeds=2),
        runs=runs,
        observed=tuple(observed),
        pairs=tuple(
            CurvePair(RISKY, f"a={k}", curve(swinging + k), curve(swinging / 9), verdict)
            for k, verdict in enumerate((Verdict.LEARNING, Verdict.CONVERGED))
        ),
        ratios={i: curve(np.geomspace(0.1, 3.0, 16)) for i in range(N_RUNS)},
        quality=forecast_quality([Forecast("mean", 3.0, Verdict.OSCILLATING)]),
        combinations=(),
        addresses=tuple(f"http://127.0.0.1:5000/#/runs/{run.run_id}" for run in runs),
        commands=("python -m mlp.explain",),
    )


@pytest.fixture(scope="module")
def page(content):
    return render_page(content)


def part(page, name):
    return re.search(rf'<section id="{name}".*?</section>', page, re.DOTALL)[0]


def test_it_is_small(page):
    assert len(page.encode()) < 300_000, "a page of hundreds of runs is to stay below 1.5 MB"


def test_it_loads_nothing_and_what_comes_from_names_is_text(page):
    tags = re.findall(r"<(\w+)([^>]*)>", page)
    assert {name for name, _ in tags}.isdisjoint({"img", "link", "iframe", "image", "object"})
    assert not [own for _, own in tags if re.search(r"\bsrc=|\bon\w+=", own)]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", page)
    links = [(name, own) for name, own in tags if "href=" in own]
    assert {name for name, _ in links} == {"a", "use"}
    for name, own in links:
        target = re.search(r'href="([^"]*)"', own)[1]
        assert target.startswith("#form-" if name == "use" else "http://127.0.0.1:5000/#/runs/")
    assert page.count("&lt;img src=") > N_RUNS


def test_the_answer_comes_first_then_the_map_the_losses_the_changes_and_the_runs(page):
    marks = ("makes the loss oscillate.", 'id="map"', 'id="curves"', 'id="causes"', 'id="runs"')
    assert [*map(page.index, marks)] == sorted(map(page.index, marks))


def test_every_run_is_on_the_map_where_its_rate_is(page, content):
    found = re.findall(
        r'<a class="run is-(\w+)" href="[^"]*/(\w{32})"><title>.*?href="#form-(\w+)" x="([\d.]+)%"',
        part(page, "map"),
        re.DOTALL,
    )
    by_id = {run.run_id: run for run in content.runs}
    assert {run_id for _, run_id, _, _ in found} == by_id.keys()
    rates, places = [], []
    for kind, run_id, symbol, place in found:
        assert kind == symbol == by_id[run_id].judgement.verdict
        rates.append(np.log10(by_id[run_id].config.optimizer.learning_rate))
        places.append(float(place))
    slope, start = np.polyfit(rates, places, 1)
    assert slope > 0
    np.testing.assert_allclose(slope * np.array(rates) + start, places, atol=0.02)


@pytest.mark.parametrize(
    ("name", "n_lines", "n_points"), [("curves", 4, 320), ("stability", 24, 16)]
)
def test_every_point_of_a_curve_is_drawn(page, content, name, n_lines, n_points):
    drawn = re.findall(r'<polyline class="line" points="([^"]*)"', part(page, name))
    lines = [np.array([p.split(",") for p in line.split()], float) for line in drawn]
    assert [len(line) for line in lines] == [n_points] * n_lines
    figures = [own for key, own in figures_of(content).items() if key.startswith(name)]
    expected = [(own.y, line) for own in figures for line in own.lines]
    for (y, line), places in zip(expected, lines, strict=True):
        share = 1 - places[:, 1] / 1000
        values = y.low * (y.high / y.low) ** share
        np.testing.assert_allclose(values, [value for _, value in line.points], rtol=0.02)
        assert (np.diff(places[:, 0]) >= 0).all()


def test_each_verdict_has_a_symbol_that_is_seen(page):
    """A cross has no area: without a stroke of its own it would be invisible."""
    forms = dict(re.findall(r'<\w+ id="form-(\w+)"([^>]*)>', page))
    assert {verdict.value for verdict in Verdict} <= forms.keys()
    for name in ("diverged", "failed", "converged", "starts"):
        assert 'fill="none" stroke="currentColor"' in forms[name]


def test_every_effect_is_drawn_and_said(page, content):
    shown = part(page, "causes")
    asked = [(own, side) for own in content.answer.effects for side in own.sides if side.n_expected]
    assert shown.count('class="interval"') == len(asked) > 4
    assert {str(effect.factor) for effect, _ in asked} == set(re.findall(r"<b>(.*?)</b>", shown))
    for effect, side in asked:
        said = f"{side.side.did} it in {side.n_with} of {side.n_expected}"
        assert f"{effect.factor}: {said}, " in shown
        assert re.search(rf"{effect.conclusion.value}: [^<]*{said}", shown)
    for count in ("optimizer.learning_rate", "95 % interval"):
        assert count in shown


def test_the_table_has_one_column_for_the_rate_and_the_final_loss(page, content):
    table = re.search(r'<table id="runs">.*?</table>', page, re.DOTALL)[0]
    heads = re.findall(r"<button>(.*?)</button>", table)
    assert heads[:8] == [
        *("run", "verdict", "final loss", "accuracy", "amplitude", "period"),
        *("learning rate", "depth"),
    ]
    rows = re.findall(r"<tr><td>(.*?)</tr>", table)
    assert len(rows) == N_RUNS
    assert "<td>0.25</td><td>0.75</td><td>0.5</td><td>2</td>" in rows[0]
    assert f"<td>{content.runs[0].config.optimizer.learning_rate:.4g}</td>" in rows[0]


def test_what_does_not_swing_has_no_period(content):
    still = dataclasses.replace(content.runs[0].judgement, amplitude=0.0)
    runs = (dataclasses.replace(content.runs[0], judgement=still), *content.runs[1:])
    page = render_page(dataclasses.replace(content, runs=runs))
    assert "<td>0.25</td><td>0.75</td><td>0</td><td></td>" in page


@pytest.mark.system
def test_a_browser_shows_what_matters_and_how_to_reach_mlflow(content, tmp_path):
    from support.mlflow_pages import browser, chromium, open_fresh

    if chromium() is None:
        pytest.skip("Chromium is not installed: nobody looks at the page")
    name = "#46 lr 0.00585 unit glorot_uniform [15,11,2]"
    runs = tuple(dataclasses.replace(run, name=name) for run in content.runs)
    file = tmp_path / "report.html"
    file.write_text(render_page(dataclasses.replace(content, runs=runs)), encoding="utf-8")
    cells = """cells => cells.map(c => {
        const text = document.createRange();
        text.selectNodeContents(c);
        return [text.getBoundingClientRect().left, text.getBoundingClientRect().right];
    })"""
    with browser(400, 900) as page:
        open_fresh(page, file.as_uri())
        shown = page.locator("#runs tr > :nth-child(-n+3)").evaluate_all(cells)
        assert len(shown) == 3 * (N_RUNS + 1)
        assert all(0 <= left < right <= 400 for left, right in shown)
        width = "document.documentElement.scrollWidth"
        assert page.evaluate(width) == 400
        page.set_viewport_size({"width": 1600, "height": 900})
        shown = page.locator("#runs tr > *").evaluate_all(cells)
        assert all(0 <= left <= right <= 1600 for left, right in shown)
        assert page.evaluate(width) == 1600
        assert "MLflow at http://127.0.0.1:5000 " in page.locator("#server").inner_text()
        first = page.locator("#runs a.run").first
        assert first.get_attribute("href") == f"http://127.0.0.1:5000/#/runs/{0:032x}"
        open_fresh(page, f"{file.as_uri()}?port=5001")
        assert first.get_attribute("href") == f"http://127.0.0.1:5001/#/runs/{0:032x}"
        # In MLflow's view the page lies in a frame, and its runs are on the same server.
        page.route("http://mlflow.test/**", lambda route: route.fulfill(body="<iframe></iframe>"))
        open_fresh(page, "http://mlflow.test/")
        put = """text => document.querySelector("iframe").src =
            URL.createObjectURL(new Blob([text], {type: "text/html"}))"""
        page.evaluate(put, file.read_text(encoding="utf-8"))
        framed = page.frame_locator("iframe")
        framed.locator("#hint").wait_for(state="attached")
        framed.locator("#runs a.run").first.click()
        framed.locator("#hint").wait_for()
        assert not framed.locator("#server").is_visible()
        href = framed.locator("#runs a.run").first.get_attribute("href")
        assert href == f"http://mlflow.test/#/runs/{0:032x}"


def test_a_long_study_has_all_its_points_and_the_first_rows(content):
    n = 700
    many = dataclasses.replace(
        content,
        runs=(content.runs * 30)[:n],
        observed=(content.observed * 30)[:n],
        addresses=(content.addresses * 30)[:n],
    )
    page = render_page(many)
    assert len(page.encode()) < 1_500_000
    assert len(re.findall(r"<use ", part(page, "map"))) == n + len(
        {run.judgement.verdict for run in content.runs}
    )
    assert "The first 500 of 700 are shown." in page
    click = "A click shows the run in MLflow"
    assert click not in part(page, "map"), "so many points are no links"
    assert click in part(render_page(content), "map")


def test_without_reruns_there_is_still_a_page(content):
    bare = dataclasses.replace(
        content,
        answer=dataclasses.replace(content.answer, effects=(), causes=()),
        pairs=(),
        ratios={},
        commands=(),
    )
    page = render_page(bare)
    assert part(page, "map").count('<a class="run') == N_RUNS
    assert "No run that oscillates was repaired so far" in part(page, "curves")
    assert 'id="stability"' not in page


def test_where_no_run_ended_as_is_asked_no_repair_is_missed(content):
    calm = [
        dataclasses.replace(
            run, judgement=dataclasses.replace(run.judgement, verdict=Verdict.LEARNING)
        )
        for run in content.runs
    ]
    page = render_page(dataclasses.replace(content, runs=tuple(calm), pairs=()))
    assert 'id="curves"' not in page


@pytest.mark.parametrize("side", Side)
def test_only_marks_that_are_drawn_are_explained(content, side):
    effects = [
        dataclasses.replace(effect, sides=tuple(own for own in effect.sides if own.side is side))
        for effect in content.answer.effects
    ]
    answer = dataclasses.replace(content.answer, effects=tuple(effects))
    shown = part(render_page(dataclasses.replace(content, answer=answer)), "causes")
    is_drawn = ["#form-stops" in shown, "#form-starts" in shown]
    assert is_drawn == ["Filled circle" in shown, "Open diamond" in shown]
    assert is_drawn == [side is Side.STOPS, side is Side.STARTS]
