"""The figures of a study: what stands where, in the units of the data.

A figure is a scatter in rows (`Strips`) or lines over an axis (`Lines`). `page.html` draws both as
SVG that takes the width and the colours of the page, and a notebook shows them in the same way.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from mlp.causes.answer import Answer
from mlp.causes.effects import Effect, SideEffect
from mlp.causes.evidence import Conclusion
from mlp.causes.plan import Side
from mlp.config import RunConfig
from mlp.curve import Verdict
from mlp.palette import VERDICT_COLOURS
from mlp.report.summary import CurvePair, PageContent
from mlp.settings import learning_rate_of, settings_of
from mlp.tracking.display import ThinCurve
from mlp.tracking.read import PastRun

_EXPLAINED = "another setting explains it"  # a cause by itself that the answer does not name
_DID = {Side.STOPS: "stopped", Side.STARTS: "started"}
_SIDES = (Side.STOPS, Side.STARTS)  # the cures first
_MOST_TICKS = 6
_LEAST_BESIDE = 2  # runs on each side of an edge
_TOO_LARGE = (Verdict.OSCILLATING.value, Verdict.DIVERGED.value)  # what too large a step makes
TEMPLATES = Environment(  # whatever comes from a store is escaped
    loader=PackageLoader("mlp", "report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_COLOURS = {verdict.value: colour for verdict, colour in VERDICT_COLOURS.items()} | {
    "cause": VERDICT_COLOURS[Verdict.OSCILLATING],
    "no-effect": VERDICT_COLOURS[Verdict.CONVERGED],
    "only-fails": VERDICT_COLOURS[Verdict.CLIMBING],
    "too-little": VERDICT_COLOURS[Verdict.STALLED],
}
STYLE = files("mlp.report").joinpath("figures.css").read_text(encoding="utf-8") + "".join(
    f".is-{kind} {{ color: {colour}; }}\n" for kind, colour in _COLOURS.items()
)
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_DOTS_WITH_WORDS = 600  # more than these have a colour and no words, so that the page stays small


@dataclass(frozen=True)
class Axis:
    """A stretch of numbers, and where a number stands on it.

    Attributes:
        low: at its start; above 0 on a logarithmic axis.
        high: at its end, above `low`.
        is_share: whether its ticks are percentages.
    """

    title: str
    low: float
    high: float
    is_log: bool = False
    is_share: bool = False

    def place(self, value: float) -> float:
        """Percent of the way from `low` to `high`; outside of 0 to 100 for what lies outside.

        Example:
            >>> Axis("rate", 0.01, 100.0, is_log=True).place(1.0)
            50.0
        """
        low, high, own = self._scaled(self.low), self._scaled(self.high), self._scaled(value)
        return round(100 * (own - low) / (high - low), 2)

    @cached_property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Round numbers on it, as (percent of the way, text).

        Example:
            >>> Axis("step", 0, 1200).ticks
            ((0.0, '0'), (41.67, '500'), (83.33, '1,000'))
        """
        numbers = _powers(self.low, self.high) if self.is_log else _steps(self.low, self.high)
        return tuple((self.place(number), self._text(number)) for number in numbers)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def _text(self, number: float) -> str:
        if self.is_share:
            return f"{number:.0%}"
        if number == 0 or 1e-3 <= abs(number) < 1e5:
            return f"{number:,.6g}"
        mantissa, exponent = f"{number:.0e}".split("e")
        power = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
        return power if mantissa == "1" else f"{mantissa}·{power}"


@dataclass(frozen=True)
class Dot:
    """A point of a row.

    Attributes:
        x: on the axis.
        lane: how far down in its row, percent.
        kind: a verdict or a conclusion, which gives its colour.
        symbol: a verdict or a side, which gives its form.
        words: what it stands for; empty where there are too many points.
        address: of the run in MLflow; empty without one.
        low: where its interval begins; None without one.
        high: where its interval ends.
    """

    x: float
    lane: float
    kind: str
    symbol: str
    words: str = ""
    address: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """The points of one row, what they have in common, and a few more words.

    Attributes:
        edge: where on the axis their kind changes; None where it does not.
    """

    label: str
    words: str
    dots: tuple[Dot, ...]
    edge: float | None = None


