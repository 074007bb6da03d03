"""Studies whose cause is known because it was planted, and training that obeys it.

In every study decoys go along with the cause: nine times in ten they are drawn from the same place
of their domain, so that they are as strongly associated with the verdict, and they do nothing.

    cd tests && python -m support.planted RATE,AND 100 64  scenarios, repetitions, runs a study
    cd tests && python -m support.planted RATE 100 64 noise=0.1 interventions=4
"""

import functools
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from mlp.causes.answer import Answer, Kind, answer, investigate
from mlp.causes.observed import observe
from mlp.causes.plan import plan_reruns
from mlp.config import RunConfig
from mlp.curve import Judgement, Verdict
from mlp.settings import with_settings
from mlp.stability.ratio import step_factor
from mlp.study.space import Space, draw, read_space

N_EXAMPLES = 10_000

SPACE = {
    "model.depth": {"low": 1, "high": 3},
    "model.widths": {"low": 2, "high": 32, "log": True, "each_layer": True},
    "optimizer.learning_rate": {"low": 0.01, "high": 100.0, "log": True},
    "optimizer.momentum": {"low": 0.0, "high": 0.95},
    "initialization.scheme": ["lecun_normal", "glorot_uniform", "he_normal", "orthogonal"],
}
STEP_SPACE = {
    **SPACE,
    "gradient.normalization": ["sum", "mean", "unit", "clip"],
    "optimizer.learning_rate": {
        "by": "gradient.normalization",
        "sum": {"low": 1e-6, "high": 1e-2, "log": True},
        "mean": {"low": 0.01, "high": 100.0, "log": True},
        "unit": {"low": 0.001, "high": 10.0, "log": True},
        "clip": {"low": 0.01, "high": 100.0, "log": True},
    },
}

Score = Callable[[RunConfig], float]
"""How far a run is beyond the threshold; above 0 it oscillates, noise apart."""


@dataclass(frozen=True)
class Planted:
    """A planted cause.

    Attributes:
        score: the truth.
        cause: the parameter (or two) that acts.
        decoys: parameters that go along with it and do nothing.
        settings: what must be named; empty: nothing.
        space: of the study.
        slope: how sharply the chance to oscillate rises with the score; infinite: at once.
        noise: share of trainings whose verdict is turned by chance.
        shift: of the threshold; above 0 fewer runs oscillate.
    """

    score: Score
    cause: tuple[str, ...]
    decoys: tuple[str, ...]
    settings: frozenset[str]
    space: Mapping[str, object] = field(default=None, hash=False)  # type: ignore[assignment]
    slope: float = 20.0
    noise: float = 0.05
    shift: float = 0.0

    def read_space(self) -> Space:
        return read_space(self.space or SPACE, RunConfig())


def log_rate(config: RunConfig) -> float:
    """Learning rate as a place in its range on the mean, 0 to 1."""
    return (np.log10(config.optimizer.learning_rate) + 2) / 4


def gradient_norm_of(config: RunConfig) -> float:
    return 0.05 + 0.1 * _random(config.model, config.training.seed).random_sample()


def gradient_norms(configs: Sequence[RunConfig]) -> list[float]:
    return [gradient_norm_of(config) for config in configs]


def effective_step(config: RunConfig) -> float:
    """As a place in the range of learning rates on the mean, 0 to 1."""
    factor = float(step_factor(config, gradient_norm_of(config), N_EXAMPLES))
    return (np.log10(config.optimizer.learning_rate * factor) + 2) / 4


class Optimizer(NamedTuple):
    """What chance depends on; a younger setting would change every draw of the tests."""

    learning_rate: float
    momentum: float


class Initialization(NamedTuple):
    """As the draws below were seeded with before there was a bias; they stay what they were."""

    scheme: str
    scale: float


def _random(*keys: object) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(repr(keys).encode()))


def training(planted: Planted, repetition: int) -> Callable[[Sequence[RunConfig]], list[Judgement]]:
    """A training that obeys the planted cause; chance depends on every setting and the seed."""

    def train(configs: Sequence[RunConfig]) -> list[Judgement]:
        return [one(config) for config in configs]

    def one(config: RunConfig) -> Judgement:
        random = _random(
            repetition,
            config.model,
            Initialization(config.initialization.scheme, config.initialization.scale),
            config.gradient,
            Optimizer(config.optimizer.learning_rate, config.optimizer.momentum),
            config.training.seed,
        )
        score = planted.score(config) - planted.shift
        chance = 1 / (1 + np.exp(-np.clip(planted.slope * score, -50, 50)))
        chance = planted.noise + (1 - 2 * planted.noise) * chance
        oscillates = random.random_sample() < chance
        settled = Verdict.LEARNING if random.random_sample() < 0.3 else Verdict.CONVERGED
        return Judgement(
            verdict=Verdict.OSCILLATING if oscillates else settled,
            amplitude=float(random.random_sample()) + (0.1 if oscillates else 0.0),
            ripples=0.0,
            tail_loss=1.0 if oscillates else 0.1,
            flip_rate=1.0,
            period_steps=2,
            largest_rise=1.0,
            last_rise_step=None,
            spiked=False,
        )

    return train


