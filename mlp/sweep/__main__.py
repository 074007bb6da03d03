"""`python -m mlp.sweep`: searches a space, tracks every run, says which settings oscillate."""

from typing import Any

from mlp.config import SweepConfig
from mlp.settings import read_sweep
from mlp.study.identity import check_study
from mlp.terminal.compose import run_application
from mlp.terminal.console import run_command, usage
from mlp.terminal.screen import Terminal

_EXAMPLES = {
    "": "the default study: which settings tell threes from sevens best",
    "sweeps=smoke": "a few seconds, no network",
    "study.dry_run=true": "only shows the space, the first trials, and the time it would take",
    "data=mnist study.n_trials=64 training.steps=1000": "longer, on MNIST",
    "study.space.optimizer.learning_rate.mean.high=100": "one end of the search space",
}


def main() -> None:
    """The command."""
    run_command(lambda: run_application("sweep", _check, _sweep, _usage))


def _check(values: Any) -> None:
    check_study(read_sweep(values))


def _sweep(values: Any) -> None:
    run_command(lambda: _run(read_sweep(values)))


def _run(config: SweepConfig) -> None:
    from mlp.sweep.run_study import rehearse_study, run_study  # Optuna and more: it takes seconds

    if config.study.dry_run:
        rehearse_study(config, console=Terminal())
    else:
        run_study(config, console=Terminal())


def _usage() -> str:
    return usage(
        "sweep",
        "Searches a space of settings and tracks every run. Run again, it goes on where it was.",
        _EXAMPLES,
    )


if __name__ == "__main__":
    main()
