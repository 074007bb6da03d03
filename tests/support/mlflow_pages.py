"""A real `mlflow ui` in a folder, and a real Chromium that looks at its pages."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.servers import QUIET_MLFLOW, free_port, running

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: no browser looks at MLflow's pages"
)

PATIENCE_S = 180.0  # of each wait: two busy cores may take a minute to open one page
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_CALM = (
    "--no-sandbox",  # root in a container has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# What MLflow remembers of a user who has closed its assistant and its hints.
_CLOSED = """
for (const [key, value] of Object.entries({
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.detectIssues.guidanceShown_v1": "true",
})) try { localStorage.setItem(key, value) } catch {}
"""


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`mlflow ui` as its user starts it in a folder; the address while it runs."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, **QUIET_MLFLOW}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    with running(
        command, folder, f"{address}/health", environment=environment, patience_s=PATIENCE_S
    ):
        yield address


@contextmanager
def browser(width: int = 1440, height: int = 900):
    """A page of a new browser without history, which waits long for what it is asked for."""
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium(), args=_CALM)
        try:
            context = started.new_context(viewport={"width": width, "height": height})
            context.set_default_timeout(1000 * PATIENCE_S)
            context.add_init_script(_CLOSED)
            yield context.new_page()
        finally:
            started.close()


def open_fresh(page, address: str) -> None:
    """Opens an address as from the outside; a change behind the # alone would reload nothing."""
    page.goto("about:blank")
    page.goto(address)


def wait_for_runs(page, at_least: int = 1) -> int:
    """Waits until the list has its rows; returns how many runs it says there are."""
    counted = page.get_by_text(re.compile(r"^\s*\d+\+? matching runs?\s*$"))
    counted.wait_for()
    page.wait_for_function(
        "n => document.querySelectorAll('.ag-center-cols-container .ag-row').length >= n",
        arg=at_least,
    )
    return int(re.search(r"\d+", counted.inner_text())[0])
