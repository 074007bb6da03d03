"""`python -m benchmarks`: the engine beside its peers and the machine's own limit.

Everything runs in one process, in turns, so that whatever else the machine does hits all alike; the
medians are reported. The engine is timed inside `population.train`, the function that a sweep
calls, between its first and its last report of progress; so no contender is charged for its start.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np

from benchmarks.growth import STUDY_STEPS, measure_growth
from benchmarks.machine import machine, product_gflops
from benchmarks.peers import PEERS, NotApplicableError, Problem, Steps
from mlp.config import Data, Execution, RunConfig
from mlp.data.dataset import Dataset, Part, features, load_data
from mlp.data.mnist import MNIST
from mlp.engine.population import train
from mlp.errors import MlpError, SettingError
from mlp.network import initialize
from mlp.settings import read_run
from mlp.terminal.console import run_command
from mlp.tracking.record import curve_digest, weights_digest
from mlp.training.train_runs import n_threads

_ROUNDS = 7
_TURN_S = 0.6  # what a contender may take of a round
_FEWEST_REPORTS = 3  # of progress: below, a time between two of them says little
_CHECKED_STEPS = 3
_LIKE = 1e-3  # relative, float32 against float64
_OWN_LOSSES = {"sklearn"}  # starts from weights of its own
_LEARNING_RATE = 0.1


@dataclass(frozen=True)
class Work:
    """Networks to be trained together: a name, and the widths of each."""

    name: str
    widths: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Row:
    """What one work cost.

    Attributes:
        work: its name.
        ms: milliseconds per model and step of each contender; None for one that is absent.
        limit_ms: what the dense products over the live pixels take at the machine's speed; None on
            a GPU.
        notes: why a contender is absent.
    """

    work: str
    ms: dict[str, float | None]
    limit_ms: float | None
    notes: dict[str, str]


def works(gpu: int | None = None) -> list[Work]:
    """The works that docs/speed.md shows; on a GPU there are wide ones, which it is for."""
    rng = np.random.RandomState(0)
    mixed = tuple(
        tuple(round(2 ** rng.uniform(1, 6)) for _ in range(rng.randint(1, 5))) for _ in range(32)
    )
    between = [Work("8 x 784-3-3-2", ((3, 3),) * 8)]
    if gpu is not None:
        between = [Work(f"{n} x 784-3-3-2", ((3, 3),) * n) for n in (256, 1024)]
    return [
        Work("1 x 784-3-3-2", ((3, 3),)),
        Work("32 x 784-3-3-2", ((3, 3),) * 32),
        *between,
        Work("32 x mixed", mixed),
        Work("32 x 784-32-32-2", ((32, 32),) * 32),
        Work("4 x 784-256-128-2", ((256, 128),) * 4),
    ]


def find_data() -> Dataset:
    """MNIST where it lies on this machine, else made-up images of its shape and sparsity."""
    try:
        return load_data(
            Data(name="mnist", validation_fraction=0.0),
            notice=print,
            source=replace(MNIST, mirrors=()),
        )
    except MlpError:
        print("no MNIST here: made-up images of the same shape and sparsity")
    rng = np.random.RandomState(0)
    n, side = 12_396, 28
    row, column = np.mgrid[:side, :side] - (side - 1) / 2
    share = 0.75 * np.exp(-(((row / 8.6) ** 2 + (column / 6.6) ** 2) ** 2)).ravel()
    inked = rng.random_sample((n, side * side)) < share
    pixels = np.where(inked, rng.randint(1, 256, inked.shape), 0).astype(np.uint8)
    part = Part(pixels, rng.randint(2, size=n).astype(np.uint8))
    nothing = Part(pixels[:0], part.labels[:0])
    return Dataset("made up", 255, (side, side), part, nothing, nothing, "")


def time_work(
    work: Work, data: Dataset, threads: int, chosen: Sequence[str], gpu: int | None = None
) -> Row:
    """Times every contender in turns.

    Args:
        work: what is trained.
        data: on what; nothing need be held out.
        threads: cores to use.
        chosen: names of the peers.
        gpu: number of the GPU that trains; None: the CPU does.

    Raises:
        RuntimeError: where a contender computes other losses than the engine on the CPU.
    """
    configs = [_config(widths, seed) for seed, widths in enumerate(work.widths)]
    problem = _problem(configs, data, threads, gpu)
    contenders: dict[str, Steps] = {}
    notes: dict[str, str] = {}
    for name in chosen:
        try:
            contenders[name] = PEERS[name](problem)
        except (NotApplicableError, ImportError) as error:
            notes[name] = str(error)
    _check_losses(configs, data, threads, contenders, gpu)
    time_engine = partial(_time_engine, configs, data, threads, gpu)
    turns = {name: _turn(partial(_time, run)) for name, run in contenders.items()}
    own_turn = max(4, _turn(lambda n: time_engine(max(n, 2))))
    seconds: dict[str, list[float]] = {name: [] for name in ("engine", *contenders)}
    gflops = []
    for _ in range(_ROUNDS):
        gflops.append(product_gflops())
        seconds["engine"].append(time_engine(own_turn))
        for name, run in contenders.items():
            seconds[name].append(_time(run, turns[name]))
    ms: dict[str, float | None] = dict.fromkeys(("engine", *chosen))
    ms |= {name: float(np.median(s)) / len(configs) * 1e3 for name, s in seconds.items()}
    limit_s = _products(work, data) / float(np.median(gflops)) / 1e9
    limit_ms = limit_s / len(configs) * 1e3 if gpu is None else None
    return Row(work.name, ms, limit_ms, notes)


def render(rows: Sequence[Row]) -> str:
    """The table: milliseconds per model and step, and how many times the engine's.

    Example:
        >>> row = Row("1 x 2-2", {"engine": 0.5, "question": 2.0, "jax_jit": None}, 0.25, {})
        >>> print(render([row]))
        1 x 2-2: engine 0.5 ms, 50 % of the dense limit's speed (0.25 ms)
            question       2        ms      4.0 x
            jax_jit           -
    """
    lines = []
    for row in rows:
        own = row.ms["engine"] or math.nan
        line = f"{row.work}: engine {own:.3g} ms"
        if row.limit_ms is not None:
            share = f"{row.limit_ms / own:.0%}".replace("%", " %")
            line += f", {share} of the dense limit's speed ({row.limit_ms:.3g} ms)"
        lines.append(line)
        for name, ms in row.ms.items():
            if name != "engine":
                value = "-" if ms is None else f"{ms:<8.3g} ms {ms / own:>8.1f} x"
                note = row.notes.get(name, "")
                lines.append(f"    {name:<14} {value:>4}{'  ' + note if note else ''}".rstrip())
    return "\n".join(lines)


def _config(widths: Sequence[int], seed: int) -> RunConfig:
    return read_run(
        {
            "model": {"depth": len(widths), "widths": list(widths)},
            "optimizer": {"learning_rate": _LEARNING_RATE},
            "training": {"seed": seed, "steps": 1},
        }
    )


def _problem(configs: Sequence[RunConfig], data: Dataset, threads: int, gpu: int | None) -> Problem:
    n_inputs = data.train.pixels.shape[1]
    first = [
        initialize(
            c.model, c.initialization, n_inputs=n_inputs, seed=c.training.seed, dtype="float32"
        )
        for c in configs
    ]
    X = features(data.train.pixels, data.scale, "float32")
    return Problem(first, X, data.train.labels, _LEARNING_RATE, threads, gpu)


def _with_steps(configs: Sequence[RunConfig], n: int) -> list[RunConfig]:
    return [replace(c, training=replace(c.training, steps=n)) for c in configs]


def _check_losses(
    configs: Sequence[RunConfig],
    data: Dataset,
    threads: int,
    contenders: Mapping[str, Steps],
    gpu: int | None,
) -> None:
    """Takes the first steps with every contender, which also compiles and warms up."""
    few = _with_steps(configs, _CHECKED_STEPS)
    results = train(few, data, threads=threads)
    expected = np.array([result.loss[:_CHECKED_STEPS] for result in results])
    if gpu is not None:
        for here, there in zip(results, train(few, data, gpu=gpu), strict=True):
            if curve_digest(here) != curve_digest(there) or (
                weights_digest(here) != weights_digest(there)
            ):
                raise RuntimeError(f"the GPU computes other bits: {there.loss}, not {here.loss}")
    for name, run in contenders.items():
        losses = run(_CHECKED_STEPS)
        if name not in _OWN_LOSSES and not np.allclose(losses, expected, rtol=_LIKE):
            raise RuntimeError(f"{name} computes other losses: {losses[0]}, not {expected[0]}")


def _turn(seconds_per_step: Callable[[int], float]) -> int:
    """Steps that fill a contender's turn."""
    return int(np.clip(_TURN_S / seconds_per_step(2), 1, 2000))


