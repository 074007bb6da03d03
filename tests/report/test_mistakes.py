"""What networks get wrong, counted and drawn."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from mlp.config import Data
from mlp.data.dataset import load_data
from mlp.report.mistakes import Mistake, render_mistakes, summarise_mistakes

LABELS = np.array([0, 1, 1, 0, 0], np.uint8)


def test_what_most_networks_get_wrong_comes_first_then_the_surest():
    networks = [[(1, 0.9), (3, 0.6)], [(4, 0.99), (1, 0.7), (0, 0.5)], []]
    assert summarise_mistakes(networks, LABELS) == [
        Mistake(1, 1, 2, pytest.approx(0.8)),
        Mistake(4, 0, 1, 0.99),
        Mistake(3, 0, 1, 0.6),
        Mistake(0, 0, 1, 0.5),
    ]
    assert summarise_mistakes([[], []], LABELS) == []


def decoded(digit, shape):
    """Shares of ink, `(row, column)`, from the unit squares of a digit."""
    ink = np.zeros(shape)
    for path in digit.findall("{*}path"):
        squares = re.findall(r"M(\d+) (\d+)h1v1h-1z", path.attrib["d"])
        assert "".join(f"M{c} {r}h1v1h-1z" for c, r in squares) == path.attrib["d"]
        for column, row in squares:
            ink[int(row), int(column)] += float(path.attrib["fill-opacity"])
    return ink


def test_a_picture_has_each_digit_its_label_and_how_sure_they_were():
    data = load_data(Data(name="digits"), notice=print)
    mistakes = [Mistake(7, int(data.test.labels[7]), 2, 0.98), Mistake(3, 1, 1, 0.5)]
    picture = ET.fromstring(render_mistakes(mistakes, 3, data))
    texts = [text.text for text in picture.findall("{*}text")]
    name, other = ("7", "3") if mistakes[0].label else ("3", "7")
    assert texts[1:3] == [f"{name}, read as {other}: 98 %", "2 of 3 · no. 7"]
    assert texts[3:] == ["7, read as 3: 50 %", "1 of 3 · no. 3"]
    digits = [decoded(digit, data.shape) for digit in picture.findall("{*}g")]
    for ink, place in zip(digits, (7, 3), strict=True):
        np.testing.assert_allclose(ink, data.test.pixels[place].reshape(8, 8) / 16, atol=0.002)


def test_a_picture_of_nothing_and_one_of_too_much():
    data = load_data(Data(name="digits"), notice=print)
    assert "0 of 73 test digits are wrong" in render_mistakes([], 3, data)
    many = [Mistake(i, 0, 1, 0.5) for i in range(73)]
    picture = ET.fromstring(render_mistakes(many, 3, data))
    assert len(picture.findall("{*}g")) == 60
    assert "the first 60" in picture.findall("{*}text")[0].text
