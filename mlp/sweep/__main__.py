"""`python -m mlp.sweep`: searches a space, tracks every run, says which settings oscillate."""

import functools

from mlp.terminal.compose import sweep_config, typed_configs
from mlp.terminal.console import run_command, usage
from mlp.terminal.screen import Terminal, waiting

_EXAMPLES = {
    "": "the default study: which settings tell threes from sevens best",
    "sweeps=smoke": "a few seconds, no network",
    "study.dry_run=true": "only shows the space, the first trials, and the time it would take",
    "data=mnist study.n_trials=64 training.steps=1000": "longer, on MNIST",
    "study.space.optimizer.learning_rate.mean.high=100": "one end of the search space",
}


def _sweep() -> None:
    console = Terminal()
    for config in typed_configs("sweep", sweep_config, _usage):
        with waiting(console, "loading Optuna and Numba"):  # takes seconds
            from mlp.sweep.run_study import rehearse_study, run_study

        if config.study.dry_run:
            rehearse_study(config, console=console)
        else:
            run_study(config, console=console)


def _usage() -> str:
    return usage(
        "sweep",
        "Searches a space of settings and tracks every run. Run again, it goes on where it was.",
        _EXAMPLES,
    )


main = functools.partial(run_command, _sweep)

if __name__ == "__main__":
    main()