def _time(run: Steps, n: int) -> float:
    """Seconds for a step of all models."""
    begin = time.perf_counter()
    run(n)
    return (time.perf_counter() - begin) / n


def _time_engine(
    configs: Sequence[RunConfig], data: Dataset, threads: int, gpu: int | None, n: int
) -> float:
    """The same for the engine, between the reports of progress of one training."""
    marks: list[tuple[float, int]] = []
    train(
        _with_steps(configs, n),
        data,
        threads=threads,
        gpu=gpu,
        progress=lambda done, _: marks.append((time.perf_counter(), done)),
    )
    (begin, first), (end, last) = marks[0], marks[-1]
    if len(marks) < _FEWEST_REPORTS:
        return _time_engine(configs, data, threads, gpu, 4 * n)
    return (end - begin) / ((last - first) / len(configs))


def _products(work: Work, data: Dataset) -> int:
    """Operations of all dense products of a step: two for the first layer, three above it."""
    live = int(data.train.pixels.any(axis=0).sum())
    per_example = 0
    for widths in work.widths:
        per_example += 4 * live * widths[0]
        per_example += sum(6 * fan_in * fan_out for fan_in, fan_out in pairwise((*widths, 2)))
    return per_example * len(data.train)


def main() -> None:
    """The command."""
    run_command(_bench)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times the engine beside other libraries, in turns within one process, and "
        "checks that all compute the same losses. It takes some minutes with all of them.",
    )
    threads = n_threads(Execution())
    parser.add_argument(
        "--threads", type=int, default=threads, metavar="N", help=f"that compute ({threads})"
    )
    parser.add_argument(
        "--gpu",
        type=int,
        metavar="NUMBER",
        help="of the GPU that the engine, PyTorch and JAX take (experimental; none: the CPU)",
    )
    names = "; ".join(work.name for work in works())
    parser.add_argument(
        "--works", nargs="*", metavar="PART", help=f"those whose name has a part in it, of: {names}"
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=sorted(PEERS),
        default=list(PEERS),
        metavar="NAME",
        help=f"of {', '.join(sorted(PEERS))} (all that are installed: extra bench)",
    )
    return parser


