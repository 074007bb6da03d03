"""What a loss curve looks like: as an SVG, and in lines of text.

A training has more steps than a picture has columns. So a column spans from the lowest to the
highest value of its steps: a swing is a band, whatever its period, and a spike stays.
"""

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlp.curve import CHANCE_LOSS, TAIL_SHARE, VERDICT_COLOURS, Judgement, Verdict
from mlp.errors import counted

if TYPE_CHECKING:  # a curve of a file is judged without them
    from mlp.config import RunConfig
    from mlp.engine.result import Ending, Result
    from mlp.tracking.display import ThinCurve

_MOST_SHARE = 100.0  # highest over lowest: from here on the axis is logarithmic
_TEXT_COLUMNS, _TEXT_ROWS = 64, 8

# MLflow shows some 100 pixels of a description before it folds the rest away.
_WIDTH, _HEIGHT = 700, 96
_LEFT, _RIGHT, _TOP, _BOTTOM = 270, 690, 8, 76  # of the plot in it
SMALL_POINTS = 64  # of a small curve, which is some 80 pixels wide
_MOST_SMALL, _SMALL_ACROSS = 256, 8  # small curves in one picture, and in a row of it
_INK, _SOFT, _FAINT = "#1c1f23", "#5c636b", "#eef1f4"


