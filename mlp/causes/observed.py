"""What was observed: how runs were set, how their loss ended, and how often by which value.

Counts name no cause. A search draws settings that vary together, so a setting without any effect
can look like the one that acts. They say where to look; only reruns (`mlp.causes.answer`) say what
acts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, Protocol

from mlp.causes.changes import (
    DEPTH,
    WIDTHS,
    entry_of,
    is_number,
    left_alone,
    places,
    plain,
)
from mlp.config import RunConfig, Value
from mlp.curve import CHANCE_LOSS, Judgement, Verdict
from mlp.settings import settings_of
from mlp.shares import Share, wilson
from mlp.study.space import Choice, Domain, Range, Space, typed

HEALTHY = frozenset({Verdict.LEARNING, Verdict.CONVERGED})  # what a cure ends in


class Deed(NamedTuple):
    """A bad verdict in words: the run does it, a setting makes it do so, something stops it."""

    does: str
    do: str
    noun: str


DEEDS = {
    Verdict.OSCILLATING: Deed("oscillates", "oscillate", "the swings"),
    Verdict.DIVERGED: Deed("diverges", "diverge", "the divergence"),
    Verdict.STALLED: Deed("stalls", "stall", "the stall"),
    Verdict.CLIMBING: Deed("climbs", "climb", "the climb"),
}


def deed(verdict: Verdict, n: int, of: str = "") -> str:
    """How many runs did so.

    Example:
        >>> deed(Verdict.STALLED, 1), deed(Verdict.STALLED, 2, "of 9 runs ")
        ('1 stalls', '2 of 9 runs stall')
    """
    return f"{n} {of}{DEEDS[verdict].does if n == 1 else DEEDS[verdict].do}"


def verdict_to_explain(verdicts: Sequence[Verdict]) -> Verdict:
    """Which verdict of a study is asked about where nobody says it.

    Diverged where most runs are; else oscillating where any run is; else the commonest bad one.
    Oscillating where none ended badly.

    Example:
        >>> verdict_to_explain([Verdict.STALLED, Verdict.OSCILLATING]).value
        'oscillating'
    """
    counts = Counter(own for own in verdicts if own in DEEDS)
    if 2 * counts[Verdict.DIVERGED] > len(verdicts):
        return Verdict.DIVERGED
    if counts[Verdict.OSCILLATING] or not counts:
        return Verdict.OSCILLATING
    return counts.most_common(1)[0][0]


_MAX_VALUES = 6  # more different numbers than this are put into ranges
_RANGES = 3
_LIKELY_LOG = 20.0  # numbers that span more than this were most likely drawn by their logarithm


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        config: in the form that `plain` gives.
        params: parameter name -> value, those that exist in this run: `model.widths[3]` only where
            there is a third layer.
    """

    config: RunConfig
    params: Mapping[str, Value]
    verdict: Verdict


def is_repair(before: Judgement, after: Judgement, chance: float = CHANCE_LOSS) -> bool:
    """Whether a changed run repairs the unchanged one.

    It ends learning or converged, no higher than the unchanged run, and below the loss of a network
    that knows nothing.

    Args:
        chance: that loss; infinite where nobody knows it.
    """
    highest = min(before.tail_loss, chance)
    return after.verdict in HEALTHY and after.tail_loss <= highest


def observe(
    configs: Sequence[RunConfig], verdicts: Sequence[Verdict], space: Space
) -> tuple[StudyRun, ...]:
    """The runs of a study, with the parameters of a space as `complete_space` gives it."""
    return tuple(
        StudyRun(plain(config), parameters_of(config, space), verdict)
        for config, verdict in zip(configs, verdicts, strict=True)
    )


def parameters_of(config: RunConfig, space: Space) -> dict[str, Value]:
    """Parameter name -> value of everything that varies in a space and exists in a run."""
    settings = settings_of(config)
    drawn = (place for entry in space for place in places(config, settings, entry))
    return {name: value for name, value, _ in drawn}


def complete_space(configs: Sequence[RunConfig], space: Space = ()) -> Space:
    """The space with every further setting in which the runs differ.

    An enqueued trial can differ in settings outside its study's space, and runs that no study made
    have no space at all: the domain is then what was seen.
    """
    if not configs:
        return space
    known = {entry.path for entry in space} | left_alone(configs[0])
    seen = [settings_of(plain(config)) for config in configs]
    further = []
    for path in seen[0]:
        values = [settings[path] for settings in seen]
        if path in known or len({typed(value) for value in values}) == 1:
            continue
        widths = [width for config in configs for width in config.model.layer_widths]
        if path != WIDTHS:
            further.append(entry_of(path, _seen_domain(path, values)))
        elif len(set(widths)) > 1:  # a list of one width that only differs in length is depth
            further.append(entry_of(path, _seen_range(widths)))
    return (*space, *further)


def _seen_domain(path: str, values: Sequence[Value]) -> Domain:
    numbers = [value for value in values if is_number(value)]
    if len(numbers) == len(values) and (path == DEPTH or len(set(numbers)) > 2):
        return _seen_range(numbers)
    return Choice(tuple({typed(value): value for value in values}.values()))


def _seen_range(numbers: Sequence[float]) -> Range:
    low, high = min(numbers), max(numbers)
    is_integer = all(isinstance(number, int) for number in numbers)
    return Range(low, high, low > 0 and high > _LIKELY_LOG * low, None, is_integer)


