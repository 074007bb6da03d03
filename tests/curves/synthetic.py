"""Loss curves made by formula, each from its own seed; the long ones would be too big to store.

A family states what was drawn, not what the judge should say: the labels in `labels.csv` were
given by looking at the curves.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Synthetic:
    """A curve by formula.

    Attributes:
        recipe: what was drawn, for a person.
        n_entries: its length.
        draw: `(t, random) -> loss`; `t` runs from 0 to 1 over the entries.
        sampling_error: standard error of one entry, where the recipe has sampling noise.
    """

    recipe: str
    n_entries: int
    draw: Callable[[Curve, np.random.RandomState], Curve]
    sampling_error: float = 0.0


def synthesize(name: str) -> Curve:
    """The curve `(entry,)` of that name, the same on every call."""
    made = SYNTHETIC[name]
    random = np.random.RandomState(zlib.crc32(name.encode()))
    return np.asarray(made.draw(np.linspace(0, 1, made.n_entries), random), dtype=np.float64)


def _flip(t: Curve) -> Curve:
    return np.where(np.arange(t.size) % 2, 1.0, -1.0)


def _sine(t: Curve, period: float) -> Curve:
    return np.sin(2 * np.pi * np.arange(t.size) / period)


def _decay(t: Curve, start: float, end: float, rate: float) -> Curve:
    return end + (start - end) * np.exp(-rate * t)


def _logistic(n: int, rate: float, start: float) -> Curve:
    values = [start]
    for _ in range(n - 1):
        values.append(rate * values[-1] * (1 - values[-1]))
    return np.array(values)


def _sawtooth(t: Curve, random: np.random.RandomState, mean_gap: int, relaxed: float) -> Curve:
    """Rises in one step at random entries and sinks slowly in between."""
    values = np.empty(t.size)
    height, wait = relaxed, 0
    for i in range(t.size):
        if wait == 0:
            height = relaxed * random.uniform(1.3, 2.2)
            wait = int(random.randint(mean_gap // 2, mean_gap * 3 // 2))
        height = relaxed + (height - relaxed) * (1 - 2.0 / mean_gap)
        wait -= 1
        values[i] = height
    return values


def _spike(t: Curve, at: float, height: float, width: float) -> Curve:
    """Up in one step, down along an exponential."""
    return np.where(t >= at, height * np.exp(-np.maximum(t - at, 0) / width), 0.0)


def _wander(n: int, random: np.random.RandomState, memory: int) -> Curve:
    """Correlated noise of deviation 1."""
    noise = random.randn(n + 10 * memory)
    kernel = np.exp(-np.arange(10 * memory) / memory)
    return (np.convolve(noise, kernel, mode="valid") / np.sqrt(np.sum(kernel**2)))[:n]


def _with(curve: Curve, at: slice | int, value: float) -> Curve:
    changed = curve.copy()
    changed[at] = value
    return changed


def _float32(curve: Curve) -> Curve:
    return curve.astype(np.float32).astype(np.float64)


_FLAT = 0.6931


def _recipes() -> list[Synthetic]:
    s = Synthetic
    return [
        s("period 2, 60 % of a flat level", 800, lambda t, r: 1.2 + 0.36 * _flip(t)),
        s("period 2, a share of a falling level", 1200,
          lambda t, r: _decay(t, 0.7, 0.02, 4) * (1 + 0.25 * _flip(t))),
        s("period 2 around a falling level, gone at two thirds", 1000,
          lambda t, r: _decay(t, 0.7, 0.05, 3) + 0.3 * _flip(t) * np.exp(-12 * t)),
        s("period 2, shrinking to a third within the tail, still visible", 1000,
          lambda t, r: 0.5 + 0.35 * _flip(t) * np.exp(-4.4 * np.maximum(t - 0.75, 0))),
        s("period 2, shrinking to a tenth within the tail", 1000,
          lambda t, r: 0.5 + 0.3 * _flip(t) * np.exp(-9.2 * np.maximum(t - 0.75, 0))),
        s("sine of period 7", 700, lambda t, r: 0.4 + 0.05 * _sine(t, 7)),
        s("sine of period 60 around a falling level", 2000,
          lambda t, r: _decay(t, 0.9, 0.3, 2) * (1 + 0.15 * _sine(t, 60))),
        s("logistic map, chaotic", 600, lambda t, r: 0.1 + _logistic(t.size, 3.9, 0.3)),
        s("logistic map, period 4", 600, lambda t, r: 0.1 + _logistic(t.size, 3.5, 0.3)),
        s("logistic map, period 3", 900, lambda t, r: 0.1 + _logistic(t.size, 3.835, 0.3)),
        s("rises on one step in twenty, at random", 1500,
          lambda t, r: _sawtooth(t, r, 20, 0.3)),
        s("rises on one step in fifty, at random, small", 3000,
          lambda t, r: 0.5 + 0.1 * _sawtooth(t, r, 50, 1.0)),
        s("period 2 that grows from nothing to 40 %", 900,
          lambda t, r: 0.5 + 0.1 * _flip(t) * np.exp(6 * (t - 1))),
        s("two levels of 0.65 and 0.75", 400, lambda t, r: 0.7 + 0.05 * _flip(t)),
        s("two levels 3 % apart", 400, lambda t, r: 0.7 + 0.0105 * _flip(t)),
        s("chance level with float32 rounding", 500,
          lambda t, r: _float32(_FLAT + 1e-7 * r.randn(t.size))),
        s("falls to 1e-8, then float32 rounding around it", 1500,
          lambda t, r: np.abs(_decay(t, 0.7, 0, 60) + 3e-8 * r.randn(t.size))),
        s("falls to exactly zero", 300, lambda t, r: np.maximum(0.7 * (1 - 3 * t), 0)),
        s("one spike at a third, then flat and low", 800,
          lambda t, r: _decay(t, 0.7, 0.01, 30) + _spike(t, 0.33, 3.0, 0.01)),
        s("one spike at half, then still falling", 800,
          lambda t, r: 0.7 / (1 + 30 * t) + _spike(t, 0.5, 0.8, 0.01)),
        s("one spike within the tail, flat and low again", 1000,
          lambda t, r: _decay(t, 0.7, 0.02, 30) + _spike(t, 0.85, 0.3, 0.004)),
        s("a spike every twentieth of the run", 2000,
          lambda t, r: 0.2 + sum(_spike(t, k / 20 + 0.01 * r.rand(), 0.3, 0.004)
                                 for k in range(20))),
        s("minibatch noise around a flat level", 1000,
          lambda t, r: 0.68 + 0.04 * r.randn(t.size), 0.04),
        s("minibatch noise around a falling level", 1000,
          lambda t, r: _decay(t, 0.7, 0.2, 1.5) + 0.03 * r.randn(t.size), 0.03),
        s("minibatch noise, low", 2000,
          lambda t, r: np.abs(_decay(t, 0.7, 0.03, 40) + 0.006 * r.randn(t.size)), 0.006),
        s("minibatch noise and a period 2 of 24 standard errors", 800,
          lambda t, r: 0.9 + 0.36 * _flip(t) + 0.03 * r.randn(t.size), 0.03),
        s("heavy-tailed minibatch noise, low", 1500,
          lambda t, r: _decay(t, 0.7, 0, 40) + r.gamma(4, 0.01, t.size), 0.02),
        s("straight climb by a fifth over the run", 600, lambda t, r: 0.5 * (1 + 0.4 * t)),
        s("slow climb with a small wander", 1200,
          lambda t, r: 0.3 * (1 + 0.6 * t**2) * (1 + 0.002 * _wander(t.size, r, 10))),
        s("climb under minibatch noise", 1500,
          lambda t, r: 0.4 + 0.5 * t**3 + 0.02 * r.randn(t.size), 0.02),
        s("on its way to infinity", 200, lambda t, r: 0.7 * np.exp(8 * t**4)),
        s("jumps up late and stays", 700, lambda t, r: np.where(t > 0.86, 0.9, 0.25)),
        s("climbs while old swings die out", 1000,
          lambda t, r: 0.3 + 0.3 * t**2 + 0.2 * _sine(t, 16) * np.exp(-9 * t)),
        s("falls as one over the step", 2500, lambda t, r: 1 / (1 + 80 * t)),
        s("falls in stairs", 1000,
          lambda t, r: 0.8 * 0.8 ** np.floor(12 * t) * (1 + 0.01 * (1 - (12 * t) % 1))),
        s("falls by 9 % over the tail", 400, lambda t, r: 0.6 - 0.2 * t),
        s("falls by 3 % over the tail", 400, lambda t, r: 0.7 - 0.085 * t),
        s("rises by 3 % over the tail", 400, lambda t, r: 0.5 + 0.066 * t),
        s("one hump within the tail", 800,
          lambda t, r: 0.5 + 0.1 * np.exp(-(((t - 0.87) / 0.025) ** 2))),
        s("two and a half long swings within the tail", 2000,
          lambda t, r: 0.4 + 0.08 * _sine(t, 200)),
        s("sine of period 3,000 in 100,000", 100_000, lambda t, r: 1.1 + 0.2 * _sine(t, 3000)),
        s("period 2 in 100,000, falling", 100_000,
          lambda t, r: _decay(t, 0.7, 0.1, 2) * (1 + 0.08 * _flip(t))),
        s("rises on one step in twenty, 50,000", 50_000,
          lambda t, r: _sawtooth(t, r, 20, 0.2)),
        s("minibatch noise around a falling level, 100,000", 100_000,
          lambda t, r: 0.5 / (1 + 5 * t) + 0.02 * r.randn(t.size), 0.02),
        s("flat with float32 rounding, 30,000", 30_000,
          lambda t, r: _float32(_decay(t, 2.3, 1.5, 80) + 1e-7 * r.randn(t.size))),
        s("period 2 in 50 entries", 50, lambda t, r: 0.6 + 0.1 * _flip(t)),
        s("falls in 50 entries", 50, lambda t, r: _decay(t, 0.7, 0.0, 3)),
        s("flat and low in 50 entries", 50, lambda t, r: _decay(t, 0.7, 0.01, 25)),
        s("climbs in 60 entries", 60, lambda t, r: 0.2 + 0.3 * t),
        s("undefined from the middle", 300, lambda t, r: _with(0.7 + t, slice(150, None), np.nan)),
        s("infinite at the last entry", 120,
          lambda t, r: _with(0.7 * np.exp(12 * t), -1, np.inf)),
        s("infinite once, finite again", 400, lambda t, r: _with(0.7 - 0.5 * t, 200, np.inf)),
        s("undefined from the start", 100, lambda t, r: np.full(t.size, np.nan)),
        s("low with period 2 of 3 %", 1000,
          lambda t, r: _decay(t, 0.7, 0.02, 30) * (1 + 0.015 * _flip(t))),
        s("period 2 of 8 %", 1000, lambda t, r: _decay(t, 0.7, 0.3, 30) * (1 + 0.04 * _flip(t))),
        s("two incommensurate sines", 1500,
          lambda t, r: 0.8 + 0.2 * _sine(t, 9.7) + 0.2 * _sine(t, 11.3)),
        s("bursts of swings, quiet between", 2000,
          lambda t, r: 0.4 + 0.15 * _flip(t) * np.maximum(_sine(t, 100), 0) ** 8),
        s("swings that stop at four fifths", 1000,
          lambda t, r: 0.06 + np.where(t < 0.8, 0.03 * _sine(t, 12), 0.0)),
        s("period 2 that shrinks as one over the root of the step", 1500,
          lambda t, r: 0.5 + 0.2 * _flip(t) / np.sqrt(1 + 10 * t)),
        s("drifts down with period 2 of 2 %", 800,
          lambda t, r: _decay(t, 0.7, 0.1, 3) * (1 + 0.01 * _flip(t))),
        s("low and flat after a hump of 40 %", 900,
          lambda t, r: _decay(t, 0.7, 0.04, 25)
          + 0.02 * np.exp(-(((t - 0.4) / 0.05) ** 2))),
        s("a level of 0.069, flat", 500, lambda t, r: _decay(t, 0.7, 0.06, 30)),
        s("climbs from low", 1000, lambda t, r: _decay(t, 0.7, 0.01, 30) + 0.04 * t**2),
        s("wanders by 1 % around a flat level", 1500,
          lambda t, r: 0.45 * (1 + 0.004 * _wander(t.size, r, 20))),
    ]  # fmt: skip


def _foreign_recipes() -> list[Synthetic]:
    """Curves of unknown kind, as people bring them."""
    s = Synthetic
    return [
        s("a cost that shoots from 1 to 400 and comes down slowly", 300,
          lambda t, r: np.where(t < 0.03, 1.0, 300 + 100 * np.exp(-2.5 * t))),
        s("negative: falls to -55 and stays", 200,
          lambda t, r: _decay(t, 0.69, -55, 25) + 0.02 * r.randn(t.size)),
        s("negative: swings with period 2 around -50", 200,
          lambda t, r: _decay(t, 0.7, -50, 20) + 4 * _flip(t) * (1 - np.exp(-20 * t))),
        s("healthy batch means, undefined at the end", 400,
          lambda t, r: _with(_decay(t, 0.7, 0.05, 5) * (1 + 0.2 * r.randn(t.size)), -1, np.nan)),
        s("swings that grow until nothing is left", 150,
          lambda t, r: _with(1 + _flip(t) * np.minimum(0.9, 0.01 * np.exp(5 * t)),
                             slice(-3, None), np.inf)),
        s("swings from a fifth to the half, then low and flat", 600,
          lambda t, r: _decay(t, 0.7, 0.02, 30)
          + 0.4 * (1 + _flip(t)) * ((t > 0.2) & (t < 0.5))),
        s("swings at first, then still falling", 500,
          lambda t, r: _decay(t, 0.8, 0.1, 1.5) + 0.3 * (1 + _flip(t)) * np.exp(-15 * t)),
        s("four values", 4, lambda t, r: np.array([0.7, 0.3, 0.5, 0.2])),
        s("three values, flat", 3, lambda t, r: np.array([2.31, 2.30, 2.30])),
        s("six values, up and down", 6,
          lambda t, r: np.array([0.71, 0.33, 0.69, 0.35, 0.72, 0.31])),
        s("rises to a hundred times its start and stays", 400,
          lambda t, r: 0.5 + 50 * (1 - np.exp(-20 * t)) + 0.1 * r.randn(t.size)),
        s("batches of 16, from 0.6 to 0.005, skewed", 800,
          lambda t, r: _decay(t, 0.6, 0.005, 8) * r.gamma(3, 1 / 3, t.size)),
        s("batches of 16, low, a rare hard example", 600,
          lambda t, r: _decay(t, 0.7, 0.01, 30) * r.gamma(4, 1 / 4, t.size)
          + (r.rand(t.size) < 0.06) * r.exponential(0.2, t.size)),
        s("period 2 of three deviations under batch noise", 500,
          lambda t, r: 0.8 + 0.12 * _flip(t) + 0.08 * r.randn(t.size)),
        s("period 2 of one deviation under batch noise", 1500,
          lambda t, r: 0.8 + 0.06 * _flip(t) + 0.12 * r.randn(t.size)),
        s("negative, climbs", 300, lambda t, r: -20 + 15 * t**2 + 0.1 * r.randn(t.size)),
        s("ten classes, learned to 0.15", 250,
          lambda t, r: _decay(t, 2.303, 0.15, 20) * (1 + 0.003 * r.randn(t.size))),
        s("ten outputs, squared error, stuck at 0.045", 250,
          lambda t, r: _decay(t, 0.126, 0.045, 40) + 2e-5 * r.randn(t.size)),
        s("slow swings under batch noise", 900,
          lambda t, r: 1.2 + 0.4 * _sine(t, 23) + 0.15 * r.randn(t.size)),
        s("logistic map, chaotic, of unknown kind", 400,
          lambda t, r: 0.2 + 1.5 * _logistic(t.size, 3.97, 0.3)),
    ]  # fmt: skip


SYNTHETIC = {f"formula-{i:02d}": made for i, made in enumerate(_recipes())}
SYNTHETIC |= {f"other-{i:03d}": made for i, made in enumerate(_foreign_recipes())}
