"""The page of a study: one HTML file that needs no network, the answer first."""

from collections.abc import Mapping, Sequence
from importlib.resources import files

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mlp.curve import Verdict
from mlp.report import figures, markup
from mlp.report.optuna_plots import search_figure
from mlp.report.parallel import parallel_figure
from mlp.report.question import QuestionSection
from mlp.report.summary import Combination, PageContent, RepairedRatio
from mlp.stability.forecast import Quality

_WIDE = ("causes", "parallel")  # figures that scroll sideways on a narrow screen
_MOST_ROWS = 500  # of the table of runs; a longer one is MLflow's task


def render_page(content: PageContent) -> str:
    """The page as the text of one HTML file, some 5 MB: the plotting library is inside.

    Whatever comes from a store (names, settings) is escaped.
    """
    plots = {
        name: markup.plot(name, figure, wide=name in _WIDE)
        for name, figure in figures_of(content).items()
    }
    sections = [
        _answer(content),
        _curves(content, plots),
        _question(content.question),
        _causes(content, plots),
        _space(plots),
        _stability(content, plots),
        _combinations(content.combinations),
        _search(plots),
        _runs(content),
        _commands(content.commands),
    ]
    return _PAGE.format(
        title=markup.escape(content.title),
        style=_asset("page.css"),
        script=_asset("page.js"),
        plotly=get_plotlyjs(),
        body="\n".join(own for own in sections if own),
        address=markup.escape(_template(content)),
    )


def figures_of(content: PageContent) -> dict[str, go.Figure]:
    """The figures of a page by name; one that would show nothing is not there."""
    found = content.answer
    drawn = {f"curves-{i}": figures.curves_figure(pair) for i, pair in enumerate(content.pairs)}
    if any(side.n_pairs for effect in found.effects for side in effect.sides):
        drawn["causes"] = figures.causes_figure(found)
    if found.association.importances:
        drawn["importance"] = figures.importance_figure(found.association.importances)
    drawn["map"] = figures.map_figure(content.runs)
    drawn["parallel"] = parallel_figure(content.runs, content.observed)
    if content.objective is not None:
        history = search_figure(content.runs, content.objective)
        if history is not None:
            drawn["search"] = history
    if content.ratios:
        drawn["stability"] = figures.stability_figure(content.runs, content.ratios)
    return drawn


def _answer(content: PageContent) -> str:
    sentences = "".join(f"<p>{markup.escape(sentence)}</p>" for sentence in content.sentences)
    facts = "".join(f"<li>{markup.escape(fact)}</li>" for fact in content.facts)
    return (
        "<header><h1>Why does the loss oscillate?</h1>"
        f"<p class=name>{markup.escape(content.title)}</p>"
        f"<div class=answer>{sentences}</div><ul class=facts>{facts}</ul></header>"
    )


def _curves(content: PageContent, plots: Mapping[str, str]) -> str:
    pairs = [
        f"<h3>{markup.escape(pair.name)}</h3>"
        f"<p class=change>repaired by {markup.escape(pair.change)}: {pair.verdict.value}</p>"
        + plots[f"curves-{i}"]
        for i, pair in enumerate(content.pairs)
    ]
    return markup.section(
        "Oscillating and repaired",
        "The loss of runs that oscillate, and of the same run with one setting changed.",
        *pairs,
    )


def _causes(content: PageContent, plots: Mapping[str, str]) -> str:
    what_was_done = (
        "A setting was changed in picked runs, trained again with further seeds, beside the "
        "unchanged run with the same seeds: a pair. Circles: pairs of an oscillating run of which "
        "the changed one learns. Diamonds: pairs of a healthy run of which the changed one "
        "oscillates. Each less the pairs in which the other one does. Lines are 95 % intervals. "
        "Red: a cause. Green: no effect. Orange: only ends the swings in runs that learn nothing. "
        "Grey: too little evidence."
    )
    correlation = (
        "Correlation over the whole study, both tails, conditional settings within the runs that "
        "have them; no proof of a cause. Grey bars may be chance."
    )
    words = f"<pre>{markup.escape(content.evidence)}</pre>"
    evidence = f"<details><summary>The evidence in words</summary>{words}</details>"
    return markup.section(
        "What changing one setting did",
        what_was_done,
        plots.get("causes", ""),
        evidence,
    ) + markup.section(
        "What goes along with it",
        correlation,
        plots.get("importance", ""),
    )


def _space(plots: Mapping[str, str]) -> str:
    return markup.section(
        "Where in the space",
        "Hover over a point for its run; opened as a file, a click shows it in MLflow.",
        plots["map"],
    ) + markup.section(
        "All settings",
        "A line a run. Drag along an axis to keep the runs that cross it there.",
        plots["parallel"],
    )


def _search(plots: Mapping[str, str]) -> str:
    if "search" not in plots:
        return ""
    return markup.section(
        "The search",
        "What was sought, trial by trial, and the best so far, as Optuna draws it. Good runs and "
        "oscillating ones are often close: the best value says nothing about the swings.",
        plots["search"],
    )