@dataclass(frozen=True)
class Line:
    """A curve: `(x, y)` on the axes, its colour by a verdict, and what it stands for."""

    points: tuple[tuple[float, float], ...]
    kind: str
    words: str

    def path(self, x: Axis, y: Axis) -> str:
        """The points on a square of 1000 x 1000, as an SVG polyline has them."""
        points = self.points if len(self.points) > 1 else self.points * 2  # a lone one is a dot
        return " ".join(f"{10 * x.place(a):.0f},{1000 - 10 * y.place(b):.0f}" for a, b in points)


class _Shown:
    """What a notebook shows as the page does."""

    def _repr_html_(self) -> str:
        macros: Any = TEMPLATES.get_template("figures.html").module
        return str(macros.alone(self, STYLE))


@dataclass(frozen=True)
class Strips(_Shown):
    """Rows of points over one axis."""

    x: Axis
    rows: tuple[Row, ...]
    baseline: float | None = None


@dataclass(frozen=True)
class Lines(_Shown):
    """Curves over two axes; the baseline is a level of the upright one."""

    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    baseline: float | None = None


Figure = Strips | Lines


def figures_of(content: PageContent) -> dict[str, Figure]:
    """The figures of a page by name; one that would show nothing is not there."""
    drawn: dict[str, Figure] = {}
    if any(_rate_of(run.config) is not None for run in content.runs):
        drawn["map"] = map_figure(content.runs, content.addresses)
    for i, pair in enumerate(content.pairs):
        drawn[f"curves-{i}"] = curves_figure(pair)
    if any(side.n_pairs for effect in content.answer.effects for side in effect.sides):
        drawn["causes"] = causes_figure(content.answer)
    if content.ratios:
        drawn["stability"] = stability_figure(content.runs, content.ratios)
    return drawn


def map_figure(runs: Sequence[PastRun], addresses: Sequence[str] = ()) -> Strips:
    """Learning rate by normalization, each run in the colour of its verdict.

    Args:
        addresses: of the runs in MLflow; none: the points are no links.
    """
    by_row: dict[str, list[Dot]] = {}
    for i, run in enumerate(runs):
        rate, verdict = _rate_of(run.config), run.judgement.verdict
        if rate is None:
            continue
        has_words = len(runs) <= _DOTS_WITH_WORDS
        dot = Dot(
            x=rate,
            lane=20 + round(60 * ((i * 0.618034) % 1)),  # so that equal points stay apart
            kind=verdict.value,
            symbol=verdict.value,
            words=f"{run.name}: {verdict.value}" if has_words else "",
            address=addresses[i] if has_words and addresses else "",
        )
        by_row.setdefault(_row_of(run.config), []).append(dot)
    rows = []
    for name, dots in by_row.items():
        n = sum(dot.kind == "oscillating" for dot in dots)
        words = f"{n} of {len(dots)} {'oscillates' if n == 1 else 'oscillate'}"
        edge = edge_of([(dot.x, dot.kind in _TOO_LARGE) for dot in dots])
        if edge is not None:
            words += f"; edge near {edge.place:.2g}: {edge.below} below it, {edge.above} above"
        rows.append(Row(name, words, tuple(dots), edge and edge.place))
    rates = [rate for run in runs if (rate := _rate_of(run.config)) is not None]
    return Strips(_log_axis("learning rate", rates, margin=0.04), tuple(rows))


class RateEdge(NamedTuple):
    """From which learning rate on runs swing or are lost.

    Attributes:
        place: between the two rates on either side of it.
        below: how many do so below it, as words.
        above: and above it.
    """

    place: float
    below: str
    above: str


