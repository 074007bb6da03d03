"""`python -m mlp.train`: trains and tracks one run."""

from mlp.api.network import train_network
from mlp.door import read_run
from mlp.terminal.compose import typed_configs
from mlp.terminal.console import run_command, usage
from mlp.terminal.screen import Terminal

_EXAMPLES = {
    "": "one run with the default settings",
    "model.depth=3 'model.widths=[8,4,4]' optimizer.learning_rate=0.6": "settings by their paths",
    "data=digits gradient=unit training.steps=200": "groups of settings by their files in conf/",
    "--multirun optimizer.learning_rate=0.1,1,10": "one run for each value",
}


def main() -> None:
    """The command."""
    run_command(_train)


def _train() -> None:
    for config in typed_configs("train", read_run, _usage):
        train_network(config, console=Terminal())


def _usage() -> str:
    return usage("train", "Trains one network on threes and sevens and tracks the run.", _EXAMPLES)


if __name__ == "__main__":
    main()
