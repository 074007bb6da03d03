"""What a run's record shows of its mechanism: dead units, vanishing gradients, one overshoot.

A symptom is what was measured along one run, no cause: that takes reruns.
"""

import math
from collections.abc import Iterator

import numpy as np

from mlp.config import RunConfig
from mlp.curve import CHANCE_LOSS, Judgement, Verdict
from mlp.engine.result import Result

_AT_CHANCE = 0.02  # of chance: nearer than that to the loss of guessing
_VANISHING = 0.02  # of the last layer's gradient: what is left of it in the first, or less
_TINY_UPDATE = 1e-4  # of the weights: a thousand such steps move them by a tenth
_MANY = 0.5  # of a layer's units
_LARGE = 2.0  # times a layer's weights: from here on an update is not told in per cent
_LEAP = 0.5  # of the loss: by what an update that kills a network raises it, at least


def symptoms_of(config: RunConfig, result: Result, judgement: Judgement) -> tuple[str, ...]:
    """What a run that ended badly shows of why, in sentences, the most telling first.

    Args:
        result: `layer_step` and what was measured there may be empty, as in records of before;
            `since` is exact where `training.evaluate_every` is 1.
        judgement: of its loss. A run that learned shows nothing.
    """
    is_bad = judgement.verdict not in (Verdict.LEARNING, Verdict.CONVERGED)
    return tuple(_findings(config, result, judgement)) if is_bad else ()


def _findings(config: RunConfig, result: Result, judgement: Judgement) -> Iterator[str]:
    verdict = judgement.verdict
    idle = list(_idle_units(config, result)) if result.layer_step.size else []
    yield from idle
    if config.initialization.scheme == "zeros":
        yield "All weights start at zero, so the units of a layer stay alike: it is as narrow as 1."
    elif result.layer_step.size and not idle and verdict is Verdict.STALLED:
        yield from _gradients(result)
    is_at_chance = abs(judgement.tail_loss - CHANCE_LOSS) < _AT_CHANCE * CHANCE_LOSS
    if verdict is Verdict.STALLED and is_at_chance:
        yield f"Its loss stays at {judgement.tail_loss:.3g}, which is that of guessing."
    if verdict is Verdict.DIVERGED:
        yield from _explosion(result)


def _idle_units(config: RunConfig, result: Result) -> Iterator[str]:
    """Of the layer that is idle first, or most, at the end of the run."""
    is_relu = config.model.activation == "relu"
    word = "dead" if is_relu else "saturated"
    idle, step = result.layer_idle, result.layer_step
    whole = [layer for layer in range(idle.shape[1]) if idle[-1, layer] == 1]
    if whole:
        first = {layer: _since(idle[:, layer] == 1) for layer in whole}
        layer = min(first, key=lambda own: (first[own], -own))
        place, n = first[layer], config.model.layer_widths[layer]
        units = "The only unit" if n == 1 else f"All {n} units"
        verb = "is" if n == 1 else "are"
        since = _when(step, place)
        meaning = "0 for every example" if is_relu else "at an end of their range"
        said = f"{units} of hidden layer {layer + 1} {verb} {word} {since}: {meaning}, so that "
        yield said + "nothing below learns."
        yield from _overshoot(result, place, word)
        return
    layer = int(idle[-1].argmax())
    if idle[-1, layer] >= _MANY:
        yield (
            f"{idle[-1, layer]:.0%} of the units of hidden layer {layer + 1} are {word} at the end "
            f"({idle[0, layer]:.0%} {'with its first weights' if step[0] == 0 else 'at first'})."
        )


def _since(is_so: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> int:
    """The first entry from which on it is so to the end."""
    others = np.flatnonzero(~is_so)
    return int(others[-1]) + 1 if others.size else 0


def _when(step: "np.ndarray[tuple[int], np.dtype[np.int64]]", place: int) -> str:
    if place == 0:
        return "from the start" if step[0] == 0 else f"since step {step[0]} or before"
    if step[place] - step[place - 1] == 1:
        return f"since step {step[place]}"
    return f"since step {step[place]}, or up to {step[place] - step[place - 1] - 1} steps before"


def _overshoot(result: Result, place: int, word: str) -> Iterator[str]:
    """The highest leap of the loss until a layer was idle: one update that killed it."""
    until = result.loss[result.loss_step <= result.layer_step[place]]
    if until.size < 2 or not np.isfinite(until).all():
        return
    leap = int(np.argmax(np.diff(until)))
    low, high = float(until[leap]), float(until[leap + 1])
    if high > (1 + _LEAP) * low:
        step = int(result.loss_step[leap])
        look = max(0, int(np.searchsorted(result.layer_step, step, "right")) - 1)
        size = float(result.layer_update[look].max())
        share = f"{size:.0%} of" if size < _LARGE else f"{size:.3g} times"
        yield (
            f"One overshoot made them {word}: an update of {share} a layer's weights, at "
            f"which the loss leapt from {low:.3g} to {high:.3g} at step {step + 1}."
        )


def _gradients(result: Result) -> Iterator[str]:
    """Whether gradients vanish on their way down, or updates are too small to move anything."""
    first, last = (float(result.layer_gradient[0, layer]) for layer in (0, -1))
    depth = result.layer_gradient.shape[1] - 1
    if depth > 1 and 0 <= first < _VANISHING * last:
        yield (
            f"Gradients vanish towards the first layer: {first:.2g} there, {last:.2g} in the last "
            f"({last / first:.3g} times as much)."
            if first
            else f"Gradients vanish towards the first layer: 0 there, {last:.2g} in the last."
        )
    largest = float(np.median(result.layer_update, axis=0).max())
    if largest < _TINY_UPDATE:
        yield f"An update moves no layer by more than {largest:.1g} of its weights."


def _explosion(result: Result) -> Iterator[str]:
    finite = np.flatnonzero(np.isfinite(result.loss))
    if not finite.size:
        yield "No loss was finite, not even with its first weights."
        return
    low, high = float(result.loss[0]), float(result.loss[finite].max())
    if high > (1 + _LEAP) * max(low, CHANCE_LOSS):
        step = int(result.loss_step[finite[int(np.argmax(result.loss[finite]))]])
        lost = int(result.loss_step[-1]) if math.isnan(result.loss[-1]) else result.last_step
        yield f"Its loss grew from {low:.3g} to {high:.3g} at step {step}; at {lost} it was lost."