def edge_of(runs: Sequence[tuple[float, bool]]) -> RateEdge | None:
    """The learning rate that parts calm runs from those that swing or diverge.

    It is the cut with the fewest runs on the wrong side.

    Args:
        runs: learning rate, and whether the run swung or diverged.

    Returns:
        None with fewer than two runs on a side, or where a quarter of them is on the wrong one:
        then it is not the rate that parts them.

    Example:
        >>> edge_of([(0.1, False), (0.2, False), (0.8, True), (3.0, True), (9.0, True)])
        RateEdge(place=0.4, below='0 of 2', above='3 of 3')
    """
    in_order = sorted(runs)
    bad = np.array([is_bad for _, is_bad in in_order], dtype=int)
    if bad.size < 2 * _LEAST_BESIDE or bad.sum() in (0, bad.size):
        return None
    cuts = np.arange(_LEAST_BESIDE, bad.size - _LEAST_BESIDE + 1)
    wrong = [int(bad[:cut].sum() + (1 - bad[cut:]).sum()) for cut in cuts]
    cut = int(cuts[int(np.argmin(wrong))])
    low, high = in_order[cut - 1][0], in_order[cut][0]
    is_parted = 4 * min(wrong) <= bad.size and 2 * bad[cut:].sum() > bad.size - cut
    if not is_parted or low == high:
        return None
    sides = (bad[:cut], bad[cut:])
    counts = [f"{int(side.sum())} of {side.size}" for side in sides]
    return RateEdge(math.sqrt(low * high), *counts)


def _rate_of(config: RunConfig) -> float | None:
    path = learning_rate_of(config)
    rate = settings_of(config)[path] if path is not None else None
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


def _row_of(config: RunConfig) -> str:
    """The normalization; of an own function its first argument of few values."""
    if config.own is None:
        return config.gradient.normalization
    for argument in config.own.program.arguments:
        if argument.kind == "bool" or argument.choices:
            return f"{argument.name}={config.own.arguments[argument.name]}"
    return config.own.program.function


def curves_figure(pair: CurvePair) -> Lines:
    """The loss of an oscillating run with that of its repaired run."""
    both = (
        (pair.before, "oscillating", f"{pair.name}: oscillating"),
        (pair.after, pair.verdict.value, f"with {pair.change}: {pair.verdict.value}"),
    )
    return _lines("step", "loss", both)


def causes_figure(answer: Answer) -> Strips:
    """What changing each setting alone did, with 95 % intervals, in pairs with the same seed."""
    tried = [effect for effect in answer.effects if any(side.n_pairs for side in effect.sides)]
    order = sorted(tried, key=lambda effect: [-_difference(effect, s) for s in _SIDES])
    rows = []
    for effect in order:
        words, did = _conclusion_words(answer, effect), _what_it_did(effect)
        sides = [s for side in _SIDES if (s := effect.on(side)) is not None and s.n_pairs]
        dots = tuple(_effect_dot(answer, effect, side) for side in sides)
        rows.append(Row(str(effect.factor), f"{words}: {did}", dots))
    lowest = min((dot.low or 0.0 for row in rows for dot in row.dots), default=0.0)
    axis = Axis(
        "share of the reruns that the change turned", min(-0.1, lowest) - 0.05, 1.05, is_share=True
    )
    return Strips(axis, tuple(rows), baseline=0.0)


def stability_figure(runs: Sequence[PastRun], ratios: Mapping[int, ThinCurve]) -> Lines:
    """The stability ratio along each run, with the line at 1.

    Args:
        ratios: place in `runs` -> the ratio; its step 0 is drawn as step 1.
    """
    lines = [
        (
            ThinCurve(curve.value, curve.step + 1),  # so that step 0 has a place on the axis
            runs[i].judgement.verdict.value,
            f"{runs[i].name}: {runs[i].judgement.words}",
        )
        for i, curve in ratios.items()
    ]
    return _lines("step, counted from 1", "stability ratio", lines, by_log=True, baseline=1.0)


