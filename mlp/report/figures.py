"""The figures of a study, as plotly's objects: usable in a notebook as well as on the page.

Colours keep the verdicts apart for colour-blind readers too, and a symbol goes with each.
"""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from mlp.causes.answer import Answer
from mlp.causes.association import Importance
from mlp.causes.effects import Effect, SideEffect
from mlp.causes.evidence import Conclusion
from mlp.causes.plan import Side
from mlp.curve import Verdict
from mlp.report.summary import CurvePair
from mlp.tracking.display import ThinCurve
from mlp.tracking.read import PastRun

VERDICT_COLOURS = {
    Verdict.DIVERGED: "#7b3294",
    Verdict.OSCILLATING: "#d7301f",
    Verdict.CLIMBING: "#f28e2b",
    Verdict.LEARNING: "#2c7fb8",
    Verdict.STALLED: "#8c8c8c",
    Verdict.CONVERGED: "#1b9e77",
}
_SYMBOLS = {
    Verdict.DIVERGED: "x",
    Verdict.OSCILLATING: "circle",
    Verdict.CLIMBING: "triangle-up",
    Verdict.LEARNING: "diamond",
    Verdict.STALLED: "square",
    Verdict.CONVERGED: "circle-open",
}
CONCLUSION_COLOURS = {
    Conclusion.CAUSE: "#d7301f",
    Conclusion.NO_EFFECT: "#1b9e77",
    Conclusion.ONLY_FAILS: "#f28e2b",
    Conclusion.TOO_LITTLE: "#8c8c8c",
}
_SIDES = (Side.STOPS, Side.STARTS)  # the cures first
_PAIR_HEIGHT, _LINE_HEIGHT = 270, 26
_MOST_IMPORTANCES = 12
_RATE, _NORMALIZATION = "optimizer.learning_rate", "gradient.normalization"


def curves_figure(pair: CurvePair) -> go.Figure:
    """The loss of an oscillating run with that of its repaired run."""
    figure = go.Figure()
    for curve, name, colour in (
        (pair.before, "oscillating run", VERDICT_COLOURS[Verdict.OSCILLATING]),
        (pair.after, "repaired run", VERDICT_COLOURS[Verdict.CONVERGED]),
    ):
        figure.add_scatter(
            x=curve.step.tolist(),
            y=_rounded(curve.value.tolist()),
            name=name,
            mode="lines",
            line={"color": colour, "width": 1.2},
        )
    figure.update_yaxes(type="log", title_text="loss", exponentformat="power")
    figure.update_xaxes(title_text="step")
    figure.update_layout(height=_PAIR_HEIGHT)
    return bare(figure, margin={"l": 60, "r": 20, "t": 30, "b": 45})


def causes_figure(answer: Answer) -> go.Figure:
    """What changing each setting alone did, with 95 % intervals, in pairs with the same seed."""
    figure = go.Figure()
    for side, title in ((Side.STARTS, "starts it"), (Side.STOPS, "stops it")):
        own = [(e, s) for e in answer.effects if (s := e.on(side)) is not None and s.n_pairs]
        if not own:
            continue
        shares = [s.difference for _, s in own]
        figure.add_scatter(
            x=[share.value for share in shares],
            y=[str(effect.factor) for effect, _ in own],
            error_x={
                "type": "data",
                "array": [share.high - share.value for share in shares],
                "arrayminus": [share.value - share.low for share in shares],
                "thickness": 1.4,
                "color": "#999999",
            },
            mode="markers",
            name=title,
            orientation="h",  # the side by side of a group goes along the settings
            marker={
                "size": 11,
                "symbol": "circle" if side is Side.STOPS else "diamond-open",
                "color": [_effect_colour(answer, effect, s) for effect, s in own],
            },
            text=[_effect_hover(effect, s) for effect, s in own],
            hovertemplate="%{y}<br>%{text}<extra></extra>",
        )
    order = sorted(answer.effects, key=lambda effect: [_difference(effect, s) for s in _SIDES])
    figure.update_yaxes(
        categoryorder="array", categoryarray=[str(effect.factor) for effect in order]
    )
    n_lines = len({str(effect.factor) for effect in answer.effects})
    figure.add_vline(x=0, line_width=1, line_dash="dot")
    figure.update_xaxes(
        title_text="pairs that turned, less those that turned the other way",
        tickformat=".0%",
        range=[-1.05, 1.05],
    )
    figure.update_layout(
        height=150 + _LINE_HEIGHT * max(4, n_lines), scattermode="group", scattergap=0.4
    )
    figure.update_layout(legend_traceorder="reversed")  # a group is drawn from the bottom up
    return bare(figure)


