"""The page of a study: one HTML file that needs no network, the answer first; and its figures.

A figure says what stands where, in the units of the data. `figures.html` draws it as SVG that takes
the width and the colours of the page.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from mlp.causes.answer import Answer, words_of
from mlp.causes.changes import LEARNING_RATE, NORMALIZATION, WIDTHS
from mlp.causes.effects import Effect, SideEffect
from mlp.causes.evidence import Conclusion
from mlp.causes.observed import DEEDS, count_values
from mlp.causes.plan import Side
from mlp.config import RunConfig, Value
from mlp.curve import VERDICT_COLOURS, Verdict
from mlp.report.summary import CurvePair, PageContent, short_value
from mlp.settings import learning_rate_of, settings_of
from mlp.shares import Share, wilson
from mlp.tracking.display import ThinCurve
from mlp.tracking.read import PastRun

_MOST_TICKS = 6
_MOST_ROWS = 500  # of the table of runs; a longer one is MLflow's task
_LEAST_BESIDE = 2  # runs on each side of an edge
_TOO_LARGE = (Verdict.OSCILLATING, Verdict.DIVERGED)  # what too large a step makes
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


def _text(name: str) -> str:
    return files("mlp.report").joinpath(name).read_text(encoding="utf-8")


STYLE = _text("figures.css") + "".join(
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
        """Round numbers on it, as (percent of the way, text); all are written in one way.

        Example:
            >>> Axis("step", 0, 1200).ticks
            ((0.0, '0'), (41.67, '500'), (83.33, '1,000'))
        """
        numbers = _powers(self.low, self.high) if self.is_log else _steps(self.low, self.high)
        is_plain = not self.is_log or all(1e-3 <= number < 1e5 for number in numbers)
        return tuple((self.place(n), self._text(n, is_plain=is_plain)) for n in numbers)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def _text(self, number: float, *, is_plain: bool) -> str:
        if self.is_share:
            return f"{number:.0%}"
        if is_plain:
            return f"{number:,.10g}"
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


@dataclass(frozen=True)
class Figure:
    """Rows of points over one axis, or curves over two; a notebook shows it as the page does.

    Attributes:
        y: the upright axis of curves; None of rows.
        baseline: a level of `y`; None without one.
    """

    x: Axis
    y: Axis | None = None
    rows: tuple[Row, ...] = ()
    lines: tuple[Line, ...] = ()
    baseline: float | None = None

    def _repr_html_(self) -> str:
        macros: Any = TEMPLATES.get_template("figures.html").module
        return str(macros.alone(self, STYLE))


def figures_of(content: PageContent) -> dict[str, Figure]:
    """The figures of a page by name; one that would show nothing is not there."""
    drawn: dict[str, Figure] = {}
    if any(_rate_of(run.config) is not None for run in content.runs):
        drawn["map"] = map_figure(content.runs, content.addresses, content.answer.asked)
    for i, pair in enumerate(content.pairs):
        drawn[f"curves-{i}"] = curves_figure(pair, content.answer.asked)
    if any(_tried_sides(effect) for effect in content.answer.effects):
        drawn["causes"] = causes_figure(content.answer)
    if content.ratios:
        drawn["stability"] = stability_figure(content.runs, content.ratios)
    return drawn


def map_figure(
    runs: Sequence[PastRun],
    addresses: Sequence[str] = (),
    asked: Verdict = Verdict.OSCILLATING,
) -> Figure:
    """Learning rate by normalization, each run in the colour of its verdict.

    Args:
        asked: the verdict that is counted in each row.
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
        n = sum(dot.kind == asked.value for dot in dots)
        words = f"{n} of {len(dots)} {DEEDS[asked].does if n == 1 else DEEDS[asked].do}"
        edge, told = edge_of([(dot.x, dot.kind in _TOO_LARGE) for dot in dots])
        common = Counter(dot.kind for dot in dots)
        # The last is drawn on top: what is asked about, and below it what is rare.
        dots.sort(key=lambda dot: (dot.kind == asked.value, -common[dot.kind]))
        rows.append(Row(name, words + told, tuple(dots), edge))
    rates = [dot.x for dots in by_row.values() for dot in dots]
    return Figure(_log_axis("learning rate", rates, margin=0.04), rows=tuple(rows))