def _lines(
    x: str,
    y: str,
    curves: Iterable[tuple[ThinCurve, str, str]],
    *,
    by_log: bool = False,
    baseline: float | None = None,
) -> Lines:
    """Curves with their kinds and words; values of 0 or less cannot stand on a logarithmic axis."""
    lines = []
    for curve, kind, words in curves:
        pairs = zip(curve.step.tolist(), curve.value.tolist(), strict=True)
        lines.append(Line(tuple((step, v) for step, v in pairs if v > 0), kind, words))
    steps = [step for line in lines for step, _ in line.points]
    values = [value for line in lines for _, value in line.points]
    across = _log_axis(x, steps) if by_log else Axis(x, 0, max([1, *steps]))
    up = _log_axis(y, [*values, *([] if baseline is None else [baseline])], margin=0.05)
    return Lines(across, up, tuple(lines), baseline)


def _log_axis(title: str, values: Sequence[float], margin: float = 0.0) -> Axis:
    """From the lowest value to the highest, with a margin on either side as a share of that."""
    low, high = math.log10(min(values, default=1.0)), math.log10(max(values, default=1.0))
    if high - low < 0.1:
        low, high = low - 0.5, high + 0.5
    reach = margin * (high - low)
    return Axis(title, 10 ** (low - reach), 10 ** (high + reach), is_log=True)


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers, or 1, 2 and 5 times them where those are too few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    within = [n for n in range(first, last + 1) if low <= 10.0**n <= high]
    if len(within) > 2:
        return [10.0**n for n in within[:: -(-len(within) // _MOST_TICKS)]]
    finer = [m * 10.0**n for n in range(first, last + 1) for m in (1, 2, 5)]
    return [number for number in finer if low <= number <= high]


def _steps(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two numbers, five at most."""
    raw = (high - low) / (_MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _effect_dot(answer: Answer, effect: Effect, side: SideEffect) -> Dot:
    endings = ", ".join(f"{n} {verdict.value}" for verdict, n in side.endings.items())
    share = side.difference
    return Dot(
        x=share.value,
        lane=32 if side.side is Side.STOPS else 68,
        kind=_kind(answer, effect, side),
        symbol="stops" if side.side is Side.STOPS else "starts",
        words=(
            f"{effect.factor}: turned {side.n_with} of {side.n_pairs} reruns, {side.n_against} "
            f"the other way; they ended {endings} (p = {effect.p_value:.2g})"
        ),
        low=share.low,
        high=share.high,
    )


def _kind(answer: Answer, effect: Effect, side: SideEffect | None = None) -> str:
    """Its conclusion as the page's colours are called, such as `too-little`.

    It is `too-little` as well where the answer does not name a cause, or a side speaks against it.
    """
    shown = effect.conclusion
    against = side is not None and side.difference.value <= 0
    if shown is Conclusion.CAUSE and (against or not _is_named(answer, effect)):
        shown = Conclusion.TOO_LITTLE
    return shown.name.lower().replace("_", "-")


def _is_named(answer: Answer, effect: Effect) -> bool:
    return any(effect.factor.setting in cause.settings for cause in answer.causes)


def _conclusion_words(answer: Answer, effect: Effect) -> str:
    if effect.conclusion is Conclusion.CAUSE and not _is_named(answer, effect):
        return _EXPLAINED
    return effect.conclusion.value


def _what_it_did(effect: Effect) -> str:
    found = [(s, effect.on(s)) for s in _SIDES]
    return ", ".join(
        f"{_DID[side]} it in {own.n_with} of {own.n_expected}"
        for side, own in found
        if own is not None and own.n_pairs
    )


def _difference(effect: Effect, side: Side) -> float:
    found = effect.on(side)
    return found.difference.value if found is not None and found.n_pairs else 0.0
