"""The table of verdicts by setting, as a sweep prints it at its end."""

from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from mlp.causes.counts import ValueCount
from mlp.curve import Verdict

_COLUMNS = 80


def render_verdicts(counts: Sequence[ValueCount]) -> Group:
    """The counts as a table for the terminal; verdicts that never came out have no column.

    A parameter has a line of its own, so that the table of the longest name fits 80 columns.

    Args:
        counts: as `mlp.causes.counts.count_values` gives them.
    """
    seen = [v for v in Verdict if any(own.counts.get(v) for own in counts)]
    headings = [*(verdict.value for verdict in seen), "share"]
    width = max(len("setting"), *(len(own.value) + 1 for own in counts), 0)
    gap = " " if width + sum(len(name) + 2 for name in headings) > _COLUMNS else "  "
    lines = [_line("verdicts by setting (share: of runs that oscillate)", style="italic")]
    lines += [_line(gap.join([f"{'setting':<{width}}", *headings]), style="bold")]
    previous = ""
    for own in counts:
        if own.parameter != previous:
            lines.append(_line(own.parameter, style="bold"))
            previous = own.parameter
        share = f"{own.n_oscillating / own.n_runs:.0%}"
        cells = [str(own.counts.get(verdict, 0) or "·") for verdict in seen]
        cells.append(share if share != "0%" else "·")
        aligned = [f"{cell:>{len(name)}}" for cell, name in zip(cells, headings, strict=True)]
        lines.append(_line(gap.join([f" {own.value:<{width - 1}}", *aligned])))
    return Group(*lines)


def _line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
