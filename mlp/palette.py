"""The colours of the verdicts, the same in MLflow's charts and on the page of a study.

They stand out from white and from near black. Where a colour alone would say it, a symbol goes
with it.
"""

from mlp.curve import Verdict

VERDICT_SHADES: dict[Verdict, tuple[str, ...]] = {
    Verdict.DIVERGED: ("#8e44ad", "#6c3483", "#a569bd"),
    Verdict.OSCILLATING: ("#d7301f", "#a50f15", "#ef6548", "#fc8d59"),
    Verdict.CLIMBING: ("#cf7a00", "#b36b00", "#f2a33a"),
    Verdict.LEARNING: ("#2c7fb8", "#08519c", "#6baed6", "#17becf"),
    Verdict.STALLED: ("#8c8c8c", "#636363", "#b0b0b0"),
    Verdict.FLAT: ("#a6761d", "#7f5a12", "#c9a25a"),
    Verdict.CONVERGED: ("#1b9e77", "#00734f", "#66c2a5", "#5aae61"),
    Verdict.FAILED: ("#c2457c", "#9c2f60", "#dd7ba6"),
}
"""Verdict -> shades of one hue, so that runs of one verdict can be told apart in a chart."""

VERDICT_COLOURS = {verdict: shades[0] for verdict, shades in VERDICT_SHADES.items()}
"""Verdict -> its colour, where one is enough."""
