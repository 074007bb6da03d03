"""`python -m mlp` and `mlp-sweep`: list the commands, or start one of them."""

import sys
from importlib import import_module

from mlp.errors import did_you_mean
from mlp.terminal.console import run_command

_COMMANDS = {
    "sweep": "search a space of settings, track every run, say which settings oscillate",
    "train": "train and track one run",
    "explain": "say which settings make the loss oscillate, and prove it by reruns",
    "judge": "say what any loss curve did: a file, standard input, a run of MLflow",
    "rerun": "train a tracked run again: identical, or what differs",
    "audit": "hold a hand-written backpropagation against its loss: which line is wrong",
    "doctor": "look for what is wrong with stores, spool, locks and data, and mend it",
}
_PACKAGES = "sweep", "explain", "audit"


def main() -> None:
    """The command: `mlp-sweep train a=1` is `python -m mlp.train a=1`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in _COMMANDS:
        del sys.argv[1]
        import_module(f"mlp.{name}.__main__" if name in _PACKAGES else f"mlp.{name}").main()
    elif name == "--version":
        run_command(lambda: None)  # which says it
    else:
        _list(name)


def _list(name: str) -> None:
    """The commands; exits with 2 where another one was typed."""
    print("usage: mlp-sweep COMMAND [setting=value ...], or python -m mlp.COMMAND\n")
    for command, what in _COMMANDS.items():
        print(f"  {command:<7} {what}")
    print("\nhelp of one: mlp-sweep COMMAND --help   first: mlp-sweep sweep sweeps=smoke")
    if name not in ("--help", "-h"):
        hint = did_you_mean(name, _COMMANDS)
        print(f"error: there is no command {name!r}{hint}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
