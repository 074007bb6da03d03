"""What a person sees in `mlflow ui` after a sweep, by a real browser on a real server."""

import io
import re
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from support.mlflow_pages import browser, chromium, open_fresh, served, wait_for_runs
from support.sweeping import command

pytestmark = [
    pytest.mark.skipif(
        chromium() is None, reason="Chromium is not installed: nobody looks at MLflow's pages"
    ),
    # Two busy cores may take so long for a start of MLflow that its sockets are still open.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

# Twelve runs of 1000 steps, of which three oscillate with period 2 and four converge.
STUDY = """
study:
  objective: oscillation
  sampler: grid
  n_trials: 12
  generation: 12
  space:
    optimizer.learning_rate: [0.1, 0.3, 1, 3, 10, 30]
    gradient.normalization: [mean, unit]
data:
  name: digits
training:
  steps: 1000
"""
REPORT = """<!doctype html><title>Report</title><p id="answer">not computed</p>
<script>document.getElementById("answer").textContent = "computed " + 6 * 7</script>"""


class Seen:
    """A folder with one study, the server of its pages and a browser."""

    def __init__(self, folder: Path, said: str, address: str, page) -> None:
        self.folder, self.said, self.address, self.page = folder, said, address, page

    def ask(self, sql: str) -> list[tuple]:
        with sqlite3.connect(self.folder / "mlflow.db") as file:
            return file.execute(sql).fetchall()

    def run_ids(self, verdict: str) -> list[str]:
        rows = f"SELECT run_uuid FROM tags WHERE key = 'verdict' AND value = '{verdict}'"
        return [run_id for (run_id,) in self.ask(rows)]

    @property
    def parent(self) -> str:
        [(run_id,)] = self.ask(
            "SELECT run_uuid FROM tags WHERE key='mlp.key' AND value LIKE '%/study'"
        )
        return run_id

    def open_printed_page(self, more: str = "") -> None:
        """The page of all runs, whose address the sweep has printed."""
        page = re.search(r"all runs: +http://127\.0\.0\.1:5000(/\S+)", self.said)[1]
        open_fresh(self.page, self.address + page + more)
        wait_for_runs(self.page, at_least=10)


@pytest.fixture(scope="module")
def seen(tmp_path_factory, made_store):
    folder = tmp_path_factory.mktemp("pages")
    (folder / "sweeps").mkdir()
    (folder / "sweeps" / "swings.yaml").write_text(STUDY)
    done = command("sweep", "sweeps=swings", cwd=folder, MLFLOW_TRACKING_URI="")
    assert done.returncode == 0, done.stderr
    with served(folder) as address, browser() as page:
        yield Seen(folder, done.stdout, address, page)


def test_bare_page_leads_to_the_study(seen):
    open_fresh(seen.page, seen.address)
    seen.page.get_by_role("link", name="three-vs-seven").first.click()
    link = seen.page.get_by_role("link", name=re.compile("runs of the study swings-"))
    link.wait_for()
    assert link.get_attribute("href") in seen.said


def test_printed_page_lists_what_matters_and_is_filtered_by_verdict(seen):
    seen.open_printed_page()
    page = seen.page
    assert page.get_by_role("link", name="Judges").count() == 0  # those are for language models
    headings = page.locator(".ag-header-cell[col-id*='`']")
    shown = sorted(
        headings.evaluate_all(
            "cells => cells.map(c => [c.getBoundingClientRect().left, c.getAttribute('col-id')])"
        )
    )
    columns = [column.split("`")[1] for _, column in shown]
    assert columns[:4] == ["Run Name", "verdict", "loss_at_end", "final_validation_accuracy"]
    assert {"amplitude", "optimizer.learning_rate", "gradient.normalization"} <= set(columns)
    first = page.locator(".ag-row[row-index='0']").all_inner_texts()
    assert re.search(r"#\d+ lr (10|30) (unit|mean)", " ".join(first))
    assert "oscillating" in " ".join(first)  # the study looks for oscillation, so the largest first
    search = page.get_by_test_id("search-box")
    search.fill("tags.verdict = 'oscillating'")
    search.press("Enter")
    wanted = seen.run_ids("oscillating")
    # Exactly: "13 matching runs", of before, has "3 matching runs" in it. The rows follow the text.
    page.get_by_text(f"{len(wanted)} matching runs", exact=True).wait_for()
    rows = page.locator(".ag-center-cols-container .ag-row")
    expect(rows).to_have_count(len(wanted))
    assert set(rows.evaluate_all("rows => rows.map(r => r.getAttribute('row-id'))")) == {*wanted}
    assert len(wanted) >= 2


def test_compared_losses_lie_over_each_other_and_the_oscillation_is_drawn(seen):
    swinging, settled = seen.run_ids("oscillating")[0], seen.run_ids("converged")[0]
    seen.open_printed_page()
    page = seen.page
    for run_id in (swinging, settled):
        page.locator(f".ag-row[row-id='{run_id}'] input[type=checkbox]").first.click()
    page.get_by_role("button", name="Compare").click()
    with page.expect_response(re.compile("get-history-bulk-interval")) as received:
        page.get_by_role("link", name="loss", exact=True).first.click()
    points = received.value.json()["metrics"]
    loss = {
        run_id: np.array([point["value"] for point in points if point["run_id"] == run_id])
        for run_id in (swinging, settled)
    }
    assert len(loss[swinging]) == len(loss[settled]) == 320
    tail = loss[swinging][160:-1]
    assert np.mean(np.diff(np.sign(np.diff(tail))) != 0) > 0.8  # up, down, up, down
    assert np.ptp(tail) > 0.5 * tail.max()
    assert np.ptp(loss[settled][160:]) < 0.01 * np.ptp(tail)
    drawn = page.locator(".js-plotly-plot").first
    drawn.locator(".scatterlayer .trace").nth(1).wait_for()
    drawn_losses = drawn.evaluate("plot => plot.data.map(line => Array.from(line.y ?? []))")
    assert any(np.allclose(line, loss[swinging]) for line in drawn_losses if len(line) == 320)
    end = time.monotonic() + 60  # one of the lines may be painted before the other
    while _share_of_tall_columns(_picture_of(page, drawn)) <= 0.5:
        assert time.monotonic() < end


def _picture_of(page, drawn) -> bytes:
    """The area of a chart, twice the same: the lines are on the page before they are painted."""
    before, end = b"", time.monotonic() + 30
    while True:
        picture = page.screenshot(clip=drawn.locator(".nsewdrag").first.bounding_box())
        is_painted = picture == before and _ink(picture).any()
        if is_painted or time.monotonic() > end:
            return picture
        before = picture
        time.sleep(0.3)


def _share_of_tall_columns(png: bytes) -> float:
    """Share of a picture's columns, in its right half, whose ink spans a fifth of its height."""
    ink = _ink(png)
    right = ink[:, ink.shape[1] // 2 :]
    spans = [np.ptp(rows) if (rows := np.flatnonzero(column)).size else 0 for column in right.T]
    return float(np.mean(np.array(spans) > 0.2 * ink.shape[0]))


def _ink(png: bytes):
    """`(row, column)`: where a line is; MLflow colours it by the run's id, some lines almost black.

    The grid is light grey.
    """
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)
    return (picture.max(axis=2) - picture.min(axis=2) > 40) | (picture.max(axis=2) < 128)


def test_chart_shows_the_losses_of_all_runs(seen):
    seen.open_printed_page("&compareRunsMode=CHART")
    seen.page.locator(".js-plotly-plot .scatterlayer .trace").nth(11).wait_for()


def is_shown(picture) -> bool:
    return picture.evaluate("i => i.complete && i.naturalWidth === 700")


def test_parent_shows_the_answer_its_children_and_the_report(seen):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{seen.folder}/mlflow.db")
    client.log_text(seen.parent, REPORT, "report.html")
    run = f"{seen.address}/#/experiments/1/runs/{seen.parent}"
    page = seen.page
    first = re.search(r"then open http://127\.0\.0\.1:5000(/\S+)", seen.said)[1]
    assert f"{seen.address}{first}" == f"{run}?workflowType=machine_learning"
    open_fresh(page, f"{seen.address}{first}")
    note = page.get_by_test_id("note-editor-preview-content")
    note.wait_for()
    # The answer of the sweep's own explanation, or that it is not decided yet, stands on top.
    answer, _, rest = note.inner_text().partition("3 of 12 runs are oscillating")
    assert "optimizer.learning_rate" in answer
    assert re.match(r", \d are learning, 4 are converged", rest)
    losses = note.locator("img").first  # MLflow takes its name away
    losses.scroll_into_view_if_needed()
    page.wait_for_function("i => i.complete", arg=losses.element_handle())
    assert is_shown(losses)
    best = note.get_by_role("link", name=re.compile(r"#\d+ lr "))
    run_id = best.get_attribute("href").split("/")[-1].split("?")[0]
    assert f"python -m mlp.rerun {run_id}" in note.inner_text()
    page.get_by_role("link", name=re.compile(r"^#\d+ lr ")).nth(1).wait_for()  # a child
    open_fresh(page, f"{run}/artifacts/report.html?workflowType=machine_learning")
    answer = page.frame_locator("iframe").locator("#answer")
    answer.get_by_text("computed 42").wait_for()


def test_trial_says_its_verdict_and_how_to_run_it_again(seen):
    run_id = seen.run_ids("oscillating")[0]
    open_fresh(
        seen.page, f"{seen.address}/#/experiments/1/runs/{run_id}?workflowType=machine_learning"
    )
    note = seen.page.get_by_test_id("note-editor-preview-content")
    note.wait_for()
    picture = note.locator("img").first
    seen.page.wait_for_function("i => i.complete", arg=picture.element_handle())
    assert is_shown(picture)
    text = note.inner_text()
    assert text.strip().startswith("oscillating: The loss keeps swinging up and down")
    assert "every 2 steps" in text
    assert f"python -m mlp.rerun {run_id}\n" in text
    assert f"python -m mlp.rerun {run_id} optimizer.learning_rate=" in text
