"""Takes pictures of MLflow's pages: `PYTHONPATH=tests python scripts/screenshots.py`, minutes.

It runs a study in a temporary folder, which ends with its explanation, starts `mlflow ui` there,
looks at it with a headless Chromium, and writes small PNG files into docs/. Arguments are overrides
of the study.
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
STUDY = ("data=digits",)

# The trial with the largest swings.
_SWINGING = """
SELECT verdict.run_uuid FROM tags verdict
JOIN runs trial ON trial.run_uuid = verdict.run_uuid AND trial.name LIKE '#%'
JOIN latest_metrics amplitude ON amplitude.run_uuid = verdict.run_uuid AND amplitude.key='amplitude'
WHERE verdict.key = 'verdict' AND verdict.value = 'oscillating'
ORDER BY amplitude.value DESC LIMIT 1
"""


def main(overrides: list[str]) -> None:
    """Runs the study and takes the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        said = _run(folder, "sweep", *(overrides or STUDY))
        pages = [line.split("127.0.0.1:5000/")[1] for line in said.splitlines() if "5000/#" in line]
        report, own, runs = pages
        with sqlite3.connect(folder / "mlflow.db") as file:
            [swinging] = file.execute(_SWINGING).fetchone()
        with served(folder) as address, browser(1440, 800) as page:
            _take_description(page, f"{address}/{own}", "mlflow-study.png", is_opened=True)
            run = own.split("/runs/")[0] + f"/runs/{swinging}?workflowType=machine_learning"
            _take_description(page, f"{address}/{run}", "mlflow-run.png", is_opened=False)
            open_fresh(page, f"{address}/{runs}&compareRunsMode=CHART")
            wait_for_runs(page, at_least=10)
            _close_remark(page)
            page.locator(".js-plotly-plot .scatterlayer .trace").nth(9).wait_for()
            _save(page, "mlflow-losses.png")
            open_fresh(page, f"{address}/{report}")
            page.frame_locator("iframe").locator("h1").first.wait_for()
            _save(page, "mlflow-report.png")


def _run(folder: Path, command: str, *arguments: str) -> str:
    words = ["-m", f"mlp.{command}", *arguments]
    print("$ python", shlex.join(words), flush=True)
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def _take_description(page, address: str, name: str, *, is_opened: bool) -> None:
    """The page of a run; `is_opened`: after a click on "Show more"."""
    open_fresh(page, address)
    note = page.get_by_test_id("note-editor-preview-content")
    note.locator("img").first.wait_for(state="attached")
    page.wait_for_function(
        "[...document.querySelectorAll('img[src^=get-artifact]')].every(i => i.naturalWidth > 600)"
    )
    if is_opened:
        page.get_by_text("Show more").first.click()
    _save(page, name)


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