class Picture(str):
    """The text of an SVG, which a notebook shows as what it is."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


class _Band(NamedTuple):
    """What a curve spans in each column that it has a value in.

    Attributes:
        column: `(n,)`, from 0, increasing.
        low: `(n,)`, in units of the loss, as `high`.
    """

    column: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class _Scale(NamedTuple):
    """From a loss to its place between the lowest, 0, and the highest, 1."""

    low: float
    high: float
    is_log: bool

    def place(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = self.low, self.high
        if self.is_log:  # a loss of 0 lies at the bottom
            values, low, high = np.log(np.maximum(values, low)), np.log(low), np.log(high)
        return np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0)


def plot_curve(
    loss: ArrayLike,
    steps: ArrayLike | None = None,
    verdict: Verdict = Verdict.OSCILLATING,
    *,
    marks: ArrayLike = (),
) -> list[str]:
    """A curve in lines of text: each column spans what its part of the curve does.

    The axis is logarithmic where the highest is a hundred times the lowest that is above 0; what is
    not finite is left out.

    Args:
        steps: of the entries, for a line below the curve; None: it has none.
        verdict: on the curve; the axis of one that does not swing begins at 0.
        marks: steps at which a guard went back.

    Example:
        >>> plot_curve([2, 1])[0], plot_curve([2, 1])[-1]
        ('2 █████', '1      █████')
    """
    values, at = _finite(loss, steps)
    if values.size == 0:
        return []
    n_columns = min(_TEXT_COLUMNS, values.size * 5)
    wide = max(values.size, n_columns)  # a value of a short curve has several columns
    own = values[np.arange(wide) * values.size // wide]
    scale, band = _scale_of(values, verdict), _band(own, np.arange(wide), n_columns)
    first, last = (
        np.rint(scale.place(edge) * (_TEXT_ROWS - 1)).astype(int) for edge in (band.low, band.high)
    )
    row = np.arange(_TEXT_ROWS)[::-1, None]
    is_seen = (first <= row) & (row <= last)
    lines = ["".join("█" if seen else " " for seen in each) for each in is_seen]
    axis = [""] * _TEXT_ROWS
    axis[0], axis[-1] = f"{scale.high:.4g}", f"{min(scale.low, values.min()):.4g}"
    if scale.is_log:
        axis[_TEXT_ROWS // 2] = "log"
    width = max(map(len, axis))
    shown = [f"{text:>{width}} {line}".rstrip() for text, line in zip(axis, lines, strict=True)]
    marked = np.searchsorted(at, np.asarray(marks, dtype=np.int64)) * n_columns // values.size
    if marked.size:
        arrows = "".join("^" if column in marked else " " for column in range(n_columns))
        shown.append(f"{'':{width}} {arrows.rstrip()} back")
    if steps is not None:
        begin, end = f"step {at[0]}", str(at[-1])
        shown.append(f"{'':{width}} {begin}{end:>{max(n_columns - len(begin), len(end) + 1)}}")
    return shown


def run_picture(config: "RunConfig", result: "Result", judgement: Judgement) -> Picture:
    """The SVG of a run: its verdict and numbers beside its whole loss curve, on one axis.

    Shaded is the last quarter, which the verdict is about; dashed the loss of knowing nothing. The
    same run has the same bytes, at most 20 kB of them.
    """
    values, at = _finite(result.loss, result.loss_step)
    drawn = _plot(values, at, result, judgement) if values.size else []
    colour = VERDICT_COLOURS[judgement.verdict]
    texts = [_text(14, 24, judgement.words, colour, 'font-size="16" font-weight="600"')]
    texts += [
        _text(14, 42 + 16 * i, line, _INK)
        for i, line in enumerate([_what(config), *facts_of(config, result, judgement)])
    ]
    return _svg(_WIDTH, _HEIGHT, [*texts, *drawn])


def study_picture(curves: "Mapping[int, tuple[Verdict, ThinCurve]]") -> Picture:
    """The SVG of a study: a small curve a run, each on an axis of its own, sorted by verdict.

    Of more than 256 runs evenly spread ones are shown.

    Args:
        curves: number of the trial -> its verdict and loss.
    """
    from mlp.tracking.display import thin

    order = list(Verdict)
    numbers = sorted(curves, key=lambda number: (order.index(curves[number][0]), number))
    counts = Counter(curves[number][0] for number in numbers)
    if len(numbers) > _MOST_SMALL:
        places = np.linspace(0, len(numbers) - 1, _MOST_SMALL).round().astype(int)
        numbers = [numbers[place] for place in places]
    parts, x = [], 14
    for verdict in sorted(counts, key=order.index):
        words = f"{counts[verdict]} {verdict.value}"
        parts.append(
            _text(x, 22, words, VERDICT_COLOURS[verdict], 'font-size="14" font-weight="600"')
        )
        x += 9 * len(words) + 14
    across, down = (_WIDTH - 20) / _SMALL_ACROSS, 62
    for i, number in enumerate(numbers):
        left, top = 10 + across * (i % _SMALL_ACROSS), 34 + down * (i // _SMALL_ACROSS)
        verdict, curve = curves[number]
        curve = thin(curve.value, curve.step, SMALL_POINTS)
        parts += _small(number, verdict, curve, left=left, top=top, width=across - 8)
    return _svg(_WIDTH, 40 + down * -(-len(numbers) // _SMALL_ACROSS), parts)


def short_number(value: float) -> str:
    """A loss in a few characters, its power of ten in sight.

    Example:
        >>> short_number(2.861e-07), short_number(0.1234), short_number(10.84)
        ('2.9e-7', '0.12', '11')
    """
    if value and abs(value) < 0.01:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.2g}"


def diverged_at(result: "Result") -> int:
    """The first step whose loss is not finite; of a run without one, its last."""
    broken = ~np.isfinite(result.loss)
    return int(result.loss_step[broken.argmax()]) if broken.any() else result.last_step


def _finite(
    loss: ArrayLike, steps: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    values = np.asarray(loss, dtype=np.float64)
    at = np.arange(values.size) if steps is None else np.asarray(steps, dtype=np.int64)
    is_finite = np.isfinite(values)
    return values[is_finite], at[is_finite]


def _scale_of(values: NDArray[np.float64], verdict: Verdict) -> _Scale:
    """What does not swing begins at 0: else a flat curve would fill the picture with its noise."""
    low, high = float(values.min()), float(values.max())
    least = float(values[values > 0].min(initial=np.inf))
    if low >= 0 and high > _MOST_SHARE * least:
        return _Scale(least, high, is_log=True)
    swings = verdict in (Verdict.OSCILLATING, Verdict.CLIMBING)
    return _Scale(low if swings else min(low, 0.0), high, is_log=False)


def _band(values: NDArray[np.float64], at: NDArray[np.int64], n_columns: int) -> _Band:
    """The lowest and highest value of each column."""
    place = at * n_columns // (int(at[-1]) + 1)
    starts = np.flatnonzero(np.diff(place, prepend=-1))
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return _Band(place[starts], low, high)


def _what(config: "RunConfig") -> str:
    """What was trained, in a line beside the curve."""
    from mlp.settings import learning_rate_of  # `judge` starts without the schema

    if config.own is None:
        return f"learning rate {config.optimizer.rate:.4g}, {config.gradient.normalization}"
    line = f"{config.own.program.function} in {config.own.program.file}"
    if (path := learning_rate_of(config)) is None:
        return line
    name = path.removeprefix("own.")
    return f"{line}, {name}={config.own.arguments[name]}"


def facts_of(config: "RunConfig", result: "Result", judgement: Judgement) -> list[str]:
    """What came of a run, in up to three short lines."""
    from mlp.engine.result import Ending

    if result.own is not None and result.own.fault is not None:
        return [f"failed after {counted(result.last_step, 'step')}"]
    if result.ending is Ending.CRASHED:
        return ["its worker died: nothing is known"]
    lines = []
    if result.ending is Ending.NON_FINITE or not result.loss.size:
        lines.append(f"lost at step {diverged_at(result)}")
    else:
        lines.append(f"loss {result.loss[-1]:.4g} after {counted(result.last_step, 'step')}")
        if result.validation_accuracy.size:
            lines.append(f"validation accuracy {result.validation_accuracy[-1]:.4f}")
    if result.ending is Ending.PRUNED:
        lines.append(f"pruned at step {result.last_step} of {config.training.steps}")
    elif judgement.verdict is Verdict.OSCILLATING:
        period = judgement.period_steps
        pace = "" if period is None else f", every {period} steps"
        lines.append(f"swings by {100 * judgement.amplitude:.0f} %{pace}")
    elif judgement.swung is not None:
        swung = judgement.swung
        lines.append(f"swung from step {swung.first_step} to {swung.last_step}")
    elif judgement.spiked:
        lines.append(f"a spike of {judgement.largest_rise:.3g}")
    return lines


def _plot(
    values: NDArray[np.float64], at: NDArray[np.int64], result: "Result", judgement: Judgement
) -> list[str]:
    """The curve with its axes and marks."""
    colour, last = VERDICT_COLOURS[judgement.verdict], max(1, int(at[-1]))
    scale = _scale_of(values, judgement.verdict)
    wide, high = _RIGHT - _LEFT, _BOTTOM - _TOP

    def y(some: ArrayLike) -> NDArray[np.float64]:
        return _BOTTOM - high * scale.place(np.asarray(some, dtype=np.float64))

    tail = TAIL_SHARE * wide
    parts = [
        f'<rect x="{_RIGHT - tail:g}" y="{_TOP}" width="{tail:g}" height="{high}" fill="{_FAINT}"/>'
    ]
    if result.own is None and scale.low < CHANCE_LOSS < scale.high:
        level = float(y(CHANCE_LOSS))
        parts.append(
            f'<path d="M{_LEFT} {level:.1f}H{_RIGHT}" stroke="{_SOFT}" stroke-dasharray="3 4"/>'
        )
    if values.size > 2 * wide:
        band = _band(values, at, wide)
        over, under = y(band.high), y(band.low)
        x = _LEFT + band.column + 0.5
        points = _points([*x, *x[::-1]], [*over, *under[::-1]])
        shape = f'fill="{colour}" fill-opacity=".35" stroke="{colour}" stroke-linejoin="round"'
        parts.append(f'<polygon points="{points}" {shape}/>')
    else:
        points = _points(_LEFT + at * (wide / last), y(values))
        shape = f'fill="none" stroke="{colour}" stroke-width="1.4" stroke-linejoin="round"'
        parts.append(f'<polyline points="{points}" {shape}/>')
    if judgement.spiked:
        top = int(np.argmax(values - np.minimum.accumulate(values)))
        x_top, y_top = _LEFT + at[top] * wide / last, float(y(values[top]))
        parts.append(
            f'<circle cx="{x_top:.1f}" cy="{y_top:.1f}" r="4" fill="none" stroke="{_INK}"/>'
        )
    if result.restored_step.size:
        back = "".join(f"M{_LEFT + s * wide / last:.1f} {_BOTTOM}v-7" for s in result.restored_step)
        parts.append(f'<path d="{back}" stroke="{_INK}"/>')
    parts.append(_end(result.ending, float(y(values[-1])), colour))
    right = 'text-anchor="end"'
    parts += [
        _text(_LEFT - 6, _TOP + 8, f"{scale.high:.3g}", _SOFT, right),
        _text(_LEFT - 6, _BOTTOM, f"{min(scale.low, values.min()):.3g}", _SOFT, right),
        _text(_LEFT, _HEIGHT - 6, f"step {at[0]}", _SOFT),
        _text(_RIGHT, _HEIGHT - 6, str(at[-1]), _SOFT, right),
    ]
    if scale.is_log:
        middle = 'text-anchor="middle"'  # beside the numbers there may be words
        parts.append(_text((_LEFT + _RIGHT) / 2, _HEIGHT - 6, "loss on a log scale", _SOFT, middle))
    return parts


def _end(ending: "Ending", y: float, colour: str) -> str:
    """How the curve ends: a dot, a cross where the loss was lost, a bar where it was pruned."""
    from mlp.engine.result import Ending

    if ending is Ending.NON_FINITE:
        cross = f"M{_RIGHT - 5} {y - 5:.1f}l10 10m0 -10l-10 10"
        return f'<path d="{cross}" stroke="{_INK}" stroke-width="2"/>'
    if ending is Ending.PRUNED:
        return f'<path d="M{_RIGHT} {_TOP}V{_BOTTOM}" stroke="{_INK}" stroke-width="2"/>'
    return f'<circle cx="{_RIGHT}" cy="{y:.1f}" r="3" fill="{colour}"/>'


def _small(
    number: int, verdict: Verdict, curve: "ThinCurve", *, left: float, top: float, width: float
) -> list[str]:
    """One of the small curves, with its number and where it ended."""
    colour, high = VERDICT_COLOURS[verdict], 40
    if not curve.value.size:
        return [_text(left, top + high + 14, f"#{number}", _SOFT)]
    place = _scale_of(curve.value, verdict).place(curve.value)
    points = _points(
        left + curve.step * (width / max(1, curve.step[-1])), top + high - high * place
    )
    last = "lost" if verdict is Verdict.DIVERGED else short_number(curve.value[-1])
    return [
        f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{high}" fill="{_FAINT}"/>',
        f'<polyline points="{points}" fill="none" stroke="{colour}"/>',
        _text(left, top + high + 14, f"#{number}", _INK),
        _text(left + width, top + high + 14, last, _SOFT, 'text-anchor="end"'),
    ]


def _points(x: ArrayLike, y: ArrayLike) -> str:
    """What a polyline is given."""
    places = np.column_stack([x, y]).ravel().tolist()
    return ("%.1f,%.1f " * (len(places) // 2) % tuple(places)).rstrip()


def _text(x: float, y: float, words: str, colour: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" {more}>{html.escape(words)}</text>'


def _svg(width: int, height: int, parts: Sequence[str]) -> Picture:
    """On white, since whoever shows it may be dark."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12">'
    )
    back = f'<rect width="{width}" height="{height}" rx="6" fill="#ffffff"/>'
    return Picture("\n".join([head, back, *parts, "</svg>", ""]))