def importance_figure(importances: Sequence[Importance]) -> go.Figure:
    """How much of the verdict goes along with each parameter over the whole study."""
    shown = list(importances[:_MOST_IMPORTANCES])[::-1]
    figure = go.Figure(
        go.Bar(
            x=[max(0.0, own.of_study) for own in shown],
            y=[own.parameter for own in shown],
            orientation="h",
            marker={"color": ["#2c7fb8" if own.is_clear else "#c0c0c0" for own in shown]},
            text=[
                f"most often at {own.most_often}, least at {own.least_often} "
                f"(p = {own.p_value:.2g}, {own.n_runs} runs)"
                for own in shown
            ],
            textposition="none",
            hovertemplate="%{y}: %{x:.0%}<br>%{text}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="share of the verdict's variance", tickformat=".0%")
    figure.update_layout(height=130 + _LINE_HEIGHT * max(3, len(shown)), showlegend=False)
    return bare(figure)


def map_figure(runs: Sequence[PastRun]) -> go.Figure:
    """Learning rate by normalization, each run coloured by its verdict; its id is with it."""
    names = list(dict.fromkeys(run.config.gradient.normalization for run in runs))
    figure = go.Figure()
    for verdict in Verdict:
        own = [i for i, run in enumerate(runs) if run.judgement.verdict is verdict]
        figure.add_scatter(
            x=[runs[i].config.optimizer.learning_rate for i in own],
            y=[_lane(names, runs[i], i) for i in own],
            mode="markers",
            name=verdict.value,
            marker={
                "color": VERDICT_COLOURS[verdict],
                "symbol": _SYMBOLS[verdict],
                "size": 9,
                "opacity": 0.85,
            },
            text=[runs[i].name for i in own],
            customdata=[runs[i].run_id for i in own],
            hovertemplate="%{text}<br>learning rate %{x:.4g}<extra>" + verdict.value + "</extra>",
            visible=True if own else "legendonly",
        )
    figure.update_xaxes(type="log", title_text=_RATE, exponentformat="power")
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[-0.6, len(names) - 0.4]
    )
    figure.update_layout(height=170 + 70 * len(names))
    return bare(figure)


def stability_figure(runs: Sequence[PastRun], ratios: Mapping[int, ThinCurve]) -> go.Figure:
    """The stability ratio along each run, with the line at 1."""
    figure = go.Figure()
    seen: set[Verdict] = set()
    for i, curve in ratios.items():
        verdict = runs[i].judgement.verdict
        figure.add_scatter(
            x=[int(step) + 1 for step in curve.step],  # so that step 0 has a place on the axis
            y=_rounded(curve.value.tolist()),
            mode="lines+markers",
            marker={"size": 4},
            name=verdict.value,
            legendgroup=verdict.value,
            showlegend=verdict not in seen,
            line={"color": VERDICT_COLOURS[verdict], "width": 1},
            opacity=0.6,
            text=[runs[i].name] * len(curve.step),
            hovertemplate="%{text}<br>ratio %{y:.3g}<extra></extra>",
        )
        seen.add(verdict)
    figure.add_hline(y=1, line_width=1.5, line_dash="dash")
    figure.update_xaxes(type="log", title_text="step + 1", exponentformat="power")
    figure.update_yaxes(type="log", title_text="stability ratio", exponentformat="power")
    figure.update_layout(height=460)
    return bare(figure)


def _difference(effect: Effect, side: Side) -> float:
    found = effect.on(side)
    return found.difference.value if found is not None and found.n_pairs else 0.0


def _effect_colour(answer: Answer, effect: Effect, side: SideEffect) -> str:
    """Of its conclusion; grey where another cause explains it, or this side does not show it."""
    shown = effect.conclusion
    if shown is Conclusion.CAUSE:
        is_named = any(effect.factor.setting in cause.settings for cause in answer.causes)
        if not is_named or side.difference.value <= 0:
            shown = Conclusion.TOO_LITTLE
    return CONCLUSION_COLOURS[shown]


def _effect_hover(effect: Effect, side: SideEffect) -> str:
    endings = ", ".join(f"{n} {verdict.value}" for verdict, n in side.endings.items())
    return (
        f"{effect.conclusion.value}, p = {effect.p_value:.2g}<br>turned {side.n_with}, the other "
        f"way {side.n_against}, of {side.n_pairs} pairs<br>ended {endings}"
    )


def _lane(names: Sequence[str], run: PastRun, place: int) -> float:
    """The lane of a normalization, spread a little so that equal points stay apart."""
    return names.index(run.config.gradient.normalization) + 0.5 * ((place * 0.618034) % 1 - 0.5)


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def bare(figure: go.Figure, margin: Mapping[str, int] | None = None) -> go.Figure:
    """No colours of its own: the page puts its light or dark ones in."""
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin=dict(margin or {"l": 60, "r": 20, "t": 50, "b": 50}),
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    figure.update_yaxes(automargin=True)
    return figure
