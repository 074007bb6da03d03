"""Confirms a study's winner: its settings with further seeds, on all examples but the test part.

A network is kept in a spool of its own until MLflow has it, and its look at the test part is stored
with the search: a sweep that was killed looks at no network twice and loses none.
"""

import base64
import dataclasses
import html
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlp.config import RunConfig
from mlp.data.dataset import Dataset, load
from mlp.engine.result import Ending
from mlp.errors import SystemLimitError
from mlp.settings import with_settings
from mlp.study import search
from mlp.study.identity import TrialRow
from mlp.sweep.generation import Session, kept
from mlp.terminal.screen import waiting
from mlp.tracking import spool
from mlp.tracking.display import run_name
from mlp.tracking.listing import label_of_seed
from mlp.tracking.record import RunRecord
from mlp.training.outcome import accuracy_on, wrong_on
from mlp.training.train_runs import train_runs

_SEED_END = 2**32

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


@dataclass(frozen=True)
class Confirmation:
    """What networks with the winner's settings and further seeds made of the test part.

    Attributes:
        accuracies: of each network.
        mistakes: what they get wrong.
        n_train: examples each was trained on.
    """

    accuracies: tuple[float, ...]
    mistakes: list[Mistake]
    n_train: int

    @property
    def mean(self) -> float:
        """Of the accuracies."""
        return float(np.mean(self.accuracies))

    @property
    def deviation(self) -> float:
        """Of the accuracies, with one seed less in the denominator; 0 of a single one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else 0.0


def confirm(session: Session, best: TrialRow) -> Confirmation:
    """Trains and tests what is missing, and hands over to MLflow what is not there yet.

    Args:
        session: of a complete study.
        best: its winner.
    """
    with waiting(session.console, "the winner's settings are trained with further seeds"):
        base = dataclasses.replace(session.config.base.data, validation_fraction=0.0)
        data = load(base, notice=lambda _line: None)
        wanted = [_Seed(best.number, i + 1) for i in range(session.config.study.confirm_seeds)]
        for seed, record in _records(session, data, wanted).items():
            _look(session, seed, record, data)
            session.drain.add(spool.place_of(session.spool, *seed))
        looks = [_looks(session)[seed] for seed in wanted]
    wrong = [[(int(place), float(p)) for place, p in look["wrong"]] for look in looks]
    accuracies = tuple(float(look["test_accuracy"]) for look in looks)
    mistakes = summarise_mistakes(wrong, data.test.labels)
    return Confirmation(accuracies, mistakes, data.train.n_examples)


class _Seed(NamedTuple):
    """A network with the settings of a trial and its so many-th further seed."""

    trial: int
    seed: int

    def __str__(self) -> str:
        return f"seed +{self.seed} of trial {self.trial}"


def _records(session: Session, data: Dataset, wanted: Sequence[_Seed]) -> dict[_Seed, RunRecord]:
    """The networks not tested or not uploaded yet: those kept, and the others trained."""
    lying = spool.waiting(session.spool)
    kept_at = {_Seed(number, seed): place for number, seed, place in lying if seed}
    looked_at = _looks(session)
    configs = {
        seed: _config(session, seed)
        for seed in sorted({*wanted, *kept_at})
        if seed in kept_at or seed not in looked_at
    }
    records = {}
    for seed, config in configs.items():
        if seed in kept_at:
            record = kept(session, str(seed), kept_at[seed], config)
            if record is not None:
                records[seed] = record
    missing = [seed for seed in configs if seed not in records]
    crashed = list[_Seed]()

    def finished(made: Mapping[int, RunRecord]) -> None:
        """Makes networks safe while others still train."""
        runs = {}
        for place, record in made.items():
            seed = missing[place]
            if record.result.ending is Ending.CRASHED:
                crashed.append(seed)
                continue
            accuracy = accuracy_on(data.test, record, data)
            records[seed] = dataclasses.replace(record, test_accuracy=accuracy)
            name = f"{run_name(record.config, trial=seed.trial)} seed +{seed.seed}"
            label = label_of_seed(session.page, seed.trial, seed.seed, name)
            runs[spool.place_of(session.spool, *seed)] = spool.Kept(records[seed], label)
        spool.put(runs)

    if missing:
        train_runs([configs[seed] for seed in missing], data, session.where, finished=finished)
    if crashed:  # the others are kept by now
        raise SystemLimitError(f"{crashed[0]} kills the worker that trains it; the test part waits")
    return records


def _config(session: Session, seed: _Seed) -> RunConfig:
    """A trial's settings with another seed, nothing held out."""
    row = search.rows(session.search)[seed.trial]
    config = search.trial_of(session.search, row).config
    training = config.training
    return with_settings(
        config,
        {
            "training.seed": (training.seed + seed.seed) % _SEED_END,
            "training.order_seed": (training.order_seed + seed.seed) % _SEED_END,
            "data.validation_fraction": 0.0,
        },
    )


def _looks(session: Session) -> dict[_Seed, dict[str, Any]]:
    """Every look at such a network."""
    return {
        _Seed(look["trial"], look["seed"]): look
        for look in search.test_looks(session.search)
        if "seed" in look
    }


def _look(session: Session, seed: _Seed, record: RunRecord, data: Dataset) -> None:
    if seed not in _looks(session):
        assert record.test_accuracy is not None
        further = {"seed": seed.seed, "wrong": wrong_on(data.test, record, data)}
        search.add_test_look(session.search, seed.trial, record.test_accuracy, further)


def summarise_mistakes(
    wrong: Sequence[Sequence[tuple[int, float]]], labels: NDArray[np.uint8]
) -> list[Mistake]:
    """Counts what several networks get wrong.

    Args:
        wrong: for each network, place and probability as `outcome.wrong_on` gives them.
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
