"""Tables of a study: reduced first, drawn after."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from mlp.config import Value
from mlp.curve import Verdict
from mlp.study.identity import TrialRow
from mlp.study.space import typed

_MAX_VALUES = 6  # more different numbers than this are shown in ranges
_RANGES = 3
_COLUMNS = 80


@dataclass(frozen=True)
class VerdictCounts:
    """How often each verdict came out for one value, or range, of one parameter.

    Attributes:
        parameter: its name.
        value: the value as typed, or a range such as `0.01 to 0.3`.
        counts: verdict -> trials.
    """

    parameter: str
    value: str
    counts: Mapping[Verdict, int]

    @property
    def n_trials(self) -> int:
        """All trials with this value."""
        return sum(self.counts.values())

    @property
    def oscillating_share(self) -> float:
        """Share of them that oscillate, 0 to 1."""
        return self.counts.get(Verdict.OSCILLATING, 0) / self.n_trials


def summarise_verdicts(rows: Sequence[TrialRow]) -> list[VerdictCounts]:
    """Counts verdicts by the values of each parameter; many numbers are put into three ranges.

    Example:
        >>> rows = [TrialRow(i, {"a": 1}, Verdict.STALLED, 0.5, {}) for i in range(2)]
        >>> summarise_verdicts(rows)[0].value, summarise_verdicts(rows)[0].n_trials
        ('1', 2)
    """
    names = dict.fromkeys(sorted(name for row in rows for name in row.params))
    return [counts for name in names for counts in _by_value(name, rows)]


def render_verdicts(summary: Sequence[VerdictCounts]) -> Group:
    """The counts as a table for the terminal; verdicts that never came out have no column.

    A parameter has a line of its own, so that the table of the longest name fits 80 columns.
    """
    seen = [v for v in Verdict if any(counts.counts.get(v) for counts in summary)]
    headings = [*(verdict.value for verdict in seen), "share"]
    width = max(len("setting"), *(len(counts.value) + 1 for counts in summary), 0)
    gap = " " if width + sum(len(name) + 2 for name in headings) > _COLUMNS else "  "
    lines = [_line("verdicts by setting (share: of runs that oscillate)", style="italic")]
    lines += [_line(gap.join([f"{'setting':<{width}}", *headings]), style="bold")]
    previous = ""
    for counts in summary:
        if counts.parameter != previous:
            lines.append(_line(counts.parameter, style="bold"))
            previous = counts.parameter
        share = f"{counts.oscillating_share:.0%}"
        cells = [str(counts.counts.get(verdict, 0) or "·") for verdict in seen]
        cells.append(share if share != "0%" else "·")
        aligned = [f"{cell:>{len(name)}}" for cell, name in zip(cells, headings, strict=True)]
        lines.append(_line(gap.join([f" {counts.value:<{width - 1}}", *aligned])))
    return Group(*lines)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _by_value(name: str, rows: Sequence[TrialRow]) -> list[VerdictCounts]:
    having = [row for row in rows if name in row.params]
    by_text: dict[str, list[TrialRow]] = {}
    groups: Mapping[str, Sequence[TrialRow]]
    for row in having:
        by_text.setdefault(typed(row.params[name]), []).append(row)
    if not all(_is_number(row.params[name]) for row in having):
        groups = by_text
    elif len(by_text) <= _MAX_VALUES:
        ordered = sorted(by_text.values(), key=lambda group: _number(group[0], name))
        groups = _named(ordered, name)
    else:
        groups = _named(_in_ranges(name, list(by_text.values())), name)
    return [
        VerdictCounts(name, value, Counter(row.verdict for row in group))
        for value, group in groups.items()
    ]


def _in_ranges(name: str, groups: Sequence[Sequence[TrialRow]]) -> list[list[TrialRow]]:
    """Rows in ranges of about equal number, by rising value; equal values stay together."""
    n_rows = sum(len(group) for group in groups)
    ranges: list[list[TrialRow]] = [[]]
    n_before = 0
    for group in sorted(groups, key=lambda group: _number(group[0], name)):
        if n_before * _RANGES >= n_rows * len(ranges):
            ranges.append([])
        ranges[-1] += group
        n_before += len(group)
    return ranges


def _named(groups: Sequence[Sequence[TrialRow]], name: str) -> dict[str, Sequence[TrialRow]]:
    """Groups by their value or range, in as few digits as tell them apart."""
    ends = [(_number(group[0], name), _number(group[-1], name)) for group in groups]
    n_digits = 3 if all(low == high for low, high in ends) else 2
    texts = [_range(low, high, n_digits) for low, high in ends]
    while len(set(texts)) < len(texts):
        n_digits += 1
        texts = [_range(low, high, n_digits) for low, high in ends]
    return dict(zip(texts, groups, strict=True))


def _range(low: float, high: float, n_digits: int) -> str:
    texts = [_shown(end, n_digits) for end in (low, high)]
    return texts[0] if low == high else " to ".join(texts)


def _shown(number: float, n_digits: int) -> str:
    """As short as it gets: 1e-5, where Python would say 1e-05."""
    if isinstance(number, int):
        return str(number)
    if not 0 < abs(number) < 1e-3:
        return f"{number:.{n_digits}g}"
    mantissa, exponent = f"{number:.{n_digits - 1}e}".split("e")
    return f"{float(mantissa):.{n_digits}g}e{int(exponent)}"


def _number(row: TrialRow, name: str) -> float:
    number = row.params[name]
    assert isinstance(number, int | float)
    return number


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