def study(planted: Planted, repetition: int, n_runs: int):
    """Draws the runs: the decoys go along with the cause nine times in ten."""
    random = np.random.RandomState(repetition)
    space = planted.read_space()
    configs = []
    for _ in range(n_runs):
        fractions: dict[str, float] = {}
        place = float(random.random_sample())

        def suggest(name, domain, fractions=fractions, place=place):
            path = name.partition("[")[0]
            goes_along = path in planted.cause or (
                path in planted.decoys and random.random_sample() < 0.9
            )
            own = float(random.random_sample())
            if len(planted.cause) > 1 and path in planted.cause:
                goes_along = random.random_sample() < 0.5
            return domain.at(place if goes_along else own)

        configs.append(with_settings(RunConfig(), draw(space, RunConfig(), suggest)))
    verdicts = [judged.verdict for judged in training(planted, repetition)(configs)]
    return observe(configs, verdicts, space), space


@functools.cache
def explain(planted: Planted, repetition: int, n_runs: int, **effort: int) -> Answer:
    runs, space = study(planted, repetition, n_runs)
    plan = plan_reruns(runs, space, **effort, n_examples=N_EXAMPLES, gradient_norm=gradient_norms)
    results = investigate(plan, training(planted, repetition))
    return answer(plan, results, n_examples=N_EXAMPLES, gradient_norm=gradient_norms)


def named(found: Answer) -> frozenset[str]:
    return frozenset(setting for cause in found.causes for setting in cause.settings)


RATE = Planted(
    lambda c: log_rate(c) - 0.65,
    ("optimizer.learning_rate",),
    ("optimizer.momentum", "model.depth"),
    frozenset({"optimizer.learning_rate"}),
)
SCHEME = Planted(
    lambda c: 0.5 if c.initialization.scheme in ("he_normal",) else -0.5,
    ("initialization.scheme",),
    ("optimizer.learning_rate", "model.depth"),
    frozenset({"initialization.scheme"}),
)
DEPTH = Planted(
    lambda c: c.model.depth - 2.5,
    ("model.depth",),
    ("optimizer.learning_rate",),
    frozenset({"model.depth"}),
)
AND = Planted(
    lambda c: min(log_rate(c) - 0.4, c.optimizer.momentum / 0.95 - 0.4),
    ("optimizer.learning_rate", "optimizer.momentum"),
    ("model.depth", "initialization.scheme"),
    frozenset({"optimizer.learning_rate", "optimizer.momentum"}),
)
OR = Planted(
    lambda c: max(log_rate(c) - 0.65, c.optimizer.momentum / 0.95 - 0.65),
    ("optimizer.learning_rate", "optimizer.momentum"),
    ("model.depth", "initialization.scheme"),
    frozenset({"optimizer.learning_rate", "optimizer.momentum"}),
)
STEP = Planted(
    lambda c: effective_step(c) - 0.65,
    ("optimizer.learning_rate",),
    ("optimizer.momentum", "initialization.scheme"),
    frozenset({"optimizer.learning_rate", "gradient.normalization"}),
    space=STEP_SPACE,
)
NOTHING = Planted(lambda c: -0.045, (), (), frozenset(), space=STEP_SPACE)

KINDS = {
    "AND": Kind.TOGETHER,
    "STEP": Kind.EFFECTIVE_STEP,
}


def _repeat(arguments) -> tuple[bool, bool, tuple[str, ...], int, int]:
    name, numbers, repetition, n_runs, effort = arguments
    planted = replace(globals()[name], **numbers)  # its score cannot be sent to another process
    found = explain(planted, repetition, n_runs, **effort)
    kinds = {cause.kind for cause in found.causes}
    is_right = named(found) == planted.settings
    is_kind = is_right and kinds <= {KINDS.get(name, Kind.ALONE)}
    words = tuple(f"{','.join(c.settings)} ({c.kind.value})" for c in found.causes)
    return is_right, is_kind, words, found.n_trained, found.n_asked


def main(names: str, repetitions: str, n_runs: str, *changes: str) -> None:
    """Prints how often exactly the planted settings were named, and what was named."""
    numbers = {key: float(value) for key, value in (text.split("=") for text in changes)}
    effort = {
        name: int(numbers.pop(name)) for name in ("interventions", "seeds") if name in numbers
    }
    with ProcessPoolExecutor() as pool:
        for name in names.split(","):
            jobs = [(name, numbers, i, int(n_runs), effort) for i in range(int(repetitions))]
            rows = list(pool.map(_repeat, jobs))
            n = len(rows)
            print(
                f"{name}, {n_runs} runs {' '.join(changes)}: settings right in "
                f"{sum(row[0] for row in rows)} of {n}, kind too in {sum(row[1] for row in rows)}; "
                f"on average {sum(row[4] for row in rows) / n:.1f} oscillate, "
                f"{sum(row[3] for row in rows) / n:.0f} trained",
                flush=True,
            )
            for words, count in Counter(row[2] for row in rows).most_common(5):
                print(f"    {count:3d} {'; '.join(words) or 'nothing'}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
