"""Tables of a study: reduced first, drawn after."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.text import Text

from mlp.config import Value
from mlp.curve import Verdict
from mlp.domain import typed
from mlp.study import TrialRow

_MAX_VALUES = 6  # more different numbers than this are shown in ranges
_RANGES = 3


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


def render_verdicts(summary: Sequence[VerdictCounts]) -> Text:
    """The counts as a table for the terminal; verdicts that never came out have no column.

    A parameter has a line of its own, so that the table of the longest name fits 80 columns.
    """
    seen = [v for v in Verdict if any(counts.counts.get(v) for counts in summary)]
    headings = [*(verdict.value for verdict in seen), "share"]
    width = max([len("setting"), *(len(counts.value) + 2 for counts in summary)])
    lines = [Text("verdicts by setting (share: of oscillating runs)", style="italic")]
    lines += [Text(f"{'setting':<{width}}  {'  '.join(headings)}", style="bold")]
    previous = ""
    for counts in summary:
        if counts.parameter != previous:
            lines.append(Text(counts.parameter, style="bold"))
            previous = counts.parameter
        share = f"{counts.oscillating_share:.0%}"
        cells = [str(counts.counts.get(verdict, 0) or "·") for verdict in seen]
        cells.append(share if share != "0%" else "·")
        aligned = [f"{cell:>{len(name)}}" for cell, name in zip(cells, headings, strict=True)]
        lines.append(Text(f"  {counts.value:<{width - 2}}  {'  '.join(aligned)}"))
    return Text("\n", no_wrap=True, overflow="ellipsis").join(lines)


def _by_value(name: str, rows: Sequence[TrialRow]) -> list[VerdictCounts]:
    having = [row for row in rows if name in row.params]
    values = {typed(row.params[name]): row.params[name] for row in having}
    numbers = [v for v in values.values() if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(values) <= _MAX_VALUES or len(numbers) < len(values):
        ordered = sorted(numbers) if len(numbers) == len(values) else list(values.values())
        groups = {_shown(v): [r for r in having if r.params[name] == v] for v in ordered}
    else:
        groups = _in_ranges(name, having)
    return [
        VerdictCounts(name, value, Counter(row.verdict for row in group))
        for value, group in groups.items()
    ]


def _shown(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else typed(value)


def _in_ranges(name: str, rows: Sequence[TrialRow]) -> dict[str, list[TrialRow]]:
    """Rows in ranges of about equal number, by rising value."""

    def value(row: TrialRow) -> float:
        number = row.params[name]
        assert isinstance(number, int | float)
        return number

    ordered = sorted(rows, key=value)
    size = math.ceil(len(ordered) / _RANGES)
    groups = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return {f"{value(g[0]):.2g} to {value(g[-1]):.2g}": g for g in groups}