# Counts


class Judged(Protocol):
    """A run with its parameters and its verdict: a trial, a tracked run, another program's."""

    @property
    def params(self) -> Mapping[str, Value]:
        """Parameter name -> value, of those that exist in this run."""

    @property
    def verdict(self) -> Verdict:
        """How its loss ended."""


@dataclass(frozen=True)
class ValueCount:
    """How the runs with one value, or range, of one parameter ended.

    Attributes:
        parameter: its name, such as `model.widths[2]`.
        value: as typed, or a range such as `0.01 to 0.3`.
        counts: verdict -> runs.
    """

    parameter: str
    value: str
    counts: Mapping[Verdict, int]

    @property
    def n_runs(self) -> int:
        """All runs with this value."""
        return sum(self.counts.values())

    @property
    def n_oscillating(self) -> int:
        """Those that oscillate."""
        return self.counts.get(Verdict.OSCILLATING, 0)

    def share_of(self, verdict: Verdict) -> Share:
        """The share that ended so, with Wilson's 95 % interval."""
        return wilson(self.counts.get(verdict, 0), self.n_runs)


def count_values(runs: Sequence[Judged]) -> list[ValueCount]:
    """Counts verdicts by the values of each parameter; many numbers are put into three ranges.

    A run without a parameter is not counted for it. The parameters come by name, numbers by size.

    Example:
        >>> from mlp.study.identity import TrialRow
        >>> rows = [TrialRow(i, {"a": 1}, Verdict.STALLED, 0.5, {}) for i in range(2)]
        >>> [(own.parameter, own.value, own.n_runs) for own in count_values(rows)]
        [('a', '1', 2)]
    """
    names = sorted({name for run in runs for name in run.params})
    return [count for name in names for count in _by_value(name, runs)]


def explained_shares(
    runs: Sequence[Judged], asked: Verdict = Verdict.OSCILLATING
) -> dict[str, float]:
    """Parameter name -> how much of the difference between runs with a verdict it explains.

    The variance between the groups of `count_values` as a share of the variance of all runs, where
    y is 1 for a run with the verdict, else 0: sum_k n_k (mean_k - mean)^2 / sum (y - mean)^2. It is
    a guess about what to look at first, not evidence. Runs without a parameter are left out
    of the upper sum.
    """
    n_asked = sum(run.verdict is asked for run in runs)
    whole = n_asked * (1 - n_asked / len(runs)) if runs else 0.0
    shares = {}
    for name, own in groupby(count_values(runs), key=lambda count: count.parameter):
        groups = list(own)
        sizes = [(g.n_runs, g.counts.get(asked, 0)) for g in groups]
        mean = sum(n for _, n in sizes) / sum(n_runs for n_runs, _ in sizes)
        between = sum(n_runs * (n / n_runs - mean) ** 2 for n_runs, n in sizes)
        shares[name] = between / whole if whole else 0.0
    return shares


def _by_value(name: str, runs: Sequence[Judged]) -> list[ValueCount]:
    by_text: dict[str, list[Judged]] = {}
    for run in runs:
        if name in run.params:
            by_text.setdefault(typed(run.params[name]), []).append(run)
    groups = list(by_text.values())
    if all(is_number(group[0].params[name]) for group in groups):
        groups.sort(key=lambda group: _number(group[0], name))
        if len(groups) > _MAX_VALUES:
            groups = _in_ranges(groups)
        by_text = _by_range(groups, name)
    return [
        ValueCount(name, text, Counter(run.verdict for run in group))
        for text, group in by_text.items()
    ]


def _in_ranges(groups: Sequence[Sequence[Judged]]) -> list[list[Judged]]:
    """Groups of rising value in ranges of about equally many runs; equal values stay together."""
    n_runs = sum(len(group) for group in groups)
    ranges: list[list[Judged]] = [[]]
    n_before = 0
    for group in groups:
        if n_before * _RANGES >= n_runs * len(ranges):
            ranges.append([])
        ranges[-1] += group
        n_before += len(group)
    return ranges


def _by_range(groups: Sequence[list[Judged]], name: str) -> dict[str, list[Judged]]:
    """Groups by their value or range, in as few digits as tell them apart."""
    ends = [(_number(group[0], name), _number(group[-1], name)) for group in groups]
    n_digits = 3 if all(low == high for low, high in ends) else 2
    while True:
        texts = {
            _range_text(*both, n_digits): group for both, group in zip(ends, groups, strict=True)
        }
        if len(texts) == len(groups):
            return texts
        n_digits += 1


def _range_text(low: float, high: float, n_digits: int) -> str:
    return " to ".join(_shown(end, n_digits) for end in dict.fromkeys((low, high)))


def _shown(number: float, n_digits: int) -> str:
    """As short as it gets: 1e-5, where Python would say 1e-05."""
    if isinstance(number, int):
        return str(number)
    if not 0 < abs(number) < 1e-3:
        return f"{number:.{n_digits}g}"
    mantissa, exponent = f"{number:.{n_digits - 1}e}".split("e")
    return f"{float(mantissa):.{n_digits}g}e{int(exponent)}"


def _number(run: Judged, name: str) -> float:
    number = run.params[name]
    assert is_number(number)
    return number