def edge_of(runs: Sequence[tuple[float, bool]]) -> tuple[float | None, str]:
    """The learning rate that parts calm runs from those that swing or diverge, and words for it.

    It is between the two rates on either side of the cut with the fewest runs on the wrong side.

    Args:
        runs: learning rate, and whether the run swung or diverged.

    Returns:
        None, and no words, with fewer than two runs on a side, or where a quarter of them is on
        the wrong one: then it is not the rate that parts them.

    Example:
        >>> edge_of([(0.1, False), (0.2, False), (0.8, True), (3.0, True), (9.0, True)])
        (0.4, '; edge near 0.4: 0 of 2 oscillate or diverge below it, 3 of 3 above')
    """
    in_order = sorted(runs)
    bad = np.array([is_bad for _, is_bad in in_order], dtype=int)
    if bad.size < 2 * _LEAST_BESIDE or bad.sum() in (0, bad.size):
        return None, ""
    cuts = range(_LEAST_BESIDE, bad.size - _LEAST_BESIDE + 1)
    wrong = {cut: int(bad[:cut].sum() + (1 - bad[cut:]).sum()) for cut in cuts}
    cut = min(wrong, key=wrong.__getitem__)
    low, high = in_order[cut - 1][0], in_order[cut][0]
    below, above = bad[:cut], bad[cut:]
    is_parted = 4 * wrong[cut] <= bad.size and 2 * above.sum() > above.size
    if not is_parted or low == high:
        return None, ""
    place = math.sqrt(low * high)
    do = " or ".join(DEEDS[verdict].do for verdict in _TOO_LARGE)
    counts = f"{below.sum()} of {below.size} {do} below it, {above.sum()} of {above.size} above"
    return place, f"; edge near {place:.2g}: {counts}"


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


def curves_figure(pair: CurvePair, asked: Verdict = Verdict.OSCILLATING) -> Figure:
    """The loss of a run that ended badly with that of its repaired run."""
    both = (
        (pair.before, asked.value, f"{pair.name}: {asked.value}"),
        (pair.after, pair.verdict.value, f"with {pair.change}: {pair.verdict.value}"),
    )
    return _lines("step", "loss", both)


def causes_figure(answer: Answer) -> Figure:
    """In which share of the reruns changing each setting alone did something, of both sides."""

    def turned(effect: Effect) -> list[float]:  # for sure: 3 of 3 are less than 13 of 14
        shares = {own.side: _share(own).low for own in _tried_sides(effect)}
        return [-shares.get(side, 0.0) for side in (Side.STOPS, Side.STARTS)]

    rows = []
    for effect in sorted(filter(_tried_sides, answer.effects), key=turned):
        sides, is_named = _tried_sides(effect), _is_named(answer, effect)
        words = words_of(answer, effect)
        did = ", ".join(f"{own.side.did} it in {own.n_with} of {own.n_expected}" for own in sides)
        dots = tuple(_effect_dot(effect, side, is_named=is_named) for side in sides)
        rows.append(Row(str(effect.factor), f"{words}: {did}", dots))
    axis = Axis("share of the reruns that the change turned", 0.0, 1.0, is_share=True)
    return Figure(axis, rows=tuple(rows))


def _share(side: SideEffect) -> Share:
    """Of the reruns that unchanged end as they were picked for, those that the change turned."""
    return wilson(side.n_with, side.n_expected)


