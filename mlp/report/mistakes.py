"""The digits that networks get wrong: counted, then drawn."""

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlp.data.dataset import Dataset

_NAMES = "3", "7"  # by label
_MOST_DRAWN = 60
_COLUMNS = 6
_SIDE, _WIDTH, _HEIGHT, _HEAD, _MARGIN = 112, 148, 168, 44, 16  # pixels of the picture


@dataclass(frozen=True)
class Mistake:
    """A digit that some of the networks get wrong.

    Attributes:
        place: in the test part, from 0.
        label: 0: three, 1: seven.
        n_wrong: networks that get it wrong.
        probability: of the wrong class by those networks on average, 0.5 to 1.
    """

    place: int
    label: int
    n_wrong: int
    probability: float


def summarise_mistakes(
    wrong: Sequence[Sequence[tuple[int, float]]], labels: NDArray[np.uint8]
) -> list[Mistake]:
    """Counts what several networks get wrong.

    Args:
        wrong: for each network, place and probability as `mlp.sweep.winner.wrong_on` gives them.

    Returns:
        First what most networks get wrong, and of equal ones the most certain.

    Example:
        >>> wrong = [[(2, 0.9)], [(0, 0.7), (2, 0.6)]]
        >>> found = summarise_mistakes(wrong, np.array([0, 1, 1], np.uint8))
        >>> [(mistake.place, mistake.n_wrong) for mistake in found]
        [(2, 2), (0, 1)]
    """
    by_place: dict[int, list[float]] = {}
    for network in wrong:
        for place, probability in network:
            by_place.setdefault(place, []).append(probability)
    found = [
        Mistake(place, int(labels[place]), len(each), sum(each) / len(each))
        for place, each in by_place.items()
    ]
    return sorted(found, key=lambda m: (-m.n_wrong, -m.probability, m.place))


def render_mistakes(mistakes: Sequence[Mistake], n_networks: int, data: Dataset) -> str:
    """The first of these mistakes as an SVG picture."""
    drawn = mistakes[:_MOST_DRAWN]
    width = 2 * _MARGIN + _COLUMNS * _WIDTH
    height = _HEAD + _MARGIN + max(1, math.ceil(len(drawn) / _COLUMNS)) * _HEIGHT
    title = (
        f"{len(mistakes)} of {data.test.n_examples} test digits are wrong in some of "
        f"{n_networks} networks"
    )
    if len(drawn) < len(mistakes):
        title += f"; the first {len(drawn)}"
    picture = ET.Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}"},
        width=f"{width}",
        height=f"{height}",
    )
    picture.set("font-family", "sans-serif")
    ET.SubElement(picture, "title").text = title
    ET.SubElement(picture, "rect", width="100%", height="100%", fill="white")
    _write(picture, _MARGIN, 28, 16, title)
    for i, mistake in enumerate(drawn):
        row, column = divmod(i, _COLUMNS)
        x, y = _MARGIN + column * _WIDTH, _HEAD + row * _HEIGHT
        name, other = _NAMES[mistake.label], _NAMES[1 - mistake.label]
        _draw_digit(picture, mistake.place, data, x, y)
        said = f"{name}, read as {other}: {100 * mistake.probability:.0f} %"
        _write(picture, x, y + _SIDE + 17, 13, said)
        where = f"{mistake.n_wrong} of {n_networks} · no. {mistake.place}"
        _write(picture, x, y + _SIDE + 34, 13, where)
    return ET.tostring(picture, encoding="unicode")


def _write(picture: ET.Element, x: int, y: int, size: int, text: str) -> None:
    ET.SubElement(picture, "text", {"font-size": f"{size}"}, x=f"{x}", y=f"{y}").text = text


def _draw_digit(picture: ET.Element, place: int, data: Dataset, x: int, y: int) -> None:
    """Dark on white: a path of unit squares for each grey, scaled to the place's size."""
    image = data.test.pixels[place].reshape(data.shape)
    rows, columns = image.shape
    scale = f"translate({x} {y}) scale({_SIDE / columns:g} {_SIDE / rows:g})"
    digit = ET.SubElement(picture, "g", {"shape-rendering": "crispEdges"}, transform=scale)
    for ink in np.unique(image[image > 0]):
        squares = "".join(f"M{c} {r}h1v1h-1z" for r, c in np.argwhere(image == ink))
        ET.SubElement(digit, "path", {"fill-opacity": f"{ink / data.scale:.3g}"}, d=squares)
    ET.SubElement(
        picture,
        "rect",
        {"x": f"{x}", "y": f"{y}", "width": f"{_SIDE}", "height": f"{_SIDE}"},
        fill="none",
        stroke="#bbb",
    )
