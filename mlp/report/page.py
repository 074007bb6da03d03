"""The page of a study: one HTML file that needs no network, the answer first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from mlp.causes.changes import LEARNING_RATE, NORMALIZATION, WIDTHS
from mlp.causes.observed import count_values
from mlp.config import RunConfig, Value
from mlp.curve import Verdict
from mlp.report.figures import STYLE, TEMPLATES, figures_of
from mlp.report.summary import PageContent
from mlp.settings import settings_of
from mlp.shares import Share
from mlp.study.space import typed

_MOST_ROWS = 500  # of the table of runs; a longer one is MLflow's task


@dataclass(frozen=True)
class _RunRow:
    """A line of the table of runs; of the cells after the verdict, None is an empty one."""

    name: str
    address: str
    verdict: Verdict
    cells: tuple[Value | None, ...]


def render_page(content: PageContent) -> str:
    """The page as the text of one HTML file.

    Whatever comes from a store (names, settings) is escaped.
    """
    seen = {run.judgement.verdict for run in content.runs}
    varied = _varied(content)
    return TEMPLATES.get_template("page.html").render(
        content=content,
        figures=figures_of(content),
        counts=count_values(content.observed),
        verdicts=[verdict.value for verdict in Verdict if verdict in seen],
        varied=varied,
        is_built_in=all(run.config.own is None for run in content.runs),
        rows=_rows(content, varied),
        combined=list(dict.fromkeys(name for own in content.combinations for name in own.settings)),
        style=_text("page.css") + STYLE,
        script=_text("page.js"),
    )


def _varied(content: PageContent) -> list[str]:
    """The settings in which the runs differ; those drawn by another one, or by layer, once."""
    names = {name.partition("[")[0]: None for run in content.observed for name in run.params}
    first = {name: None for name in (LEARNING_RATE, NORMALIZATION) if name in names}
    return list(first | names)


def _rows(content: PageContent, varied: Sequence[str]) -> list[_RunRow]:
    rows = []
    for run, address in zip(content.runs[:_MOST_ROWS], content.addresses, strict=False):
        settings = _settings(run.config)
        cells = (
            run.metrics.get("final_loss"),
            run.metrics.get("final_validation_accuracy"),
            run.judgement.amplitude,
            run.judgement.period_steps,
            *(settings[name] for name in varied),
        )
        rows.append(_RunRow(run.name, address, run.judgement.verdict, cells))
    return rows


def _settings(config: RunConfig) -> dict[str, Value]:
    return settings_of(config) | {WIDTHS: list(config.model.layer_widths)}


def _text(name: str) -> str:
    return files("mlp.report").joinpath(name).read_text(encoding="utf-8")


def _counted(counts: Mapping[Verdict, int]) -> str:
    return ", ".join(
        f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts.get(verdict)
    )


def _interval(share: Share) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"


def _range(share: Share | None) -> str:
    return "" if share is None else f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})"


def _value(value: Value | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else typed(value)


TEMPLATES.filters |= {
    "counted": _counted,
    "interval": _interval,
    "range": _range,
    "value": _value,
}
