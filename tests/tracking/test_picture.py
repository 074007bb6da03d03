"""The pictures of loss curves: nothing that happened is lost, and they stay small."""

import dataclasses
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from mlp.curve import Verdict, judge_run
from mlp.engine.result import Ending
from mlp.tracking.display import thin
from mlp.tracking.picture import plot_curve, run_picture, study_picture
from support.sample_records import make_record

SVG = "{http://www.w3.org/2000/svg}"


def drawn(loss, **changes):
    made = make_record({"training.steps": 20_000}, loss=loss)
    result = dataclasses.replace(made.result, **changes)
    return run_picture(made.config, result, judge_run(result, None))


def curve_of(svg):
    """`(point, 2)`: the curve as it is drawn."""
    root = ElementTree.fromstring(svg)
    [line] = [each for each in root if each.tag in (f"{SVG}polygon", f"{SVG}polyline")]
    return np.array([pair.split(",") for pair in line.get("points").split()], dtype=float)


def test_long_swing_is_a_band_as_high_as_the_swings():
    entries = np.arange(10_001)
    svg = drawn(1 + 0.5 * (-1.0) ** entries)
    points = curve_of(svg)
    upper, lower = np.split(points, 2)
    np.testing.assert_array_equal(upper[:, 0], lower[::-1, 0])
    assert (lower[::-1, 1] - upper[:, 1] == 68).all()  # the whole height of the plot
    assert "oscillating" in svg
    assert "swings by 100 %, every 2 steps" in svg
    assert len(svg) < 20_000
    assert svg == drawn(1 + 0.5 * (-1.0) ** entries)


def test_spike_of_one_step_stays_and_is_marked():
    loss = np.exp(-np.arange(8000) / 1000)
    loss[4000] = 5.0
    svg = drawn(loss)
    points = curve_of(svg)
    assert points[points[:, 1].argmin(), 0] == pytest.approx(480, abs=1.5)
    assert "a spike of" in svg
    assert re.search(r'<circle cx="(479|480)\.\d" cy="8\.0" r="4"', svg)


def test_where_a_guard_went_back_is_marked():
    loss = np.exp(-np.arange(1001) / 100)
    parts = {"restored_to": np.array([3, 3]), "restored_share": np.array([0.5, 0.25])}
    svg = drawn(loss, restored_step=np.array([0, 500]), **parts)
    assert "learning, after 2 rollbacks" in svg
    assert 'd="M270.0 76v-7M480.0 76v-7"' in svg
    marked = plot_curve(loss, np.arange(1001), marks=[0, 500])[-2]
    assert marked.strip() == f"^{'':30}^ back"
    assert plot_curve(loss, np.arange(1001))[:8] == plot_curve(loss, np.arange(1001), marks=[5])[:8]


def test_flat_curve_looks_flat():
    points = curve_of(drawn(0.69 - 0.005 * np.linspace(0, 1, 400)))
    assert np.ptp(points[:, 1]) < 2


@pytest.mark.parametrize(
    ("loss", "changes", "said"),
    [
        ([0.7, 3.0, math.inf], {"ending": Ending.NON_FINITE}, "lost at step 2"),
        ([0.7, 0.6], {"ending": Ending.PRUNED, "last_step": 7}, "pruned at step 7 of 20000"),
        ([math.nan], {"ending": Ending.CRASHED}, "its worker died"),
    ],
)
def test_end_is_said(loss, changes, said):
    svg = drawn(loss, **changes)
    ElementTree.fromstring(svg)
    assert said in svg


def test_study_shows_each_run_under_its_verdict_the_swinging_ones_first():
    curve = thin([2.0, 1.0, 0.001], [0, 1, 2])
    svg = study_picture(
        {
            0: (Verdict.LEARNING, curve),
            1: (Verdict.OSCILLATING, curve),
            2: (Verdict.DIVERGED, thin([], [])),
        }
    )
    texts = [each.text for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert texts[:3] == ["1 diverged", "1 oscillating", "1 learning"]
    assert [text for text in texts if text.startswith("#")] == ["#2", "#1", "#0"]
    assert texts[-1] == "1.0e-3"
    many = study_picture(dict.fromkeys(range(999), (Verdict.LEARNING, curve)))
    assert many.count("<polyline") == 256
    assert "999 learning" in many


def test_plot_in_a_terminal_says_its_range_and_steps():
    lines = plot_curve(np.linspace(3, 1, 200), np.arange(200) * 10)
    assert lines[0].startswith("3 █")
    assert lines[7].startswith("1  ")
    assert lines[8].split() == ["step", "0", "1990"]
