"""The digits that networks get wrong: counted, then drawn."""

import base64
import html
import math
import struct
import zlib
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
        wrong: for each network, place and probability as `mlp.training.outcome.wrong_on` gives.
        labels: of the test part.

    Returns:
        What most networks get wrong first, of those the surest.

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
    """The mistakes as an SVG picture that needs nothing else.

    Args:
        mistakes: as `summarise_mistakes` gives them; the first ones are drawn.
        n_networks: that were tested.
        data: with the test part.
    """
    drawn = mistakes[:_MOST_DRAWN]
    width = 2 * _MARGIN + _COLUMNS * _WIDTH
    height = _HEAD + _MARGIN + max(1, math.ceil(len(drawn) / _COLUMNS)) * _HEIGHT
    title = (
        f"{len(mistakes)} of {data.test.n_examples} test digits are wrong in some of "
        f"{n_networks} networks"
    )
    if len(drawn) < len(mistakes):
        title += f"; the first {len(drawn)}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
        f"<title>{html.escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_MARGIN}" y="28" font-size="16">{html.escape(title)}</text>',
    ]
    for i, mistake in enumerate(drawn):
        row, column = divmod(i, _COLUMNS)
        lines += _cell(mistake, n_networks, data, _MARGIN + column * _WIDTH, _HEAD + row * _HEIGHT)
    return "\n".join([*lines, "</svg>\n"])


def _cell(mistake: Mistake, n_networks: int, data: Dataset, x: int, y: int) -> list[str]:
    image = data.test.pixels[mistake.place].reshape(data.shape)
    gray = 255 - np.round(image * (255 / data.scale)).astype(np.uint8)  # dark ink on paper
    address = "data:image/png;base64," + base64.b64encode(_png(gray)).decode()
    name, other = _NAMES[mistake.label], _NAMES[1 - mistake.label]
    return [
        f'<image x="{x}" y="{y}" width="{_SIDE}" height="{_SIDE}" '
        f'style="image-rendering:pixelated" href="{address}"/>',
        f'<rect x="{x}" y="{y}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#bbb"/>',
        f'<text x="{x}" y="{y + _SIDE + 17}">{name}, read as {other}: '
        f"{100 * mistake.probability:.0f} %</text>",
        f'<text x="{x}" y="{y + _SIDE + 34}" fill="#555">{mistake.n_wrong} of {n_networks} '
        f"· no. {mistake.place}</text>",
    ]


def _png(gray: NDArray[np.uint8]) -> bytes:
    """A gray image, `(rows, columns)`, as a PNG file."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    rows, columns = gray.shape
    lines = b"".join(b"\0" + line.tobytes() for line in gray)  # no filter
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(lines, 9))
        + chunk(b"IEND", b"")
    )