def _effect_dot(effect: Effect, side: SideEffect, *, is_named: bool) -> Dot:
    endings = ", ".join(f"{n} {verdict.value}" for verdict, n in side.endings.items())
    share, conclusion = _share(side), effect.conclusion
    if conclusion is Conclusion.CAUSE and (side.n_with <= side.n_against or not is_named):
        conclusion = Conclusion.TOO_LITTLE  # a side that speaks against it, or what is not named
    if side.is_idle:
        conclusion = Conclusion.NO_EFFECT
    elif conclusion is Conclusion.NO_STOP:
        conclusion = Conclusion.TOO_LITTLE
    return Dot(
        x=share.value,
        lane=32 if side.side is Side.STOPS else 68,
        kind=conclusion.name.lower().replace("_", "-"),
        symbol=side.side.value,
        words=(
            f"{effect.factor}: {side.side.did} it in {side.n_with} of {side.n_expected}, the "
            f"opposite in {side.n_against}; the {side.n_pairs} reruns with it changed ended "
            f"{endings} (p = {effect.p_value:.2g})"
        ),
        low=share.low,
        high=share.high,
    )


def _is_named(answer: Answer, effect: Effect) -> bool:
    return any(effect.factor.setting in cause.settings for cause in answer.causes)


def _tried_sides(effect: Effect) -> list[SideEffect]:
    """The sides with reruns that there was something to turn in, the cures first."""
    sides = (effect.on(side) for side in (Side.STOPS, Side.STARTS))
    return [own for own in sides if own is not None and own.n_expected]


def stability_figure(runs: Sequence[PastRun], ratios: Mapping[int, ThinCurve]) -> Figure:
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
) -> Figure:
    """Curves with their kinds and words; values of 0 or less cannot stand on a logarithmic axis."""
    lines = []
    for curve, kind, words in curves:
        pairs = zip(curve.step.tolist(), curve.value.tolist(), strict=True)
        lines.append(Line(tuple((step, v) for step, v in pairs if v > 0), kind, words))
    steps = [step for line in lines for step, _ in line.points]
    values = [value for line in lines for _, value in line.points]
    across = _log_axis(x, steps) if by_log else Axis(x, 0, max([1, *steps]))
    up = _log_axis(y, [*values, *([] if baseline is None else [baseline])], margin=0.05)
    return Figure(across, up, lines=tuple(lines), baseline=baseline)


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


# The page


def render_page(content: PageContent) -> str:
    """The page as the text of one HTML file.

    Whatever comes from a store (names, settings) is escaped.
    """
    seen = {run.judgement.verdict for run in content.runs}
    # Those drawn by another setting, or by layer, once; rate and normalization first.
    names = {name.partition("[")[0]: None for run in content.observed for name in run.params}
    first = {name: None for name in (LEARNING_RATE, NORMALIZATION) if name in names}
    varied = list(first | names)
    shown = list(zip(content.runs, content.addresses, strict=True))[:_MOST_ROWS]
    return TEMPLATES.get_template("page.html").render(
        content=content,
        asked=content.answer.asked,
        deed=DEEDS[content.answer.asked],
        figures=figures_of(content),
        counts=count_values(content.observed),
        verdicts=[verdict.value for verdict in Verdict if verdict in seen],
        varied=varied,
        is_built_in=all(run.config.own is None for run in content.runs),
        rows=[(run, address, _cells(run, varied)) for run, address in shown],
        combined=list(dict.fromkeys(name for own in content.combinations for name in own.settings)),
        style=_text("page.css") + STYLE,
        script=_text("page.js"),
    )


def _cells(run: PastRun, varied: Sequence[str]) -> list[Value | None]:
    """Of a line in the table of runs what comes after the verdict; None is an empty cell."""
    settings = settings_of(run.config) | {WIDTHS: list(run.config.model.layer_widths)}
    return [
        run.metrics.get("final_loss"),
        run.metrics.get("final_validation_accuracy"),
        run.judgement.amplitude,
        run.judgement.period_steps if run.judgement.amplitude else None,
        *(settings[name] for name in varied),
    ]


def _counted(counts: Mapping[Verdict, int]) -> str:
    return ", ".join(
        f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts.get(verdict)
    )


def _interval(share: Share) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"


def _range(share: Share | None) -> str:
    return "" if share is None else f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})"


TEMPLATES.filters |= {
    "counted": _counted,
    "interval": _interval,
    "range": _range,
    "value": short_value,
}