def _question(asked: QuestionSection | None) -> str:
    if asked is None:
        return ""
    losses = markup.table(
        ("iteration", "loss in the question", "loss here"),
        ((str(i), f"{theirs:.6f}", f"{ours:.6f}") for i, theirs, ours in asked.table),
    )
    corners = markup.table(
        (
            "the question's network",
            "derivative",
            "normalization",
            "runs",
            "amplitude",
            "period",
            "final loss",
        ),
        (
            (
                corner.what,
                corner.derivative,
                corner.normalization,
                _counted(corner.counts),
                f"{corner.amplitude:.2f}",
                _periods(corner.periods),
                "" if corner.final_loss is None else f"{corner.final_loss:.4g}",
            )
            for corner in asked.corners
        ),
    )
    return markup.section(
        "The question's own run",
        f"Its loss goes from {asked.lowest:.3f} to {asked.highest:.3f} here, and from 0.455 to "
        "4.852 at the iterations that the question printed. The same settings and first weights; "
        "the swings are chaotic, so that no two machines agree on them for long. "
        "Amplitude and final loss are medians over the seeds. The repair was searched in float32.",
        f"<p class=answer>{markup.escape(asked.repair)}</p>",
        corners,
        f"<details open><summary>Loss by iteration</summary>{losses}</details>",
    )


def _stability(content: PageContent, plots: Mapping[str, str]) -> str:
    if not content.ratios:
        return ""
    return markup.section(
        "Step against curvature",
        "The stability ratio, effective step x sharpness / 2, along the runs: above 1 a step "
        "leaves the present valley. That is not yet how a run ends.",
        plots["stability"],
        _quality(content.quality),
        _repaired(content.repaired_ratios),
    )


def _quality(quality: Mapping[str, Quality]) -> str:
    if not quality:
        return ""
    rows = (
        (
            name,
            str(own.n_runs),
            str(own.n_oscillating),
            f"{own.hits.value:.0%} [{own.hits.low:.0%}, {own.hits.high:.0%}]",
            ""
            if own.auc is None
            else f"{own.auc.value:.2f} [{own.auc.low:.2f}, {own.auc.high:.2f}]",
            str(own.missed),
            _counted(own.false_alarms) or "0",
        )
        for name, own in quality.items()
    )
    heads = (
        "normalization",
        "runs",
        "oscillating",
        "forecast right",
        "AUC",
        "missed",
        "false alarms",
    )
    return (
        "<h3>The forecast before the first step</h3><p>A ratio above 1 at the first weights "
        "forecasts an oscillating end.</p>" + markup.table(heads, rows)
    )


def _repaired(ratios: Sequence[RepairedRatio]) -> str:
    if not ratios:
        return ""
    rows = (
        (own.name, f"{own.own_tail:.3g}", own.change, f"{own.highest:.3g}", f"{own.tail:.3g}")
        for own in ratios
    )
    heads = ("saturated run", "its ratio at the end", "repaired by", "highest", "at the end")
    return (
        "<h3>Saturated runs</h3><p>Their units saturate until the curvature, and the ratio with "
        "it, is gone. The last two columns give the ratio of the same step along the repaired "
        "run.</p>" + markup.table(heads, rows)
    )


def _combinations(combinations: Sequence[Combination]) -> str:
    if not combinations:
        return ""
    names = list(dict.fromkeys(name for own in combinations for name in own.settings))
    rows = (
        (
            *(own.settings.get(name, "") for name in names),
            _counted(own.counts),
            f"{own.amplitude:.3g}",
            _periods(own.periods),
            "" if own.final_loss is None else f"{own.final_loss:.4g}",
        )
        for own in combinations
    )
    return markup.section(
        "Every combination",
        "Runs that differ in their seeds alone are put together. Amplitude (peak to peak over the "
        "level, at the end of the run) and final loss are medians; periods are in steps.",
        markup.table((*names, "runs", "amplitude", "period", "final loss"), rows),
    )


def _runs(content: PageContent) -> str:
    names = list(dict.fromkeys(name for run in content.observed for name in run.params))
    rows = []
    for run, seen, address in zip(content.runs, content.observed, content.addresses, strict=True):
        verdict = run.judgement.verdict
        accuracy = run.metrics.get("final_validation_accuracy")
        rows.append(
            (
                markup.link(address, run.name),
                markup.Raw(f"<span class=verdict data-verdict={verdict}>{verdict}</span>"),
                f"{run.judgement.amplitude:.3g}",
                "" if run.judgement.period_steps is None else str(run.judgement.period_steps),
                "" if accuracy is None else f"{accuracy:.4f}",
                *(_value(seen.params.get(name)) for name in names),
            )
        )
    more = "" if len(rows) <= _MOST_ROWS else f" The first {_MOST_ROWS} of {len(rows)} are shown."
    return markup.section(
        "The runs",
        f"A run opens in MLflow while its server runs (python -m mlflow ui).{more}",
        "<input id=filter type=search placeholder='filter the runs, such as oscillating sum' "
        "aria-label='filter the runs'>",
        markup.table(
            ("run", "verdict", "amplitude", "period", "accuracy", *names), rows[:_MOST_ROWS], "runs"
        ),
    )


def _commands(commands: Sequence[str]) -> str:
    lines = markup.escape("\n".join(commands))
    return markup.section("Next", "", f"<pre>{lines}</pre>") if commands else ""


def _counted(counts: Mapping[Verdict, int]) -> str:
    return ", ".join(
        f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts.get(verdict)
    )


def _periods(periods: Mapping[int, int]) -> str:
    return ", ".join(str(period) for period in sorted(periods)) or "none"


def _value(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _template(content: PageContent) -> str:
    """The address of a run in MLflow with %RUN% in the place of its id."""
    first = content.runs[0].run_id if content.runs else ""
    return content.addresses[0].replace(first, "%RUN%") if first else ""


def _asset(name: str) -> str:
    return files("mlp.report").joinpath(name).read_text(encoding="utf-8")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: why does the loss oscillate?</title>
<style>{style}</style>
<script>{plotly}</script>
</head>
<body data-address="{address}">
<main>
{body}
</main>
<div id="hint" role="status" hidden>Ctrl-click opens the run in a new tab.</div>
<script>{script}</script>
</body>
</html>
"""