def _bench() -> None:
    options = _options().parse_args()
    if options.gpu is not None:
        from mlp.engine.cuda_steps import count_gpus  # of an extra

        n_gpus = count_gpus()
        if not 0 <= options.gpu < n_gpus:
            raise SettingError(f"--gpu must be from 0 to {n_gpus - 1}, but is {options.gpu}")
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take it all
    data = find_data()
    rows = []
    for work in works(options.gpu):
        if options.works is None or any(text in work.name for text in options.works):
            rows.append(time_work(work, data, options.threads, options.peers, options.gpu))
            print(render(rows[-1:]), flush=True)
    for growth in measure_growth(options.threads) if options.gpu is None else ():
        print(
            f"{growth.n_trials} trials of {STUDY_STEPS} steps on digits: "
            f"{growth.trials_per_s:.0f} trials/s, peak memory {growth.peak_bytes / 1e6:.0f} MB; "
            f"TPE asks for one more in {growth.ask_ms:.1f} ms"
        )
    if rows:
        print(
            f"before it was timed, each contender took {_CHECKED_STEPS} steps: all losses are the "
            f"engine's within {_LIKE} (scikit-learn's is left out: it starts from other weights)"
        )
    summary = {
        "rows": [
            {"work": row.work, "ms_per_model_step": row.ms, "limit_ms": row.limit_ms}
            for row in rows
        ],
        "machine": machine(options.threads, options.gpu),
    }
    print("next: python -m benchmarks --works mixed --peers question   (one part of it)")
    print(json.dumps(summary))  # the last line, for programs


if __name__ == "__main__":
    main()
