"""What networks get wrong, counted and drawn."""

import base64
import struct
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import pytest

from mlp.config import Data
from mlp.data.dataset import load
from mlp.sweep.confirm import Mistake, render_mistakes, summarise_mistakes

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


def decoded(address):
    """The pixels of a gray PNG image without filters."""
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = {}, 8
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        (check,) = struct.unpack(">I", content[place + 8 + size : place + 12 + size])
        assert check == zlib.crc32(kind + data)
        chunks[kind] = data
        place += 12 + size
    columns, rows = struct.unpack(">II", chunks[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, columns + 1)
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:]


def test_a_picture_has_each_digit_its_label_and_how_sure_they_were():
    data = load(Data(name="digits"), notice=print)
    mistakes = [Mistake(7, int(data.test.labels[7]), 2, 0.98), Mistake(3, 1, 1, 0.5)]
    picture = ET.fromstring(render_mistakes(mistakes, 3, data))
    texts = [text.text for text in picture.findall("{*}text")]
    name, other = ("7", "3") if mistakes[0].label else ("3", "7")
    assert texts[1:3] == [f"{name}, read as {other}: 98 %", "2 of 3 · no. 7"]
    assert texts[3:] == ["7, read as 3: 50 %", "1 of 3 · no. 3"]
    images = [decoded(image.attrib["href"]) for image in picture.findall("{*}image")]
    for pixels, place in zip(images, (7, 3), strict=True):
        expected = 255 - data.test.pixels[place].reshape(8, 8) * (255 / 16)
        np.testing.assert_allclose(pixels, expected, atol=0.51)


def test_a_picture_of_nothing_and_one_of_too_much():
    data = load(Data(name="digits"), notice=print)
    assert "0 of 73 test digits are wrong" in render_mistakes([], 3, data)
    many = [Mistake(i, 0, 1, 0.5) for i in range(73)]
    picture = ET.fromstring(render_mistakes(many, 3, data))
    assert len(picture.findall("{*}image")) == 60
    assert "the first 60" in picture.findall("{*}text")[0].text
