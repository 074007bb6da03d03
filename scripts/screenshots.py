"""Takes pictures of MLflow's pages: `PYTHONPATH=tests python scripts/screenshots.py`, minutes.

It runs a study in a temporary folder and explains it, starts `mlflow ui` there, looks at it with a
headless Chromium, and writes four small PNG files into docs/. Arguments are overrides of the study.
"""

import io
import shlex
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from support.mlflow_pages import browser, open_fresh, served, wait_for_runs

DOCS = Path(__file__).parents[1] / "docs"
STUDY = ("sweeps=oscillation", "data=digits")
REPORT = "report.html"

# Trials by verdict, the one with the largest swings first, then the lowest loss.
_BY_VERDICT = """
SELECT verdict.run_uuid FROM tags verdict
JOIN runs trial ON trial.run_uuid = verdict.run_uuid AND trial.name LIKE '#%'
JOIN latest_metrics amplitude ON amplitude.run_uuid = verdict.run_uuid AND amplitude.key='amplitude'
JOIN latest_metrics loss ON loss.run_uuid = verdict.run_uuid AND loss.key = 'final_loss'
WHERE verdict.key = 'verdict' AND verdict.value = ?
ORDER BY amplitude.value DESC, loss.value LIMIT 1
"""


def main(overrides: list[str]) -> None:
    """Runs the study and takes the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = overrides or list(STUDY)
        _run(folder, "sweep", *overrides)
        _run(folder, "explain", "explain.timeout_s=900")
        with served(folder) as address, browser(1440, 800) as page:
            experiment = f"{address}/#/experiments/1"
            view = next(word for word in overrides if word.startswith("sweeps=")).split("=")[1]
            query = f"workflowType=machine_learning&viewStateShareKey={view}"
            _take_list(page, f"{experiment}/runs?{query}")
            _take_charts(page, f"{experiment}/runs?{query}&compareRunsMode=CHART", folder)
            _take_report(page, experiment, folder)


def _run(folder: Path, command: str, *arguments: str) -> None:
    words = ["-m", f"mlp.{command}", *arguments]
    print("$ python", shlex.join(words), flush=True)
    subprocess.run([sys.executable, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _take_list(page, address: str) -> None:
    open_fresh(page, address)
    wait_for_runs(page, at_least=10)
    _close_remark(page)
    _save(page, "mlflow-runs.png")


def _take_charts(page, address: str, folder: Path) -> None:
    page.set_viewport_size({"width": 1440, "height": 1280})  # both charts at once
    open_fresh(page, address)
    wait_for_runs(page, at_least=10)
    _close_remark(page)
    page.locator(".parcoords .dimension").nth(3).wait_for()
    _save(page, "mlflow-coordinates.png")
    page.set_viewport_size({"width": 1440, "height": 800})
    with sqlite3.connect(folder / "mlflow.db") as file:
        shown = [_first(file, "oscillating"), _first(file, "converged") or _first(file, "learning")]
    search = page.get_by_test_id("search-box")
    search.fill(f"attributes.run_id IN ({', '.join(repr(run_id) for run_id in shown)})")
    search.press("Enter")
    page.get_by_text("2 matching runs").wait_for()
    page.locator(".js-plotly-plot .scatterlayer .trace").nth(1).wait_for()
    _save(page, "mlflow-overlay.png")


def _take_report(page, experiment: str, folder: Path) -> None:
    run_id = next(folder.glob(f"mlruns/*/*/artifacts/{REPORT}")).parts[-3]
    open_fresh(page, f"{experiment}/runs/{run_id}/artifacts/{REPORT}?workflowType=machine_learning")
    page.frame_locator("iframe").locator("h1").first.wait_for()
    _save(page, "mlflow-report.png")


def _first(file: sqlite3.Connection, verdict: str) -> str | None:
    row = file.execute(_BY_VERDICT, [verdict]).fetchone()
    return None if row is None else str(row[0])


def _close_remark(page) -> None:
    """That it is a shared view; what else is seen is worth more."""
    remark = page.get_by_text("You're viewing a shared view")
    remark.locator("xpath=ancestor::*[.//button][1]").locator("button").last.click()
    remark.wait_for(state="hidden")


def _save(page, name: str) -> None:
    """Waits until two pictures in a row are the same, and saves one with a palette."""
    page.mouse.move(10, 600)  # away from what changes when the mouse is over it
    before = b""
    while (now := page.screenshot()) != before:
        before = now
        page.wait_for_timeout(1000)
    picture = Image.open(io.BytesIO(now)).convert("RGB")
    DOCS.mkdir(exist_ok=True)
    # Without k-means, the few pixels of a colour would be merged into grey.
    palette = picture.quantize(128, kmeans=10, dither=Image.Dither.NONE)
    palette.save(DOCS / name, optimize=True)
    print(f"{name}: {(DOCS / name).stat().st_size // 1000} kB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
